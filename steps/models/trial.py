"""How a model reads made-up rows: alone, and laid out in another way, which must come to the same.

What an architecture does with rows that share a batch or a sequence is not in its configuration, and no list of names
would be whole: it is tried on the model at hand, by a few forward passes over a hundred tokens.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from steps.models.context import context
from steps.models.files import one_line

FIX = "take the config.json that belongs to the weights, or choose another model"
# Tokens of the rows that are tried: longer than a convolution, and one longer than a chunk of linear attention (64).
LENGTHS = (9, 70, 33)
# The largest difference of two logits, in standard deviations of all, that is rounding: of nine plain families in
# float32 at most 2.4e-6, of rows that see each other above 1. In 16 bits a product is rounded to a hundredth.
TOLERANCE, HALF_TOLERANCE = 1e-3, 0.3


def made_up(model: Any) -> list[list[int]]:
    """The token ids of three rows, the same for every model with as large a vocabulary."""
    import torch

    entries = model.get_input_embeddings().weight.shape[0]
    drawn = torch.Generator().manual_seed(0)
    longest = max(2, min(max(LENGTHS), context(model.config) - 1))
    return [torch.randint(entries, (min(length, longest),), generator=drawn).tolist() for length in LENGTHS]


def read(model: Any, inputs: dict) -> Any:
    """Logits of one forward pass in float32, [rows, places, vocabulary], in evaluation mode and without a cache."""
    import torch

    given = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in inputs.items()}
    was = model.training
    model.eval()
    try:
        with torch.no_grad():
            return model(**given, use_cache=False).logits.float()
    finally:
        model.train(was)


@contextlib.contextmanager
def running(model: Any) -> Iterator[None]:
    """Raise a ValueError of one line for what a model raises: of its configuration that has no common class."""
    import torch

    try:
        yield
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{model.config.model_type}: it does not run ({one_line(error)}); {FIX}") from error


def alone(model: Any, rows: Sequence[list[int]]) -> list[Any]:
    """Logits of each row by itself, [places, vocabulary].

    Raises:
        ValueError: the model does not run, or its logits are no numbers or all alike.
    """
    import torch

    with running(model):
        logits = [read(model, {"input_ids": torch.tensor([ids])})[0] for ids in rows]
    if not all(one.isfinite().all() for one in logits):
        raise ValueError(f"{model.config.model_type}: its logits are NaN or infinite; {FIX}")
    if torch.cat(logits).std() == 0:
        raise ValueError(f"{model.config.model_type}: its logits are all alike, as of weights that are 0; {FIX}")
    return logits


def same(model: Any, difference: float) -> bool:
    """Whether a difference as of `largest` is rounding of a model's precision."""
    return difference <= (TOLERANCE if model.dtype.itemsize == 4 else HALF_TOLERANCE)


def largest(found: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference of the logits of rows, in standard deviations of the expected; infinite where one is no
    number."""
    import torch

    spread = torch.cat(list(expected)).std()
    # Python's max would pass over what is no number; torch's hands it on.
    apart = torch.stack([(one - other).abs().max() for one, other in zip(found, expected, strict=True)])
    worst = (apart.max() / spread).item()
    return worst if worst == worst else float("inf")
