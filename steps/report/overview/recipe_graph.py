"""The recipe graph as SVG text: no plotting library draws it."""

from html import escape
from itertools import pairwise
from statistics import fmean
from typing import Any

from steps.report.candidates import Candidate
from steps.report.figures import LIGHT, stage_color
from steps.report.overview.svg import canvas, clip, draw_text


def recipe_graph(candidates: dict[str, Candidate]) -> str:
    """Recipes from left to right, each with its stage, how many nodes it is, and its two scores; teachers by dashes."""
    recipes: dict[str, list[Candidate]] = {}
    for candidate in candidates.values():
        recipes.setdefault(candidate.recipe, []).append(candidate)
    of_node = {m.node: candidate.recipe for candidate in candidates.values() for m in candidate.members}

    def named(group: list[Candidate], role: str) -> list[str]:
        return list(
            dict.fromkeys(of_node[p] for candidate in group for m in candidate.members for p in getattr(m, role))
        )

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
        nodes = sum(len(candidate.members) for candidate in group)
        kind = group[0].stage + (f" × {nodes}" if nodes > 1 else "")
        body.append(
            f'<g><title>{escape(name)}</title><rect x="{x:.1f}" y="{y:.1f}" width="{width}" height="{tall}" rx="6"'
            f' style="fill: {LIGHT["surface"]}; stroke: {color}; stroke-width: 1.6"/>'
            f'<rect x="{x:.1f}" y="{y:.1f}" width="6" height="{tall}" rx="3" style="fill: {color}"/></g>'
        )
        body.append(draw_text(x + 16, y + 20, clip(name, 20), font_weight="bold", font_size=13))
        body.append(draw_text(x + 16, y + 36, kind, "muted", font_size=11))
        scores = [(axis, group[0].axis(axis)) for axis in ("target", "general")] if len(group) == 1 else []
        line = "  ".join(f"{axis} {100 * e.value:.0f}" for axis, e in scores if e)
        body.append(
            draw_text(x + 16, y + 52, line or (f"{len(group)} grid points" if len(group) > 1 else ""), font_size=11)
        )
    wide = (max(layers) + 1) * (width + gap_x) - gap_x + 2
    return canvas(wide, total + 2, "Recipe graph: " + ", ".join(recipes), body)
