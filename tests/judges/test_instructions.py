"""Constraints on responses, by hand and on every answer of the world."""

from random import Random

import pytest

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
