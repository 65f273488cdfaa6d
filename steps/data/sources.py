"""The files of a data set's sources: what a folder or a pattern stands for, and what each file is called in a row.

Imports nothing heavy: Snakemake lists the files as it plans.
"""

import difflib
import fnmatch
import glob
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from steps.settings.formats import DOCUMENTS, FILES, PACKED
from steps.settings.names import checked_path

# Of a folder that `datasets` saved: the files of one split, in their order; and the names of its splits.
SAVED, SPLITS = "state.json", "dataset_dict.json"
_PATTERN = "*?["


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of rows: where it lies, what rows call it, and what their ids begin with."""

    path: Path
    name: str
    stem: str


def suffixes(path: Path) -> tuple[str, str]:
    """What a file holds and how it is packed, by its name: (".jsonl", ".gz"); "" where it is not."""
    packed = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    return (Path(path.stem) if packed else path).suffix.lower(), packed


def is_many(path: str) -> bool:
    """Whether a path is a folder, or a pattern and no file of that very name."""
    return Path(path).is_dir() or (any(mark in path for mark in _PATTERN) and not Path(path).is_file())


def missing(path: str) -> str:
    """That there is no such file, with the one beside it that was probably meant: an ending in common says nothing."""
    wanted = Path(path)

    def likeness(other: str) -> float:
        alike = suffixes(wanted) == suffixes(Path(other))
        names = (name.partition(".")[0] if alike else name for name in (wanted.name, other))
        return difflib.SequenceMatcher(None, *names).ratio()

    beside = sorted(os.listdir(wanted.parent)) if wanted.parent.is_dir() else []
    near = max(beside, key=likeness, default=None)
    meant = near is not None and likeness(near) >= 0.6
    return f"there is no file {path}; " + (f"did you mean {wanted.parent / near}?" if meant else "correct the path")


def files_of(path: str, form: str) -> list[str]:
    """The files that a source's path stands for, sorted.

    Raises:
        ValueError: there is none, or none that can be read; names the path and the fix.
    """
    if not is_many(path):
        if not Path(path).is_file():
            raise ValueError(missing(path))
        found = [Path(path)]
    elif Path(path).is_dir():
        found = _of_folder(Path(path), form)
        if not found:
            documents = sorted({suffixes(Path(file))[0] for file in left_out(path, form)} & {*DOCUMENTS})
            fix = f", or write format: text to read its {' and '.join(documents)} files" if documents else ""
            raise ValueError(f"{path}: no file in this folder ends in {_readable(form)}; correct the path{fix}")
    else:
        shown = [hit for hit in _matching(path) if not hit.name.startswith((".", "_"))]
        found = [hit for hit in shown if _leads_on(hit) and hit.is_file()]
        if not found:
            raise ValueError(f"no file matches {path}; correct the pattern")
    for file in found:
        checked_path(str(file))
        of, packed = suffixes(file)
        if of not in FILES:
            raise ValueError(f"{file}: files must end in {', '.join(FILES)}, and {' or '.join(PACKED)} after it;"
                             " convert or rename it")  # fmt: skip
        if packed and of in (".parquet", ".arrow"):
            raise ValueError(f"{file}: a {of} file is packed inside; unpack it")
        if of in DOCUMENTS and form not in ("auto", "text"):
            raise ValueError(f"{file}: a {of} file is one document; write format: text")
    return [str(file) for file in found]


def left_out(path: str, form: str) -> list[str]:
    """The files of a folder that are not read, hidden ones aside; of anything else none."""
    folder = Path(path)
    if not folder.is_dir() or (folder / SAVED).is_file():
        return []
    return [str(file) for file in _visible(folder) if not _is_readable(file, form)]


def _readable(form: str) -> str:
    return ", ".join(suffix for suffix in FILES if suffix not in DOCUMENTS or form == "text")


def _is_readable(file: Path, form: str) -> bool:
    kind = suffixes(file)[0]
    return kind in FILES and (kind not in DOCUMENTS or form == "text")


def _divided(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """The folder that a pattern begins with, and the rest: a folder that is there may have a mark in its name."""
    parts = Path(pattern).parts
    marked = (i for i, part in enumerate(parts) if any(mark in part for mark in _PATTERN))
    at = next((i for i in marked if not Path(*parts[: i + 1]).is_dir()), len(parts) - 1)
    return Path(*parts[:at]), parts[at:]


def _matching(pattern: str) -> list[Path]:
    root, rest = _divided(pattern)
    if "**" in rest:
        return sorted((file for file in _below(root) if _fits(file.relative_to(root).parts, rest)), key=str)
    return [Path(hit) for hit in sorted(glob.glob(os.path.join(glob.escape(str(root)), *rest)))]


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path matches a pattern, part by part; ** is any number of folders."""
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return len(pattern) == 1 or any(_fits(parts[i:], pattern[1:]) for i in range(len(parts)))
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def _below(root: Path) -> list[Path]:
    """The files at any depth below a folder, linked folders followed and hidden ones not. Each folder is read once, so
    that links in a circle end, and under its own name where it has one."""
    seen: set[tuple[int, int]] = set()
    found: list[Path] = []
    waiting = [root]
    while waiting:
        for folder, names, files in os.walk(waiting.pop(0)):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                names.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            names[:] = sorted(name for name in names if not name.startswith("."))
            found += [Path(folder, name) for name in files]
            waiting += [Path(folder, name) for name in names if os.path.islink(os.path.join(folder, name))]
    return found


def _visible(folder: Path) -> list[Path]:
    """The files of a folder that are not hidden, sorted."""
    files = sorted(file.relative_to(folder) for file in _below(folder))
    shown = [folder / file for file in files if not any(part.startswith((".", "_")) for part in file.parts)]
    return [file for file in shown if _leads_on(file) and file.is_file()]


def _leads_on(file: Path) -> bool:
    """Raise a ValueError for a link to rows that are not there: they would be missed."""
    if file.is_symlink() and suffixes(file)[0] in FILES and not file.exists():
        raise ValueError(f"{file}: is a link to {os.readlink(file)}, which is not there; mend or remove it")
    return True


def _of_folder(folder: Path, form: str) -> list[Path]:
    """What of a folder is read: hidden files and notes beside the rows are not."""
    if (folder / SPLITS).is_file():
        splits = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise ValueError(f"{folder}: it holds the splits {', '.join(splits)}; name one, such as {folder}/{splits[0]}"
                         if splits else f"{folder}: it holds no split; correct the path")  # fmt: skip
    if (folder / SAVED).is_file():
        return _of_saved(folder)
    return [file for file in _visible(folder) if _is_readable(file, form)]


def _of_saved(folder: Path) -> list[Path]:
    try:
        files = json.loads((folder / SAVED).read_text(encoding="utf-8"))["_data_files"]
        names = [file["filename"] for file in files]
        whole = all(isinstance(name, str) and Path(name).name == name and (folder / name).is_file() for name in names)
    except (ValueError, KeyError, TypeError, OSError, RecursionError):
        names, whole = [], False
    if not names or not whole:
        raise ValueError(f"{folder / SAVED}: it does not name the files that are there; save the data set again")
    return [folder / name for name in names]


def listed(sources: list[dict]) -> list[dict]:
    """The same, a folder or pattern with the "files" that it stands for now: a new one is another thing to read.

    Raises:
        ValueError: as `files_of`.
    """
    return [
        source | {"files": files_of(source["path"], source.get("format", "auto"))}
        if is_many(source["path"])
        else source
        for source in sources
    ]


def named(sources: list[dict]) -> list[list[SourceFile]]:
    """The files of each source. No two of a data set have one name, or begin their ids alike.

    A file is called by its name, one of a folder or pattern by its path from there, so that another file beside it
    changes no id; and where a source before has that name already, by as much more of its path as tells them apart.

    Raises:
        ValueError: as `files_of`, or a file is read twice.
    """
    paths: dict[Path, Path] = {}
    taken: set[str] = set()
    result = []
    for source in sources:
        files = []
        many = is_many(str(source["path"]))
        for file in source.get("files") or files_of(str(source["path"]), source.get("format", "auto")):
            path = Path(file)
            if (real := path.resolve()) in paths:
                if any(file.path == paths[real] for file in files):
                    raise ValueError(
                        f"{source['path']}: {path} and {paths[real]} are one file; remove a link, or name the files"
                    )
                raise ValueError(f"{path}: two sources of this data set read it; name it once")
            paths[real] = path
            name, stem = next(
                (name, stem)
                for name, stem in _calls(path, folder_of(str(source["path"])), many)
                if name not in taken and stem not in taken
            )
            taken |= {name, stem}
            files.append(SourceFile(path, name, stem))
        result.append(files)
    return result


def folder_of(path: str) -> Path:
    """The folder that a source's files lie in: that of a file, a folder itself, of a pattern what it begins with."""
    if not is_many(path):
        return Path(path).parent
    if Path(path).is_dir():
        return Path(path)
    return _divided(path)[0]


def _calls(path: Path, root: Path, many: bool) -> Iterator[tuple[str, str]]:
    """What a file may be called, and what its ids may begin with, shortest first."""
    name = path.relative_to(root).as_posix()
    if not many:
        of, packed = suffixes(path)
        yield name, name.removesuffix(packed).removesuffix(of) or name
    yield name, name
    parents = path.absolute().parts[: -len(Path(name).parts)]
    for i in range(1, len(parts := [*parents]) + 1):
        longer = "/".join([*parts[-i:], name])
        yield longer, longer
