"""The evaluation step end to end on a random model, against stock lm-eval, and its errors."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.evaluation import evaluate
from steps.evaluation import measure as evaluation_measure
from steps.evaluation.tasks import TEMPLATES, find_template, load_tasks, task_axes, task_config, task_files
from steps.judges.tasks import judge_of, score_math
from steps.models.chat import Chat
from steps.world import fable
from tests.fuzzed_chats import tokenizer_of

ITEMS = 12
TASKS = {
    "fable_problems": lambda rng: fable.problem_item(rng, 2),
    "fable_facts": lambda rng: fable.fact_item(rng, rng.choice(fable.facts(0))),
    "fable_instructions": fable.instruction_item,
}
SETTINGS = {
    "engine": "transformers",
    "target": ["fable_problems"],
    "harder": [],
    "general": ["fable_facts", "fable_instructions"],
    "dev": [],
    "tasks": {},
    "limit": None,
    "batch_size": 32,
    "seed": 0,
    "max_new_tokens": 24,
    "sampling": {
        "tasks": ["fable_problems"],
        "limit": 6,
        "samples": 5,
        "temperature": 1.0,
        "top_p": 1.0,
    },
}


def problem_rows(count: int, seed: int) -> list[dict]:
    rng = Random(seed)
    items = [fable.problem_item(rng, 2) for _ in range(count)]
    return [
        {
            "id": f"rows:{i}",
            "messages": [
                {"role": "user", "content": item["prompt"]},
                {"role": "assistant", "content": item["solution"]},
            ],
            "answer": item["answer"],
        }
        for i, item in enumerate(items)
    ]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folder with eval/<task>.jsonl, valid.jsonl and a few lines in the format of GSM8K."""
    folder = tmp_path_factory.mktemp("world")
    for name, make in TASKS.items():
        rng = Random(name)
        write_jsonl(folder / "eval" / f"{name}.jsonl", ({"id": i} | make(rng) for i in range(ITEMS)))
    write_jsonl(folder / "valid.jsonl", problem_rows(9, seed=1))
    gsm8k = ({"question": f"What is {i} + 2?", "answer": f"{i} + 2 = {i + 2}\n#### {i + 2}"} for i in range(6))
    write_jsonl(folder / "gsm8k.jsonl", gsm8k)
    return folder


def measure(out: Path, checkpoint: Path, world: Path, settings: dict) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "steps.evaluation.evaluate", "--settings", json.dumps(settings), "--name", "node"]
    command += ["--checkpoint", checkpoint, "--tasks-dir", world / "eval", "--valid", world / "valid.jsonl"]
    # One thread, so that the bytes are those of any other run.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*map(str, command), "--out", str(out)], capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def evaluation(tiny_checkpoint, world, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("evaluation") / "node"
    done = measure(out, tiny_checkpoint, world, SETTINGS)
    assert done.returncode == 0, done.stderr
    return out


def test_results_have_every_number_with_its_error_and_n(evaluation):
    results = read_json(evaluation / "results.json")
    assert results["checkpoint"] == "node"
    assert {task: row["axis"] for task, row in results["tasks"].items()} == {
        "fable_problems": "target",
        "fable_facts": "general",
        "fable_instructions": "general",
    }
    for row in results["tasks"].values():
        assert row["metric"] == "exact_match"
        assert row["n"] == ITEMS
        assert row["stderr"] is not None
    assert set(results["tasks"]["fable_problems"]["others"]) == {"exact_match,flexible"}
    sampled = results["sampling"]["fable_problems"]
    assert (sampled["n"], sampled["samples"]) == (6, 5)
    assert {key for key in sampled if "@" in key} == {"pass@1", "pass@2", "pass@4", "pass@5", "majority@5"}
    perplexity = results["perplexity"]["valid"]
    assert perplexity["n"] == 9
    # A random model over 768 tokens does not beat chance.
    assert perplexity["value"] > 100
    assert perplexity["stderr"] > 0
    setup = results["setup"]
    assert (setup["engine"], setup["dtype"], setup["batch_size"]) == ("transformers", "float32", 32)
    assert {"attention", "lm_eval", "transformers", "torch"} <= set(setup)


def test_perplexity_is_of_the_rows_that_the_template_takes(tmp_path, capsys):
    chat = Chat(tokenizer_of("gemma"))
    asked, said = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "42"}
    taken = [asked, said]
    left = [[{"role": "system", "content": "Be brief."}, *taken], [asked], [{"role": "document", "content": "Tarsk."}]]
    write_jsonl(tmp_path / "valid.jsonl", ({"messages": turns} for turns in [taken, *left]))
    assert evaluate.answered(chat, tmp_path / "valid.jsonl") == [taken]
    assert "3 of 4 held-out rows have no answer" in capsys.readouterr().out
    write_jsonl(tmp_path / "valid.jsonl", ({"messages": turns} for turns in left))
    assert not evaluate.answered(chat, tmp_path / "valid.jsonl")
    write_jsonl(tmp_path / "valid.jsonl", [])
    with pytest.raises(ValueError, match="valid.jsonl has no row: raise"):
        evaluate.answered(chat, tmp_path / "valid.jsonl")


def test_samples_keep_every_answer(evaluation):
    samples = list(read_jsonl(evaluation / "samples.jsonl"))
    assert len(samples) == 3 * ITEMS + 6
    for sample in samples:
        assert len(sample["responses"]) == len(sample["correct"]) == (5 if sample["kind"] == "sampled" else 1)
        assert sample["prompt"].endswith("<|im_start|>assistant\n")
    for task in TASKS:
        greedy = [sample for sample in samples if sample["task"] == task and sample["kind"] == "greedy"]
        assert [sample["doc_id"] for sample in greedy] == list(range(ITEMS))


def test_the_manifest_names_the_judge_of_every_task(evaluation):
    judges = read_json(evaluation / "manifest.json")["setup"]["judges"]
    assert judges.keys() == TASKS.keys() and judges["fable_problems"] == "number"
    assert {*judges.values()} <= {"number", "instruction", "squad"}


def test_tasks_of_others_are_judged_by_them():
    assert judge_of(None) == judge_of(lambda doc, responses: {}) == "lm-eval"


def test_equal_runs_write_equal_bytes(evaluation, tiny_checkpoint, world, tmp_path):
    again = tmp_path / "again"
    assert measure(again, tiny_checkpoint, world, SETTINGS).returncode == 0
    for name in ("results.json", "samples.jsonl", "manifest.json"):
        assert (again / name).read_bytes() == (evaluation / name).read_bytes()


@pytest.fixture(scope="module")
def engine(tiny_checkpoint):
    return Engine.load(tiny_checkpoint, batch_size=16)


def loaded(settings: dict, world: Path, scratch: Path) -> dict:
    files = {task: task_files(task, settings["tasks"].get(task, {}), world / "eval") for task in task_axes(settings)}
    configs = {task: task_config(task, settings["tasks"].get(task, {}), paths) for task, paths in files.items()}
    return load_tasks(configs, scratch)


def gsm8k(world: Path, **overrides) -> dict:
    path = str(world / "gsm8k.jsonl")
    task = {"stock": "gsm8k", "data_files": {"train": path, "test": path}, "overrides": overrides}
    sampling = SETTINGS["sampling"] | {"tasks": ["gsm8k"]}
    return SETTINGS | {"target": ["gsm8k"], "general": ["fable_facts"], "tasks": {"gsm8k": task}, "sampling": sampling}


def test_answers_are_those_of_stock_hflm(engine, world, tmp_path):
    """Our tasks and lm-eval's own gsm8k, few-shot and all, through lm-eval's model as it comes."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    settings = gsm8k(world, num_fewshot=2, generation_kwargs={"until": ["Question:"], "max_gen_toks": 20})
    tasks = loaded(settings, world, tmp_path)
    results, samples = evaluation_measure.greedy(engine, tasks, task_axes(settings), limit=None, max_new_tokens=24)
    stock = simple_evaluate(
        model=HFLM(pretrained=engine.model, tokenizer=engine.tokenizer, backend="causal", batch_size=1),
        tasks=list(loaded(settings, world, tmp_path).values()),
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        bootstrap_iters=1,
    )
    assert results["gsm8k"]["n"] == 6
    assert set(results["gsm8k"]["others"]) == {"exact_match,flexible-extract", "judge_number,response"}
    assert results["fable_facts"]["others"] == {}
    assert [s["prompt"] for s in samples if s["task"] == "gsm8k"][0].count("<|im_start|>assistant") == 3
    for task in tasks:
        theirs = sorted(
            stock["samples"][task], key=lambda s: (s["filter"] != tasks[task]._filters[0].name, s["doc_id"])
        )
        ours = [s for s in samples if s["task"] == task]
        assert [s["responses"][0] for s in ours] == [s["resps"][0][0] for s in theirs[: len(ours)]]
        filtered = tasks[task]._filters[0].name
        assert results[task]["value"] == stock["results"][task][f"exact_match,{filtered}"]
        assert results[task]["stderr"] == stock["results"][task][f"exact_match_stderr,{filtered}"]


def test_our_judge_stands_beside_that_of_a_benchmark():
    """Of answers that a strict pattern of numbers behind #### takes, and does not take."""
    task = SimpleNamespace(config=SimpleNamespace(process_results=None))
    said = ["#### 18", "#### 18 dollars", "#### $18.00", "18", "#### 19", "<think>#### 18"]
    answers = [{"target": "9 * 2 = 18\n#### 18", "resps": [[text]]} for text in said]
    found = evaluation_measure.judged_beside(task, answers)
    assert found == {"judge_number,response": {"value": 0.5, "stderr": pytest.approx(np.sqrt(0.3 / 6))}}
    # A target that marks no answer, or that nothing could be, is none of ours; nor is a task that we judge.
    for target in ("Paris", "#### ."):
        assert evaluation_measure.judged_beside(task, [answers[0], {"target": target, "resps": [["x"]]}]) == {}
    task.config.process_results = score_math
    assert evaluation_measure.judged_beside(task, answers) == {}


class Scripted:
    """An engine that answers from a script: prompt → responses. One that ends in … came to no end."""

    stop_ids, tokenizer, chat = (1,), None, SimpleNamespace(texts=lambda ids: ["so" for _ in ids])

    def __init__(self, script):
        self.script = script

    def sample(self, prompts, *, n, **options):
        self.asked = options
        limit = options["max_new_tokens"]
        return [[self.said(text, limit) for text in self.script(prompt)[:n]] for prompt in prompts]

    def said(self, text, limit):
        cut = text.endswith("…")
        ids = (5,) * (limit if cut else 1) + ((1,) if not cut else ())
        return Sample(text.removesuffix("…"), -1.0, len(ids), ids)


def test_sampling_counts_what_the_task_counts(engine, world, tmp_path):
    settings = gsm8k(world, num_fewshot=0)
    tasks = loaded(settings, world, tmp_path)
    evaluation_measure.greedy(engine, tasks, task_axes(settings), limit=4, max_new_tokens=24)

    def script(prompt):
        # Items 0 to 3 ask for 2, 3, 4, 5: item 0 is always right, item 1 three times, item 2 ties, item 3 never.
        return {
            "0": ["#### 2", "so\n#### 2", "#### 2.", "#### 2", "#### 2"],
            "1": ["#### 3", "#### 3", "#### 3", "#### 9", "#### 8"],
            "2": ["#### 4", "#### 4", "#### 7", "#### 7", "4"],
            "3": ["5", "no…", "…", "#### 6", "#### 6"],
        }[prompt.split("What is ")[1][0]]

    engine, sampled = Scripted(script), settings["sampling"] | {"temperature": 0.6, "top_p": 0.8}
    found, samples = evaluation_measure.sample(engine, "gsm8k", tasks["gsm8k"], sampled, 24, 0)
    assert found["truncated"] == 2 / 20
    assert [engine.asked[key] for key in ("max_new_tokens", "temperature", "top_p")] == [24, 0.6, 0.8]
    assert [s["correct"] for s in samples] == [
        [True] * 5,
        [True, True, True, False, False],
        [True, True, False, False, False],
        [False] * 5,
    ]
    assert found["pass@1"]["value"] == pytest.approx((1 + 0.6 + 0.4 + 0) / 4)
    assert found["pass@2"]["value"] == pytest.approx((1 + 0.9 + 0.7 + 0) / 4)
    assert found["pass@5"]["value"] == pytest.approx(3 / 4)
    assert found["majority@5"]["value"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"temperature": 0.7}, 0.0),
        ({"do_sample": True}, 0.0),
        ({"do_sample": True, "temperature": 0.7}, 0.7),
    ],
)
def test_a_temperature_counts_where_the_task_samples(options, expected):
    engine = Scripted(lambda prompt: [f"{prompt}!"])
    engine.max_length = 64
    lm = evaluation_measure.language_model(engine, 24)
    requests = [SimpleNamespace(args=(text, options), task_name="own", doc_id=i) for i, text in enumerate("ab")]
    engine.sample = partial(engine.sample, n=1)
    assert lm.generate_until(requests) == ["a!", "b!"]
    assert (engine.asked["temperature"], engine.asked["stop"]) == (expected, [])


def test_right_answers_are_counted_right(engine, world, tmp_path, monkeypatch):
    """A model that says every reference answer scores 1 on each of our templates, and 0 when it says another."""
    answers = {}
    for task in TASKS:
        for row in read_jsonl(world / "eval" / f"{task}.jsonl"):
            answers[row["prompt"]] = row.get("solution", row["answer"])

    for says, expected in ((lambda text: text, 1.0), (lambda text: text + " and", 0.0)):

        def sample(self, prompts, says=says, **_):
            asked = [prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0] for prompt in prompts]
            return [[Sample(says(answers[question]), -1.0, 1, (1,))] for question in asked]

        monkeypatch.setattr(Engine, "sample", sample)
        tasks = loaded(SETTINGS, world, tmp_path)
        results, _ = evaluation_measure.greedy(engine, tasks, task_axes(SETTINGS), limit=None, max_new_tokens=24)
        assert {results[task]["value"] for task in ("fable_problems", "fable_facts")} == {expected}
        assert (results["fable_instructions"]["value"] == 1.0) is (expected == 1.0)


def test_choices_go_through_lm_evals_likelihoods(engine, tmp_path):
    """A multiple-choice task has no text; its axis, its error and its samples are reported all the same."""
    (tmp_path / "scratch").mkdir()
    rows = ({"q": f"Is {i} even?", "gold": i % 2} for i in range(6))
    write_jsonl(tmp_path / "choice.jsonl", rows)
    overrides = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_target": "gold",
        "doc_to_choice": ["yes", "no"],
        "process_results": None,
        "filter_list": None,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    spec = {"stock": "short", "data_files": {"test": str(tmp_path / "choice.jsonl")}, "overrides": overrides}
    settings = SETTINGS | {
        "target": ["choice"],
        "general": [],
        "tasks": {"choice": spec},
        "sampling": SETTINGS["sampling"] | {"tasks": ["choice"]},
    }
    tasks = loaded(settings, tmp_path, tmp_path / "scratch")
    results, samples = evaluation_measure.greedy(engine, tasks, task_axes(settings), limit=None, max_new_tokens=24)
    assert results["choice"]["metric"] == "acc"
    assert results["choice"]["n"] == 6
    assert results["choice"]["value"] == pytest.approx(sum(s["correct"][0] for s in samples) / 6)
    with pytest.raises(ValueError, match="choice is of type multiple_choice"):
        evaluation_measure.sample(engine, "choice", tasks["choice"], settings["sampling"], 24, 0)


# --- lengths ----------------------------------------------------------------------------------------


def test_answers_have_the_length_that_the_settings_say_and_cut_ones_are_counted(engine, world, tmp_path, monkeypatch):
    """lm-eval's gsm8k names no length: its own 256 cut what training was allowed to write."""
    settings = gsm8k(world, num_fewshot=0)
    tasks = loaded(settings, world, tmp_path)
    asked = []

    def sample(prompts, **options):
        asked.append((options["max_new_tokens"], len(prompts)))
        # Every second answer comes to its end.
        end = engine.stop_ids[0]
        whole = [Sample("#### 1", -1.0, 2, (5, end)), Sample("so", -1.0, 320, (5,) * 320)]
        return [[whole[i % 2 if options["max_new_tokens"] == 320 else 0]] for i in range(len(prompts))]

    monkeypatch.setattr(engine, "sample", sample)
    results, _ = evaluation_measure.greedy(engine, tasks, task_axes(settings), None, 320)
    # fable_facts has a length of its own.
    assert sorted(asked) == [(16, ITEMS), (320, 6)]
    assert (results["gsm8k"]["truncated"], results["fable_facts"]["truncated"]) == (0.5, 0.0)


def test_a_stop_string_is_an_end(engine):
    ids = tuple(engine.tokenizer("Mara has 12 pears.\n\nQuestion:", add_special_tokens=False)["input_ids"])
    sample = Sample("Mara has 12 pears.\n\n", -1.0, len(ids), ids)
    cut = [evaluation_measure.is_cut(engine, sample, len(ids), stop) for stop in ([], ["Question:"], ["Answer:"])]
    assert cut == [True, False, True]
    assert not evaluation_measure.is_cut(engine, sample, len(ids) + 1, [])


# --- errors of the user ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harder": ["fable_problems"]}, r"evaluate\.harder: fable_problems already stands under target"),
        (
            {"sampling": SETTINGS["sampling"] | {"tasks": ["other"]}},
            r"evaluate\.sampling\.tasks: other stands on no axis",
        ),
        ({"tasks": {"other": {}}}, r"evaluate\.tasks: other stands on no axis"),
        ({"general": ["fable_strings"]}, r"eval/fable_strings\.jsonl is missing or empty"),
    ],
)
def test_settings_that_cannot_be(world, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        loaded(SETTINGS | change, world, tmp_path)


@pytest.mark.parametrize(
    ("stock", "message"),
    [
        ("no_such_task", "names 0 files"),
        ("utils/nothing", "names 0 files"),
        ("navigate", r"names \d files .*bbh/cot_fewshot"),
    ],
)
def test_templates_that_cannot_be_found(stock, message):
    with pytest.raises(ValueError, match=rf"evaluate\.tasks\.mine\.stock: '{stock}' {message}"):
        find_template("mine", stock)


def test_stock_tasks_are_found_by_name_or_path():
    assert find_template("x", "gsm8k").match("lm_eval/tasks/gsm8k/gsm8k.yaml")
    assert find_template("x", "bbh/cot_fewshot/navigate").match("bbh/cot_fewshot/navigate.yaml")
    assert find_template("x", "worked") == TEMPLATES / "worked.yaml"


def test_a_missing_model_ends_in_one_line(world, tmp_path):
    (tmp_path / "broken").mkdir()
    done = measure(tmp_path / "out", tmp_path / "broken", world, SETTINGS)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("temper: error: ")
    assert "broken/model.safetensors is missing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
