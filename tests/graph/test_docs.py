"""What docs/ shows of the code is what the code says; its picture has the packages where their imports put them."""

from pathlib import Path

import pytest

from steps.graph import architecture, docs
from steps.settings.adapters import ADAPTERS
from steps.settings.merging import MERGES
from steps.settings.methods import METHODS
from steps.settings.rewards import REWARDS
from steps.settings.stages import STAGES

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
STALE = "run python -m steps.graph.docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_fresh(page):
    text = page.read_text()
    assert docs.filled(text) == text, STALE


def test_the_picture_is_fresh():
    assert (ROOT / "docs" / docs.PICTURE).read_text() == architecture.picture(ROOT), STALE


@pytest.mark.parametrize(
    ("page", "entries"),
    [
        ("recipes", STAGES),
        ("recipes", MERGES),
        ("stability", ADAPTERS),
        ("reinforcement", METHODS),
        ("reinforcement", REWARDS),
    ],
)
def test_every_entry_of_a_registry_is_on_its_page(page, entries):
    text = (ROOT / f"docs/{page}.md").read_text()
    assert [name for name in entries if f"| `{name}` |" not in text] == []


def test_every_stage_has_the_page_of_its_subject():
    for line in docs.stage_table().splitlines()[2:]:
        page = line.rpartition("](")[2].split(")")[0]
        assert (ROOT / "docs" / page).is_file(), line


def test_a_block_that_nothing_makes_is_refused():
    with pytest.raises(ValueError, match="generated: speeds; nothing makes that"):
        docs.filled("<!-- generated: speeds -->\n<!-- end -->")


def test_packages_stand_above_what_they_import():
    found = {
        "core": set(),
        "models": {"core"},
        "data": {"models", "world"},
        "world": {"data"},
        "page": {"data", "models"},
    }
    assert architecture.rows(found) == [["core"], ["models"], ["data", "world"], ["page"]]


def test_what_stands_above_the_sections_is_a_package_of_its_own():
    imported = {
        "steps.report.tables": set(),
        "steps.stability.section.facts": {"steps.report.tables"},
        "steps.report.sections": {"steps.stability.section.facts"},
        "steps.report.report": {"steps.report.sections", "steps.report.tables"},
    }
    assert architecture.packages(imported) == {
        "report": set(),
        "stability/section": {"report"},
        "report page": {"stability/section", "report"},
    }
