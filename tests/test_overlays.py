"""The overlays of real models and of real rows: every pair resolves, pinned; some are planned by Snakemake."""

import itertools
import re
import shutil

import pytest
import yaml

from steps import dag, evaluate, memory, recipes
from tests.test_recipes import PARAMS, ROOT, SCHEMA, overlaid
from tests.test_workflow import copy_of_the_repository, planned

MODELS, DATA = (sorted((ROOT / "workloads" / kind).glob("*.yaml")) for kind in ("models", "data"))
PAIRS = list(itertools.product(MODELS, DATA))
# The sizes that the README promises.
SIZES = {
    "Qwen/Qwen2.5": ["0.5B", "1.5B", "7B"],
    "Qwen/Qwen3": ["0.6B-Base", "1.7B-Base", "4B-Base", "8B-Base"],
    "meta-llama/Llama-3.2": ["1B-Instruct", "3B-Instruct"],
}
# As their configs on the hub have them: vocabulary, hidden size, layers, heads, those of keys, size of one, size of the
# MLP, whether the output has weights of its own, weights that their cards count.
SHAPES = {
    "Qwen/Qwen2.5-0.5B": (151936, 896, 24, 14, 2, 64, 4864, False, 0.49e9),
    "Qwen/Qwen2.5-1.5B": (151936, 1536, 28, 12, 2, 128, 8960, False, 1.54e9),
    "Qwen/Qwen2.5-7B": (152064, 3584, 28, 28, 4, 128, 18944, True, 7.61e9),
    "Qwen/Qwen3-0.6B-Base": (151936, 1024, 28, 16, 8, 128, 3072, False, 0.6e9),
    "Qwen/Qwen3-1.7B-Base": (151936, 2048, 28, 16, 8, 128, 6144, False, 1.7e9),
    "Qwen/Qwen3-4B-Base": (151936, 2560, 36, 32, 8, 128, 9728, False, 4.0e9),
    "Qwen/Qwen3-8B-Base": (151936, 4096, 36, 32, 8, 128, 12288, True, 8.2e9),
    "meta-llama/Llama-3.2-1B-Instruct": (128256, 2048, 16, 32, 8, 64, 8192, False, 1.23e9),
    "meta-llama/Llama-3.2-3B-Instruct": (128256, 3072, 28, 24, 8, 128, 8192, False, 3.21e9),
}
# Of a GPU of 80 GB 79 GiB are there, less `preflight.headroom`.
ROOM = 0.9 * 79 * memory.GIB


def shape_of(path: str) -> memory.Shape:
    """Norms and biases, a thousandth of the weights, left out."""
    vocabulary, hidden, layers, heads, of_keys, size, inner, own_output, counted = SHAPES[path]
    queries, keys = heads * size, of_keys * size
    block = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    linear = {f"model.layers.{layer}.{name}": sides for layer in range(layers) for name, sides in block.items()}
    parameters = sum(out * width for out, width in linear.values()) + vocabulary * hidden * (1 + own_output)
    assert parameters == pytest.approx(counted, rel=0.02)
    return memory.Shape(
        parameters, 2 * parameters, linear, vocabulary, hidden, layers, queries, keys, inner, "Qwen3" in path
    )


def params_of(*overlays, **more) -> dict:
    params = PARAMS
    for overlay in overlays:
        params = overlaid(params, yaml.safe_load(overlay.read_text()))
    return recipes.complete(overlaid(params, more), SCHEMA)


def test_every_promised_model_is_there():
    found = [yaml.safe_load(path.read_text())["models"]["base"]["path"] for path in MODELS]
    assert sorted(found) == sorted(f"{family}-{size}" for family, sizes in SIZES.items() for size in sizes)
    assert [path.stem for path in DATA] == ["gsm8k", "math", "openmath"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].stem}_{pair[1].stem}")
def test_every_pair_resolves(pair):
    params = params_of(*pair, workload="mine")
    graph = dag.Graph(params, SCHEMA)
    assert {"sft", "merge", "rl", "distill", "opd"} <= {node.stage for node in graph.nodes.values()}
    used = {graph.root(name) for name in graph.nodes} | {t for n in graph.nodes.values() for t in n.teachers}
    assert used & set(params["models"]) == set(params["models"]), "a model is fetched for nothing"
    for model in params["models"].values():
        assert re.fullmatch("[0-9a-f]{40}", model["revision"])
    assert {*graph.params["evaluate"]["target"]} and len(graph.params["evaluate"]["general"]) > 1
    for task, spec in params["evaluate"]["tasks"].items():
        assert evaluate.find_template(task, spec.get("stock", task)).is_file()
    for node in graph.nodes.values():
        of = node.settings
        if node.stage in ("sft", "distill"):
            assert of["batch_size"] * of["gradient_accumulation"] == 32
            # The rate of fable is a hundred times too high here.
            assert of["learning_rate"] <= (2e-3 if of["adapter"]["kind"] != "full" else 1e-5)
            assert of["max_length"] >= 1024
        if node.stage in ("rl", "opd"):
            assert of["learning_rate"] <= (1e-5 if of["adapter"]["kind"] != "full" else 1e-6)
            assert of["prompts"] * of["generations"] % of["batch_size"] == 0
    # Every file that is named ships.
    graph.check_files()


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].stem}_{pair[1].stem}")
def test_every_training_of_a_pair_fits_one_gpu_of_80_gb(pair):
    params = params_of(*pair, workload="mine")
    graph = dag.Graph(params, SCHEMA)
    shapes = {name: shape_of(model["path"]) for name, model in params["models"].items()}
    totals = {}
    for name in graph.rehearsals.values():
        node = graph.nodes[name]
        totals[name] = memory.needs(
            node.stage, node.settings, shapes[graph.root(name)],
            [shapes[graph.root(teacher)] for teacher in node.teachers],
            prompt_tokens=params["preflight"]["prompt_tokens"], kind="single", processes=1, device="cuda", half=True,
        )["total"] / memory.GIB  # fmt: skip
    assert {"sft", "grpo", "srpo", "opd"} <= totals.keys()
    assert not {name: total for name, total in totals.items() if total * memory.GIB > ROOM}


def test_a_pair_needs_a_name():
    with pytest.raises(ValueError, match=r"^workload: null; .*--config workload=<name>"):
        params_of(MODELS[0], DATA[0])


@pytest.mark.parametrize("pair", ["llama3.2_1b gsm8k", "qwen3_8b openmath"])
def test_a_pair_is_planned(tmp_path, pair):
    model, data = pair.split()
    folder = copy_of_the_repository(tmp_path)
    shutil.copy(ROOT / "params.yaml", folder / "params.yaml")
    files = [f"workloads/models/{model}.yaml", f"workloads/data/{data}.yaml"]
    jobs = planned(folder, "--configfile", *files, "--config", "workload=mine")
    assert {"download base", "report", "evaluate base", "rl grpo", "opd opd"} <= jobs
    assert ("download problems" in jobs) == (data == "openmath")
