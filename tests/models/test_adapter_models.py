"""Adapters on the models that people bring: where each kind attaches, what it leaves out, and that it loads in PEFT."""

import argparse
from pathlib import Path

import pytest

from steps.core.files import read_json, write_json
from steps.models import checkpoints
from steps.models.adapters import experts, tokens
from steps.models.adapters.attach import attach, find_targets, weight_counts
from steps.models.adapters.kinds import check
from steps.models.adapters.layers import expert_parameters
from steps.models.adapters.save import save_adapter
from steps.models.adapters.stacked import unstack
from steps.models.adapters.targets import matches, of_blocks
from steps.recipes import merge
from tests.conftest import build_tokenizer
from tests.models.test_adapters import KINDS

SIZE = {"vocab_size": 768, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = SIZE | {"num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128}
EXPERTS = GROUPED | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
STATE = {"vocab_size": 768, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
# Architecture: its class's beginning, and its configuration.
MODELS = {
    "qwen3": ("Qwen3", GROUPED | {"head_dim": 8, "tie_word_embeddings": True}),
    "llama": ("Llama", GROUPED | {"tie_word_embeddings": False}),
    "qwen3_moe": ("Qwen3Moe", EXPERTS | {"tie_word_embeddings": False}),
    "qwen2_moe": ("Qwen2Moe", EXPERTS | {"shared_expert_intermediate_size": 24, "tie_word_embeddings": False}),
    # The first block is dense.
    "qwen3_moe_dense": ("Qwen3Moe", EXPERTS | {"tie_word_embeddings": False, "mlp_only_layers": [0]}),
    # Its router is a linear layer.
    "phimoe": ("Phimoe", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    "mixtral": ("Mixtral", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "gpt2": ("GPT2", {"vocab_size": 768, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("GPTNeoX", SIZE | {"intermediate_size": 48, "max_position_embeddings": 128}),
    "bloom": ("Bloom", {"vocab_size": 768, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("Falcon", SIZE | {"new_decoder_architecture": False, "alibi": False}),
    # Kernels are handed the weight of out_proj, and of dt_proj of Mamba by every implementation.
    "mamba2": ("Mamba2", STATE | {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16}),
    "mamba": ("Mamba", STATE),
}
LORA = {"kind": "lora", "r": 4, "alpha": 8}


def build(architecture: str, folder: Path) -> Path:
    import torch
    import transformers

    name, config = MODELS[architecture]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = getattr(transformers, f"{name}Config")(
            **config, initializer_range=0.1, eos_token_id=0, bos_token_id=None
        )
        model = transformers.AutoModelForCausalLM.from_config(made)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made: dict[str, Path] = {}

    def get(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = build(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return get


def load(folder: Path):
    import torch

    return checkpoints.load_model(folder, torch.float32)


def logits(model):
    import torch

    with torch.no_grad():
        return model.eval()(torch.arange(3, 60).view(3, 19), use_cache=False).logits


def moved(model, seed: int = 0):
    """A model whose trained weights are away from where they started."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def adapter_on(folder: Path, out: Path, adapter: dict, new_ids=(), seed: int = 0):
    """Attached, moved and saved; returns the logits of the model that it made."""
    model = moved(attach(load(folder), adapter, seed, 8, new_ids), seed)
    expected = logits(model)
    save_adapter(model, out, folder)
    unstack(out)
    return expected


def in_peft(folder: Path, rows: int = 0):
    """What anybody gets who loads an adapter as PEFT's documents say."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(checkpoints.adapter_base(folder))
    if rows:
        base.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(base, str(folder))


# --- which layers --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "last"),
    [
        ("gpt2", {"c_attn", "c_proj", "c_fc"}),
        ("gpt_neox", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("bloom", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("falcon", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        ("qwen3_moe", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mamba2", {"in_proj"}),
        ("mamba", {"in_proj"}),
    ],
)
def test_all_linear_is_what_the_model_has(folders, architecture, last):
    found = find_targets(load(folders(architecture)), LORA)
    assert {name.rpartition(".")[2] for name in found["target_modules"]} == last
    experts = {name.rpartition(".")[2] for name in found.get("target_parameters", [])}
    assert experts == ({"gate_up_proj", "down_proj"} if architecture in ("qwen3_moe", "mixtral") else set())


def test_a_change_that_kernels_would_leave_out_is_refused(folders):
    model = load(folders("mamba2"))
    with pytest.raises(ValueError, match=r"backbone.layers.0.mixer.out_proj is handed to the kernels of mamba2"):
        find_targets(model, LORA | {"target_modules": ["in_proj", "out_proj"]})
    assert find_targets(model, LORA | {"exclude_modules": ["out_proj"]}) == find_targets(model, LORA)
    # What PEFT takes for others by their names.
    with pytest.raises(ValueError, match="adapter: no linear layer is left to change; see target_modules and exclude_"):
        find_targets(load(folders("qwen3_moe_dense")), LORA | {"target_modules": ["gate_proj"], "experts": "frozen"})


def test_a_weight_that_is_multiplied_without_its_layer_is_not_packed_in_four_bits(folders):
    model = attach(load(folders("mamba")), LORA | {"kind": "qlora"}, 0, 8)
    names = {name.rpartition("mixer.")[2]: type(module).__name__ for name, module in model.named_modules()}
    assert (names["dt_proj"], names["in_proj.base_layer"]) == ("Linear", "Linear4bit")
    assert logits(model).isfinite().all()


def test_routers_experts_and_towers_are_told_by_their_names():
    names = [
        "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate", "model.layers.0.mlp.router",
        "model.layers.0.mlp.experts.0.up_proj", "model.layers.0.mlp.shared_expert.up_proj",
        "model.layers.0.mlp.shared_expert_gate", "model.vision_tower.encoder.layers.0.q_proj",
        "model.visual.blocks.0.qkv", "model.multi_modal_projector.linear",
    ]  # fmt: skip
    assert of_blocks(names) == ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.shared_expert.up_proj"]
    # Without experts a gate is a layer as any other.
    assert of_blocks(["h.0.gate", "h.0.up"]) == ["h.0.gate", "h.0.up"]
    assert of_blocks(["h.0.gate", "h.0.up"], routed=True) == ["h.0.up"]


def test_experts_may_be_named_as_the_model_has_them(folders):
    """Also before the first job, where only the files are read."""
    named = LORA | {"target_modules": ["q_proj", "gate_up_proj"]}
    check(named, checkpoints.linear_shapes(folders("qwen3_moe")))
    found = find_targets(load(folders("qwen3_moe")), named)
    assert {name.rpartition(".")[2] for name in found["target_parameters"]} == {"gate_up_proj"}
    with pytest.raises(ValueError, match="gate_up_proj is no linear layer"):
        check(named, checkpoints.linear_shapes(folders("llama")))
    assert matches("a.b.c", "b.c") and matches("a.b.c", "*.b.*") and not matches("a.xb.c", "b.c")


@pytest.mark.parametrize("architecture", [name for name in MODELS if name != "qwen3"])
def test_lora_on_each_architecture_loads_in_peft_and_merges(folders, architecture, tmp_path, capsys):
    import torch

    expected = adapter_on(folders(architecture), tmp_path / "out", LORA)
    torch.testing.assert_close(logits(in_peft(tmp_path / "out")), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(load(tmp_path / "out")), expected, rtol=0, atol=1e-4)
    assert (logits(load(folders(architecture))) - expected).abs().max() > 1e-2
    if architecture == "qwen3_moe_dense":
        said = "3 layers that PEFT takes for experts by their names stay as they are (such as model.layers.0.mlp."
        assert said in capsys.readouterr().out


def test_the_router_stays_and_the_experts_learn(folders):
    model = attach(load(folders("qwen3_moe")), LORA, 0, 8)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert not any(".gate." in name for name in trained)
    # gate_up and down of 4 experts in 2 layers: r (in + out) each.
    assert sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "experts" in n) == 2 * 4 * 4 * (
        (32 + 32) + (16 + 32)
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("lora", "rslora", "ia3", "boft")])
def test_a_kind_that_does_not_reach_experts_says_so_and_asks(folders, kind):
    adapter = KINDS[kind] | {"block_size": 8} if kind == "oft" else KINDS[kind]
    model = load(folders("qwen3_moe"))
    with pytest.raises(
        ValueError, match=rf"adapter.experts: kind: {kind} does not reach the experts, \d+% of .*frozen"
    ):
        attach(model, adapter, 0, 8)
    trained = attach(model, adapter | {"experts": "frozen"}, 0, 8)
    assert not any("experts" in name for name, p in trained.named_parameters() if p.requires_grad)
    assert torch_close(logits(trained), logits(load(folders("qwen3_moe")))) or kind == "qlora"


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "llama"])
def test_files_tell_of_experts_what_the_model_does(folders, architecture):
    """Before the first job, from names and shapes: the share, and the refusal."""
    model, shares = load(folders(architecture)), experts.in_files(folders(architecture))
    total = sum(parameter.numel() for parameter in model.parameters())
    of_model = sum(parameter.numel() for parameter in expert_parameters(model).values())
    assert sum(shares.values()) == pytest.approx(of_model / total)
    oft = {"kind": "oft", "block_size": 8}
    if architecture == "llama":
        experts.check_in_files(oft, shares, "here")
        with pytest.raises(ValueError, match=r"here\.experts: has no effect on a model without experts of its own"):
            experts.check_in_files(LORA | {"experts": "frozen"}, shares, "here")
        return
    for adapter in (LORA, oft | {"experts": "frozen"}, oft | {"target_modules": ["q_proj"]}):
        experts.check_in_files(adapter, shares, "here")
    for adapter, what in ((oft, "kind: oft"), (LORA | {"dropout": 0.1}, "dropout")):
        with pytest.raises(
            ValueError, match=rf"here\.experts: {what} does not reach the experts, {of_model / total:.0%} of"
        ):
            experts.check_in_files(adapter, shares, "here")


def torch_close(one, other) -> bool:
    import torch

    return torch.allclose(one, other, rtol=0, atol=1e-3)


def test_a_router_that_is_a_linear_layer_stays_as_it_is(folders):
    for adapter in (LORA, LORA | {"experts": "frozen"}, {"kind": "oft", "block_size": 8, "experts": "frozen"}):
        found = find_targets(load(folders("phimoe")), adapter)["target_modules"]
        assert {name.rpartition(".")[2] for name in found} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_frozen_experts_on_a_dense_model_have_no_effect(folders):
    with pytest.raises(ValueError, match="adapter.experts: has no effect on a model without experts"):
        attach(load(folders("llama")), LORA | {"experts": "frozen"}, 0, 8)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("ia3", "boft", "lora")])
def test_every_kind_on_transposed_weights_loads_or_is_refused(folders, kind, tmp_path):
    import torch

    adapter = KINDS[kind] | ({"block_size": 8} if kind == "oft" else {})
    if kind in ("oft", "hra", "qlora"):
        with pytest.raises(ValueError, match=f"adapter.kind: {kind} cannot change .* transposed"):
            attach(load(folders("gpt2")), adapter, 0, 8)
        return
    start = attach(load(folders("gpt2")), adapter, 0, 8)
    torch.testing.assert_close(logits(start), logits(load(folders("gpt2"))), rtol=0, atol=1e-4)
    expected = adapter_on(folders("gpt2"), tmp_path, adapter)
    torch.testing.assert_close(logits(in_peft(tmp_path)), expected, rtol=0, atol=1e-4)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_modules": ["queries"]}, "adapter.target_modules: queries is no linear layer of the model's blocks"),
        ({"exclude_modules": ["queries"]}, "adapter.exclude_modules: queries is none of the layers that are changed"),
        ({"exclude_modules": ["*.layers.*"]}, "adapter: no linear layer is left to change"),
        ({"layers_to_transform": [2]}, "adapter.layers_to_transform: 2 is no block; they are 0 to 1"),
        ({"rank_pattern": {"queries": 2}}, "adapter.rank_pattern: queries is none of the layers"),
        ({"rank_pattern": {"k_proj": 17}}, "adapter.r: 17 is above 16, the rank of model.layers.0.self_attn.k_proj"),
        ({"modules_to_save": ["pooler"]}, "adapter.modules_to_save: pooler is no module of the model"),
        ({"target_modules": ["q_proj", "wte"]}, "adapter.target_modules: wte is none of model.embed_tokens, lm_head"),
    ],
)
def test_what_means_nothing_on_the_model_is_refused(folders, change, message):
    with pytest.raises(ValueError, match=message):
        attach(load(folders("llama")), LORA | change, 0, 8)


def test_layers_by_number_pattern_and_rank(folders, tmp_path):
    import torch

    adapter = LORA | {
        "exclude_modules": ["*.mlp.*"],
        "layers_to_transform": [1],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"q_proj": 16},
    }
    model = attach(load(folders("llama")), adapter, 0, 8)
    ranks = {n: p.shape[0] for n, p in model.named_parameters() if "lora_A" in n}
    assert {name.split(".")[4] for name in ranks} == {"1"} and not any(".mlp." in name for name in ranks)
    assert {name.split(".")[6]: rank for name, rank in ranks.items()} == {
        "q_proj": 2, "k_proj": 4, "v_proj": 4, "o_proj": 4,
    }  # fmt: skip
    layer = model.get_submodule("base_model.model.model.layers.1.self_attn.q_proj")
    assert layer.scaling["default"] == 16 / 2
    expected = adapter_on(folders("llama"), tmp_path, adapter)
    torch.testing.assert_close(logits(in_peft(tmp_path)), expected, rtol=0, atol=1e-5)


def test_pissa_with_ranks_of_its_own_is_saved_as_a_plain_lora(folders, tmp_path):
    import torch

    adapter = {"kind": "pissa", "r": 4, "alpha": 8, "rank_pattern": {"q_proj": 2}, "modules_to_save": ["norm"]}
    expected = adapter_on(folders("llama"), tmp_path, adapter)
    torch.testing.assert_close(logits(in_peft(tmp_path)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_a_module_that_is_trained_whole(folders, architecture, tmp_path):
    """Tied embeddings stay tied, in PEFT and merged."""
    import torch

    adapter = LORA | {"modules_to_save": ["embed_tokens", "norm"]}
    model = attach(load(folders(architecture)), adapter, 0, 8)
    counts = weight_counts(model)["trained"] - weight_counts(attach(load(folders(architecture)), LORA, 0, 8))["trained"]
    assert counts == 768 * 32 + 32
    expected = adapter_on(folders(architecture), tmp_path / "out", adapter)
    torch.testing.assert_close(logits(in_peft(tmp_path / "out")), expected, rtol=0, atol=1e-5)
    merged = load(tmp_path / "out")
    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, rtol=0, atol=1e-5)


def test_what_peft_cannot_keep_tied_is_refused(folders):
    with pytest.raises(ValueError, match="adapter.modules_to_save: model.embed_tokens is tied, .* and not beside oft"):
        attach(load(folders("qwen3")), {"kind": "oft", "block_size": 8, "modules_to_save": ["embed_tokens"]}, 0, 8)
    with pytest.raises(ValueError, match="adapter.target_modules: embed_tokens is tied to the output layer"):
        attach(load(folders("qwen3")), LORA | {"target_modules": ["q_proj", "embed_tokens"]}, 0, 8)
    with pytest.raises(ValueError, match="adapter.target_modules: lm_head is no layer that kind oft changes"):
        attach(load(folders("llama")), {"kind": "oft", "block_size": 8, "target_modules": ["lm_head"]}, 0, 8)


def test_embeddings_as_targets(folders, tmp_path):
    import torch

    adapter = LORA | {"target_modules": ["all-linear", "embed_tokens"]}
    model = attach(load(folders("llama")), adapter, 0, 8)
    assert sum("lora_embedding" in name for name, _ in model.named_parameters()) == 2
    expected = adapter_on(folders("llama"), tmp_path / "out", adapter)
    torch.testing.assert_close(logits(in_peft(tmp_path / "out")), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(load(tmp_path / "out")), expected, rtol=0, atol=1e-5)


def test_an_output_layer_as_target_is_refused_before_any_job(folders):
    """As TRL refuses it, once all is loaded."""
    line = "here.target_modules: lm_head is an output layer, .* name it in modules_to_save"
    with pytest.raises(ValueError, match=line):
        check(LORA | {"target_modules": ["q_proj", "lm_head"]}, checkpoints.linear_shapes(folders("llama")), "here")


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_new_tokens_have_rows_that_learn(folders, architecture, tmp_path):
    import torch

    adapter = LORA | {"new_tokens": ["<call>", "</call>"]}
    tokenizer = checkpoints.load_tokenizer(folders(architecture))
    ids = tokens.add(tokenizer, adapter)
    assert ids == [len(tokenizer) - 2, len(tokenizer) - 1] and tokenizer("a<call>b")["input_ids"].count(ids[0]) == 1
    # The model's matrix ends with the vocabulary: it grows.
    ids = [768, 769]
    base = load(folders(architecture))
    before = base.get_input_embeddings().weight.mean(0)
    model = attach(base, adapter, 0, 8, ids)
    assert model.get_input_embeddings().weight.shape[0] == 770
    torch.testing.assert_close(model.get_input_embeddings().weight[768], before)
    trained = {n: p.shape for n, p in model.named_parameters() if p.requires_grad and "lora" not in n}
    assert [*trained.values()] == [torch.Size([2, 32])] * (1 if architecture == "qwen3" else 2)
    expected = adapter_on(folders(architecture), tmp_path / "out", adapter, ids)
    asked = torch.tensor([[768, 5, 769, 7]])
    with torch.no_grad():
        for loaded in (in_peft(tmp_path / "out", 770), load(tmp_path / "out")):
            assert loaded(asked, use_cache=False).logits.shape[-1] == 770
            torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-5)


def test_a_token_that_is_known_is_refused(folders):
    with pytest.raises(ValueError, match="adapter.new_tokens: the tokenizer has '<|im_end|>' already"):
        tokens.add(checkpoints.load_tokenizer(folders("llama")), {"new_tokens": ["<|im_end|>"]})


def test_a_full_fine_tune_freezes_what_it_is_told(folders):
    model = attach(load(folders("llama")), {"kind": "full", "freeze": ["embed_tokens", "layers.0"]}, 0, 8)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert all(name.startswith(("model.embed_tokens.", "model.layers.0.")) for name in frozen)
    assert len(frozen) == 1 + sum(name.startswith("model.layers.0.") for name, _ in model.named_parameters())
    with pytest.raises(ValueError, match=r"adapter.freeze: layers.9 is no module of the model, which has lm_head, "):
        attach(load(folders("llama")), {"kind": "full", "freeze": ["layers.9"]}, 0, 8)
    with pytest.raises(ValueError, match="adapter.freeze: leaves nothing to train"):
        attach(load(folders("llama")), {"kind": "full", "freeze": ["model", "lm_head"]}, 0, 8)


# --- an adapter on an adapter --------------------------------------------------------------------

STACKS = [
    (LORA, LORA),
    (LORA, {"kind": "rslora", "r": 2, "alpha": 8, "target_modules": ["q_proj", "gate_proj"]}),
    ({"kind": "pissa", "r": 4, "alpha": 8}, LORA | {"rank_pattern": {"q_proj": 2}, "layers_to_transform": [0]}),
]
WHOLE = [({"kind": "oft", "block_size": 8}, LORA), (LORA, KINDS["dora"]), (LORA, LORA | {"modules_to_save": ["norm"]})]


@pytest.mark.parametrize(("below", "above"), STACKS)
def test_a_lora_on_a_lora_is_one_in_plain_peft(folders, below, above, tmp_path):
    import torch

    adapter_on(folders("llama"), tmp_path / "below", below)
    expected = adapter_on(tmp_path / "below", tmp_path / "above", above, seed=1)
    assert checkpoints.adapter_base(tmp_path / "above") == folders("llama")
    torch.testing.assert_close(logits(in_peft(tmp_path / "above")), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(load(tmp_path / "above")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("below", "above"), WHOLE)
def test_other_adapters_on_adapters_are_whole_models(folders, below, above, tmp_path, capsys):
    import torch
    from transformers import AutoModelForCausalLM

    adapter_on(folders("llama"), tmp_path / "below", below)
    expected = adapter_on(tmp_path / "below", tmp_path / "above", above, seed=1)
    assert not checkpoints.is_adapter(tmp_path / "above")
    assert "no sum of two LoRAs: the whole model is written" in capsys.readouterr().out
    for loaded in (AutoModelForCausalLM.from_pretrained(tmp_path / "above"), load(tmp_path / "above")):
        torch.testing.assert_close(logits(loaded), expected, rtol=0, atol=1e-4)


def test_an_adapter_of_a_base_on_the_hub_is_one_line(folders, tmp_path):
    adapter_on(folders("llama"), tmp_path, LORA)
    config = read_json(tmp_path / "adapter_config.json")
    write_json(tmp_path / "adapter_config.json", config | {"base_model_name_or_path": "someone/base"})
    with pytest.raises(ValueError, match="^someone/base is missing: no checkpoint there; .*by `base` in models$"):
        checkpoints.check(tmp_path)


def test_a_foreign_adapter_with_whole_embeddings_of_more_tokens(folders, tmp_path):
    """As TRL's and LLaMA-Factory's users have them: the base is resized, and both ends are saved."""
    import torch
    from peft import LoraConfig, get_peft_model

    base = load(folders("llama"))
    base.resize_token_embeddings(780, mean_resizing=False)
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    model = moved(get_peft_model(base, config))
    model.peft_config["default"].base_model_name_or_path = str(folders("llama"))
    expected = logits(model)
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    torch.testing.assert_close(logits(load(tmp_path)), expected, rtol=0, atol=1e-5)


# --- as a parent of a merge ----------------------------------------------------------------------


def merged(parents: list[Path], out: Path) -> Path:
    settings = {"method": "linear", "weights": [1 / len(parents)] * len(parents)}
    merge.main(argparse.Namespace(settings=settings, parents=parents, base=None, out=out))
    return out


def test_an_adapter_with_new_tokens_is_merged_into_the_tokens_of_both(folders, tmp_path):
    import torch

    adapter = LORA | {"new_tokens": ["<call>"]}
    tokenizer = checkpoints.load_tokenizer(folders("llama"))
    (number,) = tokens.add(tokenizer, adapter)
    base, own = tmp_path / "base", tmp_path / "adapter"
    # Embeddings end where the tokenizer does, so that the adapter's base has no row for its token.
    model = load(folders("llama"))
    model.resize_token_embeddings(number)
    model.save_pretrained(base)
    build_tokenizer().save_pretrained(base)
    adapter_on(base, own, adapter, [number])
    tokenizer.save_pretrained(own)
    settings = {"method": "linear", "weights": [0.5, 0.5]}
    with pytest.raises(ValueError, match="tokenizer: union"):
        merge.main(argparse.Namespace(settings=settings, parents=[base, own], base=None, out=tmp_path / "out"))
    settings |= {"tokenizer": "union"}
    merge.main(argparse.Namespace(settings=settings, parents=[base, own], base=None, out=tmp_path / "out"))
    start, end, found = (load(folder).get_input_embeddings().weight for folder in (base, own, tmp_path / "out"))
    torch.testing.assert_close(found[:number], (start + end[:number]) / 2, rtol=0, atol=1e-6)
    # The base has no row for it: the one of the parent that does.
    torch.testing.assert_close(found[number], end[number])
    assert checkpoints.load_tokenizer(tmp_path / "out").convert_tokens_to_ids("<call>") == number


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "gpt_neox", "gpt2"])
def test_an_adapter_is_merged_as_a_parent(folders, architecture, tmp_path):
    """Half of its change: the model between the base and itself."""
    import torch
    from safetensors.torch import load_file

    base = folders(architecture)
    adapter_on(base, tmp_path / "adapter", LORA)
    checkpoints.load_tokenizer(base).save_pretrained(tmp_path / "adapter")
    out = merged([base, tmp_path / "adapter"], tmp_path / "out")
    load(tmp_path / "adapter").save_pretrained(tmp_path / "whole")
    start, end, found = (load_file(folder / "model.safetensors") for folder in (base, tmp_path / "whole", out))
    assert found.keys() == start.keys()
    for name in start:
        torch.testing.assert_close(found[name], (start[name] + end[name]) / 2, rtol=0, atol=1e-6)
    assert any((start[name] != found[name]).any() for name in start)
    load(out)


def test_a_multimodal_wrapper_with_an_adapter_is_merged(tmp_path):
    """Files call its text model otherwise than the model does, and its vision tower stays as it is."""
    import torch
    import transformers

    text = GROUPED | {"head_dim": 8, "sliding_window": 16}
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    torch.manual_seed(0)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    found = find_targets(load(tmp_path / "base"), LORA)["target_modules"]
    assert found and not any("vision" in name for name in found)
    expected = adapter_on(tmp_path / "base", tmp_path / "adapter", LORA)
    build_tokenizer().save_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(logits(load(tmp_path / "adapter")), expected, rtol=0, atol=1e-4)
    out = merged([tmp_path / "adapter", tmp_path / "adapter"], tmp_path / "out")
    torch.testing.assert_close(logits(load(out)), expected, rtol=0, atol=1e-4)


def test_the_config_of_a_merge_states_the_type_of_its_weights(folders, tmp_path):
    import torch
    from safetensors import safe_open

    model = load(folders("llama"))
    model.to(torch.bfloat16).save_pretrained(tmp_path / "base")
    build_tokenizer().save_pretrained(tmp_path / "base")
    adapter_on(tmp_path / "base", tmp_path / "adapter", LORA)
    build_tokenizer().save_pretrained(tmp_path / "adapter")
    out = merged([tmp_path / "base", tmp_path / "adapter"], tmp_path / "out")
    with safe_open(out / "model.safetensors", "pt") as file:
        held = {file.get_tensor(name).dtype for name in file.keys()}
    assert held == {torch.float32} and read_json(out / "config.json")["dtype"] == "float32"
    plain = merged([tmp_path / "base", tmp_path / "base"], tmp_path / "plain")
    assert read_json(plain / "config.json")["dtype"] == "bfloat16"


def test_experts_that_are_not_called_so_are_adapted(tmp_path):
    """JetMoe's MLPs are input_linear and output_linear with a first side for each expert."""
    import torch
    import transformers

    config = transformers.JetMoeConfig(
        **SIZE, num_key_value_heads=2, intermediate_size=32, kv_channels=8, num_local_experts=4, num_experts_per_tok=2
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    mlps = {name for name, p in model.named_parameters() if ".mlp." in name and p.dim() == 3}
    assert len(mlps) == 4 and mlps < expert_parameters(model).keys()
    with pytest.raises(ValueError, match="kind: oft does not reach the experts"):
        attach(model, {"kind": "oft", "block_size": 4}, 0, 2)
    wrapped = attach(model, LORA, 0, 2)
    assert mlps <= {*wrapped.base_model.targeted_parameter_names}
