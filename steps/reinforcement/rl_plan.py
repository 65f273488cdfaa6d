"""Which prompts every step of stage rl asks, and what its log has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from steps.engines import rollouts

# Column of the log → what TRL's trainer, or ours, calls it.
LOGGED = {
    "reward": "reward",
    "correct": "correct",
    "length": "completions/mean_length",
    "truncated": "completions/clipped_ratio",
    "entropy": "entropy",
    "kl": "kl",
    "clipped": "clip_ratio/region_mean",
    "no_signal": "no_signal",
    "distilled": "distilled",
    "sampler_gap": "sampler_gap",
}
# Those that not every run has.
OPTIONAL = {name: name for name in ("kl_weight", "replaced", "ratios_cut", "strict", "strict_gap", "valid_correct")}
# Columns that count from the first step on.
SUMMED = ("generated", "failures", "timeouts")


def log_columns(names: Sequence[str], log: Sequence[dict]) -> list[str]:
    """Of training_log.csv, for the rewards of these names."""
    shared = [name for name in LOGGED if name != "reward"]
    shared += [name for name in OPTIONAL if any(name in row for row in log)]
    first = ["step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "generated"]
    return [*first, "reward", *(f"reward_{name}" for name in names), *shared, "failures", "timeouts"]


@dataclass(frozen=True)
class RolloutPlan:
    """Which prompts each batch of rollouts asks, known before the first step.

    Attributes:
        order: rows, `prompts` for each batch of rollouts.
        prompts: of a batch of rollouts.
        rows: that there are.
        steps: of the optimizer.
        iterations: of them on one batch of rollouts.
        saves: how often, at equal distances, the state is put aside; the end is not counted.
        names: of the rewards.
        valid_every: steps between two looks at held-out questions; None never looks.
    """

    order: list[int]
    prompts: int
    rows: int
    steps: int
    iterations: int
    saves: int
    names: list[str]
    valid_every: int | None = None
    shown = "reward"  # what the progress line shows

    @property
    def batches(self) -> int:
        """Of rollouts."""
        return self.steps // self.iterations

    @property
    def save_steps(self) -> set[int]:
        """At the end of a batch of rollouts, which a resumed run samples anew."""
        wanted = (self.steps * i // (self.saves + 1) for i in range(1, self.saves + 1))
        return {step - step % self.iterations for step in wanted} - {0}

    @property
    def valid_steps(self) -> set[int]:
        """When held-out questions are asked: the start too, which a run may not surpass."""
        every = self.valid_every
        return {*range(0, self.steps, every), self.steps} if every else set()

    def may_stop(self, step: int) -> bool:
        """Whether a resumed run could go on from after this step."""
        return step % self.iterations == 0

    def log(self, history: list[dict], done: int) -> list[dict]:
        """One {column: value} for each step done, from what the trainer logged."""
        merged: list[dict] = [{} for _ in range(done + 1)]
        for entry in history:
            merged[entry["step"]] |= entry
        names = LOGGED | OPTIONAL | {f"reward_{name}": f"rewards/{name}/mean" for name in self.names}
        rows, sums, tokens = [], dict.fromkeys(SUMMED, 0), 0
        for step, entry in enumerate(merged[1:], start=1):
            tokens = round(entry.get("num_tokens", tokens))
            for name in SUMMED:
                sums[name] += round(entry.get(name, 0))
            asked = self.prompts * math.ceil(step / self.iterations)
            row = {"step": step, "epoch": asked / self.rows, "tokens": tokens, **sums}
            row |= {key: entry[key] for key in ("loss", "learning_rate", "grad_norm") if key in entry}
            # A reward that says nothing of any sample has no mean.
            told = {column: entry.get(key) for column, key in names.items()}
            rows.append(row | {column: value for column, value in told.items() if value == value and value is not None})
        return rows


def plan_rollouts(rows: list[dict], settings: dict) -> RolloutPlan:
    """The plan of a recipe over these rows."""
    batches = settings["steps"] // settings["iterations"]
    return RolloutPlan(
        order=rollouts.plan_prompts(rows, batches * settings["prompts"], settings["curriculum"], settings["seed"]),
        prompts=settings["prompts"],
        rows=len(rows),
        steps=settings["steps"],
        iterations=settings["iterations"],
        saves=settings["saves"],
        names=[*settings["rewards"]],
        valid_every=settings.get("eval_steps"),
    )
