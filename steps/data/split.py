"""Split rows into training and validation parts, prompt by prompt.

Takes `rows.jsonl` of an earlier data step; writes `train.jsonl`, `valid.jsonl` and `quarantine.jsonl`. All rows of a
prompt fall into one part, so that the validation loss is of prompts that were not trained on. The part follows from a
hash of the prompt and the seed alone: it does not depend on the order of the rows or on which others there are, so that
cleaning differently moves no prompt from one part to the other. Only where one part would be empty, the prompt nearest
to it goes there. A prompt is what the user asks first: another system turn makes no other one. Where more rows than are
to be held out open alike, all before their last response is their prompt; one that as many share even so is trained on.
A row with an answer gets the "judge" that compares responses with it, one for all rows: `judge` of the data set or,
with `auto`, the first that all of its answers need.
A source with a `cap` keeps so many rows, those whose hashed ids are smallest: `over_cap` are the others.

Run as: python -m steps.data.split --settings '{"valid_share": 0.05, "seed": 0}' \
    --input results/mine/data/problems/decontaminate/rows.jsonl --out results/mine/data/problems/split
"""

import argparse
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xxhash

from steps.core.files import fresh_folder
from steps.core.manifest import write_manifest
from steps.core.progress import say
from steps.core.step import run, step_parser
from steps.data.identity import asked, tokens
from steps.data.rows import QUARANTINE, Ledger, RowProblem, prompt_of, read_rows
from steps.judges.judge import AUTO, kind_for

PARTS = ("train", "valid")
# So many rows may share a prompt in any case.
FEW = 16
# From here on a training and its validation loss say something.
FEW_ROWS = 100


def alike(text: str) -> str:
    """A text as it is compared: whatever its case, its white space and the marks that end its clauses."""
    return " ".join(tokens(text.casefold()))


def opening(row: dict) -> str:
    """What the user of a conversation says before its first response, whatever case and white space it has; a document
    is its own opening.

    A conversation that goes on after another one opens as that does. System turns say how to answer and ask nothing,
    however long they are: under another one the question is the same.
    """
    said = []
    for turn in row["messages"]:
        if turn["role"] == "assistant" and said:
            break
        if turn["role"] != "system":
            said.append(alike(asked(turn["content"])))
    return "\n".join(said)


def whole(row: dict) -> str:
    """What stands before the last response, system turns included: one may be the passage that many rows ask the same
    of."""
    turns = row["messages"]
    answered = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    before = turns[answered[0] : answered[-1]] if answered else []
    system, before = ([alike(turn["content"]) for turn in part] for part in (turns[:1], before))
    return "\n".join([*(system if turns[0]["role"] == "system" else ()), opening(row), *before])


def prompts_of(openings: np.ndarray, wholes: np.ndarray, most: float) -> np.ndarray:
    """Of each row the hash of what counts as its prompt: its opening, or all before its last response where more than
    `most` rows open alike, as with a greeting. What more rows have even so is in no part but the training's.

    Args:
        openings, wholes: uint64 [rows].
    """
    prompts = np.where(_are_common(openings, most), wholes, openings)
    common = _are_common(prompts, most)
    return prompts if common.all() else np.where(common, np.uint64(2**64 - 1), prompts)


def _are_common(values: np.ndarray, most: float) -> np.ndarray:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return counts[index] > most


def hash_of(text: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(text.encode(), seed)


def boundary(prompts: np.ndarray, valid_share: float) -> int:
    """The hash below which prompts are held out, so that neither part is empty.

    Args:
        prompts: uint64 [rows], hashes of their prompts; of at least two different ones.
    """
    first, last = int(prompts.min()), int(prompts.max())
    return min(max(int(valid_share * 2**64), first + 1), last)


def over_cap(rows: Iterator[dict], sources: dict[str, dict], seed: int) -> dict[str, int]:
    """File → the largest hashed id that its source keeps, of sources that have more rows than their cap."""
    ids: defaultdict[str, array] = defaultdict(lambda: array("Q"))
    for row in rows:
        if own := sources.get(row["file"]):
            ids[own["source"]].append(hash_of(row["id"], seed))
    return {
        file: int(np.sort(ids[own["source"]])[own["cap"] - 1])
        for file, own in sources.items()
        if len(ids[own["source"]]) > own["cap"]
    }


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    valid_share, seed, sources = settings["valid_share"], settings["seed"], settings.get("sources", {})
    judge = settings.get("judge", AUTO)
    largest = over_cap(read_rows(args.input), sources, seed) if sources else {}

    def is_over(row: dict) -> bool:
        return row["file"] in largest and hash_of(row["id"], seed) > largest[row["file"]]

    hashed = array("Q")
    golds: set[str] = set()
    for row in read_rows(args.input):
        if not is_over(row):
            if row.get("answer") is not None and judge == AUTO:
                golds.add(row["answer"])
            hashed.extend((hash_of(opening(row), seed), hash_of(whole(row), seed)))
    openings, wholes = np.frombuffer(hashed, np.uint64).reshape(-1, 2).T if hashed else np.empty((2, 0), np.uint64)
    prompts = prompts_of(openings, wholes, max(valid_share * len(openings), FEW))
    if not len(prompts):
        raise ValueError(
            f"{args.input}: it has no rows; quarantine.jsonl of the steps before says why of each"
            f" ({args.input.parent / QUARANTINE} first)"
        )
    if prompts.min() == prompts.max():
        have = "its only row has" if len(prompts) == 1 else f"all of its {len(prompts)} rows have"
        fix = "raise `cap` of a source" if largest else "add rows that ask something else"
        left = ", of those that `cap` keeps," if largest else ""
        raise ValueError(
            f"{args.input}: {have}{left} one prompt, and another one must be held out for the validation loss; {fix}"
        )
    limit = boundary(prompts, valid_share)
    chosen = kind_for(golds) if judge == AUTO else judge
    out = fresh_folder(args.out)
    ledger, parts = Ledger(out, "split", tuple(f"{part}.jsonl" for part in PARTS)), Counter(dict.fromkeys(PARTS, 0))
    prompt, judged = iter(prompts.tolist()), 0
    for row in read_rows(args.input):
        ledger.enter(row["file"])
        if is_over(row):
            cap = sources[row["file"]]["cap"]
            hint = f"nothing to do: {cap} others of its source stay; raise its `cap` to keep more"
            ledger.quarantine(row, RowProblem("over_cap", "(record)", hint, f"cap is {cap}"), prompt_of(row))
            continue
        part = PARTS[next(prompt) < limit]
        if row.get("answer") is not None:
            row["judge"] = chosen
            judged += 1
        ledger.keep(row, f"{part}.jsonl")
        parts[part] += 1
    counts = ledger.close() | parts
    say("split", f"{parts['train']:,} rows to train on, {parts['valid']:,} held out")
    if parts["train"] < FEW_ROWS:
        say(
            "split",
            f"{parts['train']} rows to train on are few: a training makes few steps of them and learns them by heart,"
            f" and the loss of {parts['valid']} held-out rows says little; some hundreds are a beginning",
        )
    if judged:
        counts["judge"] = chosen
        how = "found from its answers" if judge == AUTO else "as `judge` of the data set says"
        say("split", f"responses to its {judged:,} rows with an answer are judged by {chosen!r}, {how}")
    assert counts["kept"] == parts.total() and all(parts.values())
    write_manifest(out, step="split", settings=settings, inputs=[args.input], counts=counts, seed=seed, started=started)


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="rows.jsonl of the step before")
    run(main, parser)
