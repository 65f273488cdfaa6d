"""Equality of two expressions: Math-Verify's grammar and SymPy in processes of their own, with a hard time limit.

A model's answer is hostile input: `9^{9^{9^{9}}}` keeps SymPy busy for ever or takes all memory. math-verify's own
limit is SIGALRM with a Python handler: it works in the main thread only (Math-Verify issues 50 and 55), a long
operation in C never lets the handler run (issue 65), and code that swallows its exception scores all answers 0.

So a server process, which has compiled math-verify's patterns and has neither torch nor the trainer's threads, forks a
judge. For the time of one answer the judge hands its life to the kernel: a timer without a handler ends it at the
limit whatever it is doing, also when the trainer has been killed, and a limit on its address space makes a blow-up of
memory its own problem. The server sees how it ended, and forks another in milliseconds. The timer counts the seconds
that the judge computes: a training that is stopped and continued, or shares its cores, scores as it does undisturbed.

`python -m steps.judges.mathematics` is that server: a line [given, gold, limit, by] of JSON in, a word out.
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
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import regex

Outcome = Literal["right", "wrong", "unread", "no_gold", "timeout", "error"]
# Address space that a judge may take beyond what the server has.
MEMORY = 1 << 30
# What a server reads first: a judge that is replaced needs 0.01 s for the next of their kind, and else 0.3 s.
WARM = (("(x+1)^{2}", "x^{2}+2x+1"), (r"\frac{84}{2}", r"\sqrt{8}"), ("2x-y=0", "y=2x"), (r"\log_{2} 5", r"\ln 5"))
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
        self.started, self.lock = 0, threading.Lock()

    def __enter__(self) -> "Checker":
        return self

    def __exit__(self, *_) -> None:
        while not self.servers.empty():
            _stop(self.servers.get())
        self.started = 0

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """Judge (given, gold) pairs of expressions or equations, as `latex.for_grammar` writes them.

        Returns:
            One outcome per pair, in order. "unread": what is given is no expression, "no_gold": the gold is none;
            "timeout": the limit passed; "error": the process died, or the comparison ran out of memory or stack. The
            last two may be the gold's fault: check it against itself to know.
        """
        # The threads wait for the processes and judge nothing themselves.
        with ThreadPoolExecutor(self.workers) as threads:
            return list(threads.map(self.ask, pairs))

    def ask(self, pair: tuple[str, str], by: Literal["mathematics", "pattern"] = "mathematics") -> Outcome:
        """Judge one pair; of several threads, each waits for a server of its own.

        Args:
            by: of "pattern" the gold is a regular expression.
        """
        with self.lock:
            if self.started < self.workers:
                self.started += 1
                self.servers.put(_start())
        server = self.servers.get()
        try:
            outcome = _exchange(server, [*pair, self.limit, by])
            if not outcome:
                # No answer can end a server, but the system can, when memory is short.
                _stop(server)
                server = _start()
                outcome = _exchange(server, [*pair, self.limit, by])
        finally:
            self.servers.put(server)
        if not outcome:
            raise RuntimeError("the server of steps/judges/mathematics.py ends by itself; its message is above")
        return outcome  # type: ignore[return-value]


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
    for pair in WARM:
        _judge(*pair)
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
            given, gold, limit, by = json.loads(line)
            signal.setitimer(signal.ITIMER_PROF, limit)
            outcome = {"mathematics": _judge, "pattern": _match}[by](given, gold)
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(outcomes, f"{outcome}\n".encode())


def _match(given: str, pattern: str) -> str:
    """Whether all of a text is as a pattern has it; may never return."""
    try:
        return "right" if regex.fullmatch(pattern, given) else "wrong"
    except regex.error:
        return "no_gold"
    except (MemoryError, RecursionError):
        return "error"


def _judge(given: str, gold: str) -> str:
    """Outcome of one pair; may never return."""
    try:
        expected = _parse(gold)
    except (MemoryError, RecursionError):
        return "error"
    except Exception:
        return "no_gold"
    try:
        found = _parse(given)
    except (MemoryError, RecursionError):
        return "error"
    except Exception:
        return "unread"
    try:
        return "right" if _equal(expected, found) else "wrong"
    except (MemoryError, RecursionError):
        return "error"
    except Exception:
        # What SymPy cannot compare (a matrix with a number) is not equal.
        return "wrong"


def _parse(text: str):
    r"""A SymPy expression of Math-Verify's grammar, its decimals exact. Without Math-Verify's own extraction, which
    drops what it takes for a unit: 2\pi r h would be 2\pi r."""
    import sympy
    from latex2sympy2_extended import latex2sympy
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig

    read = latex2sympy(text, normalization_config=None, conversion_config=ConversionConfig(lowercase_symbols=False))
    if isinstance(read, sympy.FiniteSet) and len(read) == 1:
        (read,) = read
    symbols = {sympy.Symbol("i"): sympy.I, sympy.Symbol("e"): sympy.E}
    read = read.subs({symbol: value for symbol, value in symbols.items() if symbol in read.free_symbols})
    return read.replace(lambda part: part.is_Float, lambda part: sympy.Rational(str(part)))


# Where two expressions are compared: at points of no special form, signs and sizes mixed.
POINTS, DIGITS, CLOSE = ((17, 23), (-29, 13), (101, 37), (-5, 47)), 40, 30


def _equal(gold, given) -> bool:
    """Whether two expressions have one value wherever they are tried; equations, one set of solutions.

    By values to 40 digits, because Math-Verify takes numbers that differ by less than 1e-6 for equal: 2^{-98} and
    2^{-99}. Where no value can be had (an integral), by Math-Verify.
    """
    import sympy

    equations = [isinstance(one, sympy.Equality) for one in (gold, given)]
    if all(equations):
        one, other = (side.lhs - side.rhs for side in (gold, given))
        quotient = sympy.simplify(one / other)
        return not quotient.free_symbols and quotient.is_finite is not False and quotient != 0
    if any(equations):
        return False
    if gold in (sympy.oo, -sympy.oo, sympy.zoo) or given in (sympy.oo, -sympy.oo, sympy.zoo):
        return gold == given
    names = sorted(gold.free_symbols | given.free_symbols, key=str)
    compared = 0
    for own in POINTS if names else POINTS[:1]:
        values = {name: sympy.Rational(own[0] + 7 * i, own[1] + 4 * i) for i, name in enumerate(names)}
        sides = [sympy.N(one.subs(values), DIGITS) for one in (gold, given)]
        if not all(side.is_number and side.is_finite for side in sides):
            continue
        size = max(abs(side) for side in sides)
        if size and abs(sides[0] - sides[1]) > size * sympy.Float(10) ** -CLOSE:
            return False
        compared += 1
    if compared:
        return True
    from math_verify import verify

    return bool(verify(gold, given, timeout_seconds=None, raise_on_error=True))


if __name__ == "__main__":
    _serve()
