"""Runs of Snakemake whose steps are forks of one process that has imported the libraries."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


@contextlib.contextmanager
def warm(environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """What such a run has in its environment besides, while the server lives.

    Args:
        environment: of the server, whose libraries read some of it as they are imported.
    """
    # Short: the path of a socket has at most 107 characters.
    address = f"/tmp/temper-warm-{os.getpid()}-{time.monotonic_ns()}"
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"), "1")
    server = subprocess.Popen(
        [sys.executable, HERE / "server.py", address], env=environment | offline | {"PYTHONDONTWRITEBYTECODE": "1"}
    )
    try:
        while not os.path.exists(address):
            assert server.poll() is None, "the server of warm steps has ended"
            time.sleep(0.1)
        path = f"{HERE}:{environment['PATH']}"
        yield {"PATH": path, "TEMPER_PYTHON": sys.executable, "TEMPER_WARM": address}
    finally:
        server.kill()
        server.wait()
        Path(address).unlink(missing_ok=True)
