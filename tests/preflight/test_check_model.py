"""The model check: what holds of a model that works, and one line for each that does not."""

import json
import shutil
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benches.models import ARCHITECTURES, build
from steps.core.files import read_json
from steps.core.manifest import verify_manifest
from steps.models import checkpoints
from steps.preflight import check_model, properties
from steps.preflight.check_model import checked
from steps.settings.adapters import ADAPTERS
from tests import families


@pytest.fixture
def base(small_checkpoint, tmp_path) -> Path:
    return shutil.copytree(small_checkpoint, tmp_path / "base")


def change(file: Path, **values) -> None:
    file.write_text(json.dumps(read_json(file) | values))


def found(result: dict) -> dict[str, tuple[str, str]]:
    return {one["name"]: (one["found"], one["treated"]) for one in result["properties"]}


def test_a_plain_model_is_taken_as_it_is(base, tmp_path, capsys):
    out = tmp_path / "check_model" / "base"
    check_model.main(Namespace(settings={}, model=base, out=out))
    result = read_json(out / "check.json")
    assert (result["architecture"], result["layout"], result["context"]) == ("qwen3", "packed", 1024)
    lines = found(result)
    assert lines["packed rows"] == ("logits as of the row alone", "rows are packed, told apart by their positions")
    assert lines["rows padded on the left"] == ("logits as of the row alone", "")
    assert lines["vocabulary"][0].endswith("768 embeddings")
    assert lines["end of an answer"][0] == "<|im_end|> is trained and stops sampling"
    assert lines["greedy answers"][0].startswith("those of transformers' generate")
    # The template has no place for tools.
    told = ("alike in 8 kinds of conversation", "rows with tools are left out as template_drops")
    assert lines["asked and trained"] == told
    # 7 linear layers in each of two blocks.
    assert result["adapters"]["lora"].startswith("14 of 14 linear layers")
    assert result["adapters"].keys() == ADAPTERS.keys()
    counts = verify_manifest(out)["counts"]
    assert counts["layout"] == "packed" and counts["treated"].keys() == {"asked and trained", "packed rows"}
    table = (out / "check.md").read_text()
    assert table.startswith("## base: qwen3\n") and table in capsys.readouterr().out
    assert f"| rows padded on the left | {lines['rows padded on the left'][0]} | as it is |" in table


@pytest.mark.parametrize("family", families.FAMILIES)
def test_families_ask_as_they_train(family, tmp_path):
    result = checked(families.write_checkpoint(family, tmp_path / "base"))
    kinds, _ = found(result)["asked and trained"]
    assert int(kinds.split()[2]) >= 4
    begins = {"llama3_2": "prompts begin with <|begin_of_text|>"}.get(family, "prompts begin with no token")
    assert found(result)["beginning"][0] == begins


@pytest.mark.parametrize("name", ["Qwen3-MoE", "Qwen3.5", "Falcon-H1", "GPT-2", "Bloom", "Mamba 2", "Mamba"])
def test_other_architectures_are_handled(name, tmp_path):
    lines = found(checked(build(name, tmp_path / "base")))
    handled = {"GPT-2": "rows padded on the left", "Qwen3-MoE": "asked and trained"}.get(name, "packed rows")
    assert lines[handled][1]
    assert lines["context"][0] == ("without a bound" if name in ("Bloom", "Mamba 2", "Mamba") else lines["context"][0])
    assert name in ARCHITECTURES


def test_tokens_without_an_embedding(base):
    tokenizer = checkpoints.load_tokenizer(base)
    tokenizer.add_tokens([f"<new{i}>" for i in range(768)])
    tokenizer.save_pretrained(base)
    with pytest.raises(
        ValueError, match=r"tokenizer.json: token '<new767>' has the id \d+, and the embeddings have 768 rows"
    ):
        checked(base)


def test_embeddings_that_are_not_tied_as_the_config_says(base):
    change(base / "config.json", tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"lm_head.weight is missing|tie_word_embeddings is False"):
        checked(base)


def test_an_end_that_does_not_stop(base):
    from steps.engines.transformers import Engine
    from steps.models.chat import Chat

    engine = Engine.load(base, 4)
    engine.stop_ids = [0]
    line = r"trained to end with '<\|im_end\|>', and sampling stops at <\|endoftext\|>; add"
    with pytest.raises(ValueError, match=line):
        properties.ends(engine, Chat(engine.tokenizer))


def test_other_tokens_are_asked_than_trained(base, monkeypatch):
    from steps.engines.transformers import Engine
    from steps.models.chat import Chat

    engine = Engine.load(base, 4)
    whole = engine.encode
    monkeypatch.setattr(engine, "encode", lambda texts: [[0, *ids] for ids in whole(texts)])
    line = r"one turn: the model is asked with …'<\|endoftext\|><\|im_start\|>.*set another"
    with pytest.raises(ValueError, match=line):
        properties.asks(engine, Chat(engine.tokenizer))


def test_a_model_that_samples_otherwise_than_it_reads(base, monkeypatch):
    from steps.engines.transformers import Engine

    engine = Engine.load(base, 4)
    forward = Engine._forward
    monkeypatch.setattr(Engine, "_forward", lambda self, *given: forward(self, *given) * 1.01)
    with pytest.raises(ValueError, match=r"qwen3: sampled log-probabilities differ from those of a forward pass by"):
        properties.samples(engine)


def test_no_chat_template(base):
    (base / "chat_template.jinja").unlink(missing_ok=True)
    change(base / "tokenizer_config.json", chat_template=None)
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        checked(base)


def test_pickled_weights(base):
    model = checkpoints.load_model(base, torch.float32)
    (base / "model.safetensors").unlink()
    torch.save(model.state_dict(), base / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: these weights are pickled.*save_pretrained\('") as error:
        checkpoints.check(base)
    assert "\n" not in str(error.value)
