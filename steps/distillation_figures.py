"""The figures of distillation: recovery by question, curves, places in the answer, forecasts, budgets, teachers."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from steps import estimators
from steps.arms import Arm
from steps.distillation import Budget, Distillation, Family, Forecast, Recovery, Run
from steps.figures import LIGHT, STAGES, new_axes, place_labels, scatter, stage_color, to_svg
from steps.reinforcement_figures import DASHED, SOLID, end_labels, over_runs
from steps.tables import Estimate, interval_text, number_text

# What an arm may change of the reference → the settings that say so, in the order of the figures.
QUESTIONS = {
    "teacher": ("teachers",),
    "start": ("from",),
    "objective": ("divergence", "support", "off_policy", "temperature"),
    "length": ("horizon", "max_new_tokens"),
    "prompts": ("data", "pass_rate", "curriculum"),
    "budget": ("steps", "epochs", "prompts", "generations"),
}
# Question → its heading in a figure. The last three are not about one setting.
HEADINGS = {
    "reference": "reference",
    "teacher": "another teacher",
    "start": "another start",
    "objective": "objective and support",
    "length": "length of answers",
    "prompts": "prompts",
    "budget": "budget",
    "several": "several teachers",
    "off-policy": "off-policy",
    "other": "several things at once",
}
PANEL = 330, 230
# Colors of the lines of one panel; from the seventh on dashed.
LINES = ("blue", "orange", "teal", "magenta", "wine", "neutral")
METHODS = {"sft": ("blue", "o"), "rl": ("teal", "^"), "opd": ("magenta", "*"), "distill": ("wine", "D")}
# Axis of a recovery → its marker.
MARKERS = {"target": "o", "general": "s"}
# Column → what its axis says, factor. The first three are drawn at once, the others are folded away.
QUANTITIES = {
    "overlap": ("overlap of the likeliest tokens, %", 100),
    "overlap_advantage": ("advantage on the overlap, nats", 1),
    "entropy_gap": ("entropy gap, nats per token", 1),
    "reward": ("log-ratio to the teacher, nats", 1),
    "correct": ("correct samples, %", 100),
    "entropy": ("student's entropy, nats per token", 1),
    "mass_student": ("student's mass on the overlap, %", 100),
    "mass_teacher": ("teacher's mass on the overlap, %", 100),
}
FIRST_QUANTITIES = 3
BY_PLACE = {"overlap": ("overlap, %", 100), "divergence": ("reverse KL, nats per token", 1)}
# Shares beyond these, in percent, are drawn at the edge.
LEAST_SHARE, MOST_SHARE = -100, 200
ROW, HEADING = 19, 25
# What marks a teacher that scores below its student's start.
BELOW = "↓"
# So many arms stand in one figure of recoveries, which prints on one page.
ROWS = 24
# So many lines have bands at most.
BANDS = 6
COSTS = {
    "generated": ("tokens generated", 1),
    "trained": ("tokens trained on", 1),
    "flops": ("TFLOPs of training", 1e-12),
}


# --- questions -----------------------------------------------------------------------------------


def question(found: Distillation, run: Run) -> str:
    """Which question an arm answers: what sets it apart from the reference."""
    if found.reference and run.arm is found.reference.arm:
        return "reference"
    if len(run.teachers) > 1:
        return "several"
    if run.stage == "distill":
        return "off-policy"
    differing = found.differs(run)
    asked = {name for name, keys in QUESTIONS.items() if any(key in keys for key in differing)}
    if asked == {"teacher", "prompts"}:  # a teacher with prompts of its own
        return "teacher"
    return asked.pop() if len(asked) == 1 else "other"


def by_question(found: Distillation) -> dict[str, list[Run]]:
    """Question → its runs, in the order of HEADINGS and of the recipes."""
    asked = [(question(found, run), run) for run in (*found.runs, *found.merged)]
    return {name: runs for name in HEADINGS if (runs := [run for of, run in asked if of == name])}


# --- recovery ------------------------------------------------------------------------------------


def recovery_rows(found: Distillation) -> list[tuple[str, list[Recovery]]]:
    """(heading, what was measured of its arms)."""
    rows = []
    for name, runs in by_question(found).items():
        if name != "budget":  # the figures of the budget show these
            of_runs = [part for run in runs for part in found.recoveries(run) if part.change]
            rows.append((HEADINGS[name], of_runs))
    return [(heading, parts) for heading, parts in rows if parts]


def recovery_label(part: Recovery) -> str:
    """The arm, its axis where that is not the target alone, and a mark where its teacher scores below its start."""
    alone = len(part.run.domains) == 1 and part.domain.axis == "target"
    text = part.run.name if alone else f"{part.run.name}, {part.domain.axis}"
    return f"{text} {BELOW}" if part.share and part.gap.value < 0 else text


def recovery_name(index: int) -> str:
    return "distillation_recovery" if index == 0 else f"distillation_recovery_{index + 1}"


def recovery_figures(found: Distillation) -> dict[str, str]:
    """All arms in one figure or, where they are too many for a page, by question in several on one scale."""
    groups = recovery_rows(found)
    columns = -(-sum(len(parts) for _, parts in groups) // ROWS)
    each = sum(len(parts) + 1 for _, parts in groups) / max(1, columns)
    panels: list[list] = [[] for _ in range(columns)]
    done = 0.0
    for group in groups:
        # By where its middle falls, so that no question is torn apart.
        size = len(group[1]) + 1
        panels[min(columns - 1, int((done + size / 2) / each))].append(group)
        done += size
    shares = [part.share for _, parts in groups for part in parts if part.share]
    left = max(LEAST_SHARE, min([-10.0, *(100 * e.low for e in shares)]) - 5)
    right = min(MOST_SHARE, max([110.0, *(100 * e.high for e in shares)]) + 5)
    filled = [panel for panel in panels if panel]
    return {recovery_name(i): recovery_figure(recovery_name(i), panel, (left, right)) for i, panel in enumerate(filled)}


def recovery_figure(name: str, groups: list[tuple[str, list[Recovery]]], frame: tuple[float, float]) -> str:
    """A line per arm and axis: how much of the way from its start to its teacher it went, with its interval."""
    left, right = frame
    heights, labels, y = [], [], 0.0
    for heading, parts in groups:
        y += HEADING
        labels.append((y, heading, True))
        for part in parts:
            y += ROW
            labels.append((y, recovery_label(part), False))
            heights.append((y, part))
    figure, axes = new_axes(400, y + 70)
    for x in (0, 100):
        axes.axvline(x, color=LIGHT["muted"], lw=1.1, ls=DASHED, zorder=1)
    for height, part in heights:
        color, marker = stage_color(part.run.stage), MARKERS[part.domain.axis]
        if part.share is None:
            text = f"no gap to close; change {number_text('points', part.change.value)}"
            text += f" {interval_text('points', part.change)}"
            axes.annotate(
                text, (left, height), (4, 0), textcoords="offset points", va="center", fontsize=9.5,
                color=LIGHT["muted"],
            )  # fmt: skip
            continue
        value, low, high = (100 * edge for edge in (part.share.value, part.share.low, part.share.high))
        inside = [min(max(edge, left), right) for edge in (low, high)]
        axes.plot(inside, [height] * 2, color=color, lw=1.3, zorder=2, solid_capstyle="butt")
        for beyond, at, arrow in ((low < left, left, "<"), (high > right, right, ">")):
            if beyond:
                axes.plot(at, height, arrow, ms=5, color=color, zorder=3, clip_on=False)
        if left <= value <= right:
            fill = color if part.domain.axis == "target" else LIGHT["surface"]
            axes.plot(value, height, marker, ms=6.5, color=color, mfc=fill, mew=1.5, zorder=4)
        else:
            at, shift, side = (left, 8, "left") if value < left else (right, -8, "right")
            axes.annotate(
                f"{number_text('percent', part.share.value)} {interval_text('percent', part.share)}", (at, height),
                (shift, 0), textcoords="offset points", va="center", ha=side, fontsize=9.5, color=color,
                bbox={"fc": LIGHT["surface"], "ec": "none", "pad": 1},
            )  # fmt: skip
    axes.set(xlim=(left, right), ylim=(y + ROW, 0), xlabel="recovered of the gap to the teacher, %")
    axes.set_yticks([height for height, *_ in labels], [label for _, label, _ in labels])
    for tick, (_, _, heading) in zip(axes.get_yticklabels(), labels, strict=True):
        tick.set_color(LIGHT["ink"])
        tick.set_fontweight("bold" if heading else "normal")
        tick.set_fontsize(10.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for x, text in ((0, "start"), (100, "teacher")):
        axes.annotate(
            text, (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=9.5, color=LIGHT["muted"],
            annotation_clip=False,
        )  # fmt: skip
    return to_svg(figure, name, "Recovered share of the gap to the teacher, by question")


# --- lines ---------------------------------------------------------------------------------------


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


def compared(found: Distillation) -> dict[str, list[Run]]:
    """Question → on-policy runs whose curves stand in one panel: the reference with other teachers and other starts."""
    asked = by_question(found)
    reference = asked.get("reference", [])
    sets = {
        name: reference + [run for run in asked.get(name, []) if run.stage == "opd"] for name in ("teacher", "start")
    }
    sets = {name: runs for name, runs in sets.items() if len(runs) > len(reference)}
    return sets or ({"teacher": reference} if reference else {})


def curve_figure(found: Distillation, quantity: str, asked: str, runs: list[Run]) -> str | None:
    """One quantity against the step: a line per arm, a band from the lowest to the highest seed."""
    label, factor = QUANTITIES[quantity]
    figure, axes = new_axes(*PANEL)
    ends, lows = [], []
    for index, run in enumerate(runs):
        seeds = [(steps, [factor * v for v in values]) for steps, values in found.curve(run, quantity) if steps]
        if not seeds:
            continue
        color, dash = style(index)
        steps, mean, low, high = over_runs(seeds)
        if len(seeds) > 1:
            axes.fill_between(steps, low, high, color=color, alpha=0.14, lw=0)
        axes.plot(steps, mean, color=color, lw=1.6, ls=dash)
        ends.append((run.name, steps[-1], mean[-1], color))
        lows += low
    if not ends:
        return None
    axes.set(xlabel="step", ylabel=label)
    axes.set_xlim(0, None)
    within_view(axes, lows)
    end_labels(axes, ends)
    return to_svg(figure, curve_name(quantity, asked), f"{label} against the step, {HEADINGS[asked]}")


def curve_figures(found: Distillation) -> dict[str, str]:
    made = {}
    for asked, runs in compared(found).items():
        for quantity in QUANTITIES:
            if svg := curve_figure(found, quantity, asked, runs):
                made[curve_name(quantity, asked)] = svg
    return made


# --- places in the answer ------------------------------------------------------------------------


def place_name(column: str, run: Run) -> str:
    return f"distillation_place_{column}_{run.name}"


def place_figures(found: Distillation) -> dict[str, str]:
    """By place in the answer, at the start and at the end of training: one panel per run, all on one scale."""
    runs = list({run.name: run for of in compared(found).values() for run in of}.values())
    made = {}
    for column, (label, factor) in BY_PLACE.items():
        lines = {
            run.name: [
                [((begin + stop) / 2, factor * value) for begin, stop, value in found.by_position(run, column, end)]
                for end in ("first", "last")
            ]
            for run in runs
        }
        values = [value for of in lines.values() for line in of for _, value in line]
        for run in runs:
            if all(lines[run.name]):
                made[place_name(column, run)] = place_figure(run, column, label, lines[run.name], values)
    return made


def place_figure(run: Run, column: str, label: str, lines: list, values: Sequence[float]) -> str:
    """The mean of a column over each tenth of training at either end, by place in the answer."""
    figure, axes = new_axes(*PANEL)
    color = stage_color(run.stage)
    ends = []
    for line, name, ink, dash in zip(lines, ("start", "end"), (LIGHT["muted"], color), (DASHED, SOLID), strict=True):
        places, at = zip(*line, strict=True)
        axes.plot(places, at, color=ink, lw=1.6, ls=dash, marker="o", ms=3.5)
        ends.append((name, places[-1], at[-1], ink))
    pad = 0.05 * (max(values) - min(values)) or 0.5
    low = min(values) - pad
    axes.set(xlabel="token of the answer", ylabel=label, xlim=(0, None))
    axes.set_ylim(max(0.0, low) if min(values) >= 0 else low, max(values) + pad)
    axes.set_title(run.name, loc="left", fontsize=11.5, fontweight="bold")
    end_labels(axes, ends)
    return to_svg(figure, place_name(column, run), f"{label} by place in the answer: {run.name}")


# --- what was forecast ---------------------------------------------------------------------------


def pair_name(found: Distillation, forecast: Forecast) -> str:
    """Student and teacher by arm, and the data set where it is not that of the reference."""
    text = f"{found.arm_of(forecast.student).name} ← {found.arm_of(forecast.teacher).name}"
    usual = found.reference.data if found.reference else ()
    return text if forecast.data in usual else f"{text}, {forecast.data}"


def continued(forecasts: list[Forecast]) -> list[tuple[float, Estimate]]:
    """(share of the student's answer that was given, how much more often the teacher is right from there): means over
    the seeds of one pair, with 0 where nothing was given."""
    seeds: list[dict[float, tuple[dict, int]]] = []
    for forecast in forecasts:
        found = forecast.found
        rows = {0.0: (found["gain"], found["prompts"])} if found.get("gain") else {}
        rows |= {row["share"]: ({"value": row["gain"]} | row, row["n"]) for row in found["prefixes"]}
        seeds.append({share: row for share, row in rows.items() if row[0]["value"] is not None})
    line = []
    for share in sorted(set.intersection(*(set(of) for of in seeds))):
        cells = [of[share] for of in seeds]
        values = tuple(cell["value"] for cell, _ in cells)
        within = tuple(fmean(cell[edge] for cell, _ in cells) for edge in ("low", "high"))
        low, high = estimators.widen(fmean(values), within, values)
        line.append((share, Estimate(fmean(values), low, high, 0.0, cells[0][1], values)))
    return line


def forecast_figure(found: Distillation) -> str | None:
    """The gain of the teacher's continuation over the student's own, by how much of the student's answer is given."""
    pairs: dict[str, list[Forecast]] = {}
    for forecast in found.forecasts:
        pairs.setdefault(pair_name(found, forecast), []).append(forecast)
    lines = {name: line for name, of in pairs.items() if len(line := continued(of)) > 1}
    if not lines:
        return None
    figure, axes = new_axes(440, max(260, 110 + 14 * len(lines)))
    ends = []
    for index, (name, line) in enumerate(lines.items()):
        color, dash = style(index)
        shares = [100 * share for share, _ in line]
        value, low, high = ([100 * getattr(e, edge) for _, e in line] for edge in ("value", "low", "high"))
        if len(lines) <= BANDS:
            axes.fill_between(shares, low, high, color=color, alpha=0.08, lw=0)
        axes.plot(shares, value, color=color, lw=1.6, ls=dash, marker="o", ms=4)
        ends.append((name, shares[-1], value[-1], color))
    axes.axhline(0, color=LIGHT["muted"], lw=0.9, zorder=1)
    axes.set(xlabel="given of the student's answer, %", ylabel="teacher goes on better by, points")
    axes.set_ylim(*axes.get_ylim())
    end_labels(axes, ends)
    return to_svg(figure, "distillation_forecast", "How much better the teacher goes on from the student's answers")


# --- budget --------------------------------------------------------------------------------------


def plain_number(value: float, _=None) -> str:
    """2k, 30k, 1.5M."""
    for scale, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def budget_name(cost: str) -> str:
    return f"distillation_budget_{cost}"


def budget_figure(found: Distillation, budget: Budget, cost: str) -> str | None:
    """Score against what was spent, log scale: a line per method, the RL score across."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    label, factor = COSTS[cost]
    lines = []
    for series in budget.series:
        at = [(spent * factor, dose) for dose in series.doses if (spent := getattr(dose, cost))]
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
        token, marker = METHODS.get(series.stage, STAGES[series.stage])
        color = LIGHT[token]
        xs, ys = [x for x, _ in at], [100 * dose.score.value for _, dose in at]
        bars = [[y - 100 * dose.score.low for y, (_, dose) in zip(ys, at, strict=True)],
                [100 * dose.score.high - y for y, (_, dose) in zip(ys, at, strict=True)]]  # fmt: skip
        axes.errorbar(xs, ys, yerr=bars, color=color, lw=1.4, fmt=marker, ls=SOLID, ms=6, elinewidth=0.9)
        names.append((series.name, xs[-1], ys[-1]))
    axes.set_xscale("log")
    few = max(x for _, at in lines for x, _ in at) > 100 * min(x for _, at in lines for x, _ in at)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if few else (1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(plain_number))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.12)
    unit = "pass@1" if found.target else "greedy score"
    axes.set(xlabel=label, ylabel=f"{unit}, %")
    figure.draw_without_rendering()  # lays the axes out, which places the labels
    taken = []
    for line in axes.lines:  # what is drawn, in steps so short that their boxes cover little else
        path = line.get_path().interpolated(12).transformed(line.get_transform()).vertices
        taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in path.tolist()]
    place_labels(axes, names, taken, size=10)
    return to_svg(figure, budget_name(cost), f"{unit} against {label}")


# --- several teachers ----------------------------------------------------------------------------


def family_name(index: int) -> str:
    return "distillation_teachers" if index == 0 else f"distillation_teachers_{index + 1}"


def family_arms(family: Family) -> list[Arm]:
    arms = [family.start, *family.teachers.values(), *(run.arm for run in family.students), *family.merges]
    return list({arm.name: arm for arm in arms}.values())


def family_figure(family: Family, name: str) -> str | None:
    """The target against the general axis: teachers, what was taught by several of them, merges of them."""
    arms = [arm for arm in family_arms(family) if arm.axis("target") and arm.axis("general")]
    if len(arms) < 3:
        return None
    title = f"Target against general capability of several teachers of {family.start.name}"
    return scatter(arms, {family.start.name}, name, title, size=(420, 380))


def distillation_figures(found: Distillation) -> dict[str, str]:
    made = recovery_figures(found) | curve_figures(found) | place_figures(found)
    if svg := forecast_figure(found):
        made["distillation_forecast"] = svg
    for cost in COSTS if found.budget else ():
        if svg := budget_figure(found, found.budget, cost):
            made[budget_name(cost)] = svg
    for index, family in enumerate(found.families):
        if svg := family_figure(family, family_name(index)):
            made[family_name(index)] = svg
    return made
