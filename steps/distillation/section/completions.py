"""Samples of the student at both ends of training, side by side."""

from steps.core.text import plain_prompt, shorten
from steps.distillation.section.facts import Distillation
from steps.distillation.section.questions import compared_runs
from steps.distillation.section.wording import say

PROMPT_CHARS, RESPONSE_CHARS = 700, 500
# Runs whose samples stand side by side.
SIDE_BY_SIDE = 6


def completions(study: Distillation) -> list[dict]:
    """A prompt of the first and one of the last step with a sample of each run that has one: the reference and what it
    is compared with; of the prompts the one that most answered."""
    runs = compared_runs(study)
    kept = {run.name: study.rollouts.get(run.candidate.members[0].node) for run in runs[:SIDE_BY_SIDE]}
    kept = {name: rows for name, rows in kept.items() if rows}
    shown = []
    for place, when in ((0, "first step"), (-1, "last step")):
        at = {
            name: {row["id"]: row for row in reversed(rows) if row["step"] == rows[place]["step"]}
            for name, rows in kept.items()
        }
        ids = [id for rows in at.values() for id in rows]
        if not ids:
            continue
        chosen = max(dict.fromkeys(ids), key=ids.count)
        answered = {name: rows[chosen] for name, rows in at.items() if chosen in rows}
        first = next(iter(answered.values()))
        shown.append(
            {
                "when": when,
                "step": first["step"],
                "id": chosen,
                "prompt": shorten(plain_prompt(first["prompt"]), PROMPT_CHARS, end=True),
                "replies": [_reply(name, row) for name, row in answered.items()],
            }
        )
    return shown


def _reply(name: str, row: dict) -> dict:
    return {
        "name": name,
        "right": row["correct"],
        "teacher": row["teacher"],
        "log_ratio": say("likelihood", log_ratio=row["log_ratio"]),
        "text": shorten(row["response"], RESPONSE_CHARS),
    }
