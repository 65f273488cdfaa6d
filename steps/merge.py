"""Merge checkpoints of one architecture into one, a piece of a tensor at a time.

linear            sum of w_i p_i over the parents p_i (model soups, arXiv:2203.05482); the weights sum to 1
slerp             the arc from the first parent to the second, each tensor taken as one vector; linear where their
                  cosine is above 0.9995, as it is for 17 of the 46 tensors of two fine-tunes of fable's base
task_arithmetic   base + scale * sum of w_i (p_i - base) (arXiv:2212.04089)
ties              the same of trimmed changes: the `density` largest of each tensor; only parents that agree with the
                  sign of the sum count, and their weights are scaled to sum to 1 (arXiv:2306.01708)
dare_linear       task_arithmetic of changes of which a random share `density` is kept, scaled up to the L1 norm of
                  the whole change (arXiv:2311.03099 scales by 1/density, which this is on average)
dare_ties         dare_linear with the vote on signs of ties, without its scaling of the weights

Definitions are those of mergekit 0.1.5 at each method's defaults, computed in float32 and rounded once. The last four
are about changes of `--base`. No more than a few MiB of each model are in memory, whatever the size of its tensors. An
adapter is the exception: it is merged into its base in memory, one parent after the other, and streamed from a
temporary file. Shards are laid out as those of the first parent; config and tokenizer are its own.

Run as: python -m steps.merge --settings '{"method": "linear", "weights": [0.5, 0.5]}'
    --parents data/fable/base results/fable/foundation/sft --out results/fable/foundation/blend
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from steps import checkpoints
from steps.common import Progress, fresh_folder, read_json, run, step_parser, write_json, write_manifest, write_text

METHODS = {  # the settings that act
    "linear": {"weights"},
    "slerp": {"t"},
    "task_arithmetic": {"weights", "scale"},
    "ties": {"weights", "density", "scale"},
    "dare_linear": {"weights", "density", "scale", "seed"},
    "dare_ties": {"weights", "density", "scale", "seed"},
}
OVER_BASE = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
# Elements at a time, even because `kept_at_random` draws pairs. 256 KiB in float32 stay in the cache of a core and
# below the size at which the allocator returns memory: 2**18 takes twice as long on a virtual machine.
CHUNK = 2**16
SLERP_COSINE = 0.9995
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# What changes a model's function without changing a shape.
SAME_CONFIG = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_parameters",
    "tie_word_embeddings",
)
COPIED = ("config.json", "generation_config.json")
COPIED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

Read = Callable[[int, int], Any]  # start, stop -> these elements of a flattened tensor


class Stored(NamedTuple):
    """Where a tensor lies: in which open file, from which byte of it on."""

    file: BinaryIO
    dtype: str
    shape: list[int]
    first: int


def full_checkpoint(folder: Path) -> Path:
    """The folder itself, or what an adapter's base ends in."""
    while checkpoints.is_adapter(folder):
        folder = checkpoints.adapter_base(folder)
    return folder


def stored_tensors(path: Path) -> dict[str, Stored]:
    """What a safetensors file holds, in the order of its bytes (format: 8 bytes of length, a JSON header, the data).

    The file is not mapped: mapped pages would count as memory of the process.
    """
    file = open(path, "rb")
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    found = {
        name: Stored(file, entry["dtype"], entry["shape"], 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    return dict(sorted(found.items(), key=lambda item: item[1].first))


class Weights:
    """The named tensors of one checkpoint, read in pieces; an adapter's only after `merge_adapter`."""

    def __init__(self, folder: Path):
        self.folder, root = folder, full_checkpoint(folder)
        self.label = str(folder) if root == folder else f"{folder} (an adapter on {root})"
        self.indexed = (root / checkpoints.WEIGHTS_INDEX).is_file()
        self.tensors: dict[str, Stored] = {}
        for path in checkpoints.weight_files(root):
            self.tensors |= stored_tensors(path)
        # A tied model may store its head all the same. Merged on its own it could come out unlike the embeddings: the
        # random draws of dare go by names.
        if read_json(root / "config.json").get("tie_word_embeddings"):
            self.tensors.pop("lm_head.weight", None)
        self.layout: dict[str, list[str]] = {}  # file -> its tensors in the order of their bytes
        for name, stored in self.tensors.items():
            self.layout.setdefault(Path(stored.file.name).name, []).append(name)

    def merge_adapter(self, path: Path) -> None:
        """Write the model that an adapter makes to a file, in float32, and read from there."""
        import torch

        merged = checkpoints.load_model(self.folder, torch.float32).state_dict()
        layout = {name: ("F32", stored.shape) for name, stored in self.tensors.items()}
        write_safetensors(path, layout, lambda name: [merged[name].flatten()])
        self.tensors = stored_tensors(path)

    def size(self, name: str) -> int:
        return math.prod(self.tensors[name].shape)

    def read(self, name: str, start: int, stop: int) -> Any:
        """Elements of a flattened tensor, in its own dtype. Threads may read at once."""
        import torch

        stored = self.tensors[name]
        out = torch.empty(stop - start, dtype=getattr(torch, DTYPES[stored.dtype]))
        position, left = stored.first + start * out.itemsize, memoryview(out.view(torch.uint8).numpy())
        while left:
            read = os.preadv(stored.file.fileno(), [left], position)
            if not read:
                raise ValueError(f"{stored.file.name} ends inside {name}; make or download it again")
            position, left = position + read, left[read:]
        return out

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


# --- what can be merged ---------------------------------------------------------------------------


def check_settings(settings: dict, parents: list[Path], base: Path | None) -> None:
    """Raises:
    ValueError: the settings do not fit the method or the parents.
    """
    method, given = settings.get("method"), settings.keys() - {"method"}
    if method not in METHODS:
        raise ValueError(f"method: {method} is none of {', '.join(METHODS)}")
    for key in sorted(METHODS[method] ^ given):
        raise ValueError(f"{key}: {method} has no such setting" if key in given else f"{key}: {method} needs it")
    if method in OVER_BASE and base is None:
        raise ValueError(f"--base: {method} merges the changes of a base model; name its folder")
    if method not in OVER_BASE and base is not None:
        raise ValueError(f"--base: {method} has no base; leave it out")
    if method == "slerp" and len(parents) != 2:
        raise ValueError(f"method: slerp is between two parents, not {len(parents)}")
    if "t" in given and not 0 <= settings["t"] <= 1:
        raise ValueError(f"t: {settings['t']:g} is not from 0 (the first parent) to 1 (the second)")
    if "density" in given and not 0 < settings["density"] <= 1:
        raise ValueError(f"density: {settings['density']:g} is no share above 0 and up to 1")
    weights = settings.get("weights", [])
    if "weights" in given and len(weights) != len(parents):
        raise ValueError(
            f"weights: {len(weights)} numbers for {len(parents)} parents; give one for each entry of from:"
        )
    if method == "linear" and not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"weights: they sum to {sum(weights):g}, not 1; the merge would scale the model")


def check_compatible(parents: list[Weights]) -> None:
    """Raises:
    ValueError: naming the first tensor, in order of names, that is missing somewhere, differs in shape or is no
        floating point number.
    """
    first = parents[0]
    for other in parents:
        for name in sorted(first.tensors.keys() | other.tensors.keys()):
            for here, there in ((first, other), (other, first)):
                if name not in here.tensors:
                    raise ValueError(f"{name} is in {there.label} but not in {here.label}: different architectures")
            if first.tensors[name].shape != other.tensors[name].shape:
                raise ValueError(
                    f"{name} is {first.tensors[name].shape} in {first.label} but {other.tensors[name].shape} in"
                    f" {other.label}: parents of a merge need the same architecture and vocabulary"
                )
            if other.tensors[name].dtype not in DTYPES:
                raise ValueError(
                    f"{name} is {other.tensors[name].dtype} in {other.label}: only {', '.join(DTYPES)} can be merged;"
                    " convert the checkpoint first"
                )


def check_config(folders: list[Path]) -> None:
    """Raises:
    ValueError: naming the first setting of config.json that makes equal weights compute something else.
    """
    paths = [full_checkpoint(folder) / "config.json" for folder in folders]
    first = read_json(paths[0])
    for path in paths[1:]:
        other = read_json(path)
        for key in SAME_CONFIG:
            # A key that one lacks is a default, or another version's name for it.
            if key in first and key in other and first[key] != other[key]:
                raise ValueError(
                    f"{key} is {json.dumps(first[key])} in {paths[0]} but {json.dumps(other[key])} in {path}:"
                    " different architectures"
                )


def check_vocabulary(folders: list[Path]) -> None:
    """Raises:
    ValueError: tokenizers disagree; tensors of equal shape would then be averaged over different tokens.
    """

    def vocabulary(folder: Path) -> dict[str, int]:
        tokenizer = read_json(folder / "tokenizer.json")
        tokens = tokenizer["model"]["vocab"]
        if isinstance(tokens, list):  # Unigram: pieces with their scores
            tokens = {piece: index for index, (piece, _) in enumerate(tokens)}
        return tokens | {token["content"]: token["id"] for token in tokenizer["added_tokens"]}

    first = vocabulary(folders[0])
    for folder in folders[1:]:
        other = vocabulary(folder)
        if other != first:
            token = min(token for token in first.keys() | other.keys() if first.get(token) != other.get(token))
            here, there = (tokens.get(token, "missing") for tokens in (first, other))
            raise ValueError(
                f"{folder / 'tokenizer.json'} has another vocabulary than that of {folders[0]}: the id of"
                f" {json.dumps(token)} is {there} there and {here} here"
            )


# --- methods --------------------------------------------------------------------------------------


def linear(tensors: list[Any], weights: list[float]) -> Any:
    """Weighted sum of equally shaped tensors, in float32 at least, stored in the widest of their dtypes.

    A parent with weight 0 is not read into the sum, and one with weight 1 alone is returned as it is: the ends
    of a sweep are bit-equal to the parents.
    """
    import torch

    chosen = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight != 0]
    if len(chosen) == 1 and chosen[0][1] == 1:
        return chosen[0][0]
    dtype = chosen[0][0].dtype
    for tensor, _ in chosen:
        dtype = torch.promote_types(dtype, tensor.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    total = chosen[0][0].to(wide) * chosen[0][1]
    for tensor, weight in chosen[1:]:
        total += tensor.to(wide) * weight
    return total.to(dtype)


def spans(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, CHUNK):
        yield start, min(start + CHUNK, size)


def slerp_weights(size: int, first: Read, second: Read, t: float) -> list[float]:
    """Weights of two tensors such that their sum lies on the arc between them: sin((1 - t) angle) / sin(angle) and
    sin(t angle) / sin(angle) (Shoemake 1985)."""
    import torch

    a = b = ab = 0.0
    for span in spans(size):
        x, y = first(*span).double(), second(*span).double()
        a, b, ab = a + torch.dot(x, x).item(), b + torch.dot(y, y).item(), ab + torch.dot(x, y).item()
    # A tensor of zeros has no direction: mergekit takes a right angle.
    norms = [norm if norm > 1e-8 else 1.0 for norm in (math.sqrt(a), math.sqrt(b))]
    cosine = max(-1.0, min(1.0, ab / norms[0] / norms[1]))
    if abs(cosine) > SLERP_COSINE:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


Changes = Callable[[], Iterator[Any]]  # a pass over one tensor: float32 chunks [parents, elements] of parent - base
Keep = Callable[[Any], Any]  # what is kept of such a chunk; called with the chunks in order, may change them


def kept_by_magnitude(changes: Changes, parents: int, size: int, density: float) -> Keep:
    """Keeps exactly max(1, int(density * size)) elements of each row, those of the largest magnitude.

    Of equal magnitudes the first are kept; mergekit leaves it to its sort. Without the sign, floats are in the order
    of their bits. So the smallest magnitude that stays is found in two passes, by counting the upper 13 bits of all
    and then the lower 18 bits of those that share its upper ones: exact, and without a sorted copy of the tensor.
    """
    import numpy as np
    import torch

    def find(counts: Any, rank: int) -> tuple[int, int]:
        """The bin with the element of a rank, counted from the largest, and its rank within that bin."""
        above = np.cumsum(counts[::-1])
        index = int(np.searchsorted(above, rank))
        return len(counts) - 1 - index, rank - int(above[index - 1] if index else 0)

    rows = range(parents)
    counts = np.zeros((parents, 2**13), np.int64)
    for chunk in changes():
        for row, bits in enumerate(chunk.abs_().view(torch.int32)):
            counts[row] += torch.bincount(bits >> 18, minlength=2**13).numpy()
    upper = [find(counts[row], max(1, int(density * size))) for row in rows]
    counts = np.zeros((parents, 2**18), np.int64)
    for chunk in changes():
        for row, bits in enumerate(chunk.abs_().view(torch.int32).numpy()):
            np.add.at(counts[row], bits[bits >> 18 == upper[row][0]] & (2**18 - 1), 1)
    lower = [find(counts[row], upper[row][1]) for row in rows]
    smallest = torch.tensor([upper[row][0] << 18 | lower[row][0] for row in rows], dtype=torch.int32)
    at, below = smallest.view(torch.float32).tolist(), (smallest - 1).clamp_(0).view(torch.float32).tolist()
    ties = [lower[row][1] for row in rows]  # how many elements of the smallest magnitude still stay

    def keep(chunk: Any) -> Any:
        for row, values in enumerate(chunk):
            if ties[row]:
                equal = np.flatnonzero(np.abs(values.numpy()) == at[row])
                values.numpy()[equal[ties[row] :]] = 0
                ties[row] -= min(ties[row], len(equal))
                torch.nn.functional.hardshrink(values, below[row], out=values)
            else:
                torch.nn.functional.hardshrink(values, at[row], out=values)
        return chunk

    return keep


def kept_at_random(seed: int, name: str, parent: int, density: float) -> Callable[[int], Any]:
    """A stream of mask elements, True with the probability `density`, that the arguments alone decide.

    32 bits each, of NumPy's SFC64, whose streams do not change between versions.
    """
    import numpy as np

    digest = hashlib.sha256(f"{seed}\0{parent}\0{name}".encode()).digest()
    stream = np.random.SFC64(int.from_bytes(digest, "big"))

    def draw(count: int) -> Any:
        return stream.random_raw((count + 1) // 2).view(np.uint32)[:count] < round(density * 2**32)

    return draw


def kept_by_dare(changes: Changes, parents: int, name: str, density: float, seed: int) -> Keep:
    """Keeps a random share of each row, scaled to the L1 norm that the whole row had."""
    import numpy as np

    def streams() -> list[Callable[[int], Any]]:
        return [kept_at_random(seed, name, parent, density) for parent in range(parents)]

    before, after = [0.0] * parents, [0.0] * parents
    draws = streams()
    for chunk in changes():
        for row, values in enumerate(chunk.abs_().numpy()):
            before[row] += float(values.sum())
            after[row] += float(np.multiply(values, draws[row](len(values)), out=values).sum())
    # 1e-7 is mergekit's: a change as good as zero is not scaled.
    factors = [old / new if min(old, new) >= 1e-7 else 1.0 for old, new in zip(before, after, strict=True)]
    again = streams()

    def keep(chunk: Any) -> Any:
        for row, values in enumerate(chunk.numpy()):
            np.multiply(values, again[row](len(values)), out=values)
            values *= factors[row]
        return chunk

    return keep


def sum_of_rows(rows: Any) -> Any:
    """The sum that torch's `sum(0)` gives, in a third of its time."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def sum_of_changes(deltas: Any, weights: Any, vote: bool, normalize: bool) -> Any:
    """Changes [parents, elements] times weights [parents, 1], summed over the parents; overwrites the changes.

    vote: only those count that have the sign of the sum (of zero: plus). normalize: their weights are divided by
    their sum.
    """
    import torch

    total = sum_of_rows(deltas.mul_(weights))
    if not vote:
        return total
    # Arithmetic on signs: torch's operations on booleans take five times as long.
    sign = torch.ones_like(total).copysign_(total)
    total = sum_of_rows(deltas.mul_(sign).relu_()).mul_(sign)
    if normalize:
        divisor = sum_of_rows(deltas.sign_().mul_(weights))
        divisor.numpy()[divisor.numpy() == 0] = 1
        total /= divisor
    return total


def merged_changes(name: str, size: int, parents: list[Read], base: Read, settings: dict) -> Iterator[Any]:
    import torch

    def rows() -> Iterator[tuple[Any, Any]]:
        for span in spans(size):
            origin = base(*span).float()
            deltas = torch.empty(len(parents), len(origin))
            for row, read in zip(deltas, parents, strict=True):
                torch.sub(read(*span).float(), origin, out=row)
            yield origin, deltas

    def changes() -> Iterator[Any]:
        return (deltas for _, deltas in rows())

    method, density = settings["method"], settings.get("density", 1)
    keep: Keep | None = None
    if density < 1 and method == "ties":
        keep = kept_by_magnitude(changes, len(parents), size, density)
    elif density < 1:
        keep = kept_by_dare(changes, len(parents), name, density, settings["seed"])
    weights = torch.tensor(settings["weights"], dtype=torch.float32)[:, None]
    for origin, deltas in rows():
        kept = keep(deltas) if keep else deltas
        total = sum_of_changes(kept, weights, vote=method.endswith("ties"), normalize=method == "ties")
        yield total.mul_(settings["scale"]).add_(origin)


def merged(name: str, size: int, parents: list[Read], base: Read | None, settings: dict) -> Iterator[Any]:
    """One merged tensor, flat, in consecutive chunks, in float32 or a dtype of its parents.

    name: decides the random draws of dare; size: elements of the tensor.
    """
    if settings["method"] in OVER_BASE:
        yield from merged_changes(name, size, parents, base, settings)
        return
    weights = slerp_weights(size, *parents, settings["t"]) if settings["method"] == "slerp" else settings["weights"]
    for span in spans(size):
        yield linear([read(*span) for read in parents], weights)


# --- files ----------------------------------------------------------------------------------------


def write_safetensors(
    path: Path, layout: dict, chunks: Callable[[str], Iterable[Any]], done: Callable[[str], None] | None = None
) -> int:
    """Stream tensors into a file of the format that `stored_tensors` reads; returns their bytes.

    layout: name -> (dtype, shape); chunks: the flat pieces of a named tensor, in order. Their places follow from the
    layout, so that each of torch's threads writes a tensor of its own; done: told of each one written.
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
                left = memoryview(chunk.to(dtypes[name]).view(torch.uint8).numpy())
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
    """The widest dtype of those that act: a parent of weight 0 in a linear merge does not."""
    import torch

    weights = settings["weights"] if settings["method"] == "linear" else [1] * len(parents)
    acting = [parent for parent, weight in zip(parents, weights, strict=True) if weight != 0]
    found = [model.tensors[name].dtype for model in ([base] if base else []) + acting]
    widest = getattr(torch, DTYPES[found[0]])
    for dtype in found[1:]:
        widest = torch.promote_types(widest, getattr(torch, DTYPES[dtype]))
    return next(stored for stored, dtype in DTYPES.items() if getattr(torch, dtype) == widest)


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


def copy_companions(folder: Path, out: Path) -> None:
    """Copy the tokenizer and the config of a checkpoint; an adapter's config is that of its full model."""
    for source, names in ((folder, COPIED_TOKENIZER), (full_checkpoint(folder), COPIED)):
        for name in names:
            if (source / name).is_file():
                shutil.copyfile(source / name, out / name)


def write_weights(out: Path, parents: list[Weights], base: Weights | None, settings: dict) -> None:
    """Merge tensor after tensor into files laid out as those of the first parent."""
    first = parents[0]
    dtypes = {name: merged_dtype(name, parents, base, settings) for name in first.tensors}
    progress = Progress("merge", sum(map(first.size, first.tensors)), "parameters")
    merged_parameters = 0

    def chunks(name: str) -> Iterator[Any]:
        reads = [partial(model.read, name) for model in parents]
        yield from merged(name, first.size(name), reads, base and partial(base.read, name), settings)
        for model in (*parents, *([base] if base else [])):
            model.forget(name)

    def done(name: str) -> None:
        nonlocal merged_parameters
        merged_parameters += first.size(name)
        progress.update(merged_parameters)

    write_model(out, first, dtypes, chunks, done)


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, args.parents, args.base)
    folders = [*args.parents, *([args.base] if args.base else [])]
    inputs = [path for folder in dict.fromkeys(folders) for path in checkpoints.check(folder)]
    check_vocabulary(folders)
    check_config(folders)
    models = [Weights(folder) for folder in folders]
    check_compatible(models)

    out = fresh_folder(args.out)
    merged_adapters = [out / f".adapter-{index}.safetensors" for index in range(len(models))]
    for model, path in zip(models, merged_adapters, strict=True):
        if checkpoints.is_adapter(model.folder):
            model.merge_adapter(path)
    parents, base = models[: len(args.parents)], models[-1] if args.base else None
    write_weights(out, parents, base, settings)
    for path in merged_adapters:
        path.unlink(missing_ok=True)

    copy_companions(args.parents[0], out)
    counts = {"parents": len(parents), "tensors": len(parents[0].tensors)}
    write_text(out / "README.md", checkpoints.model_card(out.name, "merge", folders, settings, counts, "transformers"))
    write_manifest(out, step="merge", settings=settings, inputs=inputs, counts=counts, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parents", type=Path, nargs="+", required=True, help="checkpoint folders")
    parser.add_argument("--base", type=Path, help="checkpoint whose changes are merged, where the method has one")
    run(main, parser)
