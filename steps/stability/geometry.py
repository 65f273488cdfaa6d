"""Measure how far a tuned model moved from its base: its weights, and what they do to prompts of both axes.

Per linear layer inside the transformer blocks: the size and shape of the update of its weights, the drift that the
update causes on the base's activations (target and general prompts apart), and how the layer's outputs differ between
the two models on the same tokens. The measures are those of PEFT-Arena (`steps.stability.measures`).

Both models read the same prompts once per axis, those of the base's evaluation. Weights are float32 on every device:
in bfloat16 the rounding of a merged adapter is as large as a small update. Memory holds both models and, for the axis
at hand, the outputs of both at the compared layers: 8 bytes × tokens × the sum of the layers' output widths (and a few
copies of one layer's at a time, in float64). What changed outside linear layers (embeddings, norms) is in the outputs,
not in the measures of weights.

In: base, tuned checkpoint or adapter, samples.jsonl and results.json of the base's evaluation. Out: modules.csv (a row
per layer), geometry.json (their means). Equal runs write equal bytes.

Run as: python -m steps.stability.geometry --settings '{"prompts": 300, "prompt_tokens": 1024, "tokens": 4096, …}'
    --base data/fable/base --checkpoint results/fable/foundation/sft
    --samples results/fable/evaluation/base/samples.jsonl --evaluation results/fable/evaluation/base/results.json
    --out results/fable/geometry/sft
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steps.core.files import csv_text, fresh_folder, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.engines.transformers import Engine
from steps.models import checkpoints
from steps.models.compatible import check_config
from steps.settings.axes import CAPABILITIES
from steps.stability.activations import axis_measures, cut
from steps.stability.compared import check_pair, choose_prompts, layer_number, linear_layers
from steps.stability.measures import MEASURES, weight_measures

if TYPE_CHECKING:
    from torch.nn import Linear


def modules_csv(rows: list[dict]) -> str:
    """A row per module; numbers to 9 digits, an undefined one empty."""
    written = (row | {m: "" if math.isnan(row[m]) else f"{row[m]:.9g}" for m in MEASURES} for row in rows)
    return csv_text(["module", "layer", "kind", *MEASURES], written)


def summary(rows: list[dict]) -> dict[str, float | None]:
    """Mean of every measure over the modules for which it is defined; None where it is for none."""
    means: dict[str, float | None] = {}
    for measure in MEASURES:
        values = [row[measure] for row in rows if not math.isnan(row[measure])]
        means[measure] = float(f"{math.fsum(values) / len(values):.9g}") if values else None
    return means


def measure_layers(
    base: Any, tuned: Any, layers: dict[str, Linear], prompts: dict[str, list[list[int]]], settings: dict
) -> list[dict]:
    """The rows of modules.csv.

    Args:
        layers: the base's, in whose names the tuned model's are looked up.
        prompts: axis → token ids.
    """
    progress = Progress("geometry", len(layers) * (1 + len(CAPABILITIES)), "measurements")
    measured: dict[str, dict] = {}
    for name, layer in layers.items():
        measured[name] = weight_measures(layer.weight, tuned.get_submodule(name).weight, settings["top"])
        progress.update(len(measured))
    frobenius = {name: measures["frobenius"] for name, measures in measured.items()}
    for number, axis in enumerate(CAPABILITIES, start=1):
        done = number * len(layers)
        of_axis = axis_measures(base, tuned, layers, prompts[axis], frobenius, settings, progress, done)
        for name, values in of_axis.items():
            measured[name] |= {f"{measure}_{axis}": value for measure, value in values.items()}
    return [
        {"module": name, "layer": layer_number(name), "kind": name.rsplit(".", 1)[-1], **measures}
        for name, measures in measured.items()
    ]


def main(args: argparse.Namespace) -> None:
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    started = time.time()
    settings = args.settings
    inputs = [*checkpoints.check(args.base), *checkpoints.check(args.checkpoint), args.samples, args.evaluation]
    texts = choose_prompts(args.samples, args.evaluation, settings["prompts"], settings["seed"])
    tokenizer = checkpoints.load_tokenizer(args.base)
    if tokenizer.get_vocab() != checkpoints.load_tokenizer(args.checkpoint).get_vocab():
        raise ValueError(f"{args.checkpoint / 'tokenizer.json'} has another vocabulary than that of {args.base}")
    check_config([args.base, args.checkpoint])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base, tuned = (
        checkpoints.load_model(folder, torch.float32).to(device).eval().requires_grad_(False)
        for folder in (args.base, args.checkpoint)
    )
    check_pair(base, tuned, (args.base, args.checkpoint))
    layers = linear_layers(base, settings["modules"])
    # As the evaluation coded them.
    engine = Engine(base, tokenizer, settings["batch_size"])
    longest = min(settings["prompt_tokens"], engine.max_length)
    prompts = {axis: cut(engine.encode(asked), longest, settings["tokens"]) for axis, asked in texts.items()}

    rows = measure_layers(base, tuned, layers, prompts, settings)

    out = fresh_folder(args.out)
    write_text(out / "modules.csv", modules_csv(rows))
    read = {axis: len(own) for axis, own in prompts.items()}
    tokens = {axis: sum(map(len, own)) for axis, own in prompts.items()}
    moved = sum(row["frobenius"] > 0 for row in rows)
    write_json(
        out / "geometry.json",
        {
            "base": str(args.base),
            "checkpoint": str(args.checkpoint),
            "prompts": read,
            "tokens": tokens,
            "moved": moved,
            "summary": summary(rows),
        },
    )
    write_manifest(
        out,
        step="geometry",
        settings=settings,
        inputs=inputs,
        counts={"modules": len(rows), "moved": moved, "prompts": read, "tokens": tokens},
        seed=settings["seed"],
        started=started,
        tokens=2 * sum(tokens.values()),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--base", type=Path, required=True, help="folder of the model that was tuned")
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of the tuned model or adapter")
    parser.add_argument("--samples", type=Path, required=True, help="samples.jsonl of the base's evaluation")
    parser.add_argument("--evaluation", type=Path, required=True, help="results.json of the base's evaluation")
    run(main, parser)
