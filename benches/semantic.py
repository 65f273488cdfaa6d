"""Measure what finds rows that say the same in other words: the exact join of word runs, and a model's states.

Word problems and questions about facts are planted with paraphrases, which have the numbers, names and answer of a row
before them; with twins, which have its wording and numbers and speak of another person or thing; and with strangers,
which speak in other words of another thing and have its numbers and person. Paraphrases are to be found, no other row
is. Strangers are the hard ones: one word tells them, and states know little of one word.

Run as: python -m benches.semantic --rows 4000 --model data/fable/base --out reports/bench/semantic.json
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from benches.common import bench_parser, figure, write_result
from steps.core.files import write_jsonl
from steps.data import dedup
from steps.world import fable
from steps.world.fable import REWORDED, USUAL, Wording

JOIN = {"short_answer_words": 5, "threshold": 0.7, "shingle_words": 3, "numbers_must_match": True, "semantic": None}
THRESHOLDS = (0.2, 0.3, 0.5, 0.7, 0.9)
ROW, PARAPHRASE, TWIN, STRANGER = "row", "paraphrase", "twin", "stranger"


def problem(rng: Random) -> Callable[[Random, Wording, str, str], dict]:
    """A problem of three sums that can be told in any wording, of anybody and any thing."""
    start, gained, lost = rng.randint(20, 60), rng.randint(2, 30), rng.randint(2, 15)
    other = rng.choice(fable.NAMES)
    most = start + gained
    solution = f"{start} + {gained} = {most}\n{most} - {lost} = {most - lost}\n#### {most - lost}"

    def told(choice: Random, wording: Wording, name: str, thing: str) -> dict:
        sentences = [choice.choice(wording.starts).format(n=name, a=start, t=thing)]
        for phrases, count in ((wording.gains, gained), (wording.losses, lost)):
            # A phrase that names nobody: else two tellings may speak of other people.
            phrase = choice.choice([phrase for phrase in phrases if "{m}" not in phrase]).format(b=count, m=other)
            sentences.append(choice.choice(wording.links).format(n=name, x=phrase))
        sentences.append(choice.choice(wording.asks).format(n=name, t=thing))
        return {"prompt": " ".join(sentences), "response": solution, "answer": str(most - lost)}

    return told


def planted(count: int, seed: int) -> list[dict]:
    """Rows with "kind" and "of", the place of the row that they are planted for: behind it, in any order."""
    rng = Random(seed)
    facts = fable.facts(seed)
    rng.shuffle(facts)
    rows: list[dict] = []
    made: list[dict] = []
    for i in range(count):
        if i % 4 or not facts:
            told, name, thing = problem(rng), *rng.sample(fable.NAMES, 1), rng.choice(fable.THINGS)
            rows.append(told(Random(i), USUAL, name, thing) | {"kind": ROW, "of": i})
            person = rng.choice([one for one in fable.NAMES if one != name])
            other = rng.choice([one for one in fable.THINGS if one != thing])
            if i % 4 == 1:
                made.append(told(rng, REWORDED, name, thing) | {"kind": PARAPHRASE, "of": i})
            elif i % 4 == 2:
                about = (person, thing) if i % 8 == 2 else (name, other)
                made.append(told(Random(i), USUAL, *about) | {"kind": TWIN, "of": i})
            elif i % 8 == 3:
                made.append(told(rng, REWORDED, name, other) | {"kind": STRANGER, "of": i})
            continue
        fact = facts.pop()
        first, second, *_ = rng.sample(fable.fact_questions(fact), 3)
        rows.append({"prompt": first, "response": fact["value"], "answer": None, "kind": ROW, "of": i})
        made.append({"prompt": second, "response": fact["value"], "answer": None, "kind": PARAPHRASE, "of": i})
    rng.shuffle(made)
    return [*rows, *made]


def judged(rows: list[dict], decided: dict) -> dict[str, float]:
    """Of the paraphrases the share found for their row, of strangers and of all else the share taken out."""
    of_kind = {kind: [i for i, row in enumerate(rows) if row["kind"] == kind] for kind in (PARAPHRASE, TWIN, STRANGER)}
    others = [i for i, row in enumerate(rows) if row["kind"] in (ROW, TWIN)]
    asked = of_kind[PARAPHRASE]
    right = sum(i in decided and rows[decided[i][1]]["of"] == rows[i]["of"] for i in asked)
    wrong = sum(i in decided for i in asked) - right
    return {
        "recall": right / len(asked),
        "false": (wrong + sum(i in decided for i in others)) / (len(asked) + len(others)),
        "strangers": sum(i in decided for i in of_kind[STRANGER]) / len(of_kind[STRANGER]),
        "twins": sum(i in decided for i in of_kind[TWIN]) / len(of_kind[TWIN]),
    }


def main(args: argparse.Namespace) -> None:
    rows = planted(args.rows, args.seed)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        path = Path(name, "rows.jsonl")
        write_jsonl(
            path,
            (
                {
                    "id": f"made:{i}",
                    "messages": [
                        {"role": "user", "content": row["prompt"]},
                        {"role": "assistant", "content": row["response"]},
                    ],
                    "answer": row["answer"],
                    "file": "made.jsonl",
                    "line": i + 1,
                    "row": i,
                }
                for i, row in enumerate(rows)
            ),
        )
        found, figures = {}, []
        for threshold in (None, *THRESHOLDS):
            semantic = {"model": str(args.model), "threshold": threshold, "max_tokens": 256, "batch_size": 32}
            began = time.process_time()
            decided = dedup.decide(path, JOIN | {"semantic": semantic if threshold else None}, args.model)
            seconds = time.process_time() - began
            what = f"states, threshold {threshold:g}" if threshold else "exact join of word runs"
            found[what] = judged(rows, decided)
            figures += [
                figure(f"{what}: paraphrases found", [found[what]["recall"]], "of 1"),
                figure(f"{what}: other rows taken out", [found[what]["false"]], "of 1"),
                figure(f"{what}: strangers taken out", [found[what]["strangers"]], "of 1"),
                figure(f"{what}: {len(rows):,} rows", [len(rows) / seconds], "rows/s of CPU time"),
            ]
    write_result(args.out, __doc__, figures, {"rows": len(rows), "model": str(args.model), "found": found})


if __name__ == "__main__":
    parser = bench_parser(__doc__, "semantic", {"rows": 80})
    parser.add_argument("--rows", type=int, default=4000, help="besides what is planted")
    parser.add_argument("--model", type=Path, default=Path("data/fable/base"), help="folder of a model or an encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder for the generated rows; default: /tmp")
    main(parser.parse_args())
