"""A checkpoint's files as anybody may have written them: read within limits, refused in one line."""

import json
import math
import os
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs"
# Bytes at most. The largest tokenizer.json of a known family (Gemma 3) has 33 MB, a config.json a few KB.
CONFIG_BYTES = 2**24
TOKENIZER_BYTES = 2**28
# What a tokenizer is read from.
COPIED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# What is read of a folder, by how its name ends.
READ = (".json", ".jinja", ".safetensors", ".model", ".txt")
# Keys by which transformers and PEFT import what a configuration says.
NAMES_CODE = ("auto_map", "megatron_config")
HEADER_BYTES = 100_000_000  # the format's own
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


def read_object(path: Path, most: int = CONFIG_BYTES) -> dict[str, Any]:
    """The JSON object of a file.

    Raises:
        ValueError: there is no such file, or it is not readable, longer than `most` bytes or no JSON object.
    """
    value = _json(path, _bytes(path, most))
    if not isinstance(value, dict):
        raise ValueError(f"{path} is no JSON object; copy it from the model again")
    return value


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object of a configuration, of a model, a tokenizer or an adapter.

    Raises:
        ValueError: as `read_object`, it asks for code of the folder to be run, after which transformers would ask
            whoever watches the job, or its weights are quantized, which transformers would load as they are.
    """
    config = read_object(path)
    for key in NAMES_CODE:
        if config.get(key):
            raise ValueError(
                f"{path}: {key} names code of the model's own, which is never run; delete the key if transformers knows"
                " the model without it, else choose another"
            )
    for part in (config, *config.values()):
        if isinstance(part, dict) and isinstance(packed := part.get("quantization_config"), dict) and packed:
            raise ValueError(
                f"{path}: the weights are quantized ({packed.get('quant_method', 'in an unknown way')}), which nothing"
                " here trains, merges or measures; take the model that they were made of (adapter: {kind: qlora} keeps"
                " it in 4 bits while it trains)"
            )
    return config


def read_text(path: Path) -> str:
    """A text that a model brings, such as its chat template. Raises ValueError as `read_object` does."""
    try:
        return _bytes(path, CONFIG_BYTES).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}); copy it from the model again") from error


def one_line(error: Exception) -> str:
    """An error's class and the beginning of its text."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.300}"


def header(path: Path) -> dict[str, dict]:
    """The "dtype", "shape" and "data_offsets" of every tensor of a safetensors file, by name.

    The format: 8 bytes of length, a JSON header, the data; offsets are given from the start of the file here. Our own,
    for `safe_open` of safetensors (0.8.0) tells no offsets, by which tensors are read in pieces.

    Raises:
        ValueError: the file is not there or not readable, or breaks a rule of the format.
    """
    size = _size(path)
    start = _bytes(path, 8, whole=False)
    length = int.from_bytes(start, "little")

    def damaged(reason: str) -> ValueError:
        return ValueError(f"{path} is damaged ({reason}; {size} bytes); make or download it again")

    if len(start) < 8 or length > min(HEADER_BYTES, size - 8):
        if _bytes(path, len(LFS_POINTER), whole=False) == LFS_POINTER:
            raise _pointer(path)
        raise damaged("its header does not end inside it")
    try:
        entries = json.loads(_bytes(path, 8 + length, whole=False)[8:].decode(), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise damaged(f"its header is no JSON: {error}") from error
    if not isinstance(entries, dict):
        raise damaged("its header is no JSON object")
    entries.pop("__metadata__", None)
    end = 0
    for name, entry in sorted(entries.items(), key=_first):
        if not _is_entry(entry):
            raise damaged(f"its header says of {name!r:.200} what the format does not know")
        begin, after = entry["data_offsets"]
        if begin != end or (after - begin) * 8 != math.prod(entry["shape"]) * BITS[entry["dtype"]]:
            raise damaged(f"the place of {name!r:.200} does not fit its shape and its neighbours")
        end = after
    if end != size - 8 - length:
        raise damaged(f"its tensors end at {8 + length + end} bytes")
    return {
        name: entry | {"data_offsets": [8 + length + offset for offset in entry["data_offsets"]]}
        for name, entry in entries.items()
    }


def own_file(folder: Path, name: str) -> Path:
    """A file of a folder by its name.

    A link may lead to where the hub's cache (`blobs`) or DVC's (`files/md5`) keeps contents, and nowhere else out of
    the folder: a folder that was downloaded must not choose which other files of this machine are read.

    Raises:
        ValueError: the file is not there, or it is outside of the folder.
    """
    path = folder / name
    if Path(name).name != name:
        raise ValueError(f"{folder}: names {name!r:.200} as its weights, which is outside of it; download it again")
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is not complete; make or download it again")
    home, real = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    stores = real.parent == home.parent.parent / "blobs", real.parts[-4:-2] == ("files", "md5")
    if home not in real.parents and not any(stores):
        raise ValueError(f"{path} is a link to {real}, outside of its folder; copy the file there")
    return path


def all_own(folder: Path) -> None:
    """Raise a ValueError for a file of a folder, which something may read, that leads out of it; see `own_file`."""
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and path.suffix in READ and path.is_file():
            own_file(folder, path.name)


def _bytes(path: Path, most: int, whole: bool = True) -> bytes:
    """What a file begins with; with `whole`, a longer one is refused."""
    size = _size(path)
    if whole and size > most:
        raise ValueError(f"{path} has more than {most} bytes, which is no such file; copy it from the model again")
    try:
        with open(path, "rb") as file:
            # As many as there are: Python would take the memory for as many as are asked for.
            return file.read(min(size, most))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); make it readable for you") from error


def _size(path: Path) -> int:
    # A pipe or a device would be read for ever.
    if not path.is_file():
        raise ValueError(f"{path} is missing: the checkpoint is not complete; make or download it again")
    return path.stat().st_size


def _json(path: Path, data: bytes) -> Any:
    if data.startswith(LFS_POINTER):
        raise _pointer(path)
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is no JSON ({error!s:.200}; {len(data)} bytes); copy it from the model again"
        ) from error


def _pointer(path: Path) -> ValueError:
    return ValueError(f"{path} is a pointer of Git LFS and not the file; run `git lfs pull` in its repository")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _first(item: tuple[str, Any]) -> tuple[int, int]:
    """Where a tensor begins and ends: an empty one stands before its neighbour."""
    return tuple(item[1]["data_offsets"]) if _is_entry(item[1]) else (-1, -1)


def _is_entry(entry: Any) -> bool:
    def numbers(value: Any) -> bool:
        return isinstance(value, list) and all(type(number) is int and 0 <= number < 2**63 for number in value)

    return (
        isinstance(entry, dict)
        and isinstance(entry.get("dtype"), str)
        and entry["dtype"] in BITS
        and numbers(entry.get("shape"))
        and numbers(entry.get("data_offsets"))
        and len(entry["data_offsets"]) == 2
    )
