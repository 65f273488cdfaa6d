"""The report's section on stability and plasticity, from an invented arena: numbers, claims, correlations, paths."""

import csv
import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from steps import figures, peft_arena, stability, stability_claims, stability_stats, stability_words, tables
from steps.arms import Arm, Checkpoint, arms_of, difference
from steps.common import read_json, write_json, write_text
from tests.test_report import GENERAL, Page, fake_run, greedy_marks, make, node, read_table, write_checkpoint
from tests.test_report import arm as scored
from tests.test_report import write_evaluation

# Adapter → (its settings, target, general, drift, trained parameters). Drift and forgetting rise together.
ARENA = {
    "full": ({}, 0.95, 0.60, 0.55, 889_984),
    "lora": ({"r": 8, "alpha": 16}, 0.84, 0.74, 0.35, 61_440),
    "rslora": ({"r": 8, "alpha": 16}, 0.86, 0.72, 0.38, 61_440),
    "dora": ({"r": 8, "alpha": 16}, 0.85, 0.75, 0.34, 66_000),
    "pissa": ({"r": 8, "alpha": 16}, 0.9, 0.48, 0.8, 61_440),
    "milora": ({"r": 8, "alpha": 16}, 0.83, 0.74, 0.36, 61_440),
    "qlora": ({"r": 8, "alpha": 16}, 0.8, 0.73, 0.37, 61_440),
    "adalora": (
        {"init_r": 12, "target_r": 8, "alpha": 16, "tinit": 0.1, "tfinal": 0.3, "every": 10, "orthogonality": 0.5},
        0.7, 0.78, 0.26, 92_160,
    ),
    "oft": ({"block_size": 32}, 0.83, 0.86, 0.17, 111_000),
    "boft": ({"block_size": 8, "factors": 2}, 0.78, 0.87, 0.15, 50_000),
    "vera": ({"r": 256}, 0.4, 0.93, 0.05, 8_000),
    "ia3": ({}, 0.25, 0.94, 0.04, 2_048),
}  # fmt: skip
# Recipe → (settings, end, target and general score at its chosen point).
PATHS = {
    "path_full": ({"path": "additive", "rewind": "uniform"}, "full", (0.9, 0.78)),
    "path_oft": ({"path": "cayley", "generator": "sqrt", "rewind": "uniform"}, "oft", (0.82, 0.92)),
    "path_oft_dense": ({"path": "additive", "rewind": "uniform"}, "oft", (0.8, 0.88)),
}
TRAIL = {"choose": {"kind": "budget", "loss": 0.05}, "target": ["fable_dev"], "general": ["fable_facts_dev"]}
MERGES = {
    "ties": {"method": "ties", "weights": [0.5, 0.5], "density": 0.5, "scale": 1.0},
    "slerp": {"method": "slerp", "t": 0.5},
}
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
LAYERS, KINDS = 4, ("q_proj", "down_proj")
ROOT = (0.11, 0.03, 0.95, 0.1)


def write_geometry(results: Path, name: str, drift: float, draw: random.Random) -> None:
    rows = []
    for layer in range(LAYERS):
        for kind in KINDS:
            near = drift * draw.uniform(0.9, 1.1) * (1 + layer / LAYERS)
            noise = draw.uniform(0.2, 0.9)
            row = {"frobenius": 8 * near, "relative_frobenius": near / 2, "spectral": near, "relative_spectral": near}
            row |= {"stable_rank": 3 * noise, "retention": near, "adaptation": near}
            for axis in ("target", "general"):
                row |= {f"csd_abs_{axis}": near * 2, f"csd_rel_{axis}": noise * near**2, f"csd_un_{axis}": near / 9}
                row |= {f"procrustes_{axis}": near / 2, f"procrustes_raw_{axis}": near, f"gram_{axis}": near / 1.5}
                row |= {f"cka_{axis}": 1 - near / 3, f"cosine_{axis}": near / 10}
            rows.append({"module": f"model.layers.{layer}.{kind}", "layer": layer, "kind": kind} | row)
    lines = [",".join(rows[0]), *(",".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows)]
    folder = results / "geometry" / name
    write_text(folder / "modules.csv", "\n".join(lines) + "\n")
    summary = {key: fmean(row[key] for row in rows) for key in rows[0] if key not in ("module", "layer", "kind")}
    write_json(folder / "geometry.json", {"base": "base", "checkpoint": name, "moved": len(rows), "summary": summary})
    write_json(folder / "manifest.json", {"step": "geometry", "outputs": {}, "counts": {}})


def scores_along(end: tuple[float, float], straight: bool, alpha: float) -> tuple[float, float]:
    """Target rises fast; general falls late, on a path of rotations later."""
    target = ROOT[0] + (end[0] - ROOT[0]) * alpha**0.5
    general = ROOT[2] + (end[1] - ROOT[2]) * alpha ** (1.3 if straight else 3)
    return target, general


def write_path(folder: Path, settings: dict, end: tuple[float, float], draw: random.Random) -> None:
    points = []
    for alpha in ALPHAS:
        both = scores_along(end, settings["path"] == "additive", alpha)
        row = {"alpha": alpha, "tasks": {}}
        for axis, value in zip(("target", "general"), both, strict=True):
            value = min(1.0, value + draw.uniform(-0.01, 0.01))
            row[axis] = {"value": value, "stderr": math.sqrt(value * (1 - value) / 400), "n": 400}
        points.append(row)
    found = {key: settings[key] for key in ("path", "rewind")} | {"start": "base", "end": "end", "scales": {}}
    rule = "the best target score among the points whose general score is at most 0.05 below the start's"
    write_json(folder / "path.json", found | {"rule": rule, "chosen": 0.5, "points": points})


def arena_run(
    root: Path, *, seeds=(0,), kinds=tuple(ARENA), paths=tuple(PATHS), merges=True, geometry=True, grid=False, seconds=31.0
) -> dict:
    """An invented run with an arena; returns the settings for the report."""
    settings = fake_run(root, data=False, seconds=seconds)
    results, draw = root / "results/fable", random.Random(5)
    nodes = []

    def add(recipe, stage, parents, seed, skill, drift, point=None, **own):
        tail = "" if len(seeds) == 1 else f"-s{seed}"
        name = recipe + "".join(f"-{key}={value}" for key, value in (point or {}).items()) + tail
        parents = [parent if parent == "base" else parent + tail for parent in parents]
        made = node(name, stage, parents, recipe=recipe, seed=seed, point=point, root=root, **own) | {"study": "arena"}
        nodes.append(made)
        folder = Path(made["folder"])
        write_checkpoint(folder, name, draw, stage == "sft", seconds * draw.uniform(0.8, 1.6))
        shaken = [min(1.0, s + draw.uniform(-0.01, 0.01)) for s in skill]
        write_evaluation(results, name, (shaken[0], shaken[0] / 3, shaken[1], shaken[0]), draw, sampled=False)
        if geometry:
            write_geometry(results, name, drift * draw.uniform(0.9, 1.1), draw)
        return folder

    for seed in seeds:
        for kind in kinds:
            own, target, general, drift, trained = ARENA[kind]
            adapter = {"kind": kind, **own}
            points = [{"learning_rate": rate} for rate in (1e-3, 3e-3)] if grid and kind == "milora" else [None]
            for point in points:
                worse = 0.1 if point and point["learning_rate"] == 3e-3 else 0.0
                skill = (target - worse, general - worse)
                folder = add(kind, "sft", ["base"], seed, skill, drift, point, adapter=adapter)
                manifest = read_json(folder / "manifest.json")
                manifest["counts"] = {"parameters": {"trained": trained, "total": 889_984}}
                write_json(folder / "manifest.json", manifest)
        for recipe in paths:
            own, end, skill = PATHS[recipe]
            drift = ARENA[end][3] / 2
            folder = add(recipe, "interpolate", ["base", end], seed, skill, drift, **own, **TRAIL)
            write_path(folder, own, ARENA[end][1:3], draw)
        if merges:
            for recipe, own in MERGES.items():
                add(recipe, "merge", ["full", "lora"], seed, (0.9, 0.75), 0.3, **own)
            for weights in ([0.75, 0.25], [0.5, 0.5]):
                point = {"weights": weights}
                add("soup", "merge", ["full", "lora"], seed, (0.88, 0.73), 0.3, point, method="linear", weights=weights)
    settings["seeds"] = list(seeds)
    settings["graph"]["nodes"] += nodes
    settings["graph"]["checkpoints"] += [n["name"] for n in nodes]
    settings["graph"]["geometry"] = [n["name"] for n in nodes]
    return settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("stability")
    settings = arena_run(root, seeds=(0, 1, 2))
    return root, settings, make(root, settings)
