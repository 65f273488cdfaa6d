"""What a dry run says: what would be made, study by study, how long that takes, and what it needs of the disk.

Snakemake's own list, a block for each job with its files and its command, is there with `-n -p`, or with `--quiet`.
"""

import functools
import logging
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from steps.core.files import read_json
from steps.core.promises import MANIFEST
from steps.graph import plan, remaining
from steps.graph.checks import is_here
from steps.graph.display import NOTHING, REPLACED_EVENTS, REPLACED_MESSAGES, nothing
from steps.graph.graph import Graph
from steps.graph.outcomes import clock, counted
from steps.preflight.machine import disk_of, stored_shape
from steps.settings.stages import STAGES

# What Snakemake says of a dry run as such.
OF_DRY_RUN = ("This was a dry-run", "Reasons:", "host:")
# Of the names in a line; the others are counted.
SHOWN = 6
WORLD, ROWS, MODELS = "world", "rows", "models"
UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def show(workflow: Any, graph: Graph) -> None:
    """Put the plan in place of Snakemake's list of jobs, unless its own words are asked for."""
    from snakemake.logging import logger

    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and any(is_plain(told) for told in handler.filters):
            logger.removeHandler(handler)
            logger.addHandler(Plan(handler, workflow, graph))


def is_plain(told: Any) -> bool:
    """Whether a filter of Snakemake's is of a dry run of which nothing more or less than usual is to be said."""
    return getattr(told, "dryrun", False) and not (told.quiet or told.printshellcmds or told.verbose or told.debug_dag)


class Plan(logging.Handler):
    """Handles Snakemake's records of a dry run."""

    def __init__(self, plain: Any, workflow: Any, graph: Graph):
        super().__init__()
        self.plain, self.workflow, self.graph = plain, workflow, graph
        self.shown = False

    def emit(self, record: Any) -> None:
        event, said = getattr(record, "event", None), record.getMessage()
        told: Iterable[str] = ()
        if event == LogEvent.RUN_INFO:
            # Which Snakemake says once more at the end.
            told = [] if self.shown else lines(self.workflow, self.graph)
            self.shown = True
        elif said.startswith(NOTHING):
            told = nothing(self.workflow)
        elif event in REPLACED_EVENTS or said.startswith(OF_DRY_RUN) or REPLACED_MESSAGES.match(said):
            return
        elif self.plain.filter(record) and (text := self.plain.format(record)) and text != "None":
            told = [text.strip("\n")]
        for line in told:
            print(line, file=self.plain.stream, flush=True)


def lines(workflow: Any, graph: Graph) -> list[str]:
    """The plan of the jobs that Snakemake would run."""
    dag = workflow.dag
    known = remaining.of(workflow)
    parts: defaultdict[str, list[Any]] = defaultdict(list)
    for job in (job for level in dag.toposorted() for job in sorted(level, key=str)):
        if plan.folder_of(job) and dag.needrun(job):
            parts[part_of(job, graph)].append(job)
    jobs = [job for of_part in parts.values() for job in of_part]
    seconds = {job: known.expected(dag.jobid(job)) or rehearsed(job, graph) for job in jobs}
    again = sum((folder / MANIFEST).is_file() for job in jobs if (folder := plan.folder_of(job)))
    files = " + ".join(_shown_path(file) for file in workflow.configfiles[1:])
    made = f"{again} of them again" if again else "none of them made before"
    told = [f"{graph.params['workload']} ({files}): {counted(len(jobs), 'job')}, {made}"]
    rows = [
        (name, counted(len(parts[name]), "job"), duration([seconds[job] for job in parts[name]]), contents(parts[name]))
        for name in sorted(parts, key=lambda name: place(name, graph))
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        # Times may be known of none.
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False) if width]
        told.append("  " + "  ".join([*cells, row[3]]))
    return [*told, *long([*seconds.values()]), *disk(jobs, graph)]


def part_of(job: Any, graph: Graph) -> str:
    """The study that a job is of, or the rows, or the models, or else its rule."""
    named = job.wildcards_dict
    for key in ("node", "name"):
        if named.get(key) in graph.nodes:
            return graph.nodes[named[key]].study
    if "dataset" in named or named.get("kind") == "data":
        return ROWS
    return MODELS if {"model", "name"} & named.keys() else str(job.rule.name)


def place(part: str, graph: Graph) -> int:
    """Of a part among the others."""
    order = [WORLD, ROWS, MODELS, *graph.params["studies"]]
    return order.index(part) if part in order else len(order)


def contents(jobs: list[Any]) -> str:
    """Which recipes some jobs make, and how many there are of each other rule."""
    made = [str(job.wildcards_dict["node"]) for job in jobs if job.rule.name in STAGES]
    others = Counter(str(job.rule.name) for job in jobs if job.rule.name not in STAGES)
    more = [f"{len(made) - SHOWN} more"] if len(made) > SHOWN else []
    recipes = ", ".join([*made[:SHOWN], *more])
    rest = ", ".join(name if count == 1 else f"{count} {name}" for name, count in others.items())
    return "; ".join(filter(None, [recipes, rest]))


def rehearsed(job: Any, graph: Graph) -> float | None:
    """The seconds that pre-flight expects of a training, where it was asked."""
    name = job.wildcards_dict.get("node")
    if job.rule.name not in STAGES or not STAGES[job.rule.name].trains:
        return None
    try:
        return 3600 * float(
            read_json(Path(graph.results, "preflight", graph.rehearsal(name), "preflight.json"))["hours"]
        )
    # One that was never made, or by another version: then it is not known.
    except (OSError, ValueError, LookupError, TypeError):
        return None


def duration(seconds: list[float | None]) -> str:
    """Of the jobs whose length is known."""
    known = [value for value in seconds if value is not None]
    return f"about {clock(sum(known))}" if known else ""


def long(seconds: list[float | None]) -> list[str]:
    """How long all jobs take, and how that is known."""
    known = [value for value in seconds if value is not None]
    unknown = len(seconds) - len(known)
    if not known:
        return ["time: not known, for nothing like it ran here; the target preflight measures the trainings first"]
    left_out = f"; {counted(unknown, 'job')} of unknown length left out" if unknown else ""
    return [f"time: about {clock(sum(known))} one after the other, as long as such jobs took before{left_out}"]


def disk(jobs: list[Any], graph: Graph) -> list[str]:
    """What the checkpoints that are not there yet need, by the shapes of their models, and what is free."""
    shapes = functools.cache(stored_shape)
    stored, states, unknown = 0.0, 0.0, 0
    for job in jobs:
        folder = plan.folder_of(job)
        if job.rule.name not in STAGES or folder is None or folder.is_dir():
            continue
        node = graph.nodes[job.wildcards_dict["node"]]
        try:
            root = graph.root(node.name)
            shape = shapes(Path(graph.source(root))) if is_here(graph, root) else None
        except (OSError, ValueError):
            shape = None
        if shape:
            wanted = disk_of(node.stage, node.settings, shape)
            stored, states = stored + wanted["checkpoint"], max(states, wanted["states"])
        else:
            unknown += 1
    free = shutil.disk_usage(".").free
    left_out = f"{counted(unknown, 'checkpoint')} of models that are not here yet left out" if unknown else ""
    if not stored:
        return [f"disk: not known, {left_out}; {size(free)} are free"] if unknown else []
    short = "" if stored + states < free else ", TOO LITTLE: make room, or put results/ and work/ on a larger disk"
    needed = f"{size(stored)} for checkpoints, up to {size(states)} for the states of each training while it runs"
    return [f"disk: {'; '.join(filter(None, [needed, left_out, f'{size(free)} are free{short}']))}"]


def size(count: float) -> str:
    """Bytes, to three digits: "2.4 GB"."""
    unit, name = next(((unit, name) for unit, name in UNITS if count >= unit), UNITS[-1])
    return f"{count / unit:.3g} {name}"


def _shown_path(file: Path) -> str:
    path = Path(file).absolute()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
