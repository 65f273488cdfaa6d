"""TRL's SFTTrainer over a plan of batches: what sft, cpt, distill and the embedded world's pre-training train with.

Imports TRL: import it where a training begins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import transformers
from datasets import Dataset
from torch.nn import functional
from transformers.trainer_pt_utils import LabelSmoother
from trl import SFTConfig, SFTTrainer

from steps.core import processes
from steps.models import head
from steps.models.adapters import hooks
from steps.training import balance, packing
from steps.training.arguments import trainer_arguments
from steps.training.micro_batch import MicroBatches
from steps.training.plan import Plan
from steps.training.state import Resumable


def untrained(row: dict) -> dict:
    """A row on which nothing is trained: for a process to which a small batch has none to give."""
    return row | {"labels": [packing.IGNORED] * len(row["labels"])}


class SupervisedTrainer(Resumable, SFTTrainer):
    """A resumable SFTTrainer whose dataset is the plan: an item is the index of a part of a batch, looked up then."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: list[dict],
        settings: dict,
        plan: Plan,
        work: Path,
        lay: Callable[[list[dict], dict, int], dict],
        loss: Callable[[Any, dict, Any], Any] | None,
    ):
        """
        Args:
            work: folder of resumable state.
            lay, loss: see `supervised.build_trainer`.
        """
        self.rows, self.settings, self.plan, self.lay, self.loss = rows, settings, plan, lay, loss
        self.pad_token_id = tokenizer.pad_token_id
        smoothed = settings.get("label_smoothing", 0)
        self.smoother = LabelSmoother(smoothed, packing.IGNORED) if smoothed else None
        self.micro_batches = MicroBatches(work, settings["batch_size"])
        super().__init__(
            model=model,
            args=SFTConfig(
                **trainer_arguments(settings, plan, work, self.micro_batches.cuts),
                **balance.arguments(model),
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=Dataset.from_dict({"part": range(len(plan.batches) * self.micro_batches.parts)}),
            data_collator=self.collate,
            processing_class=tokenizer,
        )
        self.balanced = self.aux_loss_enabled

    def collate(self, items: list[dict]) -> dict:
        """The inputs of one part of a batch."""
        part, parts = items[0]["part"], self.micro_batches.parts
        own = [self.rows[i] for i in self.plan.part(part, parts)]
        own = own or [untrained(self.rows[self.plan.batches[part // parts][0]])]
        return self.lay(own, self.settings, self.pad_token_id)

    def fuses(self, model: Any) -> bool:
        """Whether the loss is that of TRL's fused head, which saves the memory of the logits where Triton runs. On a
        CPU it scores every position for its entropy and makes a step of the tiny model 17 % slower than the model's own
        loss."""
        if self.accelerator.device.type != "cuda" or not head.is_readable(model):
            return False
        return not self.balanced or balance.counted(self.model)

    def cross_entropy(self, model: Any, inputs: dict) -> Any:
        """Summed over the trained tokens of a batch."""
        labels = inputs.pop("labels")[:, 1:]
        trained = labels != packing.IGNORED
        logits = head.read(model, **inputs, use_cache=False)[:, :-1][trained].float()
        return head.per_place(partial(functional.cross_entropy, reduction="none"), [logits], labels[trained]).sum()

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        balances = self.balanced and model.training
        if not self.loss and not (self.smoother and model.training) and self.fuses(model):
            # TRL adds the loss that balances experts to what is measured too.
            self.aux_loss_enabled = balances
            value = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            with balance.heard(model, balances) as losses:
                value = self.own_loss(model, inputs, num_items_in_batch)
            if balances:
                # The gradients of the processes are averaged, those of a step's passes summed.
                value = (
                    value + self.router_aux_loss_coef * balance.mean(losses) / self.current_gradient_accumulation_steps
                )
        if not model.training:
            return value
        return hooks.penalised(value, self.model, self.current_gradient_accumulation_steps)

    def own_loss(self, model: Any, inputs: dict, num_items_in_batch: Any) -> Any:
        """The part of a batch in the loss of its step, times the processes, whose gradients are averaged."""
        if self.loss:
            return self.loss(model, inputs, num_items_in_batch) * processes.count()
        if self.smoother and model.training:
            labels = inputs.pop("labels")
            outputs = model(**inputs, use_cache=False)
            value = self.smoother(outputs, labels, shift_labels=True, num_items_in_batch=num_items_in_batch)
            return value * processes.count()
        if self.balanced or (self.accelerator.device.type != "cuda" and head.is_wide(model)):
            return self.cross_entropy(model, inputs) / num_items_in_batch * processes.count()
        return transformers.Trainer.compute_loss(self, model, inputs, num_items_in_batch=num_items_in_batch)
