"""Claims about what runs start from, and about what those that succeed have in common."""

from collections.abc import Iterator
from statistics import fmean

from steps.distillation.section.claim_rows import RETHINKING, claim_row, ends_like, higher, levels_of
from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Run
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate, apart
from steps.report.claims import MORE, verdict
from steps.report.estimates import over_seeds
from steps.report.logs import ends, logged
from steps.report.tables import Estimate
from steps.stats import intervals

# What both sides give the tokens that they have in common, in a run that succeeds.
MASS = 0.97
# Fewer runs than this say nothing of runs: the spread of two has one degree of freedom.
LEAST_RUNS = 3


# --- starts --------------------------------------------------------------------------------------


def cold_starts(study: Distillation) -> Iterator[dict]:
    """From a cold start on the teacher's own responses, against the same run without it."""
    for warm in study.runs:
        cold = next((run for run in study.runs if run.candidate is warm.start), None)
        if warm.stage != "opd" or cold is None or cold.stage != "distill" or cold.teachers != warm.teachers:
            continue
        for plain in study.runs:
            if plain.start is cold.start and set(study.differs(warm, plain)) == {"from"}:
                yield from _higher_overlap(study, warm, plain)
                yield from higher(study, "cold_score", RETHINKING, warm, plain)


def _higher_overlap(study: Distillation, warm: Run, plain: Run) -> Iterator[dict]:
    overlaps = [(run.name, initial_overlap(study, run)) for run in (warm, plain)]
    if not all(overlap for _, overlap in overlaps):
        return
    more = apart(*(overlap for _, overlap in overlaps))
    here = say("cold_overlap_here", overlaps=overlaps, difference=more)
    yield claim_row(
        say("cold_overlap_claim"), RETHINKING, say("cold_overlap_there"), here, verdict(more, MORE),
        [warm.candidate, plain.candidate], difference=more,
    )  # fmt: skip


def initial_overlap(study: Distillation, run: Run) -> Estimate | None:
    """The overlap before training, as forecast: over samples, and over the seeds of the student."""
    nodes = [m.node for m in run.candidate.members]
    pairs = [(run.data[0], study.starts[node], study.teaching[node][0]) for node in nodes]
    known = {(f.data, f.student, f.teacher): f.measured["overlap"] for f in study.forecasts}
    rows = [known[pair] for pair in pairs if pair in known and known[pair]["value"] is not None]
    if not rows:
        return None
    value = fmean(row["value"] for row in rows)
    within = tuple(fmean(row[end] for row in rows) for end in ("low", "high"))
    seeds = tuple(row["value"] for row in rows)
    low, high = intervals.widen(value, within, seeds)
    n = next(f.measured["prompts"] for f in study.forecasts if (f.data, f.student, f.teacher) in pairs)
    return Estimate(value, low, high, (within[1] - within[0]) / (2 * intervals.Z), n, seeds)


def reversals(study: Distillation) -> Iterator[dict]:
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
            yield claim_row(
                say("reverse_claim"), RETHINKING, say("reverse_there"), here, ends_like(more),
                [run.candidate, teacher], difference=more,
            )  # fmt: skip


# --- what success looks like ---------------------------------------------------------------------


def successes(study: Distillation) -> list[Run]:
    """On-policy runs of one teacher whose score rose beyond chance."""
    runs = [run for run in study.runs if run.stage == "opd" and len(run.teachers) == 1]
    return [run for run in runs if study.recovery(run).moved == "rose"]


def what_succeeds(study: Distillation) -> Iterator[dict]:
    """Over runs: every seed of every candidate that succeeded is one."""
    candidates = [run.candidate for run in successes(study)]
    for column, sign in (("overlap", 1), ("entropy_gap", -1), ("overlap_advantage", -1)):
        yield from _both_ends(candidates, column, sign)
    for side, column in (("student", "mass_student"), ("teacher", "mass_teacher")):
        masses = [fmean(values) for candidate in candidates for _, values in logged(candidate, column)]
        if len(masses) >= LEAST_RUNS:
            mass = over_seeds(masses)
            yield claim_row(
                say("mass_claim", mass=MASS, side=side), RETHINKING, say("mass_there"), say("mass_here", mass=mass),
                verdict(mass, MASS), candidates, share=mass,
            )  # fmt: skip


def _both_ends(candidates: list[Candidate], column: str, sign: int) -> Iterator[dict]:
    """A column rises from the first to the last tenth of the steps, or falls: by its sign."""
    pairs = [pair for candidate in candidates for pair in zip(*ends(candidate, column), strict=True)]
    if column == "overlap_advantage":
        pairs = [(abs(a), abs(b)) for a, b in pairs]
    if len(pairs) < LEAST_RUNS:
        return
    change = over_seeds([sign * (last - first) for first, last in pairs])
    first, last = (fmean(side) for side in zip(*pairs, strict=True))
    name = f"success_{column}"
    here = say(f"{name}_here", first=first, last=last, runs=len(pairs), change=change)
    numbers = {"difference" if column == "overlap" else "measure": change}
    yield claim_row(
        say(f"{name}_claim"), RETHINKING, say(f"{name}_there"), here, verdict(change, MORE), candidates, **numbers
    )
