"""A model with the chat template that its entry of `models` describes, as all that starts from it reads it.

In: a checkpoint folder. Out: the same files, linked where the file system can, and chat_template.jinja: the template of
the folder or of the settings, behind what sets its variables, adds a system turn or folds one into the question, and
ends answers (`steps/models/composed.py`). Every checkpoint that descends from it carries that template.

Run as: python -m steps.recipes.prepare --settings '{"name": "base", "template_kwargs": {"enable_thinking": false}}'
    --model data/fable/base --out results/fable/prepare/base
"""

import argparse
import os
import shutil
import time
from pathlib import Path
from typing import Any

from steps.core.files import fresh_folder, write_json, write_text
from steps.core.manifest import visible_files, write_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from steps.core.step import run, step_parser
from steps.models import checkpoints
from steps.models.chat import QUESTION, Chat
from steps.models.composed import TEMPLATE, check, template_of
from steps.models.files import read_config
from steps.models.unfit import Unfit
from steps.settings.data import is_file_of_template

TOKENIZER_CONFIG = "tokenizer_config.json"


def link(source: Path, target: Path) -> None:
    """The file itself by another name, or a copy where that cannot be: weights have many gigabytes."""
    real = Path(os.path.realpath(source))
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)


def link_model(model: Path, out: Path) -> None:
    """The files of a model in another folder, its chat template aside."""
    for path in visible_files(model):
        if path.name == TOKENIZER_CONFIG:
            config = read_config(path)
            # In chat_template.jinja alone, so that nothing can read another one.
            write_json(out / path.name, {key: value for key, value in config.items() if key != "chat_template"})
        elif path.name not in (MANIFEST, PROVENANCE, TEMPLATE):
            link(path, out / path.name)


def without(settings: dict, key: str) -> dict:
    return {name: value for name, value in settings.items() if name != key}


def check_end(tokenizer: Any, end: str, where: str) -> None:
    """Raise a ValueError for an end of turn that the tokenizer would cut, or that the template has already.

    Args:
        tokenizer: with the template as it is without that end.
    """
    added = sorted({*tokenizer.all_special_tokens, *(t.content for t in tokenizer.added_tokens_decoder.values())})
    if end not in added:
        known = ", ".join(added[:9])
        raise ValueError(f"{where}.end_of_turn: {end!r} is no token of the tokenizer; write one of {known}")
    if (own := Chat(tokenizer).end) is not None:
        raise ValueError(
            f"{where}.end_of_turn: the chat template ends an answer with {own} already; remove the setting"
        )


def check_system(tokenizer: Any, system: str, where: str) -> None:
    """Raise a ValueError for a system turn that the template, as it is without that turn, does not write."""
    fix = "write fold_system: true, which puts it before the first question"
    try:
        text = Chat(tokenizer).opened([{"role": "system", "content": system}, *QUESTION])
    except Unfit as error:
        raise ValueError(f"{where}.system: the chat template takes no system turn ({error.detail}); {fix}") from error
    if system.strip() not in text:
        raise ValueError(f"{where}.system: the chat template leaves a system turn out; {fix}")


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    where = f"models.{settings['name']}"
    inputs = checkpoints.check(args.model)
    given = settings.get("chat_template", "")
    check(args.model, settings, where)
    out = fresh_folder(args.out)
    link_model(args.model, out)
    for key, check_one in (("system", check_system), ("end_of_turn", check_end)):
        if key in settings:
            write_text(out / TEMPLATE, str(template_of(args.model, without(settings, key))))
            check_one(checkpoints.load_tokenizer(out), settings[key], where)
    template = str(template_of(args.model, settings))
    write_text(out / TEMPLATE, template)
    Chat(checkpoints.load_tokenizer(out)).check()
    write_manifest(
        out,
        step="prepare",
        settings=settings,
        inputs=[*inputs, *([Path(given)] if is_file_of_template(given) else [])],
        counts={"template_characters": len(template)},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model or of a PEFT adapter")
    run(main, parser)
