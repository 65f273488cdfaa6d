r"""What an answer of mathematics is made of: a list, a set, a tuple or interval, a union, a relation, a matrix; and
whether two of them say the same, where their smallest parts can be compared.

Brackets, order and how many there are count: (3, 5) is neither [3, 5] nor (5, 3), and 3, 3 is no answer to ±3. What is
written in other words is the same: x > 3 and (3, ∞), x = 2 or x = 5 and {2, 5}.
"""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple

from steps.judges.arithmetic import evaluate
from steps.judges.canonical import plain

Same = Callable[[str, str], bool]


class Shape(NamedTuple):
    """One answer, taken apart.

    Attributes:
        kind: scalar, list, set, bracket (a tuple or an interval), union, relation or matrix.
        parts: of a relation its sides with the signs between them, of a matrix its rows, of a scalar its text.
        brackets: of a bracket, such as "[)"; of a matrix "" or, where it stands for its determinant, what is before it
            and a bar.
    """

    kind: str
    parts: tuple
    brackets: str = ""


_EMPTY = re.compile(r"\\emptyset|\\\{\s*\\\}|\{\s*\}|no (?:real )?solutions?", re.IGNORECASE)
# All real numbers, as what x is an element of.
_REALS = re.compile(r"(?:\\mathbb|\\text)\s*\{?\s*R\s*\}?|ℝ|all (?:the )?real numbers?|all reals", re.IGNORECASE)
# ... and what it is not.
_REALS_BUT = re.compile(
    rf"(?:{_REALS.pattern}|R(?=\s*(?:∖|\\setminus)))\s*"
    r"(?:\\setminus|\\backslash|\\smallsetminus|∖|\\|[-−]|except(?: for)?)\s*"
    r"(?:\\?\{([^{}]+)\}|(-?[\d./]+))",
    re.IGNORECASE,
)
_MATRIX = re.compile(
    r"([^&]*?)\s*\\begin\{([pbvBV]?(?:small)?matrix|array)\}(?:\{[lcr|]+\})?(.*)\\end\{\2\}", re.DOTALL
)
_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv)(?![A-Za-z])|[=<>]=?")
_APPROXIMATELY, _DECIMAL = re.compile(r"\\approx(?![A-Za-z])|≈"), re.compile(r"-?\d*\.\d+")
# Of a matrix: a number, without a relation, a list or a matrix.
_FACTOR = re.compile(r"(?:[-\d./\s()]|\\(?:frac|sqrt|cdot)(?![A-Za-z])|[{}])*")
_LISTED = re.compile(r"[,;]|\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_CUP = re.compile(r"\\cup(?![A-Za-z])")
# A symbol, as what is solved for: x, x_1, \theta, f(x), AB.
_NAME = re.compile(
    r"(?:\\[A-Za-z]+|[A-Za-z]{1,3}'*)(?:_\{?\w+\}?)?(?:\s*\([^()=<>]*\))?|\|[A-Za-z]{1,3}\||\\(?:angle|text)\s*\{?\w+\}?"
)
_VARIABLE = re.compile(r"\\(?:alpha|beta|gamma|theta|phi|lambda|mu)|[a-zA-Z](?:_\{?\w+\}?)?")
# {x | x > 3}: what follows says which.
_BUILT = re.compile(r"\s*[a-zA-Z](?:\s*\\in\s*\\mathbb\s*\{?R\}?)?\s*(?::|\\mid|\\vert|\|)")


def shape_of(text: str) -> Shape:
    """An answer as `latex.tidy` writes it, taken apart."""
    text = text.strip().rstrip(".;,").strip()
    if _EMPTY.fullmatch(text):
        return Shape("set", ())
    if _REALS.fullmatch(text):
        return Shape("bracket", (Shape("scalar", (r"-\infty",)), Shape("scalar", (r"\infty",))), "()")
    if found := _REALS_BUT.fullmatch(re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)):
        points = [evaluate(plain(point)) for point in (found[1] or found[2]).rstrip("\\").split(",")]
        if None not in points:
            return _without(points)  # type: ignore[arg-type]
    if (found := _MATRIX.fullmatch(text)) and _FACTOR.fullmatch(found[1]):
        rows = [row for row in re.split(r"\\\\", found[3]) if row.strip()]
        # A number before a matrix is of each of its cells.
        factor = "-1" if found[1] == "-" else found[1]
        times, closing = (f"({factor})(", ")") if factor else ("", "")
        cells = tuple(tuple(times + cell.strip() + closing for cell in row.split("&")) for row in rows)
        return Shape("matrix", cells, f"{factor}|" if found[2][0] in "vV" else "")
    text = _exact(text)
    for sign, kind in ((_LISTED, "list"), (_CUP, "union")):
        parts = split(text, sign)
        if len(parts) > 1 and all(parts):
            return _listed(kind, parts)
    signs = _outside(text, _RELATION)
    if signs:
        return _related(text, signs)
    inner = _within(text)
    if inner is not None:
        opening, body, closing = inner
        parts = split(body, _LISTED, whole=False)
        if opening in (r"\{", "{") and (built := _BUILT.match(body)):
            return shape_of(body[built.end() :])
        if opening in (r"\{", "{"):
            return Shape("set", tuple(map(shape_of, parts)))
        if len(parts) > 1:
            return Shape("bracket", tuple(map(shape_of, parts)), opening + closing)
        if opening + closing == "()":
            return shape_of(body)
    if r"\pm" in text and text.count(r"\pm") == 1:
        before, after = text.split(r"\pm")
        both = (f"{before}{sign if before.strip() or sign == '-' else ''}{after}" for sign in "+-")
        return Shape("list", tuple(Shape("scalar", (one.strip(),)) for one in both))
    return Shape("scalar", (text,))


def _exact(text: str) -> str:
    """Of 2\\sqrt{3} \\approx 3.46 the side that is meant; x \\approx 3.46 stays."""
    parts = split(text, _APPROXIMATELY)
    before = parts[0].rpartition("=")[2].strip()
    return parts[0] if len(parts) == 2 and not _NAME.fullmatch(before) and _DECIMAL.match(parts[1]) else text


def _listed(kind: str, parts: list[str]) -> Shape:
    shapes = tuple(map(shape_of, parts))
    if kind == "union" or all(_interval(one) is not None and one.kind == "relation" for one in shapes):
        return Shape("union", shapes)
    flat: list[Shape] = []
    for one in shapes:
        value = valued(one)
        flat += value.parts if value.kind == "list" else [one]
    return Shape("list", tuple(flat))


def _related(text: str, signs: list[re.Match]) -> Shape:
    parts, place = [], 0
    for sign in signs:
        parts += [text[place : sign.start()].strip(), sign[0].replace(r"\approx", "=").replace("==", "=")]
        place = sign.end()
    return Shape("relation", (*parts, text[place:].strip()))


# --- taking apart --------------------------------------------------------------------------------

_OPEN, _CLOSE = "([{", ")]}"
_GROUP = re.compile(r"(?<![\d,])\d{1,3}(?:,\d{3})+(?!,?\d)")


def _outside(text: str, sign: re.Pattern, whole: bool = True) -> list[re.Match]:
    """Where a sign stands outside of all brackets and, with `whole`, divides no thousands."""
    depths, depth, at = [], 0, 0
    while at < len(text):
        step = 2 if text[at] == "\\" and text[at + 1 : at + 2] in ("{", "}") else 1
        own = text[at : at + step][-1]
        depth += (own in _OPEN) - (own in _CLOSE)
        depths += [depth] * step
        at += step
    groups = [found.span() for found in _GROUP.finditer(text)] if whole else []
    return [
        found
        for found in sign.finditer(text)
        if not depths[found.start()] and not any(begin < found.start() < end for begin, end in groups)
    ]


def split(text: str, sign: re.Pattern, whole: bool = True) -> list[str]:
    """Its parts between the signs that stand outside of all brackets; an empty one beside `and` is none."""
    parts, place = [], 0
    for found in _outside(text, sign, whole):
        parts.append(text[place : found.start()].strip())
        place = found.end()
    parts.append(text[place:].strip())
    return [part for part in parts if part] if len(parts) > 2 else parts


def _within(text: str) -> tuple[str, str, str] | None:
    """(opening, what is inside, closing) where one pair of brackets holds the whole text; ] may open and [ close."""
    found = re.fullmatch(r"(\\\{|[(\[{])(.*?)(\\\}|[)\]}])", text, re.DOTALL)
    if not found:
        return None
    depth = 0
    for own in re.findall(r"\\?[(){}\[\]]", text)[:-1]:
        depth += (own[-1] in _OPEN) - (own[-1] in _CLOSE)
        if depth <= 0:
            return None
    return found[1], found[2], found[3]


# --- what a relation says ------------------------------------------------------------------------


# 2x = 10 says something of x, and not what it is; m + n = 10 says what was asked for.
_LINEAR = re.compile(r"-.*|[-+]?\d*\s*\*?\s*[A-Za-z]\s*(?:[-+]\s*\d+)?")


def valued(shape: Shape, gold: bool = False) -> Shape:
    """Of x = 5 and x ∈ [0, 1) what x is; of another shape itself. What is no truth, 41 = 42, stays a relation, as does
    of a `gold` one what is no symbol's value: x + y = 5."""
    if shape.kind != "relation" or {*shape.parts[1::2]} - {"=", r"\in"}:
        return shape
    sides = shape.parts[::2]
    if r"\in" in shape.parts:
        return shape_of(sides[1]) if len(sides) == 2 and _VARIABLE.fullmatch(sides[0]) else shape
    if _NAME.fullmatch(sides[-1]) and not _NAME.fullmatch(sides[0]) and not re.search("[A-Za-z]", sides[0]):
        sides = sides[::-1]
    first = sides[0]
    named = _NAME.fullmatch(first) or _tuple_of_names(first)
    values = [evaluate(plain(side)) for side in sides]
    known = [value for value in values if value is not None]
    if len({*known}) > 1:
        return shape
    literal = values[-1] is not None and not gold
    told = len(known) == len(sides) or (re.search(r"[A-Za-z]", first) and not _LINEAR.fullmatch(first))
    return shape_of(sides[-1]) if named or (literal and told) else shape


def _tuple_of_names(text: str) -> bool:
    inner = _within(text)
    return inner is not None and all(_NAME.fullmatch(part) for part in split(inner[1], _LISTED, whole=False))


def name_of(shape: Shape) -> str:
    """The symbol that a relation is of: x of x = 5; "" where it is of none."""
    first = shape.parts[0] if shape.kind == "relation" else ""
    return first if isinstance(first, str) and _VARIABLE.fullmatch(first) else ""


def _interval(shape: Shape) -> Shape | None:
    """An inequality of one symbol as the interval that it means; None of another shape."""
    if shape.kind == "bracket" and len(shape.parts) == 2:
        return shape
    if shape.kind != "relation":
        return None
    parts = list(shape.parts)
    signs = parts[1::2]
    if any(sign not in ("<", ">", r"\le", r"\ge", "<=", ">=") for sign in signs):
        return None
    if all(sign in (">", r"\ge", ">=") for sign in signs):
        flip = {">": "<", r"\ge": r"\le", ">=": r"\le"}
        parts = [flip.get(part, part) for part in parts[::-1]]
    signs = [sign.replace("<=", r"\le") for sign in parts[1::2]]
    if any(sign not in ("<", r"\le") for sign in signs):
        return None
    sides = parts[::2]
    names = [i for i, side in enumerate(sides) if _VARIABLE.fullmatch(side)]
    if len(names) != 1 or len(sides) > 3 or (len(sides) == 3 and names != [1]):
        return None
    below, above = sides[: names[0]], sides[names[0] + 1 :]
    opening = "[" if below and signs[0] == r"\le" else "("
    closing = "]" if above and signs[-1] == r"\le" else ")"
    ends = [(below or [r"-\infty"])[0], (above or [r"\infty"])[0]]
    return Shape("bracket", tuple(Shape("scalar", (end,)) for end in ends), opening + closing)


def _between(low: str, high: str, brackets: str) -> Shape:
    return Shape("bracket", (Shape("scalar", (low,)), Shape("scalar", (high,))), brackets)


def _written(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    one, other = abs(value.numerator), value.denominator
    return f"{sign}{one}" if other == 1 else rf"{sign}\frac{{{one}}}{{{other}}}"


def _without(points: list[Fraction]) -> Shape:
    """All real numbers but these."""
    ends = [r"-\infty", *map(_written, sorted({*points})), r"\infty"]
    return Shape("union", tuple(_between(low, high, "()") for low, high in pairwise(ends)))


_DISTANCE = re.compile(
    rf"(?:\||\\[lr]?vert)\s*(?:{_VARIABLE.pattern})\s*(?:([-+])\s*([^|]*?))?\s*(?:\||\\[lr]?vert)", re.DOTALL
)


def _solved(shape: Shape) -> Shape | None:
    """Of |x - 1| > 2 and x ≠ 3, with literal numbers, where x may lie; None of another shape."""
    if shape.kind != "relation" or len(shape.parts) != 3:
        return None
    left, sign, right = shape.parts
    if evaluate(plain(left)) is not None:
        left, sign, right = right, FLIPPED.get(sign, sign), left
    limit = evaluate(plain(right))
    if limit is None:
        return None
    if sign == r"\ne":
        return _without([limit]) if _VARIABLE.fullmatch(left) else None
    found = _DISTANCE.fullmatch(left)
    sign = {"<=": r"\le", ">=": r"\ge"}.get(sign, sign)
    if not found or sign not in FLIPPED or limit <= 0:
        return None
    moved = evaluate(plain(found[2])) if found[1] else Fraction(0)
    if moved is None:
        return None
    middle = moved if found[1] == "-" else -moved
    low, high = _written(middle - limit), _written(middle + limit)
    if sign in ("<", r"\le"):
        return _between(low, high, "()" if sign == "<" else "[]")
    closing, opening = (")", "(") if sign == ">" else ("]", "[")
    return Shape("union", (_between(r"-\infty", low, f"({closing}"), _between(high, r"\infty", f"{opening})")))


# --- comparison ----------------------------------------------------------------------------------

# Signs of inequalities, turned round.
FLIPPED = {"<": ">", ">": "<", r"\le": r"\ge", r"\ge": r"\le"}


def same_shape(gold: Shape, given: Shape, same: Same) -> bool:
    """Whether two answers say the same; `same` compares two scalars, or two relations as texts."""
    if _alike(gold, given, same):
        return True
    solved = _solved(gold), _solved(given)
    return any(solved) and _alike(solved[0] or gold, solved[1] or given, same)


def _alike(gold: Shape, given: Shape, same: Same) -> bool:
    if gold.kind == "relation" and given.kind == "relation":
        one, other = name_of(gold), name_of(given)
        if {*gold.parts[1::2]} == {*given.parts[1::2]} == {"="}:
            literal = evaluate(plain(gold.parts[-1])) is not None
            if one and other and one != other and literal:
                return False
            if valued(gold, gold=True) is gold or (one != other and not literal):
                return _same_relation(gold, given, same)
        if valued(gold) or valued(given) is given:
            intervals = _interval(gold), _interval(valued(given))
            if None not in intervals:
                return same_shape(*intervals, same)  # type: ignore[arg-type]
            return _same_relation(gold, given, same)
    gold, given = valued(gold, gold=True), valued(given)
    if gold.kind in ("relation", "bracket") and given.kind in ("relation", "bracket") and gold.kind != given.kind:
        one_interval, other_interval = _interval(gold), _interval(given)
        return bool(one_interval and other_interval and same_shape(one_interval, other_interval, same))
    if gold.kind == "relation" or given.kind == "relation":
        return False
    if gold.kind in ("list", "set") and given.kind in ("list", "set"):
        return matched(gold.parts, given.parts, same)
    if gold.kind == "bracket" and given.kind == "list":
        # Two numbers without brackets may be an interval's ends as well as a point.
        told = len(given.parts) > 2 or all(part.kind == "relation" for part in given.parts)
        return (
            told
            and gold.brackets == "()"
            and len(gold.parts) == len(given.parts)
            and all(same_shape(one, other, same) for one, other in zip(gold.parts, given.parts, strict=True))
        )
    if gold.kind != given.kind:
        single = gold.kind in ("list", "set") and len(gold.parts) == 1
        return single and gold.kind == "set" and same_shape(gold.parts[0], given, same)
    if gold.kind == "scalar":
        return same(gold.parts[0], given.parts[0])
    if gold.kind == "matrix":
        alike = gold.brackets == given.brackets and [*map(len, gold.parts)] == [*map(len, given.parts)]
        return alike and all(
            same_shape(shape_of(one), shape_of(other), same)
            for own, others in zip(gold.parts, given.parts, strict=True)
            for one, other in zip(own, others, strict=True)
        )
    if gold.kind == "union":
        own, others = ([_interval(part) or part for part in shape.parts] for shape in (gold, given))
        return matched(tuple(own), tuple(others), same)
    return (
        gold.brackets == given.brackets
        and len(gold.parts) == len(given.parts)
        and all(same_shape(one, other, same) for one, other in zip(gold.parts, given.parts, strict=True))
    )


def matched(gold: tuple, given: tuple, same: Same) -> bool:
    """Whether each part of the one has a part of its own in the other."""
    left = list(given)
    if len(gold) != len(given):
        return False
    for one in gold:
        place = next((i for i, other in enumerate(left) if same_shape(one, other, same)), None)
        if place is None:
            return False
        del left[place]
    return True


def _same_relation(gold: Shape, given: Shape, same: Same) -> bool:
    """Two equations, or two inequalities, of three parts each; an inequality may be turned round."""
    if len(gold.parts) != 3 or len(given.parts) != 3:
        return gold.parts[1::2] == given.parts[1::2] and len(gold.parts) == len(given.parts) and all(
            same(one, other) for one, other in zip(gold.parts[::2], given.parts[::2], strict=True)
        )  # fmt: skip
    if gold.parts[1] == given.parts[1] == "=":
        return same("=".join(gold.parts[::2]), "=".join(given.parts[::2]))
    left, sign, right = given.parts
    turned = (right, FLIPPED.get(sign, sign), left)
    return any(
        gold.parts[1] == way[1] and same(gold.parts[0], way[0]) and same(gold.parts[2], way[2])
        for way in (given.parts, turned)
    )
