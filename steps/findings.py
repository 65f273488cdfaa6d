"""What the comparison comes to: the checkpoint to ship, the answers of the first screen, the summary."""

from dataclasses import dataclass, field

from steps import tables
from steps.arms import Arm, Checkpoint, best_points, difference, retention, root_of
from steps.distillation import Distillation
from steps.distillation_words import first_screen as distilled
from steps.gather import Gathered
from steps.learning import Study
from steps.learning_words import first_screen
from steps.reinforcement import Reinforcement
from steps.reinforcement_words import first_screen as reinforced
from steps.row_tables import Flow
from steps.setups import warnings
from steps.stability import Stability
from steps.stability_words import kept_most
from steps.tables import Estimate
from steps.text import plain_prompt, shorten

RESPONSE_CHARS = 700
PROMPT_CHARS = 900
ARMS_SIDE_BY_SIDE = 8


@dataclass
class Findings:
    """The comparison: arms to show, the model each started from, the one to ship and by which rule."""

    arms: dict[str, Arm]
    shown: list[Arm]
    grids: dict[str, tuple[list[Arm], Arm | None]]
    ship: Arm | None = None
    rule: str = ""
    # What the answers are about: the checkpoint to ship or, where that is the model itself, the best on the target.
    subject: Arm | None = None
    unlearned: list[dict] = field(default_factory=list)
    tried: int = 0
    learning: list[Study] = field(default_factory=list)
    stability: Stability | None = None
    reinforcement: Reinforcement | None = None
    distillation: Distillation | None = None

    def root(self, arm: Arm) -> Arm:
        return root_of(arm, self.arms)

    @property
    def roots(self) -> set[str]:
        return {arm.name for arm in self.shown if self.root(arm) is arm}

    @property
    def trained(self) -> list[Arm]:
        """What can be said to have gained: checkpoints measured on the target, as the model they started from."""
        measured = [arm for arm in self.shown if self.root(arm) is not arm and arm.axis("target")]
        return [arm for arm in measured if self.root(arm).axis("target")]


def findings(gathered: Gathered) -> Findings:
    arms = gathered.arms
    grids = best_points(arms)
    hidden = {arm.name for points, best in grids.values() if best for arm in points if arm is not best}
    shown = [arm for arm in arms.values() if arm.scores and arm.name not in hidden]
    studies = ("learning", "stability", "reinforcement", "distillation")
    known = {name: getattr(gathered, name) for name in studies}
    found = Findings(arms, shown, grids, **known)
    if not found.trained:
        return found
    found.ship, found.rule = choose(found, gathered.settings["report"]["keep_general"])
    best = max(found.trained, key=lambda arm: arm.axis("target").value)
    found.subject = found.ship if found.ship in found.trained else best
    found.unlearned, found.tried = never_learned(found.subject)
    return found


def choose(found: Findings, keep: float) -> tuple[Arm, str]:
    """The checkpoint to ship: of those that gained, the best on the target that keeps `keep` of the general score;
    where none keeps that much, the one with the highest sum of both axes; where none gained, the model itself."""
    gained = []
    for arm in found.trained:
        gain = difference(arm, found.root(arm), "target")
        if gain and gain.low > 0:
            gained.append(arm)
    if not gained:
        root = found.root(found.trained[0])
        return root, "no checkpoint gained on the target beyond chance, so the model it started from stays"
    kept = {arm.name: retention(arm, found.root(arm)) for arm in gained}
    enough = [arm for arm in gained if kept[arm.name] and kept[arm.name].value >= keep]
    if enough:
        best = max(enough, key=lambda arm: arm.axis("target").value)
        return (
            best,
            f"the highest target score among checkpoints that keep at least {100 * keep:.0f} % of the general score",
        )
    both = [arm for arm in gained if arm.axis("general")]
    if not both:
        return max(
            gained, key=lambda arm: arm.axis("target").value
        ), "the highest target score; no general task was measured"
    best = max(both, key=lambda arm: arm.axis("target").value + arm.axis("general").value)
    return (
        best,
        f"none keeps {100 * keep:.0f} % of the general score, so the one with the highest sum of target and general",
    )


def never_learned(arm: Arm) -> tuple[list[dict], int]:
    """Target items that an arm gets wrong greedily and in every sample, over all seeds; and how many were tried."""
    rows, tried = [], 0
    tasks = {score.task for score in arm.on("target")}
    greedy = _answers(arm.members[0], "greedy", tasks)
    right: dict[tuple, int] = {}
    drawn: dict[tuple, int] = {}
    for member in arm.members:
        for kind in ("greedy", "sampled"):
            for key, sample in _answers(member, kind, tasks).items():
                right[key] = right.get(key, 0) + sum(sample["correct"])
                drawn[key] = drawn.get(key, 0) + (len(sample["correct"]) if kind == "sampled" else 0)
    sampled = any(drawn.values())
    for key, sample in greedy.items():
        if sampled and not drawn[key]:
            continue
        tried += 1
        if not right[key]:
            rows.append(
                {
                    "task": key[0],
                    "doc_id": key[1],
                    "prompt": plain_prompt(sample["prompt"]),
                    "reference": sample["target"],
                    "answer": sample["responses"][0],
                    "sampled": f"0 of {drawn[key]}" if sampled else "–",
                }
            )
    return rows, tried


def _answers(member: Checkpoint, kind: str, tasks: set[str]) -> dict[tuple, dict]:
    return {(s["task"], s["doc_id"]): s for s in member.samples if s["kind"] == kind and s["task"] in tasks}


# --- in words ----------------------------------------------------------------------------------


def percent(estimate: Estimate) -> str:
    return f"{tables.number_text('percent', estimate.value)} %"


def points(estimate: Estimate) -> str:
    return tables.cell_text("points", estimate)


def n_text(estimate: Estimate) -> str:
    return f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{estimate.n:,}"


def size_text(settings: dict) -> str:
    seeds = settings["seeds"]
    if len(seeds) == 1:
        return f"Default size: one seed ({seeds[0]}). What another seed would change is not measured here."
    return f"Full size: {len(seeds)} seeds ({', '.join(map(str, seeds))}); intervals cover items and seeds."


def headline(found: Findings) -> str:
    """The verdict in one sentence."""
    ship, root = found.ship, found.root(found.ship)
    if ship is root:
        return f"Keep {root.name}: no checkpoint gained on the target beyond chance."
    moves = [
        # No line break within a move.
        f"{axis} {percent(root.axis(axis))} → {percent(ship.axis(axis))}".replace(" ", "\N{NO-BREAK SPACE}")
        for axis in ("target", "general")
        if ship.axis(axis)
    ]
    return f"Ship {ship.name}: {', '.join(moves)}."


def answers(found: Findings) -> list[dict]:
    """The four questions of the first screen: {question, number, unit, text, details}."""
    arm, root = found.subject, found.root(found.subject)
    target, general = arm.axis("target"), arm.axis("general")
    gain, change = difference(arm, root, "target"), difference(arm, root, "general")
    ranked = sorted(found.trained, key=lambda other: -other.axis("target").value)
    names = ", ".join(score.task for score in arm.on("target"))

    text = (
        f"{arm.name} answers {percent(target)} of {names} right, {root.name} {percent(root.axis('target'))}"
        f" ({n_text(target)})."
    )
    if found.ship is not arm:
        text += " That is not a gain beyond chance."
    elif ranked[0] is not arm:
        more = difference(ranked[0], found.root(ranked[0]), "target")
        text += f" The most gained: {ranked[0].name}, {points(more)} points."
    if found.reinforcement:
        text += f" {reinforced(found.reinforcement)}"
    if found.distillation:
        text += f" {distilled(found.distillation)}"
    result = [
        {
            "question": "What did it gain?",
            **_number_of(gain, "points on the target"),
            "text": text,
            "of": "checkpoint",
            "details": [
                {
                    "name": other.name,
                    "before": found.root(other).axis("target"),
                    "after": other.axis("target"),
                    "change": difference(other, found.root(other), "target"),
                }
                for other in ranked[:ARMS_SIDE_BY_SIDE]
            ],
        }
    ]
    if change:
        kept = retention(arm, root)
        share = f", {percent(kept)} of it kept {tables.interval_text('percent', kept)}" if kept else ""
        text = f"General score {percent(root.axis('general'))} → {percent(general)}{share} ({n_text(general)})."
    else:
        text = "No general task was measured."
    if found.stability:
        text += f" {kept_most(found.stability)}"
    result.append(
        {
            "question": "What did it lose?",
            **_number_of(change, "points of general capability"),
            "text": text,
            "of": "general task",
            "details": [
                {
                    "name": score.task,
                    "before": root.scores[score.task].estimate,
                    "after": score.estimate,
                    "change": difference(arm, root, task=score.task),
                }
                for score in arm.on("general")
            ],
        }
    )
    if found.learning:
        unlearned = first_screen(found.learning[0])
    else:
        number, unit = f"{len(found.unlearned):,}", f"of {found.tried:,} target items"
        unlearned = {"number": number, "unit": unit, "text": unlearned_text(found)}
    result.append({"question": "What did it never learn, and why?", **unlearned, "details": []})
    result.append(
        {
            "question": "Which checkpoint to ship?",
            "number": found.ship.name,
            "unit": "",
            "text": f"Rule: {found.rule}.",
            "details": [],
        }
    )
    return result


def _number_of(change: Estimate | None, unit: str) -> dict:
    if change is None:
        return {"number": "–", "unit": ""}
    number, interval = tables.number_text("points", change.value), tables.interval_text("points", change)
    return {"number": number, "interval": interval, "unit": unit}


def unlearned_text(found: Findings) -> str:
    """What is known of the target items that the checkpoint never gets right."""
    subject, items = found.subject, found.unlearned
    if not items:
        return f"{subject.name} gets each of {found.tried:,} target items right at least once."
    draws = items[0]["sampled"]
    how = "greedily; nothing was sampled" if draws == "–" else f"greedily and in every sample ({draws} right)"
    text = f"Wrong {how}."
    keys = {(item["task"], item["doc_id"]) for item in items}
    elsewhere = {
        key
        for arm in found.trained
        if arm is not subject
        for key, sample in _answers(arm.members[0], "greedy", set(arm.scores)).items()
        if key in keys and sample["correct"][0]
    }
    text += f" Another checkpoint gets {len(elsewhere):,} of them right."
    unmarked = sum("####" not in item["answer"] for item in items)
    if 0 < unmarked < len(items):
        text += f" {unmarked:,} of the greedy answers lack the marker ####."
    return text + " Why is not known: this run attributes no causes. The items are listed under Checkpoints."


def skipped(checkpoints: list[Checkpoint], dataset: str) -> str:
    """In words, the rows of a data set that reached a recipe and that it could not train on; "" when there are none."""
    found: dict[str, dict[str, int]] = {}
    for checkpoint in checkpoints:
        counts = (checkpoint.manifest or {}).get("counts", {}).get("train", {})
        if checkpoint.settings.get("data") == dataset and counts.get("quarantined"):
            found[checkpoint.recipe] = counts["quarantined"]
    return "; ".join(
        f"{recipe} cannot train on {sum(reasons.values()):,} ({', '.join(sorted(reasons))})"
        for recipe, reasons in found.items()
    )


def summary(found: Findings, gathered: Gathered, flows: list[Flow]) -> str:
    """Five lines for the terminal, and one for each warning."""
    settings = gathered.settings
    entered = sum(flow.rows_in for flow in flows)
    trained = sum(flow.total("train") for flow in flows)
    seeds = settings["seeds"]
    size = "default size, one seed" if len(seeds) == 1 else f"full size, {len(seeds)} seeds"
    lines = [
        f"{settings['workload']} ({size}): {trained:,} of {entered:,} raw rows are left to train on,"
        f" {len(found.shown)} checkpoints measured."
    ]
    notes = [note for flow in flows if (note := skipped(gathered.checkpoints, flow.dataset))]
    if notes:
        lines[0] += f" Of these, {'; '.join(notes)}."
    if not found.ship:
        return "\n".join([*lines, "Gained: nothing measured yet.", "Lost: –", "Never learned: –", "Ship: –"]) + "\n"
    for label, answer in zip(("Gained", "Lost", "Never learned", "Ship"), answers(found), strict=True):
        interval = f" {answer['interval']}" if "interval" in answer else ""
        unit = f" {answer['unit']}" if answer["unit"] else ""
        lines.append(f"{label}: {answer['number']}{interval}{unit}. {answer['text']}")
    lines += [f"Warning: {line}" for line in warnings(gathered.setups)]
    return "\n".join(lines) + "\n"


# --- sample answers ------------------------------------------------------------------------------


def side_by_side(found: Findings) -> list[dict]:
    """A few items, the first of each kind in the order of the tasks: learned, disputed, wrong, forgotten, kept."""
    subject, root = found.subject, found.root(found.subject)
    compared = [root, subject, *(arm for arm in found.trained if arm is not subject)]
    compared = [arm for arm in compared if arm.members[0].samples][:ARMS_SIDE_BY_SIDE]
    if root not in compared or len(compared) < 2:
        return []
    given = {arm.name: _answers(arm.members[0], "greedy", set(arm.scores)) for arm in compared}
    kinds = {
        "target": (("learned", (False, True)), ("wrong in every checkpoint", None), ("disputed", "mixed")),
        "harder": (("learned", (False, True)), ("wrong in every checkpoint", None)),
        "general": (("forgotten", (True, False)), ("kept", (True, True))),
    }
    chosen, used = [], set()
    for axis, wanted in kinds.items():
        for task in (score.task for score in root.on(axis)):
            keys = [key for key in given[root.name] if key[0] == task and all(key in g for g in given.values())]
            for label, pattern in wanted:
                for key in keys:
                    marks = {name: bool(rows[key]["correct"][0]) for name, rows in given.items()}
                    of_trained = [right for name, right in marks.items() if name not in found.roots]
                    fits = {
                        None: not any(marks.values()),
                        "mixed": len(set(of_trained)) > 1,
                    }.get(pattern, (marks[root.name], marks[subject.name]) == pattern)
                    if fits and key not in used:
                        used.add(key)
                        chosen.append((axis, label, key, marks))
                        break
    return [
        {
            "axis": axis,
            "task": key[0],
            "item": key[1],
            "label": label,
            "prompt": shorten(plain_prompt(given[root.name][key]["prompt"]), PROMPT_CHARS, end=True),
            "reference": given[root.name][key]["target"],
            "answers": [
                {"name": name, "right": marks[name], "text": shorten(rows[key]["responses"][0], RESPONSE_CHARS)}
                for name, rows in given.items()
            ],
        }
        for axis, label, key, marks in chosen
    ]
