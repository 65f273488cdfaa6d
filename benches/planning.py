"""Time until Snakemake knows its jobs: `snakemake --dry-run` of a graph of 1,000 recipes, and of the workload's own.

The large graph is fable's with `--studies` x `--chains` of each kind of `recipes_of` beside it, in studies of their
own: full
and LoRA fine-tunings, merges, a path, reinforcement learning, distillation from samples and on-policy, each measured,
with its geometry and, in one study of ten, its exploration. Every chain starts at a fine-tuning with a learning rate of
its own, so that no two recipes are one job.

parse       seconds from the start until Snakemake has read the rules: imports, the check of the settings, the graph.
total       seconds of the whole command, with nothing made yet.
processor   seconds of a processor that it took, whoever else is on the machine.
jobs        how many it planned.

The bound is on the median total of the large graph, on a machine with nothing else to do: the load is written down.

Run as: python -m benches.planning
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benches.common import bench_parser, figure, write_result
from steps.core.step import run
from steps.graph import workload

BOUND = 15.0
TIMED = ("large", "total")


def recipes_of(chain: str, rate: float) -> dict[str, dict]:
    """Ten recipes of mixed stages that hang together, named after their chain."""
    full, lora, grpo = f"full_{chain}", f"lora_{chain}", f"grpo_{chain}"
    return {
        full: {"stage": "sft", "from": "base", "data": "problems", "learning_rate": rate},
        lora: {
            "stage": "sft",
            "from": "base",
            "data": "problems",
            "learning_rate": rate,
            "adapter": {"kind": "lora", "r": 8, "alpha": 16},
        },
        f"told_{chain}": {"stage": "sft", "from": full, "data": "told"},
        grpo: {"stage": "rl", "from": full, "data": "exercises"},
        f"srpo_{chain}": {"stage": "rl", "from": full, "data": "exercises", "method": "srpo"},
        f"opd_{chain}": {"stage": "opd", "from": full, "data": "exercises", "teachers": [grpo]},
        f"cold_{chain}": {"stage": "distill", "from": "base", "data": "practice", "teachers": [full]},
        f"blend_{chain}": {"stage": "merge", "from": [full, lora]},
        f"ties_{chain}": {"stage": "merge", "from": [full, lora], "method": "ties"},
        f"path_{chain}": {"stage": "interpolate", "from": ["base", full]},
    }


def overlay(count: int, chains: int) -> dict:
    """What is laid over the embedded workload."""
    studies = {}
    for study in range(count):
        recipes: dict[str, dict] = {}
        for chain in range(chains):
            rate = round(1e-3 * (1 + (study * chains + chain) / 1000), 9)
            recipes |= recipes_of(f"{study}_{chain}", rate)
        studies[f"study_{study}"] = {"geometry": True, "explore": study == 0, "recipes": recipes}
    return {"extends": str(Path(workload.EMBEDDED).resolve()), "workload": "planning", "studies": studies}


def plan(*arguments: str) -> dict[str, float]:
    """Seconds and jobs of a dry run.

    Raises:
        ValueError: Snakemake refused it.
    """
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "rules", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    parsed, lines = None, []
    for line in process.stdout:
        # The first line that Snakemake prints once the rules are read.
        if parsed is None and line.startswith("Building DAG"):
            parsed = time.perf_counter() - began
        lines.append(line)
    if process.wait():
        raise ValueError(f"{' '.join(command)} failed: {lines[-1] if lines else 'it printed nothing'}")
    total = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    jobs = next(int(match[1]) for line in lines if (match := re.match(r"total\s+(\d+)", line)))
    return {"parse": parsed, "total": total, "processor": processor, "jobs": jobs}


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "planning.yaml")
        content = overlay(args.studies, args.chains)
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        # Both under a name of their own: with nothing made yet, also where the workload is finished.
        graphs = {"large": ["--configfile", str(file)], "own": ["--config", "workload=planning_own"]}
        rounds: dict[str, list[dict]] = {name: [] for name in graphs}
        for index in range(args.rounds):
            for name, arguments in graphs.items():
                rounds[name].append(plan(*arguments) | {"load": os.getloadavg()[0]})
                print(f"round {index + 1}: {name} {rounds[name][-1]['total']:.1f} s", flush=True)
    recipes = sum(len(study["recipes"]) for study in content["studies"].values())
    titles = {"large": f"{recipes:,} recipes", "own": "the default workload"}
    figures = [
        figure(
            f"{titles[name]}: {what}",
            [of[key] for of in rounds[name]],
            "s",
            most=BOUND if (name, key) == TIMED else None,
        )
        for name in graphs
        for key, what in (("total", "seconds of a dry run"), ("processor", "seconds of a processor"))
    ]
    write_result(args.out, __doc__, figures, {"recipes": recipes, "rounds": rounds})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "planning", {"rounds": 1, "studies": 1, "chains": 1})
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--studies", type=int, default=10)
    parser.add_argument("--chains", type=int, default=10, help="of ten recipes, in each study")
    run(main, parser)
