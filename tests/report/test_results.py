"""docs/results.md is what the committed tables say."""

import json
from pathlib import Path

import pytest

from steps.report import results

ROOT = Path(__file__).parents[2]
TABLE = (
    "| arm | score % | note |\n| --- | ---: | --- |\n"
    + "| a | 1.0 [0.5, 1.5] | x \\| y |\n| b | 2.0 | – |\n\nA caption.\n"
)


@pytest.fixture
def tables(tmp_path) -> results.Tables:
    (tmp_path / "arms.md").write_text(TABLE)
    (tmp_path / "sizes.md").write_text("| arm | size |\n| --- | --- |\n| a | 7 |\n| b | 8 |\n")
    return results.Tables(tmp_path)


def test_the_page_is_what_its_generator_writes():
    assert results.PAGE.read_text() == results.page(ROOT / "reports"), "run python -m steps.report.results"


def test_cells_and_tables(tables):
    assert tables.cell("arms", "score %", "a") == "1.0 [0.5, 1.5]" and tables.cell("arms", "note", "a") == "x | y"
    assert tables.count("arms") == 2 and tables.count("arms", {"note": "–"}) == 1
    assert tables.table("arms", {"which": "arm", "size": "sizes: size"}, {"b": "the second"}) == (
        "| which | size |\n| --- | --- |\n| the second | 8 |"
    )
    assert results.level("1.0 [0.5, 1.5]") == "1.0"
    cells = ("+1.0 [+0.1, +1.5]", "−2.0 [−3.0, −0.5]", "+0.3 [−0.4, +1.0]", "−0.3 [−0.6, 0.0]")
    assert [*map(results.reading, cells)] == ["more", "less", "undecided", "undecided"]


@pytest.mark.parametrize(("column", "row"), [("speed", "a"), ("score %", "c")])
def test_a_cell_that_is_not_there_names_the_table_and_its_columns(tables, column, row):
    with pytest.raises(ValueError, match=r"arms.md: .* columns?.*arm, score %, note"):
        tables.cell("arms", column, row)


BENCH = {
    "title": "Measure a merge.",
    "figures": [
        {"what": "rate, of cp's", "unit": "", "rounds": 3, "median": 0.5, "min": 0.4, "max": 0.61234, "least": 0.5},
        {"what": "peak", "unit": "MiB", "rounds": 1, "median": 12345.6, "min": 12345.6, "max": 12345.6},
    ],
    "machine": {"processor": "a", "cores": 2, "memory_gib": 8},
    "versions": {"torch": "2.13.0"},
    "detail": {},
}


def test_every_bench_result_is_a_table(tmp_path):
    (tmp_path / "merge.json").write_text(json.dumps(BENCH))
    (bench,) = results.benches(tmp_path)
    assert bench["name"] == "merge" and bench["machine"] == "processor a, cores 2, memory gib 8"
    assert bench["table"].splitlines()[2:] == [
        "| rate, of cp's | 0.5 | 0.4 to 0.612 | 3 | at least 0.5 |",
        "| peak | 12,346 MiB | – | 1 | – |",
    ]


def test_a_page_with_benches_shows_them(tmp_path):
    for folder in ("fable_full", "fable_rates", "fable_variants"):
        (tmp_path / folder).symlink_to(ROOT / "reports" / folder)
    (tmp_path / "bench").mkdir()
    for name in ("merge", "sort"):
        (tmp_path / f"bench/{name}.json").write_text(json.dumps(BENCH))
    page = results.page(tmp_path)
    assert "### merge" in page and "| peak | 12,346 MiB |" in page and page.count("Versions: torch 2.13.0.") == 1
