"""What `snakemake deliver` is told of one checkpoint: what it was made of, by what, from whose rows."""

import re

from steps.graph.graph import Graph
from steps.graph.relations import one_checkpoint
from steps.settings.data import DATA_STEPS
from steps.settings.delivery import OF_RELEASE, RELEASE_NAME


def delivered(graph: Graph) -> str:
    """The node or model that `checkpoint` names: what is to be delivered.

    Raises:
        ValueError: it names none, several, or one that writes no text.
    """
    name = graph.params.get("checkpoint")
    if name is None:
        raise ValueError("checkpoint: nothing is named; write snakemake deliver --config checkpoint=<recipe>")
    return one_checkpoint("checkpoint", name, graph.nodes, graph.params["models"])


def lineage_of(graph: Graph, name: str) -> list[str]:
    """A node or model after everything that it descends from, learned from or was chosen rows by."""
    members: dict[str, None] = {}

    def visit(member: str) -> None:
        node = graph.nodes.get(member)
        base = graph.params["models"].get(member, {}).get("base")
        if base and base not in members:
            visit(base)
        others = [node.judge, node.treatment and node.treatment["diagnosis"]] if node else []
        for other in (*node.parents, *node.teachers, *filter(None, others)) if node else ():
            if other not in members:
                visit(other)
        members[member] = None

    visit(name)
    return list(members)


def delivery(graph: Graph) -> dict:
    """All that the delivery is told: its section, and what the checkpoint was made of and by.

    Raises:
        ValueError: as `delivered`; or the release has a name that the hub does not take.
    """
    name = delivered(graph)
    lineage, weights = lineage_of(graph, name), graph.ancestors(name)
    nodes = [graph.nodes[member] for member in lineage if member in graph.nodes]
    data = {node.name: [s["data"] for s in node.sources] or ([node.data] if node.data else []) for node in nodes}
    # The hub takes letters, digits, point, hyphen and underscore.
    release = graph.params["deliver"]["name"] or re.sub(r"[^\w.-]", "_", f"{graph.params['workload']}-{name}")
    if not re.match(RELEASE_NAME, release):
        raise ValueError(
            f"deliver.name: {release} does not match what is allowed: {OF_RELEASE}; write a name for the release"
        )
    library = [file for key in ("general", "library") for file in graph.params["mixture"][key]]
    return graph.params["deliver"] | {
        "workload": graph.params["workload"],
        "checkpoint": name,
        "base": graph.root(name),
        "name": release,
        "nodes": [
            {key: node.to_dict()[key] for key in ("name", "stage", "parents", "teachers", "judge", "seed")}
            | {"settings": node.settings, "treatment": node.treatment, "data": data[node.name]}
            | {"accounts": accounts(graph, node.name)}
            for node in nodes
        ],
        "models": {
            model: graph.params["models"][model] | {"folder": graph.source(model), "weights": model in weights}
            for model in lineage
            if model not in graph.nodes
        },
        "data": {
            dataset: [
                source | {"file": lying["path"]}
                for source, lying in zip(graph.params["data"][dataset]["sources"], graph.sources(dataset), strict=True)
            ]
            for dataset in dict.fromkeys(name for names in data.values() for name in names)
        },
        "documents": library if any(node.stage == "cpt" and node.treatment for node in nodes) else [],
    }


def accounts(graph: Graph, name: str) -> list[str]:
    """The manifests that count the rows which a node trained on, and those that were left out before."""
    node = graph.nodes[name]
    folders = [f"{graph.results}/treat/{name}"] if node.treatment and node.stage == "sft" else []
    folders += [f"{graph.results}/gate/{name}"] if node.stage == "rl" else []
    folders += [graph.generation(*pair) for pair in graph.generations(name)]
    return [f"{folder}/manifest.json" for folder in (*folders, graph.folder(name))]


def delivery_inputs(graph: Graph) -> list[str]:
    """The files that stand for what a delivery says of the checkpoint, its weights aside."""
    handed = delivery(graph)
    measured = dict.fromkeys((handed["checkpoint"], handed["base"]))
    files = [f"{graph.results}/evaluation/{name}/manifest.json" for name in measured]
    steps = DATA_STEPS
    files += [f"{graph.results}/data/{data}/{step}/manifest.json" for data in handed["data"] for step in steps]
    files += [file for node in handed["nodes"] for file in node["accounts"]]
    files += [edge for model in handed["models"] for edge in graph.edges(model)]
    return list(dict.fromkeys(files))


def check_delivery(graph: Graph) -> None:
    """Raise a ValueError where what `checkpoint` names cannot be delivered, or its licence is not known."""
    from steps.delivery.licences import check_licence

    check_licence(delivery(graph))
