"""Which source files a step's code is: its module and all that it imports, read from the code."""

import contextlib
import functools
import importlib.util
import os
import py_compile
import re
from pathlib import Path

PACKAGE = "steps"
# `import …`, and `from … import …`, which may go on in parentheses.
IMPORT = re.compile(
    r"^[ \t]*(?:import[ \t]+([^\n]+)|from[ \t]+(\.|steps\b)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]+))", re.MULTILINE
)

# The flags of byte code that is held to a hash of its source (PEP 552).
CHECKED = (0b11).to_bytes(4, "little")
# What a package's modules read from its own folder, and what of a folder in it.
BESIDE, TEMPLATES = (".j2", ".csv"), "templates"

# An `import_module` of an f-string that begins with a package may be any module of it. (Spelt out here, it is one.)
BY_NAME = re.compile(rf'import_module\(f"({PACKAGE}[\w.]*)\.\{{')


def code_files(module: str, root: Path = Path()) -> list[str]:
    """The source files of a step: its module and every module of the package that it imports, directly or not.

    Args:
        module: dotted name, such as "steps.recipes.sft".
        root: the folder that holds the package.

    Returns:
        Paths relative to `root`, sorted. Imports inside functions count, and of those by name every module of the
        package. So do the templates and tables that lie beside a module.
    """
    lying = _lying(root)
    assert _source(module, lying), f"{module}: there is no such step in {root.absolute()}"
    found: set[str] = set()
    queue = [PACKAGE, module]
    while queue:
        name = queue.pop()
        if name.endswith(".*"):
            package = name[:-2].replace(".", "/")
            modules = (file[:-3] for file in lying if os.path.dirname(file) == package and file.endswith(".py"))
            queue += [file.replace("/", ".") for file in modules]
            continue
        file = _source(name, lying)
        if file is None or file in found:
            continue
        found.add(file)
        # Importing a module runs its packages first.
        parts = file.split("/")
        queue += [".".join(parts[:depth]) for depth in range(1, len(parts))]
        queue += _imports(file, (root / file).read_text(encoding="utf-8"))
    folders = {os.path.dirname(file) for file in found}
    beside = {file: os.path.dirname(file).removesuffix(f"/{TEMPLATES}") for file in lying if file.endswith(BESIDE)}
    found |= {file for file, folder in beside.items() if {folder, os.path.dirname(file)} & folders}
    return sorted(found)


def _lying(root: Path) -> set[str]:
    """Every file of the package, relative to `root`: listed at once, to look for each name takes ten times as long."""
    found = set()
    for folder, below, files in os.walk(root / PACKAGE, followlinks=True):
        below[:] = [name for name in below if name != "__pycache__"]
        at = os.path.relpath(folder, root)
        found |= {f"{at}/{file}" for file in files}
    return found


def compile_sources() -> None:
    """Keep byte code of the package that Python checks against the bytes of its source, and no other.

    What Python writes by itself goes by size and time in whole seconds: an edit within one, or with the time kept,
    would run the old code under the new digest.
    """
    root = Path(__file__).parents[2]
    for source in (root / PACKAGE).rglob("*.py"):
        compiled = Path(importlib.util.cache_from_source(str(source)))
        expected = importlib.util.MAGIC_NUMBER + CHECKED + importlib.util.source_hash(source.read_bytes())
        try:
            with open(compiled, "rb") as file:
                if file.read(len(expected)) == expected:
                    continue
        except FileNotFoundError:
            pass
        with contextlib.suppress(OSError, py_compile.PyCompileError):
            py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH, doraise=True)


def code_paths(module: str) -> list[Path]:
    """The same files of the running package, where they lie: what the key of a step's resumable state rests on."""
    root = Path(__file__).parents[2]
    return [root / file for file in code_files(module, root)]


@functools.cache
def _imports(file: str, text: str) -> list[str]:
    """The dotted names that a module of the package may import from it; `steps.x.*` for any module of steps.x.

    By a regular expression: to parse the package takes 0.6 s, at every start of Snakemake and twice in each job on a
    cluster. An import in the text of a docstring counts too; what is no module is not found later.
    """
    names = [f"{package}.*" for package in BY_NAME.findall(text)]
    for modules, package, inside, things in IMPORT.findall(text):
        assert package != ".", f"{file}: write imports of {PACKAGE} in full"
        names += re.findall(rf"\b{PACKAGE}\b[\w.]*", modules)
        if package:
            # `from steps import common` names a module, `from steps.core.step import run` a thing inside one.
            names += [package + inside, *(f"{package}{inside}.{thing}" for thing in re.findall(r"\w+", things))]
    return names


def _source(module: str, lying: set[str]) -> str | None:
    """The file of a module of the package, None for what is outside it or is not a module."""
    path = module.replace(".", "/")
    # As Python looks for it: a package comes first.
    return next((file for file in (f"{path}/__init__.py", f"{path}.py") if file in lying), None)
