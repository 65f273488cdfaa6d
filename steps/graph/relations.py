"""What a recipe has to do with others: whom it starts from, learns from, is judged by and treats.

A family is the nodes, one per seed, that a name stands for; a model stands for itself. `points` has the families that
are there already, by their name without a seed.
"""

from collections.abc import Iterator

from steps.graph.node import Node
from steps.settings.axes import CAPABILITIES, REPORTED
from steps.settings.errors import meant
from steps.settings.merging import MERGES
from steps.settings.stages import STAGES

Family = list[Node] | str
Points = dict[str, list[Node]]


def judge_of(recipe: dict, params: dict) -> str | None:
    """The recipe of stage reward that a recipe of stage rl names."""
    rewards = recipe.get("rewards") or params[recipe["stage"]].get("rewards") or {}
    if not isinstance(rewards, dict):
        return None  # the checks of the settings say it
    named = [r.get("model") for r in rewards.values() if isinstance(r, dict) and r.get("kind") == "preference"]
    return named[0] if named else None


def teachers_of(recipe: dict) -> list[str]:
    """The names that a recipe has under `teachers`, each once; in the order of its data sets where each has its own."""
    named = recipe.get("teachers", [])
    if isinstance(named, dict):
        named = [named[name] for name in [*data_of(recipe), *named] if name in named]
    return list(dict.fromkeys(named))


def data_of(recipe: dict) -> list[str]:
    """The names that a recipe has under `data`."""
    data = recipe.get("data", [])
    return data if isinstance(data, list) else [data]


def ordered(recipes: dict[str, tuple[str, dict]], params: dict) -> Iterator[str]:
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
        judge = judge_of(recipe, params)
        judged = [("rewards", judge)] if judge else []
        taught = [("teachers", teacher) for teacher in teachers_of(recipe)]
        for key, other in [*(("from", parent) for parent in recipe["from"]), *taught, *diagnosis, *judged]:
            where = f"studies.{study}.recipes.{name}.{key}"
            if other in models:
                continue
            # A grid point is spelled <recipe>-<key>=<value>…, and recipe names hold no hyphen.
            other_recipe = other.split("-")[0]
            if other_recipe not in recipes:
                raise ValueError(f"{where}: no recipe or model `{other}`{meant(other, [*recipes, *models])}")
            if other_recipe in path:
                cycle = " -> ".join((*path[path.index(other_recipe) :], other_recipe))
                fix = "start one of them from a model" if key == "from" else "name a recipe that does not need this one"
                raise ValueError(f"{where}: the recipes form a cycle, {cycle}; {fix}")
            yield from visit(other_recipe, path)
        done.add(name)
        yield name

    for name in recipes:
        yield from visit(name, ())


def families_of(where: str, recipe: dict, points: Points, params: dict) -> list[Family]:
    """What a recipe starts from."""
    families = [_family(f"{where}.from", parent, points, params["models"]) for parent in recipe["from"]]
    for parent, family in zip(recipe["from"], families, strict=True):
        if not isinstance(family, str) and not STAGES[family[0].stage].writes:
            raise ValueError(f"{where}.from: `{parent}` scores responses and writes none; start from another recipe")
    return families


def _root(name: str, points: Points, models: dict) -> str:
    """The model that a point, or a node of it, descends from by first parents."""
    nodes = {node.name: node for family in points.values() for node in family}
    while name not in models:
        name = (points[name][0] if name in points else nodes[name]).parents[0]
    return name


def check_merge(where: str, recipe: dict, settings: dict, points: Points, params: dict) -> None:
    """One weight per parent, equal ones where none are given; one model below parents whose changes are merged."""
    parents, method = recipe["from"], settings["method"]
    if MERGES[method].pairwise and len(parents) != 2:
        raise ValueError(f"{where}.from: method {method} takes 2 parents, not {len(parents)}")
    if method == "passthrough":
        if not settings["slices"]:
            raise ValueError(f"{where}.slices: method passthrough needs it; write [{{parent: 0, layers: [0, 2]}}, …]")
        for one in settings["slices"]:
            if one["parent"] >= len(parents):
                raise ValueError(
                    f"{where}.slices: parent {one['parent']} is none of the {len(parents)} of from:, counted from 0"
                )
    if "weights" in settings:
        settings["weights"] = settings["weights"] or [1 / len(parents)] * len(parents)
        if len(settings["weights"]) != len(parents):
            raise ValueError(
                f"{where}.weights: {len(settings['weights'])} weights for {len(parents)} parents;"
                " write one weight per parent"
            )
    if MERGES[method].over_base:
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


def check_path(where: str, recipe: dict, settings: dict, families: list[Family], params: dict) -> None:
    """Questions that no result is reported on, and for a path of rotations an end that rotates the start."""
    for axis in CAPABILITIES:
        if not settings[axis]:
            raise ValueError(
                f"{where}.{axis}: a path is chosen on questions; name tasks, here or by interpolate.{axis}"
            )
        for reported in REPORTED:
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
    if isinstance(last, str) or kind != "oft" or last[0].parents[0] not in starts:
        raise ValueError(
            f"{where}.path: cayley needs an oft adapter that was trained on `{start}`, which `{end}` is not"
        )
    first = families[0]
    if not isinstance(first, str) and first[0].settings.get("adapter", {"kind": "full"})["kind"] != "full":
        raise ValueError(
            f"{where}.path: cayley needs `{end}` as an adapter, and on `{start}`, an adapter too, it is written as a"
            " whole model; write additive"
        )


def taught_by(where: str, recipe: dict, points: Points, params: dict) -> list[Family]:
    """What a recipe learns from: for each of `teachers_of` the nodes, one per seed, or the model."""
    stage, named, datasets = recipe["stage"], recipe.get("teachers"), data_of(recipe)
    if not STAGES[stage].taught:
        if named is not None:
            raise ValueError(f"{where}.teachers: has no effect on stage {stage}; remove it")
        return []
    if named is None:
        raise ValueError(f"{where}: stage {stage} needs `teachers`, the recipes or models it learns from; add it")
    if isinstance(named, dict):
        for data in named:
            if data not in datasets:
                raise ValueError(f"{where}.teachers.{data}: the recipe has no such data set{meant(data, datasets)}")
        for data in datasets:
            if data not in named:
                raise ValueError(f"{where}.teachers: the data set `{data}` has no teacher; write {data}: <teacher>")
    elif not STAGES[stage].mixture and len(named) > 1:
        raise ValueError(
            f"{where}.teachers: stage {stage} takes one teacher for each data set, for a mixture of several writes no"
            f" rows; write teachers: {{{', '.join(f'{data}: <teacher>' for data in datasets)}}}"
        )
    families = []
    for teacher in teachers_of(recipe):
        family = _family(f"{where}.teachers", teacher, points, params["models"])
        if teacher in recipe["from"]:
            raise ValueError(f"{where}.teachers: `{teacher}` teaches itself; name another teacher than the start")
        if not isinstance(family, str) and not STAGES[family[0].stage].writes:
            raise ValueError(
                f"{where}.teachers: `{teacher}` scores responses and writes none; name a checkpoint that writes"
            )
        families.append(family)
    return families


def sources_of(recipe: dict) -> list[dict]:
    """One entry for each data set of a recipe that is taught: see Node."""
    named, teachers = recipe.get("teachers"), teachers_of(recipe)
    if named is None:
        return []
    return [
        {
            "data": data,
            "share": None,
            "teachers": [teachers.index(named[data])] if isinstance(named, dict) else [*range(len(teachers))],
        }
        for data in data_of(recipe)
    ]


def mixed(where: str, recipe: dict, settings: dict, sources: list[dict]) -> tuple[dict, list[dict]]:
    """Settings of stage opd with "sources" and "weights" for what the recipe says of both; and the sources."""
    teachers, mixture = teachers_of(recipe), isinstance(recipe["teachers"], list) and len(recipe["teachers"]) > 1
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


def judges_of(where: str, recipe: dict, points: Points, params: dict) -> list[Node] | None:
    """The nodes, one per seed, whose reward model scores the samples of a recipe of stage rl."""
    name = judge_of(recipe, params)
    if name is None:
        return None
    family = _family(f"{where}.rewards", name, points, params["models"])
    if isinstance(family, str) or family[0].stage != "reward":
        raise ValueError(f"{where}.rewards: `{name}` is no recipe of stage reward; name one")
    rewards = recipe.get("rewards") or params["rl"]["rewards"]
    if sum(reward["kind"] == "preference" for reward in rewards.values()) > 1:
        raise ValueError(f"{where}.rewards: more than one of kind preference; keep one")
    return family


def diagnosis_of(where: str, recipe: dict, points: Points, params: dict) -> list[Node] | None:
    """The nodes, one per seed, whose unlearned rows a recipe treats; None where it treats nothing."""
    stage, treats = recipe["stage"], recipe.get("treats")
    for key, other in (("diagnosis", "treats"), ("treats", "diagnosis"), ("at_random", "treats")):
        if key in recipe and other not in recipe:
            raise ValueError(f"{where}.{key}: has no effect without `{other}`; add it or remove {key}")
    if treats is None:
        if STAGES[stage].documents and not data_of(recipe):
            raise ValueError(
                f"{where}: stage {stage} needs `data`, a set of documents, or `diagnosis` and `treats`, for which they"
                " are made; add one of both"
            )
        return None
    if not STAGES[stage].treats:
        raise ValueError(f"{where}.treats: has no effect on stage {stage}; remove it and diagnosis")
    for cause in treats:
        if cause not in STAGES[stage].treats:
            stages = [name for name, entry in STAGES.items() if cause in entry.treats]
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
    if STAGES[stage].data and recipe["data"] != trained:
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
            raise ValueError(f"{where}: no recipe or model `{name}`{meant(name, [*nodes, *models])}")
        (name,) = family
    if name in nodes and not STAGES[nodes[name].stage].writes:
        raise ValueError(f"{where}: `{name}` scores responses and writes none; name another checkpoint")
    return name


def _family(where: str, parent: str, points: Points, models: dict) -> Family:
    """The nodes, one per seed, that `parent` names; a model is its own name."""
    if parent in models:
        return parent
    if parent not in points:
        recipe = parent.split("-")[0]
        choices = [point for point in points if point.split("-")[0] == recipe]
        raise ValueError(f"{where}: `{recipe}` is a grid; name one point, such as `{choices[0]}`")
    return points[parent]


def seeds_of(where: str, recipe: dict, families: list[Family], default: list[int]) -> list[int | None]:
    """The seeds a recipe is repeated with. A stage without randomness is repeated as its parents are."""
    if STAGES[recipe["stage"]].trains:
        return recipe.get("seeds", default)
    if "seeds" in recipe:
        raise ValueError(f"{where}.seeds: has no effect on stage {recipe['stage']}, which takes those of its parents")
    seeded = [[node.seed for node in family] for family in families if not isinstance(family, str)]
    return max(seeded, key=len, default=[None])


def paired(where: str, role: str, family: Family, seed: int | None) -> str:
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
