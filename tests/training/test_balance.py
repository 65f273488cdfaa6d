"""The loss that balances experts is asked of models that have one, and of no others."""

import contextlib

import numpy as np
import pytest
import torch

from benches.models import RECIPES, ROOT, Trainings, build
from steps.core.files import read_json, write_json
from steps.distillation import opd
from steps.models import checkpoints, head
from steps.models.adapters import tokens
from steps.models.adapters.attach import attach
from steps.models.trial import made_up
from steps.preflight import properties
from steps.reinforcement import rl
from steps.training import balance, supervised
from steps.training import run as training
from steps.training.plan import Plan
from steps.training.watchers import valid_loss
from tests.graph.test_recipes import PARAMS

MIXTURES = {
    "Qwen3-MoE": 0.001,
    # Its configuration has the coefficient, and no layer of it a router.
    "Granite 4 hybrid": None,
    # Its configuration counts experts by another key than TRL's fused output layer reads.
    "gpt-oss": 0.001,
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


def switched(model, ids) -> float:
    """E sum_e f_e P_e over all layers' places: f_e of k T choices, P_e the mean share of expert e (arXiv:2101.03961,
    equations 4 to 6, with the k likeliest of each place)."""
    with torch.no_grad():
        logits = torch.cat(model(input_ids=torch.tensor([ids]), output_router_logits=True).router_logits)
    shares = logits.double().softmax(-1).numpy()
    places, experts = shares.shape
    chosen = np.argsort(-shares, 1)[:, :2]
    counts = np.bincount(chosen.ravel(), minlength=experts) / places
    return float(experts * (counts * shares.mean(0)).sum())


def heavy(folder, weight=1.0):
    """A mixture whose balance weighs as much as its words."""
    config = read_json(build("Qwen3-MoE", folder) / "config.json")
    write_json(folder / "config.json", config | {"router_aux_loss_coef": weight})
    return folder


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("passes", [1, 4])
def test_a_step_counts_the_balance_once_and_what_is_measured_has_none(passes, wide, tmp_path, monkeypatch):
    """Of equal rows, however they are divided into passes."""
    if wide:
        monkeypatch.setattr(head, "WIDE", 1)
    folder = heavy(tmp_path / "base")
    tokenizer = checkpoints.load_tokenizer(folder)
    model = checkpoints.load_model(folder, torch.float32)
    ids = made_up(model)[0]
    told = model(input_ids=torch.tensor([ids])).logits[0, :-1]
    words = torch.nn.functional.cross_entropy(told, torch.tensor(ids[1:])).item()
    expected = words + switched(model, ids)
    rows = [{"input_ids": ids, "labels": ids}] * 4
    settings = PARAMS["sft"] | {
        "seed": 0, "batch_size": 4 // passes, "gradient_accumulation": passes, "max_length": 128, "saves": 1,
        "learning_rate": 1e-9,
    }  # fmt: skip
    batches = [[*range(4)][i::passes] for i in range(passes)]
    plan = Plan(batches=batches, accumulation=passes, lengths=[len(ids)] * 4, saves=1)
    trainer = supervised.build_trainer(model, tokenizer, rows, settings, plan, tmp_path / "work")
    (row,) = training.train(trainer, plan, "sft")
    assert row["loss"] == pytest.approx(expected, abs=1e-4) and expected > words + 1
    batch = supervised.layout(rows, settings, tokenizer.pad_token_id)
    assert valid_loss(trainer, [batch]) == pytest.approx(words, abs=1e-4)


def test_a_loss_of_ones_own_is_balanced_too(tmp_path):
    """Distillation from stored distributions, here a loss of nothing."""
    folder = heavy(tmp_path / "base")
    tokenizer = checkpoints.load_tokenizer(folder)
    model = checkpoints.load_model(folder, torch.float32)
    ids = made_up(model)[0]
    expected = switched(model, ids)
    rows = [{"input_ids": ids, "labels": ids}] * 4
    settings = PARAMS["sft"] | {"seed": 0, "batch_size": 2, "gradient_accumulation": 2, "max_length": 128, "saves": 1}
    plan = Plan(batches=[[0, 1], [2, 3]], accumulation=2, lengths=[len(ids)] * 4, saves=1)

    def nothing(model, inputs, tokens):
        del inputs["labels"]
        return 0 * model(**inputs).logits.sum()

    trainer = supervised.build_trainer(model, tokenizer, rows, settings, plan, tmp_path / "work", loss=nothing)
    (row,) = training.train(trainer, plan, "distill")
    assert row["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "changes"), [("rl", {}), ("rl", {"method": "sdpo"}), ("rl", {"method": "srpo"}), ("opd", {})]
)
def test_policies_are_balanced_in_every_method(stage, changes, tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPES, "mine", RECIPES[stage] | changes)
    losses = []
    for weight in (0.001, 1.0):
        work = tmp_path / str(weight)
        folder = heavy(work / "base", weight)
        trainings = Trainings(folder, folder, work)
        module, given = {"rl": (rl, {"data": trainings.data, "valid": None, "reward_model": None})}.get(
            stage, (opd, {"teachers": [folder], "data": [trainings.data], "responses": []})
        )
        with contextlib.chdir(ROOT):
            assert trainings.train(module, "mine", **given) == "works"
        losses.append(float((work / "made/mine/training_log.csv").read_text().split()[1].split(",")[2]))
    # Of two experts for each token, routed nearly evenly: 2, once for all passes of a step.
    assert losses[1] - losses[0] == pytest.approx(2, rel=0.2)


@pytest.mark.parametrize("stage", ["sft", "rl"])
@pytest.mark.parametrize("name", ["Qwen3-MoE", "Granite 4 hybrid"])
def test_a_checkpoint_has_its_parents_configuration(name, stage, tmp_path):
    """TRL asks routers for their logits in it, takes the coefficient out and turns the cache off."""
    folder = build(name, tmp_path / "base")
    trainings = Trainings(folder, folder, tmp_path)
    with contextlib.chdir(ROOT):
        trainings.stage(stage)
    assert read_json(tmp_path / "made" / stage / "config.json") == read_json(folder / "config.json")
