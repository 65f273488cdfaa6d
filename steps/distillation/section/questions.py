"""Which question each run answers: what sets it apart from the reference."""

from steps.distillation.section.facts import Distillation
from steps.distillation.section.runs import Recovery, Run

# What a candidate may change of the reference → the settings that say so, in the order of the figures.
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


def question(study: Distillation, run: Run) -> str:
    """Which question a candidate answers: what sets it apart from the reference."""
    if study.reference and run.candidate is study.reference.candidate:
        return "reference"
    if len(run.teachers) > 1:
        return "several"
    if run.stage == "distill":
        return "off-policy"
    differing = study.differs(run)
    asked = {name for name, keys in QUESTIONS.items() if any(key in keys for key in differing)}
    if asked == {"teacher", "prompts"}:  # a teacher with prompts of its own
        return "teacher"
    return asked.pop() if len(asked) == 1 else "other"


def by_question(study: Distillation) -> dict[str, list[Run]]:
    """Question → its runs, in the order of HEADINGS and of the recipes."""
    asked = [(question(study, run), run) for run in (*study.runs, *study.merged)]
    return {name: runs for name in HEADINGS if (runs := [run for of, run in asked if of == name])}


def recovery_rows(study: Distillation) -> list[tuple[str, list[Recovery]]]:
    """(heading, what was measured of its candidates)."""
    rows = []
    for name, runs in by_question(study).items():
        if name != "budget":  # the figures of the budget show these
            of_runs = [part for run in runs for part in study.recoveries(run) if part.change]
            rows.append((HEADINGS[name], of_runs))
    return [(heading, parts) for heading, parts in rows if parts]


def compared(study: Distillation) -> dict[str, list[Run]]:
    """Question → on-policy runs whose curves stand in one panel: the reference with other teachers and other starts."""
    asked = by_question(study)
    reference = asked.get("reference", [])
    sets = {
        name: reference + [run for run in asked.get(name, []) if run.stage == "opd"] for name in ("teacher", "start")
    }
    sets = {name: runs for name, runs in sets.items() if len(runs) > len(reference)}
    return sets or ({"teacher": reference} if reference else {})


def compared_runs(study: Distillation) -> list[Run]:
    """The runs of all panels, each once."""
    return list({run.name: run for runs in compared(study).values() for run in runs}.values())
