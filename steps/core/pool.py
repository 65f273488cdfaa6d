"""A pure function over parts of a step's work, in several processes: its results come in the order of the parts.

The processes are forks: what the function rests on, such as an index, is theirs without being sent. Ctrl-C is for the
step alone, and they end with it, however it ends.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")

# Parts for each process that wait or are worked on, so that memory does not grow with the work.
AHEAD = 3
# The function of a pool, in its processes.
_function: Callable[[Any], Any] | None = None


def in_order(function: Callable[[Work], Result], parts: Iterable[Work], processes: int) -> Iterator[Result]:
    """What the function makes of each part.

    Args:
        processes: of one, or of a single part, the work is done here.

    Raises:
        ValueError: a process was killed, as the system does where memory runs out.
    """
    given = iter(parts)
    first = [*islice(given, 2)]
    if processes < 2 or len(first) < 2:
        yield from map(function, first)
        yield from map(function, given)
        return
    global _function
    _function = function
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _begin, (os.getpid(),))
    waiting: deque[Future[Result]] = deque()
    try:
        for some in (first, given):
            for part in some:
                waiting.append(pool.submit(_call, part))
                if len(waiting) > AHEAD * processes:
                    yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise ValueError(
            f"one of {processes} processes was killed, perhaps for its memory; run the step with fewer threads"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        _function = None


def _call(part: Any) -> Any:
    assert _function is not None
    return _function(part)


def _begin(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """End this process where its parent has ended: it waits for work that never comes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
