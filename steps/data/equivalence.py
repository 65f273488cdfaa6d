"""Mathematical equivalence of a response and an answer: math-verify in processes of its own, with a hard time limit.

A model's answer is hostile input: `9^{9^{9^{9}}}` keeps SymPy busy for ever or takes all memory. math-verify's own
limit is SIGALRM with a Python handler: it works in the main thread only (Math-Verify issues 50 and 55), a long
operation in C never lets the handler run (issue 65), and code that swallows its exception scores all answers 0.

So a server process, which has compiled math-verify's patterns and has neither torch nor the trainer's threads, forks a
judge. For the time of one answer the judge hands its life to the kernel: a timer without a handler ends it at the
limit whatever it is doing, also when the trainer has been killed, and a limit on its address space makes a blow-up of
memory its own problem. The server sees how it ended, and forks another in milliseconds. The timer counts the seconds
that the judge computes: a training that is stopped and continued, or shares its cores, scores as it does undisturbed.

`python -m steps.data.equivalence` is that server: a line [response, answer, limit] of JSON in, a word out.
"""

import contextlib
import gc
import json
import logging
import os
import queue
import resource
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

Outcome = Literal["right", "wrong", "unparsed", "timeout", "error"]
# Address space that a judge may take beyond what the server has.
MEMORY = 1 << 30
# A judge remembers something of every answer, and is replaced after so many.
ANSWERS_PER_JUDGE = 1000


class Checker:
    """Judges answers in other processes. A context manager: leaving it ends them.

    Args:
        limit: seconds of wall-clock time that one answer may take. Starting the processes does not count.
        workers: answers judged at a time; outcomes do not depend on it.
    """

    def __init__(self, limit: float, workers: int = 1):
        self.limit, self.workers = limit, workers
        self.servers: queue.SimpleQueue[subprocess.Popen] = queue.SimpleQueue()

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *_) -> None:
        while not self.servers.empty():
            _stop(self.servers.get())

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Judge (response, answer) pairs.

        Returns:
            One outcome per pair, in order. "unparsed": the response holds no expression; "timeout": the limit
            passed; "error": the process died, or the comparison ran out of memory or stack. The last two may be the
            answer's fault: check it against itself to know.

        Raises:
            ValueError: an answer is no mathematical expression; nothing can equal it, and nothing should.
        """
        while self.servers.qsize() < self.workers:
            self.servers.put(_start())
        # The threads wait for the processes and judge nothing themselves.
        with ThreadPoolExecutor(self.workers) as threads:
            outcomes = list(threads.map(self._ask, pairs))
        for (_, answer), outcome in zip(pairs, outcomes, strict=True):
            if outcome == "no_gold":
                raise ValueError(
                    f"the answer {answer[:80]!r} is no expression that math-verify can read; correct the row's answer,"
                    " or compare it with equivalence: numeric"
                )
        return outcomes

    def _ask(self, pair: tuple[str, str]) -> str:
        server = self.servers.get()
        try:
            outcome = _exchange(server, [*pair, self.limit])
            if not outcome:
                # No answer can end a server, but the system can, when memory is short.
                _stop(server)
                server = _start()
                outcome = _exchange(server, [*pair, self.limit])
        finally:
            self.servers.put(server)
        if not outcome:
            raise RuntimeError("the server of steps/data/equivalence.py ends by itself; its message is above")
        return outcome


def _start() -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def _stop(server: subprocess.Popen) -> None:
    server.kill()
    server.communicate()


def _exchange(server: subprocess.Popen, request: list) -> str:
    """The server's word; empty where it has ended."""
    try:
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        return server.stdout.readline().strip()
    except BrokenPipeError:
        return ""


# --- in the server -------------------------------------------------------------------------------


def _serve() -> None:
    # What tells a training to end reaches every process of its terminal or job. The trainer, which needs scores to the
    # end of its step, ends this one.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # It warns of every call that turns its own limit off.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    # The first reading compiles the patterns and the grammar: judges inherit them.
    _judge("$1$", "1")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    bound = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (bound, bound))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A collection in a judge would touch, and so copy, every page of the server.
    gc.freeze()
    judge = _Judge()
    for line in sys.stdin:
        if judge.asked == ANSWERS_PER_JUDGE or not judge.send(line):
            judge.end()
            judge = _Judge()
            judge.send(line)
        outcome = judge.receive()
        if not outcome:
            outcome = "timeout" if judge.end() == -signal.SIGPROF else "error"
            judge = _Judge()
        # Nobody listens when the trainer has been killed; then no more lines come either.
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), f"{outcome}\n".encode())


class _Judge:
    """A fork of this process that answers one request after the other, until one of them ends it."""

    def __init__(self):
        requests, outcomes = os.pipe(), os.pipe()
        self.asked, self.process = 0, os.fork()
        if self.process == 0:
            try:
                os.close(requests[1])
                os.close(outcomes[0])
                _answer_requests(requests[0], outcomes[1])
            finally:
                os._exit(1)
        os.close(requests[0])
        os.close(outcomes[1])
        self.requests, self.outcomes = os.fdopen(requests[1], "w"), os.fdopen(outcomes[0])

    def send(self, line: str) -> bool:
        """False where it has ended since the last request."""
        try:
            self.requests.write(line)
            self.requests.flush()
        except BrokenPipeError:
            return False
        self.asked += 1
        return True

    def receive(self) -> str:
        """Its outcome; empty where the request ended it."""
        return self.outcomes.readline().strip()

    def end(self) -> int:
        """Wait for its end; returns how it ended, as subprocess has it: a signal's number below zero."""
        self.outcomes.close()
        with contextlib.suppress(BrokenPipeError):
            self.requests.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


def _answer_requests(requests: int, outcomes: int) -> None:
    with os.fdopen(requests) as lines:
        for line in lines:
            response, answer, limit = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, limit)
            outcome = _judge(response, answer)
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(outcomes, f"{outcome}\n".encode())


def _judge(response: str, answer: str) -> str:
    """Outcome of one pair; may never return."""
    from math_verify import verify

    gold = _read_answer(answer)
    if not gold:
        return "no_gold"
    found = _read_response(response)
    if not found:
        return "unparsed"
    try:
        right = verify(gold, found, timeout_seconds=None, raise_on_error=True)
    except (MemoryError, RecursionError):
        return "error"
    except Exception:
        # What SymPy cannot compare (a matrix with a set) is not equal.
        return "wrong"
    return "right" if right else "wrong"


def _read_answer(text: str) -> list:
    r"""Expressions of a bare answer: as LaTeX inside \boxed, or as plain text, which alone reads "50%"."""
    return _parse(rf"\boxed{{{text}}}") or _parse(text)


def _read_response(text: str) -> list:
    r"""Expressions of a response: what follows its last `####`, if that holds no \boxed; else as math-verify reads it.

    Without the first rule `#### (1, 2]` would be read as the number 1: a worked answer carries no LaTeX delimiter.
    """
    _, marker, tail = text.rpartition("####")
    if marker and r"\boxed" not in tail:
        return _read_answer(tail.strip().split("\n", 1)[0])
    # latex2sympy2_extended 1.11 fails on a percent sign in a box, and an expression before it would be read instead.
    return _parse(text.replace(r"\%", "").replace("%}", "}"))


def _parse(text: str) -> list:
    """SymPy expressions only: a string that could not be read never equals another."""
    from math_verify import parse

    return parse(text, parsing_timeout=None, fallback_mode="no_fallback")


if __name__ == "__main__":
    _serve()
