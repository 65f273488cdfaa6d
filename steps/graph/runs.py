"""Other runs of Snakemake in the same folder: whether one is alive, and whose lock is whose."""

import atexit
import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from steps.core.step import ERROR_PREFIX, RUN, USER_ERROR


def join_runs(folder: Path) -> tuple[IO, IO]:
    """Announce this run, to its steps too, and drop the locks that killed runs left in `.snakemake/locks`.

    Snakemake's locks survive `kill -9` and would ask for `--unlock`. The kernel's do not: every run holds a shared one,
    so whoever gets it exclusively knows that no other run is alive and that the locks lying there are stale. Two
    living runs still meet Snakemake's own check. Keep the returned files open until the run ends.

    Raises:
        ValueError: the folder cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
        alive = open(folder / "alive", "w")
        (folder / "runs").mkdir(exist_ok=True)
        own = open(folder / "runs" / str(os.getpid()), "w")
    except OSError as error:
        raise ValueError(
            f"{error.filename}: {error.strerror}; Snakemake writes its records there: work in a folder of your own"
        ) from error
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        shutil.rmtree(folder / "locks", ignore_errors=True)
    fcntl.flock(alive, fcntl.LOCK_SH)
    fcntl.flock(own, fcntl.LOCK_EX)
    os.environ[RUN] = os.path.abspath(own.name)
    atexit.register(Path(own.name).unlink, missing_ok=True)
    return alive, own


def own_locks() -> None:
    """Make Snakemake take its locks while no other run looks, and drop its own only.

    Snakemake 9.27.1 looks for locks first and writes its own later, so that two runs that start together both pass;
    and a run that ends removes the whole folder of them, so that a third starts what the first still makes.
    """
    from snakemake.persistence.file import FilePersistence

    @contextlib.contextmanager
    def lock(self: Any) -> Iterator[None]:
        with open(Path(self._lockdir).with_name("locking"), "w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            if self.locked:
                said = f"another run makes some of the same results in {Path.cwd()}: wait until it has ended"
                print(ERROR_PREFIX + said, file=sys.stderr)
                sys.exit(USER_ERROR)
            Path(self._lockdir).mkdir(exist_ok=True)
            self._write_locks("input", (str(file) for file in self.all_inputfiles()))
            self._write_locks("output", (str(file) for file in self.all_outputfiles()))
        try:
            yield
        finally:
            self.unlock()

    def unlock(self: Any) -> None:
        for file in self._lockfile.values():
            Path(file).unlink(missing_ok=True)
        self._lockfile.clear()

    FilePersistence.lock = lock
    FilePersistence.unlock = unlock
