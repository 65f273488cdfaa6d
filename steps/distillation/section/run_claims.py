"""Claims about what runs start from, and about what those that succeed have in common."""

from collections.abc import Iterator
from dataclasses import replace
from statistics import fmean

from steps.distillation.section.catalogue import MASS
from steps.distillation.section.evidence import ends_like, higher, levels_of
from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Run
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate, Checkpoint, apart, clusters
from steps.report.claims import MORE, Evidence, verdict
from steps.report.estimates import over_seeds
from steps.report.logs import ends_of
from steps.report.tables import Estimate
from steps.stats import intervals

# --- starts --------------------------------------------------------------------------------------


def cold_starts(study: Distillation) -> Iterator[Evidence]:
    """From a cold start on the teacher's own responses, against the same run without it."""
    for warm in study.runs:
        cold = next((run for run in study.runs if run.candidate is warm.start), None)
        if warm.stage != "opd" or cold is None or cold.stage != "distill" or cold.teachers != warm.teachers:
            continue
        for plain in study.runs:
            if plain.start is cold.start and set(study.differs(warm, plain)) == {"from"}:
                yield from _higher_overlap(study, warm, plain)
                yield from higher(study, "cold_score", warm, plain)


def _higher_overlap(study: Distillation, warm: Run, plain: Run) -> Iterator[Evidence]:
    overlaps = [(run.name, initial_overlap(study, run)) for run in (warm, plain)]
    if not all(overlap for _, overlap in overlaps):
        return
    more = apart(*(overlap for _, overlap in overlaps))
    here = say("cold_overlap_here", overlaps=overlaps, difference=more)
    arms = [warm.candidate, plain.candidate]
    yield Evidence("cold_overlap", here, verdict(more, MORE), arms, {"difference": more})


def initial_overlap(study: Distillation, run: Run) -> Estimate | None:
    """The overlap before training, as forecast: over samples, and over the seeds of the student."""
    pairs = {m.seed: (run.data[0], study.starts[m.node], study.teaching[m.node][0]) for m in run.candidate.members}
    known = {(f.data, f.student, f.teacher): f.measured["overlap"] for f in study.forecasts}
    of_seed = {s: known[pair] for s, pair in pairs.items() if pair in known and known[pair]["value"] is not None}
    rows = list(of_seed.values())
    if not rows:
        return None
    value = fmean(row["value"] for row in rows)
    within = tuple(fmean(row[end] for row in rows) for end in ("low", "high"))
    seeds = tuple(row["value"] for row in rows)
    low, high = intervals.widen(value, within, seeds)
    n = next(f.measured["prompts"] for f in study.forecasts if (f.data, f.student, f.teacher) in pairs.values())
    return Estimate(value, low, high, (within[1] - within[0]) / (2 * intervals.Z), n, seeds, tuple(of_seed))


def reversals(study: Distillation) -> Iterator[Evidence]:
    """A student after RL, taught by what it was before."""
    for run in study.runs:
        teacher = run.teachers[0]
        if run.stage != "opd" or len(run.teachers) > 1 or run.start.stage != "rl":
            continue
        if study.candidate_of(run.start.members[0].parents[0]) is not teacher:
            continue
        axis = study.axis_of(run)
        more, fell = study.scores.change(run.candidate, teacher, axis), study.since_start(run, axis)
        if more and fell:
            here = say(
                "reverse_here",
                start=run.start.name,
                before=study.scores.level(run.start, axis),
                levels_of=levels_of(study, axis, run.candidate, teacher),
                against_teacher=more,
                against_start=fell,
            )
            yield Evidence("reverse", here, ends_like(more), [run.candidate], {"difference": more})


# --- what success looks like ---------------------------------------------------------------------


def successes(study: Distillation) -> list[Run]:
    """On-policy runs of one teacher whose score rose beyond chance."""
    runs = [run for run in study.runs if run.stage == "opd" and len(run.teachers) == 1]
    return [run for run in runs if study.recovery(run).moved == "rose"]


def what_succeeds(study: Distillation) -> Iterator[Evidence]:
    """Over clusters of runs, as those of one start are no independent ones."""
    candidates = [run.candidate for run in successes(study)]
    for column, sign in (("overlap", 1), ("entropy_gap", -1), ("overlap_advantage", -1)):
        yield from _both_ends(study, candidates, column, sign)
    for side, column in (("student", "mass_student"), ("teacher", "mass_teacher")):
        masses = {m.node: fmean(values) for candidate in candidates for m, values in _logged(candidate, column)}
        if masses:
            mass, units = over_clusters(study, masses)
            here = say("mass_here", mass=mass, runs=len(masses), clusters=units)
            yield Evidence(f"mass_{side}", here, _reading(mass, MASS), candidates, {"share": mass}, units=units)


def _logged(candidate: Candidate, column: str) -> list[tuple[Checkpoint, list[float]]]:
    values = [(m, [row[column] for row in m.log if column in row]) for m in candidate.members]
    return [(m, of_run) for m, of_run in values if of_run]


def _both_ends(study: Distillation, candidates: list[Candidate], column: str, sign: int) -> Iterator[Evidence]:
    """A column rises from the first to the last tenth of the steps, or falls: by its sign."""
    logs = [(m, values) for candidate in candidates for m, values in _logged(candidate, column)]
    size = abs if column == "overlap_advantage" else float
    pairs = {m.node: tuple(size(end) for end in ends_of(values)) for m, values in logs}
    if not pairs:
        return
    change, units = over_clusters(study, {node: sign * (last - first) for node, (first, last) in pairs.items()})
    first, last = (fmean(side) for side in zip(*pairs.values(), strict=True))
    name = f"success_{column}"
    here = say(f"{name}_here", first=first, last=last, runs=len(pairs), clusters=units, change=change)
    numbers = {"difference" if column == "overlap" else "measure": change}
    yield Evidence(name, here, _reading(change, MORE), candidates, numbers, units=units)


def over_clusters(study: Distillation, values: dict[str, float]) -> tuple[Estimate | float, int]:
    """The mean over clusters of their means, by the spread over clusters, and how many there are; one has no interval.

    A cluster is what has a trained start in common, or anything that the start was made from or taught by; runs of a
    model that nothing was trained from share their teacher's.

    Args:
        values: by the node of a run.
    """
    labels = dict(zip(values, clusters([_origin(study, node) for node in values]), strict=True))
    of_clusters = [fmean(v for node, v in values.items() if labels[node] == label) for label in set(labels.values())]
    mean = over_seeds(of_clusters)
    return (replace(mean, n=len(values)) if isinstance(mean, Estimate) else mean), len(of_clusters)


def _reading(mean: Estimate | float, bar: float) -> str:
    return verdict(mean, bar) if isinstance(mean, Estimate) else "undecided"


def _origin(study: Distillation, node: str) -> frozenset[str]:
    start = study.scores.members[study.starts[node]]
    if start.stage != "model":
        return start.rests_on | {start.node}
    return study.scores.members[node].rests_on
