"""Rewards of the SFT-then-GRPO recipe for Qwen3-4B-Base on OpenMathReasoning-mini, as custom functions.

The recipe is Unsloth's notebook "Qwen3 (4B) GRPO" (github.com/unslothai/notebooks, nb/Qwen3_(4B)-GRPO.ipynb, read at
commit 016b8dc); patterns and values are the notebook's, the code is this project's. Its four functions are added up
with equal weights. Two things of it surprise, and are kept:

- `<start_working_out>` is not counted, because the notebook's chat template writes it before the response begins.
- A number of commas and full stops alone, and a true answer that is no number, score 0 in `check_numbers`.

One thing is left out: the notebook lets the text of the end token follow `</SOLUTION>`; responses here end before it.

Each takes the last user turn, the response and the row's answer, and returns a number.
"""

import re

WORKED = "<end_working_out>"
OPEN, CLOSE = "<SOLUTION>", "</SOLUTION>"
SOLUTION = re.compile(rf"{WORKED}.*?{OPEN}(.+?){CLOSE}\s*$", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(rf"{OPEN}.*?\s*(-?[\d.,]+)", re.DOTALL)


def match_format_exactly(prompt: str, response: str, answer: str | None) -> float:
    """3.0 where the working ends and a solution in its tags follows at the end of a line."""
    return 3.0 if SOLUTION.search(response) else 0.0


def match_format_approximately(prompt: str, response: str, answer: str | None) -> float:
    """For each tag that the response has to write: 0.5 where it is there exactly once, else -1.0."""
    return sum(0.5 if response.count(tag) == 1 else -1.0 for tag in (WORKED, OPEN, CLOSE))


def check_answer(prompt: str, response: str, answer: str | None) -> float:
    """Graded closeness of the solution to the answer.

    5.0 the same text, 3.5 the same but for spaces around it, 2.0 a ratio within 10 %, 1.5 within 20 %, -2.5 another
    number, -4.5 where there is no ratio (no number, or an answer of 0), -2.0 without a solution in its tags.
    """
    found = SOLUTION.search(response)
    if found is None:
        return -2.0
    given, expected = found[1], _required(answer)
    if given == expected:
        return 5.0
    if given.strip() == expected.strip():
        return 3.5
    try:
        ratio = float(given) / float(expected)
    except (ValueError, ZeroDivisionError):
        return -4.5
    return 2.0 if 0.9 <= ratio <= 1.1 else 1.5 if 0.8 <= ratio <= 1.2 else -2.5


def check_numbers(prompt: str, response: str, answer: str | None) -> float:
    """The first number of the solution, without thousands separators: 3.5 equal, -1.5 another, -2.5 none."""
    found = NUMBER.search(response)
    if found is None:
        return -2.5
    try:
        return 3.5 if float(found[1].replace(",", "")) == float(_required(answer)) else -1.5
    except ValueError:
        return 0.0


def _required(answer: str | None) -> str:
    if answer is None:
        raise TypeError("the row has no answer to compare with")
    return answer
