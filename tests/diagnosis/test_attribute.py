"""The tests I to V on evidence made by hand, one row to a branch, and the groups of conflicting rows."""

import math
from argparse import Namespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json
from steps.diagnosis import attribute
from steps.diagnosis.causes import CAUSES
from steps.settings.diagnosis import Attribute
from steps.settings.errors import check

THRESHOLDS = {
    "blind": 0.2,
    "sure": 0.92,
    "held": 0.5,
    "divergence": 0.3,
    "judge": 0.9,
    "drop": 0.05,
    "weakest": 0.5,
    "rise": 2.0,
    "progress": 0.1,
}
# A fact that the base has never seen: nothing else is wrong with it.
MISSING = {
    "id": "a:1",
    "domain": "talk",
    "kind": "short",
    "answer": "Harrow",
    "entity": "Abelin",
    "base_pass": 0.0,
    "base_best_of_5": False,
    "base_answer": "Oxley",
    "base_agreement": 0.6,
    "base_confidence": 0.5,
    "base_options": [0.1, 0.6, 0.3],
    "js": 0.1,
    "rival": "",
    "rival_answer": "",
    "rival_similarity": 0.0,
    "base_rival_probability": 0.0,
    "support": 0,
    "rival_support": 0,
    "same_question": [],
    "trajectory": [False, False, True, False],
    "ever_correct": True,
    "last_correct_epoch": 1.5,
    "domain_peak": 0.9,
    "domain_final": 0.9,
    "domain_drop": 0.0,
    "loss": 0.7,
    "first_loss": 1.4,
    "lowest_loss": 0.6,
    "loss_slope": -0.2,
    "weakest": 0.1,
}
CONFLICT = MISSING | {"base_confidence": 0.99, "base_options": [0.01, 0.98, 0.01]}
RIVAL = CONFLICT | {"rival": "a:2", "rival_answer": "Oxley", "rival_similarity": 0.97, "same_question": ["a:2"]}
WORKED = MISSING | {"kind": "worked", "entity": "", "answer": "42", "base_answer": "41"}
LOST = WORKED | {"domain_peak": 0.8, "domain_final": 0.1, "domain_drop": 0.875}
NEVER = WORKED | {"trajectory": [False] * 4, "ever_correct": False, "last_correct_epoch": None}


def cause_of(row, **changes):
    return attribute.attribute(row | changes, THRESHOLDS)["cause"]


@pytest.mark.parametrize(
    ("row", "cause"), list(zip((MISSING, CONFLICT, RIVAL, LOST, NEVER), CAUSES, strict=True)) + [(WORKED, CAUSES[4])]
)
def test_each_cause_has_its_row(row, cause):
    found = attribute.attribute(row, THRESHOLDS)
    assert found["cause"] == cause
    assert [test.split(" ")[0] for test in found["tests"]] == ["I", "II", "III", "IV", "V"]
    assert ": passed. " in found["tests"][CAUSES.index(cause)]
    # Sequential: no earlier test passed.
    assert not any(": passed. " in test for test in found["tests"][: CAUSES.index(cause)])


@pytest.mark.parametrize(
    ("row", "changes", "cause"),
    [
        (MISSING, {"base_pass": 0.2}, "insufficient_optimisation"),  # not blind: the limit is strict
        (MISSING, {"base_best_of_5": True}, "insufficient_optimisation"),
        (MISSING, {"base_confidence": 0.92, "base_options": [0.1, 0.8, 0.1]}, "base_conflict"),
        (MISSING, {"trajectory": [True, True, True, False]}, "insufficient_optimisation"),
        (MISSING, {"trajectory": [True, True, False, False]}, "missing_knowledge"),
        (CONFLICT, {"base_answer": "harrow."}, "insufficient_optimisation"),  # equal as answers
        (CONFLICT, {"base_options": [0.5, 0.5]}, "insufficient_optimisation"),  # 0.216 nats: little to overcome
        (LOST, {"domain_drop": 0.05}, "insufficient_optimisation"),
        (LOST, {"ever_correct": False}, "insufficient_optimisation"),
        (LOST, {"ever_correct": False, "lowest_loss": 0.34}, "left_side_forgetting"),  # the loss has doubled since
        (LOST, {"rival": "a:2"}, "data_conflict"),
        (NEVER, {"lowest_loss": 1.27}, "unassigned"),
        (NEVER, {"weakest": 0.5}, "unassigned"),
        (NEVER, {"trajectory": [], "loss": None, "lowest_loss": None, "weakest": None}, "unassigned"),
    ],
)
def test_a_changed_signal_changes_the_cause(row, changes, cause):
    assert cause_of(row, **changes) == cause


def test_divergence_from_the_label_by_hand():
    # p = (1/2, 1/2) against (1, 0): m = (3/4, 1/4); half of ln(2/3)/2 + ln(2)/2, and half of ln(4/3).
    expected = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)) + 0.5 * math.log(4 / 3)
    assert attribute.derive(MISSING | {"base_options": [0.5, 0.5]})["label_js"] == pytest.approx(expected)
    assert attribute.derive(MISSING | {"base_options": [0.0, 1.0]})["label_js"] == pytest.approx(math.log(2))


def test_the_reason_holds_the_numbers_of_the_row():
    reason = attribute.attribute(MISSING, THRESHOLDS)["reason"]
    assert "right in 0% of its samples" in reason and "Oxley (probability 0.50)" in reason and "Abelin" in reason
    reason = attribute.attribute(LOST, THRESHOLDS)["reason"]
    assert "right at 1 of 4 points, the last at epoch 1.50" in reason and "fell from 80% right to 10%" in reason


def test_an_unassigned_row_names_the_nearest_test():
    reason = attribute.attribute(NEVER | {"lowest_loss": 1.3, "loss": 1.4}, THRESHOLDS)["reason"]
    assert reason == (
        "No test passed. The nearest was V insufficient optimisation, but it was not on its way: the loss never"
        " fell far below 1.40 (1.30 at best)."
    )


@pytest.mark.parametrize(
    ("support", "rival_support", "preference", "wrong", "words"),
    [
        (3, 4, 1.0, False, "both are right"),
        (0, 4, 0.0, True, "this row is wrong"),
        (3, 0, 1.0, False, "this row is right"),
        (0, 0, 0.95, True, "library is silent"),
        (0, 0, 0.5, False, "undecided"),
    ],
)
def test_the_wrong_side_of_a_conflict(support, rival_support, preference, wrong, words):
    sides = {"support": support, "rival_support": rival_support, "base_rival_probability": preference}
    found = attribute.attribute(RIVAL | sides, THRESHOLDS)
    assert found["wrong_side"] is wrong and words in found["reason"]


def test_no_other_cause_has_a_wrong_side():
    assert attribute.attribute(MISSING | {"rival_support": 5}, THRESHOLDS)["wrong_side"] is False


def test_groups_are_disjoint_and_hold_all_who_ask_the_same():
    def row(name, rival, *same):
        return {"id": name, "rival": rival, "same_question": list(same)}

    evidence = [row("a", "b", "b"), row("c", "d", "d"), row("e", "b", "b", "f"), row("x", "y", "y"), row("d", "e", "e")]
    causes = ["data_conflict"] * 3 + ["missing_knowledge", "data_conflict"]
    assert attribute.conflict_groups(evidence, causes) == {name: list("abcdef") for name in "abcdef"}
    assert attribute.conflict_groups(evidence[:2], causes[:2]) == {
        "a": ["a", "b"],
        "b": ["a", "b"],
        "c": ["c", "d"],
        "d": ["c", "d"],
    }


def test_settings_out_of_range_are_one_error():
    with pytest.raises(ValueError, match=r"attribute\.sure: 92"):
        check(Attribute, THRESHOLDS | {"sure": 92}, "attribute")


@pytest.mark.parametrize("rows", [[MISSING, RIVAL | {"id": "a:3"}], []])
def test_the_step_writes_every_row(tmp_path, rows):
    schema = pa.Table.from_pylist([MISSING, RIVAL]).schema.set(
        list(MISSING).index("same_question"), pa.field("same_question", pa.list_(pa.string()))
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "evidence.parquet")
    attribute.main(Namespace(settings=THRESHOLDS, evidence=tmp_path / "evidence.parquet", out=tmp_path / "out"))
    found = pq.read_table(tmp_path / "out/attribution.parquet").to_pylist()
    counts = read_json(tmp_path / "out/manifest.json")["counts"]
    assert counts["in"] == len(rows) == sum(counts["causes"].values())
    assert [(row["id"], row["cause"], row["group"], row["members"], row["rival"]) for row in found] == [
        ("a:1", "missing_knowledge", "", [], ""),
        ("a:3", "data_conflict", "a:2", ["a:2", "a:3"], "a:2"),
    ][: len(rows)]
