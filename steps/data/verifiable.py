"""What of a record says whether a response is right: its answer, the constraint of its instruction."""

import contextlib
import json
import re
from decimal import Decimal
from typing import Any

from steps.data.readers import parse
from steps.data.rows import RowProblem
from steps.data.values import check_unicode, from_text, is_blank, missing, plain, text_of, wrong_type
from steps.judges.instructions import CHECKS
from steps.judges.programs import is_assert, is_tests
from steps.judges.reading import Read, last_boxes, worked_answer

# Words of a response that a constraint may ask for: far more than any response has.
MAX_CHECK_COUNT = 10_000
# JSON, and no interval.
_LIST_OF_TEXTS = re.compile(r'\s*\[\s*"')


def final_answer(response: str) -> str | None:
    r"""`reading.worked_answer`, if its "####" is on the last line: a Markdown heading of level four is no answer. Of a
    response without one, what its \boxed holds, if that is one answer."""
    if "####" in response and "\n" not in response.rpartition("####")[2].strip():
        return worked_answer(response)
    found = last_boxes(response)
    return (str(Read(found)) or None) if len(found) == 1 else None


def answer_of(value: Any, column: str) -> str | None:
    """A verifiable answer as text, None where there is none: a judge takes separators away when it compares. Of a
    worked solution, as GSM8K's `answer` is one, it is what is marked in it; of the tests of a program their JSON."""
    if tests := _tests(value, column):
        return tests
    value = _single(value)
    if isinstance(value, float | Decimal):
        # Plain digits, as a person writes them.
        value = Decimal(str(value))
        if not value.is_finite():
            raise RowProblem("wrong_type", column, "must be a finite number or a text", f"found {value}")
        value = f"{value:f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif not isinstance(value, str | None):
        raise wrong_type(column, "a text or a number", value)
    if value is None or is_blank(value):
        return None
    check_unicode(value, column)
    return final_answer(value) or value.strip()


def _tests(value: Any, column: str) -> str | None:
    """The tests of a program as text; None where there are none."""
    if not isinstance(value, str):
        return json.dumps(plain(value, column), ensure_ascii=False) if is_tests(value) else None
    found = None
    if value.lstrip().startswith(("{", "[")):
        with contextlib.suppress(ValueError, RecursionError):
            found = parse(value)
    if not is_tests(found) and not is_assert(value):
        return None
    check_unicode(value, column)
    return value.strip()


def _single(value: Any) -> Any:
    """The one answer of a list, which may be the JSON text of one: ["42"] is 42, [42] an interval without an end."""
    found = value
    if isinstance(value, str) and _LIST_OF_TEXTS.match(value):
        with contextlib.suppress(ValueError, RecursionError):
            found = parse(value)
    return found[0] if isinstance(found, list) and len(found) == 1 else value


def check_of(value: Any, column: str) -> dict | None:
    """The constraint of an instruction with the fields of its kind, None where there is none."""
    value = from_text(value, column, "an object")
    if value is None:
        return None
    if not isinstance(value, dict):
        raise wrong_type(column, "an object, or the JSON text of one", value)
    of = value.get("kind")
    if of is None:
        raise missing(f"{column}.kind")
    if not isinstance(of, str):
        raise wrong_type(f"{column}.kind", "a string", of)
    if of not in CHECKS:
        hint = f"use one of {', '.join(CHECKS)}, or remove the constraint"
        raise RowProblem("unknown_check", f"{column}.kind", hint, f"found {of!r}")
    found = {name: _check_field(value.get(name), f"{column}.{name}") for name in CHECKS[of].fields}
    if "most" in found and found["least"] > found["most"]:  # type: ignore[operator]
        raise RowProblem("wrong_type", f"{column}.most", "must be `least` or more", f"found {found['most']}")
    return {"kind": of} | found


def _check_field(value: Any, column: str) -> str | int | list[str] | list[dict]:
    name = column.rpartition(".")[2]
    if value is None:
        raise missing(column)
    if name in ("times", "count", "least", "most"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise wrong_type(column, "a whole number", value)
        if not 1 <= value <= MAX_CHECK_COUNT:
            raise RowProblem("wrong_type", column, f"must be from 1 to {MAX_CHECK_COUNT}", f"found {value}")
        return value
    if name == "checks":
        if not isinstance(value, list) or not value:
            raise wrong_type(column, "a list of constraints", value)
        return [_part(one, f"{column}[{i}]") for i, one in enumerate(value)]
    if name == "words":
        if not isinstance(value, list) or not value:
            raise wrong_type(column, "a list of words", value)
        return [text_of(word, f"{column}[{i}]") for i, word in enumerate(value)]
    return text_of(value, column)


def _part(value: Any, column: str) -> dict:
    """One of several constraints, which has no parts itself."""
    if not isinstance(value, dict):
        raise wrong_type(column, "an object", value)
    if value.get("kind") == "all":
        hint = "write its constraints beside the others"
        raise RowProblem("unknown_check", f"{column}.kind", hint, "constraints within constraints")
    found = check_of(value, column)
    assert found
    return found
