"""Whether the files of a task have what its template asks of every row, before anything is trained for it.

lm-eval finds out when it builds its requests, after the training, with a traceback. Imports nothing heavy: Snakemake's
process asks before the first job.
"""

import csv
import functools
import math
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from steps.evaluation import functions
from steps.evaluation.functions import fields_read, named
from steps.evaluation.tasks import TEMPLATES, configuration, find_template, library, task_files
from steps.judges.tasks import ASKED
from steps.stats.level import Z

# lm-eval's names for the tokens of a task's longest answer.
LONGEST = ("max_gen_toks", "max_new_tokens", "max_tokens")
# Of a template, what makes the question, the answer and the options: a field's name, or Jinja that names fields.
_TEXTS = ("doc_to_text", "doc_to_target", "doc_to_choice")
# Glue of tasks/, of which is known what it reads.
_GLUE = "steps.judges.tasks."
_NONE = (None, None, None)
# What a value is called.
TYPES = {
    str: "text",
    int: "a whole number",
    float: "a number with a point",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


def check_task(task: str, spec: dict) -> int | None:
    """Raise a ValueError for a task that could not be asked: it has no template, or a split or a row lacks something.

    Args:
        spec: its description in `evaluate.tasks`; without `data_files` its template alone is read.

    Returns:
        how many questions it has; None without files.
    """
    template = find_template(task, spec.get("stock", task))
    config = configuration(template) | spec.get("overrides", {})
    _check_functions(config, template, f"evaluate.tasks.{task}")
    if "data_files" not in spec:
        return None
    files = task_files(task, spec, None)
    name = template.relative_to(TEMPLATES.parent) if template.is_relative_to(TEMPLATES) else template.name
    shots = config.get("fewshot_split") or config.get("training_split") if config.get("num_fewshot") else None
    asked, counts = config.get("test_split") or config.get("validation_split"), {}
    for split in filter(None, (asked, shots)):
        if split not in files:
            raise ValueError(
                f"evaluate.tasks.{task}.data_files: {name} asks for the split {split}; add `{split}: <file>`, or set"
                f" another split by `overrides` (there are {', '.join(files)})"
            )
        counts[split] = _check_rows(files[split], config, template, f"evaluate.tasks.{task}: {name}")
    return counts.get(asked)


def longest_answer(task: str, spec: dict, most: int) -> tuple[int, bool]:
    """Tokens of a task's longest answer that is written, 0 of one that is chosen; and whether the task says it itself.

    Args:
        spec: its description in `evaluate.tasks`.
        most: of tasks that say nothing.
    """
    config = configuration(find_template(task, spec.get("stock", task))) | spec.get("overrides", {})
    if config.get("output_type", "generate_until") != "generate_until":
        return 0, False
    own = next(filter(None, ((config.get("generation_kwargs") or {}).get(key) for key in LONGEST)), None)
    return own or most, own is not None


def _check_functions(config: dict, template: Path, where: str) -> None:
    """Raise a ValueError for a task whose functions run what a model writes, or need what is not installed."""
    if config.get("unsafe_code"):
        raise ValueError(f"{where}: runs code that the model writes, which nothing here does; choose another task")
    if "class" in config:
        raise ValueError(f"{where}: is a class of lm-eval's that fetches its own data; choose a task that takes files")
    files = [file for file, _ in named(config, template)]
    packages, data = functions.missing(files, library()) if files else ([], [])
    if packages:
        raise ValueError(
            f"{where}: lm-eval's {template.stem} needs packages that are not installed: {', '.join(packages)}; install"
            " them beside the others (pip install), or choose another task"
        )
    if data:
        raise ValueError(
            f"{where}: lm-eval's {template.stem} needs data of nltk that are not here: {', '.join(data)}; put them into"
            " a folder that NLTK_DATA names, as https://www.nltk.org/data.html says, or choose another task"
        )


def _read_by_functions(config: dict, template: Path) -> dict[str, str]:
    """The fields of a row that functions of the template read, each with the key that names the function."""
    keys = ("process_docs",) if "process_docs" in config else (*_TEXTS, "process_results")
    found: dict[str, str] = {}
    for key in keys:
        for file, function in named(config.get(key), template):
            found |= dict.fromkeys(fields_read(file, function), key)
    return found


def known_to(questions: int) -> float:
    """Points by which a score of 50 % of so many questions may be off, 95 times of 100: half of Wilson's interval."""
    return 100 * Z / (2 * math.sqrt(questions + Z**2))


def _check_rows(file: Path, config: dict, template: Path, task: str) -> int:
    """How many rows there are.

    Raises:
        ValueError: there is none, or one lacks what is read of it.
    """
    # What a function of the template makes of a row cannot be told; what it reads of one can, mostly.
    texts = {} if "process_docs" in config else {key: config[key] for key in _TEXTS if isinstance(config.get(key), str)}
    function = str(config.get("process_results", ""))
    field, wrong, _ = ASKED.get(function.removeprefix(_GLUE), _NONE) if function.startswith(_GLUE) else _NONE
    by_functions, count = _read_by_functions(config, template), 0
    kinds: dict[str, type] = {}
    for place, row in _rows(file, (config.get("dataset_kwargs") or {}).get("field")):
        count += 1
        if not isinstance(row, dict):
            raise ValueError(f"{file}, {place}: must be an object of fields; {task} asks for them")
        fields = tuple(row)
        needed = {name: key for key, text in texts.items() for name in _fields_of(text, fields)}
        needed |= by_functions | ({field: "process_results"} if field else {})
        for name, key in needed.items():
            if row.get(name) is None:
                raise ValueError(
                    f"{file}, {place}: has no {name!r}, which {task} reads ({key}); it has {', '.join(fields)}; add the"
                    " field, rename another one, or name it by `overrides`"
                )
            if (of := kinds.setdefault(name, type(row[name]))) is not type(row[name]):
                raise ValueError(
                    f"{file}, {place}: {name!r} is {TYPES[type(row[name])]}, and {TYPES[of]} in the rows before, which"
                    " are read as one type: 1 beside 2.5 would be 1.0; write it in one way, as text if in doubt"
                )
        if field and (what := wrong(row[field], row)):
            raise ValueError(f"{file}, {place}: {field!r} {what}, for {task} compares answers with it")
    if not count:
        raise ValueError(f"{file}: has no rows; {task} asks them")
    return count


@functools.cache
def _fields_of(text: str, fields: tuple[str, ...]) -> tuple[str, ...]:
    """The fields that a text of a template reads of a row with these, as lm-eval takes it: a field's name, or Jinja."""
    from jinja2 import Environment, TemplateError, meta

    if text in fields or text.startswith("!function"):
        return ()
    try:
        return tuple(sorted(meta.find_undeclared_variables(Environment().parse(text))))
    except TemplateError as error:
        raise ValueError(f"evaluate.tasks: {text!r} is no Jinja ({error}); correct it under `overrides`") from None


def _rows(file: Path, field: str | None) -> Iterator[tuple[str, Any]]:
    """The rows of a file as `datasets` reads it, each with its place."""
    if file.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            batches = pyarrow.parquet.ParquetFile(file).iter_batches(1024)
            yield from ((f"row {i}", row) for i, row in enumerate((r for b in batches for r in b.to_pylist()), 1))
        except pyarrow.ArrowException as error:
            raise ValueError(f"{file}: is no Parquet file ({str(error).splitlines()[0]}); convert it") from None
        # A date after the year 9999, or a text that is no UTF-8.
        except (ValueError, OverflowError) as error:
            raise ValueError(
                f"{file}: it has a value that Python has not ({error}); write its column as text"
            ) from None
    elif file.suffix == ".csv":
        with open(file, encoding="utf-8-sig", newline="") as opened:
            try:
                for row in (reader := csv.DictReader(opened)):
                    # lm-eval's reader would move every column by one.
                    if more := row.pop(None, None):
                        cells = "a cell" if len(more) == 1 else f"{len(more)} cells"
                        raise ValueError(
                            f"{file}, line {reader.line_num}: has {cells} more than the line of names; put in quotes"
                            " what has a comma"
                        )
                    yield f"line {reader.line_num}", {k: v or None for k, v in row.items()}
            except (csv.Error, UnicodeDecodeError) as error:
                raise ValueError(f"{file}: is no CSV file ({error}); convert it to UTF-8 with a header") from None
    elif field or (file.suffix == ".json" and file.read_bytes()[:64].lstrip()[:1] == b"["):
        content = _parsed(file, file.read_bytes(), "")
        rows = content.get(field) if field and isinstance(content, dict) else content
        if not isinstance(rows, list):
            raise ValueError(f"{file}: has no list {f'under {field!r}' if field else ''}; correct dataset_kwargs.field")
        yield from ((f"row {i}", row) for i, row in enumerate(rows, 1))
    else:
        with open(file, "rb") as lines:
            yield from (
                (f"line {i}", _parsed(file, line.removeprefix(BOM_UTF8) if i == 1 else line, f", line {i}"))
                for i, line in enumerate(lines, 1)
                if line.strip()
            )


def _parsed(file: Path, text: bytes, place: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{file}{place}: is no JSON ({error}); correct it") from None
