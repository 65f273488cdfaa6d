"""The names of the causes."""

from steps.diagnosis.causes import CAUSES, DESCRIPTIONS, LABELS, NUMERALS, UNASSIGNED


def test_every_cause_has_its_names_in_the_order_of_the_tests():
    assert [NUMERALS[cause] for cause in CAUSES] == ["I", "II", "III", "IV", "V"]
    assert list(LABELS) == list(DESCRIPTIONS) == [*CAUSES, UNASSIGNED]
