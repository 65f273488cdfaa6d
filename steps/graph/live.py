"""A page of a run while it lasts, for a browser on this machine: `--config live=true`.

It is a file that is written every few seconds and that the browser reads again by itself: no socket is opened, and what
is not asked for is not done. It shows what Snakemake's process knows (jobs, their logs, results that stand) and touches
no result; whatever fails here ends the page, not the run. Where a study is done and others still run, the report of
what there is until then is rendered beside it, at the lowest priority of the machine's cores.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from steps.core.asked import as_argument
from steps.core.files import read_json, write_text
from steps.core.progress import SAID
from steps.core.promises import MANIFEST
from steps.core.text import visible
from steps.graph import display, plan
from steps.graph.graph import Graph
from steps.graph.outcomes import clock, points
from steps.graph.planning import part_of, place
from steps.settings.axes import CAPABILITIES

SECONDS = 5
# Of a log, and of the points of a curve.
READ_BYTES, MOST_POINTS = 1 << 20, 200
WIDTH, HEIGHT = 320, 90
# A line of steps.core.progress.Progress: what counts, how far, of how many, and its first value.
STEP = re.compile(r"\S+: \S+ ([\d,]+)(?:/([\d,]+))?  (\w+) (-?[\d.]+(?:e[+-]?\d+)?)(?:  .*)?")


class Page:
    """The page of one run.

    Attributes:
        file: `logs/<workload>/live.html`.
        partial: the folder of the report of the studies that are done.
    """

    def __init__(self, shown: Any, workflow: Any, graph: Graph):
        """
        Args:
            shown: the display of the run, which knows its jobs.
        """
        self.shown, self.workflow, self.graph = shown, workflow, graph
        folder = Path("logs", graph.params["workload"]).absolute()
        self.file, self.partial = folder / "live.html", folder / "live.report"
        self.planned: dict[str, set[int]] = {}
        # Folders that this run makes, and whether it makes one again.
        self.makes: dict[Path, int] = {}
        self.again = False
        self.rendered: set[str] = set()
        self.rendering: subprocess.Popen | None = None
        self.ended, self.failed = threading.Event(), False
        self.thread = threading.Thread(target=self._follow, daemon=True)

    def start(self) -> None:
        """As the first job is about to begin."""
        if self._try(self._look):
            self.thread.start()

    def _look(self) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)  # of an earlier run
        dag = self.workflow.dag
        for job in dag.needrun_jobs():
            if folder := plan.folder_of(job):
                self.planned.setdefault(part_of(job, self.graph), set()).add(dag.jobid(job))
                self.makes[folder] = dag.jobid(job)
                self.again = self.again or (folder / MANIFEST).is_file()

    def stop(self) -> None:
        """The run has ended: the page says so, and is read again no more."""
        self.ended.set()
        if self.thread.ident:
            self.thread.join(SECONDS)
            self._try(self._write)

    def _follow(self) -> None:
        while self._try(self._write) and not self.ended.wait(SECONDS):
            pass

    def _write(self) -> None:
        if not self.ended.is_set():
            self._render_studies()
        elif self.rendering:
            self.rendering.terminate()
        write_text(self.file, page(self.facts()))

    def _try(self, act: Callable[[], None]) -> bool:
        try:
            if not self.failed:
                act()
        # Of a page that one may do without: a full disk, a folder that is gone.
        except Exception as error:
            said = f"{SAID}the live page ends, the run goes on: {type(error).__name__}: {error}"
            print(" ".join(said.split()), file=sys.stderr, flush=True)
            self.failed = True
        return not self.failed

    def facts(self) -> dict[str, Any]:
        """What the template fills in."""
        shown, now = self.shown, time.monotonic()
        unfinished, ended = self.unfinished(), self.ended.is_set()
        report = Path("reports", self.graph.params["workload"], "index.html").absolute()
        if not (ended and report.is_file()):
            report = self.partial / "index.html"
        return {
            "workload": self.graph.params["workload"],
            "written": time.strftime("%H:%M:%S"),
            "every": None if ended else SECONDS,
            "done": shown.done,
            "total": shown.total,
            "elapsed": clock(now - shown.began),
            "left": "" if ended else shown.left(),
            "older": self.again and not ended,
            "report": os.path.relpath(report, self.file.parent) if report.is_file() else None,
            "running": [
                {
                    "name": job["name"],
                    "since": clock(now - job["began"]),
                    "said": display.last_progress(job["log"]) or "",
                    "curve": curve(job["log"]),
                }
                for job in [*shown.jobs.values()]
                if job["log"]
            ],
            "parts": [
                {"name": name, "done": len(jobs - unfinished), "total": len(jobs)}
                for name, jobs in sorted(self.planned.items(), key=lambda part: place(part[0], self.graph))
            ],
            "studies": [
                {"name": study, "checkpoints": [self._scored(name) for name in self.graph.measured(study)]}
                for study in self.graph.params["studies"]
            ],
            "lines": [visible(line) for line in reversed([*shown.lines])],
        }

    def unfinished(self) -> set[int]:
        """The jobs of this run that have not ended."""
        return {*self.makes.values()} - {*self.shown.finished}

    def _scored(self, name: str) -> dict[str, str]:
        """A checkpoint with the plain means of its axes, as far as they are measured."""
        folder = Path(self.graph.results, "evaluation", name)
        scored = {"name": name} | dict.fromkeys(CAPABILITIES, "")
        if self.makes.get(folder) in self.unfinished() or not (folder / MANIFEST).is_file():
            return scored
        tasks = read_json(folder / "results.json")["tasks"].values()
        for axis in CAPABILITIES:
            values = [task["value"] for task in tasks if task["axis"] == axis]
            scored[axis] = points(sum(values) / len(values)) if values else ""
        return scored

    def _render_studies(self) -> None:
        """Start the report of what is there where one more study is done, or stood before, and another is not."""
        if self.rendering and self.rendering.poll() is None:
            return
        unfinished = self.unfinished()
        left = {study for study in self.graph.params["studies"] if self.planned.get(study, set()) & unfinished}
        done = {*self.graph.params["studies"]} - left
        if not left or done <= self.rendered:
            return
        self.rendered = done
        settings = ["--settings", as_argument(self.graph.describe())]
        folders = ["--results", self.graph.results, "--out", os.path.relpath(self.partial)]
        command = ["nice", "-n", "19", sys.executable, "-m", "steps.report.report", *settings, *folders]
        nowhere = subprocess.DEVNULL
        self.rendering = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)


def curve(logs: list[str]) -> dict[str, Any] | None:
    """The first value of a running step against its count, as its log has them; None of one that tells none."""
    found: dict[float, float] = {}
    name = total = ""
    for log in logs:
        for line in display.tail(Path(log), READ_BYTES):
            if match := STEP.fullmatch(line):
                # What is repeated after a restart takes the place of what was.
                found[float(match[1].replace(",", ""))] = float(match[4])
                name, total = match[3], match[2] or total
    if len(found) < 2 or name.startswith("0"):
        return None
    every = -(-len(found) // MOST_POINTS)
    steps = sorted(found)[::-1][::every][::-1]
    values = [found[step] for step in steps]
    last = float(total.replace(",", "")) if total else steps[-1]
    low, high = min(values), max(values)
    scale = HEIGHT / (high - low) if high > low else 0
    across = [WIDTH * step / max(last, steps[-1]) for step in steps]
    drawn = " ".join(f"{x:.1f},{HEIGHT - scale * (y - low):.1f}" for x, y in zip(across, values, strict=True))
    return {"name": name.replace("_", " "), "points": drawn, "first": values[0], "last": values[-1]}


def page(facts: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    size = {"width": WIDTH, "height": HEIGHT}
    return environment.get_template("live.html.j2").render(**facts, **size)
