"""The loss that balances experts is asked of models that have one, and of no others."""

import pytest
import torch

from benches.models import build
from steps.models import checkpoints, head
from steps.models.adapters import tokens
from steps.models.adapters.attach import attach
from steps.models.trial import made_up
from steps.preflight import properties
from steps.training import balance, supervised
from steps.training.plan import Plan
from tests.graph.test_recipes import PARAMS

MIXTURES = {
    "Qwen3-MoE": 0.001,
    # Its configuration has the coefficient, and no layer of it a router.
    "Granite 4 hybrid": None,
    # Experts, and a forward pass that returns no loss of them.
    "Llama 4": None,
    "Qwen3": None,
}


@pytest.mark.parametrize("name", MIXTURES)
def test_the_coefficient_counts_where_the_model_has_the_loss(name, tmp_path, capsys):
    model = checkpoints.load_model(build(name, tmp_path), torch.float32)
    coefficient = MIXTURES[name]
    asked = hasattr(model.config, balance.COEFFICIENT)
    said = balance.arguments(model)
    assert said == ({balance.COEFFICIENT: 0.0} if asked and not coefficient else {})
    assert (balance.COEFFICIENT in capsys.readouterr().out) == bool(said)
    lines = {one.name: (one.found, one.treated) for one in properties.experts(model)}
    if coefficient:
        assert lines["balance of experts"] == (f"the model's own loss, times {coefficient:g}", "")
        # It is there, and of the size that even routing gives: experts per token.
        ids = torch.tensor([made_up(model)[1]])
        assert model(input_ids=ids, output_router_logits=True).aux_loss.item() == pytest.approx(2, rel=0.5)
    else:
        assert lines == ({"balance of experts": lines["balance of experts"]} if asked else {})
        assert not asked or lines["balance of experts"][1] == "trained without it"


def test_new_tokens_beside_the_loss_that_balances_experts(tmp_path, monkeypatch):
    """TRL's pass that saves the logits' memory reads a bias of the output layer, which PEFT hides behind new rows."""
    monkeypatch.setattr(head, "WIDE", 1)
    folder = build("Qwen3-MoE", tmp_path / "base")
    tokenizer = checkpoints.load_tokenizer(folder)
    adapter = {"kind": "lora", "r": 2, "alpha": 4, "new_tokens": ["<call>"]}
    new = tokens.add(tokenizer, adapter)
    model = attach(checkpoints.load_model(folder, torch.float32), adapter, 0, 2, new)
    rows = [{"input_ids": [*ids, *new], "labels": [*ids, *new]} for ids in made_up(model)[:2]]
    settings = PARAMS["sft"] | {"seed": 0, "batch_size": 2, "gradient_accumulation": 1, "max_length": 128}
    plan = Plan(batches=[[0, 1]], accumulation=1, lengths=[len(row["input_ids"]) for row in rows], saves=1)
    trainer = supervised.build_trainer(model, tokenizer, rows, settings, plan, tmp_path / "work")
    assert trainer.aux_loss_enabled
    batch = supervised.layout(rows, settings, tokenizer.pad_token_id)
    places = int((batch["labels"][:, 1:] != -100).sum())
    model.train()
    trainer.current_gradient_accumulation_steps = 1  # as its loop says
    found = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(places))
    labels = batch.pop("labels")[:, 1:]
    out = model(**batch, output_router_logits=True, use_cache=False)
    told = torch.nn.functional.cross_entropy(out.logits[:, :-1].transpose(1, 2), labels, ignore_index=-100)
    torch.testing.assert_close(found, told + 0.001 * out.aux_loss, rtol=1e-5, atol=0)
