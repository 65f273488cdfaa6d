"""Work folders: what a step puts aside while it runs, so that a killed one goes on.

A work folder is named by all that its result is made of, and says inside of what: so that what was put aside for
another result is never gone on with, is not kept either, and the step says what differs.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from steps.core import processes
from steps.core.files import fresh_folder, read_json, write_json
from steps.core.hashes import sha256_file

# What a work folder was made for. Hidden: the folder of a download becomes its output, whose manifest lists files.
MADE_FOR = ".made_for.json"
KEY = re.compile(r"[0-9a-f]{16}")
ROOT = Path(__file__).parents[2]
# Of what differs, a line names so many of each kind.
NAMED = 3


def work_folder(parent: Path, out: Path, settings: dict, files: Iterable[Path]) -> Path:
    """The folder of what a step has put aside for this result, and for no other; made where it is missing.

    What the same output put aside for another result is removed, and a line says what differs.

    Args:
        parent: where the folder is.
        out: the output: two that are made at once do not share a folder, even of one `parent`.
        settings: those that the result depends on.
        files: all that it is made of, its code included, in an order that is a part of it.

    Raises:
        ValueError: a folder cannot be read, written or removed.
    """
    hashes = [(_name(path), sha256_file(path)) for path in files]
    # A repository that is moved goes on.
    place = os.path.relpath(out.absolute(), parent.absolute())
    folder = parent / _digest([place, settings, [found for _, found in hashes]])[:16]
    if processes.first():
        # As JSON reads it again.
        made_for = json.loads(json.dumps({"out": place, "settings": settings, "files": dict(hashes)}))
        try:
            _remove_others(folder, made_for)
            _make(folder, made_for)
        except OSError as error:
            raise ValueError(f"{error.filename or folder}: {error.strerror}; make it writable and run again") from error
    return folder


def _make(folder: Path, made_for: dict) -> None:
    """With its `MADE_FOR` from the first moment: without one it would be taken for what an older version has left."""
    if folder.is_dir():
        write_json(folder / MADE_FOR, made_for)
        return
    partial = fresh_folder(folder.with_name(f".{folder.name}.partial"))
    write_json(partial / MADE_FOR, made_for)
    partial.rename(folder)


def _remove_others(folder: Path, made_for: dict) -> None:
    """What the same output has put aside for another result, or an older version for a result that it did not note."""
    if not folder.parent.is_dir():
        return
    for other in sorted(folder.parent.iterdir()):
        if other == folder or not KEY.fullmatch(other.name) or not other.is_dir():
            continue
        try:
            before = read_json(other / MADE_FOR)
            if before["out"] != made_for["out"]:
                continue
            why = _differences(before, made_for)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            why = f"no readable {MADE_FOR}, as an older version leaves it"
        print(f"{other}: put aside for another result ({why}): removed, and this run starts over", flush=True)
        shutil.rmtree(other)


def _differences(before: dict, now: dict) -> str:
    """What two results are made of that is not the same, in words."""
    old, new = _flat(before["settings"]), _flat(now["settings"])
    words = [
        f"{key} {_shown(old, key)} → {_shown(new, key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, ...) != new.get(key, ...)
    ]
    parts = [_listed(words)] if words else []
    files, other_files = before["files"], now["files"]
    for kind, names in (
        ("changed", [name for name in other_files if files.get(name, other_files[name]) != other_files[name]]),
        ("new", sorted(other_files.keys() - files.keys())),
        ("gone", sorted(files.keys() - other_files.keys())),
    ):
        parts += [f"{kind} {_listed(names)}"] if names else []
    return "; ".join(parts) or "the order of its files"


def _listed(names: list[str]) -> str:
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")


def _shown(settings: dict, key: str) -> str:
    text = json.dumps(settings[key], ensure_ascii=False) if key in settings else "unset"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _flat(settings: dict, above: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) and value else {f"{above}{key}": value}
    return flat


def _name(path: Path) -> str:
    """A file as a line should name it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


# --- single files of a work folder ---------------------------------------------------------------


def keep(path: Path, value: Any) -> None:
    """Put a value aside as JSON, with its hash."""
    write_json(path, {"value": value, "sha256": _digest(value)})


def kept(path: Path) -> Any:
    """What `keep` has put aside; None where there is nothing, or what is there is damaged: then a line says so and the
    file is removed."""
    try:
        content = read_json(path)
        if content["sha256"] == _digest(content["value"]):
            return content["value"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        pass
    if processes.first():
        print(f"{path}: damaged (its sha256 is not that of what it holds): removed, and made again", flush=True)
        path.unlink(missing_ok=True)
    return None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
