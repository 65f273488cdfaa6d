"""The files that a task's numbers rest on."""

from pathlib import Path

import pytest

from steps.evaluation import tasks


@pytest.fixture
def templates(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(tasks, "TEMPLATES", tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "plain.yaml": "task: plain\n",
        "mine.yaml": 'include: "below.yaml"  # a comment\nprocess_results: !function mine.score\n',
        "below.yaml": "include: [deep/one.yaml, plain.yaml]\n",
        "deep/one.yaml": "doc_to_text: !function other.module.text\ndoc_to_target: !function steps.judges.tasks.x\n",
        "mine.py": "",
        "deep/other/module.py": "",
        "another.py": "",
    }.items():
        (tmp_path / "tasks" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tasks" / name).write_text(text)
    (tmp_path / "rows.jsonl").write_text("{}\n")
    return tmp_path / "tasks"


def test_what_a_template_stands_on_is_an_input(templates):
    files = {"mine": {"test": Path("rows.jsonl")}}
    found = tasks.task_inputs(files, {"mine": {"include": str(templates / "mine.yaml")}})
    below = ["below.yaml", "deep/one.yaml", "deep/other/module.py", "mine.py", "mine.yaml", "plain.yaml"]
    assert [str(path) for path in found] == ["rows.jsonl", *(f"tasks/{name}" for name in below)]


def test_a_template_of_the_library_is_no_file_of_ours(templates, tmp_path):
    (tmp_path / "library.yaml").write_text("task: x\n")
    files = {"x": {"test": Path("rows.jsonl")}}
    assert tasks.task_inputs(files, {"x": {"include": str(tmp_path / "library.yaml")}}) == [Path("rows.jsonl")]
