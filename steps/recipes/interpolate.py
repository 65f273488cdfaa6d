"""Walk from one checkpoint to another, measure the points on the way, and keep the best one (PEFT-Arena).

additive   W(alpha) = W + alpha (W_end - W), for every weight W of the start
cayley     W(alpha) = W R(alpha)', for an end that is an oft adapter on the start, whose generators are Q:
           R(alpha) = Cayley(sqrt(alpha) Q), or Cayley(alpha Q) with `generator: linear`; all are rotations

Rewinding scales the change of each layer before alpha does: `safe` to the mean strength of the first five layers, `min`
to the least strength of any layer, `uniform` not at all. PEFT-Arena does not say what the strength of a layer is. Here
it is ||W_end - W||_F / ||W||_F over all weights of the layer, or ||Q||_F / sqrt(elements of Q), the root mean square of
its generators. A layer that did not change has none and is left out. Weights outside of layers follow alpha alone.

Alpha 0 is the start and, where nothing is rewound, alpha 1 the end, bit by bit; an adapter is merged first, in float32.
No point is written to disk but the chosen one, in the wider dtype of both parents, with the end's tokenizer and config.
What each point scored is kept in `--work`: a killed run goes on after its last point, and a run with another rule or
other alphas measures no point twice.

Run as: python -m steps.recipes.interpolate --settings '{"path": "additive", "alphas": [0.0, 0.5, 1.0], …}'
    --parents data/fable/base results/fable/foundation/sft --tasks-dir results/fable/world/eval
    --work work/fable/path_sft --out results/fable/arena/path_sft
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from steps.core.code import code_paths
from steps.core.files import csv_text, fresh_folder, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.work import keep, kept, work_folder
from steps.engines import transformers as engine
from steps.evaluation.measure import greedy
from steps.evaluation.tasks import load_tasks, task_config, task_files, task_inputs
from steps.models import checkpoints
from steps.models.adapters.files import ADAPTER_CONFIG
from steps.models.compatible import check_compatible, check_config, check_vocabulary
from steps.models.files import read_config
from steps.models.paths import Additive, Cayley, point, rewinding
from steps.models.weights import DTYPES, Weights, copy_companions, write_model
from steps.recipes.path_choice import axis_score, choose
from steps.settings.axes import CAPABILITIES
from steps.settings.interpolation import Interpolate

# --- points of a path ----------------------------------------------------------------------------


def walk(settings: dict, start: Weights, end: Weights) -> Additive:
    """The path between two checkpoints; `check_ends` them first."""
    return Cayley(start, end, settings["generator"]) if settings["path"] == "cayley" else Additive(start, end)


def check_ends(settings: dict, start: Path, end: Path) -> None:
    """Raises:
    ValueError: no such path leads from the one checkpoint to the other.
    """
    check_vocabulary([start, end])
    check_config([start, end])
    check_compatible([Weights(start), Weights(end)])
    if settings["path"] != "cayley":
        return
    kind = str(read_config(end / ADAPTER_CONFIG).get("peft_type")).lower() if checkpoints.is_adapter(end) else None
    if kind != "oft":
        other = f"a {kind} adapter" if kind else "a full model"
        raise ValueError(f"path: cayley turns along the rotations of an oft adapter; {end} is {other}: write additive")
    base = checkpoints.adapter_base(end)
    if base.resolve() != start.resolve():
        raise ValueError(f"path: cayley starts at the model that {end} adapts, which is {base} and not {start}")


def check_heads(models: list[Weights]) -> None:
    """Raises:
    ValueError: an adapter parts the output layer from the embeddings, which the model in memory has as one.
    """
    for model in models:
        if model.own_head:
            raise ValueError(
                f"{model.label}: gives the model an output layer of its own, which is tied to the embeddings at the"
                " other end; use stage merge, which parts them"
            )


# --- measuring -----------------------------------------------------------------------------------


def set_weights(model: Any, names: Iterable[str], tensor: Callable[[str], Any]) -> None:
    """Copy tensors into a model that is in memory, by name.

    Raises:
        ValueError: the model has a weight that none of them is, as mixtures of experts do, whose experts transformers
            puts together on loading.
    """
    own = model.state_dict()
    known = {name for name in names if name in own}
    # Tied weights are one tensor under two names, of which one is stored.
    places = {own[name].data_ptr() for name in known}
    for name, value in own.items():
        if value.data_ptr() not in places:
            raise ValueError(f"{name}: transformers renames this model's weights when it loads them; use stage merge")
    for name in sorted(known):
        own[name].copy_(tensor(name))


def measure(
    path: Additive, scales: dict[int, float], settings: dict, files: dict[str, dict], work: Path
) -> tuple[list[dict], int]:
    """The scores of every point, from `work` where they are there; and the tokens written for the others.

    Args:
        files: task → split → data file.

    Returns:
        [{"alpha", "tasks": {task: {axis, value, stderr, n}}, "target": {value, stderr, n}, "general": {…}}].
    """
    axes = {task: axis for axis in CAPABILITIES for task in settings[axis]}
    places = {alpha: work / f"{float(alpha)}.json" for alpha in settings["alphas"]}
    missing = [alpha for alpha, place in places.items() if kept(place) is None]
    tokens = 0
    if missing:
        configs = {task: task_config(task, settings["tasks"].get(task, {}), files[task]) for task in axes}
        with tempfile.TemporaryDirectory() as scratch:
            tasks = load_tasks(configs, Path(scratch))
            writer = engine.Engine.load(path.end.folder, settings["batch_size"])
            progress = Progress("path", len(missing), "points", every=0)
            for done, alpha in enumerate(missing, start=1):
                set_weights(writer.model, path.names, point(path, alpha, scales))
                results, _ = greedy(writer, tasks, axes, settings["limit"], settings["max_new_tokens"])
                measured = {
                    task: {key: row[key] for key in ("axis", "value", "stderr", "n")} for task, row in results.items()
                }
                scored = {axis: axis_score(measured, axis) for axis in CAPABILITIES}
                keep(places[alpha], {"alpha": alpha, "tasks": measured, **scored})
                progress.update(done, alpha=alpha, **{axis: scored[axis]["value"] for axis in CAPABILITIES})
            tokens = writer.tokens
    return [kept(place) for place in places.values()], tokens


# --- choosing ------------------------------------------------------------------------------------


# --- files ---------------------------------------------------------------------------------------


def path_csv(points: list[dict], chosen: int) -> str:
    """path.csv: a row per point."""
    tasks, rows = list(points[0]["tasks"]), []
    columns = ["alpha", *(name for axis in CAPABILITIES for name in (axis, f"{axis}_stderr"))]
    columns += [*(f"n_{axis}" for axis in CAPABILITIES), *tasks, "chosen"]
    for index, scored in enumerate(points):
        values = [scored["alpha"]]
        values += [scored[axis][key] for axis in CAPABILITIES for key in ("value", "stderr")]
        values += [scored[axis]["n"] for axis in CAPABILITIES]
        values += [scored["tasks"][task]["value"] for task in tasks]
        cells = ["" if value is None else f"{value:.9g}" for value in values]
        rows.append(dict(zip(columns, [*cells, int(index == chosen)], strict=True)))
    return csv_text(columns, rows)


def write_point(out: Path, path: Additive, tensor: Callable[[str], Any]) -> None:
    """Write a point as a checkpoint, in files laid out as the start's; tokenizer and config are the end's."""
    import torch

    codes = {getattr(torch, dtype): code for code, dtype in DTYPES.items()}
    dtypes = {name: codes[path.dtype(name)] for name in path.names}
    write_model(out, path.start, dtypes, lambda name: [tensor(name).flatten()])
    copy_companions(path.end.folder, out, set(dtypes.values()))


def main(args: argparse.Namespace) -> None:
    # As in evaluate: no look for updates and caches at the hub.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    Interpolate.fit(settings)
    files = {
        task: task_files(task, settings["tasks"].get(task, {}), args.tasks_dir)
        for axis in CAPABILITIES
        for task in settings[axis]
    }
    inputs = [path for folder in args.parents for path in checkpoints.check(folder)]
    configs = {task: task_config(task, settings["tasks"].get(task, {}), splits) for task, splits in files.items()}
    inputs += task_inputs(files, configs)
    check_ends(settings, *args.parents)

    measured = {key: value for key, value in settings.items() if key not in ("alphas", "choose")}
    work = work_folder(args.work, args.out, measured, [*inputs, *code_paths(__spec__.name)])
    models = [Weights(folder) for folder in args.parents]
    scratch = fresh_folder(work / "merged")
    for index, model in enumerate(models):
        if checkpoints.is_adapter(model.folder):
            model.merge_adapter(scratch / str(index))
    check_heads(models)
    path = walk(settings, *models)
    scales = rewinding(path, settings["rewind"])
    points, tokens = measure(path, scales, settings, files, work)
    chosen, words = choose(points, settings["choose"])
    alpha = points[chosen]["alpha"]

    out = fresh_folder(args.out)
    write_point(out, path, point(path, alpha, scales))
    shutil.rmtree(scratch)
    write_text(out / "path.csv", path_csv(points, chosen))
    write_json(
        out / "path.json",
        {
            "start": str(args.parents[0]),
            "end": str(args.parents[1]),
            "path": settings["path"],
            "generator": settings.get("generator"),
            "rewind": settings["rewind"],
            "rule": words,
            "chosen": alpha,
            "points": points,
            "scales": scales,
        },
    )
    counts = {"points": len(points), "chosen": alpha, "tensors": len(path.names)}
    card = checkpoints.model_card(out.name, "interpolate", args.parents, settings, counts, "transformers")
    write_text(out / "README.md", card)
    write_manifest(
        out, step="interpolate", settings=settings, inputs=inputs, counts=counts, started=started, tokens=tokens
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--parents", type=Path, nargs=2, required=True, help="checkpoint folders: start and end")
    parser.add_argument("--tasks-dir", type=Path, help="folder of <task>.jsonl files")
    parser.add_argument("--work", type=Path, required=True, help="folder for the scores of the points")
    run(main, parser)
