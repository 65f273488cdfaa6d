"""What must run: every needed result that would be made otherwise now, and what descends from it.

Snakemake's own reasons (times, its metadata, what is missing) prove nothing of a result and are left out: a job runs
where the manifest of its result disagrees with its command, its code or the bytes of its files. So the same is planned
after `mv`, `tar`, a clone, `dvc pull`, a failure, a kill, and on a cluster.
"""

import functools
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from steps.core import hashes
from steps.core.asked import asked, code_digest
from steps.core.manifest import LAST
from steps.core.promises import MANIFEST
from steps.core.standing import NOT_MADE, differences
from steps.graph.outcomes import counted

# Beside Snakemake's own records; it may be deleted.
KNOWN_HASHES = ".snakemake/hashes.json"
# Of one result; what is left out is counted.
SHOWN_DIFFERENCES = 4
SHOWN_NAMES = 4
# From here on a person is told what takes so long.
SILENT_SECONDS = 3


def install(workflow: Any) -> None:
    """Make Snakemake's graph of jobs plan by manifests."""
    from snakemake.dag import DAG
    from snakemake.jobs import Job
    from snakemake.logging import logger

    root = Path.cwd()
    hashes.recall(root / KNOWN_HASHES, root)
    found: dict[Any, str | None] = {}
    original = DAG.update_needrun

    async def update_needrun(dag: Any, create_inventory: bool = False) -> None:
        new = [job for job in dag.jobs if job not in found and not dag.finished(job)]
        if new:
            dag.update_jobids()  # a command may name its job
            forget_forced(dag, new, workflow.dryrun)
            found.update(compare(new))
            hashes.keep(root / KNOWN_HASHES, root)
        for job, text in found.items():
            if text is not None:
                dag.forcefiles.update(job.output)
                dag._reason[job] = reason(text)
        await original(dag, create_inventory)
        if new:
            for line in told(dag, found):
                logger.info(line)

    async def no_time(job: Any) -> None:
        return None

    async def complete(dag: Any) -> None:
        """What a killed job left has no manifest: a mark of Snakemake's that it is incomplete says nothing more."""

    DAG.update_needrun = update_needrun
    DAG.check_incomplete = complete
    Job.output_mintime = property(no_time)
    type(workflow).rerun_triggers = frozenset()


def compare(jobs: Iterable[Any]) -> dict[Any, str | None]:
    """What differs of the results of some jobs, in a line each; None of one that stands, or that has no manifest."""
    began, said = time.monotonic(), False
    found = {}
    code = functools.cache(code_digest)
    for job in jobs:
        if not said and time.monotonic() - began > SILENT_SECONDS:
            said = True
            print("reading what stands: each file once, until it changes", file=sys.stderr, flush=True)
        found[job] = difference(job, code)
    return found


def difference(job: Any, code: Callable[[str], str]) -> str | None:
    """What differs of the result of a job; None where it stands, or has no manifest."""
    folder = folder_of(job)
    if folder is None:
        return None
    if not (folder / MANIFEST).is_file():
        return NOT_MADE
    command = shlex.split(job.shellcmd)
    wanted = asked(command[: -command[::-1].index("&>") - 1])  # without its log
    assert wanted, f"{job}: the command of a rule gives its step --settings first"
    lines = list(dict.fromkeys(differences(folder, wanted, code)))
    if not lines:
        return None
    more = f" and {len(lines) - SHOWN_DIFFERENCES} more" if len(lines) > SHOWN_DIFFERENCES else ""
    return ", ".join(lines[:SHOWN_DIFFERENCES]) + more


def folder_of(job: Any) -> Path | None:
    """Where the result of a job lies; None of a target, which has none."""
    manifests = [Path(file) for file in job.output if Path(file).name == MANIFEST]
    return manifests[0].parent if manifests else None


def forget_forced(dag: Any, jobs: Iterable[Any], dryrun: bool) -> None:
    """Let no step find that its result stands where the user asks for it again (--forcerun, --forceall)."""
    for job in jobs:
        forced = job.rule in dag.forcerules or not dag.forcefiles.isdisjoint(job.output)
        if forced and not dryrun and (folder := folder_of(job)):
            (folder / LAST).unlink(missing_ok=True)


def reason(text: str) -> Any:
    """A reason of Snakemake's that says a text."""
    from snakemake.jobs import Reason

    class Difference(Reason):  # type: ignore[misc]
        def __str__(self) -> str:
            return f"Finished (was: {text})" if self.finished else text

        def get_names(self) -> Iterable[str]:
            yield text if text == NOT_MADE else "another result than its manifest's"

    return Difference()


def told(dag: Any, found: dict[Any, str | None]) -> list[str]:
    """A line for each difference of results that are made again on their own account, with what follows."""
    alike: dict[str, list[Any]] = {}
    for job, text in found.items():
        if text is not None and text != NOT_MADE and not any(found.get(other) for other in dag.dependencies[job]):
            alike.setdefault(text, []).append(job)
    if not alike:
        return []
    # A level is a set.
    order = {job: (depth, name_of(job)) for depth, level in enumerate(dag.toposorted()) for job in level}
    lines = []
    for text, jobs in alike.items():
        after = {other for job in jobs for other in dag.bfs(dag.depending, job)} - {*jobs}
        follow = sorted((other for other in after if folder_of(other) and dag.needrun(other)), key=order.__getitem__)
        line = f"{shown(jobs)}: {text}"
        if follow:
            line += f"; then {shown(follow)}: {counted(len(follow), 'job')}"
        lines.append(line)
    return lines


def shown(jobs: list[Any]) -> str:
    """The first names of some jobs."""
    names = list(dict.fromkeys(map(name_of, jobs)))
    return ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")


def name_of(job: Any) -> str:
    """Of the node, checkpoint or data set that a job is about, with its rule where that is another word."""
    wildcards = job.wildcards_dict
    for key in ("node", "name", "dataset"):
        if key in wildcards:
            of_node = key == "node" and "study" in wildcards
            return str(wildcards[key]) if of_node else f"{job.rule.name} {wildcards[key]}"
    return str(job.rule.name)
