"""The whole chain on answers that models wrote (tests/judges/answers.py): every step has one verdict on each of them.

Steps are run as they are, over an engine that says what was written down; what they write is compared row by row.
"""

import argparse
import re
from collections import Counter
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoConfig

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import bucket, pass_rates
from steps.diagnosis import detect, evidence
from steps.distillation import forecast_pair, generate
from steps.engines.interface import Coder, Sample
from steps.evaluation import measure
from steps.evaluation.tasks import load_tasks, task_axes, task_config, task_files
from steps.judges.judge import KINDS, kind_for
from steps.judges.reading import count_words, read, worked_answer
from steps.judges.rows import MARK_OF, RowJudge
from steps.judges.strict import strict_verdicts
from steps.models import checkpoints
from steps.reinforcement import difficulty
from steps.reinforcement.rewards import Rewards
from steps.reinforcement.scored_samples import ScoredSamples
from tests.judges.answers import FILE
from tests.judges.test_chain import one_checker  # noqa: F401
from tests.workloads import PARAMS

# The task that measures answers of a kind of row and judge.
TASKS = {
    ("worked", "number"): "worked",
    ("worked", "math"): "math",
    ("short", "number"): "short",
    ("short", "exact"): "short",
}
FIELDS = {"worked": ("prompt", "answer"), "short": ("prompt", "answer"), "math": ("problem", "answer")}
WORDS = {"short_answer_words": 5}


class Written(Coder):
    """Says what was written down to a question that begins with its number."""

    def __init__(self, folder: Path, answers: list[dict]):
        tokenizer = checkpoints.load_tokenizer(folder)
        super().__init__(tokenizer, AutoConfig.from_pretrained(folder), tokenizer.eos_token_id, 1)
        self.answers = answers

    def setup(self) -> dict:
        return {}

    def said(self, number: int) -> Sample:
        answer = self.answers[number]
        ids = (5, self.stop_ids[0] if answer["ended"] else 5)
        return Sample(answer["response"], -1.0, len(ids), ids, (-0.5, -0.5))

    def sample(self, prompts, *, n=1, **_):
        asked = [prompt if isinstance(prompt, str) else prompt[-1]["content"] for prompt in prompts]
        return [[self.said(int(re.findall(r"\[(\d+)\]", text)[-1]))] * n for text in asked]

    def choose(self, prompts, options, progress=None):
        return [np.full(len(own), 1 / len(own)) for own in options]


def row_of(number: int, answer: dict) -> dict:
    """A row as ingest and split leave it."""
    worked = answer["kind"] == "worked"
    turns = [
        ("user", f"[{number}] {answer['question']}"),
        ("assistant", f"#### {answer['gold']}" if worked else answer["gold"]),
    ]
    return {
        "id": f"a:{number}",
        "messages": [{"role": role, "content": text} for role, text in turns],
        "answer": answer["gold"] if worked else None,
        "file": "a",
        "line": number + 1,
        "row": number,
    } | ({"judge": answer["judge"]} if worked else {})


@pytest.fixture(scope="module")
def answers() -> list[dict]:
    return list(read_jsonl(FILE))


@pytest.fixture
def engine(answers, small_checkpoint, monkeypatch):
    written = Written(small_checkpoint, answers)
    for module in (pass_rates, generate):
        monkeypatch.setattr(module, "load_engine", lambda *_: written)
    return written


def test_they_are_of_two_models_and_of_every_kind(answers):
    assert len(answers) >= 200 and min(Counter(answer["source"] for answer in answers).values()) >= 90
    assert {answer["judge"] for answer in answers} == {*KINDS} and {answer["kind"] for answer in answers} == {
        "worked",
        "short",
    }
    assert {answer["ended"] for answer in answers} == {True, False}
    for kind in KINDS:
        assert KINDS.index(kind_for(a["gold"] for a in answers if a["judge"] == kind)) <= KINDS.index(kind)


def test_every_step_has_one_verdict_on_each(answers, engine, small_checkpoint, tmp_path, one_checker):  # noqa: F811
    sure = _all_verdicts(answers, engine, small_checkpoint, tmp_path)
    # What is right word for word is right, whatever else is.
    for i, answer in enumerate(answers):
        if answer["kind"] == "worked" and re.search(rf"####\s*{re.escape(answer['gold'])}\s*\Z", answer["response"]):
            assert sure[f"a:{i}"], answer
    assert 0.2 < np.mean([*sure.values()]) < 0.8


def test_every_step_agrees_where_what_was_answered_is_asked_for(
    answers,
    engine,
    small_checkpoint,
    tmp_path,
    one_checker,  # noqa: F811
):
    """Many answers are wrong: with their own as gold answers, in all the forms that models write, each is right."""
    asked = []
    with RowJudge() as judge:
        for answer in answers:
            found = read(answer["response"], MARK_OF[answer["kind"]])
            gold = found.answers[-1][0] if found else ""
            # One that asks for another judge would have it: 5'6".
            fits = KINDS.index(kind_for([gold])) <= KINDS.index(answer["judge"])
            prose = found.prose and count_words(gold) > WORDS["short_answer_words"]
            if fits and not prose and not judge.judges[answer["judge"]].refusal(gold):
                asked.append(answer | {"gold": gold})
    assert len(asked) >= 150
    engine.answers = asked
    sure = _all_verdicts(asked, engine, small_checkpoint, tmp_path)
    assert [asked[int(i[2:])] for i, verdict in sure.items() if not verdict] == []


def test_golds_of_benchmarks_are_what_their_own_solutions_answer(one_checker):  # noqa: F811
    math = [(doc["answer"], doc["solution"]) for doc in read_jsonl(Path("data/math500/test.jsonl"))]
    parts = ("train", "test")
    gsm8k = [doc["answer"] for part in parts for doc in read_jsonl(Path(f"data/gsm8k/{part}.jsonl"))]
    for kind, pairs in (("math", math), ("number", [(worked_answer(text), text) for text in gsm8k])):
        assert kind_for(gold for gold, _ in pairs) == kind
        rows = [{"messages": [{"role": "user", "content": ""}], "answer": gold, "judge": kind} for gold, _ in pairs]
        with RowJudge() as judge:
            assert not any(map(judge.refusal, rows))
            verdicts = judge.verdicts(rows, [[solution] for _, solution in pairs])
        wrong = [pair for pair, (verdict,) in zip(pairs, verdicts, strict=True) if not verdict.right]
        assert not wrong, (len(wrong), wrong[0])
    assert (len(math), len(gsm8k)) == (500, 8792)


def _all_verdicts(answers, engine, checkpoint, tmp_path) -> dict[str, bool]:
    """The judge's verdicts by row, which those of every step equal."""
    rows = [row_of(number, answer) for number, answer in enumerate(answers)]
    told: dict[str, dict[str, bool]] = {
        "the judge": _judged(rows, answers),
        "reward": _rewarded(rows, answers),
        "rl": _trained(rows, answers),
        "difficulty": _sampled(difficulty, rows, checkpoint, tmp_path),
        "bucket": _sampled(bucket, rows, checkpoint, tmp_path),
        "detection": _detected(rows, engine),
        "evidence": _evidence(rows, answers),
        "generation": _generated(rows, answers, checkpoint, tmp_path),
        "forecast": _forecast(rows, answers),
        "evaluation": {},
        "evaluation, sampled": {},
    }
    for name in {*TASKS.values()}:
        greedy, sampled = _measured(name, rows, answers, engine, tmp_path)
        told["evaluation"] |= greedy
        told["evaluation, sampled"] |= sampled
    told["beside lm-eval's gsm8k"] = _beside(rows, answers, engine, tmp_path)
    sure = told["the judge"]
    for step, verdicts in told.items():
        differing = {i: (answers[int(i[2:])], verdict) for i, verdict in verdicts.items() if verdict != sure[i]}
        assert not differing, (step, differing)
    assert {step: len(verdicts) for step, verdicts in told.items()} == _expected(answers)
    return sure


def _expected(answers: list[dict]) -> dict[str, int]:
    """How many verdicts each step has: short answers are no rows with an answer, and detection needs another answer of
    the same type."""
    worked = sum(answer["kind"] == "worked" for answer in answers)
    numbers = sum((answer["kind"], answer["judge"]) == ("worked", "number") for answer in answers)
    every = dict.fromkeys(
        ["the judge", "detection", "evidence", "generation", "forecast", "evaluation", "evaluation, sampled"],
        len(answers),
    )
    return every | dict.fromkeys(["reward", "rl", "difficulty", "bucket"], worked) | {"beside lm-eval's gsm8k": numbers}


def _by_id(rows: list[dict], verdicts) -> dict[str, bool]:
    return {row["id"]: bool(verdict) for row, verdict in zip(rows, verdicts, strict=True)}


def _judged(rows, answers):
    # As on-policy distillation logs its samples.
    with RowJudge() as judge:
        pairs = zip(rows, answers, strict=True)
        return _by_id(rows, [judge.verdict(row, answer["response"], 5).sure for row, answer in pairs])


def _worked(rows, answers):
    kept = [(row, answer) for row, answer in zip(rows, answers, strict=True) if row["answer"] is not None]
    return [row for row, _ in kept], [answer["response"] for _, answer in kept]


def _rewarded(rows, answers):
    rows, texts = _worked(rows, answers)
    with Rewards({"answer": {"kind": "answer", "weight": 1.0}}) as rewards:
        return _by_id(rows, [one.value == 1.0 for one in rewards.score("answer", rows, texts, [1] * len(rows))])


def _trained(rows, answers):
    """As TRL hands rl its samples; none that its stricter judge takes counts as wrong."""
    rows, texts = _worked(rows, answers)
    with Rewards({"answer": {"kind": "answer", "weight": 1.0}}) as rewards, RowJudge() as judge:
        written = [SimpleNamespace(text=text) for text in texts]
        training = SimpleNamespace(
            written=written, rewards=rewards, batch=rows, failed=[], timeouts=0, ahead=None, settings={"generations": 1}
        )
        training.account = partial(ScoredSamples.account, training)
        given = ScoredSamples.score(training, "answer", [[1]] * len(rows))
        strict = strict_verdicts(judge, rows, texts, [True] * len(rows))
    assert not training.failed
    assert not [
        row["id"] for row, value, verdict in zip(rows, given, strict, strict=True) if verdict.right and value != 1
    ]
    return _by_id(rows, [value == 1.0 for value in given])


def _sampled(step, rows, model, tmp_path):
    name = step.__name__.rpartition(".")[2]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = PARAMS[name] | {"engine": "transformers", "samples": 1}
    inputs = {"input": tmp_path / "rows.jsonl", "model": model, "out": tmp_path / name}
    step.main(argparse.Namespace(settings=settings, **inputs))
    rated = {row["id"]: row["pass_rate"] for row in read_jsonl(tmp_path / name / "train.jsonl")}
    judged = {row["id"]: row["outcome"] == "right" for row in read_jsonl(tmp_path / name / "verdicts.jsonl")}
    assert judged == {i: rate == 1.0 for i, rate in rated.items() if rate is not None}
    assert not read_json(tmp_path / name / "manifest.json")["counts"]["excluded"]
    return judged


def _detected(rows, engine):
    settings = PARAMS["detect"] | {"samples": 1, "max_new_tokens": 64}
    pool = detect.Answers(0)
    for row in rows:
        pool.add("worked" if row["answer"] else "short", row["messages"][0]["content"], row["messages"][1]["content"])
    with RowJudge() as judge:
        records, without = detect.examine(engine, judge, rows, pool, settings, 0, "real answers")
    verdicts = {record["id"]: record["correct"][0] for record in records}
    # Whether there are distractors for a row is none of the judge's business.
    assert {one["reason"] for one in without} <= {"few_distractors"}
    with RowJudge() as judge:
        left = [row for row in rows if row["id"] not in verdicts]
        told = judge.verdicts(left, [[engine.said(row["row"]).text] for row in left], settings["short_answer_words"])
    return verdicts | {
        row["id"]: detect.judge(own, [engine.said(row["row"])])["correct"][0]
        for row, own in zip(left, told, strict=True)
    }


def _evidence(rows, answers):
    records = [answer | {"answer": answer["gold"], "prompt": ""} for answer in answers]
    drawn = [[Sample(answer["response"], -1.0, 2)] for answer in answers]
    found = zip(evidence.judged_samples(records, drawn), drawn, strict=True)
    return _by_id(rows, [evidence.base_view(own, samples)["base_pass"] == 1.0 for own, samples in found])


def _generated(rows, answers, teacher, tmp_path):
    """By what a student would be taught; a response that nobody can judge by its row is, if one of prose."""
    write_jsonl(tmp_path / "prompts.jsonl", rows)
    settings = PARAMS["generate"] | {
        "engine": "transformers",
        "samples": 1,
        "top_p": 1.0,
        "keep": None,
        "max_repetition": 1.0,
    }
    settings |= {"decontaminate": PARAMS["decontaminate"]}
    inputs = {"input": tmp_path / "prompts.jsonl", "eval": [], "teacher": teacher, "out": tmp_path / "generate"}
    generate.main(argparse.Namespace(settings=settings, **inputs))
    right, _ = generate.judge(rows, [[answer["response"]] for answer in answers], WORDS)
    by_id = {row["id"]: own[0] for row, own in zip(rows, right, strict=True)}
    kept = {row["id"].partition("#")[0] for row in read_jsonl(tmp_path / "generate/train.jsonl")}
    left = {row["id"].partition("#")[0]: row["reason"] for row in read_jsonl(tmp_path / "generate/quarantine.jsonl")}
    assert {*left.values()} <= {"unfinished", "too_short", "wrong_answer"}
    assert all(by_id[i] is not False for i in kept)
    assert all(by_id[i] is False for i, reason in left.items() if reason == "wrong_answer")
    return {i: bool(verdict) for i, verdict in by_id.items()}


def _forecast(rows, answers):
    rates, _ = forecast_pair.pass_rates(rows, [[answer["response"]] for answer in answers], WORDS)
    return _by_id(rows, rates == 1.0)


def _tasks(name, docs, tmp_path, stock, **overrides):
    """One task of lm-eval over documents of our own, and its axes."""
    path = tmp_path / f"{name}.jsonl"
    write_jsonl(path, docs)
    spec = {"stock": stock, "data_files": {"train": str(path), "test": str(path)}, "overrides": overrides}
    settings = {
        "target": [name],
        "harder": [],
        "general": [],
        "dev": [],
        "tasks": {name: spec},
        "sampling": {"tasks": []},
    }
    scratch = tmp_path / f"{name}_scratch"
    scratch.mkdir()
    configs = {name: task_config(name, spec, task_files(name, spec, None))}
    return load_tasks(configs, scratch), task_axes(settings)


def _measured(stock, rows, answers, engine, tmp_path):
    """Greedy and sampled verdicts of a task of ours, on the answers that it measures."""
    own = [row for row, answer in zip(rows, answers, strict=True) if TASKS[answer["kind"], answer["judge"]] == stock]
    question, gold = FIELDS[stock]
    docs = [
        {"id": row["id"], question: row["messages"][0]["content"], gold: answers[row["row"]]["gold"]} for row in own
    ]
    tasks, axes = _tasks(f"real_{stock}", docs, tmp_path, stock)
    _, samples = measure.greedy(engine, tasks, axes, limit=None, max_new_tokens=64)
    (task,) = tasks.values()
    sampling = {"samples": 2, "temperature": 1.0, "top_p": 1.0, "limit": None}
    _, drawn = measure.sample(engine, task.config.task, task, sampling, 64, 0)
    return tuple(_by_id(own, [sample["correct"][0] for sample in found]) for found in (samples, drawn))


def _beside(rows, answers, engine, tmp_path):
    """What our judge says beside lm-eval's on its own GSM8K, one document at a time: it gives a mean."""
    own = [row for row in rows if row["answer"] is not None and row["judge"] == "number"]
    docs = [{"question": row["messages"][0]["content"], "answer": f"#### {row['answer']}"} for row in own]
    tasks, axes = _tasks("gsm8k", docs, tmp_path, "gsm8k", num_fewshot=0)
    results, _ = measure.greedy(engine, tasks, axes, limit=None, max_new_tokens=64)
    one_by_one = []
    for row in own:
        sample = {"target": f"#### {row['answer']}", "resps": [[answers[row["row"]]["response"]]]}
        (task,) = tasks.values()
        one_by_one.append(measure.judged_beside(task, [sample]))
    values = [next(iter(found.values()))["value"] for found in one_by_one]
    beside = results["gsm8k"]["others"]["judge_number,response"]
    assert beside["value"] == pytest.approx(np.mean(values))
    return _by_id(own, [value == 1.0 for value in values])
