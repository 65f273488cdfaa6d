"""What the treatments of incomplete learning share: the attribution they act on, as found or given to random rows, and
the tokens of what they give, in which a control at random is to equal the treatment."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from steps.models.files import COPIED_TOKENIZER

# A control at random has the treatment's tokens, but for so much of them.
TOLERANCE = 0.02

ATTRIBUTION_COLUMNS = ["id", "cause", "wrong_side", "group", "rival", "members"]


def read_columns(path: Path, columns: list[str]) -> Iterator[dict]:
    """Stream some columns of a Parquet file, one row at a time."""
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(columns=columns):
        yield from batch.to_pylist()


def read_attribution(path: Path, treatment: dict) -> list[dict]:
    """The attributed rows a treatment acts on: as they were found, or permuted when the treatment is the control."""
    rows = list(read_columns(path, ATTRIBUTION_COLUMNS))
    return permuted(rows, treatment["seed"]) if treatment["at_random"] else rows


def permuted(rows: list[dict], seed: int) -> list[dict]:
    """Give what was found about each row to a row drawn at random, each used once, so that every budget stays.

    A cause takes along its wrong side and its group, in which the drawn rows stand for those they replace (a learned
    member, which has no cause, stays). The rival stays with its row: it is the answer to that row's question.
    """
    ids = [row["id"] for row in rows]
    drawn = dict(zip(ids, Random(f"treatment-{seed}").sample(ids, len(ids)), strict=True))
    rivals = {row["id"]: row["rival"] for row in rows}
    found = {
        drawn[row["id"]]: row
        | {
            "id": drawn[row["id"]],
            "members": [drawn.get(member, member) for member in row["members"]],
            "rival": rivals[drawn[row["id"]]],
        }
        for row in rows
    }
    return [found[row_id] for row_id in ids]


# --- tokens --------------------------------------------------------------------------------------


def up_to(items: Iterable, wanted: float, size: Callable[[Any], int]) -> list:
    """Items from the start until their sizes come as near to `wanted` as they can."""
    taken, total = [], 0
    for item in items:
        if total + size(item) / 2 > wanted:
            break
        taken.append(item)
        total += size(item)
    return taken


def tokenizer_files(model: Path) -> list[Path]:
    return [model / name for name in COPIED_TOKENIZER if (model / name).is_file()]


def text_tokens(model: Path) -> Callable[[str], int]:
    """How many tokens a document has for a model, with the one that ends it."""
    from steps.models.checkpoints import load_tokenizer

    encode = load_tokenizer(model).backend_tokenizer.encode
    return cache(lambda text: len(encode(text).ids) + 1)


def row_tokens(model: Path) -> Callable[[Sequence[dict]], list[int]]:
    """How many tokens training rows have for a model in its chat template; 0 where it cannot be trained on."""
    from steps.models.chat import Chat
    from steps.models.checkpoints import load_tokenizer
    from steps.models.unfit import Unfit
    from steps.training.texts import texts_of

    chat = Chat(load_tokenizer(model))

    def counted(rows: Sequence[dict]) -> list[int]:
        made = texts_of(chat, rows, False)
        return [0 if isinstance(texts, Unfit) else sum(len(text.ids) for text in texts) for texts in made]

    return counted


def check_equal(tokens: int, of_attribution: int, unit: int) -> None:
    """Hold a control to the tokens of its treatment, within `TOLERANCE` or half of the largest unit that is dealt."""
    off = abs(tokens - of_attribution)
    assert off <= max(TOLERANCE * of_attribution, unit / 2), (tokens, of_attribution, unit)
