"""Measure the cleaning of rows: rows per second and core, and peak memory, on generated rows.

Each stage runs in a process of its own, so that its peak memory is its own. Rates are rows per second of CPU time:
one core, and no waiting for others. `validation_and_exact` is reading and validating raw rows, finding contradictions
and exact duplicates and writing what stays; `minhash` is finding near duplicates, from keys to verified pairs.

Run as: python -m benches.clean --rows 1000000 --out reports/bench/clean.json
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

import numpy as np

from steps import decontaminate, dedup, filter, ingest
from steps.rows import Ledger

DEDUP = {"short_answer_words": 5, "threshold": 0.7, "shingle_words": 3, "numbers_must_match": True, "num_perm": 128}
FILTER = {
    "language": "en",
    "min_prompt_chars": 8,
    "max_prompt_chars": 4000,
    "min_response_chars": 1,
    "max_response_chars": 4000,
    "max_repetition": 0.6,
}
DECONTAMINATE = {"ngram_words": 8, "min_overlap": 0.6}
EVAL_ITEMS = 2000
TARGETS = {"validation_and_exact": 20_000, "minhash": 2_000, "peak_mib": 1024}


def generate(path: Path, rows: int) -> None:
    """Raw rows of about 45 words; one in twenty repeats an earlier one, one in twenty is an earlier one reworded."""
    rng = Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(5000)]
    vocabulary += sorted(filter.FUNCTION_WORDS["en"]) * 20
    recent: list[tuple[list[str], str]] = []
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(rows):
            kind = rng.random() if recent else 1.0
            if kind < 0.1:
                prompt, response = rng.choice(recent)
                if kind < 0.05:
                    prompt = [*prompt, rng.choice(vocabulary)]
            else:
                prompt = rng.choices(vocabulary, k=30)
                prompt[5], prompt[17] = str(rng.randint(2, 99)), str(rng.randint(2, 99))
                response = f"{' '.join(rng.choices(vocabulary, k=12))}.\n#### {rng.randint(1, 9999)}"
                recent = [*recent[-99:], (prompt, response)]
            file.write(json.dumps({"prompt": " ".join(prompt) + "?", "response": response}) + "\n")


def stage_ingest(folder: Path) -> None:
    ledger = Ledger(folder, "ingest")
    source = {"path": folder / "raw.jsonl", "format": "prompt_response"}
    ingest.ingest_source(source, 1_000_000, ledger)
    ledger.close()


def stage_filter(folder: Path) -> None:
    for row in dedup.read_rows(folder / "rows.jsonl"):
        filter.check(row, FILTER)


def stage_exact(folder: Path) -> None:
    keys = dedup.read_keys(folder / "rows.jsonl", DEDUP["short_answer_words"])
    conflicting = dedup.contradictions(keys)
    duplicates = dedup.exact_duplicates(keys, np.arange(len(keys.text)))
    gone = conflicting.keys() | duplicates.keys()
    (folder / "exact").mkdir(exist_ok=True)
    ledger = Ledger(folder / "exact", "dedup")
    for i, row in enumerate(dedup.read_rows(folder / "rows.jsonl")):
        if i not in gone:
            ledger.enter(row["file"])
            ledger.keep(row)
    ledger.close()


def stage_minhash(folder: Path) -> None:
    keys = dedup.read_keys(folder / "rows.jsonl", DEDUP["short_answer_words"])
    dedup.near_duplicates(folder / "rows.jsonl", keys, np.arange(len(keys.text)), DEDUP)


def stage_dedup(folder: Path) -> None:
    dedup.main(argparse.Namespace(settings=DEDUP, input=folder / "rows.jsonl", out=folder / "dedup"))


def stage_decontaminate(folder: Path) -> None:
    rows = dedup.read_rows(folder / "rows.jsonl")
    items = [(f"task:{i}", dedup.prompt_of(row)) for i, row in zip(range(EVAL_ITEMS), rows, strict=False)]
    index = decontaminate.Index(items, **DECONTAMINATE)
    for row in dedup.read_rows(folder / "rows.jsonl"):
        for turn in row["messages"]:
            index.match(turn["content"])


STAGES = {name.removeprefix("stage_"): function for name, function in globals().items() if name.startswith("stage_")}


def measure(stage: str, folder: Path) -> dict:
    """CPU seconds and peak memory of one stage, in a process of its own."""
    command = [sys.executable, "-m", "benches.clean", "--stage", stage, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path) -> None:
    began = time.process_time()
    STAGES[stage](folder)
    measured = {"seconds": time.process_time() - began}
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured))


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        generate(folder / "raw.jsonl", args.rows)
        measured = {stage: measure(stage, folder) for stage in STAGES}
    rates = {stage: args.rows / found["seconds"] for stage, found in measured.items()}
    rates["validation_and_exact"] = args.rows / (measured["ingest"]["seconds"] + measured["exact"]["seconds"])
    result = {
        "rows": args.rows,
        "rows_per_second_and_core": {stage: round(rate) for stage, rate in rates.items()},
        "peak_mib": {stage: round(found["peak_mib"]) for stage, found in measured.items()},
        "targets": TARGETS,
    }
    for stage, rate in result["rows_per_second_and_core"].items():
        peak = result["peak_mib"].get(stage)
        target = f"  (target {TARGETS[stage]:,})" if stage in TARGETS else ""
        print(f"{stage:22} {rate:>9,} rows/s/core{target}" + (f"  peak {peak:,} MiB" if peak else ""))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, default=Path("reports/bench/clean.json"), help="JSON file to write")
    parser.add_argument("--folder", type=Path, help="folder for the generated rows, about 1.5 KB a row; default: /tmp")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        run_stage(given.stage, given.folder)
    else:
        main(given)
