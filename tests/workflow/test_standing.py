"""A workload that was finished, then changed, broken or disturbed: nothing stale stands, nothing else is made again."""

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from benches.damage import DAMAGES, results
from benches.kills import hashes
from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.hashes import sha256_file
from tests import small
from tests.benches.test_benches import smoke
from tests.core.toy import flip
from tests.small import QUESTIONS, ROWS, snakemake
from tests.workflow.test_workflow import jobs_of

pytestmark = pytest.mark.usefixtures("warmed")
NOTHING = "Nothing to be done"
ALL_ROWS = {f"{step} problems" for step in ("ingest", "filter", "dedup", "decontaminate", "split", "bucket")}
MEASURED = {f"evaluate {name}" for name in ("base", "sft", "lora", "both")}
TRAINED = {"sft sft", "sft lora", "merge both"}
AFTER_LORA = {"sft lora", "merge both", "evaluate lora", "evaluate both", "report"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, warmed) -> Path:
    folder = small.write(small.copy_of_the_repository(tmp_path_factory.mktemp("small")))
    snakemake(folder)
    return folder


@pytest.fixture
def done(undisturbed, tmp_path) -> Path:
    """A copy of its own for each test: other inodes, other times, the same bytes."""
    shutil.copytree(undisturbed, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def planned(folder: Path, *arguments: str) -> set[str]:
    return jobs_of(snakemake(folder, *arguments, "--dry-run", "-p"))


def lora(folder: Path, **settings) -> None:
    small.write_settings(folder, {"studies": {"foundation": {"recipes": {"lora": settings}}}})


# --- what is there and right stays ------------------------------------------------------------------


def test_a_copy_has_nothing_to_do_and_writes_nothing(done):
    before = {path: path.stat().st_mtime_ns for path in (done / "results").rglob("*")}
    assert NOTHING in snakemake(done)
    shutil.rmtree(done / ".snakemake")
    assert NOTHING in snakemake(done), "what stands is known from the manifests alone"
    assert before == {path: path.stat().st_mtime_ns for path in (done / "results").rglob("*")}


def test_equal_bytes_end_a_chain(done):
    """A comment in the first step: it runs again, and those after it find that they stand."""
    source = done / "steps/data/ingest.py"
    source.write_text(source.read_text() + "\n# edited\n")
    assert planned(done) == ALL_ROWS | TRAINED | MEASURED | {"report"}
    kept = {path: path.stat().st_mtime_ns for path in (done / "results/small").rglob("provenance.json")}
    snakemake(done)
    changed = {path.parent.name for path, before in kept.items() if path.stat().st_mtime_ns != before}
    assert changed == {"ingest"}
    assert NOTHING in snakemake(done)


def test_a_report_shows_the_manifests_that_are_there(done):
    """A comment in one step, and a run that ends before the report: the links of that name another manifest."""
    source, merged = done / "steps/recipes/merge.py", done / "results/small/foundation/both/manifest.json"
    source.write_text(source.read_text() + "\n# edited\n")
    snakemake(done, str(merged.relative_to(done)))
    assert planned(done) == {"report"}
    snakemake(done)
    assert sha256_file(merged) in (done / "reports/small/tables/checkpoints.csv").read_text()


def test_a_forced_step_runs_though_it_stands(done):
    provenance = done / "results/small/data/problems/split/provenance.json"
    before = provenance.stat().st_mtime_ns
    snakemake(done, "results/small/data/problems/split/manifest.json", "--forcerun", "split")
    assert provenance.stat().st_mtime_ns != before


def test_a_mark_that_a_job_was_killed_says_nothing_of_its_result(done):
    marks = done / ".snakemake/incomplete"
    marks.mkdir(exist_ok=True)
    (marks / base64.b64encode(b"results/small/foundation/lora/manifest.json").decode()).touch()
    assert NOTHING in snakemake(done)


# --- what a failure or a kill leaves -------------------------------------------------------------------


def test_a_failed_step_is_planned_until_it_succeeds(done):
    lora(done, learning_rate=1.0e30)
    for _ in range(2):
        assert "sft foundation lora failed" in snakemake(done, expect=1)
    assert planned(done) == AFTER_LORA
    small.write(done)
    snakemake(done)
    assert NOTHING in snakemake(done)


def test_a_killed_training_is_planned_and_goes_on(done):
    lora(done, learning_rate=2.0e-3)
    process = subprocess.Popen(
        small.command(), cwd=done, env=small.environment(done), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    manifest = done / "results/small/foundation/lora/manifest.json"
    while manifest.exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert planned(done) == AFTER_LORA
    assert NOTHING not in snakemake(done) and NOTHING in snakemake(done)


def test_rows_that_were_added_reach_everything_behind_a_killed_step(done):
    write_jsonl(done / ROWS, small.rows(80))
    snakemake(done, "results/small/data/problems/filter/manifest.json")
    (done / "results/small/data/problems/dedup/manifest.json").unlink()
    plan = planned(done)
    assert ALL_ROWS - {"ingest problems", "filter problems"} | {"sft sft", "evaluate base", "report"} <= plan
    snakemake(done)
    counts = read_json(done / "results/small/data/problems/split/manifest.json")["counts"]
    assert counts["train"] + counts["valid"] == 80


def test_what_failed_is_made_again_for_every_target(done):
    source = done / "steps/data/split.py"
    right = source.read_text()
    source.write_text(right.replace("def main(args", "def main(args=None, broken=1 / 0, *args_", 1))
    snakemake(done, expect=1)
    source.write_text(right + "\n# mended\n")
    for target in ("all", "foundation", "results/small/evaluation/sft/manifest.json"):
        assert "split problems" in planned(done, target)


# --- bytes ----------------------------------------------------------------------------------------------


def test_half_of_the_training_rows_are_missed(done):
    file = done / "results/small/data/problems/bucket/train.jsonl"
    before, kept = hashes(done), list(read_jsonl(file))
    file.write_text("".join(json.dumps(row) + "\n" for row in kept[: len(kept) // 2]))
    plan = snakemake(done, "--dry-run", "-p")
    assert "bucket problems: results/small/data/problems/bucket/train.jsonl is damaged" in plan
    assert {"bucket problems", "sft sft"} <= jobs_of(plan)
    snakemake(done)
    assert hashes(done) == before


def test_a_page_of_the_run_changes_no_result(done):
    before = hashes(done)
    said = snakemake(done, "--forcerun", "report", "--config", "live=true")
    page = done / "logs/small/live.html"
    assert f"live: {page}" in said
    assert "1 of 1</td>" in page.read_text() and 'href="../../reports/small/index.html"' in page.read_text()
    assert hashes(done) == before and planned(done) == set()


def test_a_plan_is_read_by_people(done):
    lora(done, learning_rate=4.0e-3)
    plan = snakemake(done, "--dry-run").splitlines()
    assert any(line.startswith("lora: learning_rate 0.001 → 0.004; then both, ") for line in plan)
    at = plan.index("small (small.yaml): 5 jobs, 5 of them again")
    assert [line.split()[:3] for line in plan[at + 1 : at + 3]] == [["foundation", "4", "jobs"], ["report", "1", "job"]]
    assert plan[at + 3].startswith("time: about ") and "rule sft:" not in plan


def test_an_edited_score_is_measured_again(done):
    file = done / "results/small/evaluation/sft/results.json"
    before = hashes(done)
    results = file.read_text()
    file.write_text(results.replace('"n": 4', '"n": 5', 1))
    assert file.read_text() != results
    assert planned(done) == {"evaluate sft", "report"}
    snakemake(done)
    assert hashes(done) == before


@pytest.mark.parametrize("file, first", [(ROWS, "ingest problems"), (QUESTIONS, "decontaminate problems")])
def test_another_file_with_an_older_time_is_seen(done, file, first):
    other = done / "other"
    other.write_text((done / file).read_text().replace("Tom", "Tim").replace("Ann", "Amy"))
    os.utime(other, (1, 1))
    other.replace(done / file)
    plan = snakemake(done, "--dry-run", "-p")
    assert first in jobs_of(plan) and f"{file} changed" in plan
    if file == QUESTIONS:
        assert jobs_of(plan) >= MEASURED


def test_damage_is_noticed_in_every_file_and_repaired(undisturbed, tmp_path):
    """Every file, cut and with a byte flipped, must be named by a plan, and be as before after a run; here all of them
    are repaired at once, by the whole bench a quarter at a time."""
    detail = smoke("damage", tmp_path / "damage.json", "--run", str(undisturbed))["detail"]
    files = [str(file) for files in results(undisturbed).values() for file in files]
    assert len(results(undisturbed)) == 15 and len(files) > 80
    for found in (detail["noticed"], detail["repaired"]):
        assert found.keys() == {*files}
        assert not [file for file, kinds in found.items() if kinds != dict.fromkeys(DAMAGES, True)]


def test_a_step_refuses_what_was_damaged_after_the_plan(done):
    rows = "results/small/data/problems/bucket/train.jsonl"
    words = read_json(done / "results/small/foundation/sft/provenance.json")["argv"]
    flip(done / rows, 10)
    again = subprocess.run(words, cwd=done, env=small.environment(done), capture_output=True, text=True)
    assert again.returncode == 2 and f"temper: error: {rows} is damaged" in again.stderr
    assert "Traceback" not in again.stderr


# --- models that no rule makes ---------------------------------------------------------------------------


def test_a_damaged_model_is_one_line_before_any_job(done):
    flip(done / "data/fable/base/model.safetensors", 5000)
    said = snakemake(done, expect=2)
    assert "temper: error: params.yaml + small.yaml: models.base.path" in said
    assert "data/fable/base/model.safetensors is damaged" in said and "Traceback" not in said
    (done / "data/fable/base/manifest.json").unlink()
    assert {"bucket problems", "sft sft", "evaluate base"} <= planned(done), "without its manifest it is another model"


# --- two runs ----------------------------------------------------------------------------------------------


def test_a_run_that_ends_leaves_the_locks_of_another(done):
    """The first holds its outputs; a second, of other files, ends; a third must still be refused."""
    lora(done, epochs=400)
    first = subprocess.Popen(
        small.command(), cwd=done, env=small.environment(done), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not list((done / ".snakemake/locks").glob("*.output.lock")):
            assert first.poll() is None
            time.sleep(0.05)
        snakemake(done, "preflight")
        assert first.poll() is None, "the first run ended too early for this test"
        said = snakemake(done, expect=2)
        assert "temper: error: another run makes some of the same results" in said and "Traceback" not in said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()


# --- kills ---------------------------------------------------------------------------------------------------


def test_ten_kills_of_a_warm_workload_change_no_byte(undisturbed, tmp_path):
    options = ("--run", str(undisturbed), "--kills", "10", "--latest", "10")  # whose steps are forks
    detail = smoke("kills", tmp_path / "kills.json", *options)["detail"]
    assert not detail["apart"]
    assert len(detail["log"]) == 10 and sum(who != "ended before" for _, who in detail["log"]) >= 5
