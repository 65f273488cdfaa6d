"""Which source files a step's code is: its module and all that it imports, read from the code."""

import contextlib
import functools
import importlib.util
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
# What a package's modules read from its own folder.
BESIDE = ("*.j2", "*.csv", "templates/*.j2")

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
    assert _source(module, root), f"{module}: there is no such step in {root.absolute()}"
    found: set[Path] = set()
    queue = [PACKAGE, module]
    while queue:
        name = queue.pop()
        if name.endswith(".*"):
            package = Path(*name.split(".")[:-1])
            queue += [f"{name[:-1]}{path.stem}" for path in (root / package).glob("*.py")]
            continue
        file = _source(name, root)
        if file is None or file in found:
            continue
        found.add(file)
        # Importing a module runs its packages first.
        queue += [".".join(file.parts[:depth]) for depth in range(1, len(file.parts))]
        queue += _imports(file, (root / file).read_text(encoding="utf-8"))
    for folder in {file.parent for file in found}:
        found |= {path.relative_to(root) for pattern in BESIDE for path in (root / folder).glob(pattern)}
    return sorted(map(str, found))


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
def _imports(file: Path, text: str) -> list[str]:
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


def _source(module: str, root: Path) -> Path | None:
    """The file of a module of the package, None for what is outside it or is not a module."""
    if module.split(".")[0] != PACKAGE:
        return None
    path = Path(*module.split("."))
    # As Python looks for it: a package comes first.
    for file in (path / "__init__.py", path.with_suffix(".py")):
        if (root / file).is_file():
            return file
    return None
