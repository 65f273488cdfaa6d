"""Whether a result stands: whether its manifest agrees with what is asked now, the code, and the bytes of its files.

A planner asks it of every result that is needed, a step of its own before it begins: two readings of one function.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steps.core.asked import Asked, asked, code_digest, material
from steps.core.hashes import sha256_file
from steps.core.manifest import input_digest, read_manifest, visible_files
from steps.core.promises import MANIFEST, PROVENANCE, promised

# Of a value that is told in one line.
LONGEST_VALUE = 60
NOT_MADE = "not made yet"
# In place of a setting that one side has not.
ABSENT = object()
MODEL_CONFIGS = ("config.json", "adapter_config.json")


def differences(folder: Path, wanted: Asked, code: Callable[[str], str] = code_digest) -> Iterator[str]:
    """What is not as it would be made now, in a few words each; nothing where the result stands.

    Nothing but the first that is found need be read: what costs most to find out comes last.

    Args:
        code: the digest of a module's code; of one planner, which asks it of many results, from its memory.
    """
    path = folder / MANIFEST
    if not path.is_file():
        yield NOT_MADE
        return
    try:
        manifest = read_manifest(path)
    except (ValueError, OSError):
        yield f"{path} is damaged"
        return
    if manifest["asked"] != wanted.digest:
        yield from told(material(manifest["settings"]), wanted.told()) or _other_options(folder, wanted)
    if manifest["code"] != code(wanted.module):
        yield f"code of {wanted.module}"
    yield from _changed_inputs(manifest["inputs"], sha256_file if manifest.get("whole") else input_digest)
    yield from damages(folder, manifest)


def damages(folder: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """The files of a result that are not those of its manifest, nor its provenance, nor of anything that it knows."""
    expected = manifest["outputs"]
    for name, digest in expected.items():
        file = folder / name
        if not file.is_file():
            yield f"{file} is missing"
        elif sha256_file(file) != digest:
            yield f"{file} is damaged"
    try:
        read_manifest(folder / PROVENANCE)
    except (ValueError, OSError):
        yield f"{folder / PROVENANCE} is damaged"
    for file in visible_files(folder):
        if file.name not in (MANIFEST, PROVENANCE, *expected):
            yield f"{file} is not of this result"


def _changed_inputs(inputs: dict[str, str], digest_of: Callable[[Path], str]) -> Iterator[str]:
    listed: dict[Path, set[str]] = {}
    for name, digest in inputs.items():
        path = Path(name)
        listed.setdefault(path.parent, set()).add(path.name)
        try:
            if not path.is_file():
                yield f"{name} is gone"
            elif digest_of(path) != digest:
                yield f"{name} changed"
        except (ValueError, OSError):
            yield f"{name} is damaged"
    for folder, names in listed.items():
        # A model that no step of ours made is read as it lies there, every file of it; of one that has a manifest that
        # is all that the manifest lists.
        if names.isdisjoint((*MODEL_CONFIGS, MANIFEST)) or not folder.is_dir():
            continue
        known = {*names, MANIFEST, PROVENANCE, *promised(folder)}
        yield from (f"{path} is new" for path in visible_files(folder) if path.name not in known)


def _other_options(folder: Path, wanted: Asked) -> list[str]:
    """The words of its command that are others than before."""
    try:
        before = asked(read_manifest(folder / PROVENANCE)["argv"])
    except (ValueError, OSError, KeyError):
        before = None
    if before is None:
        return ["its command is another"]
    gone = [f"− {word}" for word in before.options if word not in wanted.options]
    new = [f"+ {word}" for word in wanted.options if word not in before.options]
    return [", ".join([*gone, *new])] if gone or new else ["its command is another"]


def told(before: Any, now: Any, key: str = "") -> list[str]:
    """What differs of two settings, as `key before → now`; of two mappings, or lists of one length, entry by entry."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        places = [(f"{key}.{n}" if key else n, before.get(n, ABSENT), now.get(n, ABSENT)) for n in names]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        places = [(f"{key}[{i}]", old, new) for i, (old, new) in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now and type(before) is type(now) else [f"{key} {_short(before)} → {_short(now)}"]
    return [line for place, old, new in places for line in told(old, new, place)]


def _short(value: Any) -> str:
    text = "–" if value is ABSENT else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"
