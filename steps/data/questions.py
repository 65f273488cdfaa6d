"""The questions of evaluation sets, from every kind of file that lm-eval reads: .jsonl, .json, .parquet and .csv."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

# Fields that may hold a question, the first wins.
COLUMNS = ("prompt", "question", "problem", "input")
# Fields that hold what there is to choose from, all in one or one by one.
OPTIONS, LETTERS = ("options", "choices"), ("A", "B", "C", "D", "E")
# File names that say which part of a task a file is, not which task.
SPLITS = ("train", "test", "validation", "valid", "dev")


class Item(NamedTuple):
    """A question of an evaluation set."""

    name: str  # "<set>:<id>"
    prompt: str
    options: str = ""  # what there is to choose from, one a line
    of: str = ""  # the set


def set_names(paths: list[Path]) -> dict[Path, str]:
    """`gsm8k` for `gsm8k/test.jsonl`, `fable_facts` for `eval/fable_facts.jsonl`; where two files would have one name,
    with their folder or all of their path."""
    for name in (
        lambda path: path.parent.name if path.stem in SPLITS else path.stem,
        lambda path: f"{path.parent.name}/{path.stem}",
        lambda path: f"{path.parent.name}/{path.name}",
    ):
        found = {path: name(path) for path in paths}
        if len(set(found.values())) == len(found):
            return found
    return {path: str(path) for path in paths}


def read_items(path: Path, name: str, column: str | None = None, field: str | None = None) -> Iterator[Item]:
    """The items of one file; the id of each is its own, or its place counted from 0.

    Args:
        name: of the set.
        column: the field of the question, where it is none of `COLUMNS`.
        field: of a .json file, the key that holds the items.

    Raises:
        ValueError: the file cannot be read, or an item has no text there.
    """
    wanted = (column,) if column else COLUMNS
    for i, item in enumerate(records(path, field)):
        fields = item if isinstance(item, dict) else {}
        prompt = next((text for key in wanted if (text := text_of(fields.get(key)))), None)
        if prompt is None:
            raise ValueError(
                f"{path}, item {i + 1}: no text under {', '.join(wanted)}; name the field of the question as `question`"
                " beside the task's data_files"
            )
        own = fields.get("id")
        yield Item(f"{name}:{i if own is None else own}", prompt, options_of(fields), name)


def read_sets(paths: list[Path], questions: dict[str, dict]) -> tuple[list[Item], dict[str, int]]:
    """The items of all evaluation files, and how many there are in each set."""
    items: list[Item] = []
    for path, name in set_names(paths).items():
        items += read_items(path, name, **questions.get(str(path), {}))
    return items, dict(Counter(item.of for item in items))


def records(path: Path, field: str | None) -> Iterator[Any]:
    """The records of a file.

    Raises:
        ValueError: the file is not what its suffix says.
    """
    if path.suffix == ".jsonl":
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _json(line, f"{path}, line {number}")
    elif path.suffix == ".json":
        found = _json(path.read_bytes(), str(path))
        if field:
            found = found.get(field) if isinstance(found, dict) else None
        if not isinstance(found, list):
            where = f" under {field!r}" if field else ""
            raise ValueError(f"{path}: no list of items{where}; name the key that has it in dataset_kwargs.field")
        yield from found
    elif path.suffix == ".csv":
        # Of a cell; a process has one limit for all readers.
        csv.field_size_limit(max(path.stat().st_size, 1))
        with open(path, encoding="utf-8-sig", newline="") as file:
            try:
                yield from csv.DictReader(file)
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{path}: no CSV in UTF-8 ({error}); copy the file again") from None
    else:
        yield from _parquet(path)


def _json(text: bytes, where: str) -> Any:
    try:
        return orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error}); copy the file again") from None


def _parquet(path: Path) -> Iterator[dict]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(1024):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path}: not readable as Parquet ({error}); copy the file again") from None
    # A date after the year 9999, or a text that is no UTF-8.
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: it has a value that Python has not ({error}); write its column as text") from None


def text_of(value: Any) -> str | None:
    """A text, or those of a conversation's users; None of anything else and of blank ones."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, dict) and turn.get("role") == "user"]
        value = "\n".join(turn["content"] for turn in turns if isinstance(turn.get("content"), str))
    return value if isinstance(value, str) and value.strip() else None


def options_of(fields: dict) -> str:
    """What there is to choose from, one a line; "" where a question is open."""
    found = next((fields[key] for key in OPTIONS if fields.get(key)), None)
    if isinstance(found, dict):
        found = found.get("text") or list(found.values())
    if found is None:
        found = [fields.get(letter) for letter in LETTERS]
    return "\n".join(text for text in found if isinstance(text, str)) if isinstance(found, list) else ""
