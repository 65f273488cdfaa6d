r"""LaTeX of answers in one spelling: \dfrac12 and {1 \over 2} are \frac{1}{2}, √2 is \sqrt{2}, a thin space is a space.

What is left is read twice: by `canonical.plain`, as one would type it, and by Math-Verify's grammar, which refuses what
people write short.
"""

import re

from steps.judges.canonical import characters, unwrapped

_SYMBOLS = {
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "π": r"\pi ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ",
    "∈": r"\in ", "±": r"\pm ", "∅": r"\emptyset ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "√": r"\sqrt ",
    "°": r"^{\circ}", "→": r"\to ", "λ": r"\lambda ", "γ": r"\gamma ", "φ": r"\phi ", "Δ": r"\Delta ",
}  # fmt: skip
_NAMES = {
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "dfrac": "frac", "tfrac": "frac",
    "cfrac": "frac", "varnothing": "emptyset", "times": "cdot", "ast": "cdot", "lbrace": "{", "rbrace": "}",
    "degree": "circ", "dbinom": "binom", "tbinom": "binom", "lt": "<", "gt": ">", "bar": "overline", "fbox": "boxed",
    "mathbf": "text", "mathrm": "text", "textbf": "text", "textrm": "text", "textit": "text", "mathit": "text",
    "mbox": "text", "underline": "text", "operatorname": "text", "mathsf": "text", "lor": "or", "vee": "or",
    "boldsymbol": "text", "bm": "text", "mathtt": "text", "texttt": "text", "emph": "text",
    "langle": "(", "rangle": ")", "lang": "(", "rang": ")",
}  # fmt: skip
_DROPPED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|textstyle|limits|hspace\{[^{}]*\}|color(?:\[\w*\])?\{[^{}]*\}|phantom\{[^{}]*\}|quad|qquad"
    r"|tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|bfseries|rm|it|sf|tt)(?![A-Za-z])\.?"
)
# Lines that are set below each other.
_ALIGNED = re.compile(r"\\begin\{(aligned|align\*?|gathered|split)\}(.*)\\end\{\1\}", re.DOTALL)
_NAME = re.compile(r"\\([A-Za-z]+)")
# One argument of a command: a group, a command or a sign.
_ARGUMENT = r"\s*(\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|\\[A-Za-z]+|[^\s{}\\])"
# A group is there for what it begins with: {\color{red}9}.
_STYLED = re.compile(rf"\{{\s*((?:{_DROPPED.pattern})+)([^{{}}]*)\}}")
_COLOURED = re.compile(rf"\\textcolor(?:\[\w*\])?\{{[^{{}}]*\}}{_ARGUMENT}")
_FRACTION, _BINOMIAL = (re.compile(rf"\\({name}){_ARGUMENT}{_ARGUMENT}") for name in ("frac", "binom"))
_ROOT = re.compile(rf"\\sqrt(\s*\[[^\[\]]*\])?{_ARGUMENT}")
_OVER = re.compile(r"\{([^{}]+)\\(over|choose)(?![A-Za-z])([^{}]+)\}")
_GROUPED = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!\s*|\\[,!;: ]|~)(?=\d{3}(?!\d))")
_LONGEST = 4000


# Nothing of LaTeX, and no word that is a symbol: most answers.
_TYPED = re.compile(r"(?!.*(?:sqrt|pi|inf))[0-9A-Za-z .,;:$%+\-!?()]*")


def tidy(text: str) -> str:
    """An answer's LaTeX in one spelling, without wrappers, sizes and spaces that only look."""
    if _TYPED.fullmatch(text):
        return unwrapped(text)
    text = characters(text[:_LONGEST].strip())
    text = _GROUPED.sub(",", text)
    for sign, command in _SYMBOLS.items():
        text = text.replace(sign, command)
    text = re.sub(r"(?<![A-Za-z\\])(sqrt|pi|infty|infinity)(?![A-Za-z])", _command, text)
    text = _STYLED.sub(lambda found: found[2], text)
    text = _COLOURED.sub(lambda found: found[1].removeprefix("{").removesuffix("}"), text)
    if aligned := _ALIGNED.search(text):
        rows = re.split(r"\\\\", aligned[2].replace("&", " "))
        text = text[: aligned.start()] + ", ".join(row.strip() for row in rows if row.strip()) + text[aligned.end() :]
    text = _NAME.sub(_named, _DROPPED.sub(" ", text))
    text = re.sub(r"\\[,!;:]|(?<!\\)\\ |~(?!~)", " ", text).replace("{,}", ",").replace(r"\%", "%").replace(r"\$", "$")
    text = _OVER.sub(lambda found: rf"\{'frac' if found[2] == 'over' else 'binom'}{{{found[1]}}}{{{found[3]}}}", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", text)
    for pattern in (_FRACTION, _BINOMIAL):
        text = pattern.sub(lambda found: rf"\{found[1]}{_braced(found[2])}{_braced(found[3])}", text)
    # Roots in fractions, and the other way round.
    for _ in range(2):
        text = _ROOT.sub(lambda found: rf"\sqrt{(found[1] or '').strip()}{_braced(found[2])}", text)
        text = _FRACTION.sub(lambda found: rf"\frac{_braced(found[2])}{_braced(found[3])}", text)
    text = re.sub(r"\\boxed\s*\{", r"\\boxed{", text)
    before = None
    while before != text:
        before, text = text, unwrapped(re.sub(r"^\\text\s*\{([^{}]*)\}$", r"\1", text.strip()))
        text = re.sub(r"^\\(?:dis)?text\w*\s*$", "", text)
    return text


def _command(found: re.Match) -> str:
    return "\\" + found[1].replace("infinity", "infty")


def _named(found: re.Match) -> str:
    name = _NAMES.get(found[1], found[1])
    return name + " " if name in ("<", ">", "or", "(", ")") else f"\\{name}"


def _braced(argument: str) -> str:
    return argument if argument.startswith("{") else f"{{{argument}}}"


# --- for Math-Verify's grammar -------------------------------------------------------------------

# A word that no grammar knows would be read as a product of its letters.
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_FUNCTIONS = frozenset("sin cos tan cot sec csc log ln exp arcsin arccos arctan sinh cosh tanh gcd lcm max min".split())


def for_grammar(text: str) -> str | None:
    """A tidy answer as the grammar reads it; None where it holds words."""
    text = re.sub(r"(?<=[\w)}])\s*\*\*\s*|(?<=\w)\s*\^\s*\(([^()]*)\)", _power, text)
    text = re.sub(r"\\text\s*\{([A-Za-z])\}", r"\1", text)
    text = re.sub(r"_\s*(\w)", r"_{\1}", text)
    text = re.sub(r"\\log\s*_\s*\{?e\}?(?![A-Za-z])", r"\\ln ", text)
    text = _WORD.sub(lambda word: f"\\{word[0]}" if word[0] in _FUNCTIONS else word[0], text)
    if r"\text" in text or _WORD.search(text) or not text.isascii():
        return None
    text = re.sub(r"(\d*)\.(\d*)\\overline\s*\{(\d+)\}", _repeating, text)
    text = re.sub(r"(?<=\d)[eE]([-+]?\d+)", r"\\cdot 10^{\1}", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text.replace("*", r"\cdot "))
    of_angle = r"(\1\\cdot\\frac{\\pi}{180})" if _FUNCTION_OF_ANGLE.search(text) else r"\1"
    text = _DEGREES.sub(of_angle, text)
    # Two numbers side by side are no number; the grammar drops the base of one, and divides by what a colon parts.
    return None if re.search(r"\d\s+[\d.]|\d_|:", text.rstrip(".,;: ")) else text.strip().rstrip(".,;:")


_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s*(?:\{\s*\\circ\s*\}|\\circ)")
_FUNCTION_OF_ANGLE = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


def _power(found: re.Match) -> str:
    return f"^{{{found[1]}}}" if found[1] is not None else "^"


def _repeating(found: re.Match) -> str:
    from steps.judges.numbers import repeating

    value = repeating(found[1], found[2], found[3])
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
