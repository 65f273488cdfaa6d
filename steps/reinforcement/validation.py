"""Held-out questions under way: how many the policy answers rightly, which weights answer most, when to end.

The questions are those of the data set that its split holds out, so that no row was trained on and none of an
evaluation task has a say in what is kept. Answers are the likeliest ones (temperature 0), and right is what `success`
counts as correct. The start is asked too: where nothing surpasses it, it is what `keep_best` keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

from steps.core import processes
from steps.core.progress import say
from steps.core.turns import asked_turns
from steps.engines import rollouts
from steps.models.chat import Chat
from steps.models.context import context
from steps.reinforcement.collapse import collapses, is_mixed
from steps.settings.reinforcement import EVAL_ROWS
from steps.training import self_teacher
from steps.training.state import BEST
from steps.training.watchers import Best

# Of the log; and, beside it in the trainer's history, the answers that a reward failed on and could not judge in time.
COLUMN, FAILED, TIMED_OUT = "valid_correct", "valid_failures", "valid_timeouts"
OF_ALL_LOOKS = {"failures": FAILED, "timeouts": TIMED_OUT}
# The signs of a collapse that end a run: groups that are all alike may be all right.
ENDING = ("entropy", "length", "correct")


class HeldOut:
    """The rows of a file that can be asked.

    Attributes:
        rows: they.
        skipped: reason → how many of the others.
    """

    def __init__(self, rows: Iterable[dict], file: Path, tokenizer: Any, config: Any, max_new_tokens: int):
        self.file, self.first = file, ""
        self.rows: list[dict] = []
        self.skipped: Counter[str] = Counter()
        chat = Chat(tokenizer)
        for row in rows:
            if refused := rollouts.refusal(row, chat, context(config), max_new_tokens):
                self.skip(row, refused)
            else:
                self.rows.append(row)

    def skip(self, row: dict, problem: Any) -> None:
        self.first = self.first or f"{row['file']} row {row['row']}: {problem.detail}; {problem.hint}"
        self.skipped[problem.reason] += 1

    def drawn(self, rewards: Any, most: int, seed: int) -> list[dict]:
        """At most so many of those that every reward can judge, in their order.

        Raises:
            ValueError: there is none.
        """
        found = []
        for row in self.rows:
            if problem := rewards.problem(row):
                self.skip(row, problem)
            else:
                found.append(row)
        if not found:
            why = f", the first ({self.first})" if self.first else ""
            raise ValueError(
                f"eval_steps: none of the {self.skipped.total()} held-out rows of {self.file} can be asked and"
                f" judged{why}; raise split.valid_share, or remove eval_steps"
            )
        if self.skipped:
            say("rl", f"{self.skipped.total():,} held-out rows are not asked (the first: {self.first})")
        chosen = Random(f"held-out-{seed}").sample(range(len(found)), min(most, len(found)))
        return [found[i] for i in sorted(chosen)]


class Validation:
    """Asks the held-out questions of a trainer's policy.

    Attributes:
        rows: that are asked, in all processes together.
        best: which weights are kept; None where the last are.
    """

    def __init__(self, trainer: Any, held_out: HeldOut, plan: Any):
        best = trainer.settings.get("keep_best")
        self.trainer, self.held_out = trainer, held_out
        self.best = None if best is None else BestAnswers(plan, best, trainer)

    @cached_property
    def rows(self) -> list[dict]:
        settings = self.trainer.settings
        return self.held_out.drawn(self.trainer.rewards, settings.get("eval_rows", EVAL_ROWS), settings["seed"])

    def measure(self) -> dict[str, float]:
        """The share of right answers, and how many the reward failed on or could not compare in time, which count as
        wrong; every process must call it.

        Raises:
            ValueError: the reward says nothing of any answer, or fails on more of them than `max_failures` allows.
        """
        trainer, settings = self.trainer, self.trainer.settings
        own, success = self.rows[processes.rank() :: processes.count()], settings["success"]
        with self_teacher.swapped_weights(trainer.model, None), trainer.accelerator.autocast():
            answers = trainer.engine.sample(
                [asked_turns(row) for row in own], temperature=0.0, max_new_tokens=settings["max_new_tokens"]
            )
        texts, tokens = ([getattr(sample, key) for (sample,) in answers] for key in ("text", "tokens"))
        scored = trainer.rewards.score(success["reward"], own, texts, tokens, [1] * len(own))
        right = [one.value >= success["least"] for one in scored if one.note != "silent"]
        told, count = processes.total(sum(right)), processes.total(len(right))
        failures = self.failures(own, texts, scored)
        if not count:
            raise ValueError(
                f"success.reward: {success['reward']} says nothing of any answer to {len(self.rows)} held-out"
                " questions; name another reward, or remove eval_steps"
            )
        timeouts = round(processes.total(sum(one.note == "timeout" for one in scored)))
        return {COLUMN: told / count, FAILED: failures, TIMED_OUT: timeouts}

    def failures(self, rows: list[dict], texts: list[str], scored: Sequence[Any]) -> int:
        """How many answers of all processes the reward failed on; says which was the first.

        Raises:
            ValueError: they are more than `max_failures` allows.
        """
        settings = self.trainer.settings
        failed = [one for one in zip(rows, texts, scored, strict=True) if one[2].error is not None]
        count, asked = round(processes.total(len(failed))), len(self.rows)
        if not count:
            return 0
        said = f"{count} of {asked} scores of answers to held-out questions failed"
        if failed:
            row, text, score = failed[0]
            said = f"{said}; {row['file']} row {row['row']}: {score.error}; the answer was {text[:200]!r}"
        if count > settings["max_failures"] * asked:
            allowed = f"max_failures allows {100 * settings['max_failures']:g} %"
            raise ValueError(f"reward {settings['success']['reward']}: {said} ({allowed})")
        say("rl", said)
        return count

    def counts(self, history: Sequence[dict], done: int) -> dict:
        """For the manifest."""
        scores = {entry["step"]: round(entry[COLUMN], 6) for entry in history if COLUMN in entry}
        kept = self.best.kept_step if self.best else done
        counts = {"rows": len(self.rows), "skipped": dict(sorted(self.held_out.skipped.items()))}
        counts |= {name: sum(entry.get(key, 0) for entry in history) for name, key in OF_ALL_LOOKS.items()}
        return counts | {"start": scores[0], "kept": scores[kept], "kept_steps": kept}


class BestAnswers(Best):
    """The weights with most right answers; the run may end where it broke down."""

    def __init__(self, plan: Any, settings: dict, trainer: Any):
        super().__init__(
            plan, settings.get("patience"), settings.get("min_delta", 0.0), trainer.work / BEST, COLUMN, higher=True
        )
        self.plan, self.watches = plan, settings.get("stop_collapsed", False)

    def after(self, trainer: Any, measured: dict[int, float]) -> bool:
        stopped = super().after(trainer, measured)
        if self.watches and not stopped:
            log = self.plan.log(trainer.state.log_history, trainer.state.global_step)
            signs = collapses(log, looks=len(self.ends), mixed=is_mixed(trainer.settings))
            self.stopped = processes.shared(bool(signs.keys() & {*ENDING}))
        return self.stopped
