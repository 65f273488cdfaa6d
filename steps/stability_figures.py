"""The figures of stability and plasticity: the arena with its paths, drift against forgetting, layers, paths."""

from statistics import fmean

from steps.arms import Arm, forgetting
from steps.figures import LIGHT, Line, new_axes, place_labels, scatter, to_svg
from steps.learning_figures import share_map
from steps.stability import Arena, Pool, Stability, Trail, adapter_kind, measure_label, pools, ranked, short_name
from steps.stability_claims import pool_correlation
from steps.stability_stats import over_seeds, point
from steps.tables import Estimate

# Color says what an adapter does to the weights, the marker which one it is.
LOOKS = {
    "full": ("neutral", "o"),
    "lora": ("blue", "o"),
    "rslora": ("blue", "v"),
    "dora": ("blue", "^"),
    "qlora": ("blue", "<"),
    "adalora": ("blue", ">"),
    "pissa": ("blue", "X"),
    "milora": ("blue", "P"),
    "oft": ("teal", "o"),
    "boft": ("teal", "^"),
    "vera": ("magenta", "o"),
    "ia3": ("magenta", "^"),
}
FAMILIES = {"neutral": "all weights", "blue": "low rank", "teal": "rotation", "magenta": "scaling", "orange": "path"}
ARENA_SIZE = 440, 440
# The measures drawn against forgetting: those that go with it most.
DRAWN_MEASURES = 3
LAYER_MEASURE = "csd_rel_general"
# From so many layers on, the numbers of a profile have no room.
MANY_LAYERS = 16
# Least distance of two labels at the end of a path, as a share of the height.
LABEL_GAP = 0.09


def look(arm: Arm) -> tuple[str, str]:
    return LOOKS[adapter_kind(arm)]


def families_shown(stability: Stability) -> list[tuple[str, str]]:
    """(family, color token) of what the arenas show, for the legend."""
    used = {look(arm)[0] for arena in stability.arenas for arm in arena.arms}
    if stability.trails:
        used.add("orange")
    return [(family, token) for token, family in FAMILIES.items() if token in used]


def arena_name(index: int) -> str:
    return "arena" if index == 0 else f"arena_{index + 1}"


def arena_figure(stability: Stability, index: int) -> str:
    """The arms of an arena, and the paths that lead to one of them."""
    arena = stability.arenas[index]
    trails = [t for t in stability.trails if t.end in arena.arms and stability.chosen(t.arm) is not False]
    chosen = [t.arm for t in trails if t.arm.axis("target") and t.arm.axis("general")]
    shown = [arena.root, *arena.arms, *chosen]
    lines = [
        Line([tuple(100 * point(t, a, axis).value for axis in ("target", "general")) for a in t.alphas], "orange")
        for t in trails
    ]
    looks = {arm.name: look(arm) for arm in arena.arms}
    title = f"Target against general capability of what was trained from {arena.root.name}"
    return scatter(shown, {arena.root.name}, arena_name(index), title, looks, lines, ARENA_SIZE)


def best_measures(stability: Stability, pool: Pool) -> list[str]:
    """The measures that rank checkpoints most as forgetting does; those of target prompts have no part in it."""
    strength = {}
    for name in stability.measures:
        found = pool_correlation(stability, pool, (name,), pool.forgetting, "spearman")
        if found is not None and not name.endswith("_target"):
            strength[name] = abs(found.value if isinstance(found, Estimate) else found)
    return sorted(strength, key=lambda name: -strength[name])[:DRAWN_MEASURES]


def drift_figure(stability: Stability, pool: Pool, measure: str) -> str:
    """A measure against forgetting, one point per trained checkpoint."""
    figure, axes = new_axes(330, 270)
    seen, bars = [], []
    for i in pool.measured(stability, (measure,)):
        arm = pool.arms[i]
        x, y = over_seeds(stability.values(arm, measure)), forgetting(arm, pool.root)
        x_value, x_low, x_high = (x.value, x.low, x.high) if isinstance(x, Estimate) else (x, x, x)
        y_value = pool.forgetting[i]
        y_low, y_high = (y.low, y.high) if y else (y_value, y_value)
        color, marker = look(arm)
        style = {"color": LIGHT[color], "zorder": 3}
        axes.plot([x_low, x_high], [100 * y_value] * 2, lw=0.9, **style)
        axes.plot([x_value] * 2, [100 * y_low, 100 * y_high], lw=0.9, **style)
        axes.plot(x_value, 100 * y_value, marker, ms=6, **style)
        seen.append((adapter_kind(arm), x_value, 100 * y_value))
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
    place_labels(axes, labels, taken, size=10)
    return to_svg(figure, f"drift_{measure}", f"{measure_label(measure)} against forgetting")


def _log_axis(axes, few: bool) -> None:
    """Plain numbers at powers of ten or, over less than two of them, at 1, 2 and 5 as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def layers_figure(stability: Stability, arena: Arena) -> str | None:
    """For each arm the share of its drift that lies in each layer."""
    profiles = {short_name(arm, arena): profile for arm in ranked(arena) if (profile := layer_profile(stability, arm))}
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


def layer_profile(stability: Stability, arm: Arm) -> dict[int, float]:
    """Layer → its share of the drift, which sums to 1; a mean over modules and seeds. Empty where nothing drifted."""
    drift: dict[int, list[float]] = {}
    for member in arm.members:
        for row in stability.moved[member.node].modules if member.node in stability.moved else ():
            if row.get(LAYER_MEASURE):
                drift.setdefault(int(row["layer"]), []).append(float(row[LAYER_MEASURE]))
    means = {layer: fmean(values) for layer, values in drift.items()}
    total = sum(means.values())
    return {layer: mean / total for layer, mean in means.items()} if total > 0 else {}


def points_name(trail: Trail) -> str:
    return f"points_{trail.arm.name}"


def path_figure(trail: Trail) -> str:
    """Both axes along a path, as means over seeds with their intervals; the chosen points ringed."""
    figure, axes = new_axes(330, 240)
    ends = {}
    for axis, color, marker in (("target", "blue", "o"), ("general", "teal", "s")):
        found = [point(trail, alpha, axis) for alpha in trail.alphas]
        values = [100 * e.value for e in found]
        low, high = ([100 * edge for edge in edges] for edges in zip(*((e.low, e.high) for e in found), strict=True))
        axes.fill_between(trail.alphas, low, high, color=LIGHT[color], alpha=0.15, lw=0)
        axes.plot(trail.alphas, values, color=LIGHT[color], lw=1.5, marker=marker, ms=4)
        for alpha in {run["chosen"] for run in trail.runs}:
            y = values[trail.alphas.index(alpha)]
            axes.plot(alpha, y, marker="o", ms=11, mfc="none", mec=LIGHT["ink"], mew=1.4)
        ends[axis] = values[-1], LIGHT[color]
    spread = axes.get_ylim()[1] - axes.get_ylim()[0]
    middle, apart = fmean(y for y, _ in ends.values()), abs(ends["target"][0] - ends["general"][0])
    for axis, (y, color) in ends.items():
        if apart < LABEL_GAP * spread:
            above = y > middle or (apart == 0 and axis == "general")
            y = middle + (1 if above else -1) * LABEL_GAP * spread / 2
        axes.annotate(
            axis, (trail.alphas[-1], y), (8, 0), textcoords="offset points", va="center", fontsize=10, color=color,
            annotation_clip=False,
        )  # fmt: skip
    axes.set(xlabel="alpha", ylabel="% right", xlim=(min(trail.alphas) - 0.03, max(trail.alphas) + 0.03))
    axes.set_title(trail.arm.name, loc="left", fontsize=11.5, fontweight="bold")
    return to_svg(figure, points_name(trail), f"Target and general along the path {trail.arm.name}")


def stability_figures(stability: Stability) -> dict[str, str]:
    compared = [i for i, arena in enumerate(stability.arenas) if len(arena.arms) > 1]
    made = {arena_name(i): arena_figure(stability, i) for i in compared}
    for pool in [pool for pool in pools(stability) if pool.over == "trained"][:1]:
        made |= {f"drift_{name}": drift_figure(stability, pool, name) for name in best_measures(stability, pool)}
    if layers := layers_figure(stability, stability.arenas[0]):
        made["layers"] = layers
    return made | {points_name(trail): path_figure(trail) for trail in stability.trails}
