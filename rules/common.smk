# What several rules ask for. No rules here, and no logic that a test should reach: that is in steps/.
import gc
import json
import os
import re
import shutil
import sys
from pathlib import Path

import yaml

sys.path.insert(0, workflow.basedir)

from steps import cluster, common, dag, display, recipes

# Every rule works offline; the download step alone lifts this.
os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

# SLURM sends SIGTERM to all processes of a job. A shell that died of it would end the job while its step saves its state;
# with a trap it waits for the step. The step itself does not inherit it.
shell.prefix("set -euo pipefail; trap : TERM; ")

# Snakemake's graph is millions of small objects that all live to the end. Looking for dead ones among them as often as
# Python does takes a tenth of the time that it plans.
gc.set_threshold(50_000, 20, 50)

if workflow.is_main_process:
    ALIVE = dag.join_runs(Path(".snakemake"))
    display.show()

try:
    # PyYAML's reader in C, where it was built with it: 0.01 s for 0.1.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    schema = yaml.load(Path(workflow.basedir, "schemas/params.schema.yaml").read_text(), Loader=loader)
    GRAPH = dag.Graph(recipes.complete(config, schema), schema)
    # Not in the jobs of a cluster, which have been checked; not for `pretrain`, which makes what the check would miss.
    if workflow.is_main_process and "pretrain" not in sys.argv:
        GRAPH.check_files()
    if "deliver" in sys.argv or "checkpoint" in GRAPH.params:
        GRAPH.check_delivery()
except ValueError as error:
    print(f"temper: error: {' + '.join(map(os.path.relpath, workflow.configfiles))}: {error}", file=sys.stderr)
    sys.exit(2)


# On SLURM, only: before the first job and after the last. Jobs of a cluster run this file too, but not these.
onstart:
    cluster.begin(workflow)


onsuccess:
    cluster.end(workflow)


onerror:
    cluster.end(workflow)


# A job asks for a GPU where there is one, so that two trainings never meet on it; without one they share the cores.
GPU = int(shutil.which("nvidia-smi") is not None)


def settings(section):
    """A params function: the whole section as JSON, so that any change of it reruns the rule."""
    return lambda wildcards: json.dumps(GRAPH.params[section], sort_keys=True)


def sampled(section):
    """The same of a step that samples: with the engine that does it."""
    return lambda wildcards: json.dumps(GRAPH.params[section] | {"engine": GRAPH.params["engine"]}, sort_keys=True)


def pretrain_settings(wildcards):
    """What the sizes share, with what one of them has of its own."""
    shared = {key: value for key, value in GRAPH.params["pretrain"].items() if key != "sizes"}
    return json.dumps(shared | GRAPH.params["pretrain"]["sizes"][wildcards.size], sort_keys=True)


def node_settings(wildcards):
    return json.dumps(GRAPH.nodes[wildcards.node].settings, sort_keys=True)


def launch_kind(wildcards):
    return GRAPH.nodes[wildcards.node].launch["kind"]


def launch_processes(wildcards):
    return GRAPH.nodes[wildcards.node].launch["processes"]


def gpus(wildcards):
    """One for each process of a training."""
    return GPU * launch_processes(wildcards)


def evaluate_settings(wildcards):
    """The section, without the descriptions of tasks that only a path is chosen on."""
    evaluate = GRAPH.params["evaluate"]
    named = {task for axis in recipes.AXES for task in evaluate[axis]}
    tasks = {task: described for task, described in evaluate["tasks"].items() if task in named}
    return json.dumps(evaluate | {"tasks": tasks, "engine": GRAPH.params["engine"]}, sort_keys=True)


def path_settings(wildcards):
    """What an interpolation is told: its own settings, and how its points are evaluated."""
    shared = {key: GRAPH.params["evaluate"][key] for key in ("tasks", "limit", "batch_size")}
    return json.dumps(shared | GRAPH.nodes[wildcards.node].settings, sort_keys=True)


def explore_settings(wildcards):
    """The section, with the descriptions of the tasks that it names."""
    described = GRAPH.params["evaluate"]["tasks"]
    explore = GRAPH.params["explore"]
    specs = {task: described[task] for task in explore["tasks"] if task in described}
    return json.dumps(explore | {"task_specs": specs, "engine": GRAPH.params["engine"]}, sort_keys=True)


def gate_settings(wildcards):
    """The section, with what of an rl node's settings it judges."""
    node = GRAPH.nodes[wildcards.node].settings
    judged = {key: node[key] for key in ("rewards", "success", "pass_rate", "max_failures", "method")}
    return json.dumps(GRAPH.params["gate"] | judged, sort_keys=True)


def forecast_settings(wildcards):
    """The section, without what only the report reads."""
    return json.dumps({k: v for k, v in GRAPH.params["forecast"].items() if k != "axes"}, sort_keys=True)


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


def responses(wildcards, input):
    """The same rows as an option of the step."""
    return f"--responses {input.responses}" if input.responses else ""


def logprobs(wildcards, input):
    """The same distributions as an option of the step."""
    folders = [GRAPH.logprobs(*pair) for pair in GRAPH.cached(wildcards.node)]
    return f"--logprobs {' '.join(folders)}" if folders else ""


def reward_model(wildcards):
    """The checkpoint that scores an rl node's samples, as an option of the step."""
    judge = GRAPH.nodes[wildcards.node].judge
    return f"--reward-model {GRAPH.folder(judge)}" if judge else ""


def reward_files(wildcards):
    """What a reward rests on beside the row: a reward model, files of the user's."""
    judge = GRAPH.nodes[wildcards.node].judge
    return [*(GRAPH.edges(judge) if judge else []), *GRAPH.custom_rewards(wildcards.node)]


def preflight_settings(wildcards):
    """What a training is tried with: its own settings, and those of the section but for who waits for it."""
    node = GRAPH.nodes[wildcards.node]
    told = {key: value for key, value in GRAPH.params["preflight"].items() if key != "required"}
    return common.as_argument(told | {"stage": node.stage, "recipe": node.settings})


def preflight_models(wildcards):
    """The files of the models that a training is tried with: those that it, its teachers and its judge descend from."""
    node = GRAPH.nodes[wildcards.node]
    nodes = [node.name, *GRAPH.rehearsed_teachers(node.name), *([node.judge] if node.judge else [])]
    return list(dict.fromkeys(file for name in nodes for file in GRAPH.edges(GRAPH.root(name))))


def preflight_folders(wildcards):
    """The same models as options of the step."""
    node = GRAPH.nodes[wildcards.node]
    teachers = [GRAPH.folder(GRAPH.root(teacher)) for teacher in GRAPH.rehearsed_teachers(node.name)]
    options = f"--model {GRAPH.folder(GRAPH.root(node.name))}"
    options += f" --teachers {' '.join(teachers)}" if teachers else ""
    return options + (f" --judge {GRAPH.folder(GRAPH.root(node.judge))}" if node.judge else "")


def preflights(wildcards):
    """What a training waits for where `preflight.required` says so."""
    if not GRAPH.params["preflight"]["required"]:
        return []
    return f"{GRAPH.results}/preflight/{GRAPH.rehearsal(wildcards.node)}/manifest.json"


def merge_base(wildcards):
    """The model under the changes that some methods merge, as an option of the step."""
    node = GRAPH.nodes[wildcards.node]
    return f"--base {GRAPH.folder(GRAPH.root(wildcards.node))}" if node.settings["method"] in recipes.ON_A_BASE else ""


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
