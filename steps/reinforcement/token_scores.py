"""Log-probabilities of sampled tokens, and the logits behind them: what RL's trainer computes otherwise than TRL's.

Imports TRL: import it where a training begins.
"""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.utils import entropy_from_logits, selective_log_softmax

from steps.engines.interface import Sample
from steps.models import head
from steps.reinforcement import kept_tokens
from steps.settings.sampling import truncation
from steps.training import balance

# Of a batch what stays the same whatever prompt the completions are scored behind.
COMPLETIONS = ("completion_ids", "completion_mask", "sample")


class TokenScores:
    """Put in front of a GRPOTrainer.

    B samples, T completion tokens, V vocabulary.

    Attributes:
        settings: of the recipe.
        part_rows: samples of a forward pass, in each process.
        written: this process's samples of the rollouts at hand; of a batch, "sample" is which of them.
        distils: the loss needs the policy's logits, not only its log-probabilities.
        scored: a forward pass made ahead of TRL's own, which takes it.
        student_logits: [b, T, V], or the `head.Places` that stand for them, of the last forward pass with gradients,
            where the loss needs them.
    """

    settings: dict
    part_rows: int
    written: list[Sample]
    distils: bool
    scored: tuple | None = None
    student_logits: Any = None

    def logits(self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, part: dict) -> Any:
        """[b, T, V] of the places that predict the completion, over the temperature, or the `head.Places` that stand
        for them."""
        ids, mask = part["completion_ids"], part["completion_mask"]
        with self.accelerator.autocast():
            logits = head.read(
                self.model,
                input_ids=torch.cat([prompt_ids, ids], dim=1),
                attention_mask=torch.cat([prompt_mask, mask], dim=1),
                logits_to_keep=ids.shape[1] + 1,
                use_cache=False,
            )[:, :-1]
        return logits.float() / self.settings["temperature"]

    def logps(self, prompt_ids: torch.Tensor, prompt_mask: torch.Tensor, output: dict) -> torch.Tensor:
        """[B, T] log-probabilities of the tokens that were sampled, a part of the batch at a time."""
        parts = []
        for begin in range(0, len(prompt_ids), self.part_rows):
            rows = slice(begin, begin + self.part_rows)
            part = {key: output[key][rows] for key in COMPLETIONS}
            ids = torch.cat([prompt_ids[rows], part["completion_ids"]], dim=1)
            mask = torch.cat([prompt_mask[rows], part["completion_mask"]], dim=1)
            width = part["completion_ids"].shape[1]
            scored = self._get_per_token_logps_and_entropies(self.model, ids, mask, width, samples=part["sample"])
            parts.append(scored[0])
        return torch.cat(parts)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        samples: torch.Tensor | None = None,
        **rest: Any,
    ) -> tuple:
        # TRL asks for all of them at once, in their order.
        samples = torch.arange(len(input_ids)) if samples is None else samples
        if self.scored is not None:
            scored, self.scored = self.scored, None
            return scored
        distils = self.distils and torch.is_grad_enabled()
        size = rest.get("batch_size")
        if size and size < len(input_ids) and not torch.is_grad_enabled() and not compute_entropy:
            parts = [
                self._get_per_token_logps_and_entropies(
                    model, input_ids[part], attention_mask[part], logits_to_keep, samples=samples[part]
                )[0]
                for part in (slice(i, i + size) for i in range(0, len(input_ids), size))
            ]
            return torch.cat(parts), None, None
        # TRL's fused head saves the memory of the logits where Triton runs. On a CPU the logits of a part of the batch
        # are faster, and those of a wide vocabulary are made some places at a time.
        counted = not compute_aux_loss or balance.counted(self.model)
        cut = bool(truncation(self.settings))
        if self.accelerator.device.type == "cuda" and counted and not distils and not cut:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep,
                compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss, **rest,
            )  # fmt: skip
        with self.accelerator.autocast(), balance.heard(model, compute_aux_loss) as losses:
            logits = head.read(
                model,
                input_ids=input_ids,
                attention_mask=attention_mask,
                logits_to_keep=logits_to_keep + 1,
                use_cache=False,
            )[:, :-1]
        logits = logits.float() / self.settings["temperature"]
        self.student_logits = logits if distils else None
        kept = [kept_tokens.bits([self.written[i] for i in samples.tolist()], *logits.shape[1:])] if cut else []
        kept = [one.to(input_ids.device) for one in kept]
        logps = head.per_place(of_tokens, [logits], input_ids[:, -logits_to_keep:], *kept)
        if not compute_entropy:
            return logps, None, None
        with torch.no_grad():
            entropies = head.per_place(entropy_from_logits, [logits.detach()])
        return logps, entropies, balance.mean(losses) if compute_aux_loss else None


def of_tokens(logits: torch.Tensor, tokens: torch.Tensor, kept: torch.Tensor | None = None) -> torch.Tensor:
    """[...] log-probabilities of tokens [...] by logits [..., V], among those that were `kept`. TRL's function goes
    through them row by row."""
    if kept is not None:
        logits = kept_tokens.within(logits, kept)
    if logits.dim() == 3:
        return selective_log_softmax(logits, tokens)
    return selective_log_softmax(logits[None], tokens[None])[0]
