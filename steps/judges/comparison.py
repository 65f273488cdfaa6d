r"""Whether an answer is the gold one: by its text, then as the kind of answer that the gold is.

The gold decides how a response is read. "1,2" is 1.2 where a number is asked for and two numbers where a list is; "5
eggs" is 5, and no answer to "5 miles". What is equal by `canonical` is equal here: this judge takes more, never less.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal

from steps.judges.arithmetic import evaluate, is_literal
from steps.judges.canonical import EVERYDAY, LONGEST, OPTION, canonical, plain
from steps.judges.latex import for_grammar, tidy
from steps.judges.numbers import HOURS, Quantity, Several, Unread, in_digits, read_number, read_time, same_quantity
from steps.judges.shapes import same_shape, shape_of, valued
from steps.judges.units import ratio, unit_of

Outcome = Literal["right", "wrong", "ambiguous", "unread", "unverifiable"]
# (given, gold), as `latex.for_grammar` writes them -> whether they are equal. Raises Unverifiable.
Mathematics = Callable[[str, str], bool]
Kind = Literal["choice", "time", "base", "number", "text", "structure", "expression"]


class Unverifiable(Exception):
    """Why nobody can tell whether two expressions are equal."""


_BASE = re.compile(r"\(?(-?[0-9A-Fa-f]+)\)?_\(?([2-9]|[12]\d|3[0-6]|[a-z]{3,})\)?")
_LABELLED = re.compile(r"[(\[]?\s*([A-Ja-j])\s*[)\].:]\s*\S.*", re.DOTALL)
# What leads to an option. No other word may: it can be a "not", an "except" or a "second".
_LEADS = (
    "so thus hence therefore then i we choose pick select think believe the my our final correct right best most likely"
    " answer option choice letter is are must should be would will to this question and"
)
LEADING = re.compile(
    rf"(?:(?:{'|'.join(_LEADS.split())})[\s,:=]++){{1,12}}+|(?:因此|所以|故|应该?|正确|答案|选项?|择|是|为|[:：\s]){{1,12}}+",
    re.IGNORECASE,
)
CHOSEN = re.compile(rf"(?:{LEADING.pattern})[(\[]?([A-J])[)\]]?", re.IGNORECASE)
_TRAILING_UNIT = re.compile(r"(.*?)\s*\\text\s*\{([^{}]*)\}\s*(\^\s*\{?\d\}?)?", re.DOTALL)


# Every sample of a row asks the same of its gold answer.
@lru_cache(1 << 12)
def kind_of(gold: str) -> Kind:
    """What kind of answer a gold one is."""
    tidied = tidy(gold)
    typed = plain(tidied)
    option = OPTION.fullmatch(typed)
    if option and (option[1] or option[2]).isupper():
        return "choice"
    # 5 o'clock is 5 in hours, and no time of which one could say that another is not it.
    if read_time(typed) is not None and not typed.lower().endswith(HOURS):
        return "time"
    if _BASE.fullmatch(typed):
        return "base"
    shape = shape_of(tidied)
    # The "and" of 2 and a half parts nothing.
    one = shape.kind == "scalar" or (shape.kind == "list" and shape_of(in_digits(typed)).kind == "scalar")
    if one and number_of(typed) is not None:
        return "number"
    if shape.kind != "scalar":
        return "text" if _is_prose(typed) else "structure"
    return "expression" if for_grammar(without_unit(tidied)[0]) and not _is_prose(typed) else "text"


def number_of(typed: str) -> Quantity | None:
    """A gold answer that is a number, with its unit if it has one; None of another. A sentence is no gold number."""
    try:
        found = read_number(typed)
    except Unread:
        return None
    return found if re.match(r"[-+$€£¥₹.\d√(]|\\", in_digits(typed)) and "=" not in typed else None


def _is_prose(typed: str) -> bool:
    """Words and nothing of mathematics: one has three letters, or is no product of symbols: no, Bo, 北京."""
    words = [word for word in re.findall(r"[^\W\d_]+", typed) if word not in ("and", "or")]
    return bool(words) and not re.search(r"[=<>≤≥^\\√π∞+*/{}|]", typed) and any(map(_is_word, words))


def _is_word(word: str) -> bool:
    symbols = word.isascii() or all("α" <= letter.lower() <= "ω" for letter in word)
    return not symbols or len(word) > 2 or (len(word) == 2 and (word.lower() in EVERYDAY or word.istitle()))


def compare(gold: str, given: str, mathematics: Mathematics | None) -> tuple[Outcome, str]:
    """Whether an answer is the gold one, and why (not).

    Args:
        mathematics: what compares expressions; without it they are equal by their texts alone.

    Raises:
        Unverifiable: it cannot tell.
    """
    if not given.strip():
        return "unread", "nothing is given"
    if canonical(given) == canonical(gold):
        return "right", "the same text"
    if len(given) > LONGEST:
        return "unread", "longer than any answer"
    kind = kind_of(gold)
    if kind == "number":
        return _number(gold, given, mathematics)
    typed_gold, typed = plain(tidy(gold)), plain(tidy(given))
    if kind == "choice":
        return _choice(typed_gold, typed)
    if kind == "time":
        time = read_time(typed)
        return ("unread", "no time of the day") if time is None else _told(time == read_time(typed_gold), "time")
    if kind == "base":
        return _told(_digits(typed) is not None and _digits(typed) == _digits(typed_gold), "number of that base")
    if kind == "text":
        return _told(_bare(typed) == _bare(typed_gold), "text")
    return _told(_same(gold, given, mathematics), kind)


def same(answer: str, other: str) -> bool:
    """Whether two answers are one, as far as that needs no calculation with symbols."""
    return compare(other, answer, None)[0] == "right"


_LEADING = re.compile(r"(?:(?:on|in|at|the|an?)\s+)+(?=\w)")
# There are no real solutions, no real solution.
_NONE = re.compile(
    r"(?:there (?:is|are|exists?) )?(no (?:\w+ )?(?:solution|root|answer|zero|value|number|point|integer))s?"
)
_RATIO = re.compile(r"(\d+(?:\.\d+)?)\s*(?::|to)\s*(\d+(?:\.\d+)?)")


def _bare(typed: str) -> str:
    """A text without what leads to it: on Monday, the Nile. 2 to 3 is 2:3."""
    text = canonical(typed)
    if ratio_of := _RATIO.fullmatch(text):
        return f"{ratio_of[1]}:{ratio_of[2]}"
    if none := _NONE.fullmatch(text):
        return none[1]
    return _LEADING.sub("", text, count=1) if _LEADING.match(text) else text


def _told(right: bool, what: str) -> tuple[Outcome, str]:
    return ("right", f"the same {what}") if right else ("wrong", f"another {what}")


def _choice(gold: str, typed: str) -> tuple[Outcome, str]:
    option = OPTION.fullmatch(gold)
    assert option
    found = OPTION.fullmatch(typed) or _LABELLED.fullmatch(typed) or CHOSEN.fullmatch(typed)
    if not found:
        return "unread", "no single option"
    letter = next(filter(None, found.groups())).upper()
    return _told(letter == (option[1] or option[2]), "option")


def _digits(typed: str) -> tuple[str, str] | None:
    found = _BASE.fullmatch(typed)
    return (re.sub(r"^(-?)0+(?=.)", r"\1", found[1]).upper(), in_digits(found[2])) if found else None


# --- numbers -------------------------------------------------------------------------------------


def _number(gold: str, given: str, mathematics: Mathematics | None) -> tuple[Outcome, str]:
    expected = _gold_number(gold)
    tidied = tidy(given)
    typed = plain(tidied)
    if (base := _BASE.fullmatch(typed)) and expected.unit == "":
        return _told(base[1] == str(expected.value), "number")
    shape = valued(shape_of(tidied))
    if shape.kind == "bracket":
        return "ambiguous", "several numbers in brackets"
    if expected.unit in HOURS and (time := read_time(typed)) is not None:
        half = 60 * (12 if expected.unit == HOURS[0] else 24)
        return _told(time % half == 60 * expected.value % half, "time")
    try:
        return _told(same_quantity(expected, read_number(typed)), "number")
    except Unread as problem:
        several, why = isinstance(problem, Several), str(problem)
    if shape.kind == "scalar" and mathematics is not None and not _unfinished(shape.parts[0], gold):
        formula = for_grammar(without_unit(shape.parts[0])[0])
        if formula and re.search(r"\\(?!text)|[\^!A-Za-z]", formula):
            literal = f"({expected.value})" if expected.value < 0 else _literal(expected)
            is_angle = expected.unit == "°" and r"\pi" in formula
            right = mathematics(formula, rf"{literal}\cdot\frac{{\pi}}{{180}}" if is_angle else literal)
            return _told(right, "number")
    if shape.kind in ("list", "set", "union"):
        several = True
    return ("ambiguous" if several else "unread"), why


@lru_cache(1 << 12)
def _gold_number(gold: str) -> Quantity:
    found = number_of(plain(tidy(gold)))
    assert found
    return found


def _literal(number: Quantity) -> str:
    value = number.value
    return str(value) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


_WRITTEN_OUT = re.compile(r"[-+]?[\d.,]+\W*[^\W\d]*")


def _unfinished(text: str, gold: str) -> bool:
    """9 + 9 is a way to 18, often the question's own, and no answer. 2 * 2^8 says 2^9 as well as that does."""
    typed = plain(text)
    if not _WRITTEN_OUT.fullmatch(plain(tidy(gold))):
        return False
    return re.search(r"[+*]|[\d)!]\s*-", typed) is not None and evaluate(typed) is not None and not is_literal(typed)


# --- mathematics ---------------------------------------------------------------------------------


def _same(gold: str, given: str, mathematics: Mathematics | None) -> bool:
    def same(one: str, other: str) -> bool:
        if canonical(one) == canonical(other):
            return True
        number = number_of(plain(one)), number_of(plain(other))
        if number[0] is not None and number[1] is not None:
            return same_quantity(number[0], number[1])
        if mathematics is None:
            return False
        (expected, unit), (found, other_unit) = without_unit(one), without_unit(other)
        if unit and other_unit and ratio(unit, other_unit) != 1:
            return False
        found, expected = _in_radians(found, expected), _in_radians(expected, found)
        formulas = for_grammar(found), for_grammar(expected)
        return bool(formulas[0] and formulas[1]) and mathematics(*formulas)  # type: ignore[arg-type]

    return same_shape(shape_of(tidy(gold)), shape_of(tidy(given)), same)


_ANGLE = re.compile(r"(-?\d+(?:\.\d+)?)\s*\^\s*\{?\s*\\circ\s*\}?")


def _in_radians(text: str, other: str) -> str:
    """An angle in degrees where the other one is given by \\pi."""
    angle = _ANGLE.fullmatch(text.strip()) if r"\pi" in other else None
    return rf"\frac{{{angle[1]}\pi}}{{180}}" if angle else text


def without_unit(text: str) -> tuple[str, str]:
    """An expression and the unit behind it: 3\\pi \\text{ cm}."""
    found = _TRAILING_UNIT.fullmatch(text)
    return (found[1], unit_of(found[2] + (found[3] or "").strip("{} "))) if found and found[1] else (text, "")
