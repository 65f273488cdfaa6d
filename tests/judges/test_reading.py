"""What a response answers, by hand, and against lm-eval's own reading of MATH."""

from pathlib import Path

import pytest

from steps.core.files import read_jsonl
from steps.judges import reading
from steps.judges.canonical import equal
from steps.judges.tasks import NO_ANSWER, bare, filter_marked, score_math, score_target


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
    assert reading.worked_answer(response) == answer


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
    assert reading.boxed(response) == answer


def test_targets_of_bbh():
    score = score_target
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
    assert reading.last_number(response) == answer


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
    assert equal(answer, expected) is same
    assert equal(expected, answer) is same


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
    assert reading.count_words(text) == count


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
    assert reading.normalize(text) == shown


def test_a_question_with_several_answers_knows_the_punctuation_of_every_script():
    assert bare("《红楼梦》。") == bare("红楼梦")
    assert bare("The “Beatles”") == bare("beatles")


def test_what_was_only_thought_is_no_answer():
    thought = "<think>maybe\n#### 5, or \\boxed{6}\n</think>\n\nI cannot tell."
    assert reading.worked_answer(thought) is reading.boxed(thought) is reading.last_number(thought) is None
    assert reading.worked_answer(thought + "\n#### 7") == "7"


def test_a_comma_in_brackets_parts_two_numbers():
    assert [reading.normalize(text) for text in ("(1,200)", "[1,100]", "1,200", "3 of 1,200")] == [
        "(1,200)", "[1,100]", "1200", "3 of 1200",
    ]  # fmt: skip
    assert equal("(1,200)", "(1, 200)") and not equal("[1,100]", "[1100]")


def test_answers_of_math_are_read_and_compared_as_by_its_paper():
    """Problems of MATH-500 have a solution beside the answer: read from the one it is the other, as lm-eval reads."""
    from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed

    docs = list(read_jsonl(Path("data/math500/test.jsonl")))
    assert [reading.boxed(doc["solution"]) for doc in docs] == [
        remove_boxed(last_boxed_only_string(doc["solution"])).strip() for doc in docs
    ]
    for doc in docs[::5]:
        ((found,),) = filter_marked([[doc["solution"]]], [doc])
        assert score_math(doc, [found]) == {"exact_match": 1.0, "hendrycks_math": 1.0}, doc["answer"]
    assert score_math({"answer": r"\frac{1}{2}"}, [r"0.5"]) == {"exact_match": 1.0, "hendrycks_math": 1.0}
    assert score_math({"answer": r"\frac{1}{3}"}, [r"2/6"]) == {"exact_match": 1.0, "hendrycks_math": 0.0}
    assert score_math({"answer": "2"}, [NO_ANSWER]) == {"exact_match": 0.0, "hendrycks_math": 0.0}


@pytest.mark.parametrize(
    ("response", "mark", "answers"),
    [
        ("####1\n#### 2", "####", [("1",), ("2",)]),
        ("##### A heading\n#### 2", "####", [("2",)]),
        ("####", "####", [("",)]),
        (r"\boxed{1}, \boxed{2}", "boxed", [("1", "2")]),
        (r"\boxed{1} is a part of it. The other is \boxed{2}", "boxed", [("1",), ("2",)]),
        (r"\boxed{1}, hence \boxed{2}", "boxed", [("2",)]),
        (r"\boxed{\{1, 2\}} \fbox 3", "boxed", [(r"\{1, 2\}", "3")]),
        (r"\boxed{1", "boxed", [("",)]),
        (r"\boxed{\boxed{1}}", "boxed", [(r"\boxed{1}",)]),
        (r"#### \boxed{1}", "either", [(r"\boxed{1}",)]),
        ("#### A part\n" + r"so \boxed{2}", "either", [("2",)]),
        (r"\boxed{1}" + "\n#### 2", "either", [("2",)]),
        ("Tarsk\nand more", "none", [("Tarsk",)]),
        ("no mark", "either", []),
    ],
)
def test_the_answers_of_a_response_by_its_marks(response, mark, answers):
    assert reading.marked(response, mark) == answers


@pytest.mark.parametrize(
    "response",
    [
        "<think>#### 1</think>\n#### 2",
        "<think>#### 1</think>\n#### 2\n<think>or #### 3",
        "[THINK]#### 1[/THINK]#### 2",
        "<|channel|>analysis<|message|>#### 1<|channel|>final<|message|>#### 2",
        "◁think▷#### 1◁/think▷#### 2",
        "<|begin_of_thought|>#### 1<|end_of_thought|>\n<|begin_of_solution|>#### 2\n<|end_of_solution|>",
        "<|START_THINKING|>#### 1<|END_THINKING|>#### 2",
        "<|channel|>commentary<|message|>#### 1<|channel|>final<|message|>#### 2",
        "<reasoning>\n#### 1\n</reasoning>\n\n#### 2",
    ],
)
def test_thinking_of_every_template_is_cut_off(response):
    assert reading.marked(response, "####") == [("2",)]


@pytest.mark.parametrize(
    "line", ["7</answer>", "7\\n", "<<3+4=7>>7", "7 </solution> </answer>", "7", " 7\\n\\n", "<<7>> 7"]
)
def test_what_frames_an_answer_is_no_part_of_it(line):
    assert reading.marked(f"#### {line}", "####") == [("7",)]


def test_headings_are_no_answers_beside_one():
    assert reading.read("#### Step 1: add 3\n3 + 4\n#### 7", "####") == "7"
    assert reading.read("#### Solution:\n#### 7", "####") == "7"
    assert reading.read("#### 6\n#### 7", "####") == "6 | 7"
