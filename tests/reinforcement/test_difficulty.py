"""Pass rates by mathematical equivalence, and the step in process."""

import argparse

import pytest
from steps.reinforcement.pass_rates import check_answers, math_pass_rates, numeric_pass_rates

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.reinforcement import difficulty, pass_rates
from steps.reinforcement.reward_kinds import Scored


def test_mathematical_equivalence(monkeypatch):
    """Outcomes come back to their rows, over several chunks."""
    monkeypatch.setattr(pass_rates, "CHUNK", 2)
    rows = [{"answer": answer} for answer in ("1/2", "4", "(1, 2]")]
    responses = [["#### 0.5", "\\boxed{\\frac{2}{4}}"], ["so it is $2^2$", "#### 5"], ["no idea", "#### (1, 2)"]]
    rates, failed = math_pass_rates(rows, responses)
    assert rates == [1.0, 0.5, 0.0]
    assert failed == {"timeouts": 0, "errors": 0}


def test_comparisons_that_fail_are_wrong_and_counted(monkeypatch):
    found = {"hang": Scored(0.0, note="timeout"), "crash": Scored(0.0, error="died"), "right": Scored(1.0)}
    monkeypatch.setattr(
        pass_rates.Rewards, "score", lambda self, name, rows, texts, tokens: [found[text] for text in texts]
    )
    rates, failed = math_pass_rates([{"answer": "1"}] * 2, [["right", "hang"], ["hang", "crash"]])
    assert rates == [0.5, 0.0]
    assert failed == {"timeouts": 2, "errors": 1}


def test_an_answer_that_is_no_mathematics_is_named_before_sampling():
    rows = [
        {"answer": answer, "file": "rows.jsonl", "line": i + 1, "row": i} for i, answer in enumerate(("4", "Tarsk!?"))
    ]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2, row 1"):
        check_answers(rows)


def test_without_math_a_response_is_right_as_the_reward_sees_it():
    """A policy that boxes its answers gets nothing from that reward, so that its rows are not solved."""
    rates, _ = numeric_pass_rates([{"answer": "7"}], [["#### 7.0", r"\boxed{7}", "#### 8", "7"]])
    assert rates == [0.25]


def test_rows_come_out_with_the_samples_behind_their_pass_rates(tiny_checkpoint, tmp_path):
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
        # So cold that the three are alike.
        "temperature": 1e-4,
        "max_new_tokens": 12,
        "edges": [0.25, 0.75],
        "batch_size": 8,
        "seed": 0,
    }
    difficulty.main(
        argparse.Namespace(
            settings=settings, input=tmp_path / "train.jsonl", model=tiny_checkpoint, out=tmp_path / "out"
        )
    )

    found = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    # A random model writes no "####".
    assert [(row["pass_rate"], row["bucket"]) for row in found] == [(0.0, "hard"), (None, "unverified"), (0.0, "hard")]
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    samples = list(read_jsonl(tmp_path / "out" / "samples.jsonl"))
    assert [record["id"] for record in samples] == ["rows:0", "rows:2"]
    for record in samples:
        assert len(record["responses"]) == len(record["tokens"]) == 3
        assert len(set(record["responses"])) == 1
        assert all(isinstance(text, str) for text in record["responses"])
        assert all(1 <= n <= 12 for n in record["tokens"])
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert counts["in"] == counts["kept"] == 3
    assert (counts["easy"], counts["medium"], counts["hard"], counts["unverified"]) == (0, 0, 2, 1)
