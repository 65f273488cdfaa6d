"""Manifests: what was made from what, by which settings. Written last, verified by who reads."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.asked import asked, code_digest, material
from steps.core.files import json_text, write_text
from steps.core.hashes import sha256_file
from steps.core.promises import MANIFEST, PROVENANCE, SEAL, check_promise, damaged, read_object
from steps.core.versions import VERSIONED_PACKAGES, version

# A copy of a manifest that no rule declares: Snakemake takes the manifest away before it starts a step.
LAST = ".manifest.json"
# The files that this step was given, as they were when it began, and the digest of its code then.
_given: dict[Path, str] = {}
_code: dict[str, str] = {}


def note_inputs(paths: Iterable[Path]) -> None:
    """Check files that a step is to read, and those in its folders, and remember them until its manifest is written.

    Raises:
        ValueError: one is damaged.
    """
    for path in paths:
        # A folder with a manifest is verified by who reads it; it is not read twice.
        files = [path] if path.is_file() else visible_files(path) if path.is_dir() else []
        for file in [path / MANIFEST] if is_manifest(path / MANIFEST) else files:
            check_promise(file)
            _given[file] = sha256_file(file)


def note_code(module: str) -> None:
    """Remember the code of a step that begins, until its manifest is written."""
    _code[module] = code_digest(module)


def write_manifest(
    out: Path,
    *,
    step: str,
    settings: dict,
    inputs: Iterable[Path] | Mapping[Path, str],
    whole: bool = False,
    counts: dict | None = None,
    seed: int | None = None,
    started: float,
    tokens: int | None = None,
    speed: list[float] | None = None,
    setup: dict | None = None,
) -> None:
    """Close a step: `provenance.json` (what varies between equal runs), then `manifest.json` by rename.

    The manifest holds the resolved settings, a digest of all that was asked of the step, one of its code, the sha256 of
    every input and of every file in `out`, the seed and the counts: two equal runs write equal manifests. `setup` is
    what a step found and its numbers depend on, such as the engine that sampled.

    Args:
        inputs: where a step finds only as it reads what there is to read, each with its sha256 as it was read.
        whole: the manifests among the inputs are shown as they are: one that is written anew makes this anew, whatever
            of it has changed.

    Raises:
        ValueError: an input is damaged, or not what it was when the step began to read it.
    """
    provenance: dict[str, Any] = {
        "argv": ["python", *sys.orig_argv[1:]],
        "git_commit": _git_commit(),
        "device": _device(),
        "processes": processes.count(),
        "python": platform.python_version(),
        "versions": {name: installed for name in VERSIONED_PACKAGES if (installed := version(name))},
        "seconds": round(time.time() - started, 3),
        "tokens": tokens,
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if speed is not None:
        provenance["speed"] = speed
    seen = {**_given, **inputs} if isinstance(inputs, Mapping) else _given
    read = sorted(set(map(Path, inputs)))
    for path in read:
        check_promise(path)
        if seen.get(path, sha256_file(path)) != sha256_file(path):
            raise ValueError(f"{path} changed while this step ran; let it rest and run again")
    write_sealed(out / PROVENANCE, provenance)
    outputs = [path for path in sorted(out.rglob("*")) if _is_output(path)]
    request = asked(sys.orig_argv)
    if request and _code.get(request.module, code_digest(request.module)) != code_digest(request.module):
        raise ValueError(f"the code of {request.module} changed while this step ran; let it rest and run again")
    manifest = {
        "step": step,
        "settings": settings,
        "asked": request and request.digest,
        "code": request and code_digest(request.module),
        "seed": seed,
        "inputs": {str(path): sha256_file(path) if whole else input_digest(path) for path in read},
        "outputs": {str(path.relative_to(out)): sha256_file(path) for path in outputs},
        "counts": counts or {},
    }
    if whole:
        manifest["whole"] = True
    if setup is not None:
        manifest["setup"] = setup
    write_sealed(out / LAST, manifest)
    write_sealed(out / MANIFEST, manifest)


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a file that says by its last key what its other keys are."""
    write_text(path, _sealed_text(content))


def _sealed_text(content: dict[str, Any]) -> str:
    own = {key: value for key, value in content.items() if key != SEAL}
    return json_text(own | {SEAL: hashlib.sha256(json_text(own).encode()).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest or provenance that a step of ours wrote.

    Raises:
        ValueError: it is not, or not the bytes that were written.
        FileNotFoundError: it is not there.
    """
    check_promise(path)
    content = read_object(path)
    if content is None and not os.path.lexists(path):
        raise FileNotFoundError(f"{path} is missing: the step that makes {path.parent} has not finished; run it again")
    whole = content is not None and SEAL in content and path.read_text(encoding="utf-8") == _sealed_text(content)
    if not whole:
        raise ValueError(
            f"{path} is damaged, or nothing that Temper wrote; restore it, or make {path.parent} again (what a rule"
            " makes, Snakemake does)"
        )
    assert content is not None
    return content


def is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of ours, be it damaged: another program's file of this name is none."""
    content = read_object(path)
    return SEAL in content if content is not None else path.is_file() and not _is_json(path)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    except RecursionError:
        pass
    return True


def input_digest(path: Path) -> str:
    """The sha256 of an input. A manifest stands for what was made: how it was asked for and by which code is left out,
    so that equal results are equal inputs."""
    if path.name != MANIFEST or not is_manifest(path):
        return sha256_file(path)
    manifest = read_manifest(path)
    result = {key: value for key, value in manifest.items() if key not in ("asked", "code", "inputs", SEAL)}
    result["settings"] = material(manifest.get("settings", {}))
    return hashlib.sha256(json_text(result).encode()).hexdigest()


def visible_files(folder: Path) -> list[Path]:
    """The files of a folder but the hidden ones, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_output(path: Path) -> bool:
    return path.is_file() and path.name not in (MANIFEST, PROVENANCE) and not path.name.startswith(".")


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Read a folder's manifest and check every file it names.

    Raises:
        ValueError: a file is missing or its bytes differ (truncated, edited); the message names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: the step that makes {folder} has not finished; run it again")
    manifest = read_manifest(path)
    for name, expected in manifest["outputs"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing though {path} lists it; restore it, or make {folder} again")
        if sha256_file(file) != expected:
            raise ValueError(damaged(file, folder))
    return manifest


def _git_commit() -> str | None:
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


def _device() -> str:
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads"
