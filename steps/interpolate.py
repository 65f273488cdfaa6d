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

Run as: python -m steps.interpolate --settings '{"path": "additive", "alphas": [0.0, 0.5, 1.0], …}'
    --parents data/fable/base results/fable/foundation/sft --tasks-dir results/fable/world/eval
    --work work/fable/path_sft --out results/fable/arena/path_sft
"""

import argparse
import csv
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from steps import adapters, checkpoints, engine, evaluate, merge, verify
from steps.common import (
    Progress,
    fingerprint,
    fresh_folder,
    read_json,
    run,
    step_parser,
    write_json,
    write_manifest,
    write_text,
)

# What a point's score depends on besides the checkpoints, the settings and the questions.
SOURCES = [Path(module.__file__) for module in (adapters, checkpoints, engine, evaluate, merge, verify)]
SOURCES += [Path(__file__), *sorted(evaluate.TEMPLATES.iterdir())]
AXES = ("target", "general")
FIRST_LAYERS = 5
# Scores that differ by less are equal: they are means of 0 and 1.
EQUAL = 1e-9


def check_settings(settings: dict) -> None:
    """What the schema cannot say.

    Raises:
        ValueError: naming the setting, its value and the fix.
    """
    alphas = settings["alphas"]
    if alphas[0] != 0 or alphas[-1] != 1 or alphas != sorted(set(alphas)):
        raise ValueError(f"alphas: {alphas} must rise from 0 to 1; the points between are compared with both ends")
    for axis in AXES:
        if not settings[axis]:
            raise ValueError(f"{axis}: names no task; a point is chosen by its scores on both axes")
    for task in settings["general"]:
        if task in settings["target"]:
            raise ValueError(f"general: {task} already stands under target; name it once")


# --- points of a path ----------------------------------------------------------------------------


def layer(name: str) -> int | None:
    """The layer a tensor belongs to: the first number in its name, as in model.layers.3.mlp.up_proj.weight."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


class Additive:
    """The straight line between two models.

    Attributes:
        names: of all tensors.
    """

    def __init__(self, start: merge.Weights, end: merge.Weights):
        self.start, self.end = start, end
        self.names = list(start.tensors)

    def share(self, alpha: float) -> float:
        """How much of the change a point has."""
        return alpha

    def strengths(self) -> dict[int, float]:
        """||W_end - W||_F / ||W||_F of each layer."""
        changed: dict[int, float] = {}
        whole: dict[int, float] = {}
        for name in self.names:
            if (index := layer(name)) is not None:
                start, end = self.start.tensor(name).double(), self.end.tensor(name).double()
                changed[index] = changed.get(index, 0.0) + (end - start).square().sum().item()
                whole[index] = whole.get(index, 0.0) + start.square().sum().item()
        return {index: math.sqrt(changed[index] / whole[index]) for index in sorted(changed)}

    def dtype(self, name: str) -> Any:
        """The wider torch dtype of both models."""
        import torch

        return torch.promote_types(
            *(getattr(torch, merge.DTYPES[model.tensors[name].dtype]) for model in (self.start, self.end))
        )

    def tensor(self, name: str, share: float) -> Any:
        """One tensor of the point that has this share of the change, computed in float32 at least.

        A weight that is the same at both ends is so in between: the sum of shares 1 - a and a would round it.
        """
        import torch

        dtype = self.dtype(name)
        if share in (0, 1):
            return (self.end if share else self.start).tensor(name).to(dtype)
        wide = torch.promote_types(dtype, torch.float32)
        return torch.lerp(self.start.tensor(name).to(wide), self.end.tensor(name).to(wide), share).to(dtype)


class Cayley(Additive):
    """The rotations of an oft adapter, turned less.

    Attributes:
        generators: tensor name → skew-symmetric Q, [blocks, size, size] in float64.
    """

    def __init__(self, start: merge.Weights, end: merge.Weights, generator: str):
        super().__init__(start, end)
        self.generator = generator
        found = adapters.oft_generators(end.folder)
        self.generators = {f"{module}.weight": values.double() for module, values in found.items()}
        assert self.generators.keys() <= {*self.names}, f"{end.folder} rotates what {start.folder} does not store"

    def share(self, alpha: float) -> float:
        return math.sqrt(alpha) if self.generator == "sqrt" else alpha

    def strengths(self) -> dict[int, float]:
        """||Q||_F / sqrt(elements of Q) of each layer."""
        import torch

        layers: dict[int, list[Any]] = {}
        for name, values in self.generators.items():
            layers.setdefault(layer(name), []).append(values.flatten())
        return {index: torch.cat(layers[index]).square().mean().sqrt().item() for index in sorted(layers)}

    def rotation(self, name: str, share: float) -> Any:
        """R = Cayley(share Q), [blocks, size, size] in float32, orthogonal to 1e-5."""
        import torch

        rotation = adapters.cayley(self.generators[name] * share).float()
        error = (rotation @ rotation.mT - torch.eye(rotation.shape[-1])).abs().max().item()
        assert error < 1e-5, f"{name}: R R' is {error:g} from the identity"
        return rotation

    def tensor(self, name: str, share: float) -> Any:
        if name not in self.generators or share in (0, 1):
            return super().tensor(name, share)
        weight = self.start.tensor(name).float()
        return adapters.apply_rotation(weight, self.rotation(name, share)).to(self.dtype(name))


def rewinding(path: Additive, rewind: str) -> dict[int, float]:
    """The factor of each layer's change."""
    if rewind == "uniform":
        return {index: 1.0 for name in path.names if (index := layer(name)) is not None}
    strengths = path.strengths()
    moved = [strength for strength in strengths.values() if strength > 0]
    if not moved:
        return dict.fromkeys(strengths, 1.0)
    first = moved[:FIRST_LAYERS]
    wanted = min(moved) if rewind == "min" else sum(first) / len(first)
    return {index: wanted / strength if strength > 0 else 1.0 for index, strength in strengths.items()}


def point(path: Additive, alpha: float, scales: dict[int, float]) -> Callable[[str], Any]:
    """What gives the tensors of a point by name."""
    return lambda name: path.tensor(name, scales.get(layer(name), 1.0) * path.share(alpha))


def walk(settings: dict, start: merge.Weights, end: merge.Weights) -> Additive:
    """The path between two checkpoints; `check_ends` them first."""
    return Cayley(start, end, settings["generator"]) if settings["path"] == "cayley" else Additive(start, end)


def check_ends(settings: dict, start: Path, end: Path) -> None:
    """Raises:
    ValueError: no such path leads from the one checkpoint to the other.
    """
    merge.check_vocabulary([start, end])
    merge.check_config([start, end])
    merge.check_compatible([merge.Weights(start), merge.Weights(end)])
    if settings["path"] != "cayley":
        return
    kind = read_json(end / adapters.CONFIG)["peft_type"].lower() if checkpoints.is_adapter(end) else None
    if kind != "oft":
        found = f"a {kind} adapter" if kind else "a full model"
        raise ValueError(f"path: cayley turns along the rotations of an oft adapter; {end} is {found}: write additive")
    base = checkpoints.adapter_base(end)
    if base.resolve() != start.resolve():
        raise ValueError(f"path: cayley starts at the model that {end} adapts, which is {base} and not {start}")


# --- measuring -----------------------------------------------------------------------------------


def set_weights(model: Any, names: Iterable[str], tensor: Callable[[str], Any]) -> None:
    """Copy tensors into a model that is in memory, by name.

    Raises:
        ValueError: the model has a weight that none of them is, as mixtures of experts do, whose experts transformers
            puts together on loading.
    """
    own = model.state_dict()
    found = {name for name in names if name in own}
    # Tied weights are one tensor under two names, of which one is stored.
    places = {own[name].data_ptr() for name in found}
    for name, value in own.items():
        if value.data_ptr() not in places:
            raise ValueError(f"{name}: transformers renames this model's weights when it loads them; use stage merge")
    for name in sorted(found):
        own[name].copy_(tensor(name))


def axis_score(tasks: dict[str, dict], axis: str) -> dict:
    """The mean over an axis's tasks, with the standard error of a mean of independent ones."""
    rows = [row for row in tasks.values() if row["axis"] == axis]
    errors = [row["stderr"] for row in rows]
    known = None not in errors
    return {
        "value": sum(row["value"] for row in rows) / len(rows),
        "stderr": math.sqrt(sum(error**2 for error in errors)) / len(rows) if known else None,
        "n": sum(row["n"] for row in rows),
    }


def measure(
    path: Additive, scales: dict[int, float], settings: dict, files: dict[str, dict], work: Path
) -> tuple[list[dict], int]:
    """The scores of every point, from `work` where they are there; and the tokens written for the others.

    Args:
        files: task → split → data file.

    Returns:
        [{"alpha", "tasks": {task: {axis, value, stderr, n}}, "target": {value, stderr, n}, "general": {…}}].
    """
    axes = {task: axis for axis in AXES for task in settings[axis]}
    places = {alpha: work / f"{float(alpha)}.json" for alpha in settings["alphas"]}
    missing = [alpha for alpha, place in places.items() if not place.is_file()]
    tokens = 0
    if missing:
        configs = {task: evaluate.task_config(task, settings["tasks"].get(task, {}), files[task]) for task in axes}
        with tempfile.TemporaryDirectory() as scratch:
            tasks = evaluate.load_tasks(configs, Path(scratch))
            writer = engine.Engine.load(path.end.folder, settings["batch_size"])
            progress = Progress("path", len(missing), "points", every=0)
            for done, alpha in enumerate(missing, start=1):
                set_weights(writer.model, path.names, point(path, alpha, scales))
                results, _ = evaluate.greedy(writer, tasks, axes, settings["limit"])
                kept = {
                    task: {key: row[key] for key in ("axis", "value", "stderr", "n")} for task, row in results.items()
                }
                scored = {axis: axis_score(kept, axis) for axis in AXES}
                write_json(places[alpha], {"alpha": alpha, "tasks": kept, **scored})
                progress.update(done, alpha=alpha, **{axis: scored[axis]["value"] for axis in AXES})
            tokens = writer.tokens
    return [read_json(place) for place in places.values()], tokens


# --- choosing ------------------------------------------------------------------------------------


def choose(points: list[dict], rule: dict) -> tuple[int, str]:
    """The index of the point that a rule keeps, and the rule in words. Of equal points it is the smallest alpha.

    budget: the best target score among the points whose general score is at most `loss` below that of the start. The
    start is one of them. knee: the point farthest above the chord between both ends, general loss to the right and
    target score upwards (Satopaa et al. 2011, Kneedle). Where the end does not have both a better target and a worse
    general score than the start, or no point lies above the chord, it is the largest sum of both scores.
    """
    target = [scored["target"]["value"] for scored in points]
    general = [scored["general"]["value"] for scored in points]
    loss = [general[0] - value for value in general]
    if rule["kind"] == "budget":
        words = (
            f"the best target score among the points whose general score is at most {rule['loss']:g} below the start's"
        )
        kept = [index for index in range(len(points)) if loss[index] <= rule["loss"] + EQUAL]
        best = best_of(kept, target)
        if kept == [0]:
            words += "; that is the start alone"
        elif best == 0:
            words += "; none of them is better than the start"
        return best, words

    words = "the point farthest above the line from the start to the end, in target score against general loss"
    everyone = range(len(points))
    gain, cost = target[-1] - target[0], loss[-1]
    if gain > EQUAL and cost > EQUAL:
        # Distances from the chord. Scaling both axes to [0, 1], as Kneedle does, multiplies all of them by one number.
        height = [(cost * (target[i] - target[0]) - gain * loss[i]) / math.hypot(cost, gain) for i in everyone]
        best = best_of(everyone, height)
        if height[best] > EQUAL:
            return best, words
        why = "no point lies above it"
    else:
        why = "the end does not win target score for general score"
    return best_of(everyone, [t + g for t, g in zip(target, general, strict=True)]), (
        f"{words}; {why}, so it is the largest sum of target and general score"
    )


def best_of(indices: Iterable[int], values: list[float]) -> int:
    """The first of those whose value is the largest."""
    indices = list(indices)
    largest = max(values[index] for index in indices)
    return next(index for index in indices if values[index] >= largest - EQUAL)


# --- files ---------------------------------------------------------------------------------------


def path_csv(points: list[dict], chosen: int) -> str:
    """path.csv: a row per point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tasks = list(points[0]["tasks"])
    writer.writerow(
        ["alpha", *(name for axis in AXES for name in (axis, f"{axis}_stderr")), *(f"n_{axis}" for axis in AXES)]
        + [*tasks, "chosen"]
    )
    for index, scored in enumerate(points):
        values = [scored["alpha"]]
        values += [scored[axis][key] for axis in AXES for key in ("value", "stderr")]
        values += [scored[axis]["n"] for axis in AXES]
        values += [scored["tasks"][task]["value"] for task in tasks]
        cells = ["" if value is None else f"{value:.9g}" for value in values]
        writer.writerow([*cells, int(index == chosen)])
    return text.getvalue()


def write_point(out: Path, path: Additive, tensor: Callable[[str], Any]) -> None:
    """Write a point as a checkpoint, in files laid out as the start's; tokenizer and config are the end's."""
    import torch

    codes = {getattr(torch, dtype): code for code, dtype in merge.DTYPES.items()}
    start, end = path.start, path.end.folder
    total = 0

    def pieces(name: str) -> Iterator[Any]:
        yield tensor(name).flatten()

    for file, names in start.layout.items():
        layout = {name: (codes[path.dtype(name)], start.tensors[name].shape) for name in names}
        total += merge.write_safetensors(out / file, layout, pieces)
    if start.indexed:
        weight_map = {name: file for file, names in start.layout.items() for name in names}
        write_json(out / checkpoints.WEIGHTS_INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    for folder, names in ((end, merge.COPIED_TOKENIZER), (merge.full_checkpoint(end), merge.COPIED)):
        for name in names:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)


def main(args: argparse.Namespace) -> None:
    # As in evaluate: no look for updates and caches at the hub.
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    check_settings(settings)
    files = {
        task: evaluate.task_files(task, settings["tasks"].get(task, {}), args.tasks_dir)
        for axis in AXES
        for task in settings[axis]
    }
    inputs = [path for folder in args.parents for path in checkpoints.check(folder)]
    inputs += [path for splits in files.values() for path in splits.values()]
    check_ends(settings, *args.parents)

    measured = {key: value for key, value in settings.items() if key not in ("alphas", "choose")}
    work = args.work / fingerprint(measured, [*inputs, *SOURCES])
    models = [merge.Weights(folder) for folder in args.parents]
    scratch = fresh_folder(work / "merged")
    for index, model in enumerate(models):
        if checkpoints.is_adapter(model.folder):
            model.merge_adapter(scratch / f"{index}.safetensors")
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
