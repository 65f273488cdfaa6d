"""Recall and precision against tables worked out by hand."""

import csv
from argparse import Namespace

import pytest

from steps.core.files import read_json, write_jsonl
from steps.world import score_dirt


def planted(*rows):
    """Truth from (row, kind) or (row, kind, group), all in one file."""
    return [{"file": "a", "row": row, "kind": kind, "group": group[0] if group else None} for row, kind, *group in rows]


def scored(truth, quarantined, kept):
    table = score_dirt.score(truth, {("a", row): why for row, why in quarantined.items()}, {("a", row) for row in kept})
    return {line["kind"]: (line["planted"], line["found"], line["quarantined"], line["correct"]) for line in table}


def test_a_row_counts_for_its_own_reason_only():
    truth = planted((0, "too_long"), (1, "too_long"), (2, "empty_turn"), (3, "too_long"))
    found = scored(truth, {0: "too_long", 1: "wrong_type", 2: "empty_turn", 9: "too_long"}, {3, 8})
    assert found == {"empty_turn": (1, 1, 1, 1), "too_long": (3, 1, 2, 1), "wrong_type": (0, 0, 1, 0)}


@pytest.mark.parametrize(
    ("quarantined", "kept", "found"),
    [
        ({1: "exact_duplicate", 2: "exact_duplicate"}, {0}, 1),
        ({0: "exact_duplicate", 1: "exact_duplicate"}, {2}, 1),  # any one may stay
        ({1: "exact_duplicate"}, {0, 2}, 0),
        ({0: "exact_duplicate", 1: "exact_duplicate", 2: "exact_duplicate"}, set(), 0),
        ({1: "exact_duplicate", 2: "near_duplicate"}, {0}, 0),  # for another reason
        ({}, {0, 1, 2}, 0),
    ],
)
def test_of_a_duplicate_group_exactly_one_stays(quarantined, kept, found):
    truth = planted(*((row, "exact_duplicate", "g") for row in range(3)))
    assert scored(truth, quarantined, kept)["exact_duplicate"][:2] == (1, found)


def test_every_member_of_a_contradiction_goes():
    truth = planted((0, "contradiction", "g"), (1, "contradiction", "g"), (2, "contradiction", "h"))
    assert scored(truth, {0: "contradiction", 2: "contradiction"}, {1})["contradiction"] == (3, 2, 2, 2)


def test_a_member_that_another_planted_kind_removes_counts_on_neither_side():
    # 0 and 1 are copies; 0 also contradicts 3: it goes for that, and 1 stays.
    truth = planted(
        (0, "exact_duplicate", "g"), (1, "exact_duplicate", "g"), (2, "exact_duplicate", "g"), (0, "contradiction")
    )
    found = scored(truth, {0: "contradiction", 1: "exact_duplicate"}, {2})
    assert found == {"contradiction": (1, 1, 1, 1), "exact_duplicate": (1, 1, 1, 1)}
    # Both copies contradict: the group is gone, and nothing is left to find in it.
    truth = planted(*((row, kind, "g") for row in (0, 1) for kind in ("exact_duplicate", "contradiction")))
    assert scored(truth, {0: "contradiction", 1: "contradiction"}, set()) == {
        "contradiction": (2, 2, 2, 2),
        "exact_duplicate": (0, 0, 0, 0),
    }


def test_truth_of_another_run_is_an_error():
    with pytest.raises(ValueError, match="a, row 5 was planted but is neither kept nor quarantined"):
        scored(planted((5, "too_long")), {}, {1})


def test_the_step_writes_table_and_clean_rows(tmp_path):
    def rows(name, *found):
        write_jsonl(tmp_path / name, [{"file": "a", "row": row, "reason": reason} for row, reason in found])
        return tmp_path / name

    args = Namespace(
        settings={},
        truth=tmp_path / "dirt.jsonl",
        quarantine=[rows("q1.jsonl", (0, "too_long")), rows("q2.jsonl", (1, "too_long"))],
        kept=rows("rows.jsonl", (2, None), (3, None)),
        out=tmp_path / "out",
    )
    write_jsonl(args.truth, planted((0, "too_long"), (2, "empty_turn")))
    score_dirt.main(args)
    with open(tmp_path / "out" / "dirt.csv", newline="") as file:
        empty, long = csv.DictReader(file)
    assert (empty["kind"], empty["recall"], empty["precision"]) == ("empty_turn", "0.0", "")
    assert (long["kind"], long["recall"], long["precision"], long["quarantined"]) == ("too_long", "1.0", "0.5", "2")
    result = read_json(tmp_path / "out" / "dirt.json")
    assert result["clean"] == {"kept": 1, "quarantined": 1}
    assert [line["kind"] for line in result["kinds"]] == ["empty_turn", "too_long"]
