"""Words that a shell completes on the line of `snakemake`: targets, overlays, recipes, of the workload that it names.

`python -m steps.cli completion bash` (or zsh) prints what a shell needs; it asks `words` at each Tab.
"""

from pathlib import Path

from steps.graph import command_line, recipes, workload
from steps.graph.graph import Graph

SHELLS = {
    "bash": "",
    "zsh": "autoload -U +X bashcompinit && bashcompinit\n",
}
# `=` ends a word for bash, which then hands over `checkpoint`, `=` and `sl` in place of `checkpoint=sl`.
FUNCTION = """\
_temper() {
    local IFS=$'\\n'
    local known="$(python -m steps.cli words -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)"
    COMPREPLY=($(compgen -W "$known" -- "${COMP_WORDS[COMP_CWORD]#=}"))
    case "${COMPREPLY[0]}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _temper snakemake
"""
# Beside studies; the last two are told what of.
TARGETS = ("all", "preflight", "check_models", "inspect", "deliver")
OPTIONS = ("--cores", "--config", "--configfile", "--dry-run", "--forcerun")
# Of --config, with the names that each takes.
RECIPES = ("checkpoint", "recipe")
VALUES = (*RECIPES, "data", "live", "workload")


def script(shell: str) -> str:
    return SHELLS[shell] + FUNCTION


def words(line: list[str]) -> list[str]:
    """What may stand where a line of Snakemake's arguments ends; nothing where files may, or it names no workload that
    can be read.

    Args:
        line: the last word is the one that is written.
    """
    *before, current = line or [""]
    option = next((word for word in reversed(before) if word.startswith("-")), "")
    if current.startswith("-"):
        return [*OPTIONS]
    if option in command_line.FILES:
        return [str(file) for file in sorted(Path("workloads").rglob("*.yaml")) if file.parent.name != "common"]
    try:
        graph = graph_of(before)
    except ValueError:
        return []
    if option in command_line.VALUES:
        return _values(before, current, graph)
    if option in ("--cores", "-c") and before[-1] == option:
        return ["all"]
    return [*graph.params["studies"], *TARGETS]


def _values(before: list[str], current: str, graph: Graph) -> list[str]:
    """What may stand in `--config`: a key with its `=`, or what a key takes, which zsh has in one word with it."""
    key, equals, _ = current.rpartition("=")
    if not key and (equals or before[-1] == "="):
        key = before[-1] if equals else before[-2]
        equals = ""
    if not key:
        return [f"{name}=" for name in VALUES]
    names = {"data": [*graph.params["data"]], "live": ["true"]}
    names |= dict.fromkeys(RECIPES, [*graph.nodes, *graph.params["models"]])
    return [f"{key}=" * bool(equals) + name for name in names.get(key, [])]


def graph_of(line: list[str]) -> Graph:
    """The graph of the overlays that a line names, its values left out.

    Raises:
        ValueError: they cannot be read.
    """
    files = [Path(name) for name in command_line.following(line, command_line.FILES) if Path(name).is_file()]
    params, _ = workload.load(Path("."), files)
    return Graph(recipes.complete(params))
