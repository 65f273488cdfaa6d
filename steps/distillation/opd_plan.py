"""Which prompts every step of on-policy distillation (the stage opd) asks, how far its responses are supervised, and
what its log has."""

from collections.abc import Sequence
from dataclasses import dataclass

from steps.distillation.opd_measures import BY_POSITION
from steps.engines import rollouts

# What a column of the log is called by TRL's trainer, and by ours.
LOGGED = {
    "correct": "correct",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "sampler_gap": "sampler_gap",
}
MEASURED = {
    "log_ratio": "log_ratio", "entropy": "student_entropy", "teacher_entropy": "teacher_entropy",
    "entropy_gap": "entropy_gap", "overlap": "overlap", "mass_student": "mass_student",
    "mass_teacher": "mass_teacher", "overlap_advantage": "advantage",
}  # fmt: skip
SUMMED = ("generated", "scored")
LOG_COLUMNS = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", *SUMMED, *LOGGED, *MEASURED)
POSITION_COLUMNS = ("step", "begin", "end", "tokens", *BY_POSITION.values())


@dataclass(frozen=True)
class Draw:
    """One sample to learn from.

    Attributes:
        source: which of the settings' sources.
        row: of that source's prompts or, where `stored`, of its teacher's responses.
        stored: the response is the teacher's, and nothing is sampled.
    """

    source: int
    row: int
    stored: bool = False


@dataclass(frozen=True)
class DrawPlan:
    """Which samples each step learns from, known before the first.

    Attributes:
        draws: of all steps; those that the student writes to one prompt follow each other.
        rows: prompts that there are.
        prompts: of a step.
        steps: of the optimizer.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
    """

    draws: list[Draw]
    rows: int
    prompts: int
    steps: int
    saves: int
    shown = "overlap"

    @property
    def save_steps(self) -> set[int]:
        return {self.steps * i // (self.saves + 1) for i in range(1, self.saves + 1)} - {0}

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return True

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        merged: list[dict] = [{} for _ in range(done + 1)]
        for entry in history:
            merged[entry["step"]] |= entry
        rows, sums = [], dict.fromkeys(SUMMED, 0)
        for step, entry in enumerate(merged[1:], start=1):
            for name in SUMMED:
                sums[name] += round(entry[name])
            row = {"step": step, "epoch": self.prompts * step / self.rows, "tokens": round(entry["num_tokens"]), **sums}
            row |= {key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry}
            names = LOGGED | MEASURED
            rows.append(row | {column: entry[key] for column, key in names.items() if entry.get(key) is not None})
        return rows


def horizon_at(step: int, horizon: dict | None) -> int | None:
    """Tokens of a response that are supervised after so many steps: all (None), `tokens`, or growing to them evenly."""
    if horizon is None or "from" not in horizon:
        return horizon and horizon["tokens"]
    grown = min(step / horizon["until"], 1.0)
    return round(horizon["from"] + grown * (horizon["tokens"] - horizon["from"]))


def deal(shares: Sequence[float], count: int) -> list[int]:
    """`count` choices among so many shares, each at every moment as near to its share as whole numbers are.

    Args:
        shares: with a sum of 1.
    """
    given, order = [0] * len(shares), []
    for turn in range(1, count + 1):
        behind = max(range(len(shares)), key=lambda i: (round(shares[i] * turn - given[i], 9), -i))
        given[behind] += 1
        order.append(behind)
    return order


def plan_draws(settings: dict, prompts: Sequence[list[dict]], responses: Sequence[list[dict]]) -> list[Draw]:
    """The samples of the whole run, step by step.

    Args:
        prompts: rows of each source.
        responses: rows that each source's teacher wrote; empty lists without `off_policy`.
    """
    wanted = settings["steps"] * settings["prompts"]
    of_source = deal([source["share"] for source in settings["sources"]], wanted)
    queues = []
    for i in range(len(prompts)):
        stored = deal([1 - settings["off_policy"], settings["off_policy"]], of_source.count(i))
        size, seed = settings["generations"], settings["seed"] if i == 0 else f"{settings['seed']}-{i}"
        own = rollouts.plan_prompts(prompts[i], stored.count(0), settings["curriculum"], seed)
        theirs = rollouts.plan_prompts(responses[i], stored.count(1) * size, "shuffle", seed) if responses[i] else []
        queues.append((iter(stored), iter(own), iter(theirs)))
    draws = []
    for i in of_source:
        stored, own, theirs = queues[i]
        if next(stored):
            draws += [Draw(i, next(theirs), stored=True) for _ in range(settings["generations"])]
        else:
            draws += [Draw(i, next(own))] * settings["generations"]
    return draws
