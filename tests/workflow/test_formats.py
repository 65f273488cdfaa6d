"""A newcomer's rows as they come: a CSV, a packed file, a folder of Parquet, documents; from the plan to their rows."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from steps.core.files import read_json, read_jsonl
from tests import small

CPT = {"epochs": 1, "learning_rate": 1.0e-3, "batch_size": 8, "gradient_accumulation": 1, "max_length": 32, "saves": 1}
CHANGE = {
    "data": {
        "problems": {
            "sources": [
                {"path": "mine/rows.csv"},
                {"path": "mine/chats.jsonl.gz", "format": "messages", "train": "last"},
                {"path": "mine/shards", "columns": {"prompt": "q", "response": "a"}, "format": "prompt_response"},
            ]
        },
        "books": {"sources": [{"path": "mine/books/*.txt"}]},
    },
    "cpt": CPT,
    "studies": {"foundation": {"recipes": {"read": {"stage": "cpt", "from": "base", "data": "books"}}}},
}
ROWS = "results/small/data/problems/split/manifest.json"
READ = "results/small/foundation/read/manifest.json"


def write_shard(path: Path, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    folder = small.write(small.copy_of_the_repository(tmp_path_factory.mktemp("mine")), CHANGE)
    rows = small.rows(60)
    (folder / "mine/books").mkdir(parents=True)
    with open(folder / "mine/rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([("question", "answer"), *((row["q"], row["a"]) for row in rows[:15])])
    chats = [
        {"messages": [{"role": role, "content": row[key]} for key, role in (("q", "user"), ("a", "assistant"))]}
        for row in rows[15:30]
    ]
    with gzip.open(folder / "mine/chats.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(chat) + "\n" for chat in chats)
    for i in (30, 45):
        write_shard(folder / f"mine/shards/{i}.parquet", rows[i : i + 15])
    for i in range(20):
        text = " ".join(f"{row['q']} {row['a']}" for row in small.rows(3, seed=10 + i))
        (folder / f"mine/books/{i}.txt").write_text(text)
    return folder


def test_they_run_as_the_docs_say(mine):
    output = small.snakemake(mine, ROWS, READ)
    for line in (
        "ingest: rows.csv: read as question_answer",
        "ingest: chats.jsonl.gz: read as messages",
        "ingest: 30.parquet, 45.parquet: read as prompt_response",
        "60 of 60 rows kept",
        "read as text",
    ):
        assert line in output, output
    rows = [row for part in ("train", "valid") for row in read_jsonl((mine / ROWS).parent / f"{part}.jsonl")]
    assert {row["file"] for row in rows} == {"rows.csv", "chats.jsonl.gz", "30.parquet", "45.parquet"}
    assert len({row["id"] for row in rows}) == len(rows)
    train = read_json(mine / READ)["counts"]["train"]
    assert train["documents"] <= train["kept"] and train["documents"] > 10
    assert "Nothing to be done" in small.snakemake(mine, ROWS, READ, "--dry-run")


def test_a_new_file_of_a_folder_is_read(mine):
    write_shard(mine / "mine/shards/60.parquet", small.rows(5, seed=9))
    plan = small.snakemake(mine, ROWS, "--dry-run")
    assert "ingest problems: sources[2].files" in plan, plan
    (mine / "mine/shards/60.parquet").unlink()
    assert "Nothing to be done" in small.snakemake(mine, ROWS, "--dry-run")


AT = "data.problems.sources[0]"


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ({"path": "mine/none/*.csv"}, f"{AT}.path: no file matches mine/none/*.csv"),
        (
            {"path": "mine/shards", "format": "text", "columns": {"prompt": "q"}},
            f"{AT}.columns: format text has no field 'prompt'",
        ),
        ({"path": "mine/rows.csv", "format": "csv"}, f"{AT}.format: 'csv' is none of: auto, messages"),
        ({"path": "o/n/rows.xlsx", "revision": "0" * 40}, f"{AT}.path: o/n/rows.xlsx is no file of rows"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_before_any_job(mine, source, line):
    try:
        data = {"problems": {"sources": [source]}, "books": CHANGE["data"]["books"]}
        small.write_settings(mine, CHANGE | {"data": data})
        assert line in small.snakemake(mine, ROWS, "--dry-run", expect=2)
    finally:
        small.write_settings(mine, CHANGE)
