r"""Real answers for the test of the whole chain, as models wrote them: tests/judges/real_answers.jsonl.

Each line has the question as it was asked, the gold answer, the kind of row (`worked`: the answer stands behind a mark,
`short`: the response is it), the judge of its data set, whether the response came to its end, and who wrote it.

Run as: python -m tests.judges.answers smollm2 models/smollm2
    python -m tests.judges.answers fable results/fable/foundation/sft results/fable/world
Each replaces the answers of its model and leaves the others.
"""

import argparse
from pathlib import Path

from steps.core.files import read_jsonl, write_jsonl
from steps.core.progress import Progress
from steps.engines.transformers import Engine
from steps.judges.reading import worked_answer

FILE = Path(__file__).parent / "real_answers.jsonl"
# A model of this size marks its answers only where it has seen one marked.
WORKED = "{}\nEnd with the answer behind ####."
BOXED = "{}\nPut the final answer within \\boxed{{}}."
EXAMPLES = {
    WORKED: ("Tom has 3 pens and buys 4. How many pens has he?", "Tom has 3 + 4 = 7 pens.\n#### 7"),
    BOXED: ("What is $2 \\cdot 3$?", "We multiply: $2 \\cdot 3 = 6$. The answer is $\\boxed{6}$."),
}
# Questions that a model of 135 million parameters can answer, with golds that may be written in several ways.
EASY = [
    ("A pen costs $3. How much do 2 pens cost?", "6"), ("What is half of one hour in minutes?", "30"),
    ("Sam walks 2 miles in the morning and 3 miles in the evening. How far does he walk?", "5 miles"),
    ("What is 10 % of 50?", "5"), ("How many days are two weeks?", "14"), ("What is 1000 + 200?", "1,200"),
    ("Ann is 9 years old. How old will she be in 5 years?", "14"), ("A dozen eggs and 3 more: how many eggs?", "15"),
    ("Ben has 20 dollars and spends 5 dollars. How much has he left?", "15 dollars"), ("What is 7 times 8?", "56"),
    ("A train leaves at 3:00 p.m. and drives for 2 hours. When does it arrive?", "5:00 p.m."),
    ("What is the next number: 2, 4, 6, 8?", "10"), ("How many legs have 4 dogs?", "16"), ("What is 100 - 1?", "99"),
]  # fmt: skip
FORMULAS = [
    ("Write one half as a fraction.", r"\frac{1}{2}"), ("Solve $x + 2 = 5$.", "3"), ("Solve $2x = 10$.", "x = 5"),
    ("Expand $(x+1)^2$.", "x^2+2x+1"), ("What is $\\sqrt{16}$?", "4"), ("What is $2^3$?", "8"),
    ("What is $\\frac{1}{4} + \\frac{1}{4}$?", r"\frac{1}{2}"), ("What is the point $(1, 2)$?", "(1, 2)"),
    ("What is the area of a circle with radius $1$?", r"\pi"), ("Simplify $3x + 2x$.", "5x"),
]  # fmt: skip


def shortest(rows: list[dict], key: str, count: int) -> list[dict]:
    return sorted(rows, key=lambda row: len(row[key]))[:count]


def of_smollm2() -> list[dict]:
    """What SmolLM2-135M-Instruct is asked: problems of GSM8K and MATH, the shortest of them, and easier ones."""
    gsm8k = shortest(list(read_jsonl(Path("data/gsm8k/train.jsonl"))), "question", 40)
    problems = shortest(list(read_jsonl(Path("data/math500/test.jsonl"))), "problem", 40)
    asked = [(row["question"], worked_answer(row["answer"]), WORKED, "number") for row in gsm8k]
    asked += [(row["problem"], row["answer"], BOXED, "math") for row in problems]
    asked += [(*easy, WORKED, "number") for easy in EASY] + [(*formula, BOXED, "math") for formula in FORMULAS]
    rows = []
    for question, gold, form, judge in asked:
        example, solution = EXAMPLES[form]
        turns = [("user", form.format(example)), ("assistant", solution), ("user", form.format(question))]
        messages = [{"role": role, "content": text} for role, text in turns]
        rows.append({"question": question, "gold": gold, "kind": "worked", "judge": judge, "messages": messages})
    return rows


def of_fable(world: Path) -> list[dict]:
    """What the embedded model is asked: some questions of each of its evaluation sets."""
    sets = {"fable_problems": ("worked", 44), "fable_harder": ("worked", 20), "fable_facts": ("short", 24),
            "fable_arithmetic": ("short", 24)}  # fmt: skip
    rows = []
    for name, (kind, count) in sets.items():
        for row in list(read_jsonl(world / f"eval/{name}.jsonl"))[:count]:
            messages = [{"role": "user", "content": row["prompt"]}]
            judge = "exact" if name == "fable_facts" else "number"
            given = {"question": row["prompt"], "gold": row["answer"], "kind": kind}
            rows.append(given | {"judge": judge, "messages": messages})
    return rows


def main(args: argparse.Namespace) -> None:
    rows = of_smollm2() if args.source == "smollm2" else of_fable(args.world)
    engine = Engine.load(args.model, args.batch_size)
    prompts = [row.pop("messages") for row in rows]
    drawn = engine.sample(
        prompts,
        temperature=args.temperature,
        max_new_tokens=args.max_new_tokens,
        seed=0,
        progress=Progress("answers", len(rows), "answers"),
    )
    others = [row for row in read_jsonl(FILE) if row["source"] != args.source] if FILE.is_file() else []
    for row, (sample,) in zip(rows, drawn, strict=True):
        row |= {"response": sample.text, "ended": sample.ids[-1] in engine.stop_ids, "source": args.source}
    write_jsonl(FILE, sorted([*others, *rows], key=lambda row: row["source"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["smollm2", "fable"])
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("world", type=Path, nargs="?", help="of fable: the folder of the world")
    parser.add_argument("--temperature", type=float, default=0.5)
    parser.add_argument("--max_new_tokens", type=int, default=160)
    parser.add_argument("--batch_size", type=int, default=16)
    main(parser.parse_args())
