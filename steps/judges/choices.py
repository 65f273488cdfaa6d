"""The judge of multiple choice: an option is named by its letter, by its text, or by both."""

import re
from functools import lru_cache

from steps.judges.canonical import OPTION, canonical, plain
from steps.judges.comparison import CHOSEN, LEADING, same
from steps.judges.judge import MOST_ANSWERS, Verdict
from steps.judges.latex import tidy
from steps.judges.reading import Mark, read

# An option of a question, on a line of its own: (A) Paris, B. Rome, C: Oslo.
_LISTED = re.compile(r"^[ \t]*(?:[(\[]([A-Ja-j])[)\]]|([A-Ja-j])[.):、．])[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_LABELLED = re.compile(r"[(\[]?\s*([A-Ja-j])\s*[)\].:]\s*(\S.*)", re.DOTALL)
# The same where the text is known, which nothing else can be then: B - Rome, Rome (B).
_BESIDE = re.compile(r"[(\[]?([A-Ja-j])[)\]]?[\s,.:、．–—-]+(\S.*)", re.DOTALL)
_BEHIND = re.compile(r"(\S.*?)\s*[(\[]\s*([A-Ja-j])\s*[)\]]", re.DOTALL)
# Between options with their texts.
_LABELS = re.compile(r"\s*(?:[,;&]|\band\b)\s*(?=[(\[]?[A-J][)\].:])")
_APART = re.compile(r"\s*(?:,|;|&|/|\band\b|\s)\s*")
_TOGETHER = re.compile(r"[A-J]{2,}")


@lru_cache(1 << 10)
def options_of(question: str) -> dict[str, str]:
    """Letter → text of the options that a question lists from A on; of several lists the last. Empty without one."""
    found: dict[str, str] = {}
    for bracketed, bare, text in _LISTED.findall(question):
        letter = (bracketed or bare).upper()
        if letter == "A":
            found = {}
        if letter == chr(ord("A") + len(found)):
            found[letter] = text
    return found if len(found) > 1 else {}


class Choices:
    """Judges choices. The gold answer is a letter, several of them, or the text of an option."""

    def refusal(self, gold: str | None, question: str = "") -> str:
        """Why no response to a question could be right by this gold answer; "" where one can."""
        if not (gold or "").strip():
            return "it is empty"
        assert gold is not None
        options = options_of(question)
        chosen = _chosen(gold, options)
        if options and (chosen is None or not chosen <= options.keys()):
            return f"{gold[:40]!r} names no single option of those that the question lists, {', '.join(options)}"
        return ""

    def judge(self, gold: str, response: str, mark: Mark = "either", question: str = "") -> Verdict:
        """Judge one response to a question that lists the options, if it does."""
        found = read(response, mark)
        if not found.answers:
            return Verdict("unread", "", "no marked answer")
        options = options_of(question)
        expected = _chosen(gold, options) or frozenset([canonical(gold)])
        answers = {", ".join(parts) for parts in found.answers}
        if len(answers) >= MOST_ANSWERS:
            return Verdict("ambiguous", found, f"more than {MOST_ANSWERS} different answers are marked")
        chosen = {answer: self._read(answer, options, expected) for answer in answers}
        if len({*chosen.values()}) > 1:
            return Verdict("ambiguous", found, "several different options are marked")
        (own,) = {*chosen.values()}
        if own is None:
            return Verdict("unread", found, "no single option")
        return (
            Verdict("right", found, "the same option") if own == expected else Verdict("wrong", found, "another option")
        )

    @staticmethod
    def _read(answer: str, options: dict[str, str], expected: frozenset[str]) -> frozenset[str] | None:
        """The options that an answer names; None where it names none, or a letter with the text of another one."""
        if chosen := _chosen(answer, options):
            return chosen
        # Of a question whose options nobody can read.
        return expected if not options and canonical(answer) in expected else None


def _chosen(answer: str, options: dict[str, str]) -> frozenset[str] | None:
    typed = plain(tidy(answer)).strip()
    if letter := _letter(typed, options):
        return frozenset([letter])
    parts = [*typed] if _TOGETHER.fullmatch(typed) else _APART.split(typed)
    letters = [_letter(part, {}) for part in parts if part]
    if len(letters) < 2 or not all(letters):
        letters = [_letter(part, options) for part in _LABELS.split(typed)]
    if len(letters) > 1 and all(letters) and len({*letters}) == len(letters):
        return frozenset(filter(None, letters))
    return _named(answer, options)


def _named(answer: str, options: dict[str, str]) -> frozenset[str] | None:
    """The option of this text: of several that say the same, "cat" and "the cat", the one that has it to the letter."""
    named = [letter for letter, text in options.items() if same(answer, text)]
    if len(named) > 1:
        named = [letter for letter in named if options[letter].casefold() == answer.strip().casefold()]
    return frozenset(named) if len(named) == 1 else None


def _letter(typed: str, options: dict[str, str]) -> str | None:
    """The one letter that is named; None where there is none, or behind it stands what is not its option's text."""
    if option := OPTION.fullmatch(typed) or CHOSEN.fullmatch(typed):
        return next(filter(None, option.groups())).upper()
    if not options:
        option = _LABELLED.fullmatch(typed)
        return option[1].upper() if option else None
    said = LEADING.sub("", typed, count=1) if LEADING.match(typed) else typed
    for pattern, letter, text in ((_BESIDE, 1, 2), (_BEHIND, 2, 1)):
        option = pattern.fullmatch(said)
        if option and option[letter].upper() in options and same(option[text], options[option[letter].upper()]):
            return option[letter].upper()
    return None
