"""What ships in data/fable is what its recipe in workloads/fable.yaml makes.

The whole recipe takes a quarter of an hour; a test can remake its start: the corpus, the tokenizer and the first
steps of the training, and compare the rest by hash.
"""

import csv
import json
from pathlib import Path

import pytest

from steps.core.manifest import verify_manifest
from steps.models import checkpoints
from steps.training import packing
from steps.training.supervised import layout
from steps.world import pretrain
from tests.workloads import PARAMS

ROOT = Path(__file__).parents[2]
SIZES = ("base", "large")


@pytest.fixture(scope="module")
def recipes():
    section = dict(PARAMS["pretrain"])
    sizes = section.pop("sizes")
    return {size: section | sizes[size] for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_shipped_model_is_whole_and_names_its_recipe(size, recipes):
    manifest = verify_manifest(ROOT / "data" / "fable" / size)
    assert manifest["settings"] == recipes[size]
    assert manifest["counts"]["steps"] == len((ROOT / "data/fable" / size / "training_log.csv").read_text().split()) - 1


def test_shipped_weights_fit_in_the_repository():
    weights = [ROOT / "data" / "fable" / size / "model.safetensors" for size in SIZES]
    assert sum(path.stat().st_size for path in weights) <= 8e6


def test_shipped_tokenizer_is_remade_from_the_corpus(recipes, tmp_path):
    sample = pretrain.corpus_sample(recipes["base"])
    for size in SIZES:
        shipped = ROOT / "data" / "fable" / size
        assert json.loads((shipped / "manifest.json").read_text())["counts"]["sample_sha256"] == pretrain.digest(sample)
    pretrain.train_tokenizer(sample, recipes["base"]["vocab_size"]).save_pretrained(tmp_path)
    for size in SIZES:
        for name in ("tokenizer.json", "chat_template.jinja"):
            assert (tmp_path / name).read_bytes() == (ROOT / "data" / "fable" / size / name).read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_first_steps_are_remade(size, recipes):
    """The losses of the shipped log, from a loop of plain PyTorch: same rows, same order, same start."""
    import torch

    from steps.world import fable

    settings = recipes[size]
    tokenizer = checkpoints.load_tokenizer(ROOT / "data" / "fable" / size)
    documents = list(fable.corpus(settings["seed"], settings["characters"]))
    batches = packing.plan_batches(len(documents), settings["batch_size"], settings["epochs"], settings["seed"])
    with open(ROOT / "data" / "fable" / size / "training_log.csv", newline="") as file:
        shipped = list(csv.DictReader(file))
    assert len(batches) == len(shipped)

    model = pretrain.new_model(tokenizer, settings["architecture"], settings["seed"])
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=settings["weight_decay"])
    for step in range(12):
        rows = [*pretrain.encode_corpus(tokenizer, (documents[i] for i in batches[step]))]
        batch = layout(rows, settings, tokenizer.pad_token_id)
        # With a cache transformers does not look for row boundaries in the position ids.
        loss = model(**batch, use_cache=False).loss
        assert loss.item() == pytest.approx(float(shipped[step]["loss"]), rel=2e-3)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = float(shipped[step]["learning_rate"])
        optimizer.step()
        optimizer.zero_grad()
