"""Layers of several models stacked into one of another depth: merge method passthrough."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from steps.core.files import read_json, write_json
from steps.models.adapters.targets import OUTPUT
from steps.models.checkpoints import CONFIG, WEIGHTS, full_checkpoint, load_config
from steps.models.paths import layer
from steps.models.weights import Weights

# Keys of a configuration that say how many layers there are.
COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
# Outside of layers, what a model begins with; a norm and the head end it.
BEGINNING = re.compile(r"emb|\bwte\b|\bwpe\b")


class Origin(NamedTuple):
    """Where a tensor of the result is from."""

    parent: int
    name: str


def check_slices(slices: list[dict], parents: list[Weights]) -> None:
    """Raises:
    ValueError: naming a slice that has no layers or not those of its parent.
    """
    for index, one in enumerate(slices):
        (begin, end), place = one["layers"], f"slices[{index}]"
        if one["parent"] >= len(parents):
            raise ValueError(f"{place}.parent: {one['parent']} is none of the {len(parents)} parents, counted from 0")
        parent = parents[one["parent"]]
        there = depth(parent)
        if not 0 <= begin < end <= there:
            raise ValueError(
                f"{place}.layers: [{begin}, {end}] are no layers of {parent.label}, which has [0, {there}]"
            )


def depth(model: Weights) -> int:
    """Layers of a model."""
    return 1 + max((found for name in model.tensors if (found := layer(name)) is not None), default=-1)


def stacked(slices: list[dict], parents: list[Weights]) -> dict[str, Origin]:
    """Every tensor of the result, in the order of its layers.

    Raises:
        ValueError: two layers have not the same tensors.
    """
    first, last = slices[0]["parent"], slices[-1]["parent"]
    made = {}
    for parent in dict.fromkeys((first, last)):
        for name in parents[parent].tensors:
            if layer(name) is None:
                of = first if BEGINNING.search(name) and not OUTPUT.search(name) else last
                if of == parent:
                    made[name] = Origin(of, name)
    place = 0
    for one in slices:
        for number in range(*one["layers"]):
            own = [name for name in parents[one["parent"]].tensors if layer(name) == number]
            for name in own:
                made[_numbered(name, place)] = Origin(one["parent"], name)
            place += 1
    return made


def _numbered(name: str, number: int) -> str:
    """A tensor's name in another layer."""
    parts = name.split(".")
    index = next(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join([*parts[:index], str(number), *parts[index + 1 :]])


def as_model(made: dict[str, Origin], parents: list[Weights]) -> Any:
    """What `write_model` takes for the layout: the tensors of the result in one file."""
    tensors = {name: parents[origin.parent].tensors[origin.name] for name, origin in made.items()}
    return SimpleNamespace(layout={WEIGHTS: [*made]}, tensors=tensors, indexed=False)


def write_depth(slices: list[dict], folders: list[Path], out: Path) -> None:
    """Give a copy of the first parent's config the depth of the result, and its lists over layers the slices' own."""
    config = read_json(out / CONFIG)
    loaded = [load_config(full_checkpoint(folder)).to_dict() for folder in folders]
    count = sum(end - begin for begin, end in (one["layers"] for one in slices))
    for section in ("", "text_config"):
        own = config.get(section) if section else config
        parts = [one.get(section) if section else one for one in loaded]
        if not own or not all(parts):
            continue
        name = next((key for key in COUNTS if key in parts[0]), None)
        if name is None:
            continue
        layers = [part[name] for part in parts]
        for key, value in parts[0].items():
            lists = [part.get(key) for part in parts]
            if isinstance(value, list) and all(
                isinstance(one, list) and len(one) == n for one, n in zip(lists, layers, strict=True)
            ):
                own[key] = [lists[one["parent"]][i] for one in slices for i in range(*one["layers"])]
        own[name] = count
    write_json(out / CONFIG, config)
