"""TRL's RewardTrainer over a plan of preference pairs: what the stage reward trains with.

Imports TRL: import it where a training begins.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from steps.core import processes
from steps.training.arguments import trainer_arguments
from steps.training.micro_batch import MicroBatches
from steps.training.plan import Plan
from steps.training.state import Resumable


class PreferenceTrainer(Resumable, RewardTrainer):
    """A resumable RewardTrainer whose dataset is the plan: an item is the index of a part of a batch.

    The mean over a batch is that of its parts' means, each by its share of the pairs.
    """

    def __init__(self, model: Any, tokenizer: Any, pairs: list[dict], settings: dict, plan: Plan, work: Path):
        """
        Args:
            pairs: of `preferences.encode_pairs`.
            work: folder of resumable state.
        """
        self.pairs, self.plan = pairs, plan
        self.micro_batches = MicroBatches(work, settings["batch_size"])
        self.lay = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
        super().__init__(
            model=model,
            args=RewardConfig(**trainer_arguments(settings, plan, work, self.micro_batches.cuts), max_length=None),
            train_dataset=Dataset.from_dict({"part": range(len(plan.batches) * self.micro_batches.parts)}),
            data_collator=self.collate,
            processing_class=tokenizer,
        )

    def _prepare_dataset(self, dataset, *args):
        # RewardTrainer would look for texts to tokenize; unlike SFTConfig, its config cannot say there are none.
        return dataset

    def collate(self, items: list[dict]) -> dict:
        """The inputs of one part of a batch, and how many of its pairs they are, over the mean of its parts."""
        part, parts = items[0]["part"], self.micro_batches.parts
        batch, own = self.plan.batches[part // parts], self.plan.part(part, parts)
        # A process to which a small batch has no pair to give computes one that counts nothing.
        laid = self.lay([self.pairs[i] for i in own or batch[:1]])
        return dict(laid) | {"share": len(own) * parts / len(batch)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        # TRL's own gathers the scores of all processes, which may have different numbers of pairs.
        share, apart = inputs.pop("share"), inputs.pop("margin", 0.0)
        chosen, rejected = model(**inputs, use_cache=False).logits.squeeze(-1).chunk(2)
        own = {"accuracy": (chosen > rejected).float().mean(), "margin": (chosen - rejected).mean()}
        for name, value in own.items():
            mean = processes.total(share * value.item()) / processes.count()
            self._metrics["train"][name].append(mean)
        return -share * torch.nn.functional.logsigmoid(chosen - rejected - apart).mean()
