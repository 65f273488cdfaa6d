"""What Snakemake's command line is refused for before Snakemake reads it, and that the profiles ask."""

import os
import re
import subprocess
import sys

import pytest
import yaml

from steps.graph import command_line
from tests.workloads import ROOT

EXAMPLE = "workloads/example.yaml"


def error(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        command_line.check([*arguments])
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("temper: error: ") and line.count("\n") == 1
    return line


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--configfile", EXAMPLE, "foundation"],
         f"--configfile: foundation is a target and no file .* write snakemake foundation --configfile {EXAMPLE}$"),
        (["-n", "--configfiles", EXAMPLE, "sft", "all", "--cores", "1"], f"snakemake sft all --configfile {EXAMPLE}$"),
        (["--configfile", EXAMPLE, "results/fable/sft/sft/manifest.json"], "is a target"),
        (["--configfile=gone.yaml"], "there is no file gone.yaml; correct the path"),
        (["--configfile", EXAMPLE, "--configfile", EXAMPLE], "--configfile stands twice, and Snakemake heeds the last"),
        (["--config", "a=1", "-C", "b=2"], "--config stands twice"),
        (["--config", "workload=mine", "foundation"], "--config: foundation is no <key>=.* snakemake foundation "),
        (["--config", "sft={epochs: 1, epochs: 2}"], "--config sft:1:13: the key 'epochs' stands in line 1 already"),
        (["--config", "seeds=[0]", "seeds=[1]"], "--config: seeds stands twice"),
    ],
)  # fmt: skip
def test_what_snakemake_would_swallow_is_explained(capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    assert re.search(message, error(capsys, *arguments).strip())


def test_a_file_is_read_with_what_it_stands_on(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below.yaml").write_text("sft: {epochs: 1}\nsft: {epochs: 2}")
    (tmp_path / "mine.yaml").write_text("extends: below.yaml")
    assert "below.yaml:2:1: the key 'sft' stands in line 1 already" in error(capsys, "--configfile", "mine.yaml")
    (tmp_path / "mine.yaml").write_text("__use_yte__: true\nworkload: ?open('made', 'w')")
    assert "mine.yaml: __use_yte__ has no place" in error(capsys, "--configfile", "mine.yaml")


def test_what_is_right_passes(monkeypatch):
    monkeypatch.chdir(ROOT)
    command_line.check(["foundation", "--configfile", EXAMPLE, "-n", "--config", "workload=m", "sft={epochs: 1}"])
    command_line.check(["--configfile", EXAMPLE, "--", "foundation"])
    command_line.check(["--configfile=" + EXAMPLE, "foundation"])
    command_line.check([])


@pytest.mark.parametrize("profile", ["default", "slurm"])
def test_every_profile_asks(profile):
    content = yaml.safe_load((ROOT / f"profiles/{profile}/config.yaml").read_text())
    assert content["__use_yte__"] and "command_line.check(sys.argv[1:])" in content["__definitions__"][0]


def test_snakemake_ends_in_that_line(tmp_path):
    """From a shell whose Python path has no checkout, as `snakemake` itself starts."""
    script = "import sys; sys.path.pop(0); sys.argv[0] = 'snakemake'; from snakemake.cli import main; main()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def ends(folder, *arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)

    ended = ends(ROOT, "-n", "--configfile", EXAMPLE, "foundation")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("temper: error: --configfile: foundation is a target")
    # Where it starts elsewhere there is nothing to ask, and nothing fails for it.
    elsewhere = ends(tmp_path, "-s", str(ROOT / "Snakefile"), "-d", str(ROOT), "--config", "workload=a;b")
    assert elsewhere.returncode == 2 and "workload: 'a;b' does not match" in elsewhere.stderr
