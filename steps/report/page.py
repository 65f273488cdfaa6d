"""The pages of the report: templates that get what the sections say."""

from pathlib import Path
from typing import Any

from markupsafe import Markup

from steps.core.text import visible
from steps.report import figures, tables
from steps.report.language import drawing, spoken, tr
from steps.report.sentences import FILTERS, Sentences

TEMPLATES = Path(__file__).parent / "templates"


def render(name: str, facts: dict[str, Any], folder: Path = TEMPLATES) -> str:
    """Fill a template of a folder; what it includes may also be one of the report's own.

    Everything that is data or model output passes `visible` and is escaped; nothing may be undefined.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {**FILTERS, "visible": visible, "tr": tr}
    environment.globals |= {
        "_": tr,
        "spoken": spoken,
        "shared": Sentences(TEMPLATES, "wording.j2"),
        "WORDS": tables.WORDS,
        "cell_text": tables.cell_text,
        "number_text": tables.number_text,
        "interval_text": tables.interval_text,
        "is_estimate": lambda value: isinstance(value, tables.Estimate),
        "light": figures.LIGHT,
        "dark": figures.DARK,
    }
    return environment.get_template(name).render(**facts)


def inlined(drawn: dict[str, str]) -> dict[str, Markup]:
    """Figures as a page holds them."""
    return {name: Markup(drawing(figures.themed(svg))) for name, svg in drawn.items()}
