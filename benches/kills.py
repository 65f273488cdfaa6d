"""Runs over a finished workload that are killed at random moments: do they end in the bytes of undisturbed ones?

Before each kill a setting, the rows or a line of code change, drawn by the seed. Killed are Snakemake with its steps,
alone (its steps live on), or one step. After some kills the run goes to its end and every file is compared with those
of a copy that saw the same changes and no kill.

Run as: python -m benches.kills --rounds 10 --kills 10
"""

import argparse
import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from benches.common import bench_parser, figure, write_result
from steps.core.files import write_jsonl
from tests import small

# Whose comments change: each is the code of other results.
SOURCES = ("data/filter.py", "recipes/merge.py", "evaluation/evaluate.py", "training/packing.py")
# Seconds after which a run is killed at the earliest: as it plans.
EARLIEST = 1


def change(folder: Path, draw: random.Random) -> str:
    """A setting, the rows or a line of code; says which."""
    kind = draw.choice(("setting", "rows", "code"))
    if kind == "setting":
        rate = round(draw.uniform(1e-4, 2e-3), 6)
        small.write_settings(folder, {"studies": {"foundation": {"recipes": {"lora": {"learning_rate": rate}}}}})
    elif kind == "rows":
        write_jsonl(folder / small.ROWS, small.rows(60)[: draw.randint(40, 59)])
    else:
        file = folder / "steps" / draw.choice(SOURCES)
        file.write_text(f"{file.read_text()}\n# {draw.random()}\n")
    return kind


def kill(folder: Path, draw: random.Random, latest: float) -> str:
    """Start a run and kill it at a moment that is drawn; says who died."""
    who, left = draw.choice(("all", "snakemake", "step")), draw.uniform(EARLIEST, latest)
    process = subprocess.Popen(
        small.command(), cwd=folder, env=small.environment(folder, "steps"), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while left > 0 and process.poll() is None:
        time.sleep(0.1)
        left -= 0.1
    if process.poll() is not None:
        return "ended before"
    with contextlib.suppress(ProcessLookupError):
        if who == "all":
            os.killpg(process.pid, signal.SIGKILL)
        elif who == "snakemake":
            process.kill()
        else:
            search = ["pgrep", "--pgroup", str(process.pid), "--full", "python.* -m steps"]
            for pid in subprocess.run(search, capture_output=True, text=True).stdout.split()[:1]:
                os.kill(int(pid), signal.SIGKILL)
    process.wait()
    return who


def hashes(folder: Path) -> dict[str, str]:
    """Every file that equal runs must make equal."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("results", "reports/small")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and not small.varies(path) and not path.name.startswith(".")
    }


def compare(
    disturbed: Path, calm: Path, kills: int, draw: random.Random, latest: float
) -> tuple[list[list[str]], list[str]]:
    """What was changed and who was killed, one pair for each kill; and the files in which the two folders end apart."""
    log = []
    for _ in range(kills):
        state = draw.getstate()
        change(calm, draw)
        draw.setstate(state)
        log.append([change(disturbed, draw), kill(disturbed, draw, latest)])
    for folder in (disturbed, calm):
        small.snakemake(folder)
    ours, theirs = hashes(disturbed), hashes(calm)
    return log, sorted(file for file in ours.keys() | theirs.keys() if ours.get(file) != theirs.get(file))


def main(args: argparse.Namespace) -> None:
    draw = random.Random(args.seed)
    log: list[list[str]] = []
    apart: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        disturbed, calm = Path(scratch, "disturbed"), Path(scratch, "calm")
        small.finished(calm, args.run)
        shutil.copytree(calm, disturbed, symlinks=True)
        for _ in range(args.rounds):
            done, differ = compare(disturbed, calm, args.kills, draw, args.latest)
            log, apart = log + done, apart + differ
            print(f"kills: {len(log)} of {args.rounds * args.kills}, files that differ: {len(apart)}", flush=True)
    killed = [who for _, who in log if who != "ended before"]
    figures = [
        figure("runs that were killed", [len(killed)]),
        figure("files that differ from those of undisturbed runs", [len(apart)], most=0),
    ]
    write_result(args.out, __doc__, figures, {"seed": args.seed, "log": log, "apart": apart})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "kills", {"rounds": 1, "kills": 1})
    parser.add_argument("--rounds", type=int, default=10, help="how often the two folders are compared")
    parser.add_argument("--kills", type=int, default=10, help="kills between two comparisons")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--latest", type=float, default=25, help="seconds: a run takes them on two quiet cores")
    parser.add_argument("--run", type=Path, help="a finished run to copy; made without it")
    main(parser.parse_args())
