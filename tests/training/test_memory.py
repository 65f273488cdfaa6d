"""The memory of a training: against numbers worked out by hand, PEFT's counts, and what PyTorch allocates and saves."""

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benches.models import build
from steps.models import checkpoints, head
from steps.models.adapters.attach import attach, weight_counts
from steps.preflight import rehearse
from steps.settings.stages import ON_POLICY
from steps.training import memory
from steps.training import run as training
from steps.training.memory import FP32
from tests.conftest import SMALL, build_model, build_tokenizer
from tests.graph.test_recipes import PARAMS

QWEN = {
    "vocab_size": 151936,
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
}
LLAMA = {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
}
LORA = {"kind": "lora", "r": 8, "alpha": 16}
FULL = {"kind": "full"}


def headers_only(folder: Path, config: dict, normed: bool) -> Path:
    """A checkpoint in bf16 with tied embeddings that has a header and no weights, its tensors written out by hand."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    size = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * size, config["num_key_value_heads"] * size
    block = {
        "self_attn.q_proj": [queries, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, queries],
        "mlp.gate_proj": [inner, hidden],
        "mlp.up_proj": [inner, hidden],
        "mlp.down_proj": [hidden, inner],
        "input_layernorm": [hidden],
        "post_attention_layernorm": [hidden],
    }
    block |= {"self_attn.q_norm": [size], "self_attn.k_norm": [size]} if normed else {}
    tensors = {"model.embed_tokens.weight": [config["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(config["num_hidden_layers"]):
        tensors |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    entries, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = begin + 2 * shape[0] * (shape[1] if len(shape) == 2 else 1)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries).encode()
    folder.mkdir()
    weights = folder / "model.safetensors"
    weights.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(weights, 8 + len(text) + begin)  # sparse: no weight is read
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> memory.Shape:
    return memory.read_shape(headers_only(tmp_path_factory.mktemp("qwen") / "qwen3_0.6b", QWEN, normed=True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> memory.Shape:
    return memory.read_shape(headers_only(tmp_path_factory.mktemp("llama") / "llama3.2_1b", LLAMA, normed=False))


def settings_of(stage: str, **over) -> dict:
    return PARAMS[stage] | {"seed": 0} | over


def needs(stage: str, settings: dict, shape: memory.Shape, **over) -> dict[str, float]:
    given = {"prompt_tokens": 256, "kind": "single", "processes": 1, "device": "cpu", "half": False}
    return memory.needs(stage, settings, shape, **given | over)


# --- by hand -------------------------------------------------------------------------------------


def test_parameters_of_known_models(qwen, llama):
    """As their cards and papers have them, tied embeddings once."""
    assert (qwen.parameters, llama.parameters) == (596_049_920, 1_235_814_400)
    assert (qwen.queries, qwen.keys, qwen.normed) == (2048, 1024, True)
    assert (llama.queries, llama.keys, llama.normed) == (2048, 512, False)


def test_a_full_fine_tuning_of_qwen_by_hand(qwen):
    settings = settings_of("sft", batch_size=8, max_length=1024, packing=False, adapter=FULL)
    found = needs("sft", settings, qwen)
    assert found["weights"] == found["gradients"] == 2_384_199_680
    assert found["optimizer"] == 4_768_399_360
    # Of a token in a layer: 30,720 numbers; of the last norm 2 x 1024.
    assert found["activations"] == 8192 * 4 * (28 * 30_720 + 2048)
    # Of 8 x 1024 places 110 at a time (2**24 logits), three times; in fp32 the gradients of states and head.
    assert found["logits"] == 3 * 4 * 110 * 151_936 + 4 * (2 * 8192 * 1024 + 155_582_464)
    assert found["logits"] < found["weights"]
    # Where the model is spread over processes they are there as a whole: 15 GB, more than all else of the model.
    spread = needs("sft", settings, qwen, kind="fsdp", processes=2)
    assert spread["logits"] == 3 * 4 * 4096 * 151_936
    assert found["casts"] == found["copies"] == found["teachers"] == 0
    assert found["total"] == pytest.approx(sum(v for k, v in found.items() if k != "total"))


def test_the_same_under_autocast_on_a_gpu(qwen, llama):
    settings = settings_of("sft", batch_size=8, max_length=1024, packing=False, adapter=FULL)
    found = needs("sft", settings, qwen, device="cuda", half=True)
    assert found["activations"] == 8192 * (28 * 81_920 + 4 * 2048)
    # 440,401,920 weights in linear layers and 155,582,464 in the head.
    assert found["casts"] == 2 * (440_401_920 + 155_582_464)
    # The fused head: one tile of 4096 x 32,768, and gradients in fp32 of states and head.
    assert found["logits"] == 4096 * 32_768 * 6 + 4 * (2 * 8192 * 1024 + 155_582_464)
    # h 2048, q 2048, k 512, i 8192.
    assert memory.layer_activations(llama, False) == 4 * (6 * 2048 + 2 * 2048 + 2 * 512 + 4 * 8192)
    assert memory.layer_activations(llama, True) == 16 * 2048 + 2 * (5 * 2048 + 2 * 2048 + 2 * 512 + 4 * 8192)


def test_adapters_train_what_their_papers_count(qwen, llama):
    assert memory.trained(qwen, LORA) == 5_046_272
    assert memory.trained(llama, LORA) == 5_636_096
    found = needs("sft", settings_of("sft", adapter=LORA), qwen)
    assert found["weights"] == 4 * (596_049_920 + 5_046_272)
    assert (found["gradients"], found["optimizer"]) == (4 * 5_046_272, 8 * 5_046_272)
    # Four bits and their scales in place of 32 for 440,401,920 weights.
    packed = needs("sft", settings_of("sft", adapter=LORA | {"kind": "qlora"}), qwen)
    assert found["weights"] - packed["weights"] == pytest.approx(440_401_920 * (4 - 0.516))


def test_optimizers(qwen):
    def state(name):
        return needs("sft", settings_of("sft", optimizer=name, adapter=FULL), qwen)["optimizer"]

    assert state("adamw") == 8 * 596_049_920
    assert state("adamw_8bit") == state("paged_adamw_8bit") == pytest.approx(2 * 596_049_920, rel=0.02)
    assert state("adafactor") < 0.01 * state("adamw")


def test_what_sampling_and_a_start_hold(qwen):
    settings = settings_of(
        "rl", method="grpo", prompts=32, generations=8, batch_size=16, sample_batch=128, max_new_tokens=320, kl=0.0,
        watch_kl=5, adapter=FULL,
    )  # fmt: skip
    found = needs("rl", settings, qwen, prompt_tokens=256)
    # Keys and values of 128 rows of 576 tokens in 28 layers, 24 bytes a token of logits, and 16 prompts in one layer.
    cache = 128 * 576 * 28 * 2 * 1024 * 4
    assert found["sampling"] == cache + 128 * 151_936 * 24 + 16 * 256 * 4 * (3 * 3072 + 4 * 1024)
    assert found["copies"] == 4 * 596_049_920
    assert needs("rl", settings | {"watch_kl": 0}, qwen)["copies"] == 0
    # Sampling and learning take turns.
    parts = {k: v for k, v in found.items() if k not in ("total", "sampling")}
    assert found["total"] == pytest.approx(sum(parts.values()))


def test_teachers_and_the_judge(qwen, llama):
    settings = settings_of("opd", sources=[{"data": "one", "share": 1.0, "teachers": [0, 1]}], weights=[0.5, 0.5])
    both = needs("opd", settings, qwen, teachers=[llama, qwen])
    assert both["teachers"] == 4 * (1_235_814_400 + 596_049_920)
    one = needs("opd", settings | {"resident": 1}, qwen, teachers=[llama, qwen], device="cuda", half=True)
    assert one["teachers"] == 2 * 1_235_814_400
    judged = needs("rl", settings_of("rl"), qwen, judge=llama)
    assert judged["judge"] == 4 * 1_235_814_400


def test_what_processes_share_out(qwen):
    settings = settings_of("sft", batch_size=8, max_length=1024, adapter=FULL)
    single = needs("sft", settings, qwen)
    found = {kind: needs("sft", settings, qwen, kind=kind, processes=4) for kind in ("ddp", "zero2", "zero3", "fsdp")}
    assert all(one["activations"] * 4 == single["activations"] for one in found.values())
    assert found["ddp"]["gradients"] == 2 * single["gradients"]
    assert found["ddp"]["optimizer"] == single["optimizer"] == 4 * found["zero2"]["optimizer"]
    assert found["zero2"]["weights"] == single["weights"]
    assert found["zero3"] == found["fsdp"]
    # A quarter, and two of 28 blocks and the head whole.
    gathered = 4 * (2 * 440_401_920 / 28 + 155_582_464)
    assert found["fsdp"]["weights"] == single["weights"] / 4 + gathered


def test_vllm_takes_its_share_in_place_of_sampling(qwen):
    settings = settings_of("rl") | {"sampler": {"kind": "vllm", "mode": "colocate", "memory": 0.3}}
    found = needs("rl", settings, qwen, device="cuda", half=True, on_device=80 * 2**30)
    assert found["vllm"] == pytest.approx(24 * 2**30) and "sampling" not in found
    # On a CPU as much of the machine's memory for keys and values alone, and a copy of the weights in the precision of
    # the forward passes: `Colocated` sets kv_cache_memory_bytes and dtype.
    for half, width in ((False, 4), (True, 2)):
        beside = needs("rl", settings, qwen, half=half, on_device=80 * 2**30)["vllm"]
        assert beside == pytest.approx(24 * 2**30 + width * 596_049_920)
    served = settings | {"sampler": {"kind": "vllm", "mode": "server", "url": "http://127.0.0.1:8000"}}
    assert not {"vllm", "sampling"} & needs("rl", served, qwen).keys()


def test_a_config_of_another_kind_is_refused_in_one_line(tmp_path):
    folder = headers_only(tmp_path / "other", QWEN, normed=True)
    (folder / "config.json").write_text(json.dumps({key: QWEN[key] for key in ("vocab_size", "hidden_size")}))
    with pytest.raises(ValueError, match="config.json: has no num_hidden_layers"):
        memory.read_shape(folder)


# --- against PEFT and PyTorch --------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Path:
    """Two layers, and a vocabulary of 6,000 beside which little else weighs."""
    import torch

    folder = tmp_path_factory.mktemp("wide") / "wide"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    model = build_model(tokenizer, architecture=SMALL)
    with torch.random.fork_rng():
        model.resize_token_embeddings(6000, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


KINDS = [
    LORA,
    LORA | {"kind": "dora"},
    {"kind": "adalora", "init_r": 8, "target_r": 4, "alpha": 16, "tinit": 0.1, "tfinal": 0.3, "every": 10,
     "orthogonality": 0.5},
    {"kind": "vera", "r": 16},
    {"kind": "oft", "block_size": 16},
    {"kind": "boft", "block_size": 8, "factors": 2},
    {"kind": "hra", "r": 8},
    {"kind": "ia3"},
    LORA | {"rank_pattern": {"q_proj": 4}, "layers_to_transform": [1], "exclude_modules": ["down_proj"]},
    LORA | {"modules_to_save": ["embed_tokens", "norm"]},
    {"kind": "full", "freeze": ["embed_tokens", "layers.0"]},
]  # fmt: skip


@pytest.mark.parametrize("adapter", KINDS, ids=lambda adapter: "-".join([adapter["kind"], *[*adapter][3:]]))
def test_trained_weights_are_those_that_peft_makes(small_checkpoint, adapter):
    import torch

    model = checkpoints.load_model(small_checkpoint, torch.float32)
    made = weight_counts(attach(model, adapter, 0, 1000))["trained"]
    assert memory.trained(memory.read_shape(small_checkpoint), adapter) == made


def saved_bytes(model, ids, half: bool) -> int:
    """What autograd keeps of a forward pass without the head, parameters themselves not counted."""
    import torch

    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            out = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del out
    return total


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["Qwen3", "Llama"])
def test_activations_are_what_autograd_saves(tmp_path, family, half):
    import torch
    import transformers

    config = getattr(transformers, f"{family}Config")(
        vocab_size=300, hidden_size=96, intermediate_size=320, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=24, tie_word_embeddings=True,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForCausalLM")(config).train()
    model.save_pretrained(tmp_path)
    shape = memory.read_shape(tmp_path)
    rows, length = 3, 120
    ids = torch.zeros((rows, length), dtype=torch.long)
    casts = memory.casts(shape, half, False) - memory.casts(shape, half, False) * 300 * 96 / (
        shape.in_layers + 300 * 96
    )
    estimate = memory.activations(shape, rows, length, half, False, False) + casts
    assert saved_bytes(model, ids, half) == pytest.approx(estimate, rel=0.03)

    model.activation_checkpointing_enable()
    inputs = memory.activations(shape, rows, length, half, True, False)
    inputs -= rows * length * memory.layer_activations(shape, half)  # the one that is computed again
    assert saved_bytes(model, ids, half) == pytest.approx(inputs, rel=0.03)


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_eager_attention_saves_squares_of_the_length(tmp_path, half):
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=96, intermediate_size=320, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=24, tie_word_embeddings=True, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).train()
    model.save_pretrained(tmp_path)
    shape = memory.read_shape(tmp_path)
    assert not shape.eager
    for length in (60, 400):
        ids = torch.zeros((2, length), dtype=torch.long)
        casts = memory.casts(shape, half, False) - memory.BF16 * 300 * 96 * half
        estimate = memory.activations(shape, 2, length, half, False, False, eager=True) + casts
        assert saved_bytes(model, ids, half) == pytest.approx(estimate, rel=0.03)


def test_families_without_another_attention_count_as_eager(tmp_path):
    shapes = {name: memory.read_shape(build(name, tmp_path / name)) for name in ("Gemma 2", "Gemma 3")}
    assert shapes["Gemma 2"].eager and not shapes["Gemma 3"].eager
    settings = settings_of("sft", batch_size=2, max_length=512)
    for name, shape in shapes.items():
        asked = {
            key: needs("sft", settings | {"attention": key}, shape)["activations"] for key in ("auto", "eager", "sdpa")
        }
        assert asked["eager"] > asked["sdpa"] and asked["auto"] == asked["eager" if name == "Gemma 2" else "sdpa"]


HEADS = [
    {}, {"modules_to_save": ["embed_tokens"]}, {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["norm"]},
    {"new_tokens": ["<call>"]},
]  # fmt: skip


@pytest.mark.parametrize("tied", [True, False])
def test_what_is_beside_the_head_takes_its_logits_whole(tmp_path, tied):
    import torch
    import transformers

    tokenizer = build_tokenizer()
    config = transformers.Qwen3Config(**SMALL, vocab_size=len(tokenizer), tie_word_embeddings=tied)
    transformers.Qwen3ForCausalLM(config).save_pretrained(tmp_path)
    shape = memory.read_shape(tmp_path)
    for over in HEADS:
        adapter = LORA | over
        new = [len(tokenizer)] if "new_tokens" in over else []
        model = attach(checkpoints.load_model(tmp_path, torch.float32), adapter, 0, 8, new)
        assert memory.wraps_head(shape, adapter) == (not head.is_plain(model)), over
    wide = replace(shape, vocabulary=2**17)
    whole, parts = (
        memory.logits("sft", settings_of("sft", adapter=LORA | over), wide, 4, 512, "cpu", False)
        for over in ({"new_tokens": ["<call>"]}, {})
    )
    assert whole == 3 * 4 * 4 * 512 * 2**17 and parts < whole / 3


def peak_bytes(function) -> int:
    """The most that PyTorch's allocator held at once while a function ran, beyond what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    now = most = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


FEW = {"prompts": 2, "generations": 4, "batch_size": 8, "sample_batch": 8, "max_new_tokens": 48}
OPD = FEW | {"sources": [{"data": "one", "share": 1.0, "teachers": [0]}], "weights": [1.0]}
CASES = [
    ("sft", {"batch_size": 4, "packing": False}),
    ("sft", {"batch_size": 4, "packing": False, "adapter": LORA}),
    ("sft", {"batch_size": 4, "gradient_checkpointing": True, "max_length": 512}),
    ("sft", {"batch_size": 4, "packing": False, "label_smoothing": 0.1}),
    ("sft", {"batch_size": 4, "packing": False, "attention": "eager"}),
    ("distill", {"batch_size": 4, "objective": "forward_kl"}),
    ("reward", {"batch_size": 8}),
    ("rl", FEW | {"method": "grpo", "kl": 0.1}),
    ("rl", FEW | {"method": "sdpo"}),
    ("rl", FEW | {"method": "grpo", "kl": 0.1, "top_p": 0.9, "eval_steps": 1}),
    ("opd", OPD),
    ("opd", OPD | {"support": {"kind": "full"}}),
]


def estimated(wide: Path, work: Path, stage: str, over: dict) -> float:
    """What two steps allocate, of what they were estimated to."""
    settings = settings_of(stage, **over)
    shape = memory.read_shape(wide)
    teaching = [wide] if stage == "opd" else []
    args = argparse.Namespace(
        model=wide, teachers=teaching, judge=None, work=work, settings={"prompt_tokens": 40, "recipe": settings}
    )
    trainer, plan = rehearse.REHEARSALS[stage](args, settings, shape)
    if stage in ON_POLICY:
        trainer.engine.stop_ids = []
    measured = peak_bytes(lambda: training.train(trainer, plan, stage))
    terms = needs(stage, settings, shape, teachers=[shape] * len(teaching), prompt_tokens=40)
    # The weights and the copies of them are there before; a teacher is loaded on the way.
    there = terms["runtime"] + terms["weights"] + terms["copies"]
    assert measured > 2 * FP32 * memory.trained(shape, settings.get("adapter", FULL))
    return measured / (terms["total"] - there)


@pytest.fixture
def tokens_throughout(monkeypatch):
    """As if every entry of the wide vocabulary were a token's, as of a real model nearly all are."""
    monkeypatch.setattr(checkpoints, "token_count", lambda tokenizer: 6000)


@pytest.mark.usefixtures("tokens_throughout")
@pytest.mark.parametrize(("stage", "over"), CASES, ids=lambda case: case if isinstance(case, str) else "")
def test_the_estimate_is_near_what_a_training_allocates(wide, tmp_path, stage, over):
    # Terms that are not needed at once are summed: it may be less.
    assert 0.78 < estimated(wide, tmp_path, stage, over) < 1.05


@pytest.mark.usefixtures("tokens_throughout")
@pytest.mark.parametrize(
    ("stage", "over"), [CASES[0], CASES[5], CASES[7], CASES[9], CASES[-1]], ids=lambda case: str(case)[:9]
)
def test_a_wide_vocabulary_needs_what_some_places_do(wide, tmp_path, monkeypatch, stage, over):
    """Logits of 64 places of 6,000 entries at a time, in place of 1,024 to 8,192 places."""
    monkeypatch.setattr(head, "WIDE", 6000)
    monkeypatch.setattr(memory, "WIDE", 6000)
    monkeypatch.setitem(head.AT_ONCE, "cpu", 64 * 6000)
    whole = memory.logits(stage, settings_of(stage, **over), memory.read_shape(wide), 4, 512, "cpu", False, apart=True)
    parts = memory.logits(stage, settings_of(stage, **over), memory.read_shape(wide), 4, 512, "cpu", False)
    assert parts < whole / 2
    # The reserve of `preflight.headroom` is 0.1.
    assert 0.7 < estimated(wide, tmp_path, stage, over) < 1.1
