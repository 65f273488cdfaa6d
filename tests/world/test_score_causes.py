"""Detection and attribution scores against tables worked out by hand."""

import csv
from argparse import Namespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json, write_jsonl
from steps.world import score_causes

# Two rows of the first cause, two of the third, one of the fifth; rows 5 to 9 are learnable.
TRUTH = [
    {"file": "a.jsonl", "row": 0, "cause": "missing_knowledge", "kind": "new"},
    {"file": "a.jsonl", "row": 1, "cause": "missing_knowledge", "kind": "new"},
    {"file": "a.jsonl", "row": 2, "cause": "data_conflict", "kind": "wrong_side"},
    {"file": "a.jsonl", "row": 3, "cause": "data_conflict", "kind": "both_right"},
    {"file": "a.jsonl", "row": 4, "cause": "insufficient_optimisation", "kind": "rare"},
    {"file": "a.jsonl", "row": 99, "cause": "base_conflict", "kind": "changed"},  # cleaned away
]
UNLEARNED = {0, 1, 2, 4, 5, 6}
ATTRIBUTED = {
    0: "missing_knowledge",
    1: "base_conflict",
    2: "data_conflict",
    4: "unassigned",
    5: "data_conflict",
    6: "insufficient_optimisation",
}


@pytest.fixture
def score(tmp_path):
    def run(attribution=True):
        write_jsonl(tmp_path / "truth.jsonl", TRUTH)
        rows = [{"id": f"a:{i}", "unlearned": i in UNLEARNED} for i in range(10)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "detected.parquet")
        rows = [{"id": f"a:{i}", "cause": cause} for i, cause in ATTRIBUTED.items()]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "attribution.parquet")
        args = Namespace(
            settings={},
            truth=tmp_path / "truth.jsonl",
            detected=tmp_path / "detected.parquet",
            attribution=tmp_path / "attribution.parquet" if attribution else None,
            out=tmp_path / "out",
        )
        score_causes.main(args)
        return args.out

    return run


def read_csv(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_detection_by_hand(score):
    found = read_json(score() / "score.json")["detection"]
    # 6 rows are unlearned, 4 of them planted; 5 planted rows were examined.
    assert (found["precision"]["hits"], found["precision"]["n"]) == (4, 6)
    assert (found["recall"]["hits"], found["recall"]["n"]) == (4, 5)
    assert found["f1"] == pytest.approx(2 * (4 / 6) * (4 / 5) / (4 / 6 + 4 / 5), abs=1e-6)
    assert found["planted"] == {"examined": 5, "not_examined": 1}
    # Wilson 1927 for 4 of 5: 0.3755 to 0.9638.
    assert (found["recall"]["low"], found["recall"]["high"]) == pytest.approx((0.3755, 0.9638), abs=1e-4)


def test_rates_per_cause_and_kind(score):
    lines = [(r["cause"], r["kind"], r["rows"], r["unlearned"], r["rate"]) for r in read_csv(score() / "causes.csv")]
    assert lines == [
        ("missing_knowledge", "new", "2", "2", "1.0"),
        ("data_conflict", "both_right", "1", "0", "0.0"),
        ("data_conflict", "wrong_side", "1", "1", "1.0"),
        ("insufficient_optimisation", "rare", "1", "1", "1.0"),
        ("learnable", "", "5", "2", "0.4"),
    ]


def test_attribution_by_hand(score):
    out = score()
    lines = {
        line.pop("truth"): {k: int(v) for k, v in line.items() if v != "0"} for line in read_csv(out / "confusion.csv")
    }
    assert lines == {
        "missing_knowledge": {"missing_knowledge": 1, "base_conflict": 1},
        "base_conflict": {},
        "data_conflict": {"data_conflict": 1},
        "left_side_forgetting": {},
        "insufficient_optimisation": {"unassigned": 1},
        "learnable": {"data_conflict": 1, "insufficient_optimisation": 1},
    }
    found = read_json(out / "score.json")["attribution"]
    causes = found["causes"]
    # Precision over planted rows only: the learnable row called data_conflict does not count.
    assert [causes["missing_knowledge"][k]["value"] for k in ("precision", "recall")] == [1.0, 0.5]
    assert causes["missing_knowledge"]["f1"] == pytest.approx(2 / 3, abs=1e-6)
    assert causes["data_conflict"]["f1"] == 1.0
    assert causes["insufficient_optimisation"]["f1"] == 0.0
    assert causes["base_conflict"] == {
        "precision": {"value": 0.0, "low": 0.0, "high": pytest.approx(0.793451, abs=1e-5), "hits": 0, "n": 1},
        "recall": {"value": None, "low": None, "high": None, "hits": 0, "n": 0},
        "f1": None,
    }
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-6)
    assert (found["accuracy"]["hits"], found["accuracy"]["n"]) == (2, 4)


def test_without_attribution_there_is_no_confusion(score):
    out = score(attribution=False)
    assert set(read_json(out / "score.json")) == {"detection"}
    assert read_csv(out / "confusion.csv") == []
    assert read_csv(out / "rows.csv")[2] == {
        "id": "a:2",
        "truth": "data_conflict",
        "kind": "wrong_side",
        "unlearned": "True",
    }


def test_nothing_planted_and_nothing_unlearned_has_no_score():
    found = score_causes.detection({}, {"a:0": False})
    assert (found["precision"]["value"], found["recall"]["value"], found["f1"]) == (None, None, None)
    assert score_causes.attribution(score_causes.confusion({}, {}))["macro_f1"] is None


def test_truth_of_another_run_or_cause_is_an_error(tmp_path):
    path = tmp_path / "truth.jsonl"
    write_jsonl(path, [{"file": "a.jsonl", "row": 0, "cause": "bad luck", "kind": ""}])
    with pytest.raises(ValueError, match="line 1: 'bad luck' is no cause"):
        score_causes.read_truth(path)
    write_jsonl(path, TRUTH)
    pq.write_table(pa.Table.from_pylist([{"id": "b:0", "unlearned": True}]), tmp_path / "detected.parquet")
    args = Namespace(
        settings={}, truth=path, detected=tmp_path / "detected.parquet", attribution=None, out=tmp_path / "o"
    )
    with pytest.raises(ValueError, match="holds no row"):
        score_causes.main(args)
