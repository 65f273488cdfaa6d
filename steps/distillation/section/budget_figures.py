"""Scores against what was spent to come to them: one line per method, the score of RL across."""

from steps.distillation.section.budgets import Budget
from steps.distillation.section.facts import Distillation
from steps.distillation.section.wording import say
from steps.report.figures import LIGHT, new_axes, reaches, to_svg
from steps.report.lines import DASHED, SOLID
from steps.report.scatter import place_labels
from steps.settings import stages

PANEL = 330, 230
# Where a line must be told from that of on-policy distillation by its color alone.
LOOKS = {"distill": ("wine", "D")}
COSTS = {
    "generated": ("tokens generated", 1),
    "trained": ("tokens trained on", 1),
    "flops": ("TFLOPs of training", 1e-12),
}


def plain_number(value: float, _=None) -> str:
    """2k, 30k, 1.5M."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def budget_name(cost: str) -> str:
    return f"distillation_budget_{cost}"


def budget_figure(study: Distillation, budget: Budget, cost: str) -> str | None:
    """Score against what was spent, log scale: a line per method, the RL score across."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    label, factor = COSTS[cost]
    lines = []
    for series in budget.series:
        at = [(spent * factor, point) for point in series.budget_points if (spent := getattr(point, cost))]
        if at:
            lines.append((series, sorted(at, key=lambda pair: pair[0])))
    if len(lines) < 2:
        return None
    figure, axes = new_axes(*PANEL)
    level = 100 * budget.score.value
    axes.axhspan(100 * budget.score.low, 100 * budget.score.high, color=LIGHT["muted"], alpha=0.1, lw=0)
    axes.axhline(level, color=LIGHT["muted"], lw=1, ls=DASHED, zorder=1)
    names = []
    for series, at in lines:
        token, marker = LOOKS.get(series.stage, stages.look(series.stage))
        color = LIGHT[token]
        xs, ys = [x for x, _ in at], [100 * point.score.value for _, point in at]
        bars = reaches(point.score for _, point in at)
        axes.errorbar(xs, ys, yerr=bars, color=color, lw=1.4, fmt=marker, ls=SOLID, ms=6, elinewidth=0.9)
        names.append((series.name, xs[-1], ys[-1]))
    axes.set_xscale("log")
    few = max(x for _, at in lines for x, _ in at) > 100 * min(x for _, at in lines for x, _ in at)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    score = say("score_axis", task=study.scores.target)
    axes.set(xlabel=label, ylabel=f"{score}, %")
    figure.draw_without_rendering()  # lays the axes out, which places the labels
    taken = []
    for line in axes.lines:  # what is drawn, in steps so short that their boxes cover little else
        path = line.get_path().interpolated(12).transformed(line.get_transform()).vertices
        taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in path.tolist()]
    place_labels(axes, names, taken)
    return to_svg(figure, budget_name(cost), say("budget_title", score=score, label=label))
