"""Whether weights are those that their configuration asks for, and numbers: transformers draws at random what a file
lacks, leaves out what the model has no place for, and computes with what is not finite."""

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.models.files import header, one_line

# What decides how long transformers builds a model, or a list in its configuration, before any shape is compared.
LAYERS = re.compile(r"(n|num)_(\w+_)?layers?|(en|de)coder_layers")
PARTS = re.compile(r"(n|num)_(\w+_)?experts|num_labels")
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
            if (LAYERS.fullmatch(key) or PARTS.fullmatch(key)) and isinstance(value, int | float) and value > most:
                raise ValueError(
                    f"{path}: {key} is {value:.12g}, but its weights are {len(tensors)} tensors with sides of at most"
                    f" {widest}; take the config.json that belongs to them"
                )


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
