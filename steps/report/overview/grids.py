"""Grids of settings: every point with its scores, and the one that dev chooses."""

from pathlib import Path
from typing import Any

from steps.report.candidates import Candidate
from steps.report.columns import ORIGIN, identity
from steps.report.figures import LIGHT, new_axes, reaches, to_svg
from steps.report.findings import Findings
from steps.report.section import Section
from steps.report.tables import Column, Estimate, Table, setting_text


def heat_map(recipe: str, points: list[Candidate], axis: str, best: Candidate | None) -> str:
    """An axis over a grid of two keys, or a line with intervals over one; the chosen point framed."""
    keys = sorted({key for candidate in points for key in candidate.grid})
    measured = {tuple(_place(candidate.grid[key]) for key in keys): candidate.axis(axis) for candidate in points}
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
        best = chosen == (place,)
        axes.errorbar(i, y, yerr=reaches([estimate]), fmt="o", ms=8 if best else 6, color=LIGHT["blue"], elinewidth=1.1,
                      mfc=LIGHT["blue"] if best else LIGHT["surface"])  # fmt: skip
        axes.annotate(
            f"{y:.1f}{' chosen' if best else ''}", (i, y), (8, 4), textcoords="offset points", fontsize=11,
            fontweight="bold" if best else "normal", annotation_clip=False,
        )  # fmt: skip
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set(xlabel=key, ylabel=f"{axis}, % right", xlim=(-0.4, len(places) - 0.4))
    return to_svg(figure, f"grid_{recipe}", title)


def grid_table(name: str, points: list[Candidate], best: Candidate | None) -> Table:
    keys = sorted({key for candidate in points for key in candidate.grid})
    plain = [all(_is_number(candidate.grid[key]) for candidate in points) for key in keys]
    columns = [Column(key, key, "number" if number else "text") for key, number in zip(keys, plain, strict=True)]
    columns += [Column(axis, f"{axis} %", "percent") for axis in ("dev", "target", "general")]
    columns += [Column("n", "n dev / target / general"), Column("best", "chosen"), *ORIGIN]
    rows = []
    for candidate in points:
        scores = {axis: candidate.axis(axis) for axis in ("dev", "target", "general")}
        n = " / ".join(str(e.n) if e else "–" for e in scores.values())
        grid = {key: value if _is_number(value) else setting_text(value) for key, value in candidate.grid.items()}
        rows.append(
            {**identity(candidate), **grid, **scores, "n": n, "best": "best on dev" if candidate is best else None}
        )
    caption = "The point is chosen on dev, which is disjoint from the target; target and general are reported for it."
    return Table(f"grid_{name}", caption, columns, rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tables(comparison: Findings) -> list[Table]:
    return [
        grid_table(recipe, points, best)
        for recipe, (points, best) in comparison.grids.items()
        if any(point.scores for point in points)
    ]


def figures(comparison: Findings) -> dict[str, str]:
    """A map of every grid of one or two keys with a score."""
    drawn = {}
    for recipe, (points, best) in comparison.grids.items():
        axis = "dev" if best else "target"
        if len(points[0].grid) <= 2 and any(point.axis(axis) for point in points):
            drawn[f"grid_{recipe}"] = heat_map(recipe, points, axis, best)
    return drawn


def page(comparison: Findings, tables: dict[str, Table], figures: dict[str, str]) -> dict | None:
    return {"chosen": {recipe: best for recipe, (_, best) in comparison.grids.items()}} if comparison.grids else None


SECTION = Section(
    name="grid",
    title="Grids",
    folder=Path(__file__).parent,
    template="grids.html.j2",
    read=lambda gathered: gathered.findings,
    tables=tables,
    figures=figures,
    page=page,
)
