"""Merge checkpoints of one architecture into one, a piece of a tensor at a time.

The methods are the entries of `steps.settings.merging.MERGES`, which say what each gives.
Definitions are those of mergekit 0.1.5 at each method's defaults, computed in float32 and rounded once. Some are about
changes of `--base`. Numbers of a setting may follow the depth of the layers. No more than a few MiB of each model are
in memory, whatever the size of its tensors. An adapter is the exception: it is merged into its base in memory, one
parent after the other, and streamed from a temporary file. Shards are laid out as those of the first parent; config and
tokenizer are its own, with the dtype that is written and, with `tokenizer: union`, the tokens that others added.

Run as: python -m steps.recipes.merge --settings '{"method": "linear", "weights": [0.5, 0.5]}'
    --parents data/fable/base results/fable/foundation/sft --out results/fable/foundation/blend
"""

import argparse
import math
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from steps.core.files import fresh_folder, write_text
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.models import checkpoints, stacking, tokens
from steps.models.compatible import check_compatible, check_config, check_vocabulary
from steps.models.merging import OF_LAYERS, check_settings, in_layer, merged, spans
from steps.models.paths import layer
from steps.models.weights import (
    Weights,
    copy_companions,
    merged_dtype,
    write_model,
)

# --- files ----------------------------------------------------------------------------------------


def write_weights(out: Path, parents: list[Weights], base: Weights | None, settings: dict) -> set[str]:
    """Merge tensor after tensor into files laid out as those of the first parent; returns the dtypes written."""
    first, layers = parents[0], stacking.depth(parents[0])
    made: dict[str, stacking.Origin] = {}
    like: Any = first
    if settings["method"] in OF_LAYERS:
        made = stacking.stacked(settings["slices"], parents)
        like = stacking.as_model(made, parents)
        dtypes = {name: merged_dtype(of.name, [parents[of.parent]], None, settings) for name, of in made.items()}
    else:
        dtypes = {name: merged_dtype(name, parents, base, settings) for name in first.tensors}
    sizes = {name: math.prod(tensor.shape) for name, tensor in like.tensors.items()}
    progress = Progress("merge", sum(sizes.values()), "parameters")
    merged_parameters = 0

    def chunks(name: str) -> Iterator[Any]:
        if made:
            parent, own = parents[made[name].parent], made[name].name
            yield from (parent.read(own, *span) for span in spans(sizes[name]))
            return
        reads = [partial(model.read, name) for model in parents]
        own, columns = in_layer(settings, layer(name), layers), (first.tensors[name].shape or [1])[-1]
        yield from merged(name, sizes[name], reads, base and partial(base.read, name), own, columns)
        for model in (*parents, *([base] if base else [])):
            model.forget(name)

    def done(name: str) -> None:
        nonlocal merged_parameters
        merged_parameters += sizes[name]
        progress.update(merged_parameters)

    write_model(out, like, dtypes, chunks, done)
    return {*dtypes.values()}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    check_settings(settings, args.parents, args.base)
    folders = [*args.parents, *([args.base] if args.base else [])]
    inputs = [path for folder in dict.fromkeys(folders) for path in checkpoints.check(folder)]
    stacks = settings["method"] in OF_LAYERS
    union = tokens.union_of(folders) if settings.get("tokenizer") == "union" else None
    if union is None:
        check_vocabulary(folders)
    check_config(folders, depth=not stacks)
    models = [Weights(folder) for folder in folders]
    if stacks:
        stacking.check_slices(settings["slices"], models)
    else:
        check_compatible(models, union.by_token if union else ())

    out = fresh_folder(args.out)
    merged_adapters = [out / f".adapter-{index}" for index in range(len(models))]
    for model, path in zip(models, merged_adapters, strict=True):
        if checkpoints.is_adapter(model.folder):
            model.merge_adapter(path, union.by_token if union else ())
    own_head = next((model.own_head for model in models if model.own_head), None)
    for model in models if own_head else ():
        model.untie(*own_head)
    parents, base = models[: len(args.parents)], models[-1] if args.base else None
    rows = tokens.arrange(union, models, base) if union else 0
    dtypes = write_weights(out, parents, base, settings)
    for path in merged_adapters:
        shutil.rmtree(path, ignore_errors=True)

    copy_companions(args.parents[0], out, dtypes, untied=own_head is not None)
    counts = {"parents": len(parents), "tensors": len(parents[0].tensors)}
    if union:
        tokens.write_union(union, rows, out)
        counts["tokens"] = {"union": len(union.tokens), "added": len(union.added)}
    if stacks:
        stacking.write_depth(settings["slices"], args.parents, out)
        counts["layers"] = sum(end - begin for begin, end in (one["layers"] for one in settings["slices"]))
    write_text(out / "README.md", checkpoints.model_card(out.name, "merge", folders, settings, counts, "transformers"))
    write_manifest(out, step="merge", settings=settings, inputs=inputs, counts=counts, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parents", type=Path, nargs="+", required=True, help="checkpoint folders")
    parser.add_argument("--base", type=Path, help="checkpoint whose changes are merged, where the method has one")
    run(main, parser)
