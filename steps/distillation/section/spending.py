"""What each budget of each method from one start spent, and what it came to."""

import json
from collections import Counter
from pathlib import Path
from statistics import fmean

from steps.core.manifest import read_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from steps.distillation.section.budgets import Budget, BudgetPoint, Series, with_seeds
from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import BUDGET_SETTINGS, method_settings
from steps.report.candidates import Candidate, settings_of
from steps.settings.stages import ON_POLICY, STAGES, TAUGHT, label


def read_budget(study: Distillation, results: Path) -> Budget | None:
    """Budgets of every method from the reference's start, where RL made the reference's teacher of that start."""
    if study.reference is None:
        return None
    start, (rl,) = study.reference.start, study.reference.teachers
    if rl.stage != "rl" or study.candidate_of(rl.members[0].parents[0]) is not start:
        return None
    score = study.scores.level(rl, "target")
    methods = _methods(study, start, rl)
    if score is None or not methods:
        return None
    series = [of for candidates in methods if (of := _series(study, candidates, rl, results))]
    series.sort(key=lambda of: _order(of.stage))
    stages = Counter(of.stage for of in series)
    for of in series:
        if stages[of.stage] > 1:
            of.name = f"{of.name} ({of.budget_points[-1].candidate.recipe})"
    return Budget(start, rl, score, series, study.scores)


def _order(stage: str) -> tuple[bool, bool, int]:
    """In tables and legends: what trains on rows, then what samples; a stage that is not known comes last."""
    known = list(STAGES)
    return stage not in STAGES, stage in ON_POLICY, known.index(stage) if stage in known else 0


def _methods(study: Distillation, start: Candidate, rl: Candidate) -> list[list[Candidate]]:
    """What was trained from a start and measured: budgets of one method together. Of stage rl and opd, those alone
    that differ from the RL candidate and from the reference in nothing but the budget."""
    runs = {run.name: run for run in study.runs}
    usual = {"rl": rl, "opd": study.reference.candidate}
    methods: dict[str, list[Candidate]] = {}
    for candidate in study.every.values():
        parents, stage = candidate.members[0].parents, candidate.stage
        if not parents or study.candidate_of(parents[0]) is not start:
            continue
        if not any(m.manifest and m.results and m.log for m in candidate.members):
            continue
        if stage in TAUGHT and (candidate.name not in runs or runs[candidate.name].teachers != [rl]):
            continue
        method = _method(study, candidate)
        if stage not in usual or _method(study, usual[stage]) == method:
            methods.setdefault(method, []).append(candidate)
    return list(methods.values())


def _method(study: Distillation, candidate: Candidate) -> str:
    """All but the budget: equal for candidates that are budgets of one method."""
    settings = {k: v for k, v in method_settings(candidate).items() if k not in BUDGET_SETTINGS}
    parts = [candidate.stage, settings_of(candidate).get("data"), settings]
    if candidate.stage in TAUGHT:
        teachers = [study.candidate_of(teacher).name for teacher in study.teaching[candidate.members[0].node]]
        parts += [settings_of(candidate).get("sources"), teachers]
    return json.dumps(parts, sort_keys=True)


def _series(study: Distillation, candidates: list[Candidate], rl: Candidate, results: Path) -> Series | None:
    """Over the seeds that all have, with RL where they can."""
    shared = set.intersection(*(set(candidate.seeds) for candidate in [rl, *candidates]))
    seeds = sorted(shared) or sorted(set.intersection(*(set(candidate.seeds) for candidate in candidates)))
    points = [
        _budget_point(study, with_seeds(candidate, seeds) if seeds else candidate, results) for candidate in candidates
    ]
    points = sorted((point for point in points if point), key=lambda point: (point.budget, point.trained))
    stage = candidates[0].stage
    return Series(label(stage), stage, points, seeds) if points else None


def _budget_point(study: Distillation, candidate: Candidate, results: Path) -> BudgetPoint | None:
    score = study.scores.level(candidate, "target")
    trained, steps = _last(candidate, "tokens"), _last(candidate, "step")
    if score is None or not trained or not steps:
        return None
    settings, stage, size = settings_of(candidate), candidate.stage, study.size(candidate)
    generated, scored, by_teacher = _last(candidate, "generated"), _last(candidate, "scored"), 0
    seconds = [m.provenance["seconds"] for m in candidate.members if m.provenance]
    if stage == "distill":
        by_teacher, prepared = _prepared(study, candidate, results)
        seconds = [value + prepared for value in seconds]
        if settings.get("objective") == "forward_kl":
            scored = round(trained / settings["epochs"])  # the teacher read every row once
    sizes = [study.parameters.get(teacher) for teacher in study.teaching.get(candidate.members[0].node, [])]
    # Every sampled sequence is read and written once, then trained on; RL may train on it several times.
    sampled = trained if stage in ("rl", "opd") else 0
    passes = settings.get("iterations", 1) if stage == "rl" else 1
    known = size and all(sizes)
    of_teachers = 2 * (fmean(sizes) if known and sizes else 0) * (scored + by_teacher)
    return BudgetPoint(
        candidate=candidate,
        budget=settings.get("epochs", settings.get("steps", steps)),
        steps=steps,
        generated=generated + by_teacher,
        trained=trained * passes,
        scored=scored,
        flops=2.0 * size * sampled + 6.0 * size * trained * passes + of_teachers if known else None,
        seconds=fmean(seconds) if seconds else None,
        score=score,
    )


def _prepared(study: Distillation, candidate: Candidate, results: Path) -> tuple[int, float]:
    """Tokens that the teachers of an off-policy candidate wrote for it, and the seconds of that and of the
    log-probabilities that were stored; means over seeds."""
    sources = next(run.sources for run in study.runs if run.name == candidate.name)
    tokens, seconds = 0, 0.0
    for member in candidate.members:
        pairs = [(s["data"], study.teaching[member.node][i]) for s in sources for i in s["teachers"]]
        folders = [results / "generate" / data / teacher for data, teacher in pairs]
        counts = [read_manifest(folder / MANIFEST)["counts"] for folder in folders if (folder / MANIFEST).is_file()]
        tokens += sum(of["generated_tokens"] for of in counts)
        if member.settings.get("objective") == "forward_kl":
            folders += [results / "logprobs" / data / teacher for data, teacher in pairs]
        seconds += sum(read_manifest(f / PROVENANCE)["seconds"] for f in folders if (f / PROVENANCE).is_file())
    return round(tokens / len(candidate.members)), seconds / len(candidate.members)


def _last(candidate: Candidate, column: str) -> int:
    """The last value of a column of the log, a mean over seeds; 0 where there is none."""
    totals = [m.log[-1][column] for m in candidate.members if m.log and column in m.log[-1]]
    return round(fmean(totals)) if totals else 0
