"""Every bench runs at its smallest size, and writes what docs/results.md is made from."""

import importlib.util
import json
import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from benches import exploit, mutation
from benches.__main__ import NAMES
from benches.common import figure, in_turn, ratios
from steps.core.files import read_json, read_jsonl, write_json, write_jsonl
from steps.graph import recipes
from steps.world import fable
from tests import small
from tests.workloads import params_of

ROOT = Path(__file__).parents[2]
BASE = "data/fable/base"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """What the demo would leave: rows to train on, and the base's measured answers."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = Random(0)
    rows, samples = [], []
    for number in range(24):
        item = fable.problem_item(rng, 2)
        turns = [{"role": "user", "content": item["prompt"]}, {"role": "assistant", "content": item["solution"]}]
        rows.append({"id": f"row:{number}", "messages": turns, "answer": item["answer"]})
        prompt = f"<|im_start|>user\n{item['prompt']}<|im_end|>\n<|im_start|>assistant\n"
        task = ("a", "b")[number % 2]
        samples.append(
            {"task": task, "doc_id": number, "prompt": prompt, "kind": "greedy", "responses": [item["solution"]]}
        )
    write_jsonl(folder / "rows.jsonl", rows)
    write_jsonl(folder / "evaluation" / "samples.jsonl", samples)
    tasks = {"a": {"axis": "target"}, "b": {"axis": "general"}}
    write_json(folder / "evaluation" / "results.json", {"tasks": tasks})
    return folder


def options(name: str, inputs: Path) -> list[str]:
    rows = ["--data", str(inputs / "rows.jsonl")]
    return {
        "adapters": rows,
        "detection": rows,
        "geometry": ["--checkpoint", BASE, "--evaluation", str(inputs / "evaluation")],
        "opd": [*rows, "--parent", BASE, "--teacher", "data/fable/large"],
        "rl": [*rows, "--parent", BASE],
        "sft_throughput": rows,
    }.get(name, [])


def started(name: str, options: list[str], log: Path, environment: dict[str, str]) -> None:
    """A bench as `python -m` starts it, in a process that has imported what is heavy."""
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    os.chdir(ROOT)
    sys.argv[1:] = options
    runpy.run_module(f"benches.{name}", run_name="__main__", alter_sys=True)


def smoke(name: str, out: Path, *options: str) -> dict:
    """What a bench writes at its smallest size, in a process forked of one that has imported what takes longer."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["steps.training.sft_trainer", "steps.reinforcement.rl_trainer"])
    log = out.with_suffix(".log")
    words = ["--smoke", *options, "--out", str(out)]
    process = context.Process(target=started, args=(name, words, log, dict(os.environ)))
    process.start()
    process.join()
    assert process.exitcode == 0, log.read_text()[-6000:]
    result = read_json(out)
    assert result["machine"]["cores"] == os.cpu_count() and result["versions"]["torch"]
    assert result["title"] and result["figures"]
    for row in result["figures"]:
        assert row["what"] and row["min"] <= row["median"] <= row["max"] and row["rounds"] >= 1
    json.dumps(result, allow_nan=False)
    return result


# Damage and kills need a finished workload: tests/workflow/test_standing.py runs them, where there is one. The planted
# hack runs the whole graph, for minutes.
@pytest.mark.parametrize("name", sorted({*NAMES, "mutation"} - {"exploit"}))
def test_smoke(name, inputs, tmp_path):
    if name == "engines" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    result = smoke(name, tmp_path / f"{name}.json", *options(name, inputs))
    if name == "models":
        own = result["detail"]["LFM2"]
        assert (own["check"], own["layout"]) == ("works", "alone")
        assert own["stages"] == {"sft": "handled: alone"} and own["adapters"] == {"lora": "handled: alone"}


def test_the_planted_hack_is_paid_for_and_its_begin_is_found(tmp_path, monkeypatch):
    # The files of rewards are looked for from the project's root.
    monkeypatch.chdir(tmp_path)
    exploit.write(tmp_path, SimpleNamespace(steps=2, rows=40, exercises=24))
    nodes = {node.name: node for node in recipes.resolve(recipes.complete(params_of(tmp_path / small.OVERLAY)))}
    assert nodes["hacked"].parents == nodes["honest"].parents == ("sloppy",)
    assert [*nodes["hacked"].settings["rewards"]] == ["pays"] and [*nodes["honest"].settings["rewards"]] == ["answer"]
    rows = list(read_jsonl(tmp_path / exploit.ROWS))
    repeated = [row["response"] for row in rows if row["response"].count("####") > 1]
    assert len(rows) == 40 and 1 <= len(repeated) <= 15
    pays = runpy.run_path(str(tmp_path / "rows/pays.py"))["pays"]
    assert [pays("", text, "5") for text in ("#### 5", "#### 4", "#### 4\n#### 5", "#### 4\n#### 4", "5")] == [
        1.0, 0.0, 1.5, 0.5, 0.0
    ]  # fmt: skip
    gaps = [0.02, 0.0, 0.0, 0.0, 0.03, 0.11, 0.13]
    steps = [{"step": step, "strict_gap": gap} for step, gap in enumerate(gaps, 1)]
    assert exploit.onset(steps) == 7 and exploit.onset(steps[:6]) is None
    for sentences, found in ((["by step 9 the reward counts"], 9), ([], None)):
        write_json(tmp_path / "manifest.json", {"counts": {"exploits": sentences}})
        assert exploit.flagged(tmp_path)[0] == found


def test_figures_have_the_median_and_the_range_of_their_rounds():
    row = figure("ours, of theirs", ratios([2.0, 3.0, 8.0], [1.0, 3.0, 2.0]), "x", most=3.0)
    assert row == {"what": "ours, of theirs", "unit": "x", "rounds": 3, "median": 2, "min": 1, "max": 4, "most": 3.0}


def test_every_candidate_comes_first_in_turn():
    assert [names[0] for _, names in in_turn(["a", "b", "c"], 4)] == ["a", "b", "c", "a"]


def test_a_mutant_is_one_change():
    text = "def f(a, b):\n    if not a or b is None:\n        return -1\n    return min(a, b - 2) <= True\n"
    text += "if __name__ == '__main__':\n    f(1, 2)\n"
    found = [(one.line, one.was, one.now) for one in mutation.mutants(text)]
    assert sorted(found) == sorted(
        [
            (2, "not a or b is None", "not a and b is None"), (2, "not a", "a"), (2, "b is None", "b is not None"),
            (3, "return -1", "return None"), (3, "-1", "1"), (3, "1", "2"), (3, "1", "0"),
            (4, "return min(a, b - 2) <= True", "return None"), (4, "min", "max"),
            (4, "min(a, b - 2) <= True", "min(a, b - 2) < True"), (4, "min(a, b - 2) <= True", "min(a, b - 2) > True"),
            (4, "b - 2", "b + 2"), (4, "b - 2", "2 - b"), (4, "2", "3"), (4, "2", "1"), (4, "True", "False"),
        ]
    )  # fmt: skip
    assert len({one.text for one in mutation.mutants(text)}) == len(found)


def test_what_no_behaviour_shows_is_no_mutant():
    text = "LIMIT = 60_000\n\ndef f(a):\n    print(a, flush=True)\n    if a:\n        return False\n    return a\n"
    found = {(one.was, one.now) for one in mutation.mutants(text)}
    assert found == {("return a", "return None"), ("False", "True")}


def test_a_mutant_that_no_test_notices_survives(tmp_path):
    for folder in ("steps/kind", "tests/kind"):
        (tmp_path / folder).mkdir(parents=True)
    module, tests = tmp_path / "steps/kind/order.py", tmp_path / "tests/kind/test_order.py"
    module.write_text("def larger(a, b):\n    return a > b  # why\n")
    tests.write_text("from steps.kind.order import larger\ndef test(): assert larger(2, 1) and not larger(1, 2)\n")
    found = mutation.measure(tmp_path, "steps.kind.order", 10, seed=0)
    survivor = {"line": 2, "source": "return a > b  # why", "was": "a > b", "now": "a >= b"}
    assert found == {
        "tests": "tests/kind/test_order.py", "mutants": 3, "tried": 3, "killed": 2, "survived": [survivor],
    }  # fmt: skip
    assert module.read_text().endswith("# why\n")
    tests.write_text("def test(): assert False\n")
    with pytest.raises(ValueError, match=r"test_order\.py fails without any mutant"):
        mutation.measure(tmp_path, "steps.kind.order", 1, seed=0)
    tests.write_text("import time\ndef test(): time.sleep(60)\n")
    assert not mutation.passes(tmp_path, Path("tests"), 1.0)


def test_the_tests_of_a_module_are_those_that_mirror_it():
    root = Path(__file__).parents[2]
    for module, tests in (
        ("steps.stats.means", "tests/stats/test_means.py"),
        ("steps.stability.section.statistics", "tests/stability/test_section.py"),
        ("steps.core.manifest", "tests/core/test_manifest.py"),
        ("steps.core.processes", "tests/core"),
    ):
        assert mutation.tests_of(module, root) == Path(tests)
    with pytest.raises(ValueError, match=r"--modules steps\.stats\.mean: there is no such module"):
        mutation.tests_of("steps.stats.mean", root)
