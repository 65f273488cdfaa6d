"""The picture of docs/architecture.md: packages on rows by what they import, read from the code.

A package stands one row above the highest that it imports; packages that import each other share a row. A subject's
section of the report is a package of its own, and so are the modules of the report above the sections. Under each name
stand the modules that rules run or, where there are none, the modules that it has.
"""

import ast
import re
from html import escape
from pathlib import Path

PAGE = "report page"
WIDTH, BOX, ROW, GAP = 1080, 58, 78, 14
# Of the small print, in pixels.
CHARACTER = 6
# On the dark and on the light background of a repository's page.
STYLE = (
    ".box{fill:#f4f6fa;stroke:#4a5f8a}.name{fill:#1d2433;font-weight:600}.rules{fill:#5a6478;font-size:11px}"
    "@media(prefers-color-scheme:dark){.box{fill:#1f2633;stroke:#8fa6d6}.name{fill:#e8ecf5}.rules{fill:#a8b2c8}}"
)


def modules(root: Path) -> dict[str, set[str]]:
    """Every module below steps/ with the modules that it imports, by dotted name; a package's own ends in __init__."""
    paths = sorted(root.glob("steps/*/**/*.py"))
    files = {".".join(file.relative_to(root).with_suffix("").parts): file for file in paths}
    imported: dict[str, set[str]] = {}
    for name, file in files.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "steps":
                names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        names |= {f"{package}.__init__" for package in names}
        imported[name] = names & files.keys() - {name}
    return imported


def package_of(module: str, imported: dict[str, set[str]]) -> str:
    """The package of a module; "report page" is what of the report stands above the sections."""
    parts = module.split(".")[1:-1]
    if parts == ["report"] and _reaches_a_section(module, imported):
        return PAGE
    return "/".join(parts[:2] if "section" in parts else parts[:1])


def packages(imported: dict[str, set[str]]) -> dict[str, set[str]]:
    """The packages with those that they import."""
    of = {module: package_of(module, imported) for module in imported}
    found: dict[str, set[str]] = {name: set() for name in of.values()}
    for module, others in imported.items():
        found[of[module]] |= {of[other] for other in others if other in of} - {of[module]}
    return found


def _reaches_a_section(module: str, imported: dict[str, set[str]]) -> bool:
    seen, queue = set(), [module]
    while queue:
        current = queue.pop()
        if ".section." in current:
            return ".section." not in module
        queue += [other for other in imported.get(current, ()) if other not in seen]
        seen.add(current)
    return False


def rows(found: dict[str, set[str]]) -> list[list[str]]:
    """The packages by row, the lowest first."""
    reach = {name: _reach(name, found) for name in found}
    height: dict[str, int] = {}

    def place(name: str) -> int:
        if name not in height:
            circle = {other for other in reach[name] if name in reach[other]} | {name}
            below = {other for member in circle for other in found[member]} - circle
            level = 1 + max((place(other) for other in below if other in found), default=-1)
            height.update(dict.fromkeys(circle, level))
        return height[name]

    for name in found:
        place(name)
    return [sorted(name for name in found if height[name] == level) for level in range(max(height.values()) + 1)]


def _reach(name: str, found: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    queue = list(found[name])
    while queue:
        other = queue.pop()
        if other in found and other not in seen:
            seen.add(other)
            queue += found[other]
    return seen


def run_by_rules(root: Path) -> dict[str, list[str]]:
    """The modules that rules run, by package."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in sorted(root.glob("rules/*.smk")))
    found: dict[str, list[str]] = {}
    for package, module in dict.fromkeys(re.findall(r"\bsteps\.(\w+)\.(\w+)(?= ?\n? *(?:\"|--settings))", text)):
        found.setdefault(package, []).append(module)
    return found


def _clipped(names: list[str], width: float) -> str:
    """As many of the names as a box has room for."""
    line = ", ".join(names)
    while len(line) * CHARACTER > width - GAP:
        names = names[:-1]
        line = ", ".join([*names, "…"])
    return line


def picture(root: Path) -> str:
    """The SVG."""
    imported = modules(root)
    found = packages(imported)
    own: dict[str, list[str]] = {name: [] for name in found}
    for module in imported:
        if not module.endswith("__init__"):
            own[package_of(module, imported)].append(module.rpartition(".")[2])
    run = run_by_rules(root)
    layout = rows(found)
    height = len(layout) * ROW + GAP
    body = []
    for level, row in enumerate(reversed(layout)):
        width = (WIDTH - GAP * (len(row) + 1)) / len(row)
        for place, name in enumerate(row):
            x, y = GAP + place * (width + GAP), GAP + level * ROW
            below = ", ".join(sorted(found[name])) or "nothing of Temper"
            ran = [module for module in own[name] if module in run.get(name.split()[0], ())] or own[name]
            body.append(
                f"<g><title>{escape(name)} imports {escape(below)}</title>"
                f'<rect class="box" x="{x:.0f}" y="{y}" width="{width:.0f}" height="{BOX}" rx="6"/>'
                f'<text class="name" x="{x + width / 2:.0f}" y="{y + 24}">{escape(name)}</text>'
                f'<text class="rules" x="{x + width / 2:.0f}" y="{y + 43}">{escape(_clipped(ran, width))}</text></g>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        ' role="img" aria-label="The packages of Temper, by what they import" font-family="sans-serif" font-size="15"'
        ' text-anchor="middle">\n'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )
