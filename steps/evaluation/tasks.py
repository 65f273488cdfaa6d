"""The tasks of a measurement: their descriptions, files and templates, as lm-eval loads them."""

import csv
import importlib.util
import os
import re
from pathlib import Path

from steps.core import plain_yaml
from steps.core.manifest import note_inputs
from steps.settings.axes import AXES
from steps.settings.errors import meant

TEMPLATES = Path(__file__).parents[2] / "tasks"
# The module of a function that a template names.
FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")
# Keys of lm-eval's task format that name a split.
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
# A number that is written as Python writes it.
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def task_axes(settings: dict) -> dict[str, str]:
    """Task → axis, in the order of the settings.

    Raises:
        ValueError: a task stands on two axes, or is sampled or described without standing on one.
    """
    axes: dict[str, str] = {}
    for axis in AXES:
        for task in settings[axis]:
            if task in axes:
                raise ValueError(f"evaluate.{axis}: {task} already stands under {axes[task]}; name it once")
            axes[task] = axis
    for key, names in (("sampling.tasks", settings["sampling"]["tasks"]), ("tasks", settings["tasks"])):
        for task in names:
            if task not in axes:
                raise ValueError(f"evaluate.{key}: {task} stands on no axis; add it to one of {', '.join(AXES)}")
    return axes


def task_files(task: str, spec: dict, tasks_dir: Path | None) -> dict[str, Path]:
    """Split → data file of one task: those its description names, else `<tasks_dir>/<task>.jsonl`.

    Raises:
        ValueError: a file is missing or empty, or they are of different formats.
    """
    files = {split: Path(path) for split, path in spec.get("data_files", {}).items()}
    if not files:
        if tasks_dir is None:
            raise ValueError(f"evaluate.tasks.{task}: give its data_files; the workload has no folder of tasks")
        files = {"test": tasks_dir / f"{task}.jsonl"}
    for split, path in files.items():
        if not path.is_file() or path.stat().st_size == 0:
            raise ValueError(f"{path} is missing or empty; evaluate.tasks.{task}.data_files.{split} names it")
        if path.suffix not in LOADERS or path.suffix != next(iter(files.values())).suffix:
            raise ValueError(f"{path}: evaluate.tasks.{task}.data_files must be of one format of {', '.join(LOADERS)}")
    return files


def task_config(task: str, spec: dict, files: dict[str, Path]) -> dict:
    """lm-eval's configuration of one task: a template, local data files, overrides.

    Args:
        task: its name in the results.
        spec: {"stock": template, "overrides": {lm-eval key: value}}, both optional. Stock is a file of `tasks/`,
            else a task of lm-eval, by file name or by path below its `tasks` folder; the task's own name by default.
            An override of dataset_kwargs (such as {"field": "examples"}) is added to the data files.
        files: split → data file.
    """
    overrides = dict(spec.get("overrides", {}))
    data_files = {split: str(path.resolve()) for split, path in files.items()}
    template = find_template(task, spec.get("stock", task))
    own = configuration(template) | overrides
    # lm-eval looks for every split that a template names, whether or not it asks anything of it.
    absent = [key for key in SPLITS if own.get(key) and own[key] not in files]
    # That is one which it asks.
    absent = [key for key in absent if key != "fewshot_split" or not own.get("num_fewshot")]
    return {
        "include": str(template),
        "task": task,
        "dataset_path": LOADERS[next(iter(files.values())).suffix],
        "dataset_name": None,
        "dataset_kwargs": {"data_files": data_files, **as_written(files), **overrides.pop("dataset_kwargs", {})},
        **overrides,
        **dict.fromkeys(absent),
    }


def as_written(files: dict[str, Path]) -> dict:
    """Arguments by which `datasets` reads the cells of CSV files as they stand there.

    By itself it takes NA, None and null for nothing, and 007 or 1.10 for numbers, which are 7 and 1.1.
    """
    texts: dict[str, type] = {}
    for file in (path for path in files.values() if path.suffix == ".csv"):
        with open(file, encoding="utf-8-sig", newline="") as opened:
            for row in csv.DictReader(opened):
                texts |= {name: str for name, cell in row.items() if not WHOLE.fullmatch(cell or "")}
    return {"keep_default_na": False, "converters": texts} if texts else {}


def configuration(template: Path) -> dict:
    """A template over those that it includes. One of the library's that is no plain YAML says nothing."""
    try:
        own = plain_yaml.read(template, tags=["!function"]) or {}
    except ValueError:
        if template.is_relative_to(TEMPLATES):
            raise
        return {}
    below = own.pop("include", [])
    merged: dict = {}
    for name in [below] if isinstance(below, str) else below:
        merged |= configuration(template.parent / name)
    return merged | own


def task_inputs(files: dict[str, dict[str, Path]], configs: dict[str, dict]) -> list[Path]:
    """The files that some tasks rest on: their data, and of `tasks/` their templates, with those that these stand on
    and the Python files that they name. Noted, for they are read later than here.

    Raises:
        ValueError: one is damaged, or no YAML.
    """
    found: list[Path] = []
    queue = [Path(config["include"]) for config in configs.values()]
    while queue:
        template = queue.pop()
        if template in found or not template.is_relative_to(TEMPLATES) or not template.is_file():
            continue
        found.append(template)
        if template.suffix == ".py":
            continue
        below = plain_yaml.read(template, tags=["!function"]).get("include", [])
        queue += [template.parent / name for name in ([below] if isinstance(below, str) else below)]
        modules = FUNCTION.findall(template.read_text(encoding="utf-8"))
        queue += [template.parent / f"{module.replace('.', '/')}.py" for module in modules]
    data = [path for splits in files.values() for path in splits.values()]
    inputs = [*data, *(Path(os.path.relpath(path)) for path in sorted(found))]
    note_inputs(inputs)
    return inputs


def library() -> Path:
    """lm-eval's folder of tasks."""
    spec = importlib.util.find_spec("lm_eval")
    assert spec and spec.origin, "lm-eval is installed"
    return Path(spec.origin).parent / "tasks"


def find_template(task: str, stock: str) -> Path:
    own = TEMPLATES / f"{stock}.yaml"
    if own.is_file():
        return own
    theirs = library()
    if "/" in stock:
        found = [theirs / f"{stock}.yaml"] if (theirs / f"{stock}.yaml").is_file() else []
    else:
        # By file name: building lm-eval's own index of 14,000 tasks takes 10 seconds. Variants lie deeper.
        found = sorted(theirs.rglob(f"{stock}.yaml"))
        found = [path for path in found if len(path.parts) == min(len(other.parts) for other in found)]
    if len(found) != 1:
        choices = ", ".join(str(path.relative_to(theirs).with_suffix("")) for path in found)
        where = f"evaluate.tasks.{task}.stock" if stock != task else "evaluate, the task"
        own_tasks = sorted(path.stem for path in TEMPLATES.glob("*.yaml"))
        fix = f" ({choices}); give the path below lm_eval/tasks, without .yaml" if found else meant(stock, own_tasks)
        raise ValueError(f"{where}: {stock!r} names {len(found)} files of tasks/ and of lm-eval's tasks{fix}")
    return found[0]


def load_tasks(configs: dict[str, dict], scratch: Path) -> dict:
    """Task name → lm-eval task object, in the given order. Task files and data caches are written to `scratch`."""
    import yaml
    from lm_eval.tasks import TaskManager

    for task, config in configs.items():
        # A cache of our own: the shared one may be absent, full or locked by another process.
        config["dataset_kwargs"]["cache_dir"] = str(scratch / "cache")
        (scratch / f"{task}.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    manager = TaskManager(include_path=str(scratch), include_defaults=False)
    loaded = manager.load(list(configs))["tasks"]
    return {task: loaded[task] for task in configs}


def headline(task) -> tuple[str, str]:
    """(metric, filter) by which a task is reported: the first of its configuration."""
    return next(iter(task.aggregation())), task._filters[0].name


def documents(task) -> list:
    """The requests that were built for a task, in the order of its documents."""
    return sorted(task.instances, key=lambda instance: instance.doc_id)


def stop_strings(task) -> list[str]:
    return task.config.generation_kwargs.get("until") or []
