"""Rows of a batch do not see each other, whatever the architecture: tried on small random models of the true ones."""

import json
from argparse import Namespace

import pytest
import torch
import transformers

from benches.models import ARCHITECTURES, GATED, build
from steps.engines.transformers import Engine
from steps.models import checkpoints, positions, trial
from steps.models.context import stated_context
from steps.training import layouts, packing, supervised

# A state, a convolution, a bias by distance, or a mask (Falcon) that transformers does not cut where a row begins.
UNPACKED = {
    "Qwen3.5", "Falcon", "Falcon, alibi", "Bloom", "LFM2", "Granite 4 hybrid", "Falcon-H1", "Mamba 2", "gpt-oss",
    "Mamba", "Jamba", "Nemotron-H", "Qwen3-Next", "OPT", "RecurrentGemma", "MiniMax",
}  # fmt: skip
# Their states are not in a cache of transformers.
UNSAMPLED = {"RecurrentGemma", "MiniMax"}
SETTINGS = {"packing": True, "max_length": 128}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name, tmp_path_factory):
    folder = build(name, tmp_path_factory.mktemp("model") / "base")
    return checkpoints.load_model(folder, torch.float32).eval()


def test_rows_are_packed_where_they_do_not_see_each_other(name, model):
    layout, found = layouts.right_layout(model)
    assert layout == (packing.ALONE if name in UNPACKED else packing.PACKED)
    # What is wrong is far from rounding, and what is right is rounding.
    assert all(value <= 1e-4 if kind == layout else value > 0.05 for kind, value in found.items())


def test_a_batch_has_the_loss_of_its_rows_alone(name, model):
    settings, said = layouts.settled(SETTINGS, model, [])
    assert said == ({"layout": "alone"} if name in UNPACKED else {})
    rows = [{"input_ids": ids, "labels": ids} for ids in trial.made_up(model)]
    batch = supervised.layout(rows, settings, pad_token_id=0)
    with torch.no_grad():
        together = model(**batch, use_cache=False).loss.item()
        ids = [torch.tensor([row["input_ids"]]) for row in rows]
        alone = [model(input_ids=own, labels=own).loss.item() * (own.shape[1] - 1) for own in ids]
    expected = sum(alone) / sum(own.shape[1] - 1 for own in ids)
    assert together == pytest.approx(expected, rel=1e-5)


def test_rows_that_are_padded_on_the_left_have_their_own_positions(name, model):
    assert positions.by_mask(model) == (name in ("GPT-2", "RecurrentGemma"))
    assert positions.padded_difference(model) < 1e-4


def test_what_is_sampled_is_scored_alike(name, tmp_path):
    """Several samples of unequal prompts, some of which end early: rows of the cache are dealt out and dropped."""
    engine = Engine.load(build(name, tmp_path / "base"), 8)
    prompts = [tuple(range(5, 9)), tuple(range(20, 35))]
    if name in UNSAMPLED:
        with pytest.raises(ValueError, match="keeps states of its own beside transformers' cache"):
            engine.sample(prompts, n=3, temperature=1.0, max_new_tokens=8)
        return
    engine.stop_ids = [*range(0, engine.model.config.vocab_size, 5)]
    found = engine.sample(prompts, n=3, temperature=1.0, max_new_tokens=8)
    assert len({sample.tokens for own in found for sample in own}) > 2
    for prompt, own in zip(prompts, found, strict=True):
        for sample in own:
            logits = trial.read(engine.model, {"input_ids": torch.tensor([[*prompt, *sample.ids]])})[0]
            logps = logits[len(prompt) - 1 : -1].log_softmax(-1)
            expected = sum(logps[i, token].item() for i, token in enumerate(sample.ids))
            assert sample.logp == pytest.approx(expected, abs=1e-3)


class Summing(torch.nn.Module):
    """Sums embeddings over a row, as a kernel of linear attention does: a row ends where `cu_seq_lens_q` says so."""

    def __init__(self, takes: bool):
        super().__init__()
        self.takes, self.embedding = takes, torch.nn.Embedding(40, 8)
        self.config = type("Config", (), {"get_text_config": lambda self: self, "to_dict": lambda self: {}})()
        self.config.model_type = "summing"
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, position_ids=None, use_cache=None, cu_seq_lens_q=None, **rest):
        embedded = self.embedding(input_ids)
        ends = cu_seq_lens_q.tolist() if self.takes and cu_seq_lens_q is not None else [0, input_ids.shape[1]]
        parts = [embedded[:, a:b].cumsum(1) for a, b in zip(ends, ends[1:], strict=False)]
        return Namespace(logits=torch.cat(parts, 1) @ self.embedding.weight.T)


def test_kernels_that_take_the_ends_of_rows_have_them_as_trl_writes_them():
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    torch.manual_seed(0)
    assert layouts.right_layout(Summing(takes=True))[0] == packing.FLATTENED
    assert layouts.right_layout(Summing(takes=False))[0] == packing.ALONE
    rows = [{"input_ids": ids, "labels": ids} for ids in ([1, 2, 3], [4, 5], [6, 7, 8, 9])]
    batch = supervised.layout(rows, SETTINGS | {"layout": packing.FLATTENED}, pad_token_id=0)
    expected = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(rows)
    assert batch.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(value)), key


def test_a_checked_model_is_not_tried_again(tmp_path):
    file = tmp_path / "check.json"
    file.write_text(json.dumps({"layout": "alone", "by_mask": True}))
    assert layouts.check_given(Namespace(check=file)) == [file] and layouts.check_given(Namespace()) == []

    class Untried(Summing):
        def forward(self, *rest, **given):
            raise AssertionError

    settings, said = layouts.settled(SETTINGS, Untried(takes=False), [file])
    assert settings["layout"] == said["layout"] == "alone"
    model = checkpoints.load_model(build("GPT-2", tmp_path / "base"), torch.float32)
    forward, model.forward = model.forward, Untried(takes=False).forward
    layouts.pad(model, [file])
    model.forward = forward
    assert positions.padded_difference(model) < 1e-4
    unpacked = SETTINGS | {"packing": False}
    assert layouts.settled(unpacked, Untried(takes=False), []) == (unpacked, {})


def test_longer_rows_than_the_model_reads(tmp_path):
    model = checkpoints.load_model(build("GPT-2", tmp_path / "base"), torch.float32)
    with pytest.raises(ValueError, match="max_length: 1025 is above the 1024 positions of the model; lower it to 1024"):
        layouts.settled(SETTINGS | {"max_length": 1025}, model, [])
    bloom = checkpoints.load_model(build("Bloom", tmp_path / "bloom"), torch.float32)
    assert layouts.settled(SETTINGS | {"max_length": 100_000}, bloom, [])[0]["layout"] == "alone"


def test_a_row_beyond_the_short_factors_of_longrope_is_refused(tmp_path):
    """One turns all rows of its batch: the reason, and the bound by either spelling."""
    factors = {"rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = transformers.Phi3Config(
        **GATED, vocab_size=97, pad_token_id=0, initializer_range=0.1, max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_parameters={"rope_type": "longrope", "original_max_position_embeddings": 64} | factors,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    assert layouts.settled(SETTINGS | {"max_length": 64}, model, [])[1] == {}
    with pytest.raises(ValueError, match="max_length: 65 is above the 64 positions of the model"):
        layouts.settled(SETTINGS | {"max_length": 65}, model, [])
    short, longer = (torch.arange(n)[None] % 97 for n in (20, 65))
    beside = torch.cat([torch.nn.functional.pad(short, (0, 45)), longer])
    together = trial.read(model, {"input_ids": beside})[0, :20]
    assert trial.largest([together], trial.alone(model, [short[0].tolist()])) > 0.1
    old = {"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096}
    assert stated_context(old | {"rope_scaling": {"type": "su"}}) == 4096
    assert stated_context(old | {"rope_scaling": {"type": "yarn"}}) == 131_072
    assert stated_context(old) == 131_072
