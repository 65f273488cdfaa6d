"""Pass rates and buckets by hand, and the step end to end."""

import json
import os
import subprocess
import sys

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data.pass_rates import bucket_of, pass_rates, told
from steps.settings.pass_rates import PassRates


def asked(answer: str, **more) -> dict:
    return {"messages": [{"role": "user", "content": "?"}], "answer": answer} | more


def test_pass_rates_count_marked_answers_only():
    responses = [["#### 42", "x\n#### 42.0", "42", "#### 41"], ["", "####"]]
    assert pass_rates([asked("42")] * 2, responses)[0] == [0.5, 0.0]


def test_an_answer_may_be_boxed_and_is_compared_as_the_reward_does():
    same = [r"\boxed{\dfrac{1}{2}}", r"\boxed{1/2}", r"\boxed{0.5}", r"\boxed{\frac{1}{2}}"]
    responses = [same, [r"so \boxed{2}", "half", "\\boxed{3}\n#### \\frac{1}{2}", r"\boxed{\frac{\sqrt{4}}{4}}"]]
    assert pass_rates([asked(r"\frac{1}{2}", judge="math")] * 2, responses)[0] == [1.0, 0.5]


def test_every_sample_has_its_verdict_with_what_was_read_and_why():
    responses = [[r"\boxed{\binom{1000000000}{500000000}}", "#### 3", "#### 3\n#### 4", "3", "#### 4 eggs"]]
    rows = [asked("3", judge="math", id="a:0")]
    rates, verdicts = pass_rates(rows, responses)
    records = list(told(rows, responses, verdicts))
    assert rates == [0.2]
    outcomes = ["unverifiable", "right", "ambiguous", "unread", "wrong"]
    assert [record["outcome"] for record in records] == outcomes
    assert [record["read"] for record in records[1:]] == ["3", "3 | 4", "", "4 eggs"]
    assert records[4] == {
        "id": "a:0", "sample": 4, "gold": "3", "read": "4 eggs", "outcome": "wrong", "why": "another number",
        "end": "#### 4 eggs",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "name"),
    [
        (0.0, "hard"),
        (0.24, "hard"),
        (0.25, "medium"),
        (0.5, "medium"),
        (0.75, "easy"),
        (1.0, "easy"),
        (None, "unverified"),
    ],
)
def test_buckets(rate, name):
    assert bucket_of(rate, [0.25, 0.75]) == name


@pytest.mark.parametrize("edges", [[0.75, 0.25], [0.0, 0.5], [0.5, 1.5]])
def test_edges_must_rise(edges):
    with pytest.raises(ValueError, match=r"bucket\.edges"):
        PassRates.fit({"edges": edges})


def test_every_row_is_kept_in_order(tiny_checkpoint, tmp_path):
    rows = [
        {
            "id": f"rows:{i}",
            "messages": [{"role": "user", "content": f"What is {i} + 1?"}, {"role": "assistant", "content": text}],
            "answer": answer,
            "file": "rows.jsonl",
        }
        for i, (text, answer) in enumerate([("#### 1", "1"), ("Tarsk", None), ("#### 3", "3")])
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    settings = {
        "engine": "transformers",
        "samples": 3,
        "temperature": 1.0,
        "max_new_tokens": 12,
        "edges": [0.25, 0.75],
        "batch_size": 8,
        "seed": 0,
    }
    command = [
        sys.executable,
        "-m",
        "steps.data.bucket",
        "--settings",
        json.dumps(settings),
        "--model",
        str(tiny_checkpoint),
    ]
    command += ["--input", str(tmp_path / "train.jsonl"), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr

    found = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    # A random model writes no "####".
    assert [(row["pass_rate"], row["bucket"]) for row in found] == [(0.0, "hard"), (None, "unverified"), (0.0, "hard")]
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert not (tmp_path / "out" / "samples.jsonl").exists()
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert counts["in"] == counts["kept"] == 3
    assert (counts["easy"], counts["medium"], counts["hard"], counts["unverified"]) == (0, 0, 2, 1)
