"""Manifests: sealed, told from others, and equal for equal results."""

import json
import sys

import pytest

from steps.core import manifest as manifests
from steps.core import promises
from steps.core.asked import Asked
from steps.core.files import read_json
from steps.core.hashes import sha256_file
from steps.core.manifest import (
    LAST,
    input_digest,
    is_manifest,
    note_inputs,
    read_manifest,
    verify_manifest,
    write_manifest,
    write_sealed,
)  # fmt: skip
from steps.core.promises import MANIFEST, PROVENANCE
from steps.core.standing import differences
from tests.core.toy import flip, run


def test_equal_results_are_equal_inputs(tmp_path):
    """Whatever code made them of whatever: the chain of reruns ends there."""
    common = {"step": "a", "settings": {}, "outputs": {"x": "1"}, "counts": {}, "seed": None}
    for name, own in (
        ("one", {"code": "1", "inputs": {"a": "1"}, "asked": "1"}),
        ("two", {"code": "2", "inputs": {"a": "2"}, "asked": "2"}),
    ):
        write_sealed(tmp_path / name / MANIFEST, common | own)
    write_sealed(
        tmp_path / "other" / MANIFEST, common | {"outputs": {"x": "2"}, "code": "1", "inputs": {}, "asked": "1"}
    )
    one, two, other = (input_digest(tmp_path / name / MANIFEST) for name in ("one", "two", "other"))
    assert one == two != other


@pytest.mark.parametrize("place", range(0, 200, 7))
def test_every_byte_of_a_manifest_is_checked(tmp_path, place):
    write_sealed(tmp_path / MANIFEST, {"step": "a", "outputs": {"x": "1" * 64}, "counts": {"rows": 12}})
    content = (tmp_path / MANIFEST).read_bytes()
    assert read_manifest(tmp_path / MANIFEST)["step"] == "a"
    flip(tmp_path / MANIFEST, place % len(content))
    with pytest.raises(ValueError, match="is damaged, or nothing that Temper wrote"):
        read_manifest(tmp_path / MANIFEST)
    (tmp_path / MANIFEST).write_bytes(content[: place % len(content)])
    with pytest.raises(ValueError, match="is damaged"):
        read_manifest(tmp_path / MANIFEST)


@pytest.mark.parametrize("text, ours", [("{}", False), ("[1]", False), ('{"outputs": {}}', False), ("{", True)])
def test_another_programs_manifest_is_none_of_ours(tmp_path, text, ours):
    (tmp_path / MANIFEST).write_text(text)
    assert is_manifest(tmp_path / MANIFEST) == ours
    with pytest.raises(ValueError, match="nothing that Temper wrote"):
        read_manifest(tmp_path / MANIFEST)


def written(folder, **more) -> dict:
    folder.mkdir(exist_ok=True)
    write_manifest(folder, step="toy", settings={"a": 1}, inputs=more.pop("inputs", []), started=0.0, **more)
    return read_manifest(folder / MANIFEST)


def test_a_manifest_says_what_was_made_of_what(tmp_path):
    (tmp_path / "out/deep").mkdir(parents=True)
    for name in ("a.txt", "deep/b.txt", ".hidden", "in.txt"):
        (tmp_path / "out" / name).write_text(name)
    (tmp_path / "out/in.txt").replace(tmp_path / "in.txt")
    found = written(tmp_path / "out", inputs=[tmp_path / "in.txt"], counts={"rows": 2}, seed=3, setup={"engine": "x"})
    assert found["outputs"] == {name: sha256_file(tmp_path / "out" / name) for name in ("a.txt", "deep/b.txt")}
    assert found["inputs"] == {str(tmp_path / "in.txt"): sha256_file(tmp_path / "in.txt")}
    assert [found[key] for key in ("step", "settings", "counts", "seed", "setup")] == [
        "toy", {"a": 1}, {"rows": 2}, 3, {"engine": "x"},
    ]  # fmt: skip
    assert found["asked"] is None and found["code"] is None, "nobody asked for it by a command"
    assert (tmp_path / "out" / LAST).read_bytes() == (tmp_path / "out" / MANIFEST).read_bytes()
    assert verify_manifest(tmp_path / "out") == found


def test_a_step_that_was_asked_says_by_what_and_by_which_code(root):
    found = read_manifest(root / "out/it" / MANIFEST)
    assert len(found["asked"]) == len(found["code"]) == 64 and found["asked"] != found["code"]
    record = read_manifest(root / "out/it" / PROVENANCE)
    assert record["argv"][:3] == ["python", "-m", "steps.toy.double"] and record["git_commit"] is None
    run(root, times=2)
    other = read_manifest(root / "out/it" / MANIFEST)
    assert other["asked"] != found["asked"] and other["code"] == found["code"]


def test_provenance_names_the_commit_and_the_device(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    assert " CPU, " in manifests._device()
    monkeypatch.setattr(manifests.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": "abc\n"}))
    written(tmp_path / "out", speed=[1.0])
    record = read_manifest(tmp_path / "out" / PROVENANCE)
    assert record["git_commit"] == "abc" and record["speed"] == [1.0]

    def none(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(manifests.subprocess, "run", none)
    assert manifests._git_commit() is None


def test_what_was_made_anew_while_it_was_read_is_refused(tmp_path, monkeypatch):
    """A step that finds as it reads what there is to read: by then another run has made it of something else."""
    monkeypatch.setattr(manifests, "_given", {})
    made, out = tmp_path / "made", tmp_path / "out"
    for content in "12":
        made.mkdir(exist_ok=True)
        (made / "a.json").write_text(content)
        written(made, counts={"rows": int(content)})
        if content == "1":
            read = promises.consult()
            read_json(made / "a.json")
            written(out, inputs=read)
    with pytest.raises(ValueError, match="made/manifest.json changed while this step ran"):
        written(out, inputs=read)


def test_a_manifest_that_is_shown_as_a_whole_is_an_input_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_given", {})
    made, outs = tmp_path / "made", (tmp_path / "shows", tmp_path / "rests")
    made.mkdir()
    content = written(made)
    path = made / MANIFEST
    for out, whole in zip(outs, (True, False), strict=True):
        out.mkdir()
        written(out, inputs=[path], whole=whole)
    write_sealed(path, {**content, "code": "of another comment"})
    changed = [
        [line for line in differences(out, Asked("steps.toy", {}, ()), lambda _: "") if "changed" in line]
        for out in outs
    ]
    assert changed == [[f"{path} changed"], []]


def test_what_was_noted_must_be_the_same_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "_given", {})
    rows, folder = tmp_path / "rows.json", tmp_path / "model"
    rows.write_text("1")
    folder.mkdir()
    (folder / "config.json").write_text("2")
    note_inputs([rows, folder, tmp_path / "gone"])
    inputs = [rows, folder / "config.json"]
    written(tmp_path / "out", inputs=inputs)
    for path in inputs:
        before = path.read_text()
        path.write_text("3")
        with pytest.raises(ValueError, match=f"{path.name} changed while this step ran"):
            written(tmp_path / "out", inputs=inputs)
        path.write_text(before)
    written(tmp_path / "out", inputs=inputs)


def test_a_file_of_another_name_is_its_bytes(tmp_path):
    content = {"step": "a", "settings": {}, "outputs": {}, "code": "1"}
    write_sealed(tmp_path / "other.json", content)
    assert input_digest(tmp_path / "other.json") == sha256_file(tmp_path / "other.json")
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    assert input_digest(tmp_path / MANIFEST) == sha256_file(tmp_path / MANIFEST), "not one of ours"


def test_a_missing_or_damaged_file_of_a_folder_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("a")
    with pytest.raises(ValueError, match="manifest.json is missing: the step that makes"):
        verify_manifest(tmp_path / "out")
    written(tmp_path / "out")
    flip(tmp_path / "out/a.txt", 0)
    with pytest.raises(ValueError, match="a.txt is damaged: its 1 bytes are not those"):
        verify_manifest(tmp_path / "out")
    (tmp_path / "out/a.txt").unlink()
    with pytest.raises(ValueError, match="a.txt is missing though"):
        verify_manifest(tmp_path / "out")
    assert not is_manifest(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="nothing is missing"):
        read_manifest(tmp_path / "nothing")
