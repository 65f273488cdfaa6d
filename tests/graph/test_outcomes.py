"""The line of each step's result, against results written by hand; a step that has none says its line itself."""

import pytest

from steps.core.files import write_json, write_text
from steps.core.manifest import write_manifest
from steps.graph.outcomes import OUTCOMES, outcome
from steps.graph.sections import SECTIONS

# Rules whose manifest has another step's name, and those that say themselves what became of their rows.
RENAMED = {"pretrain_model": "pretrain", "preflight_node": "preflight", "inspect_rows": "inspect"}
LEDGERS = {"ingest", "filter", "dedup", "decontaminate", "generate"}


def told(folder, step: str, counts: dict, **files) -> str:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        name = name.replace("_json", ".json").replace("_csv", ".csv")
        write = write_text if isinstance(content, str) else write_json
        write(folder / name, content)
    write_manifest(folder, step=step, settings={}, inputs=[], counts=counts, started=0.0)
    return outcome(folder)


def test_every_rule_has_a_line():
    assert {RENAMED.get(rule, rule) for rule in SECTIONS} - LEDGERS == OUTCOMES.keys() - {"report"}


def test_scores_are_means_over_the_tasks_of_an_axis(tmp_path):
    tasks = {
        "sums": {"axis": "target", "value": 0.9}, "more": {"axis": "target", "value": 0.786},
        "facts": {"axis": "general", "value": 0.952}, "sums_dev": {"axis": "dev", "value": 0.1},
    }  # fmt: skip
    # (0.9 + 0.786) / 2 = 0.843; what chooses is no result.
    assert told(tmp_path, "evaluate", {}, results_json={"tasks": tasks}) == "target 84.3  general 95.2"


def test_a_training_says_its_losses(tmp_path):
    log = "step,loss,valid_loss\n1,2.3456,\n2,1.5,1.25\n3,0.5,\n"
    assert told(tmp_path, "sft", {}, training_log_csv=log) == "3 steps  loss 2.35 → 0.5  valid loss 1.25"
    log = "step,loss,reward\n1,0.1,0.25\n2,0.05,0.5\n"
    assert told(tmp_path / "rl", "rl", {}, training_log_csv=log) == "2 steps  loss 0.1 → 0.05  reward 0.25 → 0.5"
    judged = {"training_log_csv": "step,loss\n1,0.7\n", "reward_json": {"accuracy": {"value": 0.9, "n": 60}}}
    line = "1 steps  loss 0.7  90.0 % of 60 held-out pairs ranked right"
    assert told(tmp_path / "reward", "reward", {}, **judged) == line


@pytest.mark.parametrize(
    ("step", "counts", "line"),
    [
        ("detect", {"examined": 1640, "unlearned": 127}, "unlearned 127 of 1,640 rows"),
        ("attribute", {"in": 127, "causes": {"a": 7, "b": 120, "c": 0}}, "127 unlearned rows: 120 b, 7 a"),
        ("attribute", {"in": 0, "causes": {"a": 0}}, "0 unlearned rows"),
        ("split", {"train": 7000, "valid": 538}, "7,000 rows to train on, 538 held out"),
        (
            "difficulty",
            {"in": 10, "easy": 3, "medium": 5, "hard": 2, "unverified": 0},
            "10 rows: 5 medium, 3 easy, 2 hard",
        ),
        ("geometry", {"moved": 12, "modules": 28}, "12 of 28 layers moved"),
        ("merge", {"parents": 2, "tensors": 1048}, "2 parents, 1,048 tensors"),
        ("interpolate", {"chosen": 0.6, "points": 11}, "0.6 of the way is the best of 11 points"),
        ("check_model", {"properties": 14, "treated": {"eos": "added"}}, "14 properties; treated: eos"),
        ("check_model", {"properties": 14, "treated": {}}, "14 properties; nothing to treat"),
        ("download", {"files": 3, "bytes": 1_240_000_000}, "3 files, 1.24 GB"),
    ],
)
def test_counts_in_words(tmp_path, step, counts, line):
    assert told(tmp_path, step, counts) == line


def test_a_gate_that_passed(tmp_path):
    checks = "check,n,value,bar,ok\nunparsed,9,0,0.1,True\nspread,9,0.5,0.1,True\n"
    line = "passed 2 checks; 640 of 1,140 prompts are trained on"
    assert told(tmp_path, "gate", {"in": 1140, "kept": 640}, gate_csv=checks) == line


def test_a_rehearsal_says_memory_and_time(tmp_path):
    found = {
        "estimate": {"total": 2 * 2**30},
        "usable": 8 * 2**30,
        "seconds_per_step": 0.5,
        "verdict": "fits",
        "hours": 1.25,
    }
    line = "fits: 2 of 8 GiB  0.5 s a step  about 1:15:00 of training"
    assert told(tmp_path, "preflight", {}, preflight_json=found) == line


def test_what_cannot_be_read_says_nothing(tmp_path):
    assert outcome(tmp_path / "none") == ""
    assert told(tmp_path, "evaluate", {}) == ""
    assert told(tmp_path, "detect", {}) == ""
    assert told(tmp_path, "of_a_newer_version", {}) == ""
