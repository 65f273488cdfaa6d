"""Which layout of packed rows a model reads right, tried on the model at hand or read from its check.

transformers tells packed rows apart by the restarts of their positions, but in the masks of attention alone: a state
(linear attention, state-space layers), a convolution over time or a bias by distance (alibi) runs on into the next row
without a word. Some of their kernels for GPUs take the rows' ends as keywords, which the same code ignores where the
kernel is missing.
"""

import argparse
from pathlib import Path
from typing import Any

from steps.core.files import read_json
from steps.models.context import check_length, context
from steps.models.positions import by_mask
from steps.models.trial import alone, largest, made_up, read, same
from steps.training.packing import ALONE, FLATTENED, PACKED, collate, row_keywords

# Keys of layout.json.
LAYOUT, BY_MASK = "layout", "by_mask"
SAID = {
    PACKED: "rows are packed, told apart by their positions",
    FLATTENED: "rows are packed into one sequence, told apart by keywords with their ends",
    ALONE: "packed rows of this model would see each other: each has a sequence of its own",
}


def difference(model: Any, layout: str) -> float:
    """How far logits of rows in a layout are from those of the rows alone, as `trial.largest`; infinite where the model
    refuses the layout."""
    ids = made_up(model)
    expected = alone(model, ids)
    rows = [{"input_ids": own, "labels": own} for own in ids]
    bins = [[i] for i in range(len(rows))] if layout == ALONE else [[*range(len(rows))]]
    batch = collate(rows, bins, pad_token_id=0) | (row_keywords(rows, bins) if layout == FLATTENED else {})
    del batch["labels"]
    try:
        logits = read(model, batch)
    # What an architecture raises for keywords that it does not know has no common class.
    except Exception:
        if layout == ALONE:
            raise
        return float("inf")
    found = []
    for b, members in enumerate(bins):
        start = 0
        for i in members:
            found.append(logits[b, start : start + len(ids[i])])
            start += len(ids[i])
    return largest(found, expected)


def right_layout(model: Any) -> tuple[str, dict[str, float]]:
    """The layout that costs least among those that are right, and the `difference` of each that was tried.

    Raises:
        ValueError: none is: the model reads a token otherwise for what follows it.
    """
    found = {}
    for layout in SAID:
        found[layout] = difference(model, layout)
        if same(model, found[layout]):
            return layout, found
    raise ValueError(
        f"{model.config.model_type}: a row reads otherwise when it is padded on the right (by {found[ALONE]:.2g}"
        " standard deviations of the logits), so that the model is not causal; choose another"
    )


def add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", type=Path, help="layout.json of the model that it descends from")


def check_given(args: argparse.Namespace) -> list[Path]:
    """layout.json of the model, where a step is told of one, among its inputs."""
    path = getattr(args, "check", None)
    return [path] if path else []


def pad(model: Any, checked: list[Path]) -> None:
    """Have a model read prompts that are padded on the left as it was found right, or as it is found here."""
    by_mask(model, read_json(checked[0])[BY_MASK] if checked else None)


def settled(settings: dict, model: Any, checked: list[Path]) -> tuple[dict, dict]:
    """The settings of a training with the layout of its rows, and what its manifest says of it: nothing where they are
    packed as asked.

    Args:
        settings: of a training on single texts.
        model: before it is spread over processes.
        checked: layout.json of `steps.preflight.check_model`; without one the layout is tried here.

    Raises:
        ValueError: max_length is above what the model reads at once.
    """
    import torch
    from transformers.integrations import is_deepspeed_zero3_enabled

    check_length(settings["max_length"], context(model.config), "max_length")
    if not settings["packing"]:
        return settings, {}
    if checked:
        layout = read_json(checked[0])[LAYOUT]
        # Only kernels for GPUs read the rows' ends, and the model may have been looked at where there are some.
        if layout == FLATTENED and model.device.type != "cuda" and not torch.cuda.is_available():
            layout = ALONE
    else:
        # Without its weights nothing can be tried, and rows of their own are right for every model.
        layout = ALONE if is_deepspeed_zero3_enabled() else right_layout(model)[0]
    if layout == PACKED:
        return settings, {}
    print(f"packing: {SAID[layout]}", flush=True)
    return settings | {"layout": layout}, {"layout": layout}
