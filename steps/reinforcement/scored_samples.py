"""Samples of the policy with their rewards, as RL's trainer gets them, and what is written down of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.turns import prompt_turns
from steps.engines import rollouts
from steps.reinforcement.rl_plan import RolloutPlan
from steps.training import self_teacher


def rounded(value: float) -> float | None:
    """A reward as it is written down; None where it says nothing."""
    return None if math.isnan(value) else round(value, 6)


class ScoredSamples:
    """Put in front of a GRPOTrainer: it samples through the engine, and a reward that fails costs one sample.

    Attributes:
        rows: with "messages" and what the rewards ask of a row.
        own: the samples of a step that are this process's: whole groups.
        batch: the row of each of them, of the rollouts at hand.
        values: [samples of all processes, rewards] of the rollouts at hand; NaN where a reward says nothing.
        failed: scores of this process's rollouts at hand that a reward could not give.
        plain: [samples] GRPO's advantages, before the method changes them.
    """

    rows: list[dict]
    settings: dict
    plan: RolloutPlan
    work: Path
    own: slice
    batch: list[dict]
    values: Any
    failed: list[dict]
    plain: Any

    @property
    def rollout(self) -> int:
        """Batches of rollouts before this one."""
        return self.state.global_step // self.settings["iterations"]

    def note(self, name: str, value: float) -> None:
        """Have TRL log a number of the step at hand."""
        self._metrics["train"][name].append(value)

    def rollouts(self, prompts: list) -> dict:
        """TRL's rollout_func: every prompt comes `generations` times in a row."""
        settings, size = self.settings, self.settings["generations"]
        with self_teacher.swapped_weights(self.model, None), self.accelerator.autocast():
            groups = self.engine.sample(
                prompts[::size],
                n=size,
                temperature=settings["temperature"],
                max_new_tokens=settings["max_new_tokens"],
                seed=[settings["seed"], self.rollout],
                first=self.own.start // size,
            )
        written = [sample for group in groups for sample in group]
        encoded = self.engine.encode([self.engine.render(prompt) for prompt in prompts[::size]])
        self.note("generated", processes.total(sum(sample.tokens for sample in written)))
        return {
            "prompt_ids": [ids for ids in encoded for _ in range(size)],
            "completion_ids": [list(sample.ids) for sample in written],
            "logprobs": None,
        }

    def reward_function(self, name: str) -> Callable[..., list[float | None]]:
        """A reward as TRL calls it, and by the name that it logs; None of a sample is in no sum, mean or deviation."""

        def reward(prompts, completions, completion_ids, **_):
            return self.score(name, completions, completion_ids)

        reward.__name__ = name
        return reward

    def score(self, name: str, completions: list, completion_ids: list) -> list[float | None]:
        """One reward of every sample; what it could not score is written down, and counted."""
        texts = [self.engine.chat.reopened(completion[0]["content"]) for completion in completions]
        tokens, size = [len(ids) for ids in completion_ids], self.settings["generations"]
        results = self.rewards.score(name, self.batch, texts, tokens, [size] * (len(texts) // size))
        for row, text, result in zip(self.batch, texts, results, strict=True):
            if result.error is not None:
                place = {key: row[key] for key in ("id", "file", "line", "row")}
                self.failed.append(place | {"reward": name, "error": result.error, "response": text})
        self.timeouts += sum(result.note == "timeout" for result in results)
        return [None if result.note == "silent" else result.value for result in results]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        self.failed, self.timeouts = [], 0
        # Of all processes, as TRL gathers them.
        self.values = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        failed = round(processes.total(len(self.failed)))
        self.note("failures", failed)
        self.note("timeouts", processes.total(self.timeouts))
        self.check_failures(failed)
        return self.values

    def check_failures(self, now: int) -> None:
        """Raises ValueError where more scores failed so far than `max_failures` allows; `now` are the newest."""
        earlier = [round(entry["failures"]) for entry in self.state.log_history if "failures" in entry]
        failed, most = sum(earlier) + now, self.settings["max_failures"]
        samples = self.settings["prompts"] * self.settings["generations"]
        share = failed / (samples * len(self.plan.names) * (self.rollout + 1))
        if now and share > most and not self.failed:
            raise ValueError(f"{failed} scores failed so far, the last in another process")
        if self.failed and share > most:
            first = self.failed[0]
            raise ValueError(
                f"reward {first['reward']}: {failed} scores failed so far, {100 * share:.1f} % (max_failures allows"
                f" {100 * most:g} %); {first['file']} row {first['row']}: {first['error']};"
                f" the completion was {first['response'][:200]!r}"
            )

    def texts(self, output: dict) -> list[str]:
        """The responses of a batch of TRL's, as text."""
        pairs = zip(output["completion_ids"], output["completion_mask"], strict=True)
        return self.processing_class.batch_decode(
            [ids[mask.bool()].tolist() for ids, mask in pairs], skip_special_tokens=True
        )

    def keep(self, output: dict) -> None:
        """Some groups of the rollouts, and the failed scores, as files that a resumed run writes again."""
        size, step = self.settings["generations"], self.state.global_step + 1
        # The first process has as many as there are, or its share of the prompts.
        groups = min(self.settings["keep_groups"], len(self.batch) // size) if processes.first() else 0
        texts = self.texts({key: output[key][: groups * size] for key in ("completion_ids", "completion_mask")})
        kept = []
        for begin in range(0, groups * size, size):
            row, members = self.batch[begin], range(begin, begin + size)
            values = {
                name: [rounded(self.values[i, k].item()) for i in members] for k, name in enumerate(self.plan.names)
            }
            kept.append(
                {
                    "step": step,
                    "id": row["id"],
                    "prompt": prompt_turns(row["messages"])[-1]["content"],
                    "answer": row["answer"],
                    "responses": texts[begin : begin + size],
                    "rewards": values,
                    "advantages": [round(self.plain[i].item(), 6) for i in members],
                }
            )
        rollouts.keep(self.work / "rollouts", self.rollout, kept)
        failed = [{"step": step} | failure for failure in self.failed]
        rollouts.keep(self.work / "failures", self.rollout, failed)
