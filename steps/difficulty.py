"""The pass rate, on every training row, of the policy that reinforcement learning starts from.

Rows come out as from `steps/bucket.py`, with "pass_rate" and "bucket". Correct is a response whose answer after the
last `####` equals the row's or, with `equivalence: math`, one that math-verify finds equivalent. The gate chooses the
rows by it, and judges the reward by the samples.

Out: train.jsonl (the rows), samples.jsonl (of each row with an answer: id, responses, tokens of each).

Run as: python -m steps.difficulty --settings '{"samples": 8, …}' --input results/fable/data/exercises/split/train.jsonl
    --model results/fable/foundation/sft --out results/fable/difficulty/exercises/sft
"""

from pathlib import Path

from steps import bucket
from steps.common import Progress, read_jsonl, run, step_parser
from steps.rewards import Rewards, numeric

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
                found = [next(scored) for _ in own]
                rates.append(sum(one.value for one in found) / len(found))
                failed["timeouts"] += sum(one.note == "timeout" for one in found)
                failed["errors"] += sum(one.error is not None for one in found)
            progress.update(len(rates))
    return rates, failed


def main(args) -> None:
    bucket.check_settings(args.settings)
    rows = list(read_jsonl(args.input))
    rates = numeric_pass_rates
    if args.settings["equivalence"] == "math":
        check_answers([row for row in rows if row["answer"] is not None])
        rates = math_pass_rates
    bucket.measure(args, "difficulty", rows, rates, keep_samples=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the split step")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint that is sampled")
    run(main, parser)
