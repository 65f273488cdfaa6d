"""What a response answers: what stands behind its mark, outside of its thinking. Pure functions, no heavy import.

*Worked* responses end in `#### answer`, as GSM8K's do (Cobbe et al. 2021, arXiv:2110.14168), or have it in \\boxed, as
MATH's do (Hendrycks et al. 2021, arXiv:2103.03874). *Short* responses are the answer.
"""

import re
import string
import unicodedata

from steps.judges.canonical import CLOSING, NUMBER, closed, without_separators

# What lm-eval's own filters return when they find no answer; shared, so that a vote skips it for every task.
NO_ANSWER = "[invalid]"
# Where an answer stands: behind "####", in \boxed, in either, or the response is it.
MARKS = ("####", "boxed", "either", "none")

# Scripts without spaces between words, by the characters that a word has: Han and kana about two, Thai, Lao, Burmese
# and Khmer, whose vowels and tones are characters of their own, about four.
_SHORT_WORDS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_LONG_WORDS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_SHORT, _LONG = re.compile(f"[{_SHORT_WORDS}]"), re.compile(f"[{_LONG_WORDS}]")
UNSPACED_WORD = re.compile(f"([{_SHORT_WORDS}{_LONG_WORDS}])")
_DOLLAR = re.compile(r"^\$(?=\s?[\d.])")

# How templates set thinking apart: Qwen3's and DeepSeek's, Mistral's, gpt-oss's analysis, and names in use besides.
_THINKING = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning|seed:think)>|\[(/?)THINK\]|<\|channel\|>(analysis|final)(?:<\|message\|>)?"
)


def said(response: str) -> str:
    """A response without its thinking: what follows the last that ends, without one that does not. Qwen3's chat
    template puts a block of it, if an empty one, before every answer that is trained on."""
    begin, end = 0, len(response)
    for mark in _THINKING.finditer(response):
        closes = "/" in (mark[1] or mark[2] or "") or mark[3] == "final"
        begin, end = (mark.end(), len(response)) if closes else (begin, min(end, mark.start()))
    text = response[begin:end]
    return text.lstrip() if begin else text


def normalize(text: str) -> str:
    """First line of an answer, to show: without thousands separators, dollar sign, closing mark and surplus spaces."""
    line = " ".join(text.strip().split("\n", 1)[0].split())
    text = closed(_DOLLAR.sub("", without_separators(line)))
    return text if text.strip(CLOSING) else ""


# Not a heading of five or six.
_SHARPS = re.compile(r"(?<!#)####(?!#)")


def behind_sharps(response: str) -> list[str]:
    """What follows each `####` of a response on its line."""
    parts = _SHARPS.split(said(response))[1:]
    return [part.strip().split("\n", 1)[0].strip() for part in parts]


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
    r"""What each \boxed{…} behind the thinking holds, and where it stands; None of one that is not closed, "" of an empty
    one. A box in a box is a part of it."""
    text, found, at = said(response), [], 0
    while mark := _BOX.search(text, at):
        content: str | None
        if mark[1] != "{":
            content, at = mark[1], mark.end()
        else:
            end = _closing(text, mark.end())
            content, at = (None, mark.end()) if end is None else (text[mark.end() : end].strip(), end + 1)
        found.append((content, mark.start(), at))
    return found


def _closing(text: str, begin: int) -> int | None:
    """Where the group that begins here ends; a brace behind a backslash is a sign."""
    depth, at = 1, begin
    while at < len(text):
        if text[at] == "\\":
            at += 2
            continue
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
        at += 1
    return None


def boxed(response: str) -> str | None:
    r"""What the last \boxed{…} behind the thinking holds; None when there is none, or it is not closed."""
    found = boxes(response)
    return (found[-1][0] or None) if found else None


# Between two boxes: they are one answer, or the second is what follows from the first.
_BESIDE = re.compile(r"[\s$,;.]*(?:\\text\{)?\s*(?:and|or|,|;|)\s*\}?[\s$]*", re.IGNORECASE)
_FOLLOWS = re.compile(
    r"\b(?:hence|thus|so|therefore|finally|final|answer|conclude|consequently|altogether|total|then|also|daher|donc|por tanto)\b"
    "|因此|所以|最终|答案|∴|\\\\therefore",
    re.IGNORECASE,
)  # fmt: skip


def last_boxes(response: str) -> list[str]:
    r"""The boxes that answer: all, but for those before one that is said to follow from them. Those that stand side by
    side, \boxed{2} and \boxed{5}, are one answer of several parts. "" for one that is empty or not closed."""
    text, groups, place = said(response), [], 0
    for content, begin, end in boxes(response):
        between = text[place:begin]
        if groups and _FOLLOWS.search(between):
            groups = []
        if groups and groups[-1] and content and _BESIDE.fullmatch(between):
            groups[-1] = groups[-1] if groups[-1] == content else f"{groups[-1]}, {content}"
        else:
            groups.append(content or "")
        place = end
    return groups


def marked(response: str, mark: str) -> list[str]:
    r"""The answers of a response, one for each mark that counts; "" where a mark has none. Of `either` those behind
    `####`, or those in \boxed where there is no `####`; of `none` the first line."""
    if mark == "none":
        return [said(response).strip().split("\n", 1)[0]]
    found = behind_sharps(response) if mark in ("####", "either") else []
    return last_boxes(response) if mark == "boxed" or (mark == "either" and not found) else found


def bare(answer: str) -> str:
    """An answer in small letters without punctuation, articles and surplus spaces: SQuAD's normalization, with the
    punctuation of every script as MLQA has it (Lewis et al. 2020, arXiv:1910.07475)."""
    kept = "".join(letter for letter in answer.casefold() if not _is_punctuation(letter))
    return " ".join(word for word in kept.split() if word not in ("a", "an", "the"))


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter)[0] == "P"


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
