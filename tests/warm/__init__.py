"""Runs of Snakemake and DVC that are forks of one process that has imported the libraries, as are their steps."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ADDRESS = "TEMPER_WARM"


@contextlib.contextmanager
def server(environment: dict[str, str]) -> Iterator[str]:
    """Its address, while it lives.

    Args:
        environment: of the server, whose libraries read some of it as they are imported.
    """
    # Short: the path of a socket has at most 107 characters.
    address = f"/tmp/temper-warm-{os.getpid()}-{time.monotonic_ns()}"
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"), "1")
    process = subprocess.Popen(
        [sys.executable, HERE / "server.py", address], env=environment | offline | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    try:
        while not os.path.exists(address):
            assert process.poll() is None, "the server of warm steps has ended"
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()
        Path(address).unlink(missing_ok=True)


@contextlib.contextmanager
def warm(address: str) -> Iterator[None]:
    """Runs that begin in here fork their steps from the server at this address."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        del os.environ[ADDRESS]
        if before:
            os.environ[ADDRESS] = before


def variables(path: str, *kinds: str) -> dict[str, str]:
    """What a run has in its environment for that, where it is asked for: of `steps` and `programs`, which are forks.

    A program that is a fork is no child of the process that starts it: who kills a run of Snakemake with its steps
    leaves it as it is.
    """
    if ADDRESS not in os.environ:
        return {}
    path = ":".join([*(str(HERE / kind) for kind in kinds), path])
    return {"PATH": path, "TEMPER_PYTHON": sys.executable, "TEMPER_CLIENT": str(HERE / "client.py")}
