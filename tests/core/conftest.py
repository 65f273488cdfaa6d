import shutil
from pathlib import Path

import pytest

from steps.core.files import write_json
from tests.core.toy import STEP, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A project of one step, which has run once."""
    shutil.copytree(ROOT / "steps/core", tmp_path / "steps/core")
    (tmp_path / "steps/__init__.py").write_text("")
    (tmp_path / "steps/toy").mkdir()
    (tmp_path / "steps/toy/__init__.py").write_text("")
    (tmp_path / "steps/toy/double.py").write_text(STEP)
    write_json(tmp_path / "data.json", {"value": 3})
    monkeypatch.chdir(tmp_path)
    run(tmp_path)
    return tmp_path
