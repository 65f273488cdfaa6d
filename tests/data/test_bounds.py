"""Texts and files built to take the square of their length, or all memory: each costs what it is long."""

import contextlib
import io
import subprocess
import sys

import pytest

from steps.data import filter as filtering
from steps.data import identity, prints, quality, rows
from steps.data.leaks import Index, clauses
from steps.data.questions import Item
from steps.data.readers import Tally, read_array, read_lines
from steps.data.records import Reader
from steps.data.rows import RowProblem
from steps.data.shingles import Hasher
from steps.data.verifiable import final_answer
from steps.judges import reading
from steps.judges.canonical import canonical
from steps.judges.instructions import follows
from steps.judges.tasks import bare
from tests.bounds import within

MB = 1_000_000
# Of CPU time. The slowest take one second here; with the square of their length, minutes.
SECONDS = 10.0
FIELDS = {"instruction", "output"}


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{" + ",".join(f'"key {i}": 1' for i in range(60_000)) + ', "key 59999": 2}', "'key 59999' appears twice"),
        ('{"a": ' + "1" * (MB - 100) + "}", "digits"),
        ('{"a":' * 190_000 + "1", "nested too deeply"),
        ("[" * (MB - 1), "nested too deeply"),
        ('{"a": "' + "\\" * (MB - 100), "Unterminated"),
    ],
    ids=["keys", "digits", "objects", "lists", "escapes"],
)
def test_a_line_that_is_hard_to_read(line, reason):
    with within(SECONDS):
        (record,) = read_lines(io.BytesIO(line.encode()), 2 * MB, Tally())
    assert record.problem.reason == "invalid_json" and reason in record.problem.detail


@pytest.mark.parametrize("number", ["0." + "1" * (MB - 100), "1e-" + "9" * (MB - 100)], ids=["digits", "exponent"])
def test_a_number_of_a_million_digits(number):
    with within(SECONDS):
        (record,) = read_lines(io.BytesIO(f'{{"a": {number}}}'.encode()), MB, Tally())
    assert record.problem is None and 0 <= record.value["a"] < 1


@pytest.mark.parametrize(
    "text",
    [
        '{"x": y},' * 50_000,
        '{"x": y},' * 50_000 + '{"instruction": "a", "output": "b"}]',
        '{"x": y},\n ' * 50_000,
        "".join('{"x": y},\n' + " " * i for i in range(1200)),
        '{"a":' * 200_000,
        " x" + '{"a":' * 900 + '"' + "p" * MB,
        " x" + '{"a":' * 900 + '{"p":"' + "p" * MB + '","b":' + "[" * 2000,
        " x" + '{"a":1} ' * 100_000,
        " x" + "{" * MB,
        '{"' * 200_000,
        '{"a":{"instruction":1},"b":' * 20_000,
    ],
    ids=[
        "none whole", "a whole one at the end", "lines", "indented more and more", "nested", "unterminated in nested",
        "too deep in nested", "others whole", "braces", "strings", "records in records",
    ],
)  # fmt: skip
def test_an_array_of_broken_elements(text):
    data, tally = f"[{text}".encode(), Tally()
    with within(2 * SECONDS):
        records = list(read_array(io.BytesIO(data), MB, tally, FIELDS))
    assert any(record.problem for record in records)
    assert tally.records + tally.separators == len(data)


def test_a_record_of_many_turns():
    turns = [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(40_000)]
    with within(SECONDS):
        assert len(Reader("messages", {})({"messages": turns})[0]) == 40_000


def test_a_check_nested_without_end():
    with within(SECONDS), pytest.raises(RowProblem, match="invalid_json"):
        Reader("prompt_response", {"columns": {"check": "check"}})({"prompt": "a", "response": "b", "check": "[" * MB})


def test_a_parquet_file_that_unfolds_to_more_than_memory_is_one_line(tmp_path):
    """Two kilobytes of which each row of a thousand is the same sixteen megabytes."""
    import pyarrow
    import pyarrow.parquet

    index = pyarrow.array([0] * 1024, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(index, pyarrow.array(["x" * (16 << 20)]))
    path = tmp_path / "bomb.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    code = (
        "import sys; from pathlib import Path; from steps.core import bounded; bounded.MEMORY = 1 << 30\n"
        "from steps.data.tables import read_columns\n"
        "bounded.limit_memory()\n"
        "try:\n    list(read_columns(Path(sys.argv[1]), 10**6, lambda name: 'value'))\n"
        "except ValueError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout == (
        f"{path}: 128 of its rows after row 0 do not fit into memory; write it with shorter records\n"
    ), done.stderr


# --- texts ---------------------------------------------------------------------------------------

SHORT = Index([Item("task:one", "what is love")], 8, 0.6)
ALIKE = Index([Item(f"task:{i}", f"{'1 ' * 60}{i}") for i in range(20)], 8, 0.6)


@pytest.mark.parametrize(
    ("function", "part", "end"),
    [
        (rows.words, "-", "b"),
        (rows.words, "1.", ""),
        (rows.words, "1,", ""),
        (rows.words, "\u0300\u0327", ""),
        (rows.words, "\uff9e\u0327", ""),
        (identity.tokens, "\u0300\u0327", ""),
        (identity.tokens, "!)", ""),
        (identity.tokens, "\n ", ""),
        (identity.tokens, "²", ""),
        (identity.asked, "the. ", ""),
        (identity.asked, "please ", ""),
        (identity.segments, "a. ", ""),
        (rows.escaped, "\x00", ""),
        (canonical, "1", ""),
        (canonical, "0", ".1"),
        (reading.last_number, "1,", ""),
        (reading.last_number, "+", ""),
        (reading.boxed, r"\boxed{", ""),
        (reading.worked_answer, "####", ""),
        (bare, "a the ", ""),
        (final_answer, "#### \n", ""),
        (lambda text: follows(text, {"kind": "starts_with", "words": ["b"], "first": "b"}), "a ", ""),
        (lambda text: quality.repetition(rows.words(text)), "a b ", ""),
        (lambda text: Hasher(5).shingles(rows.words(text)), "a b ", ""),
        (lambda text: prints.answer_keys(text), "9", ""),
        (identity.tokens, ".", "a"),
        (identity.tokens, " .", "a"),
        (identity.tokens, "?", "é"),
        (identity.tokens, " ", "."),
        (clauses, "1. ", ""),
        (clauses, "(a ", ""),
        (clauses, "\n- ", ""),
        (clauses, "\\dfrac{", ""),
        (clauses, ".", "a"),
        (clauses, "!", "a"),
        (clauses, "?", "é"),
        (clauses, " ", "@"),
        (clauses, " ", "é@"),
        (SHORT.match, "what. ", ""),
        (SHORT.match, "! ", "what is hate"),
        (SHORT.match, "please. ", "what is hate"),
        (ALIKE.match, "1 1 1 1 ", ""),
    ],
)
def test_a_text_of_half_a_megabyte(function, part, end):
    text = "a" + part * (MB // 2 // len(part)) + end
    with within(SECONDS):
        function(text)


def test_text_is_normalized_and_no_run_of_marks_is_sorted_beyond_thirty():
    assert identity.fold("e\u0301 ﬁ") == "é fi"
    assert identity.fold("x" + "\u0301\u0327" * 14) == "x" + "\u0327" * 14 + "\u0301" * 14
    assert "\u034f" in identity.fold("a" + "\u0301\u0327" * 16)


FOREIGN = [
    f"Das ist ein Haus {part * 20_000} und kein Garten" for part in ("«", '"', "\\(", "<a", "$$", "x@", "”“", "Der. ")
]


# To sort a run of marks takes the square of their number.
MARKS = "Das ist e" + "\u0301\u0327" * (MB // 4) + "in Haus"


@pytest.mark.parametrize("text", ["the cat sat on " * 20_000, ("a" * 19 + "b") * 20_000, MARKS, *FOREIGN])
def test_a_long_text_is_filtered(text):
    settings = {"language": "en", "max_repetition": 0.5, "min_prompt_chars": 0, "min_response_chars": 0}
    settings |= {"max_prompt_chars": MB, "max_response_chars": MB}
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "It did."}]}
    # Kept or not: it is told in time.
    with within(2 * SECONDS), contextlib.suppress(RowProblem):
        filtering.check(row, settings)


def test_a_conversation_of_thousands_of_calls():
    turns = [{"role": "user", "content": "a"}]
    for i in range(3000):
        call = {"id": str(i), "function": {"name": "look", "arguments": "{}"}}
        turns += [{"role": "assistant", "content": None, "tool_calls": [call]}]
        turns += [{"role": "tool", "content": "b", "tool_call_id": str(i)}]
    with within(SECONDS):
        messages, _, _ = Reader("messages", {})({"messages": [*turns, {"role": "assistant", "content": "c"}]})
    assert len(messages) == 6002
