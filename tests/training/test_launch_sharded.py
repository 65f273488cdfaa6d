"""A model spread over two processes learns what one process learns, and goes on from its state to the same bytes.

FSDP and DeepSpeed run here on CPUs that accelerate takes for GPUs (`tests.as_gpus`); on GPUs they were not run.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from steps.core import processes
from steps.core.files import read_json, write_json, write_jsonl
from steps.core.hashes import sha256_file
from steps.recipes import sft
from steps.settings.sft import Sft
from steps.training.arguments import check_settings
from tests.recipes import test_sft
from tests.stages import arguments
from tests.training.test_launch import ENVIRONMENT, ROOT, TOLERANCE, log, placed, weights

# What the launcher counts; the processes see none of them.
GPUS = {"CUDA_VISIBLE_DEVICES": "0,1"}
RUNS = {
    "full": {"trajectory": 2, "saves": 1},
    "bf16": {"precision": "bf16", "saves": 1},
    "lora": {"adapter": {"kind": "lora", "r": 4, "alpha": 8, "dropout": 0.1}, "saves": 1},
}


def available(kind: str) -> list[pytest.MarkDecorator]:
    missing = kind != "fsdp" and not importlib.util.find_spec("deepspeed")
    return [pytest.mark.skipif(missing, reason="DeepSpeed is not installed")]


@pytest.fixture(scope="module")
def runs(small_checkpoint, tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("runs")
    # The last batch has one row: none for the second process.
    write_jsonl(folder / "train.jsonl", test_sft.rows(13, seed=1))
    write_jsonl(folder / "valid.jsonl", test_sft.rows(3, seed=2))
    files = {"parent": small_checkpoint, "data": folder / "train.jsonl", "valid": folder / "valid.jsonl"}
    files = {key: str(path) for key, path in files.items()}
    settings = test_sft.SETTINGS | {"epochs": 2}
    return {name: {"stage": "sft", "arguments": files | {"settings": settings | own}} for name, own in RUNS.items()}


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory) -> Path:
    """What one process makes; without dropout, whose random numbers are those of each process."""
    folder = tmp_path_factory.mktemp("one")
    sft.main(arguments(placed(runs, folder)["full"]))
    return folder


@pytest.fixture(
    scope="module", params=[pytest.param(kind, marks=available(kind)) for kind in ("fsdp", "zero2", "zero3")]
)
def two(request, runs, tmp_path_factory) -> Path:
    """What two processes make that share one model: undisturbed, and told to end after the second step."""
    folder = tmp_path_factory.mktemp(request.param)
    undisturbed = [*placed(runs, folder).values()]
    disturbed = [*placed(runs, folder / "resumed").values()]
    write_json(folder / "runs.json", [*undisturbed, *(run | {"stop": 2} for run in disturbed), *disturbed])
    command = ["--kind", request.param, "--processes", "2", "tests.as_gpus", str(folder / "runs.json")]
    done = subprocess.run(
        [sys.executable, "-m", "steps.training.launch", *command],
        cwd=ROOT, env=ENVIRONMENT | GPUS, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("told to end: the state after step 2 of 4 is saved") == len(RUNS), done.stdout
    return folder


def test_two_processes_learn_what_one_learns(one, two, runs):
    single, double = one / "full/out", two / "full/out"
    start, expected, found = (weights(folder) for folder in (Path(runs["full"]["arguments"]["parent"]), single, double))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=TOLERANCE, err_msg=name)
    assert max(np.abs(array - start[name]).max() for name, array in expected.items()) > 50 * TOLERANCE
    for by_one, by_two in zip(log(single), log(double), strict=True):
        assert by_two == pytest.approx(by_one, rel=2e-4, abs=2e-5)
    assert read_json(double / "manifest.json")["counts"] == read_json(single / "manifest.json")["counts"]


@pytest.mark.parametrize("name", RUNS)
def test_a_terminated_training_goes_on_to_the_same_bytes(two, name):
    hashes = [
        {path.name: sha256_file(path) for path in (folder / name / "out").iterdir() if path.name != "provenance.json"}
        for folder in (two, two / "resumed")
    ]
    assert hashes[0] == hashes[1]
    assert {"model.safetensors", "adapter_model.safetensors"} & hashes[0].keys()


def test_nothing_that_was_saved_is_a_pickle(two):
    kinds = {path.suffix for path in two.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".jsonl", ".csv", ".md", ".jinja", ".parquet"}


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "settings", "message"),
    [
        ("ACCELERATE_USE_FSDP", {"optimizer": "adafactor"}, "optimizer: adafactor: does not go with launch kinds fsdp"),
        ("ACCELERATE_USE_DEEPSPEED", {"adapter": {"kind": "adalora"}}, "adapter.kind: adalora: .*write kind: ddp"),
        ("ACCELERATE_USE_FSDP", {"progressive": {"delta": 0.0}}, "progressive: does not go"),
    ],
)
def test_what_needs_the_whole_model_is_refused(monkeypatch, variable, settings, message):
    settings = test_sft.SETTINGS | settings
    check_settings(settings, Sft)
    monkeypatch.setenv(variable, "true")
    assert processes.apart()
    with pytest.raises(ValueError, match=message):
        check_settings(settings, Sft)
