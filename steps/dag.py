"""What the Snakefile asks of Python: where things lie, which files a step's code is, whether another run is alive.

Imports nothing heavy: Snakemake loads it at every parse.
"""

import fcntl
import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from steps import adapters, checkpoints, common, download, recipes

PACKAGE = "steps"
# `import …`, and `from … import …`, which may go on in parentheses.
IMPORT = re.compile(
    r"^[ \t]*(?:import[ \t]+([^\n]+)|from[ \t]+(\.|steps\b)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n]+))", re.MULTILINE
)


def code_files(module: str, root: Path = Path()) -> list[str]:
    """The source files of a step: its module and every module of the package that it imports, directly or not.

    Args:
        module: dotted name, such as "steps.sft".
        root: the folder that holds the package.

    Returns:
        Paths relative to `root`, sorted. Imports inside functions count.
    """
    assert _source(module, root), f"{module}: there is no such step in {root.absolute()}"
    found: set[Path] = set()
    queue = [PACKAGE, module]
    while queue:
        file = _source(queue.pop(), root)
        if file is None or file in found:
            continue
        found.add(file)
        queue += _imports(file, (root / file).read_text(encoding="utf-8"))
    return sorted(map(str, found))


@functools.cache
def _imports(file: Path, text: str) -> list[str]:
    """The dotted names that a module of the package may import from it.

    By a regular expression: to parse the package takes 0.6 s, at every start of Snakemake and twice in each job on a
    cluster. An import in the text of a docstring counts too; what is no module is not found later.
    """
    names: list[str] = []
    for modules, package, inside, things in IMPORT.findall(text):
        assert package != ".", f"{file}: write imports of {PACKAGE} in full"
        names += re.findall(rf"\b{PACKAGE}\b[\w.]*", modules)
        if package:
            # `from steps import common` names a module, `from steps.common import run` a thing inside one.
            names += [package + inside, *(f"{package}{inside}.{thing}" for thing in re.findall(r"\w+", things))]
    return names


def _source(module: str, root: Path) -> Path | None:
    """The file of a module of the package, None for what is outside it or is not a module."""
    if module.split(".")[0] != PACKAGE:
        return None
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / file).is_file():
            return file
    return None


def join_runs(folder: Path) -> IO:
    """Announce this run and drop the locks that killed runs left in `.snakemake/locks`.

    Snakemake's locks survive `kill -9` and would ask for `--unlock`. The kernel's do not: every run holds a shared one,
    so whoever gets it exclusively knows that no other run is alive and that the locks lying there are stale. Two
    living runs still meet Snakemake's own check. Keep the returned file open until the run ends.
    """
    folder.mkdir(exist_ok=True)
    alive = open(folder / "alive", "w")
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        shutil.rmtree(folder / "locks", ignore_errors=True)
    fcntl.flock(alive, fcntl.LOCK_SH)
    return alive


class Graph:
    """The files behind the recipe graph: where each checkpoint and each evaluation set lies.

    Raises:
        ValueError: a recipe is wrong.
    """

    def __init__(self, params: dict, schema: dict):
        self.params = params
        self.nodes = {node.name: node for node in recipes.resolve(params, schema)}
        self.results = f"results/{params['workload']}"
        self.world = f"{self.results}/world/"

    def folder(self, name: str) -> str:
        """The checkpoint folder of a node or of an entry of `models`."""
        if name in self.nodes:
            return f"{self.results}/{self.nodes[name].study}/{name}"
        model = self.params["models"][name]
        return f"{self.results}/download/models/{name}" if "revision" in model else model["path"]

    def edges(self, name: str) -> list[str]:
        """The files that stand for a checkpoint in the DAG: its manifest, or all of a folder that came without one."""
        folder = Path(self.folder(name))
        made = name in self.nodes or "revision" in self.params["models"][name]
        if made or (folder / "manifest.json").is_file():
            return [f"{folder}/manifest.json"]
        return sorted(str(file) for pattern in ("*.json", "*.safetensors") for file in folder.glob(pattern))

    def ancestors(self, name: str) -> list[str]:
        """A node or model and everything it descends from, itself first."""
        found = [name]
        for member in found:
            parents = self.nodes[member].parents if member in self.nodes else ()
            found += [parent for parent in parents if parent not in found]
        return found

    def measured(self, study: str | None = None) -> list[str]:
        """The checkpoints to evaluate: the nodes of a study, or of all, and the models they descend or learn from."""
        nodes = [n for n, node in self.nodes.items() if study in (None, node.study) and node.stage != "reward"]
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
        return self.all_rows(node.data)

    def difficulty(self, name: str) -> str:
        """The folder that has the pass rate of an rl node's start on its rows."""
        node = self.nodes[name]
        return f"{self.results}/difficulty/{node.data}/{node.parents[0]}"

    def rehearsal(self, name: str) -> str:
        """The training node that is tried for a node before either is trained: the first of the same stage, models and
        settings but for seed and learning rate, which cost no memory."""
        return self.rehearsals[self._rehearsed(name)]

    @functools.cached_property
    def rehearsals(self) -> dict[str, str]:
        """The nodes that `rehearsal` names, by what they have in common."""
        found: dict[str, str] = {}
        for name, node in self.nodes.items():
            if node.launch:
                found.setdefault(self._rehearsed(name), name)
        return found

    def _rehearsed(self, name: str) -> str:
        node = self.nodes[name]
        settings = {k: v for k, v in node.settings.items() if k not in ("seed", "learning_rate")}
        models = [self.root(other) for other in (name, *self.rehearsed_teachers(name), *filter(None, [node.judge]))]
        return json.dumps([node.stage, models, settings, node.launch], sort_keys=True)

    def rehearsed_teachers(self, name: str) -> tuple[str, ...]:
        """The teachers that a node's training has in memory."""
        return self.nodes[name].teachers if self.nodes[name].stage == "opd" else ()

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """(data set, teacher) of a node that is taught: who answers which prompts."""
        node = self.nodes[name]
        return [(source["data"], node.teachers[i]) for source in node.sources for i in source["teachers"]]

    def generations(self, name: str | None = None) -> list[tuple[str, str]]:
        """(data set, teacher) of the responses that a node, or any, trains on."""
        return self._taught(name, lambda node: node.stage == "distill" or node.settings["off_policy"] > 0)

    def cached(self, name: str | None = None) -> list[tuple[str, str]]:
        """Those of the generations at which a node, or any, learns from the teacher's distributions."""
        return self._taught(name, lambda node: node.settings.get("objective") == "forward_kl")

    def _taught(self, name: str | None, chosen: Callable[[recipes.Node], bool]) -> list[tuple[str, str]]:
        """The pairs of a node, or of all, that is taught and chosen."""
        nodes = self.nodes.values() if name is None else [self.nodes[name]]
        taught = [node.name for node in nodes if node.sources and chosen(node)]
        return list(dict.fromkeys(pair for node in taught for pair in self.pairs(node)))

    def generation(self, dataset: str, teacher: str) -> str:
        """The folder of the responses that a teacher wrote to the prompts of a data set."""
        return f"{self.results}/generate/{dataset}/{teacher}"

    def logprobs(self, dataset: str, teacher: str) -> str:
        """The folder of a teacher's distributions at the tokens of those responses."""
        return f"{self.results}/logprobs/{dataset}/{teacher}"

    def forecasts(self, study: str | None = None) -> list[tuple[str, str, str]]:
        """(data set, student, teacher) of the opd nodes of a study, or of all: whether it will help is told before."""
        nodes = [node for node in self.nodes.values() if node.stage == "opd" and study in (None, node.study)]
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
        """The Python files of the user's that score an rl node's samples."""
        rewards = self.nodes[name].settings["rewards"].values()
        return list(dict.fromkeys(reward["file"] for reward in rewards if reward["kind"] == "custom"))

    def train_rows(self, name: str) -> str:
        """The rows that an sft node trains on."""
        return f"{self.results}/treat/{name}/train.jsonl" if self.nodes[name].treatment else self.input_rows(name)

    def relabelled(self, name: str) -> str | None:
        """The file of the rows that a treatment took out of a node's training, with the answers they should have."""
        while name in self.nodes:
            node = self.nodes[name]
            if node.treatment and "data_conflict" in node.treatment["causes"]:
                return f"{self.results}/treat/{name}/relabelled.jsonl"
            name = node.parents[0]
        return None

    def edge(self, file: str) -> str:
        """The file that stands for a file in the DAG: the manifest of the world that has it, or itself."""
        return f"{self.world}manifest.json" if file.startswith(self.world) else file

    def used_data(self) -> list[str]:
        """The data sets that a recipe trains on, that a study examines or that give the perplexity."""
        of_nodes = [[s["data"] for s in node.sources] or [node.data] for node in self.nodes.values()]
        trained = [name for names in of_nodes for name in names if name]
        examined = [self.examined(name) for name in self.detected()]
        return list(dict.fromkeys([*trained, *examined, self.params["evaluate"]["valid"]]))

    def bucketed(self) -> list[str]:
        """The data sets whose rows have a difficulty for the base: what sft nodes train on, and what is examined."""
        trained = [node.data for node in self.nodes.values() if node.stage == "sft"]
        return list(dict.fromkeys([*trained, *(self.examined(name) for name in self.detected())]))

    def sources(self, dataset: str) -> list[dict]:
        """The sources of a data set, each path where its file lies once it is there."""
        return [
            source if "revision" not in source else
            {k: v for k, v in source.items() if k not in ("revision", "sha256")}
            | {"path": f"{self.results}/download/data/{dataset}/{source['path']}"}
            for source in self.params["data"][dataset]["sources"]
        ]  # fmt: skip

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

    def evaluation_files(self) -> list[str]:
        """The files with the questions of every task: what training rows must not repeat.

        A `train` split gives a task's few-shot examples, not its questions.
        """
        evaluate = self.params["evaluate"]
        files: list[str] = []
        paths = [node.settings for node in self.nodes.values() if node.stage == "interpolate"]
        named = [evaluate[axis] for axis in recipes.AXES]
        named += [settings[axis] for settings in paths for axis in ("target", "general")]
        named += [self.params["explore"]["tasks"] if self.explored() else []]
        for task in dict.fromkeys(task for tasks in named for task in tasks):
            own = evaluate["tasks"].get(task, {}).get("data_files")
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
        told = {key: value for key, value in self.params.items() if key not in ("deliver", "checkpoint")}
        return {**told, "graph": graph}

    def delivered(self) -> str:
        """The node or model that `checkpoint` names: what is to be delivered.

        Raises:
            ValueError: it names none, several, or one that writes no text.
        """
        name = self.params.get("checkpoint")
        if name is None:
            raise ValueError("checkpoint: nothing is named; write snakemake deliver --config checkpoint=<recipe>")
        return recipes.one_checkpoint("checkpoint", name, self.nodes, self.params["models"])

    def lineage(self, name: str) -> list[str]:
        """A node or model after everything that it descends from, learned from or was chosen rows by."""
        found: dict[str, None] = {}

        def visit(member: str) -> None:
            node = self.nodes.get(member)
            others = [node.judge, node.treatment and node.treatment["diagnosis"]] if node else []
            for other in (*node.parents, *node.teachers, *filter(None, others)) if node else ():
                if other not in found:
                    visit(other)
            found[member] = None

        visit(name)
        return list(found)

    def delivery(self) -> dict:
        """All that the delivery is told: its section, and what the checkpoint was made of and by.

        Raises:
            ValueError: as `delivered`.
        """
        name = self.delivered()
        lineage, weights = self.lineage(name), self.ancestors(name)
        nodes = [self.nodes[member] for member in lineage if member in self.nodes]
        data = {node.name: [s["data"] for s in node.sources] or ([node.data] if node.data else []) for node in nodes}
        library = [file for key in ("general", "library") for file in self.params["mixture"][key]]
        return self.params["deliver"] | {
            "workload": self.params["workload"],
            "checkpoint": name,
            "base": self.root(name),
            # The hub takes letters, digits, point, hyphen and underscore.
            "name": self.params["deliver"]["name"] or re.sub(r"[^\w.-]", "_", f"{self.params['workload']}-{name}"),
            "nodes": [
                {key: node.to_dict()[key] for key in ("name", "stage", "parents", "teachers", "judge", "seed")}
                | {"settings": node.settings, "treatment": node.treatment, "data": data[node.name]}
                | {"accounts": self.accounts(node.name)}
                for node in nodes
            ],
            "models": {
                model: self.params["models"][model] | {"folder": self.folder(model), "weights": model in weights}
                for model in lineage
                if model not in self.nodes
            },
            "data": {
                dataset: [
                    source | {"file": lying["path"]}
                    for source, lying in zip(
                        self.params["data"][dataset]["sources"], self.sources(dataset), strict=True
                    )
                ]
                for dataset in dict.fromkeys(name for names in data.values() for name in names)
            },
            "documents": library if any(node.stage == "cpt" for node in nodes) else [],
        }

    def accounts(self, name: str) -> list[str]:
        """The manifests that count the rows which a node trained on, and those that were left out before."""
        node = self.nodes[name]
        folders = [f"{self.results}/treat/{name}"] if node.treatment and node.stage == "sft" else []
        folders += [f"{self.results}/gate/{name}"] if node.stage == "rl" else []
        folders += [self.generation(*pair) for pair in self.generations(name)]
        return [f"{folder}/manifest.json" for folder in (*folders, self.folder(name))]

    def delivery_inputs(self) -> list[str]:
        """The files that stand for what a delivery says of the checkpoint, its weights aside."""
        told = self.delivery()
        measured = dict.fromkeys((told["checkpoint"], told["base"]))
        files = [f"{self.results}/evaluation/{name}/manifest.json" for name in measured]
        steps = common.DATA_STEPS
        files += [f"{self.results}/data/{data}/{step}/manifest.json" for data in told["data"] for step in steps]
        files += [file for node in told["nodes"] for file in node["accounts"]]
        files += [edge for model in told["models"] for edge in self.edges(model)]
        return list(dict.fromkeys(files))

    def check_delivery(self) -> None:
        """Raise a ValueError where what `checkpoint` names cannot be delivered, or its licence is not known."""
        from steps.deliver import check_licence

        check_licence(self.delivery())

    def check_adapters(self) -> None:
        """Raise a ValueError for an adapter setting that would be ignored on its model, where that model is here."""
        for name, node in self.nodes.items():
            root = Path(self.folder(self.root(name)))
            adapter = node.settings.get("adapter", {"kind": "full"})
            if adapter["kind"] != "full" and root.is_dir():
                where = f"studies.{node.study}.recipes.{node.recipe}.adapter"
                adapters.check(adapter, checkpoints.linear_shapes(root), where)

    def check_teachers(self) -> None:
        """Raise a ValueError for a teacher that does not number tokens as its student does, where both are here."""
        from steps.teachers import check_same_language

        same: set[tuple[str, str]] = set()
        for name, node in self.nodes.items():
            if node.stage != "opd" and not self.cached(name):
                continue
            student = self.root(name)
            for teacher in node.teachers:
                folders = [Path(self.folder(model)) for model in (student, self.root(teacher))]
                if (
                    folders[0] == folders[1]
                    or (student, self.root(teacher)) in same
                    or not all(map(Path.is_dir, folders))
                ):
                    continue
                try:
                    check_same_language(*folders)
                except ValueError as error:
                    raise ValueError(f"studies.{node.study}.recipes.{node.recipe}.teachers: {error}") from error
                same.add((student, self.root(teacher)))

    def check_files(self) -> None:
        """Raise a ValueError for what is named, is made by no rule and is not there: a file, vLLM."""
        models = {self.params["bucket"]["model"], *self.measured()} - set(self.nodes)
        for name in sorted(models):
            folder, where = Path(self.folder(name)), f"models.{name}.path"
            if "revision" in self.params["models"][name]:
                download.wanted(self.params["models"][name], f"models.{name}")
                continue
            if not folder.is_dir():
                raise ValueError(
                    f"{where}: there is no folder {folder}; a hub id needs `revision:` beside it, a commit"
                )
            if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
                raise ValueError(f"{where}: {folder} lacks config.json or *.safetensors; it is not a whole checkpoint")
        for name in self.used_data():
            download.wanted(self.params["data"][name], f"data.{name}")
        self.check_adapters()
        self.check_teachers()
        rows = [
            (f"data.{name}.sources[{i}].path", source["path"])
            for name in self.used_data()
            for i, source in enumerate(self.params["data"][name]["sources"])
            if "revision" not in source
        ]
        tasks = [("evaluate: the data of a task", file) for file in self.evaluation_edges()]
        library = [("evidence.library", file) for file in self.params["evidence"]["library"] if self.diagnosed()]
        documents = [
            (f"mixture.{key}", file)
            for key in ("general", "library")
            for file in self.params["mixture"][key]
            if any(node.stage == "cpt" for node in self.nodes.values())
        ]
        for where, file in [*rows, *tasks, *library, *documents]:
            if file.startswith(self.world):
                if "world" not in self.params:
                    raise ValueError(
                        f"{where}: {file} is of the embedded world, which this workload has not; name its own"
                    )
            elif not Path(file).is_file():
                raise ValueError(f"{where}: there is no file {file}; correct the path")
        if self.params["engine"] == "vllm":
            common.check_vllm("engine: vllm")
        for node in self.nodes.values():
            if node.settings.get("sampler", {}).get("kind") == "vllm":
                common.check_vllm(f"recipe {node.name}: sampler: {{kind: vllm}}")
