"""The linter of imports knows every package and every rule's module; the other way round, what it names is there."""

import configparser
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = configparser.ConfigParser()
CONFIG.read(ROOT / ".importlinter", encoding="utf-8")


def listed(contract: str, key: str) -> set[str]:
    return set(re.findall(r"steps[\w.]*", CONFIG[f"importlinter:contract:{contract}"][key]))


def test_no_rule_is_left_out():
    """Trainings are started by steps.training.launch, whose argument is the module."""
    commands = " ".join(file.read_text(encoding="utf-8") for file in (ROOT / "rules").glob("*.smk"))
    run = set(re.findall(r"python -m (steps\.[\w.]+)", commands)) | set(
        re.findall(r"\{resources\.processes:q\} (steps\.[\w.]+)", commands)
    )
    assert listed("rules", "modules") == run - {"steps.training.launch"}


def test_no_package_is_left_out():
    packages = {f"steps.{path.parent.name}" for path in (ROOT / "steps").glob("*/__init__.py")}
    modules = {f"steps.{path.stem}" for path in (ROOT / "steps").glob("*.py")} - {"steps.__init__"}
    assert listed("layers", "layers") | {"steps.report"} == packages | modules
