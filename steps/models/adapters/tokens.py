"""Tokens that a training adds: to the tokenizer, and as rows of the embeddings and of the output layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steps.models.adapters.targets import is_embedding
from steps.models.files import header


def add(tokenizer: Any, adapter: dict) -> list[int]:
    """Give a tokenizer the `new_tokens` of an adapter's settings; returns their ids.

    Raises:
        ValueError: it has one of them already.
    """
    tokens = adapter.get("new_tokens", [])
    known = tokenizer.get_vocab()
    for token in tokens:
        if token in known:
            raise ValueError(f"adapter.new_tokens: the tokenizer has {token!r} already; take it out")
    tokenizer.add_tokens(tokens, special_tokens=False)
    return tokenizer.convert_tokens_to_ids(tokens) if tokens else []


def rows(model: Any) -> int:
    return model.get_input_embeddings().weight.shape[0]


def grow(model: Any, new_ids: Sequence[int]) -> None:
    """Give a model a row for each new token, in place: the mean of the rows that it had, of output layers too."""
    import torch

    if not new_ids:
        return
    resize(model, max(new_ids) + 1)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    weights = (
        [embeddings.weight] if head is None or head.weight is embeddings.weight else [embeddings.weight, head.weight]
    )
    with torch.no_grad():
        for weight in weights:
            weight[list(new_ids)] = weight[: min(new_ids)].mean(0)


def resize(model: Any, wanted: int) -> None:
    """Give a model so many rows where it has fewer, in place; new ones are 0."""
    import torch

    before = rows(model)
    if wanted <= before:
        return
    model.resize_token_embeddings(wanted, mean_resizing=False)
    with torch.no_grad():
        for part in (model.get_input_embeddings(), model.get_output_embeddings()):
            if part is not None:
                part.weight[before:] = 0


def untie(model: Any) -> None:
    """Give the output layer a weight of its own where an adapter changes it, or the embeddings that it is tied to, in
    place: merged into the one weight of both, the change of either would be one of the other too."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (head, embeddings)):
        return
    own, other = (getattr(layer, "base_layer", layer) for layer in (head, embeddings))
    if own.weight is not other.weight:
        return
    own.weight = torch.nn.Parameter(own.weight.detach().clone(), requires_grad=False)
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def token_rows(path: Path, config: Any) -> int:
    """Rows that the embeddings must have for an adapter: those that it brings whole, and those that it has of tokens.

    Args:
        path: of its weights.
        config: PEFT's.
    """
    tokens = getattr(config, "trainable_token_indices", None) or []
    ids = [i for own in tokens.values() for i in own] if isinstance(tokens, dict) else tokens
    whole = [
        entry["shape"][0]
        for name, entry in header(path).items()
        if name.endswith(".weight") and "lora_" not in name and is_embedding(name.removesuffix(".weight"))
    ]
    return max([0, *whole, *(i + 1 for i in ids)])
