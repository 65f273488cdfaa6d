"""Quarantine rows by length, language and quality.

Takes `rows.jsonl` of an earlier data step; writes `rows.jsonl` (kept, unchanged) and `quarantine.jsonl`. Rows are
judged one by one, in this order: too_short, too_long, wrong_language, low_quality.

How a language is told is at the top of `steps/data/language.py`. The settings of a source in `sources` stand before
those of the section, for its rows.

Run as: python -m steps.data.filter --settings '{"language": "en", …}' --input
    results/mine/data/problems/ingest/rows.jsonl \
    --out results/mine/data/problems/filter
"""

import argparse
import re
import time
from pathlib import Path

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.pool import in_order
from steps.core.progress import Progress
from steps.core.step import add_cores, cores_of, run, step_parser
from steps.data.language import foreign_turn
from steps.data.quality import repetition
from steps.data.rows import Chunk, Ledger, Part, RowProblem, chunks, prompt_of, rows_of, turn_text, words
from steps.settings.data import LANGUAGES

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
# Of a turn, what a model reads and learns.
TEXTS = ("content", "thinking")
_LETTER_RUN = re.compile(r"([^\W\d_])\1{19}")


def check(row: dict, settings: dict) -> None:
    """Raises: RowProblem: too_short, too_long, wrong_language or low_quality."""
    _check_length(row, settings)
    if settings["language"] is not None:
        _check_language(row, settings["language"])
    _check_quality(row, settings["max_repetition"])


def _check_length(row: dict, settings: dict) -> None:
    """Characters of all user turns together, and of all assistant turns, their thinking included; of those that are
    there: a document has neither, and a prompt may have no response."""
    for role, name in (("user", "prompt"), ("assistant", "response")):
        own = [turn for turn in row["messages"] if turn["role"] == role]
        if not own:
            continue
        size = sum(len(turn_text(turn)) for turn in own)
        low, high = settings[f"min_{name}_chars"], settings[f"max_{name}_chars"]
        if size < low:
            reason, key, change = "too_short", f"min_{name}_chars", "lower"
        elif size > high:
            reason, key, change = "too_long", f"max_{name}_chars", "raise"
        else:
            continue
        hint = f"remove the record, or {change} filter.{key}"
        raise RowProblem(reason, "messages", hint, f"{size} characters of the {role}, {key} is {settings[key]}")


def _check_language(row: dict, language: str | list[str]) -> None:
    """Of every turn but a tool's, which is for a program; thinking may be in the model's own language."""
    wanted = [language] if isinstance(language, str) else language
    turns = {
        f"messages[{i}].content": turn["content"] for i, turn in enumerate(row["messages"]) if turn["role"] != "tool"
    }
    if found := foreign_turn(turns, wanted):
        column, detail = found
        hint = f"remove the record, or set filter.language (now {', '.join(wanted)}; null accepts every language)"
        raise RowProblem("wrong_language", column, hint, detail)


def _check_quality(row: dict, max_repetition: float) -> None:
    # What a tool prints is for a program: tables, logs and escapes.
    said = [(i, turn) for i, turn in enumerate(row["messages"]) if turn["role"] != "tool"]
    texts = ((f"messages[{i}].{key}", turn[key]) for i, turn in said for key in TEXTS if key in turn)
    for column, text in texts:
        if bad := _CONTROL.search(text):
            hint = "remove control and replacement characters; the text was probably decoded with a wrong encoding"
            raise RowProblem("low_quality", column, hint, f"U+{ord(bad[0]):04X} at character {bad.start() + 1}")
        if run_of := _LETTER_RUN.search(text):
            detail = f"the letter {run_of[1]!r} 20 times in a row at character {run_of.start() + 1}"
            raise RowProblem("low_quality", column, "remove the record, or repair the text", detail)
        if (share := repetition(words(text))) > max_repetition:
            hint = "remove the record, or raise filter.max_repetition"
            raise RowProblem("low_quality", column, hint, f"{share:.0%} of its runs of eight words are repeats")


def _check_known(language: str | list[str] | None) -> None:
    for one in [language] if isinstance(language, str) else language or ():
        if one not in LANGUAGES:
            raise ValueError(f"filter.language is {one!r}; use null or one of {', '.join(LANGUAGES)}")


def main(args: argparse.Namespace) -> None:
    started = time.time()
    shared = {key: value for key, value in args.settings.items() if key != "sources"}
    by_file = {file: shared | own for file, own in args.settings.get("sources", {}).items()}
    for own in (shared, *by_file.values()):
        _check_known(own["language"])
    out = fresh_folder(args.out)
    ledger, progress = Ledger(out, "filter"), Progress("filter", None, "rows")

    def judged(chunk: Chunk) -> Part:
        part = Part("filter")
        for row in rows_of(args.input, chunk):
            part.enter(row["file"])
            try:
                check(row, by_file.get(row["file"], shared))
                part.keep(row)
            except RowProblem as problem:
                part.quarantine(row, problem, prompt_of(row))
        return part

    for part in in_order(judged, chunks(args.input), cores_of(args)):
        ledger.add(part)
        progress.update(ledger.entered.total())
    counts = ledger.close(args.input, "change the section `filter` of the parameters")
    write_manifest(out, step="filter", settings=args.settings, inputs=[args.input], counts=counts, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    add_cores(parser)
    run(main, parser)
