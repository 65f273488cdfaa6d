"""What every engine shares: a sample, and text as tokens of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steps.models.chat import OPEN, Chat
from steps.models.context import context

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase


# Tokens at the end of a prompt that hold the mark of a thought, in whatever pieces.
OPENING = 16
# Turns as rows have them; the first has `tools`, where the model is to know of some.
Messages = list[dict]


class Sample(NamedTuple):
    """One response of the model.

    Attributes:
        text: without special tokens, cut before a stop string. It begins with <think> where the prompt opened a thought
            that it does not close.
        logp: log-probability of its tokens under the model's own distribution (temperature 1, whole vocabulary), summed
            over all that were written, the end token among them: what vLLM calls `cumulative_logprob`.
        tokens: how many they are.
        ids: those tokens.
        logps: the log-probability of each.
        kept: of each the ids that it was drawn from, int32, where that was asked for.
    """

    text: str
    logp: float
    tokens: int
    ids: tuple[int, ...] = ()
    logps: tuple[float, ...] = ()
    kept: tuple[np.ndarray, ...] = ()

    @property
    def confidence(self) -> float:
        """Mean log-probability per token."""
        return self.logp / self.tokens


class Coder:
    """What every engine does alike: text to token ids and back, which of them are cut off, what ends a response.

    An engine is a Coder with `setup`, `sample`, `score`, `choose` and `embed`.

    Attributes:
        max_length: the model's context, in tokens.
        turn_end: id of the token with which the chat template closes an assistant's turn, or None.
        stop_ids: the tokens that end a response.
        truncated: prompts that had to lose their beginning to fit the model's context, over all calls.
        tokens: tokens generated, over all calls.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        ends: int | list[int] | None,
        batch_size: int,
    ):
        """`ends` is the eos_token_id of the model's generation config."""
        self.tokenizer, self.batch_size, self.chat = tokenizer, batch_size, Chat(tokenizer)
        self.max_length = context(config)
        self.turn_end = None if self.chat.end is None else tokenizer.convert_tokens_to_ids(self.chat.end)
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.stop_ids = sorted({*ends, tokenizer.eos_token_id, self.turn_end} - {None})
        self.truncated = self.tokens = 0

    def render(self, prompt: str | Messages) -> str:
        """The text a model sees: messages through the chat template, open for the assistant; text as it is."""
        if isinstance(prompt, str):
            return prompt
        return self.chat.opened(prompt)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts as a chat template writes them: one that writes no BOS token is trained, scored and served
        without, so that the tokenizer adds none."""
        # The tokenizer raises on an empty list: a data set may have no row that can be verified.
        return self.tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []

    def prompt_ids(self, prompts: Sequence[str | Messages | tuple[int, ...]]) -> list[list[int]]:
        """Token ids of each prompt. A tuple is ids already, for what must be continued as it was written: encoding its
        text again may cut it into other tokens."""
        coded = iter(self.encode([self.render(prompt) for prompt in prompts if not isinstance(prompt, tuple)]))
        return [list(prompt) if isinstance(prompt, tuple) else next(coded) for prompt in prompts]

    def _said(self, response: str, prompt: Sequence[int]) -> str:
        """A response to the ids of a prompt as it reads alone: see `Chat.reopened`."""
        within = self.chat.opens and self.tokenizer.decode(prompt[-OPENING:]).rstrip().endswith(OPEN)
        return self.chat.reopened(response) if within else response

    def generate(self, prompts: Sequence[str | Messages], **options: Any) -> list[list[str]]:
        """The texts of `sample`, which documents the options."""
        return [[sample.text for sample in samples] for samples in self.sample(prompts, **options)]

    def _numbers(self, values: Any) -> Any:
        """The log-probabilities themselves.

        Raises:
            ValueError: one is NaN or infinite: finite weights may still overflow on the way, and the likeliest of such
                tokens would be scored as an answer.
        """
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.tokenizer.name_or_path}: the model's log-probabilities are NaN or infinite; train it with a"
                " lower learning_rate, or choose another checkpoint"
            )
        return values

    def _fitted(
        self, prompts: Sequence[str | Messages | tuple[int, ...]], max_new_tokens: int | Sequence[int]
    ) -> tuple[list[list[int]], list[int]]:
        """Token ids of each prompt, without the beginning that leaves no room for its responses, and their limits.

        Raises:
            ValueError: `max_new_tokens` leaves no room for a prompt.
        """
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else [*max_new_tokens]
        most = max_new_tokens if isinstance(max_new_tokens, int) else max(limits, default=1)
        if most >= self.max_length:
            raise ValueError(
                f"max_new_tokens: {most} leaves no room for a prompt in a context of {self.max_length} tokens"
            )
        rooms = [self.max_length - limit for limit in limits]
        ids = self.prompt_ids(prompts)
        self.truncated += sum(len(tokens) > room for tokens, room in zip(ids, rooms, strict=True))
        return [tokens[-room:] for tokens, room in zip(ids, rooms, strict=True)], limits

    def _encode_turns(self, conversations: Sequence[Messages]) -> tuple[list[list[int]], list[list[bool]]]:
        """Token ids of each conversation up to the end of its last turn, and which of them are that turn's."""
        replies = [self.chat.closed(messages) for messages in conversations]
        coded = code_apart(self.encode, [(reply.prompt, reply.text[: reply.end]) for reply in replies])
        ids = [tokens[: self.max_length] for tokens, _ in coded]
        return ids, [[place >= begin for place in range(len(own))] for own, (_, begin) in zip(ids, coded, strict=True)]


def code_apart(
    encode: Callable[[Sequence[str]], list[list[int]]], pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], int]]:
    """Token ids of each prompt with its answer, and how many of them are the prompt's, as it is asked by itself.

    Where the tokenizer would join the end of the prompt with the answer, as two line breaks, the answer is coded by
    itself, as it is when it is sampled and trained.
    """
    # Options of one question share its prompt.
    prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
    asked = dict(zip(prompts, encode(prompts), strict=True))
    coded = []
    for (prompt, answer), whole in zip(pairs, encode([prompt + answer for prompt, answer in pairs]), strict=True):
        begin = len(asked[prompt])
        joined = whole[:begin] != asked[prompt]
        coded.append((asked[prompt] + encode([answer])[0] if joined else whole, begin))
    return coded


def _cut(text: str, stop: Sequence[str]) -> str:
    for string in stop:
        text = text.split(string, 1)[0]
    return text
