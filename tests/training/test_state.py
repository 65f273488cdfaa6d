"""Resumable state under damage, a full disk, other settings and signals: never another result, never a traceback."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from steps.core import processes
from steps.core.files import read_json
from steps.recipes import sft
from steps.training import run as training
from steps.training import state as states
from steps.training.state import SUMS, saved_states
from steps.training.watchers import Trajectory
from tests.recipes import test_sft
from tests.recipes.test_sft import LORA, hashes, run

ROOT = Path(__file__).parents[2]
# 6 steps; states after steps 1, 3 and 4, and points of every row after 3 and 6.
SETTINGS = test_sft.SETTINGS | {"adapter": LORA, "trajectory": 2}

data = test_sft.data


@pytest.fixture(scope="module")
def undisturbed(small_checkpoint, data, tmp_path_factory) -> dict[str, str]:
    return hashes(run(SETTINGS, small_checkpoint, data, tmp_path_factory.mktemp("undisturbed")))


@pytest.fixture(scope="module")
def stopped(small_checkpoint, data, tmp_path_factory) -> Path:
    """A folder whose training was killed after its state of step 3, that of step 1 not yet removed."""
    folder = tmp_path_factory.mktemp("stopped")
    after, rmtree = Trajectory.after, shutil.rmtree

    def killed(self, step):
        if step == 4:
            raise test_sft.Killed
        after(self, step)

    def keeping(path, *rest, **named):
        if not states.STATE.fullmatch(Path(path).name):
            rmtree(path, *rest, **named)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(test_sft.Killed):
        patch.setattr(Trajectory, "after", killed)
        patch.setattr(shutil, "rmtree", keeping)
        run(SETTINGS, small_checkpoint, data, folder)
    assert names(folder) == ["checkpoint-1", "checkpoint-3"]
    return folder


@pytest.fixture
def killed(stopped, tmp_path) -> Path:
    shutil.copytree(stopped, tmp_path / "killed")
    return tmp_path / "killed"


def work_of(folder: Path) -> Path:
    (work,) = (folder / "work").iterdir()
    return work


def names(folder: Path) -> list[str]:
    return [state.name for state in saved_states(work_of(folder))]


# --- damage --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """1,000 floats of the tensors, without a change of the file's size or header."""
    content = np.frombuffer(path.read_bytes(), np.uint8).copy()
    content[-4000:] ^= 1
    path.write_bytes(content.tobytes())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("checkpoint-3/state.safetensors", flip, f"state.safetensors is damaged (its sha256 is not the one in {SUMS})"),
        ("checkpoint-3/state.safetensors", truncate, "state.safetensors is damaged"),
        ("checkpoint-3/trainer_state.json", truncate, "trainer_state.json is damaged"),
        ("checkpoint-3/random-0.json", Path.unlink, "random-0.json is missing"),
        (f"checkpoint-3/{SUMS}", truncate, f"{SUMS} is damaged"),
        (f"checkpoint-3/{SUMS}", Path.unlink, f"has no {SUMS}, as a state of an older version"),
        ("trajectory/3.parquet", flip, "trajectory/3.parquet is damaged"),
    ],
)
def test_a_damaged_state_is_said_and_removed_and_the_one_before_it_taken(
    undisturbed, killed, small_checkpoint, data, capsys, file, damage, said
):
    damage(work_of(killed) / file)
    # Clocks are set back: the newest state is that of the latest step.
    os.utime(work_of(killed) / "checkpoint-3", (0, 0))
    assert hashes(run(SETTINGS, small_checkpoint, data, killed)) == undisturbed
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "checkpoint-3: " in line]
    assert said in line and line.endswith("it is removed, and the training goes on from checkpoint-1")


def test_without_an_earlier_state_it_starts_over(undisturbed, killed, small_checkpoint, data, capsys):
    shutil.rmtree(work_of(killed) / "checkpoint-1")
    flip(work_of(killed) / "checkpoint-3" / "state.safetensors")
    # What is no state is left alone.
    (work_of(killed) / "checkpoint-9").write_text("a file")
    (work_of(killed) / "checkpoint-old").mkdir()
    assert hashes(run(SETTINGS, small_checkpoint, data, killed)) == undisturbed
    assert "it is removed, and the training starts over" in capsys.readouterr().out


def test_a_whole_state_is_gone_on_with(undisturbed, killed, small_checkpoint, data, monkeypatch):
    seen = []
    after = Trajectory.after
    monkeypatch.setattr(Trajectory, "after", lambda self, step: seen.append(step) or after(self, step))
    (work_of(killed) / "partial").mkdir()
    (work_of(killed) / "partial" / "state.safetensors").write_bytes(b"half")
    assert hashes(run(SETTINGS, small_checkpoint, data, killed)) == undisturbed
    assert seen == [4, 5, 6]


def test_weights_of_an_epoch_are_held_to_their_hash(small_checkpoint, data, tmp_path, monkeypatch, capsys):
    """Those of the epoch that would be kept, put aside before the state that the run goes on with."""
    settings = test_sft.SETTINGS | {"epochs": 4, "saves": 6, "progressive": {"delta": 100.0}}
    expected = hashes(run(settings, small_checkpoint, data, tmp_path / "undisturbed"))

    def late(*args, **named):
        raise test_sft.Killed

    with monkeypatch.context() as patch, pytest.raises(test_sft.Killed):
        patch.setattr(sft, "save_checkpoint", late)
        run(settings, small_checkpoint, data, tmp_path / "killed")
    work = work_of(tmp_path / "killed")
    (state,) = saved_states(work)
    (named,) = [name for name in states.sums_of(state)["beside"] if name.startswith("epochs/")]
    flip(work / named)
    assert hashes(run(settings, small_checkpoint, data, tmp_path / "killed")) == expected
    assert f"{state}: {named} is damaged" in capsys.readouterr().out


def test_what_was_kept_after_a_state_is_forgotten(tmp_path):
    """A device that rounds otherwise may keep something else: the next state shall not name what is there by chance."""
    state = tmp_path / "checkpoint-2"
    state.mkdir()
    (state / "state.json").write_text('{"processes": 1}')

    def keep(*files: str) -> set[str]:
        for file in files:
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(file)
        return {*files}

    before = keep("best/1.safetensors", "rollouts/0-0.jsonl")
    states.seal(state)
    keep("best/3.safetensors", "best/4.safetensors", "rollouts/2-0.jsonl", "trajectory/3.parquet")
    assert states.usable_state(tmp_path) == state
    states.seal(state)
    assert states.sums_of(state)["beside"].keys() == before
    shutil.rmtree(state)
    assert states.usable_state(tmp_path) is None and not [*tmp_path.rglob("*.*")]


# --- written -------------------------------------------------------------------------------------


def written(monkeypatch, at: int, instead) -> None:
    """Replace the writing of the state of a step."""
    write = states.write_tensors
    count = 0

    def writing(path, tensors):
        nonlocal count
        count += path.name == "state.safetensors"
        instead(write, path, tensors) if count == at and path.name == "state.safetensors" else write(path, tensors)

    monkeypatch.setattr(states, "write_tensors", writing)


def full(write, path, tensors) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        write(path, tensors)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def altered(write, path, tensors) -> None:
    import safetensors.torch

    def save(given, target, metadata):
        safe({name: tensor.clone() for name, tensor in given.items()}, target, metadata)
        flip(Path(target))

    safe = safetensors.torch.save_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", save)
        write(path, tensors)


@pytest.mark.parametrize(("disk", "said"), [(full, "File too large"), (altered, "reads back otherwise")])
def test_a_state_that_cannot_be_written_leaves_the_one_before_it(
    undisturbed, small_checkpoint, data, tmp_path, monkeypatch, disk, said
):
    with monkeypatch.context() as patch:
        written(patch, 2, disk)
        with pytest.raises(
            ValueError, match=f"the state after step 3 cannot be put aside .*{said}.*from checkpoint-1$"
        ):
            run(SETTINGS, small_checkpoint, data, tmp_path)
    assert names(tmp_path) == ["checkpoint-1"] and not (work_of(tmp_path) / "partial").exists()
    assert hashes(run(SETTINGS, small_checkpoint, data, tmp_path)) == undisturbed


def test_memory_that_runs_out_while_a_state_is_written_leaves_the_one_before_it(
    small_checkpoint, data, tmp_path, monkeypatch
):
    def no_memory(*args):
        raise MemoryError("no room")

    def again():
        raise test_sft.Killed

    with monkeypatch.context() as patch, pytest.raises(test_sft.Killed):
        written(patch, 2, no_memory)
        patch.setattr(processes, "start_again", again)
        run(SETTINGS, small_checkpoint, data, tmp_path)
    assert names(tmp_path) == ["checkpoint-1"]
    seen = []
    after = Trajectory.after
    monkeypatch.setattr(Trajectory, "after", lambda self, step: seen.append(step) or after(self, step))
    out = run(SETTINGS, small_checkpoint, data, tmp_path)
    assert seen == [2, 3, 4, 5, 6]
    assert read_json(out / "manifest.json")["counts"]["micro_batch"]["used"] == 2


# --- other settings ------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"saves": 5}, {"gradient_checkpointing": True}])
def test_a_setting_that_changes_no_result_goes_on(
    undisturbed, killed, small_checkpoint, data, tmp_path, monkeypatch, change
):
    """To the bytes of a training that always had it; and these are those of the other, but for the settings' names."""
    seen = []
    after = Trajectory.after
    monkeypatch.setattr(Trajectory, "after", lambda self, step: seen.append(step) or after(self, step))
    found = hashes(run(SETTINGS | change, small_checkpoint, data, killed))
    assert seen == [4, 5, 6]
    assert found == hashes(run(SETTINGS | change, small_checkpoint, data, tmp_path / "undisturbed"))
    assert {name for name in found if found[name] != undisturbed[name]} == {
        "README.md",
        "manifest.json",
        ".manifest.json",
    }


def test_another_setting_starts_over_and_says_so(killed, small_checkpoint, data, tmp_path, capsys):
    old, other = work_of(killed), SETTINGS | {"learning_rate": 2e-3}
    found = hashes(run(other, small_checkpoint, data, killed))
    assert f"{old}: put aside for another result (learning_rate 0.001 → 0.002): removed" in capsys.readouterr().out
    assert not old.exists() and found == hashes(run(other, small_checkpoint, data, tmp_path / "undisturbed"))


# --- signals -------------------------------------------------------------------------------------


def test_stopped_continued_and_interrupted_it_goes_on_to_the_same_bytes(undisturbed, small_checkpoint, data, tmp_path):
    settings = SETTINGS | {"epochs": 8, "saves": 8}
    command = [sys.executable, "-m", "steps.recipes.sft", "--settings", json.dumps(settings)]
    command += ["--parent", small_checkpoint, "--data", data["data"], "--valid", data["valid"]]
    command += ["--work", tmp_path / "work", "--out", tmp_path / "out"]
    child = subprocess.Popen(
        [*map(str, command)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    while not list(tmp_path.glob("work/[!.]*/checkpoint-*")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    child.send_signal(signal.SIGCONT)
    # The terminal's and one that a launcher sends on are one Ctrl-C.
    child.send_signal(signal.SIGINT)
    time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    said = child.stdout.read()
    assert child.wait(timeout=60) == 130, said
    assert "Traceback" not in said and "interrupted: the state is saved after the step at hand" in said
    assert "of 48 is saved; start again to go on" in said and not (tmp_path / "out").exists()
    assert hashes(run(settings, small_checkpoint, data, tmp_path)) == hashes(
        run(settings, small_checkpoint, data, tmp_path / "undisturbed")
    )


TWICE = """
import os, signal, sys, time
from steps.training.run import noting_signals
noted = []
with noting_signals(noted):
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert noted == [signal.SIGINT]
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.1)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    finally:
        print("not at once", flush=True)
"""


def test_a_second_interrupt_ends_at_once():
    done = subprocess.run([sys.executable, "-c", TWICE], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "")
    assert done.stdout.splitlines()[-1].startswith("interrupted again: ended at once")


def test_a_signal_that_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        noted: list[int] = []
        with training.noting_signals(noted):
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGINT) != signal.default_int_handler
        assert not noted and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)
