"""Calls of code that is not ours, in a process that can be killed.

What a user's function does with a model's text has no bound: it loops, takes all memory, exits, forks. A thread cannot
be stopped, and the handler of a signal waits for the end of what runs in C. So the function runs in a child: the parent
waits for it so long and no longer, has it killed with all that it started (`steps.core.keeper`), and starts another for
the next call.

`python -m steps.core.bounded` is that child: a line of JSON in, a line of JSON out, on a socket of their own. What the
function prints goes where this process prints, as far as `PRINTED`. Nothing is pickled.

That bounds what code costs that is careless. It is no sandbox: what code may read or write is the user's own.
"""

import ast
import importlib.util
import inspect
import json
import numbers
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from steps.core import keeper
from steps.core.signatures import taken
from steps.core.text import visible

# Bytes that the child may take: of data, for torch and CUDA reserve ten times as much of addresses. As many as all that
# it starts takes with it.
MEMORY = 4 << 30
# Seconds for a file to run, once: it may import torch from a disk that is asleep.
LOAD_SECONDS = 120.0
# The largest number that float32 has, in which rewards are learned from.
LARGEST = (2 - 2**-23) * 2.0**127
# Bytes of a file that it may write, and of what it prints that is passed on.
FILE = 1 << 30
PRINTED = 1 << 20
# Bytes of a reply, of a number in one, and characters of the error in it.
LONGEST_REPLY = 1 << 16
LONGEST_NUMBER = 32
LONGEST_ERROR = 400
# Where an object lies in memory is another place in every run.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Failed(Exception):
    """Why a call gave no finite number, on one line."""


def finite(value: Any) -> float:
    """A number as it is returned.

    Raises:
        TypeError: it is none, or not finite.
    """
    if not isinstance(value, numbers.Real) or not abs(number := float(value)) <= LARGEST:
        raise TypeError(f"returned {value!r:.80}, which is no finite number of float32")
    return number


def one_line(error: BaseException) -> str:
    """An exception as the reason of a failure: its kind and what it says, the same in every run."""
    try:
        said = str(error)
    except Exception:
        said = "it cannot say what it is"
    return shown(f"{type(error).__name__}: {said[:LONGEST_ERROR]}")


def shown(error: str) -> str:
    """What code that is not ours says, as one line that changes no terminal."""
    return visible(" ".join(_ADDRESS.sub("", error).split()))[:LONGEST_ERROR]


def limit_memory() -> None:
    """From now on this process, and those that it starts, get no more than `MEMORY`: an allocation beyond it fails."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))


class Worker:
    """Calls the functions of a Python file in a child, which runs the file once. The child starts with the first call.

    Args:
        seconds: of wall-clock time that a call may take.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.seconds = path, seconds
        self._child: subprocess.Popen | None = None
        self._asked = 0

    def start(self) -> None:
        """Run the file, where no child has it.

        Raises:
            Failed: it does not run.
        """
        if self._child is not None and self._child.poll() is None:
            return
        self.close()
        self._socket, theirs = socket.socketpair()
        root = Path(__file__).parents[2]
        paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(theirs.fileno()), str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=os.environ | {"PYTHONPATH": paths},
                # A group of its own: it is killed with all that it started, and no key of the terminal reaches it.
                start_new_session=True,
            )
        # It ends with the pipe: with the child, and what the child has started.
        threading.Thread(target=_pass_on, args=(self._child.stdout, self.path), daemon=True).start()
        try:
            self._receive(0, LOAD_SECONDS)
        except Failed:
            self.close()
            raise

    def check(self, function: str, *arguments: Any, columns: dict | None = None) -> None:
        """Whether the file has a function that takes these arguments, or all but the last.

        Args:
            columns: what may be given by name; None where that is not known yet.

        Raises:
            Failed: it has not.
        """
        self._ask("check", function, arguments, columns)

    def call(self, function: str, *arguments: Any, columns: dict | None = None) -> float | None:
        """The finite number that a function of the file returns, of NumPy or torch too; None where it returns None. A
        function that takes one argument less is not given the last. What an `async` one returns is waited for.

        Args:
            columns: what else it is given by name, where it has a parameter of the name, or one for all (`**columns`).

        Raises:
            Failed: it raised, took too long or too much memory, ended its process, or returned something else.
        """
        (value,) = self._ask("call", function, arguments, columns or {})
        return value

    def call_many(self, function: str, count: int, *arguments: Any, columns: dict | None = None) -> list[float | None]:
        """The same of a function that returns so many numbers: a list, a tuple, an array or a tensor.

        Raises:
            Failed: as of `call`; one of them is no finite number, or there are more or fewer.
        """
        longest = LONGEST_REPLY + LONGEST_NUMBER * count
        values = self._ask("call_many", function, (count, *arguments), columns or {}, longest)
        assert len(values) == count
        return values

    def close(self) -> None:
        """End the child, and what it started."""
        if self._child is None:
            return
        # Its keeper ends it when nobody listens.
        self._socket.close()
        try:
            self._child.wait(keeper.END + keeper.LOOK)
        except subprocess.TimeoutExpired:
            keeper.end(self._child.pid)
            self._child.kill()
            self._child.wait()
        self._child = None

    def _ask(
        self, verb: str, function: str, arguments: tuple[Any, ...], columns: dict | None, longest: int = LONGEST_REPLY
    ) -> list[float | None]:
        self.start()
        self._asked += 1
        request = json.dumps([self._asked, verb, function, arguments, columns]).encode() + b"\n"
        return self._receive(self._asked, self.seconds, request, longest)

    def _receive(
        self, number: int, seconds: float, request: bytes = b"", longest: int = LONGEST_REPLY
    ) -> list[float | None]:
        """Send a request and wait for the reply that has its number: one that code of the user's forges has not."""
        assert self._child is not None
        until, reply = time.monotonic() + seconds, b""
        try:
            self._socket.settimeout(seconds)
            # One that has ended may have left a reply, and takes none.
            if request:
                self._socket.sendall(request)
            while not reply.endswith(b"\n") and len(reply) < longest:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._socket.settimeout(left)
                part = self._socket.recv(LONGEST_REPLY)
                if not part:
                    raise ConnectionError
                reply += part
        except TimeoutError:
            self.close()
            raise Failed(f"TimeoutError: no result after {seconds:g} s") from None
        except OSError:
            child = self._child
            self.close()
            raise Failed(_ending(child.returncode)) from None
        try:
            answered, values, error = json.loads(reply)
            values = [None if value is None else finite(value) for value in values]
        except (ValueError, TypeError, RecursionError):
            answered = None
        if answered != number:
            self.close()
            raise Failed("it wrote into the socket of its process")
        if error is not None:
            raise Failed(shown(str(error)[: 2 * LONGEST_ERROR]))
        return values


def _ending(code: int) -> str:
    if code == keeper.TOO_LARGE:
        return f"MemoryError: its processes take more than {MEMORY >> 30} GiB together"
    if code == keeper.TOO_MANY:
        return f"it has more than {keeper.MOST_PROCESSES} processes"
    return f"its process ended {f'by {signal.Signals(-code).name}' if code < 0 else f'with exit code {code}'}"


def _pass_on(printed: Any, path: Path) -> None:
    """Write to this process's output what a child prints, up to a size; the rest is read and dropped."""
    left = PRINTED
    with printed:
        while part := printed.read1(1 << 16):
            if left > 0:
                sys.stderr.write(part[:left].decode(errors="replace"))
                left -= len(part)
                if left <= 0:
                    sys.stderr.write(f"\n{path} printed {PRINTED >> 20} MiB; what more it prints is dropped\n")
                sys.stderr.flush()


def files_of(path: Path) -> list[Path]:
    """A file of the user's and what it imports, directly or not, of the modules and packages in its folder."""
    found, queue = [], [path]
    while queue:
        file = queue.pop()
        if file in found or not file.is_file():
            continue
        found.append(file)
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue  # whoever runs it says so
        for parts in _imported(tree, file.relative_to(path.parent).parent.parts):
            for depth in range(1, len(parts) + 1):
                module = path.parent.joinpath(*parts[:depth])
                queue += [module.with_suffix(".py"), module / "__init__.py"]
    return found or [path]


def _imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[list[str]]:
    """The dotted names, in parts, that a module of a package imports; of `from a import b`, which may be a module or
    not, a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            within = package[: len(package) + 1 - node.level] if node.level else ()
            module = node.module.split(".") if node.module else []
            yield from ([*within, *module, alias.name] for alias in node.names)


# --- in the child --------------------------------------------------------------------------------


def _serve(connection: socket.socket, path: Path) -> None:
    connection.set_inheritable(False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    limit_memory()
    own, module = os.getpid(), ModuleType("bounded")

    def reply(number: int, act: Callable[..., list[float | None]], *arguments: Any) -> bool:
        values: list[float | None] = []
        error = None
        try:
            values = act(module, *arguments)
        # `sys.exit` of a user's too.
        except BaseException as raised:
            error = one_line(raised)
        if os.getpid() != own:
            os._exit(0)  # a fork that the function made and left running
        connection.sendall(json.dumps([number, values, error]).encode() + b"\n")
        return error is None

    if not reply(0, _load, path):
        return
    with connection.makefile(encoding="utf-8") as requests:
        for line in requests:
            number, verb, *asked = json.loads(line)
            reply(number, {"check": _check, "call": _call, "call_many": _call_many}[verb], *asked)


def _load(module: ModuleType, path: Path) -> list[float | None]:
    spec = importlib.util.spec_from_file_location(module.__name__, path)
    if spec is None or spec.loader is None:
        raise ValueError("it is no Python file")
    module.__spec__, module.__file__ = spec, str(path)
    # A dataclass looks for its module, and an import for the helper beside the file.
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return []


def _check(module: ModuleType, name: str, arguments: list, columns: dict | None) -> list[float | None]:
    function = getattr(module, name, None)
    if not callable(function):
        raise NameError("there is none of this name")
    taken(inspect.signature(function), arguments, columns)
    return []


def _call(module: ModuleType, name: str, arguments: list, columns: dict) -> list[float | None]:
    return [_number(_returned(module, name, arguments, columns))]


def _call_many(module: ModuleType, name: str, arguments: list, columns: dict) -> list[float | None]:
    count, *own = arguments
    returned = _returned(module, name, own, columns)
    # An array or a tensor.
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"returned {values!r:.80}, which is no list of numbers")
    if len(values) != count:
        raise ValueError(f"returned {len(values)} numbers for {count} responses")
    return [*map(_number, values)]


def _returned(module: ModuleType, name: str, arguments: list, columns: dict) -> Any:
    function = getattr(module, name)
    own, named = taken(inspect.signature(function), arguments, columns)
    value = function(*own, **named)

    if not inspect.isawaitable(value):
        return value
    import asyncio  # which takes long to load

    async def awaited() -> Any:
        return await value

    return asyncio.run(awaited())


def _number(value: Any) -> float | None:
    if value is None:
        return None
    # Numbers and truths of NumPy and torch, which are none of Python's; of several, it raises.
    return finite(value.item() if hasattr(value, "item") else value)


if __name__ == "__main__":
    line = socket.socket(fileno=int(sys.argv[1]))
    keeper.keep(lambda: _serve(line, Path(sys.argv[2])), line, MEMORY)
