"""Whether weights are those that their configuration asks for, and numbers: transformers draws at random what a file
lacks, leaves out what the model has no place for, and computes with what is not finite."""

import contextlib
import math
import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from steps.models.files import header, one_line, read_config, read_object

# What decides how long transformers builds a model, or a list in its configuration, before any shape is compared.
LAYERS = re.compile(r"(n|num)_(\w+_)?layers?|(en|de)coder_layers")
PARTS = re.compile(r"(n|num)_(\w+_)?experts|num_labels")
# What is a side of some tensor, or of a table that is computed: of 2**16 it is small whatever the weights are.
SIDES = re.compile(r"(\w+_)?(size|dim|rank|heads|inner|embd)|d_\w+")
SMALL_SIDE = 2**16
# Ranks and blocks of adapters, each the side of a tensor of theirs.
RANKS = ("r", "init_r", "target_r", "oft_block_size", "boft_block_size")
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")
HEAD = "lm_head.weight"
FLOATS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
}  # fmt: skip
# Of a file, at a time.
BYTES = 2**20
# What every file of a model is loaded with: from the folder alone, no pickles, none of its code.
LOCAL = {"local_files_only": True, "trust_remote_code": False}


def check_counts(path: Path, config: dict, tensors: dict[str, dict]) -> None:
    """Raises ValueError for a count in a config.json that its weights cannot have. Without it, a billion layers would
    be built for hours; torch is not needed."""
    widest = max((side for entry in tensors.values() for side in entry["shape"]), default=0)
    queue = [config]
    while queue:
        section = queue.pop()
        queue += [value for value in section.values() if isinstance(value, dict)]
        for key, value in section.items():
            most = len(tensors) if LAYERS.fullmatch(key) else max(len(tensors), widest, 2)
            if SIDES.fullmatch(key):
                most = max(widest, SMALL_SIDE)
            elif not (LAYERS.fullmatch(key) or PARTS.fullmatch(key)):
                continue
            if isinstance(value, int | float) and value > most:
                raise ValueError(
                    f"{path}: {key} is {value:.12g}, but its weights are {len(tensors)} tensors with sides of at most"
                    f" {widest}; take the config.json that belongs to them"
                )


def check_plain(path: Path, config: dict, tensors: dict[str, dict]) -> None:
    """Raises ValueError for weights that are whole numbers: what these mean is not in them."""
    for name, entry in tensors.items():
        if name.endswith(".weight") and entry["dtype"] not in FLOATS:
            raise ValueError(
                f"{path}: its weights are packed ({name} is {entry['dtype']}), and nothing here unpacks them; take"
                " plain ones"
            )


def check_adapter(path: Path, config: dict, tensors: dict[str, dict]) -> None:
    """Raises ValueError for an adapter's size in its adapter_config.json that its tensors cannot have; PEFT would make
    it first."""
    widest = max((side for entry in tensors.values() for side in entry["shape"]), default=0)
    patterns = config.get("rank_pattern")
    told = [*((key, config.get(key)) for key in RANKS), *(patterns.items() if isinstance(patterns, dict) else ())]
    replicated = config.get("layer_replication")
    for pair in replicated if isinstance(replicated, list) else ():
        if isinstance(pair, list) and all(isinstance(layer, int) for layer in pair):
            told.append(("layer_replication", len(replicated) * (max(pair, default=0) - min(pair, default=0))))
    for key, value in told:
        most = len(tensors) if key == "layer_replication" else widest
        if isinstance(value, int) and value > most:
            raise ValueError(
                f"{path}: {key} comes to {value}, but the adapter is {len(tensors)} tensors with sides of at most"
                f" {widest}; take the adapter_config.json that belongs to them"
            )


def check_ends(path: Path, config: dict, tensors: dict[str, dict]) -> None:
    """Raises ValueError for ends in a generation_config.json that are no numbers of tokens."""
    ends = config.get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and type(end) is not int:
            raise ValueError(f"{path}: eos_token_id has {end!r:.100}, which is no id; write the ids of the end tokens")


CHECKS = {
    "config.json": (check_counts, check_plain),
    "adapter_config.json": (check_adapter,),
    "generation_config.json": (check_ends,),
}


def check_config(path: Path, tensors: dict[str, dict]) -> None:
    """Read a configuration and hold it to the headers of the weights beside it. Raises ValueError where it is none, or
    says what they cannot be."""
    config = read_config(path)
    for check in CHECKS.get(path.name, ()):
        check(path, config, tensors)


def check_tied(config: Path, files: list[Path]) -> None:
    """Compare the head of a tied model with its embeddings where both are stored; a model without a head passes.

    Raises:
        ValueError: they differ: transformers would read both, and vLLM and merges only the embeddings.
    """
    stored = {name: (path, entry) for path in files for name, entry in header(path).items()}
    name = next((name for name in stored if name.endswith(EMBEDDINGS)), None)
    if not read_object(config).get("tie_word_embeddings") or name is None or HEAD not in stored:
        return
    pieces = [_pieces(*stored[tensor]) for tensor in (name, HEAD)]
    if any(one != other for one, other in zip_longest(*pieces)):
        raise ValueError(
            f"{stored[HEAD][0]}: {HEAD} is another than {name}, and tie_word_embeddings of config.json says that they"
            " are one; set it to false, or take the tensor out"
        )


def _pieces(path: Path, entry: dict) -> Iterator[bytes]:
    """The bytes of a tensor, a MiB at a time."""
    begin, end = entry["data_offsets"]
    with open(path, "rb") as file:
        file.seek(begin)
        while begin < end and (piece := file.read(min(BYTES, end - begin))):
            begin += len(piece)
            yield piece


def check_fit(auto: Any, folder: Path, files: list[Path]) -> None:
    """Compare a folder's weights with the model that transformers makes of its config.json; no weight is allocated.

    Args:
        auto: the class of transformers' that loads it, such as AutoModelForCausalLM.
        files: the folder's weights.

    Raises:
        ValueError: transformers cannot make the model, or a tensor is missing, one too many or of another shape; the
            message names the file and the first such tensor.
    """
    from transformers.integrations import is_deepspeed_zero3_enabled

    # It takes no device then; `fitted` still compares, once the model is loaded.
    if is_deepspeed_zero3_enabled():
        return
    try:
        _, info = _loaded(auto, folder, device_map="meta")
    # What a configuration makes transformers and torch raise has no common class.
    except Exception as error:
        raise ValueError(
            f"{folder / 'config.json'}: transformers cannot make this model ({one_line(error)});"
            " take the config.json that belongs to the weights"
        ) from error
    _refuse(folder, files, info)


def fitted(auto: Any, folder: Path, files: list[Path], dtype: Any) -> Any:
    """A model in a torch dtype, loaded from a folder by `auto`. Raises ValueError as `check_fit` does."""
    model, info = _loaded(auto, folder, dtype=dtype)
    _refuse(folder, files, info)
    return model


def _loaded(auto: Any, folder: Path, **options: Any) -> tuple[Any, dict]:
    with _quiet():
        return auto.from_pretrained(
            folder,
            use_safetensors=True,
            output_loading_info=True,
            # Else what does not fit comes as an exception of many lines.
            ignore_mismatched_sizes=True,
            **LOCAL,
            **options,
        )


def _refuse(folder: Path, files: list[Path], info: dict) -> None:
    wrong = [(name, "is missing") for name in sorted(info["missing_keys"])]
    wrong += [(name, "has no place in the model of config.json") for name in sorted(info["unexpected_keys"])]
    wrong += [
        (name, f"is {[*stored]} and not {[*asked]}, as config.json has it")
        for name, stored, asked in sorted(info["mismatched_keys"], key=lambda item: item[0])
    ]
    wrong += [("a tensor", str(message)) for message in info["error_msgs"]]
    refuse(folder, files, wrong)


def refuse(folder: Path, files: list[Path], wrong: list[tuple[str, str]]) -> None:
    """Raises ValueError for the first of the (tensor, what is wrong with it), naming the file that has it."""
    if not wrong:
        return
    name, reason = wrong[0]
    place = next((path for path in files if name in header(path)), files[0] if len(files) == 1 else folder)
    more = f" (the first of {len(wrong)} such tensors)" if len(wrong) > 1 else ""
    raise ValueError(f"{place}: {name} {reason}{more}; make or download the checkpoint again")


def is_finite(tensor: Any) -> bool:
    """Whether no element is NaN or infinite. Of a flat piece in memory."""
    import torch

    if not tensor.numel() or not tensor.is_floating_point():
        return True
    if tensor.itemsize == 1:
        tensor = tensor.float()  # torch compares no 8-bit numbers
    # Its extremes hold a NaN, and nothing as large as the tensor is made.
    return all(math.isfinite(extreme.item()) for extreme in torch.aminmax(tensor))


def check_finite(path: Path, fix: str = "make or download it again") -> None:
    """Read a safetensors file once, a MiB at a time: at 2 GB/s from memory on one core, where the load finds it after.

    Raises:
        ValueError: the file got shorter, or a number is NaN or infinite; the message names its tensor, and `fix` says
            what to do then.
    """
    import torch

    buffer = bytearray(BYTES)
    with open(path, "rb", buffering=0) as file:
        for name, entry in sorted(header(path).items(), key=lambda item: item[1]["data_offsets"]):
            if entry["dtype"] not in FLOATS:
                continue
            dtype = getattr(torch, FLOATS[entry["dtype"]])
            position, end = entry["data_offsets"]
            file.seek(position)
            while position < end:
                read = file.readinto(memoryview(buffer)[: end - position])
                # A read may end inside a number, whose rest is then read again with the next.
                whole = read - read % dtype.itemsize
                if not whole:
                    raise ValueError(f"{path} ends inside {name}; make or download it again")
                if not is_finite(torch.frombuffer(buffer, dtype=dtype, count=whole // dtype.itemsize)):
                    raise ValueError(f"{path}: {name} has numbers that are NaN or infinite; {fix}")
                position += whole
                file.seek(position)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of what does not fit: the error says it in one line."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
