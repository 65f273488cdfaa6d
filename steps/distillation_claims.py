"""What the papers of on-policy distillation found, and whether it holds here: held, not held or undecided.

Numbers "there" are those of "Rethinking On-Policy Distillation" (arXiv:2604.13016), of its authors' repository
(thunlp/OPD), of Thinking Machines' "On-Policy Distillation" (27 October 2025) and of MOPD (arXiv:2606.30406). Of the
papers, tables were read in secondary notes only, which the caption says.
"""

from collections.abc import Iterable, Iterator
from statistics import fmean

from steps import estimators
from steps.arms import Arm, apart, root_of
from steps.claims import MORE, NO_LESS, origin, percent, points, verdict
from steps.distillation import Distillation, Run, Series
from steps.distillation_stats import share_difference
from steps.reinforcement import ends, logged, matched, settings_of
from steps.stability_stats import over_seeds
from steps.tables import Column, Estimate, Table, cell_text, interval_text, number_text

RETHINKING, MACHINES, MOPD = "arXiv:2604.13016", "Thinking Machines, 27 October 2025", "arXiv:2606.30406"
# Two models are of the same size when their numbers of parameters are at most so many times apart.
SAME_SIZE = 1.1
# What both sides give the tokens that they have in common, in a run that succeeds.
MASS = 0.97
HALF = 0.5
# Fewer runs than this say nothing of runs: the spread of two has one degree of freedom.
LEAST_RUNS = 3


def claims_table(found: Distillation) -> Table | None:
    columns = [Column("verdict", "verdict"), Column("claim", "claim"), Column("here", "here")]
    columns += [Column("published", "there"), Column("paper", "paper")]
    columns += [Column("difference", "difference, points", "points")]
    columns += [Column("recovery", "difference of recovered shares, points", "points")]
    columns += [Column("share", "recovered %", "percent"), Column("measure", "difference, nats", "decimal")]
    columns += [Column("ratio", "ratio", "decimal"), Column("n", "n", "integer")]
    columns += [Column("seeds", "seeds"), Column("manifest", "manifest", "links")]
    rows = []
    if found.reference:
        for claims in (_teachers, _support, _length, _prompts):
            rows += claims(found, found.reference)
    for claims in (_cold_start, _reverse, _success, _price, _off_policy, _original, _many):
        rows += claims(found)
    caption = (
        "Held: the whole 95 % interval says so; not held: the whole interval says otherwise; undecided: it straddles."
        f" “Ends like”: no more than {100 * NO_LESS:.0f} points apart, the whole interval. Compared are arms that"
        f" differ in one thing; scores are {f'pass@1 on {found.target}' if found.target else 'greedy'}, differences"
        " paired by item and seed, over the seeds that both sides have. There is no correction for the number of"
        " claims. Of the papers, tables were read in secondary notes."
    )
    return Table("distillation_claims", caption, columns, rows) if rows else None


def _row(claim: str, paper: str, there: str, here: str, told: str, arms: Iterable[Arm], **numbers) -> dict:
    first = next(iter(numbers.values()))
    n = first.n if isinstance(first, Estimate) else None
    row = {"claim": claim, "paper": paper, "published": there, "here": here, "verdict": told, "n": n}
    return row | numbers | origin(list({arm.name: arm for arm in arms}.values()))


def ends_like(difference: Estimate, within: float = NO_LESS) -> str:
    """Held when the whole interval is no more than so far from 0, not held when all of it is farther."""
    if -within <= difference.low and difference.high <= within:
        return "held"
    return "not held" if difference.low > within or difference.high < -within else "undecided"


def _scores(found: Distillation, axis: str, *arms: Arm) -> str:
    """Levels over the seeds that two arms have in common, as their difference has them."""
    sides = matched(*arms)
    if axis == "both":
        told = (f"{arm.name} {' / '.join(percent(e) for e in found.both(arm))}" for arm in sides)
        return f"target / general: {', '.join(told)}; mean"
    return ", ".join(f"{arm.name} {percent(e)}" for arm in sides if (e := found.level(arm, axis)))


def manner(run: Run) -> str:
    """How several teachers teach a run."""
    mixed = any(len(source["teachers"]) > 1 for source in run.sources)
    return "a mixture of teachers" if mixed else "a teacher per data set"


def _higher(
    found: Distillation, claim: str, paper: str, there: str, ours: Run, theirs: Run, axis: str | None = None
) -> Iterator[dict]:
    """One run ends above another."""
    axis = axis or found.axis_of(ours)
    more = found.change(ours.arm, theirs.arm, axis)
    if more:
        here = f"{_scores(found, axis, ours.arm, theirs.arm)}: {points(more)}."
        yield _row(claim, paper, there, here, verdict(more, MORE), matched(ours.arm, theirs.arm), difference=more)


def _like(found: Distillation, claim: str, paper: str, there: str, ours: Run, theirs: Run) -> Iterator[dict]:
    axis = found.axis_of(theirs)
    more = found.change(ours.arm, theirs.arm, axis)
    if more:
        here = f"{_scores(found, axis, ours.arm, theirs.arm)}: {points(more)}."
        yield _row(claim, paper, there, here, ends_like(more), matched(ours.arm, theirs.arm), difference=more)


# --- teachers ------------------------------------------------------------------------------------


def _teachers(found: Distillation, reference: Run) -> Iterator[dict]:
    start = reference.start
    taught = [reference, *found.alike("teachers")]
    style = found.trained_on(start)

    def chosen(rl: bool, larger: bool, same_style: bool = True) -> list[Run]:
        return [
            run
            for run in taught
            if len(run.teachers) == 1
            and (run.teachers[0].stage == "rl" if rl else run.teachers[0].stage == start.stage)
            and size(found, run) == ("larger" if larger else "same")
            and (found.trained_on(run.teachers[0]) == style) == same_style
        ]

    for ours in chosen(rl=True, larger=False):
        for theirs in chosen(rl=False, larger=True):
            yield from _recovers_more(
                found, "A teacher of the student's size after RL is recovered better than a larger one without.",
                "Recovered by Qwen3-1.7B: 58.6 % from Qwen3-4B after RL, 15.6 % from Qwen3-4B before.", ours, theirs,
            )  # fmt: skip
        for theirs in chosen(rl=True, larger=False, same_style=False):
            yield from _recovers_more(
                found, "A teacher of another style is recovered worse than one of the student's.",
                "Of two teachers with similar scores, that with the higher initial overlap ends better; no number.",
                ours, theirs,
            )  # fmt: skip
    for ours in chosen(rl=True, larger=True):
        for theirs in chosen(rl=False, larger=True):
            if found.arm_of(ours.teachers[0].members[0].parents[0]) is theirs.teachers[0]:
                yield from _recovers_more(
                    found, "A larger teacher is recovered better after RL than before.",
                    "R1-Distill-1.5B: 16.9 % of Skywork-OR1-Math-7B, 5.3 % of R1-Distill-7B before its RL."
                    " Qwen3-1.7B: 58.6 and 15.6 %.",
                    ours, theirs,
                )  # fmt: skip


def size(found: Distillation, run: Run) -> str | None:
    """Whether a run's teacher is `larger` or `smaller` than the student, or the `same`; None where it is not known."""
    ours, theirs = found.size(run.start) or found.size(run.arm), found.size(run.teachers[0])
    if not ours or not theirs:
        return None
    if 1 / SAME_SIZE <= theirs / ours <= SAME_SIZE:
        return "same"
    return "larger" if theirs > ours else "smaller"


def _recovers_more(found: Distillation, claim: str, there: str, ours: Run, theirs: Run) -> Iterator[dict]:
    """Recovered shares where both are defined; changes in points where one side has no gap to recover."""
    common = set(ours.arm.seeds) & set(theirs.arm.seeds) or None
    parts = [found.recovery(run, common) for run in (ours, theirs)]
    if not all(part.change for part in parts):
        return
    told = [f"{part.run.name} ({part.domain.teacher.name}) {recovered_text(part.share)}" for part in parts]
    if all(part.drawn for part in parts):
        more = share_difference(parts[0].drawn, parts[1].drawn)
        numbers, what = {"recovery": more}, "recovered shares"
    else:
        more = found.change(ours.arm, theirs.arm, found.axis_of(ours))
        numbers, what = {"difference": more}, "compared are scores, for want of a gap"
    here = f"{'; '.join(told)}; {what}: {points(more)}."
    yield _row(claim, RETHINKING, there, here, verdict(more, MORE), matched(ours.arm, theirs.arm), **numbers)


def recovered_text(share: Estimate | None) -> str:
    if share is None:
        return "has no gap to its start beyond chance"
    return f"{number_text('percent', share.value)} {interval_text('percent', share)} %"


# --- the loss ------------------------------------------------------------------------------------


def _support(found: Distillation, reference: Run) -> Iterator[dict]:
    usual = settings_of(reference.arm)["support"]
    if usual["kind"] != "top_k":
        return
    named = f"top-{usual['k']}"
    for run in found.alike("support"):
        support = settings_of(run.arm)["support"]
        same_side = support.get("of") == usual["of"]
        if support["kind"] == "top_k" and support["k"] == 1 and same_side:
            yield from _higher(
                found, f"Top-1 is worse than {named}.", RETHINKING,
                "Only top-1 is worse: 0.446 / 0.310 / 0.772, top-4 0.473 / 0.331 / 0.793 on three benchmarks.",
                reference, run,
            )  # fmt: skip
        elif support["kind"] in ("sampled", "full") or (same_side and support["k"] != usual["k"]):
            name = f"Top-{support['k']}" if support["kind"] == "top_k" else SUPPORTS[support["kind"]]
            yield from _like(
                found, f"{name} ends like {named}.", RETHINKING,
                "The sampled token, top-4, top-16 and top-64 end alike.", run, reference,
            )  # fmt: skip
        elif support["kind"] == "top_k" and support["k"] == usual["k"] and not same_side:
            yield from _like(
                found, f"{SIDES[support['of']]} ends like the {usual['of']}'s {named}.",
                RETHINKING if support["of"] == "overlap" else "thunlp/OPD, its authors' answers",
                "Training on the overlap alone is about as good as on the student's top-k, on three benchmarks."
                if support["of"] == "overlap"
                else "Student, teacher, union and overlap gave no clear difference; no number.",
                run, reference,
            )  # fmt: skip


SUPPORTS = {"sampled": "The sampled token alone", "full": "The full vocabulary"}
SIDES = {
    "student": "The student's top-k", "teacher": "The teacher's top-k", "union": "The union of both top-k",
    "overlap": "The overlap of both top-k alone",
}  # fmt: skip


def _length(found: Distillation, reference: Run) -> Iterator[dict]:
    if settings_of(reference.arm).get("horizon"):
        return
    capped = [run for run in found.alike("horizon") if "from" not in settings_of(run.arm)["horizon"]]
    if capped:
        shortest = min(capped, key=lambda run: settings_of(run.arm)["horizon"]["tokens"])
        cap = settings_of(shortest.arm)["horizon"]["tokens"]
        yield from _higher(
            found, f"Distilling the first {cap} tokens alone teaches less than all of them.", RETHINKING,
            "Of caps from 0.5K to 15K tokens, 0.5K and 1K teach too little; 3K and 7K are best.", reference, shortest,
        )  # fmt: skip


def _prompts(found: Distillation, reference: Run) -> Iterator[dict]:
    taught_on = settings_of(reference.teachers[0]).get("data")
    if reference.teachers[0].stage != "rl" or taught_on != reference.data[0]:
        return
    for run in found.alike("data"):
        if taught_on not in run.data:
            yield from _higher(
                found, "Prompts that the teacher was trained on teach more than others.", RETHINKING,
                "DAPO-17K, which the teacher had seen, against as many of DeepMath: better accuracy; no number.",
                reference, run,
            )  # fmt: skip
        elif len(run.data) > 1:
            yield from _entropy(found, reference, run)


def _entropy(found: Distillation, reference: Run, run: Run) -> Iterator[dict]:
    """Seeds are all that an entropy's interval can rest on: with one there is no claim."""
    sides = [ends(arm, "entropy")[1] for arm in matched(run.arm, reference.arm)]
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 2:
        return
    more = over_seeds([a - b for a, b in zip(*sides, strict=True)])
    here = (
        f"entropy in the last tenth of the steps: {run.name} {fmean(sides[0]):.3f}, {reference.name}"
        f" {fmean(sides[1]):.3f} nats: {cell_text('decimal', more)}."
    )
    yield _row(
        "A share of other prompts keeps the student's entropy up.", RETHINKING,
        "The student's entropy falls on the teacher's own prompts, so that others should be mixed in; no number.",
        here, verdict(more, MORE), [run.arm, reference.arm], measure=more,
    )  # fmt: skip


# --- starts --------------------------------------------------------------------------------------


def _cold_start(found: Distillation) -> Iterator[dict]:
    """From a cold start on the teacher's own responses, against the same run without it."""
    for warm in found.runs:
        cold = next((run for run in found.runs if run.arm is warm.start), None)
        if warm.stage != "opd" or cold is None or cold.stage != "distill" or cold.teachers != warm.teachers:
            continue
        for plain in found.runs:
            if plain.start is not cold.start or set(found.differs(warm, plain)) != {"from"}:
                continue
            overlaps = [initial_overlap(found, run) for run in (warm, plain)]
            if all(overlaps):
                more = apart(*overlaps)
                told = ", ".join(f"{run.name} {percent(e)}" for run, e in zip((warm, plain), overlaps, strict=True))
                yield _row(
                    "A cold start on the teacher's responses raises the initial overlap.", RETHINKING,
                    "Higher initial overlap after 200K responses of Qwen3-4B; no number.",
                    f"forecast overlap {told}: {points(more)}.", verdict(more, MORE), [warm.arm, plain.arm],
                    difference=more,
                )  # fmt: skip
            yield from _higher(
                found, "A cold start on the teacher's responses raises the final score.", RETHINKING,
                "Smoother and with a higher ceiling; no number.", warm, plain,
            )  # fmt: skip


def initial_overlap(found: Distillation, run: Run) -> Estimate | None:
    """The overlap before training, as forecast: over samples, and over the seeds of the student."""
    nodes = [m.node for m in run.arm.members]
    pairs = [(run.data[0], found.starts[node], found.teaching[node][0]) for node in nodes]
    known = {(f.data, f.student, f.teacher): f.found["overlap"] for f in found.forecasts}
    rows = [known[pair] for pair in pairs if pair in known and known[pair]["value"] is not None]
    if not rows:
        return None
    value = fmean(row["value"] for row in rows)
    within = tuple(fmean(row[end] for row in rows) for end in ("low", "high"))
    seeds = tuple(row["value"] for row in rows)
    low, high = estimators.widen(value, within, seeds)
    n = next(f.found["prompts"] for f in found.forecasts if (f.data, f.student, f.teacher) in pairs)
    return Estimate(value, low, high, (within[1] - within[0]) / (2 * estimators.Z), n, seeds)


def _reverse(found: Distillation) -> Iterator[dict]:
    """A student after RL, taught by what it was before."""
    for run in found.runs:
        teacher = run.teachers[0]
        if run.stage != "opd" or len(run.teachers) > 1 or run.start.stage != "rl":
            continue
        if found.arm_of(run.start.members[0].parents[0]) is not teacher:
            continue
        axis = found.axis_of(run)
        more, fell = found.change(run.arm, teacher, axis), found.since_start(run, axis)
        if more and fell:
            here = (
                f"{run.start.name} {percent(found.level(run.start, axis))}, {_scores(found, axis, run.arm, teacher)}:"
                f" {points(more)} against the teacher, {points(fell)} against the start."
            )
            yield _row(
                "A student after RL falls back to its own start when that teaches it.", RETHINKING,
                "JustRL-1.5B falls back to R1-Distill-1.5B, which it was made of.",
                here, ends_like(more), [run.arm, teacher], difference=more,
            )  # fmt: skip


# --- what success looks like ---------------------------------------------------------------------


def successes(found: Distillation) -> list[Run]:
    """On-policy runs of one teacher whose score rose beyond chance."""
    runs = [run for run in found.runs if run.stage == "opd" and len(run.teachers) == 1]
    return [run for run in runs if (part := found.recovery(run)).change and part.change.low > 0]


def _success(found: Distillation) -> Iterator[dict]:
    """Over runs: every seed of every arm that succeeded is one."""
    runs = successes(found)
    arms = [run.arm for run in runs]
    for column, claim, there, sign in (
        ("overlap", "In runs that succeed the overlap rises.", "72 % → above 91 %, JustRL-1.5B → R1-Distill-1.5B.", 1),
        ("entropy_gap", "In runs that succeed the entropy gap shrinks.", "It shrinks; no number.", -1),
        ("overlap_advantage", "In runs that succeed the advantage on the overlap goes to 0.", "It goes to 0.", -1),
    ):
        pairs = [pair for arm in arms for pair in zip(*ends(arm, column), strict=True)]
        if column == "overlap_advantage":
            pairs = [(abs(a), abs(b)) for a, b in pairs]
        if len(pairs) < LEAST_RUNS:
            continue
        more = over_seeds([sign * (last - first) for first, last in pairs])
        kind = "percent" if column == "overlap" else "decimal"
        first, last = (number_text(kind, fmean(side)) for side in zip(*pairs, strict=True))
        unit = " %" if column == "overlap" else " nats"
        by = points(more) if column == "overlap" else f"less by {cell_text('decimal', more)} nats"
        here = f"{first} → {last}{unit} in {len(pairs)} runs: {by}."
        key = "difference" if column == "overlap" else "measure"
        yield _row(claim, RETHINKING, there, here, verdict(more, MORE), arms, **{key: more})
    for side, column in (("student", "mass_student"), ("teacher", "mass_teacher")):
        masses = [fmean(values) for arm in arms for _, values in logged(arm, column)]
        if len(masses) >= LEAST_RUNS:
            held = over_seeds(masses)
            yield _row(
                f"In runs that succeed the overlap has at least {100 * MASS:.0f} % of the {side}'s probability.",
                RETHINKING, "97 to 99 % on both sides all through training.",
                f"{percent(held)} {interval_text('percent', held)} in {held.n} runs.", verdict(held, MASS), arms,
                share=held,
            )  # fmt: skip


# --- beside other methods ------------------------------------------------------------------------


def _price(found: Distillation) -> Iterator[dict]:
    """On-policy distillation of what RL made against that RL, from the same start."""
    if found.budget is None:
        return
    of_stage: dict[str, Series] = {series.stage: series for series in found.budget.series}
    if not {"opd", "rl"} <= of_stage.keys():
        return
    ours, theirs = of_stage["opd"], of_stage["rl"]
    for cost, claim in (
        ("generated", "On-policy distillation comes to the score of RL with fewer generated tokens than RL."),
        ("steps", "On-policy distillation comes to the score of RL in fewer steps than RL."),
    ):
        ratio = found.cheaper(ours, theirs, cost)
        if ratio is None:
            continue
        reached = [found.reaches(series, cost) for series in (ours, theirs)]
        told = [
            cost_text(series.name, part.cost, part.bound) for series, part in zip((ours, theirs), reached, strict=True)
        ]
        finite = all(0 < edge < float("inf") for edge in (ratio.value, ratio.low, ratio.high))
        here = f"{', '.join(told)} {'tokens' if cost == 'generated' else 'steps'}"
        here += (
            f": {cell_text('tenths', ratio)} times." if finite else f" ({100 * reached[0].share:.0f} % of resamples)."
        )
        decided = verdict(ratio, 1 + MORE)
        if reached[1].bound and decided == "held":
            decided = "undecided"  # RL may have been there with less than its smallest dose
        row = _row(
            claim, MACHINES, "7 to 10 times fewer steps, 50 to 100 times less compute, back from a teacher made by RL.",
            here, decided, [ours.doses[-1].arm, theirs.doses[-1].arm], ratio=ratio,
        )  # fmt: skip
        yield row if finite else row | {"ratio": None}


def cost_text(name: str, cost: Estimate | float | None, bound: bool) -> str:
    if cost is None:
        return f"{name} does not reach it"
    value = cost.value if isinstance(cost, Estimate) else cost
    return f"{name} {'at most ' if bound else ''}{value:,.0f}"


def _off_policy(found: Distillation) -> Iterator[dict]:
    """From the same start, teacher and prompts."""
    usual = [run for run in found.runs if run.stage == "opd" and found.reference and not (
        set(found.differs(run)) - {"from", "teachers", "data"})]  # fmt: skip
    for theirs in (run for run in found.runs if run.stage == "distill"):
        for ours in usual:
            same = ours.start is theirs.start and ours.teachers == theirs.teachers and ours.data == theirs.data
            if same and len(ours.data) == 1:
                objective = {"tokens": "the teacher's tokens", "forward_kl": "the teacher's stored distributions"}
                on = objective[settings_of(theirs.arm)["objective"]]
                yield from _higher(
                    found, f"On-policy distillation ends above off-policy distillation on {on}.", MOPD,
                    "Normalised mean 0.937 against 0.824 of off-policy fine-tuning, several teachers, Qwen3-30B-A3B.",
                    ours, theirs,
                )  # fmt: skip


def _original(found: Distillation) -> Iterator[dict]:
    """The model at the bottom as the only teacher of what descends from it."""
    for run in found.runs:
        if run.stage != "opd" or run.teachers != [root_of(run.start, found.every)]:
            continue
        part = found.restored(run)
        if part and part.share:
            here = (
                f"general {percent(part.teacher)} ({part.domain.teacher.name}) → {percent(part.before)}"
                f" ({run.start.name}) → {percent(part.after)} ({run.name}): restored {recovered_text(part.share)}."
            )
            yield _row(
                "The original model as the teacher brings back more than half of what was forgotten.", MACHINES,
                "IFEval 85 → 79 % by training on documents, 83 % after distillation from the original: 67 %.",
                here, verdict(part.share, HALF), [run.arm, run.start], share=part.share,
            )  # fmt: skip


def _many(found: Distillation) -> Iterator[dict]:
    for family in found.families:
        for theirs in (run for run in family.students if run.stage == "distill"):
            for ours in (run for run in family.students if run.stage == "opd" and run.data == theirs.data):
                yield from _higher(
                    found, f"The on-policy student of {manner(ours)} ends above the off-policy one, in the mean of both"
                    " axes.", MOPD, "Normalised mean 0.937, off-policy fine-tuning 0.824.", ours, theirs, "both",
                )  # fmt: skip
        best = found.best_merge(family)
        if best is None:
            continue
        for run in family.students:
            more = found.change(run.arm, best, "both") if run.stage == "opd" else None
            if more:
                yield _row(
                    f"The on-policy student of {manner(run)} beats the best merge of them, in the mean of both axes.",
                    MOPD, "Normalised mean 0.937; task arithmetic 0.857, averaging 0.328.",
                    f"{_scores(found, 'both', run.arm, best)}: {points(more)}.", verdict(more, MORE), [run.arm, best],
                    difference=more,
                )  # fmt: skip
