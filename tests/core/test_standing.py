"""Hashes, promises, manifests and what stands, on a step of a few lines that reads one file and writes one."""

import os
import shutil
from pathlib import Path

import pytest

from steps.core.asked import Asked, code_digest
from steps.core.files import write_json
from steps.core.manifest import (
    read_manifest,
    write_manifest,
    write_sealed,
)
from steps.core.promises import MANIFEST, PROVENANCE
from steps.core.standing import differences, told

ROOT = Path(__file__).parents[2]


# --- what is told ----------------------------------------------------------------------------------


def what(root: Path, times: int = 1, options: tuple[str, ...] = ("--data", "data.json", "--log", "ran.txt")) -> list:
    made_by = read_manifest(root / "out/it" / MANIFEST)["code"]
    return list(differences(root / "out/it", Asked("steps.toy.double", {"times": times}, options), lambda _: made_by))


def test_differences_name_what_differs(root):
    assert what(root) == []
    assert what(root, times=2) == ["times 1 → 2"]
    assert what(root, options=("--data", "b.json", "--log", "ran.txt")) == ["− data.json, + b.json"]
    write_json(root / "data.json", {"value": 5})
    assert what(root) == ["data.json changed"]
    (root / "data.json").unlink()
    assert what(root) == ["data.json is gone"]
    assert list(differences(root / "nothing", Asked("steps.toy.double", {}, ()))) == ["not made yet"]


def test_settings_are_told_key_by_key():
    before = {"a": 1, "b": {"c": 1, "d": [1]}, "gone": None}
    now = {"a": 1, "b": {"c": 2, "d": [1]}, "new": "x" * 100}
    assert told(before, now) == ["b.c 1 → 2", "gone null → –", 'new – → "' + "x" * 58 + "…"]
    assert told(before, before) == []


def test_a_file_more_in_a_model_that_came_without_a_manifest(root):
    model = root / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    out = root / "made"
    out.mkdir()
    write_manifest(out, step="toy", settings={}, inputs=sorted(model.iterdir()), started=0.0)
    manifest = read_manifest(out / MANIFEST)
    write_sealed(out / MANIFEST, manifest | {"asked": Asked("steps.core.step", {}, ()).digest})
    (model / "chat_template.jinja").write_text("{{ 1 }}")
    found = list(differences(out, Asked("steps.core.step", {}, ())))
    assert f"{model / 'chat_template.jinja'} is new" in found


@pytest.mark.parametrize("name", [MANIFEST, PROVENANCE])
def test_what_is_no_file_in_place_of_one_is_damage(root, name):
    path = root / "out/it" / name
    for make in (os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)):
        path.unlink()
        make(path)
        told = list(differences(root / "out/it", Asked("steps.core.step", {"times": 1}, ())))
        assert any("damaged" in line or "not made" in line for line in told)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.write_text("")


def test_a_damaged_manifest_among_the_inputs_is_a_difference(tmp_path):
    for name, inputs in (("one", []), ("two", [tmp_path / "one" / MANIFEST])):
        (tmp_path / name).mkdir()
        write_manifest(tmp_path / name, step="toy", settings={}, inputs=inputs, started=0.0)
    wanted = Asked("steps.core.step", {}, ())
    manifest = read_manifest(tmp_path / "two" / MANIFEST)
    write_sealed(tmp_path / "two" / MANIFEST, manifest | {"asked": wanted.digest, "code": code_digest(wanted.module)})
    assert list(differences(tmp_path / "two", wanted)) == []
    (tmp_path / "one" / MANIFEST).write_text("{")
    assert list(differences(tmp_path / "two", wanted)) == [f"{tmp_path / 'one' / MANIFEST} is damaged"]
