"""Verdicts on the responses to rows."""

from random import Random

import pytest

from steps.judges.canonical import equal
from steps.judges.reading import worked_answer
from steps.judges.rows import RowJudge, judges_of, kind_of_row, reference, unverifiable
from steps.world import fable


@pytest.fixture(scope="module")
def judge():
    with RowJudge(seconds=20.0) as judge:
        yield judge


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
def test_a_row_is_solved_by_its_check_its_answer_or_its_short_response(judge, row, response, solved):
    said = {"role": "assistant", "content": row.pop("said", "no matter")}
    row |= {"messages": [{"role": "user", "content": "?"}, said]}
    assert judge.verdict(row, response, 5).sure is solved


def test_a_prompt_with_an_answer_and_no_response_can_be_solved(judge):
    asked = {"messages": [{"role": "user", "content": "5 + 7?"}], "answer": "12"}
    assert judge.verdict(asked, "#### 12").right and not judge.verdict(asked, "#### 13").right
    assert reference(asked | {"answer": None}, 5) is None


def test_a_row_is_judged_as_its_data_set_says(judge):
    row = {"messages": [{"role": "user", "content": "?"}], "answer": "4"}
    response = r"so \boxed{\log_2 16}"
    assert kind_of_row(row, "4") == "number"
    assert not judge.verdict(row, response).right
    assert judge.verdict(row | {"judge": "math"}, response).right
    assert not judge.verdict(row | {"judge": "exact"}, r"\boxed{4 apples}").right


def test_a_manifest_is_told_which_judges_there_were():
    def row(**own):
        said = {"role": "assistant", "content": own.pop("said", "a response that is longer than five words")}
        return {"messages": [{"role": "user", "content": "?"}, said], "answer": None} | own

    rows = [row(answer="4"), row(answer="x + 1"), row(answer="4", judge="exact"), row(answer="4", judge="math")]
    rows += [row(said="Paris"), row(), row(answer="4", check={"kind": "uppercase", "words": ["a"]})]
    found = {"exact": 2, "instruction": 1, "math": 2, "none": 1, "number": 1}
    assert list(judges_of(rows, 5).items()) == sorted(found.items())
    assert judges_of(rows) == found | {"exact": 1, "none": 2}


def test_prose_is_no_wrong_answer_and_a_short_one_is(judge):
    row = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Paris"}], "answer": None}
    outcomes = [judge.verdict(row, text, 5).outcome for text in ("Paris", "The capital of France is Paris.", "Lyon")]
    assert outcomes == ["right", "unverifiable", "wrong"]


def test_verdicts_come_back_to_their_rows_in_order(judge):
    rows = [{"messages": [{"role": "user", "content": "?"}], "answer": str(n), "judge": "math"} for n in (2, 4)]
    told = judge.verdicts(rows, [["#### 2", r"\boxed{\sqrt{4}}", "2"], ["#### 2"]])
    assert [[verdict.outcome for verdict in own] for own in told] == [["right", "right", "unread"], ["wrong"]]
    judge.checker.limit = 0.3
    told = judge.verdicts(rows, [[], [r"\boxed{\binom{1000000000}{500000000}}", "#### 4"]])
    judge.checker.limit = 20.0
    assert [verdict.outcome for verdict in told[1]] == ["unverifiable", "right"]
    assert unverifiable(told) == 1


def test_rows_of_the_world_are_judged_as_by_their_text(judge):
    rng = Random(1)
    items = [fable.problem_item(rng, 2) for _ in range(300)]
    for item, other in zip(items, items[1:], strict=False):
        row = {"messages": [{"role": "user", "content": item["prompt"]}], "answer": item["answer"]}
        assert judge.verdict(row, item["solution"]).right
        for response in (other["solution"], f"#### {other['answer']}", other["answer"], "####", ""):
            same = response.count("####") == 1 and equal(worked_answer(response) or "", item["answer"])
            assert judge.verdict(row, response).right is same, (item, response)
