"""Programs that a model wrote, run on what they are given, with nothing else: no file, no network, no other process.

`run` starts this file as a program. That forks a process for each run, which gives up before the program's first line
all that it will not need: by seccomp(2) sockets, processes and threads, signals, and every call that writes a file or
changes the system; by Landlock, where the kernel has it, the files to read but those of Python; by limits the time that
it computes and its memory. What a program should answer is nowhere in these processes: all that they say is compared by
who asked.

Linux on x86-64 alone lets a process give up all of that: elsewhere nothing is run.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

# Seconds that one run may compute, that it may take in all, and the same of all runs of a program together.
RUN, WALL = 4, 8.0
RUNS, WALLS = 10.0, 20.0
# Bytes: of addresses, and of what a run may say.
MEMORY, OUTPUT = 1 << 30, 1 << 18
# Files that a run may have open: each pipe holds memory that is not its own.
OPEN = 64
# Values within values of an answer.
DEEPEST = 50


class Failed(Exception):
    """That nobody can tell what a program does: what ran it has ended itself."""


class Ran(NamedTuple):
    """What came of a run.

    Attributes:
        said: what it printed, or the value as JSON (see `value`).
        problem: why it came to no good end; "" where it did.
    """

    said: str
    problem: str


def refusal() -> str:
    """Why nothing can be run here; "" where it can."""
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return ""
    return "programs are only run on Linux on x86-64, whose limits are known"


def run(program: str, runs: Sequence[dict]) -> list[Ran]:
    """Run a program so many times, up to the first run that comes to no good end.

    Args:
        runs: {"stdin": text}, for what it prints, or {"value": expression} of what it defines, for its value.

    Raises:
        Failed: it cannot be told.
    """
    assert not refusal()
    try:
        process = subprocess.run(
            [sys.executable, "-s", "-P", "-B", "-X", "utf8", __file__],
            input=json.dumps({"program": program, "runs": [*runs]}).encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing of ours, such as keys; with sets in one order.
            env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
            timeout=2 * WALLS,
            check=True,
        )
        return [Ran(*one) for one in json.loads(process.stdout)]
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        raise Failed(type(error).__name__) from None


def value(said: str) -> Any:
    """The value of a run.

    Raises:
        ValueError: it is none that JSON can have, with tuples and sets.
    """
    try:
        return _value(json.loads(said))
    except (RecursionError, TypeError) as error:
        raise ValueError(f"no value ({type(error).__name__})") from None


def _value(told: Any) -> Any:
    if not isinstance(told, list):
        return told
    kind, parts = told
    if kind == "dict":
        return {_value(key): _value(one) for key, one in parts}
    makes: dict[str, Callable] = {"list": list, "tuple": tuple, "set": frozenset, "bytes": bytes}
    makes["complex"] = lambda two: complex(*two)
    if kind not in makes:
        raise ValueError(f"a value of type {kind!s:.40}")
    return makes[kind](map(_value, parts))


# --- in the process that forks -------------------------------------------------------------------


def _main() -> None:
    request = json.load(sys.stdin.buffer)
    ran, left, until = [], RUNS, time.monotonic() + WALLS
    for asked in request["runs"]:
        said, problem, took = _forked(request["program"], asked, left, until)
        ran.append((said, problem))
        left -= took
        if problem:
            break
    sys.stdout.write(json.dumps(ran))


def _forked(program: str, asked: dict, left: float, end: float) -> tuple[str, str, float]:
    """What a run said, its problem, and the seconds that it computed."""
    reading, writing = os.pipe()
    until = min(time.monotonic() + WALL, end)
    slow = f"it takes longer than {WALL:g} s" if until < end else f"its runs take longer than {WALLS:g} s"
    pid = os.fork()
    if pid == 0:
        code = 1
        with contextlib.suppress(BaseException):
            _prepare(asked, writing, max(1, min(RUN, int(left + 0.999))))
            code = _execute(program, asked)
        # Not by the interpreter, which the program may have changed.
        os._exit(code)
    os.close(writing)
    said, problem = b"", ""
    while not problem:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        part = os.read(reading, 1 << 16) if ready else b""
        said += part
        if not ready:
            problem = slow
        elif len(said) > OUTPUT:
            problem = f"it says more than {OUTPUT >> 10} KiB"
        elif not part:
            break
    if problem or not _ends(pid, until):
        problem = problem or slow
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    _, status, usage = os.wait4(pid, 0)
    ended = os.waitstatus_to_exitcode(status)
    if not problem and ended:
        problem = _ENDINGS.get(ended, f"it ends with {ended}")
    return said.decode(errors="replace"), problem, usage.ru_utime + usage.ru_stime


def _ends(pid: int, until: float) -> bool:
    """Whether a process that says no more ends in time; it is not waited for yet."""
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() > until:
            return False
        time.sleep(0.001)
    return True


# --- in a fork -----------------------------------------------------------------------------------

_TOO_LARGE = 121
_ENDINGS = dict.fromkeys((-signal.SIGKILL, -signal.SIGXCPU), "it computes too long") | {
    1: "it raises an error",
    _TOO_LARGE: "it takes too much memory",
}
# Where a value is written to.
_RESULT = 3


def _prepare(asked: dict, writing: int, seconds: int) -> None:
    given = os.memfd_create("given")
    os.write(given, asked.get("stdin", "").encode(errors="replace"))
    os.lseek(given, 0, os.SEEK_SET)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.set_inheritable(writing, True)
    writing = os.dup(writing) if writing < 10 else writing
    high = [os.dup2(fd, 64 + i) for i, fd in enumerate((given, writing, nowhere))]
    os.dup2(high[0], 0)
    os.dup2(high[1] if "stdin" in asked else high[2], 1)
    os.dup2(high[2], 2)
    os.dup2(high[1] if "value" in asked else high[2], _RESULT)
    os.closerange(_RESULT + 1, 4096)
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)
    for limit, most in (
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, OPEN),
    ):
        resource.setrlimit(limit, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "prctl")
    _read_python_only(libc)
    _filter(libc)


def _execute(program: str, asked: dict) -> int:
    # What a script does when it is started is no part of what it defines.
    module = ModuleType("__main__" if "stdin" in asked else "answer")
    sys.modules[module.__name__] = module
    defined = vars(module)
    try:
        exec(compile(program, "answer.py", "exec"), defined)
        if "value" in asked:
            found = eval(compile(asked["value"], "test.py", "eval"), defined)
            said = json.dumps(_told(found, DEEPEST)).encode()
            while said:
                said = said[os.write(_RESULT, said) :]
        _flush()
    except SystemExit as ended:
        _flush()
        return 0 if ended.code in (None, 0) and "stdin" in asked else 1
    except MemoryError:
        return _TOO_LARGE
    return 0


def _flush() -> None:
    for stream in (sys.stdout, sys.__stdout__):
        if stream:
            stream.flush()


def _told(found: Any, depth: int) -> Any:
    """A value as JSON: [type, parts] of what has parts; of any other its type."""
    if found is None or isinstance(found, bool | int | float | str):
        return found
    if not depth:
        raise RecursionError
    if getattr(found, "shape", None) == ():
        # A number of NumPy.
        return _told(found.item(), depth - 1)
    if isinstance(found, complex):
        return ["complex", [found.real, found.imag]]
    if isinstance(found, bytes | bytearray):
        return ["bytes", [*found]]
    if isinstance(found, dict):
        return ["dict", [[_told(key, depth - 1), _told(one, depth - 1)] for key, one in found.items()]]
    for kind in (list, tuple, set, frozenset):
        if isinstance(found, kind):
            return ["set" if kind is frozenset else kind.__name__, [_told(one, depth - 1) for one in found]]
    return [type(found).__name__, []]


# Landlock's calls, which all machines number alike, and what a rule may allow: to execute, to read files and folders.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ALL, _READ = (1 << 13) - 1, 1 | 1 << 2 | 1 << 3
_READABLE = (
    "/usr/lib",
    "/usr/lib64",
    "/usr/share/zoneinfo",
    "/lib",
    "/lib64",
    "/dev/null",
    "/dev/zero",
    "/dev/urandom",
)


def _read_python_only(libc: ctypes.CDLL) -> None:
    """Allow what Python reads and no other file, where the kernel has Landlock."""
    handled = struct.pack("Q", _ALL)
    rules = libc.syscall(_CREATE, handled, len(handled), 0)
    if rules < 0:
        return
    for path in {sys.prefix, sys.base_prefix, *_READABLE}:
        with contextlib.suppress(OSError):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ if os.path.isdir(path) else 1 << 2
            libc.syscall(_ADD, rules, 1, struct.pack("=Qi", allowed, folder), 0)
            os.close(folder)
    if libc.syscall(_RESTRICT, rules, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(rules)


# Calls of x86-64 that a program is refused: to talk; to start or steer processes; to raise limits; to write files; to
# change the system.
_REFUSED = """
socket 41 connect 42 accept 43 bind 49 listen 50 socketpair 53 accept4 288 mq_open 240 mq_unlink 241 msgget 68
msgsnd 69 msgrcv 70 msgctl 71 shmget 29 shmat 30 shmctl 31 semget 64 semop 65 semctl 66 semtimedop 220
clone 56 fork 57 vfork 58 execve 59 execveat 322 clone3 435 kill 62 tkill 200 tgkill 234 ptrace 101 rt_sigqueueinfo 129
rt_tgsigqueueinfo 297 process_vm_readv 310 process_vm_writev 311 pidfd_send_signal 424 pidfd_open 434 pidfd_getfd 438
process_madvise 440 process_mrelease 448 migrate_pages 256 move_pages 279 sched_setparam 142
setrlimit 160 prlimit64 302 setpriority 141 sched_setscheduler 144 sched_setaffinity 203 ioprio_set 251
sched_setattr 314
creat 85 truncate 76 rename 82 mkdir 83 rmdir 84 link 86 unlink 87 symlink 88 chmod 90 fchmod 91 chown 92 fchown 93
lchown 94 utime 132 mknod 133 utimes 235 mkdirat 258 mknodat 259 fchownat 260 futimesat 261 unlinkat 263 renameat 264
linkat 265 symlinkat 266 fchmodat 268 utimensat 280 fallocate 285 renameat2 316 memfd_create 319 openat2 437
fchmodat2 452 setxattr 188 lsetxattr 189 fsetxattr 190 removexattr 197 lremovexattr 198 fremovexattr 199
open_by_handle_at 304 setxattrat 463 removexattrat 466
sync 162 syncfs 306 io_setup 206 io_submit 209
adjtimex 159 vhangup 153 syslog 103 personality 135 pivot_root 155 chroot 161 acct 163 settimeofday 164 mount 165
umount2 166 swapon 167 swapoff 168 reboot 169 sethostname 170 setdomainname 171 iopl 172 ioperm 173 init_module 175
delete_module 176 quotactl 179 clock_settime 227 kexec_load 246 add_key 248 request_key 249 keyctl 250 unshare 272
perf_event_open 298 fanotify_init 300 clock_adjtime 305 setns 308 finit_module 313 kexec_file_load 320 bpf 321
userfaultfd 323 io_uring_setup 425 io_uring_enter 426 io_uring_register 427 open_tree 428 move_mount 429 fsopen 430
fsconfig 431 fsmount 432 fspick 433 mount_setattr 442 quotactl_fd 443
"""
# Of open and openat: the place of their flags among the arguments, and the flags that write.
_OPENS, _WRITES = {2: 1, 257: 2}, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Of fcntl the commands that are refused: F_SETOWN, F_SETSIG and F_SETOWN_EX, by which the kernel sends any process of
# the user a signal, a fatal one too; F_SETLEASE, F_NOTIFY and F_SETPIPE_SZ. Of ioctl those that are allowed: TCGETS,
# TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX.
_FCNTL, _FCNTL_REFUSED = 72, (8, 10, 15, 1024, 1026, 1031)
_IOCTL, _IOCTL_ALLOWED = 16, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_ARCHITECTURE, _FOREIGN = 0xC000003E, 0x40000000
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050001, 0x80000000


def _filter(libc: ctypes.CDLL) -> None:
    """Refuse calls, for good, by a program of the kernel's packet filter (seccomp(2))."""
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    steps: list[tuple[int, int, int, int]] = [
        (load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURE), (give, 0, 0, _KILL),
        (load, 0, 0, 0), (at_least, 0, 1, _FOREIGN), (give, 0, 0, _KILL),
    ]  # fmt: skip
    for number in map(int, _REFUSED.split()[1::2]):
        steps += [(equal, 0, 1, number), (give, 0, 0, _DENY)]
    for number, place in _OPENS.items():
        steps += [(equal, 0, 4, number), (load, 0, 0, 16 + 8 * place), (any_bit, 0, 1, _WRITES), (give, 0, 0, _DENY)]
        steps += [(give, 0, 0, _ALLOW)]
    for number, commands, named, other in (
        (_FCNTL, _FCNTL_REFUSED, _DENY, _ALLOW),
        (_IOCTL, _IOCTL_ALLOWED, _ALLOW, _DENY),
    ):
        steps += [(equal, 0, 2 * len(commands) + 2, number), (load, 0, 0, 16 + 8)]
        for command in commands:
            steps += [(equal, 0, 1, command), (give, 0, 0, named)]
        steps += [(give, 0, 0, other)]
    steps += [(give, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    # struct sock_fprog
    told = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
    if libc.prctl(22, 2, told, 0, 0):  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
        raise OSError(ctypes.get_errno(), "seccomp")


if __name__ == "__main__":
    _main()
