"""Whether checkpoints may be merged: one architecture, one vocabulary."""

import json
from pathlib import Path

from steps.models.checkpoints import CONFIG, full_checkpoint, vocabulary
from steps.models.files import read_config
from steps.models.weights import DTYPES, Weights

# What changes a model's function without changing a shape.
SAME_CONFIG = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "tie_word_embeddings",
)


def check_compatible(parents: list[Weights]) -> None:
    """Raises:
    ValueError: naming the first tensor, in order of names, that is missing somewhere, differs in shape or is no
        floating point number.
    """
    first = parents[0]
    for other in parents:
        for name in sorted(first.tensors.keys() | other.tensors.keys()):
            for here, there in ((first, other), (other, first)):
                if name not in here.tensors:
                    raise ValueError(f"{name} is in {there.label} but not in {here.label}: different architectures")
            if first.tensors[name].shape != other.tensors[name].shape:
                raise ValueError(
                    f"{name} is {first.tensors[name].shape} in {first.label} but {other.tensors[name].shape} in"
                    f" {other.label}: parents of a merge need the same architecture and vocabulary"
                )
            if other.tensors[name].dtype not in DTYPES:
                raise ValueError(
                    f"{name} is {other.tensors[name].dtype} in {other.label}: only {', '.join(DTYPES)} can be merged;"
                    " convert the checkpoint first"
                )


def check_config(folders: list[Path]) -> None:
    """Raises:
    ValueError: naming the first setting of config.json that makes equal weights compute something else.
    """
    paths = [full_checkpoint(folder) / CONFIG for folder in folders]
    first = read_config(paths[0])
    for path in paths[1:]:
        other = read_config(path)
        for key in SAME_CONFIG:
            # A key that one lacks is a default, or another version's name for it.
            if key in first and key in other and first[key] != other[key]:
                raise ValueError(
                    f"{key} is {json.dumps(first[key])} in {paths[0]} but {json.dumps(other[key])} in {path}:"
                    " different architectures"
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
                f" {json.dumps(token)} is {there} there and {here} here"
            )
