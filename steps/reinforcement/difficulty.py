"""The pass rate, on every training row, of the policy that reinforcement learning starts from.

Rows come out as from `steps/data/bucket.py`, with "pass_rate" and "bucket". Correct is what the row's judge takes for
right. The gate chooses the rows by it, and judges the reward by the samples.

Out: train.jsonl (the rows), samples.jsonl (of each row with an answer: id, responses, tokens of each).

Run as: python -m steps.reinforcement.difficulty --settings '{"samples": 8, …}' --input
    results/fable/data/exercises/split/train.jsonl
    --model results/fable/foundation/sft --out results/fable/difficulty/exercises/sft
"""

from pathlib import Path

from steps.core.files import read_jsonl
from steps.core.step import run, step_parser
from steps.data.pass_rates import measure
from steps.settings.pass_rates import PassRates


def main(args) -> None:
    PassRates.fit(args.settings)
    measure(args, "difficulty", list(read_jsonl(args.input)), keep_samples=True)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the split step")
    parser.add_argument("--model", type=Path, required=True, help="the checkpoint that is sampled")
    run(main, parser)
