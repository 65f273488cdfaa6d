"""What the comparison comes to: the checkpoints to show, the one to ship and by which rule, what was never learned."""

from dataclasses import dataclass, field

from steps.core.text import plain_prompt
from steps.report.candidates import Candidate, Checkpoint, best_points, difference, retention, root_of
from steps.report.choice import Parts, parts
from steps.report.tables import Estimate


@dataclass(frozen=True)
class RunnerUp:
    """The best of the others that gained.

    Attributes:
        why: it was not chosen: it does not surely keep enough of the general score ("keeps less"), or is lower in what
            the rule goes by ("lower").
        kept: the share of the general score that it keeps, by the questions that choose.
    """

    candidate: Candidate
    why: str
    kept: Estimate | None


@dataclass
class Findings:
    """The comparison: candidates to show, the model each started from, the one to ship and by which rule."""

    candidates: dict[str, Candidate]
    shown: list[Candidate]
    grids: dict[str, tuple[list[Candidate], Candidate | None]]
    keep: float = 0.0  # the share of the general score that is enough to ship
    ship: Candidate | None = None
    rule: str = ""  # as `choose` names it
    runner_up: "RunnerUp | None" = None
    # What the answers are about: the checkpoint to ship or, where that is the model itself, the best on the target.
    subject: Candidate | None = None
    # The best on the target, by the questions that choose.
    best: Candidate | None = None
    unlearned: list[dict] = field(default_factory=list)
    tried: int = 0
    parts: Parts | None = None

    def root(self, candidate: Candidate) -> Candidate:
        return root_of(candidate, self.candidates)

    def reported(self, candidate: Candidate) -> Candidate:
        """A candidate by the questions that report."""
        return self.parts.reporting[candidate.name]

    def chosen_by(self, candidate: Candidate) -> float:
        """The target score by which a candidate is chosen."""
        return self.parts.choosing[candidate.name].axis("target").value

    @property
    def roots(self) -> set[str]:
        return {candidate.name for candidate in self.shown if self.root(candidate) is candidate}

    @property
    def trained(self) -> list[Candidate]:
        """What can be said to have gained: checkpoints measured on the target, as the model they started from."""
        measured = [
            candidate for candidate in self.shown if self.root(candidate) is not candidate and candidate.axis("target")
        ]
        return [candidate for candidate in measured if self.root(candidate).axis("target")]


def findings(candidates: dict[str, Candidate], keep: float) -> Findings:
    """Compare all candidates; of a grid the point that dev chose stands for all."""
    grids = best_points(candidates)
    hidden = {
        candidate.name for points, best in grids.values() if best for candidate in points if candidate is not best
    }
    shown = [candidate for candidate in candidates.values() if candidate.scores and candidate.name not in hidden]
    comparison = Findings(candidates, shown, grids, keep)
    trained = comparison.trained
    if not trained:
        return comparison
    comparison.parts = parts(trained, map(comparison.root, trained))
    comparison.ship, comparison.rule, comparison.runner_up = choose(comparison, keep)
    comparison.best = max(trained, key=comparison.chosen_by)
    comparison.subject = comparison.ship if comparison.ship in trained else comparison.best
    comparison.unlearned, comparison.tried = never_learned(comparison.reported(comparison.subject))
    return comparison


def choose(comparison: Findings, keep: float) -> tuple[Candidate, str, RunnerUp | None]:
    """The checkpoint to ship, by which rule, and the best of the others; all by the questions that choose.

    Of those that gained, the best on the target that surely keeps `keep` of the general score, by the lower end of what
    it keeps ("keeps enough"); where none does, the one with the highest sum of both axes ("highest sum") or, without a
    general axis, the best on the target ("target alone"); where none gained, the model itself ("none gained").
    """
    choosing = comparison.parts.choosing
    gained, kept = [], {}
    for candidate in comparison.trained:
        ours, root = choosing[candidate.name], choosing[comparison.root(candidate).name]
        gain = difference(ours, root, "target")
        if gain and gain.low > 0:
            gained.append(candidate)
            kept[candidate.name] = retention(ours, root)
    if not gained:
        return comparison.root(comparison.trained[0]), "none gained", None
    enough = [candidate for candidate in gained if kept[candidate.name] and kept[candidate.name].low >= keep]
    both = [candidate for candidate in gained if candidate.axis("general")]

    def total(candidate: Candidate) -> float:
        return comparison.chosen_by(candidate) + choosing[candidate.name].axis("general").value

    if enough:
        rule, ship = "keeps enough", max(enough, key=comparison.chosen_by)
    elif both:
        rule, ship = "highest sum", max(both, key=total)
    else:
        rule, ship = "target alone", max(gained, key=comparison.chosen_by)
    others = [candidate for candidate in (both if rule == "highest sum" else gained) if candidate is not ship]
    if not others:
        return ship, rule, None
    next_best = max(others, key=total if rule == "highest sum" else comparison.chosen_by)
    why = "keeps less" if enough and next_best not in enough else "lower"
    return ship, rule, RunnerUp(next_best, why, kept[next_best.name])


def never_learned(candidate: Candidate) -> tuple[list[dict], int]:
    """Target items wrong greedily and in every sample, over all seeds (a row each), and how many were tried."""
    rows, tried = [], 0
    scores = {score.task: score for score in candidate.on("target")}
    tasks = set(scores)
    greedy = {
        (task, doc): sample
        for (task, doc), sample in responses(candidate.members[0], "greedy", tasks).items()
        if not scores[task].items or doc in scores[task].items
    }
    right: dict[tuple, int] = {}
    drawn: dict[tuple, int] = {}
    for member in candidate.members:
        for kind in ("greedy", "sampled"):
            for key, sample in responses(member, kind, tasks).items():
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


def responses(member: Checkpoint, kind: str, tasks: set[str]) -> dict[tuple, dict]:
    """(task, item) → what a checkpoint answered; kind "greedy" or "sampled"."""
    return {(s["task"], s["doc_id"]): s for s in member.samples if s["kind"] == kind and s["task"] in tasks}
