"""What training on a policy's own samples shares: which prompts are asked, whether they fit, what is kept and shown."""

from collections import Counter
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
from steps.models.unfit import Unfit


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


def refusal(row: dict, chat: Chat, context: int, max_new_tokens: int) -> Unfit | None:
    """Why a model cannot be asked a row; None where it can. A chat template may refuse it, as Gemma's a system turn, or
    its prompt leave no room for a response."""
    turns = asked_turns(row)
    if refused := chat.refusal(turns):
        return refused
    tokens = len(chat.tokenizer(chat.opened(turns), add_special_tokens=False)["input_ids"])
    room = context - max_new_tokens
    if tokens <= room:
        return None
    return Unfit("no_room", "messages", f"a prompt of {tokens} tokens, where the context of {context} leaves {room}")


def excluded(row: dict, reason: str, column: str, hint: str, detail: str | None) -> dict:
    """A row of excluded.jsonl."""
    where = {key: row.get(key) for key in ("id", "file", "line", "row")}
    return where | {"reason": reason, "column": column, "hint": hint, "detail": detail}


def askable(
    rows: Sequence[dict], chat: Chat, step: str, context: int, max_new_tokens: int
) -> tuple[list[dict], list[dict]]:
    """The rows that a model can be asked, and excluded.jsonl: of each other row why it cannot.

    Raises:
        ValueError: there are rows, and none can be asked.
    """
    found, without = [], []
    for row in rows:
        unfit = refusal(row, chat, context, max_new_tokens)
        if unfit is None:
            found.append(row)
        else:
            without.append(excluded(row, unfit.reason, unfit.column, unfit.hint, str(unfit.detail)))
    if without:
        first = without[0]
        example = f"{first['file']} row {first['row']}: {first['detail']}; {first['hint']}"
        if not found:
            raise ValueError(f"none of {len(rows)} rows can be asked, the first ({example})")
        say(step, f"{len(without):,} of {len(rows):,} rows are not asked; excluded.jsonl has why ({example})")
    return found, without


def reasons(without: Sequence[dict]) -> dict[str, int]:
    """Reason -> how many rows of excluded.jsonl have it."""
    return dict(sorted(Counter(record["reason"] for record in without).items()))


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
