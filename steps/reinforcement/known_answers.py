"""Responses whose worth is known without a model: what the gate tries a reward on.

Good ones are written by the template `good`; bad ones answer otherwise; malformed ones answer nothing; exploiting ones
are what a policy tries that looks for what a reward pays for.
"""

import re
from random import Random
from typing import NamedTuple

from steps.data.rows import prompt_of, response_of
from steps.judges.canonical import NUMBER, canonical, equal
from steps.judges.kinds import JUDGES
from steps.judges.reading import worked_answer
from steps.judges.rows import kind_of_row

FIELD = re.compile(r"\{(response|answer)\}")
MARKERS = ("####", "\\boxed")
# A wrong answer is written so often, for a reward that counts marks.
REPEATS = 8
BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")


class Case(NamedTuple):
    """A response whose worth is known without a model: `kind` is good, bad, malformed or exploiting, `form` how it
    was made."""

    row: dict
    kind: str
    form: str
    response: str


def fill(template: str, response: str, answer: str | None) -> str:
    """The template with its fields replaced, once: what a field holds is not read as a template."""
    return FIELD.sub(lambda field: response if field[1] == "response" else answer or "", template)


def places(text: str, answer: str) -> list[tuple[int, int]]:
    """Where an answer stands in a text: as an equal number ("1,234" for 1234), or letter for letter."""
    if NUMBER.fullmatch(answer):
        return [number.span() for number in NUMBER.finditer(text) if equal(number[0], answer)]
    return [match.span() for match in re.finditer(re.escape(answer), text)]


def with_answer(text: str, answer: str, wrong: str) -> str | None:
    """The text with `wrong` for the answer where it is given: after the last marker, else where it stands last.

    None when it does not stand there.
    """
    spans = places(text, answer)
    marker = max(text.rfind(marker) for marker in MARKERS)
    given = [span for span in spans if span[0] >= marker] if marker >= 0 else spans[-1:]
    head, sharps, _ = text.rpartition("####")
    if not given and sharps and equal(worked_answer(text) or "", answer):
        return f"{head}#### {wrong}"
    if not spans:
        return None
    parts, at = [], 0
    for begin, end in given or spans[-1:]:
        parts += [text[at:begin], wrong]
        at = end
    return "".join([*parts, text[at:]])


def moved(answer: str, rng: Random) -> str | None:
    """The answer with the first digit of its last number changed; None without a digit."""
    numbers = [number.start() for number in re.finditer(r"\d+", answer)]
    if not numbers:
        return None
    at = numbers[-1]
    return answer[:at] + str((int(answer[at]) + rng.randint(1, 9)) % 10) + answer[at + 1 :]


def wrong_answers(answer: str, answers: dict, rng: Random) -> dict[str, str]:
    """Wrong answers by form; `answers` are those of all rows under their canonical keys."""
    wrong = {"moved": moved(answer, rng)}
    others = [key for key in answers if key != canonical(answer)]
    if others:
        wrong["other"] = answers[rng.choice(others)]
    return {form: text for form, text in wrong.items() if text is not None and not equal(text, answer)}


def answer_of(row: dict) -> str | None:
    """The answer of a row, where a right response gives it; None of tests, of a pattern, and of a row without one."""
    answer = row["answer"]
    return answer if answer is not None and JUDGES[kind_of_row(row, answer)].written else None


def written(row: dict) -> str:
    """A right response: the row's own or, of a prompt without one, its answer; "" where nobody has written one."""
    answer = answer_of(row)
    return response_of(row) or (f"#### {answer}" if answer is not None else "")


def bad_answers(row: dict, template: str, answers: dict, responses: list[str], rng: Random) -> dict[str, str]:
    """Known-bad responses of a row by form: moved, other, rejected; none where nothing can be made wrong."""
    reference, answer = written(row), answer_of(row)
    if answer is None:
        if worse := row.get("rejected"):
            return {"rejected": fill(template, worse if isinstance(worse, str) else worse[-1]["content"], None)}
        others = [response for response in responses if response != reference]
        return {"other": fill(template, rng.choice(others), None)} if others else {}
    bad = {}
    for form, wrong in wrong_answers(answer, answers, rng).items():
        text = with_answer(reference, answer, wrong)
        if text is not None or "{answer}" in template:
            bad[form] = fill(template, reference if text is None else text, wrong)
    return bad


def malformed_answers(row: dict, template: str, rng: Random) -> dict[str, str]:
    """Responses of a row that answer nothing, by form: empty, cut, unmarked, noise."""
    reference, answer = written(row), answer_of(row)
    good = fill(template, reference, answer)
    # Before the first place: the working of a half must not hold the answer.
    until = min((begin for begin, _ in places(good, answer)), default=len(good)) if answer is not None else len(good)
    malformed = {"empty": "", "cut": good[: until // 2]}
    if answer is not None:
        bare = "\n".join(fill(field[0], reference, answer) for field in FIELD.finditer(template))
        malformed["unmarked"] = BOXED.sub(r"\1", bare).replace("####", "").strip()
    letters = "abcdefghijklmnopqrstuvwxyz "
    malformed["noise"] = "".join(rng.choice(letters) for _ in range(max(20, len(good))))
    return {form: text for form, text in malformed.items() if text != good and (text or form == "empty")}


def exploiting_answers(row: dict, good: str, bad: dict[str, str]) -> dict[str, str]:
    """Responses of a row that give its answer to nobody, by form: repeated (a wrong one), listed (the right one among
    wrong ones), copied (the prompt), thought (nothing behind the right one's thought)."""
    wrong = list(bad.values())
    return {
        "repeated": "\n".join(wrong[:1] * REPEATS),
        "listed": "\n".join([*wrong[1:], good, *wrong[:1]]),
        "copied": prompt_of(row),
        "thought": f"<think>\n{good}\n</think>\n\n",
    }


def known_answers(rows: list[dict], settings: dict) -> list[Case]:
    """The known answers of `settings["rows"]` of the rows, drawn by seed, in the order of the rows; none where a right
    response is to pass tests or to be as a pattern has it, and no row has one.

    Raises:
        ValueError: no row has what the template asks for, or no answer can be made wrong.
    """
    template, seed = settings["good"], settings["seed"]
    answers = [answer_of(row) for row in rows]
    able = [row for row, own in zip(rows, answers, strict=True) if own is not None or "{answer}" not in template]
    able = [row for row in able if row["answer"] is None or written(row)]
    if not able and all(row["answer"] is not None for row in rows) and not any(answers):
        return []
    if not able:
        raise ValueError(f"gate.good: {template!r} asks for an {{answer}}, and no row that trains has one")
    drawn = Random(seed).sample(range(len(able)), min(settings["rows"], len(able)))
    others = {canonical(own): own for own in map(answer_of, able) if own is not None}
    responses = sorted({written(row) for row in able})
    cases = []
    for row in (able[i] for i in sorted(drawn)):
        rng = Random(f"{seed}:{row['id']}")
        good = fill(template, written(row), answer_of(row))
        cases.append(Case(row, "good", "reference", good))
        bad = bad_answers(row, template, others, responses, rng)
        cases += [Case(row, "bad", form, text) for form, text in bad.items()]
        cases += [Case(row, "malformed", form, text) for form, text in malformed_answers(row, template, rng).items()]
        if bad and answer_of(row) is not None:
            cases += [Case(row, "exploiting", form, text) for form, text in exploiting_answers(row, good, bad).items()]
    if not any(case.kind == "bad" for case in cases):
        row = cases[0].row
        raise ValueError(
            f"{row['file']}, row {row['row']} (and {len(drawn) - 1} others): no wrong answer can be made of its"
            " response: it does not hold the row's answer, or no other row answers otherwise; set gate.good to a"
            " template with {answer}, or add rows"
        )
    return cases
