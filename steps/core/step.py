"""How a step runs: its command line, its settings as an argument, the end of a user's mistake, one process per output.

Imports nothing heavy, so that `--help`, the linter and the unit tests stay fast.
"""

import argparse
import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from steps.core import processes
from steps.core.asked import SETTINGS, asked, from_argument
from steps.core.files import write_text
from steps.core.manifest import LAST, is_manifest, note_code, note_inputs
from steps.core.promises import MANIFEST
from steps.core.standing import differences

# How a user's mistake ends: one line that begins like this, and this exit code.
ERROR_PREFIX = "temper: error: "
USER_ERROR = 2
# Of a text that may be the path of a file.
LONGEST_PATH = 4096
# Names a file that the run of Snakemake which started a step holds locked for as long as it lives.
RUN = "TEMPER_RUN"
# As a shell says it of a process that SIGINT ended.
INTERRUPTED = 130
# What the system may refuse to a step, and what is to be done.
OF_THE_SYSTEM: dict[int | None, str] = {
    errno.ENOSPC: "; the disk is full: make room and run again",
    errno.EDQUOT: "; the quota is used up: make room and run again",
    errno.EFBIG: "; no file may be as large here (ulimit -f): raise the limit and run again",
    errno.EROFS: "; the disk can only be read: work on one that can be written",
    errno.EACCES: "; its permissions forbid it: change them and run again",
    errno.EPERM: "; its permissions forbid it: change them and run again",
    errno.EIO: "; the disk failed: check it and run again",
    errno.EMFILE: "; too many open files (ulimit -n): raise the limit and run again",
    errno.ENAMETOOLONG: "; shorten the name",
    errno.EISDIR: "; a file is asked for",
    errno.ENOTDIR: "; a folder is asked for",
    errno.ELOOP: "; its symbolic links go in a circle",
}


def run(main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    """Run a step's `main`, unless its result stands; a user's mistake ends in one line and exit code 2, a defect in a
    traceback.

    `ValueError`, and what the system says of files and disks, are the user's; every other exception is ours.
    """
    args = parser.parse_args()
    processes.follow_launcher()
    try:
        # Of several processes the launcher holds the lock.
        with alone(args.out) if processes.count() == 1 else contextlib.nullcontext():
            words = sys.orig_argv
            # Of several processes the launcher has asked: each would find another half of what one of them changes.
            if processes.count() == 1 and stands(args.out, words):
                print(f"{args.out} stands: asked of the same, by the same code, of the same bytes", flush=True)
                return
            if wanted := asked(words):
                note_code(wanted.module)
            note_inputs(given(args))
            main(args)
    except Exception as error:
        line = told(error)
        if line is None or os.environ.get("TEMPER_TRACEBACK"):
            raise
        if not processes.first():
            # The first one says the same, and the launcher then ends the others: who lives on is alone with its error.
            time.sleep(5)
        print(f"{ERROR_PREFIX}{line}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("ended by Ctrl-C: what was not finished is made again by the next run", file=sys.stderr)
        sys.exit(INTERRUPTED)


def told(error: Exception) -> str | None:
    """What is said of an error that is the user's or the system's, in one line; None of a defect of ours."""
    line = " ".join(str(error).split())
    if isinstance(error, ValueError):
        return line
    # Libraries in other languages have errors of their own for what the system refuses.
    number = error.errno if isinstance(error, OSError) else None
    number = errno.ENOSPC if os.strerror(errno.ENOSPC) in line else number
    if number in OF_THE_SYSTEM:
        return line + OF_THE_SYSTEM[number]
    return line if isinstance(error, FileNotFoundError) else None


def given(args: argparse.Namespace) -> Iterator[Path]:
    """The files and folders that a step is told to read, by an option or by its settings."""
    values = [value for name, value in vars(args).items() if name not in ("out", "work", "logs")]
    for value in values:
        if isinstance(value, Path):
            yield value
        elif isinstance(value, dict):
            values += value.values()
        elif isinstance(value, list):
            values += value
        elif isinstance(value, str) and len(value) < LONGEST_PATH and "\0" not in value and os.path.isfile(value):
            yield Path(value)


def stands(out: Path, words: Sequence[str]) -> bool:
    """Whether a step has nothing to do: what it would make is there.

    Snakemake took the manifest away; its copy is put back where that agrees with everything. Where it does not, both
    go: what is half made has none.

    Args:
        words: the step's command.
    """
    wanted, last = asked(words), out / LAST
    if wanted is None:
        return False
    if last.is_file() and not is_manifest(out / MANIFEST):
        write_text(out / MANIFEST, last.read_text(encoding="utf-8", errors="replace"))
    if next(differences(out, wanted), None) is None:
        return True
    for path in (last, out / MANIFEST):
        path.unlink(missing_ok=True)
    return False


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Wait until no other process makes the same output.

    `kill -9` of Snakemake leaves its running steps alive; the next run starts the same step again, which waits here
    until the orphan has ended, instead of writing to the same files with it. An orphan that has not begun ends here: it
    would make what was asked before in the place of what was asked since.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_name(f".{out.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: an earlier run is still making {out}", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if orphaned():
            print(f"{out} is not made: the run that asked for it was killed", flush=True)
            sys.exit(USER_ERROR)
        yield


def orphaned() -> bool:
    """Whether the run that started this step is known to have ended."""
    try:
        with open(os.environ[RUN]) as held:
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (KeyError, OSError):
        # It holds its lock; or nobody can say, where the file is gone or the system has no such locks.
        return False
    return True


def step_parser(module_doc: str) -> argparse.ArgumentParser:
    """The parser every step starts from: its docstring as help, `--settings` and `--out`."""
    parser = argparse.ArgumentParser(
        description=module_doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(SETTINGS, type=from_argument, required=True, help="the resolved settings, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; its manifest comes last")
    return parser


def add_cores(parser: argparse.ArgumentParser) -> None:
    """Of a step that works in as many processes, and makes the same in any number of them."""
    parser.add_argument("--cores", type=int, default=1, help="processes to work in; the result is the same")


def cores_of(args: argparse.Namespace) -> int:
    """The processes that a step works in: one, where it is called by others than its command."""
    return getattr(args, "cores", 1)
