"""The sha256 of files, remembered as long as a file is what it was: by device, inode, size, change and write time.

Every write, rename, copy and change of times gives a file another change time (ctime), which no program can set: a byte
that is flipped with the old time put back, a `cp -p` or a `tar` of older files are seen. A write through a mapping of
the file (mmap) shows there once the system has written the page back, half a minute later on a disk.
"""

import hashlib
import json
import os
import time
from pathlib import Path

# Change times go by the kernel's tick, up to 10 ms: a file that has just been written may be written again in the same
# one. So may one from a time to come, where a clock has jumped back.
SETTLED_NS = 1_000_000_000
# What is remembered for another run is older: pages of a mapped file are written back within 30 seconds.
KEPT_NS = 60_000_000_000
_began = time.time_ns()
_known: dict[str, tuple[list[int], str]] = {}


def sha256_file(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    name = os.path.abspath(path)
    seen = time.time_ns()
    with open(path, "rb") as file:
        identity = _identity(os.fstat(file.fileno()))
        if (known := _known.get(name)) and known[0] == identity:
            return known[1]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if identity[-1] < seen - SETTLED_NS:
        _known[name] = identity, digest
    return digest


def recall(file: Path, root: Path) -> None:
    """Remember what `keep` wrote down; nothing where that is not there or not whole, for it can be found out again."""
    try:
        if not file.is_file():
            return
        seal, _, text = file.read_text(encoding="utf-8").partition("\n")
        if seal != hashlib.sha256(text.encode()).hexdigest():
            return
        kept = json.loads(text)
    except (OSError, ValueError):
        return
    for name, (identity, digest) in kept.items():
        _known.setdefault(str(root / name), (identity, digest))


def keep(file: Path, root: Path) -> None:
    """Write down what is known, by rename and under a hash of its own; files below a folder by their place in it."""
    below = f"{root}{os.sep}"
    old = {name: known for name, known in _known.items() if known[0][-1] < _began - KEPT_NS}
    text = json.dumps({name.removeprefix(below): known for name, known in old.items()})
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        partial.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)


def _identity(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
