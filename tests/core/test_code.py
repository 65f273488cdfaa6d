"""Which files are a step's code: against Python's own parser, and against what the interpreter loads."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steps.core.code import BY_NAME, _imports, code_files, code_paths
from steps.settings.methods import METHODS
from tests.core.toy import STEP, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path):
    files = {
        "__init__.py": "",
        "a.py": "from steps.b import thing\nimport json, steps.c\n",
        "b.py": "def thing():\n    from steps import d\n",
        "c.py": "from steps.a import x\n",
        "d.py": "import os\n",
        "alone.py": "import torch\n",
    }
    (tmp_path / "steps").mkdir()
    for name, text in files.items():
        (tmp_path / "steps" / name).write_text(text)
    return tmp_path


def test_code_is_the_module_and_all_it_imports_even_in_functions_and_circles(package):
    expected = [f"steps/{name}.py" for name in ("__init__", "a", "b", "c", "d")]
    assert code_files("steps.a", package) == expected
    assert code_files("steps.alone", package) == ["steps/__init__.py", "steps/alone.py"]


def test_an_import_by_name_may_be_any_module_of_its_package(package):
    (package / "steps" / "kinds").mkdir()
    for name in ("__init__", "one", "two"):
        (package / "steps" / "kinds" / f"{name}.py").write_text("")
    text = 'from importlib import import_module\n\nimport_module(f"steps.kinds.{kind}")\n'
    (package / "steps" / "d.py").write_text(text)
    kinds = {f"steps/kinds/{name}.py" for name in ("__init__", "one", "two")}
    assert kinds <= set(code_files("steps.a", package))
    assert not kinds & set(code_files("steps.alone", package))


def test_every_import_of_the_package_is_found():
    """Against Python's own parser: the imports are read without it, for speed."""
    for file in sorted(ROOT.glob("steps/**/*.py")):
        text, named = file.read_text(), set()
        for statement in ast.walk(ast.parse(text)):
            if isinstance(statement, ast.Import):
                named |= {alias.name for alias in statement.names}
            if isinstance(statement, ast.ImportFrom):
                named |= {statement.module, *(f"{statement.module}.{alias.name}" for alias in statement.names)}
        assert {name for name in named if name.split(".")[0] == "steps"} <= set(_imports(file, text)), file


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("import json, steps.c as c", {"steps.c"}),
        ("from steps.a import (\n    b,  # why\n    c as d,\n)", {"steps.a", "steps.a.b", "steps.a.c"}),
        ("def f():\n    from steps import a", {"steps", "steps.a"}),
        ("from stepsister import steps\nimport stepsister", set()),
    ],
)
def test_forms_of_an_import(text, names):
    found = _imports(Path("x.py"), text)
    assert names <= set(found) and all(name.split(".")[0] == "steps" for name in found)
    assert names or not found


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="x.py: write imports of steps in full"):
        _imports(Path("x.py"), "from .a import b")


def test_a_step_that_is_not_there_is_not_a_step_without_code(package):
    with pytest.raises(AssertionError, match="steps.gone: there is no such step"):
        code_files("steps.gone", package)


def test_code_of_a_real_step_is_what_python_loads(tmp_path):
    """Against the interpreter itself: import the module and see which of the package it has loaded."""
    for module in ("steps.data.ingest", "steps.report.report", "steps.evaluation.evaluate"):
        script = f"import sys, {module}; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'steps'))"
        loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        listed = {
            file.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for file in code_files(module, ROOT)
        }
        assert set(loaded.stdout.split()) <= listed


def test_the_running_package_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = code_paths("steps.recipes.sft")
    assert [str(path.relative_to(ROOT)) for path in paths] == code_files("steps.recipes.sft", ROOT)


def test_a_module_that_is_imported_by_a_name_is_in_the_code_of_a_step():
    """Only one form of such an import is read: `BY_NAME`."""
    for file in ROOT.glob("steps/**/*.py"):
        text = file.read_text()
        calls = len(re.findall(r"import_module\(", text)) if file.name != "code.py" else 0
        assert calls == len(BY_NAME.findall(text)) * (file.name != "code.py"), file
        assert "__import__" not in text, file
    methods = {f"steps/reinforcement/methods/{name}.py" for name in METHODS}
    assert methods <= set(code_files("steps.reinforcement.rl", ROOT))


def test_byte_code_goes_by_the_bytes_of_its_source(root):
    """An edit of the same size that keeps the time: Python itself would run what was compiled before."""
    source = root / "steps/toy/double.py"
    command = [sys.executable, "-c", "from steps.core.code import compile_sources; compile_sources()"]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": ""}

    def doubled(factor: str) -> int:
        status = source.stat()
        source.write_text(STEP.replace('{"value": 2 *', f'{{"value": {factor} *'))
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        subprocess.run(command, cwd=root, env=environment, check=True)
        run(root)
        return json.loads((root / "out/it/double.json").read_text())["value"]

    assert [doubled("2"), doubled("5"), doubled("7")] == [6, 15, 21]
