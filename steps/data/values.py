"""Values of a raw record: texts, flags, values of JSON; what is wrong with one quarantines its row."""

import math
import re
from decimal import Decimal
from typing import Any

from steps.data.readers import parse
from steps.data.rows import RowProblem
from steps.settings.formats import FALSE, TRUE

# White space that `str.strip` does not know.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"
# Names of fields that are remembered, of a file in which every record has others.
MOST_NAMES = 10_000
# Objects within objects of what a tool takes: what JSON is written by refuses far more.
MOST_NESTED = 64


def missing(column: str) -> RowProblem:
    return RowProblem("missing_field", column, "add the field, or name the right one under `columns:` of the source")


def wrong_type(column: str, wanted: str, value: Any) -> RowProblem:
    return RowProblem("wrong_type", column, f"must be {wanted}", f"found {kind(value)}")


def kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return names.get(type(value), f"a {type(value).__name__}")


def is_plain(text: str) -> bool:
    """Whether a text needs no further look: it begins with a visible character, and has no half of a surrogate pair and
    no tag of reasoning."""
    first = text[:1]
    return ("!" <= first <= "~" or first.isalnum()) and "think>" not in text and (text.isascii() or _is_unicode(text))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_blank(text: str) -> bool:
    return not text or text.isspace() or not text.strip().strip(_INVISIBLE).strip()


def text_of(value: Any, column: str) -> str:
    """A text with a visible character."""
    if value is None:
        raise missing(column)
    if not isinstance(value, str):
        raise wrong_type(column, "a string", value)
    if is_blank(value):
        detail = f"{len(value)} blank characters"
        raise RowProblem("empty_turn", column, "fill in the text, or remove the record", detail)
    check_unicode(value, column)
    return value


def optional_text(value: Any, column: str) -> str:
    """A text, "" where it is null or blank."""
    if value is not None and not isinstance(value, str):
        raise wrong_type(column, "a string or nothing", value)
    if value is None or is_blank(value):
        return ""
    check_unicode(value, column)
    return value


def check_unicode(text: str, column: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        hint = "replace the half of a surrogate pair (an escape such as \\ud83d that stands alone)"
        detail = f"U+{ord(text[error.start]):04X} at character {error.start + 1}"
        raise RowProblem("invalid_utf8", column, hint, detail) from None


def from_text(value: Any, column: str, wanted: str) -> Any:
    """A value, of a text what its JSON says; None of a blank one."""
    if not isinstance(value, str):
        return value
    if is_blank(value):
        return None
    try:
        return parse(value)
    except (ValueError, RecursionError) as error:
        raise RowProblem("invalid_json", column, f"must be {wanted}, or the JSON text of one", str(error)) from None


def plain(value: Any, column: str, depth: int = MOST_NESTED) -> Any:
    """A value of JSON that can be written as it was read."""
    if isinstance(value, str):
        check_unicode(value, column)
    elif isinstance(value, dict) and depth:
        for key, inner in value.items():
            check_unicode(key, column)
            plain(inner, column, depth - 1)
    elif isinstance(value, list) and depth:
        for inner in value:
            plain(inner, column, depth - 1)
    elif isinstance(value, dict | list):
        raise RowProblem("wrong_type", column, f"must be nested less than {MOST_NESTED} deep", "nested too deeply")
    elif not (
        value is None
        or isinstance(value, bool)
        or (isinstance(value, int) and -(2**63) <= value < 2**64)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        raise wrong_type(column, "made of texts, finite numbers of 64 bits, lists and objects", value)
    return value


def flag(value: Any, column: str) -> bool | None:
    """What 1 or true, 0 or false says; None where there is nothing.

    Raises:
        RowProblem: unsupported_weight: it is another number.
    """
    if value is None or value == "":
        return None
    number = isinstance(value, bool | int | float | str | Decimal)
    if number and value in TRUE:
        return True
    if number and value in FALSE:
        return False
    raise RowProblem(
        "unsupported_weight", column, "write 1 or 0: rows and turns are trained on or not", f"found {value!r}"
    )


def unsupported(column: str) -> RowProblem:
    name = column.rpartition(".")[2]
    hint = f"it changes what the row means, and is not supported: take it out, or list {name} under `ignore:`"
    return RowProblem("unsupported_field", column, hint)


# What a template has between turns, and the two that begin with a sentence: Alpaca's and Vicuna's.
_MARKS = re.compile(
    r"<[^<>\n]*>|\[/?[A-Z]+\]|\n|\b(?:user|human|assistant|gpt|bot|system|instruction|input|output|response|question|answer)"
    r"[ \t]*:",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"#.*|.*:|[\W_]*|(?:user|assistant|system)|Below is an instruction\b.*|A chat between a curious .*"
)


def is_written(text: str, said: list[str]) -> bool:
    """Whether a text is these turns as a template writes them: each line of theirs, and beside them only marks."""
    lines = {line.strip() for turn in said for line in turn.split("\n")}
    # A line may have a mark of its own ("Answer: 4").
    parts = {part.strip() for way in (text.split("\n"), _MARKS.split(text)) for part in way}
    rest = {part.strip() for line in text.split("\n") if line.strip() not in lines for part in _MARKS.split(line)}
    return lines <= parts and all(part in lines or _HEADING.fullmatch(part) for part in rest)


def check_shown(messages: list[dict], beside: list[tuple[str, Any]]) -> None:
    """Refuse a field of what is asked, unless the turns show it, or it is them as a template writes them.

    Raises:
        RowProblem: unsupported_field.
    """
    said = [turn["content"].strip() for turn in messages]
    asked = "\n".join(text for turn, text in zip(messages, said, strict=True) if turn["role"] in ("user", "system"))
    for name, value in beside:
        if isinstance(value, str):
            is_shown = value.strip() in asked or is_written(value, said)
        else:
            turns = value if isinstance(value, list) else [value]
            texts = [turn.get("content", turn.get("value")) if isinstance(turn, dict) else None for turn in turns]
            is_shown = all(isinstance(text, str) and any(text.strip() in own for own in said) for text in texts)
        if not is_shown:
            raise unsupported(name)
