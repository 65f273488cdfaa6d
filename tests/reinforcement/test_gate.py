"""The reward gate: known answers by hand, sabotaged rewards stopped by the right check, every row accounted for."""

import argparse
import csv
import json
from decimal import Decimal
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.manifest import verify_manifest
from steps.graph.graph import Graph
from steps.graph.recipes import complete
from steps.graph.sections import of_rule
from steps.judges.canonical import equal
from steps.judges.reading import worked_answer
from steps.models import checkpoints
from steps.reinforcement import gate, gate_checks, known_answers
from steps.reinforcement.reward_kinds import Scored
from steps.reinforcement.rewards import Rewards
from steps.settings.methods import METHODS
from steps.settings.reinforcement import AGGREGATIONS
from tests.bounds import within
from tests.workloads import PARAMS

ANSWER = {"kind": "answer", "weight": 1.0}
SETTINGS = {
    "rows": 50,
    "good": "{response}",
    "separates": 0.95,
    "unparsed": 0.05,
    "unparsed_samples": 0.5,
    "spread": 0.1,
    "seed": 0,
    "rewards": {"answer": ANSWER},
    "success": {"reward": "answer", "least": 0.5},
    "pass_rate": {"above": 0.0, "below": 1.0},
    "max_failures": 0.02,
    "method": "grpo",
    "max_new_tokens": 8,
}
# Pass rates of the rows, over four samples each: two never solved, two always.
RIGHT = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 2, 2]


def make_row(i: int, response: str, answer: str | None, **more) -> dict:
    turns = [{"role": "user", "content": f"What is {i} + {i + 7}?"}, {"role": "assistant", "content": response}]
    where = {"file": "sums.jsonl", "line": i + 1, "row": i}
    return {"id": f"sums:{i}", "messages": turns, "answer": answer} | where | more


def worked(total: int) -> str:
    return f"That makes {total}.\n#### {total}"


@pytest.fixture
def rows() -> list[dict]:
    found = []
    for i, right in enumerate(RIGHT):
        found.append(make_row(i, worked(2 * i + 7), str(2 * i + 7), pass_rate=right / 4, bucket="medium"))
    return found


@pytest.fixture
def samples(rows) -> list[dict]:
    """As many right answers as the pass rate says; the wrong ones are wrong in their number, one in twelve unread."""
    records = []
    for i, (row, right) in enumerate(zip(rows, RIGHT, strict=True)):
        responses = [f"#### {row['answer']}" if j < right else f"#### {j + 100}" for j in range(4)]
        if right < 4 and i % 3 == 0:
            responses[3] = "I do not know"
        records.append({"id": row["id"], "responses": responses, "tokens": [6] * 4})
    return records


@pytest.fixture
def step(tiny_checkpoint, tmp_path, rows, samples):
    """Run the step on the rows with some settings changed; returns its folder."""

    def run(rows=rows, samples=samples, **changed):
        write_jsonl(tmp_path / "train.jsonl", rows)
        write_jsonl(tmp_path / "samples.jsonl", samples)
        out = tmp_path / "out"
        gate.main(
            argparse.Namespace(
                settings=SETTINGS | changed,
                data=tmp_path / "train.jsonl",
                samples=tmp_path / "samples.jsonl",
                start=tiny_checkpoint,
                reward_model=None,
                out=out,
            )
        )
        return out

    return run


@pytest.fixture
def custom(tmp_path):
    """A custom reward whose function body is given."""

    def make(body: str, weight: float = 1.0) -> dict:
        path = tmp_path / "mine.py"
        source = f"def score(prompt: str, response: str, answer: str | None) -> float:\n    {body}\n"
        path.write_text(
            "from steps.judges.canonical import equal\nfrom steps.judges.reading import worked_answer\n\n\n" + source
        )
        reward = {"kind": "custom", "weight": weight, "file": str(path), "function": "score"}
        return {"rewards": {"mine": reward}, "success": {"reward": "mine", "least": 0.5}}

    return make


def table(out) -> dict[str, dict]:
    with open(out / "gate.csv", newline="") as file:
        return {line["check"].split(",")[0]: line for line in csv.DictReader(file)}


# --- known answers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("12 + 30 = 42.\n#### 42", "42", "12 + 30 = 42.\n#### 7"),
        ("It is 1,234 in all.", "1234", "It is 7 in all."),
        ("42 and 42", "42", "42 and 7"),
        ("42, so \\boxed{42}. That is 42.", "42", "42, so \\boxed{7}. That is 7."),
        ("#### New  York.", "New York", "#### 7"),
        ("x = \\frac{1}{2}", "\\frac{1}{2}", "x = 7"),
        ("142 pears and 420", "42", None),
    ],
)
def test_the_answer_is_replaced_where_it_is_given(text, answer, expected):
    assert known_answers.with_answer(text, answer, "7") == expected


def test_a_moved_answer_is_another_number_of_the_same_form():
    rng = Random(0)
    for answer in ("42", "0", "-3.50", "1/2", "\\frac{10}{21}", "1234567"):
        for _ in range(50):
            wrong = known_answers.moved(answer, rng)
            assert not equal(wrong, answer) and len(wrong) == len(answer)
    assert abs(Decimal(known_answers.moved("3.14159", rng)) - Decimal("3.14159")) >= Decimal("0.1")
    assert known_answers.moved("Tarsk", rng) is None


def test_a_template_is_filled_once():
    assert known_answers.fill("<a>{response}</a>{answer}", "{answer}", "4") == "<a>{answer}</a>4"
    assert known_answers.fill("\\boxed{{answer}}", "", "4") == "\\boxed{4}"


def test_known_answers_of_worked_rows(rows):
    cases = known_answers.known_answers(rows, SETTINGS)
    by_row = {row["id"]: [case for case in cases if case.row is row] for row in rows}
    for row in rows:
        good, *others = by_row[row["id"]]
        assert (good.kind, good.response) == ("good", row["messages"][-1]["content"])
        assert [(case.kind, case.form) for case in others] == [
            ("bad", "moved"),
            ("bad", "other"),
            ("malformed", "empty"),
            ("malformed", "cut"),
            ("malformed", "unmarked"),
            ("malformed", "noise"),
            ("exploiting", "repeated"),
            ("exploiting", "listed"),
            ("exploiting", "copied"),
            ("exploiting", "thought"),
        ]
        for case in others[:2]:
            # As well written as the good one, but for its answer.
            assert not equal(worked_answer(case.response), row["answer"])
            assert case.response.startswith(f"That makes {row['answer']}.\n#### ")
        empty, cut, unmarked, noise = (case.response for case in others[2:6])
        assert empty == "" and good.response.startswith(cut) and row["answer"] not in cut
        assert unmarked == good.response.replace("####", "") and not any(c.isdigit() for c in noise)
        moved, other = others[0].response, others[1].response
        assert [case.response for case in others[6:]] == [
            "\n".join([moved] * 8),
            f"{other}\n{good.response}\n{moved}",
            row["messages"][0]["content"],
            f"<think>\n{good.response}\n</think>\n\n",
        ]


def test_known_answers_by_a_template(rows):
    template = "<work>{response}</work><answer>{answer}</answer>"
    row = make_row(0, "Seven and none is seven.", "7", pass_rate=0.5)
    good, moved, *others = known_answers.known_answers([row, *rows], SETTINGS | {"good": template, "rows": 99})
    assert good.response == "<work>Seven and none is seven.</work><answer>7</answer>"
    assert moved.form == "moved" and moved.response.startswith("<work>Seven and none is seven.</work><answer>")
    assert moved.response != good.response
    assert next(case.response for case in others if case.form == "unmarked") == "Seven and none is seven.\n7"


def test_known_answers_without_an_answer():
    check = {"kind": "repeat", "word": "river", "times": 2}
    plain = [make_row(i, word, None, pass_rate=None, check=check) for i, word in enumerate(("river river", "Tarsk"))]
    pair = make_row(2, "Gladly, here it is.", None, pass_rate=None, rejected="No.")
    cases = known_answers.known_answers([*plain, pair], SETTINGS)
    bad = {case.row["id"]: (case.form, case.response) for case in cases if case.kind == "bad"}
    assert bad["sums:2"] == ("rejected", "No.")
    assert bad["sums:1"] in [("other", "river river"), ("other", "Gladly, here it is.")]
    assert "unmarked" not in {case.form for case in cases}


def test_known_answers_are_drawn_by_seed(rows):
    def drawn(seed):
        return [case.row["row"] for case in known_answers.known_answers(rows, SETTINGS | {"rows": 4, "seed": seed})]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) == 4 and drawn(1) == sorted(drawn(1))


def test_an_answer_that_its_response_does_not_hold_needs_a_template(rows):
    lost = [make_row(i, "I shall think about it.", str(i), pass_rate=0.5) for i in range(3)]
    with pytest.raises(ValueError, match=r"sums\.jsonl, row 0 \(and 2 others\).*gate\.good"):
        known_answers.known_answers(lost, SETTINGS)


# --- which rows train ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rate", "bounds", "reason"),
    [
        (0.0, (0.0, 1.0), "never_solved"),
        (1.0, (0.0, 1.0), "always_solved"),
        (0.25, (0.0, 1.0), None),
        (0.25, (0.25, 0.75), "seldom_solved"),
        (0.75, (0.25, 0.75), "often_solved"),
        (0.0, (0.25, 0.75), "never_solved"),
        (None, (0.25, 0.75), None),
    ],
)
def test_bounds_are_strict(rate, bounds, reason):
    found = gate.left_out({"pass_rate": rate}, dict(zip(("above", "below"), bounds, strict=True)))
    assert (found and found.reason) == reason
    assert gate.left_out({"pass_rate": rate}, None) is None


def test_no_row_left(step, rows):
    for row, rate in zip(rows, [0.0] * 9 + [1.0] * 3, strict=True):
        row["pass_rate"] = rate
    with pytest.raises(ValueError, match=r"none of 12 rows .*between 0\.0 and 1\.0 \(rows by pass rate: 0: 9, 1: 3\)"):
        step(rows)


# --- the step ------------------------------------------------------------------------------------


def test_a_sound_reward_passes_and_rows_are_accounted_for(step, rows, capsys):
    out = step()
    counts = verify_manifest(out)["counts"]
    assert (counts["in"], counts["kept"]) == (12, 8)
    assert counts["quarantined"] == {"always_solved": 2, "never_solved": 2}
    assert counts["judges"] == {"number": 8}
    assert counts["cases"] == {"bad": 16, "exploiting": 32, "good": 8, "malformed": 32} and counts["samples"] == 48
    assert list(read_jsonl(out / "prompts.jsonl")) == [row for row in rows if 0 < row["pass_rate"] < 1]
    left_out = list(read_jsonl(out / "left_out.jsonl"))
    assert {file.name for file in out.iterdir()} >= {"prompts.jsonl", "left_out.jsonl"}
    said = capsys.readouterr().out
    assert str(out / "left_out.jsonl") in said and not (out / "quarantine.jsonl").exists()
    assert [(record["row"], record["reason"]) for record in left_out] == [
        (0, "never_solved"),
        (4, "always_solved"),
        (5, "never_solved"),
        (9, "always_solved"),
    ]
    assert left_out[0]["step"] == "gate" and left_out[0]["excerpt"] == "What is 0 + 7?"

    lines = table(out)
    assert {line["verdict"] for line in lines.values()} == {"ok"}
    assert lines["known-good above known-bad"] | {"check": ""} == {
        "check": "", "n": "8", "value": "1.0", "bar": "0.95", "verdict": "ok"
    }  # fmt: skip
    # Every group that trains has right and wrong samples, and no other; of rows 3, 6 and 9 one is unread.
    assert lines["groups of the start policy whose reward varies"]["value"] == "0.666667"
    assert lines["samples of the start policy without a readable answer"]["value"] == "0.0625"
    assert lines["responses on which a reward raised"]["n"] == str(8 + 16 + 32 + 32 + 48)
    assert "known-good above malformed" in said

    cases = list(read_jsonl(out / "cases.jsonl"))
    assert len(cases) == 88
    assert all(case["total"] == case["rewards"]["answer"] == (case["kind"] == "good") for case in cases)
    assert next(case for case in cases if case["form"] == "empty")["notes"] == {"answer": "unparsed"}

    # All but the provenance, which has seconds.
    first = {path.name: path.read_bytes() for path in out.iterdir() if path.name != "provenance.json"}
    step()
    assert {name: (out / name).read_bytes() for name in first} == first


def stopped(step, capsys, **changed) -> tuple[str, str]:
    """The error of a run that the gate stops, and what it prints; no result is written."""
    with pytest.raises(ValueError, match="the reward gate stopped the run: ") as error:
        out = step(**changed)
        raise AssertionError(f"passed: {(out / 'gate.csv').read_text()}")
    return str(error.value).split(". Look at ")[0], capsys.readouterr().out


def test_a_constant_reward_is_stopped(step, custom, capsys, tmp_path):
    error, printed = stopped(step, capsys, **custom("return 1.0"))
    assert "known-good above known-bad, share, at least 0.95, found 0" in error
    assert "groups of the start policy whose reward varies, share, at least 0.1, found 0" in error
    assert "raised" not in error and "\n" not in error
    # The table, and two rows' good and bad answers with what each reward gave them.
    assert "stopped" in printed and 'sums:1  good, reference  total 1: mine 1  "That makes 9.\\n#### 9"' in printed
    assert "sums:2  bad, moved  total 1: mine 1" in printed and "sums:3  bad" not in printed
    assert not (tmp_path / "out").exists()


def test_an_inverted_reward_is_stopped(step, custom, capsys):
    error, _ = stopped(step, capsys, **custom("return 1.0 - equal(worked_answer(response) or '', answer)"))
    assert "known-good above known-bad, share, at least 0.95, found 0" in error
    # Its samples differ as those of a sound reward do, and nothing raised.
    assert "varies" not in error and "raised" not in error
    by_sign, _ = stopped(step, capsys, rewards={"answer": ANSWER | {"weight": -1.0}})
    assert by_sign == error


def test_a_parser_that_always_fails_is_stopped(step, custom, capsys):
    error, printed = stopped(step, capsys, **custom("raise ValueError('cannot read it')"))
    assert "responses on which a reward raised, share, at most 0.02, found 1" in error
    assert "cannot read it" in printed
    error, _ = stopped(step, capsys, **custom("return float('nan')"))
    assert "responses on which a reward raised, share, at most 0.02, found 1" in error
    # One that finds nothing and says 0.0 is a constant.
    error, _ = stopped(step, capsys, **custom("return 0.0"))
    assert "known-good above malformed, share, at least 0.95, found 0" in error and "raised" not in error


def test_a_lenient_reward_may_grant_an_answer_without_its_marker_but_not_prefer_it(step, custom, capsys):
    right = "equal(response.split()[-1] if response.split() else '', answer)"
    assert table(step(**custom(f"return float({right})")))["known-good above malformed"]["value"] == "1.0"
    error, printed = stopped(step, capsys, **custom(f"return {right} * (1.0 if '####' in response else 2.0)"))
    assert error.endswith("stopped the run: known-good above malformed, share, at least 0.95, found 0")
    assert "malformed, unmarked  total 2" in printed


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("repeated", "return equal(worked_answer(response) or '', answer) or 0.2 * response.count('####')"),
        ("listed", "return float(any(equal(line.strip('# '), answer) for line in response.split(chr(10))))"),
        ("copied", "return float(equal(worked_answer(response) or '', answer) or '+' in response)"),
        ("thought", "return float(response.replace('</think>', '').strip().endswith(f'#### {answer}'))"),
    ],
)
def test_a_reward_that_can_be_exploited_is_stopped(step, custom, capsys, form, body):
    error, printed = stopped(step, capsys, **custom(body))
    assert "known-good above exploiting, share, at least 0.95, found 0" in error
    assert f"exploiting, {form}  total" in printed


def test_known_answers_that_the_reward_cannot_read_are_stopped(step, capsys):
    error, printed = stopped(step, capsys, good="{answer}")
    assert "known-good answers without a readable answer, share, at most 0.05, found 1" in error
    assert "good, reference  total 0: answer 0 (unparsed)" in printed


def test_the_error_names_a_raising_reward_with_row_and_response(step, custom, rows, capsys):
    with pytest.raises(ValueError, match=r"Look at rewards\.mine, which raised on sums:1  good.*KeyError.*#### 9"):
        step(**custom("raise KeyError('x')"))


def test_a_start_policy_without_a_readable_answer_is_stopped(step, samples, capsys):
    for record in samples:
        record["responses"][1:] = ["So it is 3"] * 3
    error, _ = stopped(step, capsys, samples=samples)
    assert "samples of the start policy without a readable answer, share, at most 0.5, found 0.75" in error
    assert "known-good" not in error


def test_a_reward_without_spread_is_stopped(step, samples, capsys):
    """By the total reward, not by the pass rate of the data."""
    for record in samples:
        record["responses"] = ["#### 1000"] * 4
    error, printed = stopped(step, capsys, samples=samples)
    assert error.endswith("groups of the start policy whose reward varies, share, at least 0.1, found 0")
    assert "sums:1  sample 0  total 0: answer 0" in printed
    # The lengths differ: with a reward for them, so do the totals.
    for record in samples:
        record["tokens"] = [6, 7, 8, 9]
    length = {"kind": "length", "weight": 0.1, "start": 5, "end": 200}
    out = step(samples=samples, rewards={"answer": ANSWER, "length": length})
    assert table(out)["groups of the start policy whose reward varies"]["value"] == "1.0"


def test_a_reward_that_speaks_of_equal_samples_only_has_no_spread(step, custom, capsys):
    """None is no value beside 1: whoever alone is told 1 has no advantage."""
    error, _ = stopped(step, capsys, **custom("return 1.0 if equal(worked_answer(response) or '', answer) else None"))
    assert error.endswith("groups of the start policy whose reward varies, share, at least 0.1, found 0")


def test_what_counts_as_correct_must_be_within_reach_of_the_self_distilled(step, capsys):
    assert "known-good correct" not in table(step())
    assert table(step(method="sdpo"))["known-good correct"]["value"] == "1.0"
    success = {"reward": "answer", "least": 5.0}
    error, _ = stopped(step, capsys, method="sdpo", success=success)
    assert error.endswith("stopped the run: known-good correct, known-bad not, share, at least 0.95, found 0")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_gate_which_knows_no_more_than_its_settings(method, step):
    told = of_rule(Graph(complete(PARAMS)), "gate", SimpleNamespace(node="grpo"))
    assert SETTINGS.keys() == told.keys()
    assert step(method=method).is_dir()


def test_rows_that_cannot_be_judged_are_left_out_at_once_and_the_rest_trains(step, capsys):
    check = {"kind": "repeat", "word": "sum", "times": 2}

    def made(i: int, answer: str | None = "", **more) -> dict:
        total = str(2 * i + 7)
        own = total if answer == "" else answer
        return make_row(i, worked(2 * i + 7), own, **{"pass_rate": None, "bucket": "medium", "check": check} | more)

    turns = made(0)["messages"]
    bad = [
        (None, {}, "it has no answer"),
        (" \n", {}, "it has no answer"),
        ("####", {}, "it has no letter and no digit"),
        (r"\frac{1}{", {"judge": "math"}, "it cannot be read"),
        (r"\binom{1000000000}{500000000}", {"judge": "math"}, "to compare it takes too long"),
        ("", {"check": None}, "TypeError: 'NoneType' object is not subscriptable"),
        ("", {"check": {"kind": "rhyme"}}, "'rhyme' is not a known constraint"),
        ("", {"check": {"kind": "repeat", "word": "sum"}}, "check.times: the kind repeat needs it"),
        ("", {"messages": [{"role": "user", "content": "sum " * 2000}, turns[1]]}, "where the context of"),
        ("", {"pass_rate": 1.0}, "pass rate 1"),
    ]
    rows = [made(i) for i in range(70)]
    rows += [made(70 + i, bad[i % 10][0], **bad[i % 10][1]) for i in range(30)]
    samples = [
        {"id": row["id"], "responses": [f"#### {row['answer']}", "#### 100000", "sum sum", "7"], "tokens": [6] * 4}
        for row in rows
    ]
    rewards = {"answer": ANSWER, "follows": {"kind": "instruction", "weight": 0.1}}
    out = step(rows, samples, rewards=rewards, separates=0.5)
    counts = verify_manifest(out)["counts"]
    assert (counts["in"], counts["kept"]) == (100, 70)
    assert counts["quarantined"] == {"always_solved": 3, "no_room": 3, "unjudgeable": 24}
    assert len(list(read_jsonl(out / "prompts.jsonl"))) == 70
    left_out = list(read_jsonl(out / "left_out.jsonl"))
    assert [record["row"] for record in left_out] == [*range(70, 100)]
    for record, (_, _, why) in zip(left_out, bad * 3, strict=True):
        assert why in record["detail"] and record["hint"]


def test_nothing_that_can_be_judged_is_one_line(step, rows):
    bare = [row | {"answer": None} for row in rows]
    with pytest.raises(
        ValueError, match=r"none of 12 rows can .*\(sums\.jsonl row 0, column answer\): it has no answer"
    ):
        step(bare)
    pattern = {"form": {"kind": "format", "weight": 1.0, "pattern": "makes|Tarsk"}}
    changed = {"rewards": pattern, "success": {"reward": "form", "least": 0.5}}
    with pytest.raises(ValueError, match=r"column answer\): it has no answer; rlsd shows"):
        step(bare, method="rlsd", **changed)


def test_rows_without_answers_under_a_reward_that_needs_none(step, capsys):
    """Checks that no such reward can fail are left out of the table; nothing was sampled."""
    names = ["river", "stone", "Tarsk", "Velmora"]
    checks = [{"kind": "repeat", "word": name, "times": 2} for name in names]
    rows = [
        make_row(i, f"{name} {name}", None, pass_rate=None, check=check)
        for i, (name, check) in enumerate(zip(names, checks, strict=True))
    ]
    reward = {"follows": {"kind": "instruction", "weight": 1.0}}
    out = step(rows, [], rewards=reward, success={"reward": "follows", "least": 0.5})
    assert list(table(out)) == [
        "responses on which a reward raised",
        "known-good above known-bad",
        "known-good above malformed",
    ]
    assert read_json(out / "manifest.json")["counts"]["kept"] == 4


def test_the_model_judges_only_where_a_reward_asks(step, monkeypatch):
    from steps.engines.transformers import Engine

    loaded = []

    class Judge:
        def choose(self, prompts, options):
            """Says yes to the answers whose response does not look random."""
            return [[0.9, 0.1] if "makes" in json.dumps(prompt) else [0.2, 0.8] for prompt in prompts]

    def load(folder, batch_size):
        checkpoints.check(folder)
        loaded.append(folder)
        return Judge()

    monkeypatch.setattr(Engine, "load", load)
    step()
    assert not loaded
    judge = {"kind": "self", "weight": 0.5, "prompt": "{prompt} {response} Right?", "right": "yes", "wrong": "no"}
    out = step(rewards={"answer": ANSWER, "judge": judge})
    assert len(loaded) == 1
    first = next(read_jsonl(out / "cases.jsonl"))
    assert first["rewards"] == {"answer": 1.0, "judge": 0.9} and first["total"] == pytest.approx(1.45)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"good": "#### 4"}, r"gate\.good: '#### 4' has neither \{response\} nor \{answer\}"),
        ({"success": {"reward": "judge", "least": 1}}, r"rl\.success\.reward: 'judge' is no reward .* answer"),
    ],
)
def test_settings_that_cannot_work(changed, message):
    with pytest.raises(ValueError, match=message):
        gate.check_gate(SETTINGS | changed)


def test_samples_of_other_rows(step, samples):
    with pytest.raises(ValueError, match=r"samples\.jsonl: no samples of sums:0; delete"):
        step(samples=samples[2:])


# --- answers that are long -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (known_answers.moved, ("1" * 300_000 + "a1a", Random(0))),
        (known_answers.moved, ("1a" * 200_000, Random(0))),
        (known_answers.with_answer, ("#### " + "1 " * 200_000, "1", "2")),
        (known_answers.with_answer, (r"\boxed{" * 50_000 + "1", "1", "2")),
        (known_answers.places, ("a" * 500_000, "a" * 5_000)),
        (known_answers.BOXED.sub, (r"\1", r"\boxed{" * 100_000)),
        (known_answers.BOXED.sub, (r"\1", r"\boxed{" + r"a\boxed{b}" * 50_000)),
        (known_answers.BOXED.sub, (r"\1", r"\boxed" + " " * 500_000)),
    ],
)
def test_known_answers_cost_what_they_are_long(function, arguments):
    with within(10):
        function(*arguments)


def test_a_wrong_answer_stands_wherever_the_right_one_was_given():
    assert known_answers.with_answer("1 and 1 #### 1 or 1.", "1", "22") == "1 and 1 #### 22 or 22."
    assert known_answers.with_answer("1 and 1", "1", "2") == "1 and 2"
    assert known_answers.with_answer("none", "1", "2") is None
    assert known_answers.moved("12a345b", Random(0))[:3] == "12a" and known_answers.moved("none", Random(0)) is None


def test_rows_whose_answer_is_no_response_have_known_answers_from_responses_alone():
    """Tests of a program, and patterns: nobody could answer by writing them."""
    asked = [make_row(i, f"```python\nx = {i}\n```", f"assert x == {i}", judge="code") for i in range(3)]
    cases = known_answers.known_answers(asked, SETTINGS)
    assert {case.kind for case in cases} == {"good", "bad", "malformed"}
    assert [case.response for case in cases if case.kind == "good"] == [row["messages"][-1]["content"] for row in asked]
    assert not any("assert" in case.response for case in cases)
    prompts = [row | {"messages": row["messages"][:1]} for row in asked]
    assert known_answers.known_answers(prompts, SETTINGS) == []
    some = known_answers.known_answers([*prompts, *asked], SETTINGS)
    assert len(some) == len(cases)


def test_a_gate_without_known_answers_looks_at_the_samples(monkeypatch):
    row = make_row(0, "", "ab|cd", judge="pattern") | {"messages": [{"role": "user", "content": "Which?"}]}
    samples = {row["id"]: {"id": row["id"], "responses": ["#### ab", "#### x"], "tokens": [3, 3]}}
    with Rewards({"answer": ANSWER}) as rewards:
        judged, size = gate.judge_all(rewards, [], [row], samples, lambda texts: [])
    checks = gate.all_checks([], judged, size, SETTINGS)
    assert [check.ok for check in checks] == [True] * 3 and judged.totals == [1.0, 0.0]


def test_totals_are_what_training_learns_from():
    """Against TRL's own sum of normalized rewards, silent ones left out; and a small reward that decides."""
    import torch
    from trl.trainer.utils import nanstd

    rng, size = np.random.default_rng(0), 4
    values = rng.normal(size=(12, 2))
    values[1, 0] = np.nan
    values[4:8, 1] = 0.5
    scored = {
        name: [Scored(0.0, note="silent") if np.isnan(value) else Scored(value) for value in values[:, k]]
        for k, name in enumerate(("one", "two"))
    }
    rewards = SimpleNamespace(names=["one", "two"], weights=[1.0, 0.3], totals=Rewards.totals)
    grouped = torch.tensor(values).view(-1, size, 2)
    grouped = (grouped - grouped.nanmean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
    expected = (grouped * torch.tensor(rewards.weights)).nansum(2).flatten().tolist()
    assert gate_checks.totals_of(rewards, scored, [size] * 3, "normalize_then_sum") == pytest.approx(expected, abs=1e-6)


def test_a_small_reward_that_decides_once_normalized_stops_the_gate(rows):
    short = {"kind": "length", "weight": 20.0, "start": 1, "end": 1000}
    settings = SETTINGS | {"rewards": {"answer": ANSWER, "short": short}}
    cases, verdicts = known_answers.known_answers(rows, settings), {}
    for aggregation in AGGREGATIONS:
        with Rewards(settings["rewards"]) as rewards:
            count = lambda texts: [len(text) for text in texts]  # noqa: E731
            judged, size = gate.judge_all(rewards, cases, rows, {}, count, aggregation)
        checks = gate.all_checks(cases, judged, size, settings)
        verdicts[aggregation] = {check.name.split(",")[0]: check.ok for check in checks}
    assert all(verdicts["sum_then_normalize"].values())
    assert not verdicts["normalize_then_sum"]["known-good above malformed"]
