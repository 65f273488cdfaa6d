"""The recipe graph: from the sections of `params.yaml` to the list of checkpoints to make.

Pure: no files, no Snakemake. A recipe is its stage's defaults with its own keys on top (a key replaces the default
whole); `grid:` makes one node per point, seeds one node per seed, and every node is checked against its stage's object
of the schema. The first mistake found is raised as a `ValueError` of one line that names the key and the fix.
"""

import contextlib
import difflib
import itertools
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

# Keys of a recipe that place it in the graph; every other key is a setting of its stage.
GRAPH_KEYS = ("stage", "from", "data", "teachers", "seeds", "grid", "diagnosis", "treats", "at_random", "launch")
# Folders of results/<workload>/ that are not studies.
RESERVED_STUDIES = (
    "world", "data", "evaluation", "download", "pretrain",
    "detect", "evidence", "attribute", "mixture", "treat", "score_causes", "geometry", "difficulty", "gate", "explore",
    "generate", "logprobs", "forecast", "preflight", "deliver",
)  # fmt: skip
# Stages that draw random numbers: their nodes are repeated by `seeds`. The others inherit the seeds of their parents.
RANDOM_STAGES = ("sft", "cpt", "rl", "reward", "distill", "opd")
# Stages that train on rows: they need `data`.
DATA_STAGES = ("sft", "rl", "reward", "distill", "opd")
# Stages that learn from other checkpoints: they need `teachers`, and take more than one data set.
TAUGHT_STAGES = ("distill", "opd")
# How many parents a stage takes, (least, most).
PARENTS = {
    "sft": (1, 1), "cpt": (1, 1), "rl": (1, 1), "reward": (1, 1), "merge": (2, None), "interpolate": (2, 2),
    "distill": (1, 1), "opd": (1, 1),
}  # fmt: skip
# What a task of evaluate may measure.
AXES = ("target", "harder", "general", "dev")
# Settings that act under some values of another setting only: stage -> that setting, {value: the keys that act}.
CHOICES = {
    "merge": (
        "method",
        {
            "linear": ("weights",),
            "slerp": ("t",),
            "task_arithmetic": ("weights", "scale"),
            "ties": ("weights", "density", "scale"),
            "dare_linear": ("weights", "density", "scale", "seed"),
            "dare_ties": ("weights", "density", "scale", "seed"),
        },
    ),
    "interpolate": ("path", {"additive": (), "cayley": ("generator",)}),
    "rl": (
        "method",
        {
            "grpo": (),
            "sdpo": ("contexts", "sdpo"),
            "srpo": ("contexts", "srpo"),
            "rlsd": ("contexts", "rlsd"),
            "rlrt": ("contexts", "rlrt"),
        },
    ),
}
# Methods that merge what was learned on top of a model: their parents need that model in common.
ON_A_BASE = ("task_arithmetic", "ties", "dare_linear", "dare_ties")
# The causes that a stage treats: cpt by documents, sft by a change of its rows.
TREATS = {"sft": ("data_conflict", "insufficient_optimisation"), "cpt": ("missing_knowledge", "base_conflict")}


@dataclass(frozen=True)
class Node:
    """One checkpoint to make. `parents` name nodes or entries of `models`; `settings` is all that its step is told.

    `treatment` is {"diagnosis": the node whose unlearned rows it treats, "causes": […], "at_random": bool}, or None;
    `judge` is the node whose reward model scores its samples, or None. `data` is the first of its data sets. `teachers`
    name nodes or entries of `models`; `sources` has for each data set {"data": its name, "share": of the prompts, None
    for stage distill, "teachers": indices into `teachers`}. Both are empty for what is not taught. `launch` is the kind
    and number of the processes of a training, which are no setting of it; None for other stages.
    """

    name: str
    recipe: str
    study: str
    stage: str
    parents: tuple[str, ...]
    data: str | None
    seed: int | None
    point: dict[str, Any]
    settings: dict[str, Any]
    treatment: dict[str, Any] | None
    judge: str | None = None
    teachers: tuple[str, ...] = ()
    sources: tuple[dict[str, Any], ...] = ()
    launch: dict[str, Any] | None = None

    def to_dict(self) -> dict:
        lists = {key: list(getattr(self, key)) for key in ("parents", "teachers", "sources")}
        return {**asdict(self), **lists}


def complete(params: dict, schema: dict) -> dict:
    """The sections checked, `{workload}` filled in, and entries that an overlay set to null taken out.

    Raises:
        ValueError: a key is unknown, missing or of the wrong type, or a name refers to nothing.
    """
    params = _without_nulls(params)
    if params.get("workload", ...) is None:
        raise ValueError(
            "workload: null; name what these overlays make together, for results/<name>: --config workload=<name>"
        )
    if isinstance(params.get("workload"), str):
        params = json.loads(json.dumps(params).replace("{workload}", params["workload"]))
    _check(params, schema, schema, where="")
    named = [
        ("bucket.model", params["bucket"]["model"], "models"),
        ("evaluate.valid", params["evaluate"]["valid"], "data"),
    ]
    named += [
        (f"studies.{k}.detect", study["detect"], "data") for k, study in params["studies"].items() if "detect" in study
    ]
    named += [("forecast.axes", name, "data") for name in params["forecast"]["axes"]]
    for key, name, section in named:
        if name not in params[section]:
            raise ValueError(f"{key}: no entry `{name}` in {section}{_meant(name, params[section])}")
    return params


def resolve(params: dict, schema: dict) -> list[Node]:
    """Every node of the recipe graph, parents before children. `params` come from `complete`.

    Raises:
        ValueError: a recipe is wrong in itself or in its place; the message names it and the fix.
    """
    recipes = _collect(params)
    points: dict[str, list[Node]] = {}  # a point's name (without seed) -> its nodes, one per seed
    for name in _ordered(recipes, params):
        study, recipe = recipes[name]
        points |= _expand(name, study, recipe, points, params, schema)
    nodes = [node for family in points.values() for node in family]
    explores = any(study.get("explore") for study in params["studies"].values())
    _check_tasks(params["evaluate"], nodes, params["explore"]["tasks"] if explores else [])
    return nodes


def _check_tasks(evaluate: dict, nodes: list[Node], explored: list[str]) -> None:
    """Each task stands on one axis; what is sampled is measured, what is described is used."""
    axis_of: dict[str, str] = {}
    for axis in AXES:
        for task in evaluate[axis]:
            if task in axis_of:
                raise ValueError(f"evaluate.{axis}: {task} already stands under {axis_of[task]}; name it once")
            axis_of[task] = axis
    chosen_on = {t for n in nodes if n.stage == "interpolate" for t in (*n.settings["target"], *n.settings["general"])}
    used = {"sampling.tasks": axis_of.keys(), "tasks": axis_of.keys() | chosen_on | {*explored}}
    for key, names in (("sampling.tasks", evaluate["sampling"]["tasks"]), ("tasks", evaluate["tasks"])):
        for task in names:
            if task not in used[key]:
                raise ValueError(f"evaluate.{key}: {task} stands on no axis; add it to one of {', '.join(AXES)}")


def _without_nulls(params: dict) -> dict:
    """Take out a null `world` and the models, data sets, studies and recipes that an overlay set to null."""

    def drop(entries: Any) -> Any:
        return {k: v for k, v in entries.items() if v is not None} if isinstance(entries, dict) else entries

    params = {k: drop(v) if k in ("models", "data", "studies") else v for k, v in params.items()}
    if params.get("world", ...) is None:
        del params["world"]
    if isinstance(params.get("studies"), dict):
        params["studies"] = {
            name: {k: drop(v) if k == "recipes" else v for k, v in study.items()} if isinstance(study, dict) else study
            for name, study in params["studies"].items()
        }
    return params


def _collect(params: dict) -> dict[str, tuple[str, dict]]:
    """Recipe name -> (study, recipe), with `from` as a list. Names are unique over all studies and models."""
    recipes: dict[str, tuple[str, dict]] = {}
    for study, content in params["studies"].items():
        if study in RESERVED_STUDIES:
            raise ValueError(f"studies.{study}: the name is taken by a results folder; rename the study")
        for name, recipe in content["recipes"].items():
            where = f"studies.{study}.recipes.{name}"
            if name in params["models"]:
                raise ValueError(f"{where}: `{name}` is an entry of models: too; rename the recipe")
            if name in recipes:
                raise ValueError(f"{where}: study `{recipes[name][0]}` has a recipe `{name}` too; rename one")
            parents = recipe["from"] if isinstance(recipe["from"], list) else [recipe["from"]]
            recipes[name] = (study, {**recipe, "from": parents})
    return recipes


def _judge(recipe: dict, params: dict) -> str | None:
    """The recipe of stage reward that a recipe of stage rl names."""
    rewards = (recipe.get("rewards") or params["rl"]["rewards"]) if recipe["stage"] == "rl" else {}
    named = [r.get("model") for r in rewards.values() if isinstance(r, dict) and r.get("kind") == "preference"]
    return named[0] if named else None


def _teachers(recipe: dict) -> list[str]:
    """The names that a recipe has under `teachers`, each once; in the order of its data sets where each has its own."""
    named = recipe.get("teachers", [])
    if isinstance(named, dict):
        named = [named[name] for name in [*_datasets(recipe), *named] if name in named]
    return list(dict.fromkeys(named))


def _datasets(recipe: dict) -> list[str]:
    """The names that a recipe has under `data`."""
    data = recipe.get("data", [])
    return data if isinstance(data, list) else [data]


def _ordered(recipes: dict[str, tuple[str, dict]], params: dict) -> Iterator[str]:
    """Names of the recipes, those first that another starts from, treats, learns from or is judged by.

    Those may be a recipe, one point of a gridded recipe, or a model.
    """
    done: set[str] = set()
    models = params["models"]

    def visit(name: str, path: tuple[str, ...]) -> Iterator[str]:
        study, recipe = recipes[name]
        if name in done:
            return
        path = (*path, name)
        diagnosis = [("diagnosis", recipe["diagnosis"])] if "diagnosis" in recipe else []
        judge = _judge(recipe, params)
        judged = [("rewards", judge)] if judge else []
        taught = [("teachers", teacher) for teacher in _teachers(recipe)]
        for key, other in [*(("from", parent) for parent in recipe["from"]), *taught, *diagnosis, *judged]:
            where = f"studies.{study}.recipes.{name}.{key}"
            if other in models:
                continue
            # A grid point is spelled <recipe>-<key>=<value>…, and recipe names hold no hyphen.
            other_recipe = other.split("-")[0]
            if other_recipe not in recipes:
                raise ValueError(f"{where}: no recipe or model `{other}`{_meant(other, [*recipes, *models])}")
            if other_recipe in path:
                cycle = " -> ".join((*path[path.index(other_recipe) :], other_recipe))
                fix = "start one of them from a model" if key == "from" else "name a recipe that does not need this one"
                raise ValueError(f"{where}: the recipes form a cycle, {cycle}; {fix}")
            yield from visit(other_recipe, path)
        done.add(name)
        yield name

    for name in recipes:
        yield from visit(name, ())


def _expand(
    name: str, study: str, recipe: dict, points: dict[str, list[Node]], params: dict, schema: dict
) -> dict[str, list[Node]]:
    """The nodes of one recipe: point name -> one node per seed."""
    where = f"studies.{study}.recipes.{name}"
    stage, parents, datasets = recipe["stage"], recipe["from"], _datasets(recipe)
    least, most = PARENTS[stage]
    if len(parents) < least or (most is not None and len(parents) > most):
        need = f"{least}" if least == most else f"at least {least}"
        raise ValueError(f"{where}.from: stage {stage} takes {need} parent{'s' * (need != '1')}, not {len(parents)}")
    if stage in DATA_STAGES and not datasets:
        raise ValueError(f"{where}: stage {stage} needs `data`, one of: {', '.join(params['data'])}")
    if stage not in DATA_STAGES and datasets:
        raise ValueError(f"{where}.data: has no effect on stage {stage}; remove it")
    if stage not in TAUGHT_STAGES and isinstance(recipe.get("data"), list):
        raise ValueError(f"{where}.data: stage {stage} takes one data set; write data: {datasets[0]}")
    for data in datasets:
        if data not in params["data"]:
            raise ValueError(f"{where}.data: no entry `{data}` in data{_meant(data, params['data'])}")

    families = [_family(f"{where}.from", parent, points, params["models"]) for parent in parents]
    for parent, family in zip(parents, families, strict=True):
        if not isinstance(family, str) and family[0].stage == "reward":
            raise ValueError(f"{where}.from: `{parent}` scores responses and writes none; start from another recipe")
    judges = _judges(where, recipe, points, params)
    teachers = _taught_by(where, recipe, points, params)
    diagnosed = _diagnosed(where, recipe, points, params)
    seeds = _seeds(where, recipe, families, params["seeds"])
    launch = _launch(where, recipe, params)
    expanded: dict[str, list[Node]] = {}
    grid = recipe.get("grid", {})
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        settings = _settings(where, recipe, point, params, schema)
        if launch:
            _check_shared(where, stage, settings, launch)
        if stage == "merge":
            _check_merge(where, recipe, settings, points, params)
        if stage == "interpolate":
            _check_own(where, stage, settings)
            _check_path(where, recipe, settings, families, params)
        if stage == "rl":
            _check_own(where, stage, settings)
        sources = _sources(recipe)
        if stage == "opd":
            settings, sources = _mixed(where, recipe, settings, sources)
            _check_own(where, stage, settings)
        point_name = "-".join([name, *(f"{key}={_in_a_name(value)}" for key, value in point.items())])
        expanded[point_name] = [
            Node(
                name=point_name + (f"-s{seed}" if len(seeds) > 1 else ""),
                recipe=name,
                study=study,
                stage=stage,
                parents=tuple(_paired(where, "parent", family, seed) for family in families),
                data=datasets[0] if datasets else None,
                seed=seed,
                point=point,
                settings=settings | ({"seed": seed} if stage in RANDOM_STAGES else {}),
                treatment=diagnosed
                and {
                    "diagnosis": _paired(where, "diagnosis", diagnosed, seed),
                    "causes": recipe["treats"],
                    "at_random": recipe.get("at_random", False),
                },
                judge=judges and _paired(where, "reward model", judges, seed),
                teachers=tuple(_paired(where, "teacher", family, seed) for family in teachers),
                sources=tuple(sources),
                launch=launch,
            )
            for seed in seeds
        ]
    return expanded


def _settings(where: str, recipe: dict, point: dict, params: dict, schema: dict) -> dict:
    """The stage's defaults, the recipe's keys and one point of its grid, checked against the stage's object."""
    stage = recipe["stage"]
    own = {key: value for key, value in recipe.items() if key not in GRAPH_KEYS}
    for key in [*own, *(key.split(".")[0] for key in point)]:
        others = [s for s in PARENTS if s != stage and key in schema["properties"][s]["properties"]]
        if key not in schema["properties"][stage]["properties"] and others:
            raise ValueError(
                f"{where}.{key}: has no effect on stage {stage} (it is a setting of {others[0]}); remove it"
            )
    settings = json.loads(json.dumps({**params[stage], **own}))  # a deep copy: grid points must not share lists
    for key, value in point.items():
        if key in own:
            raise ValueError(f"{where}.{key}: has no effect beside grid.{key}, which sets it; remove one")
        *folders, last = key.split(".")
        target = settings
        for folder in folders:
            target = target.setdefault(folder, {})
            if not isinstance(target, dict):
                raise ValueError(f"{where}.grid.{key}: {folder} has no keys of its own; write the grid over {folder}")
        target[last] = value
    _check(settings, schema["properties"][stage], schema, where)
    if stage in CHOICES:
        settings = _acting(where, stage, settings, [*own, *point])
    if settings.get("buckets") and "data_conflict" not in recipe.get("treats", []):
        raise ValueError(
            f"{where}.buckets: has no effect without `treats: [data_conflict]`, which finds the groups; add or remove"
        )
    return settings


def _launch(where: str, recipe: dict, params: dict) -> dict | None:
    """How the processes of a recipe's training are started: its own `launch`, or the one for all."""
    from steps.launch import check

    stage = recipe["stage"]
    if stage not in RANDOM_STAGES:
        if "launch" in recipe:
            raise ValueError(f"{where}.launch: has no effect on stage {stage}, which is one process; remove it")
        return None
    launch = recipe.get("launch", params["launch"])
    with _under(where):
        check(launch["kind"], launch["processes"], stage)
    return launch


def _check_shared(where: str, stage: str, settings: dict, launch: dict) -> None:
    """A training that so many processes can share in that way."""
    from steps import processes

    with _under(where):
        processes.check_shared(settings, stage, launch["kind"], launch["processes"])


def _acting(where: str, stage: str, settings: dict, written: list[str]) -> dict:
    """The settings that act under the choice made, of which the recipe may write no other."""
    key, choices = CHOICES[stage]
    choice = settings[key]
    optional = {name for names in choices.values() for name in names}
    for name in written:
        if name in optional - {*choices[choice]}:
            takes = [value for value, names in choices.items() if name in names]
            raise ValueError(
                f"{where}.{name}: has no effect with {key} {choice}; remove it (it acts with {', '.join(takes)})"
            )
    return {name: value for name, value in settings.items() if name not in optional - {*choices[choice]}}


def _check_merge(where: str, recipe: dict, settings: dict, points: dict[str, list[Node]], params: dict) -> None:
    """One weight per parent, equal ones where none are given; one model below parents whose changes are merged."""
    parents, method = recipe["from"], settings["method"]
    if method == "slerp" and len(parents) != 2:
        raise ValueError(f"{where}.from: method slerp takes 2 parents, not {len(parents)}")
    if "weights" in settings:
        settings["weights"] = settings["weights"] or [1 / len(parents)] * len(parents)
        if len(settings["weights"]) != len(parents):
            raise ValueError(
                f"{where}.weights: {len(settings['weights'])} weights for {len(parents)} parents;"
                " write one weight per parent"
            )
    if method in ON_A_BASE:
        roots = [_root(parent, points, params["models"]) for parent in parents]
        for parent, root in zip(parents, roots, strict=True):
            if root != roots[0]:
                raise ValueError(
                    f"{where}.from: `{parents[0]}` descends from {roots[0]}, `{parent}` from {root}; method {method}"
                    " merges the changes of one model"
                )
            if parent == root:
                raise ValueError(
                    f"{where}.from: `{parent}` is the model whose changes method {method} merges; take it out"
                )


def _root(name: str, points: dict[str, list[Node]], models: dict) -> str:
    """The model that a point, or a node of it, descends from by first parents."""
    nodes = {node.name: node for family in points.values() for node in family}
    while name not in models:
        name = (points[name][0] if name in points else nodes[name]).parents[0]
    return name


def _check_path(where: str, recipe: dict, settings: dict, families: list[list[Node] | str], params: dict) -> None:
    """Questions that no result is reported on, and for a path of rotations an end that rotates the start."""
    for axis in ("target", "general"):
        for reported in ("target", "harder", "general"):
            for task in settings[axis]:
                if task in params["evaluate"][reported]:
                    raise ValueError(
                        f"{where}.{axis}: {task} stands under evaluate.{reported}: choose by other questions"
                    )
    if settings["path"] != "cayley":
        return
    (start, end), last = recipe["from"], families[1]
    kind = None if isinstance(last, str) else last[0].settings.get("adapter", {}).get("kind")
    starts = [start] if isinstance(families[0], str) else [node.name for node in families[0]]
    if kind != "oft" or last[0].parents[0] not in starts:
        raise ValueError(
            f"{where}.path: cayley needs an oft adapter that was trained on `{start}`, which `{end}` is not"
        )


def _check_own(where: str, stage: str, settings: dict) -> None:
    """What a step asks of its settings beyond the schema."""
    from steps import interpolate, opd, rl

    with _under(where):
        {"interpolate": interpolate, "opd": opd, "rl": rl}[stage].check_settings(settings)


def _taught_by(where: str, recipe: dict, points: dict[str, list[Node]], params: dict) -> list[list[Node] | str]:
    """What a recipe learns from: for each of `_teachers` the nodes, one per seed, or the model."""
    stage, named, datasets = recipe["stage"], recipe.get("teachers"), _datasets(recipe)
    if stage not in TAUGHT_STAGES:
        if named is not None:
            raise ValueError(f"{where}.teachers: has no effect on stage {stage}; remove it")
        return []
    if named is None:
        raise ValueError(f"{where}: stage {stage} needs `teachers`, the recipes or models it learns from; add it")
    if isinstance(named, dict):
        for data in named:
            if data not in datasets:
                raise ValueError(f"{where}.teachers.{data}: the recipe has no such data set{_meant(data, datasets)}")
        for data in datasets:
            if data not in named:
                raise ValueError(f"{where}.teachers: the data set `{data}` has no teacher; write {data}: <teacher>")
    elif stage == "distill" and len(named) > 1:
        raise ValueError(
            f"{where}.teachers: stage distill takes one teacher for each data set, for a mixture of several writes no"
            f" rows; write teachers: {{{', '.join(f'{data}: <teacher>' for data in datasets)}}}"
        )
    families = []
    for teacher in _teachers(recipe):
        family = _family(f"{where}.teachers", teacher, points, params["models"])
        if teacher in recipe["from"]:
            raise ValueError(f"{where}.teachers: `{teacher}` teaches itself; name another teacher than the start")
        if not isinstance(family, str) and family[0].stage == "reward":
            raise ValueError(
                f"{where}.teachers: `{teacher}` scores responses and writes none; name a checkpoint that writes"
            )
        families.append(family)
    return families


def _sources(recipe: dict) -> list[dict]:
    """One entry for each data set of a recipe that is taught: see Node."""
    named, teachers = recipe.get("teachers"), _teachers(recipe)
    if named is None:
        return []
    return [
        {
            "data": data,
            "share": None,
            "teachers": [teachers.index(named[data])] if isinstance(named, dict) else [*range(len(teachers))],
        }
        for data in _datasets(recipe)
    ]


def _mixed(where: str, recipe: dict, settings: dict, sources: list[dict]) -> tuple[dict, list[dict]]:
    """Settings of stage opd with "sources" and "weights" for what the recipe says of both; and the sources."""
    teachers, mixture = _teachers(recipe), isinstance(recipe["teachers"], list) and len(recipe["teachers"]) > 1
    shares, weights = settings["shares"], settings["weights"]
    if shares is not None and len(sources) == 1:
        raise ValueError(f"{where}.shares: has no effect with one data set; remove it")
    if weights is not None and not mixture:
        raise ValueError(f"{where}.weights: has no effect without a list of several teachers; remove it")
    if mixture and settings["off_policy"] > 0:
        raise ValueError(
            f"{where}.off_policy: a mixture of several teachers writes no rows; set it to 0, or give each data set its"
            " own teacher"
        )
    shares = _normalised(f"{where}.shares", shares, "data set", len(sources))
    weights = _normalised(f"{where}.weights", weights, "teacher", len(teachers))
    sources = [source | {"share": share} for source, share in zip(sources, shares, strict=True)]
    kept = {key: value for key, value in settings.items() if key not in ("shares", "weights")}
    return kept | {"sources": sources, "weights": weights}, sources


def _normalised(where: str, numbers: list[float] | None, what: str, count: int) -> list[float]:
    """One number for each of `count` things, equal ones where none are given; with a sum of 1 but for rounding."""
    if numbers is None:
        return [1 / count] * count
    if len(numbers) != count:
        raise ValueError(f"{where}: {len(numbers)} numbers for {count} {what}s; write one per {what}")
    if abs(sum(numbers) - 1) > 0.01:
        raise ValueError(f"{where}: {numbers} sum to {sum(numbers):.4g}; they must sum to 1")
    return [number / sum(numbers) for number in numbers]


def _judges(where: str, recipe: dict, points: dict[str, list[Node]], params: dict) -> list[Node] | None:
    """The nodes, one per seed, whose reward model scores the samples of a recipe of stage rl."""
    name = _judge(recipe, params)
    if name is None:
        return None
    family = _family(f"{where}.rewards", name, points, params["models"])
    if isinstance(family, str) or family[0].stage != "reward":
        raise ValueError(f"{where}.rewards: `{name}` is no recipe of stage reward; name one")
    rewards = recipe.get("rewards") or params["rl"]["rewards"]
    if sum(reward["kind"] == "preference" for reward in rewards.values()) > 1:
        raise ValueError(f"{where}.rewards: more than one of kind preference; keep one")
    return family


def _in_a_name(value: Any) -> str:
    """A grid's value in the name of its point: lists without brackets and spaces."""
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _diagnosed(where: str, recipe: dict, points: dict[str, list[Node]], params: dict) -> list[Node] | None:
    """The nodes, one per seed, whose unlearned rows a recipe treats; None where it treats nothing."""
    stage, treats = recipe["stage"], recipe.get("treats")
    for key, other in (("diagnosis", "treats"), ("treats", "diagnosis"), ("at_random", "treats")):
        if key in recipe and other not in recipe:
            raise ValueError(f"{where}.{key}: has no effect without `{other}`; add it or remove {key}")
    if treats is None:
        if stage == "cpt":
            raise ValueError(
                f"{where}: stage cpt needs `diagnosis` and `treats`, for which its documents are made; add them"
            )
        return None
    if stage not in TREATS:
        raise ValueError(f"{where}.treats: has no effect on stage {stage}; remove it and diagnosis")
    for cause in treats:
        if cause not in TREATS[stage]:
            stages = [s for s in TREATS if cause in TREATS[s]]
            instead = (
                f"a recipe of stage {stages[0]}" if stages else "`order: shuffle` and `resample`, on any sft recipe"
            )
            raise ValueError(f"{where}.treats: stage {stage} does not treat {cause}; that takes {instead}")

    name = recipe["diagnosis"]
    family = _family(f"{where}.diagnosis", name, points, params["models"])
    if isinstance(family, str) or not family[0].settings.get("trajectory"):
        raise ValueError(
            f"{where}.diagnosis: `{name}` is no sft recipe with `trajectory` above 0; set that or name another"
        )
    study, trained = family[0].study, family[0].data
    if params["studies"][study].get("detect") != trained:
        raise ValueError(
            f"{where}.diagnosis: the rows of `{name}` are not examined; write studies.{study}.detect: {trained}"
        )
    if stage in DATA_STAGES and recipe["data"] != trained:
        raise ValueError(f"{where}.data: the diagnosis tells of the rows of `{trained}`; write data: {trained}")
    return family


def one_checkpoint(where: str, name: str, nodes: dict[str, Node], models: dict) -> str:
    """The node or model of that name, which may be a recipe's where the recipe has a single node.

    Raises:
        ValueError: there is none, there are several, or it is a reward model, which writes no text.
    """
    family = [node.name for node in nodes.values() if name in (node.recipe, node.name.removesuffix(f"-s{node.seed}"))]
    if name not in nodes and len(family) > 1:
        raise ValueError(f"{where}: `{name}` is {len(family)} checkpoints; name one of {', '.join(family)}")
    if name not in nodes and name not in models:
        if not family:
            raise ValueError(f"{where}: no recipe or model `{name}`{_meant(name, [*nodes, *models])}")
        (name,) = family
    if name in nodes and nodes[name].stage == "reward":
        raise ValueError(f"{where}: `{name}` scores responses and writes none; name another checkpoint")
    return name


def _family(where: str, parent: str, points: dict[str, list[Node]], models: dict) -> list[Node] | str:
    """The nodes, one per seed, that `parent` names; a model is its own name."""
    if parent in models:
        return parent
    if parent not in points:
        recipe = parent.split("-")[0]
        choices = [point for point in points if point.split("-")[0] == recipe]
        raise ValueError(f"{where}: `{recipe}` is a grid; name one point, such as `{choices[0]}`")
    return points[parent]


def _seeds(where: str, recipe: dict, families: list[list[Node] | str], default: list[int]) -> list[int | None]:
    """The seeds a recipe is repeated with. A stage without randomness is repeated as its parents are."""
    if recipe["stage"] in RANDOM_STAGES:
        return recipe.get("seeds", default)
    if "seeds" in recipe:
        raise ValueError(f"{where}.seeds: has no effect on stage {recipe['stage']}, which takes those of its parents")
    seeded = [[node.seed for node in family] for family in families if not isinstance(family, str)]
    return max(seeded, key=len, default=[None])


def _paired(where: str, role: str, family: list[Node] | str, seed: int | None) -> str:
    """The member of a family that belongs to a child of this seed: that of the same seed, or the only one."""
    if isinstance(family, str):
        return family
    if len(family) == 1:
        return family[0].name
    for node in family:
        if node.seed == seed:
            return node.name
    seeds = [node.seed for node in family]
    raise ValueError(f"{where}.seeds: seed {seed} has no {role}, `{family[0].recipe}` has {seeds}; use those")


# --- one line for each mistake --------------------------------------------------------------------


@contextlib.contextmanager
def _under(where: str) -> Iterator[None]:
    """Puts the recipe's name before the key that a step's own check complains of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error


def _check(value: dict, schema: dict, root: dict, where: str) -> None:
    """Validate and raise the first error, in the order of the keys, as one line."""
    validator = Draft202012Validator({**schema, "$defs": root["$defs"]})
    errors = sorted(validator.iter_errors(value), key=lambda error: [str(part) for part in error.absolute_path])
    if errors:
        raise ValueError(_explain(errors[0], where))


def _explain(error: ValidationError, where: str) -> str:
    """One line for a schema error: the key's path, what is wrong, what to write."""
    if error.validator in ("oneOf", "anyOf") and error.context:
        # The branches of a oneOf are told apart by `kind`: speak of the one the user chose.
        wrong_kind = {e.schema_path[0] for e in error.context if e.validator == "const"}
        chosen = [e for e in error.context if e.schema_path[0] not in wrong_kind]
        kinds = [e.validator_value for e in error.context if list(e.path) == ["kind"]]
        if chosen and error.validator == "oneOf":
            return _explain(chosen[0], where)
        if kinds:
            return f"{_path(error, where)}.kind: {error.instance['kind']!r} is none of: {', '.join(sorted(set(kinds)))}"
        wanted = [e.validator_value if e.validator == "type" else repr(e.validator_value) for e in error.context]
        return f"{_path(error, where)}: {error.instance!r} is neither of: {', '.join(map(str, wanted))}"
    path = _path(error, where)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = next(key for key in error.instance if key not in known)
        prefix = f"{path}.{unknown}" if path else unknown
        kind = error.instance.get("kind")
        if kind is not None:
            return f"{prefix}: has no effect with kind {kind}; remove it (known keys: {', '.join(known)})"
        return f"{prefix}: unknown key{_meant(unknown, known) or '; known keys: ' + ', '.join(known)}"
    if error.validator == "required":
        missing = next(key for key in error.validator_value if key not in error.instance)
        return f"{path or 'top level'}: the key `{missing}` is missing; add it"
    if error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, str) else " or ".join(error.validator_value)
        message = f"{path}: needs {'an' if wanted[0] in 'aeiou' else 'a'} {wanted}, not {error.instance!r}"
        if isinstance(error.instance, str) and _is_number(error.instance) and wanted in ("number", "integer"):
            message += f"; YAML reads that as text, write {_as_yaml_number(error.instance, wanted)}"
        return message
    if error.validator in ("enum", "const"):
        allowed = error.validator_value if error.validator == "enum" else [error.validator_value]
        return f"{path}: {error.instance!r} is none of: {', '.join(map(str, allowed))}"
    if error.validator == "dependentRequired":
        key, other = next(
            (k, o) for k, others in error.validator_value.items() for o in others if o not in error.instance
        )
        return f"{path}.{key}: has no effect without `{other}`; add it or remove {key}"
    if "revision" in path and error.validator == "pattern":
        return f"{path}: {error.instance!r} is not a commit (7 to 40 hex digits); copy it from the repository's history"
    return f"{path or 'top level'}: {' '.join(error.message.split())}"


def _path(error: ValidationError, where: str) -> str:
    path = where
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean `{close[0]}`?" if close else f"; it has: {', '.join(known)}" if known else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_yaml_number(text: str, wanted: str) -> str:
    """The spelling YAML 1.1 reads as a number: an exponent needs a point before it and a sign in it."""
    if wanted == "integer" and float(text).is_integer():
        return str(int(float(text)))
    mantissa, _, exponent = text.strip().lower().partition("e")
    if not exponent:
        return mantissa
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"
