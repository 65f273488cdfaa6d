"""Ingestion against records written by hand, files cut or broken at every byte, and 20,000 mutated rows."""

import bz2
import gzip
import json
import re
import subprocess
import sys
import tracemalloc
from argparse import Namespace
from decimal import Decimal
from pathlib import Path
from random import Random

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import decontaminate, dedup, filter, ingest, readers, sources, split, verifiable
from steps.data.records import Reader
from steps.data.rows import Ledger, RowProblem
from steps.judges.instructions import follows

LIMIT = 1_000_000


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def turn(sender, value):
    return {"from": sender, "value": value}


CHAT = [user("a"), assistant("b"), user("c"), assistant("d")]


def ingested(folder: Path, path: Path, form: str, limit: int = LIMIT, columns: dict | None = None):
    """Kept rows, quarantined rows and the ledger's counts of one file."""
    ledger = Ledger(folder, "ingest")
    ingest.ingest_source({"path": str(path), "format": form, "columns": columns}, limit, ledger)
    counts = ledger.close()
    return list(read_jsonl(folder / "rows.jsonl")), list(read_jsonl(folder / "quarantine.jsonl")), counts


# --- one record ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "record", "expected"),
    [
        ("alpaca", {"instruction": "Add.", "input": "", "output": "5"}, [user("Add."), assistant("5")]),
        ("alpaca", {"instruction": "Add.", "input": "2 3", "output": "5"}, [user("Add.\n2 3"), assistant("5")]),
        (
            "alpaca",
            {"instruction": "c", "output": "d", "system": "s", "history": [["a", "b"]]},
            [{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), assistant("d")],
        ),
        ("prompt_response", {"prompt": "a", "response": "b", "other": 1}, [user("a"), assistant("b")]),
        ("preference", {"prompt": "a", "chosen": "b", "rejected": "c"}, [user("a"), assistant("b")]),
        (
            "preference",
            {"prompt": "a", "chosen": "b", "rejected": "c", "system": "s"},
            [{"role": "system", "content": "s"}, user("a"), assistant("b")],
        ),
        (
            "sharegpt",
            {"conversations": [turn("system", "s"), turn("human", "a"), turn("gpt", "b")]},
            [{"role": "system", "content": "s"}, user("a"), assistant("b")],
        ),
        (
            "sharegpt",
            {"system": "", "conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": " b\n"}]},
            [user("a"), assistant(" b\n")],
        ),
        ("messages", {"messages": CHAT}, CHAT),
        ("sharegpt", {"conversations": [user("a"), assistant("b")]}, [user("a"), assistant("b")]),
    ],
)  # fmt: skip
def test_every_format_becomes_messages(form, record, expected):
    assert Reader(form, {})(record)[0] == expected


@pytest.mark.parametrize(
    ("form", "record", "reason", "column"),
    [
        ("alpaca", [], "wrong_type", "(record)"),
        ("alpaca", None, "wrong_type", "(record)"),
        ("alpaca", {"instruction": "a"}, "missing_field", "output"),
        ("alpaca", {"instruction": "a", "output": None}, "missing_field", "output"),
        ("alpaca", {"instruction": "a", "output": ["b", 1]}, "wrong_type", "output"),
        ("alpaca", {"instruction": "a", "output": "b", "input": 5}, "wrong_type", "input"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["x"]]}, "wrong_type", "history[0]"),
        ("alpaca", {"instruction": "a", "output": "b", "history": [["x", 1]]}, "wrong_type", "history[0][1]"),
        ("prompt_response", {"prompt": " \n", "response": "b"}, "empty_turn", "prompt"),
        ("prompt_response", {"prompt": "a", "response": "\u200b \ufeff"}, "empty_turn", "response"),
        ("prompt_response", {"prompt": "a", "response": "\ud83d"}, "invalid_utf8", "response"),
        ("messages", {}, "missing_field", "messages"),
        ("messages", {"messages": "a"}, "invalid_json", "messages"),
        ("messages", {"messages": "{}"}, "wrong_type", "messages"),
        ("messages", {"messages": []}, "empty_turn", "messages"),
        ("messages", {"messages": [user("a"), "b"]}, "wrong_type", "messages[1]"),
        ("messages", {"messages": [user("a"), {"role": "assistant"}]}, "missing_field", "messages[1].content"),
        ("messages", {"messages": [{"content": "a"}, assistant("b")]}, "missing_field", "messages[0].role"),
        ("messages", {"messages": [{"role": 1, "content": "a"}, assistant("b")]}, "wrong_type", "messages[0].role"),
        ("messages", {"messages": [{"role": "narrator", "content": "a"}]}, "unknown_role", "messages[0].role"),
        ("messages", {"messages": [assistant("b"), user("a")]}, "role_order", "messages[0].role"),
        ("messages", {"messages": [user("a"), user("b"), assistant("c")]}, "role_order", "messages[1].role"),
        ("messages", {"messages": [user("a"), assistant("b"), user("c")]}, "role_order", "messages[2].role"),
        ("messages", {"messages": [user("a"), {"role": "system", "content": "s"}]}, "role_order", "messages[1].role"),
        ("sharegpt", {"conversations": [{"from": "gpt", "value": "b"}]}, "role_order", "conversations[0].from"),
        ("sharegpt", {"conversations": [{"from": "human", "value": ""}]}, "empty_turn", "conversations[0].value"),
    ],
)  # fmt: skip
def test_a_bad_record_names_reason_and_column(form, record, reason, column):
    with pytest.raises(RowProblem) as caught:
        Reader(form, {})(record)
    assert (caught.value.reason, caught.value.column) == (reason, column)
    assert caught.value.hint


def test_columns_rename_fields_and_problems_name_the_files_own(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "2+2?", "answer": "so\\n#### 1,004"}\n{"question": "x", "answer": 4}\n')
    kept, quarantined, _ = ingested(
        tmp_path, path, "prompt_response", columns={"prompt": "question", "response": "answer"}
    )
    place = {"file": "train.jsonl", "line": 1, "row": 0}
    messages = [user("2+2?"), assistant("so\n#### 1,004")]
    assert kept == [{"id": "train:0", "messages": messages, "answer": "1004"} | place]
    assert (quarantined[0]["column"], quarantined[0]["reason"]) == ("answer", "wrong_type")


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("#### 72", "72"),
        ("a\n#### 1,234 \n", "1234"),
        ("#### 3\n#### 4", "4"),
        ("#### Heading\nText", None),
        ("72", None),
        ("####", None),
    ],
)
def test_the_answer_is_on_the_last_line(response, answer):
    assert verifiable.final_answer(response) == answer


# --- answers, constraints and pairs --------------------------------------------------------------

NAMED = {"answer": "expected", "check": "rule"}


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("42", "42"),
        (" \\frac{1}{2} ", "\\frac{1}{2}"),
        ("(1, 2)", "(1, 2)"),  # equal takes the separators away; an equivalence checker needs them
        (42, "42"),
        (-3.5, "-3.5"),
        (1e-7, "0.0000001"),
        (1e22, "10000000000000000000000"),
        (Decimal("1.50"), "1.50"),
        ("", "7"),
        (None, "7"),
    ],
)
def test_the_answer_column_stands_for_what_follows_the_marks(value, answer):
    record = {"prompt": "a", "response": "b\n#### 7", "expected": value, "answer": "9"}
    assert Reader("prompt_response", {"columns": NAMED})(record)[1] == answer
    assert Reader("prompt_response", {})(record)[1] == "7", "read only where columns names it"


@pytest.mark.parametrize(
    ("check", "sound"),
    [
        ({"kind": "repeat", "word": "stone", "times": 3}, "stone stone stone"),
        ({"kind": "uppercase", "words": ["stone", "é"]}, "STONE É"),
        ({"kind": "starts_with", "words": ["a", "b"], "first": "b"}, "b a"),
        ({"kind": "ends_with", "words": ["a", "b"], "last": "b"}, "a b"),
        ({"kind": "word_count", "words": ["a"], "count": 3}, "a x y"),
    ],
)
def test_a_constraint_is_read_as_verify_takes_it(check, sound):
    # Parquet gives every row the fields of all kinds, null where the row has none.
    of_parquet = {name: check.get(name) for name in ("kind", "word", "times", "words", "first", "last", "count")}
    for given in (check, json.dumps(check), check | {"note": 1}, of_parquet):
        reader = Reader("prompt_response", {"columns": NAMED})
        _, _, extras = reader({"prompt": "a", "response": "b", "rule": given})
        assert extras == {"check": check}
    assert follows(sound, check) and not follows("no", check)
    assert set(check) == {"kind", *verifiable.CHECKS[check["kind"]].fields}


@pytest.mark.parametrize("check", [None, "", " \n", "null"])
def test_no_constraint_is_none(check):
    reader = Reader("prompt_response", {"columns": NAMED})
    assert reader({"prompt": "a", "response": "b", "rule": check})[2] == {}
    assert reader({"prompt": "a", "response": "b"})[2] == {}


@pytest.mark.parametrize(
    ("change", "reason", "column"),
    [
        ({"expected": True}, "wrong_type", "expected"),
        ({"expected": ["1", "2"]}, "wrong_type", "expected"),
        ({"expected": float("nan")}, "wrong_type", "expected"),
        ({"expected": float("inf")}, "wrong_type", "expected"),
        ({"expected": "\ud83d"}, "invalid_utf8", "expected"),
        ({"rule": 3}, "wrong_type", "rule"),
        ({"rule": "[]"}, "wrong_type", "rule"),
        ({"rule": "{"}, "invalid_json", "rule"),
        ({"rule": "[" * 100_000}, "invalid_json", "rule"),
        ({"rule": {}}, "missing_field", "rule.kind"),
        ({"rule": {"kind": 1}}, "wrong_type", "rule.kind"),
        ({"rule": {"kind": "rhymes", "words": ["a"]}}, "unknown_check", "rule.kind"),
        ({"rule": {"kind": "repeat", "word": "a"}}, "missing_field", "rule.times"),
        ({"rule": {"kind": "repeat", "word": "a", "times": "3"}}, "wrong_type", "rule.times"),
        ({"rule": {"kind": "repeat", "word": "a", "times": True}}, "wrong_type", "rule.times"),
        ({"rule": {"kind": "repeat", "word": "a", "times": 10**30}}, "wrong_type", "rule.times"),
        ({"rule": {"kind": "repeat", "word": " ", "times": 3}}, "empty_turn", "rule.word"),
        ({"rule": {"kind": "repeat", "word": "\ud83d", "times": 3}}, "invalid_utf8", "rule.word"),
        ({"rule": {"kind": "uppercase", "words": "a"}}, "wrong_type", "rule.words"),
        ({"rule": {"kind": "uppercase", "words": []}}, "wrong_type", "rule.words"),
        ({"rule": {"kind": "uppercase", "words": ["a", 1]}}, "wrong_type", "rule.words[1]"),
    ],
)
def test_a_bad_answer_or_constraint_names_reason_and_column(change, reason, column):
    with pytest.raises(RowProblem) as caught:
        Reader("prompt_response", {"columns": NAMED})({"prompt": "a", "response": "b"} | change)
    assert (caught.value.reason, caught.value.column) == (reason, column)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("record", "reason", "column"),
    [
        ({"prompt": "a", "chosen": "b"}, "missing_field", "worse"),
        ({"prompt": "a", "worse": "b"}, "missing_field", "chosen"),
        ({"prompt": "a", "chosen": ["b"], "worse": "c"}, "wrong_type", "chosen"),
        ({"prompt": "a", "chosen": [assistant("b")], "worse": [assistant("b")]}, "equal_pair", "worse"),
        ({"prompt": "a", "chosen": "b", "worse": [user("x"), assistant("c")]}, "unlike_prompts", "worse"),
        ({"chosen": "b", "worse": "c"}, "missing_field", "prompt"),
        ({"prompt": "a", "chosen": "b", "worse": 1}, "wrong_type", "worse"),
        ({"prompt": "a", "chosen": "b", "worse": " "}, "empty_turn", "worse"),
        ({"prompt": "a", "chosen": "b", "worse": "\ud83d"}, "invalid_utf8", "worse"),
        ({"prompt": "a", "chosen": "b", "worse": " b\n"}, "equal_pair", "worse"),
    ],
)
def test_a_bad_pair_names_reason_and_column(record, reason, column):
    with pytest.raises(RowProblem) as caught:
        Reader("preference", {"columns": {"rejected": "worse"}})(record)
    assert (caught.value.reason, caught.value.column) == (reason, column)
    assert caught.value.hint


def test_a_named_column_that_no_record_has_is_the_users_error(tmp_path):
    path = tmp_path / "told.jsonl"
    path.write_text('{"prompt": "a", "response": "b", "answer": "1"}\n{"prompt": "a", "response": "b", "rule": null}\n')
    ingested(tmp_path, path, "prompt_response", columns={"answer": "answer", "check": "rule"})
    with pytest.raises(ValueError, match="none of its 2 records has the field 'expected', which `columns` names; "):
        ingested(tmp_path, path, "prompt_response", columns={"answer": "expected"})


@pytest.mark.parametrize(
    ("keep", "record", "extra"),
    [
        (["level", "tests"], {"level": 3, "tests": [{"in": "1"}]}, {"level": 3, "tests": [{"in": "1"}]}),
        (["level", "tests"], {"tests": None, "level": "x"}, {"level": "x", "tests": None}),
        (["level", "image"], {"level": 1}, {"level": 1, "image": None}),
        (["image"], {"image": "a.png"}, {"image": "a.png"}),
        (["info.index"], {"info": {"index": 4, "split": "train"}}, {"info.index": 4}),
        (["info.index"], {"info": '{"index": 4}'}, {"info.index": 4}),
        (["system"], {"system": "Be brief."}, {"system": "Be brief."}),
        (["response"], {}, {"response": "#### 4"}),
    ],
)
def test_a_row_keeps_what_its_source_names(keep, record, extra):
    reader = Reader("prompt_response", {"keep": keep})
    messages, answer, more = reader({"prompt": "2 + 2?", "response": "#### 4"} | record)
    assert more == {"extra": extra} and answer == "4" and messages[-1]["content"] == "#### 4"
    assert (messages[0]["role"] == "system") == ("system" in record), "a field of the format stays one"
    assert not reader.unseen or keep == ["level", "image"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [(float("nan"), "wrong_type"), (10**30, "wrong_type"), ("\ud83d", "invalid_utf8"), (b"x", "wrong_type")],
)
def test_a_row_whose_kept_field_cannot_be_written_is_quarantined(value, reason):
    with pytest.raises(RowProblem) as caught:
        Reader("prompt_response", {"keep": ["level"]})({"prompt": "a", "response": "b", "level": value})
    assert (caught.value.reason, caught.value.column) == (reason, "level")


def test_a_field_beside_a_kept_one_that_changes_the_row_is_not_ignored():
    reader = Reader("prompt_response", {"keep": ["images.caption"]})
    with pytest.raises(RowProblem, match="unsupported_field"):
        reader({"prompt": "a", "response": "b", "images": [{"caption": "c"}]})


def test_a_kept_field_that_no_record_has_is_the_users_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(ValueError, match="none of its 1 records has the field 'level', which `keep` names"):
        ingest.ingest_source({"path": str(path), "keep": ["level"]}, LIMIT, Ledger(tmp_path, "ingest"))


def through_the_data_steps(tmp_path: Path, sources: list[dict]) -> None:
    """Rows of sources from ingest to split, each step in a folder of its own."""
    limits = {"language": "en", "max_repetition": 0.6} | {
        f"{end}_{name}_chars": n for end, n in (("min", 1), ("max", 500)) for name in ("prompt", "response")
    }
    settings = {
        ingest: {"max_record_bytes": LIMIT},
        filter: limits,
        dedup: {"threshold": 0.7, "shingle_words": 3, "numbers_must_match": True} | {"short_answer_words": 5},
        decontaminate: {"ngram_words": 8, "min_overlap": 0.5},
        split: {"valid_share": 0.3, "seed": 0},
    }
    given = {"sources": sources, "eval": [], "input": None}
    for step, own in settings.items():
        out = tmp_path / step.__name__
        step.main(Namespace(**given, settings=own, out=out))
        given["input"] = out / "rows.jsonl"


def test_every_kind_of_file_keeps_fields_and_each_data_step_passes_them_on(tmp_path):
    """Rows with equal texts are one, whatever they keep: identity is decided on texts."""
    topics = "rivers pears clouds lamps trains hills boats songs wells coins".split()
    rows = [
        {"prompt": f"What do the {topic} of the valley cost?", "answer": str(i), "level": i, "tests": [str(i)]}
        for i, topic in enumerate(topics)
    ]
    write_jsonl(tmp_path / "a.jsonl", [*rows[:5], rows[0] | {"level": 77}])
    write_parquet(tmp_path / "b.parquet", {name: [row[name] for row in rows[5:]] for name in rows[0]})
    sources = [
        {"path": str(tmp_path / name), "format": "prompt_answer", "keep": ["level", "tests"]}
        for name in ("a.jsonl", "b.parquet")
    ]
    through_the_data_steps(tmp_path, sources)
    kept = [row for part in ("train", "valid") for row in read_jsonl(tmp_path / split.__name__ / f"{part}.jsonl")]
    expected = {row["prompt"]: {"level": row["level"], "tests": row["tests"]} for row in rows}
    assert {row["messages"][0]["content"]: row["extra"] for row in kept} == expected and len(kept) == 10


def test_every_data_step_keeps_the_rejected_response_and_the_constraint(tmp_path):
    """With unlike prompts and twice the same pair, so that something is taken out on the way."""
    topics = "rivers pears clouds lamps trains hills boats songs wells coins".split()
    pairs = [
        {"prompt": f"What do the {topic} of the valley cost?", "chosen": f"{i} marks", "rejected": f"{i + 1} marks"}
        for i, topic in enumerate(topics)
    ]
    write_jsonl(tmp_path / "pairs.jsonl", [*pairs, pairs[0]])
    check = {"kind": "word_count", "words": ["marks"], "count": 2}
    told = [
        {"prompt": f"Name the price of {topic} in two words.", "response": f"{i} marks", "check": json.dumps(check)}
        for i, topic in enumerate(topics)
    ]
    write_jsonl(tmp_path / "told.jsonl", told)
    sources = [
        {"path": str(tmp_path / "pairs.jsonl"), "format": "preference"},
        {"path": str(tmp_path / "told.jsonl"), "format": "prompt_response", "columns": {"check": "check"}},
    ]
    through_the_data_steps(tmp_path, sources)
    out = tmp_path / split.__name__
    rows = [row for part in split.PARTS for row in read_jsonl(out / f"{part}.jsonl")]
    assert len(rows) == 20
    for row in rows:
        extra = {"rejected": f"{row['row'] + 1} marks"} if row["file"] == "pairs.jsonl" else {"check": check}
        assert list(row) == ["id", "messages", "answer", "file", "line", "row", *extra]
        assert {name: row[name] for name in extra} == extra


# --- files ---------------------------------------------------------------------------------------

RECORDS = [
    {"messages": [user("a {b}, [c] \"d\" é"), assistant("1")]},
    {"messages": [user("你好, {"), assistant("2}")], "meta": [{"x": 1}, {"y": [2, {}]}]},
    {"messages": [user("e \\ f"), assistant("3")]},
]  # fmt: skip


def layout(name: str) -> tuple[bytes, list[tuple[int, int]]]:
    """The records as a file in one of the usual layouts, and the byte span of each."""
    texts = [json.dumps(record, ensure_ascii=False, indent=2 if name == "indented" else None) for record in RECORDS]
    if name == "indented":
        texts = [text.replace("\n", "\n  ") for text in texts]
    start, between, end = {
        "lines": ("", "\n", "\n"),
        "one line": ("[", ", ", "]"),
        "element a line": ("[\n", ",\n", "\n]\n"),
        "indented": ("[\r\n  ", ",\r\n  ", "\r\n]"),
    }[name]
    data, spans = start.encode(), []
    for i, text in enumerate(texts):
        data += between.encode() if i else b""
        spans.append((len(data), len(data) + len(text.encode())))
        data += text.encode()
    return data + end.encode(), spans


LAYOUTS = ("lines", "one line", "element a line", "indented")


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / ("rows.jsonl" if name == "lines" else "rows.json")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_whole_file_is_kept_with_its_lines(tmp_path, name):
    data, spans = layout(name)
    kept, quarantined, counts = ingested(tmp_path, written(tmp_path, name, data), "messages")
    assert [row["messages"] for row in kept] == [record["messages"] for record in RECORDS]
    assert [row["line"] for row in kept] == [1 + data[:start].count(b"\n") for start, _ in spans]
    assert [row["row"] for row in kept] == [0, 1, 2]
    assert not quarantined and counts["in"] == 3


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_cut_at_any_byte_keeps_what_is_whole_and_reports_the_rest_once(tmp_path, name):
    data, spans = layout(name)
    for cut in range(spans[0][1], len(data)):
        kept, quarantined, _ = ingested(tmp_path, written(tmp_path, name, data[:cut]), "messages")
        whole = sum(end <= cut for _, end in spans)
        assert len(kept) == whole, cut
        inside = any(start < cut < end for start, end in spans)
        # Lines end cleanly between records; an array does not before its closing bracket.
        expected = inside if name == "lines" else inside or b"]" not in data[spans[-1][1] : cut]
        assert len(quarantined) == expected, cut
        if quarantined:
            assert quarantined[0]["reason"] in ("invalid_json", "invalid_utf8")
            assert quarantined[0]["line"] == 1 + data[: spans[whole][0] if inside else cut].count(b"\n")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_byte_that_is_not_utf8_costs_its_record_only(tmp_path, name):
    data, spans = layout(name)
    for at in range(len(data)):
        kept, quarantined, _ = ingested(tmp_path, written(tmp_path, name, data[:at] + b"\xff" + data[at:]), "messages")
        hit = [i for i, (start, end) in enumerate(spans) if start < at < end]
        assert {row["messages"][-1]["content"] for row in kept} >= {
            record["messages"][-1]["content"] for i, record in enumerate(RECORDS) if i not in hit and at not in spans[i]
        }, at
        assert [row["reason"] for row in quarantined] == ["invalid_utf8"], at
        if hit:
            start = spans[hit[0]][0]
            assert quarantined[0]["row"] == hit[0]
            with pytest.raises(UnicodeDecodeError) as python:
                (data[start:at] + b"\xff" + data[at:]).decode()
            assert quarantined[0]["column"] == f"byte {python.value.start + 1}"
            assert quarantined[0]["line"] == 1 + data[:start].count(b"\n")


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'": "2}"', b'" "2}"'),  # a missing colon
        (b'"2}"', b'2}"'),  # a missing opening quote
        (b'"2}"', b'"2}'),  # a missing closing quote
        (b'"2}"', b'"2}",'),  # a surplus comma
        (b'"2}"', b"NaN"),
        (b'"2}"', b'"2}\x00"'),
        (b'"meta"', b'"messages"'),  # a key twice
    ],
)
def test_a_broken_record_costs_itself_only(tmp_path, name, old, new):
    data, spans = layout(name)
    start, end = spans[1]
    assert data[start:end].count(old) == 1
    broken = data[:start] + data[start:end].replace(old, new) + data[end:]
    kept, quarantined, _ = ingested(tmp_path, written(tmp_path, name, broken), "messages")
    assert [row["messages"][-1]["content"] for row in kept] == ["1", "3"]
    assert [row["row"] for row in kept] == [0, 2]
    reason = "wrong_type" if new == b"NaN" else "invalid_json"
    assert [(row["reason"], row["row"]) for row in quarantined] == [(reason, 1)]
    assert quarantined[0]["line"] == 1 + data[:start].count(b"\n")


def test_the_column_of_broken_json_is_its_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\n{"prompt": "é", "response" "b"}\n{"prompt": "a", "response": "b"}\n'.encode())
    _, (quarantined,), _ = ingested(tmp_path, path, "prompt_response")
    before = '{"prompt": "é", "response" '.encode()
    assert (quarantined["line"], quarantined["column"]) == (2, f"byte {len(before) + 1}")


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_record_over_the_limit_is_quarantined_and_its_neighbours_kept(tmp_path, name, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK_BYTES", 64)
    data, spans = layout(name)
    start, end = spans[1]
    big = data[start:end].replace(b"2}", b"2}" + b'{\\"messages\\": 1}, {' * 200)
    data = data[:start] + big + data[end:]
    kept, quarantined, _ = ingested(tmp_path, written(tmp_path, name, data), "messages", limit=400)
    assert [row["messages"][-1]["content"] for row in kept] == ["1", "3"]
    assert [(row["reason"], row["row"]) for row in quarantined] == [("record_too_large", 1)]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 50])
def test_where_the_window_ends_changes_nothing(tmp_path, chunk, monkeypatch):
    data = layout("element a line")[0].replace(b'": "1"', b'" "1"')
    path = written(tmp_path, "array", data)
    expected = ingested(tmp_path, path, "messages", limit=300)
    monkeypatch.setattr(readers, "CHUNK_BYTES", chunk)
    assert ingested(tmp_path, path, "messages", limit=300) == expected


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, name, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK_BYTES", 1 << 16)
    peaks = []
    for rows in (10_000, 40_000):
        text = ("," if name.endswith("json") else "").join([GOOD.decode() + "\n"] * rows)
        path = tmp_path / name
        path.write_text(f"[{text}]" if name.endswith("json") else text)
        ledger = Ledger(tmp_path, "ingest")
        tracemalloc.start()
        ingest.ingest_source({"path": str(path), "format": "prompt_response"}, 10_000, ledger)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert ledger.close()["kept"] == rows
    assert peaks[1] < 1.2 * peaks[0]


GOOD = b'{"prompt": "a", "response": "b"}'


@pytest.mark.parametrize(
    ("data", "reasons"),
    [
        (b"\xef\xbb\xbf" + GOOD, []),
        (GOOD + b"\r\n\r\n\t\r\n" + GOOD, []),
        (GOOD + b"\n[]\n3\nnull", ["wrong_type"] * 3),
        (GOOD + b"\n" + b"[" * 100_000, ["invalid_json"]),
        (GOOD + b'\n{"prompt": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", ["invalid_json"]),
        (GOOD + b'\n{"prompt": "a", "response": "b", "n": ' + b"9" * 5000 + b"}", ["invalid_json"]),
        (GOOD + b'\n{"prompt": "a", "response": 1e999}', ["wrong_type"]),
        (GOOD + b'\n{"prompt": "a", "response": "\\ud800"}', ["invalid_utf8"]),
        (GOOD + b"\n\x00\x00", ["invalid_json"]),
        (GOOD + b" " + GOOD + b"\n" + GOOD, ["invalid_json"]),
    ],
)
def test_odd_lines(tmp_path, data, reasons):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(data)
    kept, quarantined, _ = ingested(tmp_path, path, "prompt_response")
    assert [row["reason"] for row in quarantined] == reasons
    assert kept and all(row["messages"] == [user("a"), assistant("b")] for row in kept)


@pytest.mark.parametrize(
    ("data", "kept", "reasons"),
    [
        (b"", 0, []),
        (b" \n", 0, []),
        (b"[]", 0, []),
        (b"[", 0, ["invalid_json"]),
        (b"\xef\xbb\xbf[" + GOOD + b"]", 1, []),
        (GOOD + b"\n" + GOOD, 2, []),  # JSON Lines under the wrong name
        (b"[" + GOOD + b"\n" + GOOD + b"]", 2, []),  # a missing comma
        (b"[" + GOOD + b",]", 1, []),
        (b"[" + GOOD + b", 5, \xff, " + GOOD + b"]", 2, ["wrong_type", "invalid_utf8"]),
        (b"[" + GOOD + b'] {"prompt"', 1, ["invalid_json"]),
    ],
)
def test_odd_arrays(tmp_path, data, kept, reasons):
    path = tmp_path / "rows.json"
    path.write_bytes(data)
    rows, quarantined, _ = ingested(tmp_path, path, "prompt_response")
    assert (len(rows), [row["reason"] for row in quarantined]) == (kept, reasons)


# --- Parquet -------------------------------------------------------------------------------------


def write_parquet(path: Path, columns: dict) -> Path:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet(tmp_path):
    import pyarrow

    broken = pyarrow.array([b"x", b"\xff\xfe", b"z", b"w"], pyarrow.binary()).view(pyarrow.string())
    path = write_parquet(
        tmp_path / "a.parquet", {"prompt": ["a", "b", None, "d"], "response": broken, "n": [1, 2, 3, 4]}
    )
    kept, quarantined, _ = ingested(tmp_path, path, "prompt_response")
    assert [(row["row"], row["line"], row["messages"][1]["content"]) for row in kept] == [(0, 1, "x"), (3, 4, "w")]
    assert [(row["row"], row["column"], row["reason"]) for row in quarantined] == [
        (1, "response", "invalid_utf8"),
        (2, "prompt", "missing_field"),
    ]
    path = write_parquet(tmp_path / "b.parquet", {"messages": [record["messages"] for record in RECORDS]})
    assert [row["messages"] for row in ingested(tmp_path, path, "messages")[0]] == [r["messages"] for r in RECORDS]


def test_a_truncated_parquet_file_is_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", {"prompt": ["a"] * 100, "response": ["b"] * 100})
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable Parquet file"):
        ingested(tmp_path, path, "prompt_response")


# --- the step ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "a.jsonl", "format": "csv"}, "sources[0].format: 'csv' is none of: auto, messages"),
        ({"path": "a.xlsx"}, "a.xlsx: files must end in .json"),
        ({"path": "a.parquet.gz"}, "a.parquet.gz: a .parquet file is packed inside; unpack it"),
        ({"path": "a.txt", "format": "alpaca"}, "a.txt: a .txt file is one document; write format: text"),
        (
            {"path": "a.jsonl", "format": "alpaca", "columns": {"prompt": "q"}},
            "sources[0].columns: format alpaca has no field 'prompt'",
        ),
        (
            {"path": "a.jsonl", "columns": {"promt": "q"}},
            "sources[0].columns: format auto has no field 'promt'; did you mean `prompt`",
        ),
        ({"path": "b.jsonl", "format": "alpaca"}, "there is no file b.jsonl; correct the path"),
        ({"path": "ab.jsonl", "format": "alpaca"}, "there is no file ab.jsonl; did you mean a.jsonl?"),
        ({"path": "a.json", "format": "alpaca"}, "there is no file a.json; did you mean a.jsonl?"),
        ({"path": "*.arrow"}, "no file matches *.arrow; correct the pattern"),
        ({"path": "folder"}, "folder: no file in this folder ends in .json, "),
        ({"path": "splits"}, "splits: it holds the splits test, train; name one, such as splits/test"),
    ],
)
def test_a_wrong_source_is_named(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "a.xlsx", "a.txt", "a.parquet.gz"):
        Path(name).touch()
    for name in ("folder", "splits/train", "splits/test"):
        Path(name).mkdir(parents=True)
    Path("splits/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    Path("folder/README.md").touch()
    with pytest.raises(ValueError, match=re.escape(message)):
        ingest.checked([source])


def names_and_stems(*paths: str) -> list[tuple[str, str]]:
    return [(file.name, file.stem) for files in ingest.checked([{"path": path} for path in paths]) for file in files]


def test_ids_are_unique_and_another_file_beside_a_file_changes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.json", "a.jsonl", "one/a.json", "two/one/a.json", "many/x.csv", "many/deep/x.csv", "b.jsonl.gz"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert names_and_stems("a.json", "a.jsonl", "one/a.json", "two/one/a.json", "b.jsonl.gz") == [
        ("a.json", "a"),
        ("a.jsonl", "a.jsonl"),
        ("one/a.json", "one/a.json"),
        ("two/one/a.json", "two/one/a.json"),
        ("b.jsonl.gz", "b"),
    ]
    of_many = [("deep/x.csv", "deep/x.csv"), ("x.csv", "x.csv")]
    assert names_and_stems("many") == names_and_stems("many/**/*.csv") == of_many
    Path("many/a.tsv").touch()
    assert names_and_stems("many") == [("a.tsv", "a.tsv"), *of_many]
    with pytest.raises(ValueError, match=r"many/x\.csv: two sources of this data set read it; name it once"):
        names_and_stems("many", "./many/x.csv")


def test_the_step_counts_every_file_and_equal_runs_write_equal_manifests(tmp_path):
    lines, array = tmp_path / "lines.jsonl", tmp_path / "array.json"
    lines.write_bytes(GOOD + b"\n{\n" + GOOD + b"\n")
    array.write_bytes(b'[{"instruction": "a", "output": "b"}]')
    sources = [{"path": str(lines), "format": "prompt_response"}, {"path": str(array), "format": "alpaca"}]
    manifests = []
    for name in ("one", "two"):
        ingest.main(Namespace(settings={"max_record_bytes": LIMIT}, sources=sources, out=tmp_path / name))
        manifests.append((tmp_path / name / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    counts = read_json(tmp_path / "one" / "manifest.json")["counts"]
    assert (counts["in"], counts["kept"], counts["quarantined"]) == (4, 3, {"invalid_json": 1})
    assert counts["by_file"]["lines.jsonl"] == {
        "in": 3,
        "kept": 2,
        "quarantined": {"invalid_json": 1},
        "bytes": {"records": 2 * len(GOOD) + 1, "separators": 3},
    }


def test_rows_without_the_formats_field_end_in_one_line(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"question": "a", "answer": "b"}\n' * 3)
    command = [
        sys.executable,
        "-m",
        "steps.data.ingest",
        "--settings",
        '{"max_record_bytes": 1000}',
        "--out",
        str(tmp_path / "out"),
    ]
    command += ["--sources", json.dumps([{"path": str(path), "format": "prompt_response"}])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"temper: error: {path}: none of its 3 records has the field 'prompt';"
        " correct `format` or set `columns` of the source;"
        f" {tmp_path / 'out' / 'refused.jsonl'} has each with its reason\n"
    )
    assert [record["reason"] for record in read_jsonl(tmp_path / "out" / "refused.jsonl")] == ["missing_field"] * 3


# --- 20,000 mutated rows -------------------------------------------------------------------------

ODD_VALUES = (
    None,
    True,
    0,
    -1.5,
    10**400,
    "",
    " ",
    "\x00",
    "\ud800",
    "\u200b",
    "é" * 300,
    [],
    {},
    [[]],
    {"role": {}},
    "a\nb",
)
ODD_BYTES = [
    b"",
    b"\n",
    b"\r",
    b"\x00",
    b"\xff",
    b"\xc3",
    b"\xef\xbb\xbf",
    *b'" { } [ ] , : \\ null "messages"'.split(),
]


ALL_COLUMNS = {"prompt_response": {"answer": "answer", "check": "check"}}


def sound_record(rng: Random, form: str) -> dict:
    words = [rng.choice(("tea", "7", "ü", "{x}", '"', "\\", "水", "[1, 2]")) for _ in range(rng.randint(1, 8))]
    prompt, response = " ".join(words), f"{rng.random()}\n#### {rng.randint(0, 9)}"
    check = {"kind": "starts_with", "words": words, "first": words[0]}
    return {
        "alpaca": {"instruction": prompt, "input": rng.choice(("", "5")), "output": response},
        "prompt_response": {
            "prompt": prompt,
            "response": response,
            "answer": rng.choice((None, "5", 5, 2.5)),
            "check": rng.choice((None, check, json.dumps(check))),
        },
        "preference": {"prompt": prompt, "chosen": response, "rejected": prompt},
        "sharegpt": {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": response}]},
        "messages": {"messages": [user(prompt), assistant(response)]},
    }[form]


def mutate(rng: Random, value):
    """A value with one node of its tree replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        key = rng.choice(sorted(value))
        action = rng.random()
        if action < 0.15:
            return {k: v for k, v in value.items() if k != key}
        if action < 0.3:
            return {(k if k != key else rng.choice(("", "role", "from", "\ud800", "x"))): v for k, v in value.items()}
        return value | {key: mutate(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        action = rng.random()
        if action < 0.2:
            return value[:i] + value[i + 1 :]
        if action < 0.4:
            return value[: i + 1] + value[i:]
        if action < 0.5:
            return value[::-1]
        return [*value[:i], mutate(rng, value[i]), *value[i + 1 :]]
    return rng.choice(ODD_VALUES)


def _text_or_null(value) -> str | None:
    return value if isinstance(value, str) and "\ud800" not in value else None


def is_sound(row: dict) -> bool:
    """The documented schema, written again."""
    roles = [turn["role"] for turn in row["messages"]]
    roles = roles[1:] if roles[0] == "system" else roles
    return (
        roles == ["user", "assistant"] * (len(roles) // 2)
        and len(roles) >= 2
        and all(isinstance(turn["content"], str) and turn["content"].strip() for turn in row["messages"])
        and isinstance(row["answer"], str | None)
        and list(row)[:6] == ["id", "messages", "answer", "file", "line", "row"]
        and list(row)[6:] in ([], ["rejected"], ["check"])
        and row.get("rejected", "x").strip() not in ("", row["messages"][-1]["content"].strip())
        and ("check" not in row or follows("x", row["check"]) in (True, False))
    )


def test_twenty_thousand_mutated_rows_neither_crash_nor_vanish(tmp_path, monkeypatch):
    rng, rows, kept_of_untouched = Random(0), 0, 0
    for _ in range(200):
        form = rng.choice(("alpaca", "sharegpt", "messages", "prompt_response", "preference"))
        container = rng.choice(("lines", "array", "indented", "parquet" if form == "prompt_response" else "array"))
        monkeypatch.setattr(readers, "CHUNK_BYTES", rng.choice((100, 5000, 1 << 20)))
        records = [sound_record(rng, form) for _ in range(100)]
        touched = [rng.random() < 0.5 for _ in records]
        records = [mutate(rng, record) if hit else record for record, hit in zip(records, touched, strict=True)]
        rows += len(records)
        columns = ALL_COLUMNS.get(form)
        if container == "parquet":
            # Columns of text: what is no text, or no UTF-8, is null.
            texts = {
                name: [_text_or_null(record.get(name)) if isinstance(record, dict) else None for record in records]
                for name in ("prompt", "response")
            }
            columns = None
            path = write_parquet(tmp_path / "rows.parquet", texts)
        else:
            escape, indent = rng.random() < 0.5, 2 if container == "indented" else None
            texts = [json.dumps(record, ensure_ascii=escape, indent=indent) for record in records]
            # `surrogatepass` writes lone surrogates as bytes that are not UTF-8.
            parts = [text.encode("utf-8", "surrogatepass") for text in texts]
            data = b"\n".join(parts) if container == "lines" else b"[" + b",\n".join(parts) + b"]"
            path = tmp_path / ("rows.jsonl" if container == "lines" else "rows.json")
            path.write_bytes(data)
        limit = rng.choice((LIMIT, LIMIT, 700))
        kept, quarantined, counts = ingested(tmp_path, path, form, limit, columns)
        assert sorted(row["row"] for row in kept + quarantined) == list(range(counts["in"]))
        assert all(map(is_sound, kept))
        if limit == LIMIT:
            # Whatever is wrong within the records, each of them comes out once. (One that is too large is passed
            # over up to the next one that looks like a record.)
            assert counts["in"] == 100
            assert {row["row"] for row in kept} >= {i for i, hit in enumerate(touched) if not hit}
            kept_of_untouched += touched.count(False)
        if container == "parquet":
            continue
        # Damage to the bytes may join or split records; `read_source` asserts that no byte is lost.
        for _damage in range(rng.randint(1, 6)):
            at, gone = rng.randrange(len(data)), rng.choice((0, 0, 1, 5, 300))
            data = data[:at] + rng.choice(ODD_BYTES) + data[at + gone :]
        path.write_bytes(data)
        kept, quarantined, counts = ingested(tmp_path, path, form, limit, columns)
        assert sorted(row["row"] for row in kept + quarantined) == list(range(counts["in"]))
        assert all(map(is_sound, kept))
        assert all(len(row["excerpt"]) <= 200 and row["excerpt"].isprintable() for row in quarantined)
        assert len(kept) + len(quarantined) >= 100 - 6 * 8
    assert rows == 20_000 and kept_of_untouched > 5_000


# --- which files ---------------------------------------------------------------------------------


def files_of(folder: Path, path: str, form: str = "auto") -> list[str]:
    return [str(Path(file).relative_to(folder)) for file in sources.files_of(str(folder / path), form)]


@pytest.mark.parametrize(("name", "pack"), [("a.ndjson", None), ("a.ndjson.gz", gzip), ("a.jsonl.bz2", bz2)])
def test_lines_by_another_name_or_packed(tmp_path, name, pack):
    data = b'{"prompt": "a", "response": "b"}\n' * 3
    (tmp_path / name).write_bytes(pack.compress(data) if pack else data)
    assert files_of(tmp_path, ".") == [name]
    kept, quarantined, _ = ingested(tmp_path, tmp_path / name, "prompt_response")
    assert len(kept) == 3 and not quarantined and kept[0]["id"] == "a:0"
    (tmp_path / name).write_bytes(b'[{"prompt": "a"}]' if not pack else b"none")
    with pytest.raises(ValueError, match="rename it to a.json" if not pack else "not a readable (gzip|bzip2) file"):
        ingested(tmp_path, tmp_path / name, "prompt_response")


def test_files_of_a_folder_that_are_not_read_are_said(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{"prompt": "a", "response": "b"}])
    for name in ("b.xlsx", "README.md", "c.jsonl.xz", ".hidden"):
        (folder / name).touch()
    arguments = Namespace(settings={"max_record_bytes": 1000}, sources=[{"path": str(folder)}], out=tmp_path / "out")
    ingest.main(arguments)
    assert f"{folder}: not read: README.md, b.xlsx, c.jsonl.xz\n" in capsys.readouterr().out


def test_a_folder_of_documents_names_its_format(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(ValueError, match=r"or write format: text to read its \.txt files"):
        sources.files_of(str(tmp_path), "auto")
    assert files_of(tmp_path, ".", "text") == ["a.txt"]


def test_linked_folders_are_read_once_and_circles_end(tmp_path):
    data = tmp_path / "data"
    for name in ("a/x.jsonl", "b/deep/y.jsonl"):
        (data / name).parent.mkdir(parents=True)
        (data / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/z.jsonl").touch()
    for link, to in {"a/up": data, "b/deep/self": ".", "a/b": data / "b", "linked": tmp_path / "elsewhere"}.items():
        (data / link).symlink_to(to)
    (data / "c").symlink_to(data / "c")
    for i in range(20):
        (data / f"b/deep/{i}").symlink_to(data)
    found = ["a/x.jsonl", "b/deep/y.jsonl", "linked/z.jsonl"]
    assert files_of(data, ".") == files_of(data, "**/*.jsonl") == files_of(data, "**") == found
    assert files_of(data, "b/**/*.jsonl") == [f"b/deep/0/{found[0]}", f"b/deep/0/{found[2]}", "b/deep/y.jsonl"]


def test_a_source_that_reaches_a_file_by_two_names_is_told(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    match = r"\*\.jsonl: \S+/b\.jsonl and \S+/a\.jsonl are one file; remove a link"
    with pytest.raises(ValueError, match=match):
        sources.named([{"path": str(tmp_path / "*.jsonl")}])


def test_a_link_to_rows_that_are_not_there_is_named(tmp_path):
    (tmp_path / "a.jsonl").touch()
    (tmp_path / "b.jsonl").symlink_to("nowhere/b.jsonl")
    for pattern in (".", "*.jsonl"):
        with pytest.raises(ValueError, match=r"b\.jsonl: is a link to nowhere/b\.jsonl, which is not there"):
            files_of(tmp_path, pattern)


def test_marks_in_the_name_of_a_folder_are_no_pattern(tmp_path, monkeypatch):
    for name in ("rows [v2]/a.jsonl", "rows [v2]/deep/b.jsonl", "rows v/c.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert files_of(tmp_path, "rows [v2]/*.jsonl") == ["rows [v2]/a.jsonl"]
    assert files_of(tmp_path, "rows [v2]/**/*.jsonl") == ["rows [v2]/a.jsonl", "rows [v2]/deep/b.jsonl"]
    assert files_of(tmp_path, "rows [vw]/*.jsonl") == ["rows v/c.jsonl"]
    monkeypatch.chdir(tmp_path)
    assert names_and_stems("rows [v2]/**/*.jsonl") == [("a.jsonl", "a.jsonl"), ("deep/b.jsonl", "deep/b.jsonl")]
    with pytest.raises(ValueError, match="no file matches"):
        sources.files_of("rows [v2]/x*", "auto")


@pytest.mark.parametrize("size", [10, 5000])
def test_a_first_line_that_is_a_list(tmp_path, size):
    """Before others it is a broken row, however long; alone the file is an array."""
    path = tmp_path / "a.jsonl"
    line = json.dumps(["x" * size])
    path.write_text(line + '\n{"prompt": "a", "response": "b"}\n')
    kept, quarantined, _ = ingested(tmp_path, path, "prompt_response", 10_000)
    assert len(kept) == 1 and quarantined[0]["reason"] == "wrong_type"
    for text in (line, line + "\n", "[\n" + line + "]", line[:-2] + '", \n"y"]\n'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"rename it to a\.json"):
            ingested(tmp_path, path, "prompt_response", 10_000)


def test_values_of_a_table_that_python_does_not_know_cost_their_rows(tmp_path):
    import pyarrow
    import pyarrow.parquet

    dates = pyarrow.array([0, 10**7, 5], pyarrow.date32())
    moments = pyarrow.array([10**15, 2**62, 1], pyarrow.timestamp("ms"))
    table = pyarrow.table(
        {
            "prompt": ["a", "b", "c"],
            "response": ["x", "y", "z"],
            "day": dates,
            "moment": moments,
            "never": pyarrow.array([2**62] * 3, pyarrow.timestamp("ms")),
            "exact": pyarrow.array([1, 2, 3], pyarrow.timestamp("ns")),
            "amount": pyarrow.array([10**30, 1, 2], pyarrow.decimal128(38, 0)),
        }
    )
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    for form in ("prompt_response", "auto"):
        kept, quarantined, _ = ingested(tmp_path, path, form)
        assert len(kept) == 3 and not quarantined
    for column, lost in (("day", [1]), ("moment", [0, 1]), ("amount", []), ("exact", [])):
        source = {"path": str(path), "format": "prompt_response", "columns": {"answer": column}}
        ledger = Ledger(tmp_path, "ingest")
        ingest.ingest_source(source, 10_000, ledger)
        ledger.close()
        records = list(read_jsonl(tmp_path / "quarantine.jsonl"))
        assert {record["column"] for record in records} <= {column} and {r["row"] for r in records} >= {*lost}
        assert {record["reason"] for record in records} <= {"wrong_type"}


def test_names_that_are_no_utf_8(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("prompt,réponse\na,b\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv: its first line is no UTF-8 .*; save it as UTF-8"):
        ingested(tmp_path, path, "prompt_response")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_several_processes_make_the_same(tmp_path, name, monkeypatch):
    records: list = [{"prompt": f"a {i}", "response": "b" * (i % 50 + 1), f"note {i}": 1} for i in range(300)]
    records += [{"prompt": "x", "response": None}, {"prompt": "x", "response": "\ud800"}, 3, {"prompt": "n"}]
    records += [{"prompt": f"p {i}", "response": f"r {i % 2}", "label": bool(i % 2)} for i in range(100)]
    lines = [json.dumps(record) for record in records]
    lines[50], lines[80] = "{broken", '{"prompt": "long", "response": "' + "x" * 2000 + '"}'
    text = "\n".join(lines) + "\n" if name.endswith("l") else f"[{','.join(lines)}]"
    (tmp_path / name).write_text(text)
    monkeypatch.setattr(ingest, "LINES_AT_ONCE", 7)
    made = []
    for cores in (1, 3):
        out = tmp_path / f"out {cores}"
        source = {"path": str(tmp_path / name), "format": "prompt_response"}
        ingest.main(Namespace(settings={"max_record_bytes": 1500}, sources=[source], out=out, cores=cores))
        made.append([(out / file).read_bytes() for file in ("rows.jsonl", "quarantine.jsonl", "manifest.json")])
    assert made[0] == made[1] and made[0][0]
