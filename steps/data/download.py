"""Fetch a checkpoint or raw data files from the Hugging Face hub at a pinned commit. The only step that opens a socket.

Of a model come its configuration, tokenizer, licence and *.safetensors, from its root folder; pickled weights and code
stay behind. What can be refused is refused before a byte of a file comes: weights that are only pickled, a full disk, a
`sha256` that is not the hub's. An adapter whose `base` is named has its folder in its config; a local one is copied for
that, without a socket. Every file is then compared with what the hub states of it, the sha256 of a large one
and git's hash of a small one, and the manifest keeps the sha256 of all. A killed download goes on with the files that
it has not yet.

The library logs in by itself: `hf auth login`, or HF_TOKEN in the environment, which is written nowhere. HF_ENDPOINT
names a mirror.

Run as: python -m steps.data.download --settings '{"path": "Qwen/Qwen3-0.6B-Base", "revision": "<commit>"}'
    --work work/mine/download_models_base --out results/mine/download/models/base
"""

import argparse
import contextlib
import errno
import glob
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from steps.core.files import write_json
from steps.core.hashes import sha256_file
from steps.core.manifest import visible_files, write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.work import MADE_FOR, work_folder
from steps.data.hub import BESIDE_DATA, MODEL_FILES, wanted
from steps.models.adapters.files import ADAPTER_CONFIG
from steps.models.files import COPIED_TOKENIZER, read_config


def full_revision(revision: str, commits: list[str]) -> str:
    """The commit that a revision of 7 hex digits or more abbreviates: the hub takes whole ones only.

    Raises:
        ValueError: none begins with it, or several do.
    """
    found = [commit for commit in commits if commit.startswith(revision)]
    if len(found) != 1:
        raise ValueError(f"revision {revision}: {len(found)} commits of the repository begin with it; write it in full")
    return found[0]


def chosen(request: dict, names: list[str]) -> list[str]:
    """The files of a repository that a request asks for: of a model's root folder only, where its loaders look.

    Raises:
        ValueError: what is needed is not among them.
    """
    where = f"{request['repo_id']} at {request['revision']}"
    if request["repo_type"] == "model":
        found = [n for n in names if "/" not in n and any(fnmatch(n, pattern) for pattern in MODEL_FILES)]
        if not any(name.endswith(".safetensors") for name in found):
            raise ValueError(
                f"{where}: has no *.safetensors; pickled weights are not read here: choose another,"
                " or convert them where you trust them and let `path` name the folder"
            )
        if not {"config.json", ADAPTER_CONFIG} & {*found}:
            raise ValueError(f"{where}: has no config.json; it is not a whole checkpoint, choose another")
    else:
        found = [n for n in names if n == request["file"] or any(fnmatch(n, pattern) for pattern in BESIDE_DATA)]
        if request["file"] not in found:
            raise ValueError(f"{where}: has no file {request['file']}; correct the path")
    for name in request["sha256"]:
        if name not in found:
            raise ValueError(f"{where}: `sha256` names {name}, which is not downloaded; it has: {', '.join(found)}")
    return found


def check_pinned(request: dict, hashes: dict[str, str]) -> None:
    """Compare the hashes that the user expects with those of the files, as far as they are known.

    Raises:
        ValueError: they differ.
    """
    where = f"{request['repo_id']} at {request['revision']}"
    for name, expected in request["sha256"].items():
        if hashes.get(name, expected) != expected:
            raise ValueError(
                f"{where}: {name} has the sha256 {hashes[name]}, not the {expected} of `sha256`; correct that line, or"
                " the revision, or use a hub that you trust"
            )


def check_space(needed: int, folder: Path) -> None:
    """Compare bytes with those that are free where a folder is, or will be.

    Raises:
        ValueError: they do not fit.
    """
    free = shutil.disk_usage(nearest(folder)).free
    if free < needed:
        raise ValueError(
            f"{folder}: {needed / 1e9:,.1f} GB will be written and {free / 1e9:,.1f} GB are free; make room, or make"
            " the folder a link to a larger disk"
        )


def nearest(folder: Path) -> Path:
    """A folder, or the nearest above it that is there."""
    return next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())


def git_hash(path: Path) -> str:
    """The name that git gives to a file's content: sha1 of "blob <bytes>", a zero byte and the content."""
    content = path.read_bytes()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def verify(folder: Path, hashes: dict[str, str]) -> None:
    """Compare files with the hashes stated of them: a sha256 (64 hex digits) or git's (40). A wrong file is removed, as
    otherwise the library would take it for whole the next time.

    Raises:
        ValueError: a file is missing or its bytes differ.
    """
    for name, expected in hashes.items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} did not arrive; run again")
        if (sha256_file(file) if len(expected) == 64 else git_hash(file)) != expected:
            file.unlink()
            raise ValueError(f"{file} arrived damaged (its hash is not the {expected} that was stated); run again")


def explain(error: Exception, request: dict, out: Path, endpoint: str) -> str:
    """One line for what the library raised: what is wrong, and what to do."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    where, kind = f"{request['repo_id']} at {request['revision']}", request["repo_type"]
    page = f"{endpoint}/{'datasets/' if kind == 'dataset' else ''}{request['repo_id']}"
    log_in = "log in here (`hf auth login`, or HF_TOKEN in the environment)"
    response = getattr(error, "response", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{where}: is gated; accept its licence at {page}, {log_in} and run again"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{where}: there is no such commit; copy one from {page}/commits/main"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{where}: there is no {kind} {page}, or it is private; correct the path, or {log_in}"
    if response is not None and response.status_code in (401, 403):
        return f"{where}: {endpoint} refuses ({response.status_code}); {log_in} with a token that may read it"
    if response is not None:
        return f"{where}: {endpoint} answers {response.status_code}; run again later, it goes on with what it has not"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"{out}: {error.strerror}; make room and run again, it goes on with the files that it has not"
    if getattr(error, "filename", None):
        return f"{error.filename}: {error.strerror}; make it writable and run again"
    # Addresses of files carry signatures.
    line = re.sub(r"\?\S+", "", " ".join(str(error).split())) or type(error).__name__
    return (
        f"{where}: {endpoint} cannot be reached, or broke off ({line}); run again where there is a network"
        f" (`snakemake {out}/manifest.json`), copy {out} here, or"
        " let `path` name a local folder without `revision`"
    )


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a folder, while others write to it."""
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # a file gets its name when it is whole
            total += file.stat().st_size
    return total


@contextlib.contextmanager
def shown(folder: Path, size: int) -> Iterator[None]:
    """Print how many of `size` bytes have come into a folder, until the block ends."""
    before, ended = bytes_in(folder), threading.Event()
    progress = Progress("download", size // 10**6, "MB")

    def watch() -> None:
        while not ended.wait(progress.every):
            progress.update(min(bytes_in(folder) - before, size) // 10**6)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
    progress.update(size // 10**6)


def fetch(request: dict, work: Path, out: Path) -> dict[Path, int]:
    """Download one repository's files into `work` and check them; returns their sizes in bytes.

    Args:
        out: where the files will go in the end.

    Raises:
        ValueError: the hub does not have them or does not give them, or they did not arrive whole.
    """
    import httpx2  # the library's own client, whose errors it lets through
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    folder, api = work / request["folder"], HfApi()
    where = {key: request[key] for key in ("repo_id", "repo_type", "revision")}
    try:
        # The others are tried again for half a minute; this one tells at once that there is no network.
        api.repo_info(request["repo_id"], repo_type=request["repo_type"])
        if len(where["revision"]) < 40:
            commits = api.list_repo_commits(where["repo_id"], repo_type=where["repo_type"])
            where["revision"] = full_revision(where["revision"], [commit.commit_id for commit in commits])
        tree = [entry for entry in api.list_repo_tree(**where, recursive=True) if isinstance(entry, RepoFile)]
        names = chosen(request, [file.path for file in tree])
        files = [file for file in tree if file.path in names]
        check_pinned(request, {file.path: file.lfs.sha256 for file in files if file.lfs})
        # The library begins a file anew and does not come back to what a killed run has left of it.
        for partial in folder.glob(".cache/**/*.incomplete"):
            partial.unlink()
        missing = sum(file.size for file in files if not (folder / file.path).is_file())
        check_space(missing, work)
        if nearest(work).stat().st_dev != nearest(out).stat().st_dev:
            check_space(sum(file.size for file in files), out)
        with shown(folder, missing):
            snapshot_download(**where, allow_patterns=[glob.escape(name) for name in names], local_dir=folder)
    except (httpx2.HTTPError, OSError) as error:
        raise ValueError(explain(error, request, out, constants.ENDPOINT)) from error
    verify(folder, {file.path: file.lfs.sha256 if file.lfs else file.blob_id for file in files})
    check_pinned(request, {name: sha256_file(folder / name) for name in request["sha256"]})
    return {folder / file.path: file.size for file in files}


def copied(folder: Path, work: Path) -> dict[Path, Path]:
    """Copy what belongs to a model of a local folder; returns each copy with what it is of."""
    files = [path for path in visible_files(folder) if any(fnmatch(path.name, pattern) for pattern in MODEL_FILES)]
    for file in files:
        shutil.copyfile(file, work / file.name)
    return {work / file.name: file for file in files}


def name_base(folder: Path, base: str) -> None:
    """Write into an adapter's config which folder has its base.

    Raises:
        ValueError: the folder has no adapter.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: has no {ADAPTER_CONFIG}, so that `base` has no effect; remove it from models")
    write_json(path, read_config(path) | {"base_model_name_or_path": base})


def main(args: argparse.Namespace) -> None:
    started = time.time()
    work = work_folder(args.work, args.out, args.settings, [])
    sizes: dict[Path, int] = {}
    inputs: list[Path] = []
    base = args.settings.get("base")
    if base and "revision" not in args.settings:
        made = copied(Path(args.settings["path"]), work)
        # All of the folder, as it is compared later.
        inputs, sizes = visible_files(Path(args.settings["path"])), {copy: copy.stat().st_size for copy in made}
    else:
        # The rules run offline; the library reads this, and whether to draw bars, when it is imported.
        os.environ.update(HF_HUB_OFFLINE="0", HF_HUB_DISABLE_PROGRESS_BARS="1")
        for request in wanted(args.settings, ".".join(args.out.parts[-2:])):
            sizes |= fetch(request, work, args.out)
    if base:
        name_base(work, base)
        # An adapter is often published without the tokenizer, which is then its base's.
        if not (work / COPIED_TOKENIZER[0]).is_file():
            for name in COPIED_TOKENIZER:
                if (Path(base) / name).is_file():
                    shutil.copyfile(Path(base) / name, work / name)
                    inputs.append(Path(base) / name)
    # Everything stays in `work` until it is whole and has its manifest, so that a killed run goes on from there.
    for cache in list(work.rglob(".cache")):
        shutil.rmtree(cache)
    counts = {"files": len(sizes), "bytes": sum(sizes.values())}
    write_manifest(work, step="download", settings=args.settings, inputs=inputs, counts=counts, started=started)
    (work / MADE_FOR).unlink()
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work, args.out)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
