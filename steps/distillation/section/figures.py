"""The figures of distillation: recovery by question, curves, places in the answer, forecasts, budgets, teachers."""

from steps.distillation.section.budget_figures import COSTS, budget_figure, budget_name
from steps.distillation.section.facts import Distillation
from steps.distillation.section.line_figures import curve_figures, forecast_figure, place_figures
from steps.distillation.section.recovery_figures import recovery_figures
from steps.distillation.section.runs import Family
from steps.distillation.section.wording import say
from steps.report.candidates import Candidate
from steps.report.scatter import scatter


def family_name(index: int) -> str:
    return "distillation_teachers" if index == 0 else f"distillation_teachers_{index + 1}"


def family_arms(family: Family) -> list[Candidate]:
    candidates = [family.start, *family.teachers.values(), *(run.candidate for run in family.students), *family.merges]
    return list({candidate.name: candidate for candidate in candidates}.values())


def family_figure(family: Family, name: str) -> str | None:
    """The target against the general axis: teachers, what was taught by several of them, merges of them."""
    candidates = [
        candidate for candidate in family_arms(family) if candidate.axis("target") and candidate.axis("general")
    ]
    if len(candidates) < 3:
        return None
    title = say("family_title", start=family.start.name)
    return scatter(candidates, {family.start.name}, name, title, size=(420, 380))


def distillation_figures(study: Distillation) -> dict[str, str]:
    figures = recovery_figures(study) | curve_figures(study) | place_figures(study)
    if svg := forecast_figure(study):
        figures["distillation_forecast"] = svg
    for cost in COSTS if study.budget else ():
        if svg := budget_figure(study, study.budget, cost):
            figures[budget_name(cost)] = svg
    for index, family in enumerate(study.families):
        if svg := family_figure(family, family_name(index)):
            figures[family_name(index)] = svg
    return figures
