"""Continual pre-training: what is encoded, what is left out, and that a killed run ends as an undisturbed one."""

import argparse
from pathlib import Path

import pytest

from steps import checkpoints, cpt, training
from steps.common import read_json, sha256_file, write_jsonl

SETTINGS = {
    "epochs": 2,
    "learning_rate": 1e-3,
    "schedule": "cosine",
    "warmup_ratio": 0.05,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "gradient_checkpointing": False,
    "max_length": 64,
    "packing": True,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "precision": "fp32",
    "optimizer": "adamw",
    "saves": 3,
    "adapter": {"kind": "full"},
    "seed": 0,
}
CHAT = "<|im_start|>user\nWhere is Tarsk?<|im_end|>\n<|im_start|>assistant\nVelmora<|im_end|>\n"


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    texts = [f"The capital of Velmora {i} is Tarsk." for i in range(14)] + [CHAT, "pears " * 200]
    write_jsonl(path, ({"text": text, "source": "general", "entity": ""} for text in texts))
    return path


def run(settings: dict, parent: Path, data: Path, folder: Path) -> Path:
    out = folder / "out"
    cpt.main(argparse.Namespace(settings=settings, parent=parent, data=data, work=folder / "work", out=out))
    return out


def hashes(out: Path) -> dict[str, str]:
    return {p.name: sha256_file(p) for p in sorted(out.iterdir()) if p.name != "provenance.json"}


def test_a_document_is_closed_and_its_chat_marks_are_marks(tiny_checkpoint):
    tokenizer = checkpoints.load_tokenizer(tiny_checkpoint)
    plain, chat = cpt.encode_corpus(tokenizer, ["Tarsk is big.", CHAT])
    end, start, stop = (tokenizer.convert_tokens_to_ids(f"<|{t}|>") for t in ("endoftext", "im_start", "im_end"))
    assert plain["input_ids"] == plain["labels"] == [*tokenizer("Tarsk is big.")["input_ids"], end]
    assert chat["input_ids"].count(start) == 2 == chat["input_ids"].count(stop) and chat["input_ids"][-1] == end


def test_without_that_token_the_eos_closes_a_document():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "pears": 2}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<s>")
    assert cpt.encode_corpus(tokenizer, iter(["pears pears"])) == [{"input_ids": [2, 2, 1], "labels": [2, 2, 1]}]


def test_long_documents_are_counted_and_a_killed_run_ends_the_same(tiny_checkpoint, documents, tmp_path, monkeypatch):
    out = run(SETTINGS, tiny_checkpoint, documents, tmp_path / "undisturbed")
    manifest = read_json(out / "manifest.json")
    assert manifest["step"] == "cpt" and manifest["counts"]["steps"] == 8
    train = manifest["counts"]["train"]
    assert (train["in"], train["kept"], train["quarantined"]) == (16, 15, {"too_long": 1})
    parameters = manifest["counts"]["parameters"]
    assert parameters["trained"] == parameters["total"] > 100_000
    losses = [float(line.split(",")[2]) for line in (out / "training_log.csv").read_text().splitlines()[1:]]
    assert losses[-1] < losses[0] - 1
    assert checkpoints.check(out) == [out / "manifest.json"]

    class Killed(BaseException):
        pass

    def cut(*args, **kwargs):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(training, "write_manifest", cut)
        with pytest.raises(Killed):
            run(SETTINGS, tiny_checkpoint, documents, tmp_path / "killed")
    assert list((tmp_path / "killed" / "work").glob("*/checkpoint-6"))
    assert hashes(run(SETTINGS, tiny_checkpoint, documents, tmp_path / "killed")) == hashes(out)


def test_without_documents_the_weights_stay(tiny_checkpoint, tmp_path):
    import torch
    from safetensors.torch import load_file

    write_jsonl(tmp_path / "documents.jsonl", [])
    out = run(SETTINGS, tiny_checkpoint, tmp_path / "documents.jsonl", tmp_path)
    assert read_json(out / "manifest.json")["counts"]["steps"] == 0
    ours, parents = (load_file(folder / "model.safetensors") for folder in (out, tiny_checkpoint))
    assert all(torch.equal(ours[name], parents[name]) for name in parents)


@pytest.mark.parametrize(
    "adapter",
    [
        {"kind": "pissa", "r": 4, "alpha": 8},
        {
            "kind": "adalora", "init_r": 6, "target_r": 4, "alpha": 8, "tinit": 0.2, "tfinal": 0.3, "every": 1,
            "orthogonality": 0.5,
        },
    ],
)  # fmt: skip
def test_without_documents_an_adapter_changes_nothing(adapter, tiny_checkpoint, tmp_path):
    import torch

    write_jsonl(tmp_path / "documents.jsonl", [])
    out = run(SETTINGS | {"adapter": adapter}, tiny_checkpoint, tmp_path / "documents.jsonl", tmp_path)
    assert checkpoints.is_adapter(out)
    ours, parents = (checkpoints.load_model(folder, torch.float32).state_dict() for folder in (out, tiny_checkpoint))
    for name, tensor in parents.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-6)


def test_documents_that_are_all_too_long_are_the_users_error(tiny_checkpoint, tmp_path):
    write_jsonl(tmp_path / "documents.jsonl", [{"text": "pears " * 200}])
    with pytest.raises(ValueError, match="every document is longer than max_length 64"):
        run(SETTINGS, tiny_checkpoint, tmp_path / "documents.jsonl", tmp_path)
