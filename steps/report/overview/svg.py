"""SVG text: rectangles and words."""

from html import escape
from typing import Any

from steps.report.figures import LIGHT


def canvas(width: float, height: float, title: str, body: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}"'
        f' height="{height:.0f}" role="img" aria-label="{escape(title)}" style="max-width: {width:.0f}px"'
        ' font-family="sans-serif" font-size="12">\n' + "\n".join(body) + "\n</svg>\n"
    )


def draw_text(x: float, y: float, text: str, color: str = "ink", **attributes: Any) -> str:
    extra = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x:.1f}" y="{y:.1f}" style="fill: {LIGHT[color]}"{extra}>{escape(text)}</text>'


def draw_bar(x: float, y: float, width: float, height: float, color: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" style="fill: {LIGHT[color]}"/>'


def clip(text: str, chars: int) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
