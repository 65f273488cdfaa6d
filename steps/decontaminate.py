"""Quarantine rows that contain an evaluation item, and name the item.

Takes `rows.jsonl` of an earlier data step and the evaluation sets (JSON Lines); writes `rows.jsonl` (kept, unchanged)
and `quarantine.jsonl`. Each turn of a row is compared with each item's prompt, as words in lower case without
punctuation, numbers and operators included:

- An item of at least twice `ngram_words` words matches a turn that has a share of at least `min_overlap` of the item's
  n-grams, and the item's numbers in order without another number between them: a problem with other numbers is
  another problem.
- A shorter item matches a turn that asks the same: the same words, fillers such as "please solve" left out, as the
  whole turn or as consecutive sentences that make up at least `min_overlap` of it.

Memory grows with the evaluation sets, not with the rows.

Run as: python -m steps.decontaminate --settings '{"ngram_words": 8, "min_overlap": 0.6}' \
    --input results/mine/data/problems/dedup/rows.jsonl --eval results/mine/world/eval/fable_problems.jsonl \
    --out results/mine/data/problems/decontaminate
"""

import argparse
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from steps.common import Progress, fresh_folder, run, step_parser, write_manifest
from steps.rows import Ledger, RowProblem, core, numbers, prompt_of, read_rows, words

# File names that say which part of a task a file is, not which task.
SPLITS = ("train", "test", "validation", "valid", "dev")
EVAL_COLUMNS = ("prompt", "question", "problem", "input")
_SENTENCE_END = re.compile(r"(?<=[.!?:。！？：])\s+|(?<=[。！？：])|\n+")


class Index:
    """The evaluation items by their n-grams, and the short ones by their words."""

    def __init__(self, items: Iterable[tuple[str, str]], ngram_words: int, min_overlap: float):
        self.ngram_words, self.min_overlap = ngram_words, min_overlap
        self.names: list[str] = []
        self.sizes: list[int] = []  # distinct n-grams of an item
        self.numbers: list[list[str]] = []
        self.by_ngram: dict[int, list[int]] = {}
        self.by_question: dict[tuple[str, ...], str] = {}
        self.longest_question = 0
        for name, prompt in items:
            tokens = words(prompt)
            if len(tokens) < 2 * ngram_words:
                question = tuple(core(tokens)) or tuple(tokens)
                if question:
                    self.by_question.setdefault(question, name)
                    self.longest_question = max(self.longest_question, len(question))
                continue
            grams = self._ngrams(tokens)
            for gram in grams:
                self.by_ngram.setdefault(gram, []).append(len(self.names))
            self.names.append(name)
            self.sizes.append(len(grams))
            self.numbers.append(numbers(tokens))

    def _ngrams(self, tokens: list[str]) -> set[int]:
        # `hash` of strings differs between processes, and nothing that is written depends on it.
        return set(map(hash, zip(*(tokens[i:] for i in range(self.ngram_words)), strict=False)))

    def match(self, text: str) -> tuple[str, float] | None:
        """The item that a text contains most of and the share of it, or None; of equal ones the first."""
        tokens = words(text)
        found = None
        hits = Counter(item for gram in self._ngrams(tokens) for item in self.by_ngram.get(gram, ()))
        for item, shared in hits.items():
            share = shared / self.sizes[item]
            if share >= self.min_overlap and contains(numbers(tokens), self.numbers[item]):
                found = max(found or (0.0, 0), (share, -item))
        if found:
            return self.names[-found[1]], found[0]
        for question in self._questions(text, tokens):
            if question in self.by_question:
                return self.by_question[question], 1.0
        return None

    def _questions(self, text: str, tokens: list[str]) -> Iterator[tuple[str, ...]]:
        """Runs of sentences, fillers left out, that are short enough to be a short item and most of the text."""
        if self.longest_question < self.min_overlap * len(core(tokens)):
            return
        yield tuple(core(tokens)) or tuple(tokens)
        sentences = [core(words(sentence)) for sentence in _SENTENCE_END.split(text)]
        least = self.min_overlap * sum(map(len, sentences))
        for start in range(len(sentences)):
            run: list[str] = []
            for sentence in sentences[start:]:
                run += sentence
                if len(run) > self.longest_question:
                    break
                if run and len(run) >= least:
                    yield tuple(run)


def contains(sequence: list[str], part: list[str]) -> bool:
    """Whether `part` occurs in `sequence` without a gap."""
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))


def task_name(path: Path) -> str:
    """`gsm8k` for `gsm8k/test.jsonl`, `fable_facts` for `eval/fable_facts.jsonl`."""
    return path.parent.name if path.stem in SPLITS else path.stem


def read_eval(paths: list[Path], columns: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """("<task>:<id>", prompt) of every item; the id is the item's own, or its line counted from 0.

    Raises:
        ValueError: a line is not a JSON object, or has text under none of `columns`.
    """
    for path in paths:
        with open(path, "rb") as file:
            for i, line in enumerate(file):
                try:
                    item = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {i + 1}: not JSON ({error}); copy the file again") from None
                fields = item if isinstance(item, dict) else {}
                prompt = next((fields[c] for c in columns if isinstance(fields.get(c), str)), None)
                if prompt is None:
                    raise ValueError(
                        f"{path}, line {i + 1}: no text under {', '.join(columns)}; name the field with --eval-columns"
                    )
                yield f"{task_name(path)}:{item.get('id', i)}", prompt


def main(args: argparse.Namespace) -> None:
    started = time.time()
    out = fresh_folder(args.out)
    index = Index(read_eval(args.eval, tuple(args.eval_columns)), **args.settings)
    ledger, progress = Ledger(out, "decontaminate"), Progress("decontaminate", None, "rows")
    for done, row in enumerate(read_rows(args.input), 1):
        ledger.enter(row["file"])
        for i, turn in enumerate(row["messages"]):
            if matched := index.match(turn["content"]):
                name, share = matched
                problem = RowProblem(
                    "eval_overlap",
                    f"messages[{i}].content",
                    "nothing to do: training on an evaluation item would make its score worthless",
                    f"{name}, {share:.0%} of it",
                )
                ledger.quarantine(row, problem, prompt_of(row))
                break
        else:
            ledger.keep(row)
        if done % 1000 == 0:
            progress.update(done)
    write_manifest(
        out,
        step="decontaminate",
        settings=args.settings | {"eval_columns": list(args.eval_columns)},
        inputs=[args.input, *args.eval],
        counts=ledger.close()
        | {"eval_items": {task_name(path): sum(1 for _ in open(path, "rb")) for path in args.eval}},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    parser.add_argument("--eval", type=Path, nargs="*", default=[], help="evaluation sets, JSON Lines")
    parser.add_argument(
        "--eval-columns", nargs="+", default=list(EVAL_COLUMNS), help="fields that may hold a prompt; the first wins"
    )
    run(main, parser)
