"""A teacher's responses: each reason by a case made for it, every response accounted for, the engine's own texts."""

import argparse
import json
from collections import Counter
from types import SimpleNamespace

import pytest

from steps.core.files import read_json, read_jsonl, write_json, write_jsonl
from steps.core.manifest import verify_manifest
from steps.distillation import generate
from steps.engines.interface import Sample
from steps.engines.transformers import Engine
from steps.settings.generate import Generate
from tests.conftest import SMALL, checkpoint

SETTINGS = {
    "engine": "transformers",
    "samples": 2,
    "temperature": 1.0,
    "top_p": 1.0,
    "max_new_tokens": 96,
    "verify": True,
    "short_answer_words": 5,
    "min_tokens": 1,
    "max_repetition": 0.6,
    "keep": None,
    "batch_size": 256,
    "seed": 0,
    "decontaminate": {"ngram_words": 8, "min_overlap": 0.6},
}
END = 2


def make_row(i: int, response: str = "#### 42", answer: str | None = "42", **more) -> dict:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"What is {i} + 1?"},
        {"role": "assistant", "content": response},
    ]
    return {
        "id": f"sums:{i}",
        "messages": turns,
        "answer": answer,
        "file": "sums.jsonl",
        "line": i + 1,
        "row": i,
    } | more


def said(text: str, ended: bool = True, tokens: int | None = None) -> Sample:
    """A sample of one token a word, and its end token."""
    tokens = len(text.split()) + 1 if tokens is None else tokens
    return Sample(text, -1.0, tokens, (7,) * (tokens - 1) + (END if ended else 7,))


class Scripted:
    """An engine that says what it is told: [rows][samples]."""

    stop_ids, max_length = [0, END], 1000
    chat = SimpleNamespace(
        refusal=lambda turns: None,
        opened=lambda turns: "\n".join(turn["content"] for turn in turns),
        tokenizer=lambda text, **_: {"input_ids": text.split()},
    )

    def __init__(self, script):
        self.script, self.tokens, self.asked = script, 0, []

    def setup(self):
        return {"engine": "scripted"}

    def sample(self, prompts, *, n, **options):
        assert all(len(own) == n for own in self.script)
        self.asked.append((prompts, n, options))
        self.tokens += sum(sample.tokens for own in self.script for sample in own)
        return self.script


def run(folder, rows, script, monkeypatch, teacher, **settings):
    """The step over a scripted teacher: kept rows, quarantine records, counts and the engine."""
    scripted = Scripted(script)
    monkeypatch.setattr(generate, "load_engine", lambda teacher, batch_size, kind: scripted)
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "train.jsonl", rows)
    settings = SETTINGS | {"samples": len(script[0])} | settings
    out = folder / "out"
    told = {"input": folder / "train.jsonl", "eval": sorted(folder.glob("exam*.jsonl")), "teacher": teacher, "out": out}
    generate.main(argparse.Namespace(settings=settings, **told))
    counts = verify_manifest(out)["counts"]
    return list(read_jsonl(out / "train.jsonl")), list(read_jsonl(out / "quarantine.jsonl")), counts, scripted


@pytest.fixture
def step(tmp_path, monkeypatch, small_checkpoint):
    return lambda rows, script, **settings: run(tmp_path / "s", rows, script, monkeypatch, small_checkpoint, **settings)


def add_up(counts: dict, kept: list[dict], out: list[dict]) -> None:
    assert counts["in"] == counts["kept"] + sum(counts["quarantined"].values()) == len(kept) + len(out)
    assert counts["kept"] == len(kept)
    assert counts["quarantined"] == Counter(record["reason"] for record in out)
    assert len({record["id"] for record in [*kept, *out]}) == counts["in"]


# --- reasons -------------------------------------------------------------------------------------

LOOP = "so we add one more and then " * 12
LINES = "1 + 1 = 2\n" * 4 + "#### 42"


@pytest.mark.parametrize(
    ("sample", "reason", "detail"),
    [
        (said("#### 42"), None, None),
        (said("#### 42", ended=False), "unfinished", "no end after 3 tokens"),
        (said("#### 41"), "wrong_answer", "the row asks for 42"),
        (said("no answer at all"), "wrong_answer", "the row asks for 42"),
        (said("#### 42", tokens=1), "too_short", "0 tokens besides the end token, min_tokens is 1"),
        (said(" \n ", tokens=4), "too_short", "3 tokens besides the end token, min_tokens is 1"),
        (said(LOOP + "#### 42"), "repetitive", "82% of its runs of eight words are repeats"),
        (said(LINES), None, None),
        (said("1 + 1 = 2\n" * 5 + "#### 42"), "repetitive", "67% of its lines are repeats"),
    ],
)
def test_each_response_is_judged_alone(step, sample, reason, detail):
    # LOOP has 7 words a round, 12 rounds: with the answer 85 words and as many runs of eight, 7 + 8 of them new.
    kept, out, counts, _ = step([make_row(0), make_row(1)], [[sample], [said("#### 42")]])
    assert counts["kept"] == (2 if reason is None else 1)
    add_up(counts, kept, out)
    if reason is None:
        return
    (record,) = out
    assert (record["reason"], record["detail"]) == (reason, detail)
    assert {key: record[key] for key in ("id", "file", "line", "row")} == {
        "id": "sums:0#0",
        "file": "sums.jsonl",
        "line": 1,
        "row": 0,
    }
    assert (record["step"], record["column"]) == ("generate", "messages[2].content")
    assert record["hint"] and record["excerpt"][:5] == sample.text.replace("\n", "\\n")[:5]
    # The fields of every step's quarantine.
    fields = "id file line row column reason hint step detail excerpt"
    assert list(record) == fields.split()


def test_the_shares_by_hand():
    assert generate.repeated_lines(LINES) == pytest.approx(3 / 5)
    assert generate.repeated_lines("a\n" * 4) == 0.0
    assert generate.repeated_lines("a\n\n" * 4 + "  a") == pytest.approx(4 / 5)
    assert generate.repeated_lines("a\nb\nc\nd\ne") == 0.0


def test_the_first_reason_counts_and_the_bounds_are_inclusive(step):
    rows = [make_row(i) for i in range(4)]
    unfinished, short = said("1 + 1 = 2\n" * 9, ended=False), said("#### 42")
    script = [[unfinished], [said("1 + 1 = 2\n" * 9)], [short], [said("It is #### 42")]]
    kept, out, counts, _ = step(rows, script, min_tokens=3)
    assert [record["reason"] for record in out] == ["unfinished", "repetitive", "too_short"]
    assert [row["id"] for row in kept] == ["sums:3#0"]
    assert step(rows, script, min_tokens=2)[2]["kept"] == 2
    # A share equal to the limit is not above it.
    assert step(rows[:1], [[said(LINES)]], max_repetition=0.6)[2]["kept"] == 1
    assert step(rows[:2], [[said(LINES)], [short]], max_repetition=0.59)[2]["quarantined"] == {"repetitive": 1}


def test_duplicates_and_surplus_are_of_one_row_and_of_what_is_kept(step):
    rows = [make_row(0), make_row(1)]
    texts = ["#### 41", "#### 42", "42 #### 42", "#### 42", "so #### 42"]
    script = [[said(text) for text in texts], [said("#### 42") for _ in texts]]
    kept, out, counts, _ = step(rows, script)
    assert [row["id"] for row in kept] == ["sums:0#1", "sums:0#2", "sums:0#4", "sums:1#0"]
    assert counts["quarantined"] == {"duplicate": 5, "wrong_answer": 1}
    add_up(counts, kept, out)
    again = {record["id"]: record["detail"] for record in out if record["reason"] == "duplicate"}
    assert again["sums:0#3"] == "the same as sample 1" and again["sums:1#4"] == "the same as sample 0"
    # A wrong response takes no place, and a repeated one is called what it is even when the places are taken.
    kept, out, counts, _ = step(rows, script, keep=2)
    assert [row["id"] for row in kept] == ["sums:0#1", "sums:0#2", "sums:1#0"]
    assert counts["quarantined"] == {"duplicate": 5, "surplus": 1, "wrong_answer": 1}
    add_up(counts, kept, out)
    assert next(record["id"] for record in out if record["reason"] == "surplus") == "sums:0#4"


def test_a_row_keeps_everything_but_its_response(step):
    row = make_row(0, answer="42", bucket="hard", pass_rate=0.25, rejected="#### 40")
    (kept,), _, counts, scripted = step([row], [[said("6 * 7\n#### 42")]], temperature=0.7, top_p=0.9, seed=5)
    messages = [*row["messages"][:2], {"role": "assistant", "content": "6 * 7\n#### 42"}]
    assert kept == row | {"id": "sums:0#0", "messages": messages, "sample": 0, "tokens": 6}
    ((prompts, n, options),) = scripted.asked
    assert prompts == [row["messages"][:2]] and n == 1
    assert {key: options[key] for key in ("temperature", "top_p", "max_new_tokens", "seed")} == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_new_tokens": 96,
        "seed": 5,
    }


# Two questions of an evaluation set: one told apart by its n-grams, one so short that it must stand as it is.
EXAM = (
    "A farmer packs 12 crates with 36 apples each and sells every crate for 9 dollars. How much does he earn?",
    "Which river runs through the capital of Velmora?",
)


def test_a_response_that_has_an_evaluation_question_is_not_learned(step, tmp_path):
    (tmp_path / "s").mkdir()
    write_jsonl(tmp_path / "s/exam.jsonl", [{"id": i, "prompt": text} for i, text in enumerate(EXAM)])
    script = [
        [said("Known. " + EXAM[0] + " He earns 108.\n#### 42"), said("A farmer packs apples.\n#### 42")],
        [said(f"Q: {EXAM[1]}\n#### 42"), said("The capital is 42 miles away.\n#### 42")],
        [said(EXAM[0] + "\n#### 41"), said(EXAM[0].replace("36", "35").replace("12", "11") + "\n#### 42")],
    ]
    kept, out, counts, _ = step([make_row(i) for i in range(3)], script)
    add_up(counts, kept, out)
    assert [row["id"] for row in kept] == ["sums:0#1", "sums:1#1", "sums:2#1"]
    # One that is wrong is left out by the reason that would hold without the exam.
    assert counts["quarantined"] == {"eval_overlap": 2, "wrong_answer": 1}
    assert counts["eval_items"] == {"exam": 2}
    assert [record["detail"].split(",")[0] for record in out] == ["exam:0", "exam:1", "the row asks for 42"]
    manifest = read_json(tmp_path / "s/out/manifest.json")
    assert str(tmp_path / "s/exam.jsonl") in manifest["inputs"]


# --- verification --------------------------------------------------------------------------------

CHECK = {"kind": "uppercase", "words": ["pear", "stone"]}
KINDS = [
    make_row(0, "#### 1/2", "1/2"),
    make_row(1, "PEAR STONE", None, check=CHECK),
    make_row(2, "Tarsk", None),
    make_row(3, "A long response that is no short answer at all.", None),
    make_row(4) | {"messages": make_row(4)["messages"][1:] * 2},
]
ANSWERS = [["#### 0.5", "#### 1/2"], ["STONE, PEAR", "pear stone"], ["tarsk", "Velmora"], ["x", "y"], ["5", "6"]]


def test_every_kind_of_row_is_verified_in_its_way():
    found, given_up = generate.judge(KINDS, ANSWERS, SETTINGS)
    assert found == [[True, True], [True, False], [True, False], [None, None], [None, None]]
    assert given_up == 0


def test_prose_for_a_short_answer_is_unverified_and_not_wrong():
    responses = [["The answer to your question is Tarsk, of course.", "Velmora"]]
    assert generate.judge(KINDS[2:3], responses, SETTINGS) == ([[None, False]], 0)


@pytest.mark.parametrize(("verify", "kept", "unverified"), [(True, 8, 4), (False, 10, 10)])
def test_what_cannot_be_verified_is_kept_and_counted(step, verify, kept, unverified):
    script = [[said(text) for text in own] for own in ANSWERS]
    rows, out, counts, _ = step(KINDS, script, verify=verify)
    add_up(counts, rows, out)
    assert (counts["kept"], counts["unverified"]) == (kept, unverified)
    assert (counts["prompts"], counts["prompts_kept"]) == (5, 5)
    written = sum(sample.tokens for own in script for sample in own)
    assert counts["generated_tokens"] == written
    assert counts["kept_tokens"] == sum(row["tokens"] for row in rows)
    assert (counts["kept_tokens"] == written) == (not verify)


def test_prompts_without_a_kept_response_are_not_counted_as_kept(step):
    _, _, counts, _ = step([make_row(0), make_row(1)], [[said("#### 1")], [said("#### 42")]])
    assert (counts["prompts"], counts["prompts_kept"]) == (2, 1)


def test_a_comparison_that_is_given_up_is_wrong_and_counted(step):
    hopeless = said(r"#### \binom{1000000000}{500000000}")
    rows = [make_row(0) | {"judge": "math"}, make_row(1)]
    kept, _, counts, _ = step(rows, [[hopeless], [said("#### 42")]])
    assert [row["id"] for row in kept] == ["sums:1#0"]
    assert (counts["given_up"], counts["quarantined"]) == (1, {"wrong_answer": 1})


def long_row(i: int) -> dict:
    row = make_row(i)
    row["messages"][1]["content"] = "one " * 990
    return row


def test_prompts_without_room_are_left_out_with_an_account_and_the_others_are_asked(step, tmp_path, capsys):
    kept, out, counts, scripted = step([long_row(0), make_row(1), long_row(2)], [[said("#### 42")]])
    assert [row["id"] for row in kept] == ["sums:1#0"] and out == []
    assert len(scripted.asked[0][0]) == counts["prompts"] == 1 and counts["excluded"] == {"no_room": 2}
    without = list(read_jsonl(tmp_path / "s/out/excluded.jsonl"))
    assert [(one["id"], one["reason"], one["column"]) for one in without] == [
        (f"sums:{i}", "no_room", "messages") for i in (0, 2)
    ]
    assert "where the context of 1000 leaves 904" in without[0]["detail"] and without[0]["hint"]
    assert "generate: 2 of 3 rows are not asked; excluded.jsonl has why (sums.jsonl row 0: " in capsys.readouterr().out


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "generate.samples: 2 at temperature 0 are all alike"),
        ({"temperature": 0, "samples": 1, "top_p": 0.9}, "generate.top_p: it changes nothing"),
        ({"keep": 3}, "generate.keep: 3 of 2 samples"),
        ({"min_tokens": 96}, "generate.min_tokens: 96 must be below"),
    ],
)
def test_settings_that_say_nothing(settings, message):
    with pytest.raises(ValueError, match=message):
        Generate.fit(SETTINGS | settings)
    Generate.fit(SETTINGS)
    Generate.fit(SETTINGS | {"temperature": 0, "samples": 1})


def test_mistakes_end_in_one_line(step, tmp_path):
    with pytest.raises(ValueError, match=r"keeps none of 2 .*'wrong_answer': 2.*better teacher.*/refused\.jsonl"):
        step([make_row(0)], [[said("#### 1"), said("#### 2")]])
    with pytest.raises(
        ValueError, match=r"none of 1 rows can be asked, the first \(sums\.jsonl row 0: a prompt of 992 "
    ):
        step([long_row(0)], [[said("#### 42")]])
    told = {"input": tmp_path, "eval": [], "teacher": tmp_path / "none", "out": tmp_path / "o"}
    settings = argparse.Namespace(settings=SETTINGS, **told)
    with pytest.raises(ValueError, match="no checkpoint there"):
        generate.main(settings)


# --- with a model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A random model that ends some responses early: several letters end them."""
    folder = checkpoint(tmp_path_factory.mktemp("generate") / "teacher", SMALL)
    from steps.models.checkpoints import load_tokenizer

    tokenizer = load_tokenizer(folder)
    config = read_json(folder / "generation_config.json")
    config["eos_token_id"] = [tokenizer.eos_token_id, *tokenizer.encode("aeinorst")]
    write_json(folder / "generation_config.json", config)
    return folder


def sampled(folder, teacher, **settings):
    rows = [make_row(i, "Well, that I do not know for certain.", None) for i in range(12)]
    write_jsonl(folder / "train.jsonl", rows)
    out = folder / f"out-{settings.get('batch_size')}-{settings.get('seed')}-{len(list(folder.iterdir()))}"
    settings = SETTINGS | {"samples": 4, "max_new_tokens": 24} | settings
    told = {"input": folder / "train.jsonl", "eval": [], "teacher": teacher, "out": out}
    generate.main(argparse.Namespace(settings=settings, **told))
    return rows, out


def test_the_responses_are_the_engines(teacher, tmp_path):
    rows, out = sampled(tmp_path, teacher)
    loaded = Engine.load(teacher, 8)
    drawn = loaded.sample(
        [row["messages"][:-1] for row in rows], n=4, temperature=1.0, max_new_tokens=24, seed=SETTINGS["seed"]
    )
    counts = read_json(out / "manifest.json")["counts"]
    kept, left = list(read_jsonl(out / "train.jsonl")), list(read_jsonl(out / "quarantine.jsonl"))
    add_up(counts, kept, left)
    assert counts["kept"] > 5 and counts["quarantined"]["unfinished"] > 5, "both must occur"
    by_id = {f"{row['id']}#{j}": own[j] for row, own in zip(rows, drawn, strict=True) for j in range(4)}
    assert by_id.keys() == {record["id"] for record in [*kept, *left]}
    for row in kept:
        sample = by_id[row["id"]]
        assert (row["messages"][-1]["content"], row["tokens"]) == (sample.text, sample.tokens)
        assert sample.ids[-1] in loaded.stop_ids
    for record in left:
        cut = by_id[record["id"]].ids[-1] not in loaded.stop_ids
        assert (record["reason"] == "unfinished") == cut
    assert counts["generated_tokens"] == sum(sample.tokens for own in drawn for sample in own)


def test_equal_runs_give_equal_bytes_and_the_batch_does_not_matter(teacher, tmp_path):
    _, first = sampled(tmp_path, teacher)
    _, second = sampled(tmp_path, teacher)
    _, alone = sampled(tmp_path, teacher, batch_size=1)
    _, other = sampled(tmp_path, teacher, seed=1)
    for name in ("train.jsonl", "quarantine.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes() == (alone / name).read_bytes()
        assert (first / name).read_bytes() != (other / name).read_bytes()
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (first, second)]
    assert manifests[0] == manifests[1]
