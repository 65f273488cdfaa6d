"""Measure the cleaning of rows and their tokenisation: rows per second and core, and peak memory, on generated rows.

Each stage runs in a process of its own, so that its peak memory is its own. Rates are rows per second of CPU time:
one core, and no waiting for others. Rows of one template share an instruction and a label; a tenth of as many are
cleaned too, for the time has to grow with the rows and not faster. Distinct rows, which are longer, are as many as that
tenth. They are cleaned by two processes as well, by the clock.

Run as: python -m benches.clean --rows 1000000 --out reports/bench/clean.json
"""

import argparse
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
from typing import Any

from benches.common import bench_parser, figure, write_result
from steps.core.files import write_jsonl
from steps.data import decontaminate, dedup, filter, ingest, split
from steps.data.rows import Ledger, prompt_of, read_rows

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
SPLIT = {"valid_share": 0.05, "seed": 0}
TOKENISE = {"completion_only_loss": True, "max_length": 4096, "thinking": "kept"}
TOKENIZER = Path("data/fable/base")
# Of so many rows one is tokenised: it takes longer than all other stages together.
TOKENISED = 20
EVAL_ITEMS = 2000
FUNCTION_WORDS = (
    "a an and are as at be by for from has have he her his how in is it its of on or she that the they this to was"
)
FUNCTION_WORDS += " were what when which who will with"
# At which the peak of memory and the growth of time have a bar.
MILLION = 1_000_000
TARGETS = {"ingest": 60_000, "filter": 9_000, "dedup": 6_000, "decontaminate": 16_000, "tokenise": 1_700}
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


def stage_ingest(folder: Path, cores: int) -> None:
    ledger = Ledger(folder, "ingest")
    source = {"path": folder / "raw.jsonl", "format": "prompt_response"}
    ingest.ingest_source(source, 1_000_000, ledger, cores=cores)
    ledger.close()


def stage_filter(folder: Path, cores: int) -> None:
    """Of words of random letters: some rows read as another language."""
    run_step(filter, folder, cores, FILTER)


def stage_dedup(folder: Path, cores: int) -> None:
    run_step(dedup, folder, cores, DEDUP)


def stage_decontaminate(folder: Path, cores: int) -> None:
    """The prompts of every second of the first rows are the items of an evaluation set."""
    rows = islice(read_rows(folder / "rows.jsonl"), 0, 2 * EVAL_ITEMS, 2)
    write_jsonl(folder / "items.jsonl", ({"prompt": prompt_of(row)} for row in rows))
    run_step(decontaminate, folder, cores, DECONTAMINATE, eval=[folder / "items.jsonl"])


def stage_split(folder: Path, cores: int) -> None:
    run_step(split, folder, cores, SPLIT)


def stage_tokenise(folder: Path, cores: int) -> None:
    from steps.training.supervised import encode_rows

    with open(folder / "rows.jsonl", "rb") as rows, open(folder / "tokenised.jsonl", "wb") as some:
        some.writelines(islice(rows, 0, None, TOKENISED))
    encode_rows(folder / "tokenised.jsonl", loaded_tokenizer(), TOKENISE)


def loaded_tokenizer() -> Any:
    from steps.models import checkpoints

    return checkpoints.load_tokenizer(TOKENIZER)


def run_step(step: Any, folder: Path, cores: int, settings: dict, **more: Any) -> None:
    out = folder / step.__name__.rpartition(".")[2]
    step.main(argparse.Namespace(settings=settings, input=folder / "rows.jsonl", out=out, cores=cores, **more))


STAGES = {name.removeprefix("stage_"): function for name, function in globals().items() if name.startswith("stage_")}
IN_SEVERAL = ("ingest", "filter", "dedup", "decontaminate")


def measure(stage: str, folder: Path, cores: int = 1) -> dict:
    """Seconds and peak memory of one stage, in a process of its own."""
    command = [sys.executable, "-m", "benches.clean", "--stage", stage, "--folder", str(folder), "--cores", str(cores)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_stage(stage: str, folder: Path, cores: int) -> None:
    if stage == "tokenise":
        # Not to be measured: to import transformers takes as long as a thousand rows.
        loaded_tokenizer()
    began, clock = time.process_time(), time.perf_counter()
    STAGES[stage](folder, cores)
    measured = {"seconds": time.process_time() - began, "clock": time.perf_counter() - clock}
    measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(measured))


def rows_of(stage: str, rows: int) -> int:
    """Of so many rows, how many a stage has."""
    return -(-rows // TOKENISED) if stage == "tokenise" else rows


def main(args: argparse.Namespace) -> None:
    made = {
        "distinct": (generate_distinct, args.rows // 10),
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
                done = rows_of(stage, rows)
                run = measure(stage, folder)
                rates[kind, stage] = done / run["seconds"]
                if kind == "tenth":
                    continue
                what = f"{stage}, {done:,} {'rows' if kind == 'distinct' else 'rows of one template'}"
                least = TARGETS.get(stage) if kind == "distinct" else None
                figures.append(figure(what, [rates[kind, stage]], "rows/s and core", least=least))
                most = PEAK_MIB if rows >= MILLION else None
                figures.append(figure(f"{what}: peak memory", [run["peak_mib"]], "MiB", most=most))
                if kind == "distinct" and stage in IN_SEVERAL:
                    rate = done / measure(stage, folder, cores=2)["clock"]
                    figures.append(figure(f"{what}, two processes", [rate], "rows/s"))
            shutil.rmtree(folder)
    for stage in STAGES:
        ratio = rates["template", stage] / rates["tenth", stage]
        many, few = rows_of(stage, args.rows), rows_of(stage, args.rows // 10)
        what = f"{stage}, rows of one template: rate at {many:,} to that at {few:,}"
        figures.append(figure(what, [ratio], least=LEAST_RATIO if args.rows >= MILLION else None))
    write_result(args.out, __doc__, figures, {"rows": args.rows})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "clean", {"rows": 300})
    parser.add_argument("--rows", type=int, default=MILLION)
    parser.add_argument("--folder", type=Path, help="folder for the generated rows, about 1.5 KB a row; default: /tmp")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        run_stage(given.stage, given.folder, given.cores)
    else:
        main(given)
