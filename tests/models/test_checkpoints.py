"""A checkpoint folder that is whole is loaded, any other is refused by the name of the file."""

import shutil
from pathlib import Path

import pytest
import torch

from steps.core.manifest import write_manifest
from steps.models import checkpoints


@pytest.fixture
def copy(tiny_checkpoint, tmp_path) -> Path:
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def test_adapter_arrives_merged(tiny_checkpoint, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    tokenizer = checkpoints.load_tokenizer(tiny_checkpoint)
    torch.manual_seed(0)
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    wrapped.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    wrapped.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([tokenizer.encode("Mara has 12 pears")])
    with torch.inference_mode():
        expected = wrapped(ids).logits
        merged = checkpoints.load_model(tmp_path / "adapter", torch.float32).eval()
        base = checkpoints.load_model(tiny_checkpoint, torch.float32).eval()
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(base(ids).logits, expected, atol=1e-2)
    assert type(merged) is type(base)

    # The base belongs to what stands for an adapter.
    files = checkpoints.check(tmp_path / "adapter")
    assert tiny_checkpoint / "model.safetensors" in files
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"adapter/adapter_model\.safetensors is missing"):
        checkpoints.check(tmp_path / "adapter")


def test_linear_shapes_are_those_that_all_linear_adapts(tiny_checkpoint, tmp_path):
    """PEFT's choice is the reference; of shards and of an adapter as of one file."""
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    model.save_pretrained(tmp_path / "shards", max_shard_size="500KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    wrapped = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    layers = [(name, layer) for name, layer in wrapped.named_modules() if isinstance(layer, LoraLayer)]
    expected = {name.removeprefix("base_model.model."): (la.out_features, la.in_features) for name, la in layers}
    wrapped.peft_config["default"].base_model_name_or_path = str(tiny_checkpoint)
    wrapped.save_pretrained(tmp_path / "adapter")
    for folder in (tiny_checkpoint, tmp_path / "shards", tmp_path / "adapter"):
        assert checkpoints.linear_shapes(folder) == expected
    assert list(expected) != sorted(expected) == list(checkpoints.linear_shapes(tiny_checkpoint))


def test_missing_weights_are_named(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"copy/model\.safetensors is missing"):
        checkpoints.check(copy)
    with pytest.raises(ValueError, match="nowhere is missing"):
        checkpoints.check(copy / "nowhere")


@pytest.mark.parametrize("left", [0, 100, -1000])
def test_truncated_weights_are_named(copy, left):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"copy/model\.safetensors is damaged"):
        checkpoints.check(copy)


def test_weights_other_than_the_manifest_says_are_refused(copy):
    write_manifest(copy, step="sft", settings={}, inputs=[], started=0.0)
    checkpoints.check(copy)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ValueError, match=r"copy/model\.safetensors is damaged: .* not those that .*manifest\.json"):
        checkpoints.check(copy)


def test_pickled_weights_are_not_read(copy):
    model = checkpoints.load_model(copy, torch.float32)
    (copy / "model.safetensors").unlink()
    torch.save(model.state_dict(), copy / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin: these weights are pickled"):
        checkpoints.check(copy)
