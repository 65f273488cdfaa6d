"""What may be counted of a claim: independent seeds, equal budgets, a fair length; and how the tally counts it."""

from dataclasses import replace

import pytest

from steps.distillation.section import catalogue as distillation
from steps.reinforcement.section import catalogue as reinforcement
from steps.report.budgets import too_small, unequal
from steps.report.candidates import candidates_of, clusters
from steps.report.claims import Claim, Evidence, grouped, independent, settle, table_of, tally, worst
from steps.report.tables import Estimate
from steps.stability.section.catalogue import catalogue as stability
from tests.report.test_report import candidate

MORE = Estimate(0.1, 0.05, 0.15, 0.02, 400)


def arm(name, start, seeds=(0, 1, 2), steps=10, tokens=1000.0, rate=1e-4, **more):
    """The nodes of a recipe: each seed from its own start, or all from one."""
    log = [{"step": float(i + 1), "loss": 0.1, "tokens": tokens * (i + 1) / steps} for i in range(steps)]
    return [
        replace(candidate(f"{name}-s{s}", 0.5, 0.5, (start.format(s),)), recipe=name, seed=s, log=log,
                settings={"learning_rate": rate}, **more)
        for s in seeds
    ]  # fmt: skip


def compared(*arms):
    base = candidate("base", 0.1, 0.9, (), stage="model")
    return candidates_of([base, *(node for nodes in arms for node in nodes)])


def test_seeds_of_their_own_starts_are_independent_and_those_of_one_start_are_not():
    starts, once = arm("start", "base"), arm("once", "base", seeds=(0,))
    found = compared(starts, once, arm("apart", "start-s{}"), arm("shared", "once-s0"))
    assert {name: independent([found[name]]) for name in ("start", "apart", "shared")} == {
        "start": 3, "apart": 3, "shared": 1
    }  # fmt: skip
    assert independent([found["base"]]) is None and independent([found["base"], found["apart"]]) == 3
    assert independent([found["apart"], found["once-s0"]]) == 1  # the seed that both have


def test_a_teacher_in_common_joins_runs():
    teacher = arm("teacher", "base", seeds=(0,))
    taught = [replace(node, teachers=["teacher-s0"]) for node in arm("taught", "base")]
    found = compared(teacher, taught)
    assert independent([found["taught"]]) == 1
    assert settle("held", [found["taught"]]) == (
        "one seed",
        "one seed, where 3 are needed; runs that share a trained start or teacher count once, and these are 3.",
    )


def test_clusters_join_through_others():
    a, b, c = (frozenset(s) for s in ("x", "y", "xy"))
    assert len(set(clusters([a, b]))) == 2 and len(set(clusters([a, b, c]))) == 1
    assert len(set(clusters([frozenset(), frozenset()]))) == 2


@pytest.mark.parametrize(("seeds", "expected"), [((0,), "one seed"), ((0, 1), "two seeds"), ((0, 1, 2), "held")])
def test_fewer_than_three_seeds_decide_nothing(seeds, expected):
    found = compared(arm("a", "base", seeds), arm("b", "base", seeds))
    told, why = settle("held", [c for c in found.values() if c.stage != "model"])
    assert told == expected and bool(why) == (expected != "held")


@pytest.mark.parametrize(
    ("budget", "own"),
    [("steps", {"steps": 20}), ("tokens seen", {"tokens": 1100.0}), ("rates tried", {"rates": 3})],
)
def test_sides_of_other_budgets_decide_nothing(budget, own):
    rates = own.pop("rates", 1)
    found = compared(arm("a", "base"), arm("b", "base", **own))
    found["b"].rates = rates
    arms = [found["a"], found["b"]]
    assert settle("held", arms, ("steps", "tokens seen", "rates tried"))[0] == "other budgets"
    assert [of["budget"] for of in unequal(arms, ("steps", "tokens seen", "rates tried"))] == [budget]
    others = {"steps", "tokens seen", "rates tried"} - {budget}
    assert settle("held", arms, others) == ("held", "")


def test_rates_are_those_that_a_recipe_was_tried_at():
    points = [
        replace(node, grid={"learning_rate": rate}, settings={"learning_rate": rate})
        for rate in (1e-4, 1e-3) for node in arm(f"a{rate}", "base", seeds=(0,))
    ]  # fmt: skip
    found = compared([replace(node, recipe="a") for node in points], arm("b", "base", seeds=(0,)))
    assert {c.rates for c in found.values() if c.recipe == "a"} == {2} and found["b-s0"].rates == 1


def test_what_trained_nothing_is_held_to_no_budget():
    found = compared(arm("a", "base"))
    assert unequal([found["a"], found["base"]], ("steps", "tokens seen")) == []
    assert too_small([found["a"]], {"steps": 11})[0]["arms"] == [("a", 10)] and not too_small(
        [found["a"]], {"steps": 10}
    )


CLAIMS = (
    Claim("x", "X is above Y.", "9 against 8.", "a paper, table 1", "both", ("steps",)),
    Claim("y", "Y falls.", "It falls.", "a paper, table 2", "runs of Y"),
)  # fmt: skip


def test_every_claim_has_a_row_and_the_tally_counts_those_that_decide():
    found = compared(arm("a", "base"), arm("b", "base"), arm("c", "base", (0,)), arm("d", "base", steps=30))
    evidence = [
        Evidence("x", "here", "held", [found["a"], found[other]], {"difference": MORE}) for other in ("b", "c-s0", "d")
    ]
    table = table_of("t", "", [], CLAIMS, evidence)
    assert [row["verdict"] for row in table.rows] == ["held", "one seed", "other budgets", "not measured"]
    assert [row["why"] for row in table.rows][2:] == ["steps: a 10, d 30.", "It takes runs of Y."]
    assert tally(table) == (
        "Of 1 comparisons with three independent seeds and equal budgets 1 held."
        " Not counted: 1 one seed, 1 other budgets, 1 not measured."
    )
    first, second = grouped(table)
    assert (first["verdict"], second["verdict"]) == ("1 of 3", "not measured")


def test_units_stand_in_for_seeds():
    found = compared(arm("a", "base", (0,)))
    for units, expected in ((2, "two seeds"), (6, "held")):
        (row, _) = table_of("t", "", [], CLAIMS, [
            Evidence("x", "here", "held", [found["a-s0"]], {"difference": MORE}, units=units)
        ]).rows  # fmt: skip
        assert row["verdict"] == expected


def test_several_intervals_together():
    assert worst(["held", "undecided", "held"]) == "undecided" and worst(["undecided", "not held"]) == "not held"


def test_the_papers_claims_are_data():
    """Each with what is found there and where, and with what decides it; names are unique."""
    for claims in (reinforcement.CLAIMS, distillation.CLAIMS, stability()):
        assert len({claim.name for claim in claims}) == len({claim.text for claim in claims}) == len(claims)
        assert all(claim.text.endswith(".") and claim.published.endswith(".") and claim.decides for claim in claims)
        assert all(claim.paper for claim in claims if "control" not in claim.published)
