"""What a shell completes: as bash and zsh hand over a line, and as bash shows it."""

import subprocess
import sys
from pathlib import Path

import pytest

from steps import cli
from steps.graph import completion
from tests import small
from tests.workloads import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(small.write(tmp_path))
    for name in ("params.yaml", "workloads", "data", "tasks"):
        (tmp_path / name).symlink_to(ROOT / name)


SMALL = ["--configfile", small.OVERLAY]


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ([""], ["foundation", "arena", "all", "preflight"], ["sft_lora"]),
        (["-n", "fou"], ["foundation"], []),
        (["--cores", ""], ["all"], ["foundation"]),
        (["--cores", "all", ""], ["foundation", "deliver"], []),
        (
            ["--configfile", ""],
            ["workloads/fable.yaml", "workloads/quick/gpu_24gb.yaml"],
            ["workloads/common/full.yaml"],
        ),
        (["-n", "--"], ["--configfile", "--config"], []),
        ([*SMALL, "--config", ""], ["checkpoint=", "recipe=", "live="], []),
        # bash splits at `=`, zsh does not.
        ([*SMALL, "--config", "checkpoint", "="], ["sft", "lora", "both", "base"], ["slerp"]),
        ([*SMALL, "--config", "checkpoint", "=", "l"], ["lora"], ["slerp"]),
        ([*SMALL, "--config", "checkpoint=l"], ["checkpoint=lora"], ["lora"]),
        (["--config", "recipe", "="], ["slerp", "sft_lora"], []),
        ([*SMALL, "--config", "data", "="], ["problems"], ["exercises"]),
        ([*SMALL, "--config", "live", "="], ["true"], []),
        ([*SMALL, "--config", "workload", "="], [], ["problems"]),
    ],
)
def test_what_may_stand_there(folder, line, some, none):
    words = completion.words(line)
    assert {*some} <= {*words} and not {*none} & {*words}, words


def test_an_overlay_that_cannot_be_read_completes_nothing_and_says_nothing(folder, capsys):
    Path(small.OVERLAY).write_text("a: b: c\n")
    cli.main(["words", "--", "--configfile", small.OVERLAY, "--config", "checkpoint", "="])
    assert capsys.readouterr() == ("\n", "")


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_bash_shows_the_names_that_begin_so(folder, shell, capsys):
    cli.main(["completion", shell])
    script = capsys.readouterr().out
    words = "snakemake -n --config checkpoint = sle".split()
    ask = (
        f'python() {{ {sys.executable} "$@"; }}\nCOMP_WORDS=({" ".join(words)}) COMP_CWORD={len(words) - 1}\n_temper\n'
    )
    if shell == "zsh":  # whose own line bash has not
        script = script.partition("\n")[2]
    done = subprocess.run(
        ["bash", "-c", f'{script}{ask}printf "%s\\n" "${{COMPREPLY[@]}}"'],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stdout.split() == ["slerp"], done.stderr
