"""The figures of incomplete learning: arms against causes, truth against attribution, causes beside the paper's."""

from textwrap import fill

from steps.causes import NUMERALS
from steps.figures import LIGHT, new_axes, to_svg
from steps.learning import ATTRIBUTED, GROUP_LABELS, LEARNED, TRUE, Study
from steps.learning_stats import rate
from steps.learning_tables import PAPER_SHARES, bases, cause_shares, confusion, groups

LABEL_CHARS = 13
# The tint of blue from which on the page's own color reads better than ink: every number has a contrast of 3.5 at
# least, on the light page and on the dark one.
DARK_TINT = 0.82


def _label(name: str) -> str:
    text = fill(GROUP_LABELS[name], LABEL_CHARS)
    return f"{NUMERALS[name]}\n{text}" if name in NUMERALS else text


def share_map(
    name: str,
    title: str,
    rows: list[str],
    columns: list[str],
    cells: dict[tuple[int, int], tuple[float, str]],
    framed: set[tuple[int, int]],
    width: float = 80,
) -> str:
    """A table of shares as tints of blue from 0 to 1, each with its text; framed cells carry the point.

    Args:
        cells: (row, column) → (share, text).
        width: of a column, in pixels.
    """
    from matplotlib.patches import Rectangle

    longest = max(map(len, rows))
    figure, axes = new_axes(40 + 6.5 * longest + width * len(columns), 90 + 34 * len(rows))
    for (i, j), (share, text) in sorted(cells.items()):
        alpha = 0.04 + 0.96 * share
        box = (j - 0.47, i - 0.45), 0.94, 0.9
        axes.add_patch(Rectangle(*box, fc=LIGHT["blue"], alpha=alpha, lw=0))
        weight = "bold" if (i, j) in framed else "normal"
        ink = LIGHT["surface"] if alpha > DARK_TINT else LIGHT["ink"]
        axes.text(j, i, text, ha="center", va="center", color=ink, fontweight=weight)
        if (i, j) in framed:
            axes.add_patch(Rectangle(*box, fill=False, ec=LIGHT["ink"], lw=2))
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    axes.set_xticks(range(len(columns)), columns, fontsize=10)
    axes.set_yticks(range(len(rows)), rows, color=LIGHT["ink"])
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return to_svg(figure, name, title)


def by_cause_map(study: Study, by_truth: bool) -> str:
    """Arms by groups of rows: percent unlearned; the causes that an arm treats are framed."""
    names = groups(study, by_truth)
    cells, framed = {}, set()
    for i, arm in enumerate(study.arms):
        for j, name in enumerate(names):
            if found := rate(study, arm, study.group(name, by_truth)):
                cells[i, j] = (found.value, f"{100 * found.value:.0f}")
            if arm.treatment and name in arm.treats:
                framed.add((i, j))
    n = [rate(study, study.plain, study.group(name, by_truth)).n for name in names]
    columns = [f"{_label(name)}\nn = {count:,}" for name, count in zip(names, n, strict=True)]
    name = f"{study.name}_by_{'truth' if by_truth else 'cause'}"
    title = "Percent of rows unlearned, by checkpoint and " + ("planted cause" if by_truth else "attributed cause")
    return share_map(name, title, [arm.name for arm in study.arms], columns, cells, framed)


def confusion_map(study: Study) -> str:
    """Planted against attributed cause; tints are shares of a line, numbers are rows."""
    given = (*ATTRIBUTED, LEARNED)
    counts = confusion(study)
    cells, framed = {}, set()
    for i, truth in enumerate(TRUE):
        total = sum(counts[truth, name] for name in given)
        for j, name in enumerate(given):
            count = counts[truth, name]
            cells[i, j] = (count / total if total else 0.0, f"{count:,.0f}")
            if name == truth or (i, name) == (len(TRUE) - 1, LEARNED):
                framed.add((i, j))
    rows = [" ".join(_label(name).split()) for name in TRUE]
    columns = ["learned" if name == LEARNED else _label(name) for name in given]
    return share_map(f"{study.name}_confusion", "Planted against attributed cause", rows, columns, cells, framed)


def shares_bars(study: Study) -> str:
    """Share of each cause among the unlearned rows: bars with intervals here, diamonds in the paper."""
    shares = cause_shares(study)
    figure, axes = new_axes(560, 50 + 36 * len(shares))
    for i, (cause, share) in enumerate(shares.items()):
        value, low, high = (100 * x for x in (share.value, share.low, share.high))
        axes.barh(i, value, height=0.56, color=LIGHT["blue"], alpha=0.75, lw=0)
        axes.plot([low, high], [i, i], color=LIGHT["ink"], lw=1.1)
        axes.plot(100 * PAPER_SHARES[cause], i, "D", ms=8, mfc=LIGHT["surface"], mec=LIGHT["orange"], mew=1.8)
    axes.set_yticks(range(len(shares)), [" ".join(_label(cause).split()) for cause in shares], color=LIGHT["ink"])
    axes.set(ylim=(len(shares) - 0.5, -0.5), xlim=(0, None), xlabel="% of the unlearned rows")
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    return to_svg(figure, f"{study.name}_causes", "Causes of the unlearned rows, here and in the paper")


def learning_figures(study: Study) -> dict[str, str]:
    if not study.unlearned:
        return {}
    made = {f"{study.name}_by_{'truth' if t else 'cause'}": by_cause_map(study, t) for t in bases(study)}
    made[f"{study.name}_causes"] = shares_bars(study)
    if study.truth is not None:
        made[f"{study.name}_confusion"] = confusion_map(study)
    return made
