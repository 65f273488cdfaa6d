"""The key of resumable state: a source edited between kill and restart starts the training over, for every stage."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.core.code import code_files
from steps.core.work import work_folder
from tests import stages
from tests.recipes import test_sft

ROOT = Path(__file__).parents[2]
# With the two that are resumed and are started by no launcher.
STAGES = (*stages.STAGES.values(), "steps.recipes.interpolate", "steps.world.pretrain")
# What a download has put aside is bytes of files, held to their own hashes: no code makes them.
WITHOUT_CODE = ("steps.data.download",)

data = test_sft.data


def test_every_step_with_resumable_state_keys_it_by_its_code():
    keyed = []
    for file in sorted(ROOT.glob("steps/**/*.py")):
        for call in (node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "work_folder":
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                keyed.append(name)
                assert "code_paths(__spec__.name)" in file.read_text() or name in WITHOUT_CODE, file
    assert sorted(keyed) == sorted([*STAGES, *WITHOUT_CODE])


@pytest.mark.parametrize("stage", STAGES)
def test_the_key_changes_with_each_file_of_the_code(stage, tmp_path):
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    files = [tmp_path / file for file in code_files(stage, tmp_path)]
    before = work_folder(tmp_path / "work", tmp_path / "out", {}, files)
    for file in files:
        text = file.read_text()
        file.write_text(text + "# edited\n")
        assert work_folder(tmp_path / "work", tmp_path / "out", {}, files) != before, file
        file.write_text(text)
    assert work_folder(tmp_path / "work", tmp_path / "out", {}, files) == before


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_loads_is_in_its_code(stage):
    script = f"import sys, {stage}; print(*(m for m in sys.modules if m.split('.')[0] == 'steps'))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(loaded.stdout.split()) <= _modules(stage)


def _modules(stage: str) -> set[str]:
    files = code_files(stage, ROOT)
    return {file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in files}


# Runs a step as `python -m` does, and says at its end which modules of the package it has loaded.
RUN = """
import atexit, runpy, sys
atexit.register(lambda: print("LOADED", *(m for m in sys.modules if m.split(".")[0] == "steps")))
sys.argv = ["sft", *sys.argv[1:]]
runpy.run_module("steps.recipes.sft", run_name="__main__", alter_sys=True)
"""


def test_killed_edited_and_started_again_it_trains_from_the_start(small_checkpoint, data, tmp_path):
    """In a copy of the package, whose packing is edited in a comment: the bytes of the result are the same."""
    shutil.copytree(ROOT / "steps", tmp_path / "steps", ignore=shutil.ignore_patterns("__pycache__"))
    out, work = tmp_path / "out", tmp_path / "work"
    settings = test_sft.SETTINGS | {"epochs": 6, "saves": 8}
    command = [sys.executable, "-c", RUN, "--settings", json.dumps(settings), "--parent", small_checkpoint]
    command += ["--data", data["data"], "--valid", data["valid"], "--work", work, "--out", out]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    process = subprocess.Popen(
        [*map(str, command)], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    while not list(work.glob("*/checkpoint-*")):
        assert process.poll() is None, process.stderr.read().decode()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    (left,) = work.iterdir()

    with open(tmp_path / "steps/training/packing.py", "a") as file:
        file.write("# edited\n")
    done = subprocess.run([*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The state of the old code was not gone on with: one line says why it is gone.
    (said,) = [line for line in done.stdout.splitlines() if left.name in line]
    assert "(changed steps/training/packing.py): removed, and this run starts over" in said
    assert not list(work.iterdir())
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert set(line.split()[1:]) <= _modules("steps.recipes.sft")
    expected = test_sft.run(settings, small_checkpoint, data, tmp_path / "undisturbed")
    assert test_sft.hashes(out) == test_sft.hashes(expected)
