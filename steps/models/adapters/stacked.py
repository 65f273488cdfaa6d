"""An adapter that was trained on top of another one, as one checkpoint that every library reads.

PEFT loads an adapter on the model that its config names. Where that is an adapter itself, PEFT takes the full model
below it, and leaves the one between out without a word.
"""

import re
from pathlib import Path
from typing import Any

from steps.core.files import read_json, write_json
from steps.models import checkpoints
from steps.models.adapters.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREFIX
from steps.models.adapters.targets import OF_EXPERTS

PARTS = (".lora_A.weight", ".lora_B.weight")
# Keys of PEFT's LoraConfig under which a change is another one than s B A of a layer's whole weight.
OTHER = (
    "use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters", "layer_replication",
    "use_qalora", "alora_invocation_tokens", "velora_config", "kasa_config", "arrow_config", "use_bdlora",
    "monteclora_config", "exclude_modules", "layers_to_transform",
)  # fmt: skip


def unstack(out: Path) -> bool:
    """Have a saved adapter rest on a full model; whether it is an adapter still.

    Two plain LoRAs are one of the sum of their ranks, exactly: s1 B1 A1 + s2 B2 A2 = [s1 B1, s2 B2] [A1; A2]. Of other
    kinds there is no such sum: the whole model is written in place of the adapter, in float32, as it was trained.

    Args:
        out: the adapter as it was saved, whose config names its parent.
    """
    import torch

    parent = checkpoints.adapter_base(out)
    if not checkpoints.is_adapter(parent):
        return True
    if not checkpoints.is_adapter(checkpoints.adapter_base(parent)) and is_plain(out) and is_plain(parent):
        join(out, parent)
        return True
    print(
        f"{out}: it and the adapter {parent} below it are no sum of two LoRAs: the whole model is written", flush=True
    )
    model = checkpoints.load_model(out, torch.float32)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        (out / name).unlink()
    model.save_pretrained(out)
    return False


def is_plain(folder: Path) -> bool:
    """Whether an adapter is a LoRA of whole weights and nothing else."""
    config = read_json(folder / ADAPTER_CONFIG)
    return (
        config.get("peft_type") == "LORA"
        and config.get("bias", "none") == "none"
        and not any(config.get(key) for key in OTHER)
        and all(name.endswith(PARTS) and not OF_EXPERTS.search(name) for name in checkpoints.tensor_names(folder))
    )


def join(out: Path, parent: Path) -> None:
    """Write the sum of a plain LoRA and the one that it was trained on in its place, for the base of that one."""
    import torch
    from safetensors.torch import save_file

    own, below = (read_json(folder / ADAPTER_CONFIG) for folder in (out, parent))
    changes = [factors(folder, config) for folder, config in ((parent, below), (out, own))]
    modules = sorted({module for change in changes for module in change})
    tensors, ranks = {}, {}
    for module in modules:
        pairs = [change[module] for change in changes if module in change]
        tensors[f"{PREFIX}{module}{PARTS[0]}"] = torch.cat([a for a, _ in pairs]).contiguous()
        tensors[f"{PREFIX}{module}{PARTS[1]}"] = torch.cat([b for _, b in pairs], dim=1).contiguous()
        ranks[module] = sum(len(a) for a, _ in pairs)
    save_file(tensors, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    # The scales are in B: alpha / r is 1 everywhere.
    rank = max(ranks.values())
    others = {re.escape(module): value for module, value in ranks.items() if value != rank}
    same = sorted(own["target_modules"]) == sorted(below["target_modules"])
    write_json(
        out / ADAPTER_CONFIG,
        own
        | {
            "base_model_name_or_path": below["base_model_name_or_path"],
            "r": rank,
            "lora_alpha": rank,
            "rank_pattern": others,
            "alpha_pattern": others,
            "use_rslora": False,
            "lora_dropout": 0.0,
            "target_modules": own["target_modules"] if same else modules,
        },
    )


def factors(folder: Path, config: dict) -> dict[str, tuple[Any, Any]]:
    """A (r, in) and s B (out, r) of every layer that a plain LoRA changes, s being its scale."""
    from safetensors.torch import load_file

    tensors = load_file(folder / ADAPTER_WEIGHTS)
    changes = {}
    for name in tensors:
        if name.endswith(PARTS[0]):
            stem = name.removesuffix(PARTS[0])
            a, b, module = tensors[name], tensors[f"{stem}{PARTS[1]}"], stem.removeprefix(PREFIX)
            patterns = config.get("alpha_pattern") or {}
            # As PEFT looks a name up (`get_pattern_key`).
            found = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
            alpha = patterns[found] if found else config["lora_alpha"]
            scale = alpha / (len(a) ** 0.5 if config.get("use_rslora") else len(a))
            changes[module] = a.float(), b.float() * scale
    return changes
