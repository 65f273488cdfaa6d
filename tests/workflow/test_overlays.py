"""The overlays of real models and of real rows: every pair resolves, pinned; some are planned by Snakemake. The
quick ones fit their GPU, and their page says what they cost."""

import itertools
import math
import re

import pytest
import yaml

from steps.core.files import read_json
from steps.evaluation.questions import longest_answer
from steps.evaluation.tasks import find_template
from steps.graph import checks, recipes, workload
from steps.graph import graph as dag
from steps.preflight import machine
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
# GiB that are there of a GPU of so many GB: some of 24 GB set aside more than others (L4, A10: 22.5).
THERE = {"gpu_24gb": 22, "gpu_80gb": 79}
QUICK = sorted((ROOT / "workloads/quick").glob("*.yaml"))


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


def estimated(graph: dag.Graph) -> dict[str, float]:
    """GiB of a GPU that pre-flight expects every training to need."""
    params = graph.params
    shapes = {name: shape_of(model["path"]) for name, model in params["models"].items()}
    totals = {}
    for name in {*graph.rehearsals.values()}:
        node = graph.nodes[name]
        totals[name] = memory.needs(
            node.stage, node.settings, shapes[graph.root(name)],
            [shapes[graph.root(teacher)] for teacher in node.teachers],
            prompt_tokens=params["preflight"]["prompt_tokens"], kind="single", processes=1, device="cuda", half=True,
        )["total"] / memory.GIB  # fmt: skip
    return totals


def too_large(graph: dag.Graph, there: float) -> dict[str, float]:
    """The trainings that do not fit into so many GiB less `preflight.headroom`, with what they need."""
    room = there * (1 - graph.params["preflight"]["headroom"])
    return {name: total for name, total in estimated(graph).items() if total > room}


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
    graph = dag.Graph(resolved(*pair, workload="mine"))
    assert {"sft", "grpo", "srpo", "opd"} <= {*graph.rehearsals.values()}
    assert not too_large(graph, THERE["gpu_80gb"])


@pytest.mark.parametrize("overlay", QUICK, ids=lambda path: path.stem)
def test_a_quick_one_trains_and_measures_one_pinned_model_and_fits_its_gpu(overlay):
    graph = dag.Graph(resolved(overlay))
    assert {name: node.stage for name, node in graph.nodes.items()} == {"sft": "sft", "sft_lora": "sft", "grpo": "rl"}
    pinned = workload.read(ROOT / "workloads/models/qwen3_0.6b.yaml")["models"]["base"]
    assert graph.params["models"] == {"base": pinned}
    checks.check_files(graph)
    assert {*estimated(graph)} == {*graph.nodes} and not too_large(graph, THERE[overlay.stem])


def test_quick_ones_differ_in_what_a_gpu_holds_alone():
    """Rows of a pass, never those of a step: what is learned is the same."""
    learned, held = [], ("batch_size", "gradient_accumulation", "gradient_checkpointing", "sample_batch")
    assert {overlay.stem for overlay in QUICK} == {*THERE}
    for overlay in QUICK:
        params = resolved(overlay)
        for node in dag.Graph(params).nodes.values():
            assert node.stage == "rl" or node.settings["batch_size"] * node.settings["gradient_accumulation"] == 32
        learned.append(
            {
                section: {key: value for key, value in content.items() if key not in held}
                if isinstance(content, dict)
                else content
                for section, content in params.items()
            }
        )
    assert learned[0] == learned[1]


def written_one_by_one(graph: dag.Graph) -> dict[str, int]:
    """Tokens that are written after each other at most, by rule: those of a batch count once. Of grpo all rollouts."""
    params, rl = graph.params, graph.nodes["grpo"].settings
    (source,) = params["data"]["problems"]["sources"]
    counts = {}
    for rule in ("bucket", "difficulty"):
        of = params[rule]
        counts[rule] = math.ceil(source["cap"] * of["samples"] / of["batch_size"]) * of["max_new_tokens"]
    counts["grpo"] = (
        rl["steps"] * math.ceil(rl["prompts"] * rl["generations"] / rl["sample_batch"]) * rl["max_new_tokens"]
    )
    of = params["evaluate"]
    longest = [longest_answer(task, of["tasks"][task], of["max_new_tokens"])[0] for task in graph.asked()]
    batches = math.ceil(of["limit"] / of["batch_size"])
    return counts | {"evaluate": len(graph.measured()) * batches * sum(longest)}


def test_the_page_of_the_first_run_tells_what_the_quick_ones_cost():
    """Its tables are written by people; memory and disk are pre-flight's, tokens are counted from the settings."""
    page = (ROOT / "docs/first_run.md").read_text()
    graphs = [dag.Graph(resolved(ROOT / f"workloads/quick/{size}.yaml")) for size in THERE]
    totals, shape = [estimated(graph) for graph in graphs], shape_of("Qwen/Qwen3-0.6B-Base")
    most = 0.0
    for name, node in graphs[0].nodes.items():
        disk = machine.disk(node.stage, node.settings, shape)
        numbers = [total[name] for total in totals] + [size / 1e9 for size in disk.values()]
        assert f"| `{name}` | {' | '.join(f'{number:.1f}' for number in numbers)} |" in page
        most = max(most, disk["states"] / 1e9)
    kept = sum(machine.disk(n.stage, n.settings, shape)["checkpoint"] for n in graphs[0].nodes.values()) / 1e9
    assert f"{math.ceil(most + kept + 1.2)} GB of disk" in page
    counts = [written_one_by_one(graph) for graph in graphs]
    for rule in counts[0]:
        assert f"| `{rule}` | {' | '.join(f'{count[rule]:,}' for count in counts)} |" in page
    together = [sum(count.values()) for count in counts]
    assert f"| together | {' | '.join(f'{count:,}' for count in together)} |" in page
    assert f"| at 30 ms each | {' | '.join(f'{count * 0.03 / 60:.0f} minutes' for count in together)} |" in page


@pytest.mark.parametrize("model", ["Qwen3-0.6B", "Qwen3-1.7B", "Qwen3-4B", "Qwen3-8B"])
def test_the_page_tells_what_other_sizes_cost(model):
    """As above, of fine-tuning as params.yaml has it."""
    shape, defaults = shape_of(f"Qwen/{model}-Base"), workload.read(ROOT / workload.DEFAULTS)
    kinds = {kind: {"adapter": {"kind": kind, "r": 16, "alpha": 32}} for kind in ("lora", "qlora")}
    full = {"adapter": {"kind": "full"}}
    ways = [defaults["sft"] | way for way in (full, full | {"optimizer": "adamw_8bit"}, *kinds.values())]
    how = {"prompt_tokens": 0, "kind": "single", "processes": 1, "device": "cuda", "half": True}
    cells = [f"{memory.needs('sft', way, shape, **how)['total'] / memory.GIB:.1f}" for way in ways]
    for way in (ways[0], ways[2]):
        disk = machine.disk("sft", way, shape)
        cells.append(f"{disk['states'] / 1e9:.1f} + {disk['checkpoint'] / 1e9:.1f}")
    page = (ROOT / "docs/first_run.md").read_text()
    assert f"| {model} | {' | '.join(cells)} |" in page
    rows = f"{defaults['sft']['batch_size']} rows of {defaults['sft']['max_length']:,} tokens in a pass"
    kept = [f"{there * (1 - defaults['preflight']['headroom']):.1f}" for there in THERE.values()]
    assert rows in page and f"about {kept[0]} GiB, one of 80 GB {kept[1]}" in page


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


@pytest.mark.parametrize("size", THERE)
def test_a_quick_one_is_planned(tmp_path, size):
    """One model is fetched, and nothing else."""
    folder = copy_of_the_repository(tmp_path)
    jobs = planned(folder, "--configfile", f"workloads/quick/{size}.yaml")
    assert {"sft sft", "sft sft_lora", "rl grpo", "difficulty sft", "report"} <= jobs
    assert {job for job in jobs if job.startswith("evaluate")} == {
        f"evaluate {name}" for name in ("base", "sft", "sft_lora", "grpo")
    }
    assert {job for job in jobs if job.startswith("download")} == {"download base"}


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
