"""Lines over training and over places in the answer, and of what was forecast: one color and dash per run."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from steps.distillation.section.facts import Distillation
from steps.distillation.section.forecasts import Forecast
from steps.distillation.section.questions import HEADINGS, compared, compared_runs
from steps.distillation.section.runs import Run
from steps.distillation.section.wording import say
from steps.report.figures import LIGHT, Mark, new_axes, stage_color, to_svg
from steps.report.lines import DASHED, SOLID, draw_line, end_labels, over_runs
from steps.report.logs import logged
from steps.report.tables import Estimate
from steps.stats import intervals

PANEL = 330, 230
# Colors of the lines of one panel; from the seventh on dashed.
LINES = ("blue", "orange", "teal", "magenta", "wine", "neutral")
# Column → what its axis says, factor. The first three are drawn at once, the others are folded away.
QUANTITIES = {
    "overlap": ("overlap of the likeliest tokens, %", 100),
    "overlap_advantage": ("advantage on the overlap, nats", 1),
    "entropy_gap": ("entropy gap, nats per token", 1),
    "log_ratio": ("log-ratio to the teacher, nats", 1),
    "correct": ("correct samples, %", 100),
    "entropy": ("student's entropy, nats per token", 1),
    "mass_student": ("student's mass on the overlap, %", 100),
    "mass_teacher": ("teacher's mass on the overlap, %", 100),
}
FIRST_QUANTITIES = 3
BY_PLACE = {"overlap": ("overlap, %", 100), "divergence": ("reverse KL, nats per token", 1)}
# So many lines have bands at most.
BANDS = 6


def style(index: int) -> tuple[str, str | tuple]:
    """(color, dash) of a line."""
    return LIGHT[LINES[index % len(LINES)]], SOLID if index < len(LINES) else DASHED


def within_view(axes, lows: Iterable[float]) -> None:
    """Room around a flat line; no room below 0 for what is never below."""
    least, most = axes.get_ylim()
    if most - least < 1e-9:
        axes.set_ylim(least - 0.5, most + 0.5)
    elif least < 0 <= min(lows):
        axes.set_ylim(0, most)
    else:
        axes.set_ylim(least, most)


def curve_name(quantity: str, asked: str) -> str:
    return f"distillation_curve_{quantity}_{asked}"


def curve_figure(study: Distillation, quantity: str, asked: str, runs: list[Run]) -> str | None:
    """One quantity against the step: a line per candidate, a band from the lowest to the highest seed."""
    label, factor = QUANTITIES[quantity]
    figure, axes = new_axes(*PANEL)
    marks: list[Mark] = []
    labels, lows = [], []
    for index, run in enumerate(runs):
        seeds = [(steps, [factor * v for v in values]) for steps, values in logged(run.candidate, quantity) if steps]
        if not seeds:
            continue
        color, dash = style(index)
        steps, mean, low, high = over_runs(seeds)
        if len(seeds) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.14, lw=0)
        draw_line(axes, marks, run.name, steps, mean, color=color, lw=1.6, ls=dash)
        labels.append((run.name, steps[-1], mean[-1], color))
        lows += low
    if not labels:
        return None
    axes.set(xlabel="step", ylabel=label)
    axes.set_xlim(0, None)
    within_view(axes, lows)
    end_labels(axes, labels)
    return to_svg(figure, curve_name(quantity, asked), say("curve_title", label=label, heading=HEADINGS[asked]), marks)


def curve_figures(study: Distillation) -> dict[str, str]:
    figures = {}
    for asked, runs in compared(study).items():
        for quantity in QUANTITIES:
            if svg := curve_figure(study, quantity, asked, runs):
                figures[curve_name(quantity, asked)] = svg
    return figures


# --- places in the answer ------------------------------------------------------------------------


def place_name(column: str, run: Run) -> str:
    return f"distillation_place_{column}_{run.name}"


def place_figures(study: Distillation) -> dict[str, str]:
    """By place in the answer, at the start and at the end of training: one panel per run, all on one scale."""
    runs = compared_runs(study)
    figures = {}
    for column, (label, factor) in BY_PLACE.items():
        lines = {
            run.name: [
                [
                    ((begin + stop) / 2, factor * value)
                    for begin, stop, value in study.positions.by_place(run.candidate, column, end)
                ]
                for end in ("first", "last")
            ]
            for run in runs
        }
        values = [value for of in lines.values() for line in of for _, value in line]
        for run in runs:
            if all(lines[run.name]):
                figures[place_name(column, run)] = place_figure(run, column, label, lines[run.name], values)
    return figures


def place_figure(run: Run, column: str, label: str, lines: list, values: Sequence[float]) -> str:
    """The mean of a column over each tenth of training at either end, by place in the answer."""
    figure, axes = new_axes(*PANEL)
    marks: list[Mark] = []
    color = stage_color(run.stage)
    ends = []
    for line, name, ink, dash in zip(lines, ("start", "end"), (LIGHT["muted"], color), (DASHED, SOLID), strict=True):
        places, at = zip(*line, strict=True)
        draw_line(axes, marks, name, places, at, color=ink, lw=1.6, ls=dash, marker="o", ms=3.5)
        ends.append((name, places[-1], at[-1], ink))
    pad = 0.05 * (max(values) - min(values)) or 0.5
    low = min(values) - pad
    axes.set(xlabel="token of the answer", ylabel=label, xlim=(0, None))
    axes.set_ylim(max(0.0, low) if min(values) >= 0 else low, max(values) + pad)
    axes.set_title(run.name, loc="left", fontsize=11.5, fontweight="bold")
    end_labels(axes, ends)
    return to_svg(figure, place_name(column, run), say("place_title", label=label, run=run.name), marks)


# --- what was forecast ---------------------------------------------------------------------------


def pair_name(study: Distillation, forecast: Forecast) -> str:
    """Student and teacher by candidate, and the data set where it is not that of the reference."""
    text = f"{study.candidate_of(forecast.student).name} ← {study.candidate_of(forecast.teacher).name}"
    usual = study.reference.data if study.reference else ()
    return text if forecast.data in usual else f"{text}, {forecast.data}"


def continued(forecasts: list[Forecast]) -> list[tuple[float, Estimate]]:
    """(share of the student's answer that was given, how much more often the teacher is right from there): means over
    the seeds of one pair, with 0 where nothing was given."""
    seeds: list[dict[float, tuple[dict, int]]] = []
    for forecast in forecasts:
        measured = forecast.measured
        rows = {0.0: (measured["gain"], measured["prompts"])} if measured.get("gain") else {}
        rows |= {row["share"]: ({"value": row["gain"]} | row, row["n"]) for row in measured["prefixes"]}
        seeds.append({share: row for share, row in rows.items() if row[0]["value"] is not None})
    line = []
    for share in sorted(set.intersection(*(set(of) for of in seeds))):
        cells = [of[share] for of in seeds]
        values = tuple(cell["value"] for cell, _ in cells)
        within = tuple(fmean(cell[edge] for cell, _ in cells) for edge in ("low", "high"))
        low, high = intervals.widen(fmean(values), within, values)
        line.append((share, Estimate(fmean(values), low, high, 0.0, cells[0][1], values)))
    return line


def forecast_figure(study: Distillation) -> str | None:
    """The gain of the teacher's continuation over the student's own, by how much of the student's answer is given."""
    pairs: dict[str, list[Forecast]] = {}
    for forecast in study.forecasts:
        pairs.setdefault(pair_name(study, forecast), []).append(forecast)
    lines = {name: line for name, of in pairs.items() if len(line := continued(of)) > 1}
    if not lines:
        return None
    figure, axes = new_axes(440, max(260, 110 + 14 * len(lines)))
    marks: list[Mark] = []
    ends = []
    for index, (name, line) in enumerate(lines.items()):
        color, dash = style(index)
        shares = [100 * share for share, _ in line]
        value, low, high = ([100 * getattr(e, edge) for _, e in line] for edge in ("value", "low", "high"))
        if len(lines) <= BANDS:
            axes.fill_between(shares, low, high, color=color, alpha=0.08, lw=0)
        draw_line(axes, marks, name, shares, value, color=color, lw=1.6, ls=dash, marker="o", ms=4)
        ends.append((name, shares[-1], value[-1], color))
    axes.axhline(0, color=LIGHT["muted"], lw=0.9, zorder=1)
    axes.set(xlabel="given of the student's answer, %", ylabel="teacher goes on better by, points")
    axes.set_ylim(*axes.get_ylim())
    end_labels(axes, ends)
    return to_svg(figure, "distillation_forecast", say("forecast_title"), marks)
