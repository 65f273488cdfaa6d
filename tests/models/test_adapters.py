"""Adapters: what each kind computes against NumPy, that it loads, merges and resumes, and what is refused."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steps.core.files import read_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.models import checkpoints
from steps.models.adapters import hooks
from steps.models.adapters.attach import attach, weight_counts
from steps.models.adapters.butterfly import enable_butterfly
from steps.models.adapters.files import ADAPTER_WEIGHTS
from steps.models.adapters.kinds import check, peft_config
from steps.models.adapters.rotation import apply_rotation, cayley, oft_generators
from steps.recipes import sft
from steps.training.finish import save_checkpoint
from steps.training.state import Resumable
from steps.training.supervised import encode_rows
from tests.recipes.test_sft import SETTINGS, hashes, rows

KINDS = {
    "lora": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.3},
    "rslora": {"kind": "rslora", "r": 4, "alpha": 8},
    "dora": {"kind": "dora", "r": 4, "alpha": 8},
    "pissa": {"kind": "pissa", "r": 4, "alpha": 8},
    "milora": {"kind": "milora", "r": 4, "alpha": 8},
    "qlora": {"kind": "qlora", "r": 4, "alpha": 8},
    "adalora": {
        "kind": "adalora", "init_r": 6, "target_r": 4, "alpha": 8, "tinit": 0.2, "tfinal": 0.3, "every": 1,
        "orthogonality": 0.5,
    },
    "vera": {"kind": "vera", "r": 64},
    "oft": {"kind": "oft", "block_size": 32},
    "boft": {
        "kind": "boft", "block_size": 8, "factors": 2, "dropout": 0.1, "target_modules": ["q_proj", "k_proj"],
    },
    "hra": {"kind": "hra", "r": 8},
    "ia3": {"kind": "ia3"},
}  # fmt: skip
# (out, in) of the layers of a block of the tiny Qwen3, written out.
BLOCK = {
    "self_attn.q_proj": (128, 128), "self_attn.k_proj": (64, 128), "self_attn.v_proj": (64, 128),
    "self_attn.o_proj": (128, 128), "mlp.gate_proj": (384, 128), "mlp.up_proj": (384, 128), "mlp.down_proj": (128, 384),
}  # fmt: skip
SHAPES = {f"model.layers.{layer}.{name}": shape for layer in range(4) for name, shape in BLOCK.items()}
STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", rows(STEPS * 4, seed=1))
    write_jsonl(folder / "valid.jsonl", rows(8, seed=2))
    return {"data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}


def settings(adapter: dict, **change) -> dict:
    return SETTINGS | {"gradient_accumulation": 1, "learning_rate": 1e-2, "adapter": adapter} | change


def run(chosen: dict, parent: Path, data: dict, folder: Path) -> Path:
    out = folder / "out"
    sft.main(argparse.Namespace(settings=chosen, parent=parent, work=folder / "work", out=out, **data))
    return out


def logits(model):
    import torch

    ids = torch.arange(3, 60).view(3, 19)
    with torch.no_grad():
        return model.eval()(ids, use_cache=False).logits


def base(tiny_checkpoint):
    import torch

    return checkpoints.load_model(tiny_checkpoint, torch.float32)


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, data, tmp_path_factory) -> Callable[[str], tuple[Path, object]]:
    """A kind's checkpoint, and the logits of the model as it was when training ended; trained once each."""
    made = {}
    save = save_checkpoint

    def get(kind: str) -> tuple[Path, object]:
        if kind not in made:
            seen = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    sft,
                    "save_checkpoint",
                    lambda *a, **k: (seen.append(logits(k["trainer"].model)), save(*a, **k)),
                )
                out = run(settings(KINDS[kind]), tiny_checkpoint, data, tmp_path_factory.mktemp(kind))
            made[kind] = out, seen[0]
        return made[kind]

    return get


# --- every kind ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_loads_on_the_untouched_base_and_merges(kind, trained, tiny_checkpoint):
    import torch
    from peft import PeftModel

    before = sha256_file(tiny_checkpoint / "model.safetensors")
    out, as_trained = trained(kind)
    assert sha256_file(tiny_checkpoint / "model.safetensors") == before
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == str(tiny_checkpoint)
    assert checkpoints.check(out)

    plain = base(tiny_checkpoint)
    without = logits(plain)
    loaded = logits(PeftModel.from_pretrained(plain, str(out)))
    merged = checkpoints.load_model(out, torch.float32)
    assert type(merged) is type(base(tiny_checkpoint)) and all(p.requires_grad for p in merged.parameters())
    torch.testing.assert_close(logits(merged), loaded, rtol=0, atol=1e-4)
    assert (loaded - without).abs().max() > 1e-2, "training moved nothing"
    if kind == "qlora":
        # Trained on 4 bits and added to all of them: near, and not the same.
        assert 1e-3 < (loaded - as_trained).abs().max() < (loaded - without).abs().max()
    else:
        torch.testing.assert_close(loaded, as_trained, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "of_layer"),
    [
        ("lora", lambda out, width: 4 * (out + width)),
        ("dora", lambda out, width: 4 * (out + width) + out),
        ("pissa", lambda out, width: 4 * (out + width)),
        ("qlora", lambda out, width: 4 * (out + width)),
        ("adalora", lambda out, width: 6 * (out + width + 1)),
        ("vera", lambda out, width: 64 + out),
        ("oft", lambda out, width: width // 32 * (32 * 31 // 2)),
        ("boft", lambda out, width: 2 * (width // 8) * 64 + out),
        ("hra", lambda out, width: 8 * width),
    ],
)
def test_trained_parameters_are_counted_as_trained(kind, of_layer, trained, tiny_checkpoint):
    out, _ = trained(kind)
    targets = KINDS[kind].get("target_modules", [""])
    expected = sum(of_layer(*shape) for name, shape in SHAPES.items() if name.endswith(tuple(targets)))
    frozen = sum(p.numel() for p in base(tiny_checkpoint).parameters())
    frozen += len(SHAPES) if kind == "adalora" else 0  # PEFT keeps the rank of each layer in a tensor
    assert read_json(out / "manifest.json")["counts"]["parameters"] == {"trained": expected, "total": frozen + expected}


def test_full_and_ia3_are_counted(tiny_checkpoint, trained):
    everything = sum(p.numel() for p in base(tiny_checkpoint).parameters())
    assert weight_counts(base(tiny_checkpoint)) == {"trained": everything, "total": everything}
    counts = read_json(trained("ia3")[0] / "manifest.json")["counts"]["parameters"]
    assert counts["trained"] == 4 * (64 + 64 + 384)


@pytest.mark.parametrize(("kind", "saves"), [("adalora", 2), ("adalora", 3), ("milora", 2), ("qlora", 2), ("hra", 2)])
def test_a_killed_run_ends_the_same(kind, saves, trained, tiny_checkpoint, data, tmp_path, monkeypatch):
    """Adalora while it prunes, and when it has pruned."""

    class Killed(BaseException):
        pass

    states = []
    save = Resumable._save_checkpoint

    def cut(self, *args):
        save(self, *args)
        states.append(self.state.global_step)
        if len(states) == saves:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Resumable, "_save_checkpoint", cut)
        with pytest.raises(Killed):
            run(settings(KINDS[kind]), tiny_checkpoint, data, tmp_path)
    assert states == [2, 4, 6][:saves]
    expected, _ = trained(kind)
    assert hashes(run(settings(KINDS[kind]), tiny_checkpoint, data, tmp_path)) == hashes(expected)


def test_equal_arguments_give_equal_weights_and_another_seed_others(tiny_checkpoint):
    import torch

    def start(kind: str, seed: int) -> dict:
        return attach(base(tiny_checkpoint), KINDS[kind], seed, STEPS).state_dict()

    for kind in ("lora", "vera", "milora"):
        first, again, other = start(kind, 0), start(kind, 0), start(kind, 1)
        assert all(torch.equal(first[name], again[name]) for name in first)
        drawn = any(not torch.equal(first[name], other[name]) for name in first)
        assert drawn == (kind != "milora"), "milora draws nothing"


@pytest.mark.parametrize("kind", ["lora", "adalora"])
def test_valid_loss_is_of_single_rows_without_dropout_or_penalty(kind, trained, data):
    import torch

    out, _ = trained(kind)
    model = checkpoints.load_model(out, torch.float32).eval()
    encoded, _ = encode_rows(data["valid"], checkpoints.load_tokenizer(out), SETTINGS)
    losses = []
    for row in encoded:
        with torch.no_grad():
            predicted = model(torch.tensor([row["input_ids"]])).logits[0, :-1].log_softmax(-1)
        labels = enumerate(row["labels"][1:])
        losses += [-predicted[place, label].item() for place, label in labels if label != -100]
    logged = float((out / "training_log.csv").read_text().splitlines()[-1].split(",")[-1])
    assert logged == pytest.approx(np.mean(losses), rel=1e-4)


def test_packing_and_checkpointing_change_no_gradient(tiny_checkpoint, data, tmp_path):
    from safetensors.torch import load_file

    def end(name: str, **change) -> dict:
        chosen = settings(KINDS["oft"], epochs=0.25, learning_rate=1e-3, saves=1, **change)
        return load_file(run(chosen, tiny_checkpoint, data, tmp_path / name) / ADAPTER_WEIGHTS)

    plain = end("plain")
    assert max(tensor.abs().max() for tensor in plain.values()) > 1e-3
    for other in (end("alone", packing=False), end("recomputed", gradient_checkpointing=True)):
        # Adam divides tiny gradients by their own size, so that rounding shows first where there is nothing to learn.
        assert all((plain[name] - other[name]).abs().max() < 1e-4 for name in plain)


def test_a_parent_may_be_an_adapter(trained, tiny_checkpoint, data, tmp_path):
    """Of two LoRAs one is left, on the full model, which PEFT would load it on in any case."""
    import torch
    from peft import PeftModel

    parent, _ = trained("lora")
    out = run(settings(KINDS["qlora"], epochs=0.25, saves=1), parent, data, tmp_path)
    assert read_json(out / "adapter_config.json")["base_model_name_or_path"] == str(tiny_checkpoint)
    before = logits(checkpoints.load_model(parent, torch.float32))
    # Wide numbers: in float32 what is added before a product and after it differ by as much as 1e-5.
    loaded = logits(PeftModel.from_pretrained(base(tiny_checkpoint).double(), str(out)).double())
    torch.testing.assert_close(logits(checkpoints.load_model(out, torch.float64)), loaded, rtol=0, atol=1e-9)
    assert (loaded - before).abs().max() > 1e-2
    assert checkpoints.linear_shapes(out) == SHAPES


def test_on_an_adapter_of_another_kind_the_whole_model_is_written(trained, data, tmp_path):
    import torch

    parent, _ = trained("oft")
    out = run(settings(KINDS["qlora"], epochs=0.25, saves=1), parent, data, tmp_path)
    assert not checkpoints.is_adapter(out) and checkpoints.check(out)
    before, found = (logits(checkpoints.load_model(folder, torch.float32)) for folder in (parent, out))
    assert (found - before).abs().max() > 1e-2
    assert checkpoints.linear_shapes(out) == SHAPES


# --- pissa and milora ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "chosen"), [("pissa", slice(0, 4)), ("milora", slice(-4, None))])
def test_singular_triplets_move_to_the_adapter(kind, chosen, tiny_checkpoint):
    import torch

    plain = base(tiny_checkpoint)
    whole = {name: plain.get_submodule(name).weight.detach().numpy().astype(np.float64) for name in SHAPES}
    before = logits(plain)
    model = attach(plain, KINDS[kind], seed=0, steps=STEPS)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-4)
    for name in SHAPES:
        layer = model.get_submodule(f"base_model.model.{name}")
        a, b = (part["default"].weight.detach().numpy() for part in (layer.lora_A, layer.lora_B))
        left, values, right = np.linalg.svd(whole[name], full_matrices=False)
        part = left[:, chosen] @ np.diag(values[chosen]) @ right[chosen]
        # Between close singular values the float32 decomposition turns by its precision over their distance: 1.2e-5 was
        # seen with two threads, on values of 0.1.
        np.testing.assert_allclose(8 / 4 * b @ a, part, rtol=0, atol=1e-4)
        np.testing.assert_allclose(layer.base_layer.weight.detach().numpy(), whole[name] - part, rtol=0, atol=1e-4)
        # Split evenly between the two, scale taken off.
        for factor in (a, b.T):
            np.testing.assert_allclose(np.linalg.norm(factor, axis=1) ** 2, values[chosen] / 2, rtol=1e-4, atol=1e-6)


def test_pissa_starts_as_pefts_own(tiny_checkpoint):
    import torch
    from peft import LoraConfig, get_peft_model

    ours = attach(base(tiny_checkpoint), KINDS["pissa"], seed=0, steps=STEPS).state_dict()
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights="pissa")
    theirs = get_peft_model(base(tiny_checkpoint), config).state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["pissa", "milora"])
def test_a_split_adapter_is_saved_as_a_plain_lora_of_twice_the_rank(kind, trained):
    from safetensors.torch import load_file

    out, _ = trained(kind)
    config = read_json(out / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (8, 16, True)
    tensors = load_file(out / "adapter_model.safetensors")
    assert tensors["base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"].shape == (8, 384)
    assert tensors["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"].shape == (128, 8)


# --- adalora -------------------------------------------------------------------------------------


def test_adalora_prunes_to_the_target(trained):
    out, _ = trained("adalora")
    config = read_json(out / "adapter_config.json")
    assert (config["tinit"], config["tfinal"], config["total_step"]) == (2, 2, STEPS)
    kept = [sum(pattern) for pattern in config["rank_pattern"].values()]
    assert sum(kept) == 4 * len(SHAPES) and len(set(kept)) > 1, "the budget is one for all layers"


def test_adalora_without_a_last_phase_prunes_with_the_last_step(tiny_checkpoint, data, tmp_path):
    """Steps are counted from 1: the last is the planned one. `every` 5 has pruned once before, to a higher budget."""
    out = run(settings(KINDS["adalora"] | {"tfinal": 0.0, "every": 5}), tiny_checkpoint, data, tmp_path)
    assert sum(map(sum, read_json(out / "adapter_config.json")["rank_pattern"].values())) == 4 * len(SHAPES)


def test_the_budget_of_adalora_falls_with_the_cube_of_the_steps_left(tiny_checkpoint):
    """From 6 to 4 of 28 layers between steps 2 and 6, b(t) = b_T + (b_0 - b_T) (1 - (t - 2) / 4)^3 (AdaLoRA eq. 12)."""
    import torch

    model = attach(base(tiny_checkpoint), KINDS["adalora"], seed=0, steps=STEPS)
    ranks = []
    for step in range(1, STEPS + 1):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.randn_like(parameter)
                parameter.data.add_(torch.randn_like(parameter))
        hooks.after_step(model, step)
        ranks.append(sum((p != 0).sum().item() for name, p in model.named_parameters() if "lora_E" in name))
    assert ranks == [168, 168, 135, 119, 112, 112, 112, 112]


def test_the_penalty_is_pefts_in_its_gradient_and_nothing_in_the_value(tiny_checkpoint):
    """PEFT's own forward is the reference, for a loss of one batch; two halves of it must add up to the same."""
    import torch
    from peft import get_peft_model
    from transformers import set_seed

    ids = torch.arange(3, 60).view(3, 19)
    ours = attach(base(tiny_checkpoint), KINDS["adalora"], seed=0, steps=STEPS)
    config = peft_config(KINDS["adalora"], seed=0, steps=STEPS)
    set_seed(0)
    theirs = get_peft_model(base(tiny_checkpoint), config)
    plain = ours(ids, labels=ids).loss
    with_penalty = theirs(ids, labels=ids).loss
    assert with_penalty > plain + 0.1
    torch.testing.assert_close(base(tiny_checkpoint)(ids, labels=ids).loss, plain)

    with_penalty.backward()
    for _ in range(2):
        half = hooks.penalised(ours(ids, labels=ids).loss / 2, ours, accumulation=2)
        torch.testing.assert_close(half, plain / 2)
        half.backward()
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)
    assert hooks.penalised(plain, base(tiny_checkpoint), 1) is plain


# --- qlora ---------------------------------------------------------------------------------------


def test_4_bits_are_nf4_twice_quantised_and_keep_their_gradients_after_an_evaluation(tiny_checkpoint):
    """Against a LoRA on the unpacked weights, whose layers are PyTorch's own."""
    import bitsandbytes
    import torch

    ids = torch.arange(3, 60).view(3, 19)
    model = attach(base(tiny_checkpoint), KINDS["qlora"], seed=0, steps=STEPS)
    unpacked = base(tiny_checkpoint)
    for name, (out, width) in SHAPES.items():
        weight = model.get_submodule(f"base_model.model.{name}").base_layer.weight
        assert weight.dtype == torch.uint8 and weight.numel() == out * width // 2
        assert weight.quant_state.quant_type == "nf4" and weight.quant_state.nested
        with torch.no_grad():
            unpacked.get_submodule(name).weight.copy_(
                bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
            )
    assert (
        isinstance(model.get_base_model().lm_head, torch.nn.Linear)
        and model.get_base_model().lm_head.weight.is_floating_point()
    )
    reference = attach(unpacked, KINDS["lora"] | {"dropout": 0.0}, seed=0, steps=STEPS)

    def gradients(of) -> dict:
        of.train()
        of.zero_grad()
        of(ids, labels=ids, use_cache=False).loss.backward()
        return {name: p.grad.clone() for name, p in of.named_parameters() if p.requires_grad}

    before = gradients(model)
    torch.testing.assert_close(logits(model), logits(reference), rtol=0, atol=1e-4)
    after, expected = gradients(model), gradients(reference)
    assert before.keys() == expected.keys() and len(before) == 2 * len(SHAPES)
    for name in before:
        assert torch.equal(before[name], after[name]), name
        torch.testing.assert_close(before[name], expected[name], rtol=1e-3, atol=1e-5)


def test_the_adapter_of_qlora_trains_in_full_precision(trained):
    """TRL rounds it to bfloat16 where it sees a quantised model."""
    import torch
    from safetensors.torch import load_file

    tensors = load_file(trained("qlora")[0] / "adapter_model.safetensors").values()
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    assert any(not torch.equal(tensor, tensor.bfloat16().float()) for tensor in tensors)


# --- rotations -----------------------------------------------------------------------------------


def test_cayley_of_two_by_two_is_a_rotation_by_twice_the_arctangent():
    import torch

    angles = torch.tensor([0.0, 0.3, -1.2])
    generators = torch.zeros(3, 2, 2)
    generators[:, 0, 1] = torch.tan(angles / 2)
    generators[:, 1, 0] = -generators[:, 0, 1]
    expected = [[[c, -s], [s, c]] for c, s in zip(np.cos(angles.numpy()), np.sin(angles.numpy()), strict=True)]
    np.testing.assert_allclose(cayley(generators).numpy(), expected, rtol=0, atol=1e-6)


def test_oft_rotates_the_rows_of_every_weight(trained, tiny_checkpoint):
    import torch

    out, _ = trained("oft")
    generators = oft_generators(out)
    assert generators.keys() == SHAPES.keys()
    plain, merged = base(tiny_checkpoint), checkpoints.load_model(out, torch.float32)
    for name, generator in generators.items():
        assert torch.equal(generator, -generator.transpose(1, 2)) and generator.abs().max() > 1e-3
        q = generator.double().numpy()
        dense = np.zeros((SHAPES[name][1], SHAPES[name][1]))
        for block, one in enumerate(q):
            place = slice(32 * block, 32 * block + 32)
            dense[place, place] = (np.eye(32) - one) @ np.linalg.inv(np.eye(32) + one)
        rotation = cayley(generator)
        square = rotation @ rotation.transpose(1, 2)
        assert (square - torch.eye(32)).abs().max() < 1e-5
        weight = plain.get_submodule(name).weight.detach()
        ours = apply_rotation(weight, rotation)
        np.testing.assert_allclose(ours.numpy(), weight.double().numpy() @ dense.T, rtol=0, atol=1e-5)
        torch.testing.assert_close(merged.get_submodule(name).weight.detach(), ours, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.norm(dim=1), weight.norm(dim=1), rtol=1e-4, atol=0)


def test_generators_are_of_oft_only(trained):
    with pytest.raises(ValueError, match="is no oft adapter"):
        oft_generators(trained("vera")[0])
    with pytest.raises(ValueError, match="is no oft adapter"):
        oft_generators(Path("nowhere"))


def test_boft_scales_the_rows_of_a_rotation_that_crosses_its_blocks(trained, tiny_checkpoint):
    import torch
    from safetensors.torch import load_file

    out, _ = trained("boft")
    tensors = load_file(out / "adapter_model.safetensors")
    plain, merged = base(tiny_checkpoint), checkpoints.load_model(out, torch.float32)
    name = "model.layers.1.self_attn.q_proj"
    assert tensors[f"base_model.model.{name}.boft_R"].shape == (2, 16, 8, 8)
    weight = plain.get_submodule(name).weight.detach().double()
    changed = merged.get_submodule(name).weight.detach().double() / tensors[f"base_model.model.{name}.boft_s"].double()
    rotation = torch.linalg.solve(weight, changed)
    assert (rotation @ rotation.T - torch.eye(128)).abs().max() < 1e-3
    outside = rotation - torch.block_diag(*(rotation[i : i + 8, i : i + 8] for i in range(0, 128, 8)))
    assert outside.abs().max() > 1e-2


def test_hra_reflects_the_rows_of_every_weight(trained, tiny_checkpoint):
    import torch
    from safetensors.torch import load_file

    out, _ = trained("hra")
    tensors = load_file(out / "adapter_model.safetensors")
    plain, merged = base(tiny_checkpoint), checkpoints.load_model(out, torch.float32)
    for name, (_, width) in SHAPES.items():
        rotation = np.eye(width)
        for u in tensors[f"base_model.model.{name}.hra_u"].double().numpy().T:
            rotation = rotation @ (np.eye(width) - 2 * np.outer(u, u) / (u @ u))
        weight = plain.get_submodule(name).weight.detach().double().numpy()
        reflected = merged.get_submodule(name).weight.detach().numpy()
        np.testing.assert_allclose(reflected, weight @ rotation, rtol=0, atol=1e-4)


def test_hra_starts_at_its_base(tiny_checkpoint):
    import torch

    plain = base(tiny_checkpoint)
    before = logits(plain)
    torch.testing.assert_close(logits(attach(plain, KINDS["hra"], 0, STEPS)), before, rtol=0, atol=1e-4)


def test_the_block_diagonal_of_boft_and_its_gradient():
    import torch
    from peft.tuners.boft.layer import FastBlockDiag

    enable_butterfly()
    blocks = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([torch.block_diag(*factor) for factor in blocks.detach()])
    assert torch.equal(FastBlockDiag.apply(blocks), expected)
    assert torch.autograd.gradcheck(FastBlockDiag.apply, blocks)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_trains_is_accepted(kind):
    check(KINDS[kind], SHAPES)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("lora", {"target_modules": ["q_proj", "qproj"]}, "^adapter.target_modules: qproj is no linear .*down_proj"),
        ("pissa", {"target_modules": ["lm_head"]}, "target_modules: lm_head is no layer that kind pissa changes"),
        ("oft", {"target_modules": ["mlp"]}, "target_modules: mlp is no linear layer"),
        ("lora", {"r": 65}, r"adapter.r: 65 is above 64, the rank of model.layers.0.self_attn.k_proj"),
        ("pissa", {"r": 129, "target_modules": ["o_proj"]}, "adapter.r: 129 is above 128, the rank of .*o_proj"),
        ("adalora", {"init_r": 70}, "adapter.init_r: 70 is above 64"),
        ("adalora", {"target_r": 6}, "adapter.target_r: 6 is not below init_r 6"),
        ("adalora", {"tinit": 0.5, "tfinal": 0.5}, r"adapter.tinit: 0.5 \+ tfinal 0.5 leave no share"),
        ("vera", {"d_initial": 0}, "adapter.d_initial: at 0 no gradient"),
        ("oft", {"dropout": 0.1}, "adapter.dropout: PEFT's oft layers ignore it"),
        ("oft", {"block_size": 48}, "adapter.block_size: 48 does not divide 128, the input width of .*q_proj"),
        ("oft", {"block_size": 256}, "adapter.block_size: 256 does not divide 128"),
        ("boft", {"block_size": 48}, "adapter.block_size: 48 does not divide 128"),
        ("boft", {"block_size": 128}, "adapter.factors: 2 with block_size 128 do not fit 128"),
        ("boft", {"factors": 6}, "adapter.factors: 6 .* block_size must be even, and 32 times it divide"),
        ("boft", {"block_size": 1, "factors": 2}, "adapter.factors: 2 with block_size 1"),
        ("boft", {"dropout": 0.05}, "adapter.dropout: 0.05 of the 16 blocks of .*q_proj is less than one block"),
        ("hra", {"r": 7}, "adapter.r: 7 is odd, so that hra would not start at its base"),
        ("hra", {"r": 66}, "adapter.r: 66 is above 64, the rank of .*k_proj"),
        ("ia3", {"feedforward_modules": ["up_proj"]}, "feedforward_modules: up_proj is not among target_modules"),
    ],
)  # fmt: skip
def test_what_peft_would_ignore_or_change_is_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        check(KINDS[kind] | change, SHAPES)


def test_a_message_says_where_the_setting_stands():
    with pytest.raises(ValueError, match=r"^studies.arena.recipes.oft.adapter.block_size: 7 does not divide"):
        check({"kind": "oft", "block_size": 7}, SHAPES, "studies.arena.recipes.oft.adapter")


def test_ia3_on_layers_of_other_names_asks_for_them():
    shapes = {"transformer.h.0.mlp.c_fc": (512, 128), "transformer.h.0.attn.c_attn": (384, 128)}
    with pytest.raises(ValueError, match="target_modules: k_proj is no linear layer .*c_attn, c_fc"):
        check({"kind": "ia3"}, shapes)
    check({"kind": "ia3", "target_modules": ["c_attn", "c_fc"], "feedforward_modules": ["c_fc"]}, shapes)


def test_adalora_needs_a_step_to_prune_at(tiny_checkpoint):
    with pytest.raises(ValueError, match="adapter.every: no multiple of 20 .* steps 2 and 6 of 8"):
        attach(base(tiny_checkpoint), KINDS["adalora"] | {"every": 20}, seed=0, steps=STEPS)
    with pytest.raises(ValueError, match="adapter.every"):
        attach(base(tiny_checkpoint), KINDS["adalora"], seed=0, steps=1)


def test_the_dropout_of_oft_is_ignored_by_this_peft(tiny_checkpoint):
    """Why `check` refuses it. When this fails, PEFT applies it, and the setting may come back."""
    import torch
    from peft import OFTConfig, get_peft_model

    config = OFTConfig(oft_block_size=32, module_dropout=0.9, target_modules="all-linear", init_weights=False)
    model = get_peft_model(base(tiny_checkpoint), config)
    ids = torch.arange(3, 60).view(3, 19)
    with torch.no_grad():
        assert torch.equal(model.train()(ids).logits, model.eval()(ids).logits)
