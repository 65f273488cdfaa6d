"""How many evaluation questions decontamination finds among training rows, as they stand and as people rewrite them.

The questions are those that ship in data/. Of each set up to `--questions` are put among as many training questions of
GSM8K, all in one form: as they stand, behind an instruction, in a template, with numbered sentences, with other signs
for the same mathematics; and, where the evaluation set has an instruction, beside text that no other row has: after
solved examples, after a passage, before a hint. The share that is found has a bar. So has the share of rows that are
taken for a leak and are none: the training questions in every form, training questions of GSM8K against its test
questions, and one half of each set, at random, against the other; the latter two with and without an instruction that
all share. A question that stands in the other half word for word is left out.

Run as: python -m benches.leaks --out reports/bench/leaks.json
"""

import argparse
import re
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import yaml

from benches.common import bench_parser, figure, write_result
from steps.core.files import read_jsonl, write_jsonl
from steps.data import decontaminate, ingest
from steps.data.identity import tokens
from steps.data.rows import Ledger

SETS = {
    "gsm8k": ("data/gsm8k/test.jsonl", "question"),
    "math500": ("data/math500/test.jsonl", "problem"),
    "nq_open": ("data/nq_open/test.jsonl", "question"),
    "bbh": ("data/bbh/test.jsonl", "input"),
}
OTHERS = ("data/gsm8k/train.jsonl", "question")
INSTRUCTION = "Classify what the customer writes by its intent, please."
LEAST_FOUND, MOST_FALSE = 0.95, 0.002


def numbered(text: str) -> str:
    """Each sentence a line, with its number."""
    return "\n".join(f"{number}. {part}" for number, part in enumerate(re.split(r"(?<=[.?!])\s+", text), 1))


FORMS: dict[str, Callable[[str], str]] = {
    "as it stands": str,
    "upper case": str.upper,
    "numbered sentences": numbered,
    "instruction": lambda text: f"{INSTRUCTION}\n\n{text}",
    "step by step": lambda text: f"{text}\nPlease reason step by step, and put your final answer within \\boxed{{}}.",
    "template": lambda text: (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{text}\n\n### Response:"
    ),
    "Q and A": lambda text: f"Q: {text}\nA: Let's think step by step.",
    "bold head": lambda text: f"**Question:**\n{text}\n\n**Answer:**",
    "tags": lambda text: f"<question>\n{text}\n</question>",
}
MATHEMATICS: dict[str, Callable[[str], str]] = {
    "raised": lambda text: text.replace("^2", "²").replace("^3", "³"),
    "minus": lambda text: re.sub(r"(?<=[\w)}\s])-(?=[\s\w({])", "−", text),
    "dfrac": lambda text: text.replace(r"\frac", r"\dfrac"),
    "brackets": lambda text: re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text),
}


def examples(text: str, rng: Random, others: list[str]) -> str:
    """After three other questions with their answers."""
    shots = (f"Q: {other}\nA: {rng.randint(1, 99)}\n\n" for other in rng.sample(others, 3))
    return f"{INSTRUCTION}\n\n{''.join(shots)}Q: {text}\nA:"


# In the frame of the evaluation set, with text that no other row has: of other questions what is told before they ask.
BESIDE: dict[str, Callable[[str, Random, list[str]], str]] = {
    "examples": examples,
    "passage": lambda text, rng, others: f"{INSTRUCTION}\n\nContext: {told(rng.choice(others))}\n\nQuestion: {text}",
    "hint": lambda text, rng, others: f"{INSTRUCTION}\n\n{text}\nHint: {told(rng.choice(others))}",
}


def beside_it(form: Callable[[str, Random, list[str]], str], rng: Random, others: list[str], text: str) -> str:
    return form(text, rng, others)


def told(text: str) -> str:
    """Its sentences but the last."""
    return " ".join(re.split(r"(?<=[.?!])\s+", text)[:-1])


def taken(prompts: list[str], items: list[str], chosen: dict) -> set[int]:
    """Which rows with these prompts are quarantined beside an evaluation set of these items."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_jsonl(folder / "raw.jsonl", ({"prompt": prompt, "response": "It is so."} for prompt in prompts))
        write_jsonl(folder / "items.jsonl", ({"prompt": item} for item in items))
        (folder / "ingest").mkdir()
        ledger = Ledger(folder / "ingest", "ingest")
        ingest.ingest_source({"path": folder / "raw.jsonl", "format": "prompt_response"}, 1_000_000, ledger, cores=1)
        counts = ledger.close()
        assert counts["kept"] == len(prompts), counts
        given = {"settings": chosen, "input": folder / "ingest/rows.jsonl", "out": folder / "out", "cores": 1}
        decontaminate.main(argparse.Namespace(**given, eval=[folder / "items.jsonl"]))
        return {row["row"] for row in read_jsonl(folder / "out/quarantine.jsonl")}


def halves(rng: Random, texts: list[str]) -> tuple[list[str], list[str]]:
    """Two halves at random; of the second, those of which the first has no copy, signs and case apart."""
    mixed = rng.sample(texts, len(texts))
    first, second = mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :]
    known = {tuple(tokens(text.lower())) for text in first}
    return first, [text for text in second if tuple(tokens(text.lower())) not in known]


def main(args: argparse.Namespace) -> None:
    rng = Random(0)
    chosen = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["decontaminate"]
    sets = {
        name: list(dict.fromkeys(row[column] for row in read_jsonl(Path(path))))
        for name, (path, column) in SETS.items()
    }
    path, column = OTHERS
    others = [row[column] for row in read_jsonl(Path(path))]
    figures: list[dict] = []
    missed: dict[str, list[str]] = {}
    wrong: dict[str, list[str]] = {}
    for name, questions in sets.items():
        some = rng.sample(questions, min(args.questions, len(questions)))
        plain, behind = questions, [f"{INSTRUCTION}\n\n{text}" for text in questions]
        forms = [(form, written, plain) for form, written in FORMS.items()]
        forms += [(form, written, plain) for form, written in MATHEMATICS.items() if name == "math500"]
        forms += [
            (f"{form}, both behind an instruction", partial(beside_it, written, rng, others), behind)
            for form, written in BESIDE.items()
        ]
        of_others = wrong_of_others = 0
        for form, written, items in forms:
            # A form that changes nothing of a question is the first one again.
            leaked = some if form == "as it stands" else [text for text in some if written(text) != text]
            if not leaked:
                continue
            beside = rng.sample(others, min(len(leaked), len(others)))
            every = taken([written(text) for text in [*leaked, *beside]], items, chosen)
            found = every & {*range(len(leaked))}
            missed[f"{name}, {form}"] = [text for row, text in enumerate(leaked) if row not in found]
            what = f"found, {name}, {form}, {len(leaked)} rows"
            figures.append(figure(what, [len(found) / len(leaked)], least=LEAST_FOUND))
            of_others, wrong_of_others = of_others + len(beside), wrong_of_others + len(every - found)
            wrong[f"{name}, {form}"] = [beside[row - len(leaked)] for row in sorted(every - found)]
        what = f"false, gsm8k train in {name}, all forms, {of_others} rows"
        figures.append(figure(what, [wrong_of_others / of_others], most=MOST_FALSE))
    apart = {"gsm8k train in test": (others, sets["gsm8k"])}
    for name, questions in sets.items():
        first, second = halves(rng, questions)
        apart[f"{name} half in half"] = second, first
    for name, (rows, items) in apart.items():
        for before in ("", f"{INSTRUCTION}\n\n"):
            some = rng.sample(rows, min(args.rows, len(rows)))
            found = taken([before + text for text in some], [before + text for text in items], chosen)
            what = f"false, {name}{', both behind an instruction' if before else ''}, {len(some)} rows"
            figures.append(figure(what, [len(found) / len(some)], most=MOST_FALSE))
            wrong[what] = [some[row] for row in sorted(found)]
    detail = {"questions": args.questions, "rows": args.rows, "missed": missed, "false": wrong}
    write_result(args.out, __doc__, figures, detail)


if __name__ == "__main__":
    parser = bench_parser(__doc__, "leaks", {"questions": 6, "rows": 40})
    parser.add_argument("--questions", type=int, default=300, help="leaked questions of each set and form")
    parser.add_argument("--rows", type=int, default=10_000, help="at most, of rows that are no leaks")
    main(parser.parse_args())
