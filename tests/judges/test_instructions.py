"""Constraints on responses, by hand and on every answer of the world."""

import json
from random import Random

import pytest

from steps.data.rows import RowProblem
from steps.data.verifiable import check_of
from steps.judges.instructions import follows
from steps.judges.reading import last_number, worked_answer
from steps.world import fable

REPEAT = {"kind": "repeat", "word": "river", "times": 3}
UPPER = {"kind": "uppercase", "words": ["lamp", "stone"]}
STARTS = {"kind": "starts_with", "words": ["lamp", "stone"], "first": "cloud"}
ENDS = {"kind": "ends_with", "words": ["lamp", "stone"], "last": "cloud"}
COUNT = {"kind": "word_count", "words": ["lamp"], "count": 3}


@pytest.mark.parametrize(
    ("check", "response", "kept"),
    [
        (REPEAT, "river river river", True),
        (REPEAT, "River, river, river.", True),
        (REPEAT, "river river", False),
        (REPEAT, "river river river stone", False),
        (UPPER, "LAMP STONE", True),
        (UPPER, "Here: LAMP STONE", False),
        (UPPER, "LAMP", False),
        (UPPER, "lamp stone", False),
        (STARTS, "cloud lamp stone", True),
        (STARTS, "Cloud, stone and lamp", True),
        (STARTS, "lamp cloud stone", False),
        (STARTS, "cloud lamp", False),
        (ENDS, "lamp stone cloud.", True),
        (ENDS, "lamp cloud stone", False),
        (COUNT, "lamp river cloud", True),
        (COUNT, "lamp river", False),
        (COUNT, "stone river cloud", False),
        (COUNT, "", False),
        ({"kind": "repeat", "word": "灯塔", "times": 2}, "灯塔，灯塔。", True),
        ({"kind": "starts_with", "words": ["灯塔"], "first": "海"}, "海边有灯塔", True),
        ({"kind": "starts_with", "words": ["灯塔"], "first": "海"}, "海边有塔灯", False),
        ({"kind": "word_count", "words": ["灯塔"], "count": 5}, "海边有灯塔。", True),
    ],
)
def test_follows(check, response, kept):
    assert follows(response, check) is kept


SEVERAL = {"kind": "all", "checks": [{"kind": "no_commas"}, {"kind": "word_limits", "least": 2, "most": 3}]}


@pytest.mark.parametrize(
    ("check", "kept", "broken"),
    [
        ({"kind": "lowercase", "words": ["lamp"]}, "a lamp", "a Lamp"),
        ({"kind": "contains", "words": ["lamp", "two stones"]}, "Two stones, one lamp.", "two lamps, stones"),
        ({"kind": "excludes", "words": ["lamp"]}, "lamps", "a lamp"),
        ({"kind": "excludes", "words": ["lamp"]}, "x", ""),
        ({"kind": "word_limits", "least": 2, "most": 3}, "one, two", "one"),
        ({"kind": "word_limits", "least": 2, "most": 3}, "one two three", "one two three four"),
        ({"kind": "paragraphs", "count": 2}, "one\nmore\n\n\ntwo\n", "one\ntwo"),
        ({"kind": "bullets", "count": 2}, "Here:\n- one\n * two\n**three**", "- one\n- two\n- three"),
        ({"kind": "json"}, '{"a": [1]}', "{'a': 1}"),
        ({"kind": "json"}, '```json\n["a"]\n```', 'Here:\n```json\n["a"]\n```'),
        ({"kind": "json"}, "1", "[" * 100_000),
        ({"kind": "title"}, "<<The lamp>>\nIt", "<< >>\nIt"),
        ({"kind": "quoted"}, ' "lamp" ', '"lamp'),
        ({"kind": "quoted"}, "“lamp”", '"'),
        ({"kind": "no_commas"}, "one; two", "one, two"),
        ({"kind": "no_commas"}, "一", "一，二"),
        (SEVERAL, "one two", "one, two"),
        (SEVERAL, "one two", "one"),
    ],
)
def test_constraints_kept_and_broken(check, kept, broken):
    assert follows(kept, check) and not follows(broken, check)
    assert follows(f"<think>{broken}</think>{kept}", check)
    assert check_of(check | {"more": 1}, "check") == check_of(json.dumps(check), "check") == check


@pytest.mark.parametrize(
    ("check", "column"),
    [
        ({"kind": "word_limits", "least": 3, "most": 2}, "check.most"),
        ({"kind": "word_limits", "least": 3}, "check.most"),
        ({"kind": "all", "checks": []}, "check.checks"),
        ({"kind": "all", "checks": [{"kind": "rhyme"}]}, "check.checks[0].kind"),
        ({"kind": "all", "checks": [{"kind": "json"}, {"kind": "bullets"}]}, "check.checks[1].count"),
        ({"kind": "all", "checks": [SEVERAL]}, "check.checks[0].kind"),
        ({"kind": "all", "checks": ["json"]}, "check.checks[0]"),
    ],
)
def test_a_constraint_that_is_none_is_named(check, column):
    with pytest.raises(RowProblem) as caught:
        check_of(check, "check")
    assert caught.value.column == column
    with pytest.raises((ValueError, TypeError)):
        follows("", check if check.get("checks") != [] and check.get("most") != 2 else {"kind": "rhyme"})


def test_unknown_constraint_is_named():
    with pytest.raises(ValueError, match=r"check\.kind: 'rhyme'"):
        follows("a", {"kind": "rhyme", "words": ["a"]})


def test_every_answer_of_the_world_keeps_its_constraint_and_equals_itself():
    rng = Random(0)
    kinds = set()
    for _ in range(500):
        item = fable.instruction_item(rng)
        kinds.add(item["check"]["kind"])
        assert follows(item["answer"], item["check"]), item
        other = fable.instruction_item(rng)
        if (
            other["answer"].casefold().split() != item["answer"].casefold().split()
            and item["check"]["kind"] == "repeat"
        ):
            assert not follows(other["answer"], item["check"]), (item, other)
        problem = fable.problem_item(rng, 2)
        assert worked_answer(problem["solution"]) == problem["answer"]
        assert last_number(problem["solution"]) == problem["answer"]
    assert kinds == {"repeat", "uppercase", "starts_with", "ends_with", "word_count"}
