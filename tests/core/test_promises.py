"""What a manifest says of the files beside it is held by whoever reads them."""

import os

import pytest

from steps.core import promises
from steps.core.files import read_csv, read_json, read_jsonl
from steps.core.hashes import sha256_file
from steps.core.manifest import write_manifest
from steps.core.promises import MANIFEST, check_promise, consult, promised, read_object


def test_every_reader_checks_a_promise(root):
    readers = {"a.json": read_json, "a.jsonl": lambda path: list(read_jsonl(path)), "a.csv": read_csv}
    folder = root / "made/it"
    folder.mkdir(parents=True)
    for name in readers:
        (folder / name).write_text('{"a": 1}\n')
    write_manifest(folder, step="toy", settings={}, inputs=[], started=0.0)
    for name, read in readers.items():
        assert read(folder / name) is not None
        (folder / name).write_text('{"a": 2}\n')
        with pytest.raises(ValueError, match=f"made/it/{name} is damaged"):
            read(folder / name)


def test_a_pipe_or_another_programs_manifest_beside_an_input_promises_nothing(root):
    rows = root / "rows"
    rows.mkdir()
    (rows / "a.json").write_text("{}")
    for make in (os.mkfifo, os.mkdir):
        make(rows / MANIFEST)
        check_promise(rows / "a.json")
        (rows / MANIFEST).rmdir() if (rows / MANIFEST).is_dir() else (rows / MANIFEST).unlink()
    for text in (
        '{"outputs": {"a.json": "abc"}}',
        '{"sha256": "x"}',
        '{"sha256": "x", "outputs": ["a.json"]}',
        "[" * 100_000,
    ):
        (rows / MANIFEST).write_text(text)
        check_promise(rows / "a.json")
        assert promised(rows) == {}


def test_a_long_file_is_no_manifest(root, monkeypatch):
    folder = root / "made"
    folder.mkdir()
    write_manifest(folder, step="toy", settings={}, inputs=[], started=0.0)
    assert read_object(folder / MANIFEST)["step"] == "toy"
    monkeypatch.setattr(promises, "LONGEST", (folder / MANIFEST).stat().st_size - 1)
    assert read_object(folder / MANIFEST) is None


def test_the_manifest_of_a_folder_above_counts(root):
    folder = root / "made/it"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/a.json").write_text("{}")
    (folder / "deep/.hidden").write_text("x")
    write_manifest(folder, step="toy", settings={}, inputs=[], started=0.0)
    read = consult()
    check_promise(folder / "deep/a.json")
    assert read == {folder / MANIFEST: sha256_file(folder / MANIFEST)}
    (folder / "deep/.hidden").write_text("y")
    check_promise(folder / "deep/.hidden")
    (folder / "deep/a.json").write_text("[]")
    said = "deep/a.json is damaged: its 2 bytes are not those that .*made/it/manifest.json names"
    with pytest.raises(ValueError, match=said):
        check_promise(folder / "deep/a.json")
    (folder / "deep/a.json").unlink()
    check_promise(folder / "deep/a.json")
