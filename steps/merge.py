"""Merge checkpoints of one architecture into one, tensor by tensor.

`linear` is the weighted sum of the parents' weights (model soups, https://arxiv.org/abs/2203.05482). Adapters
are merged into their bases first. Config and tokenizer are those of the first parent.

Run as: python -m steps.merge --settings '{"method": "linear", "weights": [0.5, 0.5]}'
    --parents data/fable/base results/fable/foundation/sft --out results/fable/foundation/blend
"""

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps import checkpoints
from steps.common import fresh_folder, read_json, run, step_parser, write_json, write_manifest, write_text

SHARD_BYTES = 2 * 2**30  # at most this much of the merged model is in memory, and one tensor of each parent
COPIED = ("config.json", "generation_config.json")
COPIED_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


class Weights:
    """The named tensors of one checkpoint, read one at a time; an adapter's are in memory, merged."""

    def __init__(self, folder: Path):
        from safetensors import safe_open

        self.folder = folder
        self.source: dict[str, Any] = {}
        base = folder
        while checkpoints.is_adapter(base):
            base = checkpoints.adapter_base(base)
        for path in checkpoints.weight_files(base):
            file = safe_open(path, framework="pt")
            self.source |= dict.fromkeys(file.keys(), file)
        if checkpoints.is_adapter(folder):
            import torch

            merged = checkpoints.load_model(folder, torch.float32).state_dict()
            self.source = {name: merged[name] for name in self.source}

    def shape(self, name: str) -> list[int]:
        source = self.source[name]
        return source.get_slice(name).get_shape() if hasattr(source, "get_slice") else list(source.shape)

    def tensor(self, name: str) -> Any:
        source = self.source[name]
        return source.get_tensor(name) if hasattr(source, "get_tensor") else source


def check_weights(settings: dict, parents: list[Path]) -> None:
    """Raises:
    ValueError: the weights do not fit the parents.
    """
    weights = settings["weights"]
    if len(weights) != len(parents):
        raise ValueError(
            f"weights: {len(weights)} numbers for {len(parents)} parents; give one for each entry of from:"
        )
    if not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ValueError(f"weights: they sum to {sum(weights):g}, not 1; the merge would scale the model")


def check_compatible(parents: list[Weights]) -> None:
    """Raises:
    ValueError: naming the first tensor, in order of names, that is missing somewhere or differs in shape.
    """
    first = parents[0]
    for other in parents[1:]:
        for name in sorted(first.source.keys() | other.source.keys()):
            for here, there in ((first, other), (other, first)):
                if name not in here.source:
                    raise ValueError(f"{name} is in {there.folder} but not in {here.folder}: different architectures")
            if first.shape(name) != other.shape(name):
                raise ValueError(
                    f"{name} is {first.shape(name)} in {first.folder} but {other.shape(name)} in {other.folder}:"
                    " parents of a merge need the same architecture and vocabulary"
                )


def check_vocabulary(folders: list[Path]) -> None:
    """Raises:
    ValueError: tokenizers disagree; tensors of equal shape would then be averaged over different tokens.
    """

    def vocabulary(folder: Path) -> tuple:
        tokenizer = read_json(folder / "tokenizer.json")
        return tokenizer["model"]["vocab"], {t["content"]: t["id"] for t in tokenizer["added_tokens"]}

    first = vocabulary(folders[0])
    for folder in folders[1:]:
        if vocabulary(folder) != first:
            raise ValueError(f"{folder / 'tokenizer.json'} has another vocabulary than that of {folders[0]}")


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
    total = sum(tensor.to(torch.promote_types(dtype, torch.float32)) * weight for tensor, weight in chosen)
    return total.to(dtype)


def merged_tensors(parents: list[Weights], settings: dict) -> Iterator[tuple[str, Any]]:
    for name in sorted(parents[0].source):
        yield name, linear([parent.tensor(name) for parent in parents], settings["weights"])


def write_weights(out: Path, tensors: Iterator[tuple[str, Any]], shard_bytes: int = SHARD_BYTES) -> None:
    """Stream named tensors into `model.safetensors`, or into numbered shards with their index."""
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    shard: dict[str, Any] = {}
    size = total = 0

    def flush() -> None:
        nonlocal shard, size
        save_file(shard, out / f"shard-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard, size = {}, 0

    for name, tensor in tensors:
        if shard and size + tensor.nbytes > shard_bytes:
            flush()
        shard[name] = tensor.contiguous()
        size += tensor.nbytes
        total += tensor.nbytes
    flush()

    if len(shards) == 1:
        (out / "shard-0").rename(out / checkpoints.WEIGHTS)
        return
    weight_map = {}
    for index, names in enumerate(shards):
        file = f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors"
        (out / f"shard-{index}").rename(out / file)
        weight_map |= dict.fromkeys(names, file)
    write_json(out / checkpoints.WEIGHTS_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_weights(settings, args.parents)
    inputs = [path for parent in args.parents for path in checkpoints.check(parent)]
    check_vocabulary(args.parents)
    parents = [Weights(folder) for folder in args.parents]
    check_compatible(parents)

    out = fresh_folder(args.out)
    write_weights(out, merged_tensors(parents, settings))
    base = args.parents[0]
    for name in COPIED_TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    while checkpoints.is_adapter(base):
        base = checkpoints.adapter_base(base)
    for name in COPIED:
        if (base / name).is_file():
            shutil.copyfile(base / name, out / name)
    counts = {"parents": len(parents), "tensors": len(parents[0].source)}
    card = checkpoints.model_card(out.name, "merge", args.parents, settings, counts, "transformers")
    write_text(out / "README.md", card)
    write_manifest(out, step="merge", settings=settings, inputs=inputs, counts=counts, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parents", type=Path, nargs="+", required=True, help="checkpoint folders")
    run(main, parser)
