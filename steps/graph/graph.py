"""What the Snakefile asks of Python: where things lie, which files a step's code is, whether another run is alive.

Imports nothing heavy: Snakemake loads it at every parse.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path

from steps.core.bounded import files_of
from steps.data.sources import listed
from steps.graph import recipes
from steps.graph.node import Node
from steps.settings.axes import AXES, CAPABILITIES
from steps.settings.data import READ, templated
from steps.settings.params import ASIDE
from steps.settings.stages import STAGES

# Bytes of raw rows from which it is worth it that several processes clean them, and how many.
LARGE, CLEANING_PROCESSES = 32 << 20, 4


class Graph:
    """The files behind the recipe graph: where each checkpoint and each evaluation set lies.

    Raises:
        ValueError: a recipe is wrong.
    """

    def __init__(self, params: dict):
        self.params = params
        self.nodes = {node.name: node for node in recipes.resolve(params)}
        self.results = f"results/{params['workload']}"
        self.world = f"{self.results}/world/"

    def folder(self, name: str) -> str:
        """The checkpoint folder of a node or of an entry of `models`."""
        if name in self.nodes:
            return f"{self.results}/{self.nodes[name].study}/{name}"
        return f"{self.results}/prepare/{name}" if templated(self.params["models"][name]) else self.source(name)

    def source(self, name: str) -> str:
        """Where the files of an entry of `models` lie as their owner made them."""
        own = f"{self.results}/download/models/{name}"
        return own if self.downloaded(name) else self.params["models"][name]["path"]

    def adapted(self, kind: str, name: str) -> list[str]:
        """The files that stand for the base of what the rule download makes, where it is an adapter of one."""
        base = self.params["models"][name].get("base") if kind == "models" else None
        return self.made(base) if base else []

    @property
    def comparing(self) -> str | None:
        """The entry of `models` whose states tell which rows say the same; None where none are compared."""
        semantic = self.params["dedup"]["semantic"]
        return semantic["model"] if semantic else None

    def made(self, name: str) -> list[str]:
        """The manifest of a checkpoint, where a rule makes it."""
        by_rule = name in self.nodes or templated(self.params["models"][name])
        return [f"{self.folder(name)}/manifest.json"] if by_rule else self.downloaded(name)

    def downloaded(self, name: str) -> list[str]:
        """The manifest of an entry of `models` that the rule download makes: it is fetched, or its base is named."""
        by_rule = {"revision", "base"} & self.params["models"][name].keys()
        return [f"{self.results}/download/models/{name}/manifest.json"] if by_rule else []

    def edges(self, name: str) -> list[str]:
        """The files that stand for a checkpoint in the DAG: its manifest, and that a model is what the stages need."""
        return self.made(name) + ([] if name in self.nodes else [f"{self.check(name)}/manifest.json"])

    def check(self, model: str) -> str:
        """The folder of what was found about a model before anything rests on it."""
        return f"{self.results}/check_model/{model}"

    def ancestors(self, name: str) -> list[str]:
        """A node or model and everything it descends from, itself first."""
        line = [name]
        for member in line:
            parents = self.nodes[member].parents if member in self.nodes else ()
            line += [parent for parent in parents if parent not in line]
        return line

    def measured(self, study: str | None = None) -> list[str]:
        """The checkpoints to evaluate: the nodes of a study, or of all, and the models they descend or learn from."""
        nodes = [n for n, node in self.nodes.items() if study in (None, node.study) and STAGES[node.stage].writes]
        models = [
            a for name in nodes for a in (*self.ancestors(name), *self.nodes[name].teachers) if a not in self.nodes
        ]
        return list(dict.fromkeys([*models, *nodes]))

    def root(self, name: str) -> str:
        """The model that a node descends from by first parents."""
        while name in self.nodes:
            name = self.nodes[name].parents[0]
        return name

    def detected(self, study: str | None = None) -> list[str]:
        """The nodes of a study, or of all, whose training rows are examined one by one."""
        studies = self.params["studies"]
        return [
            name
            for name, node in self.nodes.items()
            if node.stage == "sft" and study in (None, node.study) and "detect" in studies[node.study]
        ]

    def diagnosed(self, study: str | None = None) -> list[str]:
        """The detected nodes whose unlearned rows are attributed to causes."""
        return [name for name in self.detected(study) if self.nodes[name].settings["trajectory"]]

    def scored(self, study: str | None = None) -> list[str]:
        """The detected nodes of whose rows the world knows which cannot be learned, and why."""
        return [name for name in self.detected(study) if self.from_world(self.examined(name), "lessons/")]

    def moved(self, study: str | None = None) -> list[str]:
        """The nodes of a study, or of all, whose distance from their root is measured."""
        studies = self.params["studies"]
        nodes = self.nodes.items()
        return [name for name, node in nodes if study in (None, node.study) and studies[node.study].get("geometry")]

    def explored(self, study: str | None = None) -> list[str]:
        """The checkpoints that are sampled many times: the nodes of a study, or of all, and what they start from."""
        studies = self.params["studies"]
        nodes = [n for n in self.measured() if n in self.nodes and study in (None, self.nodes[n].study)]
        nodes = [name for name in nodes if studies[self.nodes[name].study].get("explore")]
        starts = [parent for name in nodes for parent in self.nodes[name].parents]
        return list(dict.fromkeys([*starts, *nodes]))

    def gated(self, study: str | None = None) -> list[str]:
        """The nodes of a study, or of all, whose reward is tried before they are trained by it."""
        return [name for name, node in self.nodes.items() if node.stage == "rl" and study in (None, node.study)]

    def examined(self, name: str) -> str:
        """The data set whose training rows a detected node is examined on."""
        return self.params["studies"][self.nodes[name].study]["detect"]

    def all_rows(self, dataset: str) -> str:
        """The training rows of a data set."""
        return f"{self.results}/data/{dataset}/bucket/train.jsonl"

    def input_rows(self, name: str) -> str:
        """The training rows that an sft node has before its own treatment: its parent's where that trains on the same
        data set, so that a removed row stays removed."""
        node = self.nodes[name]
        parent = self.nodes.get(node.parents[0])
        if parent and parent.stage == "sft" and parent.data == node.data:
            return self.train_rows(parent.name)
        assert node.data, f"stage {node.stage} trains on rows"
        return self.all_rows(node.data)

    def difficulty(self, name: str) -> str:
        """The folder that has the pass rate of an rl node's start on its rows."""
        node = self.nodes[name]
        return f"{self.results}/difficulty/{node.data}/{node.parents[0]}"

    def held_out(self, name: str) -> list[str]:
        """The file of rows that an rl node is asked while it trains, where it is."""
        node = self.nodes[name]
        return [f"{self.results}/data/{node.data}/split/valid.jsonl"] if node.settings.get("eval_steps") else []

    def rehearsal(self, name: str) -> str:
        """The training node that is tried for a node before either is trained: the first of the same stage, models and
        settings but for seed and learning rate, which cost no memory."""
        return self.rehearsals[self._rehearsed(name)]

    @functools.cached_property
    def rehearsals(self) -> dict[str, str]:
        """The nodes that `rehearsal` names, by what they have in common."""
        first: dict[str, str] = {}
        for name, node in self.nodes.items():
            if node.launch:
                first.setdefault(self._rehearsed(name), name)
        return first

    def _rehearsed(self, name: str) -> str:
        node = self.nodes[name]
        settings = {k: v for k, v in node.settings.items() if k not in ("seed", "learning_rate")}
        models = [self.root(other) for other in (name, *self.rehearsed_teachers(name), *filter(None, [node.judge]))]
        return json.dumps([node.stage, models, settings, node.launch], sort_keys=True)

    def rehearsed_teachers(self, name: str) -> tuple[str, ...]:
        """The teachers that a node's training has in memory."""
        entry = STAGES[self.nodes[name].stage]
        return self.nodes[name].teachers if entry.taught and entry.samples else ()

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """(data set, teacher) of a node that is taught: who answers which prompts."""
        node = self.nodes[name]
        return [(source["data"], node.teachers[i]) for source in node.sources for i in source["teachers"]]

    def generations(self, name: str | None = None) -> list[tuple[str, str]]:
        """(data set, teacher) of the responses that a node, or any, trains on."""
        return self._taught(name, lambda node: not STAGES[node.stage].samples or node.settings.get("off_policy", 0) > 0)

    def cached(self, name: str | None = None) -> list[tuple[str, str]]:
        """Those of the generations at which a node, or any, learns from the teacher's distributions."""
        return self._taught(name, lambda node: node.settings.get("objective") == "forward_kl")

    def _taught(self, name: str | None, chosen: Callable[[Node], bool]) -> list[tuple[str, str]]:
        """The pairs of a node, or of all, that is taught and chosen."""
        nodes = self.nodes.values() if name is None else [self.nodes[name]]
        taught = [node.name for node in nodes if node.sources and chosen(node)]
        return list(dict.fromkeys(pair for node in taught for pair in self.pairs(node)))

    def dealt_from(self, name: str) -> list[str]:
        """The data set of each file of rows that a node trains on or asks; none where documents are made for it."""
        node = self.nodes[name]
        if node.sources:
            asks = STAGES[node.stage].samples
            return [source["data"] for source in node.sources] if asks else [data for data, _ in self.generations(name)]
        return [node.data] if node.data and not (STAGES[node.stage].documents and node.treatment) else []

    def generation(self, dataset: str, teacher: str) -> str:
        """The folder of the responses that a teacher wrote to the prompts of a data set."""
        return f"{self.results}/generate/{dataset}/{teacher}"

    def logprobs(self, dataset: str, teacher: str) -> str:
        """The folder of a teacher's distributions at the tokens of those responses."""
        return f"{self.results}/logprobs/{dataset}/{teacher}"

    def forecasts(self, study: str | None = None) -> list[tuple[str, str, str]]:
        """(data set, student, teacher) of the on-policy distillations of a study, or of all: whether it will help is
        told before."""
        nodes = [
            node for node in self.nodes.values() if self.rehearsed_teachers(node.name) and study in (None, node.study)
        ]
        return list(dict.fromkeys((d, node.parents[0], t) for node in nodes for d, t in self.pairs(node.name)))

    def forecast(self, dataset: str, student: str, teacher: str) -> str:
        """The folder of a forecast."""
        return f"{self.results}/forecast/{dataset}/{student}/{teacher}"

    def prompt_rows(self, name: str) -> list[str]:
        """The prompts of an opd node, a file for each data set: with pass rates where the node asks for them."""
        node = self.nodes[name]
        rated = node.settings["pass_rate"] is not None or node.settings["curriculum"] != "shuffle"
        return [
            f"{self.results}/difficulty/{source['data']}/{node.parents[0]}/train.jsonl"
            if rated
            else f"{self.results}/data/{source['data']}/split/train.jsonl"
            for source in node.sources
        ]

    def custom_rewards(self, name: str) -> list[str]:
        """The Python files of the user's that score an rl node's samples, with what they import from their folder."""
        rewards = self.nodes[name].settings["rewards"].values()
        files = (files_of(Path(reward["file"])) for reward in rewards if reward["kind"] == "custom")
        return list(dict.fromkeys(str(file) for own in files for file in own))

    def rows(self, dataset: str, by_difficulty: bool) -> str:
        """The training rows of a data set, with their difficulty for the base where a recipe goes by it."""
        return self.all_rows(dataset) if by_difficulty else f"{self.results}/data/{dataset}/split/train.jsonl"

    def taught_rows(self, dataset: str) -> str:
        """The rows whose prompts teachers answer: with their difficulty where a student of them goes by it."""
        students = (node for node in self.nodes.values() if dataset in [source["data"] for source in node.sources])
        return self.rows(dataset, any(node.by_difficulty for node in students))

    def pair_rows(self, name: str) -> str:
        """The pairs that a reward model trains on."""
        node = self.nodes[name]
        assert node.data, "stage reward trains on rows"
        return self.rows(node.data, node.by_difficulty)

    def train_rows(self, name: str) -> str:
        """The rows that an sft node trains on."""
        return f"{self.results}/treat/{name}/train.jsonl" if self.nodes[name].treatment else self.input_rows(name)

    def documents(self, name: str) -> str:
        """The documents that a cpt node trains on."""
        node = self.nodes[name]
        made = f"{self.results}/mixture/{name}/documents.jsonl"
        return made if node.treatment else f"{self.results}/data/{node.data}/split/train.jsonl"

    def relabelled(self, name: str) -> str | None:
        """The file of the rows that a treatment took out of a node's training, with the answers they should have."""
        while name in self.nodes:
            node = self.nodes[name]
            if node.treatment and "data_conflict" in node.treatment["causes"]:
                return f"{self.results}/treat/{name}/relabelled.jsonl"
            name = node.parents[0]
        return None

    def edge(self, file: str) -> str:
        """The file that stands for a file in the DAG: the manifest of the step that makes it, or itself."""
        if file.startswith(self.world):
            return f"{self.world}manifest.json"
        return f"{Path(file).parent}/manifest.json" if file.startswith(f"{self.results}/") else file

    def used_data(self) -> list[str]:
        """The data sets that a recipe trains on, that a study examines or that give the perplexity."""
        of_nodes = [[s["data"] for s in node.sources] or [node.data] for node in self.nodes.values()]
        trained = [name for names in of_nodes for name in names if name]
        examined = [self.examined(name) for name in self.detected()]
        return list(dict.fromkeys([*trained, *examined, self.params["evaluate"]["valid"]]))

    def bucketed(self) -> list[str]:
        """The data sets whose rows have a difficulty for the base: what sft nodes train on, what is examined, and what
        goes by it."""
        rated = [node for node in self.nodes.values() if node.stage == "sft" or node.by_difficulty]
        trained = [name for node in rated for name in ([source["data"] for source in node.sources] or [node.data])]
        examined = [self.examined(name) for name in self.detected()]
        return list(dict.fromkeys([*filter(None, trained), *examined]))

    def sources(self, dataset: str) -> list[dict]:
        """The sources of a data set as its rows are read: each path where its file lies once it is there, a folder or
        pattern with its files.

        Raises:
            ValueError: a path stands for no file that can be read.
        """
        lying = [
            {key: source[key] for key in READ if key in source}
            | ({"path": f"{self.results}/download/data/{dataset}/{source['path']}"} if "revision" in source else {})
            for source in self.params["data"][dataset]["sources"]
        ]
        return listed(lying)

    def cleaning_processes(self, dataset: str) -> int:
        """In how many processes the rows of a data set are cleaned, if there are so many cores: few rows in one."""
        paths = [path for source in self.sources(dataset) for path in source.get("files", [source["path"]])]
        size = sum(os.path.getsize(path) for path in paths if os.path.isfile(path))
        return CLEANING_PROCESSES if size >= LARGE else 1

    def source_edges(self, dataset: str) -> list[str]:
        """The files that stand for the raw rows of a data set: manifests of the rules that make them, or themselves."""
        edges = []
        for source in self.params["data"][dataset]["sources"]:
            if "revision" in source:
                edges.append(f"{self.results}/download/data/{dataset}/manifest.json")
            else:
                edges.append(self.edge(source["path"]))
        return list(dict.fromkeys(edges))

    def from_world(self, dataset: str, folder: str) -> bool:
        """Whether rows come from a folder of the world: of `raw/` the dirt is known, of `lessons/` the causes."""
        return any(source["path"].startswith(self.world + folder) for source in self.params["data"][dataset]["sources"])

    def asked(self) -> list[str]:
        """The tasks that some checkpoint is measured, chosen or explored by."""
        paths = [node.settings for node in self.nodes.values() if node.stage == "interpolate"]
        named = [self.params["evaluate"][axis] for axis in AXES]
        named += [settings[axis] for settings in paths for axis in CAPABILITIES]
        named += [self.params["explore"]["tasks"] if self.explored() else []]
        return list(dict.fromkeys(task for tasks in named for task in tasks))

    def evaluation_files(self) -> list[str]:
        """The files with the questions of every task: what training rows must not repeat.

        A `train` split gives a task's few-shot examples, not its questions.
        """
        files: list[str] = []
        for task in self.asked():
            own = self.params["evaluate"]["tasks"].get(task, {}).get("data_files")
            splits = own or {"test": f"{self.world}eval/{task}.jsonl"}
            files += [path for split, path in splits.items() if split != "train"]
        return list(dict.fromkeys(files))

    def evaluation_edges(self) -> list[str]:
        """The files that stand for the evaluation sets, the few-shot examples included."""
        tasks = self.params["evaluate"]["tasks"].values()
        shots = [path for task in tasks for path in task.get("data_files", {}).values()]
        files = [*self.evaluation_files(), *shots]
        return list(dict.fromkeys(map(self.edge, files)))

    def describe(self) -> dict:
        """All that the report is told: every section of the settings, and the graph they resolve to."""
        graph = {
            "nodes": [{**node.to_dict(), "folder": self.folder(name)} for name, node in self.nodes.items()],
            "checkpoints": self.measured(),
            "datasets": self.used_data(),
            "detect": {name: study["detect"] for name, study in self.params["studies"].items() if "detect" in study},
            "detected": self.detected(),
            "diagnosed": self.diagnosed(),
            "geometry": self.moved(),
            "explore": self.explored(),
            "gates": self.gated(),
            "forecasts": [
                {"data": data, "student": student, "teacher": teacher, "folder": self.forecast(data, student, teacher)}
                for data, student, teacher in self.forecasts()
            ],
            "generations": [
                {"data": data, "teacher": teacher, "folder": self.generation(data, teacher)}
                for data, teacher in self.generations()
            ],
        }
        shown = {key: value for key, value in self.params.items() if key not in ASIDE}
        return {**shown, "graph": graph}
