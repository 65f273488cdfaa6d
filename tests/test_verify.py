"""Answers and constraints against cases written by hand, and against lm-eval's own reading of GSM8K."""

from pathlib import Path

import pytest

from steps import verify
from steps.common import read_jsonl


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 5\nno, wait\n#### 6", "6"),
        ("####1,234.", "1234"),
        ("#### $18\nand more", "18"),
        ("#### Tarsk", "Tarsk"),
        ("the answer is 7", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_worked_answer_is_what_follows_the_last_marker(response, answer):
    assert verify.worked_answer(response) == answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{}", None),
        (r"\boxed{1", None),
        ("1}", None),
        ("", None),
    ],
)
def test_boxed_is_the_last_one_with_its_braces(response, answer):
    assert verify.boxed(response) == answer


def test_answers_of_math_are_compared_as_by_its_paper():
    """Problems of MATH-500 have a solution beside the answer: read from the one it is the other, as lm-eval reads."""
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed

    docs = list(read_jsonl(Path("data/math500/test.jsonl")))
    read = [answer for (answer,) in verify.filter_boxed([[doc["solution"]] for doc in docs], docs)]
    assert read == [remove_boxed(last_boxed_only_string(doc["solution"])).strip() for doc in docs]
    right = [verify.score_boxed(doc, [answer])["exact_match"] for doc, answer in zip(docs, read, strict=True)]
    assert right == [1.0] * 500
    assert verify.score_boxed({"answer": r"\frac{1}{2}"}, [r"\dfrac12"]) == {"exact_match": 1.0}
    assert verify.score_boxed({"answer": "2"}, [verify.NO_ANSWER]) == {"exact_match": 0.0}


def test_a_worked_answer_may_be_boxed():
    assert verify.given_answer("worked", r"so \boxed{7}") == "7" == verify.given_answer("worked", "\\boxed{8}\n#### 7")
    assert verify.given_answer("worked", "7") == ""


def test_targets_of_bbh():
    score = verify.score_target
    assert (
        score({"target": "(B)"}, ["(b)."]) == {"exact_match": 1.0}
        and score({"target": "No"}, ["Yes"])["exact_match"] == 0
    )


@pytest.mark.parametrize(
    ("response", "answer"),
    [("so 3 + 4 = 7.", "7"), ("-3.50 or 1,200", "1200"), ("it is -4", "-4"), ("none", None), ("12 apples.", "12")],
)
def test_last_number(response, answer):
    assert verify.last_number(response) == answer


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("42", "42.0", True),
        ("1,000", "1000", True),
        ("$5", "5", True),
        ("007", "7", True),
        ("0.1", "0.10", True),
        ("42", "43", False),
        ("Tarsk.", "tarsk", True),
        ("a  b c", "a b c", True),
        ("a b", "a c", False),
        ("4 2", "42", False),
        ("", "42", False),
        # Beyond what a float tells apart.
        ("10000000000000001", "10000000000000002", False),
    ],
)
def test_equal(answer, expected, same):
    assert verify.equal(answer, expected) is same
    assert verify.equal(expected, answer) is same


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
    ],
)
def test_follows(check, response, kept):
    assert verify.follows(response, check) is kept


def test_unknown_constraint_is_named():
    with pytest.raises(ValueError, match=r"check\.kind: 'rhyme'"):
        verify.follows("a", {"kind": "rhyme", "words": ["a"]})


def test_every_answer_of_the_world_keeps_its_constraint_and_equals_itself():
    from random import Random

    from steps import fable

    rng = Random(0)
    kinds = set()
    for _ in range(500):
        item = fable.instruction_item(rng)
        kinds.add(item["check"]["kind"])
        assert verify.follows(item["answer"], item["check"]), item
        other = fable.instruction_item(rng)
        if (
            other["answer"].casefold().split() != item["answer"].casefold().split()
            and item["check"]["kind"] == "repeat"
        ):
            assert not verify.follows(other["answer"], item["check"]), (item, other)
        problem = fable.problem_item(rng, 2)
        assert verify.worked_answer(problem["solution"]) == problem["answer"]
        assert verify.last_number(problem["solution"]) == problem["answer"]
    assert kinds == {"repeat", "uppercase", "starts_with", "ends_with", "word_count"}


@pytest.mark.parametrize(
    ("row", "response", "solved"),
    [
        ({"answer": "12"}, "5 + 7 = 12\n#### 12", True),
        ({"answer": "12"}, "12", False),
        ({"answer": None, "said": "Velm"}, "velm.", True),
        ({"answer": None, "said": "Velm"}, "Dunmere", False),
        ({"answer": None, "said": "a much longer answer than five words"}, "anything", None),
        ({"answer": None, "said": "STONE", "check": {"kind": "uppercase", "words": ["stone"]}}, "OH STONE", True),
        ({"answer": None, "said": "STONE", "check": {"kind": "uppercase", "words": ["stone"]}}, "stone", False),
    ],
)
def test_a_row_is_solved_by_its_check_its_answer_or_its_short_response(row, response, solved):
    said = {"role": "assistant", "content": row.pop("said", "no matter")}
    row |= {"messages": [{"role": "user", "content": "?"}, said]}
    assert verify.solves(row, response, 5) is solved
