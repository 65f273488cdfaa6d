"""Numbers as answers give them: with units, separators, in words, as a fraction, in a short sentence. Exact, as long as
they are given; what holds two numbers is none."""

import re
from fractions import Fraction
from typing import NamedTuple

from steps.judges import units
from steps.judges.arithmetic import evaluate, is_literal

# Words of the longest answer that may stand around a number; more is prose.
MOST_WORDS = 12


class Quantity(NamedTuple):
    """A number and what it counts; `unit` is "" for a bare one, "%" for a share."""

    value: Fraction
    unit: str = ""


class Unread(ValueError):
    """Why a text is no number."""


class Several(Unread):
    """It gives more than one."""


_GROUP = r"\d{1,3}(?:,\d{3})+(?![\d]|[,']\d)(?:\.\d+)?"
# Lakhs and crores: 1,50,000.
_INDIAN = r"\d{1,2}(?:,\d{2})+,\d{3}(?![\d]|[,']\d)(?:\.\d+)?"
_SPACED = r"\d{1,3}(?:[ '_\u00a0\u2009\u202f]\d{3})+(?!\d)(?:\.\d+)?"
_EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d+(?![\d,])|\d{1,3}(?:\.\d{3}){2,}(?![\d.])"
_COMMA = r"(?<![\d,])\d+,(?:\d{1,2}|\d{4,}|(?<=\b0,)\d+)(?![\d,])"
_DIGITS = rf"(?:{_EUROPEAN}|{_GROUP}|{_INDIAN}|{_SPACED}|{_COMMA}|\d+(?:\.\d+)?|\.\d+)"
# What is raised or lowered is a part of a unit or of a symbol.
_SIGN = r"(?<![\^_])(?<![\^_]-)(?:(?<![\w)\d.])[-+]\s?)?"
_MONEY = rf"[{re.escape(units.CURRENCIES)}]"
_TENS = r"(?:[eE][-+]?\d{1,4}(?![\d.])|\s*[*x]\s*10\s*\^\s*\(?[-+]?\d{1,4}\)?)"
NUMERAL = re.compile(
    rf"(?P<sign>{_SIGN})(?:(?P<money>{_MONEY})\s?(?P<inner>[-+])?)?"
    rf"(?P<number>\d+\s+\d+\s*/\s*\d+|{_DIGITS}{_TENS}?(?:\s*/\s*-?{_DIGITS})?)\.?(?!\d)(?P<factorial>!+(?=\s*$))?"
)
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar|dot|overbar)\s*\{?(\d+)\}?")
_POWER_OF_UNIT = re.compile(r"(?<![^\W\d_])(mm|cm|m|km|ft|in|yd)([23])(?!\w)")
_MARKUP = re.compile(r"</?[a-z]{1,12}>|(?<!\w)\*\*|\*\*(?!\w)|(?<!\w)__|__(?!\w)|`")
_BELOW_ZERO = re.compile(r"\b(?:minus|negative)\s+(?=[\d.$€£¥₹])", re.IGNORECASE)
_STRUCK = re.compile(r"~~.*?~~")
_ORDINAL = re.compile(r"^(?:st|nd|rd|th)\b")

# Behind one of these a number is not what the answer is.
_HEDGES = frozenset(
    "not no or between less fewer than over under below above least most nearly almost maybe"
    " perhaps either neither never but if unless except from until half third thirds quarter quarters isn't don't"
    " cannot dozens hundreds thousands millions somewhere near oder nicht ou pas o y ni unknown impossible".split()
)
_CHINESE_HEDGES = re.compile("[或不非约至]|大于|小于")
# Before and behind a number: it is not the number alone that is meant.
_TIMES = frozenset("twice thrice double triple quadruple".split())
_RAISED = frozenset("squared cubed hundredth hundredths thousandth thousandths millionth millionths".split())
# A number behind one of these counts parts of the text.
_LABELS = frozenset(
    "step part case problem question exercise chapter section option equation line page example method solution"
    " figure table note".split()
)


def read_number(text: str) -> Quantity:
    """The number that a text gives; `text` is as `canonical.plain` writes it.

    Raises:
        Several: it holds two.
        Unread: it holds none, or more around it than a number has.
    """
    text = _POWER_OF_UNIT.sub(r"\1^\2", _MARKUP.sub("", _STRUCK.sub(" ", text))).strip().strip("_`").strip()
    if re.search(r"[<>≤≥≠∈]", text):
        raise Unread("an inequality")
    sides = [side.strip() for side in re.split(r"[=≈]|\bis approximately\b", text)]
    return read_side(sides[0]) if len(sides) == 1 else _of_equation(sides)


def _of_equation(sides: list[str]) -> Quantity:
    """x = 18, 9 + 9 = 18, x = 9 + 9 = 18: the last side, where the others give the same or are names."""
    if "" in sides[1:]:
        raise Unread("an equation without an end")
    if not re.search(r"\d", sides[-1]) and re.fullmatch(r"[^\W\d_]", sides[-1]):
        sides.reverse()
    found = read_side(sides[-1])
    for side in filter(None, sides[:-1]):
        value = evaluate(re.sub(_MONEY, "", side))
        if value is None and not re.search(r"[^\W\d_]", side):
            raise Unread(f"{side} cannot be worked out")
        if value is not None and value != found.value:
            raise Unread(f"{side} is not {sides[-1]}")
    return found


def read_side(text: str) -> Quantity:
    """What stands on one side of an equation, or alone: one number, with what may be around it."""
    if found := _REPEATING.fullmatch(text):
        return Quantity(repeating(*found.groups()))
    if is_literal(text) and (value := evaluate(text)) is not None:
        return Quantity(value)
    if len(text) > 40 * MOST_WORDS or len(text.split()) > MOST_WORDS:
        raise Unread("more than an answer")
    if aside := re.fullmatch(r"(.*\S)(?:\s+\(|（)([^()（）]*)[)）]", text):
        _refuse_hedges(aside[2])
        if re.search(r"\d", aside[1]):
            text = aside[1]
    if text.count("(") != text.count(")"):
        raise Unread("a bracket without its other")
    text = _BELOW_ZERO.sub("-", in_digits(text))
    numerals = list(NUMERAL.finditer(text))
    if not numerals:
        raise Unread("no number")
    if len(numerals) > 1:
        if (several := _compound(text)) is not None:
            return several
        if not (span := _SPAN.fullmatch(text)) or len(numerals) > 2:
            raise Several("several numbers")
        text = span[1]
    return _with_words(numerals[0], text)


_PART = re.compile(rf"\s*(?:,|and\b)?\s*(?P<money>{_MONEY})?({_DIGITS})\s*([^\W\d_]*)\.?")
_SPAN = re.compile(
    rf"(\D*{_DIGITS}\s+[^\W\d_][^\d]*?)\s+(?:over|in|for|after|within|during|every)\s+(?:the\s+\w+\s+)?{_DIGITS}\s+"
    r"(?:second|minute|hour|day|week|month|year)s?\W*"
)


def _compound(text: str) -> Quantity | None:
    """3 hours 30 minutes, 4 dollars and 50 cents: each unit smaller than the one before, all in the first."""
    amount, first, last, place = Fraction(0), "", None, 0
    while place < len(text) and (found := _PART.match(text, place)):
        unit = units.unit_of(found[3]) or found["money"] or ""
        first = first or unit
        size = units.ratio(unit, first) if unit else None
        if size is None or (last is not None and size >= last):
            return None
        amount, last, place = amount + size * _decimal(found[2]), size, found.end()
    return None if text[place:].strip() else Quantity(amount, first)


def _with_words(found: re.Match, text: str) -> Quantity:
    before, after = text[: found.start()].rstrip(), text[found.end() :]
    number = found["number"]
    if found["factorial"]:
        raise Unread("a factorial with words")
    value = value_of(number)
    if "-" in found["sign"] + (found["inner"] or ""):
        value = -value
    for around in (before, after):
        _refuse_hedges(around)
    lead = re.sub(r"[*_`\"'$(（:：]+$", "", before).rstrip()
    last = re.search(r"[^\W\d_]+$", lead)
    if last and last[0].lower() in _LABELS:
        raise Unread("the number of a part")
    if last and last[0].lower() in _TIMES:
        raise Unread(f"{last[0]!r} before the number")
    if re.search(r"[-+*/^√!|±∓\\{}\[\]]|(?<![^\W\d_])[^\W\d_]\($", before.replace("- ", "").rstrip("*_`")):
        raise Unread("a formula")
    money = (found["money"] or "").strip() or _currency(lead)
    value, unit = _unit(value, after, money)
    return Quantity(value, unit or money)


def _currency(lead: str) -> str:
    word = lead.split()[-1].lower() if lead.split() else ""
    return units.symbol_of(word) if word in ("usd", "eur", "gbp", "inr", "rs", "rs.", "cny", "us$") else ""


def _refuse_hedges(text: str) -> None:
    words = re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())
    if hedge := next((word for word in words if word in _HEDGES), None):
        raise Unread(f"{hedge!r} beside the number")
    if found := _CHINESE_HEDGES.search(text):
        raise Unread(f"{found[0]!r} beside the number")


_MULTIPLIERS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
# Behind them more is meant to come: "12 and", "12 eggs or".
_JOINING = frozenset("and or but nor plus minus versus than und oder et ou".split())
_SHORT_MULTIPLIERS = {"k": 1000, "m": 10**6, "mn": 10**6, "b": 10**9, "bn": 10**9}


# m*s^-2 is a product of units.
_OF_UNITS = re.compile(r"(?<=[^\W\d])\*(?=[^\W\d])|\^\(?-(?=\d)")


def _unit(value: Fraction, after: str, money: str) -> tuple[Fraction, str]:
    """What follows a number: multipliers of it, then its unit."""
    glued = after[:1].strip() != ""
    after = re.sub(r"^[\s_`\"'）)]+|[\s_`\"'（(]+$", " ", after).strip()
    while after:
        word, _, rest = after.partition(" ")
        bare = word.strip(".,;:").lower()
        if bare in _MULTIPLIERS:
            value *= _MULTIPLIERS[bare]
        elif glued and bare in _SHORT_MULTIPLIERS and (money or word in ("k", "M", "B")):
            value *= _SHORT_MULTIPLIERS[bare]
        else:
            break
        after, glued = rest.strip(), False
    if _ORDINAL.match(after):
        after = _ORDINAL.sub("", after).strip()
    words = re.findall(r"[^\W\d_]+", after.lower())
    if words and (words[0] in _JOINING or words[-1] in _JOINING):
        raise Unread("the answer goes on")
    if words and words[0] in _RAISED:
        raise Unread(f"{words[0]!r} behind the number")
    first = re.match(r"[^\W\d_]+", after)
    if after and not first and after[0] not in f"%°¢.,;:{units.CURRENCIES}":
        raise Unread(f"{after[:20]!r} behind the number")
    if first and first[0].isascii() and len(first[0]) < 3 and not after.lower().startswith(HOURS):
        known = first[0] in units.SHORT or (
            not glued and first[0].lower() in ("of", "in", "a", "an", "at", "by", "on", "is")
        )
        if not known:
            raise Unread(f"{first[0]!r} is no unit")
    if re.search(r"[+*=\\{}√π|]|(?<!\w)-", _OF_UNITS.sub(" ", after.replace("**", ""))):
        raise Unread("a formula")
    return value, units.unit_of(after)


# --- one numeral ---------------------------------------------------------------------------------


def value_of(number: str) -> Fraction:
    """A numeral without its sign: 1,234.5, 3,5, 1 234, 2 1/3, 1.2e6."""
    if mixed := re.fullmatch(r"(\d+)\s+(\d+)\s*/\s*(\d+)", number):
        return int(mixed[1]) + _quotient(int(mixed[2]), int(mixed[3]))
    above, slash, below = number.partition("/")
    if slash:
        return _quotient(value_of(above.strip()), value_of(below.strip().removeprefix("-"))) * (
            -1 if "-" in below else 1
        )
    digits, tens = number, 0
    if found := re.search(rf"{_TENS}$", number):
        digits, tens = number[: found.start()], int(re.search(r"([-+]?\d+)\)?$", found[0].split("10", 1)[-1])[1])  # type: ignore[index]
        if found[0][0] in "eE":
            tens = int(found[0][1:])
    return _decimal(digits) * Fraction(10) ** tens


def _quotient(above: Fraction | int, below: Fraction | int) -> Fraction:
    if not below:
        raise Unread("divided by zero")
    return Fraction(above) / Fraction(below)


def _decimal(digits: str) -> Fraction:
    digits = re.sub(r"[ '_\u00a0\u2009\u202f]", "", digits)
    if re.fullmatch(_EUROPEAN, digits):
        digits = digits.replace(".", "").replace(",", ".")
    elif re.fullmatch(rf"{_GROUP}|{_INDIAN}", digits):
        digits = digits.replace(",", "")
    return Fraction(digits.replace(",", "."))


def repeating(whole: str, once: str, again: str) -> Fraction:
    """0.1\\overline{6}: the digits that come again, for ever."""
    shift = 10 ** len(once)
    head, tail = Fraction(int(once or 0), shift), Fraction(int(again), shift * (10 ** len(again) - 1))
    return int(whole or 0) + head + tail


# --- words ---------------------------------------------------------------------------------------

_UP_TO_NINETEEN = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
    " seventeen eighteen nineteen"
)
_ONES = {word: i for i, word in enumerate(_UP_TO_NINETEEN.split())}
_DECADES = {word: 10 * i for i, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), 2)}
_LARGE = "|".join(word for word in _MULTIPLIERS if word != "hundred")
# Less than a hundred, less than ten thousand; "two three" and "two and three" are two numbers each.
_SMALL = rf"(?:(?:{'|'.join(_DECADES)})(?:[\s-]+(?:{'|'.join([*_ONES][1:10])}))?|{'|'.join(_ONES)})"
_MIDDLE = rf"(?:(?:(?:an?|{_SMALL})[\s-]+)?hundred(?:(?:\s+and)?[\s-]+{_SMALL})?|{_SMALL})"
_WORDS = (
    rf"(?:(?:(?:an?|{_MIDDLE})[\s-]+)?(?:{_LARGE})(?:(?:\s+and|,)?[\s-]+{_MIDDLE}(?:[\s-]+(?:{_LARGE}))?)*|{_MIDDLE})"
)
# Behind a number in digits a multiplier is its own: 1/2 million.
_RUN = re.compile(rf"(?<!\d )\b(?:(?:a\s+)?half[\s-](?:a\s+)?dozen|{_WORDS})\b", re.IGNORECASE)
_PARTS = {"half": 2, "halve": 2, "third": 3, "quarter": 4} | {
    word: i for i, word in enumerate("fourth fifth sixth seventh eighth ninth tenth".split(), 4)
}
# Alone, third and those after it count: a third time, one fifth grader.
_FRACTION = re.compile(
    rf"\b(?P<above>an?|\d+|{'|'.join(_ONES)})[\s-]+(?:(?P<half>hal(?:f|ves)|quarters?)"
    rf"|(?P<part>{'|'.join(sorted(_PARTS.keys() - {'half', 'halve', 'quarter'}))})(?:s|(?=\s+of\b|\W*$)))"
    r"\b(?!\s+(?:a\s+)?dozen|-dozen|\s+past)",
    re.IGNORECASE,
)
_ALONE = re.compile(r"half(?=\W*$|\s+(?:an?|of|the)\b)(?!\s+a\s+dozen)", re.IGNORECASE)
_MIXED = re.compile(
    rf"(?<![\w.,])(?P<whole>\d{{1,3}}(?:,\d{{3}})+|\d+|{_WORDS})\s*(?:\band\b|&)\s*(?P<above>\d+)\s*/\s*(?P<below>\d+)(?![\d.])",
    re.IGNORECASE,
)


def in_digits(text: str) -> str:
    """Numbers in English words in digits, with their fractions: 1 and a half is 1 1/2. Of a text that has digits other
    words stay: "one each" is no second number."""
    in_words = not re.search(r"\d", text)
    if found := _CHINESE.fullmatch(text):
        return f"{_counted_in_chinese(found[1])}{found[2]}"
    text = _MIXED.sub(
        _mixed, _FRACTION.sub(_fraction, _ALONE.sub("1/2", text, count=1) if _ALONE.match(text) else text)
    )
    return _RUN.sub(lambda run: str(_counted(run[0].lower())), text) if in_words else text


def _fraction(found: re.Match) -> str:
    """two thirds as 2/3."""
    above = found["above"].lower()
    word = (found["half"] or found["part"]).lower()
    count = 1 if above in ("a", "an") else int(above) if above.isdigit() else _ONES[above]
    return f"{count}/{_PARTS[word.removesuffix('s')]}"


def _mixed(found: re.Match) -> str:
    """1 and 1/2 as 1 1/2; what is no part of a whole, 1 and 3/2, is a second number."""
    if int(found["above"]) >= int(found["below"]):
        return found[0]
    whole = found["whole"].replace(",", "")
    return f"{whole if whole.isdigit() else _counted(whole.lower())} {found['above']}/{found['below']}"


_CHINESE_DIGITS = {sign: i for i, sign in enumerate("零一二三四五六七八九")} | {"两": 2, "〇": 0}
_CHINESE_TENS = {"十": 10, "百": 100, "千": 1000}
# Of a whole answer, with a measure word: 三亚 is a city.
_CHINESE = re.compile(r"([零〇一二两三四五六七八九十百千万亿]+)([个人元天年岁只本支张块米次件位名辆棵头条分秒]?)")


def _counted_in_chinese(run: str) -> int:
    total = section = digit = 0
    for sign in run:
        if sign in _CHINESE_DIGITS:
            digit = 10 * digit + _CHINESE_DIGITS[sign]
        elif sign in _CHINESE_TENS:
            section, digit = section + (digit or 1) * _CHINESE_TENS[sign], 0
        else:
            total, section, digit = (total + section + digit) * (10**4 if sign == "万" else 10**8), 0, 0
    return total + section + digit


def _counted(run: str) -> int:
    if "half" in run:
        return 6
    total = group = 0
    for word in re.findall(r"[a-z]+", run):
        if word in ("a", "an"):
            group = 1
        elif word == "hundred":
            group = max(group, 1) * 100
        elif word in _MULTIPLIERS:
            total, group = total + max(group, 1) * _MULTIPLIERS[word], 0
        elif word != "and":
            group += _ONES.get(word, _DECADES.get(word, 0))
    return total + group


# --- comparison ----------------------------------------------------------------------------------


def same_quantity(gold: Quantity, given: Quantity) -> bool:
    """Whether they give one amount. A bare number has any unit; a share may be given in percent or of one."""
    if "%" in (gold.unit, given.unit) and gold.unit != given.unit:
        if gold.unit and given.unit:
            return False
        hundredth = gold.value / 100 if gold.unit else given.value / 100
        return gold.value == given.value or hundredth == (given.value if gold.unit else gold.value)
    if not gold.unit or not given.unit:
        return gold.value == given.value
    factor = units.ratio(given.unit, gold.unit)
    return factor is not None and given.value * factor == gold.value


# The unit of an hour without minutes; of "o'clock" also without its half of the day.
HOURS = ("o'clock", "uhr")
_HALVES = (
    (re.compile(r"\s+in the morning$"), " am"),
    (re.compile(r"\s+(?:in the (?:afternoon|evening)|at night)$"), " pm"),
)
_NAMED_TIMES = {"noon": 720, "midday": 720, "12 noon": 720, "midnight": 0, "12 midnight": 0}
_CLOCK = re.compile(
    r"0?(\d{1,2})(?::(\d\d)|\.(\d\d)(?=\s?[ap]\.?\s?m))?(?::00)?\s?(?:(?:o'clock\s?)?(?:([ap])\.?\s?m\.?)|(uhr|o'clock)|(?:h|hrs)\b)?",
    re.IGNORECASE,
)


def read_time(text: str) -> int | None:
    """Minutes since midnight of a time of the day, which has a colon, am and pm, or o'clock; None of another."""
    text = text.strip().lower()
    if text in _NAMED_TIMES:
        return _NAMED_TIMES[text]
    for pattern, half in _HALVES:
        text = pattern.sub(half, text)
    found = _CLOCK.fullmatch(text)
    if not found or not any(found.groups()[1:]):
        return None
    hour, minute = int(found[1]), int(found[2] or found[3] or 0)
    if found[4]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + 12 * (found[4] == "p")
    return 60 * hour + minute if hour < 24 and minute < 60 else None
