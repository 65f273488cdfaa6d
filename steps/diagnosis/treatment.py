"""What the treatments of incomplete learning share: the attribution they act on, as found or given to random rows."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

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
