"""Make one checkpoint ready to be used and published: whole weights, what loads them, a card, licences.

In: a checkpoint (an adapter is merged into its base), its evaluation and that of its base, the manifests of all that it
was made by. Out: a folder that transformers and `vllm serve` load and that the hub takes: safetensors, config.json,
tokenizer with chat template, generation_config.json, README.md (the card), licenses/. Nothing of the training is left.

What was written is loaded again and must be whole, in the right type, and answer as the source does.

Run as: python -m steps.deliver --settings '{"checkpoint": "sft", "license": null, …}'
    --checkpoint results/fable/foundation/sft --results results/fable
    --valid results/fable/data/problems/split/valid.jsonl --out results/fable/deliver/sft
"""

import argparse
import gc
import itertools
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from steps import checkpoints
from steps.common import (
    MANIFEST,
    PROVENANCE,
    fresh_folder,
    read_json,
    read_jsonl,
    run,
    step_parser,
    write_json,
    write_manifest,
    write_text,
)

PROJECT_LICENCE = Path(__file__).parent.parent / "LICENSE"
PROJECT_LICENCE_ID = "apache-2.0"
LICENCE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
# What transformers 5 notes in a tokenizer's configuration when it is saved again.
LOADED_BY = ("is_local", "local_files_only")
# Prompts and tokens of the check that the delivered model answers as its source.
CHECKED_PROMPTS = 2
CHECKED_TOKENS = 24


# --- licences ------------------------------------------------------------------------------------


class Part(NamedTuple):
    """Something that the release rests on, and what is known of its licence.

    Attributes:
        name: where its licence files go, below `licenses/`: "models/base".
        origin: path, or hub id and commit.
        licence: an identifier as the hub has them, or None where none is stated.
        files: the texts that lie beside it.
    """

    name: str
    origin: str
    licence: str | None
    files: list[Path]


def front_matter(readme: Path) -> dict:
    """The YAML at the head of a card; empty where there is none."""
    import yaml

    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    found = re.match(r"---\s*\n(.*?\n)---\s*(\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{readme}: what stands between its lines `---` is not YAML ({error}); repair it") from error
    return values if isinstance(values, dict) else {}


def public(path: str | Path) -> str:
    """What a release says of a path: an absolute one is of this machine, and only its last part is told."""
    return Path(path).name if Path(path).is_absolute() else str(path)


def numbered(names: Iterable[str]) -> Iterator[str]:
    """The names, with a number behind each that came before."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield f"{name}-{seen[name]}" if seen[name] > 1 else name


def public_settings(settings: dict) -> dict:
    """The settings without what is of this machine: where files lie, and the server that sampled."""
    return settings | {
        "models": {
            name: model | {key: public(model[key]) for key in ("path", "folder")}
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


def publish(out: Path) -> None:
    """Take from the manifest and its provenance what is of this machine: absolute paths and the command."""
    manifest, provenance = read_json(out / MANIFEST), read_json(out / PROVENANCE)
    inputs = manifest["inputs"]
    names = (f"{Path(path).parent.name}/{public(path)}" if Path(path).is_absolute() else path for path in inputs)
    manifest["inputs"] = dict(zip(numbered(names), inputs.values(), strict=True))
    write_json(out / PROVENANCE, {key: value for key, value in provenance.items() if key != "argv"})
    write_json(out / MANIFEST, manifest)


def part_of(name: str, origin: str, folder: Path, own: bool) -> Part:
    """What lies beside a model or a data file. What Temper made itself is under its own licence."""
    if own:
        return Part(name, f"{origin}, made by Temper", PROJECT_LICENCE_ID, [])
    if folder.resolve() == PROJECT_LICENCE.parent.resolve():
        return Part(name, origin, None, [])  # the licence that lies there is Temper's
    stated = front_matter(folder / "README.md").get("license")
    files = sorted(path for pattern in LICENCE_FILES for path in folder.glob(pattern) if path.is_file())
    return Part(name, origin, stated if isinstance(stated, str) else None, files)


def model_part(name: str, model: dict) -> Part:
    folder = Path(model["folder"])
    own = (folder / MANIFEST).is_file() and read_json(folder / MANIFEST)["step"] == "pretrain"
    revision = f" at {model['revision']}" if "revision" in model else ""
    return part_of(f"models/{name}", public(model["path"]) + revision, folder, own)


def data_parts(data: dict[str, list[dict]], world: str) -> list[Part]:
    """The sources of every data set, those of one folder together."""
    parts = []
    for dataset, sources in data.items():
        folders = {}  # folder -> its origin, and whether Temper made it
        for source in sources:
            folder, origin = Path(source["file"]).parent, ""
            if "revision" in source:  # below its repository's folder, which has the licence
                owner, name, *inside = source["path"].split("/")
                folder = Path(source["file"]).parents[len(inside) - 1]
                origin = f"{owner}/{name} at {source['revision']}"
            folders[folder] = (origin or public(folder), source["file"].startswith(world))
        places = numbered(re.sub(r"[^\w.-]+", "_", public(folder)).strip("_") for folder in folders)
        for place, (folder, (origin, own)) in zip(places, folders.items(), strict=True):
            name = f"data/{dataset}/{place}" if len(folders) > 1 else f"data/{dataset}"
            parts.append(part_of(name, origin, folder, own))
    return parts


def document_parts(files: list[str], world: str) -> list[Part]:
    """The files of text that documents were made of."""
    return data_parts({"documents": [{"path": file, "file": file} for file in files]}, world)


def release_licence(chosen: str | None, bases: dict[str, Part]) -> str:
    """The licence that the user chose, else that of the models whose weights are in the release.

    Raises:
        ValueError: nothing was chosen, and theirs is not stated or not the same.
    """
    if chosen:
        return chosen
    for name, part in bases.items():
        if part.licence is None:
            raise ValueError(
                f"deliver.license: nothing beside `{name}` ({part.origin}) says under which licence it is; set"
                " deliver.license to that of the release, such as apache-2.0"
            )
    stated = {name: part.licence for name, part in bases.items()}
    if len(set(stated.values())) > 1:
        listed = ", ".join(f"`{name}` is under {licence}" for name, licence in stated.items())
        raise ValueError(f"deliver.license: {listed}; set deliver.license to that of the release")
    return next(iter(stated.values()))


def check_licence(settings: dict) -> None:
    """Raise the ValueError of `release_licence` before anything runs, where all models are here already."""
    bases = {name: model for name, model in settings["models"].items() if model["weights"]}
    if all(Path(model["folder"]).is_dir() for model in bases.values()):
        release_licence(settings["license"], {name: model_part(name, model) for name, model in bases.items()})


def copy_licences(parts: list[Part], out: Path) -> None:
    for part in parts:
        for file in part.files:
            target = out / "licenses" / part.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


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
        raise ValueError(f"{folder}: the tokenizer has no chat template; add chat_template.jinja")
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
    found = engine.sample(prompts, temperature=0.0, max_new_tokens=CHECKED_TOKENS)
    return [list(sample.ids) for (sample,) in found]


def verify(out: Path, dtype: Any, prompts: list, expected: list[list[int]]) -> None:
    """Load what was written as anybody would, and hold it against its source.

    Raises:
        AssertionError: it lacks a tensor, has one too many, is of another type, or answers otherwise.
    """
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    from steps.engine import Engine

    stored = set()
    for path in checkpoints.weight_files(out):
        with safe_open(path, framework="np") as file:
            stored |= {file.get_slice(name).get_dtype() for name in file.keys()}
    model, info = AutoModelForCausalLM.from_pretrained(
        out, dtype="auto", local_files_only=True, use_safetensors=True, output_loading_info=True
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
    found = answers(Engine(model.eval(), tokenizer, CHECKED_PROMPTS), prompts)
    assert found == expected, f"{out}: its answers {found} are not those of its source {expected}"


# --- the step ------------------------------------------------------------------------------------


def main(args: argparse.Namespace) -> None:
    from steps import delivery_card
    from steps.engine import Engine

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
    rows = itertools.islice(read_jsonl(args.valid), CHECKED_PROMPTS)
    prompts = [row["messages"][:-1] for row in rows]

    model, tokenizer = load_source(args.checkpoint, settings["dtype"]), checkpoints.load_tokenizer(args.checkpoint)
    check_tokenizer(tokenizer, model, args.checkpoint)
    dtype, parameters = model.dtype, sum(parameter.numel() for parameter in model.parameters())
    engine = Engine(model, tokenizer, CHECKED_PROMPTS)
    expected = answers(engine, prompts)
    model.generation_config = generation_config(settings["sampling"], engine, model)

    out = fresh_folder(args.out)
    model.save_pretrained(out)
    for path in checkpoints.weight_files(out):
        path.chmod((out / "config.json").stat().st_mode)  # safetensors writes for the owner alone
    tokenizer.save_pretrained(out)
    # How it was loaded here is no property of it.
    told = read_json(out / "tokenizer_config.json")
    write_json(out / "tokenizer_config.json", {k: v for k, v in told.items() if k not in LOADED_BY})
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
    write_manifest(
        out,
        step="deliver",
        settings=shown,
        inputs=[*inputs, *files, args.valid, *(file for part in parts for file in part.files)],
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
