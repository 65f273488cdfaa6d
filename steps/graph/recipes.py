"""The recipe graph: from the sections of `params.yaml` to the list of checkpoints to make.

Pure: no files, no Snakemake. A recipe is its stage's defaults with its own keys on top (a key replaces the default
whole); `grid:` makes one node per point, seeds one node per seed, and every node is checked against the class of its
stage. The first mistake is raised as a `ValueError` of one line that names the key and the fix.
"""

import contextlib
import difflib
import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

from steps.graph import relations
from steps.graph.node import Node
from steps.settings.axes import AXES
from steps.settings.errors import check, meant
from steps.settings.formats import AUTO, FORMATS
from steps.settings.launches import check_kind, check_launch
from steps.settings.names import (
    LONGEST_NODE,
    MOST_POINTS,
    RESERVED_RECIPES,
    RESERVED_STUDIES,
    RESERVED_WORKLOADS,
    check_apart,
    in_a_name,
)
from steps.settings.params import GRAPH_KEYS, SECTIONS, Params
from steps.settings.stages import STAGES

# Stage -> the keys of its settings.
_KEYS = {stage: entry.settings.keys() for stage, entry in STAGES.items()}


def _filled_in(value: Any, workload: str) -> Any:
    """The same with the workload's name in place of `{workload}`, in keys too."""
    if isinstance(value, dict):
        return {_filled_in(key, workload): _filled_in(part, workload) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled_in(part, workload) for part in value]
    return value.replace("{workload}", workload) if isinstance(value, str) else value


def complete(params: dict) -> dict:
    """The sections of `workload.load`, checked, with `{workload}` filled in.

    Raises:
        ValueError: a key is unknown, missing or of the wrong type, or a name refers to nothing.
    """
    if params.get("workload", ...) is None:
        raise ValueError(
            "workload: null; name what these overlays make together, for results/<name>: --config workload=<name>"
        )
    check(Params, params)
    if params["workload"] in RESERVED_WORKLOADS:
        raise ValueError(f"workload: reports/{params['workload']} is taken by other files; rename the workload")
    for section in ("data", "studies"):
        check_apart((f"{section}.{name}", name) for name in params[section])
    params = _filled_in(params, params["workload"])
    for section, of in SECTIONS.items():
        # What does not fit in a stage's defaults, its recipes may change.
        if section not in STAGES:
            of.fit(params[section])
    named = [
        ("bucket.model", params["bucket"]["model"], "models"),
        ("evaluate.valid", params["evaluate"]["valid"], "data"),
    ]
    named += [
        (f"studies.{k}.detect", study["detect"], "data") for k, study in params["studies"].items() if "detect" in study
    ]
    named += [(f"models.{k}.base", model["base"], "models") for k, model in params["models"].items() if "base" in model]
    named += [("forecast.axes", name, "data") for name in params["forecast"]["axes"]]
    if semantic := params["dedup"]["semantic"]:
        named += [("dedup.semantic.model", semantic["model"], "models")]
    for key, name, section in named:
        if name not in params[section]:
            raise ValueError(f"{key}: no entry `{name}` in {section}{meant(name, params[section])}")
    for name in params["models"]:
        line = [name]
        while base := params["models"][line[-1]].get("base"):
            if base in line:
                raise ValueError(f"models.{name}.base: leads back to `{base}`; name the model that it adapts")
            line.append(base)
    return params


def resolve(params: dict) -> list[Node]:
    """Every node of the recipe graph, parents before children. `params` come from `complete`.

    Raises:
        ValueError: a recipe is wrong in itself or in its place; the message names it and the fix.
    """
    recipes = _collect(params)
    points: relations.Points = {}
    for name in relations.ordered(recipes, params):
        study, recipe = recipes[name]
        points |= _expand(name, study, recipe, points, params)
    nodes = [node for family in points.values() for node in family]
    places = [(f"models.{name}", name) for name in params["models"]]
    check_apart([*places, *((f"studies.{node.study}.recipes.{node.recipe}", node.name) for node in nodes)])
    explores = any(study.get("explore") for study in params["studies"].values())
    if explores and not params["explore"]["tasks"]:
        raise ValueError("explore.tasks: a study has `explore: true`; name the tasks that it is sampled on")
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
                # A mistyped task of an axis leaves the one that is described without a place.
                undescribed = [name for name in axis_of if name not in evaluate["tasks"]]
                for near in difflib.get_close_matches(task, undescribed if key == "tasks" else [], n=1):
                    raise ValueError(f"evaluate.{axis_of[near]}: no task `{near}` is described; did you mean `{task}`?")
                raise ValueError(f"evaluate.{key}: {task} stands on no axis; add it to one of {', '.join(AXES)}")


def _collect(params: dict) -> dict[str, tuple[str, dict]]:
    """Recipe name -> (study, recipe), with `from` as a list. Names are unique over all studies and models."""
    recipes: dict[str, tuple[str, dict]] = {}
    for study, content in params["studies"].items():
        if study in (*RESERVED_STUDIES, *STAGES):
            raise ValueError(f"studies.{study}: a results folder or rule has that name; rename the study")
        for name, recipe in content["recipes"].items():
            where = f"studies.{study}.recipes.{name}"
            if name in params["models"]:
                raise ValueError(f"{where}: `{name}` is an entry of models: too; rename the recipe")
            if name in recipes:
                raise ValueError(f"{where}: study `{recipes[name][0]}` has a recipe `{name}` too; rename one")
            if name in RESERVED_RECIPES:
                raise ValueError(f"{where}: {name} is another folder of work/; rename the recipe")
            parents = recipe["from"] if isinstance(recipe["from"], list) else [recipe["from"]]
            recipes[name] = (study, {**recipe, "from": parents})
    return recipes


def _expand(name: str, study: str, recipe: dict, points: relations.Points, params: dict) -> relations.Points:
    """The nodes of one recipe: point name -> one node per seed."""
    where = f"studies.{study}.recipes.{name}"
    stage, parents, datasets = recipe["stage"], recipe["from"], relations.data_of(recipe)
    _check_parents(where, stage, parents)
    _check_data(where, recipe, params)
    families = relations.families_of(where, recipe, points, params)
    judges = relations.judges_of(where, recipe, points, params)
    teachers = relations.taught_by(where, recipe, points, params)
    diagnosed = relations.diagnosis_of(where, recipe, points, params)
    seeds = relations.seeds_of(where, recipe, families, params["seeds"])
    launch = _launch(where, recipe, params)
    expanded: relations.Points = {}
    grid = recipe.get("grid", {})
    if (count := math.prod(map(len, grid.values()))) > MOST_POINTS:
        raise ValueError(f"{where}.grid: {count:,} points; {MOST_POINTS:,} are the most; vary fewer settings at once")
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        settings, sources = _settings(where, recipe, point, params), relations.sources_of(recipe)
        if launch:
            with _under(where):
                check_launch(settings, launch["kind"], launch["processes"], stage)
        if stage == "merge":
            relations.check_merge(where, recipe, settings, points, params)
        if stage == "interpolate":
            relations.check_path(where, recipe, settings, families, params)
        if STAGES[stage].mixture:
            settings, sources = relations.mixed(where, recipe, settings, sources)
        with _under(where):
            STAGES[stage].settings.fit(settings)
            _check_weights(settings, datasets, params)
        point_name = "-".join([name, *(f"{key}={in_a_name(value)}" for key, value in point.items())])
        if point_name in expanded:
            raise ValueError(f"{where}.grid: two points are called `{point_name}`; remove one of the values")
        if len(point_name) > LONGEST_NODE:
            raise ValueError(
                f"{where}.grid: {point_name[:60]}… has {len(point_name)} characters, the name of a point at most"
                f" {LONGEST_NODE}; vary fewer settings at once"
            )
        expanded[point_name] = [
            Node(
                name=point_name + (f"-s{seed}" if len(seeds) > 1 else ""),
                recipe=name,
                study=study,
                stage=stage,
                parents=tuple(relations.paired(where, "parent", family, seed) for family in families),
                data=datasets[0] if datasets else None,
                seed=seed,
                point=point,
                settings=settings | ({"seed": seed} if STAGES[stage].trains else {}),
                treatment={
                    "diagnosis": relations.paired(where, "diagnosis", diagnosed, seed),
                    "causes": recipe["treats"],
                    "at_random": recipe.get("at_random", False),
                }
                if diagnosed
                else None,
                judge=relations.paired(where, "reward model", judges, seed) if judges else None,
                teachers=tuple(relations.paired(where, "teacher", family, seed) for family in teachers),
                sources=tuple(sources),
                launch=launch,
            )
            for seed in seeds
        ]
    return expanded


def _check_parents(where: str, stage: str, parents: list[str]) -> None:
    least, most = STAGES[stage].parents
    if len(parents) < least or (most is not None and len(parents) > most):
        need = f"{least}" if least == most else f"at least {least}"
        raise ValueError(f"{where}.from: stage {stage} takes {need} parent{'s' * (need != '1')}, not {len(parents)}")


def _check_data(where: str, recipe: dict, params: dict) -> None:
    stage, datasets = recipe["stage"], relations.data_of(recipe)
    if STAGES[stage].data and not datasets:
        raise ValueError(f"{where}: stage {stage} needs `data`, one of: {', '.join(params['data'])}")
    if not STAGES[stage].data and datasets:
        if not STAGES[stage].documents:
            raise ValueError(f"{where}.data: has no effect on stage {stage}; remove it")
        if "treats" in recipe:
            raise ValueError(f"{where}.data: has no effect beside `treats`, for which documents are made; remove one")
    if not STAGES[stage].taught and isinstance(recipe.get("data"), list):
        raise ValueError(f"{where}.data: stage {stage} takes one data set; write data: {datasets[0]}")
    for data in datasets:
        if data not in params["data"]:
            raise ValueError(f"{where}.data: no entry `{data}` in data{meant(data, params['data'])}")
        named = {source.get("format", AUTO) for source in params["data"][data]["sources"]} - {AUTO}
        for name in sorted(named):
            if FORMATS[name].of_documents != STAGES[stage].documents:
                wanted = "documents: name a set of format text" if STAGES[stage].documents else "conversations"
                raise ValueError(f"{where}.data: `{data}` has rows of format {name}, and stage {stage} takes {wanted}")


def _settings(where: str, recipe: dict, point: dict, params: dict) -> dict:
    """The stage's defaults, the recipe's keys and one point of its grid, checked against the stage's class."""
    stage = recipe["stage"]
    own = {key: value for key, value in recipe.items() if key not in GRAPH_KEYS}
    for key in [*own, *(key.split(".")[0] for key in point)]:
        if key in _KEYS[stage]:
            continue
        for other in (other for other, keys in _KEYS.items() if key in keys):
            raise ValueError(f"{where}.{key}: has no effect on stage {stage} (it is a setting of {other}); remove it")
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
    check(STAGES[stage].settings, settings, where)
    if STAGES[stage].choice:
        settings = _acting(where, stage, settings, [*own, *point])
    if settings.get("buckets") and "data_conflict" not in recipe.get("treats", []):
        raise ValueError(
            f"{where}.buckets: has no effect without `treats: [data_conflict]`, which finds the groups; add or remove"
        )
    return settings


def _check_weights(settings: dict, datasets: list[str], params: dict) -> None:
    """Raise a ValueError for an order of rows in which the weight of a source has no place."""
    weighted = [name for name in datasets for source in params["data"][name]["sources"] if "weight" in source]
    if weighted and settings.get("order") == "sources":
        raise ValueError(
            f"order: sources deals every row as often, and a source of data `{weighted[0]}` has a weight; write shuffle"
            " or easy_to_hard, or remove the weight"
        )
    if weighted and settings.get("buckets"):
        raise ValueError(
            f"buckets: keeps rows of a group apart that the weight of a source of data `{weighted[0]}` deals more than"
            " once; remove one"
        )


def _launch(where: str, recipe: dict, params: dict) -> dict | None:
    """How the processes of a recipe's training are started: its own `launch`, or the one for all."""
    stage = recipe["stage"]
    if not STAGES[stage].trains:
        if "launch" in recipe:
            raise ValueError(f"{where}.launch: has no effect on stage {stage}, which is one process; remove it")
        return None
    launch = recipe.get("launch", params["launch"])
    with _under(where):
        check_kind(launch["kind"], launch["processes"], stage)
    return launch


def _acting(where: str, stage: str, settings: dict, written: list[str]) -> dict:
    """The settings that act under the choice made, of which the recipe may write no other."""
    acting = STAGES[stage].choice
    assert acting, f"stage {stage} has no choice"
    key, choices = acting
    choice = settings[key]
    optional = {name for names in choices.values() for name in names}
    for name in written:
        if name in optional - {*choices[choice]}:
            takes = [value for value, names in choices.items() if name in names]
            raise ValueError(
                f"{where}.{name}: has no effect with {key} {choice}; remove it (it acts with {', '.join(takes)})"
            )
    return {name: value for name, value in settings.items() if name not in optional - {*choices[choice]}}


@contextlib.contextmanager
def _under(where: str) -> Iterator[None]:
    """Puts the recipe's name before the key that a step's own check complains of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from error
