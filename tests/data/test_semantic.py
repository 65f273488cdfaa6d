"""Rows in other words: the search against all pairs, what is compared, and what keeps a pair apart."""

from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benches.semantic import JOIN, PARAPHRASE, judged, planted
from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import dedup, semantic
from steps.data.semantic import Vectors, agree, alike, centred, only_adds, semantic_rows

BASE = Path("data/fable/base")


def around(rng, centres: int, each: int, width: int = 16, spread: float = 0.03) -> np.ndarray:
    """Rows of length 1, `each` close to every one of some random directions."""
    middle = rng.normal(size=(centres, width)).repeat(each, 0)
    found = middle + spread * np.linalg.norm(middle, axis=1, keepdims=True) * rng.normal(size=middle.shape)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_few_rows_are_compared_with_all():
    rng = np.random.default_rng(0)
    rows = around(rng, 40, 3)[rng.permutation(120)]
    products = np.tril(rows @ rows.T, -1)
    expected = {row: set(np.flatnonzero(products[row] >= 0.8).tolist()) for row in range(120)}
    found = {row: set(others) for row, others in alike(rows, 0.8)}
    assert found == {row: others for row, others in expected.items() if others}
    for row, others in alike(rows, 0.8):
        assert (np.diff(products[row, others]) <= 0).all()


def test_many_rows_are_compared_near_their_centres(monkeypatch):
    """Of the pairs of a comparison of all with all, at least 99 in 100, with a tenth of the comparisons."""
    monkeypatch.setattr(semantic, "FEW", 100)
    rng = np.random.default_rng(1)
    rows = around(rng, 1500, 2)[rng.permutation(3000)]
    pairs = {(b, a) for b, a in zip(*np.nonzero(np.tril(rows @ rows.T, -1) >= 0.9), strict=True)}
    found = {(row, other) for row, others in alike(rows, 0.9) for other in others}
    compared = sum(len(queries) * len(members) for queries, members in semantic._blocks(rows, 0))
    assert found <= pairs and len(found) >= 0.99 * len(pairs) > 1000
    assert compared < 0.1 * 3000**2


def test_rows_that_are_all_alike_are_not_all_compared(monkeypatch):
    monkeypatch.setattr(semantic, "FEW", 100)
    monkeypatch.setattr(semantic, "MOST_COMPARED", 50)
    rows = np.tile(around(np.random.default_rng(2), 1, 1), (2000, 1))
    compared = sum(len(queries) * len(members) for queries, members in semantic._blocks(rows, 0))
    assert compared <= 2000 * semantic.PROBES * 50
    found = dict(alike(rows, 0.9))
    assert max(map(len, found.values())) <= semantic.CANDIDATES


def test_rows_with_other_numbers_hide_none_however_many_are_more_alike():
    rng = np.random.default_rng(5)
    rows = np.r_[np.zeros((1, 16)), 1e-3 * rng.normal(size=(50, 16)), 2e-2 * rng.normal(size=(1, 16))]
    rows = np.r_[rng.normal(size=(1, 16)) + rows, rng.normal(size=(52, 16))]
    found = semantic_rows(Vectors(rows, rows), 0.5, np.r_[0, 1:51, 0, 51:103], lambda row: [f"{row} pens", "so many"])
    assert [(row, other) for row, (other, _) in found.items()] == [(51, 0)]


def test_what_all_rows_share_is_taken_off():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 8)) + 100
    found = centred(rows)
    own = rows - rows.mean(0)
    assert np.allclose(found[:, :8], own / np.linalg.norm(own, axis=1, keepdims=True), atol=1e-6)
    assert not found[:, 8].any()
    same = centred(np.r_[np.ones((3, 8)), np.zeros((1, 8))])
    assert np.allclose(same @ same.T, np.diag([1, 1, 1, 0]) + np.pad(1 - np.eye(3), (0, 1)))


def test_similarity_is_the_product_over_what_is_asked_and_said():
    rng = np.random.default_rng(4)
    asked, said = rng.normal(size=(2, 20, 8))
    said[5] = 0
    vectors = Vectors(asked, said)
    one, two = (centred(part)[[0, 1]] for part in (asked, said))
    assert vectors.similarity(0, 1) == pytest.approx(max(0, one[0] @ one[1]) * max(0, two[0] @ two[1]), abs=1e-6)
    assert vectors.similarity(0, 5) == 0 and vectors.similarity(5, 5) == pytest.approx(1)
    assert np.allclose(np.linalg.norm(vectors.both, axis=1), 1)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Where does Una live?", "Which town is home to Una?", True),
        ("Where does Una live?", "Where does Nils live?", False),
        ("What does Una eat?", "What does Una not eat?", False),
        ("Is it never wrong?", "It is not ever wrong, or is it?", True),
        ("Which of the towns by the sea is the largest?", "Which of the towns by the sea is the smallest?", False),
        ("Which of the towns by the sea is the largest?", "Of seaside towns, name the biggest.", True),
        ("Then Una goes to Kelso.", "Kelso is where, then, Una goes.", True),
    ],
)
def test_names_and_negations_agree(one, other, same):
    assert agree([one, "yes"], [other, "yes"]) is agree([other, "yes"], [one, "yes"]) is same


@pytest.fixture(scope="module")
def taken_out(tmp_path_factory):
    """The step on planted rows, with the states of the base model that ships."""
    folder = tmp_path_factory.mktemp("semantic")
    rows = planted(80, seed=0)
    said = [
        {"messages": [{"role": r, "content": row[key]} for r, key in (("user", "prompt"), ("assistant", "response"))]}
        | {"id": f"made:{i}", "answer": row["answer"], "file": "made.jsonl", "line": i + 1, "row": i}
        for i, row in enumerate(rows)
    ]
    write_jsonl(folder / "rows.jsonl", said)
    settings = JOIN | {"semantic": {"model": "base", "threshold": 0.3, "max_tokens": 256, "batch_size": 16}}
    dedup.main(Namespace(settings=settings, input=folder / "rows.jsonl", model=BASE, out=folder / "out"))
    return rows, folder / "out"


def test_rows_in_other_words_are_quarantined_with_the_row_that_they_equal(taken_out):
    rows, out = taken_out
    records = list(read_jsonl(out / "quarantine.jsonl"))
    assert {record["reason"] for record in records} == {"semantic_duplicate"}
    for record in records:
        other, similarity = record["detail"].split(", similarity ")
        assert 0.3 <= float(similarity) <= 1 and int(other.removeprefix("made:")) < record["row"]
    decided = {r["row"]: ("", int(r["detail"].split(",")[0].removeprefix("made:"))) for r in records}
    found = judged(rows, decided)
    assert found["recall"] >= 0.5 and found["false"] <= 0.01 and found["twins"] == 0
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["in"] == len(rows) == counts["kept"] + len(records)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds[PARAPHRASE] == 40


def test_without_the_setting_none_is_looked_for(tmp_path):
    rows = planted(40, seed=1)
    said = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
        | {"id": f"made:{i}", "answer": row["answer"], "file": "made.jsonl", "line": i + 1, "row": i}
        for i, row in enumerate(rows)
    ]
    write_jsonl(tmp_path / "rows.jsonl", said)
    assert judged(rows, dedup.decide(tmp_path / "rows.jsonl", JOIN))["recall"] < 0.2


@pytest.mark.parametrize(
    ("one", "other", "only"),
    [
        ("the slope of e^{x} now", "the slope of e^{-x} now", False),
        ("it returns x*y there", "it returns x**y there", False),
        ("the graph of f(x)", "the graph of f'(x)", False),
        ("sorted by age", "sorted by age, descending", False),
        ("so **Paris** it is", "so Paris it is", True),
        ("- pears\n- plums", "pears plums", True),
        ("I'm here, don't go", "I'm here, don't go now", True),
    ],
)
def test_what_is_added_may_turn_a_text_around(one, other, only):
    assert only_adds(one, other) is only and only_adds(other, one) is only
