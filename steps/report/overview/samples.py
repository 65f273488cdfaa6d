"""Answers side by side: the first items of each kind, as the model at the start and the checkpoints answer them."""

from pathlib import Path

from steps.core.text import plain_prompt, shorten
from steps.report.candidates import Candidate
from steps.report.findings import Findings, responses
from steps.report.section import Section

RESPONSE_CHARS = 700
PROMPT_CHARS = 900
MOST_COMPARED = 8

# Kinds of items by axis, in the order of the page: how the model at the start and the checkpoint that the report is
# about answered, whether right; of others a rule over all that are compared.
WRONG_IN_ALL, DISPUTED = "wrong in every checkpoint", "disputed"
KINDS: dict[str, dict[str, tuple[bool, bool] | None]] = {
    "target": {"learned": (False, True), WRONG_IN_ALL: None, DISPUTED: None},
    "harder": {"learned": (False, True), WRONG_IN_ALL: None},
    "general": {"forgotten": (True, False), "kept": (True, True)},
}


def fits(kind: str, pattern: tuple[bool, bool] | None, right: dict[str, bool], root: str, subject: str, roots) -> bool:
    """Whether an item is of a kind; `right` says who answered it so."""
    if kind == WRONG_IN_ALL:
        return not any(right.values())
    if kind == DISPUTED:
        return len({mark for name, mark in right.items() if name not in roots}) > 1
    return (right[root], right[subject]) == pattern


def compared(comparison: Findings) -> list[Candidate]:
    """The model at the start, the checkpoint that the report is about, and others; none where there are no answers."""
    subject, root = comparison.subject, comparison.root(comparison.subject)
    each = [root, subject, *(candidate for candidate in comparison.trained if candidate is not subject)]
    each = [candidate for candidate in each if candidate.members[0].samples][:MOST_COMPARED]
    return each if root in each and len(each) > 1 else []


def side_by_side(comparison: Findings) -> list[dict]:
    """A few items, the first of each kind in the order of the tasks: learned, wrong, disputed, forgotten, kept."""
    candidates = compared(comparison) if comparison.ship else []
    if not candidates:
        return []
    subject, root = comparison.subject.name, candidates[0]
    given = {
        candidate.name: responses(candidate.members[0], "greedy", set(candidate.scores)) for candidate in candidates
    }
    shown: dict[tuple, dict] = {}
    for axis, kinds in KINDS.items():
        for task in (score.task for score in root.on(axis)):
            keys = [key for key in given[root.name] if key[0] == task and all(key in rows for rows in given.values())]
            for kind, pattern in kinds.items():
                for key in keys:
                    right = {name: bool(rows[key]["correct"][0]) for name, rows in given.items()}
                    if key not in shown and fits(kind, pattern, right, root.name, subject, comparison.roots):
                        shown[key] = _shown(axis, kind, key, right, given, root.name)
                        break
    return list(shown.values())


def _shown(axis: str, kind: str, key: tuple, right: dict[str, bool], given: dict[str, dict], root: str) -> dict:
    task, item = key
    return {
        "axis": axis,
        "task": task,
        "item": item,
        "label": kind,
        "prompt": shorten(plain_prompt(given[root][key]["prompt"]), PROMPT_CHARS, end=True),
        "reference": given[root][key]["target"],
        "answers": [
            {"name": name, "right": right[name], "text": shorten(rows[key]["responses"][0], RESPONSE_CHARS)}
            for name, rows in given.items()
        ],
    }


SECTION = Section(
    name="samples",
    title="Answers",
    folder=Path(__file__).parent,
    template="samples.html.j2",
    read=lambda gathered: side_by_side(gathered.findings) or None,
    page=lambda items, tables, figures: {"compared": items},
)
