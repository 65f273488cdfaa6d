"""Every rule's command with paths that a shell, Snakemake or a wildcard would read otherwise; no step runs."""

import json
import re
import shutil
import stat
import subprocess

import pytest
import yaml

from steps.graph import workload
from tests.small import ROOT, copy_of_the_repository, environment

HOSTILE = """a b{c}{{d}} $(touch ran) `touch ran` 'q' "d" ;&|<>*?~#! 中文 \\n %s"""
# In the place of Python: writes down its arguments, and the files that the rule asks for.
STUB = """#!{python}
import json, sys
from pathlib import Path
if sys.argv[1:2] != ["-m"]:
    import os
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir(parents=True, exist_ok=True)
names = ("manifest.json", "index.html", "headline.json", "metrics.json", "summary.txt")
for name in (*names, "rows.html", "row.txt", "rows.txt", "rows.ansi"):
    (out / name).write_text("{{}}")
for name in ("tables", "figures"):
    (out / name).mkdir(exist_ok=True)
with open({log!r}, "a") as log:
    log.write(json.dumps(sys.argv[2:]) + "\\n")
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory) -> list[list[str]]:
    """The arguments of every step of a workload in which every path that a user names is hostile."""
    folder = copy_of_the_repository(tmp_path_factory.mktemp("quoting"))
    here = folder / HOSTILE
    shutil.copytree(folder / "data/fable/base", here / "base")
    shutil.copytree(folder / "data/fable/large", here / "large")
    for name in ("rows.jsonl", "exam.jsonl", "facts.txt", "general.txt"):
        (here / name).write_text('{"prompt": "q", "response": "a"}\n')
    (here / "reward.py").write_text("def reward(row, answer):\n    return 1.0\n")
    columns = {"prompt": "prompt", "response": "response"}
    own = [{"path": f"{HOSTILE}/rows.jsonl", "format": "prompt_response", "columns": columns}]
    own_reward = {"kind": "custom", "weight": 1.0, "file": f"{HOSTILE}/reward.py", "function": "reward"}
    change = {
        "models": {
            "base": {"path": f"{HOSTILE}/base", "template_kwargs": {"quoted": 'it\'s "$(touch ran)"'}},
            "large": {"path": f"{HOSTILE}/large"},
        },
        "data": {"exercises": {"sources": own}},
        "mixture": {"library": [f"{HOSTILE}/facts.txt"], "general": [f"{HOSTILE}/general.txt"]},
        "evidence": {"library": [f"{HOSTILE}/facts.txt"]},
        "evaluate": {"tasks": {"fable_problems": {"data_files": {"test": f"{HOSTILE}/exam.jsonl"}}}},
        "preflight": {"required": True},
        "studies": {
            "reinforcement": {
                "recipes": {
                    "judge": {"stage": "reward", "from": "base", "data": "preferences"},
                    "grpo": {
                        "rewards": {
                            "answer": {"kind": "answer", "weight": 1.0},
                            "own": own_reward,
                            "preferred": {"kind": "preference", "weight": 1.0, "model": "judge"},
                        }
                    },
                }
            },
            "distillation": {"recipes": {"cold": {"objective": "forward_kl"}}},
        },
    }
    content = workload.lay_over(workload.read(folder / workload.EMBEDDED), change)
    (folder / workload.EMBEDDED).write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    programs = folder / "programs"
    programs.mkdir()
    known = environment(folder)
    python = shutil.which("python", path=known["PATH"])
    (programs / "python").write_text(STUB.format(python=python, log=str(folder / "commands.jsonl")))
    (programs / "python").chmod(stat.S_IRWXU)
    done = subprocess.run(
        [
            "snakemake", "--cores", "1", "all", "preflight", "inspect", "deliver", "pretrain",
            "--config", "checkpoint=opd", "recipe=sft",
        ],
        cwd=folder, env={**known, "PATH": f"{programs}:{known['PATH']}"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert not list(folder.rglob("ran")), "a shell ran what a path says"
    return [json.loads(line) for line in (folder / "commands.jsonl").read_text().splitlines()]


def test_every_step_was_driven(commands):
    rules = "".join(path.read_text() for path in (ROOT / "rules").glob("*.smk"))
    named = set(re.findall(r"\bsteps(?:\.\w+){2}(?= --settings|\")", rules)) - {"steps.data.download"}
    assert named <= {word for words in commands for word in words if word.startswith("steps.")}


def test_every_path_reaches_its_step_as_it_is(commands):
    reached = {word for words in commands for word in words if HOSTILE in word and not word.startswith(("{", "["))}
    expected = ("base", "facts.txt", "general.txt", "exam.jsonl")
    assert {f"{HOSTILE}/{name}" for name in expected} <= reached
    for word in reached:
        assert word.startswith(HOSTILE), word
