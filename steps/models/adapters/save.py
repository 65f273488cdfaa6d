"""A trained adapter as files that load on its untouched parent."""

from pathlib import Path
from typing import Any

from steps.core.files import read_json, write_json
from steps.models.adapters.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NAME


def save_adapter(model: Any, out: Path, parent: Path) -> None:
    """Write a trained adapter so that it loads on its untouched parent.

    What pissa and milora took from the parent's weights is put back: with the start A0, B0 and the end A, B the change
    is s (B A - B0 A0), a plain LoRA of rank 2 r on the whole weight: B' = [B, -B0] and A' = [A; A0].
    """
    config = model.peft_config[NAME]
    config.base_model_name_or_path = str(parent)
    # Of new tokens their rows are in the adapter: PEFT would add whole embeddings where there are more than before.
    model.save_pretrained(out, **({"save_embedding_layers": False} if config_of_tokens(config) else {}))
    settings = read_json(out / ADAPTER_CONFIG)
    if initial := getattr(model, "initial_adapter", None):
        import torch
        from safetensors.torch import load_file, save_file

        tensors = load_file(out / ADAPTER_WEIGHTS)
        for name, start in initial.items():
            down = "lora_A" in name
            tensors[name] = torch.cat([tensors[name], start if down else -start], dim=0 if down else 1).contiguous()
        save_file(tensors, out / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        settings |= {"r": 2 * config.r, "lora_alpha": 2 * config.lora_alpha}
        for key in ("rank_pattern", "alpha_pattern"):
            settings[key] = {name: 2 * value for name, value in settings[key].items()}
    # PEFT keeps the module names as a set, whose order changes from process to process.
    write_json(out / ADAPTER_CONFIG, {key: sorted(v) if isinstance(v, list) else v for key, v in settings.items()})


def config_of_tokens(config: Any) -> bool:
    """Whether an adapter trains rows of tokens."""
    return bool(getattr(config, "trainable_token_indices", None))
