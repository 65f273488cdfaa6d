"""A checkpoint folder: is it whole, which files stand for it, its tokenizer and its model; its card.

An adapter is read as the model that it makes: merged into its base, whose folder `adapter_config.json` names
relative to the project root. That base may be an adapter itself.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from steps.core.manifest import is_manifest, note_inputs, verify_manifest, visible_files
from steps.core.promises import MANIFEST, PROVENANCE
from steps.models.adapters.butterfly import enable_butterfly
from steps.models.adapters.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, NAME
from steps.models.adapters.targets import is_embedding
from steps.models.adapters.tokens import resize, token_rows, untie
from steps.models.files import TOKENIZER_BYTES, all_own, header, one_line, own_file, read_config, read_object, read_text
from steps.models.fit import LOCAL, check_config, check_finite, check_fit, check_tied, fitted, refuse
from steps.models.templates import check_template
from steps.models.today import dated

CONFIG = "config.json"
# What else a library reads from the folder.
OTHER_TEMPLATES = "additional_chat_templates"
OTHER_CONFIGS = ("generation_config.json", "tokenizer_config.json")
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
# What older checkpoints have instead, and what turns it into safetensors.
PICKLED = "pytorch_model*.bin"
CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M;'
    " M.from_pretrained('{folder}', dtype='auto').save_pretrained('{folder}')\""
)
WRAPPED = re.compile(r"\.(modules_to_save|original_module)(?=\.)")
# Tokens that families keep for padding without naming them in their tokenizer's settings: Llama 3's.
PADS = ("<|finetune_right_pad_id|>",)


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_base(folder: Path) -> Path:
    """The folder that an adapter's config names. Raises ValueError where it names none."""
    path = folder / ADAPTER_CONFIG
    base = read_object(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path}: base_model_name_or_path is {base!r:.100}; write the folder of the model it adapts")
    return Path(base)


def lineage(folder: Path) -> list[Path]:
    """A checkpoint and, below an adapter, its base, that one's base and so on to a full model.

    Raises:
        ValueError: an adapter descends from itself, or names no base.
    """
    line, seen = [folder], {os.path.realpath(folder)}
    while is_adapter(line[-1]):
        base = adapter_base(line[-1])
        if os.path.realpath(base) in seen:
            raise ValueError(
                f"{line[-1] / ADAPTER_CONFIG}: base_model_name_or_path leads to {base}, which descends from this very"
                " adapter; write the folder of the model that it was trained on"
            )
        seen.add(os.path.realpath(base))
        line.append(base)
    return line


def full_checkpoint(folder: Path) -> Path:
    """The folder itself, or what an adapter's base ends in."""
    return lineage(folder)[-1]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, shards in the order of their names.

    Raises:
        ValueError: one is missing or not in the folder, or nobody can tell which files are meant.
    """
    if is_adapter(folder):
        return [own_file(folder, ADAPTER_WEIGHTS)]
    index = folder / WEIGHTS_INDEX
    if not index.is_file():
        if not (folder / WEIGHTS).exists() and (pickled := sorted(folder.glob(PICKLED))):
            raise ValueError(
                f"{pickled[0]}: these weights are pickled, which may run code and is not read here; in a copy of the"
                f" folder, write them as safetensors once, where you trust them: {CONVERT.format(folder=folder)}"
            )
        return [own_file(folder, WEIGHTS)]
    places = _weight_map(index)
    names = sorted(set(places.values()))
    if names != [WEIGHTS] and (folder / WEIGHTS).is_file():
        # transformers reads the one file, others the index.
        raise ValueError(f"{folder} has both {WEIGHTS} and {WEIGHTS_INDEX}: delete the one that is not the model's")
    return [own_file(folder, name) for name in names]


def _weight_map(index: Path) -> dict[str, str]:
    """Which file of the folder an index says that a tensor is in."""
    entries = read_object(index, TOKENIZER_BYTES)
    places = entries.get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no weight_map of tensors and files; copy it from the model again")
    if not isinstance(entries.get("metadata"), dict):
        raise ValueError(f"{index} has no metadata, which transformers asks for; copy it from the model again")
    return places


def _tensors(folder: Path) -> dict[str, dict]:
    """The headers of a folder's weights put together. Raises ValueError where they are not what the index says."""
    tensors: dict[str, dict] = {}
    for path in weight_files(folder):
        for name, entry in header(path).items():
            if name in tensors:
                raise ValueError(f"{path}: {name} is in another file of the folder too; make or download it again")
            tensors[name] = entry | {"file": path.name}
    index = folder / WEIGHTS_INDEX
    if index.is_file() and not is_adapter(folder):
        places = _weight_map(index)
        stored = {name: entry["file"] for name, entry in tensors.items()}
        for name in sorted(places.keys() | stored.keys()):
            if places.get(name) != stored.get(name):
                raise ValueError(
                    f"{index}: {name} is in {places.get(name, 'no file')} as it says, and in"
                    f" {stored.get(name, 'no file')} in truth; make or download the checkpoint again"
                )
    return tensors


def check_files(folder: Path, base: Path | None = None) -> None:
    """What is cheap to tell of a checkpoint and of an adapter's bases: no weight is read and torch is not needed.

    Args:
        base: of an adapter, in place of the one that its config names.

    Raises:
        ValueError: a file is missing, broken, outside of the folder or asks for code to be run, or an adapter fits no
            module of its base; the message names it.
    """
    line, tensors = [folder, *lineage(base)] if base else lineage(folder), {}
    for member in line:
        if not member.is_dir():
            fix = "correct the path, or make the checkpoint first"
            if member != line[0]:
                fix = f"{ADAPTER_CONFIG} of an adapter names it as its base; name one that is here by `base` in models"
            raise ValueError(f"{member} is missing: no checkpoint there; {fix}")
        if (member / OTHER_TEMPLATES).exists():
            raise ValueError(f"{member / OTHER_TEMPLATES}: a model has one template here; move the folder away")
        tensors = _tensors(member)
        all_own(member)
        needed = ADAPTER_CONFIG if is_adapter(member) else CONFIG
        for name in (needed, *(name for name in OTHER_CONFIGS if os.path.lexists(member / name))):
            check_config(member / name, tensors)
    # By the last part of their names: what stands before it may be called otherwise in files than in the model.
    modules = {name.rpartition(".")[0].rpartition(".")[2] for name in tensors}
    for member in line[:-1]:
        targets = read_object(member / ADAPTER_CONFIG).get("target_modules")
        for entry in targets if isinstance(targets, list) else ():
            if str(entry).rpartition(".")[2] not in modules and not is_embedding(str(entry)):
                raise ValueError(
                    f"{member / ADAPTER_CONFIG}: target_modules has {entry!r:.100}, which is no module of {line[-1]};"
                    " correct base_model_name_or_path"
                )


def check(folder: Path) -> list[Path]:
    """Verify a checkpoint, and the base of an adapter; returns the files that stand for its bytes.

    A manifest stands for every file it lists. A folder without one (not made here) is listed file by file.

    Raises:
        ValueError: the folder or a file of it is missing or damaged; the message names it.
    """
    stand = []
    for member in lineage(folder):
        own = visible_files(member) if member.is_dir() else []
        if is_manifest(member / MANIFEST):
            listed = verify_manifest(member)["outputs"]
            # What lies beside it and is not listed is read all the same.
            own = [path for path in own if path.name not in listed and path.name != PROVENANCE]
        stand += own
    check_files(folder)
    note_inputs(stand)
    return stand


def tensor_names(folder: Path) -> list[str]:
    """Of a folder's own weights: of an adapter those of the adapter."""
    return [name for path in weight_files(folder) for name in header(path)]


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer of a checkpoint's blocks, by module, in order of names; an adapter's base's.

    Read from the headers of the safetensors files: every matrix that is no embedding and not the output layer.
    """
    shapes = {}
    for path in weight_files(full_checkpoint(folder)):
        for name, entry in header(path).items():
            module, _, last = name.rpartition(".")
            if last == "weight" and len(entry["shape"]) == 2 and not is_embedding(module):
                shapes[module] = tuple(entry["shape"])
    return dict(sorted(shapes.items()))


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint, its chat template `dated` and tried, and with a token to pad with: its own, the
    one that its family keeps for that, else the end token, which nothing here tells from padding by its id.

    Raises:
        ValueError: a file of it is missing or broken or asks for code to be run, or `check_template` refuses it.
    """
    from transformers import AutoTokenizer

    path, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model's tokenizer files there")
    read_object(path, TOKENIZER_BYTES)
    if os.path.lexists(config):
        read_config(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except MemoryError:
        raise
    # What its files make transformers and tokenizers raise has no common class.
    except Exception as error:
        raise ValueError(
            f"{path} and {config.name} make no tokenizer ({one_line(error)}); copy the model's again"
        ) from error
    if tokenizer.chat_template is not None:
        template = tokenizer.chat_template
        # Of several, by name, that for a conversation.
        template = template.get("default") if isinstance(template, dict) else template
        if not isinstance(template, str):
            raise ValueError(f"{config}: chat_template is no text; give the checkpoint a chat_template.jinja")
        tokenizer.chat_template = dated(template)
        check_template(tokenizer, str(folder))
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        tokenizer.pad_token = next((token for token in PADS if token in known), tokenizer.eos_token)
    return tokenizer


def template_of(folder: Path) -> str | None:
    """The chat template of a checkpoint's files, as `load_tokenizer` reads it; no tokenizer is made."""
    config, template = folder / "tokenizer_config.json", None
    if (folder / "chat_template.jinja").is_file():
        template = read_text(folder / "chat_template.jinja")
    elif config.is_file():
        template = read_config(config).get("chat_template")
    return dated(template) if isinstance(template, str) else template


def vocabulary(folder: Path) -> dict[str, int]:
    """The tokens of a checkpoint's tokenizer.json with their ids; no tokenizer is made.

    Raises:
        ValueError: the file is missing or no tokenizer's.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"{path} is missing; copy the model's tokenizer files there")
    tokenizer = read_object(path, TOKENIZER_BYTES)
    try:
        known = tokenizer["model"]["vocab"]
        # A unigram model lists [token, score] in the order of the ids.
        known = known if isinstance(known, dict) else {token: i for i, (token, _) in enumerate(known)}
        return known | {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no tokenizer ({one_line(error)}); copy the model's again") from error


def token_count(tokenizer: Any) -> int:
    """Ids from 0 up to a tokenizer's last token. A model may have rows beyond, up to a multiple of 64 or 128: no token
    is there, nothing trained what it gives them, and two of one family may have different numbers of them."""
    return max(tokenizer.get_vocab().values()) + 1


def control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds what a text may not have inside, for the tokenizer reads it as a mark of turns or ends.

    Those that it names, and all others that it calls special: of Qwen's and Llama's, the marks of turns are among these
    only. What it adds without calling it special, such as <think>, is text.
    """
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return re.compile("|".join(map(re.escape, dict.fromkeys([*tokenizer.all_special_tokens, *added]))))


def check_weights(folder: Path, auto: Any) -> None:
    """Read the weights of a full model once: they are those that its config.json asks for, and finite.

    Args:
        auto: the class of transformers' that will load them.

    Raises:
        ValueError: they are not; the message names the file and the tensor.
    """
    check_files(folder)
    files = weight_files(folder)
    check_tied(folder / CONFIG, files)
    check_fit(auto, folder, files)
    for path in files:
        check_finite(path)


def load_model(folder: Path, dtype: Any) -> Any:
    """A causal language model in a torch dtype. `check` the folder first.

    Raises:
        ValueError: its weights or an adapter's are not all that the model needs, or more, or not finite.
    """
    from transformers import AutoModelForCausalLM

    if is_adapter(folder):
        check_files(folder)
        return _merged(folder, load_model(adapter_base(folder), dtype))
    check_weights(folder, AutoModelForCausalLM)
    return fitted(AutoModelForCausalLM, folder, weight_files(folder), dtype)


def load_classifier(folder: Path, dtype: Any) -> Any:
    """A sequence classifier, such as a reward model; as `load_model`."""
    from transformers import AutoModelForSequenceClassification

    check_weights(folder, AutoModelForSequenceClassification)
    return fitted(AutoModelForSequenceClassification, folder, weight_files(folder), dtype)


def _merged(folder: Path, model: Any) -> Any:
    """A model with an adapter merged into it."""
    from peft import PeftConfig, PeftModel

    (path,) = weight_files(folder)
    check_finite(path)
    enable_butterfly()
    try:
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        if config.is_prompt_learning:
            # Before it is made, which may load another tokenizer than the base's.
            raise ValueError(f"{config.peft_type.value} cannot be merged")
        resize(model, token_rows(path, config))
        wrapped = PeftModel(model, config, NAME)
        # PeftModel.from_pretrained does the same and keeps to itself what was missing.
        loaded = wrapped.load_adapter(
            str(folder), NAME, key_mapping=getattr(model, "_checkpoint_conversion_mapping", {})
        )
    # PEFT raises a dozen classes for a config or tensors that do not fit.
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"{path} does not fit its base or its {ADAPTER_CONFIG} ({one_line(error)}); train or download it again"
        ) from error
    missing, extra = (
        [name.replace(f".{NAME}", "") for name in names] for names in (loaded.missing_keys, loaded.unexpected_keys)
    )
    # Where embeddings were resized, PEFT writes what is trained whole under the names of its wrapper too.
    stored = header(path)
    extra = [name for name in extra if name == (once := WRAPPED.sub("", name)) or once not in stored]
    wrong = [(name, "is missing") for name in missing] + [(name, "has no place in its base") for name in extra]
    refuse(folder, [path], wrong)
    untie(model)
    try:
        merged = wrapped.merge_and_unload()
    # Of a change that has no place in the weights, such as a bias beside a layer without one.
    except (ValueError, RuntimeError) as error:
        import torch

        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise ValueError(
            f"{path} cannot be merged into its base ({one_line(error)}); choose another adapter"
        ) from error
    # PEFT freezes the base when it loads an adapter: a full fine-tune of the result would train nothing.
    return merged.requires_grad_(True)


def load_config(folder: Path) -> Any:
    """The configuration of a full model, as transformers reads it. Raises ValueError where it does not."""
    from transformers import AutoConfig

    read_config(folder / CONFIG)
    try:
        return AutoConfig.from_pretrained(folder, **LOCAL)
    # What a configuration makes transformers raise has no common class.
    except Exception as error:
        raise ValueError(
            f"{folder / CONFIG}: transformers cannot read it ({one_line(error)}); copy the model's again"
        ) from error


def stored_dtype(folder: Path) -> Any:
    """The torch dtype that a checkpoint's config asks for."""
    import torch

    return load_config(full_checkpoint(folder)).dtype or torch.float32


def computed_dtype(folder: Path) -> Any:
    """The torch dtype that a checkpoint writes, scores and teaches in: float32 on a CPU, on a GPU half of the width.

    There it is the one that its weights are stored in, and bfloat16 for those in float32: a child that is stored as it
    was trained is sampled like its parent, and both as they will be served.
    """
    import torch

    if not torch.cuda.is_available():
        return torch.float32
    stored = stored_dtype(folder)
    return torch.bfloat16 if stored == torch.float32 and torch.cuda.is_bf16_supported() else stored


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
