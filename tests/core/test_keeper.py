"""Whoever keeps a process ends as it did, and leaves nothing of it, wherever that has gone."""

import contextlib
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.core import keeper
from steps.core.bounded import Worker
from tests.core.test_bounded import alive

KEPT = """
import mmap, os, signal, socket, sys, time
from pathlib import Path
from steps.core import keeper

keeper.LOOK, keeper.MOST_PROCESSES = 0.1, 8

def act():
    {act}

line = socket.socket(fileno=int(sys.argv[1]))
keeper.keep(act, line, 64 << 20)
"""
# Sessions of their own, whose parents have ended: (how many, what they write down).
SCATTERED = """
    for i in range({count}):
        if not os.fork():
            os.setsid()
            if not os.fork():
                Path(sys.argv[2], str(os.getpid())).touch()
                time.sleep(600)
            os._exit(0)
    while len(os.listdir(sys.argv[2])) < {count}: time.sleep(0.01)
"""


def kept(act: str, folder: Path) -> tuple[subprocess.Popen, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-c", KEPT.format(act=act.strip()), str(theirs.fileno()), str(folder)]
        return subprocess.Popen(command, pass_fds=[theirs.fileno()]), ours


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("pass", 0),
        ("os._exit(7)", 7),
        ("sys.exit(7)", 1),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("room = mmap.mmap(-1, 256 << 20); room.write(bytes(256 << 20)); time.sleep(600)", keeper.TOO_LARGE),
        ("[os.fork() for _ in range(4)]; time.sleep(600)", keeper.TOO_MANY),
        (SCATTERED.format(count=3), 0),
        (SCATTERED.format(count=9) + "    time.sleep(600)", keeper.TOO_MANY),
    ],
)
def test_it_ends_as_its_process_does_and_leaves_nothing(act, code, tmp_path):
    child, line = kept(act, tmp_path)
    with line:
        assert child.wait(60) == code
    assert not any(alive(int(name)) for name in os.listdir(tmp_path))


BOMBED = """
import os, sys, time
from pathlib import Path
from steps.core.bounded import Failed, Worker

assert Path("/proc/sys/kernel/pid_max").write_text("3000")
began = time.monotonic()
try:
    Worker(Path(sys.argv[1]), 30.0).call("reward")
except Failed as failed:
    print(failed)
time.sleep(0.5)
print(time.monotonic() - began < 20, sum(name.isdigit() for name in os.listdir("/proc")) < 9)
"""


def numbers_apart() -> bool:
    """Whether the processes of a namespace can be numbered up to another number than the system's: from Linux 6.14 on,
    and for root."""
    version = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])
    tried = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return sys.platform == "linux" and version >= (6, 14) and subprocess.run(tried, capture_output=True).returncode == 0


@pytest.mark.skipif(not numbers_apart(), reason="a machine of its own is needed: root, and Linux 6.14")
@pytest.mark.parametrize("bomb", ["while True: os.fork()", "while True: os.fork() or os.setsid()"])
def test_one_that_forks_without_end_is_ended(bomb, tmp_path):
    """Where no more than 3,000 processes fit, so that the machine lives on whatever comes of it."""
    (tmp_path / "bomb.py").write_text(f"import os\n\ndef reward():\n    {bomb}\n")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", BOMBED, str(tmp_path / "bomb.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["it has more than 512 processes", "True True"], done.stdout + done.stderr


def test_the_kernel_bounds_what_it_may_start(tmp_path):
    (tmp_path / "told.py").write_text(
        "import resource\n\ndef reward():\n    return resource.getrlimit(resource.RLIMIT_NPROC)[0]\n"
    )
    with contextlib.closing(Worker(tmp_path / "told.py", 30.0)) as worker:
        most = worker.call("reward")
    own = sum(len(os.listdir(f"/proc/{name}/task")) for name in os.listdir("/proc") if name == str(os.getpid()))
    everybody = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    assert own + 2 * keeper.MOST_PROCESSES <= most <= 2 * everybody + 2 * keeper.MOST_PROCESSES


def test_it_ends_all_when_nobody_listens(tmp_path):
    child, line = kept(SCATTERED.format(count=3) + "    time.sleep(600)", tmp_path)
    while len(os.listdir(tmp_path)) < 3:
        time.sleep(0.01)
    found = keeper.descendants(child.pid)
    assert {int(name) for name in os.listdir(tmp_path)} < {*found}
    line.close()
    assert child.wait(60) == 0 and not any(map(alive, found))
