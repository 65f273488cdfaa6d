"""What a stricter judge takes for right, and what it does not that rewards may pay for."""

import pytest

from steps.judges.rows import RowJudge
from steps.judges.strict import strict_verdicts


def make_row(answer: str | None = "42", **more) -> dict:
    return {"messages": [{"role": "user", "content": "How much?"}], "answer": answer, "judge": "number", **more}


CHECK = {"kind": "uppercase", "words": ["pear"]}


@pytest.mark.parametrize(
    ("row", "response", "right", "why"),
    [
        (make_row(), "6 * 7 = 42\n#### 42", True, ""),
        (make_row(), "#### 42 dollars\n", True, ""),
        (make_row(), "so \\boxed{42}.", True, ""),
        (make_row(), "#### $\\boxed{42}$", True, ""),
        (make_row(), "<think>#### 7</think>\n#### 42", True, ""),
        (make_row(), "#### 41", False, ""),
        (make_row(), "42", False, "no marked answer"),
        (make_row(), "#### 42\n#### 42", False, "its answer is marked more than once"),
        (make_row(), "\\boxed{42} and \\boxed{42}", False, "its answer is marked more than once"),
        (make_row(), "\\boxed{42}\n#### 42", False, "its answer is marked more than once"),
        (make_row(), "#### 41\n#### 42", False, "several different answers are marked"),
        (make_row(), "#### 42\nBecause it is.", False, "it goes on behind its answer"),
        (make_row(), "<think>#### 42", False, "no marked answer"),
        (make_row(None, check=CHECK), "PEAR", True, ""),
        (make_row(None, check=CHECK), "pear", False, ""),
        (make_row(check=CHECK), "PEAR\n#### 42", True, ""),
        (make_row(check=CHECK), "pear\n#### 42", False, ""),
        (make_row(check=CHECK), "PEAR\n#### 41", False, ""),
        (make_row(None), "#### 42", None, ""),
    ],
)
def test_an_answer_is_right_once_and_at_the_end(row, response, right, why):
    with RowJudge() as judge:
        (verdict,) = strict_verdicts(judge, [row], [response], [True])
        (cut,) = strict_verdicts(judge, [row], [response], [False])
    assert (None if verdict is None else verdict.right) is right
    assert not why or verdict.why == why
    assert cut is None if right is None else not cut.right
