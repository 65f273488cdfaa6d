"""The figures of stability and plasticity: the arena with its paths, drift against forgetting, layers, paths."""

from statistics import fmean

from steps.report.candidates import Candidate, forgetting
from steps.report.estimates import over_seeds
from steps.report.figures import LIGHT, new_axes, to_svg
from steps.report.maps import share_map
from steps.report.scatter import Line, place_labels, scatter
from steps.report.tables import Estimate
from steps.settings import adapters
from steps.stability.section.claims import set_correlation
from steps.stability.section.facts import (
    Arena,
    CheckpointSet,
    Interpolation,
    Stability,
    adapter_kind,
    checkpoint_sets,
    measure_label,
    ranked,
    short_name,
)
from steps.stability.section.statistics import point

ARENA_SIZE = 440, 440
# The measures drawn against forgetting: those that go with it most.
DRAWN_MEASURES = 3
LAYER_MEASURE = "csd_rel_general"
# From so many layers on, the numbers of a profile have no room.
MANY_LAYERS = 16
# Least distance of two labels at the end of a path, as a share of the height.
LABEL_GAP = 0.09


def look(candidate: Candidate) -> tuple[str, str]:
    return adapters.look(adapter_kind(candidate))


def families_shown(arena: Arena, paths: bool) -> list[tuple[str, str]]:
    """(family, color token) of what an arena shows, for the legend."""
    used = {look(candidate)[0] for candidate in arena.candidates} | ({"orange"} if paths else set())
    return [(family, token) for token, family in adapters.FAMILIES.items() if token in used]


def arena_name(index: int) -> str:
    return "arena" if index == 0 else f"arena_{index + 1}"


def arena_figure(stability: Stability, index: int) -> str:
    """The candidates of an arena, and the paths that lead to one of them."""
    arena = stability.arenas[index]
    interpolations = [
        t for t in stability.interpolations if t.end in arena.candidates and stability.chosen(t.candidate) is not False
    ]
    chosen = [t.candidate for t in interpolations if t.candidate.axis("target") and t.candidate.axis("general")]
    shown = [arena.root, *arena.candidates, *chosen]
    lines = [
        Line([tuple(100 * point(t, a, axis).value for axis in ("target", "general")) for a in t.alphas], "orange")
        for t in interpolations
    ]
    looks = {candidate.name: look(candidate) for candidate in arena.candidates}
    title = f"Target against general capability of what was trained from {arena.root.name}"
    legend = [(family, (token, "s")) for family, token in families_shown(arena, bool(interpolations))]
    return scatter(shown, {arena.root.name}, arena_name(index), title, looks, lines, ARENA_SIZE, legend=legend)


def best_measures(stability: Stability, checkpoint_set: CheckpointSet) -> list[str]:
    """The measures that rank checkpoints most as forgetting does; those of target prompts have no part in it."""
    strength = {}
    for name in stability.measures:
        rank = set_correlation(stability, checkpoint_set, (name,), checkpoint_set.forgetting, "spearman")
        if rank is not None and not name.endswith("_target"):
            strength[name] = abs(rank.value if isinstance(rank, Estimate) else rank)
    return sorted(strength, key=lambda name: -strength[name])[:DRAWN_MEASURES]


def drift_figure(stability: Stability, checkpoint_set: CheckpointSet, measure: str) -> str:
    """A measure against forgetting, one point per trained checkpoint."""
    figure, axes = new_axes(330, 270)
    seen, bars = [], []
    for i in checkpoint_set.measured(stability, (measure,)):
        candidate = checkpoint_set.candidates[i]
        x, y = over_seeds(stability.values(candidate, measure)), forgetting(candidate, checkpoint_set.root)
        x_value, x_low, x_high = (x.value, x.low, x.high) if isinstance(x, Estimate) else (x, x, x)
        y_value = checkpoint_set.forgetting[i]
        y_low, y_high = (y.low, y.high) if y else (y_value, y_value)
        color, marker = look(candidate)
        style = {"color": LIGHT[color], "zorder": 3}
        axes.plot([x_low, x_high], [100 * y_value] * 2, lw=0.9, **style)
        axes.plot([x_value] * 2, [100 * y_low, 100 * y_high], lw=0.9, **style)
        axes.plot(x_value, 100 * y_value, marker, ms=6, **style)
        seen.append((adapter_kind(candidate), x_value, 100 * y_value))
        bars.append((x_low, x_high, 100 * y_low, 100 * y_high))
    xs = [x for _, x, _ in seen]
    if min(xs) > 0 and max(xs) > 10 * min(xs):
        _log_axis(axes, few=max(xs) > 100 * min(xs))
    axes.margins(0.12)
    axes.set(xlabel=measure_label(measure), ylabel="forgetting, points")
    figure.draw_without_rendering()  # lays the axes out, which places the labels
    taken = []
    for (_, x, y), (x0, x1, y0, y1) in zip(seen, bars, strict=True):
        (left, bottom), (right, top) = axes.transData.transform([(x0, y0), (x1, y1)])
        middle_x, middle_y = axes.transData.transform((x, y))
        taken += [(left, middle_y - 1, right, middle_y + 1), (middle_x - 1, bottom, middle_x + 1, top)]
    # One name per kind, at its point that lies farthest out.
    center = fmean(y for *_, y in seen)
    labels = [
        max((spot for spot in seen if spot[0] == kind), key=lambda spot: abs(spot[2] - center))
        for kind in dict.fromkeys(kind for kind, *_ in seen)
    ]
    place_labels(axes, labels, taken)
    return to_svg(figure, f"drift_{measure}", f"{measure_label(measure)} against forgetting")


def _log_axis(axes, few: bool) -> None:
    """Plain numbers at powers of ten or, over less than two of them, at 1, 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def layers_figure(stability: Stability, arena: Arena) -> str | None:
    """For each candidate the share of its drift that lies in each layer."""
    profiles = {
        short_name(candidate, arena): profile
        for candidate in ranked(arena)
        if (profile := layer_profile(stability, candidate))
    }
    if not profiles:
        return None
    layers = sorted({layer for profile in profiles.values() for layer in profile})
    cells = {
        (i, j): (profile.get(layer, 0.0), f"{100 * profile.get(layer, 0.0):.0f}" if len(layers) < MANY_LAYERS else "")
        for i, profile in enumerate(profiles.values())
        for j, layer in enumerate(layers)
    }
    title = "Percent of the relative drift on general prompts, by adapter and layer"
    width = 52 if len(layers) < MANY_LAYERS else 22
    return share_map("layers", title, list(profiles), [str(layer) for layer in layers], cells, set(), width)


def layer_profile(stability: Stability, candidate: Candidate) -> dict[int, float]:
    """Layer → its share of the drift, which sums to 1; a mean over modules and seeds. Empty where nothing drifted."""
    drift: dict[int, list[float]] = {}
    for member in candidate.members:
        for row in stability.moved[member.node].modules if member.node in stability.moved else ():
            if row.get(LAYER_MEASURE):
                drift.setdefault(int(row["layer"]), []).append(float(row[LAYER_MEASURE]))
    means = {layer: fmean(values) for layer, values in drift.items()}
    total = sum(means.values())
    return {layer: mean / total for layer, mean in means.items()} if total > 0 else {}


def points_name(interpolation: Interpolation) -> str:
    return f"points_{interpolation.candidate.name}"


def path_figure(interpolation: Interpolation) -> str:
    """Both axes along a path, as means over seeds with their intervals; the chosen points ringed."""
    figure, axes = new_axes(330, 240)
    ends = {}
    for axis, color, marker in (("target", "blue", "o"), ("general", "teal", "s")):
        levels = [point(interpolation, alpha, axis) for alpha in interpolation.alphas]
        values = [100 * e.value for e in levels]
        low, high = ([100 * edge for edge in edges] for edges in zip(*((e.low, e.high) for e in levels), strict=True))
        axes.fill_between(interpolation.alphas, low, high, color=LIGHT[color], alpha=0.15, lw=0)
        axes.plot(interpolation.alphas, values, color=LIGHT[color], lw=1.5, marker=marker, ms=4)
        for alpha in {run["chosen"] for run in interpolation.runs}:
            y = values[interpolation.alphas.index(alpha)]
            axes.plot(alpha, y, marker="o", ms=11, mfc="none", mec=LIGHT["ink"], mew=1.4)
        ends[axis] = values[-1], LIGHT[color]
    spread = axes.get_ylim()[1] - axes.get_ylim()[0]
    middle, apart = fmean(y for y, _ in ends.values()), abs(ends["target"][0] - ends["general"][0])
    for axis, (y, color) in ends.items():
        if apart < LABEL_GAP * spread:
            above = y > middle or (apart == 0 and axis == "general")
            y = middle + (1 if above else -1) * LABEL_GAP * spread / 2
        axes.annotate(
            axis, (interpolation.alphas[-1], y), (8, 0), textcoords="offset points", va="center", fontsize=11,
            color=color, annotation_clip=False,
        )  # fmt: skip
    axes.set(
        xlabel="alpha", ylabel="% right", xlim=(min(interpolation.alphas) - 0.03, max(interpolation.alphas) + 0.03)
    )
    axes.set_title(interpolation.candidate.name, loc="left", fontsize=11.5, fontweight="bold")
    return to_svg(
        figure, points_name(interpolation), f"Target and general along the path {interpolation.candidate.name}"
    )


def stability_figures(stability: Stability) -> dict[str, str]:
    compared = [i for i, arena in enumerate(stability.arenas) if len(arena.candidates) > 1]
    drawn = {arena_name(i): arena_figure(stability, i) for i in compared}
    for checkpoint_set in [
        checkpoint_set for checkpoint_set in checkpoint_sets(stability) if checkpoint_set.over == "trained"
    ][:1]:
        drawn |= {
            f"drift_{name}": drift_figure(stability, checkpoint_set, name)
            for name in best_measures(stability, checkpoint_set)
        }
    if layers := layers_figure(stability, stability.arenas[0]):
        drawn["layers"] = layers
    return drawn | {
        points_name(interpolation): path_figure(interpolation) for interpolation in stability.interpolations
    }
