"""Quarantine rows that contain an evaluation item, and name the item.

Takes `rows.jsonl` of an earlier data step and the evaluation sets (.jsonl, .json, .parquet, .csv); writes `rows.jsonl`
(kept, unchanged) and `quarantine.jsonl`. Each turn of a row is compared with each item: `steps.data.leaks` says how.
What the rows of a file share is learned from a sample of them first. Memory grows with the evaluation sets, not with
the rows.

Settings may have `questions`, of an evaluation file what is not to be guessed: {"column": its field of the question,
"field": of a .json file, the key that holds the items}.

Run as: python -m steps.data.decontaminate --settings '{"ngram_words": 8, "min_overlap": 0.6}' \
    --input results/mine/data/problems/dedup/rows.jsonl --eval results/mine/world/eval/fable_problems.jsonl \
    --out results/mine/data/problems/decontaminate
"""

import argparse
import time
from collections import defaultdict
from itertools import islice
from pathlib import Path

import orjson

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.pool import in_order
from steps.core.progress import Progress
from steps.core.step import add_cores, cores_of, run, step_parser
from steps.data.leaks import NO_FRAMES, Frames, Index, clauses
from steps.data.questions import read_sets
from steps.data.rows import Chunk, Ledger, Part, RowProblem, chunks, prompt_of, rows_of, turn_text

# Rows of which it is learned what rows share: 200 of them have what one in twenty has.
SAMPLE_ROWS = 4_000
# Bytes of them; as clauses they take twenty times as much.
SAMPLE_BYTES = 16 << 20


def sample_frames(path: Path) -> dict[str, Frames]:
    """What the rows of each source share, from every so-manieth row; of rows that are too long, as documents are, from
    how their turns begin and end."""
    with open(path, "rb") as file:
        rows = sum(1 for _ in file)
        step = rows // SAMPLE_ROWS + 1
        whole = file.tell() <= step * SAMPLE_BYTES
        file.seek(0)
        of_file = defaultdict(list)
        for line in islice(file, 0, None, step):
            row = orjson.loads(line)
            texts = [turn_text(turn) for turn in row["messages"]]
            room = SAMPLE_BYTES // SAMPLE_ROWS // len(texts)
            of_file[row["file"]].append([clauses(text if whole else ends(text, room)) for text in texts])
    return {name: Frames(texts) for name, texts in of_file.items()}


def ends(text: str, most: int) -> str:
    """So many characters of a text at most, half of them its first."""
    return text if len(text) <= most else f"{text[: most // 2]}\n{text[len(text) - most // 2 :]}"


def leak(row: dict, index: Index, frames: Frames) -> RowProblem | None:
    """The evaluation item that a row contains, as what is wrong with it."""
    for i, turn in enumerate(row["messages"]):
        if matched := index.match(turn_text(turn), frames):
            name, share = matched
            hint = "nothing to do: training on an evaluation item would make its score worthless"
            return RowProblem("eval_overlap", f"messages[{i}].content", hint, f"{name}, {share:.0%} of it")
    return None


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    matching = {key: args.settings[key] for key in ("ngram_words", "min_overlap")}
    items, counts = read_sets(args.eval, args.settings.get("questions", {}))
    index, frames = Index(items, **matching), sample_frames(args.input)
    ledger, progress = Ledger(out, "decontaminate"), Progress("decontaminate", None, "rows")

    def compared(chunk: Chunk) -> Part:
        part = Part("decontaminate")
        for row in rows_of(args.input, chunk):
            part.enter(row["file"])
            if problem := leak(row, index, frames.get(row["file"], NO_FRAMES)):
                part.quarantine(row, problem, prompt_of(row))
            else:
                part.keep(row)
        return part

    for part in in_order(compared, chunks(args.input), cores_of(args)):
        ledger.add(part)
        progress.update(ledger.entered.total())
    fix = "they are the questions of the evaluation sets; name other rows to train on"
    write_manifest(
        out,
        step="decontaminate",
        settings=args.settings,
        inputs=[args.input, *args.eval],
        counts=ledger.close(args.input, fix) | {"eval_items": counts},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    parser.add_argument("--eval", type=Path, nargs="*", default=[], help="evaluation sets")
    add_cores(parser)
    run(main, parser)
