"""The figures of the report, as SVG text: scatter, heat maps and curves by Matplotlib, graph and row flow drawn here.

Equal inputs give equal bytes: element ids are salted with the figure's name and no date is written. Colors are the
tokens of `LIGHT`; the page swaps them for its own properties, so that one file serves light, dark and paper. Text
stays text.
"""

import io
import re
from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any

from steps.tables import OUTCOME_LABELS, Arm, Checkpoint, Estimate, Flow, pareto, short_path

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
}
# Color says the family of a stage, the marker which member: trained on rows, on rewards, from a teacher, merged.
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


def _axes(width: float, height: float):
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


def _svg(figure, name: str, title: str) -> str:
    from matplotlib import rcParams

    rcParams["svg.hashsalt"] = name
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"[ \t]+\n", "\n", text.getvalue())
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    head = f'<svg role="img" aria-label="{escape(title)}" style="max-width: {float(size[1]):.0f}px"'
    return svg.replace("<svg", head, 1).replace('pt" height=', 'px" height=').replace('pt" viewBox', 'px" viewBox')


def scatter(arms: list[Arm], roots: set[str]) -> str:
    """Target against general in percent, with 95 % intervals, the Pareto front and lines of equal sum."""
    figure, axes = _axes(440, 380)
    spots = {a.name: (a.axis("target"), a.axis("general")) for a in arms if a.axis("target") and a.axis("general")}
    points = {name: (100 * t.value, 100 * g.value) for name, (t, g) in spots.items()}
    edges = [(100 * e.low, 100 * e.high) for pair in spots.values() for e in pair]
    xs, ys = edges[0::2], edges[1::2]
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
        for name in front[1:]:
            corners += [(corners[-1][0], points[name][1]), points[name]]
        axes.plot(*zip(*corners, strict=True), color=LIGHT["muted"], lw=1.1, ls=(0, (5, 3)), zorder=2)

    stages = {arm.name: arm.stage for arm in arms}
    for name, (target, general) in spots.items():
        x, y = points[name]
        color, marker = stage_color(stages[name]), STAGES[stages[name]][1]
        bars = {
            "xerr": [[x - 100 * target.low], [100 * target.high - x]],
            "yerr": [[y - 100 * general.low], [100 * general.high - y]],
        }
        fill = LIGHT["surface"] if name in roots else color
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
    _label_points(axes, points, spots, corners)
    return _svg(figure, "scatter", "Target against general capability of every checkpoint")


def _label_points(axes, points: dict[str, tuple[float, float]], spots, corners: list[tuple[float, float]]) -> None:
    """Put each name beside its point, where it covers least of other names, markers, error bars and the front."""
    box = axes.get_window_extent()
    pixels = {name: axes.transData.transform(xy) for name, xy in points.items()}
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in pixels.values()]
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

    def cost(left: float, bottom: float, width: float) -> float:
        right, top = left + width, bottom + LABEL_HEIGHT
        covered = sum(
            max(0, min(right, c) - max(left, a)) * max(0, min(top, d) - max(bottom, b)) for a, b, c, d in taken
        )
        outside = max(0, box.x0 - left) + max(0, right - box.x1) + max(0, box.y0 - bottom) + max(0, top - box.y1)
        return covered + 50 * outside

    for name, (x, y) in pixels.items():
        width = CHAR * len(name)
        sides = [(x + 10 if right else x - 10 - width, y + dy) for dy in (6, -16, 20, -30) for right in (True, False)]
        left, bottom = min(sides, key=lambda corner: cost(*corner, width))  # noqa: B023 (called at once)
        taken.append((left, bottom, left + width, bottom + LABEL_HEIGHT))
        axes.annotate(
            name, (left, bottom), xycoords="figure pixels", fontsize=11, annotation_clip=False, in_layout=False
        )


def curves(recipe: str, logs: dict[str, list[dict[str, float]]], stage: str, ceiling: float) -> str:
    """Training loss and validation loss against the step; one thin line per node. `ceiling` is shared by all panels."""
    figure, axes = _axes(330, 220)
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
    return _svg(figure, f"curves_{recipe}", f"Training and validation loss of {recipe}")


def _column(rows: list[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    kept = [row for row in rows if key in row]
    return [row["step"] for row in kept], [row[key] for row in kept]


def _running_mean(values: list[float], window: int) -> list[float]:
    """Mean of each value and of up to `window` − 1 before it."""
    return [fmean(values[max(0, i - window + 1) : i + 1]) for i in range(len(values))]


def heat_map(recipe: str, points: list[Arm], axis: str, best: Arm | None) -> str:
    """An axis over a grid of two keys, or a line with intervals over one; the chosen point framed."""
    keys = sorted({key for arm in points for key in arm.grid})
    measured = {tuple(arm.grid[key] for key in keys): arm.axis(axis) for arm in points}
    title = f"{axis} over the grid of {recipe}"
    chosen = tuple(best.grid[key] for key in keys) if best else None
    if len(keys) == 1:
        return _grid_line(recipe, keys[0], {k[0]: v for k, v in measured.items()}, axis, chosen, title)
    from matplotlib.patches import Rectangle

    columns, rows = (sorted({point[i] for point in measured}, key=_sort_key) for i in (0, 1))
    figure, axes = _axes(max(300, 90 + 62 * len(columns)), max(170, 80 + 40 * len(rows)))
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
    return _svg(figure, f"grid_{recipe}", title)


def _sort_key(value: Any) -> tuple:
    return (isinstance(value, str), value)


def _grid_line(recipe: str, key: str, measured: dict[Any, Estimate | None], axis: str, chosen, title: str) -> str:
    figure, axes = _axes(360, 220)
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
    return _svg(figure, f"grid_{recipe}", title)


# --- drawn here ----------------------------------------------------------------------------------


def _canvas(width: float, height: float, title: str, body: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}" style="max-width: {width:.0f}px"'
        ' font-family="sans-serif" font-size="12">\n' + "\n".join(body) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, color: str = "ink", **attributes: Any) -> str:
    extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" style="fill: {LIGHT[color]}"{extra}>{escape(text)}</text>'


def _bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" style="fill: {LIGHT[color]}"/>'


def _clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"


def recipe_graph(arms: dict[str, Arm]) -> str:
    """Recipes from left to right, each with its stage, how many nodes it is, and its two scores."""
    recipes: dict[str, list[Arm]] = {}
    for arm in arms.values():
        recipes.setdefault(arm.recipe, []).append(arm)
    of_node = {m.node: arm.recipe for arm in arms.values() for m in arm.members}
    parents = {
        name: list(dict.fromkeys(of_node[p] for arm in group for m in arm.members for p in m.parents))
        for name, group in recipes.items()
    }
    depth: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((place(parent) for parent in parents[name]), default=-1)
        return depth[name]

    # An edge over several layers gets a thin slot in each layer between, so that it runs beside the boxes.
    layers: dict[int, list[Any]] = {}
    routes: list[list[Any]] = []
    for name in recipes:
        layers.setdefault(place(name), []).append(name)
        for parent in parents[name]:
            slots = [(parent, name, level) for level in range(depth[parent] + 1, depth[name])]
            routes.append([parent, *slots, name])
            for slot in slots:
                layers[slot[2]].append(slot)
    before = {
        end: [r[i] for r in routes for i in range(len(r) - 1) if r[i + 1] == end] for r in routes for end in r[1:]
    }
    width, gap_x, gap_y = 168, 64, 16
    height = {item: 62 if item in recipes else 8 for layer in layers.values() for item in layer}
    stacks = {level: sum(height[item] + gap_y for item in layer) - gap_y for level, layer in layers.items()}
    total = max(stacks.values())
    middle: dict[Any, float] = {}
    for level in sorted(layers):
        y = (total - stacks[level]) / 2 + 1
        # By the mean height of what leads here: few crossings, and the order of the recipes among equals.
        for item in sorted(layers[level], key=lambda i: fmean([middle[p] for p in before.get(i, ())] or [0])):
            middle[item] = y + height[item] / 2
            y += height[item] + gap_y
    left = {item: level * (width + gap_x) + 1 for level, layer in layers.items() for item in layer}
    body = []
    for route in routes:
        path = f"M{left[route[0]] + width} {middle[route[0]]:.1f}"
        for start, end in pairwise(route):
            x0, x1 = left[start] + width, left[end]
            bend = (x0 + x1) / 2
            y0, y1 = middle[start], middle[end]
            path += f"L{x0} {y0:.1f}C{bend} {y0:.1f} {bend} {y1:.1f} {x1} {y1:.1f}"
        body.append(f'<path d="{path}" style="fill: none; stroke: {LIGHT["muted"]}; stroke-width: 1.3"/>')
    for name in recipes:
        x, y, tall = left[name], middle[name] - height[name] / 2, height[name]
        group = recipes[name]
        color = stage_color(group[0].stage)
        nodes = sum(len(arm.members) for arm in group)
        kind = group[0].stage + (f" × {nodes}" if nodes > 1 else "")
        body.append(
            f'<g><title>{escape(name)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width}" height="{tall}" rx="6"'
            f' style="fill: {LIGHT["surface"]}; stroke: {color}; stroke-width: 1.6"/>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="6" height="{tall}" rx="3" style="fill: {color}"/></g>'
        )
        body.append(_text(x + 16, y + 20, _clip(name, 20), font_weight="bold", font_size=13))
        body.append(_text(x + 16, y + 36, kind, "muted", font_size=11))
        scores = [(axis, group[0].axis(axis)) for axis in ("target", "general")] if len(group) == 1 else []
        line = "  ".join(f"{axis} {100 * e.value:.0f}" for axis, e in scores if e)
        body.append(
            _text(x + 16, y + 52, line or (f"{len(group)} grid points" if len(group) > 1 else ""), font_size=11)
        )
    wide = (max(layers) + 1) * (width + gap_x) - gap_x + 2
    return _canvas(wide, total + 2, "Recipe graph: " + ", ".join(recipes), body)


FILES_SHOWN = 8


def row_flow(flow: Flow) -> str:
    """Ribbons from each source file (left) to what became of its rows (right); heights are counts."""
    counts = dict(flow.counts)
    if len(counts) > FILES_SHOWN:
        # The table names every file; the picture the largest.
        ranked = sorted(counts, key=lambda file: -sum(counts[file].values()))
        rest: dict[Any, int] = {}
        for file in ranked[FILES_SHOWN - 1 :]:
            for outcome, m in counts[file].items():
                rest[outcome] = rest.get(outcome, 0) + m
        counts = {file: counts[file] for file in ranked[: FILES_SHOWN - 1]} | {f"{len(ranked) - 7} other files": rest}
    total = max(1, flow.rows_in)
    scale, line, x0, x1, bar = 320 / total, 17.0, 186.0, 470.0, 10.0

    right: dict[Any, tuple[float, float]] = {}
    labels: list[str] = []
    y, step = 4.0, None
    for outcome in flow.outcomes:
        reason = isinstance(outcome, tuple)
        if reason and outcome[0] != step:
            step = outcome[0]
            y += 8
            labels.append(_text(x1 + bar + 12, y + 11, f"quarantined by {step}", "muted", font_size=11))
            y += line
        height = max(flow.total(outcome) * scale, 1.5)
        middle = y + max(height, line) / 2
        right[outcome] = (middle - height / 2, height)
        color = "orange" if reason else "blue"
        name = outcome[1] if reason else OUTCOME_LABELS[outcome]
        labels.append(_bar(x1, middle - height / 2, bar, height, color))
        labels.append(_text(x1 + bar + 60, middle + 4, f"{flow.total(outcome):,}", text_anchor="end"))
        weight = {} if reason else {"font_weight": "bold"}
        labels.append(_text(x1 + bar + 68, middle + 4, _clip(name, 24), **weight))
        y += max(height, line) + 2
    height_right = y

    gap = max(14.0, (height_right - 320) / (len(counts) + 1)) if len(counts) < 6 else 14.0
    left_total = sum(max(sum(row.values()) * scale, 1.5) + gap for row in counts.values()) - gap
    y = max(4.0, (height_right - left_total) / 2)
    filled = {outcome: start for outcome, (start, _) in right.items()}
    ribbons, bars = [], []
    for file, row in counts.items():
        size = sum(row.values())
        height = max(size * scale, 1.5)
        bars.append(_bar(x0, y, bar, height, "neutral"))
        bars.append(_text(x0 - 10, y + height / 2 - 1, _clip(short_path(file), 26), text_anchor="end"))
        bars.append(_text(x0 - 10, y + height / 2 + 14, f"{size:,} rows", "muted", text_anchor="end", font_size=11))
        cursor = y
        for outcome in flow.outcomes:
            m = row.get(outcome, 0)
            if not m:
                continue
            thick, a, b, bend = m * scale, x0 + bar, x1, (x1 - x0 - bar) / 2
            top, end = cursor, filled[outcome]
            under, below = top + thick, end + thick
            path = (
                f"M{a:.1f} {top:.2f}C{a + bend:.1f} {top:.2f} {b - bend:.1f} {end:.2f} {b:.1f} {end:.2f}"
                f"V{below:.2f}C{b - bend:.1f} {below:.2f} {a + bend:.1f} {under:.2f} {a:.1f} {under:.2f}Z"
            )
            color = "orange" if isinstance(outcome, tuple) else "blue"
            opacity = 0.55 if isinstance(outcome, tuple) else 0.3
            what = outcome[1] if isinstance(outcome, tuple) else OUTCOME_LABELS[outcome]
            ribbons.append(
                f'<path d="{path}" style="fill: {LIGHT[color]}; fill-opacity: {opacity}">'
                f"<title>{escape(short_path(file))} → {escape(what)}: {m:,}</title></path>"
            )
            cursor += thick
            filled[outcome] += thick
        y += height + gap
    return _canvas(720, max(height_right, y - gap) + 6, f"Flow of the rows of {flow.dataset}", ribbons + bars + labels)


def stages_used(checkpoints: list[Checkpoint]) -> list[tuple[str, str]]:
    """(stage, color token) of every stage in the graph, for the legend."""
    return [(stage, STAGES[stage][0]) for stage in STAGES if any(c.stage == stage for c in checkpoints)]
