"""What trained weights are stored in: float32 keeps them, bfloat16 rounds them, and the cost is measured."""

import numpy as np
import pytest
import torch

from steps.models import checkpoints
from steps.training import rounding
from tests.conftest import SMALL, build_model, build_tokenizer


@pytest.fixture(scope="module")
def bf16_parent(tmp_path_factory):
    """As most models come."""
    folder = tmp_path_factory.mktemp("rounding") / "parent"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(tokenizer, architecture=SMALL).to(torch.bfloat16).save_pretrained(folder)
    return folder


def moved(parent, rate: float, steps: int = 36):
    """The parent after as many steps of the size that AdamW takes: its sign times the rate."""
    model = checkpoints.load_model(parent, torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            direction = torch.randn(parameter.shape, generator=generator).sign()
            parameter += rate * steps * 0.5 * direction * torch.rand(parameter.shape, generator=generator)
    return model


def by_numpy(parent, trained: dict, saved: dict) -> dict:
    start = values(checkpoints.load_model(parent, torch.float32))
    change, kept = (np.concatenate([(of[name] - start[name]).ravel() for name in start]) for of in (trained, saved))
    cosine = change @ kept / np.sqrt(change @ change) / np.sqrt(kept @ kept)
    return {"equal_trained": (change == 0).mean(), "equal": (kept == 0).mean(), "cosine": cosine}


def values(model) -> dict:
    return {name: value.detach().double().numpy() for name, value in model.named_parameters()}


@pytest.mark.parametrize("save_dtype", ["bfloat16", "bfloat16_stochastic"])
def test_the_cost_is_what_numpy_says(bf16_parent, monkeypatch, save_dtype):
    monkeypatch.setattr(rounding, "AT_ONCE", 1000)
    model = moved(bf16_parent, 1e-6)
    trained = values(model)
    cost = rounding.round_weights(model, save_dtype, 3, bf16_parent)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    expected = by_numpy(bf16_parent, trained, values(model))
    assert cost == pytest.approx(expected, abs=1e-6)
    # At this rate a rounded model is mostly its parent.
    assert cost["equal"] > 0.5 and cost["cosine"] < 0.9 and cost["equal_trained"] < 0.01


def test_in_float32_nothing_is_rounded_or_read(bf16_parent, monkeypatch):
    model = moved(bf16_parent, 1e-6)
    before = values(model)
    monkeypatch.setattr(checkpoints, "load_model", None)
    assert rounding.round_weights(model, "float32", 0, bf16_parent) is None
    assert all((before[name] == value).all() for name, value in values(model).items())


def test_random_rounding_is_right_on_average_and_lies_on_both_neighbours():
    for value in (1.001, -1.001, 3e-5, -7.3):
        tensor = torch.full((200_000,), value)
        found = rounding.rounded(tensor, "bfloat16_stochastic", 0, "w").double()
        below, above = sorted(found.unique().tolist())
        assert below < tensor[0].item() < above and torch.tensor([below, above]).bfloat16().double().tolist() == [
            below,
            above,
        ]
        gap = above - below
        assert abs(found.mean().item() - tensor[0].item()) < 4 * gap / 2 / 200_000**0.5
    exact = torch.tensor([1.0, -0.5, 0.0, 256.0])
    assert torch.equal(rounding.rounded(exact, "bfloat16_stochastic", 0, "w").float(), exact)


def test_random_rounding_goes_by_seed_and_name_alone():
    tensor = torch.randn(1000)
    first = rounding.rounded(tensor, "bfloat16_stochastic", 0, "a")
    assert torch.equal(rounding.rounded(tensor, "bfloat16_stochastic", 0, "a"), first)
    assert not torch.equal(rounding.rounded(tensor, "bfloat16_stochastic", 1, "a"), first)
    assert not torch.equal(rounding.rounded(tensor, "bfloat16_stochastic", 0, "b"), first)


def test_nothing_trained_is_nothing_lost(bf16_parent):
    model = checkpoints.load_model(bf16_parent, torch.float32)
    cost = rounding.round_weights(model, "bfloat16", 0, bf16_parent)
    assert cost == {"equal_trained": 1.0, "equal": 1.0, "cosine": 1.0}
