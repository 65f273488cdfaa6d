"""The figures of the report, as SVG text: scatter, heat maps and curves, all by Matplotlib.

Equal inputs give equal bytes: element ids are salted with the figure's name and no date is written. Colors are the
tokens of `LIGHT`; the page swaps them for its own properties, so that one file serves light, dark and paper. Text
stays text.
"""

import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import cos, radians, sin
from statistics import fmean
from typing import Any

from steps.arms import Arm, pareto
from steps.tables import Estimate

# Every pair differs by at least 9 OKLab units (of 100) for normal, protan, deutan and tritan vision, and each color has
# a contrast of at least 3.6 to the page: tests/test_report.py computes both.
LIGHT = {
    "ink": "#1d1d1b",
    "muted": "#5f5e5a",
    "line": "#d8d7d2",
    "surface": "#fefefe",
    "neutral": "#4a4a48",
    "blue": "#2a53b3",
    "orange": "#a6501a",
    "teal": "#329072",
    "magenta": "#b460bc",
    "wine": "#58102c",
}
DARK = {
    "ink": "#f2f1ec",
    "muted": "#b3b2ab",
    "line": "#3f3f3c",
    "surface": "#1a1a19",
    "neutral": "#e0dfda",
    "blue": "#4f86e8",
    "orange": "#e8853a",
    "teal": "#2fbf93",
    "magenta": "#f0a5f0",
    "wine": "#b05470",
}
# Color says the family of a stage, the marker which member: trained on rows, on rewards, from a teacher, mixed.
STAGES = {
    "model": ("neutral", "s"),
    "pretrain": ("neutral", "p"),
    "cpt": ("blue", "v"),
    "sft": ("blue", "o"),
    "reward": ("teal", "X"),
    "rl": ("teal", "^"),
    "distill": ("magenta", "P"),
    "opd": ("magenta", "*"),
    "merge": ("orange", "D"),
    "interpolate": ("orange", "d"),
}
# Width of a character and height of a line of label, in pixels, for labels that must not collide.
CHAR, LABEL_HEIGHT = 6.4, 11


def stage_color(stage: str) -> str:
    return LIGHT[STAGES[stage][0]]


def themed(svg: str) -> str:
    """An SVG for inlining: no prolog, no ids that could clash, token colors as the page's properties."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for token, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{token})")  # everywhere in a style: custom properties are none in attributes
    return svg


# --- Matplotlib ----------------------------------------------------------------------------------


def new_axes(width: float, height: float):
    """A figure of width × height CSS pixels with one calm pair of axes."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 11,
            "text.color": LIGHT["ink"],
            "axes.labelcolor": LIGHT["muted"],
            "axes.edgecolor": LIGHT["line"],
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": LIGHT["line"],
            "grid.linewidth": 0.6,
            "xtick.color": LIGHT["line"],
            "ytick.color": LIGHT["line"],
            "xtick.labelcolor": LIGHT["muted"],
            "ytick.labelcolor": LIGHT["muted"],
        }
    )
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def to_svg(figure, name: str, title: str) -> str:
    from matplotlib import rcParams

    rcParams["svg.hashsalt"] = name
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"[ \t]+\n", "\n", text.getvalue())
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    head = f'<svg role="img" aria-label="{escape(title)}" style="max-width: {float(size[1]):.0f}px"'
    return svg.replace("<svg", head, 1).replace('pt" height=', 'px" height=').replace('pt" viewBox', 'px" viewBox')


@dataclass(frozen=True)
class Line:
    """A path through the scatter, in percent, from its start to its end."""

    points: list[tuple[float, float]]
    color: str


# From so many checkpoints on, a scatter needs more room for their names.
CROWD = 10


def scatter(
    arms: list[Arm],
    roots: set[str],
    name: str = "scatter",
    title: str = "Target against general capability of every checkpoint",
    looks: dict[str, tuple[str, str]] | None = None,
    lines: Sequence[Line] = (),
    size: tuple[float, float] | None = None,
) -> str:
    """Target against general in percent, with 95 % intervals, the Pareto front and lines of equal sum.

    Args:
        looks: arm → (color token, marker); the others have those of their stage.
        lines: paths between checkpoints, drawn under them.
        size: in pixels; what the number of arms needs by default.
    """
    looks = {arm.name: STAGES[arm.stage] for arm in arms} | (looks or {})
    figure, axes = new_axes(*(size or ((440, 380) if len(arms) <= CROWD else (600, 520))))
    spots = {a.name: (a.axis("target"), a.axis("general")) for a in arms if a.axis("target") and a.axis("general")}
    points = {arm: (100 * t.value, 100 * g.value) for arm, (t, g) in spots.items()}
    edges = [(100 * e.low, 100 * e.high) for pair in spots.values() for e in pair]
    xs, ys = edges[0::2], edges[1::2]
    drawn = [spot for line in lines for spot in line.points]
    xs, ys = [*xs, *((x, x) for x, _ in drawn)], [*ys, *((y, y) for _, y in drawn)]
    pad = 6.0
    left, right = min(low for low, _ in xs) - pad, min(102, max(high for _, high in xs) + pad)
    bottom, top = min(low for low, _ in ys) - pad, min(102, max(high for _, high in ys) + pad)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="target, % right", ylabel="general, % right")
    axes.set_title(" ", fontsize=9)  # room for the labels of the lines

    for total in range(0, 201, 20):
        if not left + bottom < total < right + top:
            continue
        start, end = max(left, total - top), min(right, total - bottom)
        axes.plot([start, end], [total - start, total - end], color=LIGHT["muted"], lw=0.7, ls=(0, (1, 4)), zorder=1)
        # The label sits where the line meets the top of the frame or, for the lowest lines, the bottom.
        spot, shift = ((start, top), (3, 3)) if start > left else ((end, bottom), (-4, 4))
        if (shift[1] == 3 and start < right - 0.04 * (right - left)) or (shift[1] == 4 and end < right):
            axes.annotate(
                f"Σ {total}", spot, shift, textcoords="offset points", color=LIGHT["muted"], fontsize=9,
                ha="center", annotation_clip=False, in_layout=False,
            )  # fmt: skip
    front = pareto(points)
    corners = []
    if len(front) > 1:
        # Between two points of the front nothing better was seen than the worse of each coordinate.
        corners = [points[front[0]]]
        for arm in front[1:]:
            corners += [(corners[-1][0], points[arm][1]), points[arm]]
        axes.plot(*zip(*corners, strict=True), color=LIGHT["muted"], lw=1.1, ls=(0, (5, 3)), zorder=2)

    for line in lines:
        color = LIGHT[line.color]
        axes.plot(*zip(*line.points, strict=True), color=color, lw=1.2, marker=".", ms=5, alpha=0.8, zorder=2)
    for arm, (target, general) in spots.items():
        x, y = points[arm]
        color, marker = LIGHT[looks[arm][0]], looks[arm][1]
        bars = {
            "xerr": [[x - 100 * target.low], [100 * target.high - x]],
            "yerr": [[y - 100 * general.low], [100 * general.high - y]],
        }
        fill = LIGHT["surface"] if arm in roots else color
        axes.errorbar(
            x,
            y,
            **bars,
            fmt=marker,
            ms=8,
            color=color,
            mfc=fill,
            mec=color,
            mew=1.6,
            elinewidth=1.1,
            capsize=0,
            zorder=3,
        )
    figure.draw_without_rendering()  # lays the axes out, which places the labels
    recipes = Counter(arm.recipe for arm in arms)
    # The chosen point of a grid needs no more than the name of its recipe.
    names = {arm.name: arm.recipe if arm.grid and recipes[arm.recipe] == 1 else arm.name for arm in arms}
    _label_points(axes, {names[arm]: xy for arm, xy in points.items()}, spots, corners)
    return to_svg(figure, name, title)


def _label_points(axes, points: dict[str, tuple[float, float]], spots, corners: list[tuple[float, float]]) -> None:
    """Put each name beside its point, clear of error bars and of the front."""
    taken = []
    for (x0, y0), (x1, y1) in (
        zip(axes.transData.transform(corners), axes.transData.transform(corners[1:]), strict=False) if corners else ()
    ):
        taken.append((min(x0, x1) - 1, min(y0, y1) - 1, max(x0, x1) + 1, max(y0, y1) + 1))
    for target, general in spots.values():
        (x0, y), (x1, _) = axes.transData.transform([(100 * e, 100 * general.value) for e in (target.low, target.high)])
        (x, y0), (_, y1) = axes.transData.transform(
            [(100 * target.value, 100 * e) for e in (general.low, general.high)]
        )
        taken += [(x0, y - 1, x1, y + 1), (x - 1, y0, x + 1, y1)]
    place_labels(axes, [(name, *xy) for name, xy in points.items()], taken)


# Where a name may stand: close to its point or, where all of that is taken, at the end of a thin line.
NEAR = tuple((right, dy) for dy in (6, -16, 20, -30) for right in (True, False))
FAR = tuple((radius, 30 * i) for radius in (38, 56, 78, 104) for i in range(12))
FAR_COST = 0.8  # pixels of overlap that a pixel of distance is worth


def place_labels(
    axes, labels: list[tuple[str, float, float]], taken: list[tuple[float, float, float, float]], size: float = 11
) -> None:
    """Write names beside points, each where it covers least of other names, points and what is taken.

    Args:
        labels: (name, x, y) in data coordinates; the axes must have been laid out.
        taken: boxes (left, bottom, right, top) in pixels.
        size: of the font.
    """
    box = axes.get_window_extent()
    char, height = CHAR * size / 11, LABEL_HEIGHT * size / 11
    pixels = [(name, *axes.transData.transform((x, y))) for name, x, y in labels]
    taken = taken + [(x - 7, y - 7, x + 7, y + 7) for _, x, y in pixels]

    def cost(left: float, bottom: float, width: float, distance: float) -> float:
        right, top = left + width, bottom + height
        covered = sum(
            max(0, min(right, c) - max(left, a)) * max(0, min(top, d) - max(bottom, b)) for a, b, c, d in taken
        )
        outside = max(0, box.x0 - left) + max(0, right - box.x1) + max(0, box.y0 - bottom) + max(0, top - box.y1)
        return covered + 50 * outside + FAR_COST * distance

    for name, x, y in pixels:
        width = char * len(name)
        spots = [(x + 10 if right else x - 10 - width, y + dy, 0.0) for right, dy in NEAR]
        for radius, degrees in FAR:
            dx, dy = radius * cos(radians(degrees)), radius * sin(radians(degrees))
            spots.append((x + dx - (width if dx < -1 else 0 if dx > 1 else width / 2), y + dy - height / 2, radius))
        left, bottom, far = min(spots, key=lambda spot: cost(spot[0], spot[1], width, spot[2]))  # noqa: B023 (at once)
        taken.append((left, bottom, left + width, bottom + height))
        if far:
            end = min(max(x, left), left + width), bottom + height / 2
            axes.annotate(
                "", (x, y), end, xycoords="figure pixels", textcoords="figure pixels", annotation_clip=False,
                in_layout=False, arrowprops={"arrowstyle": "-", "color": LIGHT["muted"], "lw": 0.6, "shrinkB": 4},
            )  # fmt: skip
        axes.annotate(
            name, (left, bottom), xycoords="figure pixels", fontsize=size, annotation_clip=False, in_layout=False
        )


def curves(recipe: str, logs: dict[str, list[dict[str, float]]], stage: str, ceiling: float) -> str:
    """Training loss and validation loss against the step; one thin line per node. `ceiling` is shared by all panels."""
    figure, axes = new_axes(330, 220)
    color = stage_color(stage)
    ends: dict[str, list[tuple[float, float]]] = {"loss": [], "valid_loss": []}
    for rows in logs.values():
        steps, losses = _column(rows, "loss")
        smooth = _running_mean(losses, max(1, len(losses) // 20))
        axes.plot(steps, losses, lw=0.8, color=color, alpha=0.3)
        axes.plot(steps, smooth, lw=1.5, color=color)
        ends["loss"] += list(zip(steps, smooth, strict=True))[-1:]
        steps, losses = _column(rows, "valid_loss")
        axes.plot(steps, losses, lw=1.1, color=LIGHT["ink"], marker="o", ms=4, mfc=LIGHT["surface"])
        ends["valid_loss"] += list(zip(steps, losses, strict=True))[-1:]
    value = {key: fmean(y for _, y in spots) for key, spots in ends.items() if spots}
    height, gap = dict(value), 0.075 * ceiling
    if len(value) == 2 and abs(value["loss"] - value["valid_loss"]) < gap:
        above = max(value, key=value.get)
        height = {key: fmean(value.values()) + (gap / 2 if key == above else -gap / 2) for key in value}
    for key, y in value.items():
        label, ink = ("train", color) if key == "loss" else ("valid", LIGHT["ink"])
        axes.annotate(
            f"{label} {y:.2f}", (max(x for x, _ in ends[key]), height[key]), (6, 0), textcoords="offset points",
            va="center", fontsize=10, annotation_clip=False, color=ink,
        )  # fmt: skip
    axes.set(xlabel="step", ylim=(0, ceiling), xlim=(0, None))
    axes.set_title(recipe, loc="left", fontsize=11.5, fontweight="bold")
    return to_svg(figure, f"curves_{recipe}", f"Training and validation loss of {recipe}")


def _column(rows: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if key in row]
    return [row["step"] for row in kept], [row[key] for row in kept]


def _running_mean(values: list[float], window: int) -> list[float]:
    """Mean of each value and of up to `window` − 1 before it."""
    return [fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def heat_map(recipe: str, points: list[Arm], axis: str, best: Arm | None) -> str:
    """An axis over a grid of two keys, or a line with intervals over one; the chosen point framed."""
    keys = sorted({key for arm in points for key in arm.grid})
    measured = {tuple(_place(arm.grid[key]) for key in keys): arm.axis(axis) for arm in points}
    title = f"{axis} over the grid of {recipe}"
    chosen = tuple(_place(best.grid[key]) for key in keys) if best else None
    if len(keys) == 1:
        return _grid_line(recipe, keys[0], {k[0]: v for k, v in measured.items()}, axis, chosen, title)
    from matplotlib.patches import Rectangle

    columns, rows = (sorted({point[i] for point in measured}, key=_sort_key) for i in (0, 1))
    figure, axes = new_axes(max(300, 90 + 62 * len(columns)), max(170, 80 + 40 * len(rows)))
    values = [e.value for e in measured.values() if e]
    low, high = min(values), max(values)
    for (x, y), estimate in measured.items():
        if estimate is None:
            continue
        i, j = columns.index(x), rows.index(y)
        share = (estimate.value - low) / (high - low) if high > low else 1.0
        alpha = 0.08 + 0.92 * share
        axes.add_patch(Rectangle((i - 0.48, j - 0.46), 0.96, 0.92, fc=LIGHT["blue"], alpha=alpha, lw=0))
        ink = LIGHT["surface"] if alpha > 0.55 else LIGHT["ink"]
        weight = "bold" if (x, y) == chosen else "normal"
        axes.text(i, j, f"{100 * estimate.value:.1f}", ha="center", va="center", color=ink, fontweight=weight)
        if (x, y) == chosen:
            axes.add_patch(Rectangle((i - 0.48, j - 0.46), 0.96, 0.92, fill=False, ec=LIGHT["ink"], lw=2.2))
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=keys[0], ylabel=keys[1])
    axes.set_xticks(range(len(columns)), [f"{c}" for c in columns])
    axes.set_yticks(range(len(rows)), [f"{r}" for r in rows])
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return to_svg(figure, f"grid_{recipe}", title)


def _place(value: Any) -> Any:
    """A grid's value on an axis: a list as the word that names it."""
    return "+".join(map(str, value)) if isinstance(value, list) else value


def _sort_key(value: Any) -> tuple:
    return (isinstance(value, str), value)


def _grid_line(recipe: str, key: str, measured: dict[Any, Estimate | None], axis: str, chosen, title: str) -> str:
    figure, axes = new_axes(360, 220)
    places = sorted(measured, key=_sort_key)
    for i, place in enumerate(places):
        estimate = measured[place]
        if estimate is None:
            continue
        y = 100 * estimate.value
        bar = [[y - 100 * estimate.low], [100 * estimate.high - y]]
        best = chosen == (place,)
        axes.errorbar(i, y, yerr=bar, fmt="o", ms=8 if best else 6, color=LIGHT["blue"], elinewidth=1.1,
                      mfc=LIGHT["blue"] if best else LIGHT["surface"])  # fmt: skip
        axes.annotate(
            f"{y:.1f}{' chosen' if best else ''}", (i, y), (8, 4), textcoords="offset points", fontsize=10,
            fontweight="bold" if best else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set(xlabel=key, ylabel=f"{axis}, % right", xlim=(-0.4, len(places) - 0.4))
    return to_svg(figure, f"grid_{recipe}", title)
