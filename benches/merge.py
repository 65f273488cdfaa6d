"""Memory and rate of a streamed merge of generated checkpoints, beside the machine's plain file copy.

peak    the largest resident memory of a process that merges (VmHWM: Python, torch and its libraries included, nothing
        subtracted), as a share of the largest shard. Bound: 2.
rate    bytes read and written per second, as a multiple of that of `cp` of one parent. A merge reads the files of each
        parent (and of the base) once and writes a checkpoint; what it reads again is its own affair. Bound: 0.5.
output  bytes written per second, as a multiple of cp's: the stricter view, for two parents are read to write one.

Before each measurement the inputs are dropped from the page cache, and the clock runs until the outputs are synced to
the disk. `merge` is reading, merging and writing. `step` is the whole of `python -m steps.recipes.merge`, which also
starts Python, verifies the sha256 of every input and takes that of its output. Copy and merges follow each other in
every round, so that a slow minute of the machine meets them all; each round gives one ratio.

Run as: python -m benches.merge --out reports/bench/merge.json
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from zlib import crc32

from benches.common import bench_parser, figure, write_result
from steps.core.files import write_json
from steps.core.manifest import write_manifest
from steps.core.step import run
from steps.models import checkpoints
from steps.models.weights import Weights, write_safetensors
from steps.recipes import merge
from steps.settings.merging import MERGES

BOUNDS = {"peak": 2.0, "rate": 0.5}
SETTINGS = {
    "linear": {"weights": [0.5, 0.5]},
    "slerp": {"t": 0.5},
    "task_arithmetic": {"weights": [0.5, 0.5], "scale": 1.0},
    "ties": {"weights": [0.5, 0.5], "density": 0.5, "scale": 1.0},
    "dare_linear": {"weights": [0.5, 0.5], "density": 0.5, "scale": 1.0, "seed": 0},
    "dare_ties": {"weights": [0.5, 0.5], "density": 0.5, "scale": 1.0, "seed": 0},
}


def generate(folder: Path, shards: int, shard_bytes: int, change: int) -> None:
    """A checkpoint of random bfloat16 weights: equal shards, in each a matrix of half its size and sixteen smaller.

    change: seed of what distinguishes it from the base that all have in common; 0 is that base.
    """
    import torch

    folder.mkdir(parents=True)
    sizes = [shard_bytes // 4] + [shard_bytes // 64] * 16
    files = [f"model-{shard + 1:05d}-of-{shards:05d}.safetensors" for shard in range(shards)]
    names = {file: [f"model.{file[6:11]}.{index:02}.weight" for index in range(len(sizes))] for file in files}

    def chunks(name: str) -> list:
        size = sizes[int(name[12:14])]
        torch.manual_seed(crc32(name.encode()))
        values = torch.randn(size).mul_(0.02)
        if change:
            torch.manual_seed(crc32(f"{change} {name}".encode()))
            values += torch.randn(size).mul_(0.002)
        return [values]

    for file in files:
        layout = {name: ("BF16", [64, size // 64]) for name, size in zip(names[file], sizes, strict=True)}
        write_safetensors(folder / file, layout, chunks)
    weight_map = {name: file for file in files for name in names[file]}
    write_json(folder / checkpoints.WEIGHTS_INDEX, {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", {"model_type": "llama"})
    write_json(folder / "tokenizer.json", {"model": {"vocab": {}}, "added_tokens": []})
    write_manifest(folder, step="generate", settings={}, inputs=[], started=time.time())


def sync(folder: Path) -> None:
    """Wait until a folder's files are on the disk; they then stay in the page cache without need."""
    for path in folder.iterdir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(command: list[str], inputs: list[Path], out: Path) -> tuple[dict, str]:
    """Wall clock of a command that writes a folder, from a cold cache until the folder is on the disk; what it printed.

    cpu_seconds tell of a machine that did other work beside.
    """
    shutil.rmtree(out, ignore_errors=True)
    for folder in inputs:
        sync(folder)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    sync(out)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": round(seconds, 3), "cpu_seconds": round(cpu, 3)}, done.stdout


def child(kind: str, method: str, inputs: list[Path], out: Path) -> None:
    """One merge in a process of its own; prints its seconds and its peak memory."""
    settings = {"method": method} | SETTINGS[method]
    parents, base = inputs[-2:], inputs[0] if MERGES[method].over_base else None
    began = time.perf_counter()
    if kind == "step":
        merge.main(argparse.Namespace(settings=settings, parents=parents, base=base, out=out))
    else:
        out.mkdir()
        models = [Weights(folder) for folder in parents]
        merge.write_weights(out, models, Weights(base) if base else None, settings)
        sync(out)
    seconds = time.perf_counter() - began
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": round(seconds, 3), "peak_mib": int(peak.split()[1]) // 1024}))


def measure(kind: str, method: str, folder: Path) -> dict:
    inputs = [folder / name for name in ("base", "first", "second")[not MERGES[method].over_base :]]
    command = [sys.executable, "-m", "benches.merge", "--child", kind, method, *map(str, inputs), str(folder / "out")]
    measured, text = timed(command, inputs, folder / "out")
    found = json.loads(text.splitlines()[-1])
    # The step as a user waits for it; the merge without Python's and torch's start.
    return measured | (found if kind == "merge" else {"peak_mib": found["peak_mib"]})


def main(args: argparse.Namespace) -> None:
    shard_bytes = args.mib * 2**20 // args.shards
    checkpoint = shard_bytes * args.shards
    result: dict = {"checkpoint_bytes": checkpoint, "shard_bytes": shard_bytes, "rounds": args.rounds}
    result |= {"bounds": BOUNDS, "methods": {}}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for change, parent in enumerate(("base", "first", "second")):
            generate(folder / parent, args.shards, shard_bytes, change)
        copies: list[dict] = []
        found: dict = {(method, kind): [] for method in args.methods for kind in ("merge", "step")}
        for index in range(args.rounds):
            command = ["cp", "-r", str(folder / "first"), str(folder / "copy")]
            copies.append(timed(command, [folder / "first"], folder / "copy")[0])
            shutil.rmtree(folder / "copy")
            print(f"round {index + 1}: cp {copies[-1]['seconds']:.1f} s", flush=True)
            for method, kind in found:
                found[method, kind].append(measure(kind, method, folder))
                last = found[method, kind][-1]
                print(f"  {method} {kind}: {last['seconds']:.1f} s, peak {last['peak_mib']:.0f} MiB", flush=True)
    result["cp"] = copies
    for (method, kind), measured in found.items():
        moved = 4 if MERGES[method].over_base else 3  # checkpoints read and written; cp: 2
        slower = [one["seconds"] / copy["seconds"] for one, copy in zip(measured, copies, strict=True)]
        entry = {
            "runs": measured,
            "rates": [moved / 2 / ratio for ratio in slower],
            "outputs": [1 / ratio for ratio in slower],
            "peaks": [one["peak_mib"] * 2**20 / shard_bytes for one in measured],
        }
        result["methods"].setdefault(method, {})[kind] = entry
    figures = []
    for method, kinds in result["methods"].items():
        figures.append(
            figure(f"{method}: peak memory, of the largest shard", kinds["merge"]["peaks"], most=BOUNDS["peak"])
        )
        figures.append(figure(f"{method}: bytes a second, of cp's", kinds["merge"]["rates"], least=BOUNDS["rate"]))
    write_result(args.out, __doc__, figures, result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], list(map(Path, sys.argv[4:-1])), Path(sys.argv[-1]))
        sys.exit()
    parser = bench_parser(__doc__, "merge", {"rounds": 1, "mib": 8, "methods": ["linear", "ties"]})
    parser.add_argument("--folder", type=Path, help="folder for the checkpoints, 5 times --mib; default: /tmp")
    parser.add_argument("--mib", type=int, default=1024, help="size of each checkpoint")
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    run(main, parser)
