"""Where on-policy distillation meets TRL's DistillationTrainer.

TRL's trainer has one teacher, its own sampling, and the divergence over the whole vocabulary. Here sampling is the
engine's, the teachers are `steps.teachers`, the loss is `steps.divergence`, and what they have in common is measured on
the way (`steps.overlap`) from the logits that the loss needs anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import adapters, divergence, overlap, processes, rollouts, self_teacher, teachers, training, vllm_sampler

# A diagnostic of `overlap.measure` → its column in positions.csv.
BY_POSITION = {
    "overlap": "overlap",
    "mass_student": "mass_student",
    "mass_teacher": "mass_teacher",
    "advantage": "overlap_advantage",
    "entropy_gap": "entropy_gap",
    "entropy": "entropy",
    "teacher_entropy": "teacher_entropy",
    "divergence": "divergence",
}
# Means over the tokens of a step, by the name under which they are logged.
BY_STEP = {name: "student_entropy" if name == "entropy" else name for name in overlap.NAMES}


def horizon_at(step: int, horizon: dict | None) -> int | None:
    """Tokens of a response that are supervised after so many steps: all (None), `tokens`, or growing to them evenly."""
    if horizon is None or "from" not in horizon:
        return horizon and horizon["tokens"]
    grown = min(step / horizon["until"], 1.0)
    return round(horizon["from"] + grown * (horizon["tokens"] - horizon["from"]))


def build_trainer(
    model: Any,
    tokenizer: Any,
    panel: Any,
    prompts: list[list[dict]],
    responses: list[list[dict]],
    settings: dict,
    plan: Any,
    work: Path,
    solves: Callable[[dict, str], bool | None],
) -> Any:
    """A resumable DistillationTrainer whose step is: `draw` and sample, score by the teachers, learn, measure.

    Args:
        panel: a `teachers.Teachers`.
        prompts: rows of each source, with "messages".
        responses: rows of each source whose last turn is its teacher's.
        plan: an `opd.Plan`.
        solves: whether a response does what a row asks; None where that cannot be told.
    """
    import torch
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    size, diagnostics, sources = settings["generations"], settings["diagnostics"], settings["sources"]
    ladder = training.Ladder(work, settings["batch_size"], even=True)
    samples = settings["prompts"] * size
    accumulation = samples // settings["batch_size"] * ladder.cuts
    part_rows = settings["batch_size"] // ladder.parts
    # Of a step's samples the first of this process's.
    begin_own = samples * processes.rank() // processes.count()

    def row_of(draw: Any) -> dict:
        return (responses if draw.stored else prompts)[draw.source][draw.row]

    class Trainer(training.Resumable, DistillationTrainer):
        draws: list = []  # of the step at hand
        parts: list[dict] = []  # what was measured in the parts of it that are done

        # -- sampling

        def _prepare_inputs(self, generation_batch):
            """TRL deals the samples to the parts of a step at random. Here a part has the rows of one source, as far as
            that goes: a teacher that is not resident is then loaded once a step."""
            part = self._step % accumulation
            if part == 0 or self._buffered_inputs is None:
                batch = self._generate_and_score_completions(generation_batch)
                total = batch.pop("num_items_in_batch")
                order = sorted(range(len(self.draws)), key=lambda i: self.draws[i].source)
                self._buffered_inputs = []
                for begin in range(0, len(order), part_rows):
                    own = torch.tensor(order[begin : begin + part_rows], device=batch["prompt_ids"].device)
                    picked = {key: value[own] for key, value in batch.items()}
                    self._buffered_inputs.append(picked | {"sample": own, "num_items_in_batch": total})
            return self._buffered_inputs[part]

        def _generate_and_score_completions(self, inputs):
            self.draws, self.parts = [plan.draws[example["draw"]] for example in inputs], []
            batch = super()._generate_and_score_completions(inputs)
            lengths = (batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)).tolist()
            scored = sum(n * len(sources[draw.source]["teachers"]) for n, draw in zip(lengths, self.draws, strict=True))
            self._metrics["train"]["scored"].append(processes.total(scored))
            return batch

        def _tokenize_prompts(self, prompts):
            return self.engine.encode([self.engine.render(prompt) for prompt in prompts]), None, {}

        def _generate_single_turn(self, prompt_ids, images, multimodal_fields, has_tool_images=False):
            step = self.state.global_step
            limit = horizon_at(step, settings["horizon"]) or settings["max_new_tokens"]
            written = [i for i, draw in enumerate(self.draws) if not draw.stored]
            stored = [i for i, draw in enumerate(self.draws) if draw.stored]
            found: list[list[int]] = [[] for _ in self.draws]
            before = plan.draws[step * samples : step * samples + begin_own]
            # No token beyond the supervised ones is read, so none is written.
            with self_teacher.wearing(self.model, None), self.accelerator.autocast():
                groups = self.engine.sample(
                    [row_of(self.draws[i])["messages"][:-1] for i in written[::size]],
                    n=size,
                    temperature=settings["temperature"],
                    max_new_tokens=limit,
                    seed=[settings["seed"], step],
                    first=sum(not draw.stored for draw in before) // size,
                )
            drawn = [sample for group in groups for sample in group]
            for i, sample in zip(written, drawn, strict=True):
                found[i] = list(sample.ids)
            if stored:
                turns = self.engine._encode_turns([row_of(self.draws[i])["messages"] for i in stored])
                for i, tokens, own in zip(stored, *turns, strict=True):
                    found[i] = [token for token, mine in zip(tokens, own, strict=True) if mine][:limit]
            self._metrics["train"]["generated"].append(processes.total(sum(sample.tokens for sample in drawn)))
            texts = dict(zip(written, (sample.text for sample in drawn), strict=True))
            self.judge(texts if limit == settings["max_new_tokens"] else {}, texts)
            return found

        def judge(self, whole: dict[int, str], texts: dict[int, str]) -> None:
            """Which of the student's responses are right, where that can be told and they were not cut short."""
            self.texts = texts
            self.right = {i: solves(row_of(self.draws[i]), text) for i, text in whole.items()}
            told = [right for right in self.right.values() if right is not None]
            if count := processes.total(len(told)):
                self._metrics["train"]["correct"].append(processes.total(sum(told)) / count)

        # -- the loss of a part of the step

        def logits(self, scored: Any, inputs: dict, chosen: Any) -> Any:
            """[n, T, V] of the places that predict the responses of some rows, over the temperature."""
            prompt_ids, ids = inputs["prompt_ids"][chosen], inputs["completion_ids"][chosen]
            mask = torch.cat([inputs["prompt_mask"][chosen], inputs["completion_mask"][chosen]], dim=1)
            # A place beyond the last token of all these rows predicts nothing.
            width = int(inputs["completion_mask"][chosen].sum(1).max())
            with self.accelerator.autocast():
                found = scored(
                    input_ids=torch.cat([prompt_ids, ids[:, :width]], dim=1),
                    attention_mask=mask[:, : prompt_ids.shape[1] + width],
                    logits_to_keep=width + 1,
                    use_cache=False,
                ).logits[:, :-1]
            return found, inputs["completion_mask"][chosen][:, :width].bool(), ids[:, :width]

        def _compute_loss(self, unwrapped_student, inputs, num_items_in_batch):
            loss = torch.zeros((), device=inputs["completion_ids"].device)
            of_source = [self.draws[i].source for i in inputs["sample"].tolist()]
            for source in dict.fromkeys(of_source):
                chosen = torch.tensor([i for i, one in enumerate(of_source) if one == source], device=loss.device)
                student, mask, tokens = self.logits(unwrapped_student, inputs, chosen)
                student = student[mask].float() / settings["temperature"]
                teacher = self.teacher_logits(source, inputs, chosen)
                # A padded vocabulary may be wider in one of the two; no token is there.
                width = min(student.shape[-1], teacher.shape[-1])
                student, teacher, tokens = student[:, :width], teacher[:, :width], tokens[mask]
                per_token = divergence.per_token(student, teacher, tokens, settings["divergence"], settings["support"])
                loss = loss + per_token.sum()
                if diagnostics:
                    self.measure(student, teacher, tokens, mask, inputs["sample"][chosen].tolist())
            if self._step % accumulation == accumulation - 1:
                self.keep()
            loss = adapters.penalised(loss / num_items_in_batch, self.model, self.current_gradient_accumulation_steps)
            return loss, torch.zeros_like(loss), torch.ones_like(loss)

        def teacher_logits(self, source: int, inputs: dict, chosen: Any) -> Any:
            """[tokens, V] of a source's teacher, or of its mixture of teachers."""
            found, asked = [], sources[source]["teachers"]
            for i in asked:
                with torch.no_grad():
                    logits, mask, _ = self.logits(panel.model(i), inputs, chosen)
                found.append(logits[mask].float() / settings["temperature"])
            if len(asked) == 1:
                return found[0]
            width = min(logits.shape[-1] for logits in found)
            return divergence.mixed([logits[:, :width] for logits in found], [settings["weights"][i] for i in asked])

        # -- diagnostics

        def measure(self, student: Any, teacher: Any, tokens: Any, mask: Any, numbers: list[int]) -> None:
            """Keep what the student's own tokens tell of some of this process's samples of the step."""
            own = torch.tensor([not self.draws[i].stored for i in numbers], device=mask.device)
            kept = own[:, None].expand_as(mask)[mask]
            found = overlap.measure(student[kept], teacher[kept], diagnostics["top_k"], tokens[kept])
            rows, places = mask[own].nonzero(as_tuple=True)
            by_row = torch.tensor(numbers, device=mask.device)[own][rows]
            self.parts.append({"sample": by_row, "place": places, **found})

        def keep(self) -> None:
            """The measures of the whole step, by step and by place; and some of its samples. A resumed run writes the
            files of the steps it repeats again."""
            step, means = self.state.global_step + 1, {}
            mine = {key: torch.cat([part[key] for part in self.parts]).cpu() for key in (self.parts or [{}])[0]}
            whole = {key: processes.gathered(tensor) for key, tensor in mine.items()}
            positions = []
            if whole and len(whole["place"]):
                for name, logged in BY_STEP.items():
                    self._metrics["train"][logged].append(whole[name].mean().item())
                count = torch.bincount(mine["sample"], minlength=len(self.draws)).clamp(min=1)
                sums = torch.zeros(len(self.draws)).index_add(0, mine["sample"], mine["reward"])
                means = {i: (sums[i] / count[i]).item() for i in self.texts}
                of_all = processes.total(sum(means.values())) / processes.total(len(means))
                self._metrics["train"]["reward"].append(of_all)
                bins = whole["place"] // diagnostics["width"]
                for k in range(int(bins.max()) + 1):
                    inside = bins == k
                    place = {"step": step, "begin": k * diagnostics["width"], "end": (k + 1) * diagnostics["width"]}
                    values = {column: whole[name][inside].mean().item() for name, column in BY_POSITION.items()}
                    positions.append(place | {"tokens": int(inside.sum())} | values)
            # Of all processes: the first one's file has them.
            rollouts.keep(work / "positions", step - 1, positions if processes.first() else [])
            kept = []
            for i in sorted(self.texts)[: settings["keep_samples"] if processes.first() else 0]:
                draw, row = self.draws[i], row_of(self.draws[i])
                kept.append(
                    {"step": step, "id": row["id"], "data": sources[draw.source]["data"]}
                    | {"teacher": " + ".join(panel.folders[t].name for t in sources[draw.source]["teachers"])}
                    | {"prompt": row["messages"][-2]["content"], "response": self.texts[i]}
                    | {"correct": self.right.get(i), "reward": None if i not in means else round(means[i], 6)}
                )
            rollouts.keep(work / "rollouts", step - 1, kept)

    arguments = settings | {"gradient_accumulation": samples // settings["batch_size"]}
    shared = training.trainer_arguments(arguments, plan, work, ladder.cuts)
    trainer = Trainer(
        model=model,
        args=DistillationConfig(
            **shared | {"per_device_train_batch_size": part_rows},
            max_completion_length=settings["max_new_tokens"],
            temperature=settings["temperature"],
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row_of(draw)["messages"][:-1], "draw": i} for i, draw in enumerate(plan.draws)]
        ),
        processing_class=tokenizer,
    )
    trainer.ladder = ladder
    asked = [row["messages"][:-1] for rows in prompts for row in rows]
    at_once = max(1, settings["sample_batch"] // ladder.cuts)
    trainer.engine = vllm_sampler.build(trainer, tokenizer, settings, at_once, asked)
    # A response must fit the smallest context of all who read it.
    trainer.engine.max_length = min([trainer.engine.max_length, *map(teachers.context, panel.folders)])
    trainer.eos_token_ids = trainer.engine.stop_ids
    return trainer
