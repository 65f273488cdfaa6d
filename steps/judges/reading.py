"""What a response answers: what stands behind its mark, outside of its thinking. Pure functions, no heavy import.

*Worked* responses end in `#### answer`, as GSM8K's do (Cobbe et al. 2021, arXiv:2110.14168), or have it in \\boxed, as
MATH's do (Hendrycks et al. 2021, arXiv:2103.03874). *Short* responses are the answer.
"""

import re
from typing import Literal

from steps.judges.canonical import CLOSING, NUMBER, closed, without_separators

# What lm-eval's own filters return when they find no answer; shared, so that a vote skips it for every task.
NO_ANSWER = "[invalid]"
# Where an answer stands: behind "####", in \boxed, in either, or the response is it.
Mark = Literal["####", "boxed", "either", "none"]

# Scripts without spaces between words, by the characters that a word has: Han and kana about two, Thai, Lao, Burmese
# and Khmer, whose vowels and tones are characters of their own, about four.
_SHORT_WORDS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LONG_WORDS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_SHORT, _LONG = re.compile(f"[{_SHORT_WORDS}]"), re.compile(f"[{_LONG_WORDS}]")
UNSPACED_WORD = re.compile(f"([{_SHORT_WORDS}{_LONG_WORDS}])")
_DOLLAR = re.compile(r"^\$(?=\s?[\d.])(?!.*\$$)")

# How templates set thinking apart: Qwen3's, DeepSeek's and Seed's tags, Mistral's, Kimi's, those of Cohere and of
# OpenThoughts, gpt-oss's channels, and names in use besides.
THINKING = re.compile(
    r"[<\[◁]\|?(?:(?P<ends>/|end_(?:of_)?)|(?:begin|start)_(?:of_)?)?(?:seed:)?(?:think(?:ing)?|thought|reasoning)\|?[>\]▷]"
    r"|<\|channel\|>(?P<channel>analysis|commentary|final)(?:<\|message\|>)?",
    re.IGNORECASE,
)
_CHANNEL = "<|channel|>"


def marks_thinking(token: str) -> bool:
    """Whether a token is a mark of thinking, or one that a mark begins with: without it nobody could tell what of a
    response is thought."""
    return token == _CHANNEL or THINKING.fullmatch(token) is not None


# What ends a turn, where a decoder left it.
_SPECIAL = re.compile(r"<\|[\w ]{1,30}\|>|</s>\s*$")


def said(response: str) -> str:
    """A response without its thinking: what follows the last that ends, without one that does not. Qwen3's chat
    template puts a block of it, if an empty one, before every answer that is trained on."""
    begin, end = 0, len(response)
    for mark in THINKING.finditer(response):
        closes = mark["ends"] or (mark["channel"] or "").lower() == "final"
        begin, end = (mark.end(), len(response)) if closes else (begin, min(end, mark.start()))
    text = _SPECIAL.sub("", response[begin:end])
    return text.lstrip() if begin else text


def normalize(text: str) -> str:
    """First line of an answer, to show: without thousands separators, dollar sign, closing mark and surplus spaces."""
    line = " ".join(text.strip().split("\n", 1)[0].split())
    text = closed(_DOLLAR.sub("", without_separators(line)))
    return text if text.strip(CLOSING) else ""


# Not a heading of five or six.
_SHARPS = re.compile(r"(?<!#)####(?!#)")


# GSM8K's notes to a calculator: <<9+9=18>>.
_CALCULATED = re.compile(r"<<[^<>]*>>")
# Tags that end what the answer is in, and the end of a line that was escaped once too often.
_ENDS = re.compile(r"(?:(?:</\w{1,20}>|\\n)\s*)+$")
_MOST_ENDS = 100


def _bare(line: str) -> str:
    line = _CALCULATED.sub("", line).strip()
    return (line[:-_MOST_ENDS] + _ENDS.sub("", line[-_MOST_ENDS:])).strip()


def sharps_split(response: str) -> list[str]:
    """What stands before, between and behind the marks `####` of a response."""
    return _SHARPS.split(said(response))


def behind_sharps(response: str) -> list[str]:
    """What follows each `####` of a response on its line."""
    return [_bare(part.strip().split("\n", 1)[0]) for part in sharps_split(response)[1:]]


def worked_answer(response: str) -> str | None:
    """What follows the last `####` behind the thinking, normalized; None when there is none or nothing after it."""
    found = behind_sharps(response)
    return (normalize(found[-1]) or None) if found else None


def last_number(response: str) -> str | None:
    """The last number anywhere in the response, normalized: the lenient reading of a worked response."""
    found = NUMBER.findall(said(response))
    return normalize(found[-1]) if found else None


_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(\{|[0-9A-Za-z])")


def boxes(response: str) -> list[tuple[str | None, int, int]]:
    r"""What each \boxed{…} behind the thinking holds, and where it stands; None of one that is not closed, "" of an
    empty one. A box in a box is a part of it."""
    text, found, at = said(response), [], 0
    closings = _closings(text) if _BOX.search(text) else {}
    while mark := _BOX.search(text, at):
        content: str | None
        if mark[1] != "{":
            content, at = mark[1], mark.end()
        else:
            end = closings.get(mark.end() - 1)
            content, at = (None, mark.end()) if end is None else (" ".join(text[mark.end() : end].split()), end + 1)
        found.append((content, mark.start(), at))
    return found


_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def _closings(text: str) -> dict[int, int]:
    """Where each group of a text begins → where it ends; a brace behind a backslash is a sign."""
    found, begun = {}, []
    for brace in _BRACE.finditer(text):
        if brace[0] == "{":
            begun.append(brace.start())
        elif brace[0] == "}" and begun:
            found[begun.pop()] = brace.start()
    return found


def boxed(response: str) -> str | None:
    r"""What the last \boxed{…} behind the thinking holds; None when there is none, or it is not closed."""
    found = boxes(response)
    return (found[-1][0] or None) if found else None


# Between two boxes: they are one answer, or the second is what follows from the first.
_BESIDE = re.compile(r"[\s$,;.]*+(?:\\text\{\s*+)?(?:(?:and|or|,|;)\s*+)?\}?[\s$]*", re.IGNORECASE)
_CONCLUDES = "hence thus so therefore finally final answer conclude consequently altogether total then also daher donc"
_FOLLOWS = re.compile(rf"\b(?:{'|'.join(_CONCLUDES.split())})\b|因此|所以|最终|答案|∴|\\therefore", re.IGNORECASE)


def last_boxes(response: str) -> list[tuple[str, ...]]:
    r"""The boxes that answer: all, but for those before one that is said to follow from them. Those that stand side by
    side, \boxed{2} and \boxed{5}, are one answer of several parts. "" for one that is empty or not closed."""
    text, place = said(response), 0
    groups: list[list[str]] = []
    for content, begin, end in boxes(response):
        between = text[place:begin]
        if groups and _FOLLOWS.search(between):
            groups = []
        # One that is empty stands alone.
        if groups and groups[-1][0] and content and _BESIDE.fullmatch(between):
            groups[-1].append(content)
        else:
            groups.append([content or ""])
        place = end
    return [*map(tuple, groups)]


class Read(str):
    """What a response answers, as one text to show and to vote by: the last answer or, where it marks several, all.

    Attributes:
        answers: one of one or several parts for each mark.
        prose: what it says besides: the whole response, where that is to be the answer; else "".
    """

    answers: tuple[tuple[str, ...], ...]
    prose: str

    def __new__(cls, answers: list[tuple[str, ...]], prose: str = "") -> "Read":
        shown = dict.fromkeys(normalize(", ".join(dict.fromkeys(parts))) for parts in answers)
        read = super().__new__(cls, " | ".join(shown))
        read.answers, read.prose = tuple(answers), prose
        return read


# A heading of Markdown has the mark of a worked answer: of a part of the text by its number, of what follows, or of
# what it is called; behind some of these names stands no answer.
_CALLED = "explanation verification check note notes reasoning justification proof working analysis".split()
_BARE = "solution conclusion summary calculation calculations steps result answer".split()
_HEADING = re.compile(
    r"\**(?:(?:step|part|case|section)\s+\w+\b.*|[^\d]*:\**"
    rf"|(?:final |step-by-step |short )?(?:{'|'.join(_CALLED + _BARE)})[*.]*|(?:{'|'.join(_CALLED)})[*]*:.*)",
    re.IGNORECASE,
)


def read(response: str, mark: Mark) -> Read:
    """What a response answers, where its answer stands by `mark`; "" where it has no answer.

    `#### Step 1: add` is a heading where an answer follows; alone it is what is answered.
    """
    answers = marked(response, mark)
    if mark == "none":
        return Read(answers, said(response))
    return Read([answer for answer in answers if not _HEADING.fullmatch(answer[0])] or answers)


def marked(response: str, mark: Mark) -> list[tuple[str, ...]]:
    r"""The answers of a response, one of one or several parts for each mark that counts; "" where a mark has none. Of
    `either` the mark that comes last; of `none` the first line."""
    if mark == "none":
        return [(said(response).strip().split("\n", 1)[0],)]
    if mark == "either":
        text = said(response)
        boxed_last = max((begin for _, begin, _ in boxes(text)), default=-1) > text.rfind("####")
        mark = "boxed" if boxed_last and not _in_sharps(text) else "####"
    return last_boxes(response) if mark == "boxed" else [(answer,) for answer in behind_sharps(response)]


def _in_sharps(text: str) -> bool:
    """Whether the last box stands on the line of the last `####`, which it then is the answer of."""
    _, sharps, tail = text.rpartition("####")
    return bool(sharps) and "boxed" in tail.strip().split("\n", 1)[0]


def count_words(text: str) -> int:
    """Words of a text in any script; where words are not spaced, as many as its characters usually make. At least 1."""
    spaced = sum(any(map(str.isalnum, part)) for part in UNSPACED_WORD.sub(" ", text).split())
    return max(1, spaced + -(-len(_SHORT.findall(text)) // 2) + -(-len(_LONG.findall(text)) // 4))


def short_answer(response: str, short_answer_words: int) -> str | None:
    """A response that is an answer by itself: one line of at most so many words; None of another."""
    text = said(response).strip()
    # No word of an answer has 40 characters: most responses need no counting.
    if "\n" in text or len(text) > 40 * short_answer_words or count_words(text) > short_answer_words:
        return None
    return normalize(text) or None
