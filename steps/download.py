"""Fetch a checkpoint or raw data files from the Hugging Face hub at a pinned commit. The only step that opens a socket.

Of a model come its configuration, tokenizer, licence and *.safetensors; pickled weights and code stay behind. The hub's
own sha256 of every large file is checked, and the manifest keeps that of all.

Run as: python -m steps.download --settings '{"path": "Qwen/Qwen3-0.6B-Base", "revision": "<commit>"}'
    --work work/mine/download_models_base --out results/mine/download/models/base
"""

import argparse
import os
import shutil
import time
from pathlib import Path

from steps.common import fingerprint, run, sha256_file, step_parser, write_manifest

MODEL_FILES = (
    "*.json",
    "*.safetensors",
    "*.jinja",
    "tokenizer.model",
    "vocab.txt",
    "merges.txt",
    "LICENSE*",
    "README.md",
)


def wanted(settings: dict) -> list[dict]:
    """What to ask the hub for: {"repo_id", "repo_type", "revision", "allow_patterns", "folder"} per repository.

    Args:
        settings: an entry of `models`, {"path": "owner/name", "revision"}, or of `data`, {"sources": [{"path":
            "owner/name/file", "revision"?, …}]}; a source without a revision is a local file and not asked for.

    Raises:
        ValueError: a path is not of that form.
    """
    if "sources" not in settings:
        if settings["path"].count("/") != 1:
            raise ValueError(f"models: {settings['path']} is no hub id; write owner/name")
        return [
            {
                "repo_id": settings["path"],
                "repo_type": "model",
                "revision": settings["revision"],
                "allow_patterns": list(MODEL_FILES),
                "folder": ".",
            }
        ]
    requests = []
    for source in settings["sources"]:
        if "revision" not in source:
            continue
        owner, _, rest = source["path"].partition("/")
        name, _, file = rest.partition("/")
        if not file:
            raise ValueError(f"data: {source['path']} names no file; write owner/name/file")
        requests.append(
            {
                "repo_id": f"{owner}/{name}",
                "repo_type": "dataset",
                "revision": source["revision"],
                "allow_patterns": [file, "LICENSE*", "README.md"],
                "folder": f"{owner}/{name}",
            }
        )
    return requests


def full_revision(revision: str, commits: list[str]) -> str:
    """The commit that a revision of 7 hex digits or more abbreviates: the hub takes whole ones only.

    Raises:
        ValueError: none begins with it, or several do.
    """
    found = [commit for commit in commits if commit.startswith(revision)]
    if len(found) != 1:
        raise ValueError(f"revision {revision}: {len(found)} commits of the repository begin with it; write it in full")
    return found[0]


def verify(folder: Path, hashes: dict[str, str]) -> None:
    """Compare files with the sha256 that the hub states.

    Raises:
        ValueError: a file is missing or its bytes differ.
    """
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            raise ValueError(f"{folder / name} did not arrive; run again")
        if sha256_file(folder / name) != expected:
            raise ValueError(f"{folder / name} arrived damaged (its sha256 is not the hub's); run again")


def fetch(request: dict, work: Path) -> None:
    """Download one repository's files into `work` and check them.

    Raises:
        ValueError: the hub does not have them, or they did not arrive whole.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    folder = work / request["folder"]
    where = {key: request[key] for key in ("repo_id", "repo_type", "revision")}
    try:
        if len(where["revision"]) < 40:
            commits = HfApi().list_repo_commits(where["repo_id"], repo_type=where["repo_type"])
            where["revision"] = full_revision(where["revision"], [commit.commit_id for commit in commits])
        snapshot_download(**where, allow_patterns=request["allow_patterns"], local_dir=folder)
        info = HfApi().repo_info(**where, files_metadata=True)
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        line = str(error).strip().splitlines()[0]
        raise ValueError(f"{request['repo_id']} at {request['revision']}: {line}") from error
    here = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    stated = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs and file.rfilename in here}
    verify(folder, stated)
    if request["repo_type"] == "model" and not list(folder.glob("*.safetensors")):
        raise ValueError(f"{request['repo_id']}: has no *.safetensors; pickled weights are not loaded, choose another")
    if request["repo_type"] == "dataset" and request["allow_patterns"][0] not in here:
        raise ValueError(f"{request['repo_id']}: has no file {request['allow_patterns'][0]} at {request['revision']}")


def main(args: argparse.Namespace) -> None:
    started = time.time()
    # The rules run offline; the library reads this when it is imported.
    os.environ["HF_HUB_OFFLINE"] = "0"
    work = args.work / fingerprint(args.settings, [])
    for request in wanted(args.settings):
        fetch(request, work)
    # What arrived stays in `work` until all of it is there, so that a killed download goes on where it stopped.
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work, args.out)
    for cache in list(args.out.rglob(".cache")):
        shutil.rmtree(cache)
    files = sum(path.is_file() for path in args.out.rglob("*"))
    write_manifest(
        args.out, step="download", settings=args.settings, inputs=[], counts={"files": files}, started=started
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of resumable state")
    run(main, parser)
