"""A training that ends in NaN is not finished: its weights, its log, and what is measured on the way."""

import argparse
import math
from pathlib import Path

import pytest
import torch

from steps.recipes import sft
from steps.training import run as training
from steps.training import watchers
from steps.training.plan import Plan, check_logged
from tests.recipes.test_sft import LORA, SETTINGS, data, run  # noqa: F401


def refused(settings: dict, parent: Path, given: dict, folder: Path) -> str:
    """The line in which a training ends without a manifest."""
    with pytest.raises(ValueError) as caught:
        run(settings, parent, given, folder)
    assert not (folder / "out" / "manifest.json").exists() and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "adapter, file, tensor",
    [
        ({"kind": "full"}, "model.safetensors", "model.norm.weight"),
        (LORA, "adapter_model.safetensors", "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"),
    ],
    ids=["full", "lora"],
)
def test_weights_that_the_last_step_spoiled(small_checkpoint, data, tmp_path, monkeypatch, adapter, file, tensor):  # noqa: F811
    """The loss before a step says nothing of the weights after it."""
    train = training.train

    def spoiled(trainer, *args, **kwargs):
        log = train(trainer, *args, **kwargs)
        name = tensor.replace("lora_A", "lora_A.default")
        with torch.no_grad():
            dict(trainer.model.named_parameters())[name].view(-1)[3] = math.nan
        return log

    monkeypatch.setattr(training, "train", spoiled)
    said = refused(SETTINGS | {"adapter": adapter}, small_checkpoint, data, tmp_path)
    assert said.startswith(f"{tmp_path / 'out' / file}: {tensor} has numbers that are NaN or infinite")


def test_a_valid_loss_that_is_not_a_number(small_checkpoint, data, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("steps.training.callback.valid_loss", lambda *_: math.nan)
    said = refused(SETTINGS, small_checkpoint, data, tmp_path)
    assert said.startswith("valid_loss is nan at step ")


def test_gradients_that_are_not_numbers(small_checkpoint, data, tmp_path, monkeypatch):  # noqa: F811
    attach = sft.attach

    def spoiled(model, *args):
        model.model.norm.weight.register_hook(lambda gradient: gradient * math.inf)
        return attach(model, *args)

    monkeypatch.setattr(sft, "attach", spoiled)
    # Otherwise it would be the first to be said.
    monkeypatch.setattr("steps.training.callback.valid_loss", lambda *_: 1.0)
    said = refused(SETTINGS | {"saves": 0}, small_checkpoint, data, tmp_path)
    assert said == "grad_norm is nan at step 1: lower learning_rate"


def test_scores_of_rows_that_are_not_numbers(tmp_path):
    plan = Plan(batches=[[0]], accumulation=1, lengths=[3], saves=0)
    rows = [{"id": "rows:7", "file": "rows.jsonl"}]
    trajectory = watchers.Trajectory(1, [], plan, rows, tmp_path, lambda: [watchers.Score(math.nan, False, 0.1)])
    with pytest.raises(ValueError, match=r"^the loss of row rows:7 of rows\.jsonl is nan at step 1"):
        trajectory.after(1)


def test_a_model_that_computes_no_numbers_writes_no_answers(small_checkpoint):
    """Its weights are finite; what they give is not."""
    from steps.engines.transformers import Engine

    engine = Engine.load(small_checkpoint, 2)
    with torch.no_grad():
        engine.model.model.norm.weight.fill_(3e38)
    turns = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    asked = (
        lambda: engine.sample(["1 + 1"], temperature=0.0, max_new_tokens=2),
        lambda: engine.score([turns]),
        lambda: engine.choose([turns[:1]], [["2", "3"]]),
    )
    for ask in asked:
        with pytest.raises(ValueError, match=f"^{small_checkpoint}: the model's log-probabilities are NaN or infinite"):
            ask()


def test_what_may_be_in_a_log():
    check_logged({"loss": 1.0, "step": 3, "note": "", "valid_loss": None}, 3, fp16=False)
    # A scale that was too large for fp16: the step is left out, and the next one has a smaller scale.
    check_logged({"loss": 1.0, "grad_norm": math.inf}, 3, fp16=True)
    for values, fp16 in (({"grad_norm": math.inf}, False), ({"margin": math.nan}, False), ({"loss": math.nan}, True)):
        with pytest.raises(ValueError, match="at step 3"):
            check_logged(values, 3, fp16)


def test_a_log_is_looked_at_again_before_it_is_written(tmp_path):
    from steps.training.finish import save_checkpoint

    trainer = argparse.Namespace(args=argparse.Namespace(fp16=False))
    log = [{"step": 1, "loss": 1.0, "tokens": 4}, {"step": 2, "loss": math.inf, "tokens": 8}]
    with pytest.raises(ValueError, match="^loss is inf at step 2"):
        save_checkpoint(
            tmp_path, trainer=trainer, tokenizer=None, parent=None, step="sft", settings={},
            inputs=[], counts={}, log=log, started=0.0,
        )  # fmt: skip
