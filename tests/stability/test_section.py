"""The report's section on stability and plasticity, from an invented arena: numbers, claims, correlations, paths."""

import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy.stats import norm

from steps.core.files import read_json, read_jsonl, write_json, write_text
from steps.report import estimates, figures, logs, tables
from steps.report.candidates import candidates_of, difference, forgetting
from steps.report.claims import Evidence
from steps.report.gather import gather
from steps.stability.section import SECTION
from steps.stability.section import (
    claims as stability_claims,
)
from steps.stability.section import (
    facts as stability,
)
from steps.stability.section import (
    published as peft_arena,
)
from steps.stability.section import (
    statistics as stability_stats,
)
from steps.stability.section.catalogue import catalogue
from steps.stability.section.figures import layer_profile, stability_figures
from steps.stability.section.sentences import correlation_sentence
from steps.stability.section.tables import stability_tables
from tests.manifests import seal
from tests.report import test_report
from tests.report.test_report import (
    GENERAL,
    Page,
    fake_run,
    greedy_marks,
    lead,
    make,
    node,
    read_table,
    write_checkpoint,
    write_evaluation,
)

# Adapter → (its settings, target, general, drift, trained parameters). Drift and forgetting rise together.
ARENA = {
    "full": ({}, 0.95, 0.60, 0.55, 889_984),
    "lora": ({"r": 8, "alpha": 16}, 0.84, 0.74, 0.35, 61_440),
    "rslora": ({"r": 8, "alpha": 16}, 0.86, 0.72, 0.38, 61_440),
    "dora": ({"r": 8, "alpha": 16}, 0.85, 0.75, 0.34, 66_000),
    "pissa": ({"r": 8, "alpha": 16}, 0.9, 0.36, 0.8, 61_440),
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
    lines = [
        ",".join(rows[0]),
        *(",".join(f"{v:.9g}" if isinstance(v, float) else str(v) for v in row.values()) for row in rows),
    ]
    folder = results / "geometry" / name
    write_text(folder / "modules.csv", "\n".join(lines) + "\n")
    summary = {key: fmean(row[key] for row in rows) for key in rows[0] if key not in ("module", "layer", "kind")}
    write_json(folder / "geometry.json", {"base": "base", "checkpoint": name, "moved": len(rows), "summary": summary})
    seal(folder / "manifest.json", {"step": "geometry", "outputs": {}, "counts": {}})


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
            row[axis] = {"value": value, "stderr": None, "n": 400}
            row["tasks"][TRAIL[axis][0]] = {"axis": axis} | row[axis]
        points.append(row)
    found = {key: settings[key] for key in ("path", "rewind")} | {"start": "base", "end": "end", "scales": {}}
    rule = "the best target score among the points whose general score is at most 0.05 below the start's"
    write_json(folder / "path.json", found | {"rule": rule, "chosen": 0.5, "points": points})


def arena_run(
    root: Path,
    *,
    seeds=(0,),
    kinds=tuple(ARENA),
    paths=tuple(PATHS),
    merges=True,
    geometry=True,
    grid=False,
    seconds=31.0,
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
                seal(folder / "manifest.json", manifest)
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


def geometry_of(root: Path, name: str) -> dict[str, float]:
    return read_json(root / f"results/fable/geometry/{name}/geometry.json")["summary"]


def tables_of(root: Path, settings: dict) -> dict[str, tables.Table]:
    """The section's tables, without its page and figures."""
    found = SECTION.read(gather(settings, root / "results/fable", root / "reports/fable"))
    return {table.name: table for table in stability_tables(found)}


def arena_rows(out: Path) -> dict[str, dict]:
    return {row["checkpoint"]: row for row in read_table(out, "arena")}


# --- the published table -------------------------------------------------------------------------


def test_published_averages_of_forgetting_follow_from_the_published_table():
    """The averages that PEFT-Arena's page prints, where its table gives them."""
    found = {name: method.forgetting for name, method in peft_arena.methods().items()}
    printed = {"Full FT": 17.31, "LoRA r8a16": 15.97, "MiLoRA r8a16": 16.35, "PiSSA r8a16": 34.56}
    assert {name: found[name] for name in printed} == pytest.approx(printed, abs=0.006)
    assert peft_arena.family_forgetting("lora") == pytest.approx(15.70, abs=0.006)
    # Not of OFT: 11.20 was printed for its family, 7.81 for one of them.
    assert peft_arena.family_forgetting("oft") == pytest.approx(11.27, abs=0.006)
    assert min(abs(found[name] - 7.81) for name in found if name.startswith("OFT")) > 0.5


def test_averages_rest_on_one_of_two_sources():
    """Page and poster differ in some cells; with the others of these the printed averages do not come out."""
    rows = peft_arena.cells()
    twice = {(r["method"], r["model"], r["domain"]) for r in rows if not r["averaged"]}
    assert len(twice) == 4
    other = [r for r in rows if r["averaged"] == ((r["method"], r["model"], r["domain"]) not in twice)]
    found = {name: method.forgetting for name, method in peft_arena.methods(other).items()}
    assert abs(found["Full FT"] - 17.31) > 0.5
    assert abs(found["PiSSA r8a16"] - 34.56) > 0.5


def test_every_method_has_four_cells_and_a_kind_that_the_arena_knows():
    rows = [r for r in peft_arena.cells() if r["averaged"]]
    names = [r["method"] for r in rows]
    assert all(names.count(name) == 4 for name in names)
    assert {r["kind"] for r in rows} - {""} == peft_arena.REPRESENTS.keys()
    assert {peft_arena.methods()[name].kind for name in peft_arena.REPRESENTS.values()} == peft_arena.REPRESENTS.keys()


# --- statistics ----------------------------------------------------------------------------------


def test_interval_of_a_correlation():
    """Many points of an own recipe each: close to Fisher's, tanh(artanh r ± 1.96/√(n − 3))."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=300)
    y = 0.5 * x + draw.normal(size=300)
    found = stability_stats.correlation(x, y, [str(i) for i in range(300)], "pearson")
    z, half = math.atanh(np.corrcoef(x, y)[0, 1]), 1.96 / math.sqrt(297)
    assert found.value == pytest.approx(math.tanh(z))
    assert (found.low, found.high) == pytest.approx((math.tanh(z - half), math.tanh(z + half)), abs=0.03)


def test_grid_points_are_no_independent_evidence():
    """Every point four times under one recipe tells no more than once."""
    draw = np.random.default_rng(2)
    x, y = draw.normal(size=(2, 12))
    names = [f"{i:02d}" for i in range(12)]
    once = stability_stats.correlation(x, y, names, "spearman")
    often = stability_stats.correlation(np.repeat(x, 4), np.repeat(y, 4), np.repeat(names, 4).tolist(), "spearman")
    assert often.high - often.low == pytest.approx(once.high - once.low, rel=0.1)


def test_few_recipes_have_no_interval_and_equal_values_no_correlation():
    x, y, names = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 4.0, 3.0, 5.0, 6.0], list("abcdef")
    assert isinstance(stability_stats.correlation(x, y, names, "spearman"), tables.Estimate)
    assert stability_stats.correlation(x, y, list("abcdee"), "spearman") == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert stability_stats.correlation([0.1] * 6, y, names, "pearson") is None
    assert stability_stats.correlation(x[:2], y[:2], names[:2], "pearson") is None
    gap = stability_stats.correlation(x, y, names, "spearman", x)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_intervals_over_seeds():
    assert estimates.over_seeds([]) is None
    assert estimates.over_seeds([0.3]) == 0.3
    found = estimates.over_seeds([0.1, 0.2, 0.6])
    # The quantile of t with two degrees of freedom.
    half = 4.302653 * np.std([0.1, 0.2, 0.6], ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half))


def seeded(name: str, general: list[float], parents=("base",), **settings) -> list:
    """One node per seed; the answers of one are nested in those of the better one."""
    nodes = [test_report.candidate(f"{name}-s{i}", 0.5, value, parents) for i, value in enumerate(general)]
    return [replace(n, recipe=name, seed=i, settings=settings) for i, n in enumerate(nodes)]


def test_differences_of_two_seeded_arms_pair_the_seeds():
    """Two arms that move together over seeds: nothing is left of the spread of seeds."""
    base = test_report.candidate("base", 0.5, 0.95, (), stage="model")
    candidates = candidates_of([base, *seeded("a", [0.5, 0.6, 0.7]), *seeded("b", [0.4, 0.5, 0.6])])
    found = difference(candidates["a"], candidates["b"], "general")
    assert found.seed_values == pytest.approx([0.1, 0.1, 0.1])
    alone = difference(candidates["a"], candidates["base"], "general")
    assert found.high - found.low < (alone.high - alone.low) / 2
    # With other numbers of seeds both spreads count.
    candidates = candidates_of([base, *seeded("a", [0.5, 0.6, 0.7]), *seeded("b", [0.45, 0.55])])
    unpaired = difference(candidates["a"], candidates["b"], "general")
    spread = 1.959964 * math.hypot(0.1 / math.sqrt(3), math.sqrt(0.005) / math.sqrt(2))
    assert unpaired.high - unpaired.value > spread


def test_forgetting_is_what_the_general_axis_lost():
    candidates = candidates_of(
        [test_report.candidate("base", 0.1, 0.9, (), stage="model"), test_report.candidate("a", 0.5, 0.7)]
    )
    lost, change = (
        forgetting(candidates["a"], candidates["base"]),
        difference(candidates["a"], candidates["base"], "general"),
    )
    assert lost.value == pytest.approx(0.2)
    assert (lost.low, lost.high) == (-change.high, -change.low)


# --- the arena -----------------------------------------------------------------------------------


def test_arena_is_ranked_by_forgetting_and_counts_seeds_and_items(made):
    root, _, out = made
    rows = read_table(out, "arena")
    assert rows[0]["checkpoint"] == "base"
    lost = [float(row["forgetting"]) for row in rows[1:]]
    assert lost == sorted(lost)
    assert {row["checkpoint"] for row in rows[1:]} == ARENA.keys()  # no merges, no points of paths
    row = arena_rows(out)["oft"]
    base = {task: greedy_marks(root, "base", task).mean() for task in GENERAL}
    per_seed = [
        np.mean([base[t] - greedy_marks(root, f"oft-s{seed}", t).mean() for t in GENERAL]) for seed in (0, 1, 2)
    ]
    assert float(row["forgetting"]) == pytest.approx(np.mean(per_seed), abs=1e-5)
    assert float(row["forgetting_seed_sd"]) == pytest.approx(np.std(per_seed, ddof=1), abs=1e-5)
    assert (row["trained"], row["seeds"], row["adapter"]) == ("111000", "0 1 2", "oft b32")
    drift = [geometry_of(root, f"oft-s{seed}")["csd_un_general"] for seed in (0, 1, 2)]
    assert float(row["csd_un_general"]) == pytest.approx(np.mean(drift), rel=1e-5)
    assert float(row["csd_un_general_stderr"]) == pytest.approx(np.std(drift, ddof=1) / math.sqrt(3), rel=1e-5)


def changed(settings: dict, root: Path, name: str, **changes) -> dict:
    """The settings with one node changed."""
    settings = json.loads(json.dumps(settings))
    next(n for n in settings["graph"]["nodes"] if n["name"] == name).update(changes)
    return settings


def test_arms_of_other_budgets_and_models_stay_apart(tmp_path):
    settings = arena_run(tmp_path, kinds=("full", "lora", "oft", "vera"), paths=(), merges=False)
    results = tmp_path / "results/fable"
    write_evaluation(results, "large", ROOT, random.Random(1), sampled=False)
    settings["models"]["large"] = {"path": str(tmp_path / "data/large")}
    settings["graph"]["checkpoints"].append("large")
    settings = changed(settings, tmp_path, "vera", parents=["large"])
    log = results / "foundation/oft/training_log.csv"
    write_text(log, log.read_text().replace(",54000,", ",27000,"))
    found = tables_of(tmp_path, settings)
    of = {row["checkpoint"]: (row["root"], row["data"], row["tokens"]) for row in found["arena"].rows}
    assert of["full"] == of["lora"] == ("base", "problems", 54_000)
    assert of["oft"] == ("base", "problems", 27_000)
    assert of["vera"] == ("large", "problems", 54_000)
    measured = [row["claim"] for row in found["arena_claims"].rows if row["verdict"] != "not measured"]
    assert measured == ["Full fine-tuning forgets more than LoRA."]
    known = SECTION.read(gather(settings, results, tmp_path / "reports"))
    assert [len(one.candidates) for one in known.arenas] == [2, 1, 1]
    assert [name for name in stability_figures(known) if name.startswith("arena")] == ["arena"]


def test_a_point_of_a_path_costs_no_tokens_of_its_own():
    nodes = [test_report.candidate("base", 0.1, 0.9, (), stage="model"), test_report.candidate("a", 0.5, 0.8)]
    nodes += [test_report.candidate("path", 0.4, 0.9, ("base", "a"), stage="interpolate")]
    nodes += [test_report.candidate("b", 0.6, 0.8, ("path",))]
    for made_node, tokens in ((nodes[1], 300.0), (nodes[3], 50.0)):
        made_node.log = [{"step": 1, "tokens": tokens}]
    candidates = candidates_of(nodes)
    assert [logs.tokens_from_start(candidates[name], candidates) for name in ("a", "path", "b")] == [300, 300, 350]


def test_a_grid_enters_by_its_point_chosen_on_dev(tmp_path):
    settings = arena_run(tmp_path, kinds=("full", "lora", "milora"), paths=(), grid=True)
    out = make(tmp_path, settings)
    assert {"milora-learning_rate=0.001"} == {name for name in arena_rows(out) if "milora" in name}
    # Correlations have every point of it.
    assert {row["n"] for row in read_table(out, "geometry_correlations") if row["over"].startswith("trained")} == {"4"}
    # Weights of a merge are a list: the sweep has a table and a figure of its own.
    assert {row["weights"] for row in read_table(out, "grid_soup")} == {"[0.75, 0.25]", "[0.5, 0.5]"}
    assert "0.75+0.25" in (out / "figures/grid_soup.svg").read_text()
    assert [row["chosen"] for row in read_table(out, "merges")].count("best on dev") == 1


def test_of_two_arms_of_a_kind_the_one_with_more_seeds_stands_for_it():
    def of(name, seeds, dev):
        nodes = seeded(name, [0.5] * seeds, adapter={"kind": "lora"})
        for n in nodes:
            n.results["tasks"]["d"] = {"axis": "dev", "metric": "m", "value": dev, "stderr": 0.1, "n": 10}
            n.samples += [{"task": "d", "doc_id": 0, "kind": "greedy", "correct": [False]}]
        return nodes

    candidates = candidates_of(
        [test_report.candidate("base", 0.5, 0.95, (), stage="model"), *of("a", 1, 0.9), *of("b", 2, 0.5)]
    )
    a, b = candidates["a-s0"], candidates["b"]
    assert stability.Arena(candidates["base"], None, None, [a, b]).of_kind == {"lora": b}
    candidates = candidates_of([*of("a", 2, 0.9), *of("b", 2, 0.5)])
    assert stability.Arena(candidates["a"], None, None, [candidates["b"], candidates["a"]]).of_kind == {
        "lora": candidates["a"]
    }


def test_time_and_memory_as_ratios_to_full(made):
    root, _, out = made
    rows = {row["checkpoint"]: row for row in read_table(out, "timing_adapters")}

    def seconds(name):
        return fmean(
            read_json(root / f"results/fable/foundation/{name}-s{seed}/provenance.json")["seconds"]
            for seed in (0, 1, 2)
        )

    assert float(rows["oft"]["time_ratio"]) == pytest.approx(seconds("oft") / seconds("full"), rel=1e-5)
    assert (float(rows["full"]["time_ratio"]), float(rows["oft"]["memory_ratio"])) == (1, 1)


def test_published_numbers_stand_beside_their_kind(made):
    _, _, out = made
    rows = {row["method"]: row for row in read_table(out, "arena_published")}
    assert (rows["OFT b32"]["checkpoint"], rows["OFT b16"]["checkpoint"], rows["MiSS r8"]["checkpoint"]) == (
        "oft",
        "",
        "",
    )
    assert float(rows["OFT b32"]["forgetting"]) == float(arena_rows(out)["oft"]["forgetting"])
    mine = [row["checkpoint"] for row in read_table(out, "arena_published") if row["method"] == "–"]
    assert sorted(mine) == ["boft", "qlora", "rslora"]


# --- claims --------------------------------------------------------------------------------------


def claims_of(out: Path) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in read_table(out, "arena_claims"):
        if row["reading"]:
            found.setdefault(row["claim"], []).append(row)
    return found


def test_claims_of_the_invented_arena(made):
    _, _, out = made
    claims = claims_of(out)
    told = {claim: {row["reading"] for row in rows} for claim, rows in claims.items()}
    for claim in (
        "OFT keeps more of the general score than LoRA.",
        "PiSSA forgets most.",
        "Full fine-tuning forgets more than LoRA.",
        "VeRA and IA3 keep more than all others.",
        "VeRA and IA3 gain less than all others.",
        "The Procrustes residual goes with forgetting.",
        "Linear CKA falls with forgetting.",
    ):
        assert told[claim] == {"held"}, claim
    assert told["Drift on target prompts does not predict the target gain."] == {"not held"}
    assert len(claims["VeRA and IA3 keep more than all others."]) == 2
    rows = arena_rows(out)
    row = claims["OFT keeps more of the general score than LoRA."][0]
    gap = float(rows["oft"]["general"]) - float(rows["lora"]["general"])
    assert float(row["difference"]) == pytest.approx(gap, abs=2e-6)
    assert (row["seeds"], row["n"]) == ("0 1 2", "560")


def test_claims_of_absent_arms_say_what_they_take(tmp_path):
    found = tables_of(tmp_path, arena_run(tmp_path, kinds=("full", "lora"), paths=(), merges=False))
    rows = found["arena_claims"].rows
    assert [r["claim"] for r in rows if r["verdict"] != "not measured"] == ["Full fine-tuning forgets more than LoRA."]
    assert {row["claim"] for row in rows} == {claim.text for claim in catalogue()}
    absent = next(row for row in rows if row["claim"].startswith("MiLoRA"))
    assert absent["why"] == "It takes both adapters, trained alike; the score of that axis, paired."


def arena(**general: float) -> stability.Arena:
    """One arm per kind, its target score that much short of its general one."""
    nodes = [test_report.candidate("base", 0.1, 0.95, (), stage="model")]
    for kind, value in general.items():
        nodes.append(replace(test_report.candidate(kind, value - 0.1, value), settings={"adapter": {"kind": kind}}))
    candidates = candidates_of(nodes)
    return stability.Arena(candidates["base"], None, None, [candidates[kind] for kind in general])


def evidence(claim: str, **general: float) -> list[Evidence]:
    """What an arena says of the claim that begins so."""
    names = {known.name for known in catalogue() if known.text.startswith(claim)}
    return [one for one in stability_claims.arena_evidence(arena(**general)) if one.claim in names]


@pytest.mark.parametrize(
    ("general", "claim", "verdict"),
    [
        ({"oft": 0.8, "lora": 0.7}, "OFT has the better sum", "held"),
        ({"oft": 0.8, "lora": 0.7}, "OFT keeps", "held"),
        ({"oft": 0.7, "lora": 0.8}, "OFT keeps", "not held"),
        ({"oft": 0.8, "lora": 0.7975}, "OFT keeps", "undecided"),
        ({"pissa": 0.3, "lora": 0.7, "full": 0.5}, "PiSSA forgets", "held"),
        ({"pissa": 0.3, "lora": 0.7, "full": 0.3025}, "PiSSA forgets", "undecided"),
        ({"pissa": 0.5, "lora": 0.7, "full": 0.3}, "PiSSA forgets", "not held"),
        ({"full": 0.9, "lora": 0.7, "oft": 0.8}, "Full fine-tuning gains", "held"),
        ({"full": 0.7, "lora": 0.8, "oft": 0.6}, "Full fine-tuning gains", "not held"),
        ({"vera": 0.5, "ia3": 0.2, "lora": 0.8, "oft": 0.6, "pissa": 0.15}, "VeRA and IA3 gain", "held"),
        ({"vera": 0.9, "ia3": 0.95, "lora": 0.8, "oft": 0.6}, "VeRA and IA3 keep", "held"),
        ({"milora": 0.7, "lora": 0.7025}, "MiLoRA forgets", "held"),
        ({"milora": 0.5, "lora": 0.7}, "MiLoRA forgets", "not held"),
        ({"milora": 0.67, "lora": 0.7}, "MiLoRA forgets", "undecided"),
    ],
)
def test_verdicts_on_arms(general, claim, verdict):
    assert {one.reading for one in evidence(claim, **general)} == {verdict}


def test_a_claim_over_all_others_tells_the_closest():
    (one,) = evidence("PiSSA", pissa=0.3, lora=0.7, full=0.4, oft=0.9)
    assert one.numbers["difference"].value == pytest.approx(-0.1)
    assert "less than 3 of 3 other adapters" in one.here
    assert "against full" in one.here


def test_correlations_are_those_of_the_arms(made):
    stats = pytest.importorskip("scipy.stats")
    root, _, out = made
    rows = [row for row in read_table(out, "geometry_correlations") if row["over"] == "trained, from base"]
    row = next(row for row in rows if row["measure"] == "Procrustes residual on general prompts")
    candidates = arena_rows(out)
    x = [fmean(geometry_of(root, f"{k}-s{s}")["procrustes_general"] for s in (0, 1, 2)) for k in ARENA]
    y = [float(candidates[kind]["forgetting"]) for kind in ARENA]
    assert float(row["forgetting_spearman"]) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-5)
    assert float(row["forgetting_pearson"]) == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-4)
    assert (row["n"], row["recipes"], row["published"]) == ("12", "12", "0.711 / 0.568 (forgetting)")
    # With merges and paths: three paths belong to the recipes of their ends, the merges have none but their own.
    every = next(r for r in read_table(out, "geometry_correlations") if r["over"].startswith("all"))
    assert (every["n"], every["recipes"]) == ("19", "15")


def test_few_recipes_give_no_claim_about_correlations(tmp_path):
    settings = arena_run(tmp_path, kinds=("full", "lora", "oft", "vera"), paths=(), merges=False)
    found = tables_of(tmp_path, settings)
    assert not [row for row in found["arena_claims"].rows if "correlation" in row]
    assert isinstance(found["geometry_correlations"].rows[0]["forgetting_spearman"], float)
    known = SECTION.read(gather(settings, tmp_path / "results/fable", tmp_path))
    (checkpoint_set,) = stability.checkpoint_sets(known)
    assert correlation_sentence(known, checkpoint_set).startswith("4 recipes were trained from base: too few")


# --- paths ---------------------------------------------------------------------------------------


def interpolation(
    end: tuple, chosen: tuple, alpha: float = 0.5, between: tuple | None = None
) -> stability.Interpolation:
    """An end and a chosen point as (target, general), on the questions of the path too unless `between` says others."""
    nodes = [test_report.candidate("base", 0.1, 0.95, (), stage="model"), test_report.candidate("oft", *end)]
    nodes.append(test_report.candidate("path", *chosen, parents=("base", "oft"), stage="interpolate"))
    candidates = candidates_of(nodes)
    points = []
    for at, scores in ((0.0, (0.1, 0.95)), (0.5, between or chosen), (1.0, end)):
        tasks = {
            axis: {"axis": axis, "value": v, "n": 400} for axis, v in zip(("target", "general"), scores, strict=True)
        }
        points.append({"alpha": at, "tasks": tasks})
    return stability.Interpolation(
        candidates["path"], [{"chosen": alpha, "points": points}], candidates["base"], candidates["oft"]
    )


@pytest.mark.parametrize(
    ("end", "between", "expected"),
    [
        ((0.8, 0.5), (0.9, 0.7), "held"),
        ((0.8, 0.5), (0.8, 0.7), "undecided"),  # of 400 unpaired items a loss of 2 points cannot be excluded
        ((0.8, 0.5), (0.6, 0.7), "not held"),
        ((0.8, 0.7), (0.9, 0.5), "not held"),
    ],
)
def test_overshoot_is_judged_on_the_path_whatever_was_chosen(end, between, expected):
    for alpha in (0.5, 1.0):
        told = stability_claims.overshoot(interpolation(end, (0.3, 0.9), alpha, between))
        assert (told.reading, told.alpha) == (expected, 0.5)
        gains = (told.general.value, told.target.value)
        assert gains == pytest.approx((between[1] - end[1], between[0] - end[0]))


def test_the_clearest_of_several_points_has_an_interval_of_several():
    """Half-widths of three points at once, by hand: those of one, times z(1 − 0.025 / 3) / z(1 − 0.025)."""
    path = interpolation((0.8, 0.5), (0.8, 0.5))
    first, middle, last = path.runs[0]["points"]
    path.runs[0]["points"] = [first, *(middle | {"alpha": a} for a in (0.25, 0.5, 0.75)), last]
    one = stability_stats.point_difference(path, 0.5, 1.0, "general")
    told = stability_claims.overshoot(path)
    factor = norm.ppf(1 - 0.025 / 3) / norm.ppf(1 - 0.025)
    assert told.general.high - told.general.value == pytest.approx(factor * (one.high - one.value), rel=1e-4)


def test_paths_of_rotations_against_straight_ones(made):
    """The mean over the points between, both axes added up; errors of items once, of seeds in pairs."""
    root, _, out = made
    stats = pytest.importorskip("scipy.stats")

    def half(value):
        low, high = stats.binomtest(round(value * 400), 400).proportion_ci(method="wilson")
        return (high - low) / 2

    sums, squares = [], []
    for seed in (0, 1, 2):
        both = [
            read_json(root / f"results/fable/foundation/{name}-s{seed}/path.json")["points"][1:-1]
            for name in ("path_oft", "path_oft_dense")
        ]
        pairs = [(a[axis], b[axis]) for a, b in zip(*both, strict=True) for axis in ("target", "general")]
        sums.append(sum(a["value"] - b["value"] for a, b in pairs) / 3)
        each = [half(a["value"]) ** 2 + half(b["value"]) ** 2 for a, b in pairs]
        squares += [math.sqrt(each[i] + each[i + 1]) for i in (0, 2, 4)]
    (row,) = next(rows for claim, rows in claims_of(out).items() if claim.startswith("Halfway to an OFT"))
    spread = math.hypot(np.mean(squares), 1.959964 * np.std(sums, ddof=1) / math.sqrt(3))
    assert float(row["difference"]) == pytest.approx(np.mean(sums), abs=1e-5)
    assert float(row["difference_high"]) == pytest.approx(np.mean(sums) + spread, abs=1e-3)
    assert row["n"] == "800"


def test_points_of_paths_are_means_over_seeds(made):
    root, _, out = made
    row = next(r for r in read_table(out, "path_points") if (r["checkpoint"], r["alpha"]) == ("path_full", "0.25"))
    found = [read_json(root / f"results/fable/foundation/path_full-s{s}/path.json")["points"][1] for s in (0, 1, 2)]
    assert float(row["general"]) == pytest.approx(np.mean([p["general"]["value"] for p in found]), abs=1e-5)
    chosen = {r["alpha"]: r["chosen"] for r in read_table(out, "path_points") if r["checkpoint"] == "path_full"}
    assert chosen == {"0": "", "0.25": "", "0.5": "3 of 3", "0.75": "", "1": ""}
    row = next(r for r in read_table(out, "paths") if r["checkpoint"] == "path_oft")
    assert (row["end"], row["path"], row["alpha"], row["rewind"]) == ("oft", "cayley (sqrt)", "0.5", "uniform")


def test_a_point_where_all_is_right_is_no_certainty():
    """The Wilson interval of 40/40 is [0.9124, 1]; of two such tasks the half-width falls by √2."""
    found = interpolation((0.5, 0.5), (0.5, 0.5))
    tasks = {name: {"axis": "general", "value": 1.0, "stderr": 0.0, "n": 40} for name in ("a", "b")}
    found.runs = [{"points": [{"alpha": 0.5, "tasks": tasks}]}]
    level = stability_stats.point(found, 0.5, "general")
    assert (level.value, level.low, level.n) == pytest.approx((1.0, 1 - 0.0876 / math.sqrt(2), 80), abs=1e-4)


# --- the page ------------------------------------------------------------------------------------


def half_scores(root: Path, checkpoints: list[str], axis: str, half: int) -> float:
    """Mean over tasks of the mean over the questions of one half, by the hashes of their names, of all seeds."""
    right: dict[str, list[bool]] = {}
    for name in checkpoints:
        folder = root / f"results/fable/evaluation/{name}"
        axes = {task: values["axis"] for task, values in read_json(folder / "results.json")["tasks"].items()}
        for sample in read_jsonl(folder / "samples.jsonl"):
            task = sample["task"]
            in_half = sha256(f"{task}\0{sample['doc_id']}".encode()).digest()[0] % 2 == half
            if in_half and sample["kind"] == "greedy" and axes[task] == axis:
                right.setdefault(task, []).append(sample["correct"][0])
    return fmean(map(fmean, right.values()))


def test_the_folded_part_says_which_arm_kept_most_and_at_what_gain(made):
    """Half of the general questions choose it, the other half says what it kept; the target was chosen on dev."""
    root, settings, out = made
    arms = {name: [f"{name}-s{seed}" for seed in settings["seeds"]] for name in ARENA}
    best = max(arms, key=lambda name: half_scores(root, arms[name], "general", 0))
    lost = half_scores(root, ["base"], "general", 1) - half_scores(root, arms[best], "general", 1)
    text = lead(out, "Stability")
    assert f"Of 12 recipes trained from base on problems, 54,000 tokens, {best} kept most: {minus(lost)} [" in text
    gain = 100 * float(next(row["gain"] for row in read_table(out, "arena") if row["checkpoint"] == best))
    assert f"forgotten for {minus(gain / 100)} [" in text and "on questions that did not choose it" in text


def minus(share: float) -> str:
    return f"{100 * share:+.1f}".replace("-", "−")


def test_what_was_lucky_where_it_was_chosen_is_reported_where_it_was_not():
    """Two arms that are alike: each is all right on one half of the general questions and half right on the other."""

    def arm(name: str, lucky: int) -> test_report.Checkpoint:
        made = test_report.candidate(name, 0.5, 0.75)
        halves = {i: sha256(f"g\0{i}".encode()).digest()[0] % 2 for i in range(400)}
        for sample in made.samples:
            if sample["task"] == "g":
                sample["correct"] = [halves[sample["doc_id"]] == lucky or sample["doc_id"] % 4 < 2]
        right = [sample["correct"][0] for sample in made.samples if sample["task"] == "g"]
        made.results["tasks"]["g"]["value"] = fmean(right)
        return made

    base = test_report.candidate("base", 0.1, 1.0, (), stage="model")
    known = candidates_of([base, arm("first", 1), arm("other", 0)])
    arena = stability.Arena(known["base"], None, 1, [known["first"], known["other"]])
    assert arena.chosen("general").name == "other" and arena.chosen("general", min).name == "first"
    reported = arena.parts.reporting["other"].axis("general")
    assert reported.value == pytest.approx(0.5, abs=0.04) and 170 < reported.n < 230


def test_page_and_figures(made):
    _, _, out = made
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    ids = {value for key, value in page.attributes if key == "id"}
    assert "stability" in ids
    for key, value in page.attributes:
        if key == "href":
            assert value[1:] in ids if value.startswith("#") else (out / value).is_file(), value
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    assert {"arena", "layers", *(f"points_{name}" for name in PATHS)} <= drawn
    assert len([name for name in drawn if name.startswith("drift_")]) == 3
    for name in drawn:
        ElementTree.parse(out / f"figures/{name}.svg")
        assert not re.search(r'\b(fill|stroke)="var', figures.themed((out / f"figures/{name}.svg").read_text()))
    names = set(re.findall(r">([a-z0-9_]+)</text>", (out / "figures/arena.svg").read_text()))
    assert ARENA.keys() | PATHS.keys() | {"base"} <= names


def test_layers_of_a_profile_add_up(made):
    root, settings, _ = made
    found = stability.Moved(
        {}, [{"layer": str(i // 2), "csd_rel_general": str(v)} for i, v in enumerate((1, 3, 2, 2, 0, 4))]
    )
    candidate = candidates_of([replace(test_report.candidate("a", 0.5, 0.5), settings={})])["a"]
    known = stability.Stability({}, [], [], {"a": found}, [])
    assert layer_profile(known, candidate) == pytest.approx({0: 1 / 3, 1: 1 / 3, 2: 1 / 3})
    nothing = stability.Moved({}, [{"layer": "0", "csd_rel_general": "0"}, {"layer": "1", "csd_rel_general": ""}])
    assert layer_profile(stability.Stability({}, [], [], {"a": nothing}, []), candidate) == {}


@pytest.mark.parametrize(
    ("pieces", "absent"),
    [
        ({"geometry": False}, ["geometry", "geometry_correlations"]),
        ({"paths": ()}, ["paths", "path_points"]),
        ({"merges": False}, ["merges"]),
    ],
)
def test_missing_pieces_leave_their_tables_out(tmp_path, pieces, absent):
    there = tables_of(
        tmp_path, arena_run(tmp_path, **{"kinds": ("full", "lora"), "paths": ("path_full",)} | pieces)
    ).keys()
    every = {"arena", "timing_adapters", "arena_published", "geometry", "geometry_correlations", "paths", "merges"}
    assert every - {*absent} <= there
    assert not there & {*absent}


def test_one_arm_is_no_arena(tmp_path):
    out = make(tmp_path, arena_run(tmp_path, kinds=("lora",), paths=(), merges=False))
    assert "Nothing to compare it with." in (out / "index.html").read_text(encoding="utf-8")
    assert not (out / "figures/arena.svg").exists()
    assert "kept most" not in (out / "index.html").read_text(encoding="utf-8")


def test_without_geometry_there_is_no_section(tmp_path):
    settings = arena_run(tmp_path, kinds=("full", "lora"), paths=(), merges=False)
    settings["graph"]["geometry"] = []
    assert SECTION.read(gather(settings, tmp_path / "results/fable", tmp_path)) is None


# Of the report itself: when it was made, and the hashes of what differs.
VARYING = ("manifest.json", ".manifest.json", "provenance.json")


def test_only_timing_differs_with_time(tmp_path):
    contents = []
    for name, seconds in (("a", 31.0), ("b", 77.0)):
        settings = arena_run(tmp_path / name, kinds=("full", "oft"), paths=("path_oft",), merges=False, seconds=seconds)
        out = make(tmp_path / name, settings)
        contents.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    first, second = contents
    assert first.keys() == second.keys()
    varying = {name for name in first if first[name] != second[name]} - {"index.html", *VARYING}
    assert varying == {f"tables/timing{name}.{kind}" for name in ("", "_adapters") for kind in ("csv", "md")}
