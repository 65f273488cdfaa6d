"""What a person sees of a run: the running step's last line, a failure's cause."""

import io
import logging
import os
from types import SimpleNamespace

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.common import LogEvent

from steps.core.progress import Progress
from steps.graph import display, ending


def test_the_last_progress_line_is_found_among_other_output(tmp_path, capsys):
    progress = Progress("sft", 300, "step", every=0)
    progress.update(120, loss=0.5217)
    line = capsys.readouterr().out.strip()
    log = tmp_path / "x.log"
    log.write_text(f"sft: step 1/300  loss 2  1 step/s\n{line}\nWarning: something else\n\rLoading: 100%|####| 3/3\r")
    assert display.last_progress([str(log)]) == line
    assert "120/300" in line and "loss 0.5217" in line and "left" in line


def test_no_progress_line_yet(tmp_path):
    assert display.last_progress([str(tmp_path / "none.log")]) is None


def test_a_users_mistake_shows_as_its_line(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("noise\ntemper: error: data.csv, row 3: no answer; add one\n")
    assert display.failure("ingest problems", [log], []) == [
        f"ingest problems failed: data.csv, row 3: no answer; add one (log: {log})"
    ]


def test_a_defect_shows_the_end_of_its_log_and_where_the_rest_is(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    shown = display.failure("sft foundation sft", [log], [])
    assert str(log) in shown[0]
    assert shown[1:] == [f"  line {i}" for i in range(80, 100)]


def test_only_the_end_of_a_large_log_is_read(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("x\n" * 5_000_000 + "the end\n")
    assert display.tail(log)[-1] == "the end" and len(display.tail(log)) < 10_000


def shown(*events) -> str:
    """What the display prints to a plain log for a series of Snakemake's records."""
    stream = io.StringIO()
    plain = logging.StreamHandler(io.StringIO())
    handler = display.Display(plain, Console(file=stream, width=200))
    for message, extra in events:
        record = logging.makeLogRecord({"msg": message, "levelno": logging.INFO, **extra})
        handler.emit(record)
    handler.close()
    return stream.getvalue()


def test_a_plain_log_gets_a_bar_per_finished_rule_and_the_cause_of_a_failure(tmp_path):
    log = tmp_path / "sft.log"
    log.write_text("temper: error: base/model.safetensors is damaged; delete it\n")
    job = {"event": LogEvent.JOB_INFO, "wildcards": {"workload": "w", "node": "sft"}, "rule_name": "sft"}
    failed = {"event": LogEvent.JOB_ERROR, "jobid": 2, "levelno": logging.ERROR}
    lines = shown(
        ("Job stats: …", {"event": LogEvent.RUN_INFO, "stats": {"total": 4}}),
        ("rule sft", job | {"jobid": 1, "log": ["a.log"]}),
        ("rule sft", job | {"jobid": 2, "log": [str(log)]}),
        ("Finished", {"event": LogEvent.JOB_FINISHED, "job_id": 1}),
        ("Error in rule", failed),
        ("Error in rule, once more at the end", failed),
        ("Select jobs to execute...", {}),
        ("Something unforeseen", {"levelno": logging.WARNING}),
    ).splitlines()
    assert lines[0] == "4 jobs to run"
    assert lines[1].startswith("[#####...............] 1/4  sft sft")
    assert lines[2] == f"sft sft failed: base/model.safetensors is damaged; delete it (log: {log})"
    assert lines[3:] == ["Something unforeseen"]


def test_a_job_that_starts_again_and_fails_again_is_shown_again(tmp_path):
    log = tmp_path / "sft.log"
    log.write_text("temper: error: no memory\n")
    job = {"event": LogEvent.JOB_INFO, "wildcards": {"node": "sft"}, "rule_name": "sft", "jobid": 5, "log": [str(log)]}
    failed = ("Error in rule", {"event": LogEvent.JOB_ERROR, "jobid": 5, "levelno": logging.ERROR})
    lines = shown(("", job), failed, ("Trying to restart job 5.", {}), ("", job), failed, failed).splitlines()
    line = f"sft sft failed: no memory (log: {log})"
    assert lines == [line, "sft sft starts again", line]


@pytest.mark.parametrize(
    "said, reason",
    [
        (
            "slurmstepd-n7: error: *** JOB 12 ON n7 CANCELLED AT 2026-11-21T14:00:00 DUE TO TIME LIMIT ***",
            "JOB 12 ON n7 CANCELLED AT 2026-11-21T14:00:00 DUE TO TIME LIMIT",
        ),
        (
            "slurmstepd: error: StepId=38.0 exceeded memory limit (532758528 > 524288000), being killed",
            "StepId=38.0 exceeded memory limit (532758528 > 524288000), being killed",
        ),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=38.0. Some of the step tasks have been OOM Killed.",
            "Detected 1 oom_kill event in StepId=38.0. Some of the step tasks have been OOM Killed.",
        ),
    ],
)
def test_why_slurm_ended_a_job_is_shown_unless_the_step_says_more(tmp_path, said, reason):
    rule_log, slurm_log = tmp_path / "sft.log", tmp_path / "12.log"
    rule_log.write_text("sft: step 1/300  loss 2  1 step/s\n")
    slurm_log.write_text(f"Building DAG of jobs...\n{said}\nsrun: Job step aborted: Waiting up to 32 seconds.\n")
    assert display.failure("sft sft", [rule_log], [slurm_log]) == [
        f"sft sft was ended by SLURM: {reason} (logs: {rule_log}, {slurm_log})"
    ]
    rule_log.write_text("temper: error: wrong\n")
    assert display.failure("sft sft", [rule_log], [slurm_log]) == [f"sft sft failed: wrong (log: {rule_log})"]


def test_of_rules_that_are_one_job_the_one_that_failed_is_shown(tmp_path):
    rules = ("ingest", "filter", "dedup")
    logs = {rule: tmp_path / f"{rule}.log" for rule in rules}
    # A failure of an earlier run, which this one has not come to.
    logs["dedup"].write_text("temper: error: old\n")
    os.utime(logs["dedup"], (0, 0))
    begun = [
        ("", {"event": LogEvent.JOB_INFO, "rule_name": rule, "jobid": i, "log": [str(logs[rule])]})
        for i, rule in enumerate(rules)
    ]
    stream = io.StringIO()
    handler = display.Display(logging.StreamHandler(io.StringIO()), Console(file=stream, width=200))
    for message, extra in begun:
        handler.emit(logging.makeLogRecord({"msg": message, "levelno": logging.INFO, **extra}))
    logs["ingest"].write_text("fine\n")
    logs["filter"].write_text("temper: error: no rows are left\n")
    infos = [{"jobid": i} for i in range(3)]
    group = {"event": LogEvent.GROUP_ERROR, "aux_logs": [], "job_error_info": infos, "levelno": logging.ERROR}
    members = [{"event": LogEvent.JOB_ERROR, "jobid": i, "levelno": logging.ERROR} for i in range(3)]
    for extra in [group, *members, group, *members]:
        handler.emit(logging.makeLogRecord({"msg": "Error in group", **extra}))
    assert stream.getvalue().splitlines() == [f"filter failed: no rows are left (log: {logs['filter']})"]


def finished(tmp_path, step: str, log_text: str, outputs: tuple[str, ...] = ()) -> list[str]:
    """What the display prints of a step that ends, without the clock."""
    log = tmp_path / f"{step}.log"
    begun = {"event": LogEvent.JOB_INFO, "rule_name": step, "jobid": 1, "log": [str(log)], "output": [*outputs]}
    log.write_text(log_text)
    lines = shown(("", begun), ("", {"event": LogEvent.JOB_FINISHED, "job_id": 1})).splitlines()
    return [line.replace("  0:00", "").removeprefix("[####################] 1/0  ") for line in lines]


def test_what_a_step_says_last_is_its_result(tmp_path):
    taken = "2 of 5 taken out: 2 near_duplicate (q.jsonl)"
    log = f"dedup: rows 5  1 rows/s\ntemper: dedup: rows.csv: empty\ntemper: dedup: {taken}\n"
    assert finished(tmp_path, "dedup", log) == [f"dedup  {taken}", "  dedup: rows.csv: empty"]


def test_a_result_of_its_own_comes_first_and_is_said_once(tmp_path, monkeypatch):
    monkeypatch.setattr(display, "outcome", lambda folder: f"48 rows in {folder.name}")
    log = "temper: split: 48 rows in made\ntemper: split: judged by 'number'\n"
    output = (str(tmp_path / "made/rows.jsonl"), str(tmp_path / "made/manifest.json"))
    assert finished(tmp_path, "split", log, output) == ["split  48 rows in made", "  split: judged by 'number'"]


def test_what_ctrl_c_ended_says_what_is_saved(tmp_path):
    log = tmp_path / "sft.log"
    log.write_text(
        "sft: step 69/188  loss 2\ntold to end: the state after step 69 of 188 is saved; start again to go on\n"
    )
    assert display.failure("sft sft", [log], []) == [
        "sft sft: the state after step 69 of 188 is saved; the same command goes on"
    ]
    log.write_text("ended by Ctrl-C: what was not finished is made again by the next run\n")
    assert display.failure("dedup rows", [log], []) == ["dedup rows: ended by Ctrl-C; the same command makes it again"]
    log.write_text("told to end: the state after step 69 of 188 is saved; start again to go on\ntemper: error: full\n")
    assert display.failure("sft sft", [log], []) == [f"sft sft failed: full (log: {log})"]


def test_ctrl_c_itself_is_said_in_our_words():
    words = "Terminating processes on user request, this might take some time."
    assert shown((words, {})) == "ending: what trains saves its state first; the same command goes on\n"


def test_nothing_to_be_done_says_where_the_report_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "reports/w/index.html"
    page.parent.mkdir(parents=True)
    (page.parent / "summary.txt").write_text("w: 3 rows\nShip: sft.\n")
    target = SimpleNamespace(output=[], input=["reports/w/index.html"])
    workflow = SimpleNamespace(dag=SimpleNamespace(targetjobs=[target]))
    stream = io.StringIO()
    handler = display.Display(logging.StreamHandler(io.StringIO()), Console(file=stream, width=200), workflow)
    message = "Nothing to be done (all requested files are present and up to date)."
    handler.emit(logging.makeLogRecord({"msg": message, "levelno": logging.INFO}))
    assert stream.getvalue().splitlines() == [
        "Nothing to be done: what was asked for stands", "reports/w/index.html", "w: 3 rows", "Ship: sft.",
    ]  # fmt: skip


def test_other_targets_say_what_was_made(tmp_path):
    report = SimpleNamespace(
        output=[f"{tmp_path}/{name}" for name in ("index.html", "manifest.json", "tables")], input=[]
    )
    assert ending.lines([report]) == [f"{tmp_path}/index.html"]
    made = [f"results/w/evaluation/{name}/manifest.json" for name in "fedcba"]
    study = SimpleNamespace(output=[], input=made)
    rows = SimpleNamespace(output=["results/w/rows.jsonl"], input=["results/w/raw/manifest.json"])
    first = ", ".join(f"results/w/evaluation/{name}" for name in "abcd")
    assert ending.lines([study]) == [f"made: {first} and 2 more"]
    assert ending.lines([rows]) == ["made: results/w/rows.jsonl"]
