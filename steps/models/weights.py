"""The weights of a checkpoint, read and written one tensor at a time."""

import json
import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from steps.core.files import write_json
from steps.models import checkpoints
from steps.models.adapters.targets import OUTPUT
from steps.models.files import COPIED_TOKENIZER, header, read_object
from steps.models.fit import check_tied, is_finite

# Elements at a time, even because `kept_at_random` draws pairs. 256 KiB in float32 stay in the cache of a core and
# below the size at which the allocator returns memory: 2**18 takes twice as long on a virtual machine.
CHUNK = 2**16
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
COPIED = ("config.json", "generation_config.json")
Read = Callable[[int, int], Any]  # start, stop -> these elements of a flattened tensor


class Stored(NamedTuple):
    """Where a tensor lies: in which open file, from which byte of it on."""

    file: BinaryIO
    dtype: str
    shape: list[int]
    first: int


def stored_tensors(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds, in the order of its bytes.

    The file is not mapped: mapped pages would count as memory of the process.
    """
    file = open(path, "rb")
    stored = {
        name: Stored(file, entry["dtype"], entry["shape"], entry["data_offsets"][0])
        for name, entry in header(path).items()
    }
    return dict(sorted(stored.items(), key=lambda item: item[1].first))


class Run(NamedTuple):
    """Rows of a tensor that follow each other in a file: those from `begin` on are those from `row` on of the owner."""

    owner: "Weights"
    begin: int
    row: int
    count: int


class Weights:
    """The named tensors of one checkpoint, read in pieces; an adapter's only after `merge_adapter`.

    Attributes:
        own_head: the output layer that an adapter gave a model whose base ties it, and the embeddings that it was tied
            to; None where there is none.
        arranged: tensors whose rows are read in another order, and from other models where they lack some
            (steps/models/tokens.py); their shape is that of what is read.
    """

    def __init__(self, folder: Path):
        self.folder, root = folder, checkpoints.full_checkpoint(folder)
        self.label = str(folder) if root == folder else f"{folder} (an adapter on {root})"
        self.indexed = (root / checkpoints.WEIGHTS_INDEX).is_file()
        self.tensors: dict[str, Stored] = {}
        self.arranged: dict[str, list[Run]] = {}
        self.own_head: tuple[str, str] | None = None
        for path in checkpoints.weight_files(root):
            self.tensors |= stored_tensors(path)
        # A tied model may store its head all the same. Merged on its own it could come out unlike the embeddings: the
        # random draws of dare go by names.
        check_tied(root / checkpoints.CONFIG, checkpoints.weight_files(root))
        if read_object(root / checkpoints.CONFIG).get("tie_word_embeddings"):
            self.tensors.pop("lm_head.weight", None)
        self.layout: dict[str, list[str]] = {}  # file -> its tensors in the order of their bytes
        for name, stored in self.tensors.items():
            self.layout.setdefault(Path(stored.file.name).name, []).append(name)

    def merge_adapter(self, folder: Path, by_token: Collection[str] = ()) -> None:
        """Write the model that an adapter makes to a folder, in float32, and read from there.

        As transformers writes it: what a model calls its weights is not always what its files do.

        Args:
            by_token: tensors that may have more rows than the base's, one for each token that the adapter added.

        Raises:
            ValueError: it has other tensors than its base.
        """
        import torch

        model = checkpoints.load_model(self.folder, torch.float32)
        model.save_pretrained(folder)
        merged: dict[str, Stored] = {}
        for path in checkpoints.weight_files(folder):
            merged |= stored_tensors(path)
        # Files of before may leave out the prefix of the model, as those of GPT-2 do.
        names = {
            own: own if own in merged else next((n for n in merged if n.endswith(f".{own}")), own)
            for own in self.tensors
        }
        for own, stored in self.tensors.items():
            now = merged[names[own]].shape if names[own] in merged else "missing"
            if now == stored.shape or (own in by_token and now[1:] == stored.shape[1:]):
                continue
            raise ValueError(
                f"{self.folder}: {own} is {stored.shape} in its base and {now} with the adapter merged; rows of added"
                " tokens are put together with tokenizer: union"
            )
        self.tensors = {own: merged[name] for own, name in names.items()}
        if added := [name for name in merged.keys() - names.values() if OUTPUT.search(name)]:
            weight = model.get_input_embeddings().weight
            full = next(name for name, parameter in model.named_parameters() if parameter is weight)
            (embeddings,) = (own for own in self.tensors if f".{full}".endswith(f".{own}"))
            self.own_head = (added[0], embeddings)
            self.tensors[added[0]] = merged[added[0]]

    def untie(self, head: str, embeddings: str) -> None:
        """Give the model an output layer of its own: what it reads as one are its embeddings, if it has none."""
        self.tensors.setdefault(head, self.tensors[embeddings])
        file = next(file for file, names in self.layout.items() if embeddings in names)
        self.layout[file].append(head)

    def size(self, name: str) -> int:
        return math.prod(self.tensors[name].shape)

    def read(self, name: str, start: int, stop: int) -> Any:
        """Elements of a flattened tensor, in its own dtype. Threads may read at once.

        Raises:
            ValueError: the file ends before them, or one is NaN or infinite.
        """
        return self._read_arranged(name, start, stop) if name in self.arranged else self._read_stored(name, start, stop)

    def _read_stored(self, name: str, start: int, stop: int) -> Any:
        import torch

        stored = self.tensors[name]
        out = torch.empty(stop - start, dtype=getattr(torch, DTYPES[stored.dtype]))
        position, left = stored.first + start * out.itemsize, memoryview(out.view(torch.uint8).numpy())
        while left:
            read = os.preadv(stored.file.fileno(), [left], position)
            if not read:
                raise ValueError(f"{stored.file.name} ends inside {name}; make or download it again")
            position, left = position + read, left[read:]
        if not is_finite(out):
            raise ValueError(
                f"{stored.file.name}: {name} has numbers that are NaN or infinite; make or download it again"
            )
        return out

    def _read_arranged(self, name: str, start: int, stop: int) -> Any:
        """As `read`, row by row of where they lie; in the widest dtype of what is read."""
        import torch

        width, parts = math.prod(self.tensors[name].shape[1:]), []
        for owner, begin, row, count in self.arranged[name]:
            first, last = max(start, begin * width), min(stop, (begin + count) * width)
            if first < last:
                moved = (row - begin) * width
                parts.append(owner._read_stored(name, first + moved, last + moved))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def forget(self, name: str) -> None:
        """Let the system forget the pages of a tensor that is not read again, where it takes such advice.

        A merge would else push everything out of the page cache; and on a virtual machine, where pages that were never
        used are dear, it takes twice as long.
        """
        stored = self.tensors[name]
        if hasattr(os, "posix_fadvise"):
            size = self.size(name) * ITEM_BYTES[stored.dtype]
            os.posix_fadvise(stored.file.fileno(), stored.first, size, os.POSIX_FADV_DONTNEED)

    def tensor(self, name: str) -> Any:
        return self.read(name, 0, self.size(name)).reshape(self.tensors[name].shape)


def write_safetensors(
    path: Path, layout: dict, chunks: Callable[[str], Iterable[Any]], done: Callable[[str], None] | None = None
) -> int:
    """Stream tensors into a file of the format that `stored_tensors` reads; returns their bytes.

    layout: name -> (dtype, shape); chunks: the flat pieces of a named tensor, in order. Their places follow from the
    layout, so that each of torch's threads writes a tensor of its own; done: told of each one written.

    Raises:
        ValueError: a number is NaN or infinite in the dtype it would be stored in.
    """
    import torch

    dtypes = {name: getattr(torch, DTYPES[dtype]) for name, (dtype, _) in layout.items()}
    # As safetensors does it: wide numbers first, so that none lies across its alignment.
    names = sorted(layout, key=lambda name: -dtypes[name].itemsize)
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        dtype, shape = layout[name]
        begin, end = end, end + math.prod(shape) * dtypes[name].itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    threads = torch.get_num_threads()
    with open(path, "wb") as file, ThreadPoolExecutor(threads) as pool:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()

        def write(name: str) -> str:
            position, stop = (8 + len(text) + offset for offset in header[name]["data_offsets"])
            for chunk in chunks(name):
                stored = chunk.to(dtypes[name])
                if not is_finite(stored):
                    raise ValueError(
                        f"{path}: {name} would have numbers that are NaN or infinite in {layout[name][0]}; its parents"
                        " or the settings of the merge are too large"
                    )
                left = memoryview(stored.view(torch.uint8).numpy())
                while left:
                    written = os.pwrite(file.fileno(), left, position)
                    position, left = position + written, left[written:]
            assert position == stop, f"{name} has {position - stop} bytes more than its shape"
            return name

        torch.set_num_threads(1)
        try:
            for name in pool.map(write, names):
                if done:
                    done(name)
        finally:  # after an error, no tensor that waits
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)
    return end


def merged_dtype(name: str, parents: list[Weights], base: Weights | None, settings: dict) -> str:
    """What is asked for, or the widest dtype of those that act: a parent of weight 0 in a linear merge does not."""
    import torch

    if settings.get("dtype", "stored") != "stored":
        return next(name for name, dtype in DTYPES.items() if dtype == settings["dtype"])
    weights = settings["weights"] if settings["method"] == "linear" else [1] * len(parents)
    acting = [parent for parent, weight in zip(parents, weights, strict=True) if weight != 0]
    stored = [model.tensors[name].dtype for model in ([base] if base else []) + acting]
    widest = getattr(torch, DTYPES[stored[0]])
    for dtype in stored[1:]:
        widest = torch.promote_types(widest, getattr(torch, DTYPES[dtype]))
    return next(name for name, dtype in DTYPES.items() if getattr(torch, dtype) == widest)


def write_model(
    out: Path,
    like: Weights,
    dtypes: dict[str, str],
    chunks: Callable[[str], Iterable[Any]],
    done: Callable[[str], None] | None = None,
) -> None:
    """Write tensors into files named and filled as those of another model, with their index; see write_safetensors."""
    total = 0
    for file, names in like.layout.items():
        layout = {name: (dtypes[name], like.tensors[name].shape) for name in names}
        total += write_safetensors(out / file, layout, chunks, done)
    if like.indexed:
        weight_map = {name: file for file, names in like.layout.items() for name in names}
        write_json(out / checkpoints.WEIGHTS_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def copy_companions(folder: Path, out: Path, dtypes: Collection[str], untied: bool = False) -> None:
    """Copy the tokenizer and the config of a checkpoint; an adapter's config is that of its full model.

    dtypes: what the weights beside it are stored in, of which the config names the widest: others may be few that a
    family keeps so; untied: the output layer is one of its own, whatever the config says.
    """
    for source, names in ((folder, COPIED_TOKENIZER), (checkpoints.full_checkpoint(folder), COPIED)):
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)
    config = read_object(out / checkpoints.CONFIG)
    stored = next(dtype for name, dtype in DTYPES.items() if name in dtypes)
    # Of a multimodal model each part states its own.
    parts = [part for part in config.values() if isinstance(part, dict) and {"dtype", "torch_dtype"} & part.keys()]
    stating = [config, *parts]
    if any(str(part.get("dtype") or part.get("torch_dtype")) != stored for part in stating):
        for part in stating:
            part.pop("torch_dtype", None)
            part["dtype"] = stored
        write_json(out / checkpoints.CONFIG, config)
    if untied:
        parts = [part for key, part in config.items() if key == "text_config" and isinstance(part, dict)]
        for part in (config, *parts):
            part["tie_word_embeddings"] = False
        write_json(out / checkpoints.CONFIG, config)
