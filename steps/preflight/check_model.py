"""Whether a base model is what the stages take it for, before anything rests on it.

Most models that work elsewhere work here, and some would silently train on other tokens than they are asked with, or
on rows that see each other. So each assumption is tried on the model at hand (`steps.preflight.properties`): what
cannot hold is handled, and the result says how, or the step ends with one line that says what to set.

Everything runs in float32, as trainings load a model; a few forward passes over a hundred tokens, and none with
gradients.

Out: layout.json (how rows are packed and padded ones numbered, which trainings read), check.json (every property as it
was measured, whose last digits are the machine's), check.md (the same as a table for people).

Run as: python -m steps.preflight.check_model --settings '{}' --model data/fable/base
    --out results/fable/check_model/base
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from steps.core.files import fresh_folder, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.engines.transformers import Engine
from steps.models import checkpoints, trial
from steps.models.chat import Chat
from steps.preflight import adapters, properties
from steps.preflight.properties import Property
from steps.training import layouts

CHECK = "check.json"
LAYOUT = "layout.json"
TABLE = "check.md"
# Of a line of the table, as a terminal shows it.
HEAD = ("property", "found", "how the model is treated")


def checked(folder: Path) -> dict:
    """What check.json says of a model.

    Raises:
        ValueError: the model is not what the stages need; the message says what to set.
    """
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = checkpoints.load_model(folder, torch.float32).to(device).eval()
    tokenizer = checkpoints.load_tokenizer(folder)
    chat = Chat(tokenizer)
    chat.check()
    engine = Engine(model, tokenizer, batch_size=8)
    with trial.running(model):
        read, found = properties.reading(model)
        found = [
            *properties.weights(model, folder),
            *properties.tokens(engine, folder),
            *properties.asks(engine, chat),
            *properties.ends(engine, chat),
            *found,
            *properties.experts(model),
            *properties.samples(engine),
        ]
    kinds = adapters.attached(model)
    found += adapters.lines(kinds)
    return {
        "architecture": model.config.model_type,
        **read,
        "context": engine.max_length,
        "adapters": kinds,
        "properties": [asdict(one) for one in found],
    }


def table(name: str, result: dict) -> str:
    """The properties as Markdown."""
    rows = [Property(**one) for one in result["properties"]]
    lines = [HEAD, ("---",) * len(HEAD), *((row.name, row.found, row.treated or "as it is") for row in rows)]
    cells = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines]
    return f"## {name}: {result['architecture']}\n\n{''.join(cells)}\n"


def main(args: argparse.Namespace) -> None:
    started = time.time()
    inputs = checkpoints.check(args.model)
    result = checked(args.model)
    out = fresh_folder(args.out)
    write_json(out / CHECK, result)
    write_json(out / LAYOUT, {key: result[key] for key in (layouts.LAYOUT, layouts.BY_MASK)})
    write_text(out / TABLE, table(out.name, result))
    print(table(out.name, result), flush=True)
    treated = {one["name"]: one["treated"] for one in result["properties"] if one["treated"]}
    write_manifest(
        out,
        step="check_model",
        settings=args.settings,
        inputs=inputs,
        counts={"layout": result["layout"], "properties": len(result["properties"]), "treated": treated},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="the base model's folder")
    run(main, parser)
