"""Sampled completions of training, side by side: the prompts of both ends of a run on which candidates can be
compared."""

from steps.core.text import shorten
from steps.reinforcement.section.facts import Comparison, Reinforcement
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, settings_of

PROMPT_CHARS, RESPONSE_CHARS = 700, 500


def completions(study: Reinforcement, comparison: Comparison) -> list[dict]:
    """A prompt of the first and one of the last step, with a sample of each candidate's group: of those that most
    candidates answered, the one on which most groups disagree."""
    groups = {candidate.name: study.rollouts.get(candidate.members[0].node) for candidate in comparison.candidates}
    groups = {name: rows for name, rows in groups.items() if rows}
    shown = []
    for place, when in ((0, "first step"), (-1, "last step")):
        at = {name: _of_step(rows, place) for name, rows in groups.items()}
        ids = [id for rows in at.values() for id in rows]
        if not ids:
            continue
        mixed = [id for rows in at.values() for id, group in rows.items() if any(group["advantages"])]
        chosen = max(dict.fromkeys(ids), key=lambda id: (ids.count(id), mixed.count(id)))
        answered = {name: rows[chosen] for name, rows in at.items() if chosen in rows}
        first = next(iter(answered.values()))
        shown.append(
            {
                "when": when,
                "step": first["step"],
                "id": chosen,
                "prompt": shorten(first["prompt"], PROMPT_CHARS, end=True),
                "reference": first["answer"],
                "replies": [_reply(study.every[name], group) for name, group in answered.items()],
            }
        )
    return shown


def _of_step(rows: list[dict], place: int) -> dict[str, dict]:
    """Row id → group, of the first or last step that was kept."""
    return {row["id"]: row for row in rows if row["step"] == rows[place]["step"]}


def _reply(candidate: Candidate, group: dict) -> dict:
    """The first sample of a group, with how many of it are correct."""
    success = settings_of(candidate)["success"]
    right = [value is not None and value >= success["least"] for value in group["rewards"][success["reward"]]]
    return {
        "name": candidate.name,
        "right": right[0],
        "share": say("correct_samples", correct=sum(right), samples=len(right)),
        "text": shorten(group["responses"][0], RESPONSE_CHARS),
    }
