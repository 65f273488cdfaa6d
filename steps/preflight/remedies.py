"""What would make a training fit, in the words of params.yaml."""

import json
from collections.abc import Callable
from typing import Any

from steps.settings.launches import check_launch
from steps.settings.stages import ON_POLICY


def remedies(settings: dict, stage: str, kind: str, count: int, device: str) -> list[tuple[dict, str, int]]:
    """What to try instead, the least costly first, each beside those before it: settings, kind and number of processes.

    Fewer rows in a forward pass (and samples written at once) in more passes, gradient checkpointing, an optimizer of 8
    bits, an adapter, and on GPUs more processes that share out what they can. What a launch refuses is left out.
    """
    tries, now = [], dict(settings)

    def add(**changed: Any) -> None:
        if goes(now | changed, stage, kind, count):
            now.update(changed)
            tries.append((dict(now), kind, count))

    smaller = [{}]
    while (rows := (now | smaller[-1])["batch_size"]) % 2 == 0:
        last = now | smaller[-1]
        changed = {"batch_size": rows // 2}
        if "gradient_accumulation" in now:
            changed["gradient_accumulation"] = 2 * last["gradient_accumulation"]
        if last.get("sample_batch", 0) > rows // 2:
            changed["sample_batch"] = last["sample_batch"] // 2
        smaller.append(changed)
    for changed in smaller[1:]:
        add(**changed)
    if not now["gradient_checkpointing"]:
        add(gradient_checkpointing=True)
    if now["optimizer"] == "adamw":
        add(optimizer="adamw_8bit")
    if now.get("adapter", {}).get("kind") == "full":
        add(adapter={"kind": "lora", "r": 16, "alpha": 32})
    sharing = "zero2" if stage in ON_POLICY else "fsdp"
    if kind in ("single", "ddp") and device == "cuda":
        # Of the optimizers the one that can be taken apart.
        now |= {key: settings[key] for key in smaller[-1]} | {"optimizer": "adamw"}
        for many in (2, 4, 8):
            divided = [changed for changed in smaller if goes(now | changed, stage, sharing, many)]
            if many > count and divided:
                tries.append((now | divided[-1], sharing, many))
    return tries


def goes(settings: dict, stage: str, kind: str, count: int) -> bool:
    """Whether so many processes can share a training in that way."""
    try:
        check_launch(settings, kind, count, stage)
    except ValueError:
        return False
    return True


def advice(settings: dict, kind: str, tries: list[tuple[dict, str, int]], fits: Callable[..., bool]) -> str:
    """What to do: the first remedy that makes it fit, as it is written.

    Args:
        fits: of (settings, kind, processes), whether the estimate does.
    """
    for changed, new_kind, count in tries:
        if fits(changed, new_kind, count):
            words = [f"{key}: {yaml(value)}" for key, value in changed.items() if value != settings[key]]
            words += [f"launch: {{kind: {new_kind}, processes: {count}}}"] if new_kind != kind else []
            return f"set {', '.join(words)}"
    return "nothing in the settings would make it fit: take a smaller model or ask for more memory"


def yaml(value: Any) -> str:
    """A setting as params.yaml has it."""
    return json.dumps(value).replace('"', "")
