"""The settings that tests start from: those of the embedded workload, and the toy size that is laid over them."""

from pathlib import Path

import yaml

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
