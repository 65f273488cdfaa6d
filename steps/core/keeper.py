"""The end of a process of code that is not ours, with all that it started.

A process that starts a session of its own leaves its group, and one whose parent has ended loses its family: neither
its group nor its parents find it. Linux gives orphans to the next ancestor that asks for them (`PR_SET_CHILD_SUBREAPER`
of prctl(2)): the keeper does, and so has all of them among its descendants for as long as it lives. It ends them when
the process has ended, when nobody listens at the other end of its line any more, and when together they take too much.
Where there is no prctl, as on macOS, orphans escape.

One that forks without end is the kernel's to stop, by `RLIMIT_NPROC`, but for root, whom no limit holds. There its
keeper has to be faster: it runs before all others (`SCHED_FIFO`), hears of new processes `TICK` seconds after they are
made, and ends a group in one call.
"""

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

# Of Linux's prctl: the signal that a process gets when its parent ends; whether a process is given orphans.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
# Processes that one may start, at a time, and the exit codes that say that it took more of them, or of memory.
MOST_PROCESSES = 512
TOO_MANY, TOO_LARGE = 121, 122
# Seconds between two looks, between two at how many processes the system has, and within which all are ended.
LOOK, TICK, END = 1.0, 0.02, 10.0
_OWN = re.compile(r"^Pss_(?:Anon|Shmem): +(\d+) kB", re.MULTILINE)


def keep(act: Callable[[], None], line: socket.socket, memory: int) -> NoReturn:
    """Run a function in a process of its own and be its keeper; this process then ends as that one did.

    Args:
        line: whose other end asks for what the function does.
        memory: bytes that its processes may take together, shared memory too: seen every `LOOK` seconds.
    """
    own = os.getpid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    pid = os.fork()
    if pid == 0:
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setpgid(0, 0)
        code = 1
        with contextlib.suppress(BaseException):
            _limit_processes()
            if os.getppid() == own:
                act()
            code = 0
        # Not by the interpreter: it would wait for threads, and run what is left for its end.
        os._exit(code)
    # What the process sends to its parent is no word of the trainer's.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    code = _watch(pid, line, memory)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    end(own)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(own, -code)
    os._exit(code)


def _watch(pid: int, line: socket.socket, memory: int) -> int:
    """Wait for the end of a process, or for the reason to end it; how it ended, as subprocess has it."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(line, getattr(select, "POLLRDHUP", select.POLLHUP))
    looked, before = time.monotonic(), _tasks()
    while True:
        for number, _ in poll.poll(1000 * min(LOOK, TICK)):
            if number != woken:
                return 0
            os.read(woken, 512)
        if (ended := _reaped().get(pid)) is not None:
            return ended
        many = (tasks := _tasks()) > before + MOST_PROCESSES
        if many or time.monotonic() - looked >= LOOK:
            before = tasks
            found = descendants(os.getpid())
            if len(found) > MOST_PROCESSES:
                return TOO_MANY
            if sum(map(_memory, found)) > memory:
                return TOO_LARGE
            looked = time.monotonic()


def _reaped() -> dict[int, int]:
    """The children that have ended, orphans among them, and how."""
    found = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    return found


def end(pid: int) -> None:
    """Kill all that a process has started."""
    until = time.monotonic() + END
    while (found := descendants(pid)) and time.monotonic() < until:
        for one in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGKILL)
        _reaped()


def _limit_processes() -> None:
    """Let this process, and what it starts, add so many processes and threads to those that its user has."""
    uid, own = os.getuid(), 0
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                own += len(os.listdir(f"/proc/{entry}/task"))
    most = own + 2 * MOST_PROCESSES
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    if own and (hard == resource.RLIM_INFINITY or most < hard):
        resource.setrlimit(resource.RLIMIT_NPROC, (most, most))


def _tasks() -> int:
    """Processes and threads of the whole system; 0 where it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return 0


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, directly or not, and the orphans that it was given."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        # One that ends meanwhile has no more to say.
        with contextlib.suppress(OSError, ValueError):
            parent = Path("/proc", str(int(entry)), "stat").read_text(errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(entry))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


def _memory(pid: int) -> int:
    """Bytes of a process that no file has; what several share is divided among them."""
    with contextlib.suppress(OSError):
        return 1024 * sum(map(int, _OWN.findall(Path(f"/proc/{pid}/smaps_rollup").read_text())))
    return 0


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(option, value)
