"""The thin command: an overlay from a file of rows, and the tables of a report in a terminal."""

import json

import pytest

from steps import cli
from steps.core.files import write_jsonl
from steps.graph import recipes, workload
from steps.graph.graph import Graph
from steps.report.tables import Column, Estimate, Table
from tests.workloads import ROOT, long_model

ROWS = [{"query": f"What is {i} + 2?", "response": f"It is {i + 2}."} for i in range(5)]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder with what a user has: rows, some of which have no response, questions, a model; and what ships."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    write_jsonl(tmp_path / "some.jsonl", [*ROWS, {"query": "And 9 + 2?", "response": ""}])
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "What is 70 + 2?", "answer": "72"}])
    write_jsonl(tmp_path / "odd.jsonl", [{"left": "a", "right": "b"}])
    long_model(tmp_path / "model")
    (tmp_path / "data").symlink_to(ROOT / "data")
    return tmp_path


def ended(capsys, *arguments: str) -> str:
    """The line that a mistake ends in."""
    with pytest.raises(SystemExit) as end:
        cli.main([*arguments])
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("temper: error: ")]
    return line.removeprefix("temper: error: ")


def test_an_overlay_is_written_that_says_what_was_read_and_resolves(own, capsys):
    cli.main(["init", "mine", "some.jsonl", "--test", "test.jsonl", "--model", "model"])
    file = own / "workloads/mine.yaml"
    assert "5 of 6 rows of some.jsonl can be read, as query_response" in file.read_text().splitlines()[1]
    graph = Graph(recipes.complete(workload.load(ROOT, [file])[0]))
    assert graph.params["workload"] == "mine" and [*graph.nodes] == ["sft_lora"]
    assert graph.params["data"]["problems"]["sources"] == [{"path": "some.jsonl", "format": "query_response"}]
    assert graph.params["models"] == {"base": {"path": "model"}}
    assert graph.params["evaluate"]["tasks"]["own"] == {"stock": "short", "data_files": {"test": "test.jsonl"}}
    said = capsys.readouterr().out
    assert "snakemake -n --configfile workloads/mine.yaml" in said
    # The row that was not taken is there to be looked at.
    (left,) = [part.strip("()") for part in said.split() if "quarantine.jsonl" in part]
    assert [json.loads(line)["row"] for line in open(left)] == [5]


def test_without_a_model_it_is_that_of_the_example(own):
    cli.main(["init", "mine", "rows.jsonl", "--test", "test.jsonl"])
    assert workload.read(own / "workloads/mine.yaml")["models"] == workload.read(cli.EXAMPLE)["models"]
    cli.main(["init", "other", "rows.jsonl", "--test", "test.jsonl", "--model", f"me/mine@{'c' * 40}"])
    assert workload.read(own / "workloads/other.yaml")["models"]["base"] == {"path": "me/mine", "revision": "c" * 40}


def test_fields_by_other_names_and_paths_that_yaml_would_misread_are_written_as_they_are(own):
    write_jsonl(own / "a: b, {c}.jsonl", [{"q": row["query"], "a": row["response"]} for row in ROWS])
    columns = ["--columns", "{prompt: q, response: a}"]
    cli.main(["init", "mine", "a: b, {c}.jsonl", "--test", "test.jsonl", "--model", "model", *columns])
    (source,) = workload.read(own / "workloads/mine.yaml")["data"]["problems"]["sources"]
    assert source == {
        "path": "a: b, {c}.jsonl",
        "columns": {"prompt": "q", "response": "a"},
        "format": "prompt_response",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mine", "gone.jsonl", "--test", "test.jsonl"], "there is no file gone.jsonl; correct the path"),
        (["mine", "odd.jsonl", "--test", "test.jsonl"], "odd.jsonl: no format has its fields (left, right)"),
        (["mine", "rows.jsonl", "--test", "rows.jsonl"], "rows.jsonl, line 1: has no 'prompt'"),
        (["mine", "rows.jsonl", "--test", "test.jsonl", "--stock", "shrt"], "evaluate.tasks.own"),
        (
            ["mine", "rows.jsonl", "--test", "test.jsonl", "--model", "gone"],
            "base.path: there is no folder gone",
        ),
        (["Mine", "rows.jsonl", "--test", "test.jsonl", "--model", "model"], "workload: "),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(own, capsys, arguments, said):
    assert said in ended(capsys, "init", *arguments)
    assert not (own / "workloads").exists() and [*(own / "temporary").iterdir()] == []


def test_rows_are_read_last(own, capsys, monkeypatch):
    """They may be millions, the questions are hundreds."""
    monkeypatch.setattr(cli, "read", lambda source: pytest.fail("rows were read"))
    said = ended(capsys, "init", "mine", "rows.jsonl", "--test", "rows.jsonl", "--model", "model")
    assert "rows.jsonl, line 1: has no 'prompt'" in said


def test_an_overlay_that_is_there_stays(own, capsys):
    (own / "workloads").mkdir()
    (own / "workloads/mine.yaml").write_text("workload: mine\n")
    assert "is there already" in ended(capsys, "init", "mine", "rows.jsonl", "--test", "test.jsonl")
    assert (own / "workloads/mine.yaml").read_text() == "workload: mine\n"


@pytest.fixture
def report(tmp_path, monkeypatch):
    """A report's folder with two tables."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    folder = tmp_path / "reports/mine"
    (folder / "tables").mkdir(parents=True)
    (folder / "summary.txt").write_text("mine: five lines.\n")
    score = Estimate(0.5, 0.25, 0.75, 0.1, 40)
    columns = [
        Column("name", "checkpoint"),
        Column("score", "target %", "percent"),
        Column("links", "manifest", "links"),
    ]
    rows = [{"name": "base"}, {"name": "a | b\\\x1b[31m", "score": score}]
    for name in ("checkpoints", "tasks"):
        (folder / f"tables/{name}.md").write_text(Table(name, f"What {name} show.", columns, rows).markdown())
    return folder


def test_what_a_run_found_and_its_checkpoints_are_printed(report, capsys):
    cli.main(["show", "mine"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "mine: five lines." and "Other tables: checkpoints, tasks" in said
    assert said[-1] == "The whole report: reports/mine/index.html"
    head, base, other, caption = said[2:6]
    # A terminal obeys no cell, and has no use for links.
    assert head.split() == ["checkpoint", "target", "%"] and base.split() == ["base", "–"]
    assert other.startswith("a | b\\⟨U+001B⟩[31m") and other.endswith("50.0 [25.0, 75.0]")
    assert caption == "What checkpoints show."


def test_named_tables_alone_are_printed_and_a_wide_one_repeats_its_names(report, capsys):
    columns = [Column("name", "checkpoint"), *(Column(f"c{i}", f"a column {i}") for i in range(9))]
    row = {"name": "base"} | {f"c{i}": f"value {i}" for i in range(9)}
    (report / "tables/wide.md").write_text(Table("wide", "Wide.", columns, [row]).markdown())
    cli.main(["show", "mine", "wide"])
    said = capsys.readouterr().out
    assert "five lines" not in said and max(map(len, said.splitlines())) <= 60
    assert said.count("base") > 1 and all(f"value {i}" in said for i in range(9))


def test_what_is_not_there_is_one_line_that_says_what_is(report, capsys):
    assert "there is no report" in (line := ended(capsys, "show", "mien")) and "mine" in line
    assert "there is no table task" in (line := ended(capsys, "show", "mine", "task")) and "tasks" in line


def test_the_committed_report_is_printed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    cli.main(["show", "fable_full"])
    assert "sft_lora" in capsys.readouterr().out
