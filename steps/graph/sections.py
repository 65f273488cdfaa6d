"""Which sections of params.yaml each rule reads, and what its step is handed of them.

`SECTIONS` is the one table: `of_rule` shows a rule its own sections and no other, so that a rule that reads one more
has to say so here. The `params:` of DVC's stages follow from it.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from steps.data.sources import named
from steps.settings.axes import AXES
from steps.settings.data import OF_SOURCE, TEMPLATED, templated
from steps.settings.params import ASIDE
from steps.settings.stages import STAGES, TRAINED

if TYPE_CHECKING:
    from steps.graph.graph import Graph

# What there is to make, from what and under which names: the jobs of every rule follow from these.
GRAPH = ("workload", "seeds", "models", "data", "studies")
# What a training waits for, beside its settings: see `preflight.required`.
_TRAINING = ("preflight",)
# How text is held against the questions of every task, also of those that a path is chosen by and of explore.
_EVALUATION = ("decontaminate", "evaluate", "explore", "interpolate")

SECTIONS: dict[str, tuple[str, ...]] = {
    "download": ("models", "data"),
    "prepare": ("models",),
    "world": ("world",),
    "pretrain_model": ("pretrain",),
    "ingest": ("data", "ingest"),
    "filter": ("data", "filter"),
    "dedup": ("data", "dedup"),
    "decontaminate": _EVALUATION,
    "split": ("data", "split"),
    "bucket": ("engine", "bucket"),
    "score_dirt": (),
    "check_model": (),
    "preflight_node": ("preflight", *TRAINED),
    "inspect_rows": ("inspect", "data", *TRAINED),
    # Of `data` the weights of sources.
    "sft": ("sft", "data", *_TRAINING),
    "cpt": ("cpt", "data", *_TRAINING),
    "rl": ("rl", "data", *_TRAINING),
    "reward": ("reward", "data", *_TRAINING),
    "distill": ("distill", "data", *_TRAINING),
    # Where `forecast.stop` says so, it waits for the forecast.
    "opd": ("opd", "data", "forecast", *_TRAINING),
    "merge": ("merge",),
    "interpolate": ("interpolate", "evaluate"),
    "difficulty": ("engine", "difficulty"),
    "gate": ("gate", "rl"),
    "explore": ("engine", "explore", "evaluate"),
    "generate": ("engine", "generate", *_EVALUATION),
    "logprobs": ("logprobs", "distill"),
    "forecast": ("forecast",),
    "evaluate": ("engine", "evaluate"),
    "geometry": ("geometry",),
    "detect": ("engine", "detect"),
    "evidence": ("engine", "evidence"),
    "attribute": ("attribute",),
    "mixture": ("mixture",),
    "treat": ("treat",),
    "score_causes": (),
    "deliver": ("deliver", "evaluate", "mixture", *STAGES),
}


def sections(rules: Iterable[str], params: dict) -> list[str]:
    """The sections that some rules read, in the order of params.yaml; those that every rule rests on included.

    The report reads all that is not of a delivery.
    """
    rules = [*rules]
    if "report" in rules:
        return [section for section in params if section not in ASIDE]
    read = {*GRAPH, *(section for rule in rules for section in SECTIONS[rule])}
    return [section for section in params if section in read]


def of_rule(graph: "Graph", rule: str, wildcards: Any) -> dict:
    """What the step of a rule is handed for its wildcards: its settings.

    Raises:
        KeyError: it reads a section that `SECTIONS` does not name.
    """
    seen = {section: graph.params[section] for section in SECTIONS[rule] if section in graph.params}
    return _BUILDERS.get(rule, _own)(seen, rule, _Wanted(graph, wildcards))


class _Wanted(SimpleNamespace):
    """What a job is about: the graph, and the wildcards of its rule."""

    def __init__(self, graph: "Graph", wildcards: Any):
        asked = {key: getattr(graph, key) for key in ("nodes", "sources", "dealt_from", "folder")}
        super().__init__(wildcards=wildcards, **asked)

    @property
    def node(self) -> Any:
        return self.nodes[self.wildcards.node]


def _own(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section of the rule's name and, of a step that samples, the engine that does it."""
    return seen.get(rule, {}) | ({"engine": seen["engine"]} if "engine" in seen else {})


def _with_sources(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section and, by the names of their files in rows, what sources say of it themselves; of split, the judge."""
    own: dict[str, dict] = {}
    for source, names in _files(seen, wanted, wanted.wildcards.dataset):
        if said := {key: source[key] for key in OF_SOURCE[rule] if key in source}:
            said |= {"source": source["path"]} if rule == "split" else {}
            own |= dict.fromkeys(names, said)
    judge = seen["data"][wanted.wildcards.dataset].get("judge") if rule == "split" else None
    return seen[rule] | ({"sources": own} if own else {}) | ({"judge": judge} if judge else {})


def _files(seen: dict, wanted: _Wanted, dataset: str) -> list[tuple[dict, list[str]]]:
    """The sources of a data set, each with what rows call its files."""
    # What the world writes or the hub has is a file, if not there yet.
    files = named([{"files": [source["path"]]} | source for source in wanted.sources(dataset)])
    sources = seen["data"][dataset]["sources"]
    return [(source, [file.name for file in own]) for source, own in zip(sources, files, strict=True)]


def _weights(seen: dict, wanted: _Wanted, datasets: Iterable[str]) -> dict:
    """What a training is told of the weights of sources: of each file that it reads, those of its rows by their file;
    nothing where no source has one."""
    weights = []
    for dataset in datasets:
        weighted = any("weight" in source for source in seen["data"][dataset]["sources"])
        sources = _files(seen, wanted, dataset) if weighted else []
        weights.append({name: s["weight"] for s, names in sources if "weight" in s for name in names})
    return {"source_weights": weights} if any(weights) else {}


def _download(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """An entry of `models` or `data`, without what is made of a model once it is there."""
    entry = seen[wanted.wildcards.kind][wanted.wildcards.name]
    own = {key: value for key, value in entry.items() if key not in TEMPLATED}
    return own | ({"base": wanted.folder(entry["base"])} if "base" in entry else {})


def _prepare(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """What an entry of `models` says of its chat template."""
    return {"name": wanted.wildcards.name} | templated(seen["models"][wanted.wildcards.name])


def _decontaminate(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, with where the questions of single evaluation files are."""
    questions: dict[str, dict] = {}
    for task in seen["evaluate"]["tasks"].values():
        field = task.get("overrides", {}).get("dataset_kwargs", {}).get("field")
        where = {"column": task.get("question"), "field": field}
        if given := {key: value for key, value in where.items() if value}:
            questions |= dict.fromkeys(task.get("data_files", {}).values(), given)
    return seen["decontaminate"] | ({"questions": questions} if questions else {})


def _generate(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section with its engine, and how responses are held against the evaluation sets."""
    return _own(seen, rule, wanted) | {"decontaminate": _decontaminate(seen, rule, wanted)}


def _specs(tasks: dict) -> dict:
    """The descriptions of tasks as an evaluation reads them."""
    return {task: {key: value for key, value in spec.items() if key != "question"} for task, spec in tasks.items()}


def _pretrain(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """What the sizes share, with what one of them has of its own."""
    shared = {key: value for key, value in seen["pretrain"].items() if key != "sizes"}
    return shared | seen["pretrain"]["sizes"][wanted.wildcards.size]


def _node(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """A recipe's own settings, and the weights of the sources that it trains on."""
    return wanted.node.settings | _weights(seen, wanted, wanted.dealt_from(wanted.node.name))


def _preflight(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """What a training is tried with: its own settings, and those of the section but for who waits for it."""
    own = {key: value for key, value in seen["preflight"].items() if key != "required"}
    return own | {"stage": wanted.node.stage, "recipe": wanted.node.settings}


def _inspect(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, with what of a recipe's settings says which tokens a row becomes; of a model, the stage sft's."""
    node = wanted.nodes.get(wanted.wildcards.node)
    stage, settings = (node.stage, node.settings) if node else ("sft", seen["sft"])
    told = {key: settings[key] for key in ("thinking", "completion_only_loss", "max_length") if key in settings}
    named = {"data": wanted.wildcards.dataset, "recipe": wanted.wildcards.node, "stage": stage}
    return seen["inspect"] | named | told | _weights(seen, wanted, [wanted.wildcards.dataset])


def _logprobs(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, with what says which tokens the rows of distill become."""
    return seen["logprobs"] | {"thinking": seen["distill"]["thinking"]}


def _interpolate(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """A path's own settings, and how its points are evaluated."""
    evaluate = {key: seen["evaluate"][key] for key in ("limit", "batch_size", "max_new_tokens")}
    return evaluate | {"tasks": _specs(seen["evaluate"]["tasks"])} | wanted.node.settings


def _gate(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, with what of an rl node's settings it judges."""
    judged = ("rewards", "success", "pass_rate", "max_failures", "method", "max_new_tokens", "aggregation")
    return seen["gate"] | {key: wanted.node.settings[key] for key in judged if key in wanted.node.settings}


def _explore(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, with the descriptions of the tasks that it names."""
    described = _specs(seen["evaluate"]["tasks"])
    specs = {task: described[task] for task in seen["explore"]["tasks"] if task in described}
    return seen["explore"] | {"task_specs": specs, "engine": seen["engine"]}


def _forecast(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, without what only the report reads."""
    return {key: value for key, value in seen["forecast"].items() if key != "axes"}


def _evaluate(seen: dict, rule: str, wanted: _Wanted) -> dict:
    """The section, without the descriptions of tasks that only a path is chosen on."""
    evaluate = seen["evaluate"]
    named = {task for axis in AXES for task in evaluate[axis]}
    tasks = {task: spec for task, spec in _specs(evaluate["tasks"]).items() if task in named}
    return evaluate | {"tasks": tasks, "engine": seen["engine"]}


_BUILDERS: dict[str, Callable[[dict, str, _Wanted], dict]] = {
    "download": _download,
    "prepare": _prepare,
    **dict.fromkeys(OF_SOURCE, _with_sources),
    "decontaminate": _decontaminate,
    "pretrain_model": _pretrain,
    "preflight_node": _preflight,
    "inspect_rows": _inspect,
    **dict.fromkeys(STAGES, _node),
    "generate": _generate,
    "logprobs": _logprobs,
    "interpolate": _interpolate,
    "gate": _gate,
    "explore": _explore,
    "forecast": _forecast,
    "evaluate": _evaluate,
}
