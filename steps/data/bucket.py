"""Bucket training rows by difficulty: the share of a base model's samples that answer a row correctly.

Every row is kept, and gains "pass_rate" (share of correct samples) and "bucket": hard below the first edge, easy
from the second edge on, medium between. A row without a verifiable answer has pass_rate null and bucket
"unverified". verdicts.jsonl says of every sample what it answers, whether that is right, and why; excluded.jsonl, why
rows with an answer were not asked. `steps/reinforcement/difficulty.py` does the same with the policy that reinforcement
learning starts from.

Run as: python -m steps.data.bucket --settings '{"samples": 4, …}' --input results/fable/data/problems/split/train.jsonl
    --model data/fable/base --out results/fable/data/problems/bucket
"""

from pathlib import Path

from steps.core.files import read_jsonl
from steps.core.step import run, step_parser
from steps.data.pass_rates import measure
from steps.settings.pass_rates import PassRates


def main(args) -> None:
    PassRates.fit(args.settings)
    measure(args, "bucket", list(read_jsonl(args.input)), keep_samples=False)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the split step")
    parser.add_argument("--model", type=Path, required=True, help="the base checkpoint that is sampled")
    run(main, parser)
