"""Tables of numbers as tints."""

from steps.report.figures import LIGHT, Mark, new_axes, to_svg

# The tint of blue from which on the page's own color reads better than ink: every number has a contrast of 3.5 at
# least, on the light page and on the dark one.
DARK_TINT = 0.82


def share_map(
    name: str,
    title: str,
    rows: list[str],
    columns: list[str],
    cells: dict[tuple[int, int], tuple[float, str]],
    framed: set[tuple[int, int]],
    width: float = 80,
) -> str:
    """A table of shares as tints of blue from 0 to 1, each with its text; framed cells carry the point, and each says
    what it is when it is pointed at.

    Args:
        cells: (row, column) → (share, text).
        width: of a column, in pixels.
    """
    from matplotlib.patches import Rectangle

    longest = max(map(len, rows))
    figure, axes = new_axes(40 + 6.5 * longest + width * len(columns), 90 + 34 * len(rows))
    marks = []
    for (i, j), (share, text) in sorted(cells.items()):
        alpha = 0.04 + 0.96 * share
        box = (j - 0.47, i - 0.45), 0.94, 0.9
        tint = axes.add_patch(Rectangle(*box, fc=LIGHT["blue"], alpha=alpha, lw=0))
        marks.append(Mark(f"cell-{i}-{j}", rows[i], f"{rows[i]}, {' '.join(columns[j].split())}: {text}"))
        tint.set_gid(marks[-1].id)
        weight = "bold" if (i, j) in framed else "normal"
        ink = LIGHT["surface"] if alpha > DARK_TINT else LIGHT["ink"]
        axes.text(j, i, text, ha="center", va="center", color=ink, fontweight=weight)
        if (i, j) in framed:
            axes.add_patch(Rectangle(*box, fill=False, ec=LIGHT["ink"], lw=2))
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks([])
    for j, column in enumerate(columns):  # line by line, each centered by itself: another language has other widths
        for k, line in enumerate(reversed(column.split("\n"))):
            axes.annotate(
                line, (j, -0.5), (0, 5 + 13 * k), textcoords="offset points", ha="center", va="bottom", fontsize=11,
                color=LIGHT["muted"], annotation_clip=False,
            )  # fmt: skip
    axes.set_yticks(range(len(rows)), rows, color=LIGHT["ink"])
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return to_svg(figure, name, title, marks)
