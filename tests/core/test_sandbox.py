"""Programs that are not ours can do nothing, and cost at most their limits."""

import os
import time

import pytest

from steps.core import sandbox

pytestmark = pytest.mark.skipif(bool(sandbox.refusal()), reason=sandbox.refusal())

REFUSED = {
    "a socket": "import socket; socket.socket()",
    "a pair of sockets": "import socket; socket.socketpair()",
    "a file": "open({own!r} + '/new', 'w')",
    "a file of its own": "import tempfile; tempfile.TemporaryFile()",
    "a file that is there": "open({own!r} + '/kept', 'r+')",
    "what a file says": "open({own!r} + '/kept').read()",
    "names of files": "import os; os.listdir({own!r})",
    "the end of a file": "import os; os.unlink({own!r} + '/kept')",
    "a folder": "import os; os.mkdir({own!r} + '/new')",
    "another name": "import os; os.rename({own!r} + '/kept', {own!r} + '/new')",
    "a link": "import os; os.symlink('/', {own!r} + '/new')",
    "a shell": "import os; assert os.system('true') == 0",
    "a program": "import subprocess; subprocess.run(['true'])",
    "a fork": "import os; os.fork()",
    "forks without end": "import os\nwhile True: os.fork()",
    "a thread": "import threading; threading.Thread(target=print).start()",
    "a process of Python's": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "the end of its parent": "import os; os.kill(os.getppid(), 9)",
    "the end of everybody": "import os; os.kill(-1, 9)",
    "a signal by the kernel": "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "another signal by the kernel": "import fcntl, os; fcntl.fcntl(os.pipe()[0], 10, 9)",
    "the kernel's memory": "import os\nwhile True: os.pipe()",
    "a larger pipe": "import fcntl, os; fcntl.fcntl(os.pipe()[1], 1031, 1 << 20)",
    "keys of a terminal": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "what its parent has in memory": "import os; open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "its own memory, as a file": "open('/proc/self/mem', 'r+b')",
    "our keys": "open('/proc/self/environ').read()",
    "another limit": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "memory": "bytearray(4 << 30)",
    "a file in memory": "import os; os.memfd_create('x')",
    "depth": "def f(): f()\nf()",
}


@pytest.mark.parametrize("wanted", REFUSED)
def test_a_program_gets_nothing(wanted, tmp_path):
    (tmp_path / "kept").write_text("a secret")
    program = REFUSED[wanted].format(own=str(tmp_path)).replace("\n", "\n    ")
    handled = "except BaseException as error:\n    print(type(error).__name__)\nelse:\n    print('got it')"
    program = f"try:\n    {program}\n{handled}"
    ((said, problem),) = sandbox.run(program, [{"stdin": ""}])
    assert problem or said.strip() in (
        "PermissionError", "RuntimeError", "MemoryError", "RecursionError", "ValueError", "AssertionError",
        "FileNotFoundError", "OSError",
    ), said  # fmt: skip
    assert "got it" not in said and [one.name for one in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "a secret"


def test_nothing_of_ours_is_in_its_environment(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "abc")
    ((said, _),) = sandbox.run("import os; print(sorted(os.environ), os.getcwd(), os.read(0, 9))", [{"stdin": "given"}])
    assert "TOKEN" not in said and said.endswith("/ b'given'\n")


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("while True: pass", "it computes too long"),
        ("import signal; signal.signal(24, signal.SIG_IGN)\nwhile True: pass", "it computes too long"),
        ("import time; time.sleep(60)", "it takes longer than 2 s"),
        ("import os; os.close(1); os.close(2)\nimport time; time.sleep(60)", "it takes longer than 2 s"),
        ("while True: print('x' * 10**6)", "it says more than 256 KiB"),
        ("x = [0] * 10**10", "it takes too much memory"),
        ("1 / 0", "it raises an error"),
        ("raise SystemExit('no')", "it raises an error"),
        ("(", "it raises an error"),
        ("import os; os._exit(7)", "it ends with 7"),
        ("x = " + "[" * 5000, "it raises an error"),
    ],
)  # fmt: skip
def test_a_hostile_program_costs_its_limits(program, problem, monkeypatch, tmp_path):
    shorter = tmp_path / "sandbox.py"
    text = open(sandbox.__file__).read()
    shorter.write_text(
        text.replace("RUN, WALL = 4, 8.0\nRUNS, WALLS = 10.0, 20.0\n", "RUN, WALL = 1, 2.0\nRUNS, WALLS = 2.0, 3.0\n")
    )
    monkeypatch.setattr(sandbox, "__file__", str(shorter))
    before, began = len(os.listdir("/proc/self/fd")), time.monotonic()
    ran = sandbox.run(program, [{"stdin": ""}] * 3)
    assert len(ran) == 1 and (ran[0].problem == problem or (ran[0].problem and problem == "it computes too long"))
    assert time.monotonic() - began < 10 and len(os.listdir("/proc/self/fd")) == before


def test_many_runs_that_sleep_cost_one_limit(monkeypatch, tmp_path):
    shorter = tmp_path / "sandbox.py"
    shorter.write_text(open(sandbox.__file__).read().replace("RUNS, WALLS = 10.0, 20.0\n", "RUNS, WALLS = 10.0, 1.5\n"))
    monkeypatch.setattr(sandbox, "__file__", str(shorter))
    ran = sandbox.run("import time; time.sleep(0.5)", [{"stdin": ""}] * 24)
    assert len(ran) < 5 and ran[-1].problem == "its runs take longer than 1.5 s"


def test_a_program_is_a_module_of_its_own():
    program = "import pickle, sys, typing\nclass A:\n    x: 'A'\ndef f(): return pickle.loads(pickle.dumps(A)) is A"
    program += " and typing.get_type_hints(A)['x'] is A\nif __name__ == '__main__': print(input())"
    assert sandbox.value(sandbox.run(program, [{"value": "f()"}])[0].said) is True
    assert sandbox.run(program + "\nprint(f())", [{"stdin": "a"}]) == [("a\nTrue\n", "")]


def test_runs_do_not_know_of_each_other():
    program = "import builtins\nbuiltins.n = getattr(builtins, 'n', 0) + 1\ndef f(): return n"
    assert [sandbox.value(one.said) for one in sandbox.run(program, [{"value": "f()"}] * 3)] == [1, 1, 1]


def test_values_come_back_as_they_are():
    values = [None, True, 3, -2.5, "é\n", [1, [2]], (1, (2,)), {3, 4}, {"a": (1,), 2: None}, float("inf"), 10**100]
    values += [1 - 2j, b"\x00\xff"]
    ran = sandbox.run("from math import inf\nx = " + repr(values), [{"value": f"x[{i}]"} for i in range(len(values))])
    assert [sandbox.value(one.said) for one in ran] == values
    assert [type(sandbox.value(one.said)) for one in ran[5:8]] == [list, tuple, frozenset]


@pytest.mark.parametrize(
    "said", ["", "[", '["object", []]', '["set", [["list", []]]]', "[1]", "[" * 100_000, '["dict", 1]']
)
def test_what_is_no_value_is_said(said):
    with pytest.raises(ValueError):
        sandbox.value(said)


def test_what_it_prints_is_no_value():
    ran = sandbox.run("import os\nprint('[1]')\nos.write(1, b'1')\ndef f(): print(2); return 3", [{"value": "f()"}])
    assert sandbox.value(ran[0].said) == 3


def test_where_limits_are_not_known_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox.platform, "machine", lambda: "riscv64")
    assert "x86-64" in sandbox.refusal()
    with pytest.raises(AssertionError):
        sandbox.run("", [])
