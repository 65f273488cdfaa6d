"""Positions of rows that are padded on the left, for models that number the padding too.

Where no positions are given, transformers counts from the first place of a batch. Rotary embeddings do not mind a row
that begins later; a table of learned positions (GPT-2) gives its tokens other embeddings than those that they have
when they are sampled or read alone. TRL's trainers of sampled responses pad prompts on the left and give none.
"""

from typing import Any

from steps.models.trial import alone, largest, made_up, read, same


def padded_difference(model: Any) -> float:
    """How far logits of rows that are padded on the left are from those of the rows alone, as `trial.largest`."""
    import torch

    rows = made_up(model)
    expected = alone(model, rows)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    logits = read(model, {"input_ids": ids, "attention_mask": mask})
    return largest([logits[b, width - len(row) :] for b, row in enumerate(rows)], expected)


def by_mask(model: Any, checked: bool | None = None) -> bool:
    """Have a model take the positions of padded rows from their mask where it would read them otherwise than alone.

    Args:
        checked: whether it would, where that has been tried; None tries it here.

    Returns:
        Whether it would.

    Raises:
        ValueError: it still does.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    # Its weights are not there yet; positions by the mask are right for every model.
    untried = checked is None and not is_deepspeed_zero3_enabled()
    if checked is False or (untried and same(model, padded_difference(model))):
        return False
    # The body and not the whole: an adapter calls the whole without its hooks.
    model.base_model.register_forward_pre_hook(_numbered, with_kwargs=True)
    if untried and not same(model, found := padded_difference(model)):
        raise ValueError(
            f"{model.config.model_type}: rows that are padded on the left read otherwise than alone (by {found:.2g}"
            " standard deviations of the logits), so that no batch of prompts can be sampled or scored; choose another"
            " model"
        )
    return True


def _numbered(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    mask, ids = kwargs.get("attention_mask"), kwargs.get("input_ids", args[0] if args else None)
    if mask is None or ids is None or mask.shape != ids.shape or kwargs.get("position_ids") is not None:
        return args, kwargs
    return args, kwargs | {"position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}
