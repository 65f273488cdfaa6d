"""The options of a multiple choice as responses to score."""

from steps.judges.canonical import NUMBER, equal


def with_answer(kind: str, response: str, answer: str, other: str) -> str:
    """The response as it would be if its answer were another one.

    Of a worked response what follows "####" changes, and in the line before it the result: every number after the
    line's last "=" that equals the answer.
    """
    if kind == "short":
        return response.replace(answer, other, 1) if answer in response else other
    work, marker, _ = response.rpartition("####")
    body = work.rstrip()
    begin = max(body.rfind("\n"), body.rfind("=")) + 1
    result = NUMBER.sub(lambda found: other if equal(found[0], answer) else found[0], body[begin:])
    return f"{body[:begin]}{result}{work[len(body) :]}{marker} {other}"


def option_responses(record: dict) -> list[str]:
    """The responses that give a record's options: its own for the right one, then with each wrong answer."""
    kind, response, (answer, *wrong) = record["kind"], record["response"], record["options"]
    return [response, *(with_answer(kind, response, answer, other) for other in wrong)]
