"""The trade-off: target against general capability of every checkpoint."""

from pathlib import Path

from steps.report.findings import Findings
from steps.report.scatter import scatter
from steps.report.section import Section


def figures(comparison: Findings) -> dict[str, str]:
    if not any(candidate.axis("target") and candidate.axis("general") for candidate in comparison.shown):
        return {}
    return {"scatter": scatter(comparison.shown, comparison.roots)}


SECTION = Section(
    name="trade",
    title="Trade-off",
    folder=Path(__file__).parent,
    template="trade.html.j2",
    read=lambda gathered: gathered.findings,
    figures=figures,
    page=lambda comparison, tables, figures: {} if figures else None,
)
