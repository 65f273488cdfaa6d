"""DVC's stages: those of the settings, for any workload; every command of docs/dvc.md does what the page says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from steps.graph import dvc, recipes, workload
from steps.graph.graph import Graph
from tests.docs.test_docs import blocks, own_overlay
from tests.workflow.test_workflow import copy_of_the_repository, environment, run
from tests.workloads import ROOT, long_model, params_of

pytestmark = pytest.mark.usefixtures("warmed")
FILES = (workload.DEFAULTS, workload.EMBEDDED)
STAGES = yaml.safe_load((ROOT / dvc.FILE).read_text())["stages"]
STUDIES = STAGES.keys() - {dvc.CHECK}
MINE = "workloads/mine.yaml"
OF_MINE = "pipelines/mine/dvc.yaml"
MODULE = (sys.executable, "-m", "steps.graph.dvc")


def names(entries: list[dict]) -> set[str]:
    return {name for entry in entries for name in entry}


def listed(stage: str, file: str) -> set[str]:
    """The sections of a file that a stage depends on."""
    return {section for entry in STAGES[stage].get("params", []) for section in entry.get(file, [])}


def own_workload(folder: Path) -> None:
    """The workload of the README, with the rows and the model that it names."""
    (folder / MINE).write_text(own_overlay().text)
    (folder / "data/mine").mkdir()
    turns = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
    (folder / "data/mine/rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (folder / "data/mine/test.jsonl").write_text('{"prompt": "What is 3 + 3?", "answer": "6"}\n')
    long_model(folder / "models/my-base")


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A copy of the repository at the default size, under Git, with the README's workload beside it."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("clones") / "origin/temper")
    shutil.copy(ROOT / workload.EMBEDDED, folder / workload.EMBEDDED)
    run(folder, "git", "init", "--quiet")
    for key, value in (("user.name", "t"), ("user.email", "t@example.org")):
        run(folder, "git", "config", key, value)
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", "start")
    own_workload(folder)
    return folder


def test_the_stages_are_those_of_the_settings(repository):
    run(repository, *MODULE, "--check", "results/checked.txt")


def test_every_section_stands_where_something_reads_it():
    for file in FILES:
        everywhere = {section for stage in STAGES for section in listed(stage, file)}
        assert everywhere == workload.read(ROOT / file).keys() - {"inspect", "deliver"}
    for stage in STUDIES:
        assert "engine" in listed(stage, workload.DEFAULTS), "every study samples"
        assert {"studies", "models", "data"} <= listed(stage, workload.DEFAULTS) & listed(stage, workload.EMBEDDED)
    taught = {"difficulty", "gate", "rl", "generate", "distill", "opd", "forecast"}
    assert taught <= listed("distillation", workload.DEFAULTS)


@pytest.fixture(scope="module")
def committed(tmp_path_factory) -> Path:
    """A DVC repository with our dvc.yaml and settings, and a line of text for all that it stores."""
    folder = tmp_path_factory.mktemp("dvc")
    (folder / "workloads").mkdir()
    for name in (dvc.FILE, ".dvcignore", *FILES):
        shutil.copy(ROOT / name, folder / name)
    for stage in STAGES.values():
        for name in {*stage["deps"], *names(stage.get("outs", []))} - {*FILES}:
            path = folder / name if Path(name).suffix else folder / name / "file"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
    run(folder, "git", "init", "--quiet")
    run(folder, "dvc", "init", "--quiet")
    run(folder, "dvc", "commit", "--force", "--quiet")
    assert json.loads(run(folder, "dvc", "status", "--json")) == {}
    return folder


@pytest.mark.parametrize("file", FILES)
def test_dvc_sees_a_change_of_every_section(committed, file):
    text = (committed / file).read_text()
    changed = dict.fromkeys(yaml.safe_load(text), "another")
    try:
        (committed / file).write_text(yaml.safe_dump(changed))
        status = json.loads(run(committed, "dvc", "status", "--json"))
    finally:
        (committed / file).write_text(text)
    for stage in STUDIES:
        seen = [entry["changed deps"] for entry in status[stage] if "changed deps" in entry]
        assert {section for deps in seen for section in deps.get(file, {})} == listed(stage, file), stage
    assert status[dvc.CHECK] == [{"changed deps": {file: "modified"}}]


def test_every_stage_waits_until_the_stages_are_checked():
    (checked,) = names(STAGES[dvc.CHECK]["outs"])
    assert all(checked in STAGES[stage]["deps"] for stage in STUDIES)


# --- any workload ---------------------------------------------------------------------------------


def stages_in(folder: Path, *overlays: str) -> dict:
    """The stages that are made there of some overlays."""
    file = run(folder, *MODULE, "--configfile", *overlays).splitlines()[0]
    return yaml.safe_load((folder / file).read_text())["stages"]


def test_stages_of_an_own_workload_rest_on_its_files_and_share_no_output(repository):
    try:
        mine, other = stages_in(repository, MINE), stages_in(repository, "workloads/gsm8k.yaml")
        assert mine.keys() == {dvc.CHECK, "first", "report"}
        study = mine["first"]
        assert {"data/mine/rows.jsonl", "data/mine/test.jsonl", "models/my-base", "steps"} <= {*study["deps"]}
        assert names(study["outs"]) == {"results/mine/first"} <= {*mine["report"]["deps"]}
        assert names(study["params"]) == {"params.yaml", MINE}
        assert all(
            out["persist"] for stage in mine.values() for entry in stage.get("outs", []) for out in entry.values()
        )
        # An overlay on another: its sections, and those of what it stands on.
        assert names(other["foundation"]["params"]) == {"params.yaml", "workloads/fable.yaml", "workloads/gsm8k.yaml"}
        assert "workloads/fable.yaml" in other[dvc.CHECK]["deps"]
        owned = [name for file in (STAGES, mine, other) for s in file.values() for name in names(s.get("outs", []))]
        assert len(owned) == len(set(owned)) and not any(name.startswith(".snakemake") for name in owned)
    finally:
        shutil.rmtree(repository / "pipelines")


def test_a_report_that_git_has_stays_with_git(repository):
    try:
        report = stages_in(repository, "workloads/fable_rates.yaml")["report"]
        assert {"reports/fable_rates": {"persist": True, "cache": False}} in report["outs"]
    finally:
        shutil.rmtree(repository / "pipelines")


def test_a_workload_does_not_take_the_stages_of_the_embedded_one(repository):
    overlay = repository / "workloads/again.yaml"
    overlay.write_text("extends: fable.yaml\nseeds: [1]\n")
    told = run(repository, *MODULE, "--configfile", str(overlay), expect=2).splitlines()[-1]
    overlay.unlink()
    assert told.startswith("temper: error: workload: fable is workloads/fable.yaml, whose stages are in dvc.yaml")
    run(repository, *MODULE, "--configfile", workload.EMBEDDED, "--check", "results/checked.txt")


def test_studies_that_need_each_other_make_no_circle():
    there = {"stage": "merge", "from": ["sft", "back"]}
    back = {"stage": "sft", "from": "sft_lora", "data": "problems", "learning_rate": 1e-3}
    studies = {"foundation": {"recipes": {"there": there}}, "arena": {"recipes": {"back": back}}}
    graph = Graph(recipes.complete(params_of(studies=studies)))
    needs = dvc.rests_on(graph)
    assert needs["foundation"] == [] and needs["arena"] == ["foundation"]
    assert needs["distillation"] == ["foundation", "arena", "reinforcement"]


# --- the commands of docs/dvc.md ------------------------------------------------------------------

# In place of Snakemake, what makes the outputs of the stage that starts it from the settings, in no time.
TOY = """\
#!{python}
import json, shlex, sys, zlib
from pathlib import Path
import yaml
given = sys.argv[1:]
overlay = Path(given[-1] if "--configfile" in given else "workloads/fable.yaml")
settings = yaml.safe_load(overlay.read_text())
name = settings["workload"]
file = Path("dvc.yaml") if name == "fable" else Path("pipelines", name, "dvc.yaml")
stages = yaml.safe_load(file.read_text())["stages"].values()
(stage,) = (stage for stage in stages if stage["cmd"] == shlex.join(["snakemake", *given]))
number = zlib.crc32(json.dumps(settings, sort_keys=True).encode()) / 2**32
for path in (Path(path) for out in stage["outs"] for path in out):
    path.mkdir(parents=True, exist_ok=True)
    (path / "manifest.json").write_text(str(number))
    if Path("fails").exists():
        sys.exit("a rule failed")
    if path.parts[0] == "reports":
        numbers = dict.fromkeys(["gained", "lost", "unsolved"], round(number, 6))
        (path / "headline.json").write_text(json.dumps({{name: {{"rows": 7, "ship": "sft", **numbers}}}}))
        (path / "metrics.json").write_text(json.dumps({{"checkpoints": {{"sft": numbers}}}}))
        (path / "figures").mkdir(exist_ok=True)
        drawn = '<svg xmlns="http://www.w3.org/2000/svg"><title>{{}}</title></svg>'.format(number)
        (path / "figures/curves_sft.svg").write_text(drawn)
"""


def typed(folder: Path, command: str, expect: int = 0) -> str:
    """What a command of the page prints, in a terminal of 120 columns."""
    toy = folder.parents[1] / "bin"
    variables = environment(folder, "programs")
    variables |= {"PATH": f"{toy}:{variables['PATH']}", "COLUMNS": "120", "PAGER": "cat"}
    done = subprocess.run(["bash", "-ec", command], cwd=folder, env=variables, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == expect, f"{command} ended with {done.returncode}:\n{output[-4000:]}"
    return output


@pytest.fixture(scope="module")
def page(repository) -> dict[str, str]:
    """Every command of docs/dvc.md up to another clone, in its order -> what it printed."""
    toy = repository.parents[1] / "bin/snakemake"
    toy.parent.mkdir()
    toy.write_text(TOY.format(python=sys.executable))
    toy.chmod(0o755)
    told = {}
    for block in blocks("sh"):
        if block.page == "docs/dvc.md" and "a remote" not in block.mark:
            for line in block.text.splitlines():
                command = line.partition("  #")[0].strip() if "  #" in line else line.partition(" # ")[0].strip()
                told.setdefault(command, "")
                told[command] += typed(repository, command)
                if command.startswith("dvc plots"):
                    told[command] += (repository / "dvc_plots/index.html").read_text()
    return told


def test_an_experiment_changes_the_settings_of_a_node_and_its_numbers(page):
    experiments = [command for command in page if command.startswith("dvc exp run")]
    assert len(experiments) == 2
    text = (ROOT / "docs/dvc.md").read_text()
    for command in {*experiments, *re.findall(r"`(-S [^`]+)`", text)} - {"-S"}:
        file, key, value = re.fullmatch(r".*-S (\S+?):(\S+)=(\S+)", command).groups()
        change = yaml.safe_load(value) if "e" not in value else float(value)
        for part in reversed(key.split(".")):
            change = {part: change}
        before = params_of() if file == workload.EMBEDDED else None
        if before is None:
            before = workload.lay_over(workload.read(ROOT / workload.DEFAULTS), yaml.safe_load(own_overlay().text))
        was, now = (Graph(recipes.complete(p)).nodes for p in (before, workload.lay_over(before, change)))
        assert any(was[name].settings != now[name].settings for name in was), command
    for command in ("dvc metrics diff", "dvc metrics diff --targets reports/fable/metrics.json"):
        assert re.search(r"gained +0\.\d+ +0\.\d+ +-?0\.\d+", page[command]), page[command]


def test_the_tables_fit_a_terminal(page):
    (command,) = (command for command in page if command.startswith("dvc exp show"))
    tables = page[command]
    assert "…" not in tables and max(map(len, tables.splitlines())) <= 120
    for column in ("fable.gained", "mine.gained", "sft.learning_rate"):
        assert column in tables
    assert not re.search(r"results/|Created|rows", tables)
    assert max(map(len, page["dvc metrics diff"].splitlines())) <= 120


def test_the_page_of_plots_shows_the_figures_without_a_network(page, repository):
    shown = [html for command, html in page.items() if command.startswith("dvc plots")]
    assert len(shown) == 3
    for html in shown:
        assert not re.search(r"https?://|<script", html.partition("<html>")[2])
        sources = re.findall(r'<img src="([^"]+)"', html)
        assert sources and all("curves_sft.svg" in source for source in sources)
    assert (repository / "dvc_plots" / sources[0]).is_file()


def test_after_the_page_both_workloads_are_as_they_were_committed(page, repository):
    assert "up to date" in typed(repository, "dvc status")
    assert not typed(repository, "git status --short dvc.lock pipelines workloads steps")


def test_a_stage_that_fails_records_nothing(page, repository):
    locks = {lock: (repository / lock).read_bytes() for lock in ("dvc.lock", "pipelines/mine/dvc.lock")}
    text = (repository / MINE).read_text()
    (repository / "fails").touch()
    try:
        (repository / MINE).write_text(text.replace("2.0e-4", "3.0e-4"))
        assert "failed to reproduce" in typed(repository, f"dvc repro --single-item {OF_MINE}:first", expect=255)
        assert {lock: (repository / lock).read_bytes() for lock in locks} == locks
    finally:
        (repository / "fails").unlink()
        (repository / MINE).write_text(text)
        typed(repository, f"dvc checkout --force {OF_MINE}")


def test_stages_of_other_settings_stop_a_run_before_its_first_job(page, repository):
    text = (repository / MINE).read_text()
    (repository / MINE).write_text(text + "  aaa: {recipes: {again: {stage: merge, from: [base, sft]}}}\n")
    try:
        told = typed(repository, f"dvc repro {OF_MINE}", expect=255)
    finally:
        (repository / MINE).write_text(text)
    assert f"make them again: python -m steps.graph.dvc --configfile {MINE}" in told
    assert re.findall("Running stage '.*:(.*)'", told) == [dvc.CHECK]


def test_a_clone_gets_each_workload_by_itself(page, repository):
    """With a third beside them whose stages were never run."""
    clone = repository.parent / "clone"
    run(repository.parent, "git", "clone", "--quiet", str(repository), str(clone))
    (clone / "pipelines/other").mkdir()
    stages = {"first": {"cmd": "true", "wdir": "../..", "outs": [{"results/other/first": {"persist": True}}]}}
    (clone / "pipelines/other/dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    target = (clone / "Makefile").read_text().partition("\npull: setup\n")[2].partition("\n\n")[0]
    for command in target.splitlines()[:2]:
        typed(clone, command.strip())
    assert [path.name for path in (clone / "results").iterdir()] == ["fable"]
    shutil.copytree(repository / "data/mine", clone / "data/mine")
    shutil.copytree(repository / "models", clone / "models")
    typed(clone, f"dvc pull {OF_MINE} && dvc status --quiet {OF_MINE}")
    for folder in ("results/mine", "reports/fable"):
        files = [path.relative_to(repository) for path in (repository / folder).rglob("*") if path.is_file()]
        assert files and all((clone / path).read_bytes() == (repository / path).read_bytes() for path in files)
