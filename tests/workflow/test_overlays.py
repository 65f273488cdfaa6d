"""The overlays of real models and of real rows: every pair resolves, pinned; some are planned by Snakemake."""

import itertools
import re

import pytest
import yaml

from steps.core.files import read_json
from steps.evaluation.tasks import find_template
from steps.graph import checks, recipes, workload
from steps.graph import graph as dag
from steps.training import memory
from tests.workflow.test_workflow import copy_of_the_repository, planned, run
from tests.workloads import ROOT, params_of

pytestmark = pytest.mark.usefixtures("warmed")
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
    return memory.Shape(parameters, linear, vocabulary, hidden, layers, heads, queries, keys, inner, "Qwen3" in path)


def resolved(*overlays, **values) -> dict:
    return recipes.complete(params_of(*overlays, **values))


def test_every_promised_model_is_there():
    found = [yaml.safe_load(path.read_text())["models"]["base"]["path"] for path in MODELS]
    assert sorted(found) == sorted(f"{family}-{size}" for family, sizes in SIZES.items() for size in sizes)
    assert [path.stem for path in DATA] == ["gsm8k", "math", "openmath"]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].stem}_{pair[1].stem}")
def test_every_pair_resolves(pair):
    params = resolved(*pair, workload="mine")
    graph = dag.Graph(params)
    assert {"sft", "merge", "rl", "distill", "opd"} <= {node.stage for node in graph.nodes.values()}
    used = {graph.root(name) for name in graph.nodes} | {t for n in graph.nodes.values() for t in n.teachers}
    assert used & set(params["models"]) == set(params["models"]), "a model is fetched for nothing"
    for model in params["models"].values():
        assert re.fullmatch("[0-9a-f]{40}", model["revision"])
    assert {*graph.params["evaluate"]["target"]} and len(graph.params["evaluate"]["general"]) > 1
    for task, spec in params["evaluate"]["tasks"].items():
        assert find_template(task, spec.get("stock", task)).is_file()
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
    checks.check_files(graph)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair[0].stem}_{pair[1].stem}")
def test_every_training_of_a_pair_fits_one_gpu_of_80_gb(pair):
    params = resolved(*pair, workload="mine")
    graph = dag.Graph(params)
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
        resolved(MODELS[0], DATA[0])


@pytest.mark.parametrize("pair", ["llama3.2_1b gsm8k", "qwen3_8b openmath"])
def test_a_pair_is_planned(tmp_path, pair):
    model, data = pair.split()
    folder = copy_of_the_repository(tmp_path)
    files = [f"workloads/models/{model}.yaml", f"workloads/data/{data}.yaml"]
    jobs = planned(folder, "--configfile", *files, "--config", "workload=mine")
    assert {"download base", "report", "evaluate base", "rl grpo", "opd opd"} <= jobs
    assert ("download problems" in jobs) == (data == "openmath")


def test_the_command_line_wins_over_every_file(tmp_path):
    folder = copy_of_the_repository(tmp_path)
    values = ["workload=mine", "seeds=[0, 1]", "sft={learning_rate: 3.0e-5}"]
    plan = run(folder, "snakemake", "-np", "--configfile", "workloads/example.yaml", "--config", *values)
    assert "reports/mine/index.html" in plan and "/example/" not in plan and "/fable/" not in plan
    assert "results/mine/foundation/sft-s1/manifest.json" in plan and '"learning_rate": 3e-05' in plan


def test_what_an_overlay_lacks_is_one_line_before_any_job(tmp_path):
    folder = copy_of_the_repository(tmp_path)
    for target, overlay, message in (
        ("all", "data/gsm8k", "models: there are none; name an overlay that has some: --configfile"),
        ("pretrain", "example", "pretrain: this workload has no such section"),
    ):
        file = f"workloads/{overlay}.yaml"
        output = run(folder, "snakemake", "--cores", "all", target, "--configfile", file, expect=2)
        (line,) = [line for line in output.splitlines() if "profile" not in line]
        assert line.startswith("temper: error: ") and f"{file}: {message}" in line


def test_an_overlay_of_the_users_own_runs_to_its_report(tmp_path):
    """workloads/example.yaml with another model, few rows and short answers; nothing of the embedded world is made."""
    folder = copy_of_the_repository(tmp_path)
    rows = {name: (folder / f"data/gsm8k/{name}.jsonl").read_text().splitlines(True) for name in ("train", "test")}
    for name, kept in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(kept[:40]))
    own = workload.read(folder / "workloads/example.yaml")
    own["models"] = {"base": {"path": "data/fable/base"}}
    own["data"]["problems"]["sources"][0]["path"] = "train.jsonl"
    own["evaluate"]["tasks"]["exam"]["data_files"] = {"train": "train.jsonl", "test": "test.jsonl"}
    (folder / "own.yaml").write_text(yaml.safe_dump(own))
    # Without examples: five of them do not fit the 1,024 positions of so small a model.
    exam = {"overrides": {"num_fewshot": 0, "generation_kwargs": {"max_gen_toks": 16}}}
    short = {
        "split": {"valid_share": 0.2},
        "sft": {"epochs": 1, "max_length": 512},
        "bucket": {"samples": 2, "max_new_tokens": 16},
        "evaluate": {"limit": 4, "tasks": {"exam": exam, "trivia": exam}},
    }
    (folder / "short.yaml").write_text(yaml.safe_dump(short))
    run(folder, "snakemake", "--cores", "all", "--configfile", "own.yaml", "short.yaml")
    assert (folder / "reports/example/summary.txt").is_file()
    manifest = read_json(folder / "results/example/foundation/sft/manifest.json")
    assert manifest["settings"]["learning_rate"] == 1.0e-5
    assert {path.name for path in (folder / "results").iterdir()} == {"example"}
    assert not (folder / "results/example/world").exists()
