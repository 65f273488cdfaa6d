"""Whether what PEFT-Arena found holds here."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import fmean

from steps.report.candidates import difference, negated, paired_axes
from steps.report.claims import MORE, NO_LESS, Evidence, table_of, verdict, worst
from steps.report.tables import Column, Estimate, Table
from steps.settings.axes import CAPABILITIES
from steps.stability.section import published as peft_arena
from steps.stability.section.catalogue import FRUGAL, catalogue, say
from steps.stability.section.facts import Arena, CheckpointSet, Interpolation, Stability, checkpoint_sets
from steps.stability.section.statistics import correlation, path_difference, point, point_difference

# "About as much", in points: PEFT-Arena's four ranks of LoRA differ by 2.3 among themselves.
ALIKE = 0.03
# From this rank correlation on, target drift would say something of the target gain: a quarter of the spread of ranks.
PREDICTS = 0.5
# One coefficient decides, and it is that of ranks: drift spans orders of magnitude.
DECIDES = "spearman"


def claims_table(stability: Stability) -> Table | None:
    columns = [Column("difference", "difference, points", "points"), Column("correlation", "correlation", "decimal")]
    evidence: list[Evidence] = []
    for arena in stability.arenas:
        if len(arena.of_kind) > 1:
            evidence += arena_evidence(arena)
    for checkpoint_set in checkpoint_sets(stability):
        if checkpoint_set.over == "trained":
            evidence += _geometry(stability, checkpoint_set)
    for found in (_overshoots, _rotations, _rewinds):
        evidence += found(stability)
    caption = say("claims_caption", citation=peft_arena.CITATION)
    return table_of("arena_claims", caption, columns, catalogue(), evidence)


def arena_text(arena: Arena) -> str:
    """What the candidates of an arena have in common."""
    return say("arena", root=arena.root.name, data=arena.data, tokens=arena.tokens)


# --- adapters against adapters -------------------------------------------------------------------


def arena_evidence(arena: Arena) -> Iterator[Evidence]:
    yield from _versus(arena, "oft_keeps", "oft", "lora", "general")
    yield from _trade(arena)
    yield from _extreme(arena, "pissa_forgets", "pissa", "general", -1)
    yield from _extreme(arena, "full_gains", "full", "target", 1)
    yield from _versus(arena, "full_forgets", "lora", "full", "general")
    for kind in FRUGAL:
        yield from _extreme(arena, "frugal_keep", kind, "general", 1, FRUGAL)
    for kind in FRUGAL:
        yield from _extreme(arena, "frugal_gain", kind, "target", -1, (*FRUGAL, "pissa"))
    yield from _alike(arena)


def _versus(arena: Arena, claim: str, kind: str, other: str, axis: str) -> Iterator[Evidence]:
    """One kind has more of an axis than another."""
    candidates = arena.of_kind
    if kind not in candidates or other not in candidates:
        return
    ours, theirs = candidates[kind], candidates[other]
    ahead = difference(ours, theirs, axis)
    if ahead is None:
        return
    here = say(
        "versus",
        ours=ours.name,
        theirs=theirs.name,
        axis=axis,
        level=ours.axis(axis),
        other=theirs.axis(axis),
        difference=ahead,
    )
    numbers = {"difference": ahead}
    yield Evidence(claim, here, verdict(ahead, MORE), [ours, theirs], numbers, among=arena_text(arena))


def _trade(arena: Arena) -> Iterator[Evidence]:
    candidates = arena.of_kind
    if "oft" not in candidates or "lora" not in candidates:
        return
    ours, theirs = candidates["oft"], candidates["lora"]
    ahead = paired_axes(*([side.on(axis) for axis in CAPABILITIES] for side in (ours, theirs)))
    if ahead is None:
        return
    here = say("traded", ours=ours.name, theirs=theirs.name, difference=ahead)
    numbers = {"difference": ahead}
    yield Evidence("oft_trade", here, verdict(ahead, MORE), [ours, theirs], numbers, among=arena_text(arena))


def _extreme(
    arena: Arena, claim: str, kind: str, axis: str, sign: int, spared: tuple[str, ...] = ()
) -> Iterator[Evidence]:
    """One kind has the most (sign 1) or the least (−1) of an axis among those not spared."""
    candidates = arena.of_kind
    others = {k: candidate for k, candidate in candidates.items() if k not in (kind, *spared)}
    if kind not in candidates or len(others) < 2:
        return
    ours = candidates[kind]
    each = [(other, gap) for other in others.values() if (gap := difference(ours, other, axis))]
    if not each:
        return
    ahead = [(other, gap if sign > 0 else negated(gap)) for other, gap in each]
    verdicts = [verdict(gap, MORE) for _, gap in ahead]
    reading = worst(verdicts)
    closest, _ = min(ahead, key=lambda pair: pair[1].high if reading == "not held" else pair[1].low)
    gap = difference(ours, closest, axis)
    here = say(
        "extreme",
        ours=ours.name,
        axis=axis,
        level=ours.axis(axis),
        most=sign > 0,
        beaten=verdicts.count("held"),
        others=len(ahead),
        difference=gap,
        closest=closest.name,
    )
    arms = [ours, *(other for other, _ in ahead)]
    yield Evidence(claim, here, reading, arms, {"difference": gap}, among=arena_text(arena))


def _alike(arena: Arena) -> Iterator[Evidence]:
    candidates = arena.of_kind
    if "milora" not in candidates or "lora" not in candidates:
        return
    ours, theirs = candidates["milora"], candidates["lora"]
    more = difference(theirs, ours, "general")
    if more is None:
        return
    here = say("alike", ours=ours.name, theirs=theirs.name, difference=more, bar=ALIKE)
    numbers = {"difference": more}
    yield Evidence("milora_alike", here, alike(more), [ours, theirs], numbers, among=arena_text(arena))


def alike(more: Estimate) -> str:
    """Held when the whole interval is within `ALIKE` of 0, not held when all of it is outside."""
    if more.low >= -ALIKE and more.high <= ALIKE:
        return "held"
    return "not held" if more.low > ALIKE or more.high < -ALIKE else "undecided"


# --- geometry ------------------------------------------------------------------------------------


def _geometry(stability: Stability, checkpoint_set: CheckpointSet) -> Iterator[Evidence]:
    def evidence(claim: str, names: tuple[str, ...], here: str, reading: str, rank: Estimate) -> Evidence:
        places = checkpoint_set.measured(stability, names)
        candidates = [checkpoint_set.candidates[i] for i in places]
        recipes = len({checkpoint_set.families[i] for i in places})
        of = say("trained_from", root=checkpoint_set.root.name)
        return Evidence(claim, here, reading, candidates, {"correlation": rank}, units=recipes, among=of)

    names = ("csd_un_general", "csd_rel_general")
    if more := _ranked(stability, checkpoint_set, names, checkpoint_set.forgetting):
        x, y, families = _columns(stability, checkpoint_set, names, checkpoint_set.forgetting)
        normalised, relative = (correlation(values, y, families, DECIDES).value for values in x)
        here = say("two_drifts", normalised=normalised, relative=relative, difference=more)
        yield evidence("two_drifts", names, here, verdict(more, MORE), more)
    for name, sign in (("csd_rel_general", 1), ("procrustes_general", 1), ("gram_general", 1), ("cka_general", -1)):
        if rank := _ranked(stability, checkpoint_set, (name,), checkpoint_set.forgetting):
            reading = verdict(rank if sign > 0 else negated(rank), MORE)
            yield evidence(name, (name,), say("measure_correlates", rank=rank), reading, rank)
    name = "csd_rel_target"
    if rank := _ranked(stability, checkpoint_set, (name,), checkpoint_set.gain):
        none = rank.low <= 0 <= rank.high
        small = max(-rank.low, rank.high) < PREDICTS
        here = say("drift_predicts", rank=rank, bar=PREDICTS)
        yield evidence(name, (name,), here, "not held" if not none else "held" if small else "undecided", rank)


def _ranked(
    stability: Stability, checkpoint_set: CheckpointSet, names: tuple[str, ...], outcome: list[float]
) -> Estimate | None:
    """Rank correlation of a measure with an outcome, or of the first less that of the second; with an interval."""
    rank = set_correlation(stability, checkpoint_set, names, outcome, DECIDES)
    return rank if isinstance(rank, Estimate) else None


def set_correlation(
    stability: Stability, checkpoint_set: CheckpointSet, names: tuple[str, ...], outcome: list[float], coefficient: str
) -> Estimate | float | None:
    """Correlation of a measure with an outcome over checkpoints, or of the first measure less that of the second."""
    (x, *other), y, families = _columns(stability, checkpoint_set, names, outcome)
    return correlation(x, y, families, coefficient, *other)


def _columns(
    stability: Stability, checkpoint_set: CheckpointSet, names: tuple[str, ...], outcome: list[float]
) -> tuple[list[list[float]], list[float], list[str]]:
    """Of the candidates that have all these measures: each measure as means over seeds, the outcome, the families."""
    places = checkpoint_set.measured(stability, names)
    x = [[fmean(stability.values(checkpoint_set.candidates[i], name)) for i in places] for name in names]
    return x, [outcome[i] for i in places], [checkpoint_set.families[i] for i in places]


# --- paths ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overshoot:
    """The point of a path that beats its end most clearly: how much more it has of both axes, on the path's questions.

    The intervals are of as many points as there are between (Bonferroni), as the clearest of them is shown.
    """

    reading: str
    alpha: float
    general: Estimate
    target: Estimate


def overshoot(interpolation: Interpolation) -> Overshoot | None:
    """Whether a path has a point before its end with more general and no less target score.

    One point shows it, which may be any: their intervals are as wide as that takes. That no point does, all must show.
    None where the end or all points between were not measured.
    """
    between = [alpha for alpha in interpolation.alphas if 0 < alpha < 1]
    if not between or 1.0 not in interpolation.alphas:
        return None

    def ahead(alpha: float, points: int) -> tuple[Estimate, Estimate]:
        general, target = (point_difference(interpolation, alpha, 1.0, axis, points) for axis in ("general", "target"))
        return general, target

    def surely(alpha: float) -> float:
        general, target = ahead(alpha, len(between))
        return min(general.low - MORE, target.low + NO_LESS)

    best = max(between, key=surely)
    general, target = ahead(best, len(between))
    if surely(best) > 0:
        reading = "held"
    else:
        each = [ahead(alpha, 1) for alpha in between]
        none = all(general.high < MORE or target.high < -NO_LESS for general, target in each)
        reading = "not held" if none else "undecided"
    return Overshoot(reading, best, general, target)


def _overshoots(stability: Stability) -> Iterator[Evidence]:
    for interpolation in stability.interpolations:
        beyond = overshoot(interpolation)
        if beyond is None:
            continue
        name = interpolation.candidate.name
        here = say(
            "overshoots",
            name=name,
            alpha=f"{beyond.alpha:g}",
            end=interpolation.end.name,
            general=beyond.general,
            target=beyond.target,
            no_less=NO_LESS,
            nowhere=beyond.reading == "not held",
        )
        arms, numbers = [interpolation.candidate, interpolation.end], {"difference": beyond.general}
        yield Evidence("overshoot", here, beyond.reading, arms, numbers, among=say("the_path", name=name))


def chosen_text(interpolation: Interpolation) -> str:
    """The chosen alphas, one for each seed where they differ."""
    return ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(run["chosen"] for run in interpolation.runs))


def _beside(stability: Stability, key: str, ours: str, theirs: str, same: str) -> Iterator[tuple]:
    """Paths to one end that differ in a setting and are the same in another: (one, other, points between of both)."""
    for one in (t for t in stability.interpolations if t.settings[key] == ours):
        for other in (t for t in stability.interpolations if t.settings[key] == theirs):
            alphas = [a for a in one.alphas if a in other.alphas and 0 < a < 1]
            ends = other.end is one.end and other.start is one.start
            if alphas and ends and other.settings[same] == one.settings[same]:
                yield one, other, alphas


def _rotations(stability: Stability) -> Iterator[Evidence]:
    for ours, theirs, alphas in _beside(stability, "path", "cayley", "additive", same="rewind"):
        more = path_difference(ours, theirs, alphas)
        near = min(alphas, key=lambda alpha: abs(alpha - 0.3))
        here = say(
            "rotations",
            name=ours.candidate.name,
            other=theirs.candidate.name,
            points=len(alphas),
            difference=more,
            alpha=near,
            ours=[point(ours, near, axis) for axis in ("target", "general")],
            theirs=[point(theirs, near, axis) for axis in ("target", "general")],
        )
        of = say("the_paths", name=ours.candidate.name, other=theirs.candidate.name)
        arms, numbers = [ours.candidate, theirs.candidate], {"difference": more}
        yield Evidence("rotations", here, verdict(more, MORE), arms, numbers, among=of)


def _rewinds(stability: Stability) -> Iterator[Evidence]:
    for ours, theirs, alphas in _beside(stability, "rewind", "min", "uniform", same="path"):
        more = path_difference(ours, theirs, alphas)
        of = say("the_paths", name=ours.candidate.name, other=theirs.candidate.name)
        here = say(
            "rewound", name=ours.candidate.name, other=theirs.candidate.name, points=len(alphas), difference=more,
            bar=ALIKE,
        )  # fmt: skip
        arms, numbers = [ours.candidate, theirs.candidate], {"difference": more}
        yield Evidence("rewinds", here, alike(more), arms, numbers, among=of)
