"""Paths: points against NumPy, exact ends, rotations, rewinding, choosing by hand, resuming, what cannot be a path."""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

import numpy as np
import pytest

from steps.core.files import read_json, write_json, write_jsonl
from steps.engines.transformers import Engine
from steps.evaluation import measure
from steps.evaluation.tasks import load_tasks, task_config
from steps.models import checkpoints, paths
from steps.models.paths import Additive, layer, rewinding
from steps.models.weights import Stored, Weights
from steps.recipes import interpolate, path_choice
from steps.settings.interpolation import Interpolate
from steps.world import fable

BASE = Path("data/fable/base")
SETTINGS = {
    "path": "additive",
    "alphas": [0.0, 0.5, 1.0],
    "rewind": "uniform",
    "choose": {"kind": "budget", "loss": 0.05},
    "target": ["fable_strings_dev"],
    "general": ["fable_facts_dev", "fable_instructions_dev"],
    "tasks": {},
    "limit": None,
    "max_new_tokens": 24,
    "batch_size": 32,
}
CAYLEY = SETTINGS | {"path": "cayley", "generator": "sqrt"}
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


# --- checkpoints ---------------------------------------------------------------------------------


def noisy(model, scale: float, chosen=lambda name: True) -> None:
    """Shift the parameters of a model by random numbers, the same in every run."""
    import torch

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for name, parameter in model.named_parameters():
            if chosen(name):
                parameter.add_(torch.randn_like(parameter) * scale)


def save(model, folder: Path, base: Path) -> Path:
    model.save_pretrained(folder)
    checkpoints.load_tokenizer(base).save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, config, scale: float) -> Path:
    import torch
    from peft import get_peft_model

    model = get_peft_model(checkpoints.load_model(base, torch.float32), config)
    noisy(model, scale, lambda name: "lora_" in name or "oft_" in name)
    return save(model, folder, base)


@pytest.fixture(scope="module")
def tuned(tiny_checkpoint, tmp_path_factory) -> Path:
    import torch

    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    noisy(model, 0.1)
    return save(model, tmp_path_factory.mktemp("interpolate") / "tuned", tiny_checkpoint)


@pytest.fixture(scope="module")
def lora(tiny_checkpoint, tmp_path_factory) -> Path:
    from peft import LoraConfig

    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return adapter(tiny_checkpoint, tmp_path_factory.mktemp("interpolate") / "lora", config, 0.1)


@pytest.fixture(scope="module")
def oft(tiny_checkpoint, tmp_path_factory) -> Path:
    from peft import OFTConfig

    # Generators of this size turn by large angles, so that rotations and their linear approximations differ.
    config = OFTConfig(
        oft_block_size=16, use_cayley_neumann=False, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    return adapter(tiny_checkpoint, tmp_path_factory.mktemp("interpolate") / "oft", config, 0.3)


def walk(settings: dict, start: Path, end: Path, scratch: Path) -> Additive:
    interpolate.check_ends(settings, start, end)
    models = [Weights(folder) for folder in (start, end)]
    for index, model in enumerate(models):
        if checkpoints.is_adapter(model.folder):
            model.merge_adapter(scratch / str(index))
    return interpolate.walk(settings, *models)


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The weights of the model that a checkpoint makes, in float64."""
    import torch

    state = checkpoints.load_model(folder, torch.float32).state_dict()
    return {name: tensor.double().numpy() for name, tensor in state.items() if name != "lm_head.weight"}


def generators(folder: Path) -> dict[str, np.ndarray]:
    """Q of an oft adapter, read here: PEFT stores the upper triangles of its blocks, row by row."""
    from safetensors.numpy import load_file

    found = {}
    for name, upper in load_file(folder / "adapter_model.safetensors").items():
        size = int((1 + math.sqrt(1 + 8 * upper.shape[1])) / 2)
        blocks = np.zeros((len(upper), size, size))
        for block, values in zip(blocks, upper, strict=True):
            block[np.triu_indices(size, 1)] = values
        module = name.removeprefix("base_model.model.").removesuffix(".oft_R.weight")
        found[f"{module}.weight"] = blocks - blocks.transpose(0, 2, 1)
    return found


# --- points --------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.85])
def test_additive_points_are_on_the_line(tiny_checkpoint, tuned, tmp_path, alpha):
    path = walk(SETTINGS, tiny_checkpoint, tuned, tmp_path)
    first, second = arrays(tiny_checkpoint), arrays(tuned)
    tensor = paths.point(path, alpha, {})
    assert {*path.names} == first.keys()
    for name in path.names:
        expected = first[name] + alpha * (second[name] - first[name])
        np.testing.assert_allclose(tensor(name).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "end"),
    [
        *((SETTINGS, end) for end in ("tuned", "lora", "oft")),
        *((CAYLEY | {"generator": generator}, "oft") for generator in ("sqrt", "linear")),
    ],
)
def test_the_ends_are_the_parents_bit_by_bit(tiny_checkpoint, settings, end, tmp_path, request):
    import torch

    folder = request.getfixturevalue(end)
    path = walk(settings, tiny_checkpoint, folder, tmp_path)
    scales = rewinding(path, "uniform")
    for alpha, parent in ((0.0, tiny_checkpoint), (1.0, folder)):
        expected = checkpoints.load_model(parent, torch.float32).state_dict()
        tensor = paths.point(path, alpha, scales)
        for name in path.names:
            assert tensor(name).numpy().tobytes() == expected[name].numpy().tobytes(), name
    assert not np.array_equal(arrays(tiny_checkpoint)[Q_PROJ], arrays(folder)[Q_PROJ])


def test_a_negative_zero_is_an_end_too():
    path = Additive(Given({"a": np.array([1.0, -0.0])}), Given({"a": np.array([-0.0, 1.0])}))
    assert path.tensor("a", 1.0).numpy().tobytes() == np.array([-0.0, 1.0], np.float32).tobytes()
    assert path.tensor("a", 0.0).numpy().tobytes() == np.array([1.0, -0.0], np.float32).tobytes()


def test_what_both_ends_share_stays_bit_by_bit(tiny_checkpoint, lora, tmp_path):
    path = walk(SETTINGS, tiny_checkpoint, lora, tmp_path)
    start = Weights(tiny_checkpoint)
    for alpha in (0.1, 0.3, 0.7):
        tensor = paths.point(path, alpha, {})
        for name in ("model.embed_tokens.weight", "model.layers.2.input_layernorm.weight"):
            assert tensor(name).numpy().tobytes() == start.tensor(name).numpy().tobytes()


def test_bfloat16_ends_are_mixed_in_float32(tiny_checkpoint, tuned, tmp_path):
    import torch

    ends = []
    for index, folder in enumerate((tiny_checkpoint, tuned)):
        model = checkpoints.load_model(folder, torch.bfloat16)
        ends.append(save(model, tmp_path / str(index), tiny_checkpoint))
    path = walk(SETTINGS, *ends, tmp_path)
    first, second = (arrays(folder)[Q_PROJ] for folder in ends)
    found = paths.point(path, 0.3, {})(Q_PROJ)
    assert found.dtype == torch.bfloat16
    exact = first + 0.3 * (second - first)
    # bfloat16 has 8 bits: a number rounded once is off by half of 2^-7 of the power of two below it.
    half = 2.0**-8 * 2 ** np.floor(np.log2(np.maximum(np.abs(exact), 1e-30)))
    assert (np.abs(found.double().numpy() - exact) <= 1.001 * half + 1e-7 * (np.abs(first) + np.abs(second))).all()
    # An adapter is merged in float32, which its path keeps.
    mixed = Additive(Weights(ends[0]), Weights(tuned))
    assert mixed.tensor(Q_PROJ, 0.0).dtype == mixed.tensor(Q_PROJ, 0.5).dtype == torch.float32


# --- rotations -----------------------------------------------------------------------------------

ALPHAS = [0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]


@pytest.mark.parametrize(("generator", "power"), [("sqrt", 0.5), ("linear", 1.0)])
def test_cayley_points_rotate_by_the_scaled_generator(tiny_checkpoint, oft, tmp_path, generator, power):
    path = walk(CAYLEY | {"generator": generator}, tiny_checkpoint, oft, tmp_path)
    start, end, found = arrays(tiny_checkpoint), arrays(oft), generators(oft)
    assert len(found) == 8
    for alpha in ALPHAS[1:-1]:
        tensor = paths.point(path, alpha, {})
        for name, blocks in found.items():
            width = blocks.shape[0] * blocks.shape[1]
            scaled = np.zeros((width, width))
            for index, block in enumerate(blocks):
                place = slice(index * len(block), (index + 1) * len(block))
                scaled[place, place] = alpha**power * block
            rotation = (np.eye(width) - scaled) @ np.linalg.inv(np.eye(width) + scaled)
            np.testing.assert_allclose(tensor(name).numpy(), start[name] @ rotation.T, atol=2e-6)
    # Next to the ends the path leads into them: into PEFT's own merge at 1.
    for alpha, parent in ((1e-12, start), (1 - 1e-9, end)):
        tensor = paths.point(path, alpha, {})
        for name in path.names:
            np.testing.assert_allclose(tensor(name).numpy(), parent[name], atol=1e-5)


@pytest.mark.parametrize("generator", ["sqrt", "linear"])
@pytest.mark.parametrize("rewind", ["uniform", "safe", "min"])
def test_cayley_stays_orthogonal_at_every_alpha(tiny_checkpoint, oft, tmp_path, generator, rewind):
    path = walk(CAYLEY | {"generator": generator}, tiny_checkpoint, oft, tmp_path)
    scales = rewinding(path, rewind)
    start = arrays(tiny_checkpoint)
    for alpha in ALPHAS:
        tensor = paths.point(path, alpha, scales)
        for name in path.generators:
            rotation = path.rotation(name, scales[layer(name)] * path.share(alpha)).double().numpy()
            assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(16)).max() < 1e-5
            # Rotating the inputs keeps the lengths of a weight's rows, which an additive path does not.
            lengths = np.linalg.norm(tensor(name).double().numpy(), axis=1)
            np.testing.assert_allclose(lengths, np.linalg.norm(start[name], axis=1), rtol=1e-5)
    middle = (start[Q_PROJ] + arrays(oft)[Q_PROJ]) / 2
    assert np.linalg.norm(middle) < 0.9 * np.linalg.norm(start[Q_PROJ])


# --- rewinding -----------------------------------------------------------------------------------


class Given:
    """Named arrays in place of a checkpoint."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        import torch

        self.tensors = {name: Stored(Path(), "F32", list(a.shape), 0) for name, a in arrays.items()}
        self.values = {name: torch.tensor(a, dtype=torch.float32) for name, a in arrays.items()}

    def tensor(self, name):
        return self.values[name]


def given_path(strengths: list[float]) -> Additive:
    """A path whose layers have these strengths: two weights of norms 3 and 4 each, the second of which changes."""
    weights = {"model.embed_tokens.weight": np.full((2, 2), 1.0), "model.norm.weight": np.ones(2)}
    change = {name: np.ones_like(a) for name, a in weights.items()}
    for index, strength in enumerate(strengths):
        weights[f"model.layers.{index}.mlp.up.weight"] = np.full((3, 3), 1.0)
        weights[f"model.layers.{index}.mlp.down.weight"] = np.full((2, 2), 2.0)
        change[f"model.layers.{index}.mlp.up.weight"] = np.zeros((3, 3))
        change[f"model.layers.{index}.mlp.down.weight"] = np.full((2, 2), 5 * strength / 2)
    return Additive(Given(weights), Given({name: weights[name] + change[name] for name in weights}))


def test_rewinding_by_hand():
    path = given_path([0.2, 0.4, 0.1, 0.3, 0.5, 0.8, 0.6])
    assert path.strengths() == pytest.approx({0: 0.2, 1: 0.4, 2: 0.1, 3: 0.3, 4: 0.5, 5: 0.8, 6: 0.6}, rel=1e-6)
    assert rewinding(path, "uniform") == dict.fromkeys(range(7), 1.0)
    # The mean of the first five is 0.3, the least 0.1.
    safe = {0: 1.5, 1: 0.75, 2: 3.0, 3: 1.0, 4: 0.6, 5: 0.375, 6: 0.5}
    assert rewinding(path, "safe") == pytest.approx(safe, rel=1e-6)
    least = {0: 1 / 2, 1: 1 / 4, 2: 1.0, 3: 1 / 3, 4: 1 / 5, 5: 1 / 8, 6: 1 / 6}
    assert rewinding(path, "min") == pytest.approx(least, rel=1e-6)


def test_a_layer_that_did_not_change_is_left_out():
    path = given_path([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert rewinding(path, "safe")[0] == 1.0
    assert rewinding(path, "safe")[5] == pytest.approx(0.6)
    assert rewinding(path, "min")[2] == pytest.approx(0.5)
    assert rewinding(given_path([0.0, 0.0]), "safe") == {0: 1.0, 1: 1.0}


def test_the_scale_acts_before_alpha_and_inside_layers_only():
    path = given_path([0.4, 0.2])
    tensor = paths.point(path, 0.5, rewinding(path, "min"))
    # down is 2 + 0.5 x scale x 5 x strength / 2, and scale x strength is 0.2 in both layers.
    for index in range(2):
        np.testing.assert_allclose(tensor(f"model.layers.{index}.mlp.down.weight").numpy(), 2.25, rtol=1e-6)
    np.testing.assert_allclose(tensor("model.embed_tokens.weight").numpy(), 1.5)
    np.testing.assert_allclose(tensor("model.norm.weight").numpy(), 1.5)


def test_rewound_layers_of_a_model_are_equally_strong(tiny_checkpoint, lora, tmp_path):
    path = walk(SETTINGS, tiny_checkpoint, lora, tmp_path)
    start = arrays(tiny_checkpoint)
    before = path.strengths()
    assert max(before.values()) > 1.02 * min(before.values())
    tensor = paths.point(path, 0.4, rewinding(path, "min"))
    for index in range(4):
        names = [name for name in path.names if f".{index}." in name]
        change = sum(((tensor(name).double().numpy() - start[name]) ** 2).sum() for name in names)
        whole = sum((start[name] ** 2).sum() for name in names)
        assert math.sqrt(change / whole) == pytest.approx(0.4 * min(before.values()), rel=1e-4)


def test_rewound_rotations_by_hand(tiny_checkpoint, oft, tmp_path):
    path = walk(CAYLEY, tiny_checkpoint, oft, tmp_path)
    found = generators(oft)
    strengths = {}
    for index in range(4):
        values = np.concatenate([q.ravel() for name, q in found.items() if f"layers.{index}." in name])
        strengths[index] = math.sqrt((values**2).mean())
    assert path.strengths() == pytest.approx(strengths, rel=1e-6)
    scales = rewinding(path, "min")
    assert scales == pytest.approx({i: min(strengths.values()) / s for i, s in strengths.items()}, rel=1e-6)
    block = found[Q_PROJ][3] * scales[1] * math.sqrt(0.3)
    expected = np.linalg.solve(np.eye(16) + block, np.eye(16) - block)  # the factors commute
    rotation = path.rotation(Q_PROJ, scales[1] * path.share(0.3))[3].numpy()
    np.testing.assert_allclose(rotation, expected, atol=1e-6)


# --- choosing ------------------------------------------------------------------------------------


def points(*scores: tuple[float, float]) -> list[dict]:
    """A path of (target, general) scores."""
    return [
        {"alpha": index / (len(scores) - 1), "target": {"value": target}, "general": {"value": general}}
        for index, (target, general) in enumerate(scores)
    ]


BUDGET = {"kind": "budget", "loss": 0.05}
KNEE = {"kind": "knee"}


@pytest.mark.parametrize(
    ("scores", "chosen", "words"),
    [
        # The best target is of a point that loses too much; 0.9 - 0.85 is a bit more than 0.05 in floating point.
        ([(0.1, 0.9), (0.5, 0.88), (0.6, 0.85), (0.9, 0.84)], 2, "at most 0.05 below the start's"),
        # Equal targets: the smallest alpha, though a later point loses less.
        ([(0.1, 0.85), (0.6, 0.81), (0.6, 0.84), (0.2, 0.85)], 1, "the best target score"),
        ([(0.1, 0.85), (0.3, 0.85), (0.1 + 0.2, 0.85), (0.2, 0.85)], 1, "the best target score"),
        # General ability that rises is no loss.
        ([(0.1, 0.5), (0.6, 0.4), (0.7, 0.6)], 2, "the best target score"),
        # Every other point is too dear.
        ([(0.1, 0.9), (0.6, 0.8), (0.9, 0.7)], 0, "; that is the start alone"),
        ([(0.4, 0.9), (0.3, 0.9), (0.4, 0.88)], 0, "none of them is better than the start"),
        ([(0.5, 0.5)] * 4, 0, "none of them is better than the start"),
    ],
)
def test_budget(scores, chosen, words):
    index, rule = path_choice.choose(points(*scores), BUDGET)
    assert (index, words in rule) == (chosen, True), rule


def test_a_budget_of_nothing():
    assert path_choice.choose(points((0.1, 0.5), (0.3, 0.5), (0.9, 0.49)), {"kind": "budget", "loss": 0.0})[0] == 1


@pytest.mark.parametrize(
    ("scores", "chosen", "words"),
    [
        # Scaled to [0, 1], (loss, target) are (0, 0), (0.2, 0.5), (0.4, 0.9), (1, 1): 0.3 and 0.5 above the diagonal.
        ([(0.0, 0.9), (0.25, 0.86), (0.45, 0.82), (0.5, 0.7)], 2, "the point farthest above the line"),
        # Symmetric about the chord's normal: equal heights, the smaller alpha.
        ([(0.0, 1.0), (0.5, 0.75), (0.75, 0.5), (1.0, 0.0)], 1, "the point farthest above the line"),
        # The end lies past a better one: scaled over the whole path, (0.4, 1) is 0.53 above the chord to (1, 0.8).
        ([(0.0, 0.8), (0.3, 0.75), (0.5, 0.7), (0.4, 0.55)], 2, "the point farthest above the line"),
        # All points below the chord: sums 0.9, 0.85, 0.7, 1.0.
        ([(0.0, 0.9), (0.1, 0.75), (0.2, 0.5), (0.6, 0.4)], 3, "no point lies above it, so it is the largest sum"),
        # A straight line with as much won as lost: every sum is equal.
        ([(0.0, 0.8), (0.2, 0.6), (0.4, 0.4)], 0, "no point lies above it"),
        # No trade: the end is better at both, then worse at both, then only worse at one.
        ([(0.1, 0.5), (0.5, 0.6), (0.4, 0.6)], 1, "does not win target score for general score"),
        ([(0.5, 0.5), (0.4, 0.5), (0.3, 0.4)], 0, "does not win target score for general score"),
        ([(0.5, 0.5), (0.6, 0.45), (0.5, 0.3)], 1, "does not win target score for general score"),
        ([(0.5, 0.5)] * 4, 0, "does not win target score for general score"),
    ],
)
def test_knee(scores, chosen, words):
    index, rule = path_choice.choose(points(*scores), KNEE)
    assert (index, words in rule) == (chosen, True), rule


def test_an_axis_is_the_mean_of_its_tasks():
    tasks = {
        "a": {"axis": "general", "value": 0.5, "stderr": 0.03, "n": 100},
        "b": {"axis": "general", "value": 0.8, "stderr": 0.04, "n": 50},
        "c": {"axis": "target", "value": 0.2, "stderr": None, "n": 10},
    }
    assert path_choice.axis_score(tasks, "general") == pytest.approx({"value": 0.65, "stderr": 0.025, "n": 150})
    assert path_choice.axis_score(tasks, "target") == {"value": 0.2, "stderr": None, "n": 10}


# --- the step ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    """A folder of <task>.jsonl files."""
    folder = tmp_path_factory.mktemp("questions")
    rng, known = Random(5), fable.facts(0)
    makers = {
        "fable_strings_dev": lambda: fable.string_item(rng),
        "fable_facts_dev": lambda: fable.fact_item(rng, rng.choice(known)),
        "fable_instructions_dev": lambda: fable.instruction_item(rng),
    }
    for task, make in makers.items():
        write_jsonl(folder / f"{task}.jsonl", ({"id": index} | make() for index in range(12)))
    return folder


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory) -> Path:
    """fable's base with noise on its weights, at which it knows less."""
    import torch

    model = checkpoints.load_model(BASE, torch.float32)
    noisy(model, 0.06)
    return save(model, tmp_path_factory.mktemp("interpolate") / "spoiled", BASE)


def go(settings: dict, start: Path, end: Path, questions: Path, folder: Path) -> Path:
    interpolate.main(
        argparse.Namespace(
            settings=settings,
            parents=[start, end],
            tasks_dir=questions,
            work=folder / "work",
            out=folder / "out",
        )
    )
    return folder / "out"


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "provenance.json"}


def test_points_score_what_their_models_score(spoiled, questions, tmp_path):
    """Both ends, evaluated on their own as any checkpoint is, and the files that a path leaves."""
    out = go(SETTINGS, BASE, spoiled, questions, tmp_path)
    found = read_json(out / "path.json")
    assert [point["alpha"] for point in found["points"]] == SETTINGS["alphas"]
    axes = {"fable_strings_dev": "target", "fable_facts_dev": "general", "fable_instructions_dev": "general"}
    (tmp_path / "scratch").mkdir()
    configs = {task: task_config(task, {}, {"test": questions / f"{task}.jsonl"}) for task in axes}
    tasks = load_tasks(configs, tmp_path / "scratch")
    values = []
    for point, folder in ((found["points"][0], BASE), (found["points"][2], spoiled)):
        results, _ = measure.greedy(Engine.load(folder, 32), tasks, axes, limit=None, max_new_tokens=24)
        for task, row in results.items():
            assert point["tasks"][task] == {key: row[key] for key in ("axis", "value", "stderr", "n")}
        values.append([row["value"] for row in results.values()])
        assert point["target"]["value"] == results["fable_strings_dev"]["value"]
    assert min(values[0]) > 0.8 > max(values[1])

    assert (found["start"], found["end"], found["chosen"]) == (str(BASE), str(spoiled), 0.0)
    assert found["scales"] == {str(index): 1.0 for index in range(4)}
    rows = [line.split(",") for line in (out / "path.csv").read_text().splitlines()]
    assert rows[0][:7] == ["alpha", "target", "target_stderr", "general", "general_stderr", "n_target", "n_general"]
    assert {*rows[0][7:-1]} == {*axes}
    assert [row[-1] for row in rows] == ["chosen", "1", "0", "0"]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx([p["target"]["value"] for p in found["points"]])
    assert rows[1][5:7] == ["12", "24"]
    assert checkpoints.check(out) == [out / "manifest.json"]


@pytest.fixture
def scripted(monkeypatch):
    """Scores from a list in place of answers; keeps the weights with which each point was measured."""
    seen: list[dict] = []
    scores = [(0.1, 0.9), (0.5, 0.9), (0.6, 0.5)]

    def greedy(writer, tasks, axes, limit, max_new_tokens):
        seen.append({name: tensor.clone() for name, tensor in writer.model.state_dict().items()})
        target, general = scores[(len(seen) - 1) % len(scores)]
        assert limit is None
        return {
            task: {"axis": axis, "value": target if axis == "target" else general, "stderr": 0.1, "n": 10}
            for task, axis in axes.items()
        }, []

    monkeypatch.setattr(interpolate, "greedy", greedy)
    return seen


@pytest.mark.parametrize(
    ("settings", "end"),
    [(SETTINGS, "tuned"), (SETTINGS | {"rewind": "min"}, "lora"), (CAYLEY | {"rewind": "safe"}, "oft")],
)
def test_the_chosen_point_is_a_checkpoint(tiny_checkpoint, settings, end, questions, tmp_path, request, scripted):
    """What is written loads, and is the model that was measured; nothing else was written."""
    import torch

    folder = request.getfixturevalue(end)
    out = go(settings, tiny_checkpoint, folder, questions, tmp_path)
    assert read_json(out / "path.json")["chosen"] == 0.5
    assert len(scripted) == 3
    loaded = checkpoints.load_model(out, torch.float32).state_dict()
    assert loaded.keys() == scripted[1].keys()
    for name, value in scripted[1].items():
        assert torch.equal(loaded[name], value), name
    assert not torch.equal(loaded[Q_PROJ], scripted[0][Q_PROJ])
    assert not torch.equal(loaded[Q_PROJ], scripted[2][Q_PROJ])
    assert checkpoints.load_tokenizer(out).chat_template == checkpoints.load_tokenizer(tiny_checkpoint).chat_template
    assert read_json(out / "manifest.json")["counts"] == {"chosen": 0.5, "points": 3, "tensors": 46}
    written = {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert written == {".made_for.json", "0.0.json", "0.5.json", "1.0.json"}


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(tiny_checkpoint, lora, questions, tmp_path, monkeypatch):
    calls = []
    fail_at = 1

    def greedy(writer, tasks, axes, limit, max_new_tokens):
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        weight = writer.model.state_dict()[Q_PROJ]
        calls.append(weight.sum().item())
        return {
            task: {"axis": axis, "value": weight[0, 0].abs().item(), "stderr": None, "n": 10}
            for task, axis in axes.items()
        }, []

    monkeypatch.setattr(interpolate, "greedy", greedy)
    with pytest.raises(KeyboardInterrupt):
        go(SETTINGS, tiny_checkpoint, lora, questions, tmp_path / "killed")
    assert len(calls) == 1
    assert not (tmp_path / "killed" / "out").exists()
    fail_at = None
    killed = go(SETTINGS, tiny_checkpoint, lora, questions, tmp_path / "killed")
    assert len(calls) == 3, "the first point was measured again"
    whole = go(SETTINGS, tiny_checkpoint, lora, questions, tmp_path / "whole")
    assert calls[:3] == calls[3:]
    assert contents(killed) == contents(whole)

    # A point that is not as it was put aside is measured again.
    (point,) = (tmp_path / "killed" / "work").rglob("0.5.json")
    point.write_text(point.read_text().replace('"n": 10', '"n": 11'))
    assert contents(go(SETTINGS, tiny_checkpoint, lora, questions, tmp_path / "killed")) == contents(whole)
    assert len(calls) == 7

    # Another rule and more points: only what is new is measured. Other items: everything.
    changed = SETTINGS | {"choose": KNEE, "alphas": [0.0, 0.25, 0.5, 1.0]}
    go(changed, tiny_checkpoint, lora, questions, tmp_path / "killed")
    assert len(calls) == 8
    go(changed | {"limit": 5}, tiny_checkpoint, lora, questions, tmp_path / "killed")
    assert len(calls) == 12


def test_shards_are_laid_out_as_those_of_the_start(tiny_checkpoint, tuned, tmp_path):
    import torch

    sharded = tmp_path / "sharded"
    checkpoints.load_model(tiny_checkpoint, torch.float32).save_pretrained(sharded, max_shard_size="1MB")
    checkpoints.load_tokenizer(tiny_checkpoint).save_pretrained(sharded)
    path = walk(SETTINGS, sharded, tuned, tmp_path)
    (tmp_path / "out").mkdir()
    interpolate.write_point(tmp_path / "out", path, paths.point(path, 0.5, {}))
    names = [file.name for file in checkpoints.weight_files(tmp_path / "out")]
    assert names == [file.name for file in checkpoints.weight_files(sharded)]
    assert len(names) > 2
    loaded = arrays(tmp_path / "out")
    first, second = arrays(tiny_checkpoint), arrays(tuned)
    for name in first:
        np.testing.assert_allclose(loaded[name], (first[name] + second[name]) / 2, rtol=1e-5, atol=1e-6)


# --- errors of the user --------------------------------------------------------------------------


def test_ends_that_do_not_match(tiny_checkpoint, tmp_path):
    from safetensors.numpy import load_file, save_file

    for name in ("shapes", "vocabulary", "windows"):
        shutil.copytree(tiny_checkpoint, tmp_path / name)
    tensors = load_file(tmp_path / "shapes" / "model.safetensors")
    tensors[Q_PROJ] = np.zeros((64, 128), np.float32)
    save_file(tensors, tmp_path / "shapes" / "model.safetensors", metadata={"format": "pt"})
    tokenizer = read_json(tmp_path / "vocabulary" / "tokenizer.json")
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    write_json(tmp_path / "vocabulary" / "tokenizer.json", tokenizer)
    with pytest.raises(ValueError, match=r"^model.layers.1.self_attn.q_proj.weight is \[128, 128\] .*\[64, 128\]"):
        interpolate.check_ends(SETTINGS, tiny_checkpoint, tmp_path / "shapes")
    with pytest.raises(ValueError, match=r"vocabulary/tokenizer.json has another vocabulary .*\"a\""):
        interpolate.check_ends(SETTINGS, tiny_checkpoint, tmp_path / "vocabulary")
    config = read_json(tmp_path / "windows" / "config.json") | {"layer_types": ["sliding_attention"] * 4}
    config |= {"use_sliding_window": True, "sliding_window": 8}
    write_json(tmp_path / "windows" / "config.json", config)
    with pytest.raises(
        ValueError, match=r"^(sliding_window|layer_types) is .* in .*tiny/config.json but .* in .*windows"
    ):
        interpolate.check_ends(SETTINGS, tiny_checkpoint, tmp_path / "windows")


def test_a_parent_with_numbers_that_are_none_is_named(tiny_checkpoint, tuned, tmp_path):
    from safetensors.numpy import load_file, save_file

    broken = shutil.copytree(tuned, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors[Q_PROJ][0, 0] = np.inf
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    path = walk(SETTINGS, tiny_checkpoint, broken, tmp_path)
    with pytest.raises(ValueError, match=r"broken/model\.safetensors: .*q_proj\.weight has numbers that are NaN"):
        path.tensor(Q_PROJ, 0.5)


def test_cayley_needs_an_oft_adapter_of_the_start(tiny_checkpoint, tuned, lora, oft):
    with pytest.raises(ValueError, match=r"^path: cayley .*lora is a lora adapter: write additive$"):
        interpolate.check_ends(CAYLEY, tiny_checkpoint, lora)
    with pytest.raises(ValueError, match=r"^path: cayley .*tuned is a full model: write additive$"):
        interpolate.check_ends(CAYLEY, tiny_checkpoint, tuned)
    with pytest.raises(ValueError, match=r"^path: cayley starts at the model that .*oft adapts, which is .*tiny and"):
        interpolate.check_ends(CAYLEY, tuned, oft)
    interpolate.check_ends(CAYLEY, tiny_checkpoint, oft)
    interpolate.check_ends(SETTINGS, tuned, oft)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alphas": [0.0, 0.5]}, r"^alphas: \[0.0, 0.5\] must rise from 0 to 1"),
        ({"alphas": [0.5, 1.0]}, "^alphas: "),
        ({"alphas": [0.0, 0.6, 0.4, 1.0]}, "^alphas: "),
        ({"alphas": [0.0, 0.5, 0.5, 1.0]}, "^alphas: "),
        ({"target": []}, "^target: names no task"),
        ({"general": []}, "^general: names no task"),
        ({"general": ["fable_strings_dev"]}, "^general: fable_strings_dev already stands under target"),
    ],
)
def test_settings_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        Interpolate.fit(SETTINGS | change)


def test_a_model_that_is_computed_under_other_names(tiny_checkpoint):
    import torch

    model = checkpoints.load_model(tiny_checkpoint, torch.float32)
    weights = Weights(tiny_checkpoint)
    interpolate.set_weights(model, list(weights.tensors), weights.tensor)
    with pytest.raises(ValueError, match=rf"^{Q_PROJ}: transformers renames this model's weights"):
        interpolate.set_weights(model, [name for name in weights.tensors if name != Q_PROJ], weights.tensor)


def test_missing_questions_end_in_one_line(questions, spoiled, tmp_path):
    settings = SETTINGS | {"general": ["fable_arithmetic_dev"]}
    command = [
        sys.executable,
        "-m",
        "steps.recipes.interpolate",
        "--settings",
        json.dumps(settings),
        "--parents",
        BASE,
        spoiled,
    ]
    command += ["--tasks-dir", questions, "--work", tmp_path / "work", "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("temper: error: ")
    assert "fable_arithmetic_dev.jsonl is missing or empty" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
