"""A workload of half a minute, for tests of what runs leave: rows of our own, three checkpoints, their report."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from steps.core.files import write_jsonl, write_text
from steps.graph.workload import lay_over
from tests import warm

ROOT = Path(__file__).parents[1]
OVERLAY = "small.yaml"
ROWS, QUESTIONS, GENERAL = "rows/sums.jsonl", "rows/exam.jsonl", "rows/quiz.jsonl"
VARYING = ("provenance.json", "index.html", "reports/small/manifest.json")
NAMES = ("Tom", "Ann", "Ben", "Eva", "Max", "Ida", "Leo", "Mia")
THINGS = ("pens", "cups", "hats", "keys", "bags", "maps", "nuts", "toys")
EXAM = {"stock": "worked", "data_files": {"test": QUESTIONS}, "overrides": {"generation_kwargs": {"max_gen_toks": 8}}}
TASKS = {"exam": EXAM, "quiz": EXAM | {"data_files": {"test": GENERAL}}}
SMALL = {
    "workload": "small",
    "models": {"base": {"path": "data/fable/base"}},
    "data": {
        "problems": {
            "sources": [{"path": ROWS, "format": "prompt_response", "columns": {"prompt": "q", "response": "a"}}]
        }
    },
    "filter": {"language": None},
    "split": {"valid_share": 0.2},
    "bucket": {"samples": 2, "max_new_tokens": 8},
    "sft": {
        "epochs": 1,
        "batch_size": 8,
        "gradient_accumulation": 1,
        "warmup_ratio": 0.0,
        "learning_rate": 1.0e-3,
        "max_length": 128,
        "saves": 2,
    },
    "evaluate": {"target": ["exam"], "general": ["quiz"], "limit": 4, "tasks": TASKS},
    "studies": {
        "foundation": {
            "recipes": {
                "sft": {"stage": "sft", "from": "base", "data": "problems"},
                "lora": {
                    "stage": "sft",
                    "from": "base",
                    "data": "problems",
                    "adapter": {"kind": "lora", "r": 4, "alpha": 8},
                },
                "both": {"stage": "merge", "from": ["sft", "lora"], "method": "linear"},
            }
        }
    },
}


def rows(count: int, seed: int = 0) -> list[dict]:
    """Sums in words, no two alike."""
    draw = random.Random(seed)
    made = {}
    while len(made) < count:
        a, b, name, thing = draw.randint(2, 90), draw.randint(2, 90), draw.choice(NAMES), draw.choice(THINGS)
        question = f"{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have?"
        made[question] = {"q": question, "a": f"{a} + {b} = {a + b}\n#### {a + b}"}
    return list(made.values())


def write_settings(folder: Path, change: dict | None = None) -> None:
    """The overlay, with a change laid over it."""
    write_text(folder / OVERLAY, yaml.safe_dump(lay_over(SMALL, change or {}), sort_keys=False, allow_unicode=True))


def write(folder: Path, change: dict | None = None) -> Path:
    """The overlay, its rows and its questions, in a copy of the repository."""
    write_settings(folder, change)
    write_jsonl(folder / ROWS, rows(60))
    for seed, file in enumerate((QUESTIONS, GENERAL), 1):
        exam = [{"prompt": row["q"], "answer": row["a"].rpartition(" ")[2]} for row in rows(6, seed)]
        write_jsonl(folder / file, exam)
    return folder


def copy_of_the_repository(folder: Path) -> Path:
    """The files that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def varies(file: Path) -> bool:
    """Whether a file differs between equal runs: by times and hosts, or because it shows them."""
    return str(file).endswith(VARYING) or file.name.startswith("timing")


def finished(folder: Path, run: Path | None = None) -> Path:
    """A finished run, in a folder of its own: a copy of one, or made."""
    if run:
        shutil.copytree(run, folder, symlinks=True)
    else:
        snakemake(write(copy_of_the_repository(folder)))
    return folder


def environment(folder: Path, *forks: str) -> dict[str, str]:
    """Of a run that must not reach a network, with this interpreter's programs first.

    Args:
        forks: `steps`, `programs`: which of them are forks where the tests have a server for that.
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        **warm.variables(path, *forks),
        "PYTHONPATH": str(ROOT / "tests/offline"),
        "TEMPER_OFFLINE_LOG": str(folder / "reached_out.txt"),
        "TEMPER_TRUTH_LOG": str(folder / "opened_truth.txt"),
    }


def command(*arguments: str) -> list[str]:
    """Snakemake on the small workload; of the arguments the targets come first."""
    return ["snakemake", *arguments, "--cores", "2", "--configfile", OVERLAY]


def snakemake(folder: Path, *arguments: str, expect: int = 0) -> str:
    forks = environment(folder, "steps", "programs")
    done = subprocess.run(command(*arguments), cwd=folder, env=forks, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{' '.join(arguments)} ended with {done.returncode}:\n{output[-4000:]}"
    return output
