"""A project of one step of a few lines, for tests of what all steps share."""

import json
import os
import subprocess
import sys
from pathlib import Path

STEP = """
import argparse, time
from pathlib import Path
from steps.core.files import fresh_folder, write_json, read_json
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser

def main(args):
    started = time.time()
    value = read_json(args.data)
    out = fresh_folder(args.out)
    write_json(out / "double.json", {"value": 2 * value["value"] * args.settings["times"]})
    with open(args.log, "a") as log:
        log.write("ran ")
    write_manifest(out, step="double", settings=args.settings, inputs=[args.data], started=started)

if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--log")
    run(main, parser)
"""


def run(folder: Path, times: int = 1, expect: int = 0, data: str = "data.json") -> str:
    words = ["--settings", json.dumps({"times": times}), "--data", data, "--log", "ran.txt", "--out", "out/it"]
    done = subprocess.run(
        [sys.executable, "-m", "steps.toy.double", *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


def times_run(folder: Path) -> int:
    return len((folder / "ran.txt").read_text().split())


def flip(path: Path, place: int = -3) -> None:
    """Another byte at a place, and the time of before."""
    status, content = path.stat(), bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
