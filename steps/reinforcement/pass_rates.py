"""Pass rates by mathematical equivalence."""

from steps.core.progress import Progress
from steps.reinforcement.reward_kinds import numeric
from steps.reinforcement.rewards import Rewards

# Seconds for one answer: math-verify takes milliseconds for one that a person would write.
MATH = {"answer": {"kind": "answer", "weight": 1.0, "equivalence": "math", "timeout": 2.0}}
# Rows compared between two lines of progress.
CHUNK = 64


def check_answers(rows: list[dict]) -> None:
    """Raises ValueError for a row whose answer math-verify cannot read, before anything is sampled; with its row."""
    progress = Progress("answers", len(rows), "rows")
    with Rewards(MATH) as rewards:
        for done, row in enumerate(rows, 1):
            rewards.check_row(row)
            progress.update(done)


def numeric_pass_rates(rows: list[dict], responses: list[list[str]]) -> tuple[list[float], dict[str, int]]:
    """Share of each row's responses that the reward of `equivalence: numeric` gives 1, behind `####` alone."""
    pairs = zip(rows, responses, strict=True)
    return [sum(numeric(text, row["answer"]).value for text in own) / len(own) for row, own in pairs], {}


def math_pass_rates(rows: list[dict], responses: list[list[str]]) -> tuple[list[float], dict[str, int]]:
    """Share of each row's responses that are equivalent to its answer, and how many could not be compared.

    Args:
        responses: [rows][samples].
    """
    rates, failed = [], {"timeouts": 0, "errors": 0}
    progress = Progress("compare", len(rows), "rows")
    with Rewards(MATH) as rewards:
        for begin in range(0, len(rows), CHUNK):
            part = slice(begin, begin + CHUNK)
            owners = [row for row, own in zip(rows[part], responses[part], strict=True) for _ in own]
            texts = [text for own in responses[part] for text in own]
            # No tokens: what is right does not depend on how many they are.
            scored = iter(rewards.score("answer", owners, texts, [0] * len(texts)))
            for own in responses[part]:
                own_scores = [next(scored) for _ in own]
                rates.append(sum(one.value for one in own_scores) / len(own_scores))
                failed["timeouts"] += sum(one.note == "timeout" for one in own_scores)
                failed["errors"] += sum(one.error is not None for one in own_scores)
            progress.update(len(rates))
    return rates, failed
