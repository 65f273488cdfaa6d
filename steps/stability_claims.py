"""What PEFT-Arena found, direction by direction, and whether it holds here: held, not held or undecided."""

from collections.abc import Iterator
from statistics import fmean

from steps import peft_arena
from steps.arms import Arm, difference, negated
from steps.claims import MORE, NO_LESS, origin, percent, points, verdict
from steps.score_tables import ORIGIN
from steps.stability import Arena, Pool, Stability, Trail, pools
from steps.stability_stats import correlation, path_difference, point, point_difference
from steps.tables import Column, Estimate, Table, cell_text

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
    for pool in pools(stability):
        if pool.over == "trained":
            of = f"checkpoints trained from {pool.root.name}"
            rows += [row | {"of": of} for row in _geometry_claims(stability, pool)]
    rows += [*_overshoot_claims(stability), *_cayley_claims(stability)]
    caption = (
        "Held: the whole 95 % interval says so; not held: the whole interval says otherwise; undecided: it straddles."
        " Differences are paired by item and seed, n their items; of several arms of a kind the one with most seeds"
        " stands for it, of these the best on dev. Against all others, the closest one is told, without a correction"
        " for their number. Correlations are of ranks over n checkpoints."
        f" {peft_arena.CITATION}; averages computed from its table, two models times two domains."
    )
    return Table("arena_claims", caption, columns, rows) if rows else None


def arena_text(arena: Arena) -> str:
    tokens = "" if arena.tokens is None else f", {arena.tokens:,} tokens"
    return f"arms trained from {arena.root.name}" + (f" on {arena.data}" if arena.data else "") + tokens


def _row(claim: str, published: str, here: str, found: str, arms: list[Arm], **numbers: Estimate) -> dict:
    n = next(iter(numbers.values())).n
    published = published.replace(" -", " −")
    return {"claim": claim, "published": published, "here": here, "verdict": found, "n": n, **numbers, **origin(arms)}


# --- arms against arms ---------------------------------------------------------------------------


def _arena_claims(arena: Arena) -> Iterator[dict]:
    arms = arena.of_kind
    published = {kind: peft_arena.of_kind(kind) for kind in peft_arena.REPRESENTS}
    methods = peft_arena.methods()
    rest = min(method.forgetting for method in methods.values() if method.kind not in ("vera", "ia3"))

    def forgets(*kinds: str) -> str:
        return ", ".join(f"{published[k].name} {published[k].forgetting:.1f}" for k in kinds)

    yield from _versus(
        arms, "oft", "lora", "general",
        "OFT keeps more of the general score than LoRA.",
        f"Points forgotten: OFT {peft_arena.family_forgetting('oft'):.1f} over four block sizes,"
        f" LoRA {peft_arena.family_forgetting('lora'):.1f} over four ranks.",
    )  # fmt: skip
    yield from _extreme(
        arms, "pissa", "general", -1, (),
        "PiSSA forgets most.", f"Points forgotten: {forgets('pissa', 'full', 'lora')}.",
    )  # fmt: skip
    yield from _extreme(
        arms, "full", "target", 1, (), "Full fine-tuning gains most on the target.",
        f"Points gained: Full FT {published['full'].gain:+.1f}, next OFT b128 {methods['OFT b128'].gain:+.1f}.",
    )  # fmt: skip
    yield from _versus(
        arms, "lora", "full", "general",
        "Full fine-tuning forgets more than LoRA.", f"Points forgotten: {forgets('full', 'lora')}.",
    )  # fmt: skip
    frugal = ("vera", "ia3")
    for kind in frugal:
        yield from _extreme(
            arms, kind, "general", 1, frugal, "VeRA and IA3 keep more than all others.",
            f"Points forgotten: {forgets(*frugal)}, all others at least {rest:.1f}.",
        )  # fmt: skip
    gains = ", ".join(f"{name} {methods[name].gain:+.1f}" for name in ("VeRA r256", "IA3", "KeepLoRA r8"))
    for kind in frugal:
        yield from _extreme(
            arms, kind, "target", -1, (*frugal, "pissa"), "VeRA and IA3 gain less than all others.",
            f"Points gained: {gains}; PiSSA, which fell apart there and is left out here,"
            f" {published['pissa'].gain:+.1f}.",
        )  # fmt: skip
    yield from _alike(arms, published)


def _versus(arms: dict[str, Arm], kind: str, other: str, axis: str, claim: str, published: str) -> Iterator[dict]:
    """One kind has more of an axis than another."""
    if kind not in arms or other not in arms:
        return
    ours, theirs = arms[kind], arms[other]
    found = difference(ours, theirs, axis)
    if found is None:
        return
    here = (
        f"{ours.name} has {percent(ours.axis(axis))} right on the {axis} tasks, {theirs.name}"
        f" {percent(theirs.axis(axis))}: {points(found)}."
    )
    yield _row(claim, published, here, verdict(found, MORE), [ours, theirs], difference=found)


def _extreme(
    arms: dict[str, Arm], kind: str, axis: str, sign: int, spared: tuple[str, ...], claim: str, published: str
) -> Iterator[dict]:
    """One kind has the most (sign 1) or the least (−1) of an axis among those not spared."""
    others = {k: arm for k, arm in arms.items() if k not in (kind, *spared)}
    if kind not in arms or len(others) < 2:
        return
    ours = arms[kind]
    each = [(arm, found) for arm in others.values() if (found := difference(ours, arm, axis))]
    if not each:
        return
    ahead = [(arm, found if sign > 0 else negated(found)) for arm, found in each]
    kinds = {verdict(found, MORE) for _, found in ahead}
    worst = next(v for v in ("not held", "undecided", "held") if v in kinds)
    arm, found = min(ahead, key=lambda pair: pair[1].high if worst == "not held" else pair[1].low)
    beaten = sum(verdict(found, MORE) == "held" for _, found in ahead)
    found = difference(ours, arm, axis)
    here = (
        f"{ours.name} has {percent(ours.axis(axis))} right on the {axis} tasks, {'more' if sign > 0 else 'less'} than"
        f" {beaten} of {len(ahead)} other adapters; {points(found)} against {arm.name}."
    )
    yield _row(claim, published, here, worst, [ours, arm], difference=found)


def _alike(arms: dict[str, Arm], published: dict) -> Iterator[dict]:
    if "milora" not in arms or "lora" not in arms:
        return
    ours, theirs = arms["milora"], arms["lora"]
    more = difference(theirs, ours, "general")
    if more is None:
        return
    if -ALIKE <= more.low and more.high <= ALIKE:
        found = "held"
    else:
        found = "not held" if more.low > ALIKE or more.high < -ALIKE else "undecided"
    here = (
        f"forgotten by {ours.name} less forgotten by {theirs.name}: {points(more)}; alike is within ±{100 * ALIKE:.0f}."
    )
    told = " and ".join(f"{published[k].name} {published[k].forgetting:.1f}" for k in ("milora", "lora"))
    yield _row(
        "MiLoRA forgets about as much as LoRA.", f"Points forgotten: {told}.", here, found, [ours, theirs],
        difference=more,
    )  # fmt: skip


# --- geometry ------------------------------------------------------------------------------------


def _geometry_claims(stability: Stability, pool: Pool) -> Iterator[dict]:
    published = {name: rank for name, (_, rank) in peft_arena.CORRELATIONS.items()}
    names = ("csd_un_general", "csd_rel_general")
    places, found = _correlated(stability, pool, names, pool.forgetting)
    if found:
        x, y, families = _columns(stability, pool, names, pool.forgetting)
        un, rel = (_signed(correlation(values, y, families, DECIDES).value) for values in x)
        here = f"{un} for update-normalised, {rel} for relative drift: a difference of {cell_text('decimal', found)}."
        told = " and ".join(_signed(published[name]) for name in names)
        yield _row(
            "Of general drift, the update-normalised kind goes with forgetting more than the relative one.",
            f"Rank correlations {told}.", here, verdict(found, MORE), [pool.arms[i] for i in places], correlation=found,
        )  # fmt: skip
    for name, text, sign in (
        ("procrustes_general", "The Procrustes residual goes with forgetting.", 1),
        ("gram_general", "Gram distortion goes with forgetting.", 1),
        ("cka_general", "Linear CKA falls with forgetting.", -1),
    ):
        places, found = _correlated(stability, pool, (name,), pool.forgetting)
        if found:
            here = f"{cell_text('decimal', found)} over {found.n} checkpoints."
            yield _row(
                text, f"Rank correlation {_signed(published[name])}.", here,
                verdict(found if sign > 0 else negated(found), MORE), [pool.arms[i] for i in places], correlation=found,
            )  # fmt: skip
    name = "csd_rel_target"
    places, found = _correlated(stability, pool, (name,), pool.gain)
    if found:
        none = found.low <= 0 <= found.high
        small = max(-found.low, found.high) < PREDICTS
        yield _row(
            "Drift on target prompts does not predict the target gain.",
            f"Rank correlation {_signed(published[name])}.",
            f"{cell_text('decimal', found)} over {found.n} checkpoints; held would be all within ±{PREDICTS:g}.",
            "not held" if not none else "held" if small else "undecided",
            [pool.arms[i] for i in places], correlation=found,
        )  # fmt: skip


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _correlated(
    stability: Stability, pool: Pool, names: tuple[str, ...], outcome: list[float]
) -> tuple[list[int], Estimate | None]:
    """Rank correlation of a measure with an outcome, or of the first less that of the second; with an interval."""
    places = pool.measured(stability, names)
    found = pool_correlation(stability, pool, names, outcome, DECIDES)
    return places, found if isinstance(found, Estimate) else None


def pool_correlation(
    stability: Stability, pool: Pool, names: tuple[str, ...], outcome: list[float], coefficient: str
) -> Estimate | float | None:
    """Correlation of a measure with an outcome over a pool, or of the first measure less that of the second."""
    (x, *other), y, families = _columns(stability, pool, names, outcome)
    return correlation(x, y, families, coefficient, *other)


def _columns(
    stability: Stability, pool: Pool, names: tuple[str, ...], outcome: list[float]
) -> tuple[list[list[float]], list[float], list[str]]:
    """Of the arms that have all these measures: each measure as means over seeds, the outcome, the families."""
    places = pool.measured(stability, names)
    x = [[fmean(stability.values(pool.arms[i], name)) for i in places] for name in names]
    return x, [outcome[i] for i in places], [pool.families[i] for i in places]


# --- paths ---------------------------------------------------------------------------------------


def overshoot(trail: Trail) -> tuple[str, Estimate, Estimate] | None:
    """Whether a path has a point before its end with more general and no less target score: (verdict, general and
    target of the chosen point less those of the end); None where one of the two has not been evaluated.

    The chosen point can show it; that no point does, all points between must show, on the questions of the path.
    """
    general, target = (difference(trail.arm, trail.end, axis) for axis in ("general", "target"))
    if general is None or target is None:
        return None
    between = [alpha for alpha in trail.alphas if 0 < alpha < 1]
    if any(run["chosen"] in between for run in trail.runs) and general.low >= MORE and target.low >= -NO_LESS:
        return "held", general, target
    worse = bool(between) and 1.0 in trail.alphas
    for alpha in between if worse else ():
        gaps = [point_difference(trail, alpha, 1.0, axis) for axis in ("general", "target")]
        worse = worse and (gaps[0].high < MORE or gaps[1].high < 0)
    return "not held" if worse else "undecided", general, target


def _overshoot_claims(stability: Stability) -> Iterator[dict]:
    (target, general), (end_target, end_general) = peft_arena.REWOUND, peft_arena.PATHS["end"]
    for trail in stability.trails:
        found = overshoot(trail)
        if found is None:
            continue
        told, gained, kept = found
        rest = " Every point between has less of one of them." if told == "not held" else ""
        yield _row(
            "Training overshoots: before its end, the path has more general and no less target score.",
            f"OFT b32 after math, rewound to 0.4: {target:.1f} target, {general:.1f} general; its end {end_target:.1f}"
            f" and {end_general:.1f}.",
            f"{trail.arm.name} at alpha {chosen_text(trail)} against {trail.end.name}: general {points(gained)}, target"
            f" {points(kept)}; no less is at most {100 * NO_LESS:.0f} lost.{rest}",
            told, [trail.arm, trail.end], difference=gained,
        ) | {"of": f"the path {trail.arm.name}"}  # fmt: skip


def chosen_text(trail: Trail) -> str:
    """The chosen alphas, one for each seed where they differ."""
    return ", ".join(f"{alpha:g}" for alpha in dict.fromkeys(run["chosen"] for run in trail.runs))


def _cayley_claims(stability: Stability) -> Iterator[dict]:
    dense, cayley = (peft_arena.PATHS[key] for key in ("dense", "cayley"))
    for ours in (t for t in stability.trails if t.settings["path"] == "cayley"):
        for theirs in (t for t in stability.trails if t.settings["path"] == "additive" and t.end is ours.end):
            alphas = [a for a in ours.alphas if a in theirs.alphas and 0 < a < 1]
            if not alphas or theirs.start is not ours.start or theirs.settings["rewind"] != ours.settings["rewind"]:
                continue
            found = path_difference(ours, theirs, alphas)
            near = min(alphas, key=lambda alpha: abs(alpha - 0.3))
            scores = [
                " and ".join(percent(point(trail, near, axis)) for axis in ("target", "general"))
                for trail in (ours, theirs)
            ]
            yield _row(
                "Halfway to an OFT checkpoint, the path of rotations beats the straight one at equal alpha.",
                f"At alpha 0.3 {cayley[0]:.1f} target and {cayley[1]:.1f} general, straight {dense[0]:.1f} and"
                f" {dense[1]:.1f}.",
                f"{ours.arm.name} less {theirs.arm.name}, sum of both axes, mean of {len(alphas)} points:"
                f" {points(found)}. At alpha {near:g} {scores[0]}, straight {scores[1]}.",
                verdict(found, MORE), [ours.arm, theirs.arm], difference=found,
            ) | {"of": f"the paths {ours.arm.name} and {theirs.arm.name}"}  # fmt: skip
