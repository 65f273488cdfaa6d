"""Where the methods of reinforcement learning meet TRL's GRPOTrainer.

Sampling is the engine's, rewards are `steps.rewards`; `signal` says who of a batch of rollouts is taught, and
`_compute_loss` what that changes of the loss. The formulas are in the modules of the methods.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps import adapters, groups, processes, rlrt, rlsd, rollouts, sdpo, self_teacher, srpo, training, vllm_sampler

# Methods that pull the whole distribution of a token towards the teacher's, and those that weight its advantage.
DISTILLED, WEIGHTED = ("sdpo", "srpo"), ("rlsd", "rlrt")


def build_trainer(
    model: Any,
    tokenizer: Any,
    rows: list[dict],
    settings: dict,
    plan: Any,
    work: Path,
    scorer: Callable[[dict], Any],
) -> Any:
    """A resumable GRPOTrainer that samples through the engine and adds the method's signal.

    Args:
        rows: with "messages" and what the rewards ask of a row.
        plan: a `rl.Plan`.
        scorer: given {"believes": …}, makes the `rewards.Rewards`.
    """
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    method = settings["method"]
    kin = settings.get(method)
    ladder = training.Ladder(work, settings["batch_size"], even=True)
    samples = settings["prompts"] * settings["generations"]
    accumulation = samples // settings["batch_size"] * ladder.cuts
    if method == "srpo" and settings["iterations"] > 1 and ladder.parts > 1:
        raise ValueError(
            f"iterations: srpo with {settings['iterations']} needs all {samples} samples of a step in one pass, and"
            f" they are in {ladder.parts}: memory ran out, or there are {processes.count()} processes; set it to 1"
        )
    if settings["loss_type"] == "bnpo" and ladder.parts > 1:
        raise ValueError(
            "loss_type: bnpo is a mean over the tokens of each pass, and memory for a pass ran out; lower batch_size,"
            " or write dapo"
        )
    # The samples of this process: whole groups.
    own = slice(*(samples * rank // processes.count() for rank in (processes.rank(), processes.rank() + 1)))

    class Trainer(training.Resumable, GRPOTrainer):
        """Per step: `rollouts`, rewards, `signal` (no gradients), then `_compute_loss` for each part of the batch."""

        batch: list[dict] = []  # the row of each sample of the rollouts at hand
        scored: tuple | None = None  # a forward pass made ahead of TRL's own

        # -- sampling and rewards

        def rollouts(self, prompts: list) -> dict:
            """TRL's rollout_func: every prompt comes `generations` times in a row."""
            size = settings["generations"]
            seeds = [settings["seed"], self.state.global_step // settings["iterations"]]
            with self_teacher.wearing(self.model, None), self.accelerator.autocast():
                groups_of_samples = self.engine.sample(
                    prompts[::size],
                    n=size,
                    temperature=settings["temperature"],
                    max_new_tokens=settings["max_new_tokens"],
                    seed=seeds,
                    first=own.start // size,
                )
            written = [sample for group in groups_of_samples for sample in group]
            encoded = self.engine.encode([self.engine.render(prompt) for prompt in prompts[::size]])
            self._metrics["train"]["generated"].append(processes.total(sum(sample.tokens for sample in written)))
            return {
                "prompt_ids": [ids for ids in encoded for _ in range(size)],
                "completion_ids": [list(sample.ids) for sample in written],
                "logprobs": None,
            }

        def score(self, name: str, completions: list, completion_ids: list) -> list[float]:
            """One reward of every sample; what it could not score is written down, and counted."""
            texts = [completion[0]["content"] for completion in completions]
            results = self.rewards.score(name, self.batch, texts, [len(ids) for ids in completion_ids])
            for row, text, result in zip(self.batch, texts, results, strict=True):
                if result.error is not None:
                    place = {key: row[key] for key in ("id", "file", "line", "row")}
                    self.failed.append(place | {"reward": name, "error": result.error, "response": text})
            self.timeouts += sum(result.note == "timeout" for result in results)
            return [result.value for result in results]

        def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
            self.failed, self.timeouts = [], 0
            # Of all processes, as TRL gathers them.
            self.values = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
            failed = round(processes.total(len(self.failed)))
            self._metrics["train"]["failures"].append(failed)
            self._metrics["train"]["timeouts"].append(processes.total(self.timeouts))
            self.check_failures(failed)
            return self.values

        def check_failures(self, now: int) -> None:
            earlier = [round(entry["failures"]) for entry in self.state.log_history if "failures" in entry]
            failed = sum(earlier) + now
            share = failed / (samples * len(plan.names) * (self.rollout + 1))
            if now and share > settings["max_failures"] and not self.failed:
                raise ValueError(f"{failed} scores failed so far, the last in another process")
            if self.failed and share > settings["max_failures"]:
                first = self.failed[0]
                raise ValueError(
                    f"reward {first['reward']}: {failed} scores failed so far, {100 * share:.1f} % (max_failures allows"
                    f" {100 * settings['max_failures']:g} %); {first['file']} row {first['row']}: {first['error']};"
                    f" the completion was {first['response'][:200]!r}"
                )

        @property
        def rollout(self) -> int:
            """Batches of rollouts before this one."""
            return self.state.global_step // settings["iterations"]

        # -- what the method adds, once per batch of rollouts

        def _generate_and_score_completions(self, inputs):
            self.batch = [rows[example["row"]] for example in inputs]
            # TRL would score the start by a model that it loads from the path in the config, which for a merged
            # adapter is another model: the start's weights are put on here instead.
            self.beta = 0.0
            output = super()._generate_and_score_completions(inputs)
            self.beta = settings["kl"]
            self.plain = output["advantages"]
            output |= self.signal(output)
            if self.beta or self.watched:
                with self_teacher.wearing(self.model, self.start):
                    output["ref_per_token_logps"] = self.logps(output["prompt_ids"], output["prompt_mask"], output)
            self.keep(output)
            return output

        @property
        def watched(self) -> bool:
            return bool(settings["watch_kl"]) and self.rollout % settings["watch_kl"] == 0

        def signal(self, output: dict) -> dict:
            """Who is taught by the teacher, with which prompt, and what that changes of the advantages."""
            names = plan.names
            correct = self.values[:, names.index(settings["success"]["reward"])] >= settings["success"]["least"]
            self._metrics["train"]["correct"].append(correct.float().mean().item())
            size = settings["generations"]
            # TRL's count is of batches, all or none, where rewards are scaled by the batch.
            totals = (self.values @ self.reward_weights.to(self.values)).view(-1, size)
            flat = torch.isclose(totals, totals[:, :1]).all(1)
            self._metrics["train"]["no_signal"].append(flat.float().mean().item())
            correct = correct[own]
            if method == "grpo":
                return {}
            shown = groups.siblings(correct, size)
            if method == "rlrt":
                # What a unique correct sample is shown, the paper leaves open: itself, as in others' implementations.
                shown = torch.where((shown < 0) & correct, torch.arange(len(shown), device=shown.device), shown)
            taught = {
                "sdpo": lambda: sdpo.routed(correct, size),
                "srpo": lambda: srpo.routed(correct, size),
                "rlsd": lambda: output["advantages"] != 0,
                "rlrt": lambda: correct & (output["advantages"] != 0),
            }[method]()
            prompts, fits = self.contexts(shown, taught, output)
            taught = taught & fits
            self._metrics["train"]["distilled"].append(processes.gathered(taught.float()).mean().item())
            found = {"taught": taught, "correct": correct}
            if method in WEIGHTED:
                found["teacher_per_token_logps"] = self.teacher_logps(prompts, taught, output)
                return found
            found |= prompts
            # The gradients of the processes are averaged: each divides by its share of the tokens.
            tokens = (output["completion_mask"] * taught[:, None]).sum()
            found["n_taught"] = processes.gathered(tokens[None]).sum() / processes.count()
            if method == "sdpo":
                return found | {"advantages": torch.zeros_like(output["advantages"])}
            if accumulation > 1 or processes.count() > 1:
                found["mean_weight"] = self.mean_weight(found, output)
            return found | {"advantages": srpo.advantages(output["advantages"], taught)}

        def contexts(self, shown: Any, taught: Any, output: dict) -> tuple[dict, Any]:
            """The teacher's prompt of every sample, left-padded, and whether it fits the context with its response."""
            texts = self.processing_class.batch_decode(
                [
                    ids[mask.bool()].tolist()
                    for ids, mask in zip(output["completion_ids"], output["completion_mask"], strict=True)
                ],
                skip_special_tokens=True,
            )
            template, encoded = settings["contexts"][kin["context"]], []
            for row, of, knows in zip(self.batch, shown.tolist(), taught.tolist(), strict=True):
                messages = row["messages"][:-1]
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
            made = {
                "teacher_ids": torch.tensor([[pad] * (width - len(i)) + i for i in ids], device=device),
                "teacher_mask": torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids], device=device),
            }
            return made, torch.tensor(fits, device=device)

        def teacher_logps(self, prompts: dict, taught: Any, output: dict) -> Any:
            """[B, T] log-probabilities of the tokens by the teacher; 0 where it was not asked."""
            chosen = taught.nonzero().squeeze(1)
            found = torch.zeros(output["completion_ids"].shape, device=taught.device)
            if len(chosen):
                part = {key: output[key][chosen] for key in ("completion_ids", "completion_mask")}
                with self_teacher.wearing(self.model, self.teacher.weights):
                    found[chosen] = self.logps(prompts["teacher_ids"][chosen], prompts["teacher_mask"][chosen], part)
            return found

        def mean_weight(self, found: dict, output: dict) -> Any:
            """SRPO's mean entropy weight over the whole batch of rollouts, of which the loss sees a part at a time."""
            taught = found["taught"].nonzero().squeeze(1)
            total = count = torch.zeros((), device=taught.device)
            for chosen in taught.split(settings["batch_size"] // ladder.parts) if len(taught) else ():
                part = {key: output[key][chosen] for key in ("completion_ids", "completion_mask")}
                with self_teacher.wearing(self.model, self.teacher.weights):
                    logits = self.logits(found["teacher_ids"][chosen], found["teacher_mask"][chosen], part)
                weights = torch.exp(-kin["entropy_weight"] * entropy_from_logits(logits))
                total = total + (weights * part["completion_mask"]).sum()
                count = count + part["completion_mask"].sum()
            total, count = processes.gathered(torch.stack([total, count])[None]).sum(0)
            return total / count if count else torch.ones_like(total)

        def keep(self, output: dict) -> None:
            """Some groups of the rollouts, and the failed scores, as files that a resumed run writes again."""
            size = settings["generations"]
            ids, mask = output["completion_ids"], output["completion_mask"].bool()
            kept = []
            # The first process has as many as there are, or its share of the prompts.
            groups_here = min(settings["keep_groups"], len(self.batch) // size) if processes.first() else 0
            for begin in range(0, groups_here * size, size):
                row, members = self.batch[begin], range(begin, begin + size)
                texts = self.processing_class.batch_decode(
                    [ids[i][mask[i]].tolist() for i in members], skip_special_tokens=True
                )
                values = {
                    name: [round(self.values[i, k].item(), 6) for i in members] for k, name in enumerate(plan.names)
                }
                advantages = [round(self.plain[i].item(), 6) for i in members]
                kept.append(
                    {"step": self.state.global_step + 1, "id": row["id"], "prompt": row["messages"][-2]["content"]}
                    | {"answer": row["answer"], "responses": texts, "rewards": values, "advantages": advantages}
                )
            rollouts.keep(work / "rollouts", self.rollout, kept)
            failed = [{"step": self.state.global_step + 1} | failure for failure in self.failed]
            rollouts.keep(work / "failures", self.rollout, failed)

        # -- scoring tokens

        def logits(self, prompt_ids: Any, prompt_mask: Any, part: dict) -> Any:
            """[b, T, V] of the places that predict the completion, over the temperature."""
            ids, mask = part["completion_ids"], part["completion_mask"]
            with self.accelerator.autocast():
                found = self.model(
                    input_ids=torch.cat([prompt_ids, ids], dim=1),
                    attention_mask=torch.cat([prompt_mask, mask], dim=1),
                    logits_to_keep=ids.shape[1] + 1,
                    use_cache=False,
                ).logits[:, :-1]
            return found.float() / settings["temperature"]

        def logps(self, prompt_ids: Any, prompt_mask: Any, output: dict) -> Any:
            """[B, T] log-probabilities of the tokens that were sampled, a part of the batch at a time."""
            found = []
            size = settings["batch_size"] // ladder.parts
            for begin in range(0, len(prompt_ids), size):
                rows_of = slice(begin, begin + size)
                part = {key: output[key][rows_of] for key in ("completion_ids", "completion_mask")}
                input_ids = torch.cat([prompt_ids[rows_of], part["completion_ids"]], dim=1)
                mask = torch.cat([prompt_mask[rows_of], part["completion_mask"]], dim=1)
                found.append(
                    self._get_per_token_logps_and_entropies(
                        self.model, input_ids, mask, part["completion_ids"].shape[1]
                    )[0]
                )
            return torch.cat(found)

        def _get_per_token_logps_and_entropies(
            self,
            model,
            input_ids,
            attention_mask,
            logits_to_keep,
            compute_entropy=False,
            compute_aux_loss=False,
            **rest,
        ):
            if self.scored is not None:
                scored, self.scored = self.scored, None
                return scored
            # TRL's fused head saves the memory of the logits where Triton runs, and is the only one that has the
            # auxiliary loss of a mixture of experts. On a CPU the logits of a part of the batch are faster.
            distils = method in DISTILLED and torch.is_grad_enabled()
            size = rest.get("batch_size")
            if size and size < len(input_ids) and not torch.is_grad_enabled() and not compute_entropy:
                parts = [
                    self._get_per_token_logps_and_entropies(
                        model, input_ids[i : i + size], attention_mask[i : i + size], logits_to_keep
                    )[0]
                    for i in range(0, len(input_ids), size)
                ]
                return torch.cat(parts), None, None
            if (self.accelerator.device.type == "cuda" or compute_aux_loss) and not distils:
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep,
                    compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss, **rest,
                )  # fmt: skip
            with self.accelerator.autocast():
                logits = model(
                    input_ids=input_ids,
                    attention_mask=attention_mask,
                    logits_to_keep=logits_to_keep + 1,
                    use_cache=False,
                ).logits[:, :-1]
            logits = logits.float() / settings["temperature"]
            self.student_logits = logits if distils else None
            logps = selective_log_softmax(logits, input_ids[:, -logits_to_keep:])
            return logps, entropy_from_logits(logits.detach()) if compute_entropy else None, None

        # -- the loss of a part of the batch

        def _compute_loss(self, model, inputs):
            distilled = method in DISTILLED and bool(inputs["taught"].any())
            # Before the student's graph is there: the teacher's weights take the place of those it refers to.
            teacher_logits = self.teacher_logits(inputs) if distilled else None
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
            self.scored = self._get_per_token_logps_and_entropies(
                model, ids, mask, inputs["completion_ids"].shape[1],
                compute_entropy=True, compute_aux_loss=self.aux_loss_enabled,
            )  # fmt: skip
            logps = self.scored[0]
            if method in WEIGHTED:
                inputs = inputs | {"advantages": self.weighted(inputs, logps.detach())}
            if "ref_per_token_logps" in inputs and not self.beta:
                self.watch(inputs, logps.detach())
            loss = super()._compute_loss(model, inputs)
            if distilled:
                loss = loss + self.distillation(inputs, logps, teacher_logits)
            return adapters.penalised(loss, self.model, self.current_gradient_accumulation_steps)

        def weighted(self, inputs: dict, logps: Any) -> Any:
            """[b, T] advantages of RLSD or RLRT; the student is compared as it was when it wrote the tokens."""
            student = inputs.get("old_per_token_logps", logps)
            by_teacher = torch.where(inputs["taught"][:, None], inputs["teacher_per_token_logps"], student)
            if method == "rlsd":
                mix = rlsd.mix_at(self.state.global_step, kin["mix"], kin["until"])
                return rlsd.advantages(inputs["advantages"], student, by_teacher, mix, kin["clip"])
            return rlrt.advantages(
                inputs["advantages"], inputs["correct"], student, by_teacher, kin["mix"], kin["clip"]
            )

        def teacher_logits(self, inputs: dict) -> Any:
            """[taught, T, V]."""
            chosen = inputs["taught"].nonzero().squeeze(1)
            part = {key: inputs[key][chosen] for key in ("completion_ids", "completion_mask")}
            with self_teacher.wearing(self.model, self.teacher.weights):
                return self.logits(inputs["teacher_ids"][chosen], inputs["teacher_mask"][chosen], part)

        def distillation(self, inputs: dict, logps: Any, teacher_logits: Any) -> Any:
            """SDPO's loss, or the distilled branch of SRPO's, of this part of the batch."""
            chosen = inputs["taught"].nonzero().squeeze(1)
            mask = inputs["completion_mask"][chosen]
            # Not kept: the next rollouts need the room.
            student_logits, self.student_logits = self.student_logits[chosen], None
            per_token = sdpo.divergence(student_logits, teacher_logits, kin["divergence"], kin["top_k"])
            if "old_per_token_logps" in inputs:
                old = inputs["old_per_token_logps"][chosen]
                per_token = sdpo.ratio_clipped(per_token, logps[chosen], old, kin["ratio_clip"])
            if method == "sdpo":
                return sdpo.loss(per_token, mask, inputs["n_taught"])
            entropy = entropy_from_logits(teacher_logits)
            weights = srpo.token_weights(entropy, mask, kin["entropy_weight"], inputs.get("mean_weight"))
            return srpo.loss(per_token, weights, inputs["num_items_in_batch"] / processes.count())

        def watch(self, inputs: dict, logps: Any) -> None:
            """KL(policy ‖ start) per token, estimated on those that were sampled (k3 of Schulman 2020)."""
            ratio = inputs["ref_per_token_logps"] - logps
            mask = inputs["completion_mask"]
            sums = torch.stack([((ratio.exp() - ratio - 1) * mask).sum(), mask.sum().float()])
            kl, tokens = processes.gathered(sums[None]).sum(0)
            self._metrics["train"]["kl"].append((kl / tokens).item())

    def function(name: str) -> Callable:
        def reward(prompts, completions, completion_ids, **_):
            return trainer.score(name, completions, completion_ids)

        reward.__name__ = name
        return reward

    arguments = settings | {"gradient_accumulation": samples // settings["batch_size"]}
    shared = training.trainer_arguments(arguments, plan, work, ladder.cuts)
    trainer = Trainer(
        model=model,
        reward_funcs=[function(name) for name in plan.names],
        args=GRPOConfig(
            **shared | {"per_device_train_batch_size": settings["batch_size"] // ladder.parts},
            num_generations=settings["generations"],
            num_iterations=settings["iterations"],
            steps_per_generation=accumulation,
            max_completion_length=settings["max_new_tokens"],
            temperature=settings["temperature"],
            beta=0.0,
            epsilon=settings["clip"]["low"],
            epsilon_high=settings["clip"]["high"],
            loss_type=settings["loss_type"],
            scale_rewards=settings["scale_rewards"],
            reward_weights=[settings["rewards"][name]["weight"] for name in plan.names],
            shuffle_dataset=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": rows[i]["messages"][:-1], "row": i} for i in plan.order]),
        processing_class=tokenizer,
        rollout_func=lambda prompts, trainer: trainer.rollouts(prompts),
    )
    judged = any(reward["kind"] == "self" for reward in settings["rewards"].values())
    needs_start = settings["kl"] or settings["watch_kl"] or judged or (kin and kin["teacher"]["kind"] == "start")
    trainer.start = self_teacher.copied(model) if needs_start else None
    trainer.teacher = self_teacher.Teacher(model, kin["teacher"], trainer.start) if kin else None
    trainer.ladder = ladder
    asked = [rows[i]["messages"][:-1] for i in sorted({*plan.order})]
    at_once = max(1, settings["sample_batch"] // ladder.cuts)
    trainer.engine = vllm_sampler.build(trainer, tokenizer, settings, at_once, asked)
    trainer.eos_token_ids = trainer.engine.stop_ids

    def believes(prompts, options):
        with self_teacher.wearing(model, trainer.start):
            return trainer.engine.choose(prompts, options)

    trainer.rewards = scorer({"believes": believes})
    return trainer
