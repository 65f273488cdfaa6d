"""Share of mutants that a module's own tests kill, and the line of each that survives them.

A mutant is the module with one token changed: a comparison, an operator, a constant by one, a bound, a condition, what
is returned. It is killed where the tests fail or run for too long. Which mutants are tried is drawn by the seed.
Left out is what no behaviour shows: hints such as `flush=`, None for False, and one more or less of a limit of
thousands. Some others change nothing that can be seen: a survivor is a question to who reads it.

Our own: mutmut (3) tries every mutant and has no seed, leaves out what stands outside of functions, and learns by a run
of all tests, minutes here, which of them to take; cosmic-ray (8) has a configuration and a session for every command of
tests, so one for each module, and writes its mutants into the working tree. What is left of it is this file.

Run as: python -m benches.mutation --modules steps.core.code steps.stats.means --mutants 10 --seed 0
"""

import argparse
import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from benches.common import bench_parser, figure, write_result
from steps.core.step import run
from tests.small import copy_of_the_repository

STATS = ("agreement", "bootstrap", "correlation", "intervals", "means", "sampling")
CORE = (
    "asked", "code", "files", "hashes", "manifest", "progress",
    "promises", "standing", "step", "text", "versions", "work",
)  # fmt: skip
MODULES = [*(f"steps.stats.{name}" for name in STATS), *(f"steps.core.{name}" for name in CORE)]

COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
OPERATORS: dict[type, type] = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
NAMES = {"min": "max", "minimum": "maximum", "any": "all", "floor": "ceil", "argmin": "argmax", "zeros": "ones"}
NAMES |= {other: name for name, other in NAMES.items()}
# Arguments that change no result.
HINTS = ("flush", "frozen", "slots", "maxsize")
# From here on a number is a limit, and one more or less of it is as good.
LIMIT = 10_000


class Mutant(NamedTuple):
    """One change of a module: where, what stood there, what stands there now, and the whole text."""

    line: int
    was: str
    now: str
    text: str


def alternatives(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.Compare(left, [op], right):
            yield from (ast.Compare(left, [other()], right) for other in COMPARISONS[type(op)])
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
            if isinstance(op, ast.Sub | ast.Div):
                yield ast.BinOp(right, op, left)
        case ast.AugAssign(target, op, value) if type(op) in OPERATORS:
            yield ast.AugAssign(target, OPERATORS[type(op)](), value)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)) if abs(value) < LIMIT:
            yield from (ast.Constant(value + by) for by in (1, -1))
        case ast.Name(name, context) if name in NAMES:
            yield ast.Name(NAMES[name], context)
        case ast.Attribute(value, name, context) if name in NAMES:
            yield ast.Attribute(value, NAMES[name], context)
        case ast.Return(ast.expr() as value) if not (isinstance(value, ast.Constant) and not value.value):
            yield ast.Return(ast.Constant(None))


def mutants(text: str) -> list[Mutant]:
    """All of a module, but for those of its command line."""
    tree, found = ast.parse(text), []
    tree.body = [part for part in tree.body if not ast.unparse(part).startswith("if __name__ == '__main__'")]
    for parent in ast.walk(tree):
        if isinstance(parent, ast.keyword) and parent.arg in HINTS:
            continue
        for field, value in ast.iter_fields(parent):
            for index, node in enumerate(value if isinstance(value, list) else [value]):
                for other in alternatives(node):
                    # Written as a list too where it is one, so that one assignment undoes it.
                    changed = [*value[:index], other, *value[index + 1 :]] if isinstance(value, list) else other
                    setattr(parent, field, changed)
                    found.append(Mutant(node.lineno, ast.unparse(node), ast.unparse(other), ast.unparse(tree)))
                    setattr(parent, field, value)
    return found


def tests_of(module: str, root: Path) -> Path:
    """The file that mirrors a module, or its package; where there is none, the folder.

    Raises:
        ValueError: there is no such module.
    """
    if not (root / module.replace(".", "/")).with_suffix(".py").is_file():
        raise ValueError(f"--modules {module}: there is no such module; write one as steps.stats.means")
    parts = module.split(".")[1:]
    for depth in range(len(parts), 0, -1):
        file = Path("tests", *parts[: depth - 1], f"test_{parts[depth - 1]}.py")
        if (root / file).is_file():
            return file
    return Path("tests", parts[0])


def passes(root: Path, tests: Path, seconds: float | None) -> bool:
    """Whether the tests pass, in time."""
    # Without bytecode: two mutants of one second and one size would be one to it.
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(tests)]
    process = subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return process.wait(seconds) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        # What a test has started goes with it.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(root: Path, module: str, count: int, seed: int) -> dict[str, Any]:
    """How many mutants of a module there are, were tried and killed, and the survivors."""
    tests, file = tests_of(module, root), (root / module.replace(".", "/")).with_suffix(".py")
    text = file.read_text(encoding="utf-8")
    found, began = mutants(text), time.perf_counter()
    # As the mutants are written, so that only the change can make a difference.
    file.write_text(ast.unparse(ast.parse(text)), encoding="utf-8")
    if not passes(root, tests, None):
        raise ValueError(f"{tests} fails without any mutant; mend it first")
    limit = 10 + 3 * (time.perf_counter() - began)
    drawn = sorted(Random(f"{seed} {module}").sample(found, min(count, len(found))))
    survived = []
    for mutant in drawn:
        file.write_text(mutant.text, encoding="utf-8")
        if passes(root, tests, limit):
            source = text.splitlines()[mutant.line - 1].strip()
            survived.append({"line": mutant.line, "source": source, "was": mutant.was, "now": mutant.now})
            print(f"{file.relative_to(root)}:{mutant.line}: {source}", flush=True)
            print(f"    survived: {mutant.was}  →  {mutant.now}", flush=True)
    file.write_text(text, encoding="utf-8")
    killed = len(drawn) - len(survived)
    print(f"{module}: {killed} of {len(drawn)} killed by {tests}", flush=True)
    return {"tests": str(tests), "mutants": len(found), "tried": len(drawn), "killed": killed, "survived": survived}


def main(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy_of_the_repository(Path(folder))
        of = {name: measure(Path(folder), name, args.mutants, args.seed) for name in args.modules}
    shares = [100 * row["killed"] / row["tried"] for row in of.values() if row["tried"]]
    figures = [figure("killed of the mutants of a module, a round each", shares, "%")]
    write_result(args.out, __doc__, figures, {"seed": args.seed, "modules": of})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "mutation", {"modules": ("steps.stats.agreement",), "mutants": 2})
    parser.add_argument("--modules", nargs="+", default=MODULES)
    parser.add_argument("--mutants", type=int, default=10, help="of each module, at most")
    parser.add_argument("--seed", type=int, default=0)
    run(main, parser)
