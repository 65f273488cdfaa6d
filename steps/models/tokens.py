"""Parents of a merge whose tokenizers differ in added tokens: one vocabulary, and each parent's rows in its order.

The union keeps the numbers of the first parent's tokens; tokens that others added follow in the order of the parents. A
parent that lacks a token takes its row from the base of the merge or, where that lacks it too or there is none, from
the first parent that has it; so for rows that are no token's, of vocabularies that are padded. A row of embeddings or
of the head belongs to its token, whatever its number is (mergekit's `tokenizer: union`, which takes the mean of the
parents where the base lacks a token).
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from steps.core.files import read_json, write_json
from steps.models.checkpoints import CONFIG, full_checkpoint, load_config, vocabulary
from steps.models.files import TOKENIZER_BYTES, read_object
from steps.models.weights import Run, Weights


class Union(NamedTuple):
    """The tokens of several models together.

    Attributes:
        tokens: with their numbers.
        added: what the first model's tokenizer lacks, as entries of `added_tokens`.
        by_token: tensors with a row for each token.
    """

    tokens: dict[str, int]
    added: list[dict]
    by_token: tuple[str, ...]


def union_of(folders: list[Path]) -> Union:
    """
    Raises:
        ValueError: tokenizers differ in more than added tokens, or a token is another kind of token in two of them.
    """
    path = folders[0] / "tokenizer.json"
    first = read_object(path, TOKENIZER_BYTES)
    tokens, entries = vocabulary(folders[0]), {entry["content"]: entry for entry in first.get("added_tokens", [])}
    added = []
    for folder in folders[1:]:
        other = read_object(folder / "tokenizer.json", TOKENIZER_BYTES)
        own = vocabulary(folder)
        if cutting(other["model"]) != cutting(first["model"]):
            learned = {token for token in own if token not in {entry["content"] for entry in other["added_tokens"]}}
            differ = sorted(
                token for token in learned | tokens.keys() - entries.keys() if tokens.get(token) != own.get(token)
            )
            what = f"first {json.dumps(differ[0])}" if differ else "their merges of pieces"
            raise ValueError(
                f"{folder / 'tokenizer.json'} is another tokenizer than {path} ({what}): tokenizer: union puts added"
                " tokens together and not two ways to cut a text; merge models of one family"
            )
        for entry in sorted(other.get("added_tokens", []), key=lambda entry: entry["id"]):
            known = entries.get(entry["content"])
            if known is None and entry["content"] in tokens:
                known = {"special": False}
            if known is None:
                number = max(tokens.values()) + 1
                tokens[entry["content"]] = number
                entries[entry["content"]] = entry
                added.append(entry | {"id": number})
            elif known["special"] != entry["special"]:
                kinds = ["special" if one["special"] else "plain" for one in (known, entry)]
                raise ValueError(
                    f"{json.dumps(entry['content'])} is a {kinds[0]} token in {path} and a {kinds[1]} one in"
                    f" {folder / 'tokenizer.json'}; make them alike"
                )
    return Union(tokens, added, by_token(folders[0]))


def cutting(model: dict) -> dict:
    """What of a tokenizer's model its way to cut a text follows from, however a version of tokenizers writes it: a key
    that is empty or left out says the same, and a merge of two pieces is a list of them or a text."""
    own = {key: value for key, value in model.items() if value not in (None, "") and value is not False}
    merges = own.get("merges", [])
    return own | {"merges": [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in merges]}


def by_token(folder: Path) -> tuple[str, ...]:
    """Names of a model's embeddings and head: tensors with a row for each token."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(load_config(full_checkpoint(folder)))
    layers = [layer for layer in (model.get_input_embeddings(), model.get_output_embeddings()) if layer is not None]
    own = {id(parameter) for layer in layers for parameter in layer.parameters()}
    named = model.named_parameters(remove_duplicate=False)
    return tuple(name for name, parameter in named if id(parameter) in own)


def arrange(union: Union, models: list[Weights], base: Weights | None) -> int:
    """Give each model's rows the order of the union; returns how many rows there are."""
    known = {id(model): vocabulary(model.folder) for model in models}
    places: dict[int, dict[int, int]] = {
        id(model): {union.tokens[token]: row for token, row in known[id(model)].items()} for model in models
    }
    # The base answers for all, then the parents in their order.
    order = [*([base] if base else []), *(model for model in models if model is not base)]
    for name in union.by_token:
        stored = {id(model): model.tensors[name].shape[0] for model in models if name in model.tensors}
        if not stored:  # a head that is tied is not there
            continue
        rows = max(max(union.tokens.values()) + 1, *stored.values())
        arranged = {id(model): _runs(model, order, places, stored, rows) for model in models}
        # Once all know whose rows they take: rows of another are read as they lie in its file.
        for model in models:
            model.arranged[name] = arranged[id(model)]
    for model in models:
        for name in union.by_token:
            if name in model.tensors:
                tensor = model.tensors[name]
                model.tensors[name] = tensor._replace(shape=[rows, *tensor.shape[1:]])
    return rows


def _runs(
    model: Weights, order: list[Weights], places: dict[int, dict[int, int]], stored: dict[int, int], rows: int
) -> list[Run]:
    """Where each row of the union lies: stretches of rows that follow each other in one file."""
    taken = {key: {*own.values()} for key, own in places.items()}
    runs: list[Run] = []
    for row in range(rows):
        for owner in (model, *order):
            own = places[id(owner)].get(row)
            own = own if own is not None and own < stored[id(owner)] else None
            # A row that is no token's, here or there.
            if own is None and row < stored[id(owner)] and row not in taken[id(owner)]:
                own = row if not any(row in each for each in places.values()) else None
            if own is not None:
                break
        else:
            owner, own = order[0], 0  # a number that no tokenizer gives and no model has a row for
        last = runs[-1] if runs else None
        if last and last.owner is owner and last.row + last.count == own:
            runs[-1] = last._replace(count=last.count + 1)
        else:
            runs.append(Run(owner, row, own, 1))
    return runs


def write_union(union: Union, rows: int, out: Path) -> None:
    """Give a copy of the first parent's tokenizer and config the tokens of all."""
    path = out / "tokenizer.json"
    tokenizer: dict[str, Any] = read_json(path)
    tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", []), *union.added]
    write_json(path, tokenizer)
    config = read_json(out / CONFIG)
    for section in (config, config.get("text_config", {})):
        if "vocab_size" in section:
            section["vocab_size"] = rows
    write_json(out / CONFIG, config)
