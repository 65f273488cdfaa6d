"""A checkpoint folder: is it whole, which files stand for it, its tokenizer and its model; its card.

An adapter is read as the model that it makes: merged into its base, whose folder `adapter_config.json` names
relative to the project root. That base may be an adapter itself.
"""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

from steps import adapters
from steps.common import MANIFEST, read_json, verify_manifest

ADAPTER_CONFIG = adapters.CONFIG
ADAPTER_WEIGHTS = adapters.WEIGHTS
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# The day that chat templates write for today: the one that Llama 3.2's falls back to where there is no clock.
TODAY = date(2024, 7, 26)
NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
# Tokens that families keep for padding without naming them in their tokenizer's settings: Llama 3's.
PADS = ("<|finetune_right_pad_id|>",)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_base(folder: Path) -> Path:
    return Path(read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"])


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, shards in the order of their names."""
    if is_adapter(folder):
        return [folder / ADAPTER_WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        return [folder / name for name in sorted(set(read_json(folder / WEIGHTS_INDEX)["weight_map"].values()))]
    return [folder / WEIGHTS]


def check(folder: Path) -> list[Path]:
    """Verify a checkpoint, and the base of an adapter; returns the files that stand for its bytes.

    A manifest stands for every file it lists. A folder without one (not made here) is listed file by file.

    Raises:
        ValueError: the folder or a file of it is missing or damaged; the message names it.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: no checkpoint there; correct the path, or make the checkpoint first")
    if (folder / MANIFEST).is_file():
        verify_manifest(folder)
    for path in (*weight_files(folder), folder / (ADAPTER_CONFIG if is_adapter(folder) else "config.json")):
        if not path.is_file():
            raise ValueError(f"{path} is missing: the checkpoint is not complete; make or download it again")
        if path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="np"):
                    pass
            except SafetensorError as error:
                raise ValueError(
                    f"{path} is damaged ({error}; {path.stat().st_size} bytes); make or download it again"
                ) from error
    own = [folder / MANIFEST]
    if not own[0].is_file():
        own = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return [*own, *check(adapter_base(folder))] if is_adapter(folder) else own


def header(path: Path) -> dict[str, dict]:
    """The "dtype", "shape" and "data_offsets" of every tensor of a safetensors file, by name."""
    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: entry for name, entry in entries.items() if name != "__metadata__"}


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer of a checkpoint's blocks, by module, in order of names; an adapter's base's.

    Read from the headers of the safetensors files: every matrix that is no embedding and not the output layer.
    """
    while is_adapter(folder):
        folder = adapter_base(folder)
    shapes = {}
    for path in weight_files(folder):
        for name, entry in header(path).items():
            module, _, last = name.rpartition(".")
            kind = module.rpartition(".")[2]
            if last == "weight" and len(entry["shape"]) == 2 and not re.search(r"emb|lm_head|^wte$|^wpe$", kind):
                shapes[module] = tuple(entry["shape"])
    return dict(sorted(shapes.items()))


def dated(template: str) -> str:
    """A chat template with the same day for today on every day: with another one, all prompts are other tokens, so that
    no result is made again and a training that is resumed past midnight is another training."""
    return NOW.sub(lambda found: json.dumps(TODAY.strftime(found[2])), template)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint, its chat template `dated`, and with a token to pad with: its own, the one that its
    family keeps for that, else the end token, which nothing here tells from padding by its id."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder / 'tokenizer.json'} is missing; copy the model's tokenizer files there")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if tokenizer.chat_template is not None:
        tokenizer.chat_template = dated(tokenizer.chat_template)
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PADS if token in known), tokenizer.eos_token)
    return tokenizer


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds what a text may not have inside, for the tokenizer reads it as a mark of turns or ends.

    Those that it names, and all others that it calls special: of Qwen's and Llama's, the marks of turns are among these
    only. What it adds without calling it special, such as <think>, is text.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return re.compile("|".join(map(re.escape, dict.fromkeys([*tokenizer.all_special_tokens, *added]))))


def load_model(folder: Path, dtype: Any) -> Any:
    """A causal language model in a torch dtype. `check` the folder first."""
    from transformers import AutoModelForCausalLM

    if is_adapter(folder):
        from peft import PeftModel

        adapters.enable_butterfly()
        model = load_model(adapter_base(folder), dtype)
        # PEFT freezes the base when it loads an adapter: a full fine-tune of the result would train nothing.
        return PeftModel.from_pretrained(model, str(folder)).merge_and_unload().requires_grad_(True)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, local_files_only=True, use_safetensors=True)


def stored_dtype(folder: Path) -> Any:
    """The torch dtype that a checkpoint's config asks for: what its full fine-tunes are stored in."""
    import torch
    from transformers import AutoConfig

    if is_adapter(folder):
        return stored_dtype(adapter_base(folder))
    return AutoConfig.from_pretrained(folder, local_files_only=True).dtype or torch.float32


def model_card(name: str, step: str, parents: list[Path], settings: dict, counts: dict, library: str) -> str:
    """README.md of a checkpoint: where it comes from and with what settings. No time stamps."""

    def table(values: dict) -> str:
        lines = [f"| {key} | {json.dumps(value)} |" for key, value in sorted(values.items())]
        return "\n".join(["| key | value |", "|---|---|", *lines])

    front = "".join(f"- {json.dumps(str(parent))}\n" for parent in parents)
    front = f"base_model:\n{front}" if parents else ""
    origin = " and ".join(f"`{parent}`" for parent in parents) or "random weights"
    return f"""---
{front}library_name: {library}
---

# {name}

Made by Temper's `{step}` from {origin}.

## Settings

{table(settings)}

## Counts

{table(counts)}

`manifest.json` has the sha256 of every input and output; `training_log.csv`, where there is one, a row per step.
"""
