"""What training on a policy's own samples shares: which prompts are asked, whether they fit, what is kept and shown."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from steps.core import processes
from steps.core.curriculum import by_weight, easy_to_hard, passes, weight_of
from steps.core.files import read_jsonl, write_jsonl
from steps.core.progress import say
from steps.core.turns import asked_turns
from steps.models.chat import Chat


def plan_prompts(rows: Sequence[dict], wanted: int, curriculum: str, seed: int) -> list[int]:
    """`wanted` row indices. `shuffle` mixes every pass anew. `easy_to_hard` goes once from the rows that the start
    solves most often to those it solves least, ties at random, each row as often as any other of its weight but for
    one."""
    random = Random(f"prompts-{seed}")
    if curriculum == "easy_to_hard":
        return easy_to_hard([row["pass_rate"] for row in rows], [*map(weight_of, rows)], wanted, random)
    if any("weight" in row for row in rows):
        return by_weight(rows, wanted, f"prompts-{seed}")
    return passes(range(len(rows)), wanted, random)


def placeholder(row: dict) -> list[dict]:
    """What a trainer's data set has for a prompt, until it is asked: Arrow would fill the turns and tools of one row
    with the keys of another's."""
    return [{"role": "user", "content": row["id"]}]


def askable(rows: Sequence[dict], chat: Chat, step: str) -> list[dict]:
    """The rows that a model can be asked: a chat template may refuse some, as Gemma's a system turn. Says how many."""
    found, refusals = [], []
    for row in rows:
        if (refusal := chat.refusal(asked_turns(row))) is None:
            found.append(row)
        else:
            refusals.append((row, refusal))
    if refusals:
        row, refusal = refusals[0]
        first = f"{row['file']} row {row['row']}: {refusal}"
        say(
            step, f"{len(refusals):,} of {len(rows):,} rows are not asked, for the chat template refuses them ({first})"
        )
    return found


def check_lengths(rows: list[dict], sampler: Any, max_new_tokens: int) -> None:
    """Raise a ValueError for the first prompt that leaves no room for a response."""
    encoded = sampler.encode([sampler.render(asked_turns(row)) for row in rows])
    for row, ids in zip(rows, encoded, strict=True):
        if len(ids) + max_new_tokens > sampler.max_length:
            raise ValueError(
                f"{row['file']} row {row['row']}: a prompt of {len(ids)} tokens and max_new_tokens {max_new_tokens} do"
                f" not fit a context of {sampler.max_length}; lower one, or filter.max_prompt_chars"
            )


def keep(folder: Path, batch: int, rows: list[dict]) -> None:
    """This process's rows of a batch of rollouts, as a file that a resumed run writes again."""
    write_jsonl(folder / f"{batch}-{processes.rank()}.jsonl", rows)


def gathered(folder: Path, batches: int) -> list[dict]:
    """What all processes kept."""
    files = [folder / f"{k}-{rank}.jsonl" for k in range(batches) for rank in range(processes.count())]
    return [row for file in files for row in read_jsonl(file)]


def speeds(history: list[dict]) -> list[float]:
    """Tokens per second, prompts included, of each step that samples."""
    rates, seen = [], 0
    for entry in (entry for entry in history if "num_tokens" in entry):
        rates.append(round((entry["num_tokens"] - seen) / entry["step_time"], 1))
        seen = entry["num_tokens"]
    return rates
