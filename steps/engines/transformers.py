"""Sampling and scoring behind one small interface: load a checkpoint, `sample` or `generate`, `score`, `embed`.

Every step that needs text from a model goes through this module.

Decoding is our own loop around the model's forward pass, and not `model.generate`. On one core, with fable's base
model and 256 rows, it takes half of the time for greedy answers and a quarter for 8 samples a prompt: the cache is
written in place (concatenating it was half of the time), finished rows are dropped, and samples of one prompt
share its prefill. The tests hold its greedy answers against `model.generate`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.core.progress import Progress
from steps.models import checkpoints, head

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steps.engines.interface import Coder, Messages, Sample, _cut
from steps.engines.truncation import Truncation, ordered

# Rows that are done are dropped when this share of the batch or less is still writing: dropping copies the cache.
COMPACT_BELOW = 0.8
# Stop strings are looked for every so many tokens: looking means decoding the text.
STOP_EVERY = 16


class Engine(Coder):
    """A checkpoint that writes (`sample`), judges (`score`) and reads text (`embed`), in batches sorted by length."""

    name = "transformers"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int):
        super().__init__(tokenizer, model.config, model.generation_config.eos_token_id, batch_size)
        self.model = model
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]

    @classmethod
    def load(cls, folder: Path, batch_size: int) -> Engine:
        """The engine of a checkpoint that `checkpoints.check` has verified.

        Weights are in `checkpoints.computed_dtype`. An adapter arrives merged into its base, and decodes as fast as a
        full model.
        """
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = checkpoints.load_model(folder, checkpoints.computed_dtype(folder)).to(device).eval()
        return cls(model, checkpoints.load_tokenizer(folder), batch_size)

    @cached_property
    def cache_keyword(self) -> str:
        """The keyword by which the model takes its cache; asked for here, for an engine may never sample."""
        from steps.engines.cache import cache_keyword

        return cache_keyword(self.model)

    def setup(self) -> dict:
        """What a result must say about how it was sampled."""
        return {
            "engine": self.name,
            "batch_size": self.batch_size,
            "device": self.model.device.type,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "attention": self.model.config._attn_implementation,
            "max_length": self.max_length,
        }

    def sample(
        self,
        prompts: Sequence[str | Messages | tuple[int, ...]],
        *,
        n: int = 1,
        temperature: float,
        top_p: float = 1.0,
        top_k: int | None = None,
        min_p: float = 0.0,
        max_new_tokens: int | Sequence[int],
        stop: Sequence[str] = (),
        seed: int | Sequence[int] = 0,
        first: int = 0,
        noting: bool = False,
        progress: Progress | None = None,
    ) -> list[list[Sample]]:
        """Write n responses to every prompt.

        Sample j of prompt i draws from its own stream, seeded by (seed, i, j): what it says does not depend on
        the batch it ran in, beyond the rounding of the matrix products.

        Args:
            prompts: messages, rendered with the chat template, or text taken as it is, or a tuple of token ids.
            temperature: 0 is greedy.
            top_p, top_k, min_p: the tokens that are drawn from (`steps.engines.truncation`); top_p is the nucleus, the
                smallest set of tokens that holds this probability.
            max_new_tokens: of every response, or of each prompt's responses: at least 1.
            stop: a response ends before the first of these strings, besides the model's end tokens.
            first: number of the first prompt, for its seed, where these are a part of the prompts.
            noting: have each sample say which tokens its own were drawn from (`Sample.kept`).

        Returns:
            [prompts][n] samples.

        Raises:
            ValueError: `max_new_tokens` leaves no room for a prompt.
        """
        seeds = [seed] if isinstance(seed, int) else [*seed]
        ids, limits = self._fitted(prompts, max_new_tokens)
        # Longest first: what takes most memory and time comes at once. The sort is stable, so the order is fixed.
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        per_batch, cut = max(1, self.batch_size // n), Truncation(top_p, top_k, min_p)
        answers: list[list[Sample]] = [[] for _ in ids]
        for begin in range(0, len(order), per_batch):
            batch = order[begin : begin + per_batch]
            chances = None
            own = [limits[i] for i in batch]
            if temperature > 0:
                chances = np.stack(
                    [np.random.default_rng([*seeds, first + i, j]).random(max(own)) for i in batch for j in range(n)]
                )
            samples = self._sample_batch([ids[i] for i in batch], n, temperature, cut, own, stop, chances, noting)
            for position, i in enumerate(batch):
                answers[i] = samples[position * n : (position + 1) * n]
            if progress:
                progress.update(min(begin + per_batch, len(order)) * n)
        return answers

    def _sample_batch(
        self,
        prompts: list[list[int]],
        n: int,
        temperature: float,
        cut: Truncation,
        limits: list[int],
        stop: Sequence[str],
        chances: np.ndarray | None,
        noting: bool,
    ) -> list[Sample]:
        """Decode one batch; rows are prompts × n, prompts left-padded so that all write at the same place.

        `limits` is how many tokens each prompt's responses may have. `chances` is [rows, the largest limit], uniform in
        [0, 1), or None for greedy.
        """
        import torch

        from steps.engines.cache import roomy_cache, take_rows

        device, max_new_tokens = self.model.device, max(limits)
        with torch.inference_mode():
            width = max(map(len, prompts))
            ids = torch.tensor([[self.pad_id] * (width - len(p)) + p for p in prompts], device=device)
            # The mask is written ahead for the tokens to come; each pass sees the part so far.
            mask = torch.ones((len(prompts), width + max_new_tokens), dtype=torch.long, device=device)
            for row, prompt in enumerate(prompts):
                mask[row, : width - len(prompt)] = 0
            positions = (mask[:, :width].cumsum(-1) - 1).clamp(min=0)
            cache = roomy_cache(self.model, width + max_new_tokens)
            logits = self._forward(ids, mask[:, :width], positions, cache)
            position = positions[:, -1:]
            if n > 1:
                take_rows(cache, torch.arange(len(prompts), device=device).repeat_interleave(n))
                logits, mask, position = (t.repeat_interleave(n, dim=0) for t in (logits, mask, position))

            stop_ids = torch.tensor(self.stop_ids, device=device)
            written = torch.full((len(prompts) * n, max_new_tokens), self.pad_id, device=device)
            if chances is not None:
                chances = torch.from_numpy(chances).to(device)
            lengths = torch.tensor(limits, device=device).repeat_interleave(n)
            differ = min(limits) < max_new_tokens
            last = lengths - 1
            logp = torch.zeros(len(written), dtype=torch.float64, device=device)
            logps = torch.zeros(written.shape, device=device)
            count = torch.zeros(len(written), dtype=torch.long, device=device)
            rows = torch.arange(len(written), device=device)
            writing = torch.ones(len(written), dtype=torch.bool, device=device)
            kept: list[list[np.ndarray]] = [[] for _ in written]
            for step in range(max_new_tokens):
                noted: list[np.ndarray] | None = [] if noting else None
                token = _choose(logits, temperature, cut, None if chances is None else chances[rows, step], noted)
                for row, drawn_from in zip(rows.tolist(), noted, strict=True) if noted else ():
                    kept[row].append(drawn_from)
                written[rows, step] = token
                chosen = logits.gather(-1, token[:, None]).squeeze(-1) - logits.logsumexp(-1)
                logps[rows, step] = chosen
                logp[rows] += chosen.double().masked_fill(~writing, 0.0)
                count[rows] += writing
                ended = writing & torch.isin(token, stop_ids)
                lengths[rows[ended]] = step
                writing &= ~ended
                if differ:
                    writing &= last[rows] > step
                if stop and (step + 1) % STOP_EVERY == 0:
                    so_far = self.chat.texts(written[rows, : step + 1].tolist())
                    writing &= torch.tensor([not any(s in text for s in stop) for text in so_far], device=device)
                left = int(writing.sum())
                if left == 0 or step + 1 == max_new_tokens:
                    break
                if left <= COMPACT_BELOW * len(rows):
                    keep = writing.nonzero().squeeze(1)
                    take_rows(cache, keep)
                    rows, token, mask, position, writing = (t[keep] for t in (rows, token, mask, position, writing))
                position = position + 1
                logits = self._forward(token[:, None], mask[:, : width + step + 1], position, cache)

        self.tokens += int(count.sum())
        summed_logps = self._numbers(logp.tolist())
        texts = self.chat.texts([row[:length] for row, length in zip(written.tolist(), lengths.tolist(), strict=True)])
        return [
            Sample(
                self._said(_cut(text, stop), prompts[row // n]),
                summed,
                size,
                tuple(ids[:size]),
                tuple(each[:size]),
                tuple(own[:size]),
            )
            for row, (text, summed, size, ids, each, own) in enumerate(
                zip(texts, summed_logps, count.tolist(), written.tolist(), logps.tolist(), kept, strict=True)
            )
        ]

    def _forward(self, ids, mask, positions, cache) -> torch.Tensor:
        """Logits of the last place, [rows, vocabulary] in float32."""
        from steps.engines.cache import STATES

        if self.cache_keyword == STATES and ids.shape[1] == 1:
            # Of the place at hand, which is no padding: Mamba would take the width of a longer one for places.
            mask = None
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **{self.cache_keyword: cache},
        )
        return out.logits[:, -1].float()

    def score(self, conversations: Sequence[Messages]) -> tuple[np.ndarray, np.ndarray]:
        """Negative log-likelihood of each conversation's last assistant turn given what comes before it.

        The turn counts up to and with its end token; what the template writes after that (a line break) does not.
        A conversation longer than the context loses its end: only tokens inside count.

        Returns:
            nll: [conversations], summed over the turn's tokens, in nats.
            tokens: [conversations], how many they are.

        Raises:
            ValueError: the chat template writes the conversation so far otherwise once an answer follows.
        """
        return self._nll(*self._encode_turns(conversations))

    def _nll(self, ids: list[list[int]], scored: list[list[bool]]) -> tuple[np.ndarray, np.ndarray]:
        """Sum over each row's scored tokens but the first token, in batches sorted by length, right-padded."""
        import torch

        device = self.model.device
        nll, count = np.zeros(len(ids)), np.zeros(len(ids), dtype=int)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        # A row of logits is as wide as the vocabulary: a quarter of the batch keeps them near the size of a cache.
        size = max(1, self.batch_size // 4)
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            width = max(len(ids[i]) for i in batch)
            tokens = torch.tensor([ids[i] + [self.pad_id] * (width - len(ids[i])) for i in batch], device=device)
            weight = torch.tensor([scored[i] + [False] * (width - len(ids[i])) for i in batch], device=device)[:, 1:]
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch], device=device)
            with torch.inference_mode():
                logits = head.read(self.model, input_ids=tokens, attention_mask=mask)[:, :-1].float()
                loss = head.per_place(_losses, [logits], tokens[:, 1:])
            loss = loss.view(weight.shape).double().masked_fill(~weight, 0.0)
            nll[batch], count[batch] = loss.sum(-1).cpu().numpy(), weight.sum(-1).cpu().numpy()
        return self._numbers(nll), count

    def choose(
        self, prompts: Sequence[Messages], options: Sequence[Sequence[str]], progress: Progress | None = None
    ) -> list[np.ndarray]:
        """How the model divides its belief among the options of each prompt.

        The same as a softmax of `score`, in half of the time for five options: what the options of a prompt begin
        with alike is read once, and weighs nothing, because a factor that all share leaves their proportions alone.

        Returns:
            [prompts] of [options], probabilities: the softmax over its options of the summed log-likelihood of the
            option as the response, up to and with its end token.
        """
        import torch

        from steps.engines.cache import STATES, roomy_cache, take_rows

        device = self.model.device
        conversations = [
            [*prompt, {"role": "assistant", "content": option}]
            for prompt, own in zip(prompts, options, strict=True)
            for option in own
        ]
        turns = self._encode_turns(conversations)
        if self.cache_keyword == STATES:
            # Mamba reads several tokens as a text's first, whatever its states are: nothing is shared.
            parts = np.split(-self._nll(*turns)[0], np.cumsum([len(own) for own in options])[:-1])
            return [_softmax(part) for part in parts]
        coded = iter(turns[0])
        rows = [[next(coded) for _ in own] for own in options]
        # The last token that all share opens every option's own part: its place predicts what follows.
        shared = [len(os.path.commonprefix([ids[:-1] for ids in row])) - 1 for row in rows]
        assert min(shared, default=1) > 0, "a chat template begins every conversation alike"
        order = sorted(range(len(rows)), key=lambda i: -shared[i])
        size = max(1, self.batch_size // max(map(len, rows), default=1))
        beliefs: list[np.ndarray] = [np.empty(0)] * len(rows)
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            width = shared[batch[0]]
            tails = [ids[shared[i] :] for i in batch for ids in rows[i]]
            length = max(map(len, tails)) - 1
            pads = [width - shared[i] for i in batch]
            starts = [[self.pad_id] * pad + rows[i][0][: shared[i]] for pad, i in zip(pads, batch, strict=True)]
            mask = torch.tensor([[0] * pad + [1] * (width - pad + length) for pad in pads], device=device)
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            repeats = torch.tensor([len(rows[i]) for i in batch], device=device)
            tokens = torch.tensor([t + [self.pad_id] * (length + 1 - len(t)) for t in tails], device=device)
            weight = torch.tensor([[k < len(t) for k in range(1, length + 1)] for t in tails], device=device)
            cache = roomy_cache(self.model, width + length)
            with torch.inference_mode():
                self._forward(torch.tensor(starts, device=device), mask[:, :width], positions[:, :width], cache)
                take_rows(cache, torch.arange(len(batch), device=device).repeat_interleave(repeats))
                logits = head.read(
                    self.model,
                    input_ids=tokens[:, :-1],
                    attention_mask=mask.repeat_interleave(repeats, dim=0),
                    position_ids=positions[:, width:].repeat_interleave(repeats, dim=0),
                    use_cache=True,
                    **{self.cache_keyword: cache},
                ).float()
                logp = head.per_place(_logps, [logits], tokens[:, 1:])
                total = logp.double().masked_fill(~weight, 0.0).sum(-1)
            for i, part in zip(batch, total.split(repeats.tolist()), strict=True):
                beliefs[i] = self._numbers(part.softmax(-1).cpu().numpy())
            if progress:
                progress.update(min(begin + size, len(order)))
        return beliefs

    def embed(self, prompts: Sequence[str | Messages]) -> dict[str, np.ndarray]:
        """Hidden states by which two prompts can be compared, rendered as `sample` renders them.

        Returns:
            last: [prompts, hidden] float32, the last place of the final layer, where the answer is about to be written.
            middle: [prompts, hidden] float32, the mean over the prompt's tokens of the middle layer.
        """
        import torch

        device, hidden = self.model.device, self.model.config.get_text_config().hidden_size
        ids = self.encode([self.render(prompt) for prompt in prompts])
        self.truncated += sum(len(tokens) > self.max_length for tokens in ids)
        ids = [tokens[-self.max_length :] for tokens in ids]
        states = {name: np.zeros((len(ids), hidden), dtype=np.float32) for name in ("last", "middle")}
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        # The states of every layer are held at once: a quarter of the batch keeps them near the size of a cache.
        size = max(1, self.batch_size // 4)
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            width = max(len(ids[i]) for i in batch)
            tokens = torch.tensor([ids[i] + [self.pad_id] * (width - len(ids[i])) for i in batch], device=device)
            mask = torch.tensor([[1] * len(ids[i]) + [0] * (width - len(ids[i])) for i in batch], device=device)
            with torch.inference_mode():
                out = self.model.base_model(
                    input_ids=tokens, attention_mask=mask, output_hidden_states=True, use_cache=False
                )
                lengths = mask.sum(-1)
                last = out.last_hidden_state[torch.arange(len(batch), device=device), lengths - 1]
                middle = out.hidden_states[len(out.hidden_states) // 2].float()
                middle = middle.masked_fill(mask[:, :, None] == 0, 0.0).sum(1) / lengths[:, None]
            states["last"][batch], states["middle"][batch] = last.float().cpu().numpy(), middle.cpu().numpy()
        return states


# --- parts ---------------------------------------------------------------------------------------


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _losses(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[...] negative log-probabilities of tokens [...] by logits [..., V], as one row."""
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none")


def _logps(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """[...] log-probabilities of tokens [...] by logits [..., V]."""
    return logits.gather(-1, tokens[..., None]).squeeze(-1) - logits.logsumexp(-1)


def _choose(
    logits: torch.Tensor,
    temperature: float,
    cut: Truncation,
    chance: torch.Tensor | None,
    noted: list[np.ndarray] | None = None,
) -> torch.Tensor:
    """One token per row, by inverting the cumulative distribution at the row's chance.

    Args:
        logits: [rows, vocabulary].
        cut: which tokens are not drawn.
        chance: [rows], uniform in [0, 1); None chooses the likeliest token.
        noted: is appended the ids that each row's was drawn from.

    Returns:
        [rows] token ids.
    """
    import torch

    if chance is None:
        return logits.argmax(-1)
    probability = (logits / temperature).softmax(-1, dtype=torch.float64)
    order = None
    if cut.cuts:
        probability, order = ordered(probability, cut)
    cumulative = probability.cumsum(-1)
    place = torch.searchsorted(cumulative, (chance * cumulative[:, -1])[:, None], right=True)
    if order is None:
        assert noted is None, "all tokens are drawn from"
        return place.clamp(max=logits.shape[-1] - 1).squeeze(-1)
    sizes = (probability > 0).sum(-1)
    if noted is not None:
        ids = order[:, : int(sizes.max())].int().cpu().numpy()
        noted += [own[:size].copy() for own, size in zip(ids, sizes.tolist(), strict=True)]
    # A chance so near 1 that it is rounded to all of the sum is behind the last. Where all is NaN nothing is left, and
    # who asks for the log-probabilities says so.
    return order.gather(-1, torch.minimum(place, sizes[:, None] - 1).clamp(min=0)).squeeze(-1)
