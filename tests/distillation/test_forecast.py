"""The forecast of distillation: pairs whose truth is known, estimates against NumPy, prefixes continued as written."""

import argparse
import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch

from steps.core.files import read_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.core.manifest import verify_manifest
from steps.distillation import forecast, forecast_pair, forecast_verdict
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.models import checkpoints, head
from tests.conftest import SMALL, build_model, build_tokenizer

SETTINGS = {
    "prompts": 200,
    "samples": 4,
    "temperature": 1.0,
    "max_new_tokens": 40,
    "top_k": 16,
    "prefixes": [0.25, 0.5, 0.75],
    "likeness": 0.97,
    "gain": 0.0,
    "continuation": 0.0,
    "stop": False,
    "short_answer_words": 5,
    "batch_size": 64,
    "resamples": 500,
    "seed": 0,
}


def make_row(i: int, response: str | None = None, **more) -> dict:
    answer = str(2 * i + 7)
    turns = [
        {"role": "user", "content": f"What is {i} + {i + 7}?"},
        {"role": "assistant", "content": response or f"#### {answer}"},
    ]
    return {
        "id": f"sums:{i}",
        "messages": turns,
        "answer": answer,
        "file": "sums.jsonl",
        "line": i + 1,
        "row": i,
    } | more


def essay(i: int) -> dict:
    return make_row(i, "There is more than one way to say it,\nand none is wrong.", answer=None)


@pytest.fixture(scope="module")
def other_checkpoint(tmp_path_factory):
    """The same tokenizer, other random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "other"
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    build_model(tokenizer, seed=1, architecture=SMALL).save_pretrained(folder)
    return folder


def run(tmp_path, student, teacher, rows, name="teacher", **changed):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "forecast" / "sums" / "student" / name
    forecast.main(
        argparse.Namespace(
            settings=SETTINGS | changed, student=student, teacher=teacher, data=tmp_path / "rows.jsonl", out=out
        )
    )
    return out


class Scripted(Engine):
    """A real model whose responses are scripted: the total of the sum, right as often as `right` says.

    Sample j of the sum of i is right where (i + j) % 4 < right. What is begun is gone on with and answered right where
    i % 4 < right_after; `asked` keeps what it was given.
    """

    def script(self, right: int, right_after: int):
        self.right, self.right_after, self.asked = right, right_after, []
        return self

    def sample(self, prompts, *, n=1, max_new_tokens, seed, **options):
        assert options["temperature"] == 1.0
        found = []
        limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
        for prompt, limit in zip(prompts, limits, strict=True):
            begun = isinstance(prompt, tuple)
            if begun:
                self.asked.append((prompt, limit, seed))
            text = self.tokenizer.decode(prompt) if begun else prompt[0]["content"]
            i = int(text.split("What is ")[1].split(" ")[0])
            own = []
            for j in range(n):
                good = i % 4 < self.right_after if begun else (i + j) % 4 < self.right
                said = f"The sum of {i} is made.\n#### {2 * i + 7 if good else 1000}"
                if begun:
                    # Only the last line: what was begun must be kept for a text that reads on.
                    said = f"\n#### {2 * i + 7 if good else 1000}"
                ids = (*self.encode([said])[0], self.turn_end)
                own.append(Sample(said, -1.0, len(ids), ids))
                self.tokens += len(ids)
            found.append(own)
        return found


@pytest.fixture
def scripted(monkeypatch, small_checkpoint):
    """Makes `forecast.main` load scripted engines: (student's, teacher's) shares of right responses, of 4."""

    def set_up(student: tuple[int, int], teacher: tuple[int, int]):
        scripts, engines = iter([student, teacher]), []

        def load(folder, batch_size):
            loaded = Scripted(
                checkpoints.load_model(folder, torch.float32).eval(), checkpoints.load_tokenizer(folder), batch_size
            )
            engines.append(loaded.script(*next(scripts)))
            return loaded

        monkeypatch.setattr(forecast.Engine, "load", staticmethod(load))
        return engines

    return set_up


# --- verdicts of known pairs -----------------------------------------------------------------------


def test_a_teacher_that_is_always_right_and_thinks_alike_helps(scripted, small_checkpoint, tmp_path, capsys):
    scripted((1, 1), (4, 4))
    rows = [make_row(i) for i in range(40)]
    out = run(tmp_path, small_checkpoint, small_checkpoint, rows)
    found = read_json(out / "forecast.json")
    assert found["helps"] is True
    assert (found["data"], found["student"], found["teacher"]) == ("sums", "student", "teacher")
    assert found["student_pass"]["value"] == 0.25
    assert found["teacher_pass"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    # Each sum is solved in one of four samples, so that every prompt has the same gain.
    assert found["gain"] == {"value": 0.75, "low": 0.75, "high": 0.75}
    assert found["beyond"]["value"] == found["beyond"]["low"] == 0.0
    assert found["overlap"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["entropy_gap"]["value"] == found["divergence"]["value"] == found["overlap_advantage"]["value"] == 0.0
    assert found["mass_student"]["value"] == found["mass_teacher"]["value"] < 1
    # The longest beginnings hold the student's marked answer: another one behind it is ambiguous, whoever gives it.
    assert [line["gain"] for line in found["prefixes"]] == [0.75, 0.75, 0.0]
    rates = [(line["student"], line["teacher"], line["n"]) for line in found["prefixes"]]
    assert rates == [(0.25, 1.0, 40), (0.25, 1.0, 40), (0.25, 0.25, 40)]
    assert [check["check"] for check in found["checks"]] == ["new capability", "thinks alike", "continuation"]
    assert [check["passed"] for check in found["checks"]] == [True] * 3
    assert len(found["reasons"]) == 3
    told = capsys.readouterr().out
    assert "Distilling student from teacher on the prompts of sums is expected to help" in told
    assert all(reason in told for reason in found["reasons"])
    with open(out / "prefixes.csv") as file:
        table = list(csv.DictReader(file))
    assert [float(line["share"]) for line in table] == [0.25, 0.5, 0.75]
    assert [float(line["gain"]) for line in table] == [0.75, 0.75, 0.0]
    manifest = verify_manifest(out)
    assert set(manifest["outputs"]) == {"forecast.json", "prefixes.csv"}
    counts = manifest["counts"]
    assert counts["prompts"] == counts["verified"] + counts["unverified"] == found["prompts"] == 40
    assert counts["tokens"] > 0 and sum(counts["judges"].values()) == 40


@pytest.mark.parametrize(
    "student, teacher, failed",
    [
        ((3, 2), (1, 3), "new capability"),  # worse at the start, though better at going on
        ((1, 3), (3, 1), "continuation"),  # better on its own, worse from the student's states
        ((2, 2), (2, 3), "new capability"),  # as good: nothing new
    ],
)
def test_a_teacher_that_fails_one_check_does_not_help(student, teacher, failed, scripted, small_checkpoint, tmp_path):
    scripted(student, teacher)
    found = read_json(
        run(tmp_path, small_checkpoint, small_checkpoint, [make_row(i) for i in range(40)]) / "forecast.json"
    )
    assert found["helps"] is False
    assert [check["check"] for check in found["checks"] if not check["passed"]] == [failed]
    assert sum("does not lie above" in reason for reason in found["reasons"]) == 1


def test_a_teacher_that_thinks_otherwise_does_not_help(scripted, small_checkpoint, other_checkpoint, tmp_path):
    scripted((1, 1), (4, 4))
    rows = [make_row(i) for i in range(30)]
    found = read_json(run(tmp_path, small_checkpoint, other_checkpoint, rows) / "forecast.json")
    assert found["helps"] is False
    assert [check["passed"] for check in found["checks"]] == [True, False, True]
    assert found["overlap"]["high"] < 0.2 < found["divergence"]["low"]


def test_beyond_counts_what_only_the_teacher_solves(scripted, small_checkpoint, tmp_path):
    scripted((0, 0), (2, 4))
    found = read_json(
        run(tmp_path, small_checkpoint, small_checkpoint, [make_row(i) for i in range(24)]) / "forecast.json"
    )
    # The teacher solves every sum in two of four samples: half is enough.
    z2 = 1.959964**2
    assert found["beyond"] == {"value": 1.0, "low": pytest.approx(24 / (24 + z2)), "high": pytest.approx(1.0)}


def test_a_model_is_no_teacher_of_itself(small_checkpoint, tmp_path):
    """Without scripts: both draw the same numbers, so that all differences are exactly 0."""
    rows = [make_row(i) for i in range(20)]
    out = run(tmp_path, small_checkpoint, small_checkpoint, rows, samples=2)
    found = read_json(out / "forecast.json")
    assert found["helps"] is False
    for name, value in (("gain", 0.0), ("overlap", 1.0), ("entropy_gap", 0.0), ("divergence", 0.0)):
        assert found[name] == {"value": value, "low": value, "high": value}
    assert [(line["gain"], line["low"], line["high"]) for line in found["prefixes"]] == [(0.0, 0.0, 0.0)] * 3

    engines = [Engine.load(small_checkpoint, 64) for _ in range(2)]
    pair = forecast_pair.Pair(*engines, SETTINGS)
    assert pair.whole(engines[0], rows[:3]) == pair.whole(engines[1], rows[:3])


def test_equal_runs_write_equal_bytes(small_checkpoint, other_checkpoint, tmp_path):
    rows = [make_row(i) for i in range(21)] + [essay(i) for i in range(21, 24)]
    first = run(tmp_path, small_checkpoint, other_checkpoint, rows, samples=2, prompts=23)
    kept = {name: sha256_file(first / name) for name in ("forecast.json", "prefixes.csv", "manifest.json")}
    shutil.rmtree(first)
    again = run(tmp_path, small_checkpoint, other_checkpoint, rows, samples=2, prompts=23)
    assert kept == {name: sha256_file(again / name) for name in kept}


# --- rows that cannot be verified ------------------------------------------------------------------


def test_too_few_verifiable_rows_leave_the_verdict_to_overlap(small_checkpoint, other_checkpoint, tmp_path):
    rows = [make_row(i) for i in range(19)] + [essay(i) for i in range(19, 30)]
    for teacher, helps in ((small_checkpoint, True), (other_checkpoint, False)):
        out = run(tmp_path, small_checkpoint, teacher, rows)
        found = read_json(out / "forecast.json")
        assert (found["prompts"], found["verified"], found["unverified"]) == (30, 19, 11)
        assert found["helps"] is helps
        assert [check["passed"] for check in found["checks"]] == [None, helps, None]
        assert found["gain"] == found["student_pass"] == found["beyond"] == forecast_verdict.UNKNOWN
        assert found["prefixes"] == []
        assert "19 of 30 prompts can be verified, and 20 are needed" in found["reasons"][0]
        assert found["reasons"][-1] == "The verdict rests on overlap alone."
        assert (out / "prefixes.csv").read_text() == "share,n,student,teacher,gain,low,high\n"


def test_rows_without_a_check_count_in_the_overlap_only(small_checkpoint, other_checkpoint, tmp_path, monkeypatch):
    seen = []
    real = forecast_pair.diagnose
    monkeypatch.setattr(
        forecast_pair, "diagnose", lambda pair, rows, found: seen.append(rows) or real(pair, rows, found)
    )
    rows = [essay(0), *(make_row(i) for i in range(1, 21)), essay(21)]
    out = run(tmp_path, small_checkpoint, other_checkpoint, rows, samples=2)
    assert sorted(row["row"] for row in seen[0]) == list(range(22))
    assert max(line["n"] for line in read_json(out / "forecast.json")["prefixes"]) == 20


def test_responses_too_short_to_continue(scripted, small_checkpoint, tmp_path, monkeypatch):
    scripted((1, 1), (4, 4))
    monkeypatch.setattr(forecast_pair, "prefix", lambda ids, share: ())
    found = read_json(
        run(tmp_path, small_checkpoint, small_checkpoint, [make_row(i) for i in range(24)]) / "forecast.json"
    )
    assert found["helps"] is True
    assert [check["passed"] for check in found["checks"]] == [True, True, None]
    assert [(line["n"], line["gain"], line["low"]) for line in found["prefixes"]] == [(0, None, None)] * 3
    assert "not measured" in found["reasons"][2]


def test_pass_rates_of_every_kind_of_row():
    rows = [
        make_row(0),
        make_row(1, "Tarsk", answer=None),
        make_row(2, check={"kind": "repeat", "word": "river", "times": 2}),
        make_row(3, answer="1/2"),
    ]
    said = [["#### 7", "#### 8"], ["tarsk.", "Tarsk"], ["river river", "river"], ["#### 0.5", "#### 1/2"]]
    rates, untold = forecast_pair.pass_rates(rows, said, SETTINGS)
    assert (rates.tolist(), untold) == ([0.5, 1.0, 0.5, 1.0], {"unverifiable": 0})


# --- prefixes --------------------------------------------------------------------------------------


def test_prefix_by_hand():
    ids = tuple(range(10, 17))
    assert forecast_pair.prefix(ids, 0.25) == (10,)
    assert forecast_pair.prefix(ids, 0.5) == (10, 11, 12)
    assert forecast_pair.prefix(ids, 0.999) == tuple(range(10, 16)), "the end token is never begun"
    assert forecast_pair.prefix(ids[:1], 0.75) == ()
    assert forecast_pair.prefix(ids[:3], 0.25) == ()


def test_both_go_on_from_the_students_tokens_as_they_were_written(scripted, small_checkpoint, tmp_path):
    student, teacher = (1, 1), (4, 4)
    engines = scripted(student, teacher)
    rows = [make_row(i) for i in range(20)]
    run(tmp_path, small_checkpoint, small_checkpoint, rows)
    by_student, by_teacher = (engine.asked for engine in engines)
    assert by_student == by_teacher and len(by_student) == 60
    engine, wanted = engines[0], []
    for k, share in enumerate((0.25, 0.5, 0.75)):
        for i, row in enumerate(rows):
            prompt = engine.encode([engine.render(row["messages"][:-1])])[0]
            answer = 2 * i + 7 if i % 4 < 1 else 1000
            response = engine.encode([f"The sum of {i} is made.\n#### {answer}"])[0] + [engine.turn_end]
            begun = response[: math.floor(share * len(response))]
            wanted.append((tuple(prompt + begun), 40 - len(begun), (0, forecast_pair.CONTINUED, k)))
    assert by_student == wanted


def test_a_continued_response_is_the_one_that_was_begun(small_checkpoint):
    """Real engine, greedy in all but name: from any prefix of a response the same model writes the same text."""
    engine = Engine.load(small_checkpoint, 64)
    pair = forecast_pair.Pair(engine, engine, SETTINGS | {"temperature": 1e-4})
    rows = [make_row(i) for i in range(12)]
    first = [own[0] for own in pair.whole(engine, rows)]
    prompts = engine.prompt_ids([row["messages"][:-1] for row in rows])
    broken = 0
    for k, share in enumerate(SETTINGS["prefixes"]):
        begun = [forecast_pair.prefix(one.ids, share) for one in first]
        broken += sum(engine.encode([engine.tokenizer.decode(tokens)])[0] != [*tokens] for tokens in begun)
        assert pair.continued(engine, prompts, begun, k) == [one.text for one in first]
    assert broken > 5, "prefixes that another encoding would change"
    assert pair.continued(engine, [], [], 0) == []


def test_gain_of_a_prompt_is_the_mean_over_its_prefixes(small_checkpoint, monkeypatch):
    engine = Engine.load(small_checkpoint, 64)
    student, teacher = Engine(engine.model, engine.tokenizer, 64), Engine(engine.model, engine.tokenizer, 64)
    pair = forecast_pair.Pair(student, teacher, SETTINGS | {"prefixes": [0.25, 0.5]})
    right = {(True, 0): [1, 0], (False, 0): [1, 1], (True, 1): [0, 1, 0], (False, 1): [1, 0, 1]}
    monkeypatch.setattr(
        forecast_pair.Pair,
        "continued",
        lambda self, engine, prompts, begun, k: ["#### right" if hit else "" for hit in right[engine is student, k]],
    )
    rows = [make_row(i, answer="right") for i in range(4)]
    # Of 2, 4, 8 and 1 tokens: a quarter of the first and half of the last are nothing.
    responses = [Sample("", -1.0, n, tuple(range(5, 5 + n))) for n in (2, 4, 8, 1)]
    table, gains, failed = forecast_pair.continuations(pair, rows, responses)
    assert [(line["share"], line["n"]) for line in table] == [(0.25, 2), (0.5, 3)]
    assert [(line["student"], line["teacher"], line["gain"]) for line in table] == [
        (0.5, 1.0, 0.5),
        (pytest.approx(1 / 3), pytest.approx(2 / 3), pytest.approx(1 / 3)),
    ]
    # Prompt 0: half alone, 1. Prompt 1: 0 and -1. Prompt 2: 1 and 1. Prompt 3 has no prefix.
    assert gains.tolist() == [1.0, -0.5, 1.0]
    assert failed == {"unverifiable": 0}


# --- diagnostics and estimates against NumPy -------------------------------------------------------


def test_diagnostics_are_those_of_each_response_alone(small_checkpoint, other_checkpoint, monkeypatch):
    student, teacher = (Engine.load(folder, 16) for folder in (small_checkpoint, other_checkpoint))
    temperature, k, tokens = 1.3, 5, len(student.tokenizer)
    pair = forecast_pair.Pair(
        student, teacher, SETTINGS | {"temperature": temperature, "top_k": k, "max_new_tokens": 30}
    )
    rows = [make_row(10**i) for i in range(9)]
    # Many end tokens: responses of different lengths.
    student.stop_ids = sorted({*student.stop_ids, *range(3, 768, 12)})
    responses = [own[0] for own in pair.whole(student, rows)]
    assert len({len(one.ids) for one in responses}) > 2
    means, lengths = forecast_pair.diagnose(pair, rows, responses)
    assert lengths.tolist() == [len(one.ids) for one in responses]
    for i, (row, one) in enumerate(zip(rows, responses, strict=True)):
        prompt = student.tokenizer.apply_chat_template(row["messages"][:-1], add_generation_prompt=True)["input_ids"]
        logps = []
        for engine in (student, teacher):
            with torch.inference_mode():
                logits = engine.model(torch.tensor([[*prompt, *one.ids]])).logits[0, len(prompt) - 1 : -1, :tokens]
            scaled = logits.double().numpy() / temperature
            logps.append(scaled - np.log(np.exp(scaled).sum(-1, keepdims=True)))
        wanted = {name: [] for name in forecast_pair.DIAGNOSTICS}
        for p, q in zip(*logps, strict=True):
            both = sorted({*np.argsort(-p)[:k]} & {*np.argsort(-q)[:k]})
            mass_p, mass_q = np.exp(p[both]).sum(), np.exp(q[both]).sum()
            wanted["overlap"].append(len(both) / k)
            wanted["mass_student"].append(mass_p)
            wanted["mass_teacher"].append(mass_q)
            own_p, own_q = (np.sort(np.exp(y))[-k:].sum() for y in (p, q))
            wanted["likeness"].append(min(mass_p / own_p, mass_q / own_q))
            share = np.exp(p[both]) / mass_p if both else np.zeros(0)
            wanted["overlap_advantage"].append(
                (share * (np.log(np.exp(q[both]) / mass_q) - np.log(share))).sum() / max(1, len(both))
            )
            wanted["entropy_gap"].append(abs((np.exp(q) * q).sum() - (np.exp(p) * p).sum()))
            wanted["divergence"].append((np.exp(p) * (p - q)).sum())
        for name, values in wanted.items():
            assert means[name][i] == pytest.approx(np.mean(values), rel=1e-3, abs=1e-4), name

    # A vocabulary's worth at a time: the same numbers.
    monkeypatch.setattr(forecast_pair, "AT_ONCE", 1)
    alone, _ = forecast_pair.diagnose(pair, rows, responses)
    # And of a wide one, some places at a time.
    monkeypatch.setattr(head, "WIDE", 1)
    monkeypatch.setitem(head.AT_ONCE, "cpu", 5 * 768)
    places, _ = forecast_pair.diagnose(pair, rows, responses)
    for name, values in means.items():
        np.testing.assert_allclose(alone[name], values, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(places[name], values, rtol=1e-3, atol=1e-5)


def test_diagnostics_weigh_every_token_alike(scripted, small_checkpoint, tmp_path, monkeypatch):
    """As the training log does: a response of thirty tokens counts thirty times as much as one of one."""
    scripted((1, 1), (4, 4))
    lengths, values = np.array([30] * 10 + [1] * 10), np.linspace(0.2, 0.9, 20)
    monkeypatch.setattr(
        forecast_pair, "diagnose", lambda *_: (dict.fromkeys(forecast_pair.DIAGNOSTICS, values), lengths)
    )
    rows = [make_row(i) for i in range(20)]
    found = read_json(run(tmp_path, small_checkpoint, small_checkpoint, rows) / "forecast.json")
    assert found["overlap"]["value"] == pytest.approx((30 * values[:10].sum() + values[10:].sum()) / 310)
    assert found["overlap"]["low"] < found["overlap"]["value"] < found["overlap"]["high"]


def test_estimate_against_numpy():
    rng = np.random.default_rng(1)
    values, weights = rng.normal(0.3, 1.0, size=150), rng.integers(1, 40, size=150)
    found = forecast_verdict.estimate(values, 2000, 7)
    counts = np.random.default_rng([7]).multinomial(150, [1 / 150] * 150, size=2000)
    low, high = np.percentile([np.repeat(values, count).mean() for count in counts], [2.5, 97.5])
    assert found == {key: pytest.approx(v) for key, v in (("value", values.mean()), ("low", low), ("high", high))}
    # And the interval is the one of the normal approximation, nearly.
    half = 1.96 * values.std(ddof=1) / math.sqrt(150)
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.02)

    # Weighted: Σ w v / Σ w, both sums of the items drawn. Its error by linearization.
    found = forecast_verdict.estimate(values, 2000, 7, weights)
    draws = [np.average(np.repeat(values, c), weights=np.repeat(weights, c)) for c in counts]
    low, high = np.percentile(draws, [2.5, 97.5])
    center = (weights * values).sum() / weights.sum()
    assert found == {key: pytest.approx(v) for key, v in (("value", center), ("low", low), ("high", high))}
    half = 1.96 * math.sqrt(np.square(weights * (values - center)).sum()) / weights.sum()
    assert (found["low"], found["high"]) == pytest.approx((center - half, center + half), abs=0.03)
    assert forecast_verdict.estimate(np.full(30, 0.1), 100, 0, np.arange(1, 31)) == {
        "value": 0.1,
        "low": 0.1,
        "high": 0.1,
    }


def test_bars_and_verdicts():
    def found(low):
        return {"value": low + 0.1, "low": low, "high": low + 0.2}

    capability = forecast_verdict.Check("c", found(0.0), 0.0)
    assert capability.passed is False, "a gain whose interval ends at the bar is none"
    # A level is compared by its value, which is 0.1 above its low end here.
    assert forecast_verdict.Check("c", found(0.4), 0.5, level=True).passed is True
    assert forecast_verdict.Check("c", found(0.39), 0.5, level=True).passed is False
    good, unknown = (
        forecast_verdict.Check("c", found(0.1), 0.0),
        forecast_verdict.Check("c", dict(forecast_verdict.UNKNOWN), 0.0),
    )
    assert unknown.passed is None
    assert forecast_verdict.judge([good, unknown]) is True
    assert forecast_verdict.judge([good, capability]) is False
    assert forecast_verdict.judge([unknown, unknown]) is False


def test_rows_are_drawn_by_the_seed_in_the_order_of_the_file():
    rows = [make_row(i) for i in range(50)]
    drawn = [row["row"] for row in forecast.draw(rows, 10, 0)]
    assert drawn == [row["row"] for row in forecast.draw(rows, 10, 0)] == sorted(set(drawn)) and len(drawn) == 10
    assert drawn != [row["row"] for row in forecast.draw(rows, 10, 1)]
    assert forecast.draw(rows, 80, 0) == rows


# --- mistakes --------------------------------------------------------------------------------------


def test_a_verdict_against_it_can_stop_the_run(scripted, small_checkpoint, tmp_path, capsys):
    scripted((3, 3), (1, 1))
    with pytest.raises(
        ValueError, match=r"the forecast stopped the run: .* is not expected to help: .* forecast\.stop"
    ):
        run(tmp_path, small_checkpoint, small_checkpoint, [make_row(i) for i in range(24)], stop=True)
    assert not (tmp_path / "forecast" / "sums" / "student" / "teacher").exists()
    told = capsys.readouterr().out
    assert "new capability" in told and "failed" in told

    scripted((1, 1), (4, 4))
    rows = [make_row(i) for i in range(24)]
    assert verify_manifest(run(tmp_path, small_checkpoint, small_checkpoint, rows, stop=True))


def test_another_vocabulary_is_one_line_before_anything_is_loaded(small_checkpoint, tmp_path, monkeypatch):
    odd = tmp_path / "odd"
    shutil.copytree(small_checkpoint, odd)
    tokenizer = json.loads((odd / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["river"], vocabulary["\u0120river"] = vocabulary.get("\u0120river", 1), vocabulary.get("river", 2)
    (odd / "tokenizer.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr(forecast.Engine, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="vocabularies") as caught:
        run(tmp_path, small_checkpoint, odd, [make_row(i) for i in range(24)])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"prefixes": []}, r"forecast\.prefixes"),
        ({"prefixes": [0.5, 0.25]}, r"forecast\.prefixes"),
        ({"prefixes": [0.5, 1.0]}, r"forecast\.prefixes"),
        ({"temperature": 0.0}, r"forecast\.temperature"),
        ({"max_new_tokens": 1020}, r"sums\.jsonl row 0: a prompt of \d+ tokens"),
    ],
)
def test_settings_that_cannot_be(changed, message, small_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, small_checkpoint, small_checkpoint, [make_row(0)], **changed)


def test_no_rows(small_checkpoint, tmp_path):
    with pytest.raises(ValueError, match=r"rows\.jsonl: no rows"):
        run(tmp_path, small_checkpoint, small_checkpoint, [])
