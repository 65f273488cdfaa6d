"""A teacher's own responses to the prompts of a data set, those worth learning: what a student is distilled on.

Every prompt is sampled a number of times. A response goes to quarantine, with the first reason that holds:
`unfinished` (no end token within max_new_tokens), `too_short` (fewer than min_tokens tokens besides the end token, or
blank), `repetitive`, `wrong_answer` (with `verify`; a response that cannot be verified is kept and counted),
`eval_overlap` (it contains an evaluation item, which its teacher may know by heart: `steps.data.leaks` says how),
`duplicate` (an earlier kept one of the row says the same), `surplus` (the row has `keep` already). Rejection sampling
of this kind: Yuan et al. 2023, arXiv:2308.01825; as the cold start of on-policy distillation: arXiv:2604.13016.

Out: train.jsonl (the row with the response in place of its last turn, id "<row id>#<sample>", "sample", "tokens"),
quarantine.jsonl; excluded.jsonl, the rows that are not asked, for the chat template refuses them or their prompts leave
no room for a response.

Run as: python -m steps.distillation.generate --settings '{"samples": 2, …}' --input
    results/fable/data/exercises/split/train.jsonl
    --teacher results/fable/reinforcement/grpo --eval results/fable/world/eval/fable_problems.jsonl
    --out results/fable/generate/exercises/grpo
"""

import argparse
import json
import os
import time
from pathlib import Path

from steps.core.files import fresh_folder, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.progress import Progress
from steps.core.step import run, step_parser
from steps.core.turns import asked_turns, prompt_turns
from steps.data.leaks import Frames, Index, clauses
from steps.data.quality import repetition
from steps.data.questions import read_sets
from steps.data.rows import QUARANTINE, ROWS, Ledger, RowProblem, read_rows, words
from steps.engines.interface import Sample
from steps.engines.load import load_engine
from steps.engines.rollouts import askable, reasons
from steps.judges.rows import RowJudge, judges_of, reference, unverifiable
from steps.models import checkpoints
from steps.settings.generate import Generate

# Fewer lines are no evidence of a loop: a short piece of code or verse may well repeat one.
MIN_LINES = 5
# Prompts from whose responses it is learned what many responses say alike.
FRAME_PROMPTS = 4_000


# --- what is wrong with a response ---------------------------------------------------------------


def repeated_lines(text: str) -> float:
    """Share of the lines of a text that occurred before in it, blank ones aside; 0 for fewer than five lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= MIN_LINES else 0.0


def flaw(sample: Sample, ended: bool, right: bool | None, expected: str, settings: dict) -> tuple[str, str, str] | None:
    """Why a response is not worth learning, whatever else its row got: (reason, hint, detail).

    Args:
        ended: the model closed the response itself.
        right: it solves its row; None where that cannot be told, or is not asked.
        expected: what the row asks for, as text.
    """
    if not ended:
        hint = "raise generate.max_new_tokens, or take a teacher that comes to an end"
        return "unfinished", hint, f"no end after {sample.tokens} tokens"
    said = sample.tokens - 1
    if said < settings["min_tokens"] or not sample.text.strip():
        detail = f"{said} tokens besides the end token, min_tokens is {settings['min_tokens']}"
        return "too_short", "lower generate.min_tokens, or take a teacher that answers", detail
    shares = {"runs of eight words": repetition(words(sample.text)), "lines": repeated_lines(sample.text)}
    part = max(shares, key=shares.__getitem__)
    if shares[part] > settings["max_repetition"]:
        hint = "lower generate.temperature or max_new_tokens, or raise generate.max_repetition"
        return "repetitive", hint, f"{shares[part]:.0%} of its {part} are repeats"
    if right is False:
        hint = "raise generate.samples, take a better teacher, or set generate.verify to false"
        return "wrong_answer", hint, f"the row asks for {expected}"
    return None


def leaks(texts: list[list[str]], files: list[Path], settings: dict) -> tuple[list[list[str]], dict[str, int]]:
    """The evaluation item that each response contains, with the share of it, and how many items each set has.

    Args:
        texts: [rows][samples].
        files: the evaluation sets.
        settings: of the step decontaminate.

    Returns:
        [rows][samples], "" where there is none.
    """
    items, counts = read_sets(files, settings.get("questions", {}))
    index = Index(items, settings["ngram_words"], settings["min_overlap"])
    some = texts[:: len(texts) // FRAME_PROMPTS + 1]
    frames = Frames([[clauses(text) for text in own] for own in some])

    def leak(text: str) -> str:
        found = index.match(text, frames)
        return f"{found[0]}, {found[1]:.0%} of it" if found else ""

    return [[leak(text) for text in own] for own in texts], counts


def expected_of(row: dict, short_answer_words: int) -> str:
    """What the row asks for, for a person to read; "" where that cannot be told."""
    if "check" in row:
        return json.dumps(row["check"], ensure_ascii=False)
    wanted = reference(row, short_answer_words)
    return wanted[1] if wanted else ""


def judge(rows: list[dict], texts: list[list[str]], settings: dict) -> tuple[list[list[bool | None]], int]:
    """Whether each response solves its row, None where that cannot be told, and how many comparisons were given up.

    Those count as wrong: what takes that long is no answer to teach.

    Args:
        texts: [rows][samples].

    Returns:
        [rows][samples].
    """
    with RowJudge() as judge:
        verdicts = judge.verdicts(rows, texts, settings["short_answer_words"], what="compare")
    worked = [is_worked(row, settings["short_answer_words"]) for row in rows]
    right = [
        [verdict.right if sure else verdict.sure for verdict in own] for sure, own in zip(worked, verdicts, strict=True)
    ]
    return right, unverifiable([own for sure, own in zip(worked, verdicts, strict=True) if sure])


def is_worked(row: dict, short_answer_words: int) -> bool:
    """Whether a row asks for a marked answer or keeps a constraint, so that prose is no excuse."""
    wanted = reference(row, short_answer_words)
    return "check" in row or (wanted is not None and wanted[0] == "worked")


# --- the step ------------------------------------------------------------------------------------


def response_row(row: dict, j: int, sample: Sample) -> dict:
    """The row with sample j as its last turn; "tokens" is what the teacher wrote, its end token among it."""
    messages = [*prompt_turns(row["messages"]), {"role": "assistant", "content": sample.text}]
    return row | {"id": f"{row['id']}#{j}", "messages": messages, "sample": j, "tokens": sample.tokens}


def select(
    row: dict,
    samples: list[Sample],
    ended: list[bool],
    right: list[bool | None],
    leaked: list[str],
    settings: dict,
    ledger: Ledger,
) -> list[int]:
    """Write each of a row's samples to one side of the ledger; returns which are kept."""
    expected = expected_of(row, settings["short_answer_words"])
    column = f"messages[{len(prompt_turns(row['messages']))}].content"
    kept: dict[str, int] = {}
    for j, sample in enumerate(samples):
        ledger.enter(row["file"])
        response = response_row(row, j, sample)
        problem = flaw(sample, ended[j], right[j], expected, settings)
        if problem is None and leaked[j]:
            hint = "nothing to do: to learn an evaluation item from a teacher would make its score worthless"
            problem = "eval_overlap", hint, leaked[j]
        if problem is None and sample.text in kept:
            hint = "raise generate.temperature for other responses, or lower generate.samples"
            problem = "duplicate", hint, f"the same as sample {kept[sample.text]}"
        if problem is None and settings["keep"] is not None and len(kept) == settings["keep"]:
            problem = "surplus", "raise generate.keep, or lower generate.samples", f"{len(kept)} are kept already"
        if problem is None:
            kept[sample.text] = j
            ledger.keep(response)
        else:
            reason, hint, detail = problem
            ledger.quarantine(response, RowProblem(reason, column, hint, detail), sample.text)
    return list(kept.values())


def main(args: argparse.Namespace) -> None:
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
    started = time.time()
    settings = args.settings
    Generate.fit(settings)
    teacher_files = checkpoints.check(args.teacher)
    rows = list(read_rows(args.input))
    engine = load_engine(args.teacher, settings["batch_size"], settings["engine"])
    rows, without = askable(rows, engine.chat, "generate", engine.max_length, settings["max_new_tokens"])
    n = settings["samples"]
    drawn = engine.sample(
        [asked_turns(row) for row in rows],
        n=n,
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_new_tokens=settings["max_new_tokens"],
        seed=settings["seed"],
        progress=Progress("generate", len(rows) * n, "responses"),
    )
    texts = [[sample.text for sample in own] for own in drawn]
    right: list[list[bool | None]] = [[None] * n for _ in rows]
    given_up = 0
    if settings["verify"]:
        right, given_up = judge(rows, texts, settings)
    leaked, eval_items = leaks(texts, args.eval, settings["decontaminate"])

    out = fresh_folder(args.out)
    ledger = Ledger(out, "generate")
    prompts_kept = unverified = kept_tokens = 0
    for row, own, solved, found in zip(rows, drawn, right, leaked, strict=True):
        ended = [sample.ids[-1] in engine.stop_ids for sample in own]
        kept = select(row, own, ended, solved, found, settings, ledger)
        prompts_kept += bool(kept)
        unverified += sum(solved[j] is None for j in kept)
        kept_tokens += sum(own[j].tokens for j in kept)
    counts = ledger.close(
        args.input,
        "take a better teacher, or change the section `generate` of the parameters",
        what=f"responses of {args.teacher}",
    )
    assert counts["in"] == len(rows) * n
    (out / ROWS).replace(out / "train.jsonl")
    assert (out / QUARANTINE).is_file()
    counts |= {"prompts": len(rows), "prompts_kept": prompts_kept, "unverified": unverified, "given_up": given_up}
    if settings["verify"]:
        counts["judges"] = judges_of(rows, settings["short_answer_words"])
    if without:
        write_jsonl(out / "excluded.jsonl", without)
        counts["excluded"] = reasons(without)
    counts |= {"generated_tokens": engine.tokens, "kept_tokens": kept_tokens, "eval_items": eval_items}
    write_manifest(
        out,
        step="generate",
        settings=settings,
        inputs=[args.input, *teacher_files, *args.eval],
        counts=counts,
        seed=settings["seed"],
        started=started,
        tokens=engine.tokens,
        setup=engine.setup(),
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--input", type=Path, required=True, help="train.jsonl of the split step")
    parser.add_argument("--teacher", type=Path, required=True, help="the checkpoint that responds")
    parser.add_argument("--eval", type=Path, nargs="*", default=[], help="evaluation sets")
    run(main, parser)
