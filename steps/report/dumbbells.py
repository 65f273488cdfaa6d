"""Before and after of both axes, a line of two dumbbells per checkpoint."""

from collections.abc import Mapping, Sequence

from steps.report.figures import LIGHT, Mark, new_axes, to_svg
from steps.report.tables import Estimate, interval_text, number_text

# Axis → color token and marker: told apart in grey too.
AXIS_LOOKS = {"target": ("blue", "o"), "general": ("orange", "s")}
# Pixels of a checkpoint's line, and of a character of its name.
LINE, CHAR = 26, 6.6


def dumbbells(
    name: str,
    title: str,
    rows: Sequence[tuple[str, Mapping[str, tuple[float, float, Estimate]]]],
    bold: str | None = None,
) -> str:
    """From a hollow start to a filled end, and by how much at the right.

    Args:
        rows: (checkpoint, axis → (share before, share after, change)) each.
        bold: the checkpoint whose name stands out.
    """
    from matplotlib.lines import Line2D

    figure, axes = new_axes(230 + CHAR * max(len(of) for of, _ in rows) + 360, 96 + LINE * len(rows))
    marks = []
    for i, (of, moves) in enumerate(rows):
        for j, (axis, (before, after, change)) in enumerate(moves.items()):
            color, marker = LIGHT[AXIS_LOOKS[axis][0]], AXIS_LOOKS[axis][1]
            y = i + (j - (len(moves) - 1) / 2) * 0.42
            axes.plot([100 * before, 100 * after], [y, y], color=color, lw=2, zorder=2)
            axes.plot(100 * before, y, marker, ms=6, mfc=LIGHT["surface"], mec=color, mew=1.4, zorder=3)
            text = f"{of}: {axis} {number_text('percent', before)} → {number_text('percent', after)} %"
            marks.append(Mark(f"end-{len(marks)}", of, f"{text}, {number_text('points', change.value)}"
                              f" {interval_text('points', change)}"))  # fmt: skip
            (end,) = axes.plot(100 * after, y, marker, ms=7.5, color=color, zorder=4)
            end.set_gid(marks[-1].id)
            axes.annotate(
                number_text("points", change.value), (1, y), (14 + 52 * [*AXIS_LOOKS].index(axis), 0),
                xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=11, color=color,
                annotation_clip=False,
            )  # fmt: skip
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="% right; at the right: change in points")
    names = axes.set_yticks(range(len(rows)), [of for of, _ in rows], color=LIGHT["ink"])
    for tick, (of, _) in zip(names, rows, strict=True):
        tick.label1.set_fontweight("bold" if of == bold else "normal")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    handles = [Line2D([], [], color=LIGHT[token], marker=marker, lw=2, label=axis)
               for axis, (token, marker) in AXIS_LOOKS.items()]  # fmt: skip
    handles.append(
        Line2D(
            [], [], color=LIGHT["muted"], marker="o", mfc=LIGHT["surface"], lw=0, label="hollow: where training started"
        )
    )
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=11, handlelength=1.6)
    return to_svg(figure, name, title, marks)
