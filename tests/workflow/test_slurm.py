"""The workflow on a real SLURM of one node, by the shipped profile: the same bytes as without, whatever happens."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import yaml

from steps.graph import cluster
from tests.workflow.test_workflow import NOTHING, copy_of_the_repository, environment, hashes, run
from tests.workloads import ROOT, write_workload

OVERLAY = yaml.safe_load((ROOT / "tests/slurm/params.yaml").read_text())
SNAKEMAKE = (sys.executable, "-m", "tests.slurm.quick", "--workflow-profile", "slurm")
# A fork is no process of its job: SLURM neither kills it nor counts its memory.
REAL = "steps.training.launch steps.data.bucket"
PATIENCE = 600  # seconds for what takes a few on a quiet machine
TRAINED = "results/fable/foundation/sft/manifest.json"


@pytest.fixture(scope="module")
def slurm():
    """The folder of a SLURM of one node, ended after the tests."""
    # Debian's are in /usr/sbin, which not everybody's PATH has.
    path = os.environ["PATH"] + os.pathsep + "/usr/sbin"
    if shutil.which("slurmctld", path=path) is None or shutil.which("munged", path=path) is None:
        pytest.skip("there is no SLURM here: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("only root can start a SLURM")
    folder = tempfile.mkdtemp(prefix="temper-slurm-")
    started = subprocess.run([ROOT / "tests/slurm/up.sh", folder], capture_output=True, text=True)
    if started.returncode == 3:
        pytest.skip(started.stdout.strip())
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield Path(folder)
    finally:
        subprocess.run([ROOT / "tests/slurm/down.sh", folder])
        shutil.rmtree(folder, ignore_errors=True)


def sample(folder: Path) -> Path:
    """A copy of the repository with a few rules to run and two lines of the profile changed: `bucket` has too little
    memory in its first attempt, and a training is ended once more than the profile lets it start again."""
    copy_of_the_repository(folder)
    write_workload(folder, OVERLAY)
    file = folder / "profiles/slurm/config.yaml"
    profile = yaml.safe_load(file.read_text())
    asked = profile["set-resources"]
    asked["bucket"] = {**asked["bucket"], "mem_mb": "500 if attempt == 1 else 8000"}
    profile["restart-times"] += 1
    file.write_text(yaml.safe_dump(profile))
    return folder


# --- what a test does to a run ----------------------------------------------------------------------


def queued(folder: Path) -> list[str]:
    """The numbers of a folder's jobs that wait or run."""
    done = subprocess.run(["squeue", "--noheader", "--format=%i %Z"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.split()[1] == str(folder)]


def processes(folder: Path) -> dict[int, list[bytes]]:
    """The words of every process that works in a folder."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            if os.readlink(file.parent / "cwd") == str(folder):
                found[int(file.parent.name)] = file.read_bytes().split(b"\0")
    return found


def wait_for(what: str, found):
    """The first true answer of a function, asked a hundred times a second."""
    deadline = time.monotonic() + PATIENCE
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.01)
    return answer


def forget(slurm: Path) -> None:
    """The controller starts without its state, as after a disk that was lost. Its numbers go on from elsewhere: a job
    that has the number of another would not be told from it."""
    file = slurm / "slurmctld.pid"
    pid = int(file.read_text())
    os.kill(pid, signal.SIGTERM)
    wait_for("the end of the controller", lambda: not Path(f"/proc/{pid}").exists())
    with open("/etc/slurm/slurm.conf", "a") as config:
        config.write("FirstJobId=1000\n")
    subprocess.run(["slurmctld", "-c"], check=True, env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin"})


class Run:
    """Snakemake in the background, and the training that it has SLURM run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = folder / "main.log"
        self.states: dict[str, int] = {}  # saved states, each with the inode of its folder
        self.trainings: set[int] = set()
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        with open(self.log, "a") as log:
            self.process = subprocess.Popen(
                SNAKEMAKE, cwd=self.folder, env=environment(self.folder, "steps") | {"TEMPER_REAL": REAL}, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        return self.process.wait(timeout=PATIENCE)

    def new_training(self) -> int | None:
        """The process that trains, if it is another than before."""
        assert self.process.poll() is None, self.said()[-3000:]
        for pid, words in processes(self.folder).items():
            if words[1:3] == [b"-m", b"steps.recipes.sft"] and pid not in self.trainings:
                return pid
        return None

    def new_state(self) -> bool:
        """Whether a state has been saved that was not there."""
        found = {path.name: path.stat().st_ino for path in self.folder.glob("work/**/checkpoint-*")}
        for name, inode in found.items():
            assert self.states.get(name, inode) == inode, f"{name} was saved twice: the training began anew"
        new = found.keys() - self.states.keys()
        self.states |= found
        return bool(new)

    def stopped_training(self) -> tuple[int, str]:
        """(process, SLURM's number of its job) of the training, stopped after it has saved another state."""
        pid = wait_for("a training", self.new_training)
        self.trainings.add(pid)
        self.new_state()  # what earlier ones have saved at their end
        wait_for("a saved state", self.new_state)
        os.kill(pid, signal.SIGSTOP)
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        (job,) = [value[len(b"SLURM_JOB_ID=") :].decode() for value in variables if value.startswith(b"SLURM_JOB_ID=")]
        return pid, job


def was_sent(pid: int, number: int) -> bool:
    """Whether a stopped process has been sent a signal, or was made to go on and has ended."""
    try:
        waiting = re.search(r"ShdPnd:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())[1]
    except OSError:
        return True
    return bool(int(waiting, 16) >> (number - 1) & 1)


# --- the tests --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def story(slurm, warmed, tmp_path_factory):
    """One run of the sample with everything done to it that a cluster may do; what was seen, and the two folders."""
    local = sample(tmp_path_factory.mktemp("local"))
    folder = sample(tmp_path_factory.mktemp("slurm"))
    alone = subprocess.Popen(
        ["snakemake", "--cores", "1"], cwd=local, env=environment(local, "steps", "programs"),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    seen: dict[str, object] = {}
    main = Run(folder)
    try:
        main.start()
        wait_for("a job", lambda: queued(folder))
        os.killpg(main.process.pid, signal.SIGINT)
        seen["code after Ctrl-C"], seen["left after Ctrl-C"] = main.end(), [*queued(folder), *processes(folder)]

        main.start()
        wait_for("a job", lambda: queued(folder))
        main.process.terminate()
        seen["code after SIGTERM"], seen["left after SIGTERM"] = main.end(), [*queued(folder), *processes(folder)]

        main.start()
        _, orphan = main.stopped_training()
        main.process.kill()
        main.end()
        seen["orphan"] = orphan in queued(folder)

        main.start()
        pid, job = main.stopped_training()
        seen["orphan after the start"] = orphan in queued(folder) or job == orphan
        subprocess.run(["scancel", job], check=True)
        seen["cancelled"] = job

        pid, job = main.stopped_training()
        os.kill(pid, signal.SIGKILL)
        seen["killed"] = job

        # Its node ends what the controller does not know of.
        pid, job = main.stopped_training()
        forget(slurm)
        seen["forgotten"] = job
        wait_for("the end of a forgotten job", lambda: not Path(f"/proc/{pid}").exists())

        pid, job = main.stopped_training()
        urgent = ["sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true"]
        subprocess.run(urgent, check=True)
        seen["preempted"] = job
        wait_for("the preemption", lambda: not Path(f"/proc/{pid}").exists())

        # Two minutes before its end a job is told. SLURM looks at the clock every 30 seconds.
        pid, job = main.stopped_training()
        took = subprocess.run(["squeue", "--noheader", f"--jobs={job}", "--format=%M"], capture_output=True, text=True)
        limit = cluster.minutes(took.stdout.strip()) + 2
        subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={limit}"], check=True)
        wait_for("the signal before the end of its time", lambda: was_sent(pid, signal.SIGTERM))
        # As long as a large state may take to save: what else has been told must wait for it.
        time.sleep(5)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
        log = folder / "logs/fable/foundation/sft.log"
        seen["told"] = wait_for("the last words", lambda: re.search("told to end.*", log.read_text()))[0]
        seen["out of time"] = job

        seen["code"] = main.end()
        seen["left at the end"] = [*queued(folder), *processes(folder)]
    finally:
        main.process.kill()
        seen["output"] = main.said()
        print(seen["output"][-6000:])
    output, _ = alone.communicate()
    assert alone.returncode == 0, output[-6000:]
    return seen, local, folder


def test_the_run_on_slurm_ends_with_the_same_bytes_as_the_run_without(story):
    seen, local, folder = story
    assert seen["code"] == 0 and seen["left at the end"] == []
    ours, theirs = hashes(folder), hashes(local)
    assert any(name.startswith("reports/fable/tables/") for name in ours)
    assert ours == theirs
    assert NOTHING in run(folder, "snakemake", "--cores", "1")


@pytest.mark.parametrize("what", ["Ctrl-C", "SIGTERM"])
def test_an_ended_run_leaves_no_job(story, what):
    seen, _, _ = story
    assert seen[f"code after {what}"] not in (0, None)
    assert seen[f"left after {what}"] == []


def test_the_jobs_of_a_killed_run_are_cancelled_by_the_next(story):
    seen, _, folder = story
    assert seen["orphan"] and not seen["orphan after the start"]
    assert "cancelling the jobs of a run that was killed" in seen["output"]
    assert not list((folder / ".snakemake/slurm_runs").iterdir())


def test_a_cancelled_a_killed_a_forgotten_and_a_timed_out_training_goes_on_in_another_job(story):
    """That each went on from a saved state, and none began anew, `new_state` has checked."""
    seen, _, folder = story
    jobs = {path.stem for path in (folder / "slurm_logs/rule_sft").rglob("*.log")}
    ended = [seen[what] for what in ("cancelled", "killed", "forgotten", "out of time")]
    assert len(set(ended)) == 4 and set(ended) < jobs
    assert seen["output"].count("sft foundation sft starts again") == 4
    assert f"SLURM has lost a job: squeue does not know of {seen['forgotten']} any more" in seen["output"]
    assert re.search(r"sft foundation sft was ended by SLURM: (JOB|STEP) [\d.]+ .*CANCELLED", seen["output"])
    assert re.match(r"told to end: the state after step \d+", seen["told"])


def test_a_preempted_training_goes_on_in_the_same_job(story):
    seen, _, _ = story
    assert seen["preempted"] == seen["out of time"]


def test_a_job_out_of_memory_gets_more(story):
    seen, _, folder = story
    assert "bucket problems starts again" in seen["output"]
    assert re.search(r"bucket problems was ended by SLURM: .*memory", seen["output"])


# --- mistakes, before anything is queued --------------------------------------------------------------


def test_a_partition_that_is_not_there_is_one_line_before_any_job(slurm, tmp_path):
    folder = sample(tmp_path)
    output = run(folder, *SNAKEMAKE, "--default-resources", "slurm_partition=gpux", "--", "foundation", expect=2)
    (line,) = [line for line in output.splitlines() if line.startswith("temper: error")]
    assert "there is no partition gpux" in line and "main, short, urgent" in line
    assert not (folder / "slurm_logs").exists()
