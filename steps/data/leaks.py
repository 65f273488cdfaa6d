r"""Whether a text contains an evaluation item: by the words that are the item's own.

Compared are words in small letters, numbers, operators and brackets, with what people change on the way left out: list
marks ("2." before a sentence, "(B)" before an option), layout of LaTeX (\dfrac is \frac, x² is x^2, − is -), openings.
What many items of one evaluation set share (an instruction, "Options: yes no") is no item's own. Of what is left:

- An item of at least twice `ngram_words` words matches a text that has a share of at least `min_overlap` of its
  n-grams, those that several items share left out, something of each of its clauses, and its numbers in order without
  another number between them: a problem with other numbers is another problem, and so is another question about the
  same passage. Where it asks, no word may stand in the place of another one: a median is no altitude.
- A shorter item matches a text that asks the same: its words, fillers such as "please" left out, as whole consecutive
  clauses. Of fewer than `SPECIFIC_WORDS` words, which may stand anywhere by chance, it has to be a share of at least
  `min_overlap` of what the text has beside the text that its rows share. A run that is told by its order alone ends
  where the text stops to go on like it. An item that asks for one of its options matches no
  text that has others: "Which of these is a public good?" is asked of many things.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from itertools import pairwise

import regex

from steps.core.text import UNSPACED
from steps.data.identity import asked, fold, without_thousands
from steps.data.questions import Item
from steps.data.rows import FILLERS, LETTER, OPERATORS, core, numbers

# Items of one set that have an n-gram from which it is shared: two may be one item twice.
SHARED_ITEMS = 3
# Words by which a question is one only with what there is to choose from; the last two of 下列, 以下 and 哪个.
_CHOOSES = frozenset("which following these those statement statements except 下 哪".split())
# So many words without fillers tell an item from others of its set and, where they stand as whole sentences, from all.
SPECIFIC_WORDS = 5
# Of a clause of so many words this share of its pairs of neighbours must be there: two questions about one passage have
# fewer in common, a question in other words has more. Of a shorter one ("find b") all.
CLAUSE_WORDS, CLAUSE_SHARE = 4, 0.5
# Clauses beside a question from which they are what there is to choose from.
CHOICES = 3
# Text that so many rows of a file, or items of a set, and such a share of them have is a frame around what they ask.
FRAME_ROWS, FRAME_SHARE, SET_SHARE = 5, 0.05, 0.1
# Words by which such a frame is noticed where no punctuation parts it from the question.
FRAME_WORDS = 5
# Of the rows with these words at an end, those that have one word more of the frame.
FRAME_KEEPS = 0.9

Clause = tuple[str, ...]
# A clause that asks, the one before it and the one after it; () where there is none.
Asking = tuple[Clause, Clause, Clause]

# --- words ---------------------------------------------------------------------------------------

_LAYOUT = re.compile(
    r"\\(?:left|right|[Bb]igg?[lr]?|displaystyle|quad|qquad|text|textbf|mathrm|mathbf|mbox|operatorname)(?![A-Za-z])"
    r"|\\[()\[\],;:! ]|\\\\|\$"
)
_COMMANDS = re.compile(r"\\(?:[dt]frac|times|cdot|leq?|geq?|neq?|sqrt|pi|infty|circ|div|pm)(?![A-Za-z])")
_COMMAND = {
    "dfrac": "\\frac", "tfrac": "\\frac", "times": "*", "cdot": "*", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥",
    "ne": "≠", "neq": "≠", "sqrt": "√", "pi": "π", "infty": "∞", "circ": "°", "div": "÷", "pm": "±",
}  # fmt: skip
_WIDE_END = re.compile("[。！？：；]")
_TIMES = str.maketrans("×⋅·∙", "****")
_BULLET = re.compile(r"^[ \t]*[-*•][ \t]+", re.MULTILINE)
_OPTION = re.compile(r"(?<=\s)\([a-e]\)(?=\s)")
# Bold, tags, quoted lines and labels in brackets part what they surround as a line end does.
_MARKUP = re.compile(
    r"(?<!\w)\*\*|\*\*(?!\w)|</?[a-z][\w-]*>|^[ \t]*>+|^=+[ \t]|[ \t]=+$|\[/?[a-z ]+\]|^q(?:uestion)?\s?\d+\)|^#\d+",
    re.MULTILINE,
)
# One of which is in all of it: most texts have none, which takes a tenth of the time to see.
_MARKED, _COUNTED = re.compile(r"[*<>=\[#]"), re.compile(r"\d\)")
# Of "Step 3:".
_LABELS = frozenset("step sentence fact line question problem exercise example part option q no #".split())
# A run of marks is looked at once, from its first, and so are spaces: a long one tried from each takes for ever.
_END = r'(?<![.!?:;])[.!?:;]++(?=\s|\Z|["\'])|\n++|["«»「」『』]'
_OTHERS = rf"\d++(?:\.\d++)*+|{_END}|[()\[\]≤≥≠√π∞°±|!#]|[+*/^=<>%÷]++|(?<![\w.])\.\d++|(?<!\S)[{{}}](?!\S)"
_ASCII = re.compile(rf"(?<! )[ ]*+([a-z]++|{_OTHERS}|(?<![a-z])-++|-++(?![a-z]))")
_UNICODE = regex.compile(rf"(?V1)(?<! )[ ]*+({LETTER}++|[{UNSPACED}]|{_OTHERS}|(?<!{LETTER})-++|-++(?!{LETTER}))")
_ENDS = frozenset('.!?:;\n"«»「」『』')


def clauses(text: str) -> list[Clause]:
    """The words of its clauses; none is empty."""
    text = asked(text)
    if not text.isascii():
        # Folding makes ":" of "：", which no white space follows.
        text = fold(_WIDE_END.sub("\n", text)).translate(_TIMES)
    text = without_thousands(text).lower()
    if "\\" in text or "$" in text:
        text = _LAYOUT.sub(" ", _COMMANDS.sub(lambda found: _COMMAND[found[0][1:]], text))
    if _MARKED.search(text) or _COUNTED.search(text):
        text = _MARKUP.sub("\n", text)
    if "- " in text or "* " in text or "•" in text:
        text = _BULLET.sub("", text)
    if "(a)" in text:
        text = _OPTION.sub("\n", text)
    words = (_ASCII if text.isascii() else _UNICODE).findall(text)
    found: list[Clause] = []
    start = 0
    for at in [i for i, word in enumerate(words) if word[0] in _ENDS]:
        end = words[at]
        if at > start:
            if end == "!" and words[at - 1].isdigit():
                continue
            clause = words[start:at]
            if end[0] not in ".:" or not _is_mark(clause):
                found.append(_unmarked(clause))
        start = at + 1
    return [*found, _unmarked(words[start:])] if start < len(words) else found


def _is_mark(clause: list[str]) -> bool:
    """Whether it only counts: "2.", "b.", "Step 3:"."""
    *label, mark = clause
    return len(mark) < 3 and (mark.isdigit() or "a" <= mark <= "z") and (not label or label[-1] in _LABELS)


def _unmarked(clause: list[str]) -> Clause:
    """Without "(2)" or "b)" before the first word."""
    at = int(clause[0] in "([")
    marked = at + 2 < len(clause) and clause[at + 1] in ")]" and _is_mark(clause[at : at + 1])
    return tuple(clause[at + 2 :] if marked else clause)


def words_of(parts: Iterable[Clause]) -> list[str]:
    return [word for clause in parts for word in clause]


# --- what the rows share -------------------------------------------------------------------------


class Frames:
    """Text that many rows or items have before, after or beside what they ask."""

    def __init__(self, rows: Sequence[Sequence[list[Clause]]] = (), share: float = FRAME_SHARE):
        """
        Args:
            rows: of each the clauses of its texts.
            share: of the rows, which have it.
        """
        self.least = max(FRAME_ROWS, share * len(rows))
        parts = [{clause for text in row for clause in text} for row in rows]
        counts = Counter(clause for row in parts for clause in row)
        self.clauses = {clause for clause, count in counts.items() if count >= self.least}
        self.beginnings = self._frames(counts)
        self.endings = self._frames(Counter({clause[::-1]: count for clause, count in counts.items()}))
        self.clauses |= {*self.beginnings.values(), *(clause[::-1] for clause in self.endings.values())}

    def __or__(self, other: "Frames") -> "Frames":
        both = Frames()
        both.clauses = self.clauses | other.clauses
        both.endings, both.beginnings = self.endings | other.endings, self.beginnings | other.beginnings
        return both

    def _frames(self, counts: Counter[Clause]) -> dict[Clause, Clause]:
        """What many clauses begin with, by its first words."""
        by_start = defaultdict(list)
        for clause in counts:
            if len(clause) >= FRAME_WORDS:
                by_start[clause[:FRAME_WORDS]].append(clause)
        found = {}
        for start, having in by_start.items():
            size, total = FRAME_WORDS, sum(counts[clause] for clause in having)
            while total >= self.least:
                found[start] = having[0][:size]
                longer: Counter[str] = Counter()
                for clause in having:
                    if len(clause) > size:
                        longer[clause[size]] += counts[clause]
                word, most = longer.most_common(1)[0] if longer else ("", 0)
                if most < FRAME_KEEPS * total:
                    break
                having = [clause for clause in having if len(clause) > size and clause[size] == word]
                size, total = size + 1, most
        return found

    def part(self, text: list[Clause]) -> list[Clause]:
        """The clauses of a text, those cut off that no punctuation parts from what they surround."""
        if not self.endings and not self.beginnings:
            return text
        found: list[Clause] = []
        for clause in text:
            end = self.endings.get(clause[: -FRAME_WORDS - 1 : -1], ())[::-1]
            end = end if clause[len(clause) - len(end) :] == end else ()
            rest = clause[: len(clause) - len(end)]
            begin = self.beginnings.get(rest[:FRAME_WORDS], ())
            begin = begin if rest[: len(begin)] == begin else ()
            found += filter(None, (begin, rest[len(begin) :], end))
        return found


NO_FRAMES = Frames()


# --- the items -----------------------------------------------------------------------------------


class Index:
    """The evaluation items by their n-grams, and the short ones by their words."""

    def __init__(self, items: Iterable[Item], ngram_words: int, min_overlap: float):
        self.ngram_words, self.min_overlap = ngram_words, min_overlap
        self.names: list[str] = []
        self.sizes: list[int] = []  # distinct n-grams of an item
        self.numbers: list[list[str]] = []
        self.least: list[float] = []  # share of them that must be found
        self.by_ngram: dict[int, list[int]] = {}
        self.by_question: dict[Clause, str] = {}
        self.openings: set[str] = set()  # first words of the short ones
        self.lengths: set[int] = set()  # of them, in words
        self.pieces: set[Clause] = set()  # what several items are made of, whatever its numbers: "take 7 steps"
        self.options: dict[Clause, set[Clause]] = {}  # of those that all come with some
        self.parts: list[list[Clause]] = []
        self.asking: list[list[Asking]] = []  # those of an item's clauses that ask
        self.frames = Frames()
        sets = defaultdict(list)
        for item in items:
            sets[item.of].append((item, clauses(item.prompt)))
        for members in sets.values():
            # An item that is listed more than once is one, here and below.
            once = {tuple(parts): parts for _, parts in members}
            self.frames |= Frames([[parts] for parts in once.values()], SET_SHARE)
        for members in sets.values():
            readings = [(item, self._readings(item, parts)) for item, parts in members]
            distinct = {tuple(words_of(ways[-1][0])) for _, ways in readings}
            counts = Counter(gram for words in distinct for gram in self._ngrams([*words]))
            pieces = {tuple(parts): {*map(_unnumbered, parts)} for _, ((parts, _), *_) in readings}
            having = Counter(piece for made_of in pieces.values() for piece in made_of)
            self.pieces |= {piece for piece, count in having.items() if count >= SHARED_ITEMS}
            for item, ways in readings:
                for parts, whole in ways:
                    self._add(item, parts, whole, counts)

    def _readings(self, item: Item, parts: list[Clause]) -> list[tuple[list[Clause], bool]]:
        """What is an item's own, and whether it must be there in one piece.

        Where that is too little to tell it by, it is all of its clauses that are its own in part ("Who was the first
        keeper of the light at Kelso?"), or all of the item ("Sort the letters: a j i" is not "Reverse the letters: a j
        i"), and the item with its options.
        """
        every, own, wider = self.frames.part(parts), self._own(self.frames.part(parts)), self._own(parts)
        if _tells(own) or (len(own) == len(every) and not self._is_short(own)):
            return [(own, self._is_short(own))]
        if own and _tells(wider):
            return [(wider, True), (every, True)]
        if own and (last := self._last_frames(every)) and len(last) < len(every):
            return [(last, True), (every, True)]
        with_options = [*every, *clauses(item.options)]
        if len(with_options) == len(every):
            return [(every, True)]
        return [(every, True)] * bool(own) + [(with_options, self._is_short(with_options))]

    def _last_frames(self, every: list[Clause]) -> list[Clause]:
        """From the frame right before an item's own to the last of its own, with as many frames as tell it."""
        places = [at for at, clause in enumerate(every) if clause not in self.frames.clauses]
        starts = (every[start : places[-1] + 1] for start in range(places[0] - 1, -1, -1))
        return next((parts for parts in starts if _tells(parts)), [])

    def _own(self, parts: list[Clause]) -> list[Clause]:
        return [clause for clause in parts if clause not in self.frames.clauses]

    def _is_short(self, parts: list[Clause]) -> bool:
        return len(words_of(parts)) < 2 * self.ngram_words

    def _add(self, item: Item, parts: list[Clause], whole: bool, counts: Counter) -> None:
        words = words_of(parts)
        if whole:
            question = tuple(core(words)) or tuple(words)
            if question:
                alone = len(question) >= SPECIFIC_WORDS and _CHOOSES.isdisjoint(words)
                options = set() if alone else {*clauses(item.options)}
                if question not in self.by_question and options:
                    self.options[question] = options
                elif options and question in self.options:
                    self.options[question] |= options
                else:
                    self.options.pop(question, None)
                self.by_question.setdefault(question, item.name)
                self.openings.add(question[0])
                self.lengths.add(len(question))
            return
        every = self._ngrams(words)
        grams = {gram for gram in every if counts[gram] < SHARED_ITEMS}
        for gram in grams or every:
            self.by_ngram.setdefault(gram, []).append(len(self.names))
        self.names.append(item.name)
        self.sizes.append(len(grams or every))
        self.least.append(self.min_overlap if grams else 1.0)
        self.numbers.append(numbers(words))
        self.parts.append([clause for clause in parts if len(clause) > 1])
        places = zip(parts, [(), *parts], [*parts[1:], ()], strict=False)
        self.asking.append([place for place in places if not place[2] or not _ASKS.isdisjoint(place[0])])

    def _ngrams(self, words: list[str]) -> set[int]:
        # `hash` of strings differs between processes, and nothing that is written depends on it.
        return set(map(hash, zip(*(words[i:] for i in range(self.ngram_words)), strict=False)))

    def match(self, text: str, frames: Frames = NO_FRAMES) -> tuple[str, float] | None:
        """The item that a text contains most of and the share of it, or None; of equal ones the first."""
        every = self.frames.part(clauses(text))
        own = self._own(every)
        readings = [every] if len(own) in (0, len(every)) else [own, every]
        for parts in readings:
            if found := self._longer(parts):
                return found
        for parts in readings if self.by_question else ():
            parts = frames.part(parts)
            for question in self._questions(parts, frames.clauses):
                if question in self.by_question and self._has_its_options(question, parts, frames):
                    return self.by_question[question], 1.0
        return None

    def _has_its_options(self, question: Clause, parts: list[Clause], frames: Frames) -> bool:
        """Whether a text with a question has none of the options that only come with it, or others."""
        if question not in self.options:
            return True
        beside = {part for part in parts if part not in frames.clauses and not {*core([*part])} <= {*question}}
        return len(beside) < CHOICES or not beside.isdisjoint(self.options[question])

    def _longer(self, parts: list[Clause]) -> tuple[str, float] | None:
        words = words_of(parts)
        grams = self._ngrams(words)
        # Of most texts all.
        if self.by_ngram.keys().isdisjoint(grams):
            return None
        hits = Counter(item for gram in grams for item in self.by_ngram.get(gram, ()))
        inside, pairs, found = numbers(words), set(pairwise(words)), None
        for item, shared in hits.items():
            share = shared / self.sizes[item]
            if (
                share >= self.least[item]
                and contains(inside, self.numbers[item])
                and all(present(clause, pairs) for clause in self.parts[item])
                and not any(asks_otherwise(*asking, parts) for asking in self.asking[item])
            ):
                found = max(found or (0.0, 0), (share, -item))
        return found and (self.names[-found[1]], found[0])

    def _questions(self, parts: list[Clause], framing: set[Clause]) -> Iterator[Clause]:
        """Runs of clauses, fillers left out, that may be a short item."""
        # Those without words would make runs that never grow too long.
        asks = [(tuple(core(list(clause))), clause in framing, self._is_piece(clause)) for clause in parts]
        asks = [ask for ask in asks if ask[0]]
        if not asks:
            yield tuple(words_of(parts))
        longest = max(self.lengths)
        least = self.min_overlap * sum(len(clause) for clause, frame, _ in asks if not frame)
        for start, (first, *_) in enumerate(asks):
            if first[0] not in self.openings:
                continue
            run: list[str] = []
            for at in range(start, len(asks)):
                run += asks[at][0]
                if len(run) > longest:
                    break
                long = len(run) >= least or len(run) >= SPECIFIC_WORDS
                if long and len(run) in self.lengths and not _goes_on([piece for *_, piece in asks], start, at):
                    yield tuple(run)

    def _is_piece(self, clause: Clause) -> bool | None:
        """Whether several items have a clause; None where so many have it that it is their frame."""
        return None if clause in self.frames.clauses else _unnumbered(clause) in self.pieces


def _tells(parts: list[Clause]) -> bool:
    """Whether they have enough words to tell an item by; letters and numbers alone, where nothing of them is asked, are
    what many tasks are done to."""
    words = core(words_of(parts))
    if len(words) >= SPECIFIC_WORDS and not _ASKS.isdisjoint(words):
        return True
    return sum(word.isalpha() and (len(word) > 1 or word > "z") for word in words) >= SPECIFIC_WORDS


def _unnumbered(clause: Clause) -> Clause:
    return tuple("0" if word[0].isdigit() else word for word in clause)


def _goes_on(pieces: list[bool | None], first: int, last: int) -> bool:
    """Whether a run of clauses that tell an item by their order alone stands beside one more of that kind.

    "Take 7 steps. Turn around. Take 2 steps." does not ask "Take 7 steps. Turn around." Whatever else stands beside an
    item, a hint or another question, leaves it what it is.
    """
    beside = pieces[max(first - 1, 0) : first] + pieces[last + 1 : last + 2]
    return any(beside) and False not in pieces[first : last + 1]


def present(clause: Clause, pairs: set[tuple[str, str]]) -> bool:
    """Whether a text with these pairs of neighbours has something of a clause."""
    share = CLAUSE_SHARE if len(clause) >= CLAUSE_WORDS else 1
    return sum(pair in pairs for pair in pairwise(clause)) >= share * (len(clause) - 1)


# Words of questions and tasks; the last clause asks without one.
_ASKS = frozenset("""
what which who whom whose where when why how find compute determine calculate evaluate simplify express prove show name
give list write explain describe solve
""".split())  # fmt: skip
# In the place of each other they ask the same.
_ALIKE = FILLERS | frozenset("a what is are s find compute determine calculate evaluate give which".split())


def asks_otherwise(clause: Clause, before: Clause, after: Clause, parts: list[Clause]) -> bool:
    """Whether the clause of a text that is most like one that asks has other words, or another sign, in the place of
    some of its words; those that it lacks or has beside them say nothing."""
    if clause in parts:
        return False
    pairs = {*pairwise(clause)}
    # A single word ("Simplify") has no pairs by which a clause would be like it: it is known by its place.
    comparable = parts
    if not pairs:
        places = zip(parts, [(), *parts], [*parts[1:], ()], strict=False)
        comparable = [
            part for part, left, right in places if len(part) == 1 and (right == after if after else left == before)
        ]
    like = max(reversed(comparable), key=lambda part: len(pairs.intersection(pairwise(part))), default=())
    changes = SequenceMatcher(None, clause, like, autojunk=False).get_opcodes()
    for kind, begin, end, start, stop in changes:
        ours, theirs = ({*run} - _ALIKE for run in (clause[begin:end], like[start:stop]))
        if kind == "replace" and ours and theirs:
            return True
        inside = begin > 0 and end < len(clause)
        if kind != "equal" and inside and any(word[0] in OPERATORS for word in ours ^ theirs):
            return True
    return False


def contains(sequence: list[str], part: list[str]) -> bool:
    """Whether `part` occurs in `sequence` without a gap."""
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))
