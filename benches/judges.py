r"""How often each judge of answers is right, on answers whose verdicts were written by hand.

benches/judges.yaml has them, by what they try. Judged are the rewards of reinforcement, what buckets and detection
compare by, the tasks that measure, and for comparison Math-Verify as it comes and the patterns of lm-eval's and verl's
GSM8K. A judge that refuses a gold answer, runs out of time or ends counts as "not right".

Run as: python -m benches.judges
"""

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from steps.data.equivalence import Checker

from benches.common import bench_parser, figure, write_result
from steps.core import bounded
from steps.data import answers
from steps.reinforcement.reward_kinds import numeric

CASES = Path(__file__).with_suffix(".yaml")
SECONDS = 5.0
# How an answer stands in a response, by its mark; of "whole …" the response is written out.
FRAMES = {"####": "We add what we know.\n#### {}", "boxed": r"Hence the answer is $\boxed{{{}}}$.", "short": "{}"}


class Case(NamedTuple):
    """A gold answer, a response to it, and whether that is right; `kind` is what it tries."""

    kind: str
    mark: str
    gold: str
    response: str
    right: bool

    def told(self) -> str:
        """A wrong verdict on it, on one line."""
        return f"{self.kind}: {self.gold!r}, {self.response!r}: {'refused' if self.right else 'taken'}"


def cases() -> list[Case]:
    made = []
    for entry in yaml.safe_load(CASES.read_text(encoding="utf-8")):
        mark = entry["mark"].removeprefix("whole ")
        frame = "{}" if entry["mark"] != mark else FRAMES[mark]
        for right in (True, False):
            for text in entry["right" if right else "wrong"]:
                made.append(Case(entry["kind"], mark, entry["gold"], frame.format(text), right))
    return made


def math_verify_as_it_comes(response: str, gold: str) -> float:
    """Math-Verify's own defaults on both texts, the gold boxed: its README's first example. Called in a child."""
    from math_verify import parse, verify

    return float(verify(parse(rf"\boxed{{{gold}}}"), parse(response)))


def gsm8k_pattern(case: Case) -> bool:
    r"""`#### (\-?[0-9\.\,]+)`, without commas and dollar signs: lm-eval's strict-match (its first find) and, of the
    last find, verl's `strict`."""
    found = re.findall(r"#### (\-?[0-9\.\,]+)", case.response)
    clean = [re.sub(r"[,$]|\.$", "", text) for text in (found[0] if found else "", case.gold)]
    return clean[0] == clean[1]


def judges(checker: Checker, worker: bounded.Worker) -> dict[str, tuple[str, Callable[[Case], bool]]]:
    """Name -> (marks that it is for, whether it takes a response for right)."""

    def equivalence(case: Case) -> bool:
        try:
            return checker.check([(case.response, case.gold)]) == ["right"]
        except ValueError:
            return False  # the gold is refused

    def by_default(case: Case) -> bool:
        try:
            return worker.call(math_verify_as_it_comes.__name__, case.response, case.gold) == 1.0
        except bounded.Failed:
            return False

    def solved(case: Case) -> bool:
        given = answers.given_answer("short" if case.mark == "short" else "worked", case.response)
        return answers.equal(given, case.gold)

    def task_math(case: Case) -> bool:
        (given,) = answers.filter_boxed([[case.response]], None)
        return answers.score_boxed({"answer": case.gold}, given)["exact_match"] == 1.0

    return {
        "reward answer, numeric": ("####", lambda case: numeric(case.response, case.gold).value == 1.0),
        "reward answer, math": ("#### boxed", equivalence),
        "buckets and detection": ("#### boxed short", solved),
        "tasks/math.yaml": ("boxed", task_math),
        "Math-Verify, as it comes": ("#### boxed", by_default),
        "pattern of lm-eval and verl, GSM8K": ("####", gsm8k_pattern),
    }


def shares(told: list[tuple[Case, bool]]) -> Iterator[tuple[str, float]]:
    """In %: verdicts that are right of all, refused of the right answers, taken of the wrong ones."""
    right = [verdict for case, verdict in told if case.right]
    wrong = [verdict for case, verdict in told if not case.right]
    yield "verdicts that are right", 100 * (sum(right) + len(wrong) - sum(wrong)) / len(told)
    yield "right answers refused", 100 * (1 - sum(right) / len(right))
    yield "wrong answers taken", 100 * sum(wrong) / len(wrong)


def main(args: argparse.Namespace) -> None:
    tried, figures, mistakes = cases()[:: args.every], [], {}
    worker = bounded.Worker(Path(__file__), SECONDS)
    try:
        with Checker(SECONDS) as checker:
            for name, (marks, judge) in judges(checker, worker).items():
                for mark in marks.split():
                    told = [(case, judge(case)) for case in tried if case.mark == mark]
                    figures += [
                        figure(f"{name}, {mark}: {what} (of {len(told)})", [share], "%") for what, share in shares(told)
                    ]
                    mistakes[f"{name}, {mark}"] = [case.told() for case, verdict in told if verdict != case.right]
                print(f"judges: {name}", flush=True)
    finally:
        worker.close()
    write_result(args.out, __doc__, figures, {"cases": len(tried), "mistakes": mistakes})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "judges", {"every": 6})
    parser.add_argument("--every", type=int, default=1, help="take every so many of the cases")
    main(parser.parse_args())
