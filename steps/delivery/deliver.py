"""Make one checkpoint ready to be used and published: whole weights, what loads them, a card, licences.

In: a checkpoint (an adapter is merged into its base), its evaluation and that of its base, the manifests of all that it
was made by. Out: a folder that transformers and `vllm serve` load and that the hub takes: safetensors, config.json,
tokenizer with chat template, generation_config.json, README.md (the card), licenses/. Nothing of the training is left.

What was written is loaded again and must be whole, in the right type, and answer as the source does.

Run as: python -m steps.delivery.deliver --settings '{"checkpoint": "sft", "license": null, …}'
    --checkpoint results/fable/foundation/sft --results results/fable
    --valid results/fable/data/problems/split/valid.jsonl --out results/fable/deliver/sft
"""

import argparse
import gc
import itertools
import time
from pathlib import Path
from typing import Any

from steps.core.files import fresh_folder, read_json, read_jsonl, write_json, write_text
from steps.core.manifest import LAST, read_manifest, write_manifest, write_sealed
from steps.core.promises import MANIFEST, PROVENANCE
from steps.core.step import run, step_parser
from steps.core.turns import asked_turns
from steps.delivery.licences import (
    PROJECT_LICENCE,
    PROJECT_LICENCE_ID,
    Part,
    copy_licences,
    data_parts,
    document_parts,
    model_part,
    numbered,
    public,
    release_licence,
)
from steps.models import checkpoints
from steps.models.fit import LOCAL
from steps.settings.data import is_file_of_template

# What transformers 5 notes in a tokenizer's configuration when it is saved again.
LOADED_BY = ("is_local", "local_files_only")
# Prompts and tokens of the check that the delivered model answers as its source.
CHECKED_PROMPTS = 2
CHECKED_TOKENS = 24


# --- what others may see -------------------------------------------------------------------------


def public_settings(settings: dict) -> dict:
    """The settings without what is of this machine: where files lie, and the server that sampled."""
    return settings | {
        "models": {
            name: model | {key: public(model[key]) for key in ("path", "folder")} | _public_template(model)
            for name, model in settings["models"].items()
        },
        "data": {
            name: [source | {key: public(source[key]) for key in ("path", "file")} for source in sources]
            for name, sources in settings["data"].items()
        },
        "documents": [public(file) for file in settings["documents"]],
        "nodes": [
            node
            | {"settings": {key: value for key, value in node["settings"].items() if key != "sampler"}}
            | {"accounts": [public(file) for file in node["accounts"]]}
            for node in settings["nodes"]
        ],
    }


def _public_template(model: dict) -> dict:
    file = model.get("chat_template", "")
    return {"chat_template": public(file)} if is_file_of_template(file) else {}


def from_here(path: Path) -> Path:
    """A path as a plan finds it again in this checkout; one outside of it as it is."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def publish(out: Path) -> None:
    """Take from the manifest and its provenance what is of this machine: absolute paths and the command."""
    manifest, provenance = read_manifest(out / MANIFEST), read_manifest(out / PROVENANCE)
    inputs = manifest["inputs"]
    names = (f"{Path(path).parent.name}/{public(path)}" if Path(path).is_absolute() else path for path in inputs)
    manifest["inputs"] = dict(zip(numbered(names), inputs.values(), strict=True))
    write_sealed(out / PROVENANCE, {key: value for key, value in provenance.items() if key != "argv"})
    write_sealed(out / MANIFEST, manifest)
    (out / LAST).unlink()


# --- weights -------------------------------------------------------------------------------------


def load_source(folder: Path, dtype: str) -> Any:
    """The model in the type of the release, once in memory: an adapter is merged in float32 and rounded after that."""
    import torch

    stored = checkpoints.stored_dtype(folder)
    target = stored if dtype == "stored" else getattr(torch, dtype)
    model = checkpoints.load_model(folder, torch.float32 if checkpoints.is_adapter(folder) else stored)
    # Each parameter, and not model.to(): that rounds the angles of rotary embeddings too, which are not stored.
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(target)
    model.config.dtype = target
    # Training switches it off, and it stays in the configuration.
    model.config.use_cache = True
    return model.eval()


def check_tokenizer(tokenizer: Any, model: Any, folder: Path) -> None:
    """Raises:
    ValueError: the checkpoint has no chat template, or tokens that the model does not know.
    """
    if tokenizer.chat_template is None:
        raise ValueError(f"{folder}: the tokenizer has no chat template; name one by models.<name>.chat_template")
    rows = model.get_input_embeddings().weight.shape[0]
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ValueError(
            f"{folder / 'tokenizer.json'}: has token {highest}, but the model's embeddings end at {rows - 1}; take the"
            " tokenizer that belongs to the model"
        )


def generation_config(sampling: dict, engine: Any, model: Any) -> Any:
    """What `generate` and a server do by default: end where the assistant's turn closes, sample as the settings say.

    Args:
        sampling: {"kind": "greedy"}, or {"kind": "sample", "temperature", "top_p"?, "top_k"?}.
    """
    from transformers import GenerationConfig

    chosen = {key: value for key, value in sampling.items() if key != "kind"}
    if sampling["kind"] == "sample":
        # Left out, transformers would take its own 50.
        chosen = {"do_sample": True, "top_k": 0} | chosen
    ends = engine.stop_ids
    return GenerationConfig(
        bos_token_id=model.generation_config.bos_token_id,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=engine.pad_id,
        **chosen,
    )


def answers(engine: Any, prompts: list) -> list[list[int]]:
    """The tokens of the greedy answers."""
    samples = engine.sample(prompts, temperature=0.0, max_new_tokens=CHECKED_TOKENS)
    return [list(sample.ids) for (sample,) in samples]


def verify(out: Path, dtype: Any, prompts: list, expected: list[list[int]]) -> None:
    """Load what was written as anybody would, and hold it against its source.

    Raises:
        AssertionError: it lacks a tensor, has one too many, is of another type, or answers otherwise.
    """
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    from steps.engines.transformers import Engine

    stored = set()
    for path in checkpoints.weight_files(out):
        with safe_open(path, framework="np") as file:
            stored |= {file.get_slice(name).get_dtype() for name in file.keys()}
    model, info = AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", use_safetensors=True, output_loading_info=True, **LOCAL
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    assert not wrong, f"{out}: the weights do not fit their configuration: {wrong}"
    name = str(dtype).removeprefix("torch.")
    assert model.dtype == dtype and len(stored) == 1, f"{out}: {name} was asked for; {model.dtype}, stored as {stored}"
    config = read_json(out / "config.json")
    assert config["dtype"] == name and config["architectures"] == [type(model).__name__], f"{out}: {config}"
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    assert (head is embeddings) == bool(model.config.get_text_config().tie_word_embeddings), f"{out}: tied weights"
    tokenizer = checkpoints.load_tokenizer(out)
    check_tokenizer(tokenizer, model, out)
    given = answers(Engine(model.eval(), tokenizer, CHECKED_PROMPTS), prompts)
    assert given == expected, f"{out}: its answers {given} are not those of its source {expected}"


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    from steps.delivery import card as delivery_card
    from steps.engines.transformers import Engine

    started = time.time()
    settings = args.settings
    inputs = checkpoints.check(args.checkpoint)
    models = {name: model_part(name, model) for name, model in settings["models"].items()}
    bases = {name: part for name, part in models.items() if settings["models"][name]["weights"]}
    licence = release_licence(settings["license"], bases)
    world = f"{args.results}/world/"
    parts = [*models.values(), *data_parts(settings["data"], world), *document_parts(settings["documents"], world)]
    parts.append(Part("temper", "Temper, which made the release", PROJECT_LICENCE_ID, [PROJECT_LICENCE]))
    facts = delivery_card.read(settings, args.results)
    model, tokenizer = load_source(args.checkpoint, settings["dtype"]), checkpoints.load_tokenizer(args.checkpoint)
    check_tokenizer(tokenizer, model, args.checkpoint)
    dtype, parameters = model.dtype, sum(parameter.numel() for parameter in model.parameters())
    engine = Engine(model, tokenizer, CHECKED_PROMPTS)
    asked = (asked_turns(row) for row in read_jsonl(args.valid))
    prompts = list(itertools.islice((turns for turns in asked if not engine.chat.refusal(turns)), CHECKED_PROMPTS))
    expected = answers(engine, prompts)
    model.generation_config = generation_config(settings["sampling"], engine, model)

    out = fresh_folder(args.out)
    model.save_pretrained(out)
    for path in checkpoints.weight_files(out):
        path.chmod((out / "config.json").stat().st_mode)  # safetensors writes for the owner alone
    tokenizer.save_pretrained(out)
    # How it was loaded here is no property of it.
    config = read_json(out / "tokenizer_config.json")
    write_json(out / "tokenizer_config.json", {k: v for k, v in config.items() if k not in LOADED_BY})
    context = engine.max_length
    # Before the copy that was written is loaded: there is never more than one in memory.
    del model, engine
    gc.collect()
    verify(out, dtype, prompts, expected)

    copy_licences(parts, out)
    merged = checkpoints.is_adapter(args.checkpoint)
    weights = {"dtype": str(dtype).removeprefix("torch."), "parameters": parameters, "context": context}
    shown = public_settings(settings)
    write_text(out / "README.md", delivery_card.card(shown, facts, parts, licence, weights | {"merged": merged}))
    files = [facts.manifests[key] for key in sorted(facts.manifests)]
    licences = [file for part in parts for file in (*part.files, *filter(None, [part.readme]))]
    write_manifest(
        out,
        step="deliver",
        settings=shown,
        inputs=[from_here(path) for path in (*inputs, *files, args.valid, *licences)],
        counts={"parameters": parameters, "checked_prompts": len(prompts), "checked_tokens": sum(map(len, expected))},
        started=started,
    )
    publish(out)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="folder of a model or of a PEFT adapter")
    parser.add_argument("--results", type=Path, required=True, help="the workload's results folder")
    parser.add_argument("--valid", type=Path, required=True, help="rows whose prompts the check of the answers asks")
    run(main, parser)
