"""Constraints on a response that a program checks, as IFEval does (Zhou et al. 2023, arXiv:2311.07911)."""

from steps.judges.reading import UNSPACED_WORD, said

# Fields of each kind of constraint.
CHECKS = {
    "repeat": ("word", "times"),
    "uppercase": ("words",),
    "starts_with": ("words", "first"),
    "ends_with": ("words", "last"),
    "word_count": ("words", "count"),
}
_PUNCTUATION = ".,;:!?\"'()。，、；：！？「」『』“”‘’（）"


def _words(text: str) -> list[str]:
    """The words of a text, in small letters; where words are not spaced, its characters."""
    parts = (part.strip(_PUNCTUATION) for part in UNSPACED_WORD.sub(r" \1 ", text).casefold().split())
    return [part for part in parts if part]


def _holds(given: list[str], word: str) -> bool:
    return f" {' '.join(_words(word))} " in f" {' '.join(given)} "


def follows(response: str, check: dict) -> bool:
    """Whether a response keeps its constraint.

    Kinds: `repeat` {word, times}: that word so often and nothing else. `uppercase` {words}: all of them, in
    capitals, no small letter. `starts_with` {words, first}, `ends_with` {words, last}: all of them, and the
    first (last) word is that. `word_count` {words, count}: all of them among exactly so many words; in a script
    without spaces each character counts as one.

    Raises:
        ValueError: the kind is unknown.
    """
    response = said(response)
    given, kind = _words(response), check["kind"]
    if kind == "repeat":
        word = _words(check["word"])
        return len(given) == len(word) * check["times"] and given == word * check["times"]
    if not all(_holds(given, word) for word in check["words"]):
        return False
    if kind == "uppercase":
        return response == response.upper()
    if kind == "starts_with":
        first = _words(check["first"])
        return given[: len(first)] == first
    if kind == "ends_with":
        last = _words(check["last"])
        return given[-len(last) :] == last
    if kind == "word_count":
        return len(given) == check["count"]
    raise ValueError(f"check.kind: {kind!r} is not a known constraint; steps/judges/instructions.py lists them")
