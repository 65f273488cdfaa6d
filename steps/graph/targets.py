"""What Snakemake is asked for, checked before it plans: a target that nothing makes is one line, with what was meant.

Imports nothing heavy: every start of Snakemake runs it.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.graph import workload
from steps.graph.command_line import MADE, OVERLAYS, is_target
from steps.graph.graph import Graph
from steps.settings.errors import meant

OVERLAYS_LIE = "workloads"
# Options that name rules or files as targets do; a rule that makes many results is one that they may name.
NAMING = {"forcerun": "--forcerun", "until": "--until", "omit_from": "--omit-from"}


def asked() -> Any:
    """What Snakemake's command line asks for."""
    from snakemake.cli import get_argument_parser

    return get_argument_parser().parse_args(sys.argv[1:])


def check(workflow: Any, graph: Graph, asked: Any) -> None:
    """End the program by one line for a target, or a name of an option, that no rule is called, nor can make.

    Args:
        workflow: of Snakemake, with all its rules.
        asked: as `asked` has it.
    """
    try:
        for target in map(str, asked.targets or []):
            check_target(target, workflow.rules, graph)
        for key, option in NAMING.items():
            for name in getattr(asked, key) or []:
                check_named(str(name), option, workflow.rules, graph)
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(USER_ERROR)


def check_target(target: str, rules: Iterable[Any], graph: Graph) -> None:
    """Raise a ValueError for what cannot be asked for."""
    path, rules = Path(target), list(rules)
    whole = {rule.name: not rule.has_wildcards() for rule in rules}
    known = [name for name in whole if whole[name] and not name.isdigit()]
    if path.suffix in OVERLAYS and path.is_file() and not is_target(path):
        raise ValueError(
            f"{target}: is a file of settings and no target; write --configfile {target}, after the targets"
        )
    if whole.get(target) or any(makes(rule, target, graph) for rule in rules):
        return
    if own := checkpoint_of(target, graph):
        raise ValueError(f"{target}: is a recipe; name its study, or its checkpoint: {own}")
    if target in whole:
        instead = f"name a study, another target or one file{meant('', known)}"
        raise ValueError(f"{target}: is a rule that makes many results; {instead}")
    raise ValueError(f"{target}: is no target{_instead(target, known, rules, graph)}")


def check_named(name: str, option: str, rules: Iterable[Any], graph: Graph) -> None:
    """Raise a ValueError for what an option names and is no rule, nor a file that one makes."""
    rules = list(rules)
    names = [rule.name for rule in rules]
    if name not in names and not any(makes(rule, name, graph) for rule in rules):
        raise ValueError(f"{option}: {name} is no rule{_instead(name, names, rules, graph)}")


def checkpoint_of(recipe: str, graph: Graph) -> str | None:
    """The manifest of a node, or of the first of a recipe."""
    named = [node.name for node in graph.nodes.values() if recipe in (node.recipe, node.name)]
    return f"{graph.folder(named[0])}/manifest.json" if named else None


def _instead(target: str, known: list[str], rules: list[Any], graph: Graph) -> str:
    """The end of the line: an overlay that has it, or what is near, or what there is."""
    own = graph.params["workload"]
    if file := overlay_of(target, own):
        return f" of the workload {own}; it is one of {file}: write snakemake {target} --configfile {file}"
    parts = Path(target).parts
    if len(parts) == 1:
        return meant(target, known)
    if near := meant(target, producible(rules, graph)).partition("did you mean")[2]:
        return f"; did you mean{near}"
    folders = f"{graph.results}/<study>/<recipe>/manifest.json and reports/{own}/index.html"
    return f"; results are named as {folders}, of the studies {', '.join(graph.params['studies'])}"


def overlay_of(target: str, own: str) -> str | None:
    """The overlay of another workload that has a study of this name, or whose results a path names."""
    parts = Path(target).parts
    for file in sorted(Path(OVERLAYS_LIE).rglob("*.yaml")):
        try:
            content = workload.read(file)
        except ValueError:
            continue
        name, studies = content.get("workload"), content.get("studies")
        of_path = len(parts) > 1 and parts[0] in MADE and parts[1] == name
        # One that other overlays stand on has no name of its own.
        if (
            isinstance(name, str)
            and name != own
            and (of_path or (len(parts) == 1 and isinstance(studies, dict) and target in studies))
        ):
            return str(file)
    return None


def values(graph: Graph) -> dict[str, list[str]]:
    """What wildcards may stand for; those of other names are what their rules say."""
    nodes, models = [*graph.nodes], [*graph.params["models"]]
    named = dict.fromkeys(("name", "teacher"), [*nodes, *models])
    own = {"workload": [graph.params["workload"]], "study": [*graph.params["studies"]]}
    return own | named | {"node": nodes, "model": models, "dataset": [*graph.params["data"]]}


def makes(rule: Any, file: str, graph: Graph) -> bool:
    """Whether a rule makes a file of this workload."""
    known = values(graph)
    for made in rule.products():
        found = match.groupdict() if (match := made.match(file)) else None
        if found is not None and all(value in known.get(name, [value]) for name, value in found.items()):
            # A node lies in the folder of its study alone.
            return not {"study", "node"} <= found.keys() or graph.nodes[found["node"]].study == found["study"]
    return False


def producible(rules: Iterable[Any], graph: Graph) -> Iterator[str]:
    """The files that rules make of this workload: of each pattern of theirs, with the names that there are."""
    from snakemake.io import strip_wildcard_constraints

    known = values(graph)
    for rule in rules:
        for made in rule.products():
            pattern = strip_wildcard_constraints(str(made))
            names = [name for name in known if f"{{{name}}}" in pattern]
            if re.sub("|".join(f"{{{name}}}" for name in names) or "^$", "", pattern).count("{"):
                continue
            for chosen in product(*(known[name] if name != "study" or "node" not in names else [""] for name in names)):
                filled = dict(zip(names, chosen, strict=True))
                if "study" in filled and "node" in filled:
                    filled["study"] = graph.nodes[filled["node"]].study
                if made.match(file := pattern.format(**filled)):
                    yield file
