"""Where on-policy distillation meets TRL's DistillationTrainer: the stage opd.

TRL's trainer has one teacher, its own sampling, and the divergence over the whole vocabulary. Here sampling is the
engine's, the teachers are `steps.models.teachers`, the loss is `steps.distillation.divergence`, and what they have
in common is measured on the way (`steps.distillation.opd_measures`) from the logits that the loss needs anyway.

Imports TRL: import it where a training begins.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from trl import DistillationConfig, DistillationTrainer

from steps.core import processes
from steps.core.turns import asked_turns, conversation, prompt_turns
from steps.distillation import divergence, overlap
from steps.distillation.opd_measures import Measures
from steps.distillation.opd_plan import Draw, DrawPlan, horizon_at
from steps.engines import rollouts
from steps.engines import vllm_rollouts as vllm_sampler
from steps.models import checkpoints, head, teachers
from steps.models.adapters import hooks
from steps.settings.sampling import truncation
from steps.training import balance, self_teacher
from steps.training.arguments import trainer_arguments
from steps.training.micro_batch import MicroBatches
from steps.training.state import Resumable


class OnPolicyTrainer(Resumable, DistillationTrainer):
    """A resumable DistillationTrainer whose step is: draw and sample, score by the teachers, learn, measure.

    Attributes:
        samples: of a step, all processes together.
        passes: forward passes of a step, in each process.
        rows: samples of a forward pass, in each process.
        vocabulary: tokens. A model's logits beyond are of none.
        draws: what the plan draws for this process in the step at hand.
        texts: the student's responses among them, by their number in `draws`.
        right: whether such a response does what its row asks; None where that cannot be told.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        panel: teachers.Teachers,
        prompts: list[list[dict]],
        responses: list[list[dict]],
        settings: dict,
        plan: DrawPlan,
        work: Path,
        solves: Callable[[dict, str], bool | None],
    ):
        """
        Args:
            prompts: rows of each source, with "messages".
            responses: rows of each source whose last turn is its teacher's.
            work: folder of resumable state.
            solves: whether a response does what a row asks; None where that cannot be told.
        """
        self.settings, self.plan, self.panel, self.work, self.solves = settings, plan, panel, work, solves
        self.prompts, self.responses = prompts, responses
        self.micro_batches = MicroBatches(work, settings["batch_size"], even=True)
        self.samples = settings["prompts"] * settings["generations"]
        planned_passes = self.samples // settings["batch_size"]
        self.passes = planned_passes * self.micro_batches.cuts
        self.rows = settings["batch_size"] // self.micro_batches.parts
        self.wide = head.is_wide(model)
        self.balance = balance.coefficient(model)
        self.vocabulary = checkpoints.token_count(tokenizer)
        self.measures = Measures(**settings["diagnostics"]) if settings["diagnostics"] else None
        self.draws: list[Draw] = []
        self.texts: dict[int, str] = {}
        self.right: dict[int, bool | None] = {}
        shared = trainer_arguments(
            settings | {"gradient_accumulation": planned_passes}, plan, work, self.micro_batches.cuts
        )
        super().__init__(
            model=model,
            args=DistillationConfig(
                **shared | {"per_device_train_batch_size": self.rows},
                max_completion_length=settings["max_new_tokens"],
                temperature=settings["temperature"],
                shuffle_dataset=False,
            ),
            train_dataset=Dataset.from_list(
                [{"prompt": rollouts.placeholder(self.row(draw)), "draw": i} for i, draw in enumerate(plan.draws)]
            ),
            processing_class=tokenizer,
        )
        asked = [asked_turns(row) for rows in prompts for row in rows]
        at_once = max(1, settings["sample_batch"] // self.micro_batches.cuts)
        self.engine = vllm_sampler.build(self, tokenizer, settings, at_once, asked)
        # A response must fit the smallest context of all who read it.
        self.engine.max_length = min([self.engine.max_length, *map(teachers.context, panel.folders)])
        self.eos_token_ids = self.engine.stop_ids

    def row(self, draw: Draw) -> dict:
        """The row that a draw means."""
        return (self.responses if draw.stored else self.prompts)[draw.source][draw.row]

    def note(self, name: str, value: float) -> None:
        """Have TRL log a number of the step at hand."""
        self._metrics["train"][name].append(value)

    # -- sampling

    def _prepare_inputs(self, generation_batch):
        """TRL deals the samples to the parts of a step at random. Here a part has the rows of one source, as far as
        that goes: a teacher that is not resident is then loaded once a step."""
        part = self._step % self.passes
        if part == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            total = batch.pop("num_items_in_batch")
            order = sorted(range(len(self.draws)), key=lambda i: self.draws[i].source)
            self._buffered_inputs = []
            for begin in range(0, len(order), self.rows):
                own = torch.tensor(order[begin : begin + self.rows], device=batch["prompt_ids"].device)
                picked = {key: value[own] for key, value in batch.items()}
                self._buffered_inputs.append(picked | {"sample": own, "num_items_in_batch": total})
        return self._buffered_inputs[part]

    def _generate_and_score_completions(self, inputs):
        self.draws = [self.plan.draws[example["draw"]] for example in inputs]
        if self.measures:
            self.measures.clear()
        asked = [asked_turns(self.row(draw)) for draw in self.draws]
        inputs = [example | {"prompt": turns} for example, turns in zip(inputs, asked, strict=True)]
        batch = super()._generate_and_score_completions(inputs)
        lengths = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
        sources = self.settings["sources"]
        scored = sum(n * len(sources[draw.source]["teachers"]) for n, draw in zip(lengths, self.draws, strict=True))
        self.note("scored", processes.total(scored))
        return batch

    def _tokenize_prompts(self, prompts):
        return self.engine.encode([self.engine.render(prompt) for prompt in prompts]), None, {}

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
        # No token beyond the supervised ones is read, so none is written.
        longest = self.settings["max_new_tokens"]
        limit = horizon_at(self.state.global_step, self.settings["horizon"]) or longest
        completions: list[list[int]] = [[] for _ in self.draws]
        sampled = self.sample(limit)
        for i, sample in sampled.items():
            completions[i] = list(sample.ids)
        stored = [i for i, draw in enumerate(self.draws) if draw.stored]
        if stored:
            turns = self.engine._encode_turns([conversation(self.row(self.draws[i])) for i in stored])
            for i, tokens, own in zip(stored, *turns, strict=True):
                completions[i] = [token for token, mine in zip(tokens, own, strict=True) if mine][:limit]
        self.note("generated", processes.total(sum(sample.tokens for sample in sampled.values())))
        self.texts = {i: sample.text for i, sample in sampled.items()}
        self.judge(self.texts if limit == longest else {})
        return completions

    def sample(self, limit: int) -> dict[int, Any]:
        """The student's responses to what is not stored, of at most `limit` tokens, by their number in `draws`."""
        settings, step, size = self.settings, self.state.global_step, self.settings["generations"]
        written = [i for i, draw in enumerate(self.draws) if not draw.stored]
        begin = step * self.samples
        before = self.plan.draws[begin : begin + self.samples * processes.rank() // processes.count()]
        with self_teacher.swapped_weights(self.model, None), self.accelerator.autocast():
            groups = self.engine.sample(
                [asked_turns(self.row(self.draws[i])) for i in written[::size]],
                n=size,
                temperature=settings["temperature"],
                **truncation(settings),
                max_new_tokens=limit,
                seed=[settings["seed"], step],
                first=sum(not draw.stored for draw in before) // size,
            )
        return dict(zip(written, (sample for group in groups for sample in group), strict=True))

    def judge(self, whole: dict[int, str]) -> None:
        """Which of the student's responses are right, where that can be told.

        Args:
            whole: those that were not cut short.
        """
        self.right = {i: self.solves(self.row(self.draws[i]), text) for i, text in whole.items()}
        judged = [right for right in self.right.values() if right is not None]
        if count := processes.total(len(judged)):
            self.note("correct", processes.total(sum(judged)) / count)

    # -- the loss of a part of the step

    def logits(self, model: Any, inputs: dict, chosen: torch.Tensor) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """What a model makes of the responses of some rows of a part.

        Args:
            chosen: indices of the n rows.

        Returns:
            Logits of the places that predict them, or the `head.Places` that stand for them, [n, T, V]; which of those
            places count, [n, T]; their tokens, [n, T].
        """
        prompt_ids, ids = inputs["prompt_ids"][chosen], inputs["completion_ids"][chosen]
        mask = torch.cat([inputs["prompt_mask"][chosen], inputs["completion_mask"][chosen]], dim=1)
        # A place beyond the last token of all these rows predicts nothing.
        width = int(inputs["completion_mask"][chosen].sum(1).max())
        counts = inputs["completion_mask"][chosen][:, :width].bool() & (ids[:, :width] < self.vocabulary)
        with self.accelerator.autocast():
            logits = head.read(
                model,
                self.wide,
                input_ids=torch.cat([prompt_ids, ids[:, :width]], dim=1),
                attention_mask=mask[:, : prompt_ids.shape[1] + width],
                logits_to_keep=width + 1,
                use_cache=False,
            )[:, :-1]
        return logits, counts, ids[:, :width]

    def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
        settings = self.settings
        loss, balances = torch.zeros((), device=inputs["completion_ids"].device), []
        samples = inputs["sample"].tolist()
        of_source = [self.draws[i].source for i in samples]
        for source in dict.fromkeys(of_source):
            chosen = torch.tensor([i for i, one in enumerate(of_source) if one == source], device=loss.device)
            with balance.heard(unwrapped_student, bool(self.balance)) as losses:
                student, mask, tokens = self.logits(unwrapped_student, inputs, chosen)
            balances += losses
            student = student[mask].float() / settings["temperature"]
            both, tokens = [student, *self.teacher_logits(source, inputs, chosen)], tokens[mask]
            loss = loss + head.per_place(partial(self.divergences, source), both, tokens).sum()
            if self.measures:
                numbers = [samples[i] for i in chosen.tolist()]
                written = [not self.draws[i].stored for i in numbers]
                self.measures.add(partial(self.diagnostics, source, both, tokens), mask, numbers, written)
        if self._step % self.passes == self.passes - 1:
            self.keep()
        loss = loss / num_items_in_batch
        if self.balance:
            loss = loss + self.balance * balance.mean(balances) / self.current_gradient_accumulation_steps
        loss = hooks.penalised(loss, self.model, self.current_gradient_accumulation_steps)
        return loss, torch.zeros_like(loss), torch.ones_like(loss)

    def divergences(self, source: int, student: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        """[n] from the student's and the teachers' logits [n, V] and the tokens [n]."""
        settings = self.settings
        student, teacher = self.pair(source, student, *rest[:-1])
        return divergence.per_token(student, teacher, rest[-1], settings["divergence"], settings["support"])

    def diagnostics(self, source: int, both: list, tokens: torch.Tensor, kept: torch.Tensor) -> dict[str, torch.Tensor]:
        """`overlap.measure` of the kept places of the student's and the teachers' logits."""
        names: list[str] = []

        def measured(student: torch.Tensor, *rest: torch.Tensor) -> tuple[torch.Tensor, ...]:
            found = overlap.measure(*self.pair(source, student, *rest[:-1]), self.measures.top_k, rest[-1])
            names[:] = found
            return tuple(found.values())

        with torch.no_grad():
            values = head.per_place(measured, [one[kept].detach() for one in both], tokens[kept])
        return dict(zip(names, values, strict=True))

    def pair(self, source: int, student: torch.Tensor, *teachers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [n, tokens] of the student and of the source's teacher or mixture of teachers: vocabularies may be
        padded beyond, each its own way, and no token is there."""
        student, *by_teacher = (logits[:, : self.vocabulary] for logits in (student, *teachers))
        if len(by_teacher) == 1:
            return student, by_teacher[0]
        weights = [self.settings["weights"][i] for i in self.settings["sources"][source]["teachers"]]
        return student, divergence.mixed(by_teacher, weights)

    def teacher_logits(self, source: int, inputs: dict, chosen: torch.Tensor) -> list:
        """[tokens, V] of each of a source's teachers."""
        by_teacher = []
        for i in self.settings["sources"][source]["teachers"]:
            with torch.no_grad():
                logits, mask, _ = self.logits(self.panel.model(i), inputs, chosen)
            by_teacher.append(logits[mask].float() / self.settings["temperature"])
        return by_teacher

    # -- what is kept of a step

    def keep(self) -> None:
        """The measures of the whole step, by step and by place; and some of its samples. A resumed run writes the
        files of the steps it repeats again."""
        step = self.state.global_step + 1
        log_ratios: dict[int, float] = {}
        positions: list[dict] = []
        if self.measures and self.measures.gather():
            for name, mean in self.measures.by_step().items():
                self.note(name, mean)
            log_ratios = self.measures.by_sample(len(self.draws), list(self.texts))
            of_all = processes.total(sum(log_ratios.values())) / processes.total(len(log_ratios))
            self.note("log_ratio", of_all)
            positions = self.measures.by_position(step)
        # Of all processes: the first one's file has them.
        rollouts.keep(self.work / "positions", step - 1, positions if processes.first() else [])
        count = self.settings["keep_samples"] if processes.first() else 0
        kept = [self.shown(step, i, log_ratios) for i in sorted(self.texts)[:count]]
        rollouts.keep(self.work / "rollouts", step - 1, kept)

    def shown(self, step: int, i: int, log_ratios: dict[int, float]) -> dict:
        """A sample's row of rollouts.jsonl."""
        draw = self.draws[i]
        row, source = self.row(draw), self.settings["sources"][draw.source]
        return {
            "step": step,
            "id": row["id"],
            "data": source["data"],
            "teacher": " + ".join(self.panel.folders[t].name for t in source["teachers"]),
            "prompt": prompt_turns(row["messages"])[-1]["content"],
            "response": self.texts[i],
            "correct": self.right.get(i),
            "log_ratio": None if i not in log_ratios else round(log_ratios[i], 6),
        }
