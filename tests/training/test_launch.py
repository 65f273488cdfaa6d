"""Two processes learn what one does, whatever the stage; whose a state is; what happens when memory runs out."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from steps.core import processes
from steps.core.files import read_json, read_jsonl, write_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.distillation import distill, opd
from steps.recipes import cpt, reward, sft
from steps.reinforcement import rl
from steps.settings.training import check_divided
from steps.training import launch
from steps.training import run as training
from steps.training.micro_batch import MicroBatches, out_of_memory
from steps.training.state import damage_of
from steps.training.watchers import Trajectory
from tests.conftest import build_model, build_tokenizer
from tests.distillation import test_distill, test_opd
from tests.recipes import test_reward, test_sft
from tests.reinforcement import test_rl
from tests.stages import STAGES, arguments

ROOT = Path(__file__).parents[2]
MAINS = {"sft": sft, "cpt": cpt, "reward": reward, "distill": distill, "rl": rl, "opd": opd}
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
# Weights after some steps of 1e-3 to 3e-3: AdamW divides by the root of a squared gradient, which lifts its rounding.
TOLERANCE = 2e-5
# A random policy writes an "e" now and then, so that some of a group succeed; nothing else would be taught.
SOLVED = {"success": {"reward": "bonus", "least": 0.5}, "prompts": 4, "batch_size": 8, "iterations": 1, "steps": 2}


def started(arguments: list[str], **how) -> subprocess.Popen:
    command = [sys.executable, "-m", "steps.training.launch", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def weights(out: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return {name: array for file in out.glob("*.safetensors") for name, array in load_file(file).items()}


def log(out: Path) -> list[dict[str, float]]:
    header, *rows = (out / "training_log.csv").read_text().splitlines()
    return [
        {name: float(value) for name, value in zip(header.split(","), row.split(","), strict=True) if value}
        for row in rows
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, dict]:
    """What both do, by name: a stage with its settings and files, on a random model of 2 layers."""
    folder = tmp_path_factory.mktemp("runs")
    tokenizer = build_tokenizer()
    for name, seed in (("start", 0), ("teacher", 1)):
        tokenizer.save_pretrained(folder / name)
        build_model(tokenizer, seed, test_opd.architecture).save_pretrained(folder / name)
    # The last batch has one row, none for the second process; that of pairs three, one of them for the second.
    write_jsonl(folder / "train.jsonl", test_sft.rows(13, seed=1))
    write_jsonl(folder / "valid.jsonl", test_sft.rows(3, seed=2))
    write_jsonl(folder / "pairs.jsonl", test_reward.pairs(15, seed=1))
    write_jsonl(folder / "held.jsonl", test_reward.pairs(4, seed=2))
    write_jsonl(folder / "documents.jsonl", [{"text": row["messages"][1]["content"]} for row in test_sft.rows(13, 4)])
    write_jsonl(folder / "taught.jsonl", test_distill.rows(13, seed=1))
    write_jsonl(folder / "prompts.jsonl", test_rl.made_rows(8))
    test_distill.random_cache(folder / "cache", folder / "taught.jsonl", tokenizer, 8, seed=0)

    def run(stage: str, settings: dict, **given) -> dict:
        given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
        return {"stage": stage, "arguments": {"settings": settings, "parent": str(folder / "start")} | given}

    rows = {"data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}
    full = test_sft.SETTINGS | {"trajectory": 2}
    lora = test_sft.SETTINGS | {"adapter": {"kind": "lora", "r": 4, "alpha": 8}}
    taught = {"data": [str(folder / "taught.jsonl")], "logprobs": [str(folder / "cache")]}
    prompts = {"data": folder / "prompts.jsonl", "valid": None, "reward_model": None, "logs": None}
    write_jsonl(folder / "held_out.jsonl", test_rl.made_rows(5))
    # Not as many questions in one process as in the other.
    asking = {"top_p": 0.8, "eval_steps": 1, "eval_rows": 3}
    # Rows without spread in either process, and not as many in one as in the other.
    (folder / "parted.py").write_text(test_rl.parted(5), encoding="utf-8")
    parted = {"kind": "custom", "weight": 1.0, "file": str(folder / "parted.py"), "function": "parted", "group": True}
    replaced = {
        "rewards": {"parted": parted, "bonus": {"kind": "format", "weight": 1e-3, "pattern": "zz"}},
        "success": {"reward": "parted", "least": 1.0},
        "dynamic_sampling": 2,
        "aggregation": "normalize_then_sum",
        "keep_groups": 3,
        # At 3e-3 one of 32 weights of a norm was 2.3e-5 off: rewards over their own deviation lift rounding as well.
        "learning_rate": 1e-3,
    }
    corrected = {
        "importance": {"kind": "mask", "level": "token", "most": 1.5, "least": 0.5},
        "mask_truncated": True,
        "temperature": 1.0,
        "loss_type": "grpo",
    }
    asked = {
        "data": [str(folder / "prompts.jsonl")],
        "teachers": [str(folder / "teacher")],
        "responses": [],
        "logs": None,
    }
    choices = {
        "adapter": {"kind": "lora", "r": 4, "alpha": 8, "loraplus_ratio": 4.0, "modules_to_save": ["norm"]},
        "schedule": "wsd",
        "min_lr_ratio": 0.1,
        "label_smoothing": 0.1,
        "eval_steps": 1,
        "keep_best": {},
    }
    documents = {key: value for key, value in test_sft.SETTINGS.items() if key not in ("order", "trajectory")}
    return {
        "sft": run("sft", full, **rows),
        "lora": run("sft", lora, **rows),
        "choices": run("sft", test_sft.SETTINGS | choices, **rows),
        "cpt": run("cpt", documents, data=folder / "documents.jsonl"),
        "reward": run("reward", test_reward.SETTINGS, data=folder / "pairs.jsonl", valid=folder / "held.jsonl"),
        "distill": run("distill", test_distill.FORWARD_KL, **taught),
        "grpo": run("rl", test_rl.settings_of(**SOLVED, kl=0.1, watch_kl=1), **prompts),
        "sdpo": run("rl", test_rl.settings_of("sdpo", **SOLVED), **prompts),
        "srpo": run("rl", test_rl.settings_of("srpo", **SOLVED), **prompts),
        "rlsd": run("rl", test_rl.settings_of("rlsd", **SOLVED), **prompts),
        "rlrt": run("rl", test_rl.settings_of("rlrt", **SOLVED), **prompts),
        "replaced": run("rl", test_rl.settings_of(**SOLVED | replaced), **prompts),
        "corrected": run("rl", test_rl.settings_of("gspo", **SOLVED | corrected), **prompts),
        "asking": run("rl", test_rl.settings_of(**SOLVED | asking), **prompts | {"valid": folder / "held_out.jsonl"}),
        "opd": run("opd", test_opd.SETTINGS, **asked),
    }


def placed(runs: dict[str, dict], folder: Path) -> dict[str, dict]:
    """The same runs with work and output below a folder."""
    return {
        name: run
        | {"arguments": run["arguments"] | {"work": str(folder / name / "w"), "out": str(folder / name / "out")}}
        for name, run in runs.items()
    }


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory) -> Path:
    """What one process makes of all runs."""
    folder = tmp_path_factory.mktemp("one")
    for run in placed(runs, folder).values():
        MAINS[run["stage"]].main(arguments(run))
    return folder


@pytest.fixture(scope="module")
def two(runs, tmp_path_factory) -> Path:
    """What two make of them. In the last run memory runs out in the second process."""
    folder = tmp_path_factory.mktemp("two")
    told = placed(runs, folder) | placed({"short": runs["sft"] | {"fails": 1}}, folder)
    write_json(folder / "runs.json", list(told.values()))
    child = started(["--kind", "ddp", "--processes", "2", "tests.stages", str(folder / "runs.json")])
    output, _ = child.communicate(timeout=400)
    assert child.returncode == 0, output
    assert output.count("out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.)") == 1, output
    return folder


# --- the same as one -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("sft", "lora", "choices", "cpt", "reward", "distill"),
        *("grpo", "sdpo", "srpo", "rlsd", "rlrt", "replaced", "corrected", "asking", "opd"),
    ],
)
def test_two_processes_learn_what_one_learns(one, two, runs, name):
    single, double = one / name / "out", two / name / "out"
    start = weights(Path(runs[name]["arguments"]["parent"]))
    expected, found = weights(single), weights(double)
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=TOLERANCE, err_msg=key)
    moved = (
        max(np.abs(array - start[key]).max() for key, array in expected.items() if key in start)
        if name not in ("lora", "choices")
        else 1
    )
    assert moved > 50 * TOLERANCE
    for by_one, by_two in zip(log(single), log(double), strict=True):
        assert by_two == pytest.approx(by_one, rel=2e-4, abs=2e-5)
    ours, theirs = (read_json(out / "manifest.json") for out in (single, double))
    assert theirs["counts"] == ours["counts"] and theirs["settings"] == ours["settings"]
    assert read_json(double / "provenance.json")["processes"] == 2


def test_the_points_of_every_row_are_measured_once(one, two):
    import pyarrow.parquet as pq

    single, double = (pq.read_table(folder / "sft/out/trajectory.parquet").to_pandas() for folder in (one, two))
    assert list(double["id"]) == list(single["id"]) and list(double["step"]) == list(single["step"])
    np.testing.assert_allclose(double["loss"], single["loss"], atol=1e-4)


def test_kept_rollouts_are_those_of_one_process(one, two):
    for name, key in (("grpo", "responses"), ("replaced", "responses"), ("opd", "response")):
        single, double = (list(read_jsonl(folder / name / "out/rollouts.jsonl")) for folder in (one, two))
        assert [row[key] for row in double] == [row[key] for row in single] and single
    # Three of four groups: two of the first process, one of the second.
    kept = [row["id"] for row in read_jsonl(two / "replaced/out/rollouts.jsonl")]
    assert len(kept) == 2 * 3 and {"rows:5", "rows:6", "rows:7"} & {*kept}


def test_answers_that_a_stricter_judge_refuses_are_those_of_one_process(one, two):
    for name in ("replaced", "corrected"):
        single, double = (
            [(row["step"], row["id"], row["response"]) for row in read_jsonl(folder / name / "out/disagreements.jsonl")]
            for folder in (one, two)
        )
        assert double == single and single


def test_memory_that_runs_out_in_one_starts_all_again_with_half(one, two):
    assert read_json(two / "short/out/manifest.json")["counts"]["micro_batch"] == {
        "asked": 4,
        "used": 2,
        "out_of_memory": 1,
    }
    expected, found = weights(one / "sft/out"), weights(two / "short/out")
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=TOLERANCE, err_msg=key)


# --- resume --------------------------------------------------------------------------------------


def command(run: dict) -> list[str]:
    given = run["arguments"]
    named = [f"--{key}={given[key]}" for key in ("parent", "data", "valid", "work", "out")]
    return [
        "--kind",
        "ddp",
        "--processes",
        "2",
        "steps.recipes.sft",
        "--settings",
        json.dumps(given["settings"]),
        *named,
    ]


def test_a_terminated_training_goes_on_with_as_many_processes_only(two, runs, tmp_path):
    run = placed({"sft": runs["sft"]}, tmp_path)["sft"]
    run["arguments"]["settings"] = run["arguments"]["settings"] | {"epochs": 60, "saves": 20, "trajectory": 0}
    child = started(command(run))
    work = tmp_path / "sft/w"
    # The first of its own states is of one of the first steps of 98.
    while not list(work.glob("*/checkpoint-*")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    output = child.stdout.read()
    assert child.wait(timeout=120) == training.TERMINATED, output
    (state,) = work.glob("*/checkpoint-*")
    step = int(state.name.split("-")[1])
    assert step < 98 and f"told to end: the state after step {step} of 98 is saved; start again to go on" in output

    with pytest.raises(ValueError, match=f"{state.name}: saved by 2 processes.*has 1; launch it with processes: 2"):
        sft.main(arguments(run))

    child = started(command(run))
    output, _ = child.communicate(timeout=200)
    assert child.returncode == 0, output
    undisturbed = placed({"sft": run}, tmp_path / "undisturbed")["sft"]
    child = started(command(undisturbed))
    output, _ = child.communicate(timeout=200)
    assert child.returncode == 0, output
    hashes = [
        {
            path.name: sha256_file(path)
            for path in Path(made["arguments"]["out"]).iterdir()
            if path.name != "provenance.json"
        }
        for made in (run, undisturbed)
    ]
    assert hashes[0] == hashes[1] and "model.safetensors" in hashes[0]


def test_an_interrupt_of_the_launcher_saves_the_state_of_all(runs, tmp_path):
    """A terminal's Ctrl-C reaches the launcher alone: its processes are in sessions of their own."""
    run = placed({"sft": runs["sft"]}, tmp_path)["sft"]
    run["arguments"]["settings"] = run["arguments"]["settings"] | {"epochs": 60, "saves": 20, "trajectory": 0}
    child = started(command(run))
    while not list(tmp_path.glob("sft/w/*/checkpoint-*")):
        assert child.poll() is None, child.stdout.read()
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    output = child.stdout.read()
    assert child.wait(timeout=120) == 128 + signal.SIGINT, output
    assert "of 98 is saved; start again to go on" in output and "Traceback" not in output
    (state,) = tmp_path.glob("sft/w/*/checkpoint-*")
    assert damage_of(state) is None and len(list(state.glob("random-*"))) == 4


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "adafactor"])
def test_one_process_told_to_end_saves_its_state_and_goes_on_to_the_same_bytes(runs, tmp_path, optimizer):
    run = placed({"sft": runs["sft"]}, tmp_path)["sft"]
    run["arguments"]["settings"] = run["arguments"]["settings"] | {"epochs": 3, "saves": 1, "optimizer": optimizer}
    undisturbed = placed({"sft": run}, tmp_path / "undisturbed")["sft"]
    MAINS["sft"].main(arguments(undisturbed))

    stop_at = 2
    after = Trajectory.after

    def told(self, step):
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        after(self, step)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(Trajectory, "after", told)
        sft.main(arguments(run))
    assert ended.value.code == training.TERMINATED
    assert [path.name for path in (tmp_path / "sft/w").glob("*/checkpoint-*")] == [f"checkpoint-{stop_at}"]
    sft.main(arguments(run))
    for path in Path(undisturbed["arguments"]["out"]).iterdir():
        if path.name != "provenance.json":
            assert (Path(run["arguments"]["out"]) / path.name).read_bytes() == path.read_bytes(), path.name


# --- memory --------------------------------------------------------------------------------------


def test_the_ladder_halves_until_a_row_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "start_again", lambda: None)
    for cuts in (1, 2, 4):
        micro_batches = MicroBatches(tmp_path, 6)
        assert micro_batches.cuts == cuts
        if cuts < 4:
            micro_batches.down(MemoryError("no room"))
    assert micro_batches.counts() == {"micro_batch": {"asked": 6, "used": 1, "out_of_memory": 2}}
    with pytest.raises(ValueError, match="out of memory with 1 rows.*no room.*gradient_checkpointing"):
        micro_batches.down(MemoryError("no room"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    shared = MicroBatches(tmp_path, 6)
    assert (shared.cuts, shared.parts) == (2, 4)  # two processes share what one had to cut
    monkeypatch.delenv("WORLD_SIZE")
    (tmp_path / "even").mkdir()
    with pytest.raises(ValueError, match="out of memory with 3 rows"):
        MicroBatches(tmp_path / "even", 3, even=True).down(MemoryError("no room"))


@pytest.mark.parametrize("name", ["sft", "grpo", "opd"])
def test_a_cut_step_learns_what_the_whole_one_learns(one, runs, tmp_path, name, monkeypatch):
    run = placed({name: runs[name]}, tmp_path)[name]
    monkeypatch.setattr(MicroBatches, "down", lambda self, error: (_ for _ in ()).throw(error))
    micro_batches = MicroBatches.__init__

    def cut(self, work, rows, even=False):
        micro_batches(self, work, rows, even)
        self.cuts = 2

    monkeypatch.setattr(MicroBatches, "__init__", cut)
    MAINS[run["stage"]].main(arguments(run))
    expected, found = weights(one / name / "out"), weights(tmp_path / name / "out")
    for key, array in expected.items():
        np.testing.assert_allclose(found[key], array, rtol=0, atol=TOLERANCE, err_msg=key)


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_memory):
    assert out_of_memory(error) is is_memory


def test_the_cpus_own_error_counts():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert out_of_memory(caught.value)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "count", "stage", "gpus", "message"),
    [
        ("single", 2, "sft", 0, "kind single with processes: 2; write kind: ddp"),
        ("ddp", 1, "sft", 0, "kind ddp with processes: 1; write processes: 2"),
        ("ddp", 4, "sft", 2, "processes: 4, but this job sees 2 GPUs"),
        ("zero3", 2, "sft", 0, "kind zero3 needs GPUs, and this job sees none; write kind: ddp"),
        ("fsdp", 2, "rl", 0, "kind fsdp has no whole policy to sample from.*write ddp or zero2"),
    ],
)
def test_a_launch_that_does_not_fit_is_one_line(kind, count, stage, gpus, message):
    with pytest.raises(ValueError, match=message):
        launch.arguments(kind, count, [STAGES[stage]], gpus)


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("sft", {"batch_size": 2}, "batch_size: 2 rows of a forward pass cannot be divided among 4"),
        ("rl", {"batch_size": 8, "prompts": 8, "loss_type": "bnpo"}, "loss_type: bnpo is a mean over the tokens"),
        ("rl", {"batch_size": 8, "prompts": 6}, "prompts: 6 cannot be divided evenly among 4"),
        ("opd", {"batch_size": 6, "prompts": 4}, "batch_size: 6 cannot be divided evenly among 4"),
    ],
)
def test_a_step_that_cannot_be_divided_is_one_line(stage, settings, message):
    with pytest.raises(ValueError, match=message):
        check_divided(settings, 4)
    check_divided(settings, 1)


def test_a_mistake_in_several_processes_is_one_line_and_exit_code_two(runs, tmp_path):
    run = placed({"sft": runs["sft"]}, tmp_path)["sft"]
    run["arguments"]["parent"] = str(tmp_path / "nowhere")
    child = started(command(run))
    output, _ = child.communicate(timeout=120)
    assert child.returncode == 2, output
    assert f"temper: error: {tmp_path / 'nowhere'} is missing" in output and "Traceback" not in output
    assert output.count("temper: error") == 1
