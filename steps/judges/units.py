"""Units as people write them: one symbol for each spelling, and what the common ones are of each other."""

import re
from fractions import Fraction
from itertools import zip_longest

SPELLED = {
    "%": "percent pct percents",
    "°": "degree degrees deg 度",
    "°C": "°c celsius °celsius degreescelsius degreecelsius 摄氏度",
    "°F": "°f fahrenheit °fahrenheit degreesfahrenheit degreefahrenheit 华氏度",
    "km": "km kilometer kilometers kilometre kilometres kms 公里 千米",
    "m": "meter meters metre metres 米",
    "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "mm": "millimeter millimeters millimetre millimetres 毫米",
    "kg": "kg kilogram kilograms kilogramme kilogrammes kgs 公斤 千克",
    "g": "gram grams gramme grammes 克",
    "mg": "milligram milligrams 毫克",
    "L": "l liter liters litre litres 升",
    "mL": "ml milliliter milliliters millilitre millilitres 毫升",
    "h": "hour hours hr hrs 小时",
    "min": "minute minutes mins 分钟",
    "s": "second seconds sec secs 秒",
    "": "$ dollar dollars usd 美元",
    "€": "euro euros eur 欧元",
}
SYMBOLS = {spelling: symbol for symbol, spelled in SPELLED.items() for spelling in spelled.split()}

# What answers give besides, and votes leave apart; in small letters, of one number.
_MORE = {
    "ft": "foot feet ft", "in": "inch inches", "yd": "yard yd", "mile": "mile mi", "g": "gm", "lb": "pound lb lbs",
    "oz": "ounce oz", "day": "day 天", "week": "week wk", "month": "month", "year": "year yr 年", "cent": "cent ¢",
    "£": "gbp", "¥": "yen yuan 元 円 rmb cny", "₹": "rupee rs inr", "t": "tonne", "rad": "radian rad",
    "mile/h": "mph", "km/h": "kph kmh", "unit": "unit", "N": "newton", "J": "joule", "W": "watt", "V": "volt",
    "K": "kelvin", "Hz": "hertz hz", "Pa": "pascal", "$": "dollar usd buck 美元 us$",
}  # fmt: skip
_SYMBOL = {word: symbol for symbol, spelled in _MORE.items() for word in spelled.split()}
CURRENCIES = "$€£¥₹"
# Words of at most two letters that may stand behind a number: of other such words it is the product with a symbol.
SHORT = frozenset(
    "km m cm mm kg g mg L l mL ml h s ft in yd mi lb oz gm wk yr t N J W V K"
    " Hz hz Pa hr rs kW MW GB MB KB TB ha dB pm am".split()
)
_SCALES = {
    "length": {"mm": 1, "cm": 10, "m": 1000, "km": 10**6},
    "length, imperial": {"in": 1, "ft": 12, "yd": 36, "mile": 63360},
    "mass": {"mg": 1, "g": 1000, "kg": 10**6, "t": 10**9},
    "mass, imperial": {"oz": 1, "lb": 16},
    "volume": {"mL": 1, "L": 1000},
    "time": {"s": 1, "min": 60, "h": 3600, "day": 86400, "week": 604800},
    "money": {"cent": 1, "$": 100},
}
_OF = {unit: (kind, Fraction(size)) for kind, units in _SCALES.items() for unit, size in units.items()}
# They say how much is meant of it, and not what it is.
_FILLING = frozenset(
    "a an the of total all together altogether each left remaining more per_se now only exactly away long old tall"
    " high wide deep later ago extra additional away.".split()
)
# Between them and a number, "in" is an inch: 6 in wide, but 6 in total.
_SIZES = frozenset("long wide tall high deep thick".split())
_POWER = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}


# m s^-1 is m/s.
_BELOW = re.compile(r"\s*([^\W\d_]+)\s*\^\s*\(?-(\d)\)?")


def unit_of(text: str) -> str:
    """What stands behind a number as one spelling: `km^2`, `mile/h`, `green apple`; "" where it is no unit."""
    text = text.replace("**", "^").replace("*", " ").strip(" .,;:!-")
    text = re.sub(r"\s*/\s*|\s+per\s+|^per\s+|\s+an?\s+(?=hour|minute|second|day|week|month|year)", "/", text)
    text = _BELOW.sub(r"/\1^\2", text)
    return "/".join(_product(part) for part in text.split("/")).removesuffix("/")


def _product(text: str) -> str:
    words, power, found = re.sub(r"\^\s*\(?(\d)\)?", r"^\1 ", text).split(), 1, []
    for word, following in zip_longest(words, words[1:], fillvalue="long"):
        bare, _, own = word.strip(".,;:!()").partition("^")
        if bare.lower() == "in" and not own and following not in _SIZES:
            continue
        if bare.lower().rstrip(".") in _POWER:
            power = _POWER[bare.lower().rstrip(".")]
        elif bare and bare.lower() not in _FILLING:
            exponent = int(own) if own.isdigit() else power
            found.append(symbol_of(bare) + (f"^{exponent}" if exponent > 1 else ""))
            power = 1
        elif word in ("squared", "cubed") and found:
            found[-1] += "^2" if word == "squared" else "^3"
    kept = [unit for unit in found if unit.partition("^")[0] != "unit"]
    return " ".join(kept)


def symbol_of(word: str) -> str:
    """One word's unit; of another word its singular in small letters."""
    if len(word) < 3 and word in SHORT and word.lower() not in _SYMBOL:
        return SYMBOLS.get(word.lower(), word) or "$"
    lower = word.lower()
    for form in (lower, *_singulars(lower)):
        if form in _SYMBOL:
            return _SYMBOL[form]
        if SYMBOLS.get(form):
            return SYMBOLS[form]
    return next(_singulars(lower), lower)


def _singulars(word: str):
    if word.endswith("ies") and len(word) > 4:
        yield word[:-3] + "y"
    elif word.endswith(("ches", "shes", "sses", "xes", "zes")):
        yield word[:-2]
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        yield word[:-1]


def _measured(unit: str) -> tuple[dict[str, int], Fraction] | None:
    """What a unit measures, as powers, and how much of it it is: km/h is length per time; None of an unknown one."""
    powers, size = dict[str, int](), Fraction(1)
    for below, part in enumerate(unit.split("/")):
        for factor in part.split():
            name, _, exponent = factor.partition("^")
            if name not in _OF or not (exponent or "1").isdigit():
                return None
            power = int(exponent or 1) * (-1 if below else 1)
            kind, of_one = _OF[name]
            powers[kind] = powers.get(kind, 0) + power
            size *= of_one**power
    return powers, size


def ratio(one: str, other: str) -> Fraction | None:
    """How much of the other unit one of the first is; None where they measure different things."""
    if one == other:
        return Fraction(1)
    measured, measured_other = _measured(one), _measured(other)
    if measured and measured_other and measured[0] == measured_other[0]:
        return measured[1] / measured_other[1]
    # "5 apples" and "5 green apples", but not "5 miles" and "5 miles/h".
    own, others = {*one.split()}, {*other.split()}
    words = all(re.fullmatch(r"[^\W\d_]{3,}", word) for word in own ^ others)
    return Fraction(1) if words and (own <= others or others <= own) else None
