"""The split depends on prompts and seed alone, and takes the share it is asked for."""

from argparse import Namespace
from random import Random

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import split


def parts(folder, rows, valid_share=0.1, seed=0, sources=None):
    write_jsonl(folder / "rows.jsonl", rows)
    settings = {"valid_share": valid_share, "seed": seed} | ({"sources": sources} if sources else {})
    split.main(Namespace(settings=settings, input=folder / "rows.jsonl", out=folder / "out"))
    return list(read_jsonl(folder / "out" / "train.jsonl")), list(read_jsonl(folder / "out" / "valid.jsonl"))


def row(i, *contents, system=None, file="a.json"):
    turns = [{"role": ("user", "assistant")[j % 2], "content": text} for j, text in enumerate(contents)]
    messages = ([{"role": "system", "content": system}] if system else []) + turns
    return {"id": f"a:{i}", "messages": messages, "file": file, "line": i + 1, "row": i}


ROWS = [row(i, f"What is {i} + 1?", f"{i + 1}", file="a.json" if i % 2 else "b.json") for i in range(4000)]


def test_every_row_is_in_one_part_and_the_share_holds(tmp_path):
    train, valid = parts(tmp_path, ROWS)
    assert sorted(row["id"] for row in train + valid) == sorted(row["id"] for row in ROWS)
    # 400 expected, standard deviation 19.
    assert 324 < len(valid) < 476
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert (counts["in"], counts["train"], counts["valid"]) == (4000, len(train), len(valid))
    assert counts["by_file"]["a.json"] == {"in": 2000, "kept": 2000, "quarantined": {}}


def test_order_and_other_rows_do_not_matter_and_the_seed_does(tmp_path):
    valid = {row["id"] for row in parts(tmp_path, ROWS)[1]}
    shuffled = Random(0).sample(ROWS, 2000)
    assert {row["id"] for row in parts(tmp_path, shuffled)[1]} == valid & {row["id"] for row in shuffled}
    other = {row["id"] for row in parts(tmp_path, ROWS, seed=1)[1]}
    # Independent draws of 10 % share 1 % of the rows.
    assert 10 < len(valid & other) < 80


def test_a_larger_share_only_adds(tmp_path):
    small = {row["id"] for row in parts(tmp_path, ROWS, 0.05)[1]}
    assert small < {row["id"] for row in parts(tmp_path, ROWS, 0.2)[1]}


def test_no_rows_at_all_are_the_steps_before(tmp_path):
    with pytest.raises(ValueError, match=r"it has no rows; quarantine\.jsonl of the steps before"):
        parts(tmp_path, [])


@pytest.mark.parametrize("solutions", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_prompt_is_in_both_parts(tmp_path, solutions, seed):
    rows = [row(solutions * i + j, f"Problem {i}", f"solution {j}") for i in range(200) for j in range(solutions)]
    train, valid = parts(tmp_path, rows, seed=seed)
    asked = [{found["messages"][0]["content"] for found in part} for part in (train, valid)]
    assert not asked[0] & asked[1] and len(asked[1]) * solutions == len(valid)
    # 20 of 200 problems expected, standard deviation 4.2.
    assert 6 < len(asked[1]) < 36


PASSAGE = "The river rises in the north and flows through three towns before it meets the sea."


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (row(0, "Who?", "Una"), row(1, "who? ", "Sten"), True),
        (row(0, "Who?", "Una"), row(1, "Who?", "Una", "Why?", "So."), True),
        (row(0, "Who?", "Una"), row(1, "Why?", "Una"), False),
        (
            row(0, "Who built the first bridge?", "a", system="You are a pirate."),
            row(1, "Who built the first bridge?", "b"),
            True,
        ),
        (row(0, "Who built it?", "a", system=PASSAGE), row(1, "Who built it?", "b", system=PASSAGE + " So."), True),
        (row(0, "Who built it?", "a", system=PASSAGE), row(1, "Who broke it?", "b", system=PASSAGE), False),
        (row(0, "Who?"), row(1, "Who?", "Una"), True),
    ],
)
def test_what_a_conversation_asks_first_is_its_prompt(first, second, together):
    assert (split.opening(first) == split.opening(second)) == together


def test_system_turns_longer_than_the_question_part_no_question(tmp_path):
    """As in Orca: each question under several long system turns."""
    persona = "You are an assistant who explains each step as to a child, with examples, at {} length and with care."
    rows = [
        row(4 * i + j, f"What is {i} + 1?", f"{i + 1}", system=persona.format(length))
        for i in range(200)
        for j, length in enumerate(("great", "some", "little", "no"))
    ]
    train, valid = parts(tmp_path, rows)
    assert len(valid) % 4 == 0 and 24 <= len(valid) <= 144
    assert {kept["row"] // 4 for kept in train}.isdisjoint(kept["row"] // 4 for kept in valid)


def test_one_question_about_many_passages_is_as_many_prompts(tmp_path):
    rows = [row(i, "Sum it up.", f"{i}", system=f"{PASSAGE} It has {i} fish.") for i in range(240)]
    train, valid = parts(tmp_path, rows)
    assert 8 <= len(valid) <= 48 and len(train) + len(valid) == 240


def test_a_document_is_its_own_prompt():
    documents = [{"messages": [{"role": "document", "content": text}]} for text in ("One.", "Two.", "one.")]
    assert split.opening(documents[0]) == split.opening(documents[2]) != split.opening(documents[1])


@pytest.mark.parametrize("prompts", [2, 3, 20])
@pytest.mark.parametrize("valid_share", [1e-6, 0.05, 1 - 1e-6])
def test_each_part_has_a_prompt_as_long_as_there_are_two(tmp_path, prompts, valid_share):
    for seed in range(10):
        rows = [row(i, f"Question {i % prompts}", f"answer {i}") for i in range(2 * prompts)]
        train, valid = parts(tmp_path, rows, valid_share, seed)
        assert len(train) >= 2 and len(valid) >= 2 and len(train) + len(valid) == 2 * prompts


@pytest.mark.parametrize(
    ("rows", "said"), [(1, "its only row has one prompt"), (3, "all of its 3 rows have one prompt")]
)
def test_one_prompt_cannot_be_held_out(tmp_path, rows, said):
    with pytest.raises(ValueError, match=rf"rows.jsonl: {said}, and another one must be held out"):
        parts(tmp_path, [row(i, "Why?", f"Because {i}") for i in range(rows)])


def test_a_source_keeps_as_many_rows_as_its_cap(tmp_path):
    train, valid = parts(tmp_path, ROWS, sources={"b.json": {"cap": 50, "source": "b.json"}})
    kept = [found["id"] for found in train + valid if found["file"] == "b.json"]
    assert len(kept) == 50 and len(train + valid) == 2050
    records = list(read_jsonl(tmp_path / "out" / "quarantine.jsonl"))
    assert {(record["reason"], record["file"]) for record in records} == {("over_cap", "b.json")}
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]["by_file"]
    assert counts["b.json"] == {"in": 2000, "kept": 50, "quarantined": {"over_cap": 1950}}
    # The same rows whatever their order, and those of a smaller cap among them.
    shuffled = parts(tmp_path, Random(0).sample(ROWS, 4000), sources={"b.json": {"cap": 20, "source": "b.json"}})
    assert {found["id"] for part in shuffled for found in part if found["file"] == "b.json"} < set(kept)
    whole = parts(tmp_path, ROWS, sources={"b.json": {"cap": 2000, "source": "b.json"}})
    assert len(whole[0] + whole[1]) == 4000


def test_a_greeting_that_many_conversations_open_with_is_no_prompt(tmp_path):
    rows = [row(i, "Hey", "Hello!", f"What is {i} + 1?", f"{i + 1}") for i in range(240)]
    train, valid = parts(tmp_path, rows, 0.05)
    assert 1 <= len(valid) <= 30 and len(train) + len(valid) == 240
    one = [row(i, "Who are you?", f"Answer {i}") for i in range(240)]
    for seed in range(8):
        train, valid = parts(tmp_path, one + [row(240 + i, f"Question {i}?", "x") for i in range(10)], 0.05, seed)
        assert not {kept["id"] for kept in valid} & {kept["id"] for kept in one} and valid


def test_an_opening_that_asks_nothing_makes_no_other_prompt(tmp_path):
    openings = ("", "Please solve this problem: ", "Hello! ", "Question: ")
    rows = [
        row(4 * i + j, f"{said}What is {i} times 7?", f"{j}") for i in range(100) for j, said in enumerate(openings)
    ]
    train, valid = parts(tmp_path, rows)
    assert len(valid) % 4 == 0 and {kept["row"] // 4 for kept in train}.isdisjoint(kept["row"] // 4 for kept in valid)


def test_a_cap_that_leaves_one_prompt_is_named(tmp_path):
    with pytest.raises(ValueError, match="its only row has, of those that `cap` keeps, one .* raise `cap`"):
        parts(tmp_path, ROWS[:10:2], sources={ROWS[0]["file"]: {"cap": 1, "source": "a"}})


@pytest.mark.parametrize(
    ("answers", "said", "judge"),
    [
        (["12", "1.5", "5 km"], None, "number"),
        (["12", r"\sqrt{2}"], None, "math"),
        (["Tarsk", "Velm"], None, "exact"),
        (["12", r"\sqrt{2}"], "number", "number"),
    ],
)
def test_rows_with_an_answer_get_the_judge_of_their_data_set(tmp_path, capsys, answers, said, judge):
    golds = [*answers, None]
    rows = [row(i, f"How much is {i}?") | {"answer": golds[i % len(golds)]} for i in range(12)]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    settings = {"valid_share": 0.3, "seed": 0} | ({"judge": said} if said else {})
    split.main(Namespace(settings=settings, input=tmp_path / "rows.jsonl", out=tmp_path / "out"))
    kept = [one for part in ("train", "valid") for one in read_jsonl(tmp_path / "out" / f"{part}.jsonl")]
    assert len(kept) == 12 and all(one.get("judge") == (judge if one["answer"] else None) for one in kept)
    assert read_json(tmp_path / "out" / "manifest.json")["counts"]["judge"] == judge
    assert f"judged by {judge!r}" in capsys.readouterr().out


def test_too_few_rows_are_said(tmp_path, capsys):
    parts(tmp_path, ROWS[:20])
    assert "split: 18 rows to train on are few: a training makes few steps of them" in capsys.readouterr().out
    parts(tmp_path, ROWS[:200])
    assert "are few" not in capsys.readouterr().out
