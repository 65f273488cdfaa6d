"""The pages for people: every command runs or says what it needs, every overlay resolves, every link leads somewhere.

Markers are HTML comments on the line before a fence:

    <!-- needs: … -->     the commands are not run here, for want of that
    <!-- minutes: 13 -->  they take that long; those of Snakemake are planned
    <!-- overlay -->      the YAML is a workload by itself, laid over params.yaml
    <!-- overlay: fable --> it is laid over workloads/fable.yaml
    <!-- from: … -->      every line stands in that file
    <!-- file: … -->      the block is that file, which is not there
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pytest
import yaml

from tests.workloads import long_model

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data/README.md")),
    ]
)
BLOCK = re.compile(
    r"(?:^<!-- *(?P<mark>[^\n]*?) *-->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img src=\"([^\"]+)\"")


class Block(NamedTuple):
    page: str
    mark: str
    language: str
    text: str


def blocks(language: str) -> list[Block]:
    return [
        Block(str(page.relative_to(ROOT)), found["mark"] or "", found["language"], found["text"])
        for page in PAGES
        for found in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if found["language"] == language
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


# Folders that the user of the README or a generator writes to.
OWN = ("data", "workloads", "docs", "schemas")


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """The repository by links, without results, and with what the user of the README has: rows, a test set, a model."""
    folder = tmp_path_factory.mktemp("clone")
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for name in {name.split("/")[0] for name in names if name} - {*OWN}:
        (folder / name).symlink_to(ROOT / name)
    for name in OWN:
        (folder / name).mkdir()
        for child in (ROOT / name).iterdir():
            (folder / name / child.name).symlink_to(child)
    (folder / "data/mine").mkdir()
    turns = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "4"}]
    (folder / "data/mine/rows.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (folder / "data/mine/test.jsonl").write_text('{"prompt": "What is 3 + 3?", "answer": "6"}\n')
    long_model(folder / "models/my-base")
    (folder / "workloads/mine.yaml").write_text(own_overlay().text)
    return folder


def shell(folder: Path, command: str) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{output[-3000:]}"
    return output


def own_overlay() -> Block:
    """The workload of the README."""
    (found,) = (block for block in blocks("yaml") if block.page == "README.md" and block.mark == "overlay")
    return found


@pytest.mark.parametrize("block", blocks("sh"), ids=lambda block: block.page)
def test_a_block_of_commands_says_what_it_needs_or_nothing(block):
    assert not block.mark or re.fullmatch(r"needs: \S.*|minutes: \d+", block.mark), block
    assert subprocess.run(["bash", "-n"], input=block.text, text=True).returncode == 0, block


def test_commands_without_a_marker_run(clone):
    cheap = [block for block in blocks("sh") if not block.mark]
    assert cheap
    for block in cheap:
        shell(clone, block.text)


def test_commands_of_snakemake_that_take_minutes_are_planned(clone):
    """Together, by overlay: planning takes seconds each time."""
    targets: dict[tuple[str, ...], list[str]] = {}
    for block in blocks("sh"):
        for line in block.text.splitlines():
            if block.mark.startswith("minutes") and line.startswith("snakemake "):
                words = shlex.split(line, comments=True)[1:]
                place = next((i for i, word in enumerate(words) if word in ("--config", "--configfile")), len(words))
                named = [word for word in words[:place] if word not in ("--cores", "all", "-n")]
                targets.setdefault(tuple(words[place:]), []).extend(named)
    assert {(), ("--configfile", "workloads/fable_full.yaml")} <= targets.keys()
    for overlay, named in targets.items():
        shell(clone, shlex.join(["snakemake", "--quiet", "all", "-n", *dict.fromkeys(named), *overlay]))


def test_the_overlay_of_the_readme_is_short_names_nothing_of_fable_and_plans(clone):
    text = own_overlay().text
    assert len(text.splitlines()) <= 15 and "fable" not in text
    assert "sft" in shell(clone, "snakemake -n --configfile workloads/mine.yaml")


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.mark.startswith("overlay")], ids=lambda b: b.page)
def test_overlays_resolve(block, tmp_path, monkeypatch):
    from steps.graph import recipes, workload

    # Files of the user's that they name.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_rewards.py").write_text("def reward(prompt, response, answer):\n    return 0.0\n")
    below = block.mark.partition(": ")[2]
    overlay = tmp_path / "overlay.yaml"
    head = f"extends: {os.path.relpath(ROOT / f'workloads/{below}.yaml', tmp_path)}\n" if below else ""
    overlay.write_text(head + block.text)
    params, _ = workload.load(ROOT, [overlay])
    assert recipes.resolve(recipes.complete(params))


@pytest.mark.parametrize(
    "block",
    [b for b in blocks("python") + blocks("yaml") + blocks("") if b.mark.startswith("from: ")],
    ids=lambda b: b.page,
)
def test_lines_that_are_shown_stand_in_their_file(block):
    lines = {line.strip() for line in (ROOT / block.mark.removeprefix("from: ")).read_text().splitlines()}
    missing = [line for line in block.text.splitlines() if line.strip() not in lines | {"…", ""}]
    assert not missing, f"{block.page}: not in {block.mark}: {missing}"


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.mark.startswith("file: ")], ids=lambda b: b.page)
def test_files_that_are_shown_are_whole_and_not_there(block):
    from steps.judges import tasks

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node).rpartition(".")[2])
    task = yaml.load(block.text, Loader)
    assert not (ROOT / block.mark.removeprefix("file: ")).exists()
    assert all(hasattr(tasks, f["filter_fn"]) for f in task["filter_list"][0]["filter"] if "filter_fn" in f)
    assert task["task"] and task["metric_list"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for found in LINK.finditer(prose(page)):
        target, _, anchor = (found[1] or found[2]).partition("#")
        if "://" in target:
            continue
        file = (page.parent / unquote(target)).resolve() if target else page
        assert file.exists(), f"{page.name}: {found[0]}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {found[0]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_are_there(page):
    """Those of the tree, not what a run makes, the user's, or a pattern."""
    folders = "steps|tests|rules|workloads|profiles|tasks|benches|schemas|docs|data"
    named = re.findall(rf"`((?:{folders})/[\w./-]+)`", prose(page))
    assert [name for name in named if not (ROOT / name).exists() and "mine" not in name] == []


def anchors(page: Path) -> set[str]:
    """Of the headings, as they are made on a repository's pages."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short_and_tells_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 200 and "make demo" in text and "make test" in text
    pictures = [*(ROOT / "docs/images").iterdir()]
    assert len(pictures) >= 4 and all(picture.stat().st_size <= 300_000 for picture in pictures)


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/index.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name}" not in index] == ["index.md"]


def test_every_rule_is_named_on_the_page_of_its_subject():
    for file in ROOT.glob("rules/*.smk"):
        # A step, or what `steps.training.launch` starts.
        for subject, rule in re.findall(r"(?<!launch )\bsteps\.(\w+)\.(\w+)\b(?= ?\n? *\"? *--)", file.read_text()):
            page = ROOT / f"docs/{subject}.md"
            assert rule == "launch" or f"`{rule}`" in page.read_text(), f"{page.name} does not name the rule {rule}"


def test_every_section_of_the_report_is_on_its_page():
    from steps.report.sections import SECTIONS

    page = (ROOT / "docs/report.md").read_text()
    assert [section.title for section in SECTIONS if f"| {section.title} |" not in page] == []


def test_pins_and_versions_agree():
    required = (ROOT / "requirements.txt").read_text().splitlines()
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    pins = [pin for repo in hooks for hook in repo["hooks"] for pin in hook["additional_dependencies"]]
    assert pins and not set(pins) - set(required)
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"[{citation['version']}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text()


def test_hosted_ci_runs_what_a_person_runs():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["test"]["steps"] and os.access(ROOT / ".ci/run", os.X_OK)
