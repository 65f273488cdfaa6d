"""Samples of the policy with their rewards, as RL's trainer gets them, and what is written down of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from steps.core import processes
from steps.core.turns import asked_turns, prompt_turns
from steps.engines import rollouts
from steps.engines.interface import Sample
from steps.judges.rows import RowJudge
from steps.judges.strict import strict_verdicts
from steps.reinforcement.exploits import exploits
from steps.reinforcement.reward_kinds import Scored
from steps.reinforcement.rl_plan import RolloutPlan
from steps.settings.sampling import truncation
from steps.training import self_teacher


def rounded(value: float) -> float | None:
    """A reward as it is written down; None where it says nothing."""
    return None if math.isnan(value) else round(value, 6)


def without_spread(values: Any, weights: Any, size: int, settings: dict) -> Any:
    """[groups] bool: whose samples all have one reward, and so no advantage within their group.

    Args:
        values: [samples, rewards], NaN where one says nothing; a sample of which none says anything is left out.
        weights: [rewards].
        size: samples of a group.
    """
    import torch
    from trl.trainer.utils import nanstd

    grouped = values.view(-1, size, values.shape[1])
    silent = grouped.isnan().all(2)
    if settings.get("aggregation") == "normalize_then_sum":
        grouped = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    totals = (grouped * weights).nansum(2)
    low, high = totals.masked_fill(silent, math.inf).amin(1), totals.masked_fill(silent, -math.inf).amax(1)
    # What is normalised cancels up to rounding.
    return torch.isclose(low, high, atol=1e-6) | (low > high)


def told(scored: Scored) -> float:
    """The value of a reward; NaN where it says nothing."""
    return math.nan if scored.note == "silent" else scored.value


def spare_rows(plan: RolloutPlan, rollout: int, seed: int) -> list[int]:
    """The rows that a batch of rollouts does not ask, in a random order of its own."""
    asked = {*plan.order[rollout * plan.prompts : (rollout + 1) * plan.prompts]}
    others = [i for i in range(plan.rows) if i not in asked]
    Random(f"spare-{seed}-{rollout}").shuffle(others)
    return others


class ScoredSamples:
    """Put in front of a GRPOTrainer: it samples through the engine, and a reward that fails costs one sample.

    Attributes:
        rows: with "messages" and what the rewards ask of a row.
        own: the samples of a step that are this process's: whole groups.
        batch: the row of each of them, of the rollouts at hand.
        values: [samples of all processes, rewards] of the rollouts at hand; NaN where a reward says nothing.
        failed: scores of this process's rollouts at hand that a reward could not give, of replaced groups too.
        timeouts: answers among them that nobody could compare in time.
        drawn: groups that were drawn instead of others for them, in all processes.
        plain: [samples] GRPO's advantages, before the method changes them.
        written: this process's samples of the rollouts at hand.
        generated: tokens written for them, those of replaced groups among them.
        strict: the judge that what counts as correct is held against.
        ahead: what each reward gives them, where that had to be known before TRL asks.
        warned: that the reward seems to be exploited was said.
    """

    rows: list[dict]
    settings: dict
    plan: RolloutPlan
    work: Path
    own: slice
    batch: list[dict]
    values: Any
    failed: list[dict]
    timeouts: int
    drawn: int
    plain: Any
    written: list[Sample]
    generated: int
    ahead: dict[str, list[Scored]] | None
    strict: RowJudge
    warned = False

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
        rows, self.generated, self.ahead = self.batch[::size], 0, None
        self.failed, self.timeouts, self.drawn = [], 0, 0
        groups = self.write(rows, [settings["seed"], self.rollout])
        if settings.get("dynamic_sampling"):
            self.replace_flat(rows, groups)
        self.written = [sample for group in groups for sample in group]
        encoded = self.engine.encode([self.engine.render(asked_turns(row)) for row in rows])
        self.note("generated", processes.total(self.generated))
        return {
            "prompt_ids": [ids for ids in encoded for _ in range(size)],
            "completion_ids": [list(sample.ids) for sample in self.written],
            "logprobs": None,
        }

    def write(self, rows: list[dict], seed: list[int]) -> list[list[Sample]]:
        """A group of samples of each row; every process must call it. A row's number among those of all processes seeds
        them: one process that has all of them writes the same."""
        settings, size, cut = self.settings, self.settings["generations"], truncation(self.settings)
        with self_teacher.swapped_weights(self.model, None), self.accelerator.autocast():
            groups = self.engine.sample(
                [asked_turns(row) for row in rows],
                n=size,
                temperature=settings["temperature"],
                **cut,
                **({"noting": True} if cut else {}),
                max_new_tokens=settings["max_new_tokens"],
                seed=seed,
                first=processes.before(len(rows)),
            )
        self.generated += sum(sample.tokens for group in groups for sample in group)
        return groups

    def replace_flat(self, rows: list[dict], groups: list[list[Sample]]) -> None:
        """Dynamic sampling (DAPO, arXiv:2503.14476, section 3.2): groups whose rewards have no spread teach nothing and
        give way to those of other rows, `dynamic_sampling` times at most; what is flat after that stays.

        Args:
            rows, groups: of this process; the lists are changed.
        """
        settings, first = self.settings, self.own.start // self.settings["generations"]
        spare = spare_rows(self.plan, self.rollout, settings["seed"])
        scored = [self.results([row], group) for row, group in zip(rows, groups, strict=True)]
        for turn in range(settings["dynamic_sampling"]):
            flat = [i for i, results in enumerate(scored) if self.is_flat(results)]
            drawn = round(processes.total(len(flat)))
            if not drawn:
                break
            for i in flat:
                for name, results in scored[i].items():
                    texts = [sample.text for sample in groups[i]]
                    self.account(name, [rows[i]] * len(texts), texts, results)
                if spare:
                    rows[i] = self.rows[spare[(turn * self.plan.prompts + first + i) % len(spare)]]
            new = self.write([rows[i] for i in flat], [settings["seed"], self.rollout, turn + 1])
            for i, group in zip(flat, new, strict=True):
                groups[i], scored[i] = group, self.results([rows[i]], group)
            self.drawn += drawn
        self.note("replaced", self.drawn)
        self.batch = [row for row in rows for _ in range(settings["generations"])]
        self.ahead = {name: [one for own in scored for one in own[name]] for name in self.plan.names}

    def results(self, rows: list[dict], group: list[Sample]) -> dict[str, list[Scored]]:
        """What every reward gives the samples of a row."""
        size, tokens = len(group), [sample.tokens for sample in group]
        texts = [sample.text for sample in group]
        return {name: self.rewards.score(name, rows * size, texts, tokens, [size]) for name in self.plan.names}

    def is_flat(self, results: dict[str, list[Scored]]) -> bool:
        import torch

        values = torch.tensor([[told(one) for one in results[name]] for name in self.plan.names]).T
        return bool(without_spread(values, self.reward_weights.to(values), len(values), self.settings).all())

    def reward_function(self, name: str) -> Callable[..., list[float | None]]:
        """A reward as TRL calls it, and by the name that it logs; None of a sample is in no sum, mean or deviation."""

        def reward(completion_ids, **_):
            return self.score(name, completion_ids)

        reward.__name__ = name
        return reward

    def score(self, name: str, completion_ids: list) -> list[float | None]:
        """One reward of every sample; what it could not score is written down, and counted."""
        texts = [sample.text for sample in self.written]
        tokens, size = [len(ids) for ids in completion_ids], self.settings["generations"]
        groups = [size] * (len(texts) // size)
        results = self.ahead[name] if self.ahead else self.rewards.score(name, self.batch, texts, tokens, groups)
        self.account(name, self.batch, texts, results)
        return [None if result.note == "silent" else result.value for result in results]

    def account(self, name: str, rows: list[dict], texts: list[str], results: list[Scored]) -> None:
        """Write down what a reward could not score."""
        for row, text, result in zip(rows, texts, results, strict=True):
            if result.error is not None:
                place = {key: row[key] for key in ("id", "file", "line", "row")}
                self.failed.append(place | {"reward": name, "error": result.error, "response": text})
        self.timeouts += sum(result.note == "timeout" for result in results)

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
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
        replaced = self.drawn + sum(round(entry.get("replaced", 0)) for entry in self.state.log_history)
        groups = self.settings["prompts"] * (self.rollout + 1) + replaced
        share = failed / (groups * self.settings["generations"] * len(self.plan.names))
        if now and share > most and not self.failed:
            raise ValueError(f"{failed} scores failed so far, the last in another process")
        if self.failed and share > most:
            first = self.failed[0]
            raise ValueError(
                f"reward {first['reward']}: {failed} scores failed so far, {100 * share:.1f} % (max_failures allows"
                f" {100 * most:g} %); {first['file']} row {first['row']}: {first['error']};"
                f" the completion was {first['response'][:200]!r}"
            )

    def hold(self, correct: Any, known: Any) -> None:
        """Hold the rollouts at hand against a stricter judge, and note what of them counts as correct and is not right.

        Args:
            correct: [own samples] bool.
            known: [own samples] bool, whether the reward says so or not; without, their group is not compared.
        """
        texts = [sample.text for sample in self.written]
        ended = [sample.ids[-1] in self.engine.stop_ids for sample in self.written]
        verdicts = strict_verdicts(self.strict, self.batch, texts, ended)
        size, step, correct = self.settings["generations"], self.state.global_step + 1, correct.tolist()
        known = known.tolist()
        totals = (self.values[self.own] * self.reward_weights.to(self.values)).nansum(1).tolist()
        groups, wrong = [], []
        for begin in range(0, len(verdicts), size):
            members = range(begin, begin + size)
            if any(verdicts[i] is None or not known[i] for i in members):
                continue
            right = [verdicts[i].right for i in members]
            counted = [correct[i] for i in members]
            place = {"step": step, "id": self.batch[begin]["id"]}
            groups.append(place | {"right": sum(right) / size, "gap": (sum(counted) - sum(right)) / size})
            question = prompt_turns(self.batch[begin]["messages"])[-1]["content"]
            asked = place | {"prompt": question, "answer": self.batch[begin]["answer"]}
            wrong += [
                asked | {"reward": round(totals[i], 6), "why": verdicts[i].why, "response": texts[i]}
                for i in members
                if correct[i] and not verdicts[i].right
            ]
        rollouts.keep(self.work / "strict", self.rollout, groups)
        highest = sorted(wrong, key=lambda one: -one["reward"])[: self.settings["keep_groups"]]
        rollouts.keep(self.work / "disagreements", self.rollout, highest)
        # Behind it, every process has written its groups.
        if count := processes.total(len(groups)):
            self.warn_of_exploit()
            self.note("strict", processes.total(sum(group["right"] for group in groups)) / count)
            self.note("strict_gap", processes.total(sum(group["gap"] for group in groups)) / count)

    def warn_of_exploit(self) -> None:
        """Say once, as soon as it can be told, that the reward seems to be exploited."""
        if self.warned or not processes.first():
            return
        groups = rollouts.gathered(self.work / "strict", self.rollout + 1)
        for sentence in exploits(groups, self.plan.batches):
            print(f"warning: {sentence}", flush=True)
            self.warned = True

    def texts(self, count: int | None = None) -> list[str]:
        """The first responses of the rollouts at hand, or all."""
        ids = [list(sample.ids) for sample in self.written[:count]]
        return self.engine.chat.texts(ids)

    def keep(self) -> None:
        """Some groups of the rollouts, and the failed scores, as files that a resumed run writes again."""
        size, step = self.settings["generations"], self.state.global_step + 1
        # Of the first groups of all processes, those that are this one's.
        groups = max(0, min(self.settings["keep_groups"] - self.own.start // size, len(self.batch) // size))
        texts = self.texts(groups * size)
        kept = []
        for begin in range(0, groups * size, size):
            row, members = self.batch[begin], range(begin, begin + size)
            values = {
                name: [rounded(self.values[self.own][i, k].item()) for i in members]
                for k, name in enumerate(self.plan.names)
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
