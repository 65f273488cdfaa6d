"""The section on trainings says what storing their weights cost."""

from types import SimpleNamespace

from steps.report.overview.training import tables
from steps.report.tables import Link

ROUNDING = {"dtype": "bfloat16", "equal_trained": 0.0123, "equal": 0.838, "cosine": 0.49}


def comparison(counts: dict | None) -> SimpleNamespace:
    member = SimpleNamespace(
        node="rl", manifest=counts and {"counts": counts}, manifest_link=Link("rl", "m.json", "ab")
    )
    return SimpleNamespace(candidates={"rl": SimpleNamespace(members=[member])})


def test_rounded_checkpoints_are_in_a_table():
    (table,) = tables(comparison({"steps": 3, "rounding": ROUNDING}))
    assert table.name == "rounding" and "| 1.2 | 83.8 | 0.490 |" in table.markdown()
    assert table.csv().splitlines()[1].startswith("rl,bfloat16,0.0123,0.838,0.49")


def test_where_nothing_was_rounded_there_is_none():
    assert not tables(comparison({"steps": 3})) and not tables(comparison(None))
