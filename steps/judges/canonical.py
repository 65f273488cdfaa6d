r"""The form under which equal answers meet: one text for everything that says the same.

Folded is what people write differently and mean alike: width and composition of characters, wrappers (quotes, `$…$`,
\boxed, **bold**, the brackets of an option), closing marks, spaces, separators of thousands, LaTeX and plain signs of
one symbol, the spelling of a unit, the order of a date, small and capital letters of a word. What carries meaning
stays: signs, exponents, factorials, currencies, the brackets of code, and the case of symbols, units and identifiers.

Equality by a common form is an equivalence: votes, contradictions and rewards cannot disagree about it. Mathematics
beyond spelling (x + 1 = 1 + x) is for `steps/judges/mathematics.py`. latex2sympy2 has a form of LaTeX as well, but it
drops units and percent signs, and takes a second to import.
"""

import re
import unicodedata
from decimal import Decimal
from fractions import Fraction

from steps.core.text import UNSPACED
from steps.judges.units import SYMBOLS

# A longer answer is prose, of which only case and spaces are folded: it bounds the time of all that follows.
LONGEST = 500
# A number as people write it: "12,345.6" is one, "1,2,3" are three, and the minus of "5-3" is an operator. One that
# fails at its end is looked for again at each of its groups: of so many at most, and none is given back.
NUMBER = re.compile(
    r"(?<![\d.])(?:(?<![\w)])[-+])?(?:\d{1,3}(?:,\d{3}){1,100}+(?!,*\d)|\d+)(?:\.\d+)?|(?<![\d.])(?:(?<![\w)])[-+])?\.\d+"
)
_THOUSANDS = re.compile(r"(?<![\d.,(\[{])\d{1,3}(?:,\d{3})++(?!,*\d)")
CLOSING = ".,;:…。｡、，；：।॥؛،۔។"


def without_separators(text: str) -> str:
    """1,200 as 1200; behind a bracket a comma parts two numbers: (1,200)."""
    return _THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)


# --- characters ----------------------------------------------------------------------------------

_SUPERSCRIPT = re.compile("[⁰¹²³⁴-⁹⁺⁻⁽⁾ⁿ]+")
_SUBSCRIPT = re.compile("[₀-₉]+")
_CHEMICAL = re.compile(r"(?:[A-Z][a-z]?|[()₀-₉])+")
_MOLECULE = re.compile(r"(?=.*_)(?:[A-Z][a-z]?(?:_?\d+)?){2,}")
_ALIKE = str.maketrans(
    dict.fromkeys("‐‑‒–—―−", "-")
    | dict.fromkeys("‘’ʼ", "'")
    | dict.fromkeys("“”„", '"')
    | dict.fromkeys("×⋅∙·•", "*")
    | dict.fromkeys("÷∕⁄", "/")
    | dict.fromkeys("、،", ",")
    | dict.fromkeys("º˚", "°")
    | dict.fromkeys("\u200b\u2060\ufeff\u00ad", "")
)


# Behind an answer, these decorate it.
_ORNAMENTS = re.compile("(?<=[\\w.!*)])[\u2705\u2713\u2714\u2728\u2b50\U0001f300-\U0001faff\ufe0f\u200d\\s]+$")


def characters(text: str) -> str:
    """NFKC, which would make 23 of 2³, and 11/2 of 1½: exponents, indices and fractions are set apart before."""
    if text.isascii():
        return text
    text = _ORNAMENTS.sub("", text)
    text = re.sub("(?<=\\d)[\u00a0\u2009\u202f’](?=\\d{3}(?!\\d))", ",", text)
    text = re.sub("(?<=\\d)(?=[¼-¾⅐-⅞])", " ", text)
    text = _SUPERSCRIPT.sub(r"^{\g<0>}", text)
    if not _CHEMICAL.fullmatch(text):
        text = _SUBSCRIPT.sub(r"_{\g<0>}", text)
    text = unicodedata.normalize("NFKC", text.translate(_ALIKE)).translate(_ALIKE)
    return re.sub(r"[^\D0-9]", lambda digit: str(unicodedata.digit(digit[0])), text)


# --- LaTeX ---------------------------------------------------------------------------------------

_NAMES = (
    {"times": "*", "cdot": "*", "ast": "*", "div": "/", "pm": "±", "mp": "∓", "infty": "∞", "degree": "°", "circ": "°"}
    | {"le": "≤", "leq": "≤", "leqslant": "≤", "ge": "≥", "geq": "≥", "geqslant": "≥", "ne": "≠", "neq": "≠"}
    | {"lt": "<", "gt": ">", "cup": "∪", "cap": "∩", "in": "∈", "emptyset": "∅", "varnothing": "∅", "angle": "∠"}
    | {"to": "→", "rightarrow": "→", "leftrightarrow": "↔", "iff": "⇔", "implies": "⇒", "Rightarrow": "⇒"}
    | {"land": "∧", "wedge": "∧", "lor": "∨", "vee": "∨", "neg": "¬", "lnot": "¬", "forall": "∀", "exists": "∃"}
    | {"lambda": "λ", "Lambda": "Λ", "varepsilon": "ε", "varphi": "φ", "ldots": "...", "dots": "...", "cdots": "..."}
    | dict.fromkeys(("quad", "qquad"), " ")
    | dict.fromkeys(
        "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle text textbf textit textrm texttt mbox"
        " mathrm mathbf mathit mathsf mathbb mathcal operatorname boxed bf rm it limits".split(),
        "",
    )
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(\{[^{}]*\}|[^\s{}\\])\s*(\{[^{}]*\}|[^\s{}\\])")
_ROOT = re.compile(r"\\sqrt\s*(\{[^{}]*\}|[^\s{}\\\[])")
# A digit behind it is no part of it: 2^{1}0.
_SCRIPT = re.compile(r"([_^])\s*\{([^{}]*)\}(?!\d)")
_SCRIPT_BEFORE_DIGIT = re.compile(r"([_^])\s*\{([^{}]*)\}(?=\d)")
_GROUP = re.compile(r"\\(?:text(?:bf|it|rm|tt)?|mbox|math(?:rm|bf|it|sf|bb|cal)|operatorname\*?|boxed)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\([A-Za-z]+)\s*")
# Without its braces a group would go on with the command before it: \\cdot\\text{s}.
_GLUED = re.compile(r"(\\[A-Za-z]+)(?=\\(?:text|mbox|math|operatorname|boxed))")
# One symbol, number or word: a part of a formula that needs no brackets.
_SIMPLE = re.compile(r"-?(?:\d+(?:\.\d+)?|√?(?:\d+|[^\W\d_])|\\[A-Za-z]+)")


def _latex(text: str) -> str:
    """LaTeX as one would type it: \\frac{1}{2} is 1/2, \\pi is π, x^{2} is x^2."""
    text = re.sub(r"(?<!\\)(?:\\[,!;: ]|~)", " ", text.replace("{,}", ",").replace(r"\%", "%").replace(r"\$", "$"))
    # Of a mixed number, the whole part.
    text = re.sub(r"(?<=\d)(?=\\[dtc]?frac)", " ", text)
    text, before = _GLUED.sub(r"\1 ", text), None
    while before != text:
        before = text
        text = _GROUP.sub(r"\1", text)
        text = _SCRIPT.sub(_raised, text)
        text = _SCRIPT_BEFORE_DIGIT.sub(r"\1(\2)", text)
        text = _ROOT.sub(lambda found: "√" + _part(found[1]), text)
        text = _FRACTION.sub(lambda found: f"{_part(found[1])}/{_part(found[2])}", text)
    return re.sub(r"\\([{}_#&|])", r"\1", _COMMAND.sub(_symbol, text).replace("^°", "°"))


def _raised(script: re.Match) -> str:
    part = _part(script[2])
    # Its letters would go on in those behind it: ^{\\circ}C.
    return script[1] + part + (" " if part.startswith("\\") else "")


def _part(text: str) -> str:
    inner = text.removeprefix("{").removesuffix("}").strip()
    return inner if _SIMPLE.fullmatch(inner) else f"({inner})"


def _symbol(command: re.Match) -> str:
    name = command[1]
    if name in _NAMES:
        return _NAMES[name]
    size = "SMALL" if name.islower() else "CAPITAL"
    try:
        return unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}")
    except KeyError:
        return command[0]


# --- wrappers ------------------------------------------------------------------------------------

_PAIRS = (
    ("$$", "$$"), ("**", "**"), ("*", "*"), ("`", "`"), ('"', '"'), ("'", "'"), ("$", "$"), (r"\(", r"\)"),
    (r"\[", r"\]"), (r"\boxed{", "}"), ("「", "」"), ("『", "』"), ("《", "》"), ("【", "】"), ("«", "»"),
)  # fmt: skip
_QUOTES = ("'", '"', "`")
# (yes), (12) and (New York), but neither (1, 2) nor (x + 1).
_BRACKETED = re.compile(r"\(\s*([^\W\d_]{2}(?:[^\W\d_]|['\s])*|[^\W\d_]|[-+]?[\d.]+)\s*\)")
OPTION = re.compile(
    r"(?:options?|choices?|选项?|選項?)?\s*(?:[(\[]\s*([A-Za-z])\s*[)\]]|([A-Ja-j])\s*[)\]]?)", re.IGNORECASE
)


def closed(text: str) -> str:
    """A text without the marks that close a sentence; those of a text of nothing else stay. An exclamation or question
    mark closes a word, and means something behind a symbol: n!, 5!."""
    if text.endswith("..") and not text.endswith("..."):
        return text  # cd ..
    kept = text.rstrip(CLOSING + " ")
    if kept[-1:] in ("!", "?", "！", "？"):
        last = re.search(r"(?:[^\W\d_]|')+$", kept.rstrip("!?！？ ")[-LONGEST:])
        if last and (len(last[0]) > 2 or last[0].lower() in EVERYDAY or not last[0].isascii()):
            kept = kept.rstrip("!?！？ ")
    return kept or text


def unwrapped(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = closed(text.strip())
        for begin, end in _PAIRS:
            if not (text.startswith(begin) and text.endswith(end) and len(text) > len(begin) + len(end)):
                continue
            inner = text[len(begin) : len(text) - len(end)]
            # "5" in quotes is a string of code; "a" and "b" is no quotation.
            string = begin in _QUOTES and NUMBER.fullmatch(inner.strip())
            if begin not in inner and end not in inner.replace(r"\}", "") or begin == r"\boxed{":
                text = text if string else inner
                break
        if found := _BRACKETED.fullmatch(text):
            text = found[1]
    return text.strip()


# --- numbers, units, dates ------------------------------------------------------------------------

_VALUE = re.compile(r"([-+]?)(\d+(?:\.\d*)?|\.\d+)")
_POWER = re.compile(r"([-+]?[\d.]+)(?:[eE]|\*10\^\(?)([-+]?\d{1,3})\)?")
_MIXED = re.compile(r"(-?)(\d+) (\d+)/(\d+)")
_RATIO = re.compile(r"([-+]?\d+)/(-?\d+)")
_MEASURE = re.compile(r"([-+]?[$€£¥]?[-+]?(?:0|[1-9]\d*|(?=0?\.))(?:\.\d+|/\d+)?)\s*([^\d\s].*|)")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)"
)
_DATES = (
    re.compile(r"(?P<y>\d{4})(?P<sep>[-/.])(?P<m>\d{1,2})(?P=sep)(?P<d>\d{1,2})"),
    re.compile(r"(?:(?P<y>\d{4})\s?[年년]\s?)?(?P<m>\d{1,2})\s?[月월]\s?(?P<d>\d{1,2})\s?[日号號일]"),
    re.compile(rf"(?P<m>{_MONTH})\.?\s?(?P<d>\d{{1,2}})(?:st|nd|rd|th)?(?:,?\s?(?P<y>\d{{4}}))?", re.IGNORECASE),
    re.compile(
        rf"(?P<d>\d{{1,2}})(?:st|nd|rd|th|\.)?(?: of)?\s(?P<m>{_MONTH})\.?(?:,?\s(?P<y>\d{{4}}))?", re.IGNORECASE
    ),
)
_NUMERIC_DATE = re.compile(r"0?(\d{1,2})([-/.])0?(\d{1,2})\2(\d{4})")
_CLOCK = re.compile(r"0?(\d{1,2})(?:(?::00)|(:\d\d))?\s?([AaPp])\.?\s?[Mm]\.?")


def _value(text: str) -> str | None:
    """A number in plain digits or a fraction in lowest terms; None of another text.

    Exact, and as long as it is given. That 1/2 is 0.5 is mathematics, not spelling.
    """
    if found := _VALUE.fullmatch(text):
        whole, _, part = found[2].partition(".")
        digits, part = whole.lstrip("0") or "0", part.rstrip("0")
        number = digits + (f".{part}" if part else "")
        return f"-{number}" if found[1] == "-" and number != "0" else number
    if len(text) > 40:
        return None
    if (found := _POWER.fullmatch(text)) and (value := _value(found[1])):
        return _value(f"{Decimal(value).scaleb(int(found[2])):f}")
    if found := _MIXED.fullmatch(text):
        whole, above, below = (int(part) for part in found.groups()[1:])
        return str((-1 if found[1] else 1) * (whole + Fraction(above, below))) if below else None
    if found := _RATIO.fullmatch(text):
        return str(Fraction(int(found[1]), int(found[2]))) if int(found[2]) else None
    return None


def _measure(text: str) -> str | None:
    """A number with its unit, in one spelling; a currency behind its number. None of another text."""
    found = _MEASURE.fullmatch(text)
    if not found:
        return None
    sign = next((sign for sign in "$€£¥" if sign in found[1]), "")
    value, unit = _value(found[1].replace(sign, "") if sign else found[1]), found[2].strip()
    if value is None:
        return None
    unit = SYMBOLS.get(re.sub(r"\s", "", unit).lower() if len(unit) > 1 else unit, unit)
    return value + _text(unit) + sign.replace("$", "")


def _date(text: str) -> str | None:
    """Year, month and day; a day without a year is of every year. 3/4/2020 stays what it is: nobody can tell which."""
    for pattern in _DATES:
        if found := pattern.fullmatch(text):
            month, day = found["m"], int(found["d"])
            number = int(month) if month.isdigit() else _MONTHS.index(month[:3].lower()) + 1
            if number <= 12 and 1 <= day <= 31:
                return f"{found['y'] or ''}-{number:02}-{day:02}"
    if found := _NUMERIC_DATE.fullmatch(text):
        return f"{found[1]}/{found[3]}/{found[4]}"
    if found := _CLOCK.fullmatch(text):
        return f"{found[1]}{found[2] or ''}{found[3].lower()}m"
    return None


# --- words ---------------------------------------------------------------------------------------

EVERYDAY = frozenset("no ok am an as at be by do go he hi if in is it me my of oh on or so to up us we".split())
_WORD = re.compile(r"[^\W\d_]+")
_PROSE = re.compile(r"(?:[^\W\d_]|[\s,'\-&]|\.(?=\s|$))+")
_CODE = re.compile(r"\w_\w|\w[(\[]|[{}=<>\\^|]|::|->|&&")
# getUser, toString: not iPhone, which people write as they like.
_CAMEL = re.compile(r"[a-z]{2,}[A-Z]\w*")
# AaBb, aabb: the case is all that they say.
_GENOTYPE = re.compile(r"(?:([A-Za-z])(?i:\1))+")
_ACRONYM = re.compile(r"\b(?:[A-Z]\.){1,}[A-Z]\b\.?")
_UNSPACED_GAP = re.compile(rf"(?<=[{UNSPACED}])\s+|\s+(?=[{UNSPACED}])")
_LETTER = rf"[^\W\d_{UNSPACED}]"
_COMMA_OF_WORDS = re.compile(rf"(?<={_LETTER}),(?={_LETTER})|(?<={_LETTER}{{2}}),(?=\w)|(?<=\w),(?={_LETTER}{{2}})")
_SPACED_SIGN = re.compile(r"\s*([-+*/=^<>≤≥≠±∪∩∧∨→:(){}\[\]|%°&\\])\s*")
_PLAIN = {"<=": "≤", ">=": "≥", "!=": "≠", "->": "→", "**": "^"}


def _text(text: str) -> str:
    """Words without their case, where it means nothing; spaces only where they divide words."""
    text = without_separators(text)
    if any(sign in text for sign in _PLAIN):
        for plain, sign in _PLAIN.items():
            text = text.replace(plain, sign)
    text = re.sub(
        r"([√^_])\s?\(\s*(-?(?:\d+|[^\W\d_]))\s*\)(?!\d)", r"\1\2", re.sub(r"(?<![^\W\d_])sqrt\s?(?=[(\w])", "√", text)
    )
    text = _ACRONYM.sub(lambda found: found[0].replace(".", ""), text)
    code, prose = _CODE.search(text), _PROSE.fullmatch(text) and len(_WORD.findall(text)) > 1
    if not code:
        text = _WORD.sub(lambda found: _word(found[0], bool(prose)), text)
        if not prose:
            text = re.sub(r"(?<![^\W\d_])pi(?![^\W\d_])", "π", text)
    # A comma divides words as a space does, numbers and symbols as nothing else: 1,2 is not 12, and 3i,-3i not 3i-3i.
    text = re.sub(r"\s*,\s*", ",", text)
    text = _COMMA_OF_WORDS.sub(" ", text)
    text = _UNSPACED_GAP.sub("", _SPACED_SIGN.sub(r"\1", text))
    return re.sub(r"(?<=\d)\s+(?=[^\W\d_])", "", " ".join(text.split()))


def _word(word: str, prose: bool) -> str:
    """In small letters, but for a symbol (CO), a unit or formula of mixed case (mW, NaCl), a genotype and an
    identifier."""
    mixed = not (word.islower() or word.isupper() or word.istitle())
    symbol = len(word) < 3 and word.isascii() and word.lower() not in EVERYDAY
    if (symbol or (mixed and _CAMEL.fullmatch(word))) and not prose:
        return word
    return word if (mixed and len(word) < 5) or _GENOTYPE.fullmatch(word) else word.casefold()


def plain(answer: str) -> str:
    """An answer as one would type it: without wrappers and closing marks, its LaTeX as plain signs."""
    text = unwrapped(characters(re.sub(r"[ \t\r\n\f\v]+", " ", answer).strip()))
    if "\\" in text or "^{" in text or "_{" in text or "{," in text:
        text = unwrapped(_latex(text))
    return text


def canonical(answer: str) -> str:
    """The form of an answer; answers are equal where their forms are."""
    answer = re.sub(r"[ \t\r\n\f\v]+", " ", answer).strip()
    if len(answer) > LONGEST:
        value = _VALUE.fullmatch(answer.replace(",", "")) and _value(answer.replace(",", ""))
        return value or answer.casefold()
    text = plain(answer)
    if _MOLECULE.fullmatch(text):
        return text.replace("_", "")
    if found := OPTION.fullmatch(text):
        return (found[1] or found[2]).upper()
    if date := _date(text):
        return date
    text = re.sub(r"^US\$|(?<=^[-+])US\$", "$", text)
    spaceless = re.sub(r"\s*([*/^])\s*|(?<=^[-+])\s+", lambda found: found[1] or "", text)
    number = without_separators(spaceless)
    return _value(number) or _measure(number) or _text(text)


def equal(answer: str, other: str) -> bool:
    """Whether two answers have one form."""
    return canonical(answer) == canonical(other)
