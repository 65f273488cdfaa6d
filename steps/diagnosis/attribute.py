"""Attribute every unlearned row to the cause of its incomplete learning, by the sequential tests I to V.

The tests are the table `RULES`: a rule is a cause, where the paper (Xue et al., ACL 2026) gives its test, and the
conditions that a row's evidence must meet, each with the words that say what was found. The first rule whose
conditions all hold gives the cause; a row that passes none stays unassigned. Every row carries the outcome of all
five tests, so that a person can disagree. To change a test, change its line here or its threshold in params.yaml.

Run as: python -m steps.diagnosis.attribute --settings '{"blind": 0.2, …}' --evidence evidence.parquet --out …
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.diagnosis.causes import CAUSES, LABELS, NUMERALS, UNASSIGNED
from steps.judges.comparison import same
from steps.settings.diagnosis import Attribute
from steps.settings.errors import check
from steps.stats.agreement import js_divergence


class Condition(NamedTuple):
    """What must hold of a row's evidence.

    Attributes:
        holds: from the evidence of the row (with what `derive` adds) and the thresholds.
        found: the finding, a template over the same evidence; `unmet` is its opposite.
    """

    holds: Callable[[dict, dict], bool]
    found: str
    unmet: str


class Rule(NamedTuple):
    """A test of the paper: the cause that it assigns, and when."""

    cause: str
    paper: str
    conditions: tuple[Condition, ...]


def learned_once(row: dict, at: dict) -> bool:
    """Right at a point of training, or with a loss that has since grown by the factor `rise`."""
    return row["ever_correct"] or row["loss"] > at["rise"] * row["lowest_loss"]


NO_RIVAL = Condition(
    lambda row, at: not row["rival"],
    "no other row asks the same and answers otherwise",
    "row {rival} asks the same and answers otherwise ({rival_answer})",
)
STATES_A_FACT = Condition(
    lambda row, at: bool(row["entity"]) and row["kind"] == "short",
    "the row states a fact about {entity}",
    "the row states no fact about anything named",
)
BLIND = Condition(
    lambda row, at: row["base_pass"] < at["blind"] and not row["base_best_of_5"],
    "the base is right in {base_pass:.0%} of its samples, and its most confident one is wrong",
    "the base is right in {base_pass:.0%} of its samples",
)
# The paper tests D_JS(base, tuned) > 0.3. Where the tuned model still says what the base says, which is just where
# the conflict was lost, that divergence is small (its median over planted conflicts is 0.17), so the base is held
# against the label instead.
AGAINST_THE_LABEL = Condition(
    lambda row, at: row["label_js"] > at["divergence"],
    "its belief differs from the label by {label_js:.2f} nats (tuned model: {js:.2f})",
    "its belief differs from the label by only {label_js:.2f} nats",
)

RULES = (
    Rule(
        "missing_knowledge",
        "section 3.1.5, algorithm 1, table 10: P_exist = 0, pass@10 < 0.2, best of 5 wrong",
        (
            NO_RIVAL,
            STATES_A_FACT,
            BLIND,
            Condition(
                lambda row, at: row["base_confidence"] < at["sure"],
                "the base is not sure of its own answer {base_answer} (probability {base_confidence:.2f})",
                "the base is sure of its own answer {base_answer} (probability {base_confidence:.2f})",
            ),
            Condition(
                lambda row, at: row["held"] <= at["held"],
                "the row was right at {held:.0%} of the points of training",
                "the row was right at {held:.0%} of the points of training",
            ),
        ),
    ),
    Rule(
        "base_conflict",
        "table 10: D_JS > 0.3; P_base(y) > T_conf with y not the label",
        (
            NO_RIVAL,
            STATES_A_FACT,
            Condition(
                lambda row, at: not same(row["base_answer"], row["answer"]),
                "the base says {base_answer} where the row says {answer}",
                "the base says what the row says ({answer})",
            ),
            Condition(
                lambda row, at: row["base_confidence"] >= at["sure"],
                "the base is sure of it (probability {base_confidence:.2f})",
                "the base is not sure of it (probability {base_confidence:.2f})",
            ),
            AGAINST_THE_LABEL,
        ),
    ),
    Rule(
        "data_conflict",
        "section on conflicts inside the data: Sim(s_i, s_j) > X, then a judge",
        (
            Condition(
                lambda row, at: bool(row["rival"]),
                "row {rival} asks the same ({rival_similarity:.2f} similar) and answers {rival_answer}, not {answer}",
                "no other row asks the same and answers otherwise",
            ),
        ),
    ),
    Rule(
        "left_side_forgetting",
        "accuracy of the data set falls by more than T_drop = 5 % relative",
        (
            Condition(
                lambda row, at: learned_once(row, at),
                "the row was learned better once: {learned}",
                "the row was never learned better than at the end: {learned}",
            ),
            Condition(
                lambda row, at: row["domain_drop"] > at["drop"],
                "its domain {domain} fell from {domain_peak:.0%} right to {domain_final:.0%}",
                "its domain {domain} kept what it learned ({domain_final:.0%} right, {domain_peak:.0%} at best)",
            ),
        ),
    ),
    Rule(
        "insufficient_optimisation",
        "table 10: the residual, not fully learned in the epochs given",
        (
            NO_RIVAL,
            Condition(
                lambda row, at: not (learned_once(row, at) and row["domain_drop"] > at["drop"]),
                "nothing that was learned got lost",
                "the row was learned and its domain lost it",
            ),
            Condition(
                lambda row, at: row["weakest"] < at["weakest"],
                "there is room: a token of its response has probability {weakest:.2f} only",
                "there is no room: no token of its response is below probability {weakest:.2f}",
            ),
            Condition(
                lambda row, at: row["lowest_loss"] < (1 - at["progress"]) * row["first_loss"],
                "it was on its way: the loss fell from {first_loss:.2f} to {lowest_loss:.2f} ({loss:.2f} at the end,"
                " {loss_slope:+.3f} an epoch)",
                "it was not on its way: the loss never fell far below {first_loss:.2f} ({lowest_loss:.2f} at best)",
            ),
        ),
    ),
)


def derive(row: dict) -> dict:
    """The evidence with the few numbers that are made of it; a number that is missing passes no test."""
    label = [1.0] + [0.0] * (len(row["base_options"]) - 1)
    right = row["trajectory"]
    known = {key: math.nan if value is None else value for key, value in row.items()}
    once = f"right at {sum(right)} of {len(right)} points, the last at epoch {known['last_correct_epoch']:.2f}"
    never = f"right at no point, loss {known['loss']:.2f} at the end and {known['lowest_loss']:.2f} at best"
    return known | {
        "learned": once if any(right) else never,
        "label_js": float(js_divergence(row["base_options"], label)),
        "held": sum(right) / len(right) if right else 0.0,
    }


def outcome(rule: Rule, row: dict, thresholds: dict) -> tuple[list[str], list[str]]:
    """What speaks for and what against a rule."""
    held, against = [], []
    for condition in rule.conditions:
        holds = condition.holds(row, thresholds)
        (held if holds else against).append((condition.found if holds else condition.unmet).format_map(row))
    return held, against


def sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "."


def wrong_side(row: dict, thresholds: dict) -> tuple[bool, str]:
    """Whether the row, and not its rival, is wrong; and why.

    The library decides where it supports one side only. Where it supports both, both are right; where it is silent,
    the base decides if it clearly prefers the rival.
    """
    own, other = row["support"], row["rival_support"]
    told = f"the library has {own} documents for {row['answer']} and {other} for {row['rival_answer']}"
    if own and other:
        return False, f"{told}: both are right"
    if own or other:
        return not own, f"{told}: this row is {'right' if own else 'wrong'}"
    preference = row["base_rival_probability"]
    told = f"the library is silent, and the base gives {row['rival_answer']} {preference:.0%} of its belief in the two"
    wrong = preference >= thresholds["judge"]
    return wrong, f"{told}: {'this row is wrong' if wrong else 'undecided'}"


def attribute(row: dict, thresholds: dict) -> dict:
    """Cause, reason and the outcome of all tests for one row of evidence."""
    row = derive(row)
    tests, passed, nearest = [], None, None
    for rule in RULES:
        held, against = outcome(rule, row, thresholds)
        name = f"{NUMERALS[rule.cause]} {LABELS[rule.cause]}"
        tests.append(f"{name}: {'failed' if against else 'passed'}. {sentence(against or held)}")
        if not against:
            passed = passed or (rule.cause, sentence(held))
        # Of tests that fail at equally many conditions the later asks less.
        if nearest is None or len(against) <= len(nearest[1]):
            nearest = name, against
    cause, reason = passed or (
        UNASSIGNED,
        f"No test passed. The nearest was {nearest[0]}, but {'; '.join(nearest[1])}.",
    )
    wrong = False
    if cause == "data_conflict":
        wrong, why = wrong_side(row, thresholds)
        reason += f" {sentence([why])}"
    return {"id": row["id"], "cause": cause, "reason": reason, "tests": tests, "wrong_side": wrong}


def conflict_groups(evidence: list[dict], causes: list[str]) -> dict[str, list[str]]:
    """Members of the conflict group of each row in one: rows that ask the same, however they answer.

    Asking the same is closed over the rows attributed to data_conflict, so that groups are disjoint.
    """
    group: dict[str, set[str]] = {}
    for row, cause in zip(evidence, causes, strict=True):
        if cause != "data_conflict":
            continue
        merged = {row["id"], row["rival"], *row["same_question"]}
        merged = merged.union(*(group[member] for member in merged if member in group))
        group |= dict.fromkeys(merged, merged)
    return {member: sorted(members) for member, members in group.items()}


def schema() -> Any:
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    return pa.schema(
        {
            "id": text,
            "cause": text,
            "reason": text,
            "tests": texts,
            "wrong_side": pa.bool_(),
            "rival": text,
            "group": text,
            "members": texts,
        }
    )


def main(args: argparse.Namespace) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    started = time.time()
    check(Attribute, args.settings, "attribute")
    evidence = pq.read_table(args.evidence).to_pylist()
    found = [attribute(row, args.settings) for row in evidence]
    groups = conflict_groups(evidence, [row["cause"] for row in found])
    for row, seen in zip(found, evidence, strict=True):
        # The rival of a row that another cause explains stays in the evidence.
        conflict = row["cause"] == "data_conflict"
        members = groups[row["id"]] if conflict else []
        row |= {"rival": seen["rival"] if conflict else "", "group": members[0] if members else "", "members": members}

    out = fresh_folder(args.out)
    pq.write_table(pa.Table.from_pylist(found, schema=schema()), out / "attribution.parquet")
    counts = Counter(row["cause"] for row in found)
    write_manifest(
        out,
        step="attribute",
        settings=args.settings,
        inputs=[args.evidence],
        counts={"in": len(found), "causes": {cause: counts[cause] for cause in (*CAUSES, UNASSIGNED)},
                "wrong_side": sum(row["wrong_side"] for row in found),
                "conflict_groups": len({row["group"] for row in found} - {""})},
        started=started,
    )  # fmt: skip


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--evidence", type=Path, required=True, help="evidence.parquet of the same checkpoint")
    run(main, parser)
