"""The page of a run: what it shows, that it ends, and that what fails in it ends nothing else."""

import io
import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.common import LogEvent

from steps.core.progress import Progress
from steps.core.promises import MANIFEST
from steps.graph import display, live, recipes, workload
from steps.graph.graph import Graph
from steps.settings.params import ASIDE, Params
from tests import small
from tests.graph.test_planning import Job, workflow_of
from tests.workloads import ROOT

# One that has ended.
PROCESS = SimpleNamespace(poll=int, terminate=lambda: None)


@pytest.fixture
def graph(tmp_path, monkeypatch):
    monkeypatch.chdir(small.write(tmp_path))
    for name in ("tasks", "data"):
        (tmp_path / name).symlink_to(ROOT / name)
    overlay = {"studies": {"later": {"recipes": {"last": small.SMALL["studies"]["foundation"]["recipes"]["sft"]}}}}
    small.write_settings(tmp_path, overlay)
    return Graph(recipes.complete(workload.load(ROOT, [Path(small.OVERLAY)])[0]))


@pytest.fixture
def run(graph, monkeypatch):
    """A run of two studies whose first is over but for its last measurement; its display and page."""
    jobs = [
        Job("sft", "results/small/foundation/sft", study="foundation", node="sft"),
        Job("evaluate", "results/small/evaluation/sft", name="sft"),
        Job("evaluate", "results/small/evaluation/lora", name="lora"),
        Job("sft", "results/small/later/last", study="later", node="last"),
    ]
    started = []
    monkeypatch.setattr("subprocess.Popen", lambda *args, **_: started.append(args[0]) or PROCESS)
    monkeypatch.setattr(live, "SECONDS", 0.01)
    shown = display.Display(
        logging.StreamHandler(io.StringIO()), Console(file=io.StringIO(), width=200), workflow_of(jobs)
    )
    shown.page = live.Page(shown, workflow_of(jobs), graph)
    return SimpleNamespace(shown=shown, page=shown.page, jobs=jobs, started=started)


def begin(run, number: int, log: Path) -> None:
    job = run.jobs[number]
    record = {"rule_name": job.rule.name, "wildcards": job.wildcards_dict, "jobid": number, "log": [str(log)]}
    run.shown.emit(logging.makeLogRecord({"event": LogEvent.JOB_INFO, "output": job.output} | record))


def end(run, number: int) -> None:
    run.shown.emit(logging.makeLogRecord({"event": LogEvent.JOB_FINISHED, "job_id": number}))


def scores(name: str, target: float) -> None:
    folder = Path("results/small/evaluation", name)
    folder.mkdir(parents=True)
    tasks = {"exam": {"axis": "target", "value": target}, "quiz": {"axis": "general", "value": 0.25}}
    (folder / "results.json").write_text(json.dumps({"tasks": tasks}))
    (folder / MANIFEST).write_text("{}")


def seen(run, words: str) -> str:
    """The page, once it has some words."""
    for _ in range(500):
        text = run.page.file.read_text() if run.page.file.is_file() else ""
        if re.search(words, text):
            return text
        time.sleep(0.01)
    raise AssertionError(f"no {words!r} on the page:\n{text}")


def test_a_run_is_followed_from_its_first_job_to_its_end(run, capsys):
    (log := Path("sft.log")).write_text("noise\nsft: step 1/4  loss 2.5  1 step/s\nsft: step 3/4  loss 0.5  1 step/s\n")
    run.page.partial.mkdir(parents=True)
    (run.page.partial / "index.html").write_text("of an earlier run")
    # Of an earlier run too: this one makes it again, so that it does not stand yet.
    scores("lora", 0.125)
    scores("base", 0.5)
    run.shown.emit(logging.makeLogRecord({"event": LogEvent.RUN_INFO, "stats": {"total": 4}}))
    begin(run, 0, log)
    text = seen(run, "<strong>sft foundation sft")
    assert 'http-equiv="refresh"' in text and "0 of 4 jobs done" in text
    assert "sft: step 3/4  loss 0.5" in text and "2.5 → 0.5" in text and "<polyline points=" in text
    assert "<td>base</td>" in text and "50.0" in text and "12.5" not in text and "The report" not in text
    end(run, 0)
    for number, name in ((1, "sft"), (2, "lora")):
        begin(run, number, log)
        if name == "sft":
            scores(name, 0.75)
        end(run, number)
    text = seen(run, '<td>foundation</td><td class="number">3 of 3')
    assert "75.0" in text and "12.5" in text
    begin(run, 3, log)
    # The first study is done and another runs: what there is can be looked at.
    run.page.partial.mkdir(parents=True)
    (run.page.partial / "index.html").write_text("")
    assert "live.report/index.html" in seen(run, "The report so far</a>, with older results")
    (command,) = run.started
    assert command[:3] == ["nice", "-n", "19"] and command[-1] == "logs/small/live.report"
    end(run, 3)
    Path("reports/small").mkdir(parents=True)
    Path("reports/small/index.html").write_text("")
    run.shown.close()
    text = run.page.file.read_text()
    assert "refresh" not in text and "4 of 4 jobs done, ended" in text
    assert '<a href="../../reports/small/index.html">The report</a>' in text
    assert capsys.readouterr().err == ""


def test_a_page_that_cannot_be_written_ends_alone(run, capsys):
    Path("logs").write_text("")
    run.shown.emit(logging.makeLogRecord({"event": LogEvent.RUN_INFO, "stats": {"total": 4}}))
    run.page.thread.join(5)
    run.page.stop()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("temper: the live page ends, the run goes on: ")
    end(run, 0)
    assert run.shown.done == 0
    begin(run, 0, Path("sft.log"))
    end(run, 0)
    assert run.shown.done == 1


def test_what_a_page_shows_is_escaped(run):
    run.shown.lines.append("<script>alert(1)</script>\x1b[31m")
    text = live.page(run.page.facts())
    assert "<script>" not in text and "&lt;script&gt;" in text and "\x1b" not in text


def test_a_curve_is_of_the_last_values_of_each_step(tmp_path, capsys):
    progress = Progress("rl", 1500, "step", every=0)
    for step, value in ((1, 4.0), (2, 3.0), (1000, 2.0)):
        progress.update(step, mean_reward=value)
    log = tmp_path / "rl.log"
    log.write_text(capsys.readouterr().out + "rl: step 1,000/1,500  mean_reward 1  2 step/s\n")
    drawn = live.curve([str(log)])
    assert drawn["name"] == "mean reward" and (drawn["first"], drawn["last"]) == (4.0, 1.0)
    points = [tuple(map(float, point.split(","))) for point in drawn["points"].split()]
    assert points == [(0.2, 0.0), (0.4, 30.0), (213.3, 90.0)]


@pytest.mark.parametrize(
    "text", ["", "sft: step 1/4  loss 2.5  1 step/s\n", "nothing\n", "merge: tensors 3/9  4 tensors/s\n" * 3]
)
def test_what_tells_no_course_has_no_curve(tmp_path, text):
    (tmp_path / "x.log").write_text(text)
    assert live.curve([str(tmp_path / "x.log")]) is None


def test_a_long_curve_keeps_its_end(tmp_path):
    (tmp_path / "x.log").write_text("".join(f"sft: step {i}  loss {i}  1 step/s\n" for i in range(1, 1002)))
    drawn = live.curve([str(tmp_path / "x.log")])
    assert drawn["last"] == 1001 and len(drawn["points"].split()) <= live.MOST_POINTS


def test_no_result_depends_on_it(graph):
    before = graph.describe()
    graph.params["live"] = True
    assert graph.describe() == before and "live" in ASIDE and "live" in Params.model_fields
