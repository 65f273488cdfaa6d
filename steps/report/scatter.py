"""A scatter of target against general capability, and names beside its points."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin

from steps.report.candidates import Candidate, pareto
from steps.report.figures import LIGHT, Mark, new_axes, reaches, to_svg
from steps.report.tables import cell_text
from steps.settings import stages

# Width of a character and height of a line of label, in pixels, for labels that must not collide.
CHAR, LABEL_HEIGHT = 6.4, 11


@dataclass(frozen=True)
class Line:
    """A path through the scatter, in percent, from its start to its end."""

    points: list[tuple[float, float]]
    color: str


# Width of an entry of the legend, in pixels.
LEGEND = 100
# From so many checkpoints on, a scatter needs more room for their names.
CROWD = 10


def scatter(
    candidates: list[Candidate],
    roots: set[str],
    name: str = "scatter",
    title: str = "Target against general capability of every checkpoint",
    looks: dict[str, tuple[str, str]] | None = None,
    lines: Sequence[Line] = (),
    size: tuple[float, float] | None = None,
    ringed: str | None = None,
    keep: float | None = None,
    legend: Sequence[tuple[str, tuple[str, str]]] | None = None,
) -> str:
    """Target against general in percent, with 95 % intervals, the Pareto front and lines of equal sum.

    Args:
        looks: candidate → (color token, marker); the others have those of their stage.
        lines: paths between checkpoints, drawn under them.
        size: in pixels; what the number of candidates needs by default.
        ringed: the candidate with a ring around it.
        keep: the general score that must be kept, as a share: a line across.
        legend: (word, (color token, marker)) of the looks; stages without `looks`, none with them, by default.
    """
    if legend is None:
        drawn_stages = dict.fromkeys(candidate.stage for candidate in candidates if not looks)
        legend = [(stage, stages.look(stage)) for stage in drawn_stages]
    looks = {candidate.name: stages.look(candidate.stage) for candidate in candidates} | (looks or {})
    figure, axes = new_axes(*(size or ((440, 380) if len(candidates) <= CROWD else (600, 520))))
    spots = {
        a.name: (a.axis("target"), a.axis("general")) for a in candidates if a.axis("target") and a.axis("general")
    }
    points = {candidate: (100 * t.value, 100 * g.value) for candidate, (t, g) in spots.items()}
    edges = [(100 * e.low, 100 * e.high) for pair in spots.values() for e in pair]
    xs, ys = edges[0::2], edges[1::2]
    drawn = [spot for line in lines for spot in line.points]
    xs, ys = [*xs, *((x, x) for x, _ in drawn)], [*ys, *((y, y) for _, y in drawn)]
    pad = 6.0
    left, right = min(low for low, _ in xs) - pad, min(102, max(high for _, high in xs) + pad)
    if keep is not None:
        ys.append((100 * keep, 100 * keep))
    bottom, top = min(low for low, _ in ys) - pad, min(102, max(high for _, high in ys) + pad)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="target, % right", ylabel="general, % right")
    axes.set_title(" ", fontsize=11)  # room for the labels of the lines

    _equal_sums(axes, left, right, bottom, top)
    front = pareto(points)
    corners = []
    if len(front) > 1:
        # Between two points of the front nothing better was seen than the worse of each coordinate.
        corners = [points[front[0]]]
        for candidate in front[1:]:
            corners += [(corners[-1][0], points[candidate][1]), points[candidate]]
        axes.plot(*zip(*corners, strict=True), color=LIGHT["muted"], lw=1.1, ls=(0, (5, 3)), zorder=2)

    if keep is not None:
        axes.axhline(100 * keep, color=LIGHT["magenta"], lw=1.2, zorder=1)
        axes.annotate(
            "must be kept", (left, 100 * keep), (4, 4), textcoords="offset points", color=LIGHT["magenta"], fontsize=11
        )
    for line in lines:
        color = LIGHT[line.color]
        axes.plot(*zip(*line.points, strict=True), color=color, lw=1.2, marker=".", ms=5, alpha=0.8, zorder=2)
    marks = _points(axes, spots, looks, roots, ringed)
    _legend(figure, legend, bool(ringed), len(front) > 1, round(72 * figure.get_figwidth() / LEGEND))
    figure.draw_without_rendering()  # lays the axes out, which places the labels
    recipes = Counter(candidate.recipe for candidate in candidates)
    # The chosen point of a grid needs no more than the name of its recipe.
    names = {
        candidate.name: candidate.recipe if candidate.grid and recipes[candidate.recipe] == 1 else candidate.name
        for candidate in candidates
    }
    ring = [points[ringed]] if ringed in points else []
    _label_points(axes, {names[candidate]: xy for candidate, xy in points.items()}, spots, corners, ring)
    return to_svg(figure, name, title, marks)


def _legend(figure, looks: Sequence[tuple[str, tuple[str, str]]], ringed: bool, front: bool, columns: int) -> None:
    """What the looks mean, above the axes."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=LIGHT[token], marker=marker, ms=7, lw=0, label=word) for word, (token, marker) in looks
    ]
    if ringed:
        handles.append(Line2D([], [], marker="o", ms=12, mfc="none", mec=LIGHT["ink"], mew=1.4, lw=0, label="to ship"))
    if front:
        handles.append(Line2D([], [], color=LIGHT["muted"], lw=1.1, ls=(0, (5, 3)), label="Pareto front"))
    if looks:
        style = {"frameon": False, "fontsize": 11, "handletextpad": 0.3, "columnspacing": 1.1, "handlelength": 1.4}
        figure.legend(
            handles=handles, loc="outside upper left", ncols=min(len(handles), columns), borderpad=0.2, **style
        )


def _points(axes, spots: dict, looks: dict[str, tuple[str, str]], roots: set[str], ringed: str | None) -> list[Mark]:
    """Draw every candidate with its intervals; what each says when it is pointed at."""
    marks = []
    for candidate, (target, general) in spots.items():
        x, y = 100 * target.value, 100 * general.value
        if candidate == ringed:
            axes.plot(x, y, "o", ms=19, mfc="none", mec=LIGHT["ink"], mew=1.6, zorder=4)
        color, marker = LIGHT[looks[candidate][0]], looks[candidate][1]
        fill = LIGHT["surface"] if candidate in roots else color
        drawn_point = axes.errorbar(
            x,
            y,
            xerr=reaches([target]),
            yerr=reaches([general]),
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
        levels = ", ".join(
            f"{axis} {cell_text('percent', level)} %" for axis, level in (("target", target), ("general", general))
        )
        marks.append(Mark(f"point-{len(marks)}", candidate, f"{candidate}: {levels}"))
        drawn_point[0].set_gid(marks[-1].id)
    return marks


def _equal_sums(axes, left: float, right: float, bottom: float, top: float) -> None:
    """Dotted lines on which both axes have the same sum, each with that sum."""
    for total in range(0, 201, 20):
        if not left + bottom < total < right + top:
            continue
        start, end = max(left, total - top), min(right, total - bottom)
        axes.plot([start, end], [total - start, total - end], color=LIGHT["muted"], lw=0.7, ls=(0, (1, 4)), zorder=1)
        # The label sits where the line meets the top of the frame or, for the lowest lines, the bottom.
        spot, shift = ((start, top), (3, 3)) if start > left else ((end, bottom), (-4, 4))
        if (shift[1] == 3 and start < right - 0.04 * (right - left)) or (shift[1] == 4 and end < right):
            axes.annotate(
                f"Σ {total}", spot, shift, textcoords="offset points", color=LIGHT["muted"], fontsize=11,
                ha="center", annotation_clip=False, in_layout=False,
            )  # fmt: skip


def _label_points(
    axes,
    points: dict[str, tuple[float, float]],
    spots,
    corners: list[tuple[float, float]],
    rings: list[tuple[float, float]],
) -> None:
    """Put each name beside its point, clear of error bars, of the front and of rings."""
    taken = [(x - 11, y - 11, x + 11, y + 11) for x, y in map(axes.transData.transform, rings)]
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


def place_labels(axes, labels: list[tuple[str, float, float]], taken: list[tuple[float, float, float, float]]) -> None:
    """Write names beside points, each where it covers least of other names, points and what is taken.

    Args:
        labels: (name, x, y) in data coordinates; the axes must have been laid out.
        taken: boxes (left, bottom, right, top) in pixels.
    """
    box = axes.get_window_extent()
    pixels = [(name, *axes.transData.transform((x, y))) for name, x, y in labels]
    taken = taken + [(x - 7, y - 7, x + 7, y + 7) for _, x, y in pixels]

    def cost(left: float, bottom: float, width: float, distance: float) -> float:
        right, top = left + width, bottom + LABEL_HEIGHT
        covered = sum(
            max(0, min(right, c) - max(left, a)) * max(0, min(top, d) - max(bottom, b)) for a, b, c, d in taken
        )
        outside = max(0, box.x0 - left) + max(0, right - box.x1) + max(0, box.y0 - bottom) + max(0, top - box.y1)
        return covered + 50 * outside + FAR_COST * distance

    for name, x, y in pixels:
        width = CHAR * len(name)
        spots = [(x + 10 if right else x - 10 - width, y + dy, 0.0) for right, dy in NEAR]
        for radius, degrees in FAR:
            dx, dy = radius * cos(radians(degrees)), radius * sin(radians(degrees))
            spots.append(
                (x + dx - (width if dx < -1 else 0 if dx > 1 else width / 2), y + dy - LABEL_HEIGHT / 2, radius)
            )
        left, bottom, far = min(spots, key=lambda spot: cost(spot[0], spot[1], width, spot[2]))
        taken.append((left, bottom, left + width, bottom + LABEL_HEIGHT))
        if far:
            end = min(max(x, left), left + width), bottom + LABEL_HEIGHT / 2
            axes.annotate(
                "", (x, y), end, xycoords="figure pixels", textcoords="figure pixels", annotation_clip=False,
                in_layout=False, arrowprops={"arrowstyle": "-", "color": LIGHT["muted"], "lw": 0.6, "shrinkB": 4},
            )  # fmt: skip
        axes.annotate(
            name, (left, bottom), xycoords="figure pixels", fontsize=11, annotation_clip=False, in_layout=False
        )
