"""Formats against records written by hand: what is read, quarantined by name, and recognised."""

import bz2
import gzip
import io
import json
from argparse import Namespace
from pathlib import Path
from random import Random

import orjson
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import files, ingest
from steps.data.files import recognised
from steps.data.records import Reader
from steps.data.rows import Ledger, RowProblem
from steps.settings.formats import FORMATS, PARTS, changes, is_telling
from tests.data.test_ingest import mutate

LIMIT = 100_000


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text} | more


ASKED, TOLD = user("a"), assistant("b")
TALK = [ASKED, TOLD]
CALL = {"name": "add", "arguments": {"a": 1}}


def row_of(record: dict, form: str = "messages", **source) -> dict:
    messages, answer, extras = Reader(form, source)(record)
    return {"messages": messages, "answer": answer} | extras


def problem_of(record: dict, form: str = "messages", **source) -> tuple[str, str]:
    with pytest.raises(RowProblem) as caught:
        Reader(form, source)(record)
    assert caught.value.hint
    return caught.value.reason, caught.value.column


def ingested(folder: Path, *records: dict, **source):
    """Kept rows and quarantined rows of a file."""
    path = folder / "rows.jsonl"
    write_jsonl(path, records)
    ledger = Ledger(folder, "ingest")
    ingest.ingest_source({"path": str(path)} | source, LIMIT, ledger)
    ledger.close()
    return [list(read_jsonl(folder / f"{name}.jsonl")) for name in ("rows", "quarantine")]


def run(folder: Path, *sources: dict) -> dict:
    """The manifest of the step."""
    out = folder / "out"
    ingest.main(Namespace(settings={"max_record_bytes": LIMIT}, sources=[*sources], out=out))
    return read_json(out / "manifest.json") | {"rows": list(read_jsonl(out / "rows.jsonl"))}


# --- the registry --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_of_a_format_becomes_its_row(tmp_path, name):
    entry = FORMATS[name]
    assert {*entry.parts.values()} <= {*PARTS}
    row = row_of(entry.example, name)
    row.pop("label", None)
    assert row == entry.row
    (kept,), quarantined = ingested(tmp_path, entry.example)
    assert not quarantined and {key: kept[key] for key in entry.row} == entry.row


@pytest.mark.parametrize("name", FORMATS)
def test_the_example_of_a_format_is_recognised(tmp_path, name):
    write_jsonl(tmp_path / "rows.jsonl", [{"id": 1} | FORMATS[name].example])
    assert recognised(tmp_path / "rows.jsonl", LIMIT, {}) == name


# --- fields that change what a row means ---------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "column"),
    [
        ({"images": ["a.png"]}, "images"),
        ({"image": "a.png"}, "image"),
        ({"image_path": "a.png"}, "image_path"),
        ({"audios": [{"path": "a"}]}, "audios"),
        ({"videos": ["a"]}, "videos"),
        ({"tool_calls": [CALL]}, "tool_calls"),
        ({"function_call": CALL}, "function_call"),
        ({"input": "more"}, "input"),
        ({"context": "a passage"}, "context"),
        ({"choices": ["a", "b"]}, "choices"),
        ({"loss_mask": [0, 1]}, "loss_mask"),
        ({"labels": [True, False]}, "labels"),
        ({"chosen": "c"}, "chosen"),
        ({"rejected_answer": "c"}, "rejected_answer"),
        ({"reward": 0.0}, "reward"),
        ({"is_correct": False}, "is_correct"),
        ({"segments": [{"label": True, "text": "a"}]}, "segments"),
    ],
)
def test_a_field_that_changes_what_a_row_means_quarantines_it_by_name(more, column):
    record = {"prompt": "a", "response": "b"} | more
    assert problem_of(record, "prompt_response") == ("unsupported_field", column)
    assert row_of(record, "prompt_response", ignore=[column])["messages"] == TALK
    if column not in ("input", "chosen"):
        assert problem_of({"messages": TALK} | more) == ("unsupported_field", column)


@pytest.mark.parametrize(
    "more",
    [
        {"id": 7, "source": "web", "url": "x", "language": "en", "metadata": {"images": 1}, "n_tokens": 5},
        {"images": [], "image": None, "input": "", "context": "", "tool_calls": None, "weight": None, "loss": ""},
        {"num_images": 0, "context_length": 12, "reasoning_effort": "high", "input_tokens": 4, "train_test_split": "a"},
        {"is_correct": True, "label": "sums", "tags": ["sums"], "rejected_score": 0.5, "chosen-model": "x"},
        {"reward_model_name": "x", "score": 0.1, "answer": "c", "solution": "d", "说明": "x", "": 1},
        {"weight": 1, "train": True},
    ],
)
def test_a_note_changes_nothing(more):
    assert row_of({"prompt": "a", "response": "b"} | more, "prompt_response") == {"messages": TALK, "answer": None}


def test_names_tell_by_their_words():
    assert is_telling("rejectedResponse") and is_telling("IMAGE_URL") and is_telling("passages")
    assert not is_telling("document_id") and not is_telling("training_dataset")
    assert changes("weight", 0.5) and changes("train", False) and not changes("weight", 1.0)


def test_fields_that_no_row_shows_are_listed(tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b", "level": 3, "topic": "x"}])
    manifest = run(tmp_path, {"path": str(tmp_path / "rows.jsonl")})
    assert manifest["setup"] == {"formats": {"rows.jsonl": "prompt_response"}, "unused": ["level", "topic"]}
    assert capsys.readouterr().out.splitlines() == [
        "temper: ingest: rows.jsonl: read as prompt_response",
        "temper: ingest: fields that no row shows: level, topic",
        "temper: ingest: 1 of 1 rows kept",
    ]


@pytest.mark.parametrize(
    "named", [{"prompt": "asked"}, {"system": "rules"}, {"history": "before"}, {"answer": "result"}]
)
def test_a_named_column_that_no_record_has_is_the_users_error(tmp_path, named):
    (field,) = named.values()
    records = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": "d"}]
    with pytest.raises(ValueError, match=f"none of its 2 records has the field '{field}', which `columns` names"):
        ingested(tmp_path, *records, format="prompt_response", columns=named)
    if "prompt" not in named:
        ingested(tmp_path, *records, {field: None}, format="prompt_response", columns=named)


# --- turns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "turn",
    [
        assistant("b", reasoning_content="because"),
        assistant("b", thinking="because"),
        assistant("b", reasoning="because"),
        assistant("<think>because</think>b"),
        assistant("<think>\nbecause\n</think>\n\nb"),
        assistant(" \n<think>\r\nbecause\r\n</think>\r\nb"),
        assistant([{"type": "thinking", "thinking": "because"}, {"type": "text", "text": "b"}]),
    ],
)
def test_reasoning_stands_apart_from_the_content(turn):
    assert row_of({"messages": [ASKED, turn]})["messages"] == [ASKED, assistant("b", thinking="because")]


def test_reasoning_in_a_field_of_the_record_is_of_the_response():
    record = {"prompt": "a", "completion": "b", "reasoning_content": "because"}
    assert row_of(record, "prompt_completion")["messages"] == [ASKED, assistant("b", thinking="because")]
    record["completion"] = "<think>x</think>b"
    assert problem_of(record, "prompt_completion") == ("thinking_tags", "completion")


def test_empty_reasoning_is_none_and_the_text_stays_as_it_is():
    for content in ("b", "<think>\n\n</think>\n\nb", "<think></think>b"):
        assert row_of({"messages": [ASKED, assistant(content)]})["messages"] == TALK
    text = " b\n\n <thinking> x </thinking> "
    assert row_of({"messages": [ASKED, assistant(text)]})["messages"][1]["content"] == text
    asked = user("What does <think> mean, and </think>?")
    assert row_of({"messages": [asked, TOLD]})["messages"] == [asked, TOLD]


@pytest.mark.parametrize(
    "content",
    [
        "<think>because b",
        "because</think>b",
        "<think>a</think>b<think>c</think>",
        "<think>a<think>c</think>b",
        "<think>a</think>b</think>c",
        "Write <think> first.",
    ],
)
def test_tags_that_are_not_one_block_are_quarantined(content):
    assert problem_of({"messages": [ASKED, assistant(content)]}) == ("thinking_tags", "messages[1].content")
    assert problem_of({"prompt": "a", "response": content}, "prompt_response") == ("thinking_tags", "response")


def test_what_the_assistant_alone_does_is_not_read_of_others():
    assert problem_of({"messages": [ASKED | {"reasoning": "x"}, TOLD]}) == ("unsupported_field", "messages[0]")
    record = {"messages": [ASKED | {"tool_calls": [CALL]}, TOLD]}
    assert problem_of(record) == ("unsupported_field", "messages[0].tool_calls")
    assert problem_of({"messages": [ASKED, assistant("b", thinking="x", reasoning="y")]})[0] == "unsupported_field"
    turns = [ASKED, {"role": "tool_call", "content": json.dumps(CALL), "reasoning_content": "x"}]
    assert row_of({"messages": turns})["messages"][1] == assistant("", thinking="x", tool_calls=[CALL])


def test_a_block_of_reasoning_without_an_answer_is_empty():
    assert problem_of({"messages": [ASKED, assistant("<think>a</think>\n")]}) == ("empty_turn", "messages[1].content")


def test_roles_and_keys_by_other_names():
    turns = [
        {"from": "developer", "value": "s"},
        {"from": "Human", "value": "a"},
        {"from": "chatgpt", "value": "b"},
        {"role": "prompter", "content": "a"},
        {"role": "model", "content": "b"},
    ]
    expected = [{"role": "system", "content": "s"}, *TALK, *TALK]
    for record in ({"messages": turns}, {"messages": json.dumps(turns)}):
        assert row_of(record)["messages"] == expected
    own = [{"speaker": "user", "words": "a"}, {"speaker": "assistant", "words": "b"}]
    assert (
        row_of({"talk": own}, columns={"messages": "talk", "role": "speaker", "content": "words"})["messages"] == TALK
    )


def test_the_same_system_turn_twice_is_one():
    system = {"role": "system", "content": "s"}
    record = {"system": "s", "messages": [system, *TALK]}
    assert row_of(record)["messages"] == [system, *TALK] == row_of({"system_prompt": "s", "messages": TALK})["messages"]
    assert problem_of(record | {"system": "t"}) == ("role_order", "messages[0].role")


def test_content_in_parts_is_its_text():
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]
    assert row_of({"messages": [user(parts), TOLD]})["messages"][0] == user("abc")
    for part, reason in (
        ({"type": "image_url", "image_url": {"url": "x"}}, "unsupported_content"),
        ({"type": "input_audio", "input_audio": {}}, "unsupported_content"),
        ({"type": "tool_use", "name": "x"}, "unsupported_content"),
        ({"type": ["text"]}, "unsupported_content"),
        ({"type": "text"}, "wrong_type"),
        (3, "wrong_type"),
    ):
        record = {"messages": [user([parts[0], part]), TOLD]}
        assert problem_of(record) == (reason, "messages[0].content[1]")


# --- tools ---------------------------------------------------------------------------------------

TOOL = {"name": "add", "parameters": {"type": "object"}}
RESULT = {"role": "tool", "content": "2", "name": "add"}


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "tool_calls": [{"id": "x", "type": "function", "function": CALL}]}, RESULT],
        [assistant("", tool_calls=[CALL]), {"role": "tool", "content": "2"}],
        [assistant(None, tool_calls=json.dumps([CALL])), {"role": "observation", "content": "2"}],
        [assistant(None, function_call={"name": "add", "arguments": '{"a": 1}'}), {"role": "function", "content": "2"}],
        [{"role": "function_call", "content": json.dumps(CALL)}, {"role": "tool_response", "content": "2"}],
        [
            {"from": "tool_call", "value": json.dumps([CALL])},
            {"from": "tool", "value": [{"type": "text", "text": "2"}]},
        ],
        [
            assistant(None, tool_calls=[{"id": "x", "function": CALL}]),
            {"role": "tool", "content": "2", "tool_call_id": "x"},
        ],
    ],
)
@pytest.mark.parametrize("tools", [{"tools": [TOOL]}, {"functions": [TOOL]}, {"tools": json.dumps([TOOL])}])
def test_calls_of_tools_and_their_results(turns, tools):
    row = row_of({"messages": [ASKED, *turns, TOLD]} | tools)
    assert row["messages"] == [ASKED, assistant("", tool_calls=[CALL]), RESULT, TOLD]
    assert row["tools"] == [{"type": "function", "function": TOOL}]


def test_calls_that_follow_each_other_are_of_one_turn():
    other = {"name": "sub", "arguments": {}}
    turns = [assistant("Let me see."), *({"role": "tool_call", "content": json.dumps(one)} for one in (CALL, other))]
    results = [{"role": "tool_response", "content": text} for text in "23"]
    _, called, first, second, _ = row_of({"messages": [ASKED, *turns, *results, TOLD]})["messages"]
    assert called == assistant("Let me see.", tool_calls=[CALL, other])
    assert (first["name"], second["name"]) == ("add", "sub")


def test_a_conversation_may_end_with_a_call():
    assert row_of({"messages": [ASKED, assistant(None, tool_calls=[CALL])]})["messages"][1]["tool_calls"] == [CALL]


def calling(call) -> list[dict]:
    return [assistant("", tool_calls=[call])]


AT = "messages[1].tool_calls[0]"


@pytest.mark.parametrize(
    ("turns", "reason", "column"),
    [
        ([assistant(None)], "missing_field", "messages[1].content"),
        ([assistant("", tool_calls=[])], "empty_turn", "messages[1].content"),
        ([assistant("", tool_calls=[CALL]), TOLD], "role_order", "messages[2].role"),
        ([RESULT, TOLD], "role_order", "messages[1].role"),
        ([TOLD, RESULT, TOLD], "role_order", "messages[2].role"),
        ([assistant("", tool_calls=[CALL]), RESULT], "role_order", "messages[2].role"),
        (calling({"name": "x", "arguments": "{"}), "invalid_json", f"{AT}.arguments"),
        (calling({"name": "x", "arguments": [1]}), "wrong_type", f"{AT}.arguments"),
        (calling({"arguments": {}}), "missing_field", f"{AT}.name"),
        (calling("x"), "wrong_type", f"{AT}"),
        (calling({"name": "x", "arguments": {"a": 2**70}}), "wrong_type", f"{AT}.arguments"),
        (calling({"name": "x", "arguments": {"a": float("nan")}}), "wrong_type", f"{AT}.arguments"),
        (calling({"name": "x", "arguments": {"a": "\ud83d"}}), "invalid_utf8", f"{AT}.arguments"),
        ([{"role": "function_call", "content": "add"}], "invalid_json", "messages[1].content"),
        ([*calling({"id": "x"} | CALL), RESULT | {"tool_call_id": "y"}], "role_order", "messages[2].tool_call_id"),
        ([assistant("b", refusal="I will not.")], "unsupported_field", "messages[1].refusal"),
        ([assistant("b", audio={"id": "x"})], "unsupported_field", "messages[1].audio"),
        ([assistant("b", masks=[1])], "unsupported_field", "messages[1].masks"),
    ],
)  # fmt: skip
def test_a_bad_call_names_reason_and_column(turns, reason, column):
    assert problem_of({"messages": [ASKED, *turns]}) == (reason, column)


def test_arguments_nested_without_end_cost_their_row(tmp_path):
    deep: dict = {}
    for _ in range(200):
        deep = {"a": deep}
    records = [{"messages": [ASKED, assistant("", tool_calls=[{"name": "x", "arguments": deep}])]}, {"messages": TALK}]
    kept, quarantined = ingested(tmp_path, *records, format="messages")
    assert len(kept) == 1 and [row["reason"] for row in quarantined] == ["wrong_type"]


# --- what is trained -----------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["weight", "train", "training", "trainable", "loss", "loss_weight"])
def test_a_turn_may_be_shown_and_not_trained_on(key):
    for value in (0, False, "0", "false", 0.0):
        record = {"messages": [ASKED, assistant("b", **{key: value}), ASKED, assistant("d", **{key: 1})]}
        assert row_of(record)["messages"] == [ASKED, assistant("b", train=False), ASKED, assistant("d")]
        assert problem_of({"messages": [ASKED, assistant("b", **{key: value})]}) == ("not_trained", "messages[1]")
        assert row_of({"messages": [ASKED | {key: value}, TOLD]})["messages"] == TALK
    for value in (0.5, 2, "half", [1]):
        record = {"messages": [ASKED, assistant("b", **{key: value})]}
        assert problem_of(record) == ("unsupported_weight", f"messages[1].{key}")
    assert problem_of({"messages": [ASKED | {key: 1}, TOLD]}) == ("unsupported_weight", f"messages[0].{key}")


@pytest.mark.parametrize("key", ["weight", "train", "loss"])
def test_a_row_may_say_that_it_is_not_trained_on(key):
    for form, record in (("messages", {"messages": TALK}), ("prompt_response", {"prompt": "a", "response": "b"})):
        assert row_of(record | {key: 1}, form)["messages"] == TALK
        assert problem_of(record | {key: 0}, form) == ("not_trained", key)
        assert problem_of(record | {key: 0.5}, form) == ("unsupported_weight", key)


def test_a_source_may_train_on_the_last_turn_only():
    turns = [ASKED, assistant("", tool_calls=[CALL]), RESULT, TOLD, ASKED, assistant("d")]
    trained = [turn.get("train", True) for turn in row_of({"messages": turns}, train="last")["messages"]]
    assert trained == [True, False, True, False, True, True]
    record = {"instruction": "a", "output": "b", "history": [["c", "d"]]}
    assert row_of(record, "alpaca", train="last")["messages"][1] == assistant("d", train=False)


# --- pairs ---------------------------------------------------------------------------------------

WORSE = assistant("c")


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("preference", {"prompt": [ASKED], "chosen": [TOLD], "rejected": [WORSE]}),
        ("preference", {"prompt": [ASKED], "chosen": TOLD, "rejected": "c"}),
        ("preference", {"chosen": [ASKED, TOLD], "rejected": [ASKED, WORSE]}),
        ("preference", {"prompt": "a", "chosen": [ASKED, TOLD], "rejected": [ASKED, WORSE]}),
        ("preference", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}),
        ("messages", {"messages": TALK, "rejected_response": "c"}),
        ("messages", {"messages": TALK, "rejected_messages": [ASKED, WORSE]}),
        ("query_response", {"query": "a", "response": "b", "rejected_response": "c"}),
        ("ranking", {"prompt": "a", "responses": ["b", "x", "c"]}),
        ("ranking", {"prompt": "a", "responses": [[WORSE], [TOLD]], "scores": [1, 2]}),
        ("ranking", {"prompt": "a", "responses": '["c", "b"]', "scores": "[1, 2]"}),
    ],
)
def test_a_pair_has_one_prompt_and_two_responses(form, record):
    assert row_of(record, form) == {"messages": TALK, "answer": None, "rejected": "c"}


@pytest.mark.parametrize(
    ("form", "record"),
    [
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}),
        ("alpaca_preference", {"instruction": "a", "chosen": "b", "rejected": "c"}),
        ("sharegpt_preference", {"conversations": [ASKED], "chosen": TOLD, "rejected": WORSE}),
        (
            "openai_preference",
            {"input": {"messages": [ASKED]}, "preferred_output": [TOLD], "non_preferred_output": [WORSE]},
        ),
    ],
)
def test_a_pair_may_say_by_how_much(form, record):
    pair = {"messages": TALK, "answer": None, "rejected": "c"}
    assert row_of(record | {"margin": 2}, form) == row_of(record | {"margin": 2.0}, form) == pair | {"margin": 2.0}
    assert row_of(record | {"margin": 0}, form)["margin"] == 0 and row_of(record | {"margin": None}, form) == pair
    for wrong in (-1, True, "much", [1], float("nan"), float("inf"), 10**400, 1001):
        assert problem_of(record | {"margin": wrong}, form) == ("wrong_type", "margin")


def test_a_rejected_side_that_is_more_than_a_text_is_turns():
    worse = assistant("c", thinking="hm")
    assert row_of({"prompt": "a", "chosen": "b", "rejected": "<think>hm</think>c"}, "preference")["rejected"] == [worse]
    called = [assistant("", tool_calls=[CALL]), RESULT, WORSE]
    record = {"prompt": "a", "chosen": "b", "rejected": [WORSE, user("why?"), WORSE]}
    assert row_of(record, "preference")["rejected"] == record["rejected"]
    assert row_of(record | {"rejected": called}, "preference")["rejected"] == called


def test_the_system_turn_stands_before_both_sides():
    record = {"system": "s", "chosen": [ASKED, TOLD], "rejected": [ASKED, WORSE]}
    row = row_of(record, "preference")
    assert row["messages"] == [{"role": "system", "content": "s"}, *TALK] and row["rejected"] == "c"


@pytest.mark.parametrize(
    ("form", "record", "reason", "column"),
    [
        ("preference", {"chosen": [ASKED, TOLD], "rejected": [user("x"), WORSE]}, "unlike_prompts", "rejected"),
        ("preference", {"chosen": [*TALK, *TALK], "rejected": [ASKED, WORSE]}, "unlike_prompts", "rejected"),
        ("preference", {"chosen": [ASKED, TOLD], "rejected": [ASKED, TOLD]}, "equal_pair", "rejected"),
        ("preference", {"prompt": "x", "chosen": TALK, "rejected": [ASKED, WORSE]}, "unlike_prompts", "rejected"),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": [ASKED, ASKED]}, "role_order", "rejected[1].role"),
        ("ranking", {"prompt": "a", "responses": ["b"]}, "wrong_type", "responses"),
        ("ranking", {"prompt": "a", "responses": ["b", "c"], "scores": [1]}, "wrong_type", "scores"),
        ("ranking", {"prompt": "a", "responses": ["b", "c"], "scores": [1, float("nan")]}, "wrong_type", "scores"),
        ("ranking", {"prompt": "a", "responses": ["b", "c"], "scores": [1, 1]}, "equal_pair", "scores"),
        ("ranking", {"prompt": "a", "responses": ["b", "b"]}, "equal_pair", "responses[1]"),
    ],
)  # fmt: skip
def test_sides_that_are_no_pair_are_quarantined(form, record, reason, column):
    assert problem_of(record, form) == (reason, column)


# --- labels --------------------------------------------------------------------------------------


def labelled(prompt: str, response: str, label) -> dict:
    return {"prompt": prompt, "completion": response, "label": label}


def test_a_bad_response_is_never_trained_as_a_good_one(tmp_path):
    records = [
        labelled("a", "bad", False),
        labelled("a", "good", True),
        labelled("a", "also good", True),
        labelled("b", "bad", 0),
        labelled("c", "good", "true"),
        labelled("d", "same", True),
        labelled("d", "same ", False),
        labelled("e", "x", None),
        labelled("e", "x", "maybe"),
    ]
    kept, quarantined = ingested(tmp_path, *records)
    assert [(row["row"], row["messages"][1]["content"], row.get("rejected")) for row in kept] == [
        (1, "good", "bad"),
        (2, "also good", None),
        (4, "good", None),
    ]
    assert not any("label" in row for row in kept)
    assert {row["row"]: row["reason"] for row in quarantined} == {
        0: "paired", 3: "unpaired", 5: "equal_pair", 6: "unpaired", 7: "missing_field", 8: "wrong_type",
    }  # fmt: skip
    assert [row["hint"] for row in quarantined if row["row"] == 0] == [
        "nothing to do: it is the rejected response of rows:1"
    ]


@pytest.mark.parametrize(
    ("form", "record", "key"),
    [
        ("messages", {"messages": TALK}, "label"),
        ("sharegpt", {"conversations": TALK}, "kto_tag"),
        ("alpaca", {"instruction": "a", "output": "b"}, "kto_tag"),
        ("query_response", {"query": "a", "response": "b"}, "label"),
    ],
)
def test_every_format_with_a_response_may_label_it(tmp_path, form, record, key):
    kept, quarantined = ingested(tmp_path, record | {key: True}, record | {key: False}, format=form)
    assert not kept and [row["reason"] for row in quarantined] == ["equal_pair", "unpaired"]
    kept, quarantined = ingested(tmp_path, record | {key: True}, format=form)
    assert kept[0]["messages"] == TALK and not quarantined


def test_a_response_that_is_labelled_good_and_bad_is_never_good(tmp_path):
    records = [labelled("q", "x", True), labelled("q", "a", True), labelled("q", "a", False), labelled("q", "b", False)]
    kept, quarantined = ingested(tmp_path, *records)
    assert [(row["row"], row["rejected"]) for row in kept] == [(0, "a")]
    assert {row["row"]: row["reason"] for row in quarantined} == {1: "equal_pair", 2: "paired", 3: "unpaired"}


@pytest.mark.parametrize("value", ["FALSE", "0.0", "false", 0, False])
def test_a_mark_as_tables_write_it_is_one(tmp_path, value):
    kept, quarantined = ingested(tmp_path, labelled("a", "bad", value), labelled("b", "good", True))
    assert [row["row"] for row in kept] == [1] and [row["reason"] for row in quarantined] == ["unpaired"]


def test_a_number_beside_a_response_is_a_mark_only_where_the_source_says_so(tmp_path):
    records = [{"question": f"Is {i} even?", "answer": ("yes", "no")[i % 2], "label": 1 - i % 2} for i in range(4)]
    kept, quarantined = ingested(tmp_path, *records, format="question_answer")
    assert not kept and {row["reason"] for row in quarantined} == {"unsupported_field"}
    assert "columns: {label: label}" in quarantined[0]["hint"] and "ignore: [label]" in quarantined[0]["hint"]
    kept, _ = ingested(tmp_path, *records, format="question_answer", ignore=["label"])
    assert len(kept) == 4


def test_options_in_fields_of_their_own_are_not_dropped(tmp_path):
    record = {"question": "Which?", "A": "x", "B": "y", "answer": "A"}
    kept, quarantined = ingested(tmp_path, record, format="question_answer")
    assert not kept and (quarantined[0]["reason"], quarantined[0]["column"]) == ("unsupported_field", "A")


def test_turns_written_as_text_are_turns(tmp_path):
    asked, said = json.dumps([ASKED]), json.dumps([{"role": "assistant", "content": "b"}])
    kept, _ = ingested(tmp_path, {"prompt": asked, "completion": said}, format="prompt_completion")
    assert kept[0]["messages"] == [ASKED, {"role": "assistant", "content": "b"}]
    kept, _ = ingested(tmp_path, {"prompt": "Write JSON.", "completion": '{"a": 1}'}, format="prompt_completion")
    assert kept[0]["messages"][1]["content"] == '{"a": 1}'


def test_results_of_calls_stand_in_the_order_of_the_calls(tmp_path):
    calls = [
        {"id": name, "type": "function", "function": {"name": "temp", "arguments": json.dumps({"at": at})}}
        for name, at in (("c1", "Oslo"), ("c2", "Rome"))
    ]
    results = [{"role": "tool", "tool_call_id": name, "content": text} for name, text in (("c2", "30"), ("c1", "-3"))]
    turns = [ASKED, {"role": "assistant", "content": "", "tool_calls": calls}, *results]
    turns.append({"role": "assistant", "content": "-3 and 30"})
    kept, _ = ingested(tmp_path, {"messages": turns}, format="messages")
    assert [turn["content"] for turn in kept[0]["messages"]] == [ASKED["content"], "", "-3", "30", "-3 and 30"]


def test_labels_meet_across_the_files_of_a_data_set(tmp_path):
    write_jsonl(tmp_path / "one.jsonl", [labelled("a", "good", True)])
    write_jsonl(tmp_path / "two.jsonl", [labelled("a", "bad", False)])
    manifest = run(tmp_path, {"path": str(tmp_path / "*.jsonl")})
    assert [row["rejected"] for row in manifest["rows"]] == ["bad"]
    assert manifest["counts"]["quarantined"] == {"paired": 1}


# --- prompts without a response, documents -------------------------------------------------------


def test_a_conversation_without_a_response_needs_an_answer():
    assert problem_of({"messages": [ASKED]}) == ("role_order", "messages[0].role")
    row = row_of({"messages": [ASKED], "result": "4"}, columns={"answer": "result"})
    assert row == {"messages": [ASKED], "answer": "4"}
    check = {"kind": "uppercase", "words": ["a"]}
    row = row_of({"messages": [ASKED], "rule": json.dumps(check)}, columns={"check": "rule"})
    assert row == {"messages": [ASKED], "answer": None, "check": check}


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("2 + 2 = 4\n#### 4", "4"),
        ("#### 4", "4"),
        (r"So $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        ('["4"]', "4"),
        ("[4]", "[4]"),
        ("[1, 2]", "[1, 2]"),
        ('["4", "5"]', '["4", "5"]'),
        ("#### A heading\nand text", "#### A heading\nand text"),
        (r"\boxed{3} or maybe \boxed{4}", r"\boxed{3} or maybe \boxed{4}"),
    ],
)
def test_of_a_worked_solution_the_answer_is_what_it_marks(written, answer):
    """GSM8K's field `answer` is one."""
    assert row_of({"prompt": "2 + 2?", "answer": written}, "prompt_answer")["answer"] == answer


@pytest.mark.parametrize("truth", ["4", 4, ["4"], 4.0])
def test_the_answer_of_verl_lies_in_an_object(truth):
    record = {"prompt": [ASKED], "reward_model": {"style": "rule", "ground_truth": truth}, "extra_info": {"index": 1}}
    assert row_of(record, "verl")["answer"] in ("4", "4.0")
    record["reward_model"] = json.dumps(record["reward_model"])
    assert row_of(record, "verl")["answer"] in ("4", "4.0")


@pytest.mark.parametrize(
    ("form", "record", "reason", "column"),
    [
        ("verl", {"prompt": [ASKED]}, "missing_field", "reward_model.ground_truth"),
        ("verl", {"prompt": [ASKED], "reward_model": {"style": "model"}}, "missing_field", "reward_model.ground_truth"),
        ("verl", {"prompt": TALK, "reward_model": {"ground_truth": "4"}}, "role_order", "prompt[1].role"),
        ("rlvr", {"messages": [ASKED], "ground_truth": {"target": "4"}}, "wrong_type", "ground_truth"),
        ("rlvr", {"messages": [ASKED], "ground_truth": "4", "constraint": "x"}, "unsupported_field", "constraint"),
        ("prompt_answer", {"prompt": "a", "answer": " "}, "missing_field", "answer"),
        ("text", {"text": " "}, "empty_turn", "text"),
    ],
)
def test_a_bad_prompt_names_reason_and_column(form, record, reason, column):
    assert problem_of(record, form) == (reason, column)


def test_a_class_of_a_document_is_a_note():
    for label in (0, 1, 5, "sport"):
        assert row_of({"text": "One.", "label": label}, "text")["messages"] == [{"role": "document", "content": "One."}]
    assert problem_of({"text": "One.", "images": ["x"]}, "text") == ("unsupported_field", "images")


def test_columns_reach_into_objects():
    record = {"q": {"text": "a"}, "a": {"text": "b", "final": 3}}
    columns = {"prompt": "q.text", "response": "a.text", "answer": "a.final"}
    assert row_of(record, "prompt_response", columns=columns) == {"messages": TALK, "answer": "3"}


# --- files ---------------------------------------------------------------------------------------

PLAIN = [{"prompt": f"What is {i}?", "response": f"It is {i}, \"so\"\nto say"} for i in range(300)]  # fmt: skip
QUOTED = "\n".join(
    ['prompt,response', *(f'What is {i}?,"It is {i}, ""so""\nto say"' for i in range(300)), ""]
)  # fmt: skip


def write(path: Path) -> Path:
    """The plain rows as a file of the kind that its name says."""
    import pyarrow
    import pyarrow.parquet

    lines = "".join(json.dumps(row) + "\n" for row in PLAIN).encode()
    table = pyarrow.Table.from_pylist(PLAIN)
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif kind == "arrow":
        with pyarrow.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table, 100)
    elif kind == "feather.arrow":
        with pyarrow.ipc.new_file(str(path), table.schema) as file:
            file.write_table(table, 100)
    else:
        data = {"jsonl": lines, "json": json.dumps(PLAIN).encode(), "csv": QUOTED.encode()}
        data["tsv"] = QUOTED.replace("prompt,", "prompt\t").replace("?,", "?\t").encode()
        packed = {"": bytes, "gz": gzip.compress, "zst": lambda data: pyarrow.compress(data, "zstd", asbytes=True)}
        of, _, packing = kind.partition(".")
        path.write_bytes(packed[packing](data[of]))
    return path


KINDS = (
    "jsonl",
    "json",
    "csv",
    "tsv",
    "parquet",
    "arrow",
    "feather.arrow",
    "jsonl.gz",
    "json.gz",
    "csv.gz",
    "jsonl.zst",
)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = write(tmp_path / f"rows.{kind}")
    manifest = run(tmp_path, {"path": str(path)})
    assert [[turn["content"] for turn in row["messages"]] for row in manifest["rows"]] == [
        [*row.values()] for row in PLAIN
    ]
    assert [row["row"] for row in manifest["rows"]] == [*range(300)]
    line = {"jsonl": 300, "csv": 600, "tsv": 600}.get(kind.partition(".")[0], 300 if "json" not in kind else 1)
    assert manifest["rows"][-1]["line"] == line
    assert [*manifest["inputs"]] == [str(path)] and manifest["counts"]["kept"] == 300


def test_a_folder_a_pattern_and_a_saved_data_set(tmp_path):
    import datasets

    for name in ("many/a.parquet", "many/deep/b.jsonl.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name)
    for name in ("many/README.md", "many/.hidden.jsonl", "many/_SUCCESS", "many/empty.jsonl"):
        (tmp_path / name).write_text("")
    datasets.Dataset.from_list(PLAIN).save_to_disk(tmp_path / "saved", num_shards=2)
    manifest = run(tmp_path, {"path": str(tmp_path / "many")}, {"path": str(tmp_path / "saved")})
    assert {name: counts["kept"] for name, counts in manifest["counts"]["by_file"].items()} == {
        "a.parquet": 300,
        "deep/b.jsonl.gz": 300,
        "empty.jsonl": 0,
        "data-00000-of-00002.arrow": 150,
        "data-00001-of-00002.arrow": 150,
    }
    assert len({row["id"] for row in manifest["rows"]}) == 900
    assert len(manifest["inputs"]) == 5
    assert run(tmp_path, {"path": str(tmp_path / "many/*.parquet")})["counts"]["kept"] == 300
    (tmp_path / "saved/data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match=r"saved/state\.json: it does not name the files that are there"):
        run(tmp_path, {"path": str(tmp_path / "saved")})


def test_documents(tmp_path):
    for name, text in (("a.txt", "One.\nTwo."), ("deep/b.md", "\ufeffThree."), ("deep/c.txt", " ")):
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    manifest = run(tmp_path, {"path": str(tmp_path / "docs"), "format": "text"})
    assert [row["messages"] for row in manifest["rows"]] == [
        [{"role": "document", "content": text}] for text in ("One.\nTwo.", "Three.")
    ]
    assert manifest["counts"]["quarantined"] == {"empty_turn": 1}
    (tmp_path / "docs/a.txt").write_text("a" * (LIMIT + 1))
    assert run(tmp_path, {"path": str(tmp_path / "docs"), "format": "text"})["counts"]["quarantined"] == {
        "empty_turn": 1, "record_too_large": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b" [\n{}]", "holds a JSON array, not one record a line; rename it to a.json"),
        ("a.jsonl.gz", gzip.compress(b"[]", mtime=0), "rename it to a.json.gz"),
        ("a.jsonl", b'[{"prompt": "a",\n"response": "b"}]', "rename it to a.json"),
        ("a.jsonl", b'{\n  "prompt": "a"\n}\n', "its records have several lines, not one; rename it to a.json"),
        ("a.csv", b"\xff\xfea\x00", "it is UTF-16; save it as UTF-8"),
        ("a.csv", b"a,b,a\n1,2,3\n", "two columns are called 'a'; rename one"),
        ("a.csv", b"\n1,2\n", "its first line is empty; write the names of the columns there"),
        ("a.csv", b'"a,b\n1,2\n', "its first line is no line of names"),
        ("a.csv", b"a,b\n1,2\n", "no format has its fields (a, b); set `format`"),
        ("a.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99, mtime=0)[:-12], "not a readable gzip file"),
        ("a.jsonl.gz", b"plain", "not a readable gzip file after 0 bytes of its text"),
        ("a.jsonl.zst", b"plain", "not a readable zstd file after 0 bytes of its text"),
        ("a.arrow", b"plain", "not a readable Arrow file after row 0"),
        ("a.parquet", b"plain", "not a readable Parquet file after row 0"),
        ("a.jsonl", b"", "there is no record in it; correct the path, or write rows"),
        ("a.csv", b"prompt,response\n", "there is no record in it"),
        ("a.json", b"[]", "there is no record in it"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_name_says_is_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError) as caught:
        run(tmp_path, {"path": str(tmp_path / name)})
    assert message in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_a_number_that_is_none_costs_no_row_that_does_not_use_it(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    record = '{"prompt": "a", "response": "b", "score": NaN, "top": -Infinity}'
    path.write_text(record if kind == "jsonl" else f"[{record}]")
    assert run(tmp_path, {"path": str(path)})["counts"]["quarantined"] == {}


def test_a_broken_row_of_a_csv_costs_itself_only(tmp_path):
    lines = ["prompt;response", "a;b", 'c;"d', "e;f", "g", "h;i;j", "k;l\xff", 'm;"n"o', "", "p;q", 'r;"s\nt"']
    path = tmp_path / "rows.csv"
    path.write_bytes("\r\n".join(lines).encode("latin-1"))
    manifest = run(tmp_path, {"path": str(path)})
    assert [row["messages"][0]["content"] for row in manifest["rows"]] == ["a", "e", "p", "r"]
    quarantined = list(read_jsonl(tmp_path / "out/quarantine.jsonl"))
    assert [(row["line"], row["reason"]) for row in quarantined] == [
        (3, "invalid_csv"), (5, "invalid_csv"), (6, "invalid_csv"), (7, "invalid_utf8"), (8, "invalid_csv"),
    ]  # fmt: skip
    assert manifest["rows"][-1]["line"] == 11


def test_a_table_that_gives_every_object_every_key(tmp_path):
    """As a table has it: where one call has `city` and the other `a`, each has both, and null in the other's."""
    import pyarrow
    import pyarrow.parquet

    turns = [
        [ASKED, assistant("", tool_calls=[one]), RESULT, TOLD]
        for one in (CALL, {"name": "weather", "arguments": {"city": "Oslo"}})
    ]
    table = pyarrow.Table.from_pylist(
        [{"messages": one, "images": []} for one in turns] + [{"messages": TALK, "images": [b"x"]}]
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    manifest = run(tmp_path, {"path": str(tmp_path / "rows.parquet")})
    assert [row["messages"][1]["tool_calls"][0]["arguments"] for row in manifest["rows"]] == [
        {"a": 1},
        {"city": "Oslo"},
    ]
    (quarantined,) = read_jsonl(tmp_path / "out/quarantine.jsonl")
    assert (quarantined["reason"], quarantined["column"]) == ("unsupported_field", "images")


def test_nothing_that_can_be_used_is_told_by_its_first_row(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b", "images": ["x"]}] * 3)
    with pytest.raises(ValueError) as caught:
        run(tmp_path, {"path": str(tmp_path / "rows.jsonl")})
    assert (
        "ingest keeps none of 3 records ({'unsupported_field': 3}); of the first, images: it changes what the row means"
        in str(caught.value)
    )


def test_memory_does_not_grow_with_a_packed_file_of_one_line(tmp_path):
    with gzip.open(tmp_path / "rows.jsonl.gz", "wb") as file:
        file.write(b'{"prompt": "a", "response": "b"}\n{"prompt": "')
        for _ in range(200):
            file.write(b"a" * 1_000_000)
    import tracemalloc

    tracemalloc.start()
    counts = run(tmp_path, {"path": str(tmp_path / "rows.jsonl.gz")})["counts"]
    assert tracemalloc.get_traced_memory()[1] < 30_000_000
    tracemalloc.stop()
    assert (counts["kept"], counts["quarantined"]) == (1, {"record_too_large": 1})


def test_a_csv_that_is_hard_to_read_takes_linear_time(tmp_path):
    from steps.data.readers import Tally
    from steps.data.tables import read_csv
    from tests.bounds import within

    for text in ('"' + "a\n" * 500_000, '"a\n' * 300_000, '"""\n' * 250_000, 'a,"b\n' * 200_000, "a" * 1_000_000):
        data, tally = f"prompt,response\n{text}".encode(), Tally()
        with within(20.0):
            records = list(read_csv(tmp_path / "a.csv", io.BytesIO(data), 100_000, tally))
        assert records and tally.records + tally.separators == len(data)


def test_a_first_row_that_is_a_list_or_broken_costs_itself_only(tmp_path):
    for first in ("[]", "[[1, 2]]", "{"):
        (tmp_path / "a.jsonl").write_text(f'{first}\n{{"prompt": "a", "response": "b"}}\n')
        assert run(tmp_path, {"path": str(tmp_path / "a.jsonl")})["counts"]["kept"] == 1


def test_records_that_cannot_be_read_are_quarantined_whatever_the_format(tmp_path):
    (tmp_path / "a.jsonl").write_text("{broken\n\n7\n")
    (tmp_path / "b.txt").write_text("a" * (LIMIT + 1))
    write_jsonl(tmp_path / "c.jsonl", [{"prompt": "a", "response": "b"}])
    counts = run(tmp_path, *({"path": str(tmp_path / name)} for name in ("a.jsonl", "b.txt", "c.jsonl")))["counts"]
    assert {name: file["quarantined"] for name, file in counts["by_file"].items()} == {
        "a.jsonl": {"invalid_json": 1, "wrong_type": 1},
        "b.txt": {"record_too_large": 1},
        "c.jsonl": {},
    }


# --- 10,000 mutated records -----------------------------------------------------------------------

MORE = {
    "weight": 1, "label": False, "history": [["a", "b"]], "rejected": [WORSE], "system": "s", "tools": [{"name": "x"}],
    "reasoning_content": "because", "scores": [1, 2, 3],
}  # fmt: skip
NEXT = {"user": {"assistant"}, "tool": {"tool", "assistant"}, "assistant": {"user"}, "called": {"tool"}}


def is_sound(messages: list[dict]) -> bool:
    """The documented order and keys of turns, written again."""
    if messages[0]["role"] == "document":
        return len(messages) == 1 and messages[0].keys() == {"role", "content"}
    turns = messages[messages[0]["role"] == "system" :]
    expected = {"user"}
    for turn in turns:
        role, called = turn["role"], "tool_calls" in turn
        own = {"tool": {"name"}, "assistant": {"thinking", "tool_calls", "train"}}.get(role, set())
        if role not in expected or turn.keys() - own != {"role", "content"}:
            return False
        if not (turn["content"].strip() or called or role == "tool") or turn.get("train", False):
            return False
        if not all(call.keys() == {"name", "arguments"} for call in turn.get("tool_calls", ())):
            return False
        expected = NEXT["called" if called else role]
    return turns[-1]["role"] in ("user", "assistant")


def outcome(reader: Reader, record):
    try:
        return reader(record)
    except RowProblem as problem:
        return problem


def test_ten_thousand_mutated_records_are_rows_or_quarantined():
    rng, kept = Random(0), 0
    for _ in range(10_000):
        name = rng.choice([*FORMATS])
        record = FORMATS[name].example | {key: MORE[key] for key in rng.sample([*MORE], rng.choice((0, 0, 1, 2)))}
        for _ in range(rng.choice((0, 1, 1, 2, 3))):
            record = mutate(rng, record)
        reader = Reader(rng.choice([name, name, *FORMATS]), {"train": rng.choice(("every", "last"))})
        made = outcome(reader, record)
        # The short way for plain records says nothing else.
        reader.plain = ()
        assert repr(made) == repr(outcome(reader, record)), record
        if isinstance(made, RowProblem):
            assert made.hint and isinstance(made.column, str)
        else:
            messages, answer, extras = made
            orjson.dumps([messages, answer, extras])
            assert is_sound(messages) and isinstance(answer, str | None), record
            kept += 1
    assert kept > 400


# --- what is asked, beside the turns -------------------------------------------------------------

BESIDE = ("question", "instruction", "prompt", "query", "schema", "table", "persona", "premise", "user_prompt")


@pytest.mark.parametrize("name", BESIDE)
def test_what_is_asked_beside_the_turns_must_be_shown_in_them(name):
    turns = [user("What is 2 + 2, in words?"), assistant("four")]
    record = {"messages": turns}
    assert problem_of(record | {name: "What is 3 + 3?"}) == ("unsupported_field", name)
    assert problem_of(record | {name: {"a": 1}}) == ("unsupported_field", name)
    assert problem_of(record | {name: [user("What is 3 + 3?")]}) == ("unsupported_field", name)
    for shown in ("What is 2 + 2", " What is 2 + 2, in words?\n", "", None, turns[:1]):
        assert row_of(record | {name: shown})["messages"] == turns
    # All of it as one text, as Alpaca's template writes it.
    assert row_of(record | {name: f"### Instruction:\n{turns[0]['content']}\n### Response:\nfour"})["messages"] == turns
    assert problem_of(record | {name: "### Instruction:\nWhat is 2 + 2, in words? And 3?"})[0] == "unsupported_field"
    assert row_of(record | {name: "What is 3 + 3?"}, ignore=[name])["messages"] == turns


@pytest.mark.parametrize(
    ("value", "is_shown"),
    [
        ("Mara was born in Kelso and lives in Umber.", False),
        ("Mara\nKelso", True),
        ("Mara\nKelso\nNils\nUmber", False),
        ("The town of Mara has a mill.\nMara\nKelso", False),
        ("USER: Mara ASSISTANT: Kelso</s>", True),
        ("<|im_start|>user\nMara<|im_end|>\n<|im_start|>assistant\nKelso<|im_end|>", True),
        ("[INST] Mara [/INST] Kelso", True),
        ("Below is an instruction that asks.\n\n### Instruction:\nMara\n\n### Response: Kelso", True),
        ("It is late. USER: Mara ASSISTANT: Kelso", False),
    ],
)
def test_a_context_that_holds_pieces_of_the_turns_is_not_shown_by_them(value, is_shown):
    record = {"messages": [user("Mara"), assistant("Kelso")], "context": value}
    if is_shown:
        assert row_of(record)["messages"] == record["messages"]
    else:
        assert problem_of(record) == ("unsupported_field", "context")


def test_the_whole_row_as_alpaca_writes_it_is_a_note():
    text = "Below is an instruction.\n\n### Instruction:\nAdd.\n\n### Input:\n2, 2\n\n### Output:\n4"
    record = {"instruction": "Add.", "input": "2, 2", "output": "4", "prompt": text}
    assert row_of(record, "alpaca")["messages"] == [user("Add.\n2, 2"), assistant("4")]
    assert problem_of(record | {"input": "3, 3"}, "alpaca") == ("unsupported_field", "prompt")


def test_notes_about_what_is_asked_change_nothing():
    notes = {"prompt_id": "x", "query_id": 3, "question_type": "sum", "instruction_id_list": ["a"], "schema_version": 2}
    notes |= {"original_question": "x", "system_fingerprint": "x", "prompt_tokens": 4, "table_name": "x"}
    assert row_of({"messages": TALK} | notes)["messages"] == TALK
    of_document = {"text": "One.", "prompt": "Write.", "question": "x", "context": "y", "title": "z"}
    assert row_of(of_document, "text")["messages"][0]["content"] == "One."


def test_a_system_message_by_its_other_name():
    for name in ("system", "system_prompt", "system_message"):
        assert row_of({"messages": TALK, name: "s"})["messages"] == [{"role": "system", "content": "s"}, *TALK]


def test_what_is_asked_beside_the_turns_of_a_table(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = {"messages": [TALK, TALK], "question": ["a", "c"]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "a.parquet")
    ledger = Ledger(tmp_path, "ingest")
    ingest.ingest_source({"path": str(tmp_path / "a.parquet")}, LIMIT, ledger)
    assert ledger.close()["quarantined"] == {"unsupported_field": 1}


# --- scores and labels by other names ------------------------------------------------------------

RANKED = {"prompt": "a", "responses": ["x", "y", "z"]}


@pytest.mark.parametrize("name", ["scores", "score", "ratings", "rating", "rewards"])
def test_scores_have_many_names(name):
    for scores in ([1, 3, 0.5], "[1, 3, 0.5]"):
        row = row_of(RANKED | {name: scores}, "ranking")
        assert (row["messages"][1]["content"], row["rejected"]) == ("y", "z")


@pytest.mark.parametrize("name", ["grades", "elo", "annotations", "n_votes"])
def test_scores_by_an_unknown_name_are_not_passed_over(name, tmp_path):
    for scores in ([1, 3, 0.5], "[1, 3, 0.5]"):
        assert problem_of(RANKED | {name: scores}, "ranking") == ("unsupported_field", name)
    row = row_of(RANKED | {name: [1, 3, 0.5]}, "ranking", columns={"scores": name})
    assert row["messages"][1]["content"] == "y"
    for note in ([1, 2], ["a", "b", "c"], 3, "x", [True, False, True]):
        assert row_of(RANKED | {name: note}, "ranking")["messages"][1]["content"] == "x"
    assert row_of(RANKED | {name: [1, 3, 0.5], "scores": [3, 2, 1]}, "ranking")["messages"][1]["content"] == "x"
    kept, quarantined = ingested(tmp_path, RANKED | {name: "x"}, RANKED | {name: [1, 3, 0.5]})
    assert len(kept) == len(quarantined) == 1 and f"columns: {{scores: {name}}}" in quarantined[0]["hint"]


def test_a_label_that_cannot_be_read_makes_no_other_format(tmp_path):
    kept, quarantined = ingested(tmp_path, labelled("a", "b", "gut"), labelled("c", "d", "schlecht"))
    assert not kept and {row["reason"] for row in quarantined} == {"wrong_type"}
    assert "write ignore: [label] and another format" in quarantined[0]["hint"]
    kept, quarantined = ingested(tmp_path, labelled("a", "b", "sums"), format="prompt_completion", ignore=["label"])
    assert len(kept) == 1 and not quarantined


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("good", "bad"),
        ("Good ", "BAD"),
        ("desirable", "undesirable"),
        ("chosen", "rejected"),
        ("accepted", -1),
        (1, "-1"),
    ],
)
def test_labels_in_words(tmp_path, good, bad):
    kept, quarantined = ingested(tmp_path, labelled("a", "x", good), labelled("a", "y", bad))
    assert [row["rejected"] for row in kept] == ["y"] and [row["reason"] for row in quarantined] == ["paired"]


def test_streams_of_bzip2_are_all_read_and_damage_between_them_is_said(tmp_path):
    parts = [bz2.compress(f"{number}\n".encode() * 1000) for number in range(3)]
    whole, damaged, cut = (tmp_path / f"{name}.jsonl.bz2" for name in ("whole", "damaged", "cut"))
    whole.write_bytes(b"".join(parts))
    with files.opened(whole) as file:
        assert file.read(10_000) == b"".join(f"{number}\n".encode() * 1000 for number in range(3))
    damaged.write_bytes(parts[0] + b"X" + parts[1][1:] + parts[2])
    cut.write_bytes(b"".join(parts)[:-5])
    for path in (damaged, cut):
        with files.opened(path) as file, pytest.raises(ValueError, match="not a readable bzip2 file after"):
            while file.read(1000):
                pass
