"""The kinds of judges that a data set names: choices, patterns, programs; and each on its cases of the bench."""

import json
import time

import pytest

from benches.judges import MARKS, cases
from steps.core import sandbox
from steps.data.rows import RowProblem
from steps.data.verifiable import answer_of
from steps.judges import programs
from steps.judges.choices import options_of
from steps.judges.judge import kind_for
from steps.judges.kinds import JUDGES
from steps.judges.mathematics import Checker
from steps.judges.rows import RowJudge, judges_of
from steps.judges.strict import strict_verdicts
from steps.judges.tasks import ASKED, score_choice, score_code

CASES = [case for case in cases() if case.judge]


@pytest.fixture(scope="module")
def made():
    with Checker(2.0) as checker:
        yield {name: kind.make(checker) for name, kind in JUDGES.items()}


@pytest.mark.parametrize("name", ["choice", "pattern", "code"])
def test_the_cases_of_the_bench(made, name):
    own = [case for case in CASES if case.judge == name]
    own = own if name != "code" else [case for case in own if "while True" not in case.response]
    told = [made[name].judge(case.gold, case.response, MARKS[case.mark], case.question).right for case in own]
    assert [case.told() for case, right in zip(own, told, strict=True) if right != case.right] == []
    assert len(own) > 20


@pytest.mark.parametrize("name", JUDGES)
def test_every_kind_refuses_an_empty_gold_and_reads_an_empty_response(made, name):
    assert made[name].refusal("") and made[name].refusal(None)
    gold = {"code": "assert f() == 1", "choice": "B"}.get(name, "12")
    assert not made[name].refusal(gold)
    assert made[name].judge(gold, "").outcome == "unread"


def test_golds_that_are_options_are_choices():
    assert kind_for(["A", "(B)", "C"]) == "choice" and kind_for(["A", "12"]) == kind_for(["12", "A"]) == "number"
    assert kind_for(["A", "Paris"]) == "number" and kind_for([]) == kind_for(["yes"]) == "exact"


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\n(A) Rome\n(B) New York ", {"A": "Rome", "B": "New York"}),
        ("Which?\nA. Rome\nB) Paris\n C: Oslo", {"A": "Rome", "B": "Paris", "C": "Oslo"}),
        ("A. Rome\nB. Oslo\n\nAgain:\nA. x\nB. y", {"A": "x", "B": "y"}),
        ("A. Rome is old.", {}),
        ("Which?\n(B) Rome\n(C) Oslo", {}),
        ("Which of A, B, C?", {}),
        ("", {}),
    ],
)
def test_options_of_a_question(question, options):
    assert options_of(question) == options


# --- patterns --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "it is no regular expression"),
        (".*", "it takes an empty answer"),
        ("x?", "it takes an empty answer"),
        (r"\d+", ""),
    ],
)
def test_a_pattern_that_says_nothing_is_refused(made, pattern, why):
    assert made["pattern"].refusal(pattern) == why


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [("(a+)+b", "a" * 2000), ("(a|aa)+$b", "a" * 2000), ("(?:(?:x{1,999}){1,999}){1,999}y", "x" * 2000)],
)
def test_a_pattern_without_end_is_killed(pattern, answer):
    with Checker(0.5) as checker:
        judge = JUDGES["pattern"].make(checker)
        began = time.monotonic()
        verdict = judge.judge(pattern, f"#### {answer}")
        assert verdict.outcome in ("unverifiable", "wrong") and time.monotonic() - began < 20
        assert judge.judge("a+", "#### aaa").right


# --- programs --------------------------------------------------------------------------------------

needs_limits = pytest.mark.skipif(bool(sandbox.refusal()), reason=sandbox.refusal())


@pytest.mark.parametrize(
    ("tests", "why"),
    [
        ("assert f(1) == g(1)", "no `call == literal`"),
        ("assert f(1) < 2", "no `call == literal`"),
        ("assert abs(f(1) - 2) < 1e-6", "no `call == literal`"),
        ("assert f(1) == [1, (2,)], 'why'", ""),
        ("x = 1\nassert f(1) == 1", "more than asserts"),
        ("import math", "no test"),
        ("f(", "no Python"),
        ("assert " + "(" * 1000 + "1" + ")" * 1000, "nested too deeply"),
        ("assert f() == " + "-" * 10_000 + "1", "nested too deeply"),
        ("assert f() == " + "not " * 10_000 + "1", "nested too deeply"),
        ('{"inputs": [], "outputs": []}', "no lists of one length"),
        ('{"inputs": ["1"], "outputs": ["1", "2"]}', "no lists of one length"),
        ('{"inputs": ["1"], "outputs": [" "]}', "every output is empty"),
        ('{"inputs": [1], "outputs": ["1"]}', "no text"),
        ('{"inputs": [[1]], "outputs": [1], "fn_name": "a.b"}', "no name"),
        ('{"inputs": [[NaN]], "outputs": [1], "fn_name": "f"}', "no finite number"),
        ('{"inputs": [[null, true, {"a": [1.5, "é"]}]], "outputs": [1], "fn_name": "f"}', ""),
        ('{"inputs": ["1"', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[1]", "no list of texts"),
        ("x" * (programs.LONGEST_TESTS + 1), "longer than any"),
    ],
)
def test_tests_that_cannot_be_run_are_refused(made, tests, why):
    refused = made["code"].refusal(tests)
    assert (why in refused) if why else not refused


def test_tests_are_an_answer_of_a_row():
    io = {"inputs": ["1\n"], "outputs": ["2\n"]}
    for value in (io, json.dumps(io)):
        assert json.loads(answer_of(value, "answer")) == io
    asserts = ["assert f(1) == '####'", "assert f(2) == 3"]
    assert json.loads(answer_of(asserts, "answer")) == asserts
    assert answer_of("assert f(1) == r'\\boxed{2}'\n", "answer") == "assert f(1) == r'\\boxed{2}'"
    with pytest.raises(RowProblem):
        answer_of(["a", "b"], "answer")
    with pytest.raises(RowProblem):
        answer_of(io | {"more": float("nan")}, "answer")


@pytest.mark.parametrize("tests", ['{"inputs": ["1"], "outputs": ["1"]}', '["assert f() == 1"]', "assert f() == 1"])
def test_tests_under_another_judge_say_which_one_runs_them(made, tests):
    for name in ("exact", "number", "math"):
        assert "judge: code" in made[name].refusal(tests)
    assert not made["code"].refusal(tests)


@needs_limits
def test_a_program_with_many_answers_is_judged_by_its_last_block(made):
    response = "```python\ndef f(): return 2\n```\nBetter:\n```python\ndef f(): return 1\n```"
    assert made["code"].judge("assert f() == 1", response).right
    assert not made["code"].judge("assert f() == 2", response).right
    long = "```python\n" + "x = 1\n" * 20_000 + "```"
    assert made["code"].judge("assert f() == 1", long).why == "longer than any program"


@needs_limits
@pytest.mark.parametrize(
    "program",
    [
        "import sys\none = sys._getframe()\nwhile one:\n    print(one.f_locals, one.f_globals)\n    one = one.f_back",
        "import gc\nprint([o for o in gc.get_objects() if isinstance(o, (dict, list))])",
        "import sys\nprint(sys.argv, sys.modules['__main__'].__dict__)",
    ],
)
def test_what_is_expected_is_not_where_a_program_runs(program):
    tests = programs.tests_of("assert f(5) == 'xylophone quartz jackdaw'")
    ((said, _),) = sandbox.run(program, [{"stdin": str(tests.runs)}])
    assert said and "jackdaw" not in said


@needs_limits
def test_rows_of_code_pass_from_judge_to_manifest():
    asked = [{"role": "user", "content": "Add."}]
    rows = [
        {"messages": asked, "answer": '["assert add(1, 2) == 3"]', "judge": "code"},
        {"messages": [{"role": "user", "content": "Which?\n(A) Rome\n(B) Oslo"}], "answer": "B", "judge": "choice"},
    ]
    program = "#### Adding\n#### Again\n```python\ndef add(a, b):\n    return a + b\n```"
    with RowJudge(workers=1) as judge:
        told = judge.verdicts(rows, [[program, "#### 3"], ["#### Oslo", "#### Rome"]])
        assert [[verdict.right for verdict in own] for own in told] == [[True, False], [True, False]]
        told = strict_verdicts(judge, rows, [program, "#### Oslo\nSo it is."], [True, True])
    assert [verdict.right for verdict in told] == [True, False], "a mark means nothing where code is asked for"
    assert judges_of(rows) == {"choice": 1, "code": 1}


@needs_limits
def test_tasks_may_be_scored_by_them():
    code = {"prompt": "Add.", "answer": '["assert add(1, 2) == 3"]'}
    assert score_code(code, ["```python\nadd = lambda a, b: a + b\n```"]) == {"exact_match": 1.0}
    assert score_code(code, ["add = lambda a, b: a + b"]) == {"exact_match": 0.0}
    choice = {"question": "Which?\nA. Rome\nB. Oslo", "answer": "Oslo"}
    assert score_choice(choice, ["#### B"]) == {"exact_match": 1.0} and score_choice(choice, ["B"]) == {
        "exact_match": 0.0
    }
    assert ASKED["score_code"].wrong("assert f() == g()", code) and not ASKED["score_code"].wrong(code["answer"], code)
