"""A cache of keys and values that is written in place: concatenating it token by token was half of the time.

Imports torch: import it where a model runs.
"""

import inspect

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

# How models without attention are handed what they remember of a text.
STATES = "cache_params"


class RoomyLayer(DynamicLayer):
    """Keys and values as views [rows, heads, tokens so far, head size] of a larger buffer."""

    def __init__(self, capacity: int):
        """`capacity` is how many tokens it has room for."""
        super().__init__()
        self.capacity = capacity

    def update(self, key_states, value_states, *args, **kwargs):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [
                torch.empty((*t.shape[:2], self.capacity, t.shape[3]), dtype=t.dtype, device=t.device)
                for t in (key_states, value_states)
            ]
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        for room, new in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, begin:end] = new
        self._show(end)
        return self.keys, self.values

    def _show(self, end: int) -> None:
        self.keys, self.values = (room[:, :, :end] for room in self.room)

    def reorder_cache(self, beam_idx):
        self.room = [room[beam_idx] for room in self.room]
        self._show(self.get_seq_length())


def roomy_cache(model: PreTrainedModel, capacity: int) -> DynamicCache:
    """A `DynamicCache` for the model whose full-attention layers have room for `capacity` tokens from the start.

    Layers of another kind (sliding window, linear attention) stay what transformers makes them.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer(capacity) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def take_rows(cache: DynamicCache, rows: torch.Tensor) -> None:
    """Keep these rows of a cache, in this order; one that stands there twice is there twice.

    By `reorder_cache`, which every kind of layer has: layers with a state (linear attention, convolution) have no
    `batch_select_indices`, and those with a state beside their keys have one that leaves the state alone.
    """
    cache.reorder_cache(rows)


def cache_keyword(model: PreTrainedModel) -> str:
    """How a model's forward is handed its cache: of state-space models, `cache_params`.

    Raises:
        ValueError: it takes none, so that a token could only be written by reading all before it once more, or has
            states that are not in it, which could not follow the rows of a batch.
    """
    # An adapter's model passes on what it is given.
    whole = model.get_base_model() if hasattr(model, "get_base_model") else model
    # RecurrentGemma's modules keep their states themselves.
    kept_apart = any(hasattr(module, "_setup_cache") for module in whole.modules())
    if kept_apart or not whole._supports_default_dynamic_cache():
        raise ValueError(
            f"{model.config.model_type}: this architecture keeps states of its own beside transformers' cache, so that"
            " nothing can be sampled from it here; choose another model"
        )
    # Of its class: accelerate puts a function of any arguments in the place of its own.
    taken = inspect.signature(type(whole).forward).parameters
    for name in ("past_key_values", STATES):
        if name in taken:
            return name
    raise ValueError(
        f"{model.config.model_type}: this architecture takes no cache of transformers, so that nothing can be sampled"
        " from it here; choose another model"
    )
