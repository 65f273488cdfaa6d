"""Work folders: one for each result, removed with a word where the result is another, files held to their hashes."""

import errno
import shutil
from pathlib import Path

import pytest

from steps.core.files import read_json, write_json
from steps.core.work import MADE_FOR, keep, kept, work_folder


@pytest.fixture
def given(tmp_path) -> dict:
    for name in ("rows.jsonl", "code.py"):
        (tmp_path / name).write_text(name)
    return {
        "parent": tmp_path / "work",
        "out": tmp_path / "out",
        "settings": {"learning_rate": 0.1, "adapter": {"kind": "lora", "r": 4}},
        "files": [tmp_path / "rows.jsonl", tmp_path / "code.py"],
    }


def test_the_same_result_is_gone_on_with(given, capsys):
    folder = work_folder(**given)
    (folder / "state").write_text("here")
    assert work_folder(**given) == folder
    assert (folder / "state").read_text() == "here" and capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"learning_rate": 0.2, "adapter": {"kind": "lora", "r": 4}}, "(learning_rate 0.1 → 0.2)"),
        ({"learning_rate": 0.1, "adapter": {"kind": "full"}}, '(adapter.kind "lora" → "full", adapter.r 4 → unset)'),
        ({"learning_rate": 0.1, "adapter": {"kind": "lora", "r": 4}, "rows": None}, "(rows unset → null)"),
        (None, "/code.py)"),
    ],
)
def test_what_was_put_aside_for_another_result_goes_with_a_word(given, capsys, change, said):
    before = work_folder(**given)
    (before / "state").write_text("here")
    if change is None:
        given["files"][1].write_text("edited")
    else:
        given["settings"] = change
    assert work_folder(**given) != before and not before.exists()
    (line,) = capsys.readouterr().out.splitlines()
    assert said in line and line.startswith(f"{before}: ") and line.endswith("removed, and this run starts over")
    assert len(list(given["parent"].iterdir())) == 1


@pytest.mark.parametrize(("count", "said"), [(3, "(a 0 → 1, b 0 → 1, c 0 → 1)"), (4, "c 0 → 1 and 1 more)")])
def test_three_differences_are_named_and_the_others_counted(given, capsys, count, said):
    work_folder(**given | {"settings": dict.fromkeys("abcd"[:count], 0)})
    work_folder(**given | {"settings": dict.fromkeys("abcd"[:count], 1)})
    assert said in capsys.readouterr().out


def test_a_long_value_is_cut_where_it_would_not_fit(given, capsys):
    whole, long = "ü" * 58, "y" * 59  # 60 and 61 characters with their quotes
    work_folder(**given | {"settings": {"a": whole}})
    work_folder(**given | {"settings": {"a": long}})
    assert f'(a "{whole}" → "{long[:56]}...)' in capsys.readouterr().out


def test_the_order_of_files_is_a_part_of_the_result(given, capsys):
    before = work_folder(**given)
    assert work_folder(**given | {"files": given["files"][::-1]}) != before
    assert "(the order of its files)" in capsys.readouterr().out


def test_a_file_that_moved_is_the_same_and_one_more_is_not(given, tmp_path, capsys):
    before = work_folder(**given)
    moved = given["files"][0].rename(tmp_path / "moved.jsonl")
    assert work_folder(**given | {"files": [moved, given["files"][1]]}) == before
    (tmp_path / "more.jsonl").write_text("more")
    assert work_folder(**given | {"files": [moved, given["files"][1], tmp_path / "more.jsonl"]}) != before
    assert f"(new {tmp_path}/more.jsonl)" in capsys.readouterr().out


def test_two_outputs_share_no_folder_and_leave_each_other_alone(given, tmp_path, capsys):
    one = work_folder(**given)
    other = work_folder(**given | {"out": tmp_path / "other"})
    changed = work_folder(**given | {"out": tmp_path / "other", "settings": {}})
    assert one.is_dir() and not other.exists() and changed.is_dir() and one != other
    assert str(one) not in capsys.readouterr().out


def test_a_repository_that_is_moved_goes_on(given, tmp_path):
    folder = work_folder(**given)
    shutil.move(tmp_path, tmp_path.with_name("moved"))
    there = {key: tmp_path.with_name("moved") / given[key].name for key in ("parent", "out")}
    files = [tmp_path.with_name("moved") / path.name for path in given["files"]]
    assert work_folder(**given | there | {"files": files}).name == folder.name


@pytest.mark.parametrize("content", [None, "{", "[]", '{"out": "../out"}'])
def test_what_an_older_version_left_is_removed(given, capsys, content):
    old = given["parent"] / "0123456789abcdef"
    old.mkdir(parents=True)
    if content is not None:
        (old / MADE_FOR).write_text(content)
    (given["parent"] / "notes").mkdir()
    folder = work_folder(**given)
    assert sorted(given["parent"].iterdir()) == sorted([folder, given["parent"] / "notes"])
    assert f"no readable {MADE_FOR}" in capsys.readouterr().out


def test_a_folder_that_cannot_be_removed_is_one_line(given, monkeypatch):
    old = work_folder(**given)

    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder))

    monkeypatch.setattr(shutil, "rmtree", refuse)
    with pytest.raises(ValueError, match=f"^{old}: Permission denied; make it writable and run again$"):
        work_folder(**given | {"settings": {}})


@pytest.mark.parametrize("damage", ['{"value": 2', '{"value": 3, "sha256": "0"}', "[1]", "\0"])
def test_a_kept_value_is_held_to_its_hash(tmp_path: Path, damage, capsys):
    path = tmp_path / "value.json"
    assert kept(path) is None
    keep(path, {"parts": [2, 0.5, None]})
    assert kept(path) == {"parts": [2, 0.5, None]} and capsys.readouterr().out == ""
    write_json(path, read_json(path) | {"value": {"parts": [4, 0.5, None]}})
    assert kept(path) is None and not path.exists()
    path.write_text(damage)
    assert kept(path) is None and not path.exists()
    assert capsys.readouterr().out.count(f"{path}: damaged") == 2
