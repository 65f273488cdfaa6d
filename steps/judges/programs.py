"""The judge of programs: the code of a response, run on the tests that its row has for an answer.

Tests are, as a text or as JSON: {"inputs": […], "outputs": […]}, what a program reads and what it prints (as verl, APPS
and TACO have them); the same with "fn_name", the arguments of a function and what it returns; or lines of `assert call
== literal` (as MBPP), with the imports that they need. Programs run where they can do nothing (`steps.core.sandbox`),
and what is expected is not there: it is compared here. So no test may compare where the program runs, which could read
what it is compared with, or answer with an object that equals everything.
"""

import ast
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from textwrap import dedent
from typing import Any, NamedTuple

from steps.core import sandbox
from steps.judges.judge import Verdict
from steps.judges.reading import Mark, said

# Tests that are run, the first of them; characters of a program, and of tests.
MOST_TESTS, LONGEST, LONGEST_TESTS = 24, 1 << 16, 1 << 20
# Brackets within brackets of a literal.
DEEPEST = 50
# The block that answers is the last one of Python; without one, the last of no named language, which may be an output.
_BLOCK = re.compile(r"^[ \t]*+```[ \t]*+(\w*+)[^\n]*+\n(.*?)^[ \t]*+```", re.DOTALL | re.MULTILINE)
_PYTHON = ("py", "python", "python3")
_NAME = re.compile(r"[A-Za-z_]\w*")


class Tests(NamedTuple):
    """What a program is run on, what is expected of each run, and what of Python comes before a value is asked for."""

    runs: tuple[dict, ...]
    expected: tuple[Any, ...]
    imports: str = ""


class _Close(NamedTuple):
    """Numbers that are near enough to one, as `math.isclose` has it."""

    number: float
    relative: float
    absolute: float

    def is_near(self, found: Any) -> bool:
        try:
            return math.isclose(found, self.number, rel_tol=self.relative, abs_tol=self.absolute)
        except (TypeError, OverflowError):
            return False


class _Wrapped(NamedTuple):
    """A list of one: all results of APPS's functions stand in one, whatever they are."""

    result: list


class Programs:
    """Judges programs by their tests."""

    def refusal(self, gold: str | None, question: str = "") -> str:
        """Why no program could be right by these tests; "" where one can."""
        if problem := sandbox.refusal():
            return problem
        try:
            tests_of(gold or "")
        except ValueError as problem:
            return str(problem)
        return ""

    def judge(self, gold: str, response: str, mark: Mark = "either", question: str = "") -> Verdict:
        """Run a response's program; where it stands is known by its block."""
        if not (program := program_of(response)):
            return Verdict("unread", "", "no block of code")
        if len(program) > LONGEST:
            return Verdict("unread", "", "longer than any program")
        tests = tests_of(gold)
        try:
            ran = sandbox.run(f"{program}\n{tests.imports}", tests.runs)
        except sandbox.Failed as problem:
            return Verdict("unverifiable", program, f"nobody can tell what it does ({problem})")
        for number, (one, expected) in enumerate(zip(ran, tests.expected, strict=False), 1):
            if one.problem:
                return Verdict("wrong", program, one.problem)
            if not _is_answer(one.said, expected, asked=tests.runs[number - 1]):
                return Verdict("wrong", program, "a test expects another result")
        return Verdict("right", program, "it passes its tests")


def program_of(response: str) -> str:
    """The program of a response; "" where it has none."""
    blocks = [(language.lower(), code) for language, code in _BLOCK.findall(said(response))]
    for languages in (_PYTHON, ("",)):
        if own := [code for language, code in blocks if language in languages]:
            return dedent(own[-1]).strip()
    return ""


def _is_answer(given: str, expected: Any, asked: dict) -> bool:
    if "stdin" in asked:
        return _lines(given) == _lines(expected)
    try:
        found = sandbox.value(given)
    except ValueError:
        return False
    if isinstance(expected, _Close):
        return expected.is_near(found)
    found = _lists(found) if asked.get("listed") else found
    return found in (expected.result, expected.result[0]) if isinstance(expected, _Wrapped) else found == expected


def _lines(text: str) -> list[list[str]]:
    """What is printed, without white space around words and empty lines at its end."""
    return [line.split() for line in text.rstrip().split("\n")]


def _lists(found: Any) -> Any:
    """A value as JSON has it, which knows no tuples."""
    if isinstance(found, list | tuple):
        return [*map(_lists, found)]
    return {key: _lists(one) for key, one in found.items()} if isinstance(found, dict) else found


# --- tests ---------------------------------------------------------------------------------------


def is_tests(value: Any) -> bool:
    """Whether a value of JSON is meant as tests."""
    if isinstance(value, dict):
        return {"inputs", "outputs"} <= value.keys()
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and is_assert(one) for one in value)


def is_assert(text: str) -> bool:
    """Whether a text begins as an assert of Python does."""
    return text.lstrip().startswith(("assert ", "assert("))


# The samples of a row share its tests.
@lru_cache(256)
def tests_of(gold: str) -> Tests:
    """The tests of a row.

    Raises:
        ValueError: why they cannot be run, in a few words.
    """
    if len(gold) > LONGEST_TESTS:
        raise ValueError("they are longer than any tests")
    try:
        told = json.loads(gold) if gold.lstrip().startswith(("{", "[")) else None
    except (ValueError, RecursionError):
        raise ValueError("they are no JSON") from None
    if isinstance(told, dict):
        return _by_outputs(told)
    if isinstance(told, list):
        if not all(isinstance(one, str) for one in told):
            raise ValueError("they are no list of texts")
        gold = "\n".join(told)
    try:
        return _by_asserts(gold)
    except RecursionError:
        raise ValueError("they are nested too deeply") from None


def _by_outputs(told: dict) -> Tests:
    inputs, outputs, name = told.get("inputs"), told.get("outputs"), told.get("fn_name")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs or len(inputs) != len(outputs):
        raise ValueError("`inputs` and `outputs` are no lists of one length")
    inputs, outputs = inputs[:MOST_TESTS], outputs[:MOST_TESTS]
    if name is None:
        if not all(isinstance(one, str) for one in [*inputs, *outputs]):
            raise ValueError("an input or output of a program is no text")
        if not any(one.strip() for one in outputs):
            raise ValueError("every output is empty")
        return Tests(tuple({"stdin": one} for one in inputs), tuple(outputs))
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError("`fn_name` is no name")
    runs = []
    for given in inputs:
        arguments = [*map(_json, given.strip().split("\n"))] if isinstance(given, str) else given
        if not isinstance(arguments, list):
            raise ValueError("an input of a function is no list of arguments")
        named = f"(Solution().{name} if 'Solution' in globals() else {name})"
        try:
            json.dumps(arguments, allow_nan=False)
        except (ValueError, RecursionError):
            raise ValueError("an input of a function has no finite number, or is nested too deeply") from None
        runs.append({"value": f"{named}(*{arguments!r})", "listed": True})
    # Lines of JSON have outputs in JSON; arguments as they are have them as they are.
    expected = [
        _json(one) if isinstance(given, str) and isinstance(one, str) else one
        for given, one in zip(inputs, outputs, strict=True)
    ]
    if all(isinstance(one, list) and len(one) == 1 for one in expected):
        expected = [*map(_Wrapped, expected)]
    return Tests(tuple(runs), tuple(expected))


def _json(text: str) -> Any:
    """What a text says as JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _by_asserts(text: str) -> Tests:
    tree, runs, expected, imports = _parsed(text), [], [], []
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(statement))
        elif isinstance(statement, ast.Assert):
            for test in _all_of(statement.test):
                asked, result = _sides(test)
                if not any(isinstance(node, ast.Name) for node in ast.walk(test)):
                    raise ValueError(f"a test asks nothing of a program: {ast.unparse(test):.60}")
                if any(isinstance(node, ast.Compare | ast.BoolOp) for node in ast.walk(asked)):
                    raise _no_call(test)
                runs.append({"value": ast.unparse(asked)})
                expected.append(result)
        else:
            raise ValueError(f"they hold more than asserts and imports: {ast.unparse(statement):.60}")
    if not runs:
        raise ValueError("there is no test in them")
    return Tests(tuple(runs[:MOST_TESTS]), tuple(expected[:MOST_TESTS]), "\n".join(imports))


def _parsed(text: str) -> ast.Module:
    # What is nested deeper may end Python's parser, and this process.
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST or re.search(r"(?:[-+~]|\bnot\b)(?:\s*(?:[-+~]|\bnot\b)){50}", text):
        raise ValueError("they are nested too deeply")
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("they are no Python") from None


def _all_of(test: ast.expr) -> list[ast.expr]:
    """The tests that are joined by `and`."""
    return test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]


def _no_call(test: ast.expr) -> ValueError:
    return ValueError(f"a test is no `call == literal`: {ast.unparse(test):.60}")


def _sides(test: ast.expr) -> tuple[ast.expr, Any]:
    """What is asked, and what it should be: the value of a literal, or near it."""
    if near := _near(test):
        return near
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _truth(test.operand), False
    if not isinstance(test, ast.Compare):
        return _truth(test), True
    equal = len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is)
    if equal and (pair := next(_pairs(test.left, test.comparators[0]), None)):
        return pair
    raise _no_call(test)


def _truth(asked: ast.expr) -> ast.expr:
    """Whether what a call of the program returns is true, or is of a type. Of another call with a call in it, such as
    `allclose(f(1), [2])`, nobody knows what it compares."""
    if isinstance(asked, ast.Call) and len(asked.args) + len(asked.keywords) > 1:
        calls = [node for node in ast.walk(asked) if isinstance(node, ast.Call)]
        if len(calls) > 1 and not (isinstance(asked.func, ast.Name) and asked.func.id == "isinstance"):
            raise _no_call(asked)
    return ast.Call(ast.Name("bool"), [asked], [])


def _near(test: ast.expr) -> tuple[ast.expr, _Close] | None:
    """Of `isclose(call, number)` and `abs(call - number) < number` what is asked, and what it should be near."""
    tolerances = {"rel_tol": 1e-9, "abs_tol": 0.0}
    two: list[ast.expr] = []
    if isinstance(test, ast.Call) and ast.unparse(test.func) in ("isclose", "math.isclose"):
        for keyword in test.keywords:
            if keyword.arg not in tolerances:
                raise _no_call(test)
            tolerances[keyword.arg] = _number(keyword.value, test)
        two = test.args
    elif isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Lt | ast.LtE):
        apart = test.left
        if isinstance(apart, ast.Call) and ast.unparse(apart.func) in ("abs", "math.fabs") and len(apart.args) == 1:
            inner = apart.args[0]
            if isinstance(inner, ast.BinOp) and isinstance(inner.op, ast.Sub):
                tolerances = {"rel_tol": 0.0, "abs_tol": _number(test.comparators[0], test)}
                two = [inner.left, inner.right]
    if len(two) != 2:
        return None
    for asked, told in _pairs(*two):
        if isinstance(told, int | float):
            return asked, _Close(told, tolerances["rel_tol"], tolerances["abs_tol"])
    raise _no_call(test)


def _number(node: ast.expr, test: ast.expr) -> float:
    for _, told in _pairs(test, node):
        if isinstance(told, int | float) and told >= 0:
            return float(told)
    raise _no_call(test)


def _pairs(left: ast.expr, right: ast.expr) -> Iterator[tuple[ast.expr, Any]]:
    """What is asked and the value of the other side, where one of both is a literal."""
    for asked, told in ((left, right), (right, left)):
        try:
            yield asked, _literal(told)
        except (ValueError, TypeError, RecursionError, MemoryError):
            continue


_MAKES: dict[str, Callable] = {one.__name__: one for one in (set, frozenset, tuple, list, dict, sorted)}


def _literal(node: ast.expr) -> Any:
    """The value of a literal, also of one in `set(…)` and the like.

    Raises:
        ValueError, TypeError, RecursionError, MemoryError: it is none.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKES:
        if len(node.args) != 1 or node.keywords:
            raise ValueError(node.func.id)
        return _MAKES[node.func.id](_literal(node.args[0]))
    return ast.literal_eval(node)
