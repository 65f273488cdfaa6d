"""The figures that no plotting library draws: the recipe graph and the flow of rows, as SVG text."""

from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any

from steps.arms import Arm, Checkpoint
from steps.figures import LIGHT, STAGES, stage_color
from steps.row_tables import OUTCOME_LABELS, Flow, short_path


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
    """Recipes from left to right, each with its stage, how many nodes it is, and its two scores; teachers by dashes."""
    recipes: dict[str, list[Arm]] = {}
    for arm in arms.values():
        recipes.setdefault(arm.recipe, []).append(arm)
    of_node = {m.node: arm.recipe for arm in arms.values() for m in arm.members}

    def named(group: list[Arm], role: str) -> list[str]:
        return list(dict.fromkeys(of_node[p] for arm in group for m in arm.members for p in getattr(m, role)))

    starts = {name: named(group, "parents") for name, group in recipes.items()}
    taught = {name: [t for t in named(group, "teachers") if t not in starts[name]] for name, group in recipes.items()}
    parents = {name: starts[name] + taught[name] for name in recipes}
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
        dashes = "; stroke-dasharray: 4 4" if route[0] in taught[route[-1]] else ""
        body.append(f'<path d="{path}" style="fill: none; stroke: {LIGHT["muted"]}; stroke-width: 1.3{dashes}"/>')
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
