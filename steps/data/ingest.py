"""Read raw rows of every accepted format, validate them, and write them in one schema.

Takes the sources of a data set, `[{"path", "format", "columns"?, "ignore"?, "keep"?, "train"?}, …]`: files, folders or
patterns, of every kind and format in `steps/settings/formats.py`. Writes `rows.jsonl` (kept) and `quarantine.jsonl`
(every record that could not be read or does not fit its format). No record and no byte of a text file goes unaccounted;
memory does not grow with the files. `data/README.md` documents formats and schemas.

Run as: python -m steps.data.ingest --settings '{"max_record_bytes": 1000000}' \
    --sources '[{"path": "train.json", "format": "alpaca"}]' --out results/mine/data/problems/ingest
"""

import argparse
import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from steps.core.asked import from_argument
from steps.core.bounded import limit_memory
from steps.core.files import fresh_folder
from steps.core.manifest import note_inputs, write_manifest
from steps.core.pool import in_order
from steps.core.progress import Progress, say
from steps.core.step import add_cores, cores_of, run, step_parser
from steps.data.files import recognised, records_of
from steps.data.labels import Labelled
from steps.data.readers import RAW_CHARS, Record, Tally, parsed
from steps.data.records import Reader
from steps.data.rows import CHUNK_BYTES, Ledger, Part, RowProblem, escaped
from steps.data.sources import SourceFile, left_out, named, suffixes
from steps.data.tables import BATCH_ROWS
from steps.data.values import MOST_NAMES
from steps.settings.data import READ, DataSet
from steps.settings.errors import check, meant
from steps.settings.formats import AUTO, COLUMNAR, LINES

# Names that one line of the screen shows.
SHOWN = 6
# Records that are taken up together, of files of lines.
LINES_AT_ONCE = 1000


@dataclass
class Found:
    """What reading a source found, beside its rows.

    Attributes:
        formats: file to its format, where it has a record.
        unused: fields that no row shows.
        bytes: file to how many bytes of its text were what.
        first: the first problem of a record.
    """

    formats: dict[str, str] = field(default_factory=dict)
    unused: dict[str, None] = field(default_factory=dict)
    bytes: dict[str, dict[str, int]] = field(default_factory=dict)
    first: RowProblem | None = None


def checked(sources: list[dict]) -> list[list[SourceFile]]:
    """The files of each source.

    Raises:
        ValueError: a source that cannot be read as it is declared; names it and the fix.
    """
    declared = [{key: source[key] for key in READ if key in source} for source in sources]
    check(DataSet, {"sources": declared})
    return named(sources)


def excerpt_of(record: Record) -> str:
    """The beginning of a record: its text, or that of a row of a table."""
    return record.raw or json.dumps(record.value, ensure_ascii=False, default=str)[:RAW_CHARS]


def ingest_source(
    source: dict,
    limit: int,
    ledger: Ledger,
    files: list[SourceFile] | None = None,
    labelled: Labelled | None = None,
    cores: int = 1,
) -> Found:
    """Keep or quarantine every record of one source.

    Args:
        limit: the largest record in bytes.
        files: those of the source; looked for where they are not given.
        labelled: takes the rows that have a label; without it they are settled at the end of the source.

    Raises:
        ValueError: no record has the fields of the format, or one that `columns` or `keep` names; or a file cannot be
            read.
    """
    if labelled is None:
        with contextlib.closing(Labelled(ledger.out)) as own:
            found = ingest_source(source, limit, ledger, files, own, cores)
            own.settle(ledger)
            return found
    found, unseen = Found(), None
    files = named([source])[0] if files is None else files
    before = ledger.entered.total()
    for file in files:
        ledger.entered[file.name] += 0  # an empty file is listed too
        form = source.get("format", AUTO)
        form = recognised(file.path, limit, source) if form == AUTO else form
        if form is None:
            continue
        found.formats[file.name] = form
        reader = Reader(form, source)
        found.bytes[file.name], first = _ingest_file(file, reader, limit, ledger, labelled, cores)
        found.first = found.first or first
        found.unused |= reader.unused
        if reader.fielded:
            unseen = reader.unseen if unseen is None else unseen & reader.unseen
    if unseen:
        rows, name = ledger.entered.total() - before, min(unseen)
        key = "keep" if name in source.get("keep", ()) else "columns"
        raise ValueError(
            f"{source['path']}: none of its {rows} records has the field {name!r}, which `{key}` names"
            f"{alike(name, reader.fielded)}"
        )
    return found


class Taken(NamedTuple):
    """What became of some records of a file, and what is known of the file's fields after them."""

    part: Part
    labelled: list[tuple[dict, bool, str]]
    first: RowProblem | None
    unused: dict[str, None]
    unseen: set[str]
    fielded: tuple[str, ...]


def _taken(file: SourceFile, reader: Reader, are_raw: bool, first_row: int, records: list[Record]) -> Taken:
    """Keep, set aside or quarantine records, the first of which is that row of their file."""
    part, labelled, first = Part("ingest"), list[tuple[dict, bool, str]](), None
    reader.unused = {}
    for row, record in enumerate(records, first_row):
        part.enter(file.name)
        where = {"id": f"{file.stem}:{row}", "file": file.name, "line": record.line, "row": row}
        try:
            if are_raw:
                record = parsed(record)
            if record.problem:
                raise record.problem
            messages, answer, extras = reader(record.value)
            kept = {"id": where["id"], "messages": messages, "answer": answer} | where
            if extras:
                label = extras.pop("label", None)
                kept |= extras
                if label is not None:
                    labelled.append((kept, label, excerpt_of(record)))
                    continue
            part.keep(kept)
        except RowProblem as problem:
            first = first or problem
            part.quarantine(where, problem, excerpt_of(record))
    return Taken(part, labelled, first, reader.unused, reader.unseen, reader.fielded)


def _together(records: Iterator[Record], most: int) -> Iterator[tuple[int, list[Record]]]:
    """Records that follow each other, as many as have a megabyte, with the row of the first."""
    row, some, size = 0, list[Record](), 0
    for record in records:
        some.append(record)
        size += len(record.raw)
        if len(some) == most or size >= CHUNK_BYTES:
            yield row, some
            row, some, size = row + len(some), [], 0
    if some:
        yield row, some


def _ingest_file(
    file: SourceFile, reader: Reader, limit: int, ledger: Ledger, labelled: Labelled, cores: int
) -> tuple[dict[str, int], RowProblem | None]:
    """Keep or quarantine every record of one file; returns how many bytes of a text file were what, and the first
    problem."""
    name, kind = file.name, suffixes(file.path)[0]
    progress, tally, first = Progress(f"ingest {name}", None, "rows"), Tally(), None
    # To read lines is a tenth of the work, to read anything else most of it.
    are_raw = kind in LINES
    records = records_of(file.path, limit, tally, reader.fields, reader.needs, raw=are_raw)
    unused: dict[str, None] = {}
    some = _together(records, LINES_AT_ONCE if are_raw else BATCH_ROWS)
    for taken in in_order(lambda given: _taken(file, reader, are_raw, *given), some, cores if are_raw else 1):
        ledger.add(taken.part)
        for one in taken.labelled:
            labelled.add(*one)
        first = first or taken.first
        unused |= taken.unused
        reader.unseen &= taken.unseen
        reader.fielded = reader.fielded or taken.fielded
        progress.update(ledger.entered[name])
    # As many in any number of processes.
    reader.unused = dict.fromkeys([*unused][:MOST_NAMES])
    rows, reasons = ledger.entered[name], ledger.quarantined[name]
    if rows and reasons["missing_field"] == rows and first and first.column not in reader.unseen:
        raise ledger.refused(
            f"{file.path}: none of its {rows} records has the field {first.column!r};"
            " correct `format` or set `columns` of the source"
        )
    spans = {"records": tally.records, "separators": tally.separators}
    return ({} if kind in COLUMNAR else spans), first


def alike(name: str, fields: tuple[str, ...]) -> str:
    """The end of a line about a field that no record has: the one that was probably meant, or those of a record."""
    for one in fields:
        if normalize("NFKC", one) == normalize("NFKC", name):
            return f"; they write it in other characters that look the same: {json.dumps(one)}"
    return meant(name, [escaped(one) for one in fields])


def shown(names: list[str]) -> str:
    """The first of some names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def tell(found: Found, empty: list[str]) -> None:
    """Say on the screen what was read as what, and what was not read."""
    by_format = defaultdict(list)
    for name, form in found.formats.items():
        by_format[form].append(name)
    for form, names in by_format.items():
        say("ingest", f"{shown(names)}: read as {form}")
    if empty:
        say("ingest", f"{shown(empty)}: empty")
    if found.unused:
        say("ingest", f"fields that no row shows: {shown([*found.unused])}")


def main(args: argparse.Namespace) -> None:
    started = time.time()
    sources: list[dict[str, Any]] = args.sources
    files = checked(sources)
    paths = [file.path for of_source in files for file in of_source]
    # Those of a pattern are no arguments of the command.
    note_inputs(paths)
    out = fresh_folder(args.out)
    ledger = Ledger(out, "ingest")
    found = Found()
    with contextlib.closing(Labelled(out)) as labelled:
        for source, of_source in zip(sources, files, strict=True):
            limit = args.settings["max_record_bytes"]
            one = ingest_source(source, limit, ledger, of_source, labelled, cores_of(args))
            found.formats |= one.formats
            found.unused |= one.unused
            found.bytes |= one.bytes
            found.first = found.first or one.first
        labelled.settle(ledger)
    for source in sources:
        if skipped := left_out(str(source["path"]), source.get("format", AUTO)):
            say("ingest", f"{source['path']}: not read: {shown([Path(file).name for file in skipped])}")
    tell(found, [name for name, rows in ledger.entered.items() if not rows])
    where, first = ", ".join(source["path"] for source in sources), found.first
    fix = f"of the first, {first.column}: {first.hint}" if first else "good responses are missing"
    counts = ledger.close(where, fix, what="records")
    if not counts["in"]:
        raise ValueError(f"{where}: there is no record in it; correct the path, or write rows")
    for name, spans in found.bytes.items():
        counts["by_file"][name]["bytes"] = spans
    write_manifest(
        out,
        step="ingest",
        settings=args.settings | {"sources": sources},
        inputs=paths,
        counts=counts,
        started=started,
        setup={"formats": found.formats, "unused": sorted(found.unused)},
    )


if __name__ == "__main__":
    # Nothing that a file holds takes the machine's memory.
    limit_memory()
    parser = step_parser(__doc__)
    parser.add_argument("--sources", type=from_argument, required=True, help="the data set's sources, as JSON")
    add_cores(parser)
    run(main, parser)
