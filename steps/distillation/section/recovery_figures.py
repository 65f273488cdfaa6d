"""Figures of recovery: how much of the way from its start to its teacher each run went, by question."""

from steps.distillation.section.facts import Distillation
from steps.distillation.section.questions import recovery_rows
from steps.distillation.section.runs import Recovery
from steps.distillation.section.wording import say
from steps.report.figures import LIGHT, new_axes, stage_color, to_svg
from steps.report.language import tr
from steps.report.lines import DASHED
from steps.report.tables import cell_text

# Axis of a recovery → its marker.
MARKERS = {"target": "o", "general": "s"}
# Shares beyond these, in percent, are drawn at the edge.
LEAST_SHARE, MOST_SHARE = -100, 200
ROW, HEADING = 19, 25
# What marks a teacher that scores below its student's start.
BELOW = "↓"
# So many candidates stand in one figure of recoveries, which prints on one page.
ROWS = 24


def run_label(part: Recovery) -> str:
    """The candidate, and its axis where that is not the target alone."""
    alone = len(part.run.domains) == 1 and part.domain.axis == "target"
    return part.run.name if alone else f"{part.run.name}, {tr(part.domain.axis)}"


def recovery_label(part: Recovery) -> str:
    """The same with a mark where its teacher scores below its start."""
    return f"{run_label(part)} {BELOW}" if part.share and part.gap.value < 0 else run_label(part)


def recovery_name(index: int) -> str:
    return "distillation_recovery" if index == 0 else f"distillation_recovery_{index + 1}"


def recovery_figures(study: Distillation) -> dict[str, str]:
    """All candidates in one figure or, where they are too many for a page, by question in several on one scale."""
    groups = recovery_rows(study)
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
    """A line per candidate and axis: how much of the way from its start to its teacher it went, with its interval."""
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
            axes.annotate(
                say("no_change", change=part.change), (left, height), (4, 0), textcoords="offset points", va="center",
                fontsize=11, color=LIGHT["muted"],
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
                cell_text("percent", part.share), (at, height),
                (shift, 0), textcoords="offset points", va="center", ha=side, fontsize=11, color=color,
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
            text, (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=11, color=LIGHT["muted"],
            annotation_clip=False,
        )  # fmt: skip
    return to_svg(figure, name, say("recovery_title"))
