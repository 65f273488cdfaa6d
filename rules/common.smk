# What several rules ask for. No rules here, and no logic that a test should reach: that is in steps/.
import gc
import json
import os
import re
import shutil
import sys
from pathlib import Path

sys.path.insert(0, workflow.basedir)

from steps.core.asked import as_argument
from steps.core.code import compile_sources
from steps.core.progress import SAID
from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.graph import (
    checks,
    cluster,
    delivery,
    display,
    ending,
    inspection,
    live,
    plan,
    planning,
    recipes,
    runs,
    sections,
    targets,
    workload,
)
from steps.graph.graph import Graph
from steps.settings.merging import MERGES

# Of another launcher of processes: a step that is started here is alone, or has a launcher of its own.
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
    os.environ.pop(name, None)

# Every rule works offline; the download step alone lifts this.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
# Byte code goes by the bytes of its source: see steps.core.code.
os.environ.update(PYTHONDONTWRITEBYTECODE="1")

# SLURM sends SIGTERM to all processes of a job. A shell that died of it would end the job while its step saves its state;
# with a trap it waits for the step. The step itself does not inherit it.
shell.prefix("set -euo pipefail; trap : TERM; ")

# Snakemake's graph is millions of small objects that all live to the end. Looking for dead ones among them as often as
# Python does takes a tenth of the time that it plans.
gc.set_threshold(50_000, 20, 50)

if workflow.is_main_process:
    compile_sources()
    display.show(workflow)
    plan.install(workflow)
    runs.own_locks()

try:
    if workflow.is_main_process:
        ALIVE = runs.join_runs(Path(".snakemake"))
    params, workflow.configfiles[:] = workload.load(
        Path(workflow.basedir),
        workflow.overwrite_configfiles,
        inspection.named(workload.values_of(workflow.config_settings.config_args)),
    )
    GRAPH = Graph(recipes.complete(params))
    if "pretrain" in sys.argv and "pretrain" not in GRAPH.params:
        raise ValueError("pretrain: this workload has no such section; the embedded one has: leave --configfile out")
    # Not in the jobs of a cluster, which have been checked; not for `pretrain`, which makes what the check would miss.
    if workflow.is_main_process and "pretrain" not in sys.argv:
        for remark in checks.check_files(GRAPH):
            print(f"{SAID}{remark}", file=sys.stderr)
    if "deliver" in sys.argv or "checkpoint" in GRAPH.params:
        delivery.check_delivery(GRAPH)
    if "inspect" in sys.argv or {"inspected", "recipe"} & GRAPH.params.keys():
        inspection.wanted(GRAPH)
except ValueError as error:
    files = " + ".join(map(os.path.relpath, workflow.configfiles or [workload.DEFAULTS]))
    print(f"{ERROR_PREFIX}{files}: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(USER_ERROR)


if workflow.is_main_process:
    planning.show(workflow, GRAPH)
    if GRAPH.params.get("live"):
        display.follow(lambda shown: live.Page(shown, workflow, GRAPH))


# Before the first job and after the last, `cluster` on SLURM only. Jobs of a cluster run this file too, but not these.
onstart:
    cluster.begin(workflow)


onsuccess:
    cluster.end(workflow)
    ending.tell(workflow)


onerror:
    cluster.end(workflow)


# A job asks for a GPU where there is one, so that two trainings never meet on it; without one they share the cores.
GPU = int(shutil.which("nvidia-smi") is not None)


def settings(rule):
    """A params function: what a rule's step is handed, as one argument, so that any change of it reruns the rule."""
    return lambda wildcards: as_argument(sections.of_rule(GRAPH, rule, wildcards))


def option(name, *values):
    """An option of a step with its values, each to be quoted by `:q`; nothing where there are none."""
    values = [value for value in values if value is not None]
    return [name, *values] if values else []


def edges(files):
    """The manifests that stand for some files in the DAG. A user's own files are left out: a step checks and notes them
    by itself, and Snakemake takes a word in braces in a path for a wildcard, in what a function returns too."""
    return [edge for edge in dict.fromkeys(map(GRAPH.edge, files)) if edge.startswith(f"{GRAPH.results}/")]


def cleaning_threads(wildcards):
    """Of a step that cleans rows: several where they are many. Snakemake gives no more than it has."""
    return GRAPH.cleaning_processes(wildcards.dataset)


def launch_kind(wildcards):
    return GRAPH.nodes[wildcards.node].launch["kind"]


def launch_processes(wildcards):
    return GRAPH.nodes[wildcards.node].launch["processes"]


def gpus(wildcards):
    """One for each process of a training."""
    return GPU * launch_processes(wildcards)


def forecasts(wildcards):
    """What an opd node waits for where a forecast may stop it. Otherwise forecasts come first by their priority alone, so
    that a new one does not train again. (Behind ancient(), Snakemake 9.27 leaves out what is missing while the forecast
    is made again.)"""
    if not GRAPH.params["forecast"]["stop"]:
        return []
    node = GRAPH.nodes[wildcards.node]
    return [f"{GRAPH.forecast(data, node.parents[0], t)}/manifest.json" for data, t in GRAPH.pairs(node.name)]


def generations(wildcards):
    """The rows that a node's teachers wrote for it, one file for each data set; none where it trains on none."""
    return [f"{GRAPH.generation(*pair)}/train.jsonl" for pair in GRAPH.generations(wildcards.node)]


def cached(wildcards):
    """The manifests of its teachers' distributions at those rows."""
    return [f"{GRAPH.logprobs(*pair)}/manifest.json" for pair in GRAPH.cached(wildcards.node)]


def responses(wildcards):
    """The same rows as an option of the step."""
    return option("--responses", *generations(wildcards))


def logprobs(wildcards):
    """The same distributions as an option of the step."""
    return option("--logprobs", *(GRAPH.logprobs(*pair) for pair in GRAPH.cached(wildcards.node)))


def reward_model(wildcards):
    """The checkpoint that scores an rl node's samples, as an option of the step."""
    judge = GRAPH.nodes[wildcards.node].judge
    return option("--reward-model", *([GRAPH.folder(judge)] if judge else []))


def judge(wildcards):
    """What stands for the reward model that scores an rl node's samples."""
    name = GRAPH.nodes[wildcards.node].judge
    return GRAPH.edges(name) if name else []


def preflight_models(wildcards):
    """The files of the models that a training is tried with: those that it, its teachers and its judge descend from."""
    node = GRAPH.nodes[wildcards.node]
    nodes = [node.name, *GRAPH.rehearsed_teachers(node.name), *([node.judge] if node.judge else [])]
    return list(dict.fromkeys(file for name in nodes for file in GRAPH.edges(GRAPH.root(name))))


def preflight_folders(wildcards):
    """The same models as options of the step."""
    node = GRAPH.nodes[wildcards.node]
    teachers = [GRAPH.folder(GRAPH.root(teacher)) for teacher in GRAPH.rehearsed_teachers(node.name)]
    judge = [GRAPH.folder(GRAPH.root(node.judge))] if node.judge else []
    model = option("--model", GRAPH.folder(GRAPH.root(node.name)))
    return [*model, *option("--teachers", *teachers), *option("--judge", *judge)]


def preflights(wildcards):
    """What a training waits for where `preflight.required` says so."""
    if not GRAPH.params["preflight"]["required"]:
        return []
    return f"{GRAPH.results}/preflight/{GRAPH.rehearsal(wildcards.node)}/manifest.json"


def check(wildcards):
    """What was found about the model that a node descends from, as an option of the step."""
    return option("--check", f"{GRAPH.check(GRAPH.root(wildcards.node))}/layout.json")


def merge_base(wildcards):
    """The model under the changes that some methods merge, as an option of the step."""
    node = GRAPH.nodes[wildcards.node]
    base = [GRAPH.folder(GRAPH.root(node.name))] if MERGES[node.settings["method"]].over_base else []
    return option("--base", *base)


def checked(wildcards):
    """The manifest of that check: a parent that is no model does not wait for it itself."""
    return f"{GRAPH.check(GRAPH.root(wildcards.node))}/manifest.json"


def parents(wildcards):
    """What tells that a node's parents are there: see Graph.edges."""
    return [file for parent in GRAPH.nodes[wildcards.node].parents for file in GRAPH.edges(parent)]


def parent_folders(wildcards):
    return [GRAPH.folder(parent) for parent in GRAPH.nodes[wildcards.node].parents]


def teacher_folders(wildcards):
    return [GRAPH.folder(teacher) for teacher in GRAPH.nodes[wildcards.node].teachers]


def checkpoint(name):
    """What tells that a node or model is there, with all that an adapter needs below it."""
    return [file for ancestor in GRAPH.ancestors(name) for file in GRAPH.edges(ancestor)]


def attributed(wildcards):
    """The causes that were found for a node's unlearned rows, where they were looked for."""
    if wildcards.node not in GRAPH.diagnosed():
        return []
    return [f"{GRAPH.results}/attribute/{wildcards.node}/attribution.parquet"]


def diagnosis(step, file):
    """An input function: what a step found about the node that a treatment treats."""
    return lambda wildcards: f"{GRAPH.results}/{step}/{GRAPH.nodes[wildcards.node].treatment['diagnosis']}/{file}"


def treatment(wildcards):
    node = GRAPH.nodes[wildcards.node]
    told = {"causes": node.treatment["causes"], "at_random": node.treatment["at_random"], "seed": node.seed}
    return json.dumps(told, sort_keys=True)


def only(names):
    """A wildcard constraint: these nodes."""
    return "|".join(map(re.escape, names)) or "none^"


def node_names(stage):
    return [node.name for node in GRAPH.nodes.values() if node.stage == stage]


def evaluations(study=None):
    return [f"{GRAPH.results}/evaluation/{name}/manifest.json" for name in GRAPH.measured(study)]


def findings(study=None):
    """What else was found about the nodes of a study, or of all: which rows they did not learn, how far they moved,
    what their reward is worth, how much they can still find, what was told of them before."""
    steps = {
        "detect": GRAPH.detected,
        "attribute": GRAPH.diagnosed,
        "score_causes": GRAPH.scored,
        "geometry": GRAPH.moved,
        "gate": GRAPH.gated,
        "explore": GRAPH.explored,
    }
    found = [f"{GRAPH.results}/{step}/{name}/manifest.json" for step, nodes in steps.items() for name in nodes(study)]
    return found + [f"{GRAPH.forecast(*pair)}/manifest.json" for pair in GRAPH.forecasts(study)]
