"""What the report makes of distillation, from invented runs: recovery, doses, forecasts, diagnostics, claims."""

import csv
import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t

from steps.core.files import write_json, write_jsonl, write_text
from steps.distillation.section.budget_figures import budget_figure
from steps.distillation.section.budget_tables import budget_table, compact_budget, doses_table, timing_table
from steps.distillation.section.claims import claims_table
from steps.distillation.section.evidence import ends_like
from steps.distillation.section.facts import Distillation
from steps.distillation.section.forecast_tables import compact_forecasts, forecast_score_table, forecasts_table
from steps.distillation.section.forecasts import score_forecasts
from steps.distillation.section.reading import read_distillation
from steps.distillation.section.recovery_tables import compact_recovery, differs_text, recovery_table
from steps.distillation.section.run_claims import successes
from steps.distillation.section.statistics import cost_ratio, crossing, share_difference
from steps.distillation.section.tables import (
    compact_diagnostics,
    diagnostics_table,
    distillation_tables,
    generations_table,
    many_table,
)
from steps.report.candidates import Checkpoint, candidates_of
from steps.report.gather import Gathered
from steps.report.tables import Estimate, Table
from steps.stats import intervals, means
from tests.manifests import seal

ITEMS, SAMPLES = 200, 8

OPD = {
    "steps": 40, "prompts": 32, "generations": 2, "divergence": {"kind": "reverse_kl"}, "horizon": None,
    "support": {"kind": "top_k", "of": "student", "k": 16, "rest": "renormalised"}, "off_policy": 0.0,
    "pass_rate": None, "curriculum": "shuffle", "learning_rate": 3e-4, "weights": [1.0],
}  # fmt: skip
DISTILL = {"objective": "tokens", "epochs": 2, "learning_rate": 2e-3}
RL = {"method": "grpo", "steps": 80, "iterations": 1, "rewards": {}}
SMALL, LARGE = 1000, 4000


class World:
    """Invented nodes, and what read_distillation makes of them. Scores are nested: the better arm is right wherever the
    worse is, so that differences carry little noise; `shift` moves which items are right."""

    def __init__(self, root: Path):
        self.root, self.checkpoints, self.nodes = root, [], []
        self.forecasts, self.generations, self.recipes = [], [], {}

    def add(
        self, name, stage, start, target, general=0.5, *, teachers=(), data=None, sources=None, seeds=(0,), size=SMALL,
        tokens=1000, generated=None, scored=None, seconds=10.0, log=None, shift=0, **settings,
    ) -> "World":  # fmt: skip
        """`target` and `general`: one level, or one per seed."""
        defaults = {"opd": OPD, "distill": DISTILL, "rl": RL, "sft": {"epochs": 2}}.get(stage, {})
        settings = defaults | settings
        data = data or {"opd": "exercises", "distill": "exercises", "rl": "exercises", "sft": "problems"}.get(stage)
        sources = sources or [{"data": data, "share": 1.0, "teachers": list(range(len(teachers)))}]
        self.recipes[name] = [name if len(seeds) == 1 else f"{name}-s{seed}" for seed in seeds]
        for place, (node, seed) in enumerate(zip(self.recipes[name], seeds, strict=True)):
            levels = [value[place] if isinstance(value, tuple) else value for value in (target, general)]
            paired = [self.node(other, place) for other in teachers]
            parents = [self.node(other, place) for other in ([start] if isinstance(start, str) else start or [])]
            folder = self.root / "study" / node
            steps = settings.get("steps", 20)
            rows = [
                {"step": float(i + 1), "loss": 0.1, "tokens": tokens * (i + 1) / steps}
                | ({"generated": generated * (i + 1) / steps} if generated else {})
                | ({"scored": scored * (i + 1) / steps} if scored else {})
                | {key: values[0] + (values[1] - values[0]) * i / (steps - 1) for key, values in (log or {}).items()}
                for i in range(steps)
            ]  # fmt: skip
            counts = {"parameters": {"trained": size, "total": size}} if stage != "merge" else {"parents": 2}
            own = settings | ({"sources": sources} if stage == "opd" else {})
            self.checkpoints.append(
                Checkpoint(
                    node, name, "distillation", stage, parents, seed if stage != "model" else None, {},
                    ({"data": data} if data else {}) | own, manifest={"counts": counts},
                    provenance={"seconds": seconds}, log=rows if stage not in ("model", "merge") else [],
                    results=results(*levels), samples=samples(*levels, shift),
                )
            )  # fmt: skip
            self.nodes.append(
                {"name": node, "recipe": name, "stage": stage, "teachers": tuple(paired), "sources": tuple(sources),
                 "folder": str(folder)}
            )  # fmt: skip
        return self

    def node(self, name: str, place: int) -> str:
        of = self.recipes[name]
        return of[place] if len(of) > 1 else of[0]

    def forecast(self, data, student, teacher, helps, overlap=0.8, width=0.01, place=0) -> "World":
        student, teacher = self.node(student, place), self.node(teacher, place)
        folder = self.root / "forecast" / data / student / teacher

        def about(value):
            return {"value": value, "low": value - width, "high": value + width}

        checks = [("new capability", 0.1, True), ("thinks alike", overlap, helps), ("continuation", 0.05, True)]
        found = {
            "data": data, "student": student, "teacher": teacher, "helps": helps, "reasons": ["Because."],
            "checks": [{"check": name} | about(v) | {"bar": 0.0, "passed": ok} for name, v, ok in checks],
            "student_pass": about(0.5), "teacher_pass": about(0.6), "gain": about(0.1), "beyond": about(0.02),
            "overlap": about(overlap), "divergence": about(0.2), "prompts": 200, "samples": 4, "unverified": 0,
            "prefixes": [{"share": 0.5, "n": 180, "student": 0.5, "teacher": 0.55, "gain": 0.05, "low": 0.01,
                          "high": 0.09}],
        }  # fmt: skip
        write_json(folder / "forecast.json", found)
        seal(folder / "manifest.json", {"counts": {}})
        self.forecasts.append({"data": data, "student": student, "teacher": teacher, "folder": str(folder)})
        return self

    def generated(self, data, teacher, tokens=5000, seconds=4.0) -> "World":
        folder = self.root / "generate" / data / teacher
        counts = {"in": 10, "kept": 7, "quarantined": {"wrong_answer": 2, "unfinished": 1}, "prompts": 5}
        counts |= {"prompts_kept": 4, "unverified": 0, "generated_tokens": tokens, "kept_tokens": tokens // 2}
        seal(folder / "manifest.json", {"counts": counts})
        seal(folder / "provenance.json", {"seconds": seconds})
        self.generations.append({"data": data, "teacher": teacher, "folder": str(folder)})
        return self

    def positions(self, node: str, rows: list[dict]) -> "World":
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        write_text(self.root / "study" / node / "positions.csv", "\n".join(lines) + "\n")
        return self

    def read(self) -> Distillation | None:
        graph = {"nodes": self.nodes, "forecasts": self.forecasts, "generations": self.generations}
        settings = {"graph": graph, "forecast": {"axes": {"practice": "general"}}}
        candidates = candidates_of(self.checkpoints)
        return read_distillation(Gathered(settings, self.root, self.root, self.checkpoints, candidates, None))


def right(value: float, shift: int, samples: int = 1) -> np.ndarray:
    """[items, samples]; items in an order of their own, the same for every arm but for the shift."""
    order = np.random.default_rng(5).permutation(ITEMS)
    filled = np.arange(ITEMS * samples).reshape(ITEMS, samples) < round(value * ITEMS * samples)
    made = np.zeros_like(filled)
    made[np.roll(order, shift)] = filled
    return made


def results(target: float, general: float) -> dict:
    def task(axis, value):
        return {"axis": axis, "metric": "exact_match", "value": value, "stderr": 0.02, "n": ITEMS}

    greedy, other = (float(right(v, 0).mean()) for v in (target, general))
    once = means.mean(right(target, 0, SAMPLES).mean(axis=1))
    sampling = {"t": {"n": ITEMS, "samples": SAMPLES, "pass@1": once}}
    return {"tasks": {"t": task("target", greedy), "g": task("general", other)}, "sampling": sampling}


def samples(target: float, general: float, shift: int) -> list[dict]:
    def rows(task, kind, marks):
        return [
            {"task": task, "doc_id": i, "kind": kind, "correct": row.tolist(), "prompt": "p", "responses": ["x"]}
            for i, row in enumerate(marks)
        ]

    made = rows("t", "greedy", right(target, shift)) + rows("g", "greedy", right(general, shift))
    return made + rows("t", "sampled", right(target, shift, SAMPLES))


def base(root: Path, seeds=(0,), **more) -> World:
    """A model, its fine-tuning, and that after RL: start and teacher of the reference."""
    made = World(root)
    made.add("base", "model", None, 0.1, 0.9)
    made.add("sft", "sft", "base", 0.5, 0.5, seeds=seeds, tokens=4000)
    made.add("grpo", "rl", "sft", 0.7, 0.5, seeds=seeds, tokens=40_000, generated=20_000, **more)
    return made


def study(root: Path, seeds=(0,), end: float = 0.66, **more) -> World:
    made = base(root, seeds)
    return made.add("opd", "opd", "sft", end, 0.5, teachers=["grpo"], seeds=seeds, tokens=8000, generated=4000,
                    scored=8000, **more)  # fmt: skip


def arm_scores(found: Distillation, name: str, axis: str = "target"):
    return found.scores.of(found.every[name], axis)


def only(table: Table, **wanted) -> dict:
    (row,) = [row for row in table.rows if all(row[key] == value for key, value in wanted.items())]
    return row


def run_of(found: Distillation, name: str):
    return next(run for run in (*found.runs, *found.merged) if run.name == name)


# --- recovery ------------------------------------------------------------------------------------


def noisy(world: World, name: str, target: float, key: int) -> None:
    """Replace an arm's sampled answers by random ones."""
    for member in (c for c in world.checkpoints if c.recipe == name):
        rng = np.random.default_rng([key, member.seed or 0])
        marks = rng.random((ITEMS, SAMPLES)) < target
        rows = [row for row in member.samples if row["kind"] == "sampled"]
        for row, of in zip(rows, marks, strict=True):
            row["correct"] = of.tolist()
        member.results["sampling"]["t"]["pass@1"] = means.mean(marks.mean(axis=1))


def sampled_marks(world: World, node: str) -> np.ndarray:
    member = next(c for c in world.checkpoints if c.node == node)
    return np.array([row["correct"] for row in member.samples if row["kind"] == "sampled"]).mean(axis=1)


def test_recovery_is_the_closed_share_of_the_gap_with_its_paired_interval(tmp_path):
    """Against the delta method on items, and on seeds: both in quadrature."""
    made = study(tmp_path, seeds=(0, 1, 2))
    for key, (name, level) in enumerate({"sft": 0.5, "grpo": 0.7, "opd": 0.62}.items()):
        noisy(made, name, level, key)
    found = made.read()
    (part,) = found.recoveries(found.runs[0])
    marks = {
        name: np.array([sampled_marks(made, f"{name}-s{s}") for s in (0, 1, 2)]) for name in ("sft", "grpo", "opd")
    }
    before, teacher, after = (marks[name].mean(axis=0) for name in ("sft", "grpo", "opd"))
    share = (after.mean() - before.mean()) / (teacher.mean() - before.mean())
    assert part.share.value == pytest.approx(share)
    gap = teacher.mean() - before.mean()
    items = ((after - before) - share * (teacher - before)) / gap
    seeds = ((marks["opd"] - marks["sft"]).mean(axis=1) - share * (marks["grpo"] - marks["sft"]).mean(axis=1)) / gap
    of_items, of_seeds = items.var() / ITEMS, seeds.var(ddof=1) / 3
    freedom = (of_items + of_seeds) ** 2 * 2 / of_seeds**2
    half = t(freedom).ppf(0.975) * math.sqrt(of_items + of_seeds)
    assert part.share.high - share == pytest.approx(half, rel=0.15)
    assert share - part.share.low == pytest.approx(half, rel=0.15)
    assert (part.change.value, part.gap.value) == pytest.approx((after.mean() - before.mean(), gap))
    row = only(recovery_table(found), checkpoint="opd")
    assert (row["recovery"], row["axis"], row["from"], row["teacher"]) == (part.share, "target", "sft", "grpo")
    assert (row["steps"], row["generated"], row["scored"], row["trained"]) == (40, 4000, 8000, 8000)
    assert (row["reads"], row["differs"]) == ("part of the way", "the reference")


def test_a_gap_that_may_be_nothing_has_no_share(tmp_path):
    made = base(tmp_path).add("twin", "rl", "sft", 0.5, shift=3)
    found = made.add("opd", "opd", "sft", 0.6, teachers=["twin"]).read()
    (part,) = found.recoveries(found.runs[0])
    assert part.gap.low < 0 < part.gap.high and part.share is None and part.drawn is None
    row = only(recovery_table(found), checkpoint="opd")
    assert row["recovery"] is None and row["change"].value == pytest.approx(0.1)
    assert row["reads"] == "not defined: the gap may be nothing; the score rose"
    assert "no gap" in compact_recovery(recovery_table(found)).markdown()


@pytest.mark.parametrize(("end", "share"), [(0.7, 1.0), (0.5, 0.0), (0.6, 0.5), (0.8, 1.5), (0.45, -0.25)])
def test_shares_at_the_limits(tmp_path, end, share):
    found = study(tmp_path, end=end).read()
    (part,) = found.recoveries(found.runs[0])
    assert part.share.value == pytest.approx(share, abs=1e-9)
    assert part.share.low < share - 1e-3 and part.share.high > share + 1e-3


def test_falling_to_a_worse_teacher_is_the_whole_way(tmp_path):
    made = base(tmp_path).add("back", "opd", "grpo", 0.52, teachers=["sft"])
    found = made.read()
    (part,) = found.recoveries(found.runs[0])
    assert part.share.value == pytest.approx(0.9) and part.moved == "fell"


def test_each_seed_is_measured_against_the_checkpoints_that_it_used(tmp_path):
    """A start that differs from seed to seed cancels; a teacher of one seed stands against all."""
    made = World(tmp_path).add("base", "model", None, 0.1, 0.9)
    made.add("sft", "sft", "base", (0.4, 0.5, 0.55), 0.5, seeds=(0, 1, 2))
    made.add("teacher", "rl", "sft", 0.8, seeds=(0,))
    made.add("opd", "opd", "sft", (0.5, 0.6, 0.65), teachers=["teacher"], seeds=(0, 1, 2))
    found = made.read()
    (part,) = found.recoveries(found.runs[0])
    assert part.change.seed_values == pytest.approx((0.1, 0.1, 0.1))
    assert part.gap.seed_values == pytest.approx((0.4, 0.3, 0.25))
    assert part.share.value == pytest.approx(0.3 / 0.95)
    (alone,) = found.recoveries(found.runs[0], {1})
    assert alone.share.value == pytest.approx(0.1 / 0.3)


def test_shares_are_compared_with_items_resampled_together(tmp_path):
    found = study(tmp_path).add("other", "opd", "sft", 0.6, teachers=["grpo"], learning_rate=1.0).read()
    ours, theirs = (found.recovery(run).drawn for run in found.runs)
    more = share_difference(ours, theirs)
    assert more.value == pytest.approx(0.8 - 0.5)
    assert share_difference(ours, ours).value == share_difference(ours, ours).high == 0
    assert (more.low, more.high) == pytest.approx(tuple(np.quantile(ours.drawn - theirs.drawn, [0.025, 0.975])))


def test_domains_take_the_teacher_that_is_best_on_their_axis(tmp_path):
    made = study(tmp_path)
    both = [{"data": d, "share": 0.5, "teachers": [0, 1]} for d in ("exercises", "practice")]
    made.add("mixed", "opd", "sft", 0.66, 0.8, teachers=["grpo", "base"], sources=both, weights=[0.5, 0.5])
    found = made.read()
    told = [(d.axis, d.teacher.name, d.data) for d in run_of(found, "mixed").domains]
    assert told == [("target", "grpo", ("exercises",)), ("general", "base", ("practice",))]
    target, general = found.recoveries(run_of(found, "mixed"))
    assert (target.share.value, general.share.value) == pytest.approx((0.8, 0.75))


def test_forgetting_that_was_restored(tmp_path):
    made = study(tmp_path).add("original", "opd", "sft", 0.5, 0.7, teachers=["base"], data="practice")
    found = made.read()
    part = found.restored(run_of(found, "original"))
    assert (part.share.value, part.domain.teacher.name) == (pytest.approx(0.5), "base")
    assert only(recovery_table(found), checkpoint="original")["restored"] == part.share
    assert only(recovery_table(found), checkpoint="opd")["restored"].value == pytest.approx(0.0)


def test_greedy_scores_where_nothing_was_sampled(tmp_path):
    made = study(tmp_path, end=0.6)
    for member in made.checkpoints:
        member.results["sampling"] = {}
    found = made.read()
    assert found.scores.target is None
    assert found.recovery(found.runs[0]).share.value == pytest.approx(0.5)
    assert "greedy" in recovery_table(found).caption


# --- what is compared with what ------------------------------------------------------------------


def test_the_reference_is_what_most_runs_share_and_not_a_name(tmp_path):
    made = base(tmp_path)
    made.add("a", "opd", "base", 0.5, teachers=["grpo"])
    made.add("b", "opd", "sft", 0.6, teachers=["grpo"], data="problems")
    made.add("c", "opd", "sft", 0.6, teachers=["grpo"])
    made.add("opd", "opd", "sft", 0.6, teachers=["grpo"], learning_rate=1.0)
    made.add("cold", "distill", "base", 0.4, teachers=["grpo"])
    found = made.read()
    assert found.reference.name == "c"
    told = {run.name: differs_text(found, run) for run in found.runs}
    assert told == {
        "a": "from base", "b": "prompts problems", "c": "the reference", "opd": "learning_rate 1.0",
        "cold": "off-policy (tokens); from base",
    }  # fmt: skip
    assert [run.name for run in found.alike("from")] == ["a"]


def test_lineage_in_words(tmp_path):
    made = study(tmp_path)
    routed = [{"data": "exercises", "share": 0.5, "teachers": [0]}, {"data": "practice", "share": 0.5, "teachers": [1]}]
    mixed = [{"data": "exercises", "share": 1.0, "teachers": [0, 1]}]
    made.add("many", "opd", "sft", 0.6, teachers=["grpo", "base"], sources=routed, weights=[1.0, 1.0])
    made.add("mixed", "opd", "sft", 0.6, teachers=["grpo", "base"], sources=mixed, weights=[0.5, 0.5])
    made.add("original", "opd", "sft", 0.5, teachers=["base"], support={"kind": "full"})
    found = made.read()
    told = {run.name: differs_text(found, run) for run in found.runs}
    assert told["many"] == "taught by grpo and base, one per data set; prompts 0.5 exercises and 0.5 practice"
    assert told["mixed"].startswith("taught by grpo and base, mixed")
    assert told["original"] == "taught by base; support full"


# --- doses ---------------------------------------------------------------------------------------


def test_crossings_by_hand():
    costs = np.array([100.0, 1000.0, 10_000.0])
    curves = np.array([[0.1, 0.3, 0.5], [0.4, 0.5, 0.6], [0.1, 0.2, 0.3], [0.1, 0.5, 0.2], [0.1, 0.3, 0.4]])
    found = crossing(costs, curves, np.full(5, 0.4))
    # Half-way in the logarithm; there at the first dose; never; at the first rise; at a dose itself.
    assert found == pytest.approx([10**3.5, 100.0, np.inf, 10**2.75, 10_000.0])


def test_cost_ratios_count_what_never_arrives():
    inf, n = np.inf, 1000
    ratio = cost_ratio((10.0, 40.0), (np.full(n, 10.0), np.full(n, 40.0)), 5)
    assert (ratio.value, ratio.low, ratio.high) == (4.0, 4.0, 4.0)
    rarely = np.where(np.arange(n) < 10, inf, 10.0)
    assert cost_ratio((10.0, 40.0), (rarely, np.full(n, 40.0)), 5).low == 4.0  # 1 % lie beyond the interval
    often = np.where(np.arange(n) < 100, inf, 10.0)
    assert cost_ratio((10.0, 40.0), (often, np.full(n, 40.0)), 5).low == 0.0
    assert cost_ratio((10.0, inf), (np.full(n, 10.0), np.full(n, inf)), 5).low == inf
    assert cost_ratio((inf, inf), (np.full(n, inf), np.full(n, inf)), 5) is None
    neither = cost_ratio((10.0, 40.0), (np.full(n, inf), np.full(n, inf)), 5)
    assert (neither.low, neither.high) == (1.0, 1.0)


def dosed(root: Path, ends=(0.6, 0.8)) -> World:
    """Doses of OPD below and at the reference, of RL and of SFT; a distilled arm."""
    made = study(root, end=ends[1])
    made.add("opd_dose", "opd", "sft", ends[0], teachers=["grpo"], steps=10, tokens=2000, generated=1000, scored=2000,
             seconds=3.0)  # fmt: skip
    made.add("grpo_dose", "rl", "sft", 0.6, steps=20, tokens=10_000, generated=5000)
    made.add("sft_dose", "sft", "sft", 0.55, epochs=1, tokens=3000)
    made.add("more_sft", "sft", "sft", 0.6, epochs=4, tokens=12_000)
    made.add("distilled", "distill", "sft", 0.62, teachers=["grpo"], tokens=6000)
    made.add("other_rl", "rl", "sft", 0.6, method="srpo")  # another method: no dose of GRPO
    return made.generated("exercises", "grpo")


def test_a_stage_that_is_not_known_stands_last_among_the_methods(tmp_path):
    found = dosed(tmp_path).add("novel", "novel", "sft", 0.6, tokens=4000, epochs=1).read()
    assert [series.name for series in found.budget.series] == ["SFT", "distillation", "RL", "OPD", "novel"]
    assert "novel" in {row["method"] for row in doses_table(found).rows}
    assert ">novel<" in budget_figure(found, found.budget, "trained")


def test_doses_are_of_one_method_and_cost_what_they_did(tmp_path):
    found = dosed(tmp_path).read()
    told = {
        series.name: [budget_point.candidate.name for budget_point in series.budget_points]
        for series in found.budget.series
    }
    assert told == {"SFT": ["sft_dose", "more_sft"], "distillation": ["distilled"], "RL": ["grpo_dose", "grpo"],
                    "OPD": ["opd_dose", "opd"]}  # fmt: skip
    cells = {
        budget_point.candidate.name: budget_point
        for series in found.budget.series
        for budget_point in series.budget_points
    }
    assert cells["opd"].flops == 2 * SMALL * 8000 + 6 * SMALL * 8000 + 2 * SMALL * 8000
    assert cells["grpo"].flops == (2 + 6) * SMALL * 40_000
    assert cells["more_sft"].flops == 6 * SMALL * 12_000
    assert cells["distilled"].flops == 6 * SMALL * 6000 + 2 * SMALL * 5000
    assert [cells[name].generated for name in ("opd", "grpo", "more_sft", "distilled")] == [4000, 20_000, 0, 5000]
    assert cells["distilled"].seconds == 14.0  # its own and the teacher's writing
    rows = {row["checkpoint"]: row for row in doses_table(found).rows}
    assert rows["opd"]["against"].value == pytest.approx(0.1) and "against" not in rows["grpo"]


def test_a_larger_teacher_costs_more_to_ask(tmp_path):
    made = base(tmp_path)
    made.checkpoints[-1].manifest["counts"]["parameters"] = LARGE
    found = made.add("opd", "opd", "sft", 0.7, teachers=["grpo"], tokens=10, scored=10, generated=5).read()
    (budget_point,) = next(series.budget_points for series in found.budget.series if series.stage == "opd")
    assert budget_point.flops == 8 * SMALL * 10 + 2 * LARGE * 10


def test_what_each_method_needs_to_come_to_the_rl_score(tmp_path):
    found = dosed(tmp_path).read()
    of = {series.stage: series for series in found.budget.series}
    # From 0.6 to 0.8 with 1,000 to 4,000 tokens: 0.7 is half-way in the logarithm.
    reached = found.budget.reaches(of["opd"], "generated")
    assert reached.cost.value == pytest.approx(2000, rel=1e-6) and not reached.bound
    of_rl = found.budget.reaches(of["rl"], "generated")  # by definition, without chance
    assert (of_rl.cost, of_rl.bound) == (20_000.0, False)
    assert found.budget.cheaper(of["opd"], of["rl"], "generated").value == pytest.approx(10.0)
    assert found.budget.reaches(of["sft"], "trained").cost is None
    assert found.budget.reaches(of["sft"], "generated").cost is None  # it generates nothing
    near = found.budget.reaches(of["opd"], "generated", 0.05).cost
    assert near.value == pytest.approx(1000 * 4**0.25, rel=1e-6)
    rows = {row["method"]: row for row in budget_table(found).rows}
    assert rows["SFT"]["trained_told"] == "not reached; in 0 % of resamples"
    assert rows["SFT"]["generated_told"] == "no such cost"
    assert rows["OPD"]["generated"].value == 2000 and rows["OPD"]["ratio"].value == pytest.approx(10.0)
    times = {row["checkpoint"]: row for row in timing_table(found).rows}
    assert (times["opd_dose"]["ratio"], times["grpo"]["ratio"]) == pytest.approx((0.3, 1.0))


def test_resamples_and_their_crossings_by_a_loop(tmp_path):
    """The interval of a crossing, resample by resample."""
    made = dosed(tmp_path)
    for key, (name, level) in enumerate({"opd_dose": 0.6, "opd": 0.8, "grpo": 0.7}.items()):
        noisy(made, name, level, key)
    found = made.read()
    series = next(series for series in found.budget.series if series.stage == "opd")
    cost = found.budget.reaches(series, "generated").cost
    low, high, rl = (sampled_marks(made, name) for name in ("opd_dose", "opd", "grpo"))
    rng, costs = np.random.default_rng(3), []
    for _ in range(2000):
        picked = rng.integers(ITEMS, size=ITEMS)
        part = (rl[picked].mean() - low[picked].mean()) / (high[picked].mean() - low[picked].mean())
        costs.append(1000 * 4**part)
    assert (cost.low, cost.high) == pytest.approx(tuple(np.quantile(costs, [0.025, 0.975])), rel=0.05)


def test_a_first_dose_that_is_there_already_is_a_bound(tmp_path):
    found = study(tmp_path, end=0.8).read()
    series = next(series for series in found.budget.series if series.stage == "opd")
    reached = found.budget.reaches(series, "generated")
    assert reached.bound and reached.cost == 4000.0
    assert only(budget_table(found), method="OPD")["generated_told"].startswith("at most")


def test_doses_are_compared_over_the_seeds_that_all_have(tmp_path):
    made = study(tmp_path, seeds=(0, 1, 2))
    made.add("opd_dose", "opd", "sft", 0.6, teachers=["grpo"], steps=10, tokens=2000, generated=1000, scored=2000)
    found = made.read()
    of = {series.stage: series for series in found.budget.series}
    assert of["opd"].seeds == [0] and of["rl"].seeds == [0, 1, 2]
    assert {tuple(budget_point.candidate.seeds) for budget_point in of["opd"].budget_points} == {(0,)}


# --- forecasts -----------------------------------------------------------------------------------


def foretold(root: Path) -> World:
    """Two recipes, one of three seeds: of four pairs two come true, one is wrong either way."""
    made = base(root, seeds=(0, 1, 2))
    made.add("opd", "opd", "sft", (0.66, 0.66, 0.4), teachers=["grpo"], seeds=(0, 1, 2))
    made.add("back", "opd", "grpo", 0.5, teachers=["sft"], seeds=(0,))
    made.add("told", "opd", "sft", 0.7, teachers=["grpo"], seeds=(0,), learning_rate=1.0)
    for place in range(3):
        made.forecast("exercises", "sft", "grpo", True, place=place)
    made.forecast("exercises", "grpo", "sft", False)
    return made.forecast("practice", "sft", "grpo", True)  # nobody trained that


def test_forecasts_are_scored_by_the_run_of_their_pair(tmp_path):
    made = foretold(tmp_path)
    made.checkpoints[-2].parents = ["grpo-s0"]
    found = made.read()
    told = [(f.student, f.says, f.helped, f.right, f.member and f.member.node) for f in found.forecasts]
    assert told == [
        ("sft-s0", True, True, True, "opd-s0"),
        ("sft-s1", True, True, True, "opd-s1"),
        ("sft-s2", True, False, False, "opd-s2"),
        ("grpo-s0", False, False, True, "back"),
        ("sft-s0", True, None, None, None),
    ]
    score = score_forecasts(found.forecasts)
    assert (score.pairs, score.recipes, score.said, score.helped, score.right) == (4, 2, 3, 2, 3)
    # By hand: agreement 3/4; by chance ¾·½ + ¼·½ = ½; kappa (0.75 − 0.5) / 0.5.
    assert (score.accuracy.value, score.commoner, score.guess, score.kappa) == pytest.approx((0.75, 0.5, 0.5, 0.5))
    assert (score.accuracy.low, score.accuracy.high) == pytest.approx(intervals.wilson(0.75, 4))
    rows = forecasts_table(found).rows
    assert [row["right"] for row in rows] == ["yes", "yes", "no", "yes", None]
    assert [row["failed"] for row in rows] == ["none", "none", "none", "thinks alike", "none"]
    assert rows[0]["continuation"].value == pytest.approx(0.05)
    helped, gained, *by_ratio = forecast_score_table(found).rows
    assert helped["kappa"] == gained["kappa"] == pytest.approx(0.5)
    assert [row["said"] for row in by_ratio] == [4, 4]
    found.forecasts[0].measured["overlap"]["low"] = 0.49
    found.forecasts[3].measured["checks"][2]["passed"] = False
    assert [forecast.says_by_ratio for forecast in found.forecasts[:4]] == [False, True, True, False]
    # A run that gained closed less than half of the gap: any gain would count, this one does not.
    found.forecasts[1].share = replace(found.forecasts[0].share, value=0.49)
    assert (found.forecasts[1].gained, found.forecasts[1].helped, found.forecasts[1].right) == (True, False, False)
    assert [row["right"] for row in forecast_score_table(found).rows[:2]] == [2, 3]


def test_kappa_is_not_defined_where_both_always_say_the_same(tmp_path):
    found = study(tmp_path).forecast("exercises", "sft", "grpo", True).read()
    score = score_forecasts(found.forecasts)
    assert (score.accuracy.value, score.guess, score.kappa) == (1.0, 1.0, None)


def test_the_outcome_of_other_prompts_is_on_their_axis(tmp_path):
    made = study(tmp_path).add("original", "opd", "sft", 0.4, 0.75, teachers=["base"], data="practice")
    found = made.forecast("practice", "sft", "base", True).read()
    (forecast,) = found.forecasts
    assert forecast.axis == "general" and forecast.helped and forecast.outcome.value == pytest.approx(0.25)


def test_a_check_that_was_not_measured_is_not_one_that_failed(tmp_path):
    found = study(tmp_path).forecast("exercises", "sft", "grpo", True).read()
    check = found.forecasts[0].measured["checks"][2]
    check |= {"value": None, "low": None, "high": None, "passed": None}
    (row,) = forecasts_table(found).rows
    assert row["failed"] == "continuation (not measured)" and row["continuation"] is None


# --- diagnostics ---------------------------------------------------------------------------------


def test_diagnostics_compare_both_ends_of_the_run_and_of_the_answer(tmp_path):
    made = study(tmp_path, log={"overlap": (0.7, 0.9), "overlap_advantage": (-0.3, -0.1)})
    rows = [
        {"step": step, "begin": begin, "end": begin + 8, "tokens": tokens, "overlap": value + 0.01 * step,
         "entropy_gap": 0.1, "divergence": 0.2}
        for step in range(1, 11)
        for begin, tokens, value in ((0, 800, 0.5), (8, 400, 0.4), (16, 40, 0.9))
    ]  # fmt: skip
    found = made.positions("opd", rows).read()
    row = only(diagnostics_table(found), checkpoint="opd")
    logged = [m["overlap"] for m in found.runs[0].candidate.members[0].log]
    assert (
        row["overlap_first"]
        == pytest.approx(np.mean(logged[:4]))
        == pytest.approx(np.linspace(0.7, 0.9, 40)[:4].mean())
    )
    assert row["overlap_last"] == pytest.approx(np.mean(logged[-4:]))
    # A tenth of ten steps is one; the last stretch has 40 of 800 tokens: too few to be the end of the answer.
    ends = [row[f"overlap_{place}_{end}"] for place in ("begin", "end") for end in ("first", "last")]
    assert ends == pytest.approx([0.51, 0.60, 0.41, 0.50])
    assert found.positions.by_place(found.runs[0].candidate, "overlap", "last") == [
        (0, 8, pytest.approx(0.6)),
        (8, 16, pytest.approx(0.5)),
    ]
    assert row["outcome"] == "rose"
    assert "70.8 → 89.2" in compact_diagnostics(diagnostics_table(found)).markdown()


def test_places_are_weighted_by_their_tokens(tmp_path):
    rows = [
        {"step": step, "begin": 0, "end": 8, "tokens": tokens, "overlap": value}
        for step, tokens, value in ((1, 100, 0.2), (2, 300, 0.6))
    ] + [{"step": step, "begin": 0, "end": 8, "tokens": 10, "overlap": 0.0} for step in range(3, 21)]
    found = study(tmp_path).positions("opd", rows).read()
    assert found.positions.by_place(found.runs[0].candidate, "overlap", "first") == [(0, 8, pytest.approx(0.5))]


# --- several teachers ----------------------------------------------------------------------------


def several(root: Path, student=(0.68, 0.85)) -> World:
    made = study(root)
    routed = [{"data": "exercises", "share": 0.5, "teachers": [0]}, {"data": "practice", "share": 0.5, "teachers": [1]}]
    made.add("many", "opd", "sft", *student, teachers=["grpo", "base"], sources=routed, weights=[1.0, 1.0])
    made.add("mean", "merge", ["grpo", "base"], 0.5, 0.8, method="linear")
    made.add("arc", "merge", ["base", "grpo"], 0.6, 0.8, method="slerp")
    return made.add("blend", "merge", ["sft", "base"], 0.9, 0.9, method="linear")  # not of the teachers


def half_right(task: str, kind: str, ours: float, theirs: float, half: int) -> float:
    """How much more is right in one half of a task's questions, by the hashes of their names."""
    sides = [right(level, 0, *([SAMPLES] if kind == "sampled" else [])).mean(axis=1) for level in (ours, theirs)]
    kept = [hashlib.sha256(f"{task}\0{i}".encode()).digest()[0] % 2 == half for i in range(len(sides[0]))]
    return float((sides[0] - sides[1])[kept].mean())


def test_the_best_merge_is_chosen_and_compared_on_different_questions(tmp_path):
    """Two merges alike in all but which half of the general questions they answer."""
    made = several(tmp_path)
    for name, lucky in (("mean", 1), ("arc", 0)):
        (merge,) = (checkpoint for checkpoint in made.checkpoints if checkpoint.recipe == name)
        for sample in merge.samples:
            if sample["task"] == "g":
                half = hashlib.sha256(f"g\0{sample['doc_id']}".encode()).digest()[0] % 2
                sample["correct"] = [half == lucky]
        values = [sample["correct"][0] for sample in merge.samples if sample["task"] == "g"]
        merge.results["tasks"]["g"]["value"] = sum(values) / len(values)
    found = made.read()
    (family,) = found.families
    arc = found.best_merge(family)
    assert arc.name == "arc"
    assert found.scores.level(arc, "general", 0).value == 1 and found.scores.level(arc, "general", 1).value == 0
    many = next(run.candidate for run in family.students)
    level = found.scores.level(many, "general", 1).value
    more = found.beyond_merge(family, many).value - half_right("t", "sampled", 0.68, 0.6, half=1) / 2
    assert more == pytest.approx(level / 2)


def test_many_teachers_side_by_side(tmp_path):
    found = several(tmp_path).read()
    (family,) = found.families
    assert [candidate.name for candidate in family.merges] == ["mean", "arc"]
    assert found.best_merge(family).name == "arc"
    rows = {row["checkpoint"]: row for row in many_table(found).rows}
    assert {name: row["role"] for name, row in rows.items()} == {
        "sft": "start", "grpo": "teacher for target", "base": "teacher for general",
        "many": "student, on-policy, a teacher per data set", "mean": "merge (linear)", "arc": "merge (slerp)",
    }  # fmt: skip
    assert rows["many"]["target_teacher"].value == pytest.approx(0.68 - 0.7)
    assert rows["many"]["general_teacher"].value == pytest.approx(0.85 - 0.9)
    more = [half_right(*sides, half=1) for sides in (("t", "sampled", 0.68, 0.6), ("g", "greedy", 0.85, 0.8))]
    assert rows["many"]["merge"].value == pytest.approx(sum(more) / 2)
    assert sum(more) / 2 == pytest.approx((0.08 + 0.05) / 2, abs=0.02)
    assert "merge" not in rows["arc"] and "target_teacher" not in rows["grpo"]
    merged = only(recovery_table(found), checkpoint="arc", axis="target")
    assert (merged["from"], merged["teacher"], merged["differs"]) == ("sft", "grpo", "merge slerp; of base and grpo; "
            "prompts exercises and practice")  # fmt: skip
    assert merged["recovery"].value == pytest.approx(0.5)


def test_the_mean_of_both_axes_is_paired_by_item(tmp_path):
    made = several(tmp_path)
    noisy(made, "many", 0.68, 1)
    noisy(made, "arc", 0.6, 2)
    found = made.read()
    more = found.scores.change(found.every["many"], found.every["arc"], "both")
    items = sampled_marks(made, "many") - sampled_marks(made, "arc")
    general = right(0.85, 0)[:, 0].astype(float) - right(0.8, 0)[:, 0]
    assert more.value == pytest.approx((items.mean() + general.mean()) / 2)
    half = 1.96 * math.hypot(items.std(ddof=1), general.std(ddof=1)) / 2 / math.sqrt(ITEMS)
    assert more.high - more.value == pytest.approx(half, rel=0.15)


# --- claims --------------------------------------------------------------------------------------


def verdicts(made: World) -> dict[str, str]:
    """What the intervals alone say of what was measured."""
    return {row["claim"]: row["reading"] for row in claims_table(made.read()).rows if "reading" in row}


def test_ends_like_by_the_edges():
    def at(low, high):
        return Estimate((low + high) / 2, low, high, 0.01, 9)

    assert [ends_like(at(*edges)) for edges in ((-0.02, 0.02), (0.021, 0.05), (-0.05, -0.021), (-0.03, 0.01))] == [
        "held", "not held", "not held", "undecided"
    ]  # fmt: skip


LARGER = "A teacher of the student's size after RL is recovered better than a larger one without."
AFTER = "A larger teacher is recovered better after RL than before."
STYLE = "A teacher of another style is recovered worse than one of the student's."


def large_teacher(made: World) -> World:
    made.add("big", "model", None, 0.2, 0.9, size=LARGE)
    return made.add("sft_big", "sft", "big", 0.8, size=LARGE)


@pytest.mark.parametrize(("end", "expected"), [(0.55, "held"), (0.9, "not held"), (0.74, "undecided")])
def test_a_larger_teacher_of_the_same_pipeline(tmp_path, end, expected):
    made = large_teacher(study(tmp_path, end=0.66))  # 80 % of the gap
    made.add("opd_big", "opd", "sft", end, teachers=["sft_big"])
    assert verdicts(made)[LARGER] == expected


@pytest.mark.parametrize(("end", "expected"), [(0.7, "held"), (0.52, "not held"), (0.565, "undecided")])
def test_a_larger_teacher_after_rl(tmp_path, end, expected):
    made = large_teacher(study(tmp_path))
    made.add("opd_big", "opd", "sft", 0.55, teachers=["sft_big"])  # 17 % of the gap
    made.add("grpo_big", "rl", "sft_big", 0.9, size=LARGE)
    assert verdicts(made.add("opd_grpo_big", "opd", "sft", end, teachers=["grpo_big"]))[AFTER] == expected


def test_where_there_is_no_gap_scores_are_compared(tmp_path):
    made = study(tmp_path)
    made.add("big", "model", None, 0.2, 0.9, size=LARGE).add("sft_big", "sft", "big", 0.5, size=LARGE, shift=3)
    found = made.add("opd_big", "opd", "sft", 0.5, teachers=["sft_big"]).read()
    row = only(claims_table(found), claim=LARGER)
    assert row["reading"] == "held" and row["difference"].value == pytest.approx(0.16)
    assert "opd_big (sft_big) has no gap to its start beyond chance" in row["here"]


@pytest.mark.parametrize(("end", "expected"), [(0.55, "held"), (0.75, "not held")])
def test_a_teacher_of_another_style(tmp_path, end, expected):
    made = study(tmp_path, end=0.62)
    made.add("sft_told", "sft", "base", 0.5, data="told").add("grpo_told", "rl", "sft_told", 0.75)
    assert verdicts(made.add("opd_told", "opd", "sft", end, teachers=["grpo_told"]))[STYLE] == expected


SUPPORTS = {
    "The sampled token alone ends like top-16.": {"kind": "sampled"},
    "The full vocabulary ends like top-16.": {"kind": "full"},
    "Top-4 ends like top-16.": {"kind": "top_k", "of": "student", "k": 4, "rest": "renormalised"},
    "The overlap of both top-k alone ends like the student's top-16.":
        {"kind": "top_k", "of": "overlap", "k": 16, "rest": "renormalised"},
    "The teacher's top-k ends like the student's top-16.":
        {"kind": "top_k", "of": "teacher", "k": 16, "rest": "renormalised"},
}  # fmt: skip


# Of 200 items that agree, 2 in 100 could differ; one that does leaves the claim open.
ENDS = [(0.66, "held"), (0.55, "not held"), (0.68, "undecided"), (0.665, "undecided")]


@pytest.mark.parametrize(("end", "expected"), ENDS)
@pytest.mark.parametrize(("claim", "support"), SUPPORTS.items())
def test_supports_end_alike(tmp_path, claim, support, end, expected):
    made = study(tmp_path).add("other", "opd", "sft", end, teachers=["grpo"], support=support)
    # One more with the usual settings: the reference is what most have.
    made.add("cold", "distill", "base", 0.4, teachers=["grpo"]).add("warm", "opd", "cold", 0.6, teachers=["grpo"])
    assert verdicts(made)[claim] == expected


@pytest.mark.parametrize(("end", "expected"), [(0.55, "held"), (0.75, "not held"), (0.66, "undecided")])
def test_top_1_and_short_answers_and_other_prompts(tmp_path, end, expected):
    top = {"kind": "top_k", "of": "student", "k": 1, "rest": "tail"}
    made = study(tmp_path).add("top1", "opd", "sft", end, teachers=["grpo"], support=top)
    made.add("cap16", "opd", "sft", 0.66, teachers=["grpo"], horizon={"tokens": 16})
    made.add("cap8", "opd", "sft", end, teachers=["grpo"], horizon={"tokens": 8})
    made.add("grow", "opd", "sft", 0.1, teachers=["grpo"], horizon={"tokens": 48, "from": 4, "until": 20})
    made.add("other", "opd", "sft", end, teachers=["grpo"], data="problems")
    told = verdicts(made)
    claims = ("Top-1 is worse than top-16.", "Distilling the first 8 tokens alone teaches less than all of them.",
              "Prompts that the teacher was trained on teach more than others.")  # fmt: skip
    assert {told[claim] for claim in claims} == {expected}
    assert not any("first 16" in claim or "first 48" in claim for claim in told)


@pytest.mark.parametrize(("entropy", "expected"), [((0.5, 0.4), "held"), ((0.5, 0.1), "not held")])
def test_other_prompts_keep_entropy_and_one_seed_says_nothing(tmp_path, entropy, expected):
    claim = "A share of other prompts keeps the student's entropy up."
    sources = [{"data": d, "share": s, "teachers": [0]} for d, s in (("exercises", 0.8), ("practice", 0.2))]
    for folder, seeds, wanted in (("a", (0, 1), expected), ("b", (0,), None)):
        made = study(tmp_path / folder, seeds=seeds, log={"entropy": (0.5, 0.2)})
        made.add(
            "outside", "opd", "sft", 0.6, teachers=["grpo"], sources=sources, seeds=seeds, log={"entropy": entropy}
        )
        assert verdicts(made).get(claim) == wanted


def test_cold_starts(tmp_path):
    overlap, final = (f"A cold start on the teacher's responses raises the {what}." for what in
                      ("initial overlap", "final score"))  # fmt: skip
    made = study(tmp_path).add("cold", "distill", "base", 0.4, teachers=["grpo"])
    made.add("warm", "opd", "cold", 0.65, teachers=["grpo"]).forecast("exercises", "cold", "grpo", True, overlap=0.85)
    assert not {overlap, final} & verdicts(made).keys()  # nothing to compare it with
    made.add("plain", "opd", "base", 0.5, teachers=["grpo"]).forecast("exercises", "base", "grpo", True, overlap=0.6)
    told = verdicts(made)
    assert (told[overlap], told[final]) == ("held", "held")
    row = only(claims_table(made.read()), claim=overlap)
    assert row["difference"].value == pytest.approx(0.25)
    # Half-widths of 0.01 on both sides, in quadrature.
    assert row["difference"].high - 0.25 == pytest.approx(0.01 * math.sqrt(2))


@pytest.mark.parametrize(
    ("end", "expected"), [(0.5, "held"), (0.505, "undecided"), (0.6, "not held"), (0.42, "not held")]
)
def test_reverse_distillation(tmp_path, end, expected):
    made = study(tmp_path).add("back", "opd", "grpo", end, teachers=["sft"])
    assert verdicts(made)["A student after RL falls back to its own start when that teaches it."] == expected


def test_what_successful_runs_have_in_common(tmp_path):
    log = {"overlap": (0.7, 0.9), "entropy_gap": (0.3, 0.1), "overlap_advantage": (-0.3, -0.05),
           "mass_student": (0.98, 0.99), "mass_teacher": (0.90, 0.93)}  # fmt: skip
    claims = ["In runs that succeed the overlap rises.", "In runs that succeed the entropy gap shrinks.",
              "In runs that succeed the advantage on the overlap goes to 0.",
              "In runs that succeed the overlap has at least 97 % of the student's probability.",
              "In runs that succeed the overlap has at least 97 % of the teacher's probability."]  # fmt: skip
    made = study(tmp_path / "a", seeds=(0, 1, 2), log=log)
    failing = {"overlap": (0.9, 0.1), "entropy_gap": (0.1, 0.9)}
    made.add("failed", "opd", "sft", 0.4, teachers=["grpo"], seeds=(0, 1, 2), learning_rate=1.0, log=failing)
    found = made.read()
    assert [run.name for run in successes(found)] == ["opd"]
    told = verdicts(made)
    assert [told[claim] for claim in claims] == ["held", "held", "held", "held", "not held"]
    backwards = {key: values[::-1] for key, values in log.items()}
    told = verdicts(study(tmp_path / "b", seeds=(0, 1, 2), log=backwards))
    assert [told[claim] for claim in claims[:3]] == ["not held"] * 3
    once = study(tmp_path / "c", log=log)
    assert {verdicts(once)[claim] for claim in claims} == {"undecided"}  # one run has no interval
    assert {only(claims_table(once.read()), claim=claim)["verdict"] for claim in claims} == {"one seed"}
    # Three runs of one start are one cluster; of their own starts three.
    shared = base(tmp_path / "d").add("opd", "opd", "sft", 0.66, teachers=["grpo"], seeds=(0, 1, 2), log=log)
    for found, starts, verdict in ((made.read(), 3, "held"), (shared.read(), 1, "one seed")):
        row = only(claims_table(found), claim=claims[0])
        assert row["verdict"] == verdict and f"in 3 runs from {starts} start" in row["here"]


CHEAPER = "On-policy distillation comes to the score of RL with fewer generated tokens than RL."


@pytest.mark.parametrize(("ends", "expected"), [((0.6, 0.8), "held"), ((0.52, 0.55), "not held")])
def test_the_price_beside_rl(tmp_path, ends, expected):
    found = dosed(tmp_path, ends).read()
    row = only(claims_table(found), claim=CHEAPER)
    assert row["reading"] == expected
    if expected == "held":
        assert row["ratio"].value == pytest.approx(10.0) and "OPD 2,000, RL 20,000 tokens: 10.0" in row["here"]
    else:
        assert row["ratio"] is None and "OPD does not reach it" in row["here"]
    assert "inf" not in claims_table(found).markdown() + claims_table(found).csv()


def test_a_price_against_a_bound_is_open(tmp_path):
    """RL's smallest dose is there already: it may have needed less, so that nothing is cheaper than it for sure."""
    made = dosed(tmp_path)
    made.add("early", "rl", "sft", 0.75, steps=5, tokens=9000, generated=4500)
    found = made.read()
    row = only(claims_table(found), claim=CHEAPER)
    assert row["ratio"].low > 1 and row["reading"] == "undecided" and "RL at most 4,500" in row["here"]


@pytest.mark.parametrize(("end", "expected"), [(0.55, "held"), (0.75, "not held"), (0.66, "undecided")])
def test_on_policy_against_off_policy(tmp_path, end, expected):
    made = study(tmp_path).add("distilled", "distill", "sft", end, teachers=["grpo"])
    made.add("kl", "distill", "sft", end, teachers=["grpo"], objective="forward_kl")
    made.add("elsewhere", "distill", "base", 0.1, teachers=["grpo"])
    told = {claim: verdict for claim, verdict in verdicts(made).items() if "off-policy" in claim}
    assert told == {
        "On-policy distillation ends above off-policy distillation on the teacher's tokens.": expected,
        "On-policy distillation ends above off-policy distillation on the teacher's stored distributions.": expected,
    }


@pytest.mark.parametrize(("general", "expected"), [(0.85, "held"), (0.6, "not held"), (0.7, "undecided")])
def test_the_original_model_brings_back_what_was_forgotten(tmp_path, general, expected):
    made = study(tmp_path).add("original", "opd", "sft", 0.5, general, teachers=["base"], data="practice")
    claim = "The original model as the teacher brings back more than half of what was forgotten."
    assert verdicts(made)[claim] == expected


@pytest.mark.parametrize(("student", "expected"), [((0.68, 0.88), "held"), ((0.4, 0.7), "not held"),
                                                   ((0.6, 0.8), "undecided")])  # fmt: skip
def test_the_student_of_many_against_the_best_merge(tmp_path, student, expected):
    claim = "The on-policy student of a teacher per data set beats the best merge of them, in the mean of both axes."
    made = several(tmp_path, student)
    assert verdicts(made)[claim] == expected
    made.add("joint", "distill", "sft", 0.6, 0.8, teachers=["grpo", "base"], sources=made.nodes[-4]["sources"])
    told = verdicts(made)
    claim = "The on-policy student of a teacher per data set ends above the off-policy one, in the mean of both axes."
    assert told[claim] == expected
    assert not any("off-policy distillation" in claim for claim in told)  # of several teachers: no single one


def test_a_larger_teacher_of_the_same_pipeline_that_teaches_refutes(tmp_path):
    claim = "A larger teacher of the student's own pipeline teaches it nothing."
    for folder, end, expected in (("a", 0.57, "not held"), ("b", 0.5, "held")):
        made = large_teacher(study(tmp_path / folder))
        made.add("opd_big", "opd", "sft", end, teachers=["sft_big"])
        assert verdicts(made)[claim] == expected


def test_equal_teachers_by_their_overlap(tmp_path):
    claim = "Of two teachers with equal scores, that with the higher initial overlap ends better."
    for folder, end, other, expected in (("a", 0.55, 0.6, "held"), ("b", 0.75, 0.6, "not held"), ("c", 0.5, 0.9, None)):
        made = study(tmp_path / folder).add("rival", "rl", "sft", 0.7 if expected else 0.8)
        made.add("opd_rival", "opd", "sft", end, teachers=["rival"])
        made.forecast("exercises", "sft", "grpo", True, overlap=0.8)
        made.forecast("exercises", "sft", "rival", True, overlap=other)
        assert verdicts(made).get(claim) == expected


def test_a_claim_waits_for_the_steps_that_it_takes(tmp_path):
    claim = "A student after RL falls back to its own start when that teaches it."
    for folder, steps, expected in (("a", 30, "too short"), ("b", 100, "not held")):
        made = study(tmp_path / folder, seeds=(0, 1, 2))
        made.add("back", "opd", "grpo", 0.65, teachers=["sft"], seeds=(0, 1, 2), steps=steps)
        row = only(claims_table(made.read()), claim=claim)
        assert (row["verdict"], row["reading"]) == (expected, "not held")
        assert ("steps: back-s0" in row["why"] or "steps: back 30, where 100 are needed" in row["why"]) == (steps < 100)


# --- the whole -----------------------------------------------------------------------------------


def small(root: Path, seconds: float = 10.0) -> World:
    """The study as it is at the default size: three recipes, one seed, no doses."""
    log = {"overlap": (0.7, 0.9), "entropy_gap": (0.3, 0.1), "overlap_advantage": (-0.3, -0.05)}
    made = study(root, log=log, seconds=seconds)
    made.add("cold", "distill", "base", 0.4, teachers=["grpo"], seconds=seconds)
    made.add("opd_cold", "opd", "cold", 0.62, 0.6, teachers=["grpo"], generated=4000, scored=8000, seconds=seconds,
             log=log)  # fmt: skip
    made.generated("exercises", "grpo")
    return made.forecast("exercises", "sft", "grpo", True).forecast("exercises", "cold", "grpo", False)


def test_the_default_size_has_its_tables(tmp_path):
    found = small(tmp_path).read()
    made = {table.name: table for table in distillation_tables(found)}
    assert list(made) == [
        "distillation_recovery", "distillation_diagnostics", "distillation_forecasts", "distillation_forecast_score",
        "distillation_prefixes", "distillation_doses", "distillation_budget", "distillation_generations",
        "distillation_claims", "timing_distillation",
    ]  # fmt: skip
    compact = [compact_recovery(made["distillation_recovery"]), compact_budget(made["distillation_budget"])]
    compact += [
        compact_forecasts(made["distillation_forecasts"]),
        compact_diagnostics(made["distillation_diagnostics"]),
    ]
    for table in (*made.values(), *compact):
        text = table.markdown() + table.csv()
        assert not {"nan", "None", "inf"} & {word.strip(".,;:()[]") for word in text.replace(",", " ").split()}
        assert len(list(csv.reader(table.csv().splitlines()))) == len(table.rows) + 1
    (row,) = generations_table(found).rows
    assert row["in"] == row["kept"] + row["wrong_answer"] + row["unfinished"]
    assert {row["claim"] for row in made["distillation_claims"].rows} >= {CHEAPER}


def test_only_timing_differs_with_time(tmp_path):
    first, second = (
        {t.name: t.csv() + t.markdown() for t in distillation_tables(small(tmp_path / name, seconds).read())}
        for name, seconds in (("a", 10.0), ("b", 77.0))
    )
    assert {name for name in first if first[name] != second[name]} == {"timing_distillation"}


def test_half_done_studies(tmp_path):
    """A run that is not evaluated yet, forecasts and generations that are not made; then nothing at all."""
    made = small(tmp_path)
    late = next(c for c in made.checkpoints if c.node == "opd_cold")
    late.results, late.samples = None, []
    (tmp_path / "forecast/exercises/cold/grpo/manifest.json").unlink()
    (tmp_path / "generate/exercises/grpo/manifest.json").unlink()
    found = made.read()
    assert (len(found.forecasts), found.generations) == (1, [])
    row = only(recovery_table(found), checkpoint="opd_cold")
    assert (row["change"], row["reads"]) == (None, "not measured")
    assert distillation_tables(found)
    for member in made.checkpoints:
        if member.stage in ("opd", "distill"):
            member.manifest = None
    assert made.read() is None
    assert World(tmp_path).add("base", "model", None, 0.1).read() is None


def test_runs_keep_their_rollouts(tmp_path):
    made = study(tmp_path)
    write_jsonl(tmp_path / "study/opd/rollouts.jsonl", [{"step": 1, "prompt": "p", "response": "r"}])
    assert made.read().rollouts == {"opd": [{"step": 1, "prompt": "p", "response": "r"}]}
