"""What a person sees while Snakemake runs: a bar over the jobs and, for each running step, its last progress line.

A step prints its progress to its rule's log; this handler reads the end of it, so the same display serves local jobs
and jobs on a cluster. A terminal gets a live region, a plain log one line per finished rule and one per running step
every half minute. A rule that ends says in its line what it found, such as scores, or rows that it took out, and why. A
failed rule shows the user's error as its one line, or else the last lines of its log; one that Ctrl-C ended, what is
saved of it.

It reads the events of Snakemake's interface for loggers, but is no plugin of it: `--logger` takes installed packages
named snakemake_logger_plugin_* only (snakemake 9.27.1 looks on Python's path as it starts, on which a checkout is not),
so that a bare `snakemake` in a fresh clone, as README has it, would end in "invalid choice". `LogHandlerBase` adds to
`logging.Handler` only what that registry asks of a plugin.
"""

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from snakemake_interface_logger_plugins.common import LogEvent

from steps.core.progress import SAID
from steps.core.promises import MANIFEST
from steps.core.step import ERROR_PREFIX
from steps.graph import ending, remaining
from steps.graph.outcomes import clock, counted, outcome

# A line of steps.core.step.Progress: "sft: step 12/300  loss 0.52  3.1 step/s  1:32 left".
PROGRESS_LINE = re.compile(r"\S+: .+? [\d,]+(/[\d,]+)?  .+")
# Why SLURM ended a job, in the job's own log there: out of time, out of memory, cancelled, its node lost.
CLUSTER_REASON = re.compile(r"slurmstepd\S*: error: (?:\*\*\* )?((?:JOB|STEP|Step|Detected|Exceeded).*?)(?: \*\*\*)?")
# Snakemake's plugin for SLURM, on what the display says itself or what changes nothing.
CLUSTER_CHATTER = (
    r"|SLURM run ID|Job \S+ has been submitted|Submitted array job|Array job submission does not"
    r"|No SLURM account given|No account was given|Unable to guess SLURM account|Cleaning up SLURM log"
)
# The last words of a step that Ctrl-C or a signal ended: of a training (steps.training.run), of any other.
SAVED = re.compile(r"told to end: (the state after step \d+ of \d+ is saved); .*")
CTRL_C = "ended by Ctrl-C"
FAILED_LOG_LINES = 20
PLAIN_LOG_SECONDS = 30
KEPT_LINES = 500
# Chatter that the display replaces; the run's complete log has it all.
REPLACED_EVENTS = (
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RUN_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.SHELLCMD,
    LogEvent.PROGRESS,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_INFO,
    LogEvent.JOB_FINISHED,
    LogEvent.JOB_ERROR,
    LogEvent.GROUP_INFO,
    LogEvent.GROUP_ERROR,
)
REPLACED_MESSAGES = re.compile(
    r"Building DAG|Using shell|Provided |Rules claiming|Select jobs|Execute \d|Assuming unrestricted|host:|Elapsed time"
    r"|Conda env|Exiting because a job|Shutting down|At least one job did not|RuleException:\s*CalledProcessError"
    + CLUSTER_CHATTER
)
NOTHING = "Nothing to be done"
CANCELLED = ("Terminating processes on user request", "Cancelling snakemake on user request")
AGAIN = re.compile(r"Trying to restart job (\d+)\.")


def show(workflow: Any) -> None:
    """Put the display in place of Snakemake's own output to the terminal, unless another logger was asked for."""
    from snakemake.logging import logger

    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler" and not any(getattr(f, "dryrun", False) for f in handler.filters):
            logger.removeHandler(handler)
            logger.addHandler(Display(handler, workflow=workflow))


def follow(page_of: Callable[["Display"], Any]) -> None:
    """Have the display of this run, where there is one, keep a page: see steps.graph.live."""
    from snakemake.logging import logger

    for handler in logger.handlers:
        if isinstance(handler, Display):
            handler.page = page_of(handler)


def nothing(workflow: Any) -> list[str]:
    """What is said where all that was asked for stands."""
    return [f"{NOTHING}: what was asked for stands", *(ending.lines(workflow.dag.targetjobs) if workflow else [])]


class Display(logging.Handler):
    """Handles Snakemake's records: counts jobs, names the running ones, passes on what it has no better form for."""

    def __init__(self, plain: logging.Handler, console: Console | None = None, workflow: Any = None):
        super().__init__()
        self.plain, self.workflow = plain, workflow
        self.remaining = remaining.Remaining([])
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.total = self.done = 0
        self.jobs: dict[int, dict] = {}
        self.failed: dict[int, str] = {}
        self.finished: set[int] = set()
        # What was said of jobs that ended.
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.page: Any = None
        self.began = time.monotonic()
        self.live: Live | None = None
        self.ticker: threading.Thread | None = None
        self.stopped = threading.Event()

    def emit(self, record: Any) -> None:
        # A LogRecord to which Snakemake adds what its event has.
        event = getattr(record, "event", None)
        if event == LogEvent.RUN_INFO:
            # Targets are jobs to Snakemake; to a person they are none, and end without a word.
            targets = [job for job in self.workflow.dag.needrun_jobs() if not job.log] if self.workflow else []
            self.total = record.stats["total"] - len(targets)
            self.remaining = remaining.of(self.workflow) if self.workflow else self.remaining
            self.began = time.monotonic()
            self.console.print(Text(": ".join(filter(None, [counted(self.total, "job") + " to run", self.left()]))))
            self._start()
        elif event == LogEvent.JOB_INFO:
            self.failed.pop(record.jobid, None)
            self.jobs[record.jobid] = {
                "name": job_name(record),
                "log": list(record.log or []),
                "output": list(getattr(record, "output", None) or []),
                "began": time.monotonic(),
                "date": time.time(),
            }
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.job_id)
        elif event == LogEvent.JOB_ERROR:
            self._fail(record)
        elif event == LogEvent.GROUP_ERROR:
            self._fail_group(record)
        if event in REPLACED_EVENTS or (
            event is None and record.levelno <= logging.WARNING and REPLACED_MESSAGES.match(record.getMessage())
        ):
            return
        if record.getMessage().startswith(NOTHING):
            self.console.print(Text("\n".join(nothing(self.workflow))))
            return
        if record.getMessage().startswith(CANCELLED):
            self.console.print(Text("ending: what trains saves its state first; the same command goes on"))
            return
        if (again := AGAIN.match(record.getMessage())) and int(again[1]) in self.failed:
            self.console.print(Text(f"{self.failed[int(again[1])]} starts again"))
            return
        if record.levelno >= logging.ERROR and REPLACED_MESSAGES.search(record.getMessage()):
            return  # the failed rule has been shown already
        if self.plain.filter(record) and (message := self.plain.format(record)) and message != "None":
            self.console.print(Text(message.strip("\n")))

    def close(self) -> None:
        self.stopped.set()
        if self.page:
            self.page.stop()
            self.page = None
        if self.live:
            self.live.stop()
            self.live = None
        super().close()

    # --- events ---

    def _start(self) -> None:
        if self.ticker or self.live or not self.total:
            return
        if self.page:
            self.page.start()
            self.console.print(Text(f"live: {self.page.file}"))
        if self.console.is_terminal:
            self.live = Live(get_renderable=self._picture, console=self.console, refresh_per_second=2, transient=True)
            self.live.start()
        else:
            self.ticker = threading.Thread(target=self._tick, daemon=True)
            self.ticker.start()

    def _finish(self, job_id: int) -> None:
        job = self.jobs.pop(job_id, None)
        if job is None:
            return
        self.finished.add(job_id)
        seconds = time.monotonic() - job["began"]
        self.remaining.finish(job_id, seconds)
        if job["log"]:
            self.done += 1
            found, more = result(job["output"], job["log"])
            line = "  ".join(filter(None, [bar(self.done, self.total), job["name"], clock(seconds), found]))
            self._say([line, *(f"  {line}" for line in more)])

    def _fail(self, record: Any) -> None:
        # Snakemake reports a failed job when it fails and once more at the end.
        if record.jobid in self.failed:
            return
        job = self.jobs.pop(record.jobid)
        self.failed[record.jobid] = job["name"]
        more = [Path(log) for log in getattr(record, "log", []) if log not in job["log"]]
        self._print_failure(job["name"], [Path(log) for log in job["log"]], more)

    def _fail_group(self, record: Any) -> None:
        """Several rules were one job of a cluster. Each is reported next, those that ended well or never began too, so
        this says which it was: one that wrote an error since it began, or else all of them."""
        jobs = [job for info in record.job_error_info if (job := self.jobs.pop(info["jobid"], None))]
        if len(jobs) < len(record.job_error_info):
            return
        self.failed |= {info["jobid"]: job["name"] for info, job in zip(record.job_error_info, jobs, strict=True)}
        logs = {job["name"]: [Path(log) for log in job["log"]] for job in jobs}
        began = {job["name"]: job["date"] for job in jobs}
        guilty = [name for name in logs if any(says_why(log, began[name]) for log in logs[name])]
        more = [Path(log) for log in record.aux_logs]
        if guilty:
            for name in guilty:
                self._print_failure(name, logs[name], more)
        else:
            self._print_failure(" + ".join(logs), [], more)

    def _print_failure(self, name: str, logs: list[Path], cluster_logs: list[Path]) -> None:
        self._say(failure(name, logs, cluster_logs), style="red")

    def _say(self, lines: list[str], style: str = "") -> None:
        self.lines.append("\n".join(lines))
        self.console.print(Text("\n".join(lines), style=style))

    # --- drawing ---

    def _picture(self) -> Group:
        """The live region: one bar over the jobs, one line per running step."""
        head = Table.grid(padding=(0, 1))
        head.add_row(
            ProgressBar(total=max(self.total, 1), completed=self.done, width=40),
            f"{self.done}/{self.total} jobs",
            clock(time.monotonic() - self.began),
            self.left(),
        )
        lines = [
            Text(
                f"  {job['name']}  {last_progress(job['log']) or clock(time.monotonic() - job['began'])}", no_wrap=True
            )
            for job in list(self.jobs.values())
            if job["log"]
        ]
        return Group(head, *lines)

    def left(self) -> str:
        now = time.monotonic()
        return self.remaining.text(
            {number: now - job["began"] for number, job in [*self.jobs.items()]}, now - self.began
        )

    def _tick(self) -> None:
        shown: dict[str, str] = {}
        while not self.stopped.wait(PLAIN_LOG_SECONDS):
            if left := self.left():
                self.console.print(Text(f"  {left}"))
            for job in list(self.jobs.values()):
                line = last_progress(job["log"])
                if line and shown.get(job["name"]) != line:
                    shown[job["name"]] = line
                    self.console.print(Text(f"  {job['name']}  {line}"))


def job_name(record: Any) -> str:
    """Rule and wildcards, without the workload, which is the same for all."""
    wildcards = getattr(record, "wildcards", None) or {}
    return " ".join([record.rule_name, *(str(value) for key, value in wildcards.items() if key != "workload")])


def bar(done: int, total: int, width: int = 20) -> str:
    filled = width * done // max(total, 1)
    return f"[{'#' * filled}{'.' * (width - filled)}] {done}/{total}"


def tail(log: Path, size: int = 16_384) -> list[str]:
    """The last lines of a log, of its last `size` bytes; a carriage return ends a line too."""
    if not log.is_file():
        return []
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - size))
        return [line for line in re.split(r"[\r\n]+", file.read().decode(errors="replace")) if line.strip()]


def last_progress(logs: list[str]) -> str | None:
    lines = [line for log in logs for line in tail(Path(log), 4096) if PROGRESS_LINE.fullmatch(line)]
    return lines[-1] if lines else None


def result(outputs: list[str], logs: list[str]) -> tuple[str, list[str]]:
    """What a finished step found, and what else it says: its result tells the first, or else its last line does."""
    folders = [Path(file).parent for file in outputs if Path(file).name == MANIFEST]
    found, lines = outcome(folders[0]) if folders else "", told(logs)
    if found:
        # Some steps say the same, for who runs them by hand.
        return found, [line for line in lines if not line.endswith(f": {found}")]
    return (lines[-1].partition(": ")[2], lines[:-1]) if lines else ("", [])


def told(logs: list[str]) -> list[str]:
    """What a step says for the screen of what it found: see steps.core.progress.say."""
    lines = [line for log in logs for line in tail(Path(log))]
    return [line.removeprefix(SAID) for line in lines if line.startswith(SAID) and not line.startswith(ERROR_PREFIX)]


def says_why(log: Path, since: float) -> bool:
    """Whether a step's log, written after a date, ends in an error of its own."""
    written = log.is_file() and log.stat().st_mtime >= since
    return written and any(line.startswith((ERROR_PREFIX, "Traceback ")) for line in tail(log))


def failure(name: str, logs: list[Path], cluster_logs: list[Path]) -> list[str]:
    """What to show of a failed rule: the user's error as one line, or why the cluster ended it, or the end of its log;
    and where the rest is."""
    lines = [line for log in logs for line in tail(log)]
    mistakes = [line for line in lines if line.startswith(ERROR_PREFIX)]
    where = ", ".join(map(str, logs)) or "no log"
    if mistakes:
        return [f"{name} failed: {mistakes[-1].removeprefix(ERROR_PREFIX)} (log: {where})"]
    reasons = [found[1] for log in cluster_logs for line in tail(log) if (found := CLUSTER_REASON.fullmatch(line))]
    if reasons:
        return [f"{name} was ended by SLURM: {reasons[0]} (logs: {', '.join(map(str, [*logs, *cluster_logs]))})"]
    if saved := [found[1] for line in lines if (found := SAVED.fullmatch(line))]:
        return [f"{name}: {saved[-1]}; the same command goes on"]
    if any(line.startswith(CTRL_C) for line in lines):
        return [f"{name}: ended by Ctrl-C; the same command makes it again"]
    shown = lines[-FAILED_LOG_LINES:]
    return [f"{name} failed; the last lines of {where}:", *(f"  {line}" for line in shown)]
