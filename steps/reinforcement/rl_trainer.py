"""Where the methods of reinforcement learning meet TRL's GRPOTrainer: the stage rl.

Sampling is the engine's, rewards are `steps.reinforcement.rewards`; `signal` says who of a batch of rollouts is
taught, and `_compute_loss` what that changes of the loss. What each method does is in its module (`methods`).

Imports TRL: import it where a training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from steps.core import processes
from steps.core.turns import asked_turns
from steps.engines import rollouts
from steps.engines import vllm_rollouts as vllm_sampler
from steps.judges.rows import RowJudge
from steps.models.adapters import hooks
from steps.reinforcement import importance, kl_weight
from steps.reinforcement.methods import method_of
from steps.reinforcement.methods.interface import Distilled, Lesson, SelfTaught, Weighted
from steps.reinforcement.rl_plan import LOGGED, RolloutPlan
from steps.reinforcement.scored_samples import ScoredSamples, without_spread
from steps.reinforcement.token_scores import COMPLETIONS, TokenScores
from steps.reinforcement.validation import HeldOut, Validation
from steps.settings.reinforcement import AGGREGATIONS
from steps.training import balance, self_teacher
from steps.training.arguments import trainer_arguments
from steps.training.micro_batch import MicroBatches
from steps.training.state import Resumable


class PolicyTrainer(Resumable, ScoredSamples, TokenScores, GRPOTrainer):
    """A resumable GRPOTrainer that samples through the engine and adds a method's signal.

    A step is: `rollouts`, rewards, `signal` (no gradients), then `_compute_loss` for each part of the batch.
    B samples are this process's, b of them in a part; T completion tokens, V vocabulary.

    Attributes:
        passes: forward passes of a step, in each process.
        start: the trained weights that the policy began with, where they are needed.
        teacher: whose weights score a sample again; None for a method without one.
        rewards: the `rewards.Rewards`.
        validation: asks held-out questions; None where none are.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        rows: list[dict],
        settings: dict,
        plan: RolloutPlan,
        work: Path,
        scorer: Callable[..., Any],
        held_out: HeldOut | None = None,
    ):
        """
        Args:
            rows: with "messages" and what the rewards ask of a row.
            work: folder of resumable state.
            scorer: given `believes`, makes the `rewards.Rewards`.
            held_out: with `eval_steps`, the rows that are asked.

        Raises:
            ValueError: memory or the processes divide a step's samples further than the method or loss_type allows.
        """
        self.rows, self.settings, self.plan, self.work = rows, settings, plan, work
        self.method = method_of(settings)
        self.distils = isinstance(self.method, Distilled)
        self.micro_batches = MicroBatches(work, settings["batch_size"], even=True)
        parts = self.micro_batches.parts
        self.method.check_parts(parts)
        if settings["loss_type"] == "bnpo" and parts > 1:
            raise ValueError(
                "loss_type: bnpo is a mean over the tokens of each pass, and memory for a pass ran out; lower"
                " batch_size, or write dapo"
            )
        self.part_rows = settings["batch_size"] // parts
        samples = settings["prompts"] * settings["generations"]
        self.own = slice(*(samples * rank // processes.count() for rank in (processes.rank(), processes.rank() + 1)))
        planned_passes = samples // settings["batch_size"]
        self.passes = planned_passes * self.micro_batches.cuts
        super().__init__(
            model=model,
            reward_funcs=[self.reward_function(name) for name in plan.names],
            args=self.config(settings | {"gradient_accumulation": planned_passes}, balance.arguments(model)),
            train_dataset=Dataset.from_list([{"prompt": rollouts.placeholder(rows[i]), "row": i} for i in plan.order]),
            processing_class=tokenizer,
            rollout_func=lambda prompts, trainer: trainer.rollouts(prompts),
        )
        taught = self.method.own if isinstance(self.method, SelfTaught) else None
        judged = any(reward["kind"] == "self" for reward in settings["rewards"].values())
        needs_start = (
            settings["kl"] or settings["watch_kl"] or judged or (taught and taught["teacher"]["kind"] == "start")
        )
        self.start = self_teacher.copied(model) if needs_start else None
        self.teacher = self_teacher.Teacher(model, taught["teacher"], self.start) if taught else None
        may_be_asked = range(len(rows)) if settings.get("dynamic_sampling") else sorted({*plan.order})
        asked = [asked_turns(row) for row in ([rows[i] for i in may_be_asked] + (held_out.rows if held_out else []))]
        at_once = max(1, settings["sample_batch"] // self.micro_batches.cuts)
        self.engine = vllm_sampler.build(self, tokenizer, settings, at_once, asked)
        self.eos_token_ids = self.engine.stop_ids
        self.rewards = scorer(believes=self.believes)
        self.strict = RowJudge()
        self.validation = Validation(self, held_out, plan) if held_out else None

    def config(self, settings: dict, of_model: dict) -> GRPOConfig:
        """What TRL is told; of_model: because of the model at hand."""
        shared = trainer_arguments(settings, self.plan, self.work, self.micro_batches.cuts)
        told = shared | of_model | {"per_device_train_batch_size": self.part_rows, "loss_type": settings["loss_type"]}
        told |= {
            "num_generations": settings["generations"],
            "num_iterations": settings["iterations"],
            "steps_per_generation": self.passes,
            "max_completion_length": settings["max_new_tokens"],
            "temperature": settings["temperature"],
            "beta": 0.0,
            "epsilon": settings["clip"]["low"],
            "epsilon_high": settings["clip"]["high"],
            "scale_rewards": settings["scale_rewards"],
            "multi_objective_aggregation": settings.get("aggregation", AGGREGATIONS[0]),
            "mask_truncated_completions": settings.get("mask_truncated", False),
            "reward_weights": [settings["rewards"][name]["weight"] for name in self.plan.names],
            "shuffle_dataset": False,
        }
        return GRPOConfig(**told | self.method.config)

    def believes(self, prompts: list, options: list) -> list:
        """`Engine.choose` of the policy that training began with."""
        with self_teacher.swapped_weights(self.model, self.start):
            return self.engine.choose(prompts, options)

    # -- once per batch of rollouts

    def _generate_and_score_completions(self, inputs):
        self.batch = [self.rows[example["row"]] for example in inputs]
        inputs = [example | {"prompt": asked_turns(row)} for example, row in zip(inputs, self.batch, strict=True)]
        # TRL would score the start by a model that it loads from the path in the config, which for a merged adapter is
        # another model: the start's weights are put on here instead.
        self.beta = 0.0
        output = super()._generate_and_score_completions(inputs)
        output["sample"] = torch.arange(len(self.written), device=output["prompt_ids"].device)
        self.plain = output["advantages"]
        if self.settings.get("importance"):
            output |= self.correction(output)
        output |= self.signal(output)
        if self.settings["kl"] or self.watched:
            with self_teacher.swapped_weights(self.model, self.start):
                output["ref_per_token_logps"] = self.logps(output["prompt_ids"], output["prompt_mask"], output)
        self.keep()
        return output

    def correction(self, output: dict) -> dict:
        """How much each sampled token counts, and what it was to the policy then, for TRL's loss."""
        mask = output["completion_mask"]
        policy = output.get("old_per_token_logps")
        if policy is None:
            with self_teacher.swapped_weights(self.model, None):
                policy = self.logps(output["prompt_ids"], output["prompt_mask"], output)
        sampler = torch.zeros_like(policy)
        for i, sample in enumerate(self.written):
            sampler[i, : sample.tokens] = torch.tensor(sample.logps).to(policy)
        ratio, outside = importance.ratios(policy, sampler, mask, self.settings["importance"])
        counted = mask.bool() if outside.shape == mask.shape else mask.any(1, keepdim=True)
        sums = torch.stack([(outside & counted).sum(), counted.sum()]).float()
        cut, of_all = processes.gathered(sums[None]).sum(0)
        self.note("ratios_cut", (cut / of_all.clamp(min=1)).item())
        return {"old_per_token_logps": policy, "importance_sampling_ratio": ratio}

    @property
    def watched(self) -> bool:
        """Whether the divergence from the start is measured on these rollouts."""
        return bool(self.settings["watch_kl"]) and self.rollout % self.settings["watch_kl"] == 0

    def signal(self, output: dict) -> dict:
        """Who is taught by the teacher, with which prompt, and what that changes of the advantages."""
        success, size = self.settings["success"], self.settings["generations"]
        told = self.values[:, self.plan.names.index(success["reward"])]
        known, correct = ~told.isnan(), told >= success["least"]
        if known.any():
            self.note("correct", correct[known].float().mean().item())
        # TRL's count is of batches, all or none, where rewards are scaled by the batch.
        flat = without_spread(self.values, self.reward_weights.to(self.values), size, self.settings)
        self.note("no_signal", flat.float().mean().item())
        correct = correct[self.own]
        self.hold(correct, known[self.own])
        if not self.teacher:
            return {}
        taught = self.method.taught(correct, output["advantages"], size)
        prompts, fits = self.contexts(self.method.shown(correct, size), taught, output)
        taught = taught & fits
        self.note("distilled", processes.gathered(taught.float()).mean().item())
        signal = {"taught": taught, "correct": correct}
        if isinstance(self.method, Weighted):
            return signal | {"teacher_per_token_logps": self.teacher_logps(prompts, taught, output)}
        signal |= prompts
        # The gradients of the processes are averaged: each divides by its share of the tokens.
        tokens = (output["completion_mask"] * taught[:, None]).sum()
        signal["n_taught"] = processes.gathered(tokens[None]).sum() / processes.count()
        if self.passes > 1 or processes.count() > 1:
            mean = self.method.mean_weight(self.taught_parts(signal, output), taught.device)
            if mean is not None:
                signal["mean_weight"] = mean
        return signal | {"advantages": self.method.advantages(output["advantages"], taught)}

    def contexts(self, shown: torch.Tensor, taught: torch.Tensor, output: dict) -> tuple[dict, torch.Tensor]:
        """The teacher's prompt of every sample, left-padded, and whether it fits the context with its response."""
        texts = self.texts()
        template, encoded = self.settings["contexts"][self.method.own["context"]], []
        for row, of, knows in zip(self.batch, shown.tolist(), taught.tolist(), strict=True):
            messages = asked_turns(row)
            if knows:
                solution = texts[of] if of >= 0 else ""
                text = template.format(prompt=messages[-1]["content"], solution=solution, answer=row["answer"])
                messages = [*messages[:-1], {"role": "user", "content": text}]
            encoded.append(self.engine.render(messages))
        ids = self.engine.encode(encoded)
        lengths = output["completion_mask"].sum(1).tolist()
        fits = [len(i) + n <= self.engine.max_length for i, n in zip(ids, lengths, strict=True)]
        ids = [i if fit else i[-1:] for i, fit in zip(ids, fits, strict=True)]
        width = max(map(len, ids))
        pad = self.processing_class.pad_token_id
        device = output["prompt_ids"].device
        prompts = {
            "teacher_ids": torch.tensor([[pad] * (width - len(i)) + i for i in ids], device=device),
            "teacher_mask": torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=device),
        }
        return prompts, torch.tensor(fits, device=device)

    def teacher_logps(self, prompts: dict, taught: torch.Tensor, output: dict) -> torch.Tensor:
        """[B, T] log-probabilities of the tokens by the teacher; 0 where it was not asked."""
        chosen = taught.nonzero().squeeze(1)
        logps = torch.zeros(output["completion_ids"].shape, device=taught.device)
        if len(chosen):
            part = {key: output[key][chosen] for key in COMPLETIONS}
            with self_teacher.swapped_weights(self.model, self.teacher.weights):
                logps[chosen] = self.logps(prompts["teacher_ids"][chosen], prompts["teacher_mask"][chosen], part)
        return logps

    def teacher_logits(self, inputs: dict, chosen: torch.Tensor) -> Any:
        """[chosen, T, V] by the teacher, of some samples of a batch or of a part."""
        part = {key: inputs[key][chosen] for key in COMPLETIONS}
        with self_teacher.swapped_weights(self.model, self.teacher.weights):
            return self.logits(inputs["teacher_ids"][chosen], inputs["teacher_mask"][chosen], part)

    def taught_parts(self, signal: dict, output: dict) -> Iterator[tuple[Any, torch.Tensor]]:
        """The teacher's logits [b, T, V] and the mask [b, T] of the taught samples, a part at a time."""
        taught = signal["taught"].nonzero().squeeze(1)
        for chosen in taught.split(self.part_rows) if len(taught) else ():
            yield self.teacher_logits(output | signal, chosen), output["completion_mask"][chosen]

    # -- the loss of a part of the batch

    def _compute_loss(self, model, inputs):
        distilled = self.distils and bool(inputs["taught"].any())
        # Before the student's graph is there: the teacher's weights take the place of those it refers to.
        teacher_logits = self.teacher_logits(inputs, inputs["taught"].nonzero().squeeze(1)) if distilled else None
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        self.scored = self._get_per_token_logps_and_entropies(
            model, ids, mask, inputs["completion_ids"].shape[1],
            compute_entropy=True, compute_aux_loss=self.aux_loss_enabled, samples=inputs["sample"],
        )  # fmt: skip
        logps = self.scored[0]
        if isinstance(self.method, Weighted):
            inputs = inputs | {"advantages": self.token_advantages(inputs, logps.detach())}
        self.beta = self.weigh_kl()
        if "ref_per_token_logps" in inputs:
            self.watch(inputs, logps.detach())
        # TRL counts tokens by the ratio for a vLLM that it runs, which it has not.
        self.use_vllm = "importance_sampling_ratio" in inputs
        loss = super()._compute_loss(model, inputs)
        self.use_vllm = False
        self.count_by_tokens(inputs, logps.detach())
        if distilled:
            loss = loss + self.method.loss(self.lesson(inputs, logps, teacher_logits))
        return hooks.penalised(loss, self.model, self.current_gradient_accumulation_steps)

    def count_by_tokens(self, inputs: dict, logps: torch.Tensor) -> None:
        """What is logged of tokens as a mean over those of the whole batch: TRL takes that of the means of its parts,
        and of a part that is masked as a whole 0."""
        metrics, mask = self._metrics["train"], inputs["completion_mask"]
        names = ["entropy", "kl", LOGGED["clipped"]]
        if self.beta:
            # TRL's own, which is of the loss, and weighted by the ratio of policies.
            metrics["kl"].pop()
        if "cispo_clip_ratio" in metrics:
            # TRL leaves out those that lower a probability, whose weight is clipped as well.
            del metrics["cispo_clip_ratio"]
            ratio = torch.exp(logps - inputs.get("old_per_token_logps", logps))
            clipped = (ratio > self.epsilon_high) & (inputs["advantages"] != 0)[:, None]
            self.note(LOGGED["clipped"], self.mean_over_tokens(clipped, mask))
        elif self.importance_sampling_level == "sequence":
            names.remove(LOGGED["clipped"])
        tokens, counted = processes.total(mask.sum().item()), inputs["num_items_in_batch"].item()
        for name in names:
            if name in metrics and counted:
                metrics[name][-1] *= tokens * self.passes / counted
            else:
                metrics.pop(name, None)

    def mean_over_tokens(self, values: torch.Tensor, mask: torch.Tensor) -> float:
        """Of [b, T], over the part at hand of all processes; 0 where all of it is masked."""
        total, tokens = processes.gathered(torch.stack([(values * mask).sum(), mask.sum()]).double()[None]).sum(0)
        return (total / tokens.clamp(min=1)).item()

    def weigh_kl(self) -> float:
        """The weight of the divergence at the step at hand; a scheduled one is logged, once a step."""
        kl = self.settings["kl"]
        weight = kl_weight.kl_weight(kl, self.state.global_step, self.state.log_history)
        if isinstance(kl, dict):
            self._metrics["train"][kl_weight.COLUMN] = [weight]
        return weight

    def token_advantages(self, inputs: dict, logps: torch.Tensor) -> torch.Tensor:
        """[b, T] by a weighted method; the student is compared as it was when it wrote the tokens."""
        student = inputs.get("old_per_token_logps", logps)
        teacher = torch.where(inputs["taught"][:, None], inputs["teacher_per_token_logps"], student)
        return self.method.token_advantages(
            inputs["advantages"], inputs["correct"], student, teacher, self.state.global_step
        )

    def lesson(self, inputs: dict, logps: torch.Tensor, teacher_logits: Any) -> Lesson:
        """What the distilled part of the loss is computed from; the student's logits are given away with it."""
        chosen = inputs["taught"].nonzero().squeeze(1)
        # Not kept: the next rollouts need the room.
        student_logits, self.student_logits = self.student_logits[chosen], None
        old = inputs.get("old_per_token_logps")
        return Lesson(
            student=student_logits,
            teacher=teacher_logits,
            mask=inputs["completion_mask"][chosen],
            logps=logps[chosen],
            old_logps=None if old is None else old[chosen],
            taught=inputs["n_taught"],
            tokens=inputs["num_items_in_batch"] / processes.count(),
            mean_weight=inputs.get("mean_weight"),
        )

    def watch(self, inputs: dict, logps: torch.Tensor) -> None:
        """KL(policy ‖ start) per token, estimated on those that were sampled (k3 of Schulman 2020)."""
        ratio = inputs["ref_per_token_logps"] - logps
        self.note("kl", self.mean_over_tokens(ratio.exp() - ratio - 1, inputs["completion_mask"]))
