"""Whoever keeps a process ends as it did, and leaves nothing of it, wherever that has gone."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.core import keeper
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


def test_it_ends_all_when_nobody_listens(tmp_path):
    child, line = kept(SCATTERED.format(count=3) + "    time.sleep(600)", tmp_path)
    while len(os.listdir(tmp_path)) < 3:
        time.sleep(0.01)
    found = keeper.descendants(child.pid)
    assert {int(name) for name in os.listdir(tmp_path)} < {*found}
    line.close()
    assert child.wait(60) == 0 and not any(map(alive, found))
