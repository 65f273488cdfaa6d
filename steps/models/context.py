"""How many tokens a model reads at once."""

from collections.abc import Mapping
from typing import Any

# What families call it in config.json: most; GPT-2; MPT; Bloom, of what it was trained on.
NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
# Rotary embeddings whose angles follow from the longest row of a batch; "su" is what Phi 3 called it first.
BY_LENGTH = ("longrope", "su")
# Of models without a bound: biases by distance (alibi) and recurrent states read on for ever.
UNBOUNDED = 2**20


def stated_context(config: Mapping[str, Any]) -> int | None:
    """The number that a config.json states of its language model; None where it has none.

    Of LongRoPE (Phi 3, Phi 4 mini) it is that of the shorter factors: one row beyond it turns all rows of its batch,
    and what a sample writes beyond it is read otherwise than its own beginning was.
    """
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    stated = next((config[name] for name in NAMES if isinstance(config.get(name), int)), None)
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type")) not in BY_LENGTH:
        return stated
    short = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return min(short, stated or short) if isinstance(short, int) else stated


def context(config: Any) -> int:
    """Tokens that a model of a configuration of transformers' reads at once; `UNBOUNDED` where nothing bounds it."""
    return stated_context(config.get_text_config().to_dict()) or UNBOUNDED


def check_length(length: int, most: int | None, where: str) -> None:
    """Raise a ValueError for rows that are longer than the model reads at once.

    Args:
        length: a setting `max_length`.
        most: the model's context.
        where: what an error calls the setting.
    """
    if most is not None and length > most:
        raise ValueError(f"{where}: {length} is above the {most} positions of the model; lower it to {most}")
