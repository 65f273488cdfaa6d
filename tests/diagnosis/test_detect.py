"""Detection by hand: what counts as right, which distractors, what is unlearned; and the step end to end."""

import argparse
import json
import os
import subprocess
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.diagnosis import detect
from steps.diagnosis.options import option_responses, with_answer
from steps.engines.interface import Sample
from steps.judges.judge import Judge

SETTINGS = {
    "engine": "transformers",
    "samples": 5,
    "threshold": 0.2,
    "temperature": 0.5,
    "max_new_tokens": 16,
    "options": 4,
    "short_answer_words": 3,
    "batch_size": 32,
    "seed": 0,
}


def row(identity: str, prompt: str, response: str, answer: str | None = None, **more) -> dict:
    file, number = identity.split(":")
    return {
        "id": identity,
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}],
        "answer": answer,
        "file": f"{file}.jsonl",
        "line": int(number) + 1,
        "row": int(number),
    } | more


# --- one row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "answer", "expected"),
    [
        ("6 * 7 = 42\n#### 42", "42", ("worked", "42")),
        ("Tarsk.", None, ("short", "Tarsk")),
        ("the old harbor", None, ("short", "the old harbor")),
        ("the very old harbor", None, None),
        ("one\ntwo", None, None),
        (".", None, None),
    ],
)
def test_reference(response, answer, expected):
    assert detect.reference(row("a:0", "?", response, answer), 3) == expected


def test_a_conversation_of_several_answers_has_no_reference():
    twice = row("a:0", "?", "Tarsk")
    twice["messages"] = twice["messages"] * 2
    assert detect.reference(twice, 3) is None


def samples(*texts: str) -> list[Sample]:
    return [Sample(text, -float(i + 1), 2) for i, text in enumerate(texts)]


def judged(answer: str, mark: str, *texts: str) -> dict:
    judge = Judge("number")
    return detect.judge([judge.judge(answer, text, mark) for text in texts], samples(*texts))


def test_judge_by_hand():
    found = judged("42", "either", "#### 41", "#### 42.0", "42", "#### 41.0", "#### 7")
    assert found["answers"] == ["41", "42.0", "", "41.0", "7"]
    assert found["correct"] == [False, True, False, False, False]
    assert found["pass_n"] == 0.2
    assert found["severity"] == 0.4
    assert found["confidence"] == [-0.5, -1.0, -1.5, -2.0, -2.5]
    assert found["best_of_n"] is False
    found = judged("Tarsk", "none", "tarsk.", "Tarsk\nand more", "", "Velm", "Tars")
    assert found["correct"] == [True, True, False, False, False]
    assert (found["best_of_n"], found["severity"]) == (True, 0.2)
    assert judged("Tarsk", "none", "", "")["severity"] == 0.0


@pytest.mark.parametrize(
    ("kind", "response", "answer", "expected"),
    [
        ("short", "Tarsk.", "Tarsk", "9."),
        ("short", "$1,200", "1200", "9"),
        ("worked", "6 * 7 = 42\n#### 42", "42", "6 * 7 = 9\n#### 9"),
        # An operand that equals the answer is not the result.
        ("worked", "1 * 4 = 4\n4 * 1 = 4\n#### 4", "4", "1 * 4 = 4\n4 * 1 = 9\n#### 9"),
        ("worked", "48+24 = <<48+24=72>>72 clips.\n#### 72", "72", "48+24 = <<48+24=9>>9 clips.\n#### 9"),
        ("worked", "She has 1,200 left.\n\n#### 1,200", "1200", "She has 9 left.\n\n#### 9"),
        ("worked", "Six times seven.\n#### 42", "42", "Six times seven.\n#### 9"),
        ("worked", "#### 42", "42", "#### 9"),
    ],
)
def test_with_answer_replaces_the_result(kind, response, answer, expected):
    assert with_answer(kind, response, answer, "9") == expected


def test_relabel_changes_answer_and_response():
    worked = detect.relabel(row("a:0", "?", "6 * 7 = 42\n#### 42", "42"), "43", 3)
    assert (worked["answer"], detect.response_of(worked)) == ("43", "6 * 7 = 43\n#### 43")
    short = detect.relabel(row("a:0", "?", "Tarsk"), "Velm", 3)
    assert (short["answer"], detect.reference(short, 3)) == (None, ("short", "Velm"))


# --- distractors -----------------------------------------------------------------------------------


def facts() -> detect.Answers:
    pool = detect.Answers(seed=0)
    for name in ("Mara", "Ivo", "Sten", "Una", "Tova"):
        pool.add("short", f"What is the pet of {name}?", f"{name.lower()}cat")
        pool.add("short", f"What is the job of {name}?", f"{name.lower()}smith")
        pool.add("short", f"What is {len(name)} + 3?", str(len(name) + 3))
        pool.add("worked", f"{name} has 3 pears and finds 4. How many?", str(len(name)))
    return pool


def test_alike_prompts_share_the_template_and_not_the_name():
    found = list(facts().alike("short", "What is the pet of Mara?", "cat", seed=1))
    assert len(found) == 10
    assert {answer.removesuffix("cat") for answer in found[:5]} == {"mara", "ivo", "sten", "una", "tova"}
    assert set(facts().alike("short", "What is 8 + 8?", "16", seed=1)) == {"6", "7"}
    assert list(facts().alike("worked", "What is the pet of Mara?", "Tarsk", seed=1)) == []


def test_ties_are_broken_by_the_seed_of_the_row():
    def first(seed):
        return tuple(islice(facts().alike("short", "What is the pet of Bo?", "cat", seed), 5))

    assert first(3) == first(3)
    assert len({first(seed) for seed in range(20)}) > 5


def test_the_pool_is_bounded_and_every_row_equally_likely(monkeypatch):
    monkeypatch.setattr(detect, "POOL", 10)
    kept = np.zeros(40)
    for seed in range(400):
        pool = detect.Answers(seed)
        for i in range(40):
            pool.add("short", "?", str(i))
        (rows,) = pool.rows.values()
        assert len(rows) == 10
        kept[[int(answer) for _, answer in rows]] += 1
    # 400 draws of chance 1/4: standard deviation 8.7.
    assert np.abs(kept - 100).max() < 35


def test_distractors_by_hand():
    def choose(answer, sampled, alike, count=4):
        return detect.distractors(answer, sampled, alike, count, longest=3)

    # The two most frequent of the model, then the data, each once, none equal to the answer.
    assert choose("42", ["7", "8", "8", "42.0", ""], ["8.0", "42", "9", "10", "11"]) == ["8", "7", "9", "10"]
    # The model fills up what the data lack.
    assert choose("42", ["7", "8", "8", "6"], ["9"]) == ["8", "7", "9", "6"]
    # Numbers stand beside numbers, words beside words; a long text is no option.
    assert choose("42", ["seven", "7"], ["9"]) == ["7", "9"]
    assert choose("Tarsk", ["7", "velm", "and so on it goes"], ["TARSK", "Orn"]) == ["velm", "Orn"]
    assert choose("42", ["42"], []) == []


# --- the step --------------------------------------------------------------------------------------


class Known:
    """An engine that answers what it is told to, and believes in option 1 where there is one."""

    max_length, tokens = 64, 0
    chat = SimpleNamespace(refusal=lambda turns: None)

    def __init__(self, answers: dict[str, list[str]]):
        self.answers, self.chunks = answers, []

    def setup(self):
        return {"engine": "known"}

    def render(self, prompt):
        return prompt[-1]["content"]

    def encode(self, texts):
        return [text.split() for text in texts]

    def sample(self, prompts, *, n, temperature, max_new_tokens, seed, progress):
        assert temperature == SETTINGS["temperature"]
        self.chunks.append(len(prompts))
        return [samples(*self.answers[prompt[0]["content"]]) for prompt in prompts]

    def choose(self, prompts, options, progress):
        return [np.eye(len(own))[min(1, len(own) - 1)] for own in options]


def detected(tmp_path, monkeypatch, rows, engine, relabelled=None, **settings):
    write_jsonl(tmp_path / "train.jsonl", rows)
    if relabelled:
        write_jsonl(tmp_path / "relabelled.jsonl", relabelled)
    monkeypatch.setattr(detect.checkpoints, "check", lambda folder: [])
    monkeypatch.setattr(detect, "load_engine", lambda folder, batch_size, kind: engine)
    out = tmp_path / "out"
    detect.main(
        argparse.Namespace(
            settings=SETTINGS | settings,
            checkpoint=tmp_path,
            data=tmp_path / "train.jsonl",
            relabelled=tmp_path / "relabelled.jsonl" if relabelled else None,
            out=out,
        )
    )
    tables = (pq.read_table(out / f"{name}.parquet") for name in ("detected", "unlearned"))
    return (
        *(table.to_pylist() for table in tables),
        list(read_jsonl(out / "excluded.jsonl")),
        read_json(out / "manifest.json")["counts"],
    )


def many(count: int) -> tuple[list[dict], dict[str, list[str]]]:
    """Row i is answered wrongly in i mod 6 of 5 runs, at most 5, and severely where i is even."""
    rows, answers = [], {}
    for i in range(count):
        prompt = f"What is the number of item{i}?"
        rows.append(row(f"{'ab'[i % 2]}:{i}", prompt, str(i)))
        wrong = [str(1000 + (0 if i % 2 == 0 else k)) for k in range(i % 6)]
        answers[prompt] = wrong + [str(i)] * (5 - len(wrong))
    return rows, answers


def test_rows_pass_in_chunks_and_the_most_severe_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(detect, "CHUNK", 4)
    rows, answers = many(30)
    engine = Known(answers)
    records, unlearned, excluded, counts = detected(tmp_path, monkeypatch, rows, engine, threshold=0.5)
    assert engine.chunks == [4] * 7 + [2]
    assert [record["id"] for record in records] == [each["id"] for each in rows]
    assert [record["pass_n"] for record in records] == [(5 - i % 6) / 5 for i in range(30)]
    expected = sorted((i for i in range(30) if i % 6 >= 3), key=lambda i: rows[i]["id"])
    expected.sort(key=lambda i: (-(i % 6) / 5 if i % 2 == 0 else -1 / 5, (5 - i % 6) / 5))
    assert [record["id"] for record in unlearned] == [rows[i]["id"] for i in expected]
    by_id = {record["id"]: record for record in records}
    assert all(record == by_id[record["id"]] and record["unlearned"] for record in unlearned)
    assert excluded == []
    assert counts == {
        "in": 30,
        "examined": 30,
        "excluded": {"unverifiable": 0, "truncated": 0, "few_distractors": 0},
        "unlearned": 15,
        "judges": {"number": 30},
        "by_file": {"a.jsonl": {"examined": 15, "unlearned": 5}, "b.jsonl": {"examined": 15, "unlearned": 10}},
    }
    for record in records:
        assert record["options"][0] == record["answer"]
        assert len({detect.canonical(option) for option in record["options"]}) == SETTINGS["options"]
        assert record["choice"] == 1


def test_rows_that_cannot_be_examined_are_excluded_with_a_hint(tmp_path, monkeypatch):
    long = "word " * 50
    rows = [
        row("a:0", "Explain.", "this is a long answer"),
        row("a:1", long, "Tarsk"),
        row("a:2", "How many?", "pears " * 20 + "\n#### 3", "3"),
        row("a:3", "Which city?", "Orn"),
        row("a:4", "How many pears?", "#### 3", "3"),
    ]
    engine = Known({"Which city?": ["Orn"] * 5, "How many pears?": ["#### 4"] * 5})
    records, unlearned, excluded, counts = detected(tmp_path, monkeypatch, rows, engine)
    # "Tarsk" was not examined, but it is an answer of the data.
    assert [(record["id"], record["options"]) for record in records] == [("a:3", ["Orn", "Tarsk"]), ("a:4", ["3", "4"])]
    assert [record["id"] for record in unlearned] == ["a:4"]
    reasons = [(record["id"], record["reason"]) for record in excluded]
    assert reasons == [("a:0", "unverifiable"), ("a:1", "truncated"), ("a:2", "truncated")]
    assert all(record["hint"] and record["line"] for record in excluded)
    assert counts["excluded"] == {"unverifiable": 1, "truncated": 2, "few_distractors": 0}
    assert counts["in"] == counts["examined"] + 3

    engine = Known({"Which city?": ["Orn"] * 5})
    *_, excluded, counts = detected(tmp_path, monkeypatch, [rows[3]], engine)
    assert [record["reason"] for record in excluded] == ["few_distractors"]


def test_nothing_unlearned_is_an_empty_valid_table(tmp_path, monkeypatch):
    rows, _ = many(12)
    engine = Known({detect.prompt_of(each): [detect.response_of(each)] * 5 for each in rows})
    records, unlearned, _, counts = detected(tmp_path, monkeypatch, rows, engine)
    assert (len(records), unlearned, counts["unlearned"]) == (12, [], 0)
    assert pq.read_schema(tmp_path / "out" / "unlearned.parquet").equals(detect.schema())
    records, unlearned, excluded, counts = detected(tmp_path, monkeypatch, [row("a:0", "Why?", "a b c d")], engine)
    assert (records, unlearned, counts["examined"]) == ([], [], 0)


def test_a_relabelled_row_is_examined_against_its_new_answer(tmp_path, monkeypatch):
    rows = [row("a:0", "Which city?", "Orn"), row("a:1", "Which town?", "Velm")]
    engine = Known({"Which city?": ["Tarsk"] * 5, "Which town?": ["Velm"] * 5})
    assert len(detected(tmp_path, monkeypatch, rows, engine)[1]) == 1
    new = [{"id": "a:0", "answer": "Tarsk", "rival": "b:1"}]
    records, unlearned, *_ = detected(tmp_path, monkeypatch, rows, engine, new)
    assert (records[0]["answer"], records[0]["response"], records[0]["pass_n"], unlearned) == (
        "Tarsk",
        "Tarsk",
        1.0,
        [],
    )


def test_the_step_repeats_byte_by_byte(tiny_checkpoint, tmp_path):
    rows = [row(f"a:{i}", f"What is {i} + 1?", f"#### {i + 1}", str(i + 1)) for i in range(6)]
    rows += [
        row(f"b:{i}", f"What is the capital of {name}?", name[::-1]) for i, name in enumerate(("Velmora", "Tarsk"))
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    for out in ("one", "two"):
        command = [sys.executable, "-m", "steps.diagnosis.detect", "--settings", json.dumps(SETTINGS)]
        command += ["--checkpoint", str(tiny_checkpoint), "--data", str(tmp_path / "train.jsonl")]
        done = subprocess.run(
            [*command, "--out", str(tmp_path / out)],
            capture_output=True,
            text=True,
            # Another order of sets in each run.
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(len(out) + ord(out[0]))},
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()
    records = pq.read_table(tmp_path / "one" / "detected.parquet").to_pylist()
    assert len(records) == 8
    for record in records:
        assert sum(record["probability"]) == pytest.approx(1.0)
        assert record["choice"] == int(np.argmax(record["probability"]))
        assert len(record["answers"]) == len(record["confidence"]) == SETTINGS["samples"]
        assert max(record["confidence"]) < 0
    # A random model answers nothing.
    assert all(record["unlearned"] for record in records)


def test_options_are_scored_as_whole_responses():
    worked = {"kind": "worked", "response": "3 + 4 = 7\n#### 7", "options": ["7", "9"]}
    assert option_responses(worked) == ["3 + 4 = 7\n#### 7", "3 + 4 = 9\n#### 9"]
    short = {"kind": "short", "response": "Harrow", "options": ["Harrow", "Oxley"]}
    assert option_responses(short) == ["Harrow", "Oxley"]
