"""The settings that tests start from: those of the embedded workload, and the toy size that is laid over them."""

import json
import shutil
from pathlib import Path

import yaml

from steps.core.files import read_json
from steps.graph import workload
from steps.graph.workload import lay_over

ROOT = Path(__file__).parents[1]
PARAMS = workload.load(ROOT)[0]
SMOKE = workload.read(ROOT / "tests/smoke.yaml")


def params_of(*overlays: Path, **values) -> dict:
    """The sections of overlays, with `values` as of the command line."""
    return workload.load(ROOT, overlays, values)[0]


def write_workload(folder: Path, change: dict | None = None, size: dict = SMOKE) -> None:
    """A change at some size, as the workload that runs in a copy of the repository where none is named."""
    content = lay_over(lay_over(workload.read(ROOT / workload.EMBEDDED), size), change or {})
    (folder / workload.EMBEDDED).write_text(yaml.safe_dump(content, sort_keys=False))


def long_model(folder: Path) -> None:
    """Put the embedded model into a folder, with as many positions as a real one has."""
    shutil.copytree(ROOT / "data/fable/base", folder, ignore=shutil.ignore_patterns("manifest.json"))
    config = read_json(folder / "config.json") | {"max_position_embeddings": 32768}
    (folder / "config.json").write_text(json.dumps(config))
