"""What a run on SLURM needs besides Snakemake's plugin: a check before anything is queued, and no job left at the end.

The Snakefile calls `begin` before the first job and `end` after the last. Runs on one machine pass through both.

Imports nothing heavy: Snakemake loads it at every parse.
"""

import contextlib
import fcntl
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.core.step import ERROR_PREFIX, RUN, USER_ERROR

COMMANDS = ("sinfo", "sbatch", "squeue", "scancel", "scontrol")
SINFO = ("sinfo", "--exact", "--noheader", "--format=%P|%a|%c|%m|%G|%l|%f")
# One file for each run that has queued jobs, under Snakemake's own folder: its name is the name of the run's jobs.
RUNS = Path(".snakemake/slurm_runs")
# A cancelled job has SLURM's KillWait (30 by default) to save its state.
SECONDS_TO_END = 120
# A job that SLURM does not know in so many looks at the queue, one after the other, is lost. One that was queued a
# moment ago may be missing in the first.
LOOKS = 3


@dataclass(frozen=True)
class Nodes:
    """Equal nodes of a partition. Memory in MB, limit in minutes (None: no limit)."""

    partition: str
    default: bool
    up: bool
    cpus: int
    memory: int
    gpus: int
    limit: int | None
    features: frozenset[str]


@dataclass(frozen=True)
class Wish:
    """What a job asks for; None where it asks for nothing in particular. Units as in `Nodes`."""

    rule: str
    attempt: int
    partition: str | None
    cpus: int
    memory: int | None
    gpus: int
    processes: int | None
    minutes: int | None
    constraint: str | None
    account: str | None


# --- what there is --------------------------------------------------------------------------------


def minutes(limit: str) -> int | None:
    """A time limit as sinfo writes it, [days-][[hours:]minutes:]seconds, in whole minutes; None for infinite."""
    if limit == "infinite":
        return None
    days, _, clock = limit.rpartition("-")
    seconds = 0
    for part in clock.split(":"):
        seconds = seconds * 60 + int(part)
    return int(days or 0) * 24 * 60 + seconds // 60


def parse_sinfo(text: str) -> list[Nodes]:
    """The output of SINFO."""
    found = []
    for line in text.splitlines():
        partition, available, cpus, memory, gres, limit, features = line.split("|")
        gpus = re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)(?=[,(]|$)", gres)
        found.append(
            Nodes(
                partition=partition.removesuffix("*"),
                default=partition.endswith("*"),
                up=available == "up",
                # With a + where not all nodes have as many: the least.
                cpus=int(cpus.removesuffix("+")),
                memory=int(memory.removesuffix("+")),
                gpus=sum(map(int, gpus)),
                limit=minutes(limit),
                features=frozenset() if features == "(null)" else frozenset(features.split(",")),
            )
        )
    return found


def parse_config(text: str) -> dict[str, str]:
    """The output of `scontrol show config`."""
    return dict(re.findall(r"^(\w+)\s*= (.*?)\s*$", text, flags=re.MULTILINE))


def ask(*command: str) -> str:
    """The output of one of SLURM's commands.

    Raises:
        ValueError: it failed; its own words.
    """
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ValueError(f"{command[0]} failed ({said}); is this a login node, and is SLURM up?")
    return done.stdout


# --- what is asked for ----------------------------------------------------------------------------


def wishes(jobs: Iterable[Any], retries: int) -> list[Wish]:
    """What the first and the last attempt of each of Snakemake's jobs ask for, each kind once."""
    found: dict[Wish, None] = {}
    for job in jobs:
        if job.is_local:
            continue
        for attempt in (1, retries + 1):
            job.attempt = attempt
            found[wish(job.rule.name, attempt, job.resources)] = None
        job.attempt = 1
    return list(found)


def wish(rule: str, attempt: int, resources: Any) -> Wish:
    """Resources that cannot be known before their job's inputs are there count as not asked for."""

    def number(name: str) -> int | None:
        value = resources.get(name)
        return value if isinstance(value, int) else None

    def text(name: str) -> str | None:
        value = resources.get(name)
        return str(value) if value not in (None, "") else None

    return Wish(
        rule=rule,
        attempt=attempt,
        partition=text("slurm_partition"),
        cpus=number("_cores") or 1,
        memory=number("mem_mb"),
        gpus=number("gpu") or 0,
        processes=number("processes"),
        minutes=number("runtime"),
        constraint=text("constraint"),
        account=text("slurm_account"),
    )


def check(wanted: Iterable[Wish], nodes: list[Nodes]) -> None:
    """Raise a ValueError for the first wish that no node can grant: such a job would be refused, or wait for ever."""
    names = ", ".join(dict.fromkeys(node.partition for node in nodes))
    for asked in wanted:
        where = f"rule {asked.rule}" + (f", attempt {asked.attempt}" if asked.attempt > 1 else "")
        if asked.processes and asked.gpus and asked.gpus != asked.processes:
            raise ValueError(
                f"{where}: {asked.processes} processes and {asked.gpus} GPUs: each process takes one;"
                f" set `set-resources: {asked.rule}: gpu` in the profile to {asked.processes}, or change `launch`"
            )
        partitions = asked.partition.split(",") if asked.partition else [n.partition for n in nodes if n.default]
        for name in partitions:
            if not any(n.partition == name for n in nodes):
                raise ValueError(
                    f"{where}: slurm_partition: there is no partition {name}; the profile may name {names}"
                )
        if not partitions:
            raise ValueError(
                f"{where}: slurm_partition: this cluster has no default; set one of {names} in the profile"
            )
        called = f"partition {', '.join(dict.fromkeys(partitions))}"
        there = [n for n in nodes if n.partition in partitions and n.up]
        if not there:
            raise ValueError(f"{where}: slurm_partition: {called} is down; name another in the profile")
        longest = max(n.limit or sys.maxsize for n in there)
        if asked.minutes is not None and asked.minutes > longest:
            raise ValueError(
                f"{where}: runtime: {asked.minutes} minutes, but {called} ends jobs after {longest};"
                f" lower `set-resources: {asked.rule}: runtime` in the profile (a training goes on in its next"
                " attempt), or name another slurm_partition"
            )
        # A constraint of one feature; & | and counts are left to SLURM.
        if asked.constraint and re.fullmatch(r"[\w.-]+", asked.constraint):
            features = ", ".join(sorted(set().union(*(n.features for n in there)))) or "none"
            there = [n for n in there if asked.constraint in n.features]
            if not there:
                raise ValueError(
                    f"{where}: constraint: no node of {called} has the feature {asked.constraint}"
                    f" (there is: {features}); correct it in the profile"
                )
        for key, unit, amount, most in (
            (f"set-resources: {asked.rule}: gpu", "GPUs", asked.gpus, max(n.gpus for n in there)),
            (f"set-resources: {asked.rule}: mem_mb", "MB", asked.memory or 0, max(n.memory for n in there)),
            (f"set-threads: {asked.rule}", "cores", asked.cpus, max(n.cpus for n in there)),
        ):
            if amount > most:
                raise ValueError(
                    f"{where}: {amount:,} {unit} on one node, but the largest of {called} has {most:,};"
                    f" lower `{key}` in the profile, or name another slurm_partition"
                )
        if not any(n.gpus >= asked.gpus and n.memory >= (asked.memory or 0) and n.cpus >= asked.cpus for n in there):
            raise ValueError(
                f"{where}: no single node of {called} has {asked.gpus} GPUs, {asked.memory or 0:,} MB and"
                f" {asked.cpus} cores together; lower one of them in the profile"
            )


def check_accounting(wanted: Iterable[Wish], config: dict[str, str], status_command: str, seconds: int) -> None:
    """Raise a ValueError for settings with which the plugin would wait for ever, or queue nothing.

    Args:
        config: of `parse_config`.
        status_command: squeue or sacct.
        seconds: between two looks at the queue; squeue forgets a job that ended MinJobAge seconds ago, and below three
            times this the plugin takes sacct, which without accounting knows of no job.
    """
    if not config["AccountingStorageType"].endswith("/none"):
        return
    if status_command == "sacct":
        raise ValueError(
            "slurm-status-command: sacct knows of no job here, as this cluster keeps no accounts (slurmdbd);"
            " set squeue in the profile"
        )
    age = int(config["MinJobAge"].split()[0])
    if age < 3 * seconds:
        raise ValueError(
            f"slurm-init-seconds-before-status-checks: {seconds}, but this cluster forgets ended jobs after {age} s"
            f" (MinJobAge); set {age // 3} or less in the profile"
        )
    for asked in wanted:
        if asked.account:
            raise ValueError(
                f"rule {asked.rule}: slurm_account: {asked.account}, but this cluster keeps no accounts (slurmdbd);"
                " remove it from the profile"
            )


# --- a run ----------------------------------------------------------------------------------------


def begin(workflow: Any) -> None:
    """Before the first job is queued: a mistake in the profile ends in one line, a dead run's jobs are cancelled, and
    SIGTERM becomes what Ctrl-C is. Snakemake's own answer to SIGTERM is to wait until the running jobs have ended."""
    if workflow.executor_plugin.name != "slurm":
        return
    try:
        missing = [command for command in COMMANDS if shutil.which(command) is None]
        if missing:
            raise ValueError(
                f"there is no SLURM on this machine (no {', '.join(missing)});"
                " run on a login node of the cluster, or leave out the profile to run here"
            )
        nodes = parse_sinfo(ask(*SINFO))
        wanted = wishes(workflow.dag.needrun_jobs(), workflow.execution_settings.retries)
        check(wanted, nodes)
        settings = workflow.executor_settings
        config = parse_config(ask("scontrol", "show", "config"))
        check_accounting(wanted, config, settings.status_command, settings.init_seconds_before_status_checks)
        RUNS.mkdir(parents=True, exist_ok=True)
        cancel_dead_runs(RUNS)
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(USER_ERROR)
    announce(RUNS / run_name(workflow))
    # Not every file system shows a lock to other nodes; there the jobs of dead runs are cancelled.
    os.environ.pop(RUN, None)
    report_lost_jobs(workflow.scheduler._executor)
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def end(workflow: Any) -> None:
    """After the last job: nothing of this run is left in the queue. (The plugin cancels the jobs that it has in hand,
    and while it looks at the queue, or queues another, that is not all of them.)"""
    if workflow.executor_plugin.name != "slurm":
        return
    try:
        cancel(run_name(workflow))
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
    else:
        (RUNS / run_name(workflow)).unlink(missing_ok=True)


def run_name(workflow: Any) -> str:
    """What the plugin calls all jobs of this run."""
    return workflow.scheduler._executor.run_uuid


def report_lost_jobs(executor: Any) -> None:
    """Have the plugin give up a job that SLURM has forgotten: its controller lost its state, or ended jobs are dropped
    sooner than it says. The plugin takes such a job for one that is not in the queue yet, and waits for ever."""
    look, missed = executor.check_active_jobs, Counter[str]()

    async def check_active_jobs(active: list[Any]) -> AsyncIterator[Any]:
        waiting = [job async for job in look(active)]
        # A controller that does not answer says nothing of any job.
        with contextlib.suppress(ValueError):
            every = ask("squeue", "--noheader", "--array", "--states=all", "--format=%i", f"--name={executor.run_uuid}")
            missed.update(job.external_jobid for job in waiting)
            for known in every.split():
                del missed[known]
        for job in waiting:
            if missed[job.external_jobid] < LOOKS:
                yield job
            else:
                executor.logger.warning(f"SLURM has lost a job: squeue does not know of {job.external_jobid} any more")
                executor.report_job_error(job)

    executor.check_active_jobs = check_active_jobs


def announce(file: Path) -> None:
    """Hold a lock on a file for as long as this process lives."""
    fcntl.flock(os.open(file, os.O_CREAT | os.O_RDWR), fcntl.LOCK_EX)


def cancel_dead_runs(folder: Path) -> None:
    """Cancel what runs that were killed left in the queue: a job that starts late would write where this run reads."""
    for file in sorted(folder.iterdir()):
        # For writing: NFS gives no exclusive lock otherwise.
        with open(file, "a") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # that run is alive
            if queued(file.name):
                print(f"cancelling the jobs of a run that was killed ({file.name})", file=sys.stderr)
                cancel(file.name)
            file.unlink(missing_ok=True)


def queued(name: str) -> bool:
    """Whether jobs of this name wait or run."""
    return bool(ask("squeue", "--noheader", "--format=%i", f"--name={name}").strip())


def cancel(name: str) -> None:
    """Cancel the jobs of this name and wait until they have ended.

    Raises:
        ValueError: they do not end.
    """
    deadline = time.monotonic() + SECONDS_TO_END
    while queued(name):
        if time.monotonic() > deadline:
            raise ValueError(
                f"jobs of this folder do not end; see `squeue --name={name}` and ask whoever runs the cluster"
            )
        ask("scancel", f"--name={name}", f"--user={getpass.getuser()}")
        time.sleep(1)
