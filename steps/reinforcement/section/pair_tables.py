"""Runs from one start that are alike but for one thing: what that changes, with the intervals of items and seeds."""

from collections.abc import Iterator
from itertools import combinations

from steps.core.asked import HOW
from steps.reinforcement.section.facts import Comparison, Reinforcement, gain
from steps.reinforcement.section.wording import say
from steps.report.candidates import Candidate, matched, paired, sampled_score, settings_of
from steps.report.claims import origin
from steps.report.columns import IDENTITY, ORIGIN
from steps.report.logs import spent
from steps.report.tables import Column, Estimate, Table, setting_text
from steps.settings.methods import METHODS

# Settings that are one thing together: how samples become a loss, and which samples there are.
TOGETHER = (
    ("method", "loss_type", "clip", *(name for name, method in METHODS.items() if method.settings)),
    ("prompts", "generations", "dynamic_sampling", "batch_size"),
)
# What changes no result, or is what the seeds are.
ASIDE = (*HOW, "seed")


def pairs_table(study: Reinforcement) -> Table | None:
    """One line per pair of runs, of which the second is the measure of the first."""
    columns = [IDENTITY[0], Column("against", "against", "code"), Column("differs", "what differs")]
    columns += [Column("written", "tokens generated, of the other's %", "percent")]
    columns += [
        Column("sampled", "target, sampled, points", "points"),
        Column("target", "target, greedy, points", "points"),
    ]
    columns += [Column("general", "general, points", "points"), Column("n", "n sampled / target / general"), *ORIGIN]
    rows = [row for comparison in study.comparisons for row in _rows(comparison)]
    return Table("reinforcement_pairs", say("pairs_caption"), columns, rows) if rows else None


def _rows(comparison: Comparison) -> Iterator[dict]:
    for other, candidate in combinations(comparison.candidates, 2):
        differing = apart(settings_of(candidate), settings_of(other))
        if len({_thing(key) for key in differing}) != 1:
            continue
        changes = {"sampled": _sampled_gain(candidate, other)}
        changes |= {axis: gain(candidate, other, axis) for axis in ("target", "general")}
        if not any(changes.values()):
            continue
        sides = matched(candidate, other)
        written = [spent(side, "generated") for side in sides]
        cells = {"checkpoint": candidate.name, "against": other.name}
        cells["differs"] = ", ".join(f"{key}: {ours} / {theirs}" for key, (ours, theirs) in differing.items())
        cells["n"] = " / ".join(f"{change.n:,}" if change else "–" for change in changes.values())
        yield cells | changes | {"written": written[0] / written[1] if all(written) else None} | origin(list(sides))


def apart(ours: dict, theirs: dict) -> dict[str, tuple[str, str]]:
    """The settings that differ, as text; one that is not given is none."""
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key not in ASIDE and ours.get(key) != theirs.get(key)]
    return {key: (_text(ours.get(key)), _text(theirs.get(key))) for key in keys}


def _text(value: object) -> str:
    return "none" if value is None else setting_text(value)


def _thing(key: str) -> str:
    """What a setting is a part of: the first of those that are one thing together, or itself."""
    return next((together[0] for together in TOGETHER if key in together), key)


def _sampled_gain(candidate: Candidate, other: Candidate) -> Estimate | None:
    """How much more of the sampled answers to the target's questions is right, paired by item and seed."""
    sides = matched(candidate, other)
    tasks = [task for task in sides[0].sampling() if task in {score.task for score in sides[0].on("target")}]
    scores = [[score for task in tasks if (score := sampled_score(side, task))] for side in sides]
    return paired(*scores) if tasks else None
