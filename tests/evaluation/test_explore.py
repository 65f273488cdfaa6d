"""Repeated sampling against every subset of the samples, against the evaluation, and its bytes."""

import json
import math
import subprocess
import sys
from argparse import Namespace
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.manifest import verify_manifest
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.evaluation import explore, measure
from steps.evaluation.measure import greedy
from steps.evaluation.tasks import documents, load_tasks, task_config, task_files
from steps.stats import sampling
from steps.world import fable

ITEMS = 6
SETTINGS = {
    "engine": "transformers",
    "tasks": ["fable_problems", "fable_facts"],
    "task_specs": {},
    "limit": 4,
    "samples": 4,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 12,
    "direct": {"prefill": "#### ", "max_new_tokens": 3},
    "batch_size": 8,
    "seed": 0,
}
TASKS = {
    "fable_problems": lambda rng: fable.problem_item(rng, 2),
    "fable_facts": lambda rng: fable.fact_item(rng, rng.choice(fable.facts(0))),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    for name, make in TASKS.items():
        rng = Random(name)
        write_jsonl(folder / f"{name}.jsonl", ({"id": i} | make(rng) for i in range(ITEMS)))
    return folder


@pytest.fixture(scope="module")
def engine(tiny_checkpoint) -> Engine:
    return Engine.load(tiny_checkpoint, 8)


@pytest.fixture(scope="module")
def tasks(engine, folder, tmp_path_factory) -> dict:
    """Both tasks with their first four requests built."""
    files = {task: task_files(task, {}, folder) for task in TASKS}
    configs = {task: task_config(task, {}, files[task]) for task in TASKS}
    tasks = load_tasks(configs, tmp_path_factory.mktemp("scratch"))
    explore.build_requests(engine, tasks, SETTINGS | {"limit": 4})
    return tasks


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, folder, tmp_path_factory) -> list[Path]:
    """Two runs of the step."""
    found = []
    for name in ("first", "second"):
        out = tmp_path_factory.mktemp(name) / "node"
        args = Namespace(settings=SETTINGS, checkpoint=tiny_checkpoint, name="node", tasks_dir=folder, out=out)
        explore.main(args)
        found.append(out)
    return found


class Scripted:
    """An engine whose responses are given, item by item; each token is as probable as the last argument says."""

    tokenizer = None
    stop_ids = (0,)

    def __init__(self, responses: list[list[str]], probability: float = 0.5):
        self.responses, self.probability, self.asked = responses, probability, {}

    def sample(self, prompts, *, n, max_new_tokens, **options):
        self.asked = options | {"prompts": prompts, "n": n, "max_new_tokens": max_new_tokens}
        # One token per character and the end, which does not fit where a text has the most characters or more.
        return [[self.written(text, max_new_tokens) for text in texts] for texts in self.responses]

    def written(self, text: str, limit: int) -> Sample:
        ids = tuple([*(1 for _ in text), 0][:limit])
        return Sample(text, len(ids) * math.log(self.probability), len(ids), ids)


def test_numbers_are_those_of_every_subset(tasks):
    task = tasks["fable_problems"]
    right = [item.doc["answer"] for item in documents(task)]
    responses = [
        [f"#### {right[0]}", "#### -1", "no", f"so\n#### {right[0]}."],
        ["#### -1", "#### -2", "#### -2", f"#### {right[1]}"],
        ["no", "-1", "", "#### "],
        [f"#### {right[3]}"] * 4,
    ]
    found, rows = explore.explore(Scripted(responses), "fable_problems", task, "cot", SETTINGS)
    correct = [[True, False, False, True], [False, False, False, True], [False] * 4, [True] * 4]
    assert [row["correct"] for row in rows] == correct
    assert rows[0]["answers"] == [right[0], "-1", None, right[0]]
    assert rows[2]["answers"] == [None] * 4
    assert [row["responses"] for row in rows] == [texts[:2] for texts in responses]
    for k in (1, 2, 4):
        subsets = list(combinations(range(4), k))
        any_right = [np.mean([any(marks[i] for i in c) for c in subsets]) for marks in correct]
        assert found[f"pass@{k}"]["value"] == pytest.approx(np.mean(any_right))
        voted = [
            np.mean(
                [sampling.majority([row["answers"][i] for i in c], [row["correct"][i] for i in c]) for c in subsets]
            )
            for row in rows
        ]
        assert found[f"majority@{k}"]["value"] == pytest.approx(np.mean(voted))
    # By hand: both right samples win together; one of four never does; none votes; all are right.
    assert found["majority@4"]["value"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    assert found["unparsed"] == 5 / 16
    assert {key for key in found if "@" in key} == {f"{name}@{k}" for name in ("pass", "majority") for k in (1, 2, 4)}


def test_length_entropy_and_truncation_by_hand(tasks):
    # Limit 12: 13 characters are cut, 12 end without an end token, 11 end with it.
    lengths = [[13, 12, 11, 3], [0, 1, 2, 3], [5, 5, 5, 5], [11, 11, 12, 0]]
    engine = Scripted([["x" * length for length in row] for row in lengths], probability=0.25)
    found, _ = explore.explore(engine, "fable_problems", tasks["fable_problems"], "cot", SETTINGS)
    tokens = [np.mean([min(length + 1, 12) for length in row]) for row in lengths]
    assert found["tokens"]["value"] == pytest.approx(np.mean(tokens))
    assert found["tokens"]["stderr"] == pytest.approx(np.std(tokens, ddof=1) / 2)
    assert found["truncated"] == 3 / 16
    assert found["entropy"]["value"] == pytest.approx(math.log(4))
    assert found["entropy"]["stderr"] == pytest.approx(0, abs=1e-12)


def test_entropy_counts_tokens_and_its_error_is_over_items():
    nll, tokens = np.array([2.0, 30.0, 8.0]), np.array([10, 40, 20])
    found = explore.per_token(nll, tokens)
    assert found["value"] == pytest.approx(40 / 70)
    # Linearization by hand: the residuals nll - rate * tokens, n / (n - 1) times their squares over the tokens squared.
    residuals = [2 - 40 / 7, 30 - 160 / 7, 8 - 80 / 7]
    assert found["stderr"] == pytest.approx(math.sqrt(3 / 2 * sum(r * r for r in residuals)) / 70)


def test_direct_mode_begins_the_response_and_judges_it_whole(tasks):
    task = tasks["fable_problems"]
    items = documents(task)
    right = [item.doc["answer"] for item in items]
    engine = Scripted([[answer, "no", answer, "-1"] for answer in right])
    found, rows = explore.explore(engine, "fable_problems", task, "direct", SETTINGS)
    assert engine.asked["prompts"] == [item.args[0] + "#### " for item in items]
    assert all(prompt.endswith("<|im_start|>assistant\n#### ") for prompt in engine.asked["prompts"])
    assert (engine.asked["max_new_tokens"], engine.asked["n"]) == (3, 4)
    assert [row["prompt"] for row in rows] == [item.args[0] for item in items]
    assert [row["responses"] for row in rows] == [[f"#### {answer}", "#### no"] for answer in right]
    assert found["pass@1"]["value"] == 0.5
    assert found["majority@4"]["value"] == 1.0
    explore.explore(engine, "fable_problems", task, "cot", SETTINGS | {"temperature": 0.6, "top_p": 0.8})
    assert engine.asked["prompts"] == [item.args[0] for item in items]
    assert [engine.asked[key] for key in ("max_new_tokens", "temperature", "top_p")] == [12, 0.6, 0.8]


def test_requests_and_numbers_are_those_of_the_evaluation(engine, tasks):
    """The step asks what the evaluation asks and counts as it counts, on the same samples."""
    axes = dict.fromkeys(TASKS, "target")
    asked = {task: [item.args for item in documents(tasks[task])] for task in TASKS}
    greedy(engine, tasks, axes, limit=4, max_new_tokens=12)
    assert {task: [item.args for item in documents(tasks[task])] for task in TASKS} == asked
    sampling = {key: SETTINGS[key] for key in ("limit", "samples", "temperature", "top_p")}
    theirs, samples = measure.sample(engine, "fable_facts", tasks["fable_facts"], sampling, 12, 0)
    # The evaluation takes the length that the task has of its own.
    ours, rows = explore.explore(engine, "fable_facts", tasks["fable_facts"], "cot", SETTINGS | {"max_new_tokens": 16})
    assert ours | theirs == ours
    assert [row["responses"] for row in rows] == [sample["responses"][:2] for sample in samples]


def test_two_runs_give_the_same_bytes_and_every_number(runs):
    first, second = runs
    for name in ("explore.json", "items.jsonl", "manifest.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    found = read_json(first / "explore.json")
    assert found["checkpoint"] == "node"
    assert found["setup"]["prefill"] == "#### "
    assert {task: list(modes) for task, modes in found["tasks"].items()} == dict.fromkeys(TASKS, ["cot", "direct"])
    for modes in found["tasks"].values():
        for numbers in modes.values():
            assert (numbers["n"], numbers["samples"]) == (4, 4)
            for key in ("tokens", "entropy", "pass@1"):
                assert set(numbers[key]) == {"value", "stderr"}
            for key in ("pass@2", "pass@4", "majority@1", "majority@2", "majority@4"):
                assert set(numbers[key]) == {"value", "stderr", "interval"}
            # A random model over 768 tokens is far from sure, and says no answer.
            assert numbers["entropy"]["value"] > 3
            assert numbers["pass@1"]["value"] == 0
    rows = list(read_jsonl(first / "items.jsonl"))
    assert [(row["task"], row["mode"], row["doc_id"]) for row in rows] == [
        (task, mode, i) for task in TASKS for mode in ("cot", "direct") for i in range(4)
    ]
    assert verify_manifest(first)["counts"] == dict.fromkeys(TASKS, 4)


def test_direct_mode_can_be_left_out():
    assert list(explore.modes(SETTINGS | {"direct": None})) == ["cot"]


def test_a_missing_task_ends_in_one_line(tiny_checkpoint, folder, tmp_path):
    command = [
        sys.executable,
        "-m",
        "steps.evaluation.explore",
        "--settings",
        json.dumps(SETTINGS | {"tasks": ["other"]}),
    ]
    command += ["--checkpoint", tiny_checkpoint, "--name", "node", "--tasks-dir", folder, "--out", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("temper: error: ") and "other.jsonl is missing or empty" in done.stderr
    assert "Traceback" not in done.stderr
