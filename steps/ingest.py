"""Read raw rows of every accepted format, validate them, and write them in one schema.

Takes the sources of a data set, `[{"path", "format", "columns"?}, …]`: JSON arrays (.json), JSON Lines (.jsonl) and
Parquet (.parquet) in the formats alpaca, sharegpt, messages, prompt_response and preference. Writes `rows.jsonl` (kept)
and `quarantine.jsonl` (every record that could not be read or does not fit its format). No record and no byte of a
text file goes unaccounted; memory does not grow with the files. `data/README.md` documents formats and schemas.

Run as: python -m steps.ingest --settings '{"max_record_bytes": 1000000}' \
    --sources '[{"path": "train.json", "format": "alpaca"}]' --out results/mine/data/problems/ingest
"""

import argparse
import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from steps.common import Progress, fresh_folder, run, step_parser, write_manifest
from steps.readers import Record, Tally, read_array, read_lines, read_parquet
from steps.rows import Ledger, RowProblem
from steps.verify import worked_answer

# Fields of each format: the ones a record must have, then the ones it may have.
FORMATS = {
    "alpaca": (("instruction", "output"), ("input", "system", "history")),
    "sharegpt": (("conversations",), ("system",)),
    "messages": (("messages",), ("conversations", "system")),
    "prompt_response": (("prompt", "response"), ("system",)),
    "preference": (("prompt", "chosen", "rejected"), ("system",)),
}
# Fields that are read only where `columns` names them: files have columns of these names that mean something else.
NAMED = {"prompt_response": ("answer", "check")}
# The assistant's turn of the formats that have a prompt.
RESPONSES = {"prompt_response": "response", "preference": "chosen"}
# Fields of each kind of constraint that `verify.follows` checks.
CHECKS = {
    "repeat": ("word", "times"),
    "uppercase": ("words",),
    "starts_with": ("words", "first"),
    "ends_with": ("words", "last"),
    "word_count": ("words", "count"),
}
# Words of a response that a constraint may ask for: far more than any response has.
MAX_CHECK_COUNT = 10_000
SUFFIXES = (".json", ".jsonl", ".parquet")
_CHAT_ROLES = {"user": "user", "assistant": "assistant", "system": "system"}
ROLES = {"sharegpt": _CHAT_ROLES | {"human": "user", "gpt": "assistant"}, "messages": _CHAT_ROLES}
# White space that `str.strip` does not know.
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff"


# --- one record ----------------------------------------------------------------------------------


def to_messages(record: Any, form: str, columns: dict[str, str]) -> list[dict[str, str]]:
    """The turns of a raw record: an optional system turn, then user and assistant in turn, assistant last.

    Raises:
        RowProblem: missing_field, wrong_type, unknown_role, role_order, empty_turn or invalid_utf8.
    """
    if not isinstance(record, dict):
        hint = f"each record must be an object with the fields of the format {form}"
        raise RowProblem("wrong_type", "(record)", hint, f"found {_kind(record)}")
    if form in ROLES:
        messages = _chat_turns(record, form, columns)
    elif form == "alpaca":
        messages = _alpaca_turns(record, columns)
    else:
        messages = _system_turn(record, columns)
        for role, name in (("user", "prompt"), ("assistant", RESPONSES[form])):
            column = columns.get(name, name)
            messages.append({"role": role, "content": _text(record.get(column), column)})
    for i, message in enumerate(messages):
        _check_unicode(message["content"], f"turn {i + 1}")
    return messages


def to_row(record: Any, form: str, columns: dict[str, str]) -> tuple[list[dict[str, str]], str | None, dict]:
    """Messages and answer of a raw record, and what only some rows have: {"rejected": text} or {"check": object}.

    Raises:
        RowProblem: as `to_messages`; also equal_pair, invalid_json and unknown_check.
    """
    messages = to_messages(record, form, columns)
    answer, extras = final_answer(messages[-1]["content"]), {}
    if form == "preference":
        extras["rejected"] = _rejected(record, messages[-1]["content"], columns)
    if "answer" in columns:
        answer = _answer(record.get(columns["answer"]), columns["answer"]) or answer
    if "check" in columns and (check := _check(record.get(columns["check"]), columns["check"])):
        extras["check"] = check
    return messages, answer, extras


def _rejected(record: dict, chosen: str, columns: dict[str, str]) -> str:
    column = columns.get("rejected", "rejected")
    text = _text(record.get(column), column)
    _check_unicode(text, column)
    if text.strip() == chosen.strip():
        hint = "remove the record, or give it a response that is worse than the chosen one"
        raise RowProblem("equal_pair", column, hint, "both responses are the same text")
    return text


def _answer(value: Any, column: str) -> str | None:
    """A verifiable answer as text, None where there is none: `verify` takes separators away when it compares."""
    if isinstance(value, float | Decimal):
        # Plain digits: `verify` reads no exponent.
        value = Decimal(str(value))
        if not value.is_finite():
            raise RowProblem("wrong_type", column, "must be a finite number or a text", f"found {value}")
        value = f"{value:f}"
    elif isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    elif not isinstance(value, str | None):
        raise _wrong_type(column, "a text or a number", value)
    if value is None or _is_blank(value):
        return None
    _check_unicode(value, column)
    return value.strip()


def _check(value: Any, column: str) -> dict | None:
    """The constraint of an instruction with the fields of its kind, None where there is none."""
    if isinstance(value, str):
        if _is_blank(value):
            return None
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowProblem("invalid_json", column, "must be an object, or the JSON text of one", str(error)) from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise _wrong_type(column, "an object, or the JSON text of one", value)
    kind = value.get("kind")
    if kind is None:
        raise _missing(f"{column}.kind")
    if not isinstance(kind, str):
        raise _wrong_type(f"{column}.kind", "a string", kind)
    if kind not in CHECKS:
        hint = f"use one of {', '.join(CHECKS)}, or remove the constraint"
        raise RowProblem("unknown_check", f"{column}.kind", hint, f"found {kind!r}")
    return {"kind": kind} | {name: _check_field(value.get(name), f"{column}.{name}") for name in CHECKS[kind]}


def _check_field(value: Any, column: str) -> str | int | list[str]:
    name = column.rpartition(".")[2]
    if value is None:
        raise _missing(column)
    if name in ("times", "count"):
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong_type(column, "a whole number", value)
        if not 1 <= value <= MAX_CHECK_COUNT:
            raise RowProblem("wrong_type", column, f"must be from 1 to {MAX_CHECK_COUNT}", f"found {value}")
        return value
    if name == "words":
        if not isinstance(value, list) or not value:
            raise _wrong_type(column, "a list of words", value)
        return [_check_field(word, f"{column}[{i}]") for i, word in enumerate(value)]
    word = _text(value, column)
    _check_unicode(word, column)
    return word


def _alpaca_turns(record: dict, columns: dict[str, str]) -> list[dict[str, str]]:
    name = {field: columns.get(field, field) for field in ("instruction", "input", "output", "history")}
    messages = _system_turn(record, columns)
    history = record.get(name["history"])
    if not isinstance(history, list | None):
        raise _wrong_type(name["history"], "a list of [question, answer] pairs", history)
    for i, pair in enumerate(history or ()):
        if not isinstance(pair, list) or len(pair) != 2:
            raise _wrong_type(f"{name['history']}[{i}]", "a [question, answer] pair", pair)
        for j, role in enumerate(("user", "assistant")):
            messages.append({"role": role, "content": _text(pair[j], f"{name['history']}[{i}][{j}]")})
    instruction = _text(record.get(name["instruction"]), name["instruction"])
    context = _optional_text(record.get(name["input"]), name["input"])
    messages.append({"role": "user", "content": f"{instruction}\n{context}" if context else instruction})
    messages.append({"role": "assistant", "content": _text(record.get(name["output"]), name["output"])})
    return messages


def _chat_turns(record: dict, form: str, columns: dict[str, str]) -> list[dict[str, str]]:
    name = columns.get(form, form) if form == "messages" else columns.get("conversations", "conversations")
    if form == "messages" and name not in record:
        name = columns.get("conversations", "conversations") if "conversations" in record else name
    role_key, content_key = ("from", "value") if form == "sharegpt" else ("role", "content")
    turns = record.get(name)
    if turns is None:
        raise _missing(name)
    if not isinstance(turns, list):
        raise _wrong_type(name, "a list of turns", turns)
    if not turns:
        raise RowProblem("empty_turn", name, "remove the record, or give it a user and an assistant turn", "no turns")
    messages = _system_turn(record, columns)
    for i, turn in enumerate(turns):
        at = f"{name}[{i}]"
        if not isinstance(turn, dict):
            raise _wrong_type(at, f"an object with {role_key!r} and {content_key!r}", turn)
        given = turn.get(role_key)
        if given is None:
            raise _missing(f"{at}.{role_key}")
        if not isinstance(given, str):
            raise _wrong_type(f"{at}.{role_key}", "a string", given)
        role = ROLES[form].get(given)
        if role is None:
            hint = f"use one of {', '.join(ROLES[form])}, or remove the record"
            raise RowProblem("unknown_role", f"{at}.{role_key}", hint, f"found {given!r}")
        read = _optional_text if role == "system" else _text
        content = read(turn.get(content_key), f"{at}.{content_key}")
        if role == "system" and not content:
            continue
        expected = ("user", "assistant")[sum(message["role"] != "system" for message in messages) % 2]
        if role != expected and not (role == "system" and not messages):
            hint = "turns must be: at most one system turn first, then user and assistant alternating"
            raise RowProblem("role_order", f"{at}.{role_key}", hint, f"{given!r} where the {expected}'s turn is")
        messages.append({"role": role, "content": content})
    if not messages or messages[-1]["role"] != "assistant":
        at, hint = f"{name}[{len(turns) - 1}]", "add the assistant's answer, or remove the last turn"
        raise RowProblem("role_order", f"{at}.{role_key}", hint, "the last turn is not the assistant's")
    return messages


def _system_turn(record: dict, columns: dict[str, str]) -> list[dict[str, str]]:
    name = columns.get("system", "system")
    content = _optional_text(record.get(name), name)
    return [{"role": "system", "content": content}] if content else []


def _text(value: Any, column: str) -> str:
    if value is None:
        raise _missing(column)
    if not isinstance(value, str):
        raise _wrong_type(column, "a string", value)
    if _is_blank(value):
        detail = f"{len(value)} blank characters"
        raise RowProblem("empty_turn", column, "fill in the text, or remove the record", detail)
    return value


def _optional_text(value: Any, column: str) -> str:
    if value is not None and not isinstance(value, str):
        raise _wrong_type(column, "a string or nothing", value)
    return "" if value is None or _is_blank(value) else value


def _is_blank(text: str) -> bool:
    return not text or text.isspace() or not text.strip().strip(_INVISIBLE).strip()


def _check_unicode(text: str, column: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        hint = "replace the half of a surrogate pair (an escape such as \\ud83d that stands alone)"
        detail = f"U+{ord(text[error.start]):04X} at character {error.start + 1}"
        raise RowProblem("invalid_utf8", column, hint, detail) from None


def _missing(column: str) -> RowProblem:
    return RowProblem("missing_field", column, "add the field, or name the right one under `columns:` of the source")


def _wrong_type(column: str, wanted: str, value: Any) -> RowProblem:
    return RowProblem("wrong_type", column, f"must be {wanted}", f"found {_kind(value)}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")


def final_answer(response: str) -> str | None:
    """`verify.worked_answer`, if its "####" is on the last line: a Markdown heading of level four is no answer."""
    return None if "\n" in response.rpartition("####")[2].strip() else worked_answer(response)


# --- sources -------------------------------------------------------------------------------------


def check_sources(sources: list[dict]) -> None:
    """Raises: ValueError: a source that cannot be read as it is declared; names it and the fix."""
    stems: dict[str, str] = {}
    for source in sources:
        path, form = Path(source["path"]), source["format"]
        if form not in FORMATS:
            raise ValueError(f"{path}: format {form!r} is unknown; use one of {', '.join(FORMATS)}")
        if path.suffix not in SUFFIXES:
            raise ValueError(f"{path}: files must end in {', '.join(SUFFIXES)}; convert or rename it")
        fields = [*_fields(form), *NAMED.get(form, ())]
        for name in source.get("columns") or {}:
            if name not in fields:
                raise ValueError(f"{path}: columns renames {name!r}, but {form} has the fields {', '.join(fields)}")
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; correct `path` of this source in `data:`")
        if path.stem in stems:
            raise ValueError(f"{path} and {stems[path.stem]} give rows the same ids; rename one of the files")
        stems[path.stem] = str(path)
    if not sources:
        raise ValueError("the data set has no sources; list at least one file under `sources:`")


def _fields(form: str) -> list[str]:
    return [name for group in FORMATS[form] for name in group]


def read_source(source: dict, limit: int, tally: Tally) -> Iterator[Record]:
    """The records of one source; `limit` is the largest record in bytes."""
    path, columns = Path(source["path"]), source.get("columns") or {}
    fields = {columns.get(name, name) for name in _fields(source["format"])} | {*columns.values()}
    if path.suffix == ".parquet":
        yield from read_parquet(path, limit, fields)
        return
    with open(path, "rb") as file:
        yield from read_lines(file, limit, tally) if path.suffix == ".jsonl" else read_array(file, limit, tally, fields)
    size = path.stat().st_size
    assert tally.records + tally.separators == size, f"{path}: {tally} of {size} bytes"


def ingest_source(source: dict, limit: int, ledger: Ledger) -> dict[str, int]:
    """Keep or quarantine every record of one source; returns how many bytes of a text file were what.

    Raises:
        ValueError: no record has the fields of the declared format, or one that `columns` names beside them.
    """
    path, form, columns = Path(source["path"]), source["format"], source.get("columns") or {}
    never_seen = {columns[name] for name in NAMED.get(form, ()) if name in columns}
    ledger.entered[path.name] += 0  # an empty file is listed too
    progress, tally, first = Progress(f"ingest {path.name}", None, "rows"), Tally(), None
    for row, record in enumerate(read_source(source, limit, tally)):
        ledger.enter(path.name)
        where = {"id": f"{path.stem}:{row}", "file": path.name, "line": record.line, "row": row}
        try:
            if record.problem:
                raise record.problem
            if isinstance(record.value, dict):
                never_seen -= record.value.keys()
            messages, answer, extras = to_row(record.value, form, columns)
            ledger.keep({"id": where["id"], "messages": messages, "answer": answer} | where | extras)
        except RowProblem as problem:
            first = first or problem
            ledger.quarantine(where, problem, record.raw)
        if row % 1000 == 999:
            progress.update(row + 1)
    rows, missing = ledger.entered[path.name], ledger.quarantined[path.name]["missing_field"]
    if rows and missing == rows:
        raise ValueError(
            f"{path}: none of its {rows} records has the field {first.column!r};"
            " correct `format` or set `columns` of the source"
        )
    if rows and never_seen:
        raise ValueError(f"{path}: none of its {rows} records has the field {min(never_seen)!r}; correct `columns`")
    return {"records": tally.records, "separators": tally.separators} if path.suffix != ".parquet" else {}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    check_sources(args.sources)
    out = fresh_folder(args.out)
    ledger = Ledger(out, "ingest")
    spans = {
        Path(source["path"]).name: ingest_source(source, args.settings["max_record_bytes"], ledger)
        for source in args.sources
    }
    counts = ledger.close()
    if not counts["kept"]:
        paths = ", ".join(source["path"] for source in args.sources)
        raise ValueError(f"{paths}: none of {counts['in']} records can be used ({counts['quarantined']}); repair them")
    for name, found in spans.items():
        counts["by_file"][name]["bytes"] = found
    write_manifest(
        out,
        step="ingest",
        settings=args.settings | {"sources": args.sources},
        inputs=[Path(source["path"]) for source in args.sources],
        counts=counts,
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--sources", type=json.loads, required=True, help="the data set's sources, as JSON")
    run(main, parser)
