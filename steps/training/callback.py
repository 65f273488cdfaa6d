"""What happens at each step of every training: states put aside, validation, watchers, the end on a signal.

Imports transformers: import it where a training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback

from steps.core import processes
from steps.core.progress import Progress
from steps.models.adapters import hooks
from steps.training.plan import check_logged
from steps.training.watchers import Best, Progressive, valid_loss


class StepCallback(TrainerCallback):
    """Puts the state aside and measures the valid loss where the plan says, shows progress.

    Attributes:
        ended: the training stopped because a signal asked for it.
    """

    def __init__(
        self,
        trainer: Any,
        plan: Any,
        progress: Progress,
        valid_batches: Sequence[dict],
        watchers: Sequence[Any],
        progressive: Progressive | Best | None,
        signals: list[int],
        measure: Callable[[], dict[str, float]] | None = None,
    ):
        """
        Args:
            valid_batches, watchers, progressive, measure: see `run.train`.
            signals: those to end that were heard so far.
        """
        self.trainer, self.plan, self.progress, self.signals = trainer, plan, progress, signals
        self.valid_batches, self.watchers, self.progressive = valid_batches, watchers, progressive
        self.epoch_ends = progressive.ends if progressive else []
        self.measure = measure or (self.loss if valid_batches else None)
        self.ended = False

    def loss(self) -> dict[str, float]:
        return {"valid_loss": valid_loss(self.trainer, self.valid_batches)}

    def on_train_begin(self, args, state, control, **kwargs):
        # What is resumed has it in its history.
        if self.measure and state.global_step == 0 and 0 in self.plan.valid_steps:
            self.validate(args, state, control)

    def on_optimizer_step(self, args, state, control, **kwargs):
        hooks.after_step(self.trainer.model, state.global_step + 1)

    def on_step_end(self, args, state, control, **kwargs):
        step, plan = state.global_step, self.plan
        control.should_save = step in plan.save_steps
        for watcher in self.watchers:
            watcher.after(step)
        due = self.measure and (step in plan.valid_steps or step in self.epoch_ends)
        if due and self.validate(args, state, control):
            # A state saved here would be resumed beyond the stop.
            control.should_training_stop, control.should_save = True, False
            return
        # One process may have heard of it before the others.
        if step < plan.steps and plan.may_stop(step) and processes.total(len(self.signals)):
            control.should_training_stop = control.should_save = self.ended = True

    def validate(self, args, state, control) -> bool:
        """Measure; whether training stops for it."""
        step, measured = state.global_step, self.measure()
        check_logged(measured, step, args.fp16)
        state.log_history.append({"step": step, **measured})
        # For the boards; the trainer's own `log` would close what it gathers of this step.
        self.trainer.callback_handler.call_event("on_log", args, state, control, logs=dict(measured))
        if step not in self.epoch_ends:
            return False
        column = self.progressive.column
        return self.progressive.after(self.trainer, {e["step"]: e[column] for e in state.log_history if column in e})

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in logs:
            check_logged(logs, state.global_step, args.fp16)
            shown = {key: logs[key] for key in [self.plan.shown] if key in logs}
            self.progress.update(state.global_step, **shown)
