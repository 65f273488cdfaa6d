"""The ledger of faults names tests that are there."""

import re

from tests.workloads import ROOT


def test_every_fault_of_the_ledger_has_its_test():
    page = (ROOT / "docs/reliability.md").read_text()
    text = page.partition("## Faults tried")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith(("| fault", "| **"))]
    named = [re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", row) for row in rows]
    assert len(rows) > 50 and all(named), [row for row, tests in zip(rows, named, strict=True) if not tests]
    for tests in named:
        for file, name in tests:
            assert (ROOT / file).is_file(), file
            assert not name or f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
