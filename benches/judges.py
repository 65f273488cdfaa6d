r"""How often each judge of answers is right, on answers whose verdicts were written by hand.

benches/judges.yaml has them, by what they try. Judged are the judges of `steps/judges`, which rewards, buckets,
detection and tasks share, and for comparison Math-Verify as it comes, the code of MATH's paper and the patterns of
lm-eval's and verl's GSM8K. Those of the cases that are marked unseen were written before the judges and are told apart.

Run as: python -m benches.judges
"""

import argparse
import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import yaml

from benches.common import bench_parser, figure, write_result
from steps.core import bounded
from steps.judges import reading
from steps.judges.kinds import JUDGES, Judging
from steps.judges.mathematics import Checker

CASES = Path(__file__).with_suffix(".yaml")
SECONDS = 5.0
# How an answer stands in a response, by its mark; of "whole …" the response is written out.
MARKS = {"####": "either", "boxed": "either", "short": "none", "block": "either"}
FRAMES = {
    "####": "We add what we know.\n#### {}",
    "boxed": r"Hence the answer is $\boxed{{{}}}$.",
    "short": "{}",
    "block": "This will do:\n\n```python\n{}\n```\n",
}


class Case(NamedTuple):
    """A gold answer, a response to it, and whether that is right; `kind` is what it tries. An `unseen` one was written
    before the judges, and no judge was changed for it. Those of a `judge` are for that one alone."""

    kind: str
    mark: str
    gold: str
    response: str
    right: bool
    unseen: bool
    judge: str = ""
    question: str = ""

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
                response, unseen = frame.format(text), entry.get("unseen", False)
                of = entry.get("judge", ""), entry.get("question", "")
                made.append(Case(entry["kind"], mark, entry["gold"], response, right, unseen, *of))
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


def by_paper(case: Case) -> bool:
    """The code of MATH's paper on the last box, as lm-eval has it."""
    from lm_eval.tasks.hendrycks_math.utils import is_equiv

    return bool(is_equiv(reading.boxed(case.response), case.gold))


def judges(own: dict[str, Judging], worker: bounded.Worker) -> dict[str, tuple[str, Callable[[Case], bool]]]:
    """Name -> (marks that it is for, whether it takes a response for right)."""

    def by(kind: str) -> Callable[[Case], bool]:
        return lambda case: own[kind].judge(case.gold, case.response, MARKS[case.mark], case.question).right

    def by_default(case: Case) -> bool:
        try:
            return worker.call(math_verify_as_it_comes.__name__, case.response, case.gold) == 1.0
        except bounded.Failed:
            return False

    return {
        "number": ("#### short", by("number")),
        "math": ("#### boxed short", by("math")),
        "exact": ("#### boxed short", by("exact")),
        "Math-Verify, as it comes": ("#### boxed", by_default),
        "code of MATH's paper": ("boxed", by_paper),
        "pattern of lm-eval and verl, GSM8K": ("####", gsm8k_pattern),
        "choice": ("#### boxed short", by("choice")),
        "pattern": ("#### boxed", by("pattern")),
        "code": ("block", by("code")),
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
    worker, checker = bounded.Worker(Path(__file__), SECONDS), Checker(SECONDS)
    try:
        own = {name: kind.make(checker) for name, kind in JUDGES.items()}
        for name, (marks, judge) in judges(own, worker).items():
            for mark, unseen in product(marks.split(), (False, True)):
                of = name if name in {case.judge for case in tried} else ""
                these = [case for case in tried if (case.mark, case.unseen, case.judge) == (mark, unseen, of)]
                told = [(case, judge(case)) for case in these]
                if not {True, False} <= {case.right for case, _ in told}:
                    continue
                what = f"{name}, {mark}{', unseen' if unseen else ''}"
                figures += [figure(f"{what}: {share} (of {len(told)})", [value], "%") for share, value in shares(told)]
                mistakes[what] = [case.told() for case, verdict in told if verdict != case.right]
            print(f"judges: {name}", flush=True)
    finally:
        worker.close()
        checker.__exit__(None, None, None)
    write_result(args.out, __doc__, figures, {"cases": len(tried), "mistakes": mistakes})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "judges", {"every": 6})
    parser.add_argument("--every", type=int, default=1, help="take every so many of the cases")
    main(parser.parse_args())
