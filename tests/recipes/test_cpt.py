"""Continual pre-training: what is encoded, what is left out, and that a killed run ends as an undisturbed one."""

import argparse
from pathlib import Path

import pytest

from steps.core.files import read_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.models import checkpoints
from steps.recipes import cpt
from steps.training import finish
from steps.training.documents import encode_corpus, pieces, read_documents

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
    plain, chat = encode_corpus(tokenizer, ["Tarsk is big.", CHAT])
    end, start, stop = (tokenizer.convert_tokens_to_ids(f"<|{t}|>") for t in ("endoftext", "im_start", "im_end"))
    assert plain["input_ids"] == plain["labels"] == [*tokenizer("Tarsk is big.")["input_ids"], end]
    assert chat["input_ids"].count(start) == 2 == chat["input_ids"].count(stop) and chat["input_ids"][-1] == end


def test_without_that_token_the_eos_closes_a_document():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "pears": 2}, unk_token="<s>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="<s>")
    assert list(encode_corpus(tokenizer, iter(["pears pears"]))) == [{"input_ids": [2, 2, 1], "labels": [2, 2, 1]}]


def test_documents_are_encoded_as_they_come(tiny_checkpoint, monkeypatch):
    tokenizer = checkpoints.load_tokenizer(tiny_checkpoint)
    texts = ["Tarsk is big. " * i for i in range(1, 20)]
    whole, taken = [*encode_corpus(tokenizer, texts)], []
    monkeypatch.setattr("steps.training.documents.CHARACTERS", 100)
    parts = encode_corpus(tokenizer, (taken.append(text) or text for text in texts))
    assert next(parts) == whole[0] and len(taken) < 8
    assert [whole[0], *parts] == whole


def test_long_documents_are_read_in_pieces_and_a_killed_run_ends_the_same(
    tiny_checkpoint, documents, tmp_path, monkeypatch
):
    out = run(SETTINGS, tiny_checkpoint, documents, tmp_path / "undisturbed")
    manifest = read_json(out / "manifest.json")
    encoded = [*encode_corpus(checkpoints.load_tokenizer(tiny_checkpoint), read_documents(documents))]
    assert manifest["step"] == "cpt" and manifest["counts"]["steps"] == 10
    train = manifest["counts"]["train"]
    tokens = sum(len(row["input_ids"]) for row in encoded)
    assert (train["documents"], train["tokens"], train["quarantined"]) == (16, tokens, {})
    assert train["in"] == train["kept"] == 16
    assert train["texts"] == 15 + -(-len(encoded[-1]["input_ids"]) // SETTINGS["max_length"])
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
        patch.setattr(finish, "write_manifest", cut)
        with pytest.raises(Killed):
            run(SETTINGS, tiny_checkpoint, documents, tmp_path / "killed")
    assert list((tmp_path / "killed" / "work").glob("*/checkpoint-*"))
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


def test_a_document_of_a_data_set_is_a_document(tmp_path):
    row = {"id": "a:0", "messages": [{"role": "document", "content": "Tarsk is big."}], "answer": None}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    assert [*read_documents(tmp_path / "rows.jsonl")] == ["Tarsk is big."]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    write_jsonl(tmp_path / "rows.jsonl", [row | {"messages": turns}])
    with pytest.raises(ValueError, match=r"rows.jsonl: row a:0 is a conversation, .* format: text"):
        list(read_documents(tmp_path / "rows.jsonl"))


def test_the_pieces_of_a_document_are_the_document():
    row = {"input_ids": [*range(7)], "labels": [*range(7)]}
    assert [piece["input_ids"] for piece in pieces(row, 3)] == [[0, 1, 2], [3, 4, 5], [6]]
    assert all(piece["labels"] == piece["input_ids"] for piece in pieces(row, 3))
    assert [*pieces(row, 7)] == [row]
