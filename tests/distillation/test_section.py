"""The report's section on distillation, from invented runs: figures, sentences, page, missing pieces."""

import html
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import t

from steps.core.files import read_json, write_json, write_jsonl, write_text
from steps.distillation.section import SECTION, line_figures
from steps.distillation.section import recovery_figures as recovery_drawing
from steps.distillation.section import sentences as words
from steps.distillation.section.budget_figures import plain_number
from steps.distillation.section.budgets import Budget, Reached, Series
from steps.distillation.section.completions import completions
from steps.distillation.section.facts import Distillation
from steps.distillation.section.figures import distillation_figures
from steps.distillation.section.forecasts import Forecast
from steps.distillation.section.line_figures import LINES, QUANTITIES, continued, forecast_figure, style
from steps.distillation.section.questions import HEADINGS, by_question, compared
from steps.distillation.section.recovery_figures import BELOW, recovery_figures
from steps.distillation.section.tables import distillation_tables
from steps.report import figures
from steps.report.gather import gather
from steps.report.tables import Estimate, number_text
from tests.manifests import seal
from tests.reinforcement.test_section import write_run
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

# Recipe → share right on target, harder, general, dev.
SKILL = {
    "grpo": (0.97, 0.4, 0.55, 0.95),
    "opd": (0.96, 0.4, 0.6, 0.95),
    "cold": (0.6, 0.3, 0.7, 0.6),
    "opd_cold": (0.95, 0.4, 0.6, 0.94),
    "opd_lora": (0.6, 0.3, 0.7, 0.6),
    "opd_same": (0.8, 0.3, 0.6, 0.8),
    "opd_top1": (0.85, 0.4, 0.6, 0.9),
    "opd_cap": (0.75, 0.4, 0.6, 0.9),
    "opd_original": (0.7, 0.4, 0.85, 0.9),
    "opd_many": (0.94, 0.4, 0.85, 0.9),
    "mean": (0.8, 0.4, 0.75, 0.9),
    "distilled": (0.9, 0.4, 0.6, 0.9),
    "opd_dose": (0.8, 0.4, 0.6, 0.9),
    "sft_dose": (0.75, 0.4, 0.5, 0.8),
    "grpo_dose": (0.85, 0.4, 0.6, 0.9),
}
DEFAULT = ("grpo", "cold", "opd", "opd_cold")
OPD = {
    "steps": 20, "prompts": 16, "generations": 2, "divergence": {"kind": "reverse_kl"},
    "support": {"kind": "top_k", "of": "student", "k": 16, "rest": "renormalised"}, "horizon": None, "off_policy": 0.0,
    "pass_rate": None, "curriculum": "shuffle", "temperature": 1.0, "max_new_tokens": 96, "learning_rate": 3e-4,
}  # fmt: skip
RL = {
    "method": "grpo", "steps": 40, "prompts": 16, "generations": 8, "temperature": 1.0, "learning_rate": 1e-4,
    "rewards": {"answer": {"kind": "answer", "weight": 1.0}},
    "success": {"reward": "answer", "least": 0.5}, "pass_rate": {"above": 0.0, "below": 1.0},
}  # fmt: skip
LOG = (
    "step,epoch,loss,learning_rate,grad_norm,tokens,generated,scored,correct,length,truncated,log_ratio,entropy,"
    "teacher_entropy,entropy_gap,overlap,mass_student,mass_teacher,overlap_advantage"
)
PLACES = (
    "step,begin,end,tokens,overlap,mass_student,mass_teacher,overlap_advantage,entropy_gap,entropy,teacher_entropy,"
    "divergence"
)
PARAMETERS = {"trained": 9, "total": 9}
HOSTILE = "Mara has 12 pears & <b>3</b> \u202eplums."


def recipe(name: str, seed: int, tail: str, root: Path) -> list[dict]:
    """The nodes of one recipe at one seed."""
    sft, grpo = f"sft{tail}", f"grpo{tail}"

    def opd(start, teachers, data=("exercises",), routed=False, **own):
        shares = 1 / len(data)
        sources = [
            {"data": each, "share": shares, "teachers": [i] if routed else list(range(len(teachers)))}
            for i, each in enumerate(data)
        ]
        made = node(name + tail, "opd", [start], recipe=name, seed=seed, root=root, **OPD | own)
        weights = [1 / len(teachers)] * len(teachers)
        made["settings"] |= {"sources": sources, "weights": weights}
        return [made | {"data": data[0], "teachers": teachers, "sources": sources}]

    def distill(start, teachers, **own):
        made = node(name + tail, "distill", [start], recipe=name, seed=seed, root=root, epochs=2, **own)
        sources = [{"data": "exercises", "share": None, "teachers": [0]}]
        return [made | {"data": "exercises", "teachers": teachers, "sources": sources}]

    def other(stage, parents, data=None, point=None, **own):
        suffix = "".join(f"-{key}={value}" for key, value in (point or {}).items())
        made = node(name + suffix + tail, stage, parents, recipe=name, seed=seed, point=point, root=root, **own)
        return [made | {"data": data}]

    if name == "opd_dose":
        return [
            opd(sft, [grpo], steps=steps)[0]
            | {"name": f"opd_dose-steps={steps}{tail}", "point": {"steps": steps}}
            | {"folder": str(root / f"results/fable/foundation/opd_dose-steps={steps}{tail}")}
            for steps in (5, 10)
        ]
    return {
        "grpo": lambda: other("rl", [sft], "exercises", **RL),
        "grpo_dose": lambda: other("rl", [sft], "exercises", {"steps": 20}, **RL | {"steps": 20}),
        "sft_dose": lambda: other("sft", [sft], "problems", {"epochs": 1}, epochs=1, learning_rate=7e-4),
        "mean": lambda: other("merge", [grpo, "base"], method="linear"),
        "cold": lambda: distill("base", [grpo], objective="tokens"),
        "distilled": lambda: distill(sft, [grpo], objective="forward_kl"),
        "opd": lambda: opd(sft, [grpo]),
        "opd_cold": lambda: opd(f"cold{tail}", [grpo]),
        "opd_lora": lambda: opd(sft, [f"sft_lora{tail}"]),
        "opd_same": lambda: opd(sft, [f"sft_lora{tail}"], steps=30),
        "opd_top1": lambda: opd(sft, [grpo], support={"kind": "top_k", "of": "student", "k": 1, "rest": "tail"}),
        "opd_cap": lambda: opd(sft, [grpo], horizon={"tokens": 8}),
        "opd_original": lambda: opd(sft, ["base"], ("practice",)),
        "opd_many": lambda: opd(sft, [grpo, "base"], ("exercises", "practice"), routed=True),
    }[name]()


def write_log(folder: Path, steps: int, draw) -> int:
    """training_log.csv of a run of stage opd; returns the tokens generated."""
    lines, generated = [LOG], 0
    for step in range(1, steps + 1):
        part = step / steps
        generated += 32 * 38
        cells = dict.fromkeys(LOG.split(","), 0.01) | {"step": step, "tokens": 2 * generated}
        cells |= {"generated": generated, "scored": 2 * generated, "correct": 0.5 + 0.4 * part, "length": 38.0}
        cells |= {"overlap": 0.7 + 0.2 * part + 0.01 * draw.normal(), "overlap_advantage": -0.3 + 0.25 * part}
        cells |= {"entropy_gap": 0.2 - 0.15 * part, "mass_student": 0.98, "mass_teacher": 0.975}
        cells |= {"log_ratio": -0.2 + 0.15 * part, "entropy": 0.4 - 0.1 * part}
        lines.append(",".join(f"{cells[name]:.6g}" for name in LOG.split(",")))
    write_text(folder / "training_log.csv", "\n".join(lines) + "\n")
    return generated


def write_opd(made: dict, draw) -> None:
    folder, steps = Path(made["folder"]), made["settings"]["steps"]
    generated = write_log(folder, steps, draw)
    lines = [PLACES]
    for step in range(1, steps + 1):
        for begin in range(0, 40, 8):
            cells = dict.fromkeys(PLACES.split(","), 0.1) | {"step": step, "begin": begin, "end": begin + 8}
            cells |= {"tokens": 200 - 4 * begin, "overlap": 0.9 - 0.005 * begin + 0.002 * step}
            cells |= {"divergence": 0.2 + 0.004 * begin - 0.005 * step}
            lines.append(",".join(f"{cells[name]:.6g}" for name in PLACES.split(",")))
    write_text(folder / "positions.csv", "\n".join(lines) + "\n")
    rows = [
        {
            "step": step, "id": f"rows:{12 + step}", "data": made["data"], "teacher": made["teachers"][0],
            "prompt": HOSTILE, "response": f"{made['name']}: 12 + 3 = 15.\n#### 15", "correct": right,
            "log_ratio": -0.125,
        }
        for step, right in ((1, False), (steps, None))
    ]  # fmt: skip
    write_jsonl(folder / "rollouts.jsonl", rows)
    counts = {
        "prompts": {made["data"]: 640}, "steps": steps, "samples": 32 * steps, "off_policy_samples": 0,
        "tokens": 2 * generated, "generated_tokens": generated, "scored_tokens": 2 * generated,
        "parameters": PARAMETERS, "teachers": dict.fromkeys(made["teachers"], PARAMETERS["total"]),
    }  # fmt: skip
    seal(folder / "manifest.json", {"step": "opd", "settings": {}, "seed": 0, "outputs": {}, "counts": counts})


def write_forecast(folder: Path, data: str, student: str, teacher: str, helps: bool) -> None:
    def around(value):
        return {"value": value, "low": value - 0.05, "high": value + 0.05}

    gain = 0.2 if helps else -0.1
    checks = [
        {"check": name, **around(value), "bar": bar, "passed": value - 0.05 > bar}
        for name, value, bar in (("gain", gain, 0.0), ("overlap", 0.8, 0.5), ("continuation", gain / 2, 0.0))
    ]
    prefixes = [
        {"share": share, "n": 90, "student": 0.5, "teacher": 0.5 + gain * (1 - share), "gain": gain * (1 - share)}
        | {"low": gain * (1 - share) - 0.05, "high": gain * (1 - share) + 0.05}
        for share in (0.25, 0.5, 0.75)
    ]
    names = ("overlap", "mass_student", "mass_teacher", "overlap_advantage", "entropy_gap", "divergence")
    found = {
        "data": data, "student": student, "teacher": teacher, "helps": helps, "checks": checks,
        "reasons": ["The teacher <solves> more.", "Both think alike."], "student_pass": around(0.5),
        "teacher_pass": around(0.5 + gain), "gain": around(gain), "beyond": around(0.1), "prefixes": prefixes,
        "prompts": 100, "samples": 4, "unverified": 3,
    } | {name: around(0.8) for name in names}  # fmt: skip
    write_json(folder / "forecast.json", found)
    write_text(folder / "prefixes.csv", "prompt,share\n")
    seal(folder / "manifest.json", {"step": "forecast", "outputs": {}, "counts": {"prompts": 100}})


def distillation_run(root: Path, *, seeds=(0,), recipes=tuple(SKILL), forecast=True, seconds=31.0, skill=None) -> dict:
    """An invented run of the study; returns the settings for the report."""
    settings = fake_run(root, seeds=seeds, data=False, seconds=seconds)
    settings |= {"forecast": {"axes": {"practice": "general"}}}
    results, made = root / "results/fable", []
    forecasts, generations = [], []
    for seed in seeds:
        tail = "" if len(seeds) == 1 else f"-s{seed}"
        for index, name in enumerate(recipes):
            for place, one in enumerate(recipe(name, seed, tail, root)):
                one |= {"study": "distillation"}
                made.append(one)
                folder, draw = Path(one["folder"]), np.random.default_rng([seed, index, place])
                test_report.write_checkpoint(folder, one["name"], random.Random(seed), False, seconds)
                if one["stage"] == "opd":
                    write_opd(one, draw)
                elif one["stage"] == "rl":
                    level = (0.8, 0.9, 0.6, 38.0, 0.3)
                    write_run(folder, one["name"], level, draw, one["settings"]["steps"], False, [], seconds)
                elif one["stage"] in ("sft", "distill"):
                    test_report.write_checkpoint(folder, one["name"], random.Random(seed), True, seconds)
                    manifest = read_json(folder / "manifest.json") | {"counts": {"parameters": PARAMETERS}}
                    seal(folder / "manifest.json", manifest)
                level = (SKILL | (skill or {}))[name]
                level = tuple(v - (0.04 * (2 - place) if name == "opd_dose" else 0.0) for v in level)
                write_evaluation(results, one["name"], level, random.Random(f"{one['name']}{seed}"))
                for source in one.get("sources", ()):
                    for teacher in (one["teachers"][i] for i in source["teachers"]):
                        pair = {"data": source["data"], "student": one["parents"][0], "teacher": teacher}
                        if one["stage"] == "opd" and pair not in forecasts:
                            forecasts.append(pair)
                        if one["stage"] == "distill" and {k: pair[k] for k in ("data", "teacher")} not in generations:
                            generations.append({k: pair[k] for k in ("data", "teacher")})
    for pair in forecasts:
        pair["folder"] = str(results / "forecast" / pair["data"] / pair["student"] / pair["teacher"])
        if forecast:
            # Wrong about a teacher that is worse than its student.
            write_forecast(Path(pair["folder"]), pair["data"], pair["student"], pair["teacher"], True)
    for pair in generations:
        pair["folder"] = str(results / "generate" / pair["data"] / pair["teacher"])
        reasons = {"unfinished": 12, "wrong_answer": 30, "duplicate": 8}
        counts = {
            "in": 200, "kept": 150, "quarantined": reasons, "prompts": 100, "prompts_kept": 90, "unverified": 4,
            "generated_tokens": 7600, "kept_tokens": 5700,
        }  # fmt: skip
        seal(Path(pair["folder"]) / "manifest.json", {"step": "generate", "outputs": {}, "counts": counts})
    graph = settings["graph"]
    for one in (*graph["nodes"], *made):
        one.setdefault("teachers", [])
        one.setdefault("sources", [])
    graph["nodes"] += made
    graph["checkpoints"] += [one["name"] for one in made]
    graph |= {"forecasts": forecasts, "generations": generations}
    return settings


def found_in(root: Path, settings: dict) -> Distillation | None:
    return SECTION.read(gather(settings, root / "results/fable", root / "reports/fable"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("distillation")
    settings = distillation_run(root, seeds=(0, 1))
    return root, settings, make(root, settings)


@pytest.fixture(scope="module")
def found(made) -> Distillation:
    root, settings, _ = made
    return found_in(root, settings)


def text_of(out: Path) -> str:
    return (out / "index.html").read_text(encoding="utf-8")


def section_of(out: Path) -> str:
    """The section's text without figures and tags."""
    text = text_of(out)
    part = text[text.index('<section id="distillation"') :]
    part = re.sub(r"<svg.*?</svg>", " ", part[: part.index("</section>")], flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split())


def svg_text(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def at(value, low, high, n=100, seeds=()):
    return Estimate(value, low, high, 0.01, n, tuple(seeds))


# --- what is compared ----------------------------------------------------------------------------


def test_each_arm_answers_the_question_that_sets_it_apart(found):
    asked = {run.name: name for name, runs in by_question(found).items() for run in runs}
    assert asked == {
        "opd": "reference", "opd_lora": "teacher", "opd_original": "teacher", "opd_cold": "start",
        "opd_top1": "objective", "opd_cap": "length", "opd_many": "several", "mean": "several", "cold": "off-policy",
        "distilled": "off-policy", "opd_same": "other", "opd_dose-steps=5": "budget", "opd_dose-steps=10": "budget",
    }  # fmt: skip
    assert list(by_question(found)) == [name for name in HEADINGS if name != "prompts"]
    names = {asked: [run.name for run in runs] for asked, runs in compared(found).items()}
    assert names == {"teacher": ["opd", "opd_lora", "opd_original"], "start": ["opd", "opd_cold"]}


def test_curves_of_the_default_size_have_one_set(tmp_path):
    settings = distillation_run(tmp_path, recipes=("grpo", "opd"))
    found = found_in(tmp_path, settings)
    assert {asked: [run.name for run in runs] for asked, runs in compared(found).items()} == {"teacher": ["opd"]}


# --- figures -------------------------------------------------------------------------------------


def test_every_arm_has_its_line_under_its_question(found):
    (figure,) = recovery_figures(found).values()
    texts = svg_text(figure)
    headings = [text for text in texts if text in HEADINGS.values()]
    assert headings == [HEADINGS[name] for name in by_question(found) if name != "budget"]
    assert {"opd", "opd_original, general", "opd_many, target", "opd_many, general", "mean, general"} <= set(texts)
    assert f"opd_lora {BELOW}" in texts  # whose teacher is worse than its start
    assert not any("opd_dose" in text for text in texts)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (at(0.7, 0.4, 1.1), None),
        (at(-4.0, -9.0, -2.0), "−400.0 [−900.0, −200.0]"),
        (at(3.0, 2.5, 4.0), "300.0 [250.0, 400.0]"),
        (None, "no gap to close; change +2.0 [−1.0, +5.0]"),
    ],
)
def test_what_lies_beyond_the_frame_is_written_out(found, monkeypatch, share, expected):
    part = replace(found.recovery(found.reference), share=share, change=at(0.02, -0.01, 0.05), gap=at(0.1, 0.05, 0.15))
    monkeypatch.setattr(recovery_drawing, "recovery_rows", lambda _: [("reference", [part])])
    texts = svg_text(recovery_figures(found)["distillation_recovery"])
    assert [text for text in texts if "[" in text] == ([expected] if expected else [])


def test_many_arms_stand_in_several_figures_on_one_scale(found, monkeypatch):
    part = replace(found.recovery(found.reference), share=at(0.7, 0.4, 1.1), gap=at(0.1, 0.05, 0.15))
    sizes = {f"question {i}": n for i, n in enumerate((1, 6, 2, 11, 3, 10, 4))}
    monkeypatch.setattr(recovery_drawing, "recovery_rows", lambda _: [(name, [part] * n) for name, n in sizes.items()])
    made = recovery_figures(found)
    assert list(made) == ["distillation_recovery", "distillation_recovery_2"]
    texts = [svg_text(svg) for svg in made.values()]
    assert [[text for text in of if text in sizes] for of in texts] == [list(sizes)[:4], list(sizes)[4:]]
    assert [of.count("opd") for of in texts] == [20, 17]
    ticks = [[text for text in of if re.fullmatch(r"[\d−]+", text)] for of in texts]
    assert ticks[0] == ticks[1]
    monkeypatch.setattr(recovery_drawing, "recovery_rows", lambda _: [])
    assert recovery_figures(found) == {}


def test_every_quantity_and_every_place_is_drawn(made):
    _, _, out = made
    drawn = {path.stem for path in (out / "figures").glob("*.svg")}
    curves = {f"distillation_curve_{quantity}_{asked}" for quantity in QUANTITIES for asked in ("teacher", "start")}
    runs = ("opd", "opd_lora", "opd_original", "opd_cold")
    places = {f"distillation_place_{column}_{run}" for column in ("overlap", "divergence") for run in runs}
    budgets = {f"distillation_budget_{cost}" for cost in ("generated", "trained", "flops")}
    rest = {"distillation_recovery", "distillation_forecast", "distillation_teachers"}
    assert curves | places | budgets | rest == {name for name in drawn if name.startswith("distillation")}
    for name in drawn:
        ElementTree.parse(out / f"figures/{name}.svg")
        assert not re.search(r'\b(fill|stroke)="var', figures.themed((out / f"figures/{name}.svg").read_text()))
    # Divergences and a policy's loss are on no scale of cross-entropies.
    assert {name for name in drawn if name.startswith("curves_")} == {
        "curves_sft", "curves_sft_lora", "curves_cold", "curves_sft_dose-epochs=1"
    }  # fmt: skip


def test_methods_stand_in_the_budget_where_they_have_the_cost(made):
    _, _, out = made
    for cost, expected in (
        ("generated", {"OPD", "RL", "distillation"}),
        ("flops", {"SFT", "OPD", "RL", "distillation"}),
    ):
        texts = set(svg_text((out / f"figures/distillation_budget_{cost}.svg").read_text()))
        assert texts & {"SFT", "OPD", "RL", "distillation"} == expected


def test_places_share_one_scale(made):
    _, _, out = made
    ticks = []
    for run in ("opd", "opd_lora", "opd_cold"):
        texts = svg_text((out / f"figures/distillation_place_overlap_{run}.svg").read_text())
        assert {run, "start", "end"} <= set(texts)
        ticks.append([text for text in texts if re.fullmatch(r"[\d.]+", text or "")])
    assert ticks[0] == ticks[1] == ticks[2]


@pytest.mark.parametrize("palette", [figures.LIGHT, figures.DARK], ids=["light", "dark"])
def test_lines_of_one_panel_are_told_apart_by_everyone(palette):
    marks = [palette[token] for token in LINES]
    assert len(set(marks)) == len(LINES)
    for matrix in VISION.values():
        seen = [oklab(np.clip(matrix @ linear(color), 0, 1)) for color in marks]
        assert min(100 * np.linalg.norm(a - b) for a, b in combinations(seen, 2)) >= 9.0
    styles = [style(i) for i in range(2 * len(LINES))]
    assert len(set(styles)) == 2 * len(LINES)  # the color again, dashed


def forecast_of(gain, prefixes, **own) -> Forecast:
    said = {"gain": gain, "prompts": 100, "prefixes": prefixes, "helps": True, "reasons": ["Because."], "checks": []}
    return Forecast("exercises", "sft", "grpo", "target", said | own, [], None, None)


def test_continuations_are_means_over_seeds_with_their_spread():
    def prefix(share, gain):
        return {"share": share, "n": 50, "student": 0.2, "teacher": 0.2, "gain": gain, "low": gain, "high": gain}

    def around(value):
        return {"value": value, "low": value - 0.1, "high": value + 0.2}

    seeds = [
        forecast_of(around(0.3), [prefix(0.25, 0.2), prefix(0.5, 0.1)]),
        forecast_of(around(0.5), [prefix(0.25, 0.4), prefix(0.75, 0.1)]),  # one length that the other lacks
    ]
    line = continued(seeds)
    assert [share for share, _ in line] == [0.0, 0.25]
    # Variances add, and the quantile is t's of Satterthwaite's degrees: of two seeds alone, one.
    spread = np.var([0.3, 0.5], ddof=1) / 2
    sides = [(side / 1.959964) ** 2 + spread for side in (0.1, 0.2)]
    below, above = (np.sqrt(variance) * t(variance**2 / spread**2).ppf(0.975) for variance in sides)
    halves = [(0.4, below, above), (0.3, 12.7062 * np.sqrt(spread), 12.7062 * np.sqrt(spread))]
    for (_, e), expected in zip(line, halves, strict=True):
        assert (e.value, e.value - e.low, e.high - e.value) == pytest.approx(expected, rel=1e-4)
    alone = continued(seeds[:1])
    assert [(share, e.value, e.low, e.high) for share, e in alone][0] == pytest.approx((0.0, 0.3, 0.2, 0.5))


def test_what_a_forecast_did_not_measure_is_not_drawn(found):
    nothing = {"value": None, "low": None, "high": None}
    unknown = {"share": 0.25, "n": 0, "student": None, "teacher": None, "gain": None, "low": None, "high": None}
    assert continued([forecast_of(nothing, [unknown])]) == []
    blank = replace(forecast_of(nothing, [unknown]), student="sft-s0", teacher="grpo-s0")
    assert forecast_figure(replace(found, forecasts=[blank])) is None


def test_costs_are_short():
    assert [plain_number(v) for v in (0.5, 20, 5000, 30000, 1.5e6, 2e9)] == ["0.5", "20", "5k", "30k", "1.5M", "2G"]


# --- words ---------------------------------------------------------------------------------------


def test_the_first_sentences_are_those_of_the_tables(made, found):
    _, _, out = made
    row = next(r for r in read_table(out, "distillation_recovery") if r["checkpoint"] == "opd")
    said = section_of(out)

    def cell(key, kind):
        return [number_text(kind, float(row[name])) for name in (key, f"{key}_low", f"{key}_high")]

    change, low, high = cell("change", "points")
    assert (
        "opd, which starts at sft and learns from grpo on its own answers, gains: pass@1 on fable_problems"
        f" {number_text('percent', float(row['before']))} % → {number_text('percent', float(row['after']))} %, {change}"
        f" [{low}, {high}] points."
    ) in said
    share, low, high = cell("recovery", "percent")
    assert f"it recovers {share} [{low}, {high}] %." in said
    general, low, high = cell("general_change", "points")
    assert f"The general score changes by {general} [{low}, {high}] points." in said
    back = next(r for r in read_table(out, "distillation_recovery") if r["checkpoint"] == "opd_original")
    assert f"opd_original brings back {number_text('percent', float(back['restored']))} [" in said
    assert "Full size: 20 on-policy and 4 off-policy runs over seeds 0, 1." in said
    score = read_table(out, "distillation_forecast_score")[0]
    told = f"Of {score['pairs']} forecasts made before training, {score['right']} came true"
    assert told in said
    assert "forecast that it would help, but it did not (−" in said
    many = next(r for r in read_table(out, "distillation_many") if r["checkpoint"] == "opd_many")
    merge = (
        f"Against mean, the merge of the teachers, the mean of both axes differs by {100 * float(many['merge']):+.1f} ["
    )
    assert merge in said


def test_the_folded_part_and_the_metrics_have_the_recovery(made):
    _, _, out = made
    row = next(r for r in read_table(out, "distillation_recovery") if r["checkpoint"] == "opd")
    gained = lead(out, "Distillation")
    assert f"Distillation (opd) from sft with grpo as the teacher: {100 * float(row['change']):+.1f} [" in gained
    assert f"{100 * float(row['recovery']):.1f} [" in gained and "% of the teacher's lead." in gained
    levels = read_json(out / "metrics.json")["distillation"]
    assert levels["opd"]["target_recovered"] == pytest.approx(float(row["recovery"]), abs=1e-5)
    assert levels["opd_original"].keys() == {"general_change", "general_recovered"}


def test_no_gap_is_said_in_words(found):
    part = found.recovery(found.reference)
    told = words.recovered(found, replace(part, share=None, gap=at(0.01, -0.02, 0.04), change=at(0.0, -0.02, 0.02)))
    assert "does not move beyond chance" in told
    assert "was not ahead beyond chance: +1.0 [−2.0, +4.0] points" in told
    below = replace(part, gap=at(-0.2, -0.3, -0.1), share=at(0.9, 0.8, 1.0))
    assert "which scores below the start, it goes 90.0 [80.0, 100.0] % of the way" in words.recovered(found, below)
    assert "has not been measured" in words.recovered(found, replace(part, change=None, share=None))


class Priced(Budget):
    """A budget whose ways to the score of RL are given."""

    def __init__(self, ways, ratio):
        series = [Series(stage, stage, [SimpleNamespace(generated=40000)], [0]) for stage in ("opd", "rl")]
        super().__init__(None, SimpleNamespace(name="grpo"), at(0.8, 0.7, 0.9), series, None)
        self.ways, self.ratio = ways, ratio

    def reaches(self, series, cost, less=0.0):
        return self.ways[series.stage, less]

    def cheaper(self, ours, theirs, cost):
        return self.ratio


@pytest.mark.parametrize(
    ("opd", "near", "rl", "ratio", "expected"),
    [
        (Reached(at(2e4, 1e4, 4e4), False, 1.0), None, Reached(at(1e5, 1e5, 1e5), False, 1.0), at(5.0, 2.5, 10.0),
         "It reaches the score of RL (grpo, 80.0 %) with 20,000 [10,000, 40,000] tokens generated; RL from the same"
         " start takes 100,000, 5 [2.5, 10] times as many."),
        (Reached(at(5e3, 5e3, 5e3), True, 1.0), None, Reached(at(1e5, 1e5, 1e5), False, 1.0), at(20.0, 20.0, 20.0),
         "It reaches the score of RL (grpo, 80.0 %) with at most 5,000 tokens generated; RL from the same start takes"
         " 100,000."),
        (Reached(2e4, False, 0.6), None, Reached(1e5, False, 1.0), at(5.0, 0.0, float("inf")),
         "It reaches the score of RL (grpo, 80.0 %) with 20,000 tokens generated; RL from the same start takes"
         " 100,000."),
        (Reached(None, False, 0.0), Reached(3e4, False, 0.9), Reached(1e5, False, 1.0), None,
         "With up to 40,000 tokens generated it does not reach the score of RL (grpo, 80.0 %), but comes within 2"
         " points of it with 30,000; RL from the same start takes 100,000."),
        (Reached(None, False, 0.0), Reached(None, False, 0.1), Reached(None, False, 0.0), None,
         "With up to 40,000 tokens generated it does not reach the score of RL (grpo, 80.0 %)."),
    ],
)  # fmt: skip
def test_the_price_beside_rl(opd, near, rl, ratio, expected):
    ways = {("opd", 0.0): opd, ("opd", 0.02): near, ("rl", 0.0): rl}
    assert words.price(Priced(ways, ratio)) == expected
    assert words.price(None) == ""


@pytest.mark.parametrize(
    ("says", "outcome", "expected"),
    [
        (True, at(0.1, 0.05, 0.2), "it would help; it did (+10.0 [+5.0, +20.0] points on the target)."),
        (False, at(0.1, 0.05, 0.2), "it would not help; it did (+10.0"),
        (True, at(0.1, -0.05, 0.2), "it would help; it did not (+10.0"),
        (True, None, "Of 1 forecasts 1 said that it would help; no outcome is known yet."),
    ],
)
def test_a_single_forecast_is_told_alone(found, says, outcome, expected):
    one = replace(forecast_of(None, [], helps=says), outcome=outcome, member=found.reference.candidate.members[0])
    assert expected in words.forecast_lead(replace(found, forecasts=[one]))
    assert words.forecast_lead(replace(found, forecasts=[])) == ""


def test_few_arms_are_told_one_by_one_and_of_many_the_ends(found, monkeypatch):
    part = replace(found.recovery(found.reference), gap=at(0.1, 0.05, 0.2), change=at(0.05, 0.01, 0.1))
    parts = [replace(part, run=run, share=at(i / 10, 0, 1)) for i, run in enumerate(found.runs[:5])]
    monkeypatch.setattr(words, "recovery_rows", lambda _: [("prompts", parts[:2]), ("another start", parts)])
    few, many = words.readings(found)
    names = [run.name for run in found.runs[:5]]
    assert few == f"Prompts: {names[0]} recovers 0.0 [0.0, 100.0] %; {names[1]} recovers 10.0 [0.0, 100.0] %."
    assert many.startswith("Another start: 5 of 5 rose beyond chance; ")
    assert f"{names[4]} recovers 40.0" in many and f"{names[0]} recovers 0.0" in many and names[2] not in many


def test_samples_of_one_prompt_stand_side_by_side(found):
    shown = completions(found)
    assert [(item["step"], item["id"]) for item in shown] == [(1, "rows:13"), (20, "rows:32")]
    assert [reply["name"] for reply in shown[0]["replies"]] == ["opd", "opd_lora", "opd_original", "opd_cold"]
    assert [item["replies"][0]["right"] for item in shown] == [False, None]
    assert shown[0]["replies"][0]["log_ratio"] == "less likely by 0.125 nats per token"


# --- the page ------------------------------------------------------------------------------------


def test_page_has_the_section_and_its_links(made):
    _, _, out = made
    text = text_of(out)
    page = Page(text)
    ids = {value for key, value in page.attributes if key == "id"}
    assert "distillation" in ids and 'href="#distillation"' in text
    for key, value in page.attributes:
        if key == "href":
            assert value[1:] in ids if value.startswith("#") else (out / value).is_file(), value
    assert "&amp; &lt;b&gt;3&lt;/b&gt; ⟨U+202E⟩plums." in text
    assert "The teacher &lt;solves&gt; more." in text
    linked = {value for key, value in page.attributes if key == "href"}
    for path in (*(out / "figures").glob("distillation_*.svg"), *(out / "tables").glob("distillation_*.csv")):
        folded = path.stem.startswith(("distillation_curve", "distillation_place"))
        assert folded or str(path.relative_to(out)) in linked, path.stem


def bad_words(out: Path) -> set[str]:
    return {"nan", "None", "inf"} & set(re.findall(r"\w+", section_of(out)))


def test_the_default_size_renders(tmp_path):
    out = make(tmp_path, distillation_run(tmp_path, recipes=DEFAULT))
    said = section_of(out)
    assert not bad_words(out)
    assert "Default size: 2 on-policy and 1 off-policy runs, one seed: what another seed would change is not" in said
    assert "Several teachers" not in said
    assert {row["checkpoint"] for row in read_table(out, "distillation_recovery")} == {"cold", "opd", "opd_cold"}


def test_a_half_done_study_shows_what_is_there(tmp_path):
    """Trained, with neither evaluations nor forecasts, positions, rollouts and the teacher's scores yet."""
    settings = distillation_run(tmp_path, recipes=("grpo", "opd", "opd_cold", "cold"), forecast=False)
    results = tmp_path / "results/fable"
    for name in ("grpo", "opd_cold", "cold"):
        (results / f"evaluation/{name}/manifest.json").unlink()
    (results / "foundation/opd_cold/manifest.json").unlink()
    for name in ("positions.csv", "rollouts.jsonl"):
        (results / f"foundation/opd/{name}").unlink()
    out = make(tmp_path, settings)
    said = section_of(out)
    assert not bad_words(out)
    assert "What it costs" not in said and "What was forecast" not in said and "By place in the answer" not in said
    assert "distillation_forecasts" not in {path.stem for path in (out / "tables").glob("*.csv")}
    (out / "summary.txt").read_text(encoding="utf-8")


def test_off_policy_alone_has_a_section(tmp_path):
    out = make(tmp_path, distillation_run(tmp_path, recipes=("grpo", "distilled")))
    assert not bad_words(out)
    said = section_of(out)
    assert "distilled, which starts at sft and learns from grpo on the teacher's answers," in said
    assert "Student and teacher over training" not in said


def test_without_a_run_there_is_no_section(tmp_path):
    settings = distillation_run(tmp_path, recipes=("grpo",))
    assert found_in(tmp_path, settings) is None
    planned = distillation_run(tmp_path, recipes=("grpo", "opd"))
    (tmp_path / "results/fable/foundation/opd/manifest.json").unlink()
    assert found_in(tmp_path, planned) is None
    assert 'id="distillation"' not in text_of(make(tmp_path, planned))


def test_only_timing_differs_with_time(tmp_path, monkeypatch):
    monkeypatch.setattr(line_figures, "QUANTITIES", {"overlap": QUANTITIES["overlap"]})
    contents = []
    for name, seconds in (("a", 31.0), ("b", 77.0)):
        root = tmp_path / name
        settings = distillation_run(root, recipes=("grpo", "opd", "opd_dose"), seconds=seconds)
        found = found_in(root, settings)
        made = {table.name: table.csv() + table.markdown() for table in distillation_tables(found)}
        made |= distillation_figures(found)
        said = words.section(found, {table.name: table for table in distillation_tables(found)}, made)
        contents.append(made | {"words": json.dumps(said, default=str)})
    first, second = contents
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"timing_distillation"}
