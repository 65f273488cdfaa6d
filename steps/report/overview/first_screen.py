"""The first screen and the summary: what was gained, lost and never learned, and which checkpoint to ship."""

from pathlib import Path

from steps.report.candidates import Candidate, difference, retention
from steps.report.findings import Findings, responses
from steps.report.gather import Gathered
from steps.report.overview.rows import Rows
from steps.report.scatter import scatter
from steps.report.section import Unlearned
from steps.report.sentences import Sentences
from steps.report.tables import Estimate, interval_text, number_text

say = Sentences(Path(__file__).parent)

# The marker that a right answer must end with: an answer without it may have been right.
MARKER = "####"
LABELS = ("Gained", "Lost", "Never learned", "Ship")
# A score whose interval ends below or begins above has no room left.
FLOOR, CEILING = 0.05, 0.95


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


# --- the picture ----------------------------------------------------------------------------------

PICTURE = "scatter"
# In pixels: of the file and of a wide page, and of a phone.
WIDE, NARROW = (600, 480), (350, 440)


def picture(comparison: Findings, size: tuple[int, int] = WIDE) -> dict[str, str]:
    """Target against general of every checkpoint by the questions that report, the one to ship ringed, the rule's line
    drawn; nothing where no checkpoint has both."""
    shown = comparison.shown
    keep = None
    if comparison.parts:
        shown = [comparison.reported(one) for one in shown if one.name in comparison.parts.reporting]
        before = comparison.reported(comparison.root(comparison.subject)).axis("general")
        keep = before and comparison.keep * before.value
    if not any(candidate.axis("target") and candidate.axis("general") for candidate in shown):
        return {}
    ringed = comparison.ship and comparison.ship.name
    drawn = scatter(shown, comparison.roots, PICTURE, ringed=ringed, keep=keep, size=size)
    return {PICTURE: drawn}


def caption(comparison: Findings) -> str:
    """Under the picture: the next best and why it is not the one to ship."""
    after, text = comparison.runner_up, ""
    if after:
        score = comparison.reported(after.candidate).axis("target")
        keep = f"{100 * comparison.keep:.0f}"
        text = say("runner_up", name=after.candidate.name, score=score, why=after.why, kept=after.kept, keep=keep,
                   rule=comparison.rule)  # fmt: skip
    return text


# --- the four answers ----------------------------------------------------------------------------


def answers(comparison: Findings, known: list[Unlearned]) -> list[dict[str, str]]:
    """Four short answers about one checkpoint: {label, number, interval, unit, text} each.

    Args:
        known: what the sections know of what checkpoints never learned.
    """
    said = (gained(comparison), lost(comparison), never_learned(comparison, known), ship(comparison))
    return [{"label": label, "interval": ""} | answer for label, answer in zip(LABELS, said, strict=True)]


def gained(comparison: Findings) -> dict[str, str]:
    """By the questions that report."""
    candidate, root = _sides(comparison, comparison.subject)
    text = say(
        "gained",
        name=candidate.name,
        score=candidate.axis("target"),
        tasks=[score.task for score in candidate.on("target")],
        root=root.name,
        before=root.axis("target"),
        beyond_chance=comparison.ship is comparison.subject,
        full=root.axis("target").low > CEILING,
    )
    return _number(difference(candidate, root, "target"), say("gained_unit")) | {"text": text}


def _sides(comparison: Findings, candidate: Candidate) -> tuple[Candidate, Candidate]:
    """A candidate and what it is measured from, by the questions that report."""
    return comparison.reported(candidate), comparison.reported(comparison.root(candidate))


def lost(comparison: Findings) -> dict[str, str]:
    candidate, root = _sides(comparison, comparison.subject)
    change, before = difference(candidate, root, "general"), root.axis("general")
    if before is None or not candidate.axis("general"):
        text = say("lost_nothing_measured")
    else:
        text = say(
            "lost",
            root=root.name,
            before=before,
            after=candidate.axis("general"),
            kept=retention(candidate, root),
            nothing=before.high < FLOOR,
        )
    return _number(change, say("lost_unit")) | {"text": text}


def never_learned(comparison: Findings, known: list[Unlearned]) -> dict[str, str]:
    """What a section knows of the checkpoint, or else the target's questions that it never gets right."""
    for found in known:
        if found.checkpoint == comparison.subject.name:
            return {"number": found.number, "unit": found.unit, "text": found.text}
    number, unit = number_text("integer", len(comparison.unlearned)), say("never_learned_unit", tried=comparison.tried)
    why_of = [found.checkpoint for found in known]
    return {"number": number, "unit": unit, "text": unlearned_text(comparison, why_of)}


def unlearned_text(comparison: Findings, why_of: list[str]) -> str:
    """What is known of the target items that the checkpoint never gets right.

    Args:
        why_of: other checkpoints, of which a section knows why they did not learn.
    """
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
        why_of=why_of,
    )


def ship(comparison: Findings) -> dict[str, str]:
    parts = comparison.parts
    rule = say("rule", rule=comparison.rule, keep=f"{100 * comparison.keep:.0f}")
    rule += " " + say("chosen", dev=parts.dev, general=bool(comparison.subject.on("general")), whole=parts.whole)
    return {"number": comparison.ship.name, "unit": "", "text": rule}


def _number(change: Estimate | None, unit: str) -> dict[str, str]:
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


def summary(gathered: Gathered, datasets: list[Rows], known: list[Unlearned], warnings: list[str]) -> str:
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
        lines += [say("summary_nothing", label=label, first=label == LABELS[0]) for label in LABELS]
        return "\n".join(lines) + "\n"
    lines += [say("summary_answer", **answer) for answer in answers(comparison, known)]
    lines += [say("summary_warning", text=text) for text in warnings]
    return "\n".join(lines) + "\n"
