"""The report from an invented results folder: numbers, accounting, escaping, equal bytes, missing pieces."""

import csv
import html.parser
import itertools
import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from steps.core.asked import as_argument
from steps.core.files import write_json, write_jsonl, write_text
from steps.core.step import step_parser
from steps.core.text import visible
from steps.report import figures, findings, report, scatter, tables
from steps.report.candidates import Candidate, Checkpoint, candidates_of, difference, matched, pareto, retention
from steps.report.gather import gather
from steps.report.overview import row_flow, row_tables, rows, run, score_tables, timeline
from steps.settings import stages
from tests.manifests import seal

TASKS = {
    "fable_problems": ("target", 200),
    "fable_harder": ("harder", 150),
    "fable_facts": ("general", 180),
    "fable_strings": ("general", 120),
    "fable_arithmetic": ("general", 160),
    "fable_instructions": ("general", 100),
    "fable_dev": ("dev", 150),
}
SKILL = {  # share right per axis: target, harder, general, dev
    "base": (0.11, 0.03, 0.95, 0.1),
    "sft": (0.93, 0.36, 0.58, 0.91),
    "sft_lora": (0.81, 0.22, 0.83, 0.8),
    "blend": (0.66, 0.12, 0.88, 0.65),
    "sweep": (0.8, 0.2, 0.8, 0.8),
}
FILES = {"problems.json": 900, "conversations.json": 640, "messages.jsonl": 420, "responses.parquet": 310}
REASONS = {
    "ingest": {
        "invalid_json": 4, "invalid_utf8": 9, "missing_field": 12, "wrong_type": 11, "unknown_role": 13,
        "role_order": 14, "empty_turn": 17,
    },
    "filter": {"too_long": 6, "too_short": 7, "wrong_language": 22, "low_quality": 12},
    "dedup": {"contradiction": 24, "exact_duplicate": 61, "near_duplicate": 44},
    "decontaminate": {"eval_overlap": 31},
}  # fmt: skip
HOSTILE = "<script>alert('x')</script> \x00\x1b[31m \u202egnp.exe\u2066 \udc80 &amp; " + "w" * 400 + " ‮ שלום"


def node(name, stage, parents, *, recipe=None, seed=None, point=None, root: Path, **settings):
    recipe = recipe or name
    return {
        "name": name, "recipe": recipe, "study": "foundation", "stage": stage, "parents": parents,
        "data": "problems" if stage == "sft" else None, "seed": seed, "point": point or {}, "settings": settings,
        "folder": str(root / f"results/fable/foundation/{name}"),
    }  # fmt: skip


def write_evaluation(results: Path, name: str, skill, draw: random.Random, sampled: bool = True) -> None:
    tasks, samples, sampling = {}, [], {}
    for task, (axis, n) in TASKS.items():
        share = skill[("target", "harder", "general", "dev").index(axis)]
        right = [draw.random() < share for _ in range(n)]
        value = sum(right) / n
        stderr = math.sqrt(value * (1 - value) / (n - 1))
        tasks[task] = {"axis": axis, "metric": "exact_match", "value": value, "stderr": stderr, "n": n, "others": {}}
        if axis == "target":
            tasks[task]["others"] = {"judge_number,response": {"value": value / 2, "stderr": stderr}}
        for doc, ok in enumerate(right):
            a, b = doc + 12, 3 * doc + 7
            text = f"First there are {a}. Then {b} come, so {a} + {b} = {a + b + (not ok)}.\n#### {a + b + (not ok)}"
            if task == "fable_facts":
                text = "Tarsk" if ok else f"The capital is {HOSTILE}" if doc < 20 else "Velm"
            samples.append(
                {
                    "task": task, "doc_id": doc, "target": str(a + b), "correct": [ok], "kind": "greedy",
                    "prompt": f"<|im_start|>user\nMara has {a} pears & buys {b} more. How many?<|im_end|>\n"
                    "<|im_start|>assistant\n", "responses": [text.encode("utf-8", "replace").decode()],
                }
            )  # fmt: skip
        if axis == "target" and sampled:
            correct = np.array([[draw.random() < 0.7 * share + 0.3 * ok for _ in range(8)] for ok in right])
            for doc in range(n):
                samples.append(
                    {
                        "task": task, "doc_id": doc, "target": "1", "correct": correct[doc].tolist(), "kind": "sampled",
                        "prompt": "p", "responses": ["#### 1"] * 8,
                    }
                )  # fmt: skip
            once, any8 = correct.mean(axis=1), correct.any(axis=1)
            spread = any8.std(ddof=1) / math.sqrt(n)
            bounded = {"value": float(any8.mean()), "stderr": float(spread), "interval": [0.9 * any8.mean(), 1.0]}
            sampling[task] = {
                "n": n, "samples": 8, "temperature": 1.0, "top_p": 1.0,
                "pass@1": {"value": float(once.mean()), "stderr": float(once.std(ddof=1) / math.sqrt(n))},
                "pass@8": bounded, "majority@8": bounded,
            }  # fmt: skip
    folder = results / "evaluation" / name
    perplexity = {"valid": {"value": 1.4, "stderr": 0.02, "tokens": 6102, "n": 101}}
    write_jsonl(folder / "samples.jsonl", samples)
    write_json(
        folder / "results.json",
        {
            "checkpoint": name,
            "tasks": tasks,
            "sampling": sampling,
            "perplexity": perplexity,
            "setup": {"dtype": "float32"},
        },
    )
    seal(folder / "manifest.json", {"step": "evaluate", "outputs": {}, "counts": {}})


def write_checkpoint(folder: Path, name: str, draw: random.Random, trained: bool, seconds: float) -> None:
    if trained:
        lines = ["step,epoch,loss,learning_rate,grad_norm,tokens,valid_loss"]
        for step in range(1, 61):
            loss = 0.25 + 1.6 * math.exp(-step / 12) + 0.06 * draw.random()
            valid = f"{loss + 0.05:.4f}" if step % 15 == 0 else ""
            lines.append(f"{step},{step / 30:.3f},{loss:.4f},0.001,1.2,{step * 900},{valid}")
        write_text(folder / "training_log.csv", "\n".join(lines) + "\n")
    seal(
        folder / "manifest.json",
        {
            "step": "sft",
            "settings": {},
            "seed": 0,
            "inputs": {},
            "outputs": {"model.safetensors": "ab" * 32},
            "counts": {},
        },
    )
    seal(
        folder / "provenance.json",
        {
            "argv": [], "git_commit": "c0ffee" * 6, "device": "x86_64 CPU, 2 threads", "python": "3.11.9",
            "versions": {"torch": "2.13.0"}, "seconds": seconds, "tokens": 54000, "peak_memory_mib": 812.0,
        },
    )  # fmt: skip


def write_rows(results: Path, draw: random.Random) -> None:
    left = dict(FILES)
    for step, reasons in REASONS.items():
        by_file = {file: {"in": n, "kept": n, "quarantined": {}} for file, n in left.items()}
        records = []
        for reason, count in reasons.items():
            for index in range(count):
                file = draw.choice([f for f in by_file if by_file[f]["kept"]])
                by_file[file]["kept"] -= 1
                by_file[file]["quarantined"][reason] = by_file[file]["quarantined"].get(reason, 0) + 1
                records.append(
                    {
                        "id": f"{file}:{index}", "file": file, "line": index + 1, "row": index, "step": step,
                        "column": "conversations[1].from", "reason": reason, "hint": "write the answer as text",
                        "detail": "fable_problems, item 12", "excerpt": '{"instruction": "<script>alert(1)</script>',
                    }
                )  # fmt: skip
        write_jsonl(results / f"data/problems/{step}/quarantine.jsonl", records)
        seal(results / f"data/problems/{step}/manifest.json", {"counts": {"by_file": by_file}})
        left = {file: row["kept"] for file, row in by_file.items()}
    rows = [{"file": file} for file, n in left.items() for _ in range(n // 20)]
    write_jsonl(results / "data/problems/split/valid.jsonl", rows)
    by_file = {file: {"in": n, "kept": n, "quarantined": {}} for file, n in left.items()}
    seal(results / "data/problems/split/manifest.json", {"counts": {"by_file": by_file}})
    train = sum(left.values()) - len(rows)
    seal(
        results / "data/problems/bucket/manifest.json",
        {
            "counts": {"in": train, "easy": 90, "medium": 210, "hard": train - 305, "unverified": 5},
            "settings": {"edges": [0.25, 0.75], "samples": 4},
        },
    )
    lines = [
        "kind,planted,found,recall,recall_low,recall_high,quarantined,correct,precision,precision_low,precision_high"
    ]
    for reason, count in [pair for step in REASONS.values() for pair in step.items()]:
        lines.append(f"{reason},{count},{count},1.0,0.9,1.0,{count},{count},1.0,0.9,1.0")
    lines.append("never_found,3,0,0.0,0.0,0.56,0,0,,,")
    write_text(results / "data/problems/score_dirt/dirt.csv", "\n".join(lines) + "\n")


def fake_run(root: Path, *, seeds=(0,), grid=False, data=True, evaluated=True, seconds=31.0) -> dict:
    """Write results/fable and benchmarks/fable under `root`; returns the settings that the report's rule would pass."""
    results, draw = root / "results/fable", random.Random(7)
    nodes = []
    for recipe, settings in (
        ("sft", {"adapter": {"kind": "full"}}),
        ("sft_lora", {"adapter": {"kind": "lora", "r": 8}}),
    ):
        for seed in seeds:
            name = recipe if len(seeds) == 1 else f"{recipe}-s{seed}"
            nodes.append(
                node(
                    name, "sft", ["base"], recipe=recipe, seed=seed, root=root, epochs=2, learning_rate=1e-3, **settings
                )
            )
    for seed in seeds:
        tail = "" if len(seeds) == 1 else f"-s{seed}"
        nodes.append(
            node(
                f"blend{tail}",
                "merge",
                ["base", f"sft{tail}"],
                recipe="blend",
                seed=seed,
                root=root,
                weights=[0.5, 0.5],
            )
        )
    if grid:
        for rate, r in itertools.product((5e-4, 1e-3, 2e-3), (4, 8)):
            point = {"learning_rate": rate, "adapter.r": r}
            name = f"sweep-learning_rate={rate}-adapter.r={r}"
            nodes.append(node(name, "sft", ["base"], recipe="sweep", seed=0, point=point, root=root, **point))
    if evaluated:
        write_evaluation(results, "base", SKILL["base"], draw)
    for item in nodes:
        write_checkpoint(Path(item["folder"]), item["name"], draw, item["stage"] == "sft", seconds)
        if evaluated:
            skill = SKILL[item["recipe"]]
            if item["point"]:
                skill = tuple(s - 60 * abs(item["point"]["learning_rate"] - 1e-3) for s in skill)
            write_evaluation(results, item["name"], skill, draw)
    if data:
        write_rows(results, draw)
    header = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
    for rule in ("world", "data/problems/ingest", "data/problems/dedup", "foundation/sft", "evaluation/sft"):
        memory = "NA" if rule == "world" else f"{draw.uniform(100, 900):.2f}"
        row = f"{seconds * draw.random():.4f}\t0:00:31\t{memory}\t1\t1\t1\t1\t1\t99.0\t{seconds:.2f}\n"
        write_text(root / f"benchmarks/fable/{rule}.tsv", header + row)
    return {
        "workload": "fable", "seeds": list(seeds), "models": {"base": {"path": str(root / "data/base")}},
        "evaluate": {"sampling": {"samples": 8}}, "report": {"keep_general": 0.8, "language": "en"},
        "graph": {
            "nodes": nodes,
            "checkpoints": ["base", *(item["name"] for item in nodes)],
            "datasets": ["problems"],
            "detect": {},
            "detected": [],
            "diagnosed": [],
            "geometry": [],
            "explore": [],
            "gates": [],
        },
    }  # fmt: skip


def make(root: Path, settings: dict) -> Path:
    """Run the step as its rule does; returns the folder it wrote."""
    parser = step_parser("")
    parser.add_argument("--results", type=Path)
    out = root / "reports/fable"
    report.main(
        parser.parse_args(
            ["--settings", json.dumps(settings), "--results", str(root / "results/fable"), "--out", str(out)]
        )
    )
    return out


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    settings = fake_run(root)
    return root, settings, make(root, settings)


def read_table(out: Path, name: str) -> list[dict]:
    with open(out / "tables" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_headline_is_what_the_summary_says(made):
    _, _, out = made
    numbers = json.loads((out / "headline.json").read_text())["fable"]
    _, gained, lost, _, ship = (out / "summary.txt").read_text(encoding="utf-8").splitlines()
    assert ship.startswith(f"Ship: {numbers['ship']}.")
    for line, name in ((gained, "gained"), (lost, "lost")):
        assert f" {100 * numbers[name]:+.1f} ".replace("-", "−") in line
    row = next(row for row in read_table(out, "checkpoints") if row["checkpoint"] == numbers["ship"])
    assert numbers["gained"] == pytest.approx(float(row["gain"]), abs=1e-5)
    assert numbers["checkpoints"] == len(read_table(out, "checkpoints"))
    assert numbers["rows"] > 0 and 0 <= numbers["unsolved"] < 1


# --- numbers -------------------------------------------------------------------------------------


def greedy_marks(root: Path, name: str, task: str) -> np.ndarray:
    with open(root / f"results/fable/evaluation/{name}/samples.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return np.array([r["correct"][0] for r in rows if r["task"] == task and r["kind"] == "greedy"], dtype=float)


GENERAL = [task for task, (axis, _) in TASKS.items() if axis == "general"]


def test_levels_are_wilson_intervals(made):
    stats = pytest.importorskip("scipy.stats")
    root, _, out = made
    rows = [row for row in read_table(out, "tasks") if row["checkpoint"] == "sft"]
    assert len(rows) == len(TASKS)
    for row in rows:
        marks = greedy_marks(root, "sft", row["task"])
        expected = stats.binomtest(int(marks.sum()), len(marks)).proportion_ci(method="wilson")
        assert float(row["score"]) == pytest.approx(marks.mean(), abs=1e-6)
        assert (float(row["score_low"]), float(row["score_high"])) == pytest.approx(tuple(expected), abs=1e-5)


def test_changes_are_paired_by_item(made):
    """The bootstrap interval agrees with the normal one of the paired differences, task by task in quadrature."""
    root, _, out = made
    row = next(row for row in read_table(out, "checkpoints") if row["checkpoint"] == "sft_lora")
    pairs = [greedy_marks(root, "sft_lora", task) - greedy_marks(root, "base", task) for task in GENERAL]
    change = np.mean([d.mean() for d in pairs])
    stderr = math.sqrt(sum(d.var(ddof=1) / len(d) for d in pairs)) / len(pairs)
    assert float(row["forgetting"]) == pytest.approx(-change, abs=1e-5)
    assert float(row["forgetting_stderr"]) == pytest.approx(stderr, rel=0.08)
    assert float(row["forgetting_low"]) == pytest.approx(-change - 1.96 * stderr, abs=0.2 * stderr)
    assert float(row["forgetting_high"]) == pytest.approx(-change + 1.96 * stderr, abs=0.2 * stderr)
    assert int(row["forgetting_n"]) == sum(TASKS[task][1] for task in GENERAL)


def test_seeds_widen_the_interval(tmp_path):
    root = tmp_path
    out = make(root, fake_run(root, seeds=(0, 1, 2), data=False))
    row = next(row for row in read_table(out, "checkpoints") if row["checkpoint"] == "sft")
    marks = np.array([greedy_marks(root, f"sft-s{seed}", "fable_problems") for seed in (0, 1, 2)], dtype=float)
    values = marks.mean(axis=1)
    assert float(row["target"]) == pytest.approx(np.mean(values), abs=1e-5)
    assert float(row["target_seed_sd"]) == pytest.approx(np.std(values, ddof=1), abs=1e-5)
    assert row["seeds"] == "0 1 2"
    p, items, seeds = marks.mean(), marks.mean(axis=0).var() / 200, values.var(ddof=1) / 3
    variance = items + seeds
    z, n = t(variance**2 * 2 / seeds**2).ppf(0.975), p * (1 - p) / variance
    wilson_high = (p + z * z / (2 * n) + z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)
    assert float(row["target_high"]) == pytest.approx(wilson_high, abs=1e-5)


def candidate(name, target, general, parents=("base",), n=400, stage="sft"):
    """An arm whose first items are right: nested answers, so that differences have little noise."""

    def task(axis, value):
        return {"axis": axis, "metric": "exact_match", "value": round(value * n) / n, "stderr": 0.02, "n": n}

    def marks(task_name, value):
        return [
            {"task": task_name, "doc_id": i, "kind": "greedy", "correct": [i < round(value * n)], "responses": ["x"],
             "target": "1", "prompt": "p"}
            for i in range(n)
        ]  # fmt: skip

    return Checkpoint(
        name, name, None, stage, list(parents), 0, {}, {},
        results={"tasks": {"t": task("target", target), "g": task("general", general)}},
        samples=marks("t", target) + marks("g", general),
    )  # fmt: skip


def test_shared_noise_cancels_in_a_change():
    """Two arms that differ in 20 of 400 items: the paired error is that of the 20, a third of the unpaired one."""
    candidates = candidates_of([candidate("base", 0.45, 0.9, (), stage="model"), candidate("a", 0.5, 0.9)])
    gain = difference(candidates["a"], candidates["base"], "target")
    assert gain.value == pytest.approx(0.05)
    assert gain.stderr == pytest.approx(math.sqrt(0.05 * 0.95 / 400), rel=0.08)
    assert retention(candidates["a"], candidates["base"]).stderr == 0  # the same general answers


def test_while_a_study_is_half_done_only_seeds_that_both_have_are_compared():
    def node(recipe, seed, target):
        return replace(candidate(f"{recipe}-s{seed}", target, 0.9), recipe=recipe, seed=seed)

    unmeasured = replace(node("b", 0, 0.5), results=None, samples=[])
    candidates = candidates_of([node("a", 0, 0.3), node("a", 1, 0.7), unmeasured, node("b", 1, 0.6)])
    sides = matched(candidates["a"], candidates["b"])
    assert [side.seeds for side in sides] == [[1], [1]]
    assert difference(*sides, "target").value == pytest.approx(0.1)


def test_no_change_in_few_items_is_no_certainty():
    """The Wilson interval of 0/10 is [0, 0.2775]."""
    candidates = candidates_of([candidate("base", 0.0, 0.5, (), n=10, stage="model"), candidate("a", 0.0, 0.5, n=10)])
    gain = difference(candidates["a"], candidates["base"], "target")
    assert (gain.value, gain.low, gain.high) == pytest.approx((0, -0.2775, 0.2775), abs=1e-4)


def test_tasks_of_equal_length_are_resampled_apart():
    def twice(node):
        node.results["tasks"]["g2"] = node.results["tasks"]["g"]
        node.samples += [sample | {"task": "g2"} for sample in node.samples if sample["task"] == "g"]
        return node

    candidates = candidates_of([twice(candidate("base", 0.1, 0.9, (), stage="model")), twice(candidate("a", 0.5, 0.6))])
    one = difference(candidates["a"], candidates["base"], task="g").stderr
    both = difference(candidates["a"], candidates["base"], "general").stderr
    assert both == pytest.approx(one / math.sqrt(2), rel=0.08)


@pytest.mark.parametrize(
    ("scores", "keep", "shipped"),
    [
        ({"a": (0.9, 0.5), "b": (0.7, 0.85), "c": (0.6, 0.88)}, 0.8, "b"),
        ({"a": (0.9, 0.5), "b": (0.7, 0.6)}, 0.8, "a"),
        ({"a": (0.10, 0.9), "b": (0.08, 0.9)}, 0.8, "base"),
        ({"a": (0.9, 0.6), "b": (0.7, 0.85)}, 0.5, "a"),
    ],
)
def test_ship_rule(scores, keep, shipped):
    nodes = [
        candidate("base", 0.1, 0.95, (), stage="model"),
        *(candidate(name, *pair) for name, pair in scores.items()),
    ]
    found = findings.findings(candidates_of(nodes), keep)
    assert found.ship.name == shipped
    assert found.rule


def test_never_learned_needs_every_answer_wrong():
    node = candidate("a", 0.5, 0.5, n=4)
    drawn = [[False, False], [True, True], [False, True], [False, False]]
    node.samples += [
        {
            "task": "t",
            "doc_id": i,
            "kind": "sampled",
            "correct": marks,
            "responses": ["x", "x"],
            "target": "1",
            "prompt": "p",
        }
        for i, marks in enumerate(drawn)
    ]
    rows, tried = findings.never_learned(Candidate("a", [node]))
    assert tried == 4
    assert [row["doc_id"] for row in rows] == [3]  # 0 and 1 are right greedily, 2 in a sample


def test_forgetting_of_a_task_is_what_its_base_had_more(made):
    root, _, out = made
    rows = {row["task"]: row for row in read_table(out, "tasks") if row["checkpoint"] == "sft"}
    for task, (axis, _) in TASKS.items():
        lost = greedy_marks(root, "base", task).mean() - greedy_marks(root, "sft", task).mean()
        expected = f"{lost:.6g}" if axis == "general" else ""
        assert rows[task]["forgetting"] == expected


def test_another_judges_number_stands_beside_by_its_name(tmp_path):
    out = make(tmp_path, fake_run(tmp_path, data=False))
    for row in read_table(out, "tasks"):
        half = f"judge_number response {50 * float(row['score']):.1f}"
        assert row["others"] == (half if row["axis"] == "target" else "")


def test_many_checkpoints_stand_below_each_other():
    nodes = [candidate("base", 0.1, 0.9, (), stage="model"), *(candidate(f"a{i}", 0.5, 0.8) for i in range(8))]
    candidates = list(candidates_of(nodes).values())
    few, many = score_tables.compact_tasks(candidates[:3]), score_tables.compact_tasks(candidates)
    assert [row["task"] for row in few.rows] == ["t", "g"]
    assert [row["checkpoint"] for row in many.rows] == [one.name for one in candidates]
    assert [column.key for column in many.columns] == ["checkpoint", "t", "g"]
    assert few.rows[1]["base"] == many.rows[0]["g"]


def test_a_run_that_measures_dev_alone_has_a_report(tmp_path):
    """As a search for settings does, which must not see the target."""
    settings = fake_run(tmp_path, data=False)
    for path in (tmp_path / "results/fable/evaluation").glob("*/results.json"):
        found = json.loads(path.read_text())
        found["tasks"] = {task: row for task, row in found["tasks"].items() if row["axis"] == "dev"}
        write_json(path, found | {"sampling": {}})
    out = make(tmp_path, settings)
    assert {row["task"] for row in read_table(out, "tasks")} == {"fable_dev"}
    assert (out / "summary.txt").read_text().splitlines()[4] == "Ship: –"
    assert json.loads((out / "headline.json").read_text())["fable"].keys() == {"rows", "checkpoints"}


def test_the_map_of_what_was_lost_has_every_checkpoint_and_general_task(made):
    _, _, out = made
    drawn = ElementTree.parse(out / "figures/forgetting.svg").getroot()
    said = [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    rows = [row for row in read_table(out, "tasks") if row["axis"] == "general" and row["forgetting"]]
    lost = [f"{-100 * float(row['forgetting']):+.1f}".replace("-", "−") for row in rows]
    names = {row["task"] for row in rows} | {row["checkpoint"] for row in rows}
    assert len(rows) > 4 and sorted(said) == sorted([*lost, *names])


SVG_TEXT = "{http://www.w3.org/2000/svg}text"


def words_of(svg: Path) -> list[str]:
    return [text.text for text in ElementTree.parse(svg).getroot().iter(SVG_TEXT)]


def points(share: str, sign: int = 1) -> str:
    return f"{sign * 100 * float(share):+.1f}".replace("-", "−")


def test_dumbbells_say_what_every_checkpoint_gained_and_lost(made):
    _, _, out = made
    said, titles = words_of(out / "figures/moved.svg"), (out / "figures/moved.svg").read_text(encoding="utf-8")
    rows = [row for row in read_table(out, "checkpoints") if row["gain"]]
    changes = [points(row["gain"]) for row in rows] + [points(row["forgetting"], -1) for row in rows]
    assert len(rows) > 2 and sorted(text for text in said if text[0] in "+−") == sorted(changes)
    base = next(row for row in read_table(out, "checkpoints") if row["checkpoint"] == "base")
    for row in rows:
        ends = [f"{100 * float(level['target']):.1f}" for level in (base, row)]
        assert f"<title>{row['checkpoint']}: target {ends[0]} → {ends[1]} %, {points(row['gain'])} [" in titles


def test_what_cleaning_took_stands_in_one_picture_of_all_data_sets():
    flows = [
        row_tables.Flow("a", {"f": {"train": 60, ("filter", "too_long"): 30, ("dedup", "copy"): 10}}),
        row_tables.Flow("b", {"f": {"train": 150, "valid": 25, ("filter", "x"): 20, ("filter", "y"): 5}}),
    ]
    drawn = ElementTree.fromstring(row_flow.cleaning(flows))
    said = [text.text for text in drawn.iter(SVG_TEXT)]
    numbers = ["100", "−30", "30.0 %", "−10", "10.0 %", "60", "60.0 %", "200", "−25", "12.5 %", "0", "175", "87.5 %"]
    assert sorted(said) == sorted([*numbers, "a", "b", "entered", "filter", "dedup", "left"])


def test_recipes_are_told_by_what_differs_alone(made):
    _, _, out = made
    rows = read_table(out, "recipes_sft")
    assert [[*row.items()] for row in rows] == [
        [("checkpoint", "sft"), ("adapter", "full")],
        [("checkpoint", "sft_lora"), ("adapter", "lora r=8")],
    ]


def test_a_setting_that_one_recipe_has_is_absent_of_the_other():
    horizons = {"a": None, "b": 8}
    made = [Checkpoint(n, n, "s", "sft", ["base"], 0, {}, {"horizon": h, "epochs": 2}) for n, h in horizons.items()]
    (table,) = run.differences(candidates_of(made).values())
    assert table.rows == [{"checkpoint": "a", "horizon": None}, {"checkpoint": "b", "horizon": "8"}]
    assert "None" not in table.markdown()


# --- the time line ---------------------------------------------------------------------------------


def test_steps_begin_when_what_they_rest_on_ends(tmp_path):
    settings = fake_run(tmp_path, data=False, seconds=40.0)
    results = tmp_path / "results/fable"
    measured = results / "evaluation/blend"
    inputs = {str(tmp_path / "results/fable/foundation/blend/manifest.json"): "ab"}
    seal(measured / "manifest.json", {"step": "evaluate", "inputs": inputs, "outputs": {}, "counts": {}})
    seal(measured / "provenance.json", {"seconds": 5.0})
    steps = timeline.read_steps(gather(settings, results, tmp_path / "reports/fable"))
    placed = {step.what: (step.row, step.begin, step.end) for step in steps}
    assert placed == {
        "sft": ("sft", 0.0, 40.0),
        "sft_lora": ("sft_lora", 0.0, 40.0),
        "blend": ("blend", 40.0, 80.0),  # which its two parents come before
        "evaluation blend": ("blend", 80.0, 85.0),
    }
    assert [step.what for step in steps if step.longest] == ["sft", "blend", "evaluation blend"]
    assert timeline.said(steps) == {"chain": "1 min 25 s", "all": "2 min 05 s"}
    drawn = ElementTree.fromstring(timeline.timeline(steps))
    assert "evaluation blend: 5.0 s" in [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]


def test_the_time_line_is_of_the_page_alone(made):
    _, _, out = made
    assert "The longest chain takes" in (out / "index.html").read_text(encoding="utf-8")
    assert not [*out.glob("figures/timeline*")]


def test_grid_point_is_chosen_on_dev_and_others_are_hidden(tmp_path):
    out = make(tmp_path, fake_run(tmp_path, grid=True, data=False))
    rows = read_table(out, "grid_sweep")
    assert len(rows) == 6
    best = max(rows, key=lambda row: float(row["dev"]))
    assert [row for row in rows if row["best"]] == [best]
    shown = [row["checkpoint"] for row in read_table(out, "checkpoints") if row["checkpoint"].startswith("sweep")]
    assert shown == [f"sweep-learning_rate={best['learning_rate']}-adapter.r={best['adapter.r']}"]
    assert (out / "figures/grid_sweep.svg").is_file()


def test_pareto_front_by_definition():
    draw = random.Random(3)
    points = {f"p{i}": (draw.random(), draw.random()) for i in range(60)}
    front = pareto(points)
    assert [points[a][0] for a in front] == sorted(points[a][0] for a in front)
    assert [points[a][1] for a in front] == sorted((points[a][1] for a in front), reverse=True)
    for name, (x, y) in points.items():
        covered = any(points[f][0] >= x and points[f][1] >= y for f in front)
        assert covered
        assert (name in front) == (not any(a > x and b > y for a, b in points.values()))


# --- rows ----------------------------------------------------------------------------------------


def test_rows_add_up_for_every_file(made):
    _, _, out = made
    *rows, total = read_table(out, "rows_problems")
    for file, count in FILES.items():
        assert int(total[file]) == count == sum(int(row[file]) for row in rows)
    counted = {(row["step"], row["outcome"]): int(row["all"]) for row in rows}
    for step, reasons in REASONS.items():
        for reason, count in reasons.items():
            assert counted[step, reason] == count
    svg = (out / "figures/row_flow_problems.svg").read_text()
    told = [int(m.replace(",", "")) for m in re.findall(r"<title>[^<]+ → [^<:]+: ([\d,]+)</title>", svg)]
    assert sum(told) == sum(FILES.values())


def test_of_many_files_the_largest_are_shown_and_the_others_together():
    flow = row_tables.Flow("shards", {f"{i}.parquet": {"train": i, ("filter", "too_long"): 1} for i in range(1, 31)})
    assert [*flow.shown] == [*(f"{i}.parquet" for i in range(30, 23, -1)), "23 other files"]
    *rows, total = row_tables.rows_table(flow).rows
    assert total["all"] == sum(total[name] for name in flow.shown) == sum(range(31)) + 30
    assert all(row["all"] == sum(row[name] for name in flow.shown) for row in rows)


def test_rows_that_do_not_add_up_stop_the_report(tmp_path):
    settings = fake_run(tmp_path, evaluated=False)
    path = tmp_path / "results/fable/data/problems/dedup/manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["by_file"]["problems.json"]["kept"] -= 1
    seal(path, manifest)
    with pytest.raises(AssertionError, match=r"problems\.json in dedup"):
        make(tmp_path, settings)


# --- the page ------------------------------------------------------------------------------------


def lead(out: Path, title: str) -> str:
    """What stands beside the title of a folded part."""
    page = (out / "index.html").read_text(encoding="utf-8")
    return html.unescape(page[page.index(f"<h2>{title}</h2>", page.index("<nav")) :].partition("</summary>")[0])


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page; checks that tags are closed in order."""

    VOID = {"meta", "br", "hr", "img", "input", "link", "path", "rect", "use"}

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.text.append(data)


def test_page_is_self_contained_and_its_links_lead_somewhere(made):
    _, _, out = made
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not {"link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("script") == 1  # its own: tests/report/test_page.py
    assert not re.search(r"@import|url\((?!#)", text)
    outside = {value for key, value in page.attributes if "://" in value and not key.startswith("xmlns")}
    assert not outside
    ids = {value for key, value in page.attributes if key == "id"}
    for key, value in page.attributes:
        if key == "href" and value.startswith("#"):
            assert value[1:] in ids
        elif key == "href":
            assert (out / value).is_file(), value


def test_hostile_text_is_shown_and_does_nothing(made):
    _, _, out = made
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert(" in text
    assert "⟨U+0000⟩⟨U+001B⟩[31m ⟨U+202E⟩" in text
    assert "&amp;amp;" in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert "שלום" in text


def test_visible_keeps_what_prints():
    assert visible("a\nb\tc é 你好 🙂 שלום") == "a\nb\tc é 你好 🙂 שלום"
    assert visible("\r\x7f\ufeff\ud800") == "⟨U+000D⟩⟨U+007F⟩⟨U+FEFF⟩⟨U+D800⟩"


def test_numbers_have_one_kind_of_minus():
    for kind, text in (("decimal", "−0.500"), ("tenths", "−0.5"), ("number", "−0.5"), ("points", "−50.0")):
        assert tables.number_text(kind, -0.5) == text


def test_markdown_cells_stay_in_their_cells():
    table = tables.Table("t", "c", [tables.Column("a", "a"), tables.Column("b", "b")], [{"a": "x|y\nz", "b": "\\"}])
    assert table.markdown().splitlines()[2] == "| x\\|y z | \\\\ |"


def test_first_screen_answers_and_summary(made, capsys):
    root, settings, out = made
    page = (out / "index.html").read_text(encoding="utf-8")
    first = page[: page.index("<nav")]
    for label in ("Gained", "Lost", "Never learned", "Ship"):
        assert f"<h2>{label}</h2>" in first
    assert "one seed" in first
    make(root, settings)
    path, *summary = capsys.readouterr().out.splitlines()
    assert path == str(out / "index.html")
    assert len(summary) == 5
    assert "\n".join(summary) + "\n" == (out / "summary.txt").read_text(encoding="utf-8")
    assert summary[4].startswith("Ship: sft_lora.")


# Of the report itself: when it was made of what, and the hashes of what differs.
OWN = ("manifest.json", ".manifest.json", "provenance.json")


def test_equal_results_give_equal_bytes_whatever_the_time(tmp_path):
    contents = []
    for name, seconds in (("a", 31.0), ("b", 77.0)):
        root = tmp_path / name
        out = make(root, fake_run(root, grid=True, seconds=seconds))
        contents.append({str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()})
    first, second = contents
    assert first.keys() == second.keys()
    varying = {name for name in first if first[name] != second[name]} - {*OWN}
    assert varying == {"index.html", "tables/timing.csv", "tables/timing.md"}


@pytest.mark.parametrize("pieces", [{"evaluated": False}, {"data": False}, {"evaluated": False, "data": False}])
def test_missing_pieces_leave_their_sections_out(tmp_path, pieces):
    out = make(tmp_path, fake_run(tmp_path, **pieces))
    ids = {value for key, value in Page((out / "index.html").read_text(encoding="utf-8")).attributes if key == "id"}
    assert ("scores" in ids) == pieces.get("evaluated", True)
    assert ("rows" in ids) == pieces.get("data", True)
    assert {"run", "provenance"} <= ids
    assert len((out / "summary.txt").read_text().splitlines()) == 5


def test_a_run_without_gain_still_says_what_training_did(tmp_path, monkeypatch):
    monkeypatch.setitem(SKILL, "sft", (0.1, 0.0, 0.4, 0.1))
    monkeypatch.setitem(SKILL, "sft_lora", (0.05, 0.0, 0.4, 0.1))
    monkeypatch.setitem(SKILL, "blend", (0.05, 0.0, 0.5, 0.1))
    out = make(tmp_path, fake_run(tmp_path, data=False))
    gained, lost, _, ship = (out / "summary.txt").read_text(encoding="utf-8").splitlines()[1:]
    assert "not a gain beyond chance" in gained
    assert lost.startswith("Lost: −5")
    assert ship.startswith("Ship: base.")


def test_nothing_of_an_older_run_survives(tmp_path):
    settings = fake_run(tmp_path)
    stale = tmp_path / "reports/fable/tables/stale.csv"
    write_text(stale, "old")
    make(tmp_path, settings)
    assert not stale.exists()


# --- figures -------------------------------------------------------------------------------------


def test_figures_are_whole_xml_and_themable(made):
    _, _, out = made
    drawn = sorted((out / "figures").glob("*.svg"))
    assert {path.stem for path in drawn} == {
        "forgetting",
        "recipe_graph",
        "cleaning",
        "row_flow_problems",
        "scatter",
        "moved",
        "curves_sft",
        "curves_sft_lora",
    }
    for path in drawn:
        ElementTree.parse(path)
        inlined = figures.themed(path.read_text(encoding="utf-8"))
        ElementTree.fromstring(inlined)
        # A custom property works in a style, not in an attribute of its own.
        assert not re.search(r'\b(fill|stroke)="var', inlined)
        assert "var(--ink)" in inlined


def test_a_bar_of_an_interval_that_rounding_leaves_ends_at_its_value():
    below, above = figures.reaches([tables.Estimate(0.0, 1e-17, 0.5, 0.1, 8), tables.Estimate(0.5, 0.25, 0.75, 0.1, 8)])
    assert below == [0, 25] and above == [50, 25]
    with pytest.raises(AssertionError, match="outside"):
        figures.reaches([tables.Estimate(0.1, 0.2, 0.5, 0.1, 8)])


def test_names_in_a_crowd_do_not_cover_each_other():
    figure, axes = figures.new_axes(440, 380)
    axes.set(xlim=(0, 100), ylim=(0, 100))
    figure.draw_without_rendering()
    crowd = [(f"checkpoint_{i}", 50 + i % 3, 50 + i % 4) for i in range(14)]
    scatter.place_labels(axes, crowd, [])
    boxes = []
    for text in axes.texts:
        if text.get_text():
            left, bottom = text.get_position() if text.xyann is None else text.xyann
            boxes.append((left, bottom, left + scatter.CHAR * len(text.get_text()), bottom + scatter.LABEL_HEIGHT))
    assert len(boxes) == 14
    for (a, b, c, d), (e, f, g, h) in itertools.combinations(boxes, 2):
        assert min(c, g) - max(a, e) < 1 or min(d, h) - max(b, f) < 1


def linear(color: str) -> np.ndarray:
    c = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def oklab(rgb: np.ndarray) -> np.ndarray:
    lms = np.array(
        [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
         [0.0883024619, 0.2817188376, 0.6299787005]]
    ) @ rgb  # fmt: skip
    return np.array(
        [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
         [0.0259040371, 0.7827717662, -0.8086757660]]
    ) @ np.cbrt(np.clip(lms, 0, None))  # fmt: skip


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_palette_is_told_apart_by_everyone(palette):
    def contrast(a: str, b: str) -> float:
        low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
        return (high + 0.05) / (low + 0.05)

    marks = [palette[token] for token in ("neutral", "blue", "orange", "teal", "magenta")]
    assert min(contrast(color, palette["surface"]) for color in marks) >= 3.0
    assert min(contrast(palette[token], palette["surface"]) for token in ("ink", "muted")) >= 4.5
    for matrix in VISION.values():
        seen = [oklab(np.clip(matrix @ linear(color), 0, 1)) for color in marks]
        assert min(100 * np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 9.0
    looks = [stages.look(name) for name in (*stages.ORIGINS, *stages.STAGES)]
    assert len({marker for _, marker in looks}) == len(looks)  # which tell stages apart in grey
    assert {
        token for token, _ in [stages.look(name) for name in (*stages.ORIGINS, *stages.STAGES, "another")]
    } <= palette.keys()


def test_rows_that_a_recipe_skips_are_told():
    def trained(recipe, quarantined):
        manifest = {"counts": {"train": {"in": 10, "kept": 7, "quarantined": quarantined}}}
        return Checkpoint(recipe, recipe, "s", "sft", [], 0, {}, {"data": "rows"}, manifest=manifest)

    made = [trained("a", {"too_long": 2, "control_token": 1}), trained("b", {})]
    assert rows.skipped(made, "rows") == "a cannot train on 3 (control_token, too_long)"
    assert rows.skipped(made, "other") == ""


def test_the_settings_of_any_graph_are_an_argument_that_a_command_takes():
    few, many = {"nodes": ["a"]}, {"nodes": [{"name": f"node-{i}", "settings": "x" * 900} for i in range(500)]}
    parser = step_parser("")
    for settings in (few, many):
        argument = as_argument(settings)
        assert len(argument) < 131072
        assert parser.parse_args(["--settings", argument, "--out", "o"]).settings == settings
    assert as_argument(few) == '{"nodes": ["a"]}'
