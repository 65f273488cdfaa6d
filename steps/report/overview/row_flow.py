"""The flow of rows as figures: what each step took of all data sets, and from each file to what became of its rows."""

from html import escape
from typing import Any

from steps.report.figures import LIGHT
from steps.report.maps import share_map
from steps.report.overview.row_tables import OUTCOME_LABELS, Flow
from steps.report.overview.svg import canvas, clip, draw_bar, draw_text
from steps.report.tables import number_text
from steps.settings.data import DATA_STEPS


def cleaning(flows: list[Flow]) -> str:
    """Data sets by steps: how many rows each step took, tinted by their share of those that entered."""
    took = {flow.dataset: dict.fromkeys(DATA_STEPS, 0) for flow in flows}
    for flow in flows:
        for outcome in flow.outcomes:
            if isinstance(outcome, tuple):
                took[flow.dataset][outcome[0]] += flow.total(outcome)
    steps = [step for step in DATA_STEPS if any(of[step] for of in took.values())]
    columns = ["entered", *steps, "left"]
    cells = {}
    for i, flow in enumerate(flows):
        entered = max(1, flow.rows_in)
        cells[i, 0] = (0.0, number_text("integer", flow.rows_in))
        for j, step in enumerate(steps, start=1):
            share = took[flow.dataset][step] / entered
            text = f"−{took[flow.dataset][step]:,}\n{number_text('percent', share)} %" if share else "0"
            cells[i, j] = (share, text)
        left = flow.rows_in - flow.quarantined
        cells[i, len(steps) + 1] = (0.0, f"{left:,}\n{number_text('percent', left / entered)} %")
    names = [flow.dataset for flow in flows]
    return share_map("cleaning", "What each cleaning step took", names, columns, cells, set(), 104)


def row_flow(flow: Flow) -> str:
    """Ribbons from each source file (left) to what became of its rows (right); heights are counts."""
    counts = flow.shown
    total = max(1, flow.rows_in)
    scale, line, x0, x1, bar = 320 / total, 17.0, 186.0, 470.0, 10.0

    right: dict[Any, tuple[float, float]] = {}
    labels: list[str] = []
    y, step = 4.0, None
    for outcome in flow.outcomes:
        reason = isinstance(outcome, tuple)
        if reason and outcome[0] != step:
            step = outcome[0]
            y += 8
            labels.append(draw_text(x1 + bar + 12, y + 11, f"quarantined by {step}", "muted", font_size=11))
            y += line
        height = max(flow.total(outcome) * scale, 1.5)
        middle = y + max(height, line) / 2
        right[outcome] = (middle - height / 2, height)
        color = "orange" if reason else "blue"
        name = outcome[1] if reason else OUTCOME_LABELS[outcome]
        labels.append(draw_bar(x1, middle - height / 2, bar, height, color))
        labels.append(draw_text(x1 + bar + 60, middle + 4, f"{flow.total(outcome):,}", text_anchor="end"))
        weight = {} if reason else {"font_weight": "bold"}
        labels.append(draw_text(x1 + bar + 68, middle + 4, clip(name, 24), **weight))
        y += max(height, line) + 2
    height_right = y

    gap = max(14.0, (height_right - 320) / (len(counts) + 1)) if len(counts) < 6 else 14.0
    left_total = sum(max(sum(row.values()) * scale, 1.5) + gap for row in counts.values()) - gap
    y = max(4.0, (height_right - left_total) / 2)
    filled = {outcome: start for outcome, (start, _) in right.items()}
    ribbons, bars = [], []
    for file, row in counts.items():
        size = sum(row.values())
        height = max(size * scale, 1.5)
        bars.append(draw_bar(x0, y, bar, height, "neutral"))
        bars.append(draw_text(x0 - 10, y + height / 2 - 1, clip(file, 26), text_anchor="end"))
        bars.append(draw_text(x0 - 10, y + height / 2 + 14, f"{size:,} rows", "muted", text_anchor="end", font_size=11))
        cursor = y
        for outcome in flow.outcomes:
            m = row.get(outcome, 0)
            if not m:
                continue
            thick, a, b, bend = m * scale, x0 + bar, x1, (x1 - x0 - bar) / 2
            top, end = cursor, filled[outcome]
            under, below = top + thick, end + thick
            path = (
                f"M{a:.1f} {top:.2f}C{a + bend:.1f} {top:.2f} {b - bend:.1f} {end:.2f} {b:.1f} {end:.2f}"
                f"V{below:.2f}C{b - bend:.1f} {below:.2f} {a + bend:.1f} {under:.2f} {a:.1f} {under:.2f}Z"
            )
            color = "orange" if isinstance(outcome, tuple) else "blue"
            opacity = 0.55 if isinstance(outcome, tuple) else 0.3
            what = outcome[1] if isinstance(outcome, tuple) else OUTCOME_LABELS[outcome]
            ribbons.append(
                f'<path d="{path}" style="fill: {LIGHT[color]}; fill-opacity: {opacity}">'
                f"<title>{escape(file)} → {escape(what)}: {m:,}</title></path>"
            )
            cursor += thick
            filled[outcome] += thick
        y += height + gap
    return canvas(720, max(height_right, y - gap) + 6, f"Flow of the rows of {flow.dataset}", ribbons + bars + labels)
