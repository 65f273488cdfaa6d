"""A mixture's experts, as a checkpoint's files tell of them, and the kinds of adapter that do not reach them."""

import math
from pathlib import Path

from steps.models import checkpoints
from steps.models.adapters.targets import OF_EXPERTS, entries, left_out
from steps.models.files import header, read_config
from steps.settings.adapters import ADAPTERS, ALL_LINEAR

# What families call the number of experts in config.json.
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def in_files(folder: Path) -> dict[str, float]:
    """Shares of a checkpoint's weights by the tensors of its experts, from config.json and the headers of its files.

    They are named so, or have a third side that is as long as there are experts; an adapter's are its base's.
    """
    folder = checkpoints.full_checkpoint(folder)
    config = read_config(folder / checkpoints.CONFIG)
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    count = next((config[name] for name in COUNTS if isinstance(config.get(name), int)), 0)
    shapes = {name: e["shape"] for path in checkpoints.weight_files(folder) for name, e in header(path).items()}
    total = sum(map(math.prod, shapes.values()))
    return {
        name: math.prod(shape) / total
        for name, shape in shapes.items()
        if OF_EXPERTS.search(name) or (count > 1 and len(shape) == 3 and shape[0] == count)
    }


def check_reached(adapter: dict, share: float, where: str) -> None:
    """Raise a ValueError for a kind of adapter that would leave out experts of such a share of a model's weights."""
    kind = ADAPTERS[adapter["kind"]]
    if not share or (kind.experts and not adapter.get("dropout")):
        return
    what = "dropout" if kind.experts else f"kind: {adapter['kind']}"
    raise ValueError(
        f"{where}.experts: {what} does not reach the experts, {share:.0%} of the model's weights, which PEFT adapts"
        " with lora and rslora without dropout; write experts: frozen to train the rest alone"
    )


def check_frozen(there: bool, where: str) -> None:
    """Raise a ValueError for `experts: frozen` on a model that has none."""
    if not there:
        raise ValueError(f"{where}.experts: has no effect on a model without experts of its own; remove it")


def check_in_files(adapter: dict, shares: dict[str, float], where: str) -> None:
    """The same before a model is loaded, for what all-linear means: files name experts otherwise than a model does.

    Args:
        shares: as of `in_files`.

    Raises:
        ValueError: naming the setting and the fix.
    """
    if adapter.get("experts") == "frozen":
        check_frozen(bool(shares), where)
    elif entries(adapter) == ALL_LINEAR:
        check_reached(adapter, sum(share for name, share in shares.items() if not left_out(adapter, name)), where)
