"""What a task asks of its rows is checked in every form that evaluation reads, in one line each."""

import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from steps.core.files import write_jsonl
from steps.evaluation.questions import check_task
from steps.evaluation.tasks import TEMPLATES
from steps.judges.tasks import ASKED, score_number

GOOD = {"prompt": "How many?", "answer": "2"}


def write_rows(path, rows):
    """The same rows as a file of the path's form."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        path.write_text("\ufeff" + text.getvalue())
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        write_jsonl(path, rows)


@pytest.fixture(params=["jsonl", "json", "parquet", "csv"])
def given(request, tmp_path):
    """A description of a task with some rows, in each form."""

    def describe(rows, stock="worked", **spec):
        path = tmp_path / f"test.{request.param}"
        write_rows(path, rows)
        return {"stock": stock, "data_files": {"test": str(path)}} | spec

    return describe


def test_rows_with_what_the_template_asks_pass(given):
    check_task("exam", given([GOOD | {"more": "x"}] * 2))
    check_task("exam", given([{"question": "Who?", "answer": "2"}], overrides={"doc_to_text": "{{question}}"}))
    check_task("exam", given([{"question": "Who?", "answer": "2"}], overrides={"doc_to_text": "question"}))


def test_a_field_by_another_name_is_named(given):
    with pytest.raises(ValueError) as error:
        check_task("exam", given([{"prompt": "How many?", "reply": "2"}]))
    assert "has no 'answer', which evaluate.tasks.exam: tasks/worked.yaml reads (process_results)" in str(error.value)
    assert "it has prompt, reply" in str(error.value) and "\n" not in str(error.value)


def test_a_later_row_without_an_answer_is_found(given):
    with pytest.raises(ValueError, match=r"(line|row) [34]: has no 'answer'"):
        check_task("exam", given([GOOD, GOOD, GOOD | {"answer": None}]))


@pytest.mark.parametrize(
    ("stock", "row", "what"),
    [
        ("worked", {"prompt": "a", "answer": ["2"]}, "'answer' must be text or a number"),
        ("worked", {"prompt": "a", "answer": True}, "'answer' must be text or a number"),
        ("nq_open", {"question": "a", "answer": "Paris"}, "'answer' must be a list of texts"),
        ("math", {"problem": "a", "answer": 5}, "'answer' must be text"),
        ("choice", {"prompt": "Who?\nA) Ann\nB) Ben", "answer": "C"}, "'answer' is none .*'C' names no single option"),
        ("choice", {"prompt": "Who?\nA) Ann\nB) Ben", "answer": "Eva"}, "'answer' is none .*'Eva' names no single"),
        ("choice", {"prompt": "Who?", "answer": ""}, "'answer' is none"),
        ("code", {"prompt": "a", "answer": "assert f(1 == 2"}, "'answer' is none .*no Python"),
        ("instruction", {"prompt": "a", "answer": "b", "check": {"kind": "rhyme"}}, "'check' must be a constraint"),
        ("instruction", {"prompt": "a", "answer": "b", "check": {"kind": "repeat"}}, "'check' must be a constraint"),
    ],
)
def test_an_answer_that_cannot_be_compared_is_named(tmp_path, stock, row, what):
    write_jsonl(tmp_path / "test.jsonl", [row])
    files = {"test": str(tmp_path / "test.jsonl"), "train": str(tmp_path / "test.jsonl")}
    with pytest.raises(ValueError, match=rf"test.jsonl, line 1: {what}.*, for evaluate.tasks.exam: tasks/{stock}.yaml"):
        check_task("exam", {"stock": stock, "data_files": files})


def test_a_number_is_an_answer(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "a", "answer": 2}])
    check_task("exam", {"stock": "worked", "data_files": {"test": str(tmp_path / "test.jsonl")}})
    assert score_number({"answer": 2.0}, ["2"]) == {"exact_match": 1.0}


def test_a_mistyped_task_is_named_with_the_one_that_was_meant():
    with pytest.raises(ValueError, match=r"'fable_problms' names 0 files .*; did you mean `fable_problems`\?"):
        check_task("fable_problms", {})
    with pytest.raises(ValueError, match=r"evaluate.tasks.exam.stock: 'wrked' .*did you mean `worked`\?"):
        check_task("exam", {"stock": "wrked"})


def test_a_split_that_the_template_reads_must_have_a_file(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [GOOD])
    spec = {"stock": "worked", "data_files": {"train": str(tmp_path / "train.jsonl")}}
    with pytest.raises(ValueError, match=r"asks for the split test; add `test: <file>`.*\(there are train\)"):
        check_task("exam", spec)
    write_jsonl(tmp_path / "test.jsonl", [{"question": "a", "answer": ["b"]}])
    with pytest.raises(ValueError, match=r"tasks/nq_open.yaml asks for the split train"):
        check_task("trivia", {"stock": "nq_open", "data_files": {"test": str(tmp_path / "test.jsonl")}})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"prompt": "a"', "a.jsonl, line 1: is no JSON"),
        ("a.jsonl", b"[1, 2]\n", "a.jsonl, line 1: must be an object of fields"),
        ("a.jsonl", b"\n", "a.jsonl: has no rows"),
        ("a.json", b'[{"prompt": ', "a.json: is no JSON"),
        ("a.json", b"[]", "a.json: has no rows"),
        ("a.csv", b"prompt,answer\n\xff,1\n", "a.csv: is no CSV file"),
        ("a.csv", b"prompt,answer\n", "a.csv: has no rows"),
        ("a.csv", b"prompt,answer\nWho, he?,2\n", "a.csv, line 2: has a cell more than the line of names"),
        (
            "a.jsonl",
            b'{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": 2.5}',
            "line 2: 'answer' is a number with",
        ),
        ("a.parquet", b"PAR1", "a.parquet: is no Parquet file"),
        ("a.txt", b"x", "must be of one format of"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        check_task("exam", {"stock": "worked", "data_files": {"test": str(tmp_path / name)}})
    assert "\n" not in str(error.value)


def test_lines_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "a", "answer": "1"}\r\n')
    assert check_task("exam", {"stock": "worked", "data_files": {"test": str(tmp_path / "a.jsonl")}}) == 1


def test_cells_of_csv_are_read_as_they_stand(tmp_path):
    from datasets import load_dataset

    from steps.evaluation.tasks import task_config

    file = tmp_path / "a.csv"
    file.write_text("answer,zip,version,count\nNA,007,1.10,3\nNone,10001,2.0,4\n")
    config = task_config("exam", {"stock": "worked"}, {"test": file})
    rows = load_dataset(config["dataset_path"], cache_dir=str(tmp_path / "cache"), **config["dataset_kwargs"])["test"]
    assert rows.to_list() == [
        {"answer": "NA", "zip": "007", "version": "1.10", "count": 3},
        {"answer": "None", "zip": "10001", "version": "2.0", "count": 4},
    ]


def test_rows_may_lie_under_a_field(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"canary": "x", "examples": [{"input": "a", "target": "b"}]}))
    (tmp_path / "train.json").write_text(json.dumps({"examples": [{"input": "a", "target": "b"}]}))
    files = {"test": str(tmp_path / "a.json"), "train": str(tmp_path / "train.json")}
    check_task("t", {"stock": "bbh", "data_files": files, "overrides": {"dataset_kwargs": {"field": "examples"}}})
    with pytest.raises(ValueError, match="has no list under 'rows'"):
        check_task("t", {"stock": "bbh", "data_files": files, "overrides": {"dataset_kwargs": {"field": "rows"}}})


def test_it_is_known_what_the_glue_of_every_template_reads():
    named = {
        line.rpartition(".")[2] for path in TEMPLATES.glob("*.yaml") for line in path.read_text().splitlines()
        if line.startswith("process_results: !function steps.judges.tasks.")
    }  # fmt: skip
    assert named == ASKED.keys()
