"""The download step against a hub of its own: a server on 127.0.0.1 that speaks as much of the hub's API as the real
`huggingface_hub` asks for. What it states of files (git's hash, sha256, size) is worked out here, not by the step.
"""

import argparse
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from steps.core.manifest import verify_manifest
from steps.data import download
from tests.workflow.test_workflow import copy_of_the_repository
from tests.workloads import PARAMS

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_thisIsASecretOfTheTests"


class Hub(ThreadingHTTPServer):
    """Repositories of one commit. `repositories` is {"models/owner/name": {file: bytes}}; the other attributes make
    trouble, `asked` has every request as (method, path, Range)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.gated: dict[str, str] = {}  # repository: the token that it is open to
        self.damaged: dict[str, bytes] = {}  # file: what is sent for it
        self.broken: dict[str, int] = {}  # file: bytes after which the connection is cut, once
        self.failing: dict[str, int] = {}  # file: status
        self.asked: list[tuple[str, str, str | None]] = []
        self.large = 1000  # bytes from which a file is stored as git-lfs does

    def loads(self, file: str) -> list[str | None]:
        """The ranges in which a file was asked for."""
        return [part for method, path, part in self.asked if method == "GET" and path.endswith(f"/{file}")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if found := re.match(r"/api/((?:model|dataset)s/[^/]+/[^/]+)(?:/(tree|commits)/([^/]+))?$", path):
            return self.api(*found.groups())
        found = re.match(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)$", path)
        return self.resolve(f"{found[1] or 'models/'}{found[2]}", found[3], found[4])

    def api(self, name: str, what: str | None, revision: str | None):
        if name not in self.server.repositories:
            return self.reply(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if what is None:
            return self.json({"_id": "0", "id": name.split("/", 1)[1], "sha": COMMIT, "siblings": [], "tags": []})
        if what == "commits":
            commit = {"id": COMMIT, "authors": [], "date": "2024-01-01T00:00:00.000Z", "title": "", "message": ""}
            return self.json([commit])
        if revision != COMMIT:
            return self.reply(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
        entries = []
        for file, content in self.server.repositories[name].items():
            header = f"blob {len(content)}\0".encode()
            entry = {
                "type": "file",
                "path": file,
                "size": len(content),
                "oid": hashlib.sha1(header + content).hexdigest(),
            }
            if len(content) >= self.server.large:
                sha256 = hashlib.sha256(content).hexdigest()
                entry |= {"oid": "f" * 40, "lfs": {"oid": sha256, "size": len(content), "pointerSize": 130}}
            entries.append(entry)
        return self.json(entries)

    def json(self, value) -> None:
        self.reply(200, json.dumps(value).encode(), Content_Type="application/json")

    def resolve(self, name: str, revision: str, file: str):
        hub = self.server
        token = hub.gated.get(name)
        if token and self.headers.get("Authorization") != f"Bearer {token}":
            status = 403 if "Authorization" in self.headers else 401
            return self.reply(status, X_Error_Code="GatedRepo", X_Error_Message="Access to this model is restricted")
        content = hub.repositories[name][file]
        assert revision == COMMIT
        etag = hashlib.sha256(content).hexdigest() if len(content) >= hub.large else hashlib.sha1(content).hexdigest()
        headers = {"ETag": f'"{etag}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
        if file in hub.failing and self.command == "GET":
            return self.reply(hub.failing[file], X_Error_Message="out of order")
        content = hub.damaged.get(file, content)
        if self.command == "GET" and file in hub.broken:
            self.send_response(200)
            for key, value in (headers | {"Content_Length": str(len(content))}).items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(content[: hub.broken.pop(file)])
            self.wfile.flush()
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if part := self.headers.get("Range"):
            begin = int(re.match(r"bytes=(\d+)-", part)[1])
            headers["Content_Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
            return self.reply(206, content[begin:], **headers)
        return self.reply(200, content, **headers)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub that the library of this process talks to, and nothing else; no login is known."""
    from huggingface_hub import constants, utils

    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # main sets these for the process that it is alone in.
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    utils.close_session()
    yield hub
    hub.shutdown()
    hub.server_close()
    utils.close_session()


WEIGHTS = bytes(range(256)) * 40
MODEL = {
    "config.json": b'{"model_type": "qwen3"}',
    "tokenizer.json": b"{}" * 700,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickle" * 400,
    "modeling_own.py": b"import os",
    "original/params.json": b"{}",
    "LICENSE": b"Apache 2.0",
}
ARRIVING = {"config.json", "tokenizer.json", "model.safetensors", "LICENSE"}


def arguments(tmp_path: Path, settings: dict, kind: str = "models") -> argparse.Namespace:
    return argparse.Namespace(settings=settings, work=tmp_path / "work/x", out=tmp_path / f"results/{kind}/base")


def files_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def refused(tmp_path: Path, settings: dict, kind: str = "models") -> str:
    """The line of a download that is refused, of which nothing is left where results lie."""
    args = arguments(tmp_path, settings, kind)
    with pytest.raises(ValueError) as caught:
        download.main(args)
    assert not args.out.exists()
    line = str(caught.value)
    assert "\n" not in line
    return line


def loaded(hub: Hub) -> bool:
    """Whether any file was asked for."""
    return any("/resolve/" in path for _, path, _ in hub.asked)


# --- what arrives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("revision", [COMMIT, COMMIT[:7]])
def test_a_model_arrives_whole_without_pickles_or_code(hub, tmp_path, revision):
    hub.repositories["models/owner/name"] = MODEL
    args = arguments(tmp_path, {"path": "owner/name", "revision": revision})
    download.main(args)
    assert files_of(args.out) == ARRIVING | {"manifest.json", ".manifest.json", "provenance.json"}
    manifest = verify_manifest(args.out)
    assert manifest["outputs"] == {name: hashlib.sha256(MODEL[name]).hexdigest() for name in ARRIVING}
    assert manifest["counts"] == {"files": 4, "bytes": sum(len(MODEL[name]) for name in ARRIVING)}
    assert not hub.loads("pytorch_model.bin") and not hub.loads("modeling_own.py")
    assert not any((tmp_path / "work").rglob("*.safetensors"))


def test_of_a_data_set_the_named_files_and_the_licence_arrive(hub, tmp_path):
    hub.repositories["datasets/owner/rows"] = {
        "data/a[1].jsonl": b'{"prompt": "x"}\n' * 90,
        "data/b.jsonl": b"{}",
        "README.md": b"# Rows",
    }
    source = {"path": "owner/rows/data/a[1].jsonl", "revision": COMMIT, "format": "prompt_response"}
    args = arguments(tmp_path, {"sources": [source, {"path": "mine.json", "format": "alpaca"}]}, "data")
    download.main(args)
    assert files_of(args.out) - {"manifest.json", ".manifest.json", "provenance.json"} == {
        "owner/rows/data/a[1].jsonl",
        "owner/rows/README.md",
    }


def test_two_downloads_write_the_same_manifest(hub, tmp_path):
    hub.repositories["models/owner/name"] = MODEL
    settings = {"path": "owner/name", "revision": COMMIT}
    manifests = []
    for _ in range(2):
        args = arguments(tmp_path, settings)
        download.main(args)
        manifests.append((args.out / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]


def test_progress_is_told(hub, tmp_path, capsys, monkeypatch):
    hub.repositories["models/owner/name"] = MODEL | {"model.safetensors": bytes(3_000_000)}
    download.main(arguments(tmp_path, {"path": "owner/name", "revision": COMMIT}))
    assert "download: MB 3/3" in capsys.readouterr().out


# --- hashes ---------------------------------------------------------------------------------------


def test_git_hash_is_gits(tmp_path):
    """Of the file "hello\\n", as in `echo hello | git hash-object --stdin`."""
    (tmp_path / "file").write_bytes(b"hello\n")
    assert download.git_hash(tmp_path / "file") == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_found_and_comes_again(hub, tmp_path, file):
    """Of the same size, so that nothing but its hash tells: sha256 of the large one, git's of the small one."""
    hub.repositories["models/owner/name"] = MODEL
    hub.damaged[file] = MODEL[file][:-1] + b"!"
    settings = {"path": "owner/name", "revision": COMMIT}
    line = refused(tmp_path, settings)
    assert file in line and "damaged" in line and "run again" in line
    hub.damaged.clear()
    download.main(arguments(tmp_path, settings))
    assert len(hub.loads(file)) == 2
    assert all(len(hub.loads(other)) == 1 for other in ARRIVING - {file})


def test_a_pinned_hash_that_the_hub_contradicts_is_refused_before_a_byte_comes(hub, tmp_path):
    hub.repositories["models/owner/name"] = MODEL
    settings = {"path": "owner/name", "revision": COMMIT, "sha256": {"model.safetensors": "0" * 64}}
    line = refused(tmp_path, settings)
    assert f"not the {'0' * 64} of `sha256`" in line and hashlib.sha256(WEIGHTS).hexdigest() in line
    assert not loaded(hub)


def test_a_pinned_hash_of_a_small_file_is_checked_when_it_is_there(hub, tmp_path):
    hub.repositories["models/owner/name"] = MODEL
    settings = {"path": "owner/name", "revision": COMMIT, "sha256": {"config.json": "0" * 64}}
    assert f"config.json has the sha256 {hashlib.sha256(MODEL['config.json']).hexdigest()}" in refused(
        tmp_path, settings
    )
    settings["sha256"] = {name: hashlib.sha256(MODEL[name]).hexdigest() for name in ARRIVING}
    download.main(arguments(tmp_path, settings))


def test_a_pinned_hash_of_no_file_is_refused(hub, tmp_path):
    hub.repositories["models/owner/name"] = MODEL
    settings = {"path": "owner/name", "revision": COMMIT, "sha256": {"model.safetensor": "0" * 64}}
    assert "names model.safetensor, which is not downloaded; it has: config.json" in refused(tmp_path, settings)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("login", [None, "hf_ofSomebodyElse"])
def test_a_gated_model_says_where_to_accept_and_how_to_log_in(hub, tmp_path, monkeypatch, capsys, login):
    hub.repositories["models/owner/name"] = MODEL
    hub.gated["models/owner/name"] = TOKEN
    if login:
        monkeypatch.setenv("HF_TOKEN", login)
    line = refused(tmp_path, {"path": "owner/name", "revision": COMMIT})
    assert f"gated; accept its licence at {hub.url}/owner/name" in line
    assert "hf auth login" in line and "HF_TOKEN" in line
    assert "hf_" not in line + "".join(capsys.readouterr())


def test_a_gated_model_comes_to_whoever_may_and_the_token_is_kept_nowhere(hub, tmp_path, monkeypatch, capsys):
    hub.repositories["models/owner/name"] = MODEL
    hub.gated["models/owner/name"] = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    args = arguments(tmp_path, {"path": "owner/name", "revision": COMMIT})
    download.main(args)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert TOKEN.encode() not in written and TOKEN not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("settings", "kind", "parts"),
    [
        (
            {"path": "owner/none", "revision": COMMIT},
            "models",
            ["no model", "/owner/none", "private", "correct the path"],
        ),
        ({"path": "owner/name", "revision": "f" * 40}, "models", ["no such commit", "/owner/name/commits/main"]),
        ({"path": "owner/name", "revision": "f" * 7}, "models", ["0 commits", "write it in full"]),
        ({"path": "owner/pickled", "revision": COMMIT}, "models", ["has no *.safetensors", "pickled"]),
        ({"path": "owner/bare", "revision": COMMIT}, "models", ["has no config.json"]),
        (
            {"sources": [{"path": "owner/rows/none.jsonl", "revision": COMMIT, "format": "alpaca"}]},
            "data",
            ["has no file none.jsonl", "correct the path"],
        ),
        (
            {"sources": [{"path": "owner/none/a.jsonl", "revision": COMMIT, "format": "alpaca"}]},
            "data",
            ["no dataset", "/datasets/owner/none"],
        ),
    ],
)
def test_what_the_hub_has_not_is_one_line_before_a_byte_comes(hub, tmp_path, settings, kind, parts):
    hub.repositories |= {
        "models/owner/name": MODEL,
        "models/owner/pickled": {name: MODEL[name] for name in MODEL if name != "model.safetensors"},
        "models/owner/bare": {name: MODEL[name] for name in MODEL if name != "config.json"},
        "datasets/owner/rows": {"a.jsonl": b"{}"},
    }
    line = refused(tmp_path, settings, kind)
    assert all(part in line for part in parts), line
    assert not loaded(hub)


def test_a_disk_without_room_is_one_line_before_a_byte_comes(hub, tmp_path, monkeypatch):
    hub.repositories["models/owner/name"] = MODEL
    free = shutil.disk_usage(tmp_path)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    line = refused(tmp_path, {"path": "owner/name", "revision": COMMIT})
    assert "0.0 GB will be written" in line and "make room" in line
    assert not loaded(hub)


def test_a_disk_that_fills_up_on_the_way_is_one_line(tmp_path):
    request = {"repo_id": "owner/name", "repo_type": "model", "revision": COMMIT}
    full = OSError(errno.ENOSPC, "No space left on device", "work/x")
    line = download.explain(full, request, tmp_path, "https://hub")
    assert "No space left on device; make room and run again" in line
    line = download.explain(
        PermissionError(errno.EACCES, "Permission denied", "work/x"), request, tmp_path, "https://hub"
    )
    assert line == "work/x: Permission denied; make it writable and run again"


def test_no_network_is_one_line_at_once(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    def waited(seconds):
        raise AssertionError("the library waits before it tries again")

    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", waited)
    with socket.socket() as unheard:  # bound and not listening: a connection is refused
        unheard.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unheard.getsockname()[1]}")
        line = refused(tmp_path, {"path": "owner/name", "revision": COMMIT})
    assert "cannot be reached" in line and "let `path` name a local folder" in line
    assert f"snakemake {tmp_path}/results/models/base/manifest.json" in line


def test_addresses_with_signatures_are_not_told(tmp_path):
    request = {"repo_id": "owner/name", "repo_type": "model", "revision": COMMIT}
    error = OSError("broken at https://cdn/x?Signature=secret&Key=1 after a while")
    line = download.explain(error, request, tmp_path, "https://hub")
    assert "https://cdn/x after a while" in line and "secret" not in line


# --- what is broken off ---------------------------------------------------------------------------


def test_a_connection_that_breaks_goes_on_where_it_broke(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    hub.repositories["models/owner/name"] = MODEL
    hub.broken["model.safetensors"] = 4000
    args = arguments(tmp_path, {"path": "owner/name", "revision": COMMIT})
    download.main(args)
    assert (args.out / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.loads("model.safetensors") == [None, "bytes=4000-"]


def test_a_download_that_ended_early_goes_on_with_what_it_has_not(hub, tmp_path):
    hub.repositories["models/owner/name"] = MODEL
    hub.failing["model.safetensors"] = 404
    settings = {"path": "owner/name", "revision": COMMIT}
    assert "answers 404; run again later" in refused(tmp_path, settings)
    args = arguments(tmp_path, settings)
    # A killed run leaves more: a file that was begun.
    cache = next(args.work.rglob(".cache/huggingface/download"))
    (cache / "x.1234.incomplete").write_bytes(bytes(500))
    refused(tmp_path, settings)
    assert not list(cache.glob("*.incomplete"))
    hub.failing.clear()
    before = len(hub.asked)
    download.main(args)
    loads = [
        path.rsplit("/", 1)[1] for method, path, _ in hub.asked[before:] if method == "GET" and "/resolve/" in path
    ]
    assert "model.safetensors" in loads and len(loads) < len(ARRIVING)
    assert files_of(args.out) == ARRIVING | {"manifest.json", ".manifest.json", "provenance.json"}


# --- as the rule runs it --------------------------------------------------------------------------


def test_the_rule_downloads_where_snakemake_runs_and_keeps_no_token(hub, tmp_path):
    """Under the executor for SLURM, whose programs here say that there is a cluster: no job may be sent to it."""
    folder, programs = copy_of_the_repository(tmp_path / "copy"), tmp_path / "programs"
    programs.mkdir()
    said = {
        "sinfo": "echo 'main*|up|2|8000|(null)|infinite|(null)'",
        "scontrol": "echo 'AccountingStorageType = accounting_storage/slurmdbd'",
        "sbatch": f"touch {tmp_path}/sent; exit 1",
    }
    for program in ("sinfo", "scontrol", "sbatch", "squeue", "scancel", "sacct"):
        (programs / program).write_text(f"#!/bin/sh\n{said.get(program, '')}\n")
        (programs / program).chmod(0o755)
    hub.repositories["models/owner/name"] = MODEL
    hub.gated["models/owner/name"] = TOKEN
    large = f"models: {{large: {{path: owner/name, revision: '{COMMIT}'}}}}"
    (folder / "overlay.yaml").write_text(f"extends: workloads/fable.yaml\n{large}\n")
    out = "results/fable/download/models/large"
    command = ["snakemake", "--executor", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--jobs", "1"]
    command += ["--seconds-between-status-checks", "1", "--configfile", "overlay.yaml", "--"]
    environment = os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "home"),
    }
    for login, code in (({}, 1), ({"HF_TOKEN": TOKEN}, 0)):
        done = subprocess.run(
            [*command, f"{out}/manifest.json"], cwd=folder, env=environment | login, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        if code:
            assert "is gated; accept its licence at" in (folder / "logs/fable/download/models/large.log").read_text()
    assert not (tmp_path / "sent").exists()
    verify_manifest(folder / out)
    written = [file for file in folder.rglob("*") if file.is_file() and "tests" not in file.parts]
    assert not [file for file in written if TOKEN.encode() in file.read_bytes()]


# --- offline afterwards ---------------------------------------------------------------------------

# Steps with the settings of the embedded workload, one after the other in one process.
CHAIN = """
import json, runpy, sys
from pathlib import Path

import yaml

params, (model, rows, out) = yaml.safe_load(Path(sys.argv[1]).read_text()), sys.argv[2:]

def step(name, settings, *options):
    sys.argv = [name, "--settings", json.dumps(settings), *options, "--out", f"{out}/{name.split('.')[-1]}"]
    runpy.run_module(name, run_name="__main__")

sources = [{"path": rows, "format": "prompt_response", "columns": {"prompt": "question"}}]
step("steps.data.ingest", params["ingest"], "--sources", json.dumps(sources))
step("steps.data.split", params["split"] | {"valid_share": 0.3}, "--input", f"{out}/ingest/rows.jsonl")
train, valid = f"{out}/split/train.jsonl", f"{out}/split/valid.jsonl"
sft = params["sft"] | {"seed": 0, "epochs": 1, "saves": 0}
step("steps.recipes.sft", sft, "--parent", model, "--data", train, "--valid", valid, "--work", f"{out}/work")
difficulty = params["difficulty"] | {"engine": "transformers", "samples": 1, "max_new_tokens": 4}
step("steps.reinforcement.difficulty", difficulty, "--input", train, "--model", f"{out}/sft")
"""


def test_what_was_downloaded_trains_and_answers_without_a_socket(hub, tmp_path, small_checkpoint):
    """Ingest, split, fine-tune and sample, with no way to a network: each try would be written down, and refused."""
    hub.large = 100_000
    hub.repositories["models/owner/name"] = {file.name: file.read_bytes() for file in small_checkpoint.iterdir()}
    rows = [{"question": f"What is {i} + {i}?", "response": f"{i} + {i} = {2 * i}\n#### {2 * i}"} for i in range(40)]
    hub.repositories["datasets/owner/rows"] = {"rows.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()}
    model = arguments(tmp_path, {"path": "owner/name", "revision": COMMIT})
    source = {"path": "owner/rows/rows.jsonl", "revision": COMMIT, "format": "prompt_response"}
    data = arguments(tmp_path, {"sources": [source]}, "data")
    download.main(model)
    download.main(data)

    (tmp_path / "chain.py").write_text(CHAIN)
    log, out = tmp_path / "reached_out.txt", tmp_path / "chain"
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'tests/offline'}:{ROOT}",
        "TEMPER_OFFLINE_LOG": str(log),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    command = ["chain.py", "params.yaml", model.out, data.out / "owner/rows/rows.jsonl", out]
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not log.exists(), log.read_text()
    assert {file.name for file in (model.out).iterdir()} >= {"model.safetensors", "manifest.json"}
    for step in ("ingest", "split", "sft", "difficulty"):
        verify_manifest(out / step)


# --- an adapter whose base is named --------------------------------------------------------------


def test_a_local_adapter_gets_the_base_that_is_named_without_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": "someone/base", "r": 4}
    Path("theirs/adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    Path("theirs/adapter_model.safetensors").write_bytes(b"weights")
    Path("theirs/optimizer.pt").write_bytes(b"no")
    Path("data/base").mkdir(parents=True)
    Path("data/base/tokenizer.json").write_text("{}", encoding="utf-8")
    out = Path("results/mine/download/models/theirs")
    settings = {"path": "theirs", "base": "data/base"}

    def refused(*args, **kwargs):
        raise AssertionError("a socket")

    monkeypatch.setattr(socket.socket, "connect", refused)
    download.main(argparse.Namespace(settings=settings, work=Path("work/a"), out=out))
    made = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert made == config | {"base_model_name_or_path": "data/base"}
    assert (out / "adapter_model.safetensors").read_bytes() == b"weights" and not (out / "optimizer.pt").exists()
    # All of the folder, as it is compared later; and the tokenizer, which the adapter came without.
    theirs = {f"theirs/{name}" for name in ("adapter_config.json", "adapter_model.safetensors", "optimizer.pt")}
    assert {*verify_manifest(out)["inputs"]} == {*theirs, "data/base/tokenizer.json"}
    assert (out / "tokenizer.json").read_text(encoding="utf-8") == "{}"
    assert json.loads(Path("theirs/adapter_config.json").read_text(encoding="utf-8")) == config


def test_a_base_of_what_is_no_adapter_is_refused(tmp_path):
    (tmp_path / "model").mkdir()
    settings = {"path": str(tmp_path / "model"), "base": "data/base"}
    with pytest.raises(ValueError, match=r"has no adapter_config.json, so that `base` has no effect; remove it"):
        download.main(argparse.Namespace(settings=settings, work=tmp_path / "work", out=tmp_path / "out"))
