"""Lines over the steps of a training, and the names at their ends."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from steps.report.figures import Mark
from steps.report.tables import number_text

SOLID, DASHED, DOTTED = "-", (0, (5, 2.5)), (0, (1, 2))


# A curve is a running mean over this share of its steps.
SMOOTH = 0.1


# Least distance of two labels beside a line, in pixels.
LABEL_GAP = 12.5


def draw_line(axes, marks: list[Mark], name: str, xs: Sequence[float], ys: Sequence[float], **style: Any) -> None:
    """A line that says its name and its two ends when it is pointed at; `marks` gets its own."""
    ends = " → ".join(number_text("number", ys[at]) for at in (0, -1))
    marks.append(Mark(f"line-{len(marks)}", name, f"{name}: {ends}"))
    (line,) = axes.plot(xs, ys, **style)
    line.set_gid(marks[-1].id)


def end_labels(axes, labels: Iterable[tuple[str, float, float, str]]) -> None:
    """Names at the right ends of lines, in their colors, moved apart where they would lie on each other.

    Args:
        labels: (name, x, y, color) in data coordinates; the limits of the axes must be set.
    """
    axes.figure.get_layout_engine().execute(axes.figure)  # which gives the axes their height
    labels = sorted(labels, key=lambda label: (label[2], label[0]))
    low, high = axes.get_ylim()
    scale = axes.bbox.height / (high - low)
    heights = spread([(y - low) * scale for *_, y, _ in labels], LABEL_GAP, axes.bbox.height)
    for (name, x, y, color), height in zip(labels, heights, strict=True):
        shift = height - (y - low) * scale
        axes.annotate(
            name, (x, y), (7, shift), textcoords="offset points", va="center", fontsize=11, color=color,
            annotation_clip=False,
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """Sorted heights at least `gap` apart, each as near to its own as its neighbors allow, from 0 to `top` if there is
    room."""
    groups: list[tuple[float, int]] = []  # (mean of what its members want, members)
    for height in heights:
        groups.append((height, 1))
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < gap * (groups[-1][1] + groups[-2][1]) / 2:
            (a, n), (b, m) = groups[-2:]
            groups[-2:] = [((a * n + b * m) / (n + m), n + m)]
    placed = [mean + gap * (i - (n - 1) / 2) for mean, n in groups for i in range(n)]
    placed = [min(height, top - gap * (len(placed) - 1 - i)) for i, height in enumerate(placed)]
    return [max(height, gap * below) for below, height in enumerate(placed)]


def smoothed(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and its neighbors, `window` in all, fewer at the ends."""
    half = window // 2
    return [fmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]


def over_runs(runs: list[tuple[list[float], list[float]]]) -> tuple[list, list, list, list]:
    """(steps, mean, lowest, highest) of smoothed curves, over the steps that all runs have."""
    window = max(1, round(SMOOTH * max(len(steps) for steps, _ in runs)))
    series = [dict(zip(steps, smoothed(values, window), strict=True)) for steps, values in runs]
    common = sorted(set.intersection(*(set(of_run) for of_run in series)))
    at = [[of_run[step] for of_run in series] for step in common]
    return common, [fmean(v) for v in at], [min(v) for v in at], [max(v) for v in at]
