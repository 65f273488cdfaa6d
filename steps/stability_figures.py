"""The figures of stability and plasticity: the arena with its paths, drift against forgetting, layers, points of paths."""

from statistics import fmean

from steps.arms import Arm, forgetting
from steps.figures import LIGHT, Line, new_axes, scatter, to_svg
from steps.learning_figures import share_map
from steps.stability import Arena, Pool, Stability, Trail, adapter_kind, measure_label, pools
from steps.stability_claims import pool_correlation
from steps.stability_stats import over_seeds, point
from steps.tables import Estimate

# Color says what an adapter does to the weights, the marker which one it is: all weights, a sum of low rank, a rotation,
# a scaling.
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
# The measures drawn against forgetting: those that go with it most.
DRAWN_MEASURES = 3
LAYER_MEASURE = "csd_rel_general"
# From so many layers on, the numbers of a profile have no room.
MANY_LAYERS = 16


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
    trails = [t for t in stability.trails if t.end in arena.arms]
    chosen = [t.arm for t in trails if t.arm.axis("target") and t.arm.axis("general")]
    shown = [arena.root, *arena.arms, *(arm for arm in chosen if stability.chosen(arm) is not False)]
    lines = [
        Line([tuple(100 * point(t, alpha, axis).value for axis in ("target", "general")) for alpha in t.alphas], "orange")
        for t in trails
    ]
    looks = {arm.name: look(arm) for arm in arena.arms}
    title = f"Target against general capability of what was trained from {arena.root.name}"
    return scatter(shown, {arena.root.name}, arena_name(index), title, looks, lines)


def best_measures(stability: Stability, pool: Pool) -> list[str]:
    """The measures that rank checkpoints most as forgetting does, one of the two axes' prompts of each."""
    strength = {}
    for name in stability.measures:
        found = pool_correlation(stability, pool, (name,), pool.forgetting, "spearman")
        if found is not None and not name.endswith("_target"):
            strength[name] = abs(found.value if isinstance(found, Estimate) else found)
    return sorted(strength, key=lambda name: -strength[name])[:DRAWN_MEASURES]


def drift_figure(stability: Stability, pool: Pool, measure: str) -> str:
    """A measure against forgetting, one point per trained checkpoint."""
    figure, axes = new_axes(330, 270)
    seen = []
    for i in pool.measured(stability, (measure,)):
        arm = pool.arms[i]
        x = over_seeds(stability.values(arm, measure))
        x, x_bar = (x.value, [[x.value - x.low], [x.high - x.value]]) if isinstance(x, Estimate) else (x, None)
        lost = forgetting(arm, pool.root)
        y, y_bar = 100 * pool.forgetting[i], None
        if lost:
            y_bar = [[100 * (lost.value - lost.low)], [100 * (lost.high - lost.value)]]
        color, marker = look(arm)
        axes.errorbar(
            x, y, xerr=x_bar, yerr=y_bar, fmt=marker, ms=6, color=LIGHT[color], elinewidth=0.9, capsize=0, zorder=3
        )
        seen.append((x, y, adapter_kind(arm)))
    xs = [x for x, _, _ in seen]
    if min(xs) > 0 and max(xs) > 10 * min(xs):
        axes.set_xscale("log")
    axes.margins(0.12)
    # One name per kind, at its point that lies farthest out.
    middle = fmean(y for _, y, _ in seen)
    for kind in dict.fromkeys(kind for _, _, kind in seen):
        x, y, _ = max((spot for spot in seen if spot[2] == kind), key=lambda spot: abs(spot[1] - middle))
        axes.annotate(kind, (x, y), (6, 4), textcoords="offset points", fontsize=10, annotation_clip=False)
    axes.set(xlabel=measure_label(measure), ylabel="forgetting, points")
    return to_svg(figure, f"drift_{measure}", f"{measure_label(measure)} against forgetting")


def layers_figure(stability: Stability, arena: Arena) -> str | None:
    """For each arm the share of its drift that lies in each layer."""
    profiles = {arm.name: profile for arm in arena.arms if (profile := layer_profile(stability, arm))}
    if not profiles:
        return None
    layers = sorted({layer for profile in profiles.values() for layer in profile})
    cells = {
        (i, j): (profile.get(layer, 0.0), f"{100 * profile.get(layer, 0.0):.0f}" if len(layers) < MANY_LAYERS else "")
        for i, profile in enumerate(profiles.values())
        for j, layer in enumerate(layers)
    }
    title = "Percent of the relative drift on general prompts, by adapter and layer"
    width = 62 if len(layers) < MANY_LAYERS else 22
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


def path_figure(trail: Trail) -> str:
    """Both axes along a path, seeds as thin lines, their mean with its interval; the chosen points ringed."""
    figure, axes = new_axes(330, 240)
    for axis, color, marker in (("target", "blue", "o"), ("general", "teal", "s")):
        found = [point(trail, alpha, axis) for alpha in trail.alphas]
        values = [100 * e.value for e in found]
        axes.fill_between(
            trail.alphas, [100 * e.low for e in found], [100 * e.high for e in found], color=LIGHT[color], alpha=0.15, lw=0
        )
        axes.plot(trail.alphas, values, color=LIGHT[color], lw=1.5, marker=marker, ms=4)
        for alpha in {run["chosen"] for run in trail.runs}:
            y = values[trail.alphas.index(alpha)]
            axes.plot(alpha, y, marker="o", ms=11, mfc="none", mec=LIGHT["ink"], mew=1.4)
        axes.annotate(
            axis, (trail.alphas[-1], values[-1]), (8, 0), textcoords="offset points", va="center", fontsize=10,
            color=LIGHT[color], annotation_clip=False,
        )  # fmt: skip
    axes.set(xlabel="alpha", ylabel="% right", xlim=(min(trail.alphas) - 0.03, max(trail.alphas) + 0.03))
    axes.set_title(trail.arm.name, loc="left", fontsize=11.5, fontweight="bold")
    return to_svg(figure, f"path_{trail.arm.name}", f"Target and general along the path {trail.arm.name}")


def stability_figures(stability: Stability) -> dict[str, str]:
    made = {arena_name(i): arena_figure(stability, i) for i, arena in enumerate(stability.arenas) if len(arena.arms) > 1}
    for pool in [pool for pool in pools(stability) if pool.over == "trained"][:1]:
        made |= {f"drift_{name}": drift_figure(stability, pool, name) for name in best_measures(stability, pool)}
    if layers := layers_figure(stability, stability.arenas[0]):
        made["layers"] = layers
    return made | {f"path_{trail.arm.name}": path_figure(trail) for trail in stability.trails}
