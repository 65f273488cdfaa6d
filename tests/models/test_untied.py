"""Foreign adapters that part what their base ties: they make the model that PEFT computes, loaded and merged."""

from pathlib import Path

import pytest

from steps.models import checkpoints
from steps.recipes import interpolate
from tests.conftest import build_tokenizer
from tests.models.test_adapter_models import build, load, logits, moved
from tests.models.test_adapter_models import merged as halves

TARGETS = {
    "embeddings": {"target_modules": ["q_proj", "embed_tokens"]},
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "both": {"target_modules": ["q_proj", "lm_head", "embed_tokens"]},
    "both, tied": {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    "whole head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "whole embeddings": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Of tied embeddings."""
    return build("qwen3", tmp_path_factory.mktemp("tied"))


def foreign(base: Path, out: Path, **config):
    """An adapter as PEFT alone trains and saves it; returns the logits that PEFT computes with it."""
    from peft import LoraConfig, get_peft_model

    model = moved(get_peft_model(load(base), LoraConfig(r=4, task_type="CAUSAL_LM", **config)))
    model.peft_config["default"].base_model_name_or_path = str(base)
    expected = logits(model)
    model.save_pretrained(out)
    build_tokenizer().save_pretrained(out)
    return expected


@pytest.mark.parametrize("name", TARGETS)
def test_it_is_loaded_as_peft_computes_it(base, name, tmp_path):
    """And saved as a whole model, as a child of it is."""
    import torch

    expected = foreign(base, tmp_path / "adapter", **TARGETS[name])
    model = load(tmp_path / "adapter")
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=1e-5)
    assert not model.config.tie_word_embeddings
    model.save_pretrained(tmp_path / "whole")
    build_tokenizer().save_pretrained(tmp_path / "whole")
    torch.testing.assert_close(logits(load(tmp_path / "whole")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["embeddings", "whole head"])
def test_a_merge_with_a_tied_model_parts_the_head(base, name, tmp_path):
    """Weight by weight the mean of the two, where the tied one's head is its embeddings."""
    import torch
    from safetensors.torch import load_file

    expected = foreign(base, tmp_path / "adapter", **TARGETS[name])
    own, other = load(tmp_path / "adapter"), load(base)
    found = load(halves([base, tmp_path / "adapter"], tmp_path / "half"))
    for get in ("get_input_embeddings", "get_output_embeddings"):
        mean = (getattr(own, get)().weight + getattr(other, get)().weight) / 2
        torch.testing.assert_close(getattr(found, get)().weight, mean, rtol=0, atol=1e-6)
    assert "lm_head.weight" in load_file(tmp_path / "half/model.safetensors")
    again = load(halves([tmp_path / "adapter", tmp_path / "adapter"], tmp_path / "same"))
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)


def test_a_path_to_it_is_one_line(base, tmp_path):
    foreign(base, tmp_path / "adapter", **TARGETS["whole head"])
    weights = interpolate.Weights(tmp_path / "adapter")
    weights.merge_adapter(tmp_path / "merged")
    with pytest.raises(ValueError, match=r"adapter .*: gives the model an output layer of its own.*stage merge"):
        interpolate.check_heads([interpolate.Weights(base), weights])


def test_a_change_that_weights_have_no_place_for_is_one_line(base, tmp_path):
    foreign(base, tmp_path, target_modules=["q_proj"], lora_bias=True)
    with pytest.raises(ValueError, match="cannot be merged into its base .*lora_bias.*; choose another adapter"):
        checkpoints.load_model(tmp_path, load(base).dtype)
