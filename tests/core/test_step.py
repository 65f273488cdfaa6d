"""How a step runs: its command line, whether it runs at all, and how mistakes, the system and signals end it."""

import argparse
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from steps.core import step
from steps.core.files import write_json
from steps.core.manifest import LAST, verify_manifest
from steps.core.promises import MANIFEST, PROVENANCE
from tests.core.toy import STEP, flip, times_run
from tests.core.toy import run as step_run


def run(monkeypatch, tmp_path, error: Exception | None, *options: str) -> list[tuple[argparse.Namespace, bool]]:
    """What `main` is given, and whether its output is locked then."""
    seen = []

    def main(args: argparse.Namespace) -> None:
        with open(args.out.with_name(".out.lock"), "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                seen.append((args, True))
            else:
                seen.append((args, False))
        if error:
            raise error

    options = options or ("--settings", '{"a": 1}', "--out", str(tmp_path / "new/deep/out"))
    monkeypatch.setattr("sys.argv", ["step", *options])
    step.run(main, step.step_parser("what it does"))
    return seen


def test_a_step_gets_its_settings_and_its_folder_alone(monkeypatch, tmp_path):
    for _ in range(2):
        ((args, locked),) = run(monkeypatch, tmp_path, None)
        assert (args.settings, args.out, locked) == ({"a": 1}, tmp_path / "new/deep/out", True)


def test_one_of_several_processes_leaves_the_lock_to_the_launcher_and_the_word_to_the_first(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(step.processes, "follow_launcher", lambda: None)
    (tmp_path / "new/deep").mkdir(parents=True)
    ((_, locked),) = run(monkeypatch, tmp_path, None)
    assert not locked
    waited = []
    monkeypatch.setattr(step.time, "sleep", waited.append)
    for rank, seconds in (("0", []), ("1", [5])):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit):
            run(monkeypatch, tmp_path, ValueError("a mistake"))
        assert waited == seconds


@pytest.mark.parametrize("options", [("--settings", "{}"), ("--out", "out"), ("--set", "{}", "--out", "out")])
def test_a_step_has_settings_and_a_folder(monkeypatch, tmp_path, capsys, options):
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path, None, *options)
    assert "the following arguments are required" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_a_users_mistake_is_one_line_and_exit_code_2(monkeypatch, tmp_path, capsys, kind):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, tmp_path, kind("a.csv, row 3:\n  no answer"))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "temper: error: a.csv, row 3: no answer\n"
    monkeypatch.setenv("TEMPER_TRACEBACK", "1")
    with pytest.raises(kind):
        run(monkeypatch, tmp_path, kind("asked for"))


def test_a_defect_keeps_its_traceback(monkeypatch, tmp_path):
    with pytest.raises(KeyError):
        run(monkeypatch, tmp_path, KeyError("ours"))


# --- a step that stands does not run ---------------------------------------------------------------


def test_an_equal_request_runs_once(root):
    before = (root / "out/it" / MANIFEST).read_bytes()
    assert "stands" in step_run(root)
    assert times_run(root) == 1 and (root / "out/it" / MANIFEST).read_bytes() == before


def test_what_snakemake_took_away_is_put_back(root):
    before = (root / "out/it" / MANIFEST).read_bytes()
    (root / "out/it" / MANIFEST).unlink()
    step_run(root)
    assert times_run(root) == 1 and (root / "out/it" / MANIFEST).read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: write_json(root / "data.json", {"value": 4}),
        lambda root: flip(root / "out/it/double.json"),
        lambda root: (root / "out/it/double.json").unlink(),
        lambda root: flip(root / "out/it" / PROVENANCE),
        lambda root: (root / "out/it" / PROVENANCE).unlink(),
        lambda root: (root / "out/it/more.json").write_text("{}"),
        lambda root: (root / "steps/toy/double.py").write_text(STEP + "# edited\n"),
        lambda root: (root / "steps/core/text.py").write_text("# not imported\n") and None,
    ],
    ids=["input", "output flipped", "output gone", "provenance flipped", "provenance gone", "a file more", "code", "-"],
)
def test_whatever_differs_runs_again(root, change, request):
    change(root)
    step_run(root)
    assert times_run(root) == (1 if request.node.callspec.id == "-" else 2)
    assert verify_manifest(root / "out/it")
    assert not (root / "out/it/more.json").exists()


def test_a_damaged_manifest_is_repaired_by_its_copy(root):
    before = (root / "out/it" / MANIFEST).read_bytes()
    flip(root / "out/it" / MANIFEST)
    (root / "out/it" / MANIFEST).unlink()
    step_run(root)
    assert times_run(root) == 1 and (root / "out/it" / MANIFEST).read_bytes() == before
    flip(root / "out/it" / MANIFEST)
    flip(root / "out/it" / LAST)
    step_run(root)
    assert times_run(root) == 2 and (root / "out/it" / MANIFEST).read_bytes() == before


def test_a_failed_step_leaves_no_manifest(root):
    write_json(root / "data.json", {"other": 4})
    step_run(root, expect=1)
    assert not (root / "out/it" / MANIFEST).exists() and not (root / "out/it" / LAST).exists()


def test_an_input_that_a_manifest_promised_is_checked_before_it_is_read(root):
    shutil.copytree(root / "out/it", root / "other")
    flip(root / "other/double.json")
    said = step_run(root, data="other/double.json", expect=2)
    assert "temper: error: other/double.json is damaged" in said and "Traceback" not in said


# --- what the system refuses, and signals ---

# Put in front of a step: its n-th write, flush, rename or new folder fails.
FAILING = """
import builtins, errno, os, sys
from pathlib import Path
count = [int(os.environ["FAIL_AT"])]

def fails(path):
    count[0] -= 1
    if count[0] == 0:
        raise OSError({number}, os.strerror({number}), str(path))

opened, replaced, fsynced, made = builtins.open, Path.replace, os.fsync, Path.mkdir

def open_(file, mode="r", *args, **kwargs):
    if "w" in mode and "out/it" in str(file):
        fails(file)
    return opened(file, mode, *args, **kwargs)

builtins.open = open_
Path.replace = lambda self, target: (fails(target), replaced(self, target))[1]
os.fsync = lambda descriptor: (fails("out/it"), fsynced(descriptor))[1]
"""


def failing(folder, at: int, number: int = errno.ENOSPC) -> subprocess.CompletedProcess:
    """The step as a rule starts it, for another setting than what is there."""
    (folder / "sitecustomize.py").write_text(FAILING.format(number=number))
    words = ["--settings", '{"times": 7}', "--data", "data.json", "--log", "ran.txt", "--out", "out/it"]
    return subprocess.run(
        [sys.executable, "-m", "steps.toy.double", *words], cwd=folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(folder), "FAIL_AT": str(at)},
    )  # fmt: skip


def test_a_full_disk_at_every_write_is_one_line(root):
    ended = []
    for at in range(1, 40):
        done = failing(root, at)
        ended.append(done.returncode)
        if done.returncode == 0:
            break
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("temper: error: ") and line.endswith("the disk is full: make room and run again")
        assert not (root / "out/it" / MANIFEST).exists()
    assert ended[-1] == 0 and len(ended) > 8, "every write was made to fail once, and then none"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.EMFILE, errno.EDQUOT])
def test_what_the_system_refuses_is_one_line(root, number):
    done = failing(root, 1, number)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert os.strerror(number) in done.stderr and "; " in done.stderr


def slow(folder, settings: dict | None = None, source: str = STEP) -> subprocess.Popen:
    """The step, which waits for a file before it reads its input."""
    wait = "    Path('began').touch()\n    while not Path('go').exists():\n        time.sleep(0.05)\n"
    (folder / "steps/toy/double.py").write_text(source.replace("    value = ", wait + "    value = ", 1))
    told = json.dumps({"times": 1} | (settings or {}))
    words = ["--settings", told, "--data", "data.json", "--log", "ran.txt", "--out", "out/it"]
    process = subprocess.Popen(
        [sys.executable, "-m", "steps.toy.double", *words], cwd=folder, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )  # fmt: skip
    while not (folder / "began").exists():
        assert process.poll() is None
        time.sleep(0.02)
    return process


def test_an_interrupt_is_one_line(root):
    process = slow(root)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130 and len(said.splitlines()) == 1 and "Ctrl-C" in said
    assert not (root / "out/it" / MANIFEST).exists() and not (root / "out/it" / LAST).exists()


def test_a_step_that_is_stopped_is_waited_for(root):
    process = slow(root)
    process.send_signal(signal.SIGSTOP)
    second = subprocess.Popen(
        process.args, cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}
    )
    assert second.stdout.readline().startswith("waiting: an earlier run is still making")
    (root / "go").write_text("")
    process.send_signal(signal.SIGCONT)
    assert process.wait() == 0
    said, _ = second.communicate()
    assert second.returncode == 0 and "stands" in said
    assert times_run(root) == 2, "once when the project was made, once now"


NAMED = STEP.replace("read_json(args.data)", 'read_json(Path(args.settings["files"][0]["path"]))').replace(
    "inputs=[args.data]", 'inputs=[args.settings["files"][0]["path"]]'
)


@pytest.mark.parametrize("source, file", [(STEP, "data.json"), (NAMED, "named.json")], ids=["an option", "a setting"])
def test_an_input_that_changes_while_a_step_runs_ends_it(root, source, file):
    (root / "named.json").write_text('{"value": 1}\n')
    process = slow(root, {"files": [{"path": "named.json"}]}, source)
    (root / file).write_text('{"value": 9}\n')
    (root / "go").write_text("")
    _, said = process.communicate()
    assert process.returncode == 2 and f"{file} changed while this step ran" in said
    assert not (root / "out/it" / MANIFEST).exists()


def test_code_that_changes_while_a_step_runs_ends_it(root):
    process = slow(root)
    with open(root / "steps/core/progress.py", "a") as other, open(root / "steps/core/files.py", "a") as used:
        other.write("# not of this step\n")
        used.write("# edited\n")
    (root / "go").write_text("")
    _, said = process.communicate()
    assert process.returncode == 2 and "the code of steps.toy.double changed while this step ran" in said
    assert not (root / "out/it" / MANIFEST).exists()
