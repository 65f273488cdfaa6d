"""The figures of the report, as SVG text: scatter, heat maps and curves, all by Matplotlib.

Equal inputs give equal bytes: element ids are salted with the figure's name and no date is written. Colors are the
tokens of `LIGHT`; the page swaps them for its own properties, so that one file serves light, dark and paper. Text
stays text.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from steps.core.text import visible
from steps.report.tables import Estimate
from steps.settings import stages

# Every pair differs by at least 9 OKLab units (of 100) for normal, protan, deutan and tritan vision, and each color has
# a contrast of at least 3.6 to the page: tests/report/test_report.py computes both.
LIGHT = {
    "ink": "#1d1d1b",
    "muted": "#5f5e5a",
    "line": "#d8d7d2",
    "surface": "#fefefe",
    "neutral": "#4a4a48",
    "blue": "#2a53b3",
    "orange": "#a6501a",
    "teal": "#329072",
    "magenta": "#b460bc",
    "wine": "#58102c",
}
DARK = {
    "ink": "#f2f1ec",
    "muted": "#b3b2ab",
    "line": "#3f3f3c",
    "surface": "#1a1a19",
    "neutral": "#e0dfda",
    "blue": "#4f86e8",
    "orange": "#e8853a",
    "teal": "#2fbf93",
    "magenta": "#f0a5f0",
    "wine": "#b05470",
}


def stage_color(stage: str) -> str:
    return LIGHT[stages.look(stage)[0]]


def themed(svg: str) -> str:
    """An SVG for inlining: no prolog, no ids that could clash, token colors as the page's properties."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for token, color in LIGHT.items():
        svg = svg.replace(color, f"var(--{token})")  # everywhere in a style: custom properties are none in attributes
    return svg


# --- Matplotlib ----------------------------------------------------------------------------------


def new_axes(width: float, height: float):
    """A figure of width × height CSS pixels with one calm pair of axes."""
    from matplotlib import rcParams
    from matplotlib.figure import Figure

    rcParams.update(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 11,
            "text.color": LIGHT["ink"],
            "axes.labelcolor": LIGHT["muted"],
            "axes.edgecolor": LIGHT["line"],
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": LIGHT["line"],
            "grid.linewidth": 0.6,
            "xtick.color": LIGHT["line"],
            "ytick.color": LIGHT["line"],
            "xtick.labelcolor": LIGHT["muted"],
            "ytick.labelcolor": LIGHT["muted"],
        }
    )
    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


@dataclass(frozen=True)
class Mark:
    """A part of a figure that says what it is when it is pointed at.

    Attributes:
        id: as Matplotlib's `gid`: letters, digits and "-".
        name: by which a page finds it.
        text: what it says.
    """

    id: str
    name: str
    text: str


def reaches(estimates: Iterable[Estimate]) -> tuple[list[float], list[float]]:
    """How far the interval of each estimate reaches below and above it, in percent, as Matplotlib draws error bars.

    A value may lie outside its interval by the rounding of two sums of the same terms; Matplotlib refuses such a bar.
    """
    sides = ([], [])
    for estimate in estimates:
        for side, reach in zip(sides, (estimate.value - estimate.low, estimate.high - estimate.value), strict=True):
            assert reach > -1e-9, f"{estimate.value} lies outside [{estimate.low}, {estimate.high}]"
            side.append(100 * max(0.0, reach))
    return sides


def to_svg(figure, name: str, title: str, marks: Iterable[Mark] = ()) -> str:
    from matplotlib import rcParams

    rcParams["svg.hashsalt"] = name
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"[ \t]+\n", "\n", text.getvalue())
    for mark in marks:
        told = f'<g class="mark" data-name="{escape(mark.name)}"><title>{escape(visible(mark.text))}</title>'
        svg = svg.replace(f'<g id="{mark.id}">', told, 1)
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    head = f'<svg role="img" aria-label="{escape(title)}" style="max-width: {float(size[1]):.0f}px"'
    return svg.replace("<svg", head, 1).replace('pt" height=', 'px" height=').replace('pt" viewBox', 'px" viewBox')
