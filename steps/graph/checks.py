"""What is refused before the first job: what a recipe names and is not there, and what its model cannot have.

Each raises a ValueError of one line that names the key and the fix.
"""

import functools
from inspect import Signature
from pathlib import Path

from steps.core import plain_yaml
from steps.core.manifest import is_manifest, verify_manifest
from steps.core.promises import MANIFEST
from steps.core.signatures import stated, taken
from steps.core.versions import check_tracker, check_vllm
from steps.data.hub import wanted
from steps.data.sources import missing, named, suffixes
from steps.evaluation.questions import check_task, known_to, longest_answer
from steps.graph.graph import Graph
from steps.models import checkpoints, composed
from steps.models.adapters import experts, kinds
from steps.models.adapters.targets import is_embedding, targeted_embeddings
from steps.models.context import check_length, stated_context
from steps.models.files import read_config
from steps.settings.axes import REPORTED
from steps.settings.data import is_file_of_template, templated
from steps.settings.errors import meant
from steps.settings.formats import FILES
from steps.settings.rewards import GROUP, ONE
from steps.settings.stages import STAGES

# How the world calls its tasks, whose rows it writes.
OF_WORLD = "fable_"
# Of an axis: with fewer its scores may be off by 10 points and more.
FEW_QUESTIONS = 100


def check_adapters(graph: Graph) -> None:
    """Raise a ValueError for an adapter setting that would be ignored on its model, where that model is here."""
    # Once for each folder: recipes are many, and models few.
    shapes, shares = functools.cache(checkpoints.linear_shapes), functools.cache(experts.in_files)
    for name, node in graph.nodes.items():
        root = graph.root(name)
        adapter = node.settings.get("adapter", {"kind": "full"})
        if adapter["kind"] != "full" and is_here(graph, root):
            where = f"studies.{node.study}.recipes.{node.recipe}.adapter"
            folder = Path(graph.source(root))
            kinds.check(adapter, shapes(folder), where)
            experts.check_in_files(adapter, shares(folder), where)
        if is_here(graph, root):
            folder = Path(graph.source(root))
            _check_modules(adapter, folder, f"studies.{node.study}.recipes.{node.recipe}.adapter")


def _check_modules(adapter: dict, folder: Path, where: str) -> None:
    """Raise a ValueError for an entry of `modules_to_save` or `freeze` of which no tensor of the files says anything,
    for tied embeddings as a target, or for a new token that is known.

    The model may call experts otherwise than its files do, and a tied head is in none.
    """
    whole = checkpoints.full_checkpoint(folder)
    for key in ("modules_to_save", "freeze"):
        for entry in adapter.get(key, ()):
            parts = {part for name in checkpoints.tensor_names(whole) for part in name.split(".")}
            last = entry.rpartition(".")[2]
            if not ({"experts", last} & parts or "*" in last or is_embedding(last)):
                raise ValueError(f"{where}.{key}: {entry} is no module of the model; correct or remove it")
    named = targeted_embeddings(adapter) if adapter["kind"] != "full" else []
    if named and read_config(whole / checkpoints.CONFIG).get("tie_word_embeddings"):
        raise ValueError(
            f"{where}.target_modules: {named[0]} is tied to the output layer, whose change PEFT would merge twice; name"
            " it in modules_to_save"
        )
    if new := adapter.get("new_tokens"):
        known = checkpoints.vocabulary(folder)
        for token in new:
            if token in known:
                raise ValueError(f"{where}.new_tokens: the tokenizer has {token!r} already; take it out")


def check_trackers(graph: Graph) -> None:
    """Raise a ValueError for a tracker that is not installed."""
    for node in graph.nodes.values():
        try:
            check_tracker(node.settings.get("tracker", "none"))
        except ValueError as error:
            raise ValueError(f"studies.{node.study}.recipes.{node.recipe}.{error}") from None


def is_here(graph: Graph, model: str) -> bool:
    """Whether a model's folder is there; of one that is downloaded, all of it."""
    folder = Path(graph.source(model))
    return (folder / MANIFEST).is_file() if graph.downloaded(model) else folder.is_dir()


def check_teachers(graph: Graph) -> None:
    """Raise a ValueError for a teacher that does not number tokens as its student does, where both are here."""
    from steps.models.teachers import check_same_language

    same: set[tuple[str, str]] = set()
    for name, node in graph.nodes.items():
        if node.stage != "opd" and not graph.cached(name):
            continue
        student = graph.root(name)
        for teacher in node.teachers:
            pair = (student, graph.root(teacher))
            if pair in same or graph.folder(pair[0]) == graph.folder(pair[1]):
                continue
            if not all(is_here(graph, model) for model in pair):
                continue
            folders = [Path(graph.source(model)) for model in pair]
            own = [templated(graph.params["models"][model]) for model in pair]
            try:
                check_same_language(folders[0], folders[1], own[0], own[1])
            except ValueError as error:
                raise ValueError(f"studies.{node.study}.recipes.{node.recipe}.teachers: {error}") from error
            same.add(pair)


def check_templates(folder: Path) -> None:
    """Raise a ValueError for a template of a task that lm-eval would misread without a word."""
    for template in sorted(folder.glob("*.yaml")):
        plain_yaml.read(template, tags=["!function"])


def conversing(graph: Graph) -> list[str]:
    """The entries of `models` that are asked or trained; not what only `dedup.semantic` reads."""
    return sorted({graph.params["bucket"]["model"], *graph.measured()} - set(graph.nodes))


def used_models(graph: Graph) -> list[str]:
    """The entries of `models` that some rule reads."""
    models = graph.params["models"]
    used = [*{*conversing(graph), *filter(None, [graph.comparing])}]
    for name in used:
        used += [models[name]["base"]] if models[name].get("base", name) not in used else []
    return sorted(used)


def documents_of(graph: Graph) -> tuple[str, ...]:
    """The keys of `mixture` whose documents some recipe trains on."""
    mixed = any(STAGES[node.stage].documents and node.treatment for node in graph.nodes.values())
    return ("general", "library") if mixed else ()


def named_files(graph: Graph) -> list[tuple[str, str]]:
    """(key, file) of the questions and documents that are not downloaded, those of the world included, and of the rows
    of the world."""
    rows = [(where, source["path"]) for where, source in own_sources(graph) if source["path"].startswith(graph.world)]
    described = graph.params["evaluate"]["tasks"].items()
    splits = {
        file: f"evaluate.tasks.{task}.data_files.{split}"
        for task, spec in described
        for split, file in spec.get("data_files", {}).items()
    }
    tasks = [(splits.get(file, "evaluate: the data of a task"), file) for file in graph.evaluation_edges()]
    library = [("evidence.library", file) for file in graph.params["evidence"]["library"] if graph.diagnosed()]
    documents = [(f"mixture.{key}", file) for key in documents_of(graph) for file in graph.params["mixture"][key]]
    rewards = [
        (f"recipe {name}: rewards", file)
        for name, node in graph.nodes.items()
        if node.stage == "rl"
        for file in graph.custom_rewards(name)
    ]
    templates = [
        (f"models.{name}.chat_template", file)
        for name in used_models(graph)
        if is_file_of_template(file := graph.params["models"][name].get("chat_template", ""))
    ]
    return [*rows, *tasks, *library, *documents, *rewards, *templates]


def check_rewards(graph: Graph) -> None:
    """Raise a ValueError for a reward of kind custom whose file has no such function, or one that could be called for
    rows of no source, as far as the text of the file tells."""
    for node in graph.nodes.values():
        for name, reward in node.settings.get("rewards", {}).items():
            if reward["kind"] != "custom" or not Path(reward["file"]).is_file():
                continue
            where, file = f"studies.{node.study}.recipes.{node.recipe}.rewards.{name}", reward["file"]
            try:
                signature, others = stated(Path(file), reward["function"])
            except ValueError as error:
                raise ValueError(f"{where}.file: {file} {error}; correct it") from None
            if others is not None:
                raise ValueError(
                    f"{where}.function: {file} has no function {reward['function']}{meant(reward['function'], others)}"
                )
            if signature is None:
                continue
            kept = [own.get("keep", []) for own in graph.params["data"][node.data]["sources"]]
            problems = [_refused(signature, keep) for keep in kept]
            if all(problems):
                given = {ONE: "prompt, response, answer", GROUP: "prompt, responses, answer"}
                raise ValueError(
                    f"{where}.function: {reward['function']} of {file} cannot be called ({problems[0]}): it is given"
                    f" {given.get(reward.get('per', ONE), 'prompts, responses, answers')}, as a fourth the row, and by"
                    f" name what `keep` of a source of data.{node.data} names"
                    f" ({', '.join(dict.fromkeys(name for keep in kept for name in keep)) or 'nothing'})"
                )


def _refused(signature: Signature, keep: list[str]) -> str:
    """Why a function cannot be called with what a source keeps; "" where it can."""
    try:
        taken(signature, [None] * 4, dict.fromkeys(keep))
    except TypeError as error:
        return str(error)
    return ""


def own_sources(graph: Graph) -> list[tuple[str, dict]]:
    """(key, source) of the rows that are not downloaded."""
    return [
        (f"data.{name}.sources[{i}].path", source)
        for name in graph.used_data()
        for i, source in enumerate(graph.params["data"][name]["sources"])
        if "revision" not in source
    ]


def check_sources(graph: Graph) -> None:
    """Raise a ValueError for a source that stands for no file, or for one that cannot be read by its name."""
    for name in graph.used_data():
        wanted(graph.params["data"][name], f"data.{name}")
        for i, source in enumerate(graph.params["data"][name]["sources"]):
            if "revision" in source and suffixes(Path(source["path"]))[0] not in FILES:
                raise ValueError(
                    f"data.{name}.sources[{i}].path: {source['path']} is no file of rows; they end in"
                    f" {', '.join(FILES)}"
                )
    for where, source in own_sources(graph):
        if not source["path"].startswith(graph.world):
            try:
                named([source])
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from error


def check_models(graph: Graph) -> None:
    """Raise a ValueError for a model that no rule makes and that is not there, not whole, or damaged."""
    for name in used_models(graph):
        model, where = graph.params["models"][name], f"models.{name}.path"
        folder = Path(model["path"])
        check_prepared(graph, name)
        if "revision" in model:
            wanted(model, f"models.{name}")
            continue
        if "base" in model:
            if not checkpoints.is_adapter(folder):
                raise ValueError(f"models.{name}.base: has no effect, for {folder} is no adapter; remove it")
            if is_here(graph, model["base"]):
                try:
                    checkpoints.check_files(folder, Path(graph.source(model["base"])))
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error
            continue
        if folder.suffix == ".gguf":
            raise ValueError(
                f"{where}: {folder} is a GGUF file; make a folder of it (python -m steps.models.from_gguf {folder}"
                " <folder>), and name that"
            )
        if not folder.is_dir():
            raise ValueError(f"{where}: there is no folder {folder}; a hub id needs `revision:` beside it, a commit")
        try:
            checkpoints.check_files(folder)
            if is_manifest(folder / MANIFEST):
                verify_manifest(folder)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        if name in conversing(graph) and not (folder / "tokenizer.json").is_file():
            raise ValueError(f"{where}: {folder} has no tokenizer.json; copy the model's tokenizer files there")
        if name in conversing(graph) and not model.get("chat_template") and not checkpoints.template_of(folder):
            raise ValueError(
                f"models.{name}: {folder} has no chat template, by which rows become text; set"
                f" models.{name}.chat_template, or give the folder a chat_template.jinja"
            )


def check_lengths(graph: Graph) -> None:
    """Raise a ValueError for a training on longer rows than its model reads at once, where that model is here."""
    for name, node in graph.nodes.items():
        root = graph.root(name)
        if "max_length" in node.settings and is_here(graph, root):
            config = read_config(checkpoints.full_checkpoint(Path(graph.source(root))) / checkpoints.CONFIG)
            where = f"studies.{node.study}.recipes.{node.recipe}.max_length"
            check_length(node.settings["max_length"], stated_context(config), where)


def check_rooms(graph: Graph) -> None:
    """Raise a ValueError for answers that leave a model no room for a question, where that model is here."""
    contexts: dict[str, int] = {}
    for name in graph.measured():
        if is_here(graph, root := graph.root(name)) and root not in contexts:
            folder = checkpoints.full_checkpoint(Path(graph.source(root)))
            if most := stated_context(read_config(folder / checkpoints.CONFIG)):
                contexts[root] = most
    wanted = {
        f"studies.{node.study}.recipes.{node.recipe}.max_new_tokens": (
            graph.root(name),
            node.settings["max_new_tokens"],
        )
        for name, node in graph.nodes.items()
        if STAGES[node.stage].samples
    }
    described, default = graph.params["evaluate"]["tasks"], graph.params["evaluate"]["max_new_tokens"]
    for task in graph.asked():
        limit, own = longest_answer(task, described.get(task, {}), default)
        where = f"evaluate.tasks.{task}.overrides.generation_kwargs" if own else "evaluate.max_new_tokens"
        wanted |= {f"{where} ({root})": (root, limit) for root in contexts}
    for where, (root, limit) in wanted.items():
        if limit >= contexts.get(root, limit + 1):
            raise ValueError(
                f"{where.split(' ')[0]}: {limit} leaves no room for a question in the {contexts[root]} positions of"
                f" {root}; lower it"
            )


def check_prepared(graph: Graph, name: str) -> None:
    """Raise a ValueError for a chat template that the settings of a model make, where it cannot be what is meant."""
    settings = templated(graph.params["models"][name])
    file = settings.get("chat_template", "")
    # A file that is not there is said with all others.
    readable = Path(file).is_file() if is_file_of_template(file) else bool(file) or is_here(graph, name)
    if settings and readable:
        composed.check(Path(graph.source(name)), settings, f"models.{name}")


def check_described(graph: Graph) -> None:
    """Raise a ValueError for a task without rows, such as one whose name is mistyped."""
    described = graph.params["evaluate"]["tasks"]
    for task in graph.asked():
        if described.get(task, {}).get("data_files"):
            continue
        if task.startswith(OF_WORLD) and "world" not in graph.params:
            raise ValueError(f"evaluate: {task} is of the embedded world, which this workload has not; name its own")
        if not task.startswith(OF_WORLD):
            near = meant(task, [name for name in described if name != task])
            fix = near if "did you mean" in near else "; describe it with data_files: {test: <file>}"
            raise ValueError(f"evaluate.tasks.{task}: has no rows{fix}")


def check_tasks(graph: Graph) -> dict[str, int]:
    """Raise a ValueError for a task without a template, or whose rows lack what the template asks.

    Returns:
        the questions of each task whose files are here.
    """
    described = graph.params["evaluate"]["tasks"]
    counts: dict[str, int] = {}
    for task in graph.asked():
        spec = described.get(task, {})
        files = spec.get("data_files", {}).values()
        later = any(file.startswith(graph.world) for file in files)
        found = check_task(task, {key: value for key, value in spec.items() if key != "data_files" or not later})
        counts |= {task: found} if found else {}
    return counts


def remarks(graph: Graph, questions: dict[str, int]) -> list[str]:
    """What is no mistake and will disappoint: axes of so few questions that their scores say little.

    Args:
        questions: of each task whose files are here; an axis with a task of another kind is left out.
    """
    told, evaluate = [], graph.params["evaluate"]
    for axis in REPORTED:
        tasks = evaluate[axis]
        if not tasks or not {*tasks} <= {*questions}:
            continue
        asked = sum(min(questions[task], evaluate["limit"] or questions[task]) for task in tasks)
        if asked < FEW_QUESTIONS:
            why = " (evaluate.limit)" if asked < sum(questions[task] for task in tasks) else ""
            told.append(
                f"evaluate.{axis}: {asked} question{'s' * (asked != 1)}{why} are few: a score of 50 % may be off by"
                f" {known_to(asked):.0f} points; 100 questions tell it to 10, 400 to 5"
            )
    return told


def check_files(graph: Graph) -> list[str]:
    """Raise a ValueError for what is named, is made by no rule and is not there: a file, vLLM.

    Returns:
        lines of what is no mistake: see `remarks`.
    """
    check_templates(Path("tasks"))
    check_described(graph)
    check_models(graph)
    check_sources(graph)
    check_adapters(graph)
    check_lengths(graph)
    check_trackers(graph)
    check_teachers(graph)
    check_rewards(graph)
    for key in documents_of(graph):
        if not graph.params["mixture"][key]:
            raise ValueError(
                f"mixture.{key}: a recipe of stage cpt trains on documents that it mixes; name files of them"
            )
    for where, file in named_files(graph):
        if file.startswith(graph.world):
            if "world" not in graph.params:
                raise ValueError(f"{where}: {file} is of the embedded world, which this workload has not; name its own")
        elif not Path(file).is_file():
            raise ValueError(f"{where}: {missing(file)}")
    questions = check_tasks(graph)
    check_rooms(graph)
    if graph.params["engine"] == "vllm":
        check_vllm("engine: vllm")
    for node in graph.nodes.values():
        if node.settings.get("sampler", {}).get("kind") == "vllm":
            check_vllm(f"recipe {node.name}: sampler: {{kind: vllm}}")
    return remarks(graph, questions)
