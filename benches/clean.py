"""Measure the cleaning of rows: rows per second and core, and peak memory, on generated rows.

Each stage runs in a process of its own, so that its peak memory is its own. Rates are rows per second of CPU time:
one core, and no waiting for others. Rows of one template share an instruction and a label; a tenth of as many are
cleaned too, for the time has to grow with the rows and not faster.

Run as: python -m benches.clean --rows 200000 --out reports/bench/clean.json
"""

import argparse
import contextlib
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from random import Random

from benches.common import bench_parser, figure, write_result
from steps.core.files import write_jsonl
from steps.data import decontaminate, dedup, filter, ingest
from steps.data.rows import Ledger, RowProblem, prompt_of, read_rows

DEDUP = {"short_answer_words": 5, "threshold": 0.7, "shingle_words": 3, "numbers_must_match": True}
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
FUNCTION_WORDS = (
    "a an and are as at be by for from has have he her his how in is it its of on or she that the they this to was"
)
FUNCTION_WORDS += " were what when which who will with"
# At which the peak of memory and the growth of time have a bar.
MILLION = 1_000_000
TARGETS = {"ingest": 60_000, "filter": 9_000, "dedup": 6_000, "decontaminate": 16_000}
PEAK_MIB, LEAST_RATIO = 1024, 0.8


def invented(rng: Random) -> list[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return ["".join(rng.choices(letters, k=rng.randint(4, 9))) for _ in range(5000)] + FUNCTION_WORDS.split() * 20


def generate_template(path: Path, rows: int) -> None:
    """Raw rows of one instruction of 30 words, ten words of their own and one label."""
    rng = Random(0)
    vocabulary = invented(rng)
    instruction = " ".join(rng.choices(vocabulary, k=30))
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(rows):
            prompt = f"{instruction}: {' '.join(rng.choices(vocabulary, k=10))}?"
            file.write(json.dumps({"prompt": prompt, "response": "an_intent"}) + "\n")


def generate_distinct(path: Path, rows: int) -> None:
    """Raw rows of about 45 words; one in twenty repeats an earlier one, one in twenty is an earlier one reworded."""
    rng = Random(0)
    vocabulary = invented(rng)
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
    for row in read_rows(folder / "rows.jsonl"):
        # Words of random letters: some rows read as another language.
        with contextlib.suppress(RowProblem):
            filter.check(row, FILTER)


def stage_dedup(folder: Path) -> None:
    dedup.main(argparse.Namespace(settings=DEDUP, input=folder / "rows.jsonl", out=folder / "dedup"))


def stage_decontaminate(folder: Path) -> None:
    """The prompts of the first rows are the items of an evaluation set."""
    rows = islice(read_rows(folder / "rows.jsonl"), EVAL_ITEMS)
    write_jsonl(folder / "items.jsonl", ({"prompt": prompt_of(row)} for row in rows))
    paths = {"input": folder / "rows.jsonl", "eval": [folder / "items.jsonl"], "out": folder / "decontaminate"}
    decontaminate.main(argparse.Namespace(settings=DECONTAMINATE, **paths))


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
    made = {
        "distinct": (generate_distinct, args.rows),
        "template": (generate_template, args.rows),
        "tenth": (generate_template, args.rows // 10),
    }
    figures, rates = [], {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        for kind, (generate, rows) in made.items():
            folder = Path(name, kind)
            folder.mkdir()
            generate(folder / "raw.jsonl", rows)
            for stage in STAGES:
                run = measure(stage, folder)
                rates[kind, stage] = rows / run["seconds"]
                if kind == "tenth":
                    continue
                what = f"{stage}, {rows:,} {'rows' if kind == 'distinct' else 'rows of one template'}"
                least = TARGETS[stage] if kind == "distinct" else None
                figures.append(figure(what, [rates[kind, stage]], "rows/s and core", least=least))
                most = PEAK_MIB if rows >= MILLION else None
                figures.append(figure(f"{what}: peak memory", [run["peak_mib"]], "MiB", most=most))
            shutil.rmtree(folder)
    for stage in STAGES:
        ratio = rates["template", stage] / rates["tenth", stage]
        what = f"{stage}, rows of one template: rate at {args.rows:,} to that at {args.rows // 10:,}"
        figures.append(figure(what, [ratio], least=LEAST_RATIO if args.rows >= MILLION else None))
    write_result(args.out, __doc__, figures, {"rows": args.rows})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "clean", {"rows": 300})
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--folder", type=Path, help="folder for the generated rows, about 1.5 KB a row; default: /tmp")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        run_stage(given.stage, given.folder)
    else:
        main(given)
