"""The check before anything is queued on SLURM: what sinfo prints, which wishes no node can grant, dead runs."""

import asyncio
import fcntl
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from steps.graph import cluster
from steps.graph.cluster import Nodes, Wish

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())

# As SLURM 22.05 and 24.05 print it, of four kinds of node.
SINFO = """\
cpu*|up|48|192000|(null)|2-00:00:00|skylake,avx512
gpu|up|64|512000|gpu:a100:4(S:0-1)|1-00:00:00|a100,nvlink
gpu|up|32|256000|gpu:v100:2,shard:8|1-00:00:00|v100
old|down|16|64000|gpu:2|infinite|(null)
debug|up|8+|32000+|gpu:1g.5gb:7|30:00|(null)
"""


def test_sinfo_is_read():
    nodes = cluster.parse_sinfo(SINFO)
    assert nodes[0] == Nodes("cpu", True, True, 48, 192000, 0, 2880, frozenset({"skylake", "avx512"}))
    assert [n.gpus for n in nodes] == [0, 4, 2, 2, 7]
    assert [n.limit for n in nodes] == [2880, 1440, 1440, None, 30]
    assert [n.default for n in nodes] == [True, False, False, False, False]
    assert not nodes[3].up and nodes[3].features == frozenset()
    assert (nodes[4].cpus, nodes[4].memory) == (8, 32000)


@pytest.mark.parametrize(
    "text, expected",
    [("infinite", None), ("30:00", 30), ("1:00:00", 60), ("2-12:30:00", 3630), ("5:30", 5), ("7-0:0:0", 10080)],
)  # fmt: skip
def test_time_limits(text, expected):
    assert cluster.minutes(text) == expected


def asked(**change) -> Wish:
    plain = {"rule": "sft", "attempt": 1, "partition": "gpu", "cpus": 8, "memory": 32000, "gpus": 1, "minutes": 600}
    plain["processes"] = None
    return Wish(**{**plain, "constraint": None, "account": None, **change})


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gpus": 4, "memory": 512000, "cpus": 64, "minutes": 1440},
        {"partition": None, "gpus": 0},
        {"partition": "cpu,gpu"},
        {"constraint": "v100", "gpus": 2},
        # More than one feature: SLURM's to judge.
        {"constraint": "a100&nvlink"},
        {"memory": None, "minutes": None},
        {"gpus": 4, "processes": 4},
        {"gpus": 0, "processes": 4},
    ],
)
def test_what_a_node_can_grant_passes(change):
    cluster.check([asked(**change)], cluster.parse_sinfo(SINFO))


@pytest.mark.parametrize(
    "change, said",
    [
        (
            {"partition": "gpux"},
            "slurm_partition: there is no partition gpux; the profile may name cpu, gpu, old, debug",
        ),
        ({"partition": "gpu,gpux"}, "there is no partition gpux"),
        ({"partition": "old"}, "partition old is down"),
        ({"partition": "cpu"}, "1 GPUs on one node, but the largest of partition cpu has 0"),
        ({"partition": None}, "the largest of partition cpu has 0"),
        ({"gpus": 5}, "5 GPUs on one node, but the largest of partition gpu has 4; lower `set-resources: sft: gpu`"),
        ({"memory": 600000}, "600,000 MB on one node, but the largest of partition gpu has 512,000"),
        ({"attempt": 4, "memory": 600000}, "rule sft, attempt 4: 600,000 MB"),
        ({"cpus": 65}, "lower `set-threads: sft`"),
        ({"minutes": 1441}, "runtime: 1441 minutes, but partition gpu ends jobs after 1440"),
        ({"constraint": "h100"}, "no node of partition gpu has the feature h100 (there is: a100, nvlink, v100)"),
        ({"gpus": 1, "processes": 4}, "4 processes and 1 GPUs: each process takes one; set `set-resources: sft: gpu`"),
        ({"constraint": "v100", "gpus": 3}, "3 GPUs on one node, but the largest of partition gpu has 2"),
    ],
)
def test_what_no_node_can_grant_is_one_line_with_the_fix(change, said):
    with pytest.raises(ValueError) as caught:
        cluster.check([asked(**change)], cluster.parse_sinfo(SINFO))
    assert said in str(caught.value) and "\n" not in str(caught.value) and str(caught.value).startswith("rule sft")


def test_what_only_different_nodes_have_is_not_granted():
    nodes = cluster.parse_sinfo("gpu|up|8|512000|(null)|infinite|(null)\ngpu|up|8|64000|gpu:4|infinite|(null)\n")
    with pytest.raises(ValueError, match="no single node of partition gpu has 1 GPUs, 128,000 MB and 8 cores together"):
        cluster.check([asked(memory=128000)], nodes)


def test_a_cluster_without_a_default_partition():
    with pytest.raises(ValueError, match="no default; set one of gpu in the profile"):
        cluster.check([asked(partition=None)], cluster.parse_sinfo("gpu|up|8|512000|gpu:1|infinite|(null)\n"))


class Job:
    """As much of Snakemake's job as the check looks at; memory doubles with the attempt."""

    def __init__(self, rule: str, is_local: bool = False, **resources):
        self.rule, self.is_local, self.attempt = SimpleNamespace(name=rule), is_local, 1
        self.given = resources

    @property
    def resources(self) -> dict:
        return {"_cores": 2, "tmpdir": "<TBD>", **self.given, "mem_mb": 1000 * self.attempt}


def test_the_first_and_the_last_attempt_of_each_kind_of_job_are_looked_at():
    jobs = [Job("sft", gpu=1, runtime=60), Job("sft", gpu=1, runtime=60), Job("report", is_local=True)]
    jobs.append(Job("merge", runtime="<TBD>", slurm_account="", constraint=7))
    found = cluster.wishes(jobs, retries=3)
    assert [(w.rule, w.attempt, w.memory, w.gpus) for w in found] == [
        ("sft", 1, 1000, 1), ("sft", 4, 4000, 1), ("merge", 1, 1000, 0), ("merge", 4, 4000, 0),
    ]  # fmt: skip
    assert (found[2].minutes, found[2].account, found[2].constraint, found[0].cpus) == (None, None, "7", 2)
    assert all(job.attempt == 1 for job in jobs)


CONFIG = (
    "Configuration data as of …\nAccountingStorageType   = accounting_storage/none\nMinJobAge               = 300 sec\n"
)


def test_settings_that_would_wait_for_ever_without_accounting():
    config = cluster.parse_config(CONFIG)
    cluster.check_accounting([asked()], config, "squeue", 100)
    with pytest.raises(ValueError, match="sacct knows of no job here.*set squeue"):
        cluster.check_accounting([], config, "sacct", 20)
    with pytest.raises(ValueError, match="101, but this cluster forgets ended jobs after 300 s .MinJobAge.; set 100"):
        cluster.check_accounting([], config, "squeue", 101)
    with pytest.raises(ValueError, match="slurm_account: lab, but this cluster keeps no accounts"):
        cluster.check_accounting([asked(account="lab")], config, "squeue", 20)
    kept = {**config, "AccountingStorageType": "accounting_storage/slurmdbd"}
    cluster.check_accounting([asked(account="lab")], kept, "sacct", 101)


def workflow(executor: str, retries: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        executor_plugin=SimpleNamespace(name=executor),
        dag=SimpleNamespace(needrun_jobs=lambda: [Job("sft")]),
        execution_settings=SimpleNamespace(retries=retries),
    )


def test_a_run_on_one_machine_asks_slurm_nothing(monkeypatch):
    monkeypatch.setattr(cluster, "ask", lambda *command: pytest.fail(f"asked {command}"))
    before = signal.getsignal(signal.SIGTERM)
    cluster.begin(workflow("local"))
    cluster.end(workflow("local"))
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_machine_without_slurm_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cluster.begin(workflow("slurm"))
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("temper: error: there is no SLURM on this machine (no sinfo, sbatch,")


def test_a_command_that_fails_says_so():
    with pytest.raises(ValueError, match=r"^ls failed \(.*nonesuch.*\); is this a login node"):
        cluster.ask("ls", "/nonesuch")


def test_only_the_jobs_of_dead_runs_are_cancelled(monkeypatch, tmp_path, capsys):
    """A living run holds a lock; `kill -9` lets go of it."""
    hold = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pathlib import Path; from steps.graph import cluster; "
    for name in ("living", "dead"):
        code = f"{hold}cluster.announce(Path({str(tmp_path / name)!r})); print(flush=True); input()"
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process.stdout.readline()
        if name == "dead":
            process.kill()
            process.wait()
        else:
            living = process
    jobs = {"living": 1, "dead": 1}
    monkeypatch.setattr(cluster, "queued", lambda name: bool(jobs[name]))
    monkeypatch.setattr(cluster, "ask", lambda *command: jobs.update({command[1].removeprefix("--name="): 0}))
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    try:
        cluster.cancel_dead_runs(tmp_path)
        assert jobs == {"living": 1, "dead": 0}
        assert [file.name for file in tmp_path.iterdir()] == ["living"]
        assert capsys.readouterr().err == "cancelling the jobs of a run that was killed (dead)\n"
        with open(tmp_path / "living") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        living.kill()
        living.wait()


def test_jobs_that_do_not_end_are_an_error(monkeypatch):
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(cluster, "queued", lambda name: True)
    monkeypatch.setattr(cluster, "ask", lambda *command: "")
    monkeypatch.setattr(cluster.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: None)
    with pytest.raises(ValueError, match="do not end; see `squeue --name=x`"):
        cluster.cancel("x")


class Executor:
    """What Snakemake's plugin does with jobs of which the queue says nothing: it waits for them."""

    run_uuid = "run"

    def __init__(self):
        self.failed: list[str] = []
        self.said: list[str] = []
        self.logger = SimpleNamespace(warning=self.said.append)
        self.ended: set[str] = set()

    async def check_active_jobs(self, active):
        for job in active:
            if job.external_jobid not in self.ended:
                yield job

    def report_job_error(self, job):
        self.failed.append(job.external_jobid)


def test_a_job_that_slurm_forgets_is_given_up_after_three_looks(monkeypatch):
    """Not one that is missing for a moment, one that has ended, or any while the controller does not answer."""
    executor = Executor()
    looks = iter(["1 2 3_0", "2", "1 3_0", None, "1 3_0", "1", "1 3_0", "1"])

    def squeue(*command: str) -> str:
        assert command[0] == "squeue" and "--name=run" in command
        if (answer := next(looks)) is None:
            raise ValueError("squeue failed")
        return answer.replace(" ", "\n")

    monkeypatch.setattr(cluster, "ask", squeue)
    cluster.report_lost_jobs(executor)

    async def left(ids: list[str]) -> list[str]:
        active = [SimpleNamespace(external_jobid=name) for name in ids]
        return [job.external_jobid async for job in executor.check_active_jobs(active)]

    ids, history = ["1", "2", "3_0", "4"], []
    for number in range(8):
        executor.ended = {"4"} if number == 1 else set()
        ids = asyncio.run(left(ids))
        history.append(" ".join(ids))
    # Job 2 is unknown in the looks 3, 5, 6 (the fourth got no answer); 3_0 never three times in a row.
    assert history == ["1 2 3_0 4", *["1 2 3_0"] * 4, *["1 3_0"] * 3]
    assert executor.failed == ["2"]
    assert executor.said == ["SLURM has lost a job: squeue does not know of 2 any more"]


# --- the shipped profile ----------------------------------------------------------------------------


def rule_texts() -> dict[str, str]:
    text = "\n".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    parts = re.split(r"^ *rule (\w+):", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_profile_names_rules_that_are_there():
    rules = rule_texts().keys()
    assert PROFILE["set-resources"].keys() <= rules
    assert PROFILE["groups"].keys() <= rules
    assert set(PROFILE["slurm-array-jobs"].split(",")) <= rules


def test_the_profile_asks_a_gpu_for_every_rule_that_uses_one():
    """A login node has no nvidia-smi: what a rule itself asks for is 0 there."""
    using = {name for name, text in rule_texts().items() if re.search("gpu=GPU|gpu=gpus", text)}
    assert using == {name for name, resources in PROFILE["set-resources"].items() if "gpu" in resources}


def test_no_rule_has_retries_of_its_own():
    """Snakemake inside a job would repeat them there, with the first attempt's memory."""
    assert not [name for name, text in rule_texts().items() if "retries:" in text]


def test_an_array_fits_an_argument():
    """3 KiB for each job, as measured with the shipped profile, and as much again, in the 128 KiB of one argument."""
    assert PROFILE["slurm-array-limit"] * 3 * 1024 <= 128 * 1024 * 0.6
