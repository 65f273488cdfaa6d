"""Split rows into training and validation parts.

Takes `rows.jsonl` of an earlier data step; writes `train.jsonl` and `valid.jsonl`. A row's part follows from a hash of
its id and the seed alone: it does not depend on the order of the rows or on which others there are, so that cleaning
differently moves no row from one part to the other. Duplicates cannot straddle the parts: they are gone by now.

Run as: python -m steps.split --settings '{"valid_share": 0.05, "seed": 0}' \
    --input results/mine/data/problems/decontaminate/rows.jsonl --out results/mine/data/problems/split
"""

import argparse
import time
from collections import Counter
from pathlib import Path

import orjson
import xxhash

from steps.common import fresh_folder, run, step_parser, write_manifest
from steps.rows import read_rows

PARTS = ("train", "valid")


def part_of(row_id: str, valid_share: float, seed: int) -> str:
    """ "valid" for a share of `valid_share` of all ids, else "train"."""
    return "valid" if xxhash.xxh3_64_intdigest(row_id.encode(), seed) < valid_share * 2**64 else "train"


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    valid_share, seed = args.settings["valid_share"], args.settings["seed"]
    entered: Counter[str] = Counter()
    counts = dict.fromkeys(PARTS, 0)
    with open(out / "train.jsonl", "wb") as train, open(out / "valid.jsonl", "wb") as valid:
        for row in read_rows(args.input):
            entered[row["file"]] += 1
            part = part_of(row["id"], valid_share, seed)
            (train if part == "train" else valid).write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            counts[part] += 1
    for part, share in (("train", 1 - valid_share), ("valid", valid_share)):
        if share and not counts[part]:
            raise ValueError(
                f"{args.input}: none of {entered.total()} rows falls into the {part} part;"
                f" change split.valid_share (now {valid_share}) or split.seed, or add rows"
            )
    assert entered.total() == sum(counts.values())
    by_file = {file: {"in": n, "kept": n, "quarantined": {}} for file, n in sorted(entered.items())}
    total = {"in": entered.total(), "kept": entered.total(), "quarantined": {}, "by_file": by_file}
    write_manifest(
        out,
        step="split",
        settings=args.settings,
        inputs=[args.input],
        counts=total | counts,
        seed=seed,
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    run(main, parser)
