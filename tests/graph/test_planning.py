"""What a dry run says: parts, recipes, time and disk; and when Snakemake's own words stand."""

import io
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from steps.core.promises import MANIFEST
from steps.graph import planning, recipes, workload
from steps.graph.graph import Graph
from steps.preflight.machine import disk_of, stored_shape
from tests import small
from tests.workloads import ROOT


class Job:
    def __init__(self, rule: str, folder: str, seconds: float | None = None, **wildcards: str):
        self.rule, self.output = SimpleNamespace(name=rule), [f"{folder}/{MANIFEST}"] if folder else []
        self.wildcards_dict = {"workload": "small"} | wildcards
        self.log = [f"logs/{rule}.log"] if folder else []
        self.benchmark = f"benchmarks/{rule}_{'_'.join(wildcards.values())}.tsv"
        if seconds is not None:
            Path("benchmarks").mkdir(exist_ok=True)
            Path(self.benchmark).write_text(f"s\th:m:s\n{seconds}\t-\n")

    def __str__(self) -> str:
        return f"{self.rule.name} {self.wildcards_dict}"


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(small.write(tmp_path))
    for name in ("tasks", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    return Graph(recipes.complete(workload.load(ROOT, [Path(small.OVERLAY)])[0]))


def workflow_of(jobs: list[Job]) -> SimpleNamespace:
    dag = SimpleNamespace(
        toposorted=lambda: [[job] for job in jobs],
        needrun=lambda job: True,
        needrun_jobs=lambda: jobs,
        jobid=lambda job: jobs.index(job),
        targetjobs=[],
    )
    return SimpleNamespace(dag=dag, configfiles=[Path("params.yaml"), Path("small.yaml").absolute()])


def jobs_of(seconds: float | None = None) -> list[Job]:
    return [
        Job("ingest", "results/small/data/problems/ingest", seconds, dataset="problems"),
        Job("split", "results/small/data/problems/split", seconds, dataset="problems"),
        Job("check_model", "results/small/check_model/base", seconds, model="base"),
        Job("evaluate", "results/small/evaluation/base", seconds, name="base"),
        Job("sft", "results/small/foundation/sft", seconds, study="foundation", node="sft"),
        Job("sft", "results/small/foundation/lora", seconds, study="foundation", node="lora"),
        Job("merge", "results/small/foundation/both", None, study="foundation", node="both"),
        Job("evaluate", "results/small/evaluation/sft", seconds, name="sft"),
        Job("evaluate", "results/small/evaluation/lora", seconds, name="lora"),
        Job("report", "reports/small", seconds),
        Job("all", ""),
    ]


def test_the_plan_goes_by_studies_and_says_what_it_knows(graph):
    head, *parts, time, disk = planning.lines(workflow_of(jobs_of(90.0)), graph)
    assert head == "small (small.yaml): 10 jobs, none of them made before"
    assert [re.split("  +", part.strip()) for part in parts] == [
        ["rows", "2 jobs", "about 3:00", "ingest, split"],
        ["models", "2 jobs", "about 3:00", "check_model, evaluate"],
        ["foundation", "5 jobs", "about 6:00", "sft, lora, both; 2 evaluate"],
        ["report", "1 job", "about 1:30", "report"],
    ]
    assert time.startswith("time: about 13:30 one after the other, as long as such jobs took before; 1 job of unknown")
    shape = stored_shape(Path("data/fable/base"))
    wanted = [disk_of(graph.nodes[name].stage, graph.nodes[name].settings, shape) for name in ("sft", "lora", "both")]
    stored = planning.size(sum(need["checkpoint"] for need in wanted))
    assert disk.startswith(f"disk: {stored} for checkpoints, up to {planning.size(wanted[0]['states'])} for the states")


def test_what_nobody_knows_is_said_to_be_unknown(graph):
    graph.params["models"]["base"] = {"path": "owner/model", "revision": "c" * 40}
    *_, time, disk = planning.lines(workflow_of(jobs_of()), graph)
    assert time == "time: not known, for nothing like it ran here; the target preflight measures the trainings first"
    assert disk.startswith("disk: not known, 3 checkpoints of models that are not here yet left out; ")


def test_preflight_tells_the_time_of_a_training_that_never_ran(graph):
    folder = Path("results/small/preflight", graph.rehearsal("sft"))
    folder.mkdir(parents=True)
    (folder / "preflight.json").write_text(json.dumps({"hours": 0.5}))
    assert "time: about 30:00 one" in planning.lines(workflow_of(jobs_of()), graph)[-2]


def test_what_is_made_again_is_counted_and_its_disk_is_there_already(graph):
    for job in jobs_of()[:5]:
        (folder := Path(job.output[0]).parent).mkdir(parents=True)
        (folder / MANIFEST).write_text("{}")
    head, *_, disk = planning.lines(workflow_of(jobs_of()), graph)
    assert head.endswith("10 jobs, 5 of them again")
    lora = disk_of("sft", graph.nodes["lora"].settings, stored_shape(Path("data/fable/base")))
    assert f"up to {planning.size(lora['states'])} for the states" in disk


def test_a_disk_that_is_too_small_is_said(graph, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2_000_000))
    assert planning.lines(workflow_of(jobs_of()), graph)[-1].endswith(
        "; 2 MB are free, TOO LITTLE: make room, or put results/ and work/ on a larger disk"
    )


def test_of_snakemakes_words_stay_those_that_say_more(graph):
    plain = logging.StreamHandler(io.StringIO())
    handler = planning.Plan(plain, workflow_of(jobs_of()), graph)
    for message, event in (
        ("Building DAG of jobs...", None),
        ("both: lora is another; then report: 1 job", None),
        ("Job stats: …", LogEvent.RUN_INFO),
        ("rule sft: …", LogEvent.JOB_INFO),
        ("Job stats: …", LogEvent.RUN_INFO),
        ("Reasons:\n    not made yet", None),
        ("This was a dry-run (flag -n).", None),
    ):
        handler.emit(logging.makeLogRecord({"msg": message, "event": event, "levelno": logging.INFO}))
    said = plain.stream.getvalue().splitlines()
    assert said == ["both: lora is another; then report: 1 job", *planning.lines(workflow_of(jobs_of()), graph)]
    handler.emit(logging.makeLogRecord({"msg": "Nothing to be done (all …).", "levelno": logging.INFO}))
    assert plain.stream.getvalue().splitlines()[len(said) :] == ["Nothing to be done: what was asked for stands"]


@pytest.mark.parametrize("asked", [{}, {"quiet": {"rules"}}, {"printshellcmds": True}, {"verbose": True}])
def test_who_asks_for_snakemakes_list_gets_it(asked):
    usual = {"dryrun": True, "quiet": set(), "printshellcmds": False, "verbose": False, "debug_dag": False}
    assert planning.is_plain(SimpleNamespace(**usual | asked)) == (not asked)
    assert not planning.is_plain(SimpleNamespace(**usual | {"dryrun": False}))
