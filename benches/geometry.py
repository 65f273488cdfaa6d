"""Seconds and peak memory of geometry for one pair of models, and what the token cap adds to its memory.

Each run is a process of its own, as the rule starts it, so that its seconds are those one waits (imports too) and its
peak memory is its own. The time is that of the default settings; the CPU seconds beside it tell a busy machine. Memory
is measured at growing caps: what one token more costs, against the outputs of both models at the compared layers, which
the step says it holds. A cap beyond the tokens that the prompts have changes nothing.

Run as: python -m benches.geometry --checkpoint results/fable/foundation/sft
    --evaluation results/fable/evaluation/base --out reports/bench/geometry.json
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benches.common import bench_parser, figure, write_result
from steps.core.files import read_json
from steps.core.promises import PROVENANCE
from steps.core.step import run
from steps.graph import workload

BAR_SECONDS = 20


def measure(args: argparse.Namespace, settings: dict) -> dict:
    """Seconds, CPU seconds of all threads, peak memory in MiB and the tokens read of the longer axis."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "geometry"
        command = [
            sys.executable,
            "-m",
            "steps.stability.geometry",
            "--settings",
            json.dumps(settings),
            "--out",
            str(out),
        ]
        command += ["--base", str(args.base), "--checkpoint", str(args.checkpoint)]
        command += ["--samples", str(args.evaluation / "samples.jsonl")]
        command += ["--evaluation", str(args.evaluation / "results.json")]
        environment = os.environ | {"OMP_NUM_THREADS": str(args.threads)}
        began, used = time.perf_counter(), cpu_seconds()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        return {
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(cpu_seconds() - used, 2),
            "peak_mib": read_json(out / PROVENANCE)["peak_memory_mib"],
            "tokens": max(read_json(out / "geometry.json")["tokens"].values()),
        }


def cpu_seconds() -> float:
    """Of the processes that have been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def held(base: Path) -> int:
    """Bytes per token of the outputs of two models at all linear layers of their blocks, float32."""
    import torch

    from steps.models import checkpoints
    from steps.stability import compared

    layers = compared.linear_layers(checkpoints.load_model(base, torch.float32), None)
    return 2 * 4 * sum(layer.out_features for layer in layers.values())


def main(args: argparse.Namespace) -> None:
    settings = workload.load(Path())[0]["geometry"]
    rounds = []
    for index in range(args.rounds):
        rounds.append(measure(args, settings))
        print(f"round {index + 1}: {rounds[-1]['seconds']:.1f} s, {rounds[-1]['cpu_seconds']:.1f} s of CPU", flush=True)

    caps = []
    for cap in args.caps:
        caps.append(measure(args, settings | {"tokens": cap, "prompts": 1_000_000}))
        print(f"cap {cap:,}: {caps[-1]['tokens']:,} tokens, peak {caps[-1]['peak_mib']:,.0f} MiB", flush=True)
    expected = held(args.base)
    growth = []
    for few, many in zip(caps, caps[1:], strict=False):
        found = (many["peak_mib"] - few["peak_mib"]) * 2**20 / max(1, many["tokens"] - few["tokens"])
        growth.append(round(found / expected, 3))
        print(f"{few['tokens']:,} to {many['tokens']:,} tokens: {found:,.0f} bytes a token, {growth[-1]:.2f} of held")
    figures = [
        figure("seconds of a pair of models", [run["seconds"] for run in rounds], "s", most=BAR_SECONDS),
        figure("bytes a token of the cap, of the outputs that are held", growth),
    ]
    detail = {"rounds": rounds, "threads": args.threads, "caps": caps, "held_bytes_per_token": expected}
    write_result(args.out, __doc__, figures, detail)


if __name__ == "__main__":
    parser = bench_parser(__doc__, "geometry", {"rounds": 1, "caps": (64, 128), "threads": 1})
    parser.add_argument("--base", type=Path, default=Path("data/fable/base"))
    parser.add_argument("--checkpoint", type=Path, default=Path("results/fable/foundation/sft"))
    parser.add_argument("--evaluation", type=Path, default=Path("results/fable/evaluation/base"))
    parser.add_argument(
        "--caps", type=int, nargs="+", default=(2048, 4096, 8192, 16384), help="tokens whose memory is compared"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    run(main, parser)
