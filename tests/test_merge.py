"""Merge: the weighted sum against NumPy, exact ends, adapters, and what cannot be merged."""

import argparse
import shutil
from pathlib import Path

import numpy as np
import pytest

from steps import checkpoints, merge
from steps.common import read_json, write_json


def run(parents: list[Path], weights: list[float], out: Path) -> Path:
    merge.main(argparse.Namespace(settings={"method": "linear", "weights": weights}, parents=parents, out=out))
    return out


@pytest.fixture(scope="module")
def other(tiny_checkpoint, tmp_path_factory) -> Path:
    """The same architecture with other weights."""
    import torch

    folder = tmp_path_factory.mktemp("merge") / "other"
    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    checkpoints.load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    return folder


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


def arrays(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: array for path in checkpoints.weight_files(folder) for name, array in load_file(path).items()}


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.25, 0.75], [1.5, -0.5]])
def test_linear_is_the_weighted_sum(tiny_checkpoint, other, tmp_path, weights):
    first, second = arrays(tiny_checkpoint), arrays(other)
    merged = arrays(run([tiny_checkpoint, other], weights, tmp_path / "out"))
    assert merged.keys() == first.keys()
    for name, value in merged.items():
        expected = weights[0] * first[name].astype(np.float64) + weights[1] * second[name].astype(np.float64)
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


def test_the_ends_are_the_parents_bit_by_bit(tiny_checkpoint, other, tmp_path):
    for weights, parent in (([1, 0], tiny_checkpoint), ([0.0, 1.0], other)):
        merged = arrays(run([tiny_checkpoint, other], weights, tmp_path / "out"))
        for name, value in arrays(parent).items():
            assert value.tobytes() == merged[name].tobytes()


def test_bfloat16_parents_are_summed_in_float32():
    import torch

    a, b = (torch.tensor(values, dtype=torch.bfloat16) for values in ([1.0, 256.0], [1.0078125, 257.0]))
    merged = merge.linear([a, b, a], [0.25, 0.25, 0.5])
    assert merged.dtype == torch.bfloat16
    assert merge.linear([a.float(), b], [0.5, 0.5]).dtype == torch.float32
    # 0.25 a + 0.25 b + 0.5 a = a + (b - a) / 4, rounded once.
    exact = (a.double() * 0.75 + b.double() * 0.25).to(torch.bfloat16)
    assert torch.equal(merged, exact)


def test_the_result_is_a_checkpoint(tiny_checkpoint, other, tmp_path):
    import torch

    out = run([tiny_checkpoint, other], [0.5, 0.5], tmp_path / "out")
    assert checkpoints.check(out) == [out / "manifest.json"]
    assert checkpoints.load_tokenizer(out).chat_template == checkpoints.load_tokenizer(other).chat_template
    logits = checkpoints.load_model(out, torch.float32)(torch.arange(10)[None]).logits
    assert torch.isfinite(logits).all()
    assert read_json(out / "manifest.json")["counts"]["parents"] == 2


def test_an_adapter_is_merged_first(tiny_checkpoint, adapter, tmp_path):
    import torch
    from peft import PeftModel

    out = run([tiny_checkpoint, adapter], [0.0, 1.0], tmp_path / "out")
    ids = torch.arange(20)[None]
    base = checkpoints.load_model(tiny_checkpoint, torch.float32).eval()
    with torch.no_grad():
        plain = base(ids).logits
        expected = PeftModel.from_pretrained(base, str(adapter)).eval()(ids).logits
        found = checkpoints.load_model(out, torch.float32).eval()(ids).logits
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_shards_hold_the_same_model(tiny_checkpoint, tmp_path):
    import torch

    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    weights = merge.Weights(tiny_checkpoint)
    (copy / "model.safetensors").unlink()
    merge.write_weights(copy, ((name, weights.tensor(name)) for name in sorted(weights.source)), shard_bytes=500_000)
    assert len(checkpoints.weight_files(copy)) > 3
    checkpoints.check(copy)
    a, b = (checkpoints.load_model(folder, torch.float32).state_dict() for folder in (tiny_checkpoint, copy))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_first_differing_tensor_is_named(tiny_checkpoint, tmp_path):
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
        run([tiny_checkpoint, larger], [0.5, 0.5], tmp_path / "out")
    del tensors["model.layers.3.mlp.up_proj.weight"], tensors["model.embed_tokens.weight"]
    save_file(tensors, larger / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="^model.embed_tokens.weight is in .*tiny but not in .*larger"):
        run([tiny_checkpoint, larger], [0.5, 0.5], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_vocabulary_of_the_same_size_is_refused(tiny_checkpoint, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    tokenizer = read_json(other / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    write_json(other / "tokenizer.json", tokenizer)
    with pytest.raises(ValueError, match="other/tokenizer.json has another vocabulary"):
        run([tiny_checkpoint, other], [0.5, 0.5], tmp_path / "out")


@pytest.mark.parametrize(("weights", "message"), [([0.5, 0.3], "sum to 0.8"), ([1.0], "1 numbers for 2 parents")])
def test_weights_must_fit(tiny_checkpoint, tmp_path, weights, message):
    with pytest.raises(ValueError, match=message):
        run([tiny_checkpoint, tiny_checkpoint], weights, tmp_path / "out")
