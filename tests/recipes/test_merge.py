"""Merge: every method against mergekit, exact ends, DARE's draws, the streamed files, and what cannot be merged."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steps.core.files import read_json, write_json
from steps.models import checkpoints, merging
from steps.models.merging import kept_at_random, linear
from steps.models.weights import stored_tensors, write_safetensors
from steps.recipes import merge
from steps.settings.merging import MERGES

LINEAR = {"method": "linear", "weights": [0.5, 0.5]}
SLERP = {"method": "slerp", "t": 0.3}
ARITHMETIC = {"method": "task_arithmetic", "weights": [0.7, -0.4], "scale": 0.9}
TIES = {"method": "ties", "weights": [0.7, 0.4], "density": 0.3, "scale": 0.9}
DARE = {"method": "dare_linear", "weights": [0.7, 0.4], "density": 0.3, "scale": 0.9, "seed": 5}
DARE_TIES = DARE | {"method": "dare_ties"}
DELLA = DARE | {"method": "della", "density": 0.4, "epsilon": 0.3}
DELLA_LINEAR = DELLA | {"method": "della_linear"}
CRUMBS = {"method": "breadcrumbs", "weights": [0.7, 0.4], "density": 0.3, "gamma": 0.05, "scale": 0.9}
CRUMBS_TIES = CRUMBS | {"method": "breadcrumbs_ties"}
STOCK = {"method": "model_stock"}
STACKED = {"method": "passthrough", "slices": [{"parent": 0, "layers": [0, 3]}, {"parent": 1, "layers": [1, 4]}]}
CHANGED = [ARITHMETIC, TIES, DARE, DARE_TIES, DELLA, DELLA_LINEAR, CRUMBS, CRUMBS_TIES]
ALL = [LINEAR, SLERP, *CHANGED, STOCK]


def test_every_method_is_held_against_mergekit():
    held = {settings["method"] for settings in [*ALL, STACKED]}
    assert held == set(MERGES) == {*merging.OF_WEIGHTS, *merging.OF_CHANGES, *merging.OF_LAYERS}
    assert all(MERGES[name].over_base == (name in merging.OF_CHANGES) for name in MERGES)


def run(parents: list[Path], settings: dict, out: Path, base: Path | None = None) -> Path:
    merge.main(argparse.Namespace(settings=settings, parents=parents, base=base, out=out))
    return out


def merged(tensors: list, base, settings: dict, name: str = "tensor"):
    """One tensor through the step's function."""
    import torch

    def read(tensor):
        return lambda start, stop: tensor.flatten()[start:stop].clone()

    base = None if base is None else read(base)
    reads, columns = [read(tensor) for tensor in tensors], tensors[0].shape[-1]
    chunks = merging.merged(name, tensors[0].numel(), reads, base, settings, columns)
    return torch.cat(list(chunks)).reshape(tensors[0].shape)


def tuned(count: int, shape: tuple = (33, 57), seed: int = 0) -> tuple:
    """A random base and parents near to it."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    return base, [base + 0.3 * torch.randn(shape, generator=generator) for _ in range(count)]


@pytest.fixture
def small_chunks(monkeypatch):
    """Every tensor of the tests in many pieces, the last one odd."""
    monkeypatch.setattr(merging, "CHUNK", 64)


def in_mergekit(settings: dict) -> tuple[dict, dict]:
    """mergekit's names of our settings: those of the merge, and a list of those of each parent."""
    shared = {"lambda": settings["scale"]} if "scale" in settings else {"t": settings["t"]} if "t" in settings else {}
    shared |= {"normalize": settings["normalize"]} if "normalize" in settings else {}
    names = {"weights": "weight", "density": "density", "gamma": "gamma", "epsilon": "epsilon"}
    return shared, {names[key]: settings[key] for key in names.keys() & settings.keys()}


def per_parent(value: list[float] | float, parents: int) -> list[float]:
    return value if isinstance(value, list) else [value] * parents


def mergekit_tensor(tensors: list, base, settings: dict):
    from mergekit.merge_methods import registry
    from mergekit.merge_methods.base import TensorEntry, TensorGroup

    entries = [TensorEntry(id=index, tensor=tensor, is_base=False) for index, tensor in enumerate(tensors)]
    if settings["method"] == "slerp":
        entries = [TensorEntry(id=i, tensor=tensor, is_base=i == 0) for i, tensor in enumerate(tensors)]
    if base is not None:
        entries = [TensorEntry(id="base", tensor=base, is_base=True), *entries]
    shared, own = in_mergekit(settings)
    own = {key: dict(enumerate(per_parent(value, len(tensors)))) for key, value in own.items()}
    return registry.get(settings["method"])([TensorGroup(entries=tuple(entries))], parameters=shared | own)[0]


@pytest.fixture
def same_masks(monkeypatch):
    """mergekit draws ours: one mask per parent, in turn, for each tensor that it merges by DARE."""
    import torch
    from mergekit.merge_methods.generalized_task_arithmetic import GeneralizedTaskArithmeticMerge

    original, state = GeneralizedTaskArithmeticMerge.merge_group, {}

    def merge_group(self, group, /, **parameters):
        state.update(name=group.metadata.name or "tensor", parent=0)
        return original(self, group, **parameters)

    def bernoulli(probabilities):
        chances = probabilities.double().numpy().ravel()
        if (chances == chances[0]).all():
            chances = chances.round(6)  # it passed through float32
        draw = kept_at_random(DARE["seed"], state["name"], state["parent"], 0.0)
        state["parent"] += 1
        mask = torch.from_numpy(draw(probabilities.numel(), chances))
        return mask.reshape(probabilities.shape).to(probabilities.dtype)

    monkeypatch.setattr(GeneralizedTaskArithmeticMerge, "merge_group", merge_group)
    monkeypatch.setattr(torch, "bernoulli", bernoulli)
    return state


# --- methods --------------------------------------------------------------------------------------


CHANGES = [{}, {"weights": [1.7, -0.7]}, {"t": 0.9}, {"scale": -1.5}, {"density": 0.0001}, {"density": 1.0}]
CASES = [
    settings | change
    for settings in ALL
    for change in CHANGES
    if not change.keys() - settings.keys() and not ("epsilon" in settings and change.get("density", 1) < 0.3)
]
CASES += [settings | {"normalize": on} for settings in CHANGED for on in (True, False)]
CASES += [CRUMBS | {"gamma": gamma} for gamma in (0.0, 0.9)]


@pytest.mark.parametrize("settings", CASES, ids=str)
def test_a_tensor_is_merged_as_by_mergekit(small_chunks, same_masks, settings):
    import torch

    base, parents = tuned(2)
    base = base if MERGES[settings["method"]].over_base else None
    expected = mergekit_tensor(parents, base, settings)
    torch.testing.assert_close(merged(parents, base, settings), expected, rtol=0, atol=1e-5)
    assert (expected - parents[0]).abs().max() > 0.1


@pytest.mark.parametrize("settings", [LINEAR, *CHANGED], ids=lambda s: s["method"])
def test_any_number_of_parents_is_merged_as_by_mergekit(small_chunks, same_masks, settings):
    import torch

    for weights in ([1.0], [0.5, 0.8, -0.3], [0.2] * 5):
        base, parents = tuned(len(weights), seed=len(weights))
        base = base if MERGES[settings["method"]].over_base else None
        expected = mergekit_tensor(parents, base, settings | {"weights": weights})
        torch.testing.assert_close(merged(parents, base, settings | {"weights": weights}), expected, rtol=0, atol=1e-5)


def test_normalised_weights_of_linear_are_mergekits(small_chunks):
    import torch

    _, parents = tuned(3)
    settings = LINEAR | {"weights": [0.5, 0.8, -0.3], "normalize": True}
    torch.testing.assert_close(merged(parents, None, settings), mergekit_tensor(parents, None, settings))
    twice = settings | {"weights": [1.0, 1.6, -0.6]}
    torch.testing.assert_close(merged(parents, None, twice), merged(parents, None, settings))


def test_chances_of_della_by_hand():
    """Of each row by rank, the smallest first; equal magnitudes in their order; one element has the middle."""
    found = merging.by_rank(4, 0.5, 0.3)(np.array([3.0, 0.0, 2.0, 2.0, 1.0, 1.0, 9.0, 0.5]))
    np.testing.assert_allclose(found, [0.8, 0.2, 0.4, 0.6, 0.4, 0.6, 0.8, 0.2])
    np.testing.assert_allclose(merging.by_rank(1, 0.5, 0.3)(np.array([3.0, 1.0])), [0.5, 0.5])


def test_della_keeps_large_changes_more_often_than_small_ones():
    import torch

    base, change = torch.zeros(2000, 100), torch.arange(1.0, 101.0).repeat(2000, 1)
    settings = DELLA_LINEAR | {"weights": [1.0], "scale": 1.0, "density": 0.5, "epsilon": 0.4}
    kept = (merged([change], base, settings) != 0).float().mean(0)
    expected = 0.1 + 0.8 * torch.arange(100) / 99
    assert (kept - expected).abs().max() < 5 * (0.25 / 2000) ** 0.5
    # The norm stays.
    torch.testing.assert_close(merged([change], base, settings).sum(), change.sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("seed", range(3))
def test_breadcrumbs_by_sorting(small_chunks, seed):
    import torch

    values = np.random.default_rng(seed).normal(size=1001).astype(np.float32)
    found = merged([torch.from_numpy(values)], torch.zeros(1001), CRUMBS | {"weights": [1.0], "scale": 1.0}).numpy()
    order = np.argsort(-np.abs(values), kind="stable")
    expected = np.zeros_like(values)
    kept = order[50:350]  # without 5 % of 1001, then 30 %
    expected[kept] = values[kept]
    np.testing.assert_array_equal(found, expected)


def test_numbers_over_depth_are_mergekits():
    from mergekit.config import evaluate_setting

    for values in ([0.0, 1.0], [0.2, 0.9, 0.1], [1.0, 0.0, 0.5, 0.25]):
        for layers in (2, 5, 24):
            for layer in range(layers):
                t = layer / (layers - 1)
                expected = evaluate_setting("", values, t, validate=float)
                found = merging.in_layer({"weights": [values, 0.5], "t": values, "density": 0.5}, layer, layers)
                assert found["t"] == found["weights"][0] == pytest.approx(expected, abs=1e-12)
                assert (found["weights"][1], found["density"]) == (0.5, 0.5)
    # Outside of layers as in the first of them.
    assert merging.in_layer({"t": [0.1, 0.9]}, None, 24)["t"] == 0.1
    assert merging.in_layer({"t": [0.1, 0.9]}, 0, 1)["t"] == 0.9


@pytest.mark.parametrize("count", [2, 3, 5])
def test_model_stock_of_any_number_of_parents_is_mergekits(small_chunks, count):
    import torch

    base, parents = tuned(count, seed=count)
    shared = 0.3 * torch.randn(base.shape, generator=torch.Generator().manual_seed(9))
    parents = [parent + shared for parent in parents]
    torch.testing.assert_close(merged(parents, base, STOCK), mergekit_tensor(parents, base, STOCK), rtol=0, atol=1e-5)


def test_model_stock_keeps_what_all_agree_on_and_leaves_out_what_none_shares():
    import torch

    base, (parent,) = tuned(1)
    torch.testing.assert_close(merged([parent] * 3, base, STOCK), parent, rtol=0, atol=1e-6)
    apart = [torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])]
    assert torch.equal(merged(apart, torch.zeros(3), STOCK), torch.zeros(3))
    # Two opposite changes have no centre.
    opposite = [torch.tensor([1.0, 1.0]), torch.tensor([-1.0, -1.0])]
    assert torch.equal(merged(opposite, torch.zeros(2), STOCK), torch.zeros(2))
    # However small a change is, its direction counts.
    small = torch.full((4,), 1e-9)
    torch.testing.assert_close(merged([small, small], torch.zeros(4), STOCK), small, rtol=1e-5, atol=0)
    # At 60 degrees, cosine 1/2: two thirds of the mean.
    turned = [torch.tensor([1.0, 0.0]), torch.tensor([0.5, 3**0.5 / 2])]
    expected = torch.tensor([1.5, 3**0.5 / 2]) / 2 * 2 / 3
    torch.testing.assert_close(merged(turned, torch.zeros(2), STOCK), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_merged_in_float32(small_chunks, same_masks, dtype):
    import torch

    base, parents = tuned(2)
    base, *parents = (tensor.to(getattr(torch, dtype)) for tensor in (base, *parents))
    for settings in (ARITHMETIC, DARE, DARE_TIES):
        found = merged(parents, base, settings)
        assert found.dtype == torch.float32  # rounded when it is written
        expected = mergekit_tensor([parent.float() for parent in parents], base.float(), settings)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_slerp_follows_the_arc(small_chunks):
    import torch

    a, b = torch.zeros(300), torch.zeros(300)
    a[:100], b[100:] = 0.1, 0.1 / 2**0.5  # both of length 1, at a right angle
    found = merged([a, b], None, {"method": "slerp", "t": 1 / 3})
    torch.testing.assert_close(found, a * 3**0.5 / 2 + b / 2)  # 30 degrees of 90
    for angle, stretch in ((0.03, 1.0), (0.033, 1 / math.cos(0.0165))):  # cosines 0.99955, where it is linear, 0.99946
        near = math.cos(angle) * a + math.sin(angle) * b
        found = merged([a, near], None, {"method": "slerp", "t": 0.5})
        torch.testing.assert_close(found, stretch * (a + near) / 2, rtol=1e-6, atol=0)
    opposite = merged([a, -a], None, {"method": "slerp", "t": 0.25})
    torch.testing.assert_close(opposite, 0.5 * a)
    zeros = torch.zeros(300)
    torch.testing.assert_close(merged([zeros, a], None, SLERP), mergekit_tensor([zeros, a], None, SLERP))


def test_the_ends_of_slerp_are_the_parents_bit_by_bit(small_chunks):
    import torch

    _, (a, b) = tuned(2)
    for t, parent in ((0, a), (1, b)):
        assert torch.equal(merged([a, b], None, {"method": "slerp", "t": t}), parent)


def test_ties_by_hand():
    import torch

    base = torch.zeros(6)
    a, b, c = (
        torch.tensor(values)
        for values in ([4.0, -1, 3, 0.5, 2, 0.1], [2.0, -3, -4, 0.1, 0.2, 5], [-1.0, 0.2, 6, 3, 0.3, 0.1])
    )
    settings = {"method": "ties", "weights": [1.0, 1.0, 1.0], "density": 0.5, "scale": 1.0}
    # Three of six stay: a 4 3 2, b -3 -4 5, c -1 6 3. Signs of the sums: + - + + + +.
    expected = torch.tensor([4.0, -3, 4.5, 3, 2, 5])
    assert torch.equal(merged([a, b, c], base, settings), expected)
    assert torch.equal(merged([a, b, c], base, settings | {"scale": 2.0}), 2 * expected)
    # Weights decide the vote and the mean: 3 against -4 is minus now, 3 and 6 with weights 1 and 0.5.
    found = merged([a, b, c], base, settings | {"weights": [1.0, 2.0, 0.5]})
    torch.testing.assert_close(found, torch.tensor([4.0, -3, -4, 3, 2, 5]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("density", [0.0001, 0.2, 0.5, 0.999])
def test_trimming_keeps_the_largest_and_of_equals_the_first(small_chunks, seed, density):
    import torch

    rng = np.random.default_rng(seed)
    values = rng.normal(size=1001).astype(np.float32)
    equal = rng.random(1001) < 0.5
    values[equal] = rng.choice([-0.4, 0.4], size=equal.sum())
    found = merged([torch.from_numpy(values)], torch.zeros(1001), TIES | {"weights": [1.0], "density": density}).numpy()
    kept = np.argsort(-np.abs(values), kind="stable")[: max(1, int(density * 1001))]
    expected = np.zeros_like(values)
    expected[kept] = values[kept]
    np.testing.assert_allclose(found, np.float32(0.9) * expected, rtol=1e-6)


def test_the_change_of_one_parent_is_added_whole():
    import torch

    base, (parent,) = tuned(1)
    for method in ("task_arithmetic", "ties", "dare_linear", "dare_ties"):
        own = {"density": 1.0, "seed": 0} if "dare" in method else {"density": 1.0} if method == "ties" else {}
        found = merged([parent], base, {"method": method, "weights": [1.0], "scale": 1.0} | own)
        torch.testing.assert_close(found, parent, rtol=0, atol=1e-6)


def dare_mask(seed: int = 0, name: str = "tensor", parent: int = 0, density: float = 0.3, size: int = 200_000):
    return kept_at_random(seed, name, parent, density)(size)


def test_dare_keeps_its_share_and_the_norm():
    import torch

    for density in (0.05, 0.3, 0.9):
        kept = dare_mask(density=density).mean()
        assert abs(kept - density) < 4 * (density * (1 - density) / 200_000) ** 0.5
    base, (parent,) = tuned(1, shape=(200_000,))
    found = merged([parent], base, DARE | {"weights": [1.0], "scale": 1.0}) - base
    change, kept = parent - base, found.abs() > 1e-5
    assert abs(kept.float().mean() - 0.3) < 0.005
    torch.testing.assert_close(found.abs().sum(), change.abs().sum(), rtol=1e-4, atol=0)
    # One factor for all that stays; the paper's is 1 / density.
    ratio = (found[kept] / change[kept])[change[kept].abs() > 0.1]
    assert ratio.max() - ratio.min() < 1e-3
    assert abs(ratio.mean() - 1 / 0.3) < 0.05


def test_dare_draws_by_seed_name_and_parent_alone(monkeypatch):
    import torch

    first = dare_mask()
    assert (dare_mask() == first).all()
    for other in (dare_mask(seed=1), dare_mask(name="tensor2"), dare_mask(parent=1)):
        # Independent: both keep an element with the probability 0.3 * 0.3.
        assert abs((first & other).mean() - 0.09) < 0.004
    neighbours = (first[1:] & first[:-1]).mean()
    assert abs(neighbours - 0.09) < 0.004
    base, parents = tuned(2)
    whole = merged(parents, base, DARE)
    monkeypatch.setattr(merging, "CHUNK", 64)
    torch.testing.assert_close(merged(parents, base, DARE), whole, rtol=0, atol=1e-6)
    assert not torch.allclose(merged(parents, base, DARE | {"seed": 6}), whole)


def test_bfloat16_parents_are_summed_in_float32():
    import torch

    a, b = (torch.tensor(values, dtype=torch.bfloat16) for values in ([1.0, 256.0], [1.0078125, 257.0]))
    found = linear([a, b, a], [0.25, 0.25, 0.5])
    assert found.dtype == torch.bfloat16
    assert linear([a.float(), b], [0.5, 0.5]).dtype == torch.float32
    # 0.25 a + 0.25 b + 0.5 a = a + (b - a) / 4, rounded once.
    exact = (a.double() * 0.75 + b.double() * 0.25).to(torch.bfloat16)
    assert torch.equal(found, exact)


# --- checkpoints ----------------------------------------------------------------------------------


def changed(folder: Path, parent: Path, seed: int, dtype: str = "float32", **save) -> Path:
    """The same architecture with other weights."""
    import torch

    model = checkpoints.load_model(parent, torch.float32)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(folder, **save)
    checkpoints.load_tokenizer(parent).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(tiny_checkpoint, tmp_path_factory) -> Path:
    return changed(tmp_path_factory.mktemp("merge") / "other", tiny_checkpoint, seed=1)


@pytest.fixture(scope="module")
def third(tiny_checkpoint, tmp_path_factory) -> Path:
    return changed(tmp_path_factory.mktemp("merge") / "third", tiny_checkpoint, seed=2)


@pytest.fixture(scope="module")
def sharded(tiny_checkpoint, tmp_path_factory) -> Path:
    """In bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("merge") / "sharded"
    return changed(folder, tiny_checkpoint, seed=3, dtype="bfloat16", max_shard_size="500KB")


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, tmp_path_factory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("merge") / "adapter"
    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    checkpoints.load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    return folder


def tensors(folder: Path) -> dict:
    """By the safetensors library, not by the step's own reader."""
    from safetensors.torch import load_file

    return {name: tensor for path in checkpoints.weight_files(folder) for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("settings", ALL, ids=lambda settings: settings["method"])
def test_a_checkpoint_is_merged_as_by_mergekit(tiny_checkpoint, other, third, tmp_path, same_masks, settings):
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    over_base = MERGES[settings["method"]].over_base
    shared, own = in_mergekit(settings)
    models = [
        {"model": str(parent), "parameters": {key: per_parent(value, 2)[i] for key, value in own.items()}}
        for i, parent in enumerate((other, third))
    ]
    config = {"merge_method": settings["method"], "models": models, "parameters": shared, "dtype": "float32"}
    if over_base or settings["method"] == "slerp":
        config["base_model"] = str(tiny_checkpoint if over_base else other)
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "mergekit"), options)
    expected = tensors(tmp_path / "mergekit")

    found = tensors(run([other, third], settings, tmp_path / "ours", tiny_checkpoint if over_base else None))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.25, 0.75], [1.5, -0.5]])
def test_linear_is_the_weighted_sum(tiny_checkpoint, other, tmp_path, weights):
    first, second = tensors(tiny_checkpoint), tensors(other)
    found = tensors(run([tiny_checkpoint, other], LINEAR | {"weights": weights}, tmp_path / "out"))
    assert found.keys() == first.keys()
    for name, value in found.items():
        expected = weights[0] * first[name].double() + weights[1] * second[name].double()
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_ends_of_linear_are_the_parents_bit_by_bit(tiny_checkpoint, other, sharded, tmp_path):
    import torch

    for parents in ([tiny_checkpoint, other], [sharded, other]):
        for weights, parent in (([1, 0], parents[0]), ([0.0, 1.0], parents[1])):
            out = run(parents, LINEAR | {"weights": weights}, tmp_path / "out")
            found, expected = tensors(out), tensors(parent)
            assert found.keys() == expected.keys()
            for name, value in found.items():
                assert value.dtype == expected[name].dtype
                assert value.flatten().view(torch.uint8).equal(expected[name].flatten().view(torch.uint8))


def test_files_are_laid_out_as_those_of_the_first_parent(sharded, other, tmp_path):
    run([sharded, other], LINEAR | {"weights": [1.0, 0.0]}, tmp_path / "same")
    files = checkpoints.weight_files(sharded)
    assert len(files) > 3
    for path in files:
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
    index = read_json(tmp_path / "same" / "model.safetensors.index.json")
    assert index["weight_map"] == read_json(sharded / "model.safetensors.index.json")["weight_map"]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(sharded).values())
    # Shards of the first parent, the wider numbers of the second.
    out = run([sharded, other], LINEAR, tmp_path / "wide")
    assert [path.name for path in checkpoints.weight_files(out)] == [path.name for path in files]
    assert {str(tensor.dtype) for tensor in tensors(out).values()} == {"torch.float32"}


def test_numbers_of_two_widths_share_a_file(tmp_path):
    import torch
    from safetensors.torch import load_file

    values = {"a": torch.randn(3).bfloat16(), "b": torch.randn(5, 2), "c": torch.randn(()), "d": torch.randn(0, 4)}
    layout = {name: ("BF16" if name == "a" else "F32", list(tensor.shape)) for name, tensor in values.items()}
    size = write_safetensors(tmp_path / "file", layout, lambda name: [values[name].flatten()])
    assert size == 3 * 2 + 10 * 4 + 4
    found = load_file(tmp_path / "file")
    assert found.keys() == values.keys()
    assert all(found[name].dtype == tensor.dtype and found[name].equal(tensor) for name, tensor in values.items())
    assert all(stored.first % 4 == 0 for name, stored in stored_tensors(tmp_path / "file").items() if name != "a")


def test_the_result_is_a_checkpoint(tiny_checkpoint, other, third, tmp_path):
    import torch

    out = run([other, third], TIES, tmp_path / "out", tiny_checkpoint)
    assert checkpoints.check(out) == [out / "manifest.json"]
    assert checkpoints.load_tokenizer(out).chat_template == checkpoints.load_tokenizer(other).chat_template
    logits = checkpoints.load_model(out, torch.float32)(torch.arange(10)[None]).logits
    assert torch.isfinite(logits).all()
    manifest = read_json(out / "manifest.json")
    assert manifest["counts"]["parents"] == 2
    assert str(tiny_checkpoint / "model.safetensors") in manifest["inputs"]
    again = run([other, third], TIES, tmp_path / "again" / "out", tiny_checkpoint)
    assert (again / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()


def test_an_adapter_is_merged_first(tiny_checkpoint, other, adapter, tmp_path):
    import torch
    from peft import PeftModel

    ids = torch.arange(20)[None]
    base = checkpoints.load_model(tiny_checkpoint, torch.float32).eval()
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
    assert (expected - plain).abs().max() > 0.1
    for parents, settings, base in (
        ([tiny_checkpoint, adapter], LINEAR | {"weights": [0.0, 1.0]}, None),
        ([adapter, other], ARITHMETIC | {"weights": [1.0, 0.0], "scale": 1.0}, tiny_checkpoint),
    ):
        out = run(parents, settings, tmp_path / "out", base)
        with torch.no_grad():
            found = checkpoints.load_model(out, torch.float32).eval()(ids).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        assert [path.name for path in out.iterdir() if path.name.startswith(".")] == [".manifest.json"]


def test_a_head_stored_beside_tied_embeddings_is_not_merged_apart(tiny_checkpoint, other, third, tmp_path):
    import torch
    from safetensors.torch import save_file

    twice = tmp_path / "twice"
    shutil.copytree(other, twice)
    stored = tensors(twice)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, twice / "model.safetensors", metadata={"format": "pt"})
    out = run([twice, third], DARE, tmp_path / "out", tiny_checkpoint)
    expected = run([other, third], DARE, tmp_path / "expected", tiny_checkpoint)
    assert (out / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    model = checkpoints.load_model(out, torch.float32)
    assert model.lm_head.weight is model.model.embed_tokens.weight


# --- depth, types and tokens ----------------------------------------------------------------------


def test_weights_over_depth_are_mergekits_gradients(tiny_checkpoint, other, third, tmp_path):
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

    weights = [[0.1, 0.9, 0.5], [0.9, 0.1, 0.5]]
    models = [{"model": str(p), "parameters": {"weight": w}} for p, w in zip((other, third), weights, strict=True)]
    config = {"merge_method": "linear", "models": models, "dtype": "float32"}
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    run_merge(MergeConfiguration.model_validate(config), str(tmp_path / "mergekit"), options)
    expected = tensors(tmp_path / "mergekit")
    found = tensors(run([other, third], LINEAR | {"weights": weights}, tmp_path / "ours"))
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "code"), [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")])
def test_weights_are_written_in_the_dtype_that_is_asked_for(sharded, other, tmp_path, dtype, code):
    out = run([other, sharded], LINEAR | {"dtype": dtype}, tmp_path / "out")
    assert {entry.dtype for path in checkpoints.weight_files(out) for entry in stored_tensors(path).values()} == {code}
    assert read_json(out / "config.json")["dtype"] == dtype


def test_a_config_says_what_its_weights_are_stored_in(sharded, other, tmp_path):
    """A bfloat16 parent first, and a wider one: float32 is written, and the config says so."""
    out = run([sharded, other], LINEAR, tmp_path / "out")
    assert read_json(sharded / "config.json")["dtype"] == "bfloat16"
    assert read_json(out / "config.json")["dtype"] == "float32"


def test_layers_are_stacked(tiny_checkpoint, other, third, tmp_path):
    import torch

    out = run([other, third], STACKED, tmp_path / "out")
    found, first, second = tensors(out), tensors(other), tensors(third)
    for place, (of, layer) in enumerate([(first, 0), (first, 1), (first, 2), (second, 1), (second, 2), (second, 3)]):
        for name in (name for name in of if f"layers.{layer}." in name):
            assert found.pop(name.replace(f"layers.{layer}.", f"layers.{place}.")).equal(of[name])
    assert found.pop("model.embed_tokens.weight").equal(first["model.embed_tokens.weight"])
    assert found.pop("model.norm.weight").equal(second["model.norm.weight"])
    assert not found
    config = read_json(out / "config.json")
    assert config["num_hidden_layers"] == len(config["layer_types"]) == 6
    assert torch.isfinite(checkpoints.load_model(out, torch.float32)(torch.arange(9)[None]).logits).all()
    for slices, message in (
        ([{"parent": 2, "layers": [0, 1]}], r"slices\[0\].parent: 2 is none of the 2 parents"),
        (
            [{"parent": 1, "layers": [0, 1]}, {"parent": 0, "layers": [2, 9]}],
            r"slices\[1\].layers: \[2, 9\] are no layers",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run([other, third], STACKED | {"slices": slices}, tmp_path / "none")


def grown(folder: Path, parent: Path, tokens: list[str], seed: int) -> Path:
    """A parent with tokens of its own and rows for them."""
    import torch

    tokenizer, model = checkpoints.load_tokenizer(parent), checkpoints.load_model(parent, torch.float32)
    tokenizer.add_tokens(tokens)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_union_of_tokens_by_hand(tiny_checkpoint, tmp_path):
    """Two parents added tokens, one of them the same, under other numbers."""
    first = grown(tmp_path / "first", tiny_checkpoint, ["<tool>", "<think>"], 1)
    second = grown(tmp_path / "second", tiny_checkpoint, ["<think>", "<end>"], 2)
    with pytest.raises(ValueError, match="another vocabulary .* tokenizer: union$"):
        run([first, second], LINEAR, tmp_path / "refused")
    size = len(checkpoints.vocabulary(tiny_checkpoint))
    rows = tensors(tiny_checkpoint)["model.embed_tokens.weight"].shape[0]
    e0, e1, e2 = (tensors(folder)["model.embed_tokens.weight"].numpy() for folder in (tiny_checkpoint, first, second))
    for settings, base in ((LINEAR, None), (ARITHMETIC, tiny_checkpoint)):
        out = run([first, second], settings | {"tokenizer": "union"}, tmp_path / settings["method"], base)
        own = checkpoints.vocabulary(out)
        assert [own[token] for token in ("<tool>", "<think>", "<end>")] == [size, size + 1, size + 2]
        tokenizer = checkpoints.load_tokenizer(out)
        assert tokenizer.encode("<tool><end>", add_special_tokens=False) == [size, size + 2]
        found = tensors(out)["model.embed_tokens.weight"].numpy()
        # The base's matrix is padded to 768 rows.
        assert len(found) == read_json(out / "config.json")["vocab_size"] == (rows if base else size + 3)
        a, b = settings["weights"]
        if base is None:
            expected = {0: a * e1[:size] + b * e2[:size], size: e1[size], size + 1: a * e1[size + 1] + b * e2[size]}
            expected[size + 2] = e2[size + 1]
        else:
            scale = settings["scale"]
            common = e0[:size] + scale * (a * (e1[:size] - e0[:size]) + b * (e2[:size] - e0[:size]))
            # The base lacks the new ones and takes the first parent's rows: who has the same adds nothing.
            expected = {0: common, size: e1[size], size + 2: e2[size + 1]}
            expected[size + 1] = e1[size + 1] + scale * b * (e2[size] - e1[size + 1])
        for begin, values in expected.items():
            np.testing.assert_allclose(
                found[begin : begin + len(np.atleast_2d(values))], np.atleast_2d(values), atol=1e-5
            )
        assert read_json(out / "manifest.json")["counts"]["tokens"] == {"union": size + 3, "added": 1}


def test_equal_tokens_in_another_number_of_rows_are_put_together(tiny_checkpoint, other, tmp_path):
    """A matrix that is padded: what is no token's is read where it is there."""
    import torch

    padded = tmp_path / "padded"
    model = checkpoints.load_model(other, torch.float32)
    model.resize_token_embeddings(800, mean_resizing=False)
    model.save_pretrained(padded)
    checkpoints.load_tokenizer(other).save_pretrained(padded)
    out = run([tiny_checkpoint, padded], LINEAR | {"tokenizer": "union"}, tmp_path / "out")
    found = tensors(out)["model.embed_tokens.weight"]
    a, b = (tensors(folder)["model.embed_tokens.weight"] for folder in (tiny_checkpoint, padded))
    torch.testing.assert_close(found[:768], (a + b[:768]) / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[768:], b[768:], rtol=0, atol=0)
    assert checkpoints.load_model(out, torch.float32)


def test_a_tokenizer_that_another_version_wrote_is_the_same(tiny_checkpoint, tmp_path):
    """Merges as texts, and keys left out or empty: as files on the hub have them, and as transformers saves them."""
    first = grown(tmp_path / "first", tiny_checkpoint, ["<tool>"], 1)
    older = shutil.copytree(tiny_checkpoint, tmp_path / "older")
    tokenizer = read_json(older / "tokenizer.json")
    model = tokenizer["model"]
    assert isinstance(model["merges"][0], list)
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model |= {"continuing_subword_prefix": "", "end_of_word_suffix": None, "fuse_unk": False}
    del model["dropout"]
    write_json(older / "tokenizer.json", tokenizer)
    out = run([first, older], LINEAR | {"tokenizer": "union"}, tmp_path / "out")
    assert "<tool>" in checkpoints.vocabulary(out)
    model["merges"][3], model["merges"][4] = model["merges"][4], model["merges"][3]
    write_json(older / "tokenizer.json", tokenizer)
    with pytest.raises(ValueError, match="their merges of pieces"):
        run([first, older], LINEAR | {"tokenizer": "union"}, tmp_path / "refused")


def test_a_union_of_two_ways_to_cut_a_text_is_refused(tiny_checkpoint, tmp_path):
    swapped = shutil.copytree(tiny_checkpoint, tmp_path / "swapped")
    tokenizer = read_json(swapped / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    write_json(swapped / "tokenizer.json", tokenizer)
    with pytest.raises(ValueError, match='another tokenizer than .*first "a".*not two ways to cut a text'):
        run([tiny_checkpoint, swapped], LINEAR | {"tokenizer": "union"}, tmp_path / "out")


# --- memory ---------------------------------------------------------------------------------------

MEASURE = """
import argparse, json, sys
from pathlib import Path
import torch
from steps.models import merging
from steps.recipes import merge
from steps.settings.merging import MERGES

def memory(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) * 1024

folder, settings, base = Path(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[1]) / "base"
base = base if MERGES[settings["method"]].over_base else None
before = memory("VmRSS")
parents = [folder / "first", folder / "second"]
merge.main(argparse.Namespace(settings=settings, parents=parents, base=base, out=folder / "out"))
print(memory("VmHWM") - before)
"""


@pytest.fixture(scope="module")
def large(tiny_checkpoint, tmp_path_factory) -> Path:
    """Three checkpoints of three shards of 32 MiB; the first shard is one tensor, which takes 64 MiB in float32."""
    import torch

    folder = tmp_path_factory.mktemp("large")
    values = torch.randn(2**24 + 2)
    for index, name in enumerate(("base", "first", "second")):
        (folder / name).mkdir()
        weight_map = {}
        for shard, parts in enumerate((1, 4, 16)):
            layout = {f"{shard}.{part}": ("BF16", [2**24 // parts]) for part in range(parts)}
            size, file = 2**24 // parts, f"{shard}.safetensors"
            write_safetensors(folder / name / file, layout, lambda _: [values[index : index + size]])  # noqa: B023
            weight_map |= dict.fromkeys(layout, file)
        write_json(folder / name / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
        for copied in ("config.json", "tokenizer.json"):
            shutil.copyfile(tiny_checkpoint / copied, folder / name / copied)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("settings", [LINEAR, TIES], ids=lambda settings: settings["method"])
def test_a_merge_needs_less_memory_than_two_shards(large, settings):
    """VmHWM counts every resident page, of mapped files too; only Python and torch as imported are taken off."""
    environment = {**os.environ, "PYTHONPATH": str(Path(merge.__file__).parents[2]), "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", MEASURE, str(large), json.dumps(settings)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    used = int(done.stdout.splitlines()[-1])
    assert 0 < used < 2 * 32 * 2**20
    assert sum(path.stat().st_size for path in checkpoints.weight_files(large / "out")) > 96 * 2**20


# --- what cannot be merged ------------------------------------------------------------------------


def test_the_first_differing_tensor_is_named(tiny_checkpoint, adapter, tmp_path):
    from safetensors.numpy import load_file, save_file

    larger = tmp_path / "larger"
    shutil.copytree(tiny_checkpoint, larger)
    tensors = load_file(larger / "model.safetensors")
    tensors["model.embed_tokens.weight"] = np.zeros((800, 128), np.float32)
    tensors["model.layers.0.self_attn.q_proj.weight"] = np.zeros((64, 128), np.float32)
    save_file(tensors, larger / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"^model.embed_tokens.weight is \[768, 128\] in .* but \[800, 128\] in .*larger"
    ):
        run([tiny_checkpoint, larger], LINEAR, tmp_path / "out")
    with pytest.raises(ValueError, match=r"is \[768, 128\] in .*adapter \(an adapter on .*tiny\) but \[800, 128\] in"):
        run([adapter, tiny_checkpoint], ARITHMETIC, tmp_path / "out", larger)
    del tensors["model.layers.3.mlp.up_proj.weight"], tensors["model.embed_tokens.weight"]
    save_file(tensors, larger / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="^model.embed_tokens.weight is in .*tiny but not in .*larger"):
        run([tiny_checkpoint, larger], LINEAR, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dtype", "said"),
    [
        (np.float64, "^model.norm.weight is F64 in .*other: only F32, F16, BF16 can be merged"),
        (np.int8, "other/config.json: its weights are packed .model.norm.weight is I8."),
    ],
)
def test_a_dtype_that_cannot_be_merged_is_named(tiny_checkpoint, tmp_path, dtype, said):
    from safetensors.numpy import load_file, save_file

    other = shutil.copytree(tiny_checkpoint, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(dtype)
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=said):
        run([tiny_checkpoint, other], LINEAR, tmp_path / "out")


@pytest.mark.parametrize("settings", [LINEAR, SLERP, ARITHMETIC, DARE_TIES], ids=lambda settings: settings["method"])
def test_a_parent_with_numbers_that_are_none_is_named(tiny_checkpoint, tmp_path, settings):
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(tiny_checkpoint, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][5] = np.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    base = tiny_checkpoint if MERGES[settings["method"]].over_base else None
    with pytest.raises(ValueError, match=r"broken/model\.safetensors: model\.norm\.weight has numbers that are NaN"):
        run([tiny_checkpoint, broken], settings, tmp_path / "out", base)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_result_that_its_dtype_cannot_hold_is_named(tiny_checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    for name, value in (("above", 6e4), ("below", -6e4)):
        folder = shutil.copytree(tiny_checkpoint, tmp_path / name)
        tensors = {name: tensor.astype(np.float16) for name, tensor in load_file(folder / "model.safetensors").items()}
        tensors["model.norm.weight"][:] = value
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"out/model\.safetensors: model\.norm\.weight would have .* infinite in F16"):
        run([tmp_path / "above", tmp_path / "below"], LINEAR | {"weights": [1.5, -0.5]}, tmp_path / "out")


def test_another_configuration_of_equal_shapes_is_named(tiny_checkpoint, tmp_path):
    heads = tmp_path / "heads"
    shutil.copytree(tiny_checkpoint, heads)
    write_json(heads / "config.json", read_json(heads / "config.json") | {"num_attention_heads": 2, "head_dim": 64})
    with pytest.raises(
        ValueError, match="^num_attention_heads is 4 in .*tiny/config.json but 2 in .*heads/config.json"
    ):
        run([tiny_checkpoint, heads], LINEAR, tmp_path / "out")


# A change of a config and the key that is named; some families' defaults are written out by one parent alone.
COMPUTED = [
    ({"rope_theta": 5e5, "rope_parameters": None}, "rope_parameters"),
    ({"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2}, "layer_types|sliding_window"),
    ({"attention_bias": True}, "attention_bias"),
    ({"rms_norm_eps": 1e-3}, "rms_norm_eps"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "rope_parameters|max_position"),
]


@pytest.mark.parametrize(("change", "key"), COMPUTED, ids=lambda case: case if isinstance(case, str) else "")
def test_what_changes_a_forward_pass_must_agree(tiny_checkpoint, tmp_path, change, key):
    changed = shutil.copytree(tiny_checkpoint, tmp_path / "changed")
    config = read_json(changed / "config.json") | change
    if not change.keys() - {"use_sliding_window", "sliding_window", "max_window_layers"}:
        config.pop("layer_types", None)
    write_json(changed / "config.json", {name: value for name, value in config.items() if value is not None})
    message = rf"^({key}) is .* in .*tiny/config.json but .* in .*changed/config.json: different architectures"
    with pytest.raises(ValueError, match=message) as refused:
        run([tiny_checkpoint, changed], LINEAR, tmp_path / "out")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("family", "change"),
    [("gemma2", {"final_logit_softcapping": 20.0}), ("gemma2", {"attn_logit_softcapping": None}),
     ("gemma2", {"sliding_window": 16}), ("qwen3_moe", {"num_experts_per_tok": 1}),
     ("qwen3_moe", {"norm_topk_prob": True})],
    ids=str,
)  # fmt: skip
def test_what_a_family_adds_must_agree_too(tmp_path, family, change):
    """Read as loaded: the first parent leaves the key to its default, the second writes it."""
    from transformers import AutoConfig

    from steps.models.compatible import check_config

    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, over in zip(folders, ({}, change), strict=True):
        AutoConfig.for_model(family, **over).save_pretrained(folder)
    (key,) = change
    config = read_json(folders[0] / "config.json")
    write_json(folders[0] / "config.json", {name: value for name, value in config.items() if name != key})
    with pytest.raises(ValueError, match=rf"^{key} is .* in .*/a/config.json but .* in .*/b/config.json"):
        check_config(folders)


def test_older_names_and_what_changes_nothing_agree(tiny_checkpoint, other, tmp_path):
    old = shutil.copytree(other, tmp_path / "old")
    config = read_json(old / "config.json")
    theta = config.pop("rope_parameters")["rope_theta"]
    config |= {"rope_theta": theta, "torch_dtype": "bfloat16", "use_cache": False, "_name_or_path": "elsewhere"}
    config |= {"transformers_version": "4.40.0", "max_position_embeddings": 4096, "attention_dropout": 0.1}
    config.pop("dtype", None)
    config.pop("layer_types", None)
    write_json(old / "config.json", config | {"max_window_layers": 3, "unsloth_version": "1"})
    run([tiny_checkpoint, old], LINEAR, tmp_path / "out")


def test_another_vocabulary_of_the_same_size_is_refused(tiny_checkpoint, other, tmp_path):
    swapped = tmp_path / "swapped"
    shutil.copytree(tiny_checkpoint, swapped)
    tokenizer = read_json(swapped / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    a, b = vocabulary["a"], vocabulary["b"]
    vocabulary["a"], vocabulary["b"] = b, a
    write_json(swapped / "tokenizer.json", tokenizer)
    message = (
        f'swapped/tokenizer.json has another vocabulary than that of .*tiny: the id of "a" is {b} there and {a} here'
    )
    with pytest.raises(ValueError, match=message):
        run([tiny_checkpoint, swapped], LINEAR, tmp_path / "out")
    with pytest.raises(ValueError, match="swapped/tokenizer.json has another vocabulary"):
        run([tiny_checkpoint, other], ARITHMETIC, tmp_path / "out", swapped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LINEAR | {"weights": [0.5, 0.3]}, "weights: they sum to 0.8, not 1"),
        (LINEAR | {"weights": [1.0]}, "weights: 1 numbers for 2 parents"),
        (LINEAR | {"t": 0.5}, "t: linear has no such setting"),
        ({"method": "slerp"}, "t: slerp needs it"),
        ({"method": "slerp", "t": 1.5}, "t: 1.5 is not from 0"),
        ({"method": "average"}, "method: average is none of linear, slerp,"),
        (TIES, "--base: ties merges the changes of a base model"),
    ],
)
def test_settings_must_fit(tiny_checkpoint, tmp_path, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run([tiny_checkpoint, tiny_checkpoint], settings, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "parents", "message"),
    [
        (LINEAR, 2, "--base: linear has no base"),
        (SLERP, 3, "--base: slerp has no base"),
        (TIES | {"density": 0}, 2, "density: 0 is no share above 0"),
        (ARITHMETIC, 3, "weights: 2 numbers for 3 parents"),
    ],
)
def test_settings_must_fit_a_base(tiny_checkpoint, tmp_path, settings, parents, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        run([tiny_checkpoint] * parents, settings, tmp_path / "out", tiny_checkpoint)


def test_slerp_is_between_two(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="^method: slerp is between two parents, not 3"):
        run([tiny_checkpoint] * 3, SLERP, tmp_path / "out")
