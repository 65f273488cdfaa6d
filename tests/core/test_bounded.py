"""A function that is not ours costs one call, whatever it does."""

import os
import time
from pathlib import Path

import pytest

from steps.core import bounded
from steps.core.bounded import Failed, Worker

SECONDS = 2.0
HOSTILE = """
import os, sys, threading, time
from pathlib import Path

started = []

def act(what, value):
    if what == "loop":
        while True: pass
    if what == "sleep":
        time.sleep(600)
    if what == "deaf":
        import signal
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGXCPU):
            signal.signal(number, signal.SIG_IGN)
        while True: pass
    if what == "c":
        return len(str(10 ** 9 ** 9))
    if what == "eat":
        eaten = bytearray(8 << 30)
    if what == "exit":
        sys.exit(0)
    if what == "end":
        os._exit(7)
    if what == "stack":
        return act(what, value)
    if what == "fork":
        os.fork()
        return float(value)
    if what == "orphan":
        if not (pid := os.fork()):
            Path(value).write_text(str(os.getpid()))
            while True: time.sleep(1)
        while True: pass
    if what == "print":
        print('[1, 5.0, null]'); sys.stdout.flush()
        print('[1, 5.0, null]', file=sys.stderr)
        return float(value)
    if what == "forge":
        for fd in range(3, 64):
            try: os.write(fd, b'[99, 5.0, null]\\n' * 2)
            except OSError: pass
    if what == "flood":
        for fd in range(3, 64):
            try: os.write(fd, b'x' * 10**6)
            except OSError: pass
    if what == "long":
        raise ValueError("x" * 10**7)
    if what == "raise":
        raise KeyError("no\\nsuch")
    if what == "nan":
        return float("nan")
    if what == "huge":
        return 10 ** 400
    if what == "text":
        return "1.0"
    if what == "float32":
        return 1e39
    if what == "address":
        raise ValueError(f"{object()} and {act}")
    if what == "mute":
        class Mute(Exception):
            def __str__(self): raise self
        raise Mute
    if what == "terminal":
        raise ValueError("\\x1b[31m red \\u202e back \\ud800 half")
    if what == "parent":
        import signal
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getppid(), number)
        return float(value)
    if what in ("session", "daemon"):
        if not os.fork():
            os.setsid()
            if what == "daemon" and os.fork(): os._exit(0)
            Path(value).write_text(str(os.getpid()))
            while True: time.sleep(1)
        while not Path(value).exists() or not Path(value).read_text(): time.sleep(0.01)
        return 1.0
    if what == "thread":
        Path(value).write_text(str(os.getpid()))
        threading.Thread(target=time.sleep, args=(600,)).start()
        return 1.0
    if what == "drip":
        import socket
        line = socket.socket(fileno=os.dup(int(sys.argv[1])))
        while True:
            line.send(b" ")
            time.sleep(0.001)
    return float(value)
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    path = tmp_path_factory.mktemp("bounded") / "hostile.py"
    path.write_text(HOSTILE)
    worker = Worker(path, SECONDS)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("loop", "no result after 2 s"),
        ("sleep", "no result after 2 s"),
        ("deaf", "no result after 2 s"),
        ("c", "no result after 2 s"),
        ("eat", "MemoryError"),
        ("exit", "SystemExit: 0"),
        ("end", "ended with exit code 7"),
        ("stack", "RecursionError"),
        ("forge", "it wrote into the socket"),
        ("flood", "it wrote into the socket"),
        ("long", "ValueError: xxx"),
        ("raise", "KeyError: 'no"),
        ("nan", "returned nan, which is no finite number"),
        ("huge", "OverflowError"),
        ("text", "returned '1.0', which is no finite number"),
        ("float32", "returned 1e[+]39, which is no finite number of float32"),
        ("address", "^ValueError: <object object> and <function act>$"),
        ("mute", "^Mute: it cannot say what it is$"),
        ("terminal", r"^ValueError: ⟨U\+001B⟩\[31m red ⟨U\+202E⟩ back ⟨U\+D800⟩ half$"),
        ("drip", "no result after 2 s"),
    ],
)
def test_a_call_that_fails_is_one_line_in_time_and_the_next_one_works(worker, what, error):
    assert worker.call("act", "", "1") == 1.0
    began = time.monotonic()
    with pytest.raises(Failed, match=error) as failed:
        worker.call("act", what, "5")
    assert time.monotonic() - began < SECONDS + 10  # on a busy machine too
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 500
    assert worker.call("act", "", "2") == 2.0


@pytest.mark.parametrize("what", ["fork", "print", "parent"])
def test_what_else_a_call_does_changes_no_result(worker, what):
    assert [worker.call("act", what, str(i)) for i in range(3)] == [0.0, 1.0, 2.0]
    assert worker.call("act", "", "7") == 7.0


def test_what_a_call_started_ends_with_it(worker, tmp_path):
    with pytest.raises(Failed, match="no result"):
        worker.call("act", "orphan", str(tmp_path / "pid"))
    orphan = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while alive(orphan) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(orphan)


@pytest.mark.parametrize("what", ["session", "daemon", "thread"])
def test_what_a_call_left_running_ends_with_the_worker(worker, tmp_path, what):
    assert worker.call("act", what, str(tmp_path / "pid")) == 1.0
    left = int((tmp_path / "pid").read_text())
    assert alive(left)
    worker.close()
    assert not alive(left)


def test_a_file_that_ends_as_it_is_loaded_says_the_same_each_time(tmp_path):
    path = tmp_path / "ends.py"
    path.write_text("import sys\nsys.exit(3)")
    worker = Worker(path, SECONDS)
    for _ in range(3):
        with pytest.raises(Failed, match="^SystemExit: 3$"):
            worker.call("act")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_file_that_does_not_run_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "LOAD_SECONDS", 1.0)
    path = tmp_path / "slow.py"
    path.write_text("while True: pass")
    with pytest.raises(Failed, match="no result after 1 s"):
        Worker(path, SECONDS).start()


@pytest.mark.parametrize("act", ["while True: pass", "threading.Thread(target=time.sleep, args=(600,)).start()"])
def test_the_child_ends_with_its_parent(tmp_path, act):
    """Killed as the trainer may be: nothing is left to end it."""
    import signal
    import subprocess
    import sys

    path = tmp_path / "hang.py"
    path.write_text(
        "import os, threading, time\nfrom pathlib import Path\n"
        f"def hang():\n    Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid()))\n    {act}\n    return 1\n"
    )
    code = (
        f"from pathlib import Path; from steps.core.bounded import Worker; worker = Worker(Path({str(path)!r}), 60)\n"
        "worker.call('hang')\nwhile True: pass"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    child, until = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while alive(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not alive(child)
