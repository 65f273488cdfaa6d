"""A judge that is stricter than a reward: what a policy is held to that may have found out what its reward pays for.

Right is a response that comes to its end, answers once, behind one mark, says nothing after that where it is `####`,
is right by the judge of its row, and keeps the row's constraint where it has one. Nothing that a reward is told loosens
it.
"""

from collections.abc import Sequence

from steps.judges.judge import Verdict
from steps.judges.reading import behind_sharps, boxes, said, sharps_split
from steps.judges.rows import RowJudge, by_answer, marks_answer


def strict_verdicts(
    judge: RowJudge, rows: Sequence[dict], responses: Sequence[str], ended: Sequence[bool]
) -> list[Verdict | None]:
    """[samples]; None where the row does not say what is right.

    Args:
        ended: whether each response came to its end.
    """
    return [_verdict(judge, *sample) for sample in zip(rows, responses, ended, strict=True)]


def _verdict(judge: RowJudge, row: dict, response: str, ended: bool) -> Verdict | None:
    asks = [by_answer(row)] if row.get("answer") is not None else []
    asks += [row] if "check" in row else []
    if not asks:
        return None
    if not ended:
        return Verdict("wrong", "", "it comes to no end")
    told = [judge.verdict(one, response) for one in asks]
    wrong = next((verdict for verdict in told if not verdict.right), None)
    if wrong:
        return wrong
    if row.get("answer") is not None and marks_answer(row) and (problem := _form(response)):
        return Verdict("wrong", told[0].read, problem)
    return told[0]


def _form(response: str) -> str:
    """What is wrong with how a response marks its answer; "" where nothing is."""
    text = said(response)
    sharps, boxed = behind_sharps(text), boxes(text)
    if sharps:
        if len(sharps) > 1 or len(boxed) > 1 or (boxed and "boxed" not in sharps[0]):
            return "its answer is marked more than once"
        return "it goes on behind its answer" if "\n" in sharps_split(text)[-1].rstrip() else ""
    return "its answer is marked more than once" if len(boxed) > 1 else ""
