"""The report's section on reinforcement learning, from invented runs: numbers, claims, curves, missing pieces."""

import itertools
import json
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, t

from steps.core.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from steps.reinforcement.section import SECTION
from steps.reinforcement.section.claims import broken, claims_table
from steps.reinforcement.section.completions import completions
from steps.reinforcement.section.exploration_tables import reading
from steps.reinforcement.section.facts import Comparison, Explored, Reinforcement, curve_of
from steps.reinforcement.section.figures import dash, look, reinforcement_figures
from steps.reinforcement.section.gate_tables import gate_table
from steps.reinforcement.section.pair_tables import pairs_table
from steps.reinforcement.section.sentences import best_kin, leads
from steps.reinforcement.section.tables import final_table, reinforcement_tables
from steps.report import figures, tables
from steps.report.candidates import apart, candidates_of
from steps.report.gather import gather
from steps.report.lines import over_runs, smoothed, spread
from steps.settings import methods
from steps.stats import means, sampling
from tests.manifests import seal
from tests.report import test_report
from tests.report.test_report import (
    VISION,
    Page,
    fake_run,
    lead,
    linear,
    make,
    node,
    oklab,
    read_table,
    write_evaluation,
)

Z2 = norm.ppf(0.975) ** 2
TASKS = {"fable_problems": 0.0, "fable_harder": -0.3, "fable_reworded": -0.1}
# Arm → pass@1 at the end of training, greedy target, general, tokens of a response, nats per token.
SKILL = {
    "sft": (0.55, 0.9, 0.6, 38.0, 0.45),
    "grpo": (0.72, 0.94, 0.57, 40.0, 0.2),
    "sdpo": (0.66, 0.9, 0.58, 30.0, 0.3),
    "srpo": (0.74, 0.95, 0.57, 36.0, 0.25),
    "rlsd": (0.71, 0.94, 0.57, 40.0, 0.2),
    "rlrt": (0.73, 0.94, 0.56, 44.0, 0.35),
    "more_sft": (0.58, 0.92, 0.45, 38.0, 0.35),
    "grpo_judged": (0.68, 0.92, 0.57, 41.0, 0.22),
}
METHODS = ("grpo", "sdpo", "srpo", "rlsd", "rlrt")
REWARDS = {"answer": {"kind": "answer", "weight": 1.0}}
JUDGED = REWARDS | {"liked": {"kind": "preference", "weight": 0.5, "model": "judge"}}
CHECKS = [
    ("good above bad", 200, 1.0, 0.95),
    ("good above malformed", 200, 1.0, 0.95),
    ("groups that vary", 620, 0.87, 0.1),
]


def write_explore(results: Path, name: str, skill: tuple, draw, items: int, samples: int, direct: bool) -> None:
    found, rows = {}, []
    ease = np.random.default_rng(7).normal(size=items)
    for task, shift in TASKS.items():
        found[task] = {}
        for mode in ("cot", "direct") if direct else ("cot",):
            level = np.clip(skill[0] + shift - (0.35 if mode == "direct" else 0.0), 0.02, 0.98)
            chance = 1 / (1 + np.exp(-(math.log(level / (1 - level)) + 1.5 * ease)))
            correct = draw.random((items, samples)) < chance[:, None]
            answers = [
                [str(doc + 3) if ok else f"-{draw.integers(9)}" if draw.random() < 0.9 else None for ok in of_item]
                for doc, of_item in enumerate(correct)
            ]
            ks = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
            once = means.mean(correct.mean(axis=1))
            row = {"n": items, "samples": samples, "temperature": 1.0, "top_p": 1.0, "pass@1": once}
            row |= {f"pass@{k}": means.bounded(sampling.pass_at_k(correct, k)) for k in ks[1:]}
            votes = np.array([sampling.majority(a, c.tolist()) for a, c in zip(answers, correct, strict=True)])
            for k in ks:
                mixed = correct.mean(axis=1) + (votes - correct.mean(axis=1)) * math.log2(k) / math.log2(samples)
                row[f"majority@{k}"] = means.bounded(mixed)
            row["tokens"] = {"value": skill[3] if mode == "cot" else 3.0, "stderr": 0.4}
            row["entropy"] = {"value": skill[4], "stderr": 0.01}
            found[task][mode] = row | {"unparsed": 0.02, "truncated": 0.01}
            for doc in range(items):
                rows.append(
                    {"task": task, "mode": mode, "doc_id": doc, "prompt": "p", "target": str(doc + 3)}
                    | {"correct": correct[doc].tolist(), "answers": answers[doc], "responses": ["#### 1", "#### 2"]}
                )
    folder = results / "explore" / name
    write_jsonl(folder / "items.jsonl", rows)
    write_json(folder / "explore.json", {"checkpoint": name, "tasks": found, "setup": {}})
    settings = {"tasks": list(TASKS)}
    seal(folder / "manifest.json", {"step": "explore", "settings": settings, "outputs": {}, "counts": {}})


LOG = (
    "step,epoch,loss,learning_rate,grad_norm,tokens,generated,reward,reward_answer,correct,length,truncated,entropy,kl,"
    "clipped,no_signal,distilled,failures,timeouts"
)


def write_run(folder: Path, name: str, skill: tuple, draw, steps: int, kin: bool, flags: list[str], seconds: float):
    lines, tokens, generated = [LOG], 0, 0
    for step in range(1, steps + 1):
        part = step / steps
        correct = min(1.0, max(0.0, 0.55 + (skill[0] - 0.55) * part**0.6 + draw.normal() * 0.03))
        length = 38 + (skill[3] - 38) * part + draw.normal() * 0.5
        entropy = 0.45 + (skill[4] - 0.45) * part + draw.normal() * 0.01
        generated += round(128 * length)
        tokens += round(128 * (length + 45))
        row = [step, f"{step / 40:.4f}", f"{draw.normal() * 0.01:.5f}", 1e-4, 0.3, tokens, generated]
        row += [f"{correct:.5f}", f"{correct:.5f}", f"{correct:.5f}", f"{length:.3f}", 0.01, f"{entropy:.5f}"]
        row += [f"{0.12 * part:.5f}", f"{abs(draw.normal()) * 0.004:.5f}", f"{0.1 + 0.3 * part:.4f}"]
        lines.append(",".join(map(str, [*row, 0.4 if kin else 0.0, 0, 0])))
    write_text(folder / "training_log.csv", "\n".join(lines) + "\n")
    groups = [
        {
            "step": step, "id": f"rows:{12 + step}", "prompt": "Mara has 12 pears and buys <b>3</b>. How many?",
            "answer": "15", "responses": [f"12 + 3 = 15 ({name}).\n#### 15", "12 + 3 = 16.\n#### 16"],
            "rewards": {"answer": [1.0, 0.0]}, "advantages": [1.0, -1.0],
        }
        for step in (1, steps)
    ]  # fmt: skip
    write_jsonl(folder / "rollouts.jsonl", groups)
    counts = {
        "prompts": 640, "steps": steps, "samples": 128 * steps, "tokens": tokens, "generated_tokens": generated,
        "failures": {"answer": 2} if kin else {}, "timeouts": 3, "parameters": {"trained": 9, "total": 9},
        "collapse": flags,
    }  # fmt: skip
    seal(folder / "manifest.json", {"step": "rl", "settings": {}, "seed": 0, "outputs": {}, "counts": counts})
    record = {
        "argv": [], "git_commit": "c0ffee" * 6, "device": "CPU", "python": "3.11.9", "versions": {"torch": "2.13.0"},
        "seconds": seconds, "tokens": tokens, "peak_memory_mib": 812.0,
        "speed": [seconds * 50 + i for i in range(steps)],
    }  # fmt: skip
    seal(folder / "provenance.json", record)


def write_gate(results: Path, name: str) -> None:
    lines = ["check,n,value,bar,verdict", *(f"{check},{n},{value},{bar},ok" for check, n, value, bar in CHECKS)]
    write_text(results / "gate" / name / "gate.csv", "\n".join(lines) + "\n")
    counts = {"in": 1140, "kept": 640, "quarantined": {"never_solved": 320, "always_solved": 180}}
    seal(results / "gate" / name / "manifest.json", {"step": "gate", "outputs": {}, "counts": counts})


def rl_run(
    root: Path,
    *,
    seeds=(0,),
    candidates=METHODS,
    control=True,
    judge=False,
    explored=True,
    direct=True,
    gates=True,
    items=60,
    samples=8,
    steps=20,
    flags=None,
    seconds=31.0,
) -> dict:
    """An invented run with reinforcement learning from sft; returns the settings for the report."""
    settings = fake_run(root, seeds=seeds, data=False, seconds=seconds)
    results, nodes, told = root / "results/fable", [], []
    names = [*candidates, *(["more_sft"] if control else []), *(["grpo_judged"] if judge else [])]
    for seed in seeds:
        tail = "" if len(seeds) == 1 else f"-s{seed}"
        for index, recipe in enumerate(names):
            draw = np.random.default_rng([seed, index])
            skill = tuple(v + (0.01 * draw.normal() if i < 3 else 0.0) for i, v in enumerate(SKILL[recipe]))
            own = {"epochs": 1, "learning_rate": 1e-3}
            stage = "sft" if recipe == "more_sft" else "rl"
            if stage == "rl":
                own = {
                    "method": recipe.split("_")[0], "steps": steps, "prompts": 16, "generations": 8, "temperature": 1.0,
                    "rewards": JUDGED if "judged" in recipe else REWARDS, "learning_rate": 1e-4,
                    "success": {"reward": "answer", "least": 0.5}, "pass_rate": {"above": 0.0, "below": 1.0},
                }  # fmt: skip
            made = node(recipe + tail, stage, [f"sft{tail}"], recipe=recipe, seed=seed, root=root, **own)
            made |= {"study": "reinforcement", "data": "exercises"}
            nodes.append(made)
            folder = Path(made["folder"])
            if stage == "rl":
                flagged = (flags or {}).get(recipe, [])
                write_run(folder, made["name"], skill, draw, steps, recipe != "grpo", flagged, seconds)
                if gates:
                    write_gate(results, made["name"])
            else:
                test_report.write_checkpoint(folder, made["name"], random.Random(seed), True, seconds)
                text = (folder / "training_log.csv").read_text().splitlines()
                head, *rows = (line.split(",") for line in text)
                budget = (
                    read_json(Path(nodes[0]["folder"]) / "manifest.json")["counts"]["tokens"] if candidates else 54000
                )
                for i, row in enumerate(rows, start=1):
                    row[5] = str(round(budget * i / len(rows)))
                write_text(folder / "training_log.csv", "\n".join(",".join(row) for row in [head, *rows]) + "\n")
            shaken = (skill[1], skill[1] / 3, skill[2], skill[1])
            write_evaluation(results, made["name"], shaken, random.Random(f"{recipe}{seed}"), sampled=False)
        for index, recipe in enumerate(["sft", *names]):
            told.append(recipe + tail)
            if explored:
                draw = np.random.default_rng([9, seed, index])
                write_explore(results, recipe + tail, SKILL[recipe], draw, items, samples, direct)
    if judge:
        made = node("judge", "reward", ["sft" if len(seeds) == 1 else "sft-s0"], seed=0, root=root, epochs=1)
        nodes.append(made | {"study": "reinforcement"})
        test_report.write_checkpoint(Path(made["folder"]), "judge", random.Random(3), False, seconds)
        right = {"accuracy": {"value": 0.9, "stderr": 0.04, "n": 60}, "margin": {"value": 1.5, "stderr": 0.1, "n": 60}}
        write_json(Path(made["folder"]) / "reward.json", right)
    settings["graph"]["nodes"] += nodes
    settings["graph"]["checkpoints"] += [n["name"] for n in nodes]
    settings["graph"]["explore"] = told
    settings["graph"]["gates"] = [n["name"] for n in nodes if n["stage"] == "rl"]
    settings["seeds"] = list(seeds)
    return settings


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("reinforcement")
    settings = rl_run(root, seeds=(0, 1, 2), judge=True, flags={"sdpo": ["entropy fell from 0.5 to 0.01"]})
    return root, settings, make(root, settings)


def found_in(root: Path, settings: dict) -> Reinforcement | None:
    return SECTION.read(gather(settings, root / "results/fable", root / "reports/fable"))


def samples_of(root: Path, name: str, task: str, mode: str = "cot") -> list[dict]:
    rows = read_jsonl(root / f"results/fable/explore/{name}/items.jsonl")
    return [row for row in rows if (row["task"], row["mode"]) == (task, mode)]


def reached(correct: list[bool], k: int) -> float:
    """pass@k by counting every subset of k samples."""
    subsets = list(combinations(correct, k))
    return sum(any(subset) for subset in subsets) / len(subsets)


# --- rewards that are exploited -------------------------------------------------------------------


def test_an_exploited_reward_is_on_the_first_screen_and_its_answers_come_first(tmp_path):
    settings = rl_run(tmp_path, candidates=("grpo", "sdpo"), control=False, explored=False)
    folder, sentence = tmp_path / "results/fable/foundation/grpo", "by step 9 the reward counts 40 points more"
    manifest = read_json(folder / "manifest.json")
    manifest["counts"]["exploits"] = [sentence]
    seal(folder / "manifest.json", {key: manifest[key] for key in ("step", "settings", "seed", "outputs", "counts")})
    write_jsonl(folder / "disagreements.jsonl", [
        {"step": step, "id": f"rows:{step}", "prompt": "How many <b>pears</b>?", "answer": "15", "reward": reward,
         "why": "its answer is marked more than once", "response": "#### 15\n" * 100}
        for step, reward in ((1, 1.0), (3, 1.5), (9, 1.5))
    ])  # fmt: skip
    log = (folder / "training_log.csv").read_text().splitlines()
    gap = ["strict,strict_gap", *(f"0.5,{i / 100}" for i in range(len(log) - 1))]
    write_text(folder / "training_log.csv", "\n".join(f"{a},{b}" for a, b in zip(log, gap, strict=True)) + "\n")
    out = make(tmp_path, settings)
    page = (out / "index.html").read_text()
    first = page.index(sentence)
    assert first < page.index("<h2>Reinforcement</h2>") < page.index(sentence, first + 1)
    rows = read_table(out, "reinforcement_disagreements")
    assert [(row["node"], row["step"], row["reward"]) for row in rows] == [
        ("grpo", "9", "1.5"), ("grpo", "3", "1.5"), ("grpo", "1", "1")
    ]  # fmt: skip
    assert "&lt;b&gt;pears" in page and "<b>pears" not in page
    assert all(row["response"].startswith("#### 15") and len(row["response"]) < 400 for row in rows)
    assert {"reinforcement_curve_strict", "reinforcement_curve_strict_gap"} <= reinforcement_figures(
        found_in(tmp_path, settings)
    ).keys()
    (flagged,) = (row["flags"] for row in read_table(out, "reinforcement_monitoring") if row["checkpoint"] == "grpo")
    assert sentence in flagged


# --- held-out questions ---------------------------------------------------------------------------


def test_held_out_questions_are_a_curve_from_the_start_on(tmp_path):
    settings = rl_run(tmp_path, candidates=("grpo", "sdpo"), control=False, explored=False)
    folder = tmp_path / "results/fable/foundation/grpo"
    manifest = read_json(folder / "manifest.json")
    asked = {"rows": 200, "skipped": {}, "start": 0.55, "kept": 0.7, "kept_steps": 8}
    manifest["counts"]["valid"] = asked
    seal(folder / "manifest.json", {key: manifest[key] for key in ("step", "settings", "seed", "outputs", "counts")})
    log = (folder / "training_log.csv").read_text().splitlines()
    shares = ["valid_correct", *("" if i % 4 else f"{0.5 + i / 40}" for i in range(1, len(log)))]
    write_text(folder / "training_log.csv", "\n".join(f"{a},{b}" for a, b in zip(log, shares, strict=True)) + "\n")
    study = found_in(tmp_path, settings)
    (grpo,) = (candidate for candidate in study.candidates if candidate.name == "grpo")
    ((steps, values),) = curve_of(grpo, "valid_correct")
    assert steps == [0, *range(4, len(log), 4)] and values[:3] == [0.55, 0.6, 0.7]
    assert "reinforcement_curve_valid_correct" in reinforcement_figures(study)
    rows = {row["checkpoint"]: row for row in read_table(make(tmp_path, settings), "reinforcement_monitoring")}
    assert [float(rows["grpo"][f"held_out_{key}"]) for key in ("start", "kept", "step")] == [0.55, 0.7, 8]
    assert rows["sdpo"]["held_out_kept"] == ""
    # Made anew, its log is there before its manifest.
    grpo.members[0].manifest = None
    assert curve_of(grpo, "valid_correct")[0][0] == [*range(4, len(log), 4)]


# --- numbers -------------------------------------------------------------------------------------


def score_limits(share: float, n: int) -> np.ndarray:
    """The shares that lie 1.96 of their own standard errors away: the roots of a square equation."""
    return np.sort(np.roots([n + Z2, -(2 * n * share + Z2), n * share**2]).real)


def halves_of(gaps: np.ndarray) -> list[float]:
    """Below and above a mean change, [seeds, items]: items gained less lost (MOVER), seeds by Satterthwaite's t."""
    changes, seeds = gaps.mean(axis=0), gaps.mean(axis=1).var(ddof=1) / len(gaps)
    size = (changes**2).sum() / abs(changes).sum()
    up, down = (side[side > 0].sum() / size / len(changes) for side in (changes, -changes))
    (up_low, up_high), (down_low, down_high) = (score_limits(share, len(changes)) for share in (up, down))
    both = math.sqrt(up / (1 - up) * down / (1 - down))
    halves = []
    for a, b in ((up - up_low, down_high - down), (up_high - up, down - down_low)):
        items = size**2 * (a**2 + b**2 + 2 * both * a * b) / Z2
        freedom = (items + seeds) ** 2 * (len(gaps) - 1) / seeds**2
        halves.append(t(freedom).ppf(0.975) * math.sqrt(items + seeds))
    return halves


def test_levels_and_changes_come_from_the_samples(made):
    """pass@k by all subsets; the change is paired by item, its error that of paired differences and of the seeds."""
    root, _, out = made
    row = next(r for r in read_table(out, "reinforcement_final") if r["checkpoint"] == "srpo")
    for k, level, change in ((1, "pass@1", "gain"), (8, "pass@8", "reach")):
        each = {
            name: np.array(
                [
                    [reached(r["correct"], k) for r in samples_of(root, f"{name}-s{s}", "fable_problems")]
                    for s in (0, 1, 2)
                ]
            )
            for name in ("sft", "srpo")
        }
        assert float(row[level]) == pytest.approx(each["srpo"].mean(), abs=1e-5)
        gaps = each["srpo"] - each["sft"]
        assert float(row[change]) == pytest.approx(gaps.mean(), abs=1e-5)
        below, above = halves_of(gaps)
        assert float(row[change]) - float(row[f"{change}_low"]) == pytest.approx(below, abs=1e-5)
        assert float(row[f"{change}_high"]) - float(row[change]) == pytest.approx(above, abs=1e-5)
    assert (row["seeds"], row["from"], row["method"], row["n"].split(" / ")[0]) == ("0 1 2", "sft", "SRPO", "60")


def test_votes_against_single_samples(made):
    root, _, out = made
    row = next(
        r for r in read_table(out, "reinforcement_votes") if (r["checkpoint"], r["task"]) == ("grpo", "fable_harder")
    )
    gaps = []
    for seed in (0, 1, 2):
        for item in samples_of(root, f"grpo-s{seed}", "fable_harder"):
            counts = {a: item["answers"].count(a) for a in item["answers"] if a is not None}
            top = [a for a, n in counts.items() if n == max(counts.values())]
            vote = sum(a == item["target"] for a in top) / len(top) if top else 0.0
            gaps.append(vote - np.mean(item["correct"]))
    assert float(row["cot_gain"]) == pytest.approx(np.mean(gaps), abs=1e-5)
    assert float(row["cot_vote"]) - float(row["cot_once"]) == pytest.approx(np.mean(gaps), abs=1e-5)


def test_cost_and_roles(made):
    root, _, out = made
    rows = {row["checkpoint"]: row for row in read_table(out, "reinforcement_final")}
    assert list(rows)[:2] == ["sft", "grpo"]
    tokens = [read_json(root / f"results/fable/foundation/grpo-s{s}/manifest.json")["counts"] for s in (0, 1, 2)]
    assert int(rows["grpo"]["generated"]) == round(np.mean([t["generated_tokens"] for t in tokens]))
    assert int(rows["grpo"]["tokens"]) == round(np.mean([t["tokens"] for t in tokens]))
    assert (rows["sft"]["method"], rows["more_sft"]["method"]) == ("start", "control (sft)")
    assert (rows["sft"]["steps"], rows["grpo"]["steps"]) == ("", "20")
    # Forgetting is against the start, not against the model at the bottom.
    start = float(next(r for r in read_table(out, "checkpoints") if r["checkpoint"] == "sft")["general"])
    assert float(rows["grpo"]["forgetting"]) == pytest.approx(start - float(rows["grpo"]["general"]), abs=1e-5)


def test_lengths_differ_by_their_errors_and_seeds():
    ours = tables.Estimate(30.0, 0, 0, 0.3, 50, (29.0, 30.0, 31.0), (0, 1, 2))
    theirs = tables.Estimate(40.0, 0, 0, 0.4, 50, (39.0, 40.5, 40.5), (0, 1, 2))
    less = apart(theirs, ours)
    seeds = np.var([10.0, 10.5, 9.5], ddof=1) / 3
    half = t((0.25 + seeds) ** 2 / (seeds**2 / 2)).ppf(0.975) * math.sqrt(0.25 + seeds)
    assert (less.value, less.high - less.value, less.value - less.low) == pytest.approx((10.0, half, half))
    # By their number, whatever their place; without one in common they are no pairs.
    turned = replace(theirs, seed_values=(40.5, 39.0, 40.5), seeds=(2, 0, 1))
    assert apart(turned, ours).high == pytest.approx(less.high)
    others = apart(replace(theirs, seeds=(3, 4, 5)), ours)
    variances = [np.var(side.seed_values, ddof=1) / 3 for side in (ours, theirs)]
    freedom = (0.25 + sum(variances)) ** 2 / sum(v**2 / 2 for v in variances)
    half = t(freedom).ppf(0.975) * math.sqrt(0.25 + sum(variances))
    assert others.high - others.value == pytest.approx(half)
    alone = apart(replace(theirs, seed_values=(40.0,), seeds=(0,)), replace(ours, seed_values=(30.0,), seeds=(1,)))
    assert alone.high - alone.value == pytest.approx(1.959964 * 0.5)


def test_an_arm_of_one_seed_is_paired_with_that_seed_of_its_start():
    found = contest(
        start={"right": 0.5, "seeds": (0.0, 0.1, -0.2)},
        grpo={"right": 0.6, "method": "grpo", "seeds": (0.0, 0.1, -0.2)},
        srpo={"right": 0.7, "method": "srpo"},
    )
    start, candidates = found.comparisons[0].start, found.every
    alone = found.change(candidates["srpo-s0"], start, "pass@1")
    assert (alone.value, *alone.seed_values) == pytest.approx((0.2, 0.2))
    both = found.change(candidates["grpo"], start, "pass@1")
    assert (both.value, *both.seed_values) == pytest.approx((0.1, 0.1, 0.1, 0.1))


def test_what_changes_say_of_exploration():
    def at(low, high):
        return tables.Estimate((low + high) / 2, low, high, 0.1, 10)

    assert reading(at(0.1, 0.2), at(-0.2, -0.1)) == "sharper and narrower"
    assert reading(at(0.1, 0.2), at(-0.1, 0.1)) == "sharper"
    assert reading(at(-0.2, -0.1), at(0.1, 0.2)) == "wider and duller"
    assert reading(at(-0.1, 0.1), at(-0.1, 0.1)) == "no change beyond chance"


def test_monitoring_compares_both_ends(made):
    root, _, out = made
    row = next(r for r in read_table(out, "reinforcement_monitoring") if r["checkpoint"] == "rlrt")
    logs = [
        [
            line.split(",")
            for line in (root / f"results/fable/foundation/rlrt-s{s}/training_log.csv").read_text().split()
        ]
        for s in (0, 1, 2)
    ]
    column = logs[0][0].index("entropy")
    ends = [[np.mean([float(r[column]) for r in part]) for log in logs for part in (log[cut],)] for cut in
            (slice(1, 3), slice(-2, None))]  # fmt: skip
    assert float(row["entropy_first"]) == pytest.approx(np.mean(ends[0]), rel=1e-5)
    assert float(row["entropy_last"]) == pytest.approx(np.mean(ends[1]), rel=1e-5)
    assert float(row["entropy_last_stderr"]) == pytest.approx(np.std(ends[1], ddof=1) / math.sqrt(3), rel=1e-4)
    assert (row["failures"], row["timeouts"], row["samples"], row["flags"]) == ("answer 6", "9", "7680", "none")
    flagged = next(r for r in read_table(out, "reinforcement_monitoring") if r["checkpoint"] == "sdpo")["flags"]
    assert flagged.count("entropy fell") == 3


def test_gates_that_are_alike_stand_once(made):
    root, settings, out = made
    rows = read_table(out, "reinforcement_gate")
    assert [row["check"] for row in rows] == [check for check, *_ in CHECKS]
    assert (rows[0]["recipes"], rows[0]["seeds"]) == ("grpo sdpo srpo rlsd rlrt grpo_judged", "0 1 2")
    found = found_in(root, settings)
    found.gates["sdpo-s1"].checks[2] = found.gates["sdpo-s1"].checks[2] | {"value": "0.5"}
    rows = [row for row in gate_table(found).rows if row["check"] == CHECKS[2][0]]
    assert {(row["value"], row["recipes"], row["seeds"]) for row in rows} == {
        (0.87, "grpo sdpo srpo rlsd rlrt grpo_judged", "0 2"),
        (0.87, "grpo srpo rlsd rlrt grpo_judged", "1"),
        (0.5, "sdpo", "1"),
    }
    (row,) = read_table(out, "reinforcement_rows")
    assert (row["in"], row["kept"], row["never_solved"], row["always_solved"]) == ("1140", "640", "320", "180")
    text = (out / "index.html").read_text(encoding="utf-8")
    assert "640 of 1,140 rows train grpo-s0; left out: 180 always solved, 320 never solved." in text


# --- pairs ---------------------------------------------------------------------------------------


def test_runs_that_differ_in_one_thing_are_compared():
    plain = {"method": "grpo", "right": 0.6, "prompts": 8, "batch_size": 64, "loss_type": "dapo", "clip": {"low": 0.2}}
    table = pairs_table(
        contest(
            grpo=plain,
            again=plain | {"saves": 3, "learning_rate": None},
            by_response=plain | {"loss_type": "grpo"},
            gspo=plain | {"method": "gspo", "loss_type": "grpo", "clip": {"low": 3e-4}},
            more=plain | {"prompts": 12, "batch_size": 96},
            dynamic=plain | {"dynamic_sampling": 3},
            both=plain | {"dynamic_sampling": 3, "mask_truncated": True},
        )
    )
    found = {(row["checkpoint"][:-3], row["against"][:-3]): row["differs"] for row in table.rows}
    grpo = {
        "by_response": "loss_type: grpo / dapo",
        "gspo": "method: gspo / grpo, loss_type: grpo / dapo, clip: low=0.0003 / low=0.2",
        "more": "prompts: 12 / 8, batch_size: 96 / 64",
        "dynamic": "dynamic_sampling: 3 / none",
    }
    assert found == {(name, start): text for name, text in grpo.items() for start in ("grpo", "again")} | {
        ("gspo", "by_response"): "method: gspo / grpo, clip: low=0.0003 / low=0.2",
        ("dynamic", "more"): "prompts: 8 / 12, batch_size: 64 / 96, dynamic_sampling: 3 / none",
        ("both", "dynamic"): "mask_truncated: true / none",
    }


def test_pairs_differ_by_what_both_answered(made):
    root, settings, _ = made
    table = pairs_table(found_in(root, settings))
    (row,) = (row for row in table.rows if (row["checkpoint"], row["against"]) == ("srpo", "grpo"))
    assert row["differs"] == "method: srpo / grpo" and row["seeds"] == "0 1 2" and len(row["manifest"]) == 6
    right = {name: [] for name in ("srpo", "grpo")}
    written = dict.fromkeys(right, 0)
    for name, seed in itertools.product(right, range(3)):
        samples = read_jsonl(root / f"results/fable/evaluation/{name}-s{seed}/samples.jsonl")
        right[name] += [s["correct"][0] for s in samples if s["task"] == "fable_problems"]
        (node,) = (node for node in settings["graph"]["nodes"] if node["name"] == f"{name}-s{seed}")
        log = (Path(node["folder"]) / "training_log.csv").read_text().splitlines()
        written[name] += int(log[-1].split(",")[LOG.split(",").index("generated")])
    assert row["target"].value == pytest.approx(np.mean(right["srpo"]) - np.mean(right["grpo"]))
    assert row["target"].low < row["target"].value < row["target"].high
    assert row["written"] == pytest.approx(written["srpo"] / written["grpo"])
    # These runs were not sampled where all checkpoints are.
    assert row["sampled"] is None and row["n"].startswith("– / ")


def test_pairs_differ_by_what_was_sampled_where_it_was():
    found = contest(grpo={"method": "grpo", "right": 0.5}, cispo={"method": "cispo", "right": 0.5})
    # Of four questions two samples each; three of eight and six of eight are right.
    for name, right in (("grpo", [[1, 0], [1, 1], [0, 0], [0, 0]]), ("cispo", [[1, 1], [1, 1], [1, 0], [0, 1]])):
        (member,) = found.every[f"{name}-s0"].members
        share = np.mean(right)
        member.results["sampling"] = {"t": {"n": 4, "pass@1": {"value": share, "stderr": 0.2}}}
        member.samples += [
            {"task": "t", "doc_id": i, "kind": "sampled", "correct": [*map(bool, own)]} for i, own in enumerate(right)
        ]
    (row,) = pairs_table(found).rows
    assert row["sampled"].value == pytest.approx(3 / 8) and row["n"].startswith("4 / ")


# --- claims --------------------------------------------------------------------------------------


def measured(name: str, right: float, *, method=None, general=0.6, tokens=40.0, seeds=(0.0,), spread=0.05, **own):
    """Nodes of one arm, one per seed, and what their exploration found; items are nested between arms."""
    nodes, explored = [], {}
    for seed, off in enumerate(seeds):
        stage = "rl" if method else own.get("stage", "sft")
        settings = {"method": method, "rewards": REWARDS, "steps": 40} | own if method else {}
        made = test_report.candidate(f"{name}-s{seed}", 0.5, general, ("start-s0",), stage=stage)
        log = [{"step": 1.0, "loss": 0.1, "tokens": own.get("spent", 1000.0)}]
        manifest = {"counts": {"collapse": own.get("collapse", [])}}
        if name == "start":
            made = replace(made, parents=[], stage="sft")
        nodes.append(replace(made, recipe=name, seed=seed, settings=settings, log=log, manifest=manifest))
        n, share = 200, right + off
        rows = {i: ([i < round(share * n)] * 2, float(i < round(share * n))) for i in range(n)}
        values = np.array([correct for correct, _ in rows.values()], dtype=float)
        cell = {
            "n": n, "samples": 2, "temperature": 1.0, "pass@1": means.mean(values.mean(axis=1)),
            "pass@2": means.mean(values.max(axis=1)), "majority@2": means.mean(values.mean(axis=1)),
            "tokens": {"value": tokens, "stderr": 0.5}, "entropy": {"value": 0.3, "stderr": 0.01},
        }  # fmt: skip
        run = Explored({"t": {"cot": cell}}, Path())
        run.items = {("t", "cot"): rows}
        explored[f"{name}-s{seed}"] = run
    return nodes, explored


def contest(**candidates) -> Reinforcement:
    """An invented comparison: arm → arguments of `measured`."""
    nodes, explored = [], {}
    for name, given in ({"start": {"right": 0.5}} | candidates).items():
        more, runs = measured(name, **given)
        nodes += more
        explored |= runs
    every = candidates_of(nodes)
    start, *made = every.values()
    trained, controls = ([candidate for candidate in made if (candidate.stage == "rl") == rl] for rl in (True, False))
    return Reinforcement(every, [Comparison(start, trained, controls)], explored)


def verdicts(found: Reinforcement) -> dict[str, str]:
    """What the intervals alone say of what was measured."""
    return {row["claim"]: row["reading"] for row in claims_table(found).rows if "reading" in row}


@pytest.mark.parametrize(
    ("kin", "grpo", "expected"),
    [(0.8, 0.6, "held"), (0.6, 0.8, "not held"), (0.605, 0.6, "undecided"), (0.6, 0.6, "undecided")],
)
def test_one_method_above_another(kin, grpo, expected):
    pairs = {
        ("sdpo", "grpo"): "SDPO scores above GRPO.",
        ("srpo", "grpo"): "SRPO scores above GRPO.",
        ("srpo", "sdpo"): "SRPO scores above SDPO.",
        ("rlsd", "grpo"): "RLSD scores above GRPO.",
        ("rlrt", "grpo"): "RLRT scores above GRPO.",
        ("rlrt", "rlsd"): "RLRT scores above RLSD.",
    }
    for (better, worse), claim in pairs.items():
        candidates = {better: {"right": kin, "method": better}, worse: {"right": grpo, "method": worse}}
        assert verdicts(contest(**candidates))[claim] == expected
    assert not any("above" in claim for claim in verdicts(contest(grpo={"right": 0.7, "method": "grpo"})))


def test_seeds_that_disagree_leave_a_claim_undecided():
    def candidates(spread):
        kin = {"right": 0.7, "method": "srpo", "seeds": (-spread, 0.0, spread)}
        return {"srpo": kin, "grpo": {"right": 0.6, "method": "grpo", "seeds": (spread, 0.0, -spread)}}

    assert verdicts(contest(**candidates(0.0)))["SRPO scores above GRPO."] == "held"
    assert verdicts(contest(**candidates(0.15)))["SRPO scores above GRPO."] == "undecided"


@pytest.mark.parametrize(("tokens", "expected"), [(30.0, "held"), (50.0, "not held"), (39.9, "undecided")])
def test_sdpo_is_shorter(tokens, expected):
    candidates = {"sdpo": {"right": 0.6, "method": "sdpo", "tokens": tokens}, "grpo": {"right": 0.6, "method": "grpo"}}
    assert verdicts(contest(**candidates))["SDPO answers in fewer tokens than GRPO."] == expected


@pytest.mark.parametrize(
    ("general", "expected"), [(0.62, "held"), (0.6, "held"), (0.5, "not held"), (0.57, "undecided")]
)
def test_sdpo_forgets_no_more(general, expected):
    candidates = {
        "sdpo": {"right": 0.6, "method": "sdpo", "general": general},
        "grpo": {"right": 0.6, "method": "grpo"},
    }
    assert verdicts(contest(**candidates))["SDPO forgets no more than GRPO."] == expected


@pytest.mark.parametrize(
    ("right", "flags", "expected"),
    [
        (0.3, [], "held"),
        (0.7, [], "not held"),
        (0.7, ["entropy fell from 0.5 to 0.01"], "undecided"),
        (0.5, [], "undecided"),
    ],
)
def test_sdpo_breaks_down(right, flags, expected):
    found = contest(sdpo={"right": right, "method": "sdpo", "collapse": flags})
    assert verdicts(found)["SDPO breaks down."] == expected
    row = next(r for r in claims_table(found).rows if r["claim"].startswith("SDPO breaks"))
    assert ("Flagged in 1 of 1 runs: entropy fell" if flags else "No run was flagged") in row["here"]


def test_breaking_down_by_the_edges_of_the_interval():
    assert broken(tables.Estimate(-0.1, -0.2, -0.01, 0.1, 9), False) == "held"
    assert broken(tables.Estimate(-0.1, -0.2, 0.0, 0.1, 9), False) == "undecided"
    assert broken(tables.Estimate(0.1, 0.0, 0.2, 0.1, 9), False) == "not held"


@pytest.mark.parametrize(
    ("right", "general", "spent", "expected"),
    [
        (0.5, 0.4, 1000.0, ("held", "held")),
        (0.9, 0.8, 1000.0, ("not held", "not held")),
        (0.7, 0.6, 1000.0, ("undecided", "undecided")),
        (0.5, 0.4, 1500.0, None),  # no equal budget: no claim
    ],
)
def test_rewards_against_the_same_tokens_of_rows(right, general, spent, expected):
    candidates = {
        "grpo": {"right": 0.7, "method": "grpo"},
        "more": {"right": right, "general": general, "spent": spent},
    }
    found = contest(**candidates)
    told = verdicts(found)
    names = (
        "RL gains more on the target than SFT with the same tokens.",
        "RL forgets less than SFT with the same tokens.",
    )
    assert tuple(told[name] for name in names) == expected if expected else not {*names} & told.keys()
    said = " ".join(leads(found, found.comparisons[0]))
    assert ("no claim rests on the two" in said) == (expected is None)


def test_arms_of_other_rewards_and_budgets_are_not_compared():
    candidates = {
        "grpo": {"right": 0.6, "method": "grpo"},
        "sdpo": {"right": 0.6, "method": "sdpo"},
        "srpo": {"right": 0.9, "method": "srpo", "steps": 80},
        "judged": {"right": 0.9, "method": "rlsd", "rewards": JUDGED},
    }
    found = contest(**candidates)
    assert list(found.comparisons[0].of_method) == ["grpo", "sdpo"]
    assert not any(claim.startswith(("SRPO", "RLSD")) for claim in verdicts(found))
    assert best_kin(found, found.comparisons[0]).name == "sdpo-s0"


def test_a_method_that_is_not_known_is_shown_like_the_others():
    candidates = {"grpo": {"right": 0.6, "method": "grpo"}, "novel": {"right": 0.9, "method": "novel"}}
    found = contest(**candidates)
    assert list(found.comparisons[0].of_method) == ["grpo", "novel"]
    assert best_kin(found, found.comparisons[0]).name == "novel-s0"
    assert "novel" in " ".join(leads(found, found.comparisons[0]))
    assert [row["method"] for row in final_table(found).rows] == ["start", "GRPO", "novel"]
    candidate = found.every["novel-s0"]
    assert look(candidate, found)[0] in figures.LIGHT and dash(candidate, found)


def test_of_two_arms_of_a_method_the_one_with_more_seeds_stands_for_it():
    candidates = {
        "a": {"right": 0.6, "method": "grpo"},
        "b": {"right": 0.6, "method": "grpo", "seeds": (0.0, 0.0, 0.0)},
    }
    assert contest(**candidates).comparisons[0].of_method["grpo"].name == "b"


# --- figures -------------------------------------------------------------------------------------


def test_curves_are_running_means_with_a_band_over_seeds():
    assert smoothed([0.0, 3.0, 6.0, 9.0], 3) == [1.5, 3.0, 6.0, 7.5]
    assert smoothed([1.0, 5.0], 1) == [1.0, 5.0]
    runs = [([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]), ([1.0, 2.0], [4.0, 4.0])]
    assert over_runs(runs) == ([1.0, 2.0], [2.0, 2.5], [0.0, 1.0], [4.0, 4.0])


def test_labels_beside_lines_do_not_lie_on_each_other():
    draw = random.Random(2)
    for n in range(1, 9):
        wanted = sorted(draw.uniform(0, 60) for _ in range(n))
        got = spread(wanted, 12.0, 100.0)
        assert all(b - a >= 12.0 - 1e-9 for a, b in itertools.pairwise(got))
        assert min(got) >= 0 and max(got) <= 100
    assert spread([0.0, 50.0, 100.0], 12.0, 100.0) == [0.0, 50.0, 100.0]
    assert spread([40.0, 40.0], 12.0, 100.0) == [34.0, 46.0]
    assert spread([99.0, 100.0], 12.0, 100.0) == [88.0, 100.0]


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_methods_are_told_apart_by_everyone(palette):
    # Two methods of one colour have two markers (tests/settings/test_registries.py).
    tokens = {"neutral", *(entry.look[0] for entry in methods.METHODS.values())}
    marks = [palette[token] for token in sorted(tokens)]
    assert len(set(marks)) == len(tokens) == 6
    for matrix in VISION.values():
        seen = [oklab(np.clip(matrix @ linear(color), 0, 1)) for color in marks]
        assert min(100 * np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 9.0
    light = [float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (*marks, palette["surface"])]
    low, high = np.minimum(light[:-1], light[-1]), np.maximum(light[:-1], light[-1])
    assert min((high + 0.05) / (low + 0.05)) >= 3.5


def test_every_quantity_is_drawn(made):
    _, _, out = made
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    curves = {f"reinforcement_curve_{q}" for q in ("correct", "length", "entropy", "kl", "no_signal", "distilled")}
    passes = {f"reinforcement_pass_{task}" for task in TASKS}
    votes = {"reinforcement_majority_cot", "reinforcement_majority_direct"}
    rest = {"reinforcement_trade", "timing_reinforcement", *(f"reinforcement_gain_{task}" for task in TASKS)}
    assert curves | passes | votes | rest <= drawn
    assert "reinforcement_curve_reward" not in drawn  # which is the share of correct samples here
    assert not {f"curves_{name}" for name in METHODS} & drawn  # a policy's loss is no curve of learning
    assert "curves_more_sft" in drawn
    for name in drawn:
        ElementTree.parse(out / f"figures/{name}.svg")
        assert not re.search(r'\b(fill|stroke)="var', figures.themed((out / f"figures/{name}.svg").read_text()))
    names = set(re.findall(r">([a-z_]+)</text>", (out / "figures/reinforcement_pass_fable_harder.svg").read_text()))
    assert {*METHODS, "sft", "more_sft"} <= names


# --- the page ------------------------------------------------------------------------------------


def test_page_has_the_section_and_its_links(made):
    _, _, out = made
    text = (out / "index.html").read_text(encoding="utf-8")
    page = Page(text)
    ids = {value for key, value in page.attributes if key == "id"}
    assert "reinforcement" in ids
    for key, value in page.attributes:
        if key == "href":
            assert value[1:] in ids if value.startswith("#") else (out / value).is_file(), value
    for said in (
        "The reward model judge ranks the better response first in 90.0 [79.9, 95.3] % of 60 held-out pairs",
        "sdpo, 3 of 3 runs; sdpo-s0: entropy fell from 0.5 to 0.01.",
        "buys &lt;b&gt;3&lt;/b&gt;. How many?",
    ):
        assert said in text
    gained = lead(out, "Reinforcement")
    row = next(r for r in read_table(out, "reinforcement_final") if r["checkpoint"] == "grpo")
    points = f"{100 * float(row['gain']):+.1f}"
    assert f"in pass@1 on fable_problems: grpo {points} [" in gained
    assert ", srpo +" in gained and ", the control more_sft +" in gained
    levels = read_json(out / "metrics.json")["reinforcement"]
    assert levels["grpo"]["pass@1"] == pytest.approx(float(row["pass@1"]), abs=1e-5)


def test_completions_are_of_one_prompt(made):
    root, settings, _ = made
    found = found_in(root, settings)
    shown = completions(found, found.comparisons[0])
    assert [(item["step"], item["id"]) for item in shown] == [(1, "rows:13"), (20, "rows:32")]
    assert [reply["name"] for reply in shown[0]["replies"]] == ["grpo", "grpo_judged", *METHODS[1:]]
    assert (shown[0]["replies"][0]["right"], shown[0]["replies"][0]["share"]) == (True, "1 of 2 correct")


SMALL = {"candidates": ("grpo", "srpo"), "items": 12, "samples": 4, "steps": 6}


def table_names(out: Path) -> set[str]:
    return {path.stem.removeprefix("reinforcement_") for path in (out / "tables").glob("reinforcement_*.csv")}


def words(out: Path) -> list[str]:
    return re.findall(r"\w+", re.sub(r"<[^>]*>", " ", (out / "index.html").read_text(encoding="utf-8")))


def test_before_exploration_there_are_greedy_scores(tmp_path):
    out = make(tmp_path, rl_run(tmp_path, **SMALL, explored=False, gates=False))
    assert table_names(out) == {"final", "claims", "monitoring", "pairs"}
    measured = {row["claim"] for row in read_table(out, "reinforcement_claims") if row["reading"]}
    assert measured == {"RL forgets less than SFT with the same tokens."}
    assert not {"nan", "None"} & set(words(out))
    assert "Reinforcement learning from sft, in the target, greedy: grpo" in lead(out, "Reinforcement")


def test_a_half_done_study_shows_what_is_there(tmp_path):
    """One run without its exploration, evaluation and gate yet, beside one with all; no control, no direct answers."""
    settings = rl_run(tmp_path, **SMALL, control=False, direct=False)
    for step in ("explore", "evaluation", "gate"):
        (tmp_path / f"results/fable/{step}/srpo/manifest.json").unlink()
    out = make(tmp_path, settings)
    assert table_names(out) == {"final", "changes", "exploration", "votes", "monitoring", "gate", "rows", "claims"}
    rows = {row["checkpoint"]: row for row in read_table(out, "reinforcement_final")}
    assert (rows["srpo"]["pass@1"], rows["srpo"]["target"]) == ("", "")
    assert rows["srpo"]["generated"] and rows["grpo"]["gain"]
    assert not {"nan", "None"} & set(words(out))


def test_without_a_trained_policy_there_is_no_section(tmp_path):
    settings = rl_run(tmp_path, candidates=(), control=False, items=5, samples=2)
    assert found_in(tmp_path, settings) is None
    planned = rl_run(tmp_path, candidates=("grpo",), items=5, samples=2, steps=3)
    (tmp_path / "results/fable/foundation/grpo/manifest.json").unlink()
    assert found_in(tmp_path, planned) is None


def test_a_model_can_be_the_start(tmp_path):
    settings = rl_run(tmp_path, candidates=("grpo",), control=False, items=12, samples=4, steps=6)
    settings["graph"]["nodes"][-1]["parents"] = ["base"]
    folder = tmp_path / "results/fable/explore"
    (folder / "sft").rename(folder / "base")
    settings["graph"]["explore"] = ["base", "grpo"]
    found = found_in(tmp_path, settings)
    assert (found.comparisons[0].start.name, found.comparisons[0].start.stage) == ("base", "model")
    assert {table.name for table in reinforcement_tables(found)} >= {"reinforcement_final", "reinforcement_changes"}


def test_only_timing_differs_with_time(tmp_path):
    contents = []
    for name, seconds in (("a", 31.0), ("b", 77.0)):
        found = found_in(tmp_path / name, rl_run(tmp_path / name, **SMALL, seconds=seconds))
        made = {table.name: table.csv() + table.markdown() for table in reinforcement_tables(found)}
        contents.append(made | reinforcement_figures(found))
    first, second = contents
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"timing_reinforcement"}
    assert any(name.startswith("reinforcement_curve") for name in first)


def test_settings_stay_as_they_were(made):
    """Reading twice gives the same tables, byte for byte."""
    root, settings, out = made
    again = {
        table.name: table.csv() for table in reinforcement_tables(found_in(root, json.loads(json.dumps(settings))))
    }
    assert all((out / f"tables/{name}.csv").read_text(encoding="utf-8") == text for name, text in again.items())
