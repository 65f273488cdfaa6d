"""The section on trainings says what storing their weights cost."""

import re
from types import SimpleNamespace

from steps.report.overview.training import curves, tables
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


def test_a_curve_says_its_ends_when_it_is_pointed_at():
    log = [{"step": step, "loss": 2.0 / step} for step in (1, 2, 4)]
    drawn = curves("sft", {"sft-s0": log, "empty": [{"step": 1}]}, "sft", 3.0)
    assert re.findall("<title>([^<]*)</title>", drawn) == ["sft-s0: 2 → 0.5"]
