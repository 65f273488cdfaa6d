"""The judge by patterns: the gold answer is a regular expression, and right is what it matches from end to end.

The pattern is a row's and the answer a model's: both are untrusted, and they meet in a process that is killed at a
limit of time or memory.
"""

from steps.judges.canonical import LONGEST
from steps.judges.judge import MOST_ANSWERS, REFUSALS, Verdict
from steps.judges.mathematics import Checker
from steps.judges.reading import Mark, read


class Patterns:
    """Judges answers by patterns of the module `regex`, which has them as Perl has.

    Args:
        checker: whose processes match; whoever gives it ends them.
    """

    def __init__(self, checker: Checker):
        self.checker = checker

    def refusal(self, gold: str | None, question: str = "") -> str:
        """Why no response could be right by this pattern, or any would; "" where neither is so."""
        if not (gold or "").strip():
            return "it is empty"
        assert gold is not None
        told = self.checker.ask(("", gold), by="pattern")
        if told == "no_gold":
            return "it is no regular expression"
        return "it takes an empty answer" if told == "right" else REFUSALS[told] if told in ("timeout", "error") else ""

    def judge(self, gold: str, response: str, mark: Mark = "either", question: str = "") -> Verdict:
        """Judge one response: all different answers that it marks are matched."""
        found = read(response, mark)
        if not found.answers:
            return Verdict("unread", "", "no marked answer")
        answers = dict.fromkeys(", ".join(parts).strip() for parts in found.answers)
        if len(answers) >= MOST_ANSWERS:
            return Verdict("ambiguous", found, f"more than {MOST_ANSWERS} different answers are marked")
        told = set()
        for answer in answers:
            if not answer or len(answer) > LONGEST:
                told.add("wrong")
                continue
            outcome = self.checker.ask((answer, gold), by="pattern")
            if outcome in ("timeout", "error"):
                return Verdict("unverifiable", found, f"{answer[:40]}: {REFUSALS[outcome]}")
            told.add(outcome)
        if len(told) > 1:
            return Verdict("ambiguous", found, "several different answers are marked")
        right = told == {"right"}
        return Verdict(
            "right" if right else "wrong", found, "as the pattern has it" if right else "not as the pattern has it"
        )
