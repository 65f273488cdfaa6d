"""What the stages take for granted of a model, tried on the model at hand: one function for each group of properties.

Each returns what it found and how the model will be treated for it, or raises a ValueError of one line where nothing
that is done here can be right.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from steps.core.turns import conversation
from steps.engines.transformers import Engine
from steps.models import checkpoints, positions, trial
from steps.models.chat import Chat
from steps.models.context import UNBOUNDED
from steps.models.unfit import Unfit
from steps.training import balance, layouts
from steps.training.texts import Text, texts

SYSTEM = {"role": "system", "content": "Answer in a word."}
ASKED = (
    {"role": "user", "content": "What is the colour of the sky above the town by day?"},
    {"role": "user", "content": "How many legs has a horse?"},
)
SAID = (
    {"role": "assistant", "content": "It is blue."},
    {"role": "assistant", "content": "It has four of them."},
)
THOUGHTS = ("One looks up and sees.", "Two in front, two behind.")
TOOL = {
    "name": "look",
    "description": "Look at a thing.",
    "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
}
LOOKED = (
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"at": "it"}}]},
    {"role": "tool", "content": "seen", "name": "look"},
)
# Samples of each prompt, and tokens of each.
SAMPLES, WRITTEN = 3, 8
# Keys of generation_config.json that say nothing of how a token is chosen.
UNASKED = ("transformers_version", "_from_model_config", "max_length", "max_new_tokens", "use_cache")
# Nats per token by which two ways to the same log-probability may differ in float32.
NATS = 1e-3


@dataclass(frozen=True)
class Property:
    """A line of the table: what is looked at, what was found, and what is done about it (nothing where that is
    empty)."""

    name: str
    found: str
    treated: str = ""


# --- how rows are read ---------------------------------------------------------------------------


def reading(model: Any) -> tuple[dict[str, Any], list[Property]]:
    """The layout of packed rows, and how rows are padded on the left, as layout.json and as the table has them.
    Positions go by the mask from here on."""
    layout, found = layouts.right_layout(model)
    packed = found[layouts.PACKED]
    said = "logits as of the row alone" if layout == layouts.PACKED else f"logits off by {packed:.2g} of their spread"
    off = positions.padded_difference(model)
    by_mask = positions.by_mask(model)
    padded = f"logits off by {off:.2g} of their spread" if by_mask else "logits as of the row alone"
    return {layouts.LAYOUT: layout, layouts.BY_MASK: by_mask}, [
        Property("packed rows", said, layouts.SAID[layout]),
        Property("rows padded on the left", padded, "positions are given by the mask" if by_mask else ""),
    ]


def experts(model: Any) -> list[Property]:
    """The loss that balances a mixture's experts, where the configuration asks for it."""
    if not balance.asked(model):
        return []
    value = getattr(model.config.get_text_config(), balance.COEFFICIENT)
    if balance.there(model):
        return [Property("balance of experts", f"the model's own loss, times {value:g}")]
    return [Property("balance of experts", "asked for, and the model gives no such loss", "trained without it")]


# --- tokens and weights --------------------------------------------------------------------------


def weights(model: Any, folder: Path) -> list[Property]:
    """All of them are there and finite (`checkpoints.load_model` refuses others); which are tied."""
    stored = str(checkpoints.stored_dtype(folder)).removeprefix("torch.")
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    asked = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    tied = head is not None and head.weight is embedding.weight
    if asked != tied:
        raise ValueError(
            f"{folder / 'config.json'}: tie_word_embeddings is {asked}, but input and output embeddings are"
            f" {'one' if tied else 'two'} once loaded; set it to {tied}"
        )
    return [
        Property("weights", f"{model.num_parameters():,}, whole and finite, stored as {stored}"),
        Property("embeddings", "tied" if tied else "input and output apart"),
    ]


def tokens(engine: Engine, folder: Path) -> list[Property]:
    """Context, vocabulary, padding and beginning.

    Raises:
        ValueError: a token has no embedding, nothing can pad, or a prompt begins twice.
    """
    tokenizer, embedding = engine.tokenizer, engine.model.get_input_embeddings()
    rows, largest = embedding.weight.shape[0], max(tokenizer.get_vocab().values())
    if largest >= rows:
        raise ValueError(
            f"{folder / 'tokenizer.json'}: token {tokenizer.convert_ids_to_tokens(largest)!r} has the id {largest},"
            f" and the embeddings have {rows} rows; take the tokenizer that belongs to the weights"
        )
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{folder}: the tokenizer has neither pad_token nor eos_token; set pad_token in its config")
    (ids,) = engine.prompt_ids([[ASKED[0]]])
    bos = tokenizer.bos_token_id
    begins = bos is not None and ids[:1] == [bos]
    if begins and ids[1:2] == [bos]:
        raise ValueError(f"{folder}: a prompt begins with {tokenizer.bos_token} twice; take it out of the template")
    bounded = engine.max_length < UNBOUNDED
    return [
        Property("context", f"{engine.max_length:,} tokens" if bounded else "without a bound"),
        Property("vocabulary", f"ids up to {largest:,}, {rows:,} embeddings"),
        Property(
            "padding",
            tokenizer.pad_token,
            "it ends answers too: told from padding by the mask" if tokenizer.pad_token_id in engine.stop_ids else "",
        ),
        Property("beginning", f"prompts begin with {tokenizer.bos_token}" if begins else "prompts begin with no token"),
    ]


# --- what is asked and trained -------------------------------------------------------------------


def conversations() -> Iterator[tuple[str, dict]]:
    """(name, row): one turn and two, with and without system, thoughts and tools."""
    for count, system, thinks, tools in product((1, 2), (False, True), (False, True), (False, True)):
        messages = [SYSTEM] if system else []
        for i in range(count):
            thought = {"thinking": THOUGHTS[i]} if thinks else {}
            messages += [ASKED[i], *(LOOKED if tools else ()), SAID[i] | thought]
        parts = ["one turn" if count == 1 else "two turns"]
        parts += [name for name, there in (("system", system), ("thinking", thinks), ("tools", tools)) if there]
        yield ", ".join(parts), {"messages": messages} | ({"tools": [TOOL]} if tools else {})


def asks(engine: Engine, chat: Chat) -> list[Property]:
    """What is asked is how the text begins that is trained, of each conversation that the template takes.

    Raises:
        ValueError: it is not, or the template takes no conversation of one turn.
    """
    taken: list[str] = []
    refused: dict[str, list[set[str]]] = {}
    for name, row in conversations():
        try:
            made = texts(chat, row)
        except Unfit as unfit:
            if not taken:
                raise ValueError(f"{engine.tokenizer.name_or_path}: a conversation of one turn: {unfit}") from unfit
            refused.setdefault(unfit.reason, []).append({*name.split(", ")})
            continue
        check_asked(engine, name, row, made)
        taken.append(name)
    left_out = [
        f"rows with {' and '.join(sorted(set.intersection(*kinds))) or 'more'} are left out as {reason}"
        for reason, kinds in refused.items()
    ]
    return [Property("asked and trained", f"alike in {len(taken)} kinds of conversation", "; ".join(left_out))]


def check_asked(engine: Engine, name: str, row: dict, made: Sequence[Text]) -> None:
    """Raise a ValueError for a reply that is trained behind other tokens than it is asked with."""
    begun = [text.ids[: part.begin] for text in made for part in text.parts]
    for i, turn in enumerate(row["messages"]):
        if turn["role"] != "assistant":
            continue
        (ids,) = engine.prompt_ids([conversation(row | {"messages": row["messages"][:i]})])
        if ids not in begun:
            near = max(begun, key=lambda own: _common(own, ids))
            at = _common(near, ids)
            asked, trained = (engine.tokenizer.decode(tokens[max(0, at - 3) :]) for tokens in (ids, near))
            raise ValueError(
                f"{engine.tokenizer.name_or_path}: {name}: the model is asked with …{asked!r:.80} and trained behind"
                f" …{trained!r:.80}; set another chat_template"
            )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def ends(engine: Engine, chat: Chat) -> list[Property]:
    """The last trained token of every answer ends it when it is sampled, and none before it does.

    Raises:
        ValueError: it does not, but for answers that call tools, which not everyone samples.
    """
    known = engine.tokenizer.convert_ids_to_tokens
    found: dict[bool, set[int]] = {False: set(), True: set()}
    for _, row in conversations():
        try:
            made = texts(chat, row)
        except Unfit:
            continue
        for text in made:
            for begin, end in text.parts:
                found["tools" in row].add(text.ids[end - 1])
                if early := {*text.ids[begin : end - 1]} & {*engine.stop_ids}:
                    raise ValueError(
                        f"{engine.tokenizer.name_or_path}: {known(min(early))!r} stands inside of an answer and stops"
                        " sampling; take its id out of eos_token_id in generation_config.json"
                    )
    stops = ", ".join(known(engine.stop_ids))
    for token in sorted(found[False]):
        if token not in engine.stop_ids:
            raise ValueError(
                f"{engine.tokenizer.name_or_path}: an answer is trained to end with {known(token)!r}, and sampling"
                f" stops at {stops}; add its id to eos_token_id in generation_config.json"
            )
    endless = ", ".join(known(sorted(found[True] - {*engine.stop_ids})))
    fix = "where tools are called, add its id to eos_token_id in generation_config.json"
    said = f"{', '.join(known(sorted(found[False])))} is trained and stops sampling"
    told = f"calls of tools end with {endless}, which does not stop: {fix}" if endless else ""
    return [Property("end of an answer", said, told)]


# --- what is sampled and scored ------------------------------------------------------------------


def forward_logps(engine: Engine, prompt: list[int], written: Sequence[int]) -> Any:
    """[written, vocabulary] log-probabilities by one forward pass, where the tokens are written."""
    import torch

    logits = trial.read(engine.model, {"input_ids": torch.tensor([[*prompt, *written]])})[0]
    return logits[len(prompt) - 1 : -1].log_softmax(-1)


def fitting(engine: Engine, conversations: Sequence[list], more: int = 0) -> list[list]:
    """Those that the model reads at once, with room for so many tokens more.

    Raises:
        ValueError: it is none of them.
    """
    lengths = [len(ids) for ids in engine.prompt_ids(conversations)]
    fit = [one for one, length in zip(conversations, lengths, strict=True) if length + more <= engine.max_length]
    if not fit:
        raise ValueError(
            f"{engine.model.config.model_type}: a question of {min(lengths)} tokens and an answer are more than the"
            f" {engine.max_length} positions of the model; choose one that reads more"
        )
    return fit


def samples(engine: Engine) -> list[Property]:
    """Samples, greedy answers and batches are those of plain forward passes.

    Raises:
        ValueError: they are not, so that nothing that is sampled here would be the model's own.
    """
    prompts = fitting(engine, [[ASKED[0]], [ASKED[0], SAID[0], ASKED[1]]], WRITTEN)
    ids = engine.prompt_ids(prompts)
    many = engine.sample(prompts, n=SAMPLES, temperature=1.0, max_new_tokens=WRITTEN)
    off, misdrawn = [], []
    for i, (prompt, own) in enumerate(zip(ids, many, strict=True)):
        for j, sample in zip(range(SAMPLES), own, strict=True):
            logps = forward_logps(engine, prompt, sample.ids)
            told = logps.gather(1, _column(sample.ids, logps))[:, 0].double().cpu().numpy()
            off += [*abs(told - sample.logps), abs(told.sum() - sample.logp) / sample.tokens]
            misdrawn += _misdrawn(logps, sample.ids, np.random.default_rng([0, i, j]).random(WRITTEN))
    worst = float(np.max(off))
    _refuse(engine, "sampled log-probabilities", worst)
    if not np.max(misdrawn) <= NATS:
        raise ValueError(
            f"{engine.model.config.model_type}: tokens are drawn otherwise than a forward pass has their probabilities"
            f" (by {np.max(misdrawn):.2g}), so that what is sampled here would not be this model's; choose another"
        )
    return [
        Property("sampled log-probabilities", f"those of a forward pass (within {worst:.1g} nats a token)"),
        Property("samples of one prompt", "share its prefill"),
        greedy(engine, prompts, ids),
        batches(engine),
        *asked_sampling(engine.model.generation_config),
    ]


def _misdrawn(logps: Any, written: Sequence[int], chances: Any) -> list[float]:
    """How far the chance of each written token lies outside of the token's share of [0, 1)."""
    likely = logps.double().exp().cpu().numpy()
    upper = likely.cumsum(-1)[range(len(written)), list(written)]
    lower = upper - likely[range(len(written)), list(written)]
    # np.maximum, unlike max, hands on what is no number.
    return [*np.maximum(np.maximum(lower - chances[: len(written)], chances[: len(written)] - upper), 0)]


def asked_sampling(config: Any) -> list[Property]:
    """What generation_config.json asks of whoever samples, besides ends: nothing here goes by it."""
    told = {name: value for name, value in config.to_diff_dict().items() if value and name not in UNASKED}
    asked = [f"{name}: {told[name]}" for name in sorted(told) if not name.endswith("token_id")]
    if not asked:
        return []
    return [Property("generation_config.json", ", ".join(asked), "not used: what is sampled here goes by the settings")]


def _column(ids: Sequence[int], like: Any) -> Any:
    import torch

    return torch.tensor(ids, device=like.device)[:, None]


def _refuse(engine: Engine, what: str, off: float) -> None:
    if not off <= NATS:
        raise ValueError(
            f"{engine.model.config.model_type}: {what} differ from those of a forward pass by {off:.2g} nats a token,"
            " so that what is sampled here would not be this model's; choose another"
        )


@contextlib.contextmanager
def _plain_generation(engine: Engine) -> Iterator[None]:
    """transformers' generate fills in what generation_config.json asks for, such as a penalty of repetitions."""
    from transformers import GenerationConfig

    own = engine.model.generation_config
    engine.model.generation_config = GenerationConfig(eos_token_id=engine.stop_ids, pad_token_id=engine.pad_id)
    try:
        yield
    finally:
        engine.model.generation_config = own


def greedy(engine: Engine, prompts: list, ids: list[list[int]]) -> Property:
    """Greedy answers are those of transformers' generate, but for ties."""
    import torch

    found = engine.sample(prompts, temperature=0.0, max_new_tokens=WRITTEN)
    ties = 0
    for prompt, (sample,) in zip(ids, found, strict=True):
        given = torch.tensor([prompt], device=engine.model.device)
        with _plain_generation(engine):
            # Without a mask, a prompt that has the token of padding would be read without it.
            whole = engine.model.generate(
                given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=WRITTEN
            )
        made = whole[0, len(prompt) :].tolist()
        at = _common(sample.ids, made)
        if at < min(len(sample.ids), len(made)):
            logps = forward_logps(engine, prompt, made)[at]
            _refuse(engine, "greedy answers", abs(logps[made[at]] - logps[sample.ids[at]]).item())
            ties += 1
        elif len(sample.ids) != len(made):
            raise ValueError(
                f"{engine.model.config.model_type}: a greedy answer ends after {len(sample.ids)} tokens, and that of"
                f" transformers' generate after {len(made)}; choose another model"
            )
    return Property("greedy answers", "those of transformers' generate" + (f", {ties} ties aside" if ties else ""))


def batches(engine: Engine) -> Property:
    """The likelihood of an answer does not depend on the batch that it is read in, nor on the way."""
    told = [[ASKED[0], SAID[0]], [SYSTEM, ASKED[0], SAID[0], ASKED[1], SAID[1]], [ASKED[1], SAID[1]]]
    try:
        engine.score([told[1]])
    except ValueError:  # a template without a system turn
        told[1] = told[1][1:]
    told = fitting(engine, told)
    together, counts = engine.score(told)
    apart = [engine.score([one])[0][0] for one in told]
    off = float(np.max(abs(together - apart) / counts))
    _refuse(engine, "log-likelihoods in a batch", off)
    options = [said["content"] for said in SAID]
    nll, counts = engine.score([[ASKED[0], {"role": "assistant", "content": option}] for option in options])
    (belief,) = engine.choose([[ASKED[0]]], [options])
    # As logarithms: one of two shares is often 1 to the last digit, whatever the other is.
    least = np.finfo(float).tiny
    expected = np.maximum(-nll - np.logaddexp(*-nll), np.log(least))
    _refuse(engine, "beliefs among options", float(np.max(abs(np.log(np.maximum(belief, least)) - expected) / counts)))
    return Property("batches", f"of one and of many alike (within {off:.1g} nats a token)")
