"""What a manifest promises of the files beside it: their bytes. Read by all who read such a file."""

import functools
import json
import os
from pathlib import Path
from typing import Any

from steps.core.hashes import sha256_file

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
# The last key of a file that is checked as a whole: the sha256 of its others.
SEAL = "sha256"
# Bytes of a file of ours that is read at once.
LONGEST = 100_000_000
_consulted: dict[Path, str] = {}


def check_promise(path: Path) -> None:
    """Check a file against the manifest of its folder, or of one above it, that lists it.

    Raises:
        ValueError: it is damaged: its bytes are not those that its step wrote.
    """
    if path.name == MANIFEST and path.is_file():
        _consulted.setdefault(path, sha256_file(path))
    folder = path.parent
    while folder != folder.parent:
        expected = promised(folder).get(os.path.relpath(path, folder))
        if expected is not None:
            _consulted.setdefault(folder / MANIFEST, sha256_file(folder / MANIFEST))
            if path.is_file() and sha256_file(path) != expected:
                raise ValueError(damaged(path, folder))
            return
        folder = folder.parent


def consult() -> dict[Path, str]:
    """What fills with the manifests that stand for all that this process reads of results from here on, each with its
    sha256 as it was first read."""
    global _consulted
    _consulted = {}
    return _consulted


def damaged(file: Path, folder: Path) -> str:
    """What is said of a file whose bytes are not those of its manifest."""
    return (
        f"{file} is damaged: its {file.stat().st_size} bytes are not those that {folder / MANIFEST} names; restore it,"
        f" or make {folder} again (what a rule makes, Snakemake does)"
    )


def read_object(path: Path) -> dict[str, Any] | None:
    """The object of a small JSON file; None where it is none, not whole, too long, or no file: a pipe is waited for."""
    try:
        if not path.is_file() or path.stat().st_size > LONGEST:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, OverflowError):
        return None
    return content if isinstance(content, dict) else None


def promised(folder: Path) -> dict[str, Any]:
    """What the manifest of a folder lists: name of a file -> its sha256; nothing where there is none of ours."""
    manifest = folder / MANIFEST
    try:
        status = os.stat(manifest)
    except OSError:
        return {}
    return _outputs(manifest, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.lru_cache(maxsize=4096)
def _outputs(manifest: Path, *identity: int) -> dict[str, Any]:
    """Name of a file -> its sha256; nothing of a manifest that is not ours or not whole, which who reads it says."""
    content = read_object(manifest) or {}
    outputs = content.get("outputs")
    return outputs if SEAL in content and isinstance(outputs, dict) else {}
