"""Whether checkpoints may be merged: one architecture, one vocabulary."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from steps.models.adapters.targets import is_embedding
from steps.models.checkpoints import CONFIG, full_checkpoint, load_config, vocabulary
from steps.models.weights import DTYPES, Weights

# What of a configuration leaves a forward pass as it is: names, versions, what a cache, an output or a training goes
# by, tokens and labels, and shapes, which `check_compatible` compares.
HARMLESS = re.compile(
    r"_.*|name_or_path|architectures|(torch_)?dtype|use_cache|use_return_dict|return_dict|return_dict_in_generate"
    r"|.*_version|output_\w+|chunk_size_feed_forward|problem_type|id2label|label2id|num_labels|task_specific_params"
    r"|\w+_token_id|vocab_size|vocab_size_per_layer_input|initializer_range|initializer_factor|.*dropout.*|\w*_pdrop"
    r"|router_aux_loss_coef|router_jitter_noise|router_z_loss_coef|pretraining_tp|gradient_checkpointing|unsloth_\w+"
)
# A sliding window is in `layer_types` as loaded, layer by layer.
BY_LAYER = ("use_sliding_window", "max_window_layers", "sliding_window_pattern")
# Positions that a model was made for change nothing where its angles do not follow from them.
PLAIN_ROPE = ("default", "linear", "llama3")
# What passthrough makes anew.
DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", *BY_LAYER)


def check_compatible(parents: list[Weights], by_token: Collection[str] = ()) -> None:
    """
    Args:
        by_token: tensors that may have a row more or less, one for each token.

    Raises:
        ValueError: naming the first tensor, in order of names, that is missing somewhere, differs in shape or is no
            floating point number.
    """
    first = parents[0]
    for other in parents:
        for name in sorted(first.tensors.keys() | other.tensors.keys()):
            for here, there in ((first, other), (other, first)):
                if name not in here.tensors:
                    raise ValueError(f"{name} is in {there.label} but not in {here.label}: different architectures")
            sides = slice(1 if name in by_token else 0, None)
            if first.tensors[name].shape[sides] != other.tensors[name].shape[sides]:
                hint = "; rows of padding or of added tokens are put together with tokenizer: union"
                raise ValueError(
                    f"{name} is {first.tensors[name].shape} in {first.label} but {other.tensors[name].shape} in"
                    f" {other.label}: parents of a merge need the same architecture and vocabulary"
                    + (hint if is_embedding(name.rpartition(".")[0]) else "")
                )
            if other.tensors[name].dtype not in DTYPES:
                raise ValueError(
                    f"{name} is {other.tensors[name].dtype} in {other.label}: only {', '.join(DTYPES)} can be merged;"
                    " convert the checkpoint first"
                )


def computed(config: Any) -> dict[str, Any]:
    """What of a configuration as it is loaded a forward pass follows from, such as "text_config.rope_parameters"."""
    values: dict[str, Any] = {}

    def walk(section: dict, name: str) -> None:
        for key, value in section.items():
            if HARMLESS.fullmatch(key):
                continue
            if key == "text_config" or key.endswith("_config"):
                walk(value or {}, f"{name}{key}.")
            else:
                values[name + key] = _rope(value) if key == "rope_parameters" else value
        if section.get("layer_types"):
            for key in BY_LAYER:
                values.pop(name + key, None)
            # No layer has one.
            if not any("sliding" in str(kind) for kind in section["layer_types"]):
                values.pop(f"{name}sliding_window", None)
        if _kinds_of_rope(section.get("rope_parameters")) <= {*PLAIN_ROPE}:
            values.pop(f"{name}max_position_embeddings", None)

    walk(config.to_dict(), "")
    return values


def _rope(value: Any) -> Any:
    """Rotary parameters without the older name of their type; of kinds of layers, each one's."""
    if not isinstance(value, dict):
        return value
    return {key: _rope(own) for key, own in value.items() if key != "type" and own is not None}


def _kinds_of_rope(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return {"none"}
    if any(isinstance(own, dict) for own in value.values()):
        return {kind for own in value.values() for kind in _kinds_of_rope(own)}
    return {value.get("rope_type", "default")}


def check_config(folders: list[Path], depth: bool = True) -> None:
    """Compare configurations as they are loaded: with the defaults of what they leave out, and older names read.

    Args:
        depth: whether layers are compared too; passthrough may stack models of several depths.

    Raises:
        ValueError: naming the first setting of config.json that makes equal weights compute something else.
    """
    configs = [(full_checkpoint(folder) / CONFIG, load_config(full_checkpoint(folder))) for folder in folders]
    (first, config), *others = configs
    own = computed(config)
    for path, config in others:
        theirs = computed(config)
        for key in ["model_type", *(key for key in own if key != "model_type"), *(theirs.keys() - own.keys())]:
            here, there = own.get(key), theirs.get(key)
            last = key.rpartition(".")[2]
            if here == there or (not depth and (last in DEPTH or isinstance(here, list))):
                continue
            raise ValueError(
                f"{key} is {json.dumps(here)} in {first} but {json.dumps(there)} in {path}: different architectures,"
                " in which equal weights compute something else; merge models of one, or take a key out of config.json"
                " that means nothing to transformers"
            )


def check_vocabulary(folders: list[Path]) -> None:
    """Raises:
    ValueError: tokenizers disagree; tensors of equal shape would then be averaged over different tokens.
    """
    first = vocabulary(folders[0])
    for folder in folders[1:]:
        other = vocabulary(folder)
        if other != first:
            token = min(token for token in first.keys() | other.keys() if first.get(token) != other.get(token))
            here, there = (tokens.get(token, "missing") for tokens in (first, other))
            raise ValueError(
                f"{folder / 'tokenizer.json'} has another vocabulary than that of {folders[0]}: the id of"
                f" {json.dumps(token)} is {there} there and {here} here; a merge puts added tokens of both together"
                " with tokenizer: union"
            )
