"""The first screen and the summary: what was gained, lost and never learned, and which checkpoint to ship."""

from pathlib import Path

from steps.report.candidates import Candidate, difference, retention
from steps.report.findings import Findings, responses
from steps.report.gather import Gathered
from steps.report.overview.rows import Rows
from steps.report.section import QUESTIONS, Answer
from steps.report.sentences import Sentences
from steps.report.tables import Estimate, interval_text, number_text

say = Sentences(Path(__file__).parent)

# Checkpoints in the table under the first question.
MOST_LISTED = 8
# The marker that a right answer must end with: an answer without it may have been right.
MARKER = "####"
HEADINGS = dict(
    zip(
        QUESTIONS,
        (
            "What did it gain?",
            "What did it lose?",
            "What did it never learn, and why?",
            "Which checkpoint to ship?",
        ),
        strict=True,
    )
)
LABELS = dict(zip(QUESTIONS, ("Gained", "Lost", "Never learned", "Ship"), strict=True))


def size(settings: dict) -> dict[str, str]:
    """How many seeds a run has: {size: in a sentence, size_name: in two words}."""
    return {name: say(name, seeds=settings["seeds"]) for name in ("size", "size_name")}


def headline(comparison: Findings) -> str:
    """The verdict in one sentence."""
    ship, root = comparison.ship, comparison.root(comparison.ship)
    if ship is root:
        return say("keep", root=root.name)
    before, after = comparison.reported(root), comparison.reported(ship)
    moves = [(axis, before.axis(axis), after.axis(axis)) for axis in ("target", "general") if after.axis(axis)]
    return say("ship", name=ship.name, moves=moves)


# --- the four answers ----------------------------------------------------------------------------


def answers(comparison: Findings, of_sections: list[Answer]) -> list[dict]:
    """The four questions of the first screen: {question, label, number, interval, unit, text, of, details}.

    Args:
        of_sections: what the sections say to them.
    """
    own = (gained(comparison), lost(comparison), never_learned(comparison), ship(comparison))
    return [
        {"question": HEADINGS[question], "label": LABELS[question], "interval": "", "details": []}
        | joined(answer, [said for said in of_sections if said.question == question])
        for question, answer in zip(QUESTIONS, own, strict=True)
    ]


def joined(own: dict, of_sections: list[Answer]) -> dict:
    """The overview's answer with what sections add to it, or that of a section in its place."""
    for said in of_sections:
        if said.number:
            return {"number": said.number, "unit": said.unit, "text": said.text}
    return own | {"text": " ".join(filter(None, [own["text"], *(said.text for said in of_sections)]))}


def gained(comparison: Findings) -> dict:
    """All by the questions that report; which are told, and in which order, those that choose say."""
    candidate, root = _sides(comparison, comparison.subject)
    ranked = sorted(comparison.trained, key=comparison.chosen_by, reverse=True)
    best = comparison.best
    text = say(
        "gained",
        name=candidate.name,
        score=candidate.axis("target"),
        tasks=[score.task for score in candidate.on("target")],
        root=root.name,
        before=root.axis("target"),
        beyond_chance=comparison.ship is comparison.subject,
        more={"name": best.name, "change": difference(*_sides(comparison, best), "target")}
        if best is not comparison.subject
        else None,
    )
    sides = [_sides(comparison, other) for other in ranked[:MOST_LISTED]]
    details = [
        {
            "name": after.name,
            "before": before.axis("target"),
            "after": after.axis("target"),
            "change": difference(after, before, "target"),
        }
        for after, before in sides
    ]
    change = difference(candidate, root, "target")
    return {**_number(change, say("gained_unit")), "text": text, "of": "checkpoint", "details": details}


def _sides(comparison: Findings, candidate: Candidate) -> tuple[Candidate, Candidate]:
    """A candidate and what it is measured from, by the questions that report."""
    return comparison.reported(candidate), comparison.reported(comparison.root(candidate))


def lost(comparison: Findings) -> dict:
    candidate, root = _sides(comparison, comparison.subject)
    change = difference(candidate, root, "general")
    if change:
        before, after = root.axis("general"), candidate.axis("general")
        text = say("lost", before=before, after=after, kept=retention(candidate, root))
    else:
        text = say("lost_nothing_measured")
    details = [
        {
            "name": score.task,
            "before": root.scores[score.task].estimate,
            "after": score.estimate,
            "change": difference(candidate, root, task=score.task),
        }
        for score in candidate.on("general")
    ]
    return {**_number(change, say("lost_unit")), "text": text, "of": "general task", "details": details}


def never_learned(comparison: Findings) -> dict:
    number, unit = number_text("integer", len(comparison.unlearned)), say("never_learned_unit", tried=comparison.tried)
    return {"number": number, "unit": unit, "text": unlearned_text(comparison)}


def unlearned_text(comparison: Findings) -> str:
    """What is known of the target items that the checkpoint never gets right."""
    subject, items = comparison.subject, comparison.unlearned
    if not items:
        return say("all_learned", name=subject.name, tried=comparison.tried)
    keys = {(item["task"], item["doc_id"]) for item in items}
    elsewhere = {
        key
        for candidate in comparison.trained
        if candidate is not subject
        for key, sample in responses(candidate.members[0], "greedy", set(candidate.scores)).items()
        if key in keys and sample["correct"][0]
    }
    unmarked = sum(MARKER not in item["answer"] for item in items)
    draws = items[0]["sampled"]
    return say(
        "never_learned",
        sampled=None if draws == "–" else draws,
        elsewhere=len(elsewhere),
        unmarked=unmarked if unmarked < len(items) else 0,
    )


def ship(comparison: Findings) -> dict:
    parts = comparison.parts
    rule = say("rule", rule=comparison.rule, keep=f"{100 * comparison.keep:.0f}")
    rule += " " + say("chosen", dev=parts.dev, general=bool(comparison.subject.on("general")), whole=parts.whole)
    return {"number": comparison.ship.name, "unit": "", "text": rule}


def _number(change: Estimate | None, unit: str) -> dict:
    if change is None:
        return {"number": "–", "unit": ""}
    return {"number": number_text("points", change.value), "interval": interval_text("points", change), "unit": unit}


# --- the headline numbers -------------------------------------------------------------------------


def numbers(comparison: Findings, datasets: list[Rows]) -> dict[str, float | str]:
    """What two runs are compared by first, as shares and counts; what was not measured is left out.

    `gained`, `lost` and `unsolved` are of the checkpoint that the answers are about: its changes on the two axes, and
    the share of the target's questions that it never gets right.
    """
    told: dict[str, float | str] = {
        "rows": sum(rows.flow.total("train") for rows in datasets),
        "checkpoints": len(comparison.shown),
    }
    subject = comparison.subject
    if not subject:
        return told
    told["ship"] = comparison.ship.name
    for name, axis in (("gained", "target"), ("lost", "general")):
        if change := difference(*_sides(comparison, subject), axis):
            told[name] = round(change.value, 6)
    if comparison.tried:
        told["unsolved"] = round(len(comparison.unlearned) / comparison.tried, 6)
    return told


# --- the summary ---------------------------------------------------------------------------------


def summary(gathered: Gathered, datasets: list[Rows], of_sections: list[Answer], warnings: list[str]) -> str:
    """Five lines for the terminal, and one for each warning."""
    settings, comparison = gathered.settings, gathered.findings
    flows = [rows.flow for rows in datasets]
    lines = [
        say(
            "summary_rows",
            workload=settings["workload"],
            seeds=len(settings["seeds"]),
            trained=sum(flow.total("train") for flow in flows),
            entered=sum(flow.rows_in for flow in flows),
            measured=len(comparison.shown),
            skipped=[rows.skipped for rows in datasets if rows.skipped],
        )
    ]
    if not comparison.ship:
        lines += [say("summary_nothing", label=LABELS[q], first=q == QUESTIONS[0]) for q in QUESTIONS]
        return "\n".join(lines) + "\n"
    for answer in answers(comparison, of_sections):
        lines.append(
            say("summary_answer", **{key: answer[key] for key in ("label", "number", "interval", "unit", "text")})
        )
    lines += [say("summary_warning", text=text) for text in warnings]
    return "\n".join(lines) + "\n"
