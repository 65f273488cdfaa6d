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
from collections import Counter, defaultdict
from pathlib import Path

import orjson

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.data.leaks import NO_FRAMES, Frames, Index, clauses
from steps.data.questions import Item, read_items, set_names
from steps.data.rows import Ledger, RowProblem, prompt_of, read_rows, turn_text

# Rows of which it is learned what rows share: 200 of them have what one in twenty has.
SAMPLE_ROWS = 4_000


def sample_frames(path: Path) -> dict[str, Frames]:
    """What the rows of each source share, from every so-manieth row."""
    with open(path, "rb") as file:
        step = sum(1 for _ in file) // SAMPLE_ROWS + 1
        file.seek(0)
        rows = [orjson.loads(line) for i, line in enumerate(file) if i % step == 0]
    of_file = defaultdict(list)
    for row in rows:
        of_file[row["file"]].append([clauses(turn_text(turn)) for turn in row["messages"]])
    return {name: Frames(texts) for name, texts in of_file.items()}


def read_sets(paths: list[Path], questions: dict[str, dict]) -> tuple[list[Item], dict[str, int]]:
    """The items of all evaluation files, and how many there are in each set."""
    items: list[Item] = []
    for path, name in set_names(paths).items():
        items += read_items(path, name, **questions.get(str(path), {}))
    return items, dict(Counter(item.of for item in items))


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    matching = {key: args.settings[key] for key in ("ngram_words", "min_overlap")}
    items, counts = read_sets(args.eval, args.settings.get("questions", {}))
    index, frames = Index(items, **matching), sample_frames(args.input)
    ledger, progress = Ledger(out, "decontaminate"), Progress("decontaminate", None, "rows")
    for done, row in enumerate(read_rows(args.input), 1):
        ledger.enter(row["file"])
        for i, turn in enumerate(row["messages"]):
            if matched := index.match(turn_text(turn), frames.get(row["file"], NO_FRAMES)):
                name, share = matched
                problem = RowProblem(
                    "eval_overlap",
                    f"messages[{i}].content",
                    "nothing to do: training on an evaluation item would make its score worthless",
                    f"{name}, {share:.0%} of it",
                )
                ledger.quarantine(row, problem, prompt_of(row))
                break
        else:
            ledger.keep(row)
        if done % 1000 == 0:
            progress.update(done)
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
    run(main, parser)
