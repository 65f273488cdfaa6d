"""Names that become paths: how they are spelled, which are taken, how points of a grid are called."""

import re

import pytest

from steps.settings.names import RESERVED_RECIPES, RESERVED_STUDIES, check_apart, in_a_name
from steps.settings.stages import STAGES
from tests.workloads import ROOT

HOSTILE = [
    "$(touch x)", "/..", "..", "../../x", "a/b", "a|b", "a b", "'", '"', "a\nb", "a\0b", "{node}", "é", "", "-s0", "-",
    "*", "a;b", "x" * 255, "x" * 254 + "y", "a\\b", "#", "~", "%", "&", "\u202e", "A" * 41,
]  # fmt: skip


@pytest.mark.parametrize(
    "value, name",
    [
        (2.0e-4, "0.0002"), (1.0e-5, "1e-05"), (4, "4"), (-1.0, "-1.0"), (True, "True"), ("shuffle", "shuffle"),
        ([0.5, 0.25], "0.5+0.25"), ("dr_grpo", "dr_grpo"), ("v1.5", "v1.5"),
    ],
)  # fmt: skip
def test_plain_values_are_called_what_they_are(value, name):
    assert in_a_name(value) == name


def test_all_others_are_made_safe_and_stay_apart():
    names = [in_a_name(value) for value in HOSTILE]
    assert len({name.lower() for name in names}) == len(HOSTILE)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.]{0,39}", name) for name in names), names
    assert in_a_name("$(touch x)").startswith("touch_x_")
    assert len(in_a_name([0.1] * 100)) <= 40


def test_names_that_case_alone_tells_apart():
    check_apart([("a", "one"), ("b", "two")])
    with pytest.raises(ValueError, match="^b: `One` and `one` are one file where case does not count; rename one"):
        check_apart([("a", "one"), ("b", "One")])
    with pytest.raises(ValueError, match="^b: `one` stands twice"):
        check_apart([("a", "one"), ("b", "one")])


def test_every_rule_and_results_folder_is_reserved():
    rules = "\n".join(file.read_text() for file in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])
    named = {*re.findall(r"^\s*(?:rule|checkpoint) (\w+):", rules, re.MULTILINE)}
    folders = {*re.findall(r"results(?:/\{workload\}|/\{\{workload\}\}|\})/(\w+)/", rules)}
    assert len(named) > 20 and len(folders) > 10
    assert named | folders <= {*RESERVED_STUDIES, *STAGES}
    assert {*re.findall(r"work/\{workload\}/(\w+)/\{", rules)} == {*RESERVED_RECIPES}
