"""What the Python functions that a task's template names need: packages, data of nltk, fields of a row.

Read from their source and never run: lm-eval finds out when it loads the task, after the training, with a traceback.
"""

import ast
import functools
import importlib.util
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# As `plain_yaml.read` gives what has the tag !function.
FUNCTION = re.compile(r"([\w.]+)\.(\w+)")
# The data that a library of language tools fetches when it is imported.
NLTK = re.compile(r"""nltk\.download\(\s*["'](\w+)["']""")
NLTK_FOLDERS = ("tokenizers", "corpora", "taggers", "chunkers", "stemmers")


def named(config: Any, template: Path) -> Iterator[tuple[Path, str]]:
    """(file, name) of every function that stands anywhere in a template, in a module beside it."""
    values = config.values() if isinstance(config, dict) else config if isinstance(config, list) else ()
    for value in values:
        yield from named(value, template)
    if isinstance(config, str) and (found := FUNCTION.fullmatch(config)):
        file = template.parent / f"{found[1].replace('.', '/')}.py"
        if file.is_file():
            yield file, found[2]


def missing(files: list[Path], library: Path) -> tuple[list[str], list[str]]:
    """The packages that some modules import and that are not installed, and the data of nltk that are not there.

    Args:
        library: lm-eval's folder of tasks, whose own modules are followed.
    """
    packages: set[str] = set()
    data: set[str] = set()
    queue, seen = [*files], set()
    while queue:
        file = queue.pop()
        if file in seen:
            continue
        seen.add(file)
        for name in _imports(file):
            own = library.parent.parent / f"{name.replace('.', '/')}.py"
            if name.startswith("lm_eval.tasks."):
                queue += [own] if own.is_file() else []
            elif importlib.util.find_spec(name.partition(".")[0]) is None:
                packages.add(name.partition(".")[0])
        data |= {name for name in NLTK.findall(file.read_text(encoding="utf-8")) if not _has_nltk(name)}
    return sorted(packages), sorted(data)


def fields_read(file: Path, function: str) -> set[str]:
    """The fields of a row that a function surely reads: `row["field"]` of its first parameter, or of that of a function
    which it has a data set map over its rows.

    A field that it also writes, or looks for first, need not be in the row.
    """
    body = next((n for n in _tree(file).body if isinstance(n, ast.FunctionDef) and n.name == function), None)
    if body is None:
        return set()
    calls = [n for n in ast.walk(body) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.args]
    mapped = [call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "map"]
    names = {node.id for node in mapped if isinstance(node, ast.Name)}
    inner = [n for n in ast.walk(body) if isinstance(n, ast.FunctionDef) and n.name in names]
    of_rows = [body, *inner, *(node for node in mapped if isinstance(node, ast.Lambda))]
    parameters = {function.args.args[0].arg for function in of_rows if function.args.args}
    read: set[str] = set()
    other: set[Any] = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id in parameters:
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                (read if isinstance(node.ctx, ast.Load) else other).add(node.slice.value)
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant):
            other.add(node.left.value)
        elif isinstance(node, ast.Dict):
            other |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
    return read - other


@functools.cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _imports(file: Path) -> Iterator[str]:
    """The modules that are imported when a file is: not in its functions, and not where it goes on without."""

    def of(nodes: list[ast.stmt]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
                yield node.module
            elif isinstance(node, ast.Try):
                goes_on = not all(any(isinstance(n, ast.Raise) for n in ast.walk(h)) for h in node.handlers)
                yield from () if goes_on else of(node.body)
            elif isinstance(node, ast.ClassDef):
                yield from of(node.body)

    return of(_tree(file).body)


def _has_nltk(name: str) -> bool:
    """Whether nltk would find one of its data sets without the network."""
    home = [Path.home() / "nltk_data", *(Path(base) / "nltk_data" for base in ("/usr/share", "/usr/local/share"))]
    folders = [*map(Path, filter(None, os.environ.get("NLTK_DATA", "").split(os.pathsep))), *home]
    return any((folder / kind / name).exists() for folder in folders for kind in NLTK_FOLDERS)
