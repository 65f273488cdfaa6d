"""What `snakemake inspect` is told of: a data set, and whose eyes see it."""

from typing import Any

from steps.graph.graph import Graph
from steps.graph.relations import one_checkpoint
from steps.settings.errors import meant
from steps.settings.stages import STAGES


def named(values: dict[str, Any]) -> dict[str, Any]:
    """The values of `--config`, where `data=<name>` names a data set to look at and is no section."""
    if not isinstance(values.get("data"), str):
        return values
    return {key: value for key, value in values.items() if key != "data"} | {"inspected": values["data"]}


def wanted(graph: Graph) -> tuple[str, str]:
    """The data set to look at, and the node or model that sees it: by default the first recipe that trains on it, else
    the first model.

    Raises:
        ValueError: neither is named, there is none of that name, or the recipe takes no such rows.
    """
    data, recipe = graph.params.get("inspected", ""), graph.params.get("recipe", "")
    if not data and not recipe:
        raise ValueError("data: nothing is named; write snakemake inspect --config data=<data set> recipe=<recipe>")
    if data and data not in graph.params["data"]:
        raise ValueError(f"data: no entry `{data}`{meant(data, list(graph.params['data']))}")
    if not recipe:
        users = [name for name, node in graph.nodes.items() if data in _data(node)]
        return data, (users or list(graph.params["models"]))[0]
    name = _one(graph, recipe)
    if name in graph.nodes:
        own = _data(graph.nodes[name])
        if not (own or data) or not STAGES[graph.nodes[name].stage].trains:
            raise ValueError(f"recipe: `{recipe}` is trained on no data set; name one that is")
        return data or own[0], name
    if not data:
        raise ValueError(f"data: `{recipe}` is a model, and nothing says which rows it is to see; add data=<data set>")
    return data, name


def _one(graph: Graph, recipe: str) -> str:
    """The first node of a recipe, whose seeds see the same; or a model."""
    family = [node.name for node in graph.nodes.values() if node.recipe == recipe and not node.point]
    return family[0] if family else one_checkpoint("recipe", recipe, graph.nodes, graph.params["models"])


def _data(node: Any) -> list[str]:
    return [source["data"] for source in node.sources] or ([node.data] if node.data else [])
