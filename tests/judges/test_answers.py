"""Answers and constraints against cases written by hand, and against lm-eval's own reading of GSM8K."""

from pathlib import Path

import pytest

from steps.core.files import read_jsonl
from steps.data import answers as verify


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
    [
        ("the sides are 1,2,3", "3"),
        ("between 2-4", "4"),
        ("so 3 + 4 = 7.", "7"),
        ("-3.50 or 1,200", "1200"),
        ("it is -4", "-4"),
        ("none", None),
        ("12 apples.", "12"),
    ],
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


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("Paris", 1),
        ("the city of Paris.", 4),
        ("3 + 4", 2),
        ("?!", 1),
        ("北京", 1),
        ("中华人民共和国", 4),
        ("アメリカ合衆国", 4),
        ("กรุงเทพมหานคร", 4),
        ("서울 시", 2),
        ("Python 是一种语言", 4),
        ("দিল্লি শহর", 2),
        ("因为地球绕着太阳转动，所以一年里有四个不同的季节，每个季节都有各自的天气和风景。", 19),
    ],
)
def test_words_are_counted_in_every_script(text, count):
    assert verify.count_words(text) == count


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1,234.", "1234"),
        ("$18", "18"),
        ("1, 2", "1, 2"),
        ("(1,2)", "(1,2)"),
        ("5!", "5!"),
        ("北京。", "北京"),
        (".", ""),
    ],
)
def test_an_answer_is_shown_without_separators_and_closing_mark(text, shown):
    assert verify.normalize(text) == shown


def test_a_question_with_several_answers_knows_the_punctuation_of_every_script():
    assert verify.bare("《红楼梦》。") == verify.bare("红楼梦")
    assert verify.bare("The “Beatles”") == verify.bare("beatles")


def test_a_prompt_with_an_answer_and_no_response_can_be_solved():
    asked = {"messages": [{"role": "user", "content": "5 + 7?"}], "answer": "12"}
    assert verify.solves(asked, "#### 12", 5) is True and verify.solves(asked, "#### 13", 5) is False
    assert verify.reference(asked | {"answer": None}, 5) is None


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
    assert verify.follows(response, check) is kept


def test_unknown_constraint_is_named():
    with pytest.raises(ValueError, match=r"check\.kind: 'rhyme'"):
        verify.follows("a", {"kind": "rhyme", "words": ["a"]})


def test_every_answer_of_the_world_keeps_its_constraint_and_equals_itself():
    from random import Random

    from steps.world import fable

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
        ({"answer": None, "said": "北京"}, "北京。", True),
        ({"answer": None, "said": "北京"}, "南京", False),
        ({"answer": None, "said": "กรุงเทพมหานคร"}, "กรุงเทพมหานคร", True),
        ({"answer": None, "said": "因为地球绕着太阳转动所以一年里有四个不同的季节"}, "因为", None),
        ({"answer": None, "said": "地球は太陽のまわりを回っているので季節があります"}, "季節", None),
        ({"answer": None, "said": "เพราะโลกโคจรรอบดวงอาทิตย์จึงมีฤดูกาล"}, "ฤดูกาล", None),
        ({"answer": None, "said": "a much longer answer than five words"}, "anything", None),
        ({"answer": None, "said": "STONE", "check": {"kind": "uppercase", "words": ["stone"]}}, "OH STONE", True),
        ({"answer": None, "said": "STONE", "check": {"kind": "uppercase", "words": ["stone"]}}, "stone", False),
    ],
)
def test_a_row_is_solved_by_its_check_its_answer_or_its_short_response(row, response, solved):
    said = {"role": "assistant", "content": row.pop("said", "no matter")}
    row |= {"messages": [{"role": "user", "content": "?"}, said]}
    assert verify.solves(row, response, 5) is solved


def test_what_was_only_thought_is_no_answer():
    thought = "<think>maybe\n#### 5, or \\boxed{6}\n</think>\n\nI cannot tell."
    assert verify.worked_answer(thought) is verify.boxed(thought) is verify.last_number(thought) is None
    assert verify.worked_answer(thought + "\n#### 7") == "7"


def test_a_comma_in_brackets_parts_two_numbers():
    assert [verify.normalize(text) for text in ("(1,200)", "[1,100]", "1,200", "3 of 1,200")] == [
        "(1,200)", "[1,100]", "1200", "3 of 1200",
    ]  # fmt: skip
    assert verify.equal("(1,200)", "(1, 200)") and not verify.equal("[1,100]", "[1100]")
