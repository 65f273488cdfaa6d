"""The judge of programs: the code of a response, run on the tests that its row has for an answer.

Tests are, as a text or as JSON: {"inputs": […], "outputs": […]}, what a program reads and what it prints (as verl, APPS
and TACO have them); the same with "fn_name", the arguments of a function and what it returns; or lines of `assert call
== literal` (as MBPP), with the imports that they need. Programs run where they can do nothing (`steps.core.sandbox`),
and what is expected is not there: it is compared here.
"""

import ast
import json
import re
from functools import lru_cache
from typing import Any, NamedTuple

from steps.core import sandbox
from steps.judges.judge import Verdict
from steps.judges.reading import Mark, said

# Tests that are run, the first of them; characters of a program, and of tests.
MOST_TESTS, LONGEST, LONGEST_TESTS = 24, 1 << 16, 1 << 20
# Brackets within brackets of a literal.
DEEPEST = 50
# The block that answers is the last one of Python, or of no named language.
_BLOCK = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("", "py", "python", "python3")
_NAME = re.compile(r"[A-Za-z_]\w*")


class Tests(NamedTuple):
    """What a program is run on, what is expected of each run, and what of Python comes before a value is asked for."""

    runs: tuple[dict, ...]
    expected: tuple[Any, ...]
    imports: str = ""


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
        blocks = [code for language, code in _BLOCK.findall(said(response)) if language.lower() in _LANGUAGES]
        if not blocks or not (program := blocks[-1].strip()):
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


def _is_answer(given: str, expected: Any, asked: dict) -> bool:
    if "stdin" in asked:
        return _lines(given) == _lines(expected)
    try:
        found = sandbox.value(given)
    except ValueError:
        return False
    return bool((_lists(found) if asked.get("listed") else found) == expected)


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
    return _by_asserts(gold)


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
    return Tests(tuple(runs), tuple(_json(one) if isinstance(one, str) else one for one in outputs))


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
            asked, result = _sides(statement.test)
            runs.append({"value": asked})
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


def _sides(test: ast.expr) -> tuple[str, Any]:
    """What is asked, and the literal that it should be."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return f"bool({ast.unparse(test.operand)})", False
    if not isinstance(test, ast.Compare):
        return f"bool({ast.unparse(test)})", True
    if len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        for asked, told in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
            try:
                return ast.unparse(asked), ast.literal_eval(told)
            except (ValueError, TypeError, RecursionError, MemoryError):
                continue
    raise ValueError(f"a test is no `call == literal`: {ast.unparse(test):.60}")
