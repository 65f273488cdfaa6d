"""The whole DAG at toy size, in a copy of the repository: what runs when, what a kill leaves, what DVC brings back."""

import filecmp
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.core.files import read_json
from steps.graph import workload
from tests import small, warm
from tests.small import environment
from tests.workloads import ROOT, params_of, write_workload

pytestmark = pytest.mark.usefixtures("warmed")
NOTHING = "Nothing to be done"
ERROR = "temper: error: params.yaml + workloads/fable.yaml"


def copy_of_the_repository(folder: Path) -> Path:
    """The repository, with the toy size written into the workload that runs by default."""
    write_workload(small.copy_of_the_repository(folder))
    return folder


def run(folder: Path, *command: str, expect: int = 0) -> str:
    forks = environment(folder, "steps", "programs")
    done = subprocess.run(command, cwd=folder, env=forks, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{' '.join(command)} ended with {done.returncode}:\n{output[-6000:]}"
    return output


def planned(folder: Path, *arguments: str) -> set[str]:
    """The jobs of a dry run, as "rule name", where name is the node, checkpoint or data set."""
    return jobs_of(run(folder, "snakemake", "--dry-run", "-p", *arguments))


def jobs_of(output: str) -> set[str]:
    """The same of what a dry run said."""
    if NOTHING in output:
        return set()
    jobs = set()
    for block in re.split(r"\n(?=(?:local)?rule )", output)[1:]:
        rule = re.match(r"(?:local)?rule (\w+):", block)[1]
        wildcards = dict(re.findall(r"(\w+)=([^,\s]+)", m[1])) if (m := re.search(r"wildcards: (.*)", block)) else {}
        name = wildcards.get("node") or wildcards.get("name") or wildcards.get("dataset") or ""
        jobs.add(f"{rule} {name}".strip())
    return jobs - {"all"}


def hashes(folder: Path) -> dict[str, str]:
    """Every file that equal runs must make equal: all but times, hosts, the page that shows them and its manifest."""
    varying = ("provenance.json", "index.html", "reports/small/manifest.json", "reports/fable/manifest.json")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("results", "reports")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file() and not str(path).endswith(varying) and not path.name.startswith(("timing", "."))
    }


def manifests(folder: Path) -> int:
    """How many there are, while folders come and go."""
    return sum("manifest.json" in files for _, _, files in os.walk(folder))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, warmed) -> Path:
    """A copy of the repository in which the DAG has run once, undisturbed."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("finished"))
    run(folder, "snakemake", "--cores", "all")
    return folder


@pytest.fixture
def untouched(finished):
    """The finished run; what a test edits in the sources is put back."""
    kept = {path: path.read_bytes() for path in [finished / workload.EMBEDDED, *(finished / "steps").rglob("*.*")]}
    yield finished
    for path, content in kept.items():
        if path.read_bytes() != content:
            path.write_bytes(content)


# --- the run itself -------------------------------------------------------------------------------


def test_the_run_ends_with_a_report_and_a_summary(finished):
    assert len((finished / "reports/fable/summary.txt").read_text().splitlines()) == 5
    assert (finished / "reports/fable/index.html").stat().st_size > 10_000
    assert read_json(finished / "reports/fable/metrics.json")


def test_no_step_reached_for_a_network(finished):
    assert not (finished / "reached_out.txt").exists()


def test_the_guard_against_networks_works(tmp_path):
    script = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", script], env=environment(tmp_path), capture_output=True, text=True)
    assert "this run is offline" in done.stderr
    assert "127.0.0.1" in (tmp_path / "reached_out.txt").read_text()


def test_only_the_scorers_open_the_truth(finished):
    """The interpreter itself writes down who opens a file of the world's truth, in the whole run."""
    opened = set((finished / "opened_truth.txt").read_text().split())
    assert opened == {"world.py", "score_dirt.py", "score_causes.py"}


def test_a_second_run_has_nothing_to_do_within_8_seconds(finished):
    """In seconds of processor time, which a busy machine does not stretch: nothing here waits."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert NOTHING in run(finished, "snakemake", "--cores", "all")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 8


def test_snakemakes_own_report(finished, tmp_path):
    run(finished, "snakemake", "--report", str(tmp_path / "report.zip"))
    assert (tmp_path / "report.zip").stat().st_size > 100_000


def test_a_checkpoint_is_delivered_with_all_that_it_was_made_by(finished):
    """One whose teacher learned by reward, and wrote rows for it; nothing else runs."""
    deliver = ("deliver", "--config", "checkpoint=opd_cold")
    try:
        assert planned(finished, *deliver) == {"deliver"}
        run(finished, "snakemake", "--cores", "all", *deliver)
        assert planned(finished, *deliver) == planned(finished) == set()
        folder = finished / "results/fable/deliver/opd_cold"
        card = (folder / "README.md").read_text()
        assert re.findall(r"^\d+\. `(\w+)`, stage (\w+)", card, re.MULTILINE) == [
            ("sft", "sft"), ("judge", "reward"), ("grpo", "rl"), ("cold", "distill"), ("opd_cold", "opd"),
        ]  # fmt: skip
        for step in ("gate", "generate", "distill", "opd"):
            assert re.search(rf"^\| \w+ \| {step} \| [\d,]+ \|", card, re.MULTILINE), step
        checked = read_json(folder / "manifest.json")
        source = read_json(finished / "results/fable/distillation/opd_cold/manifest.json")
        weights = "model.safetensors"
        assert checked["outputs"][weights] == source["outputs"][weights]
    finally:
        for top in ("results", "logs", "benchmarks"):
            shutil.rmtree(finished / top / "fable/deliver", ignore_errors=True)


# --- what reruns ----------------------------------------------------------------------------------

MOVED = ("pissa", "path_sft", "ties")
RECIPES = ("sft", "sft_lora", "blend", "child", *MOVED)
LEARNERS = ("plain", "together")
STAGES = {"blend": "merge", "ties": "merge", "path_sft": "interpolate", "knowledge": "cpt"}
# The model check, and what rests on nothing but the model.
CHECKED = {"check_model", "bucket problems", "bucket lessons", "evaluate base"}
GEOMETRY = {f"geometry {node}" for node in MOVED}


def with_evaluation(*nodes: str) -> set[str]:
    jobs = {job for node in nodes for job in (f"{STAGES.get(node, 'sft')} {node}", f"evaluate {node}")}
    return jobs | {f"geometry {node}" for node in nodes if node in MOVED} | {"report"}


def with_findings(*nodes: str) -> set[str]:
    return with_evaluation(*nodes) | {f"{rule} {node}" for node in nodes for rule in ("detect", "score_causes")}


# What runs again in the study of what is not learned: from the treatment of rows on, from the attribution, from the
# detection, from the training that is diagnosed.
TREATING = {"treat together"} | with_findings("together")
ATTRIBUTING = TREATING | {"attribute plain", "score_causes plain", "mixture knowledge"} | with_evaluation("knowledge")
DETECTING = ATTRIBUTING | {"detect plain", "evidence plain"}
LEARNING = DETECTING | with_findings("plain")

EXPLORED = {f"explore {name}" for name in ("sft", "grpo", "srpo")}


def distilled(*nodes: str) -> set[str]:
    """What runs again when these are distilled again."""
    stages = {"cold": "distill", "opd": "opd", "opd_cold": "opd"}
    return {job for node in nodes for job in (f"{stages[node]} {node}", f"evaluate {node}")} | {"report"}


FORECAST = {"forecast sft", "forecast cold"}
# From another start by a teacher's rows, from those rows, and from the teacher on.
STARTED = distilled("cold", "opd_cold") | {"forecast cold"}
WRITTEN = STARTED | {"generate grpo", "logprobs grpo"}
TAUGHT = WRITTEN | distilled("opd") | FORECAST


def practised(*nodes: str) -> set[str]:
    """What runs again when these are trained again by their rewards; grpo teaches."""
    jobs = {f"{rule} {node}" for node in nodes for rule in ("rl", "evaluate", "explore")} | {"report"}
    return jobs | (TAUGHT if "grpo" in nodes else set())


GATED = practised("grpo", "srpo") | {"gate grpo", "gate srpo"}
PRACTISED = GATED | {"difficulty sft", "explore sft"}
JUDGED = practised("grpo") | {"reward judge", "gate grpo"}


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            {"studies": {"foundation": {"recipes": {"sft_lora": {"learning_rate": 5.0e-4}}}}},
            with_evaluation("sft_lora", "ties"),
        ),
        (
            {"studies": {"foundation": {"recipes": {"sft": {"learning_rate": 5.0e-4}}}}},
            with_evaluation("sft", "blend", "child", "path_sft", "ties") | PRACTISED,
        ),
        ({"merge": {"weights": [0.25, 0.75]}}, with_evaluation("blend", "ties")),
        ({"merge": {"density": 0.3}}, with_evaluation("ties")),
        ({"interpolate": {"choose": {"loss": 0.1}}}, with_evaluation("path_sft")),
        ({"geometry": {"tokens": 64}}, GEOMETRY | {"report"}),
        ({"report": {"keep_general": 0.7}}, {"report"}),
        (
            {"studies": {"incomplete_learning": {"recipes": {"together": {"epochs": 3}}}}},
            with_findings("together"),
        ),
        (
            {"studies": {"incomplete_learning": {"recipes": {"together": {"at_random": True}}}}},
            {"treat together"} | with_findings("together"),
        ),
        ({"treat": {"repeats": 2}}, TREATING),
        ({"detect": {"options": 4}}, DETECTING),
        ({"studies": {"incomplete_learning": {"recipes": {"plain": {"trajectory": 3}}}}}, LEARNING),
        ({"difficulty": {"samples": 3}}, PRACTISED - {"explore sft"}),
        ({"gate": {"rows": 5}}, GATED),
        ({"rl": {"learning_rate": 1.0e-5}}, practised("grpo", "srpo")),
        ({"rl": {"srpo": {"entropy_weight": 0.5}}}, practised("srpo")),
        ({"reward": {"learning_rate": 1.0e-5}}, JUDGED),
        ({"explore": {"seed": 1}}, EXPLORED | {"report"}),
        ({"generate": {"max_repetition": 0.7}}, WRITTEN),
        ({"logprobs": {"top_k": 4}}, WRITTEN - {"generate grpo"}),
        ({"distill": {"learning_rate": 1.0e-5}}, STARTED),
        ({"opd": {"learning_rate": 1.0e-5}}, distilled("opd", "opd_cold")),
        ({"forecast": {"prompts": 23}}, FORECAST | {"report"}),
        ({"forecast": {"axes": {"practice": "target"}}}, {"report"}),
    ],
    ids=[
        "a leaf recipe",
        "a parent recipe",
        "a stage default",
        "a default of one method",
        "the choice of a point",
        "geometry",
        "the report",
        "a treated recipe",
        "a control",
        "the treatment of rows",
        "detection",
        "the diagnosed recipe",
        "the difficulty of rows",
        "the reward's gate",
        "reinforcement learning",
        "one method of it",
        "the reward model",
        "exploration",
        "what a teacher writes",
        "what it says of that",
        "a cold start",
        "on-policy distillation",
        "the forecast",
        "how the forecast is judged",
    ],
)
def test_a_changed_setting_reruns_its_recipe_and_what_descends_from_it(untouched, change, expected):
    write_workload(untouched, change)
    assert planned(untouched) == expected


def test_a_new_recipe_runs_alone(untouched):
    new = {"stage": "sft", "from": "sft", "data": "problems", "epochs": 2}
    write_workload(untouched, {"studies": {"foundation": {"recipes": {"more": new}}}})
    assert planned(untouched) == with_evaluation("more")


@pytest.mark.parametrize(
    "module, expected",
    [
        ("models/weights", with_evaluation("blend", "ties", "path_sft") | GEOMETRY),
        ("recipes/interpolate", with_evaluation("path_sft")),
        ("stability/geometry", GEOMETRY | {"report"}),
        ("training/texts", with_evaluation(*RECIPES) | LEARNING | PRACTISED | JUDGED | CHECKED),
        ("recipes/cpt", with_evaluation("knowledge") | with_findings("together")),
        (
            "evaluation/measure",
            {
                f"evaluate {name}"
                for name in ("base", "knowledge", "grpo", "srpo", "cold", "opd", "opd_cold", *RECIPES, *LEARNERS)
            }
            | with_evaluation("path_sft")
            | GEOMETRY
            | EXPLORED,
        ),
        ("reinforcement/methods/srpo", GATED),
        ("distillation/distill", STARTED),
        ("distillation/divergence", distilled("opd", "opd_cold") | FORECAST),
        ("distillation/opd_trainer", distilled("opd", "opd_cold")),
        ("reinforcement/rewards", GATED),
        ("evaluation/explore", EXPLORED | {"report"}),
        ("world/score_dirt", {"score_dirt problems", "report"}),
        ("diagnosis/attribute", ATTRIBUTING),
        ("diagnosis/treat", TREATING),
        ("world/score_causes", {f"score_causes {name}" for name in LEARNERS} | {"report"}),
        ("report/report", {"report"}),
        ("report/templates/report.html.j2", {"report"}),
        ("data/download", set()),
    ],
)
def test_an_edited_source_file_reruns_what_uses_it_only(untouched, module, expected):
    path = untouched / "steps" / (module if "." in module else f"{module}.py")
    path.write_text(path.read_text() + "\n# edited\n" if path.suffix == ".py" else path.read_text() + "\n")
    assert planned(untouched) == expected


def test_a_touched_file_reruns_nothing(untouched):
    for path in (untouched / "steps").rglob("*.py"):
        path.touch()
    (untouched / "data/fable/base/manifest.json").touch()
    assert planned(untouched) == set()


def test_trainings_wait_for_their_preflight_where_that_is_required(untouched):
    tried = planned(untouched, "preflight") - {"preflight"}
    # The child differs from the sft that it starts from in its learning rate only.
    assert {f"preflight_node {node}" for node in ("sft", "judge", "grpo", "cold", "opd")} <= tried
    assert "preflight_node child" not in tried
    write_workload(untouched, {"preflight": {"required": True}})
    assert tried | {"sft sft", "sft child", "rl grpo", "opd opd"} <= planned(untouched)


def test_the_edited_report_is_made_again_and_nothing_else(untouched):
    before = {path: path.stat().st_mtime_ns for path in (untouched / "results").rglob("manifest.json")}
    path = untouched / "steps/report/report.py"
    path.write_text(path.read_text() + "\n# edited\n")
    run(untouched, "snakemake", "--cores", "all")
    assert before == {path: path.stat().st_mtime_ns for path in (untouched / "results").rglob("manifest.json")}
    path.write_text(path.read_text().removesuffix("\n# edited\n"))
    run(untouched, "snakemake", "--cores", "all")


# --- mistakes before the first job -----------------------------------------------------------------


def test_a_wrong_setting_is_one_line_before_any_job(untouched):
    write_workload(untouched, {"studies": {"foundation": {"recipes": {"sft": {"learning_rate": "2e-4"}}}}})
    output = run(untouched, "snakemake", "--cores", "all", expect=2)
    (line,) = [line for line in output.splitlines() if "profile" not in line]
    assert line.startswith(f"{ERROR}: studies.foundation.recipes.sft.learning_rate")
    assert "2.0e-4" in line


def test_a_delivery_of_nothing_is_one_line(untouched):
    output = run(untouched, "snakemake", "--cores", "all", "deliver", expect=2)
    (line,) = [line for line in output.splitlines() if "profile" not in line]
    assert line.startswith(f"{ERROR}: checkpoint: nothing is named; write snakemake deliver --config")


@pytest.mark.parametrize("overlay", sorted((ROOT / "workloads").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_workload_dry_runs(tmp_path, overlay):
    folder = copy_of_the_repository(tmp_path)
    shutil.copy(ROOT / workload.EMBEDDED, folder / workload.EMBEDDED)
    jobs = planned(folder, "--configfile", f"workloads/{overlay.name}")
    assert {"report", "evaluate base"} <= jobs and any(job.startswith("sft") for job in jobs)
    params = params_of(overlay)
    assert any(job.startswith("attribute plain") for job in jobs) == ("incomplete_learning" in params["studies"])
    assert ("download base" in jobs) == ("revision" in params["models"]["base"])


# --- kills ----------------------------------------------------------------------------------------


def test_ten_kills_change_no_byte(finished, tmp_path):
    """Kill -9 at ten moments, every other time Snakemake alone, so that its steps live on as orphans."""
    folder = copy_of_the_repository(tmp_path)
    total = manifests(finished / "results")
    moments = random.Random(0)
    # A server of its own has other hashes of texts than that of the undisturbed run.
    with warm.server(environment(folder)) as address, warm.warm(address):
        for kill in range(10):
            process = subprocess.Popen(
                ["snakemake", "--cores", "all"], cwd=folder, env=environment(folder, "steps"), start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            # Spread over the run by what is finished, not by seconds: machines differ.
            while manifests(folder / "results") < total * (kill + 0.5) / 11:
                assert process.poll() is None, f"the run ended before kill {kill}"
                time.sleep(0.1)
            time.sleep(moments.uniform(0, 1))
            assert process.poll() is None, f"the run ended before kill {kill}"
            if kill % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        run(folder, "snakemake", "--cores", "all")
    assert hashes(folder) == hashes(finished)
    assert NOTHING in run(folder, "snakemake", "--cores", "all")


# --- DVC ------------------------------------------------------------------------------------------


def test_pushed_results_come_back_in_a_clone(finished, tmp_path):
    """repro of a study and of all, push, clone, pull: nothing to be done; then a changed setting is still seen."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    folder = tmp_path / "origin/temper"
    shutil.copytree(finished, folder, symlinks=True)
    run(folder, *git, "init", "--quiet")
    run(folder, sys.executable, "-m", "steps.graph.dvc")
    output = run(folder, "dvc", "repro", "incomplete_learning") + run(folder, "dvc", "repro")
    assert "jobs to run" not in output, "DVC made Snakemake run what was there"
    run(folder, *git, "add", "--all")
    run(folder, *git, "commit", "--quiet", "--message", "results")
    run(folder, "dvc", "push")
    assert "up to date" in run(folder, "dvc", "status")

    clone = tmp_path / "origin/clone"
    run(tmp_path, *git, "clone", "--quiet", str(folder), str(clone))
    assert not (clone / "results").exists()
    run(clone, "dvc", "pull")
    assert filecmp.cmp(folder / "reports/fable/metrics.json", clone / "reports/fable/metrics.json", shallow=False)
    assert planned(clone) == set()
    write_workload(clone, {"merge": {"weights": [0.25, 0.75]}})
    assert planned(clone) == with_evaluation("blend", "ties")
