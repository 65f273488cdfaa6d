"""What PEFT-Arena found, direction by direction, and whether it holds here: held, not held or undecided."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from steps.report.candidates import Candidate, difference, negated
from steps.report.claims import MORE, NO_LESS, origin, verdict
from steps.report.columns import ORIGIN
from steps.report.sentences import Sentences
from steps.report.tables import Column, Estimate, Table
from steps.stability.section import published as peft_arena
from steps.stability.section.facts import Arena, CheckpointSet, Interpolation, Stability, checkpoint_sets
from steps.stability.section.statistics import correlation, path_difference, point, point_difference

say = Sentences(Path(__file__).parent)

# "About as much", in points: PEFT-Arena's four ranks of LoRA differ by 2.3 among themselves.
ALIKE = 0.03
# From this rank correlation on, target drift would say something of the target gain: a quarter of the spread of ranks.
PREDICTS = 0.5
# One coefficient decides, and it is that of ranks: drift spans orders of magnitude.
DECIDES = "spearman"


def claims_table(stability: Stability) -> Table | None:
    columns = [Column("verdict", "verdict"), Column("claim", "PEFT-Arena's finding"), Column("here", "here")]
    columns += [Column("published", "there"), Column("of", "among")]
    columns += [Column("difference", "difference, points", "points"), Column("correlation", "correlation", "decimal")]
    columns += [Column("n", "n", "integer"), *ORIGIN]
    rows = []
    for arena in stability.arenas:
        if len(arena.of_kind) > 1:
            rows += [row | {"of": arena_text(arena)} for row in _arena_claims(arena)]
    for checkpoint_set in checkpoint_sets(stability):
        if checkpoint_set.over == "trained":
            of = say("trained_from", root=checkpoint_set.root.name)
            rows += [row | {"of": of} for row in _geometry_claims(stability, checkpoint_set)]
    rows += [*_overshoot_claims(stability), *_cayley_claims(stability)]
    caption = say("claims_caption", citation=peft_arena.CITATION)
    return Table("arena_claims", caption, columns, rows) if rows else None


def arena_text(arena: Arena) -> str:
    """What the candidates of an arena have in common."""
    return say("arena", root=arena.root.name, data=arena.data, tokens=arena.tokens)


def _row(claim: str, published: str, here: str, held: str, candidates: list[Candidate], **numbers: Estimate) -> dict:
    """A line of the table; `held` is the verdict."""
    n = next(iter(numbers.values())).n
    published = published.replace(" -", " −")
    return {
        "claim": claim,
        "published": published,
        "here": here,
        "verdict": held,
        "n": n,
        **numbers,
        **origin(candidates),
    }


# --- adapters against adapters -------------------------------------------------------------------


def _arena_claims(arena: Arena) -> Iterator[dict]:
    candidates = arena.of_kind
    published = {kind: peft_arena.of_kind(kind) for kind in peft_arena.REPRESENTS}
    methods = peft_arena.methods()

    def forgotten(*kinds: str) -> list[tuple[str, float]]:
        return [(published[kind].name, published[kind].forgetting) for kind in kinds]

    yield from _versus(
        candidates, "oft", "lora", "general", "OFT keeps more of the general score than LoRA.",
        say("published_families", **{kind: peft_arena.family_forgetting(kind) for kind in ("oft", "lora")}),
    )  # fmt: skip
    yield from _extreme(
        candidates, "pissa", "general", -1, (), "PiSSA forgets most.",
        say("published_forgetting", methods=forgotten("pissa", "full", "lora")),
    )  # fmt: skip
    yield from _extreme(
        candidates, "full", "target", 1, (), "Full fine-tuning gains most on the target.",
        say("published_gains", full=published["full"].gain, next=methods["OFT b128"].gain),
    )  # fmt: skip
    yield from _versus(
        candidates, "lora", "full", "general", "Full fine-tuning forgets more than LoRA.",
        say("published_forgetting", methods=forgotten("full", "lora")),
    )  # fmt: skip
    frugal = ("vera", "ia3")
    rest = min(method.forgetting for method in methods.values() if method.kind not in frugal)
    for kind in frugal:
        yield from _extreme(
            candidates, kind, "general", 1, frugal, "VeRA and IA3 keep more than all others.",
            say("published_frugal", methods=forgotten(*frugal), rest=rest),
        )  # fmt: skip
    gains = [(name, methods[name].gain) for name in ("VeRA r256", "IA3", "KeepLoRA r8")]
    for kind in frugal:
        yield from _extreme(
            candidates, kind, "target", -1, (*frugal, "pissa"), "VeRA and IA3 gain less than all others.",
            say("published_frugal_gains", methods=gains, pissa=published["pissa"].gain),
        )  # fmt: skip
    yield from _alike(candidates, *forgotten("milora", "lora"))


def _versus(
    candidates: dict[str, Candidate], kind: str, other: str, axis: str, claim: str, published: str
) -> Iterator[dict]:
    """One kind has more of an axis than another."""
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
    yield _row(claim, published, here, verdict(ahead, MORE), [ours, theirs], difference=ahead)


def _extreme(
    candidates: dict[str, Candidate],
    kind: str,
    axis: str,
    sign: int,
    spared: tuple[str, ...],
    claim: str,
    published: str,
) -> Iterator[dict]:
    """One kind has the most (sign 1) or the least (−1) of an axis among those not spared."""
    others = {k: candidate for k, candidate in candidates.items() if k not in (kind, *spared)}
    if kind not in candidates or len(others) < 2:
        return
    ours = candidates[kind]
    each = [(other, gap) for other in others.values() if (gap := difference(ours, other, axis))]
    if not each:
        return
    ahead = [(other, gap if sign > 0 else negated(gap)) for other, gap in each]
    verdicts = [verdict(gap, MORE) for _, gap in ahead]
    worst = next(v for v in ("not held", "undecided", "held") if v in verdicts)
    closest, _ = min(ahead, key=lambda pair: pair[1].high if worst == "not held" else pair[1].low)
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
    yield _row(claim, published, here, worst, [ours, closest], difference=gap)


def _alike(
    candidates: dict[str, Candidate], there: tuple[str, float], other_there: tuple[str, float]
) -> Iterator[dict]:
    if "milora" not in candidates or "lora" not in candidates:
        return
    ours, theirs = candidates["milora"], candidates["lora"]
    more = difference(theirs, ours, "general")
    if more is None:
        return
    if more.low >= -ALIKE and more.high <= ALIKE:
        held = "held"
    else:
        held = "not held" if more.low > ALIKE or more.high < -ALIKE else "undecided"
    yield _row(
        "MiLoRA forgets about as much as LoRA.",
        say("published_pair", first=there, second=other_there),
        say("alike", ours=ours.name, theirs=theirs.name, difference=more, bar=ALIKE),
        held,
        [ours, theirs],
        difference=more,
    )


# --- geometry ------------------------------------------------------------------------------------


def _geometry_claims(stability: Stability, checkpoint_set: CheckpointSet) -> Iterator[dict]:
    published = {name: rank for name, (_, rank) in peft_arena.CORRELATIONS.items()}

    def claim(text: str, names: tuple[str, ...], here: str, held: str, rank: Estimate) -> dict:
        candidates = [checkpoint_set.candidates[i] for i in checkpoint_set.measured(stability, names)]
        there = say("published_ranks", ranks=[published[name] for name in names])
        return _row(text, there, here, held, candidates, correlation=rank)

    names = ("csd_un_general", "csd_rel_general")
    if more := _ranked(stability, checkpoint_set, names, checkpoint_set.forgetting):
        x, y, families = _columns(stability, checkpoint_set, names, checkpoint_set.forgetting)
        normalised, relative = (correlation(values, y, families, DECIDES).value for values in x)
        yield claim(
            "Of general drift, the update-normalised kind goes with forgetting more than the relative one.",
            names,
            say("two_drifts", normalised=normalised, relative=relative, difference=more),
            verdict(more, MORE),
            more,
        )
    for name, text, sign in (
        ("procrustes_general", "The Procrustes residual goes with forgetting.", 1),
        ("gram_general", "Gram distortion goes with forgetting.", 1),
        ("cka_general", "Linear CKA falls with forgetting.", -1),
    ):
        if rank := _ranked(stability, checkpoint_set, (name,), checkpoint_set.forgetting):
            held = verdict(rank if sign > 0 else negated(rank), MORE)
            yield claim(text, (name,), say("measure_correlates", rank=rank), held, rank)
    name = "csd_rel_target"
    if rank := _ranked(stability, checkpoint_set, (name,), checkpoint_set.gain):
        none = rank.low <= 0 <= rank.high
        small = max(-rank.low, rank.high) < PREDICTS
        yield claim(
            "Drift on target prompts does not predict the target gain.",
            (name,),
            say("drift_predicts", rank=rank, bar=PREDICTS),
            "not held" if not none else "held" if small else "undecided",
            rank,
        )


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


def overshoot(interpolation: Interpolation) -> tuple[str, Estimate, Estimate] | None:
    """Whether a path has a point before its end with more general and no less target score: (verdict, general and
    target of the chosen point less those of the end); None where one of the two has not been evaluated.

    The chosen point can show it; that no point does, all points between must show, on the questions of the path.
    """
    general, target = (difference(interpolation.candidate, interpolation.end, axis) for axis in ("general", "target"))
    if general is None or target is None:
        return None
    between = [alpha for alpha in interpolation.alphas if 0 < alpha < 1]
    if any(run["chosen"] in between for run in interpolation.runs) and general.low > MORE and target.low >= -NO_LESS:
        return "held", general, target
    worse = bool(between) and 1.0 in interpolation.alphas
    for alpha in between if worse else ():
        gaps = [point_difference(interpolation, alpha, 1.0, axis) for axis in ("general", "target")]
        worse = worse and (gaps[0].high < MORE or gaps[1].high < 0)
    return "not held" if worse else "undecided", general, target


def _overshoot_claims(stability: Stability) -> Iterator[dict]:
    (target, general), (end_target, end_general) = peft_arena.REWOUND, peft_arena.PATHS["end"]
    there = say("published_rewound", target=target, general=general, end_target=end_target, end_general=end_general)
    for interpolation in stability.interpolations:
        beyond = overshoot(interpolation)
        if beyond is None:
            continue
        held, more_general, more_target = beyond
        name = interpolation.candidate.name
        here = say(
            "overshoots",
            name=name,
            alpha=chosen_text(interpolation),
            end=interpolation.end.name,
            general=more_general,
            target=more_target,
            no_less=NO_LESS,
            everywhere=held == "not held",
        )
        text = "Training overshoots: before its end, the path has more general and no less target score."
        candidates = [interpolation.candidate, interpolation.end]
        yield _row(text, there, here, held, candidates, difference=more_general) | {"of": say("the_path", name=name)}


def chosen_text(interpolation: Interpolation) -> str:
    """The chosen alphas, one for each seed where they differ."""
    return ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(run["chosen"] for run in interpolation.runs))


def _cayley_claims(stability: Stability) -> Iterator[dict]:
    there = dict(zip(("target", "general"), peft_arena.PATHS["cayley"], strict=True))
    there |= dict(zip(("straight_target", "straight_general"), peft_arena.PATHS["dense"], strict=True))
    for ours in (t for t in stability.interpolations if t.settings["path"] == "cayley"):
        for theirs in (t for t in stability.interpolations if t.settings["path"] == "additive" and t.end is ours.end):
            alphas = [a for a in ours.alphas if a in theirs.alphas and 0 < a < 1]
            if not alphas or theirs.start is not ours.start or theirs.settings["rewind"] != ours.settings["rewind"]:
                continue
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
            yield _row(
                "Halfway to an OFT checkpoint, the path of rotations beats the straight one at equal alpha.",
                say("published_rotations", **there),
                here,
                verdict(more, MORE),
                [ours.candidate, theirs.candidate],
                difference=more,
            ) | {"of": say("the_paths", name=ours.candidate.name, other=theirs.candidate.name)}
