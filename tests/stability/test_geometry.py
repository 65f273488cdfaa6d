"""Geometry: every measure against NumPy and in limit cases, and the step against forward passes made another way."""

import argparse
import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from steps.core.files import read_json, write_json, write_jsonl
from steps.core.manifest import verify_manifest
from steps.models import checkpoints
from steps.settings.axes import CAPABILITIES
from steps.stability import activations, compared, geometry, measures

SETTINGS = {
    "prompts": 300,
    "prompt_tokens": 1024,
    "tokens": 4096,
    "gram_tokens": 1024,
    "top": 8,
    "modules": None,
    "batch_size": 4,
    "seed": 0,
}


def matrix(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def orthogonal(size: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(matrix(size, size, seed=seed))[0]


def tensor(array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


# --- references, in NumPy and written another way ------------------------------------------------


def reference_weights(w0: np.ndarray, w1: np.ndarray, top: int) -> dict[str, float]:
    u, sigma, vt = np.linalg.svd(w0)
    shifts, moves = [], []
    for i in range(min(top, len(sigma))):
        shifts.append(abs(u[:, i] @ w1 @ vt[i] - sigma[i]))
        moves.append(np.sqrt((((w1 - w0) @ vt[i]) ** 2).sum()))
    squares = np.linalg.eigvalsh((w1 - w0).T @ (w1 - w0))
    return {
        "frobenius": np.sqrt(((w1 - w0) ** 2).sum()),
        "relative_frobenius": np.sqrt(((w1 - w0) ** 2).sum() / (w0**2).sum()),
        "spectral": np.sqrt(squares.max()),
        "relative_spectral": np.linalg.norm(w1 - w0, 2) / np.linalg.norm(w0, 2),
        "stable_rank": squares.sum() / squares.max(),
        "retention": np.mean(shifts),
        "adaptation": np.mean(moves),
    }


def reference_drift(h: np.ndarray, w0: np.ndarray, w1: np.ndarray) -> dict[str, float]:
    moved = np.mean([np.sum(((w1 - w0) @ row) ** 2) for row in h])
    output = np.mean([np.sum((w0 @ row) ** 2) for row in h])
    entered = np.mean([row @ row for row in h])
    return {
        "csd_abs": moved,
        "csd_rel": moved / output,
        "csd_un": moved / (np.sum((w1 - w0) ** 2) * entered) if (w1 != w0).any() else math.nan,
    }


def reference_procrustes(x0: np.ndarray, x1: np.ndarray) -> tuple[float, float]:
    """With the rotation itself, applied."""
    x0, x1 = x0 - x0.mean(axis=0), x1 - x1.mean(axis=0)
    u, _, vt = np.linalg.svd(x1.T @ x0)
    size = np.linalg.norm(x0)
    return np.linalg.norm(x1 @ (u @ vt) - x0) / size, np.linalg.norm(x1 - x0) / size


def reference_gram(x0: np.ndarray, x1: np.ndarray) -> float:
    def cosines(x):
        return np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in x] for a in x])

    return np.sqrt(np.sum((cosines(x1) - cosines(x0)) ** 2) / np.sum(cosines(x0) ** 2))


def reference_cka(x0: np.ndarray, x1: np.ndarray) -> float:
    """By the Hilbert-Schmidt independence criterion of centred kernels: tr(K H L H), up to a factor.

    H K H takes the means of rows and columns off, and the trace of a product is the sum over elements.
    """

    def hsic(a, b):
        k = a @ a.T
        centred = k - k.mean(axis=0) - k.mean(axis=1)[:, None] + k.mean()
        return np.sum(centred * (b @ b.T))

    return hsic(x0, x1) / np.sqrt(hsic(x0, x0) * hsic(x1, x1))


def reference_angle(x0: np.ndarray, x1: np.ndarray) -> float:
    return 1 - np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in zip(x0, x1, strict=True)])


def representation(x0: np.ndarray, x1: np.ndarray) -> list[float]:
    """Every measure that compares outputs."""
    x0, x1 = tensor(x0), tensor(x1)
    found = measures.gram_distortion(x0, x1), measures.linear_cka(x0, x1), measures.angular_drift(x0, x1)
    return [*measures.procrustes(x0, x1), *found]


def drift(h: np.ndarray, w0: np.ndarray, update: np.ndarray) -> dict[str, float]:
    sums = measures.energies(tensor(h), tensor(h @ w0.T), tensor(update))
    return measures.conditioned_drift(sums, len(h), float(np.linalg.norm(update)))


# --- weights -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
@pytest.mark.parametrize("top", [1, 4, 50])
def test_weights_against_numpy(shape, top):
    w0, w1 = matrix(*shape), matrix(*shape, seed=1)
    found = measures.weight_measures(tensor(w0), tensor(w1), top)
    assert found == pytest.approx(reference_weights(w0, w1, top), rel=1e-10)


def test_no_update():
    found = measures.weight_measures(tensor(matrix(6, 4)), tensor(matrix(6, 4)), 3)
    assert math.isnan(found.pop("stable_rank"))
    assert set(found.values()) == {0.0}


def test_an_update_of_rank_one():
    w0, u, v = matrix(6, 4), matrix(6, seed=1), matrix(4, seed=2)
    found = measures.weight_measures(tensor(w0), tensor(w0 + np.outer(u, v)), 3)
    assert found["stable_rank"] == pytest.approx(1, rel=1e-12)
    assert found["spectral"] == pytest.approx(np.linalg.norm(u) * np.linalg.norm(v), rel=1e-12)
    assert found["frobenius"] == pytest.approx(found["spectral"], rel=1e-12)


def test_an_update_that_moves_all_directions_alike_has_full_stable_rank():
    w0 = matrix(8, 5)
    found = measures.weight_measures(tensor(w0), tensor(w0 + 0.3 * orthogonal(8)[:, :5]), 2)
    assert found["stable_rank"] == pytest.approx(5, rel=1e-12)
    assert found["adaptation"] == pytest.approx(0.3, rel=1e-12)  # every direction moves by as much


def test_scaled_weights():
    w0 = matrix(6, 4)
    sigma = np.linalg.svd(w0, compute_uv=False)
    found = measures.weight_measures(tensor(w0), tensor(1.25 * w0), 3)
    assert found["relative_frobenius"] == pytest.approx(0.25, rel=1e-12)
    assert found["relative_spectral"] == pytest.approx(0.25, rel=1e-12)
    assert found["stable_rank"] == pytest.approx((sigma**2).sum() / sigma[0] ** 2, rel=1e-12)
    assert found["retention"] == pytest.approx(0.25 * sigma[:3].mean(), rel=1e-12)
    assert found["adaptation"] == pytest.approx(found["retention"], rel=1e-12)


def test_main_directions_do_not_feel_an_update_outside_them():
    w0 = matrix(6, 4)
    u, _, vt = np.linalg.svd(w0)
    outside = measures.weight_measures(tensor(w0), tensor(w0 + np.outer(u[:, 3], vt[3])), 3)
    assert [outside["retention"], outside["adaptation"]] == pytest.approx([0, 0], abs=1e-12)
    # The output of a main direction turned into one that W never writes: adapted, and its strength retained.
    turned = measures.weight_measures(tensor(w0), tensor(w0 + np.outer(u[:, 5], vt[0])), 1)
    assert [turned["retention"], turned["adaptation"]] == pytest.approx([0, 1], abs=1e-12)


def test_weights_do_not_feel_a_rotation_of_both_models():
    w0, w1, left, right = matrix(6, 4), matrix(6, 4, seed=1), orthogonal(6), orthogonal(4)
    plain = measures.weight_measures(tensor(w0), tensor(w1), 3)
    turned = measures.weight_measures(tensor(left @ w0 @ right), tensor(left @ w1 @ right), 3)
    assert turned == pytest.approx(plain, rel=1e-10)


# --- drift ---------------------------------------------------------------------------------------


def test_drift_against_numpy():
    h, w0, update = matrix(50, 7), matrix(5, 7, seed=1), 0.1 * matrix(5, 7, seed=2)
    assert drift(h, w0, update) == pytest.approx(reference_drift(h, w0, w0 + update), rel=1e-10)
    # A ratio of means: one long token outweighs the others.
    h[0] *= 30
    assert drift(h, w0, update) == pytest.approx(reference_drift(h, w0, w0 + update), rel=1e-10)


def test_energies_of_parts_add_up():
    h, w0, update = tensor(matrix(50, 7)), tensor(matrix(5, 7, seed=1)), tensor(matrix(5, 7, seed=2))
    parts = [measures.energies(part, part @ w0.T, update) for part in h.split(13)]
    assert torch.allclose(sum(parts), measures.energies(h, h @ w0.T, update), rtol=1e-12)


def test_drift_in_limit_cases():
    h, w0, update = matrix(50, 7), matrix(5, 7, seed=1), matrix(5, 7, seed=2)
    none = drift(h, w0, 0 * update)
    assert (none["csd_abs"], none["csd_rel"]) == (0, 0) and math.isnan(none["csd_un"])
    plain, larger = drift(h, w0, update), drift(h, w0, 3 * update)
    assert larger["csd_abs"] == pytest.approx(9 * plain["csd_abs"], rel=1e-12)
    assert larger["csd_un"] == pytest.approx(plain["csd_un"], rel=1e-9)
    assert drift(h, w0, 0.5 * w0)["csd_rel"] == pytest.approx(0.25, rel=1e-9)
    # Inputs without a direction: every unit vector once.
    assert drift(np.eye(7), w0, update)["csd_un"] == pytest.approx(1 / 7, rel=1e-9)
    # An update of rank one, on inputs along the direction it reads, and across it.
    u, v = matrix(5), orthogonal(7)
    assert drift(np.outer(matrix(50), v[0]), w0, np.outer(u, v[0]))["csd_un"] == pytest.approx(1, rel=1e-9)
    across = drift(matrix(50, 6) @ v[1:], w0, np.outer(u, v[0]))
    assert [across["csd_abs"], across["csd_un"]] == pytest.approx([0, 0], abs=1e-12)


# --- representations -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 12)])
@pytest.mark.parametrize("step", [1.0, 1e-2])
def test_representations_against_numpy(shape, step):
    x0 = matrix(*shape) + 2 * matrix(shape[1], seed=1)  # with a mean, which some take off and some do not
    x1 = x0 + step * (matrix(*shape, seed=2) + matrix(shape[1], seed=3))
    expected = [*reference_procrustes(x0, x1), reference_gram(x0, x1), reference_cka(x0, x1), reference_angle(x0, x1)]
    assert representation(x0, x1) == pytest.approx(expected, rel=1e-7)


def test_unchanged_outputs_do_not_drift_at_all():
    x = matrix(40, 6)
    assert representation(x, x)[:3] == [0, 0, 0] and representation(x, x)[4] == 0
    assert representation(x, x)[3] == pytest.approx(1, abs=1e-12)


def test_rotated_outputs():
    x, turn = matrix(40, 6), orthogonal(6)
    assert np.linalg.det(turn) * np.linalg.det(turn * ([-1] + [1] * 5)) < 0
    for rotation in (turn, turn * ([-1] + [1] * 5)):  # a rotation and a reflection
        aligned, raw, gram, cka, angle = representation(x, x @ rotation)
        assert [aligned, gram] == pytest.approx([0, 0], abs=1e-7)
        assert cka == pytest.approx(1, abs=1e-12)
        assert raw > 0.5 and angle > 0.1


@pytest.mark.parametrize("shape", [(40, 6), (6, 40)])
def test_scaled_and_shifted_outputs(shape):
    x = matrix(*shape)
    aligned, raw, gram, cka, angle = representation(x, 1.5 * x)
    assert [aligned, raw, cka] == pytest.approx([0.5, 0.5, 1], abs=1e-12)
    assert [gram, angle] == pytest.approx([0, 0], abs=1e-12)
    aligned, raw, gram, cka, angle = representation(x, x + 3 * matrix(shape[1], seed=1))
    assert [aligned, raw, cka] == pytest.approx([0, 0, 1], abs=1e-7)
    assert gram > 0.5 and angle > 0.1  # they keep the mean


def test_every_token_scaled_by_its_own_factor():
    x = matrix(40, 6)
    aligned, raw, gram, cka, angle = representation(x, np.linspace(0.5, 2, 40)[:, None] * x)
    assert [gram, angle] == pytest.approx([0, 0], abs=1e-12)
    assert aligned > 0.1 and cka < 0.99


def test_representations_do_not_feel_the_order_of_tokens_or_a_rotation_of_both():
    x0, x1, order = matrix(40, 6) + 1, matrix(40, 6, seed=1), np.random.default_rng(2).permutation(40)
    plain = representation(x0, x1)
    assert representation(x0[order], x1[order]) == pytest.approx(plain, rel=1e-10)
    assert representation(x0 @ orthogonal(6), x1 @ orthogonal(6)) == pytest.approx(plain, rel=1e-10)
    # The pairing of tokens counts for all.
    shuffled = representation(x0, x1[order])
    assert all(abs(a - b) > 1e-3 for a, b in zip(shuffled, plain, strict=True))


def test_procrustes_and_cka_of_outputs_that_share_nothing():
    x = orthogonal(40)[:, 1:13]
    x -= x.mean(axis=0)
    x = np.linalg.qr(x)[0]  # orthonormal columns, each with mean 0
    x0, x1 = x[:, :6], x[:, 6:]
    # X₁ᵀ X₀ = 0: no rotation helps, ‖X₁ R − X₀‖² = ‖X₀‖² + ‖X₁‖² = 2 ‖X₀‖².
    assert measures.procrustes(tensor(x0), tensor(x1)) == pytest.approx((math.sqrt(2), math.sqrt(2)), rel=1e-12)
    assert measures.linear_cka(tensor(x0), tensor(x1)) == pytest.approx(0, abs=1e-12)


def test_angles_by_hand():
    def at(*angles):
        return tensor([[math.cos(angle), math.sin(angle)] for angle in angles])

    assert measures.angular_drift(at(0, 1), 5 * at(0.3, 1.3)) == pytest.approx(1 - math.cos(0.3), rel=1e-12)
    assert measures.angular_drift(at(0, 1), -at(0, 1)) == pytest.approx(2, rel=1e-12)
    # Two tokens at a right angle become parallel: K₀ = [[1, 0], [0, 1]], K₁ all ones, both differences √2 long.
    assert measures.gram_distortion(at(0, math.pi / 2), at(0.7, 0.7)) == pytest.approx(1, rel=1e-12)


def test_outputs_that_are_constant_or_zero():
    x, constant, zero = tensor(matrix(40, 6)), tensor(np.ones((40, 6))), tensor(np.zeros((40, 6)))
    assert math.isnan(measures.linear_cka(constant, x)) and math.isnan(measures.linear_cka(x, constant))
    assert measures.procrustes(zero, zero) == (0, 0)
    assert measures.gram_distortion(zero, zero) == measures.angular_drift(zero, zero) == 0
    # All variance lost: ‖0 − X₀‖ / ‖X₀‖.
    assert measures.procrustes(x, zero) == pytest.approx((1, 1), rel=1e-12)


def test_more_columns_than_tokens_cost_no_more_than_tokens():
    assert measures.thin(tensor(matrix(6, 40))).shape == (6, 6)


def test_small_drift_is_measured_and_not_rounding():
    x, noise = matrix(200, 30), matrix(200, 30, seed=1)
    x1 = (x + 1e-5 * noise) @ orthogonal(30)
    assert measures.procrustes(tensor(x), tensor(x1))[0] == pytest.approx(reference_procrustes(x, x1)[0], rel=1e-3)


# --- what is compared ----------------------------------------------------------------------------


def test_prompts_are_cut_to_the_cap():
    prompts = [list(range(n)) for n in (5, 3, 7, 4)]
    assert activations.cut(prompts, 4, 100) == [[0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert activations.cut(prompts, 10, 10) == [[0, 1, 2, 3, 4], [0, 1, 2], [0, 1]]
    assert activations.cut(prompts, 10, 8) == prompts[:2]
    assert activations.cut(prompts, 10, 2) == [[0, 1]]


def evaluation(folder: Path) -> tuple[Path, Path]:
    """An evaluation of two tasks per axis and one of another axis, with sampled answers that do not count."""
    axes = {"sums": "target", "facts": "general", "strings": "general", "hard": "harder"}
    write_json(folder / "results.json", {"tasks": {task: {"axis": axis} for task, axis in axes.items()}})
    samples = [
        {"task": task, "kind": kind, "prompt": f"{task} {kind}: {'word ' * (number % 9)}{number}?"}
        for task in axes
        for kind in ("greedy", "sampled")
        for number in range(30)
    ]
    write_jsonl(folder / "samples.jsonl", samples)
    return folder / "samples.jsonl", folder / "results.json"


def test_prompts_are_those_of_greedy_answers_by_axis(tmp_path):
    files = evaluation(tmp_path)
    every = compared.choose_prompts(*files, 1000, 0)
    assert {axis: len(set(found)) for axis, found in every.items()} == {"target": 30, "general": 60}
    assert {prompt.split(":")[0] for prompt in every["target"]} == {"sums greedy"}
    assert {prompt.split(":")[0] for prompt in every["general"]} == {"facts greedy", "strings greedy"}
    some = compared.choose_prompts(*files, 20, 0)
    assert {axis: len(found) for axis, found in some.items()} == {"target": 20, "general": 20}
    assert {prompt.split()[0] for prompt in some["general"]} == {"facts", "strings"}
    assert some == compared.choose_prompts(*files, 20, 0) != compared.choose_prompts(*files, 20, 1)


def test_an_axis_without_prompts_is_one_error(tmp_path):
    samples, results = evaluation(tmp_path)
    write_json(results, {"tasks": {task: {"axis": "general"} for task in ("sums", "facts", "strings", "hard")}})
    with pytest.raises(ValueError, match=r"no greedy answer to a task of evaluate\.target"):
        compared.choose_prompts(samples, results, 10, 0)


def test_layers_by_the_end_of_their_name(tiny_checkpoint):
    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    assert len(compared.linear_layers(model, None)) == 4 * 7  # without the head
    some = compared.linear_layers(model, ["2.mlp.down_proj", "q_proj"])
    assert sorted(some) == [
        *(f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)),
        "model.layers.2.mlp.down_proj",
        *(f"model.layers.{layer}.self_attn.q_proj" for layer in (2, 3)),
    ]
    for ending in ("lm_head", "proj", "4.mlp.down_proj"):
        with pytest.raises(ValueError, match=rf"ends with {ending}; the model has q_proj, k_proj, v_proj, o_proj, g"):
            compared.linear_layers(model, ["q_proj", ending])


# --- the step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tiny_checkpoint, tmp_path_factory) -> Path:
    """The same architecture, every weight (embeddings and norms too) moved a little."""
    folder = tmp_path_factory.mktemp("geometry") / "tuned"
    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    checkpoints.load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint, tmp_path_factory) -> Path:
    """An adapter of rank 4 on the queries and the down projection of block 2."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("geometry") / "adapter"
    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    model.name_or_path = str(tiny_checkpoint)
    targets = ["model.layers.2.self_attn.q_proj", "model.layers.2.mlp.down_proj"]
    model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    checkpoints.load_tokenizer(tiny_checkpoint).save_pretrained(folder)
    return folder


def measure(base: Path, checkpoint: Path, out: Path, **changes) -> tuple[dict[str, dict], dict]:
    """Runs the step; modules.csv by module, numbers parsed, and geometry.json."""
    samples, results = evaluation(out.parent)
    geometry.main(
        argparse.Namespace(
            settings=SETTINGS | changes,
            base=base,
            checkpoint=checkpoint,
            samples=samples,
            evaluation=results,
            out=out,
        )
    )
    verify_manifest(out)
    with open(out / "modules.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row |= {name: float(row[name]) if row[name] else math.nan for name in geometry.MEASURES}
    return {row["module"]: row for row in rows}, read_json(out / "geometry.json")


def reference_inputs(folder: Path, prompts: list[list[int]]) -> dict[str, np.ndarray]:
    """What every linear layer reads, prompt by prompt, without padding, in float64."""
    model = checkpoints.load_model(folder, torch.float64).eval()
    found: dict[str, list] = {}
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            rows = found.setdefault(name, [])
            module.register_forward_pre_hook(lambda module, args, rows=rows: rows.append(args[0][0].numpy()))
    with torch.no_grad():
        for ids in prompts:
            model(torch.tensor([ids]))
    return {name: np.concatenate(rows) for name, rows in found.items()}


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name.removesuffix(".weight"): array for name, array in load_file(folder / "model.safetensors").items()}


def test_the_step_against_forward_passes_made_another_way(tiny_checkpoint, tuned, tmp_path):
    modules, found = measure(tiny_checkpoint, tuned, tmp_path / "out", tokens=500)
    assert len(modules) == found["moved"] == 28
    assert found["tokens"] == {"target": 500, "general": 500}
    up = modules["model.layers.2.mlp.up_proj"]
    assert (up["layer"], up["kind"]) == ("2", "up_proj")

    tokenizer = checkpoints.load_tokenizer(tiny_checkpoint)
    w0, w1 = ({k: v.astype(np.float64) for k, v in weights(folder).items()} for folder in (tiny_checkpoint, tuned))
    chosen = compared.choose_prompts(tmp_path / "samples.jsonl", tmp_path / "results.json", 300, 0)
    for axis, texts in chosen.items():
        prompts, left = [], 500
        for text in texts:
            prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"][:left])
            left -= len(prompts[-1])
            if not left:
                break
        assert found["prompts"][axis] == len(prompts) < len(texts)
        h0, h1 = reference_inputs(tiny_checkpoint, prompts), reference_inputs(tuned, prompts)

        # Without any hook: what the first queries read is the normed embedding.
        first = np.concatenate([w0["model.embed_tokens"][ids] for ids in prompts])
        first /= np.sqrt((first**2).mean(axis=1, keepdims=True) + 1e-6)
        first = first * w0["model.layers.0.input_layernorm"]
        np.testing.assert_allclose(h0["model.layers.0.self_attn.q_proj"], first, rtol=1e-5)

        for name, row in modules.items():
            x0, x1 = h0[name] @ w0[name].T, h1[name] @ w1[name].T
            aligned, raw = reference_procrustes(x0, x1)
            z0, z1 = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x0, x1))
            expected = reference_drift(h0[name], w0[name], w1[name])
            expected |= {"procrustes": aligned, "procrustes_raw": raw}
            expected |= {"gram": np.linalg.norm(z1 @ z1.T - z0 @ z0.T) / np.linalg.norm(z0 @ z0.T)}
            expected |= {"cka": reference_cka(x0, x1), "cosine": reference_angle(x0, x1)}
            assert {measure: row[f"{measure}_{axis}"] for measure in expected} == pytest.approx(expected, rel=1e-4)
    for name, row in modules.items():
        expected = reference_weights(w0[name], w1[name], SETTINGS["top"])
        assert {measure: row[measure] for measure in expected} == pytest.approx(expected, rel=1e-6)
    for measured, value in found["summary"].items():
        assert value == pytest.approx(np.mean([row[measured] for row in modules.values()]), rel=1e-7)


def test_an_adapter_of_one_block(tiny_checkpoint, adapter, tmp_path):
    modules, found = measure(tiny_checkpoint, adapter, tmp_path / "out", tokens=200)
    moved = {"model.layers.2.self_attn.q_proj", "model.layers.2.mlp.down_proj"}
    assert found["moved"] == 2
    for name, row in modules.items():
        assert (row["frobenius"] > 0) == (name in moved)
        assert math.isnan(row["stable_rank"]) == math.isnan(row["csd_un_general"]) == (name not in moved)
        assert row["csd_abs_target"] == 0 or name in moved
        # Below the adapter nothing differs; above it, layers without an update of their own get other inputs.
        behind = name in moved or row["layer"] == "3" or name.endswith(("2.self_attn.o_proj", "2.mlp.gate_proj"))
        behind |= name.endswith("2.mlp.up_proj")
        for measure_ in ("procrustes", "procrustes_raw", "gram", "cosine"):
            assert (row[f"{measure_}_target"] > 0) == behind, (name, measure_)
        assert (row["cka_target"] < 1 - 1e-9) == behind
    assert 1 <= modules["model.layers.2.mlp.down_proj"]["stable_rank"] <= 4
    mean = np.mean([modules[name]["stable_rank"] for name in moved])
    assert found["summary"]["stable_rank"] == pytest.approx(mean, rel=1e-8)


def test_the_base_against_itself_moved_nothing_and_a_second_run_writes_equal_bytes(tiny_checkpoint, tmp_path):
    outs = [tmp_path / "one", tmp_path / "two"]
    modules, found = [measure(tiny_checkpoint, tiny_checkpoint, out, tokens=100, gram_tokens=50) for out in outs][0]
    summary = found["summary"]
    assert found["moved"] == 0 and len(modules) == 28
    assert [summary.pop(name) for name in ("stable_rank", "csd_un_target", "csd_un_general")] == [None] * 3
    assert [summary.pop(f"cka_{axis}") for axis in CAPABILITIES] == [1, 1]
    assert set(summary.values()) == {0}
    for name in ("modules.csv", "geometry.json", "manifest.json"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_only_the_named_modules_and_a_sample_of_tokens(tiny_checkpoint, tuned, tmp_path):
    every, _ = measure(tiny_checkpoint, tuned, tmp_path / "every", tokens=300, gram_tokens=300)
    few = {"gram_tokens": 60, "modules": ["1.mlp.up_proj"]}
    some, found = measure(tiny_checkpoint, tuned, tmp_path / "some", tokens=300, **few)
    (row,) = some.values()
    other = every["model.layers.1.mlp.up_proj"]
    assert found["summary"]["cka_target"] == row["cka_target"]
    differing = {name for name in geometry.MEASURES if row[name] != other[name]}
    assert differing == {"gram_target", "gram_general"}


def test_long_prompts_give_their_first_tokens(tiny_checkpoint, tuned, tmp_path):
    _, found = measure(tiny_checkpoint, tuned, tmp_path / "out", prompt_tokens=3, tokens=100, modules=["0.mlp.up_proj"])
    # 30 prompts of the target axis, 60 of the general one, all longer than three tokens.
    assert found["tokens"] == {"target": 90, "general": 100}
    assert found["prompts"] == {"target": 30, "general": 34}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"num_hidden_layers": 3}, r"model\.layers\.3\.input_layernorm\.weight is in .*tiny but not in .*other: diff"),
        ({"intermediate_size": 256}, r"model\.layers\.0\.mlp\.down_proj\.weight is \[128, 384\] in .* \[128, 256\] in"),
        ({"vocab_size": 700}, r"model\.embed_tokens\.weight is \[768, 128\] in .*tiny but \[700, 128\] in .*other"),
    ],
)
def test_models_that_do_not_match(tiny_checkpoint, tmp_path, change, error):
    from transformers import AutoConfig, AutoModelForCausalLM

    def build(**keys):
        config = AutoConfig.from_pretrained(tiny_checkpoint, **keys)
        return AutoModelForCausalLM.from_config(config)

    if "num_hidden_layers" in change:
        change = change | {"layer_types": ["full_attention"] * 3}
    with pytest.raises(ValueError, match=error):
        compared.check_pair(build(), build(**change), (tiny_checkpoint, tmp_path / "other"))


def test_weights_that_are_not_finite(tiny_checkpoint):
    base, broken = (checkpoints.load_model(tiny_checkpoint, torch.float32) for _ in range(2))
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[3, 5] = math.inf
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.up_proj\.weight of b is not finite"):
        compared.check_pair(base, broken, (Path("a"), Path("b")))


def test_another_vocabulary(tiny_checkpoint, tuned, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    tokenizer = (other / "tokenizer.json").read_text(encoding="utf-8")
    (other / "tokenizer.json").write_text(tokenizer.replace("<|im_end|>", "<|end|>"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"other/tokenizer\.json has another vocabulary than that of .*tiny"):
        measure(tiny_checkpoint, other, tmp_path / "out")


def test_another_configuration_of_equal_shapes(tiny_checkpoint, tuned, tmp_path):
    other = shutil.copytree(tuned, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(ValueError, match="^rms_norm_eps is .* in .*tiny/config.json but 0.001 in .*other/config.json"):
        measure(tiny_checkpoint, other, tmp_path / "out")


def test_a_layer_that_does_not_see_every_token():
    class Mixture:
        """An expert that is given all tokens but one."""

        device = torch.device("cpu")
        expert = torch.nn.Linear(3, 2)

        def base_model(self, input_ids, attention_mask, use_cache):
            self.expert(torch.zeros(input_ids.numel() - 1, 3))

    model = Mixture()
    with pytest.raises(ValueError, match=r"layers\.0\.expert does not see every token"):
        activations.outputs(model, {"layers.0.expert": model.expert}, [[1, 2], [3]], 2)
