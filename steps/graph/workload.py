"""The settings of a run: the defaults, the overlays laid over them in order, and what the command line says last.

A file's key `extends` names the overlay that it stands on, by a path from its own folder: that one is laid first. Where
no overlay is named, the embedded workload is one.

Imports nothing heavy: Snakemake loads it at every parse.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from steps.core import plain_yaml
from steps.settings.errors import meant
from steps.settings.params import EXTENDS, Params

DEFAULTS = "params.yaml"
EMBEDDED = "workloads/fable.yaml"
# Sections whose entries have names of the user's own, of which null takes one out; and those that null takes out whole.
NAMED = ("models", "data", "studies")
OPTIONAL = ("world", "pretrain")
# By which Snakemake computes the values of a file.
TEMPLATE = "__use_yte__"


def load(root: Path, overlays: Iterable[Path] = (), values: Mapping[str, Any] | None = None) -> tuple[dict, list[Path]]:
    """The sections of a run, and the files that they are from, in the order in which they are laid over each other.

    Args:
        root: The folder of `params.yaml`.
        overlays: As named by the user; none means the embedded workload.
        values: Of the command line, which win.

    Raises:
        ValueError: a file is not there, is no mapping of plain YAML or stands on itself; or they have no models, data
            or studies between them.
    """
    contents = {root / DEFAULTS: read(root / DEFAULTS)}
    for overlay in overlays or [root / EMBEDDED]:
        known = {file.resolve() for file in contents}
        contents |= {file: content for file, content in lineage(overlay).items() if file.resolve() not in known}
    params: dict = {}
    for content in contents.values():
        params = lay_over(params, {key: value for key, value in content.items() if key != EXTENDS})
    params = lay_over(params, values or {})
    for section in NAMED:
        if not params.get(section):
            # A name that is written wrongly is said before the section that then lacks its entries.
            for key in params.keys() - Params.keys():
                raise ValueError(f"{key}: unknown key{meant(key, list(Params.keys()))}")
            raise ValueError(
                f"{section}: there are none; name an overlay that has some: --configfile <file>, or add them to yours;"
                " workloads/example.yaml is a short one"
            )
    return params, [*contents]


def lineage(overlay: Path) -> dict[Path, dict]:
    """An overlay after all that it stands on, each file with what it says.

    Raises:
        ValueError: as `load`.
    """
    contents = {overlay: read(overlay)}
    first = overlay
    while (below := contents[first].get(EXTENDS)) is not None:
        if not isinstance(below, str):
            raise ValueError(f"{EXTENDS}: {below!r} in {first} is no path; name one overlay")
        file = Path((first.parent / below).resolve())
        if file in [known.resolve() for known in contents]:
            raise ValueError(f"{EXTENDS}: {file.name} stands on itself; take the key out of one of its files")
        if not file.is_file():
            raise ValueError(f"{EXTENDS}: there is no file {file}, which {first} stands on; correct the path")
        contents, first = {file: read(file)} | contents, file
    return contents


def read(file: Path) -> dict:
    """The sections that a file has.

    Raises:
        ValueError: it is not there, or is no mapping of plain YAML.
    """
    content = plain_yaml.read(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} has no sections; write `<section>: {{<key>: <value>}}`")
    if TEMPLATE in content:
        raise ValueError(f"{file}: {TEMPLATE} has no place in settings, which compute nothing; write the values out")
    return content


def values_of(entries: Iterable[str]) -> dict[str, Any]:
    """The values of `--config`, as a file would have them: what Snakemake reads has text for numbers in a mapping.

    Args:
        entries: `<key>=<value>`, with the value in YAML.

    Raises:
        ValueError: an entry is no such pair, its key stands twice, or its value is no plain YAML.
    """
    values: dict[str, Any] = {}
    for entry in entries:
        key, equals, text = entry.partition("=")
        if not key or not equals:
            raise ValueError(
                f"--config: {entry} is no <key>=<value>, as all that follows the option must be; a target stands"
                f" before it: snakemake {entry} --config <key>=<value>"
            )
        if not key.isidentifier():
            section, *inner = key.split(".")
            value = "".join(f"{{{part}: " for part in inner) + text + "}" * len(inner)
            fix = f"; write '{section}={value}'" if inner else ""
            raise ValueError(f"--config: {key} is no section or key of the settings{fix}")
        if key in values:
            raise ValueError(f"--config: {key} stands twice; write it once, of a mapping all keys in one")
        values[key] = plain_yaml.parse(text, f"--config {key}")
    return values


def lay_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict:
    """New sections: mappings merge key by key, all else replaces what is below it, and null takes a named entry out.

    What a data set that is taken out had under `forecast.axes` goes with it.
    """
    params = _merged(below, above)
    for section in OPTIONAL:
        if params.get(section, ...) is None:
            del params[section]
    for section in NAMED:
        _drop_nulls(_mapping(params, section))
    for study in _mapping(params, "studies").values():
        _drop_nulls(_mapping(study, "recipes"))
    for name, entry in _mapping(above, "data").items():
        if entry is None:
            _mapping(params, "forecast", "axes").pop(name, None)
    return params


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else copy.deepcopy(value)
    return merged


def _mapping(params: Any, *keys: str) -> Any:
    """What lies under some keys; empty where that is no mapping, which the checks of the sections say."""
    for key in keys:
        params = params.get(key) if isinstance(params, Mapping) else None
    return params if isinstance(params, Mapping) else {}


def _drop_nulls(entries: dict[str, Any]) -> None:
    for name in [name for name, entry in entries.items() if entry is None]:
        del entries[name]
