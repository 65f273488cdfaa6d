"""The batches of a training on rows: mixed, source after source, or by how hard they are for a base model."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from steps.core import curriculum
from steps.training import packing

# What rows keep of the rule `bucket` for it.
DIFFICULTY = ("pass_rate", "bucket")


def plan_batches(rows: Sequence[dict], settings: dict) -> list[list[int]]:
    """The row indices of every batch of a run, in order, as `packing.plan_batches` without a curriculum.

    With `bucket_shares` an epoch has as many slots as there are rows, and each bucket its share of them: rows of one
    bucket are dealt equally often, whatever that is. The whole order is known before the first step.

    Args:
        rows: with "file"; with "pass_rate" and "bucket" where the settings ask for a curriculum.
        settings: of a training with the keys of `steps.settings.training.Curriculum`.

    Raises:
        ValueError: rows have no difficulty, or none is in a bucket that has a share.
    """
    size, epochs, seed = settings["batch_size"], epochs_of(rows, settings), settings["seed"]
    # Of sources one after the other, each is rounded: together they may be a row more.
    most = settings["max_steps"] * settings["gradient_accumulation"] if settings.get("max_steps") else None
    order, shares = settings.get("order", "shuffle"), settings.get("bucket_shares")
    if order != "easy_to_hard" and shares is None:
        domains = [row["file"] for row in rows] if order == "sources" else None
        return packing.plan_batches(len(rows), size, epochs, seed, domains)[:most]
    if all(row.get("pass_rate") is None for row in rows):
        key = "order: easy_to_hard" if order == "easy_to_hard" else "bucket_shares"
        raise ValueError(f"{key}: no row has a pass rate, so that none is easier than another; add rows with an answer")
    wanted = round(len(rows) * epochs)
    if order == "easy_to_hard":
        rates = [row.get("pass_rate") for row in rows]
        dealt = curriculum.easy_to_hard(rates, _weights(rows, shares), wanted, Random(f"{seed}:easy_to_hard"))
    else:
        dealt = _mixed(rows, shares, wanted, seed)
    return [dealt[start : start + size] for start in range(0, wanted, size)]


def epochs_of(rows: Sequence[dict], settings: dict) -> float:
    """Passes over the rows: `epochs`, or what `max_steps` leave of them."""
    most = settings.get("max_steps")
    if not most or not rows:
        return settings["epochs"]
    return min(settings["epochs"], most * settings["gradient_accumulation"] * settings["batch_size"] / len(rows))


def _weights(rows: Sequence[dict], shares: dict[str, float] | None) -> list[float]:
    """How often each row is dealt, relative to the others."""
    if shares is None:
        return [1.0] * len(rows)
    sizes = Counter(row["bucket"] for row in rows)
    for bucket, share in shares.items():
        if share and not sizes[bucket]:
            there = ", ".join(f"{name} {count}" for name, count in sorted(sizes.items()))
            raise ValueError(
                f"bucket_shares.{bucket}: no row is {bucket} (there are: {there}); give its share to another"
            )
    return [shares.get(row["bucket"], 0.0) / sizes[row["bucket"]] for row in rows]


def _mixed(rows: Sequence[dict], shares: dict[str, float], wanted: int, seed: int) -> list[int]:
    """Epochs that are each a shuffle of what falls to the buckets."""
    _weights(rows, shares)
    members = {bucket: [i for i, row in enumerate(rows) if row["bucket"] == bucket] for bucket in shares}
    sizes = [min(len(rows), wanted - start) for start in range(0, wanted, len(rows))]
    parts = [dict(zip(shares, curriculum.slots([*shares.values()], size), strict=True)) for size in sizes]
    queues = {
        bucket: iter(curriculum.passes(own, sum(part[bucket] for part in parts), Random(f"{seed}:{bucket}")))
        for bucket, own in members.items()
    }
    order: list[int] = []
    for epoch, part in enumerate(parts):
        drawn = [next(queues[bucket]) for bucket, count in part.items() for _ in range(count)]
        Random(f"{seed}:{epoch}").shuffle(drawn)
        order += drawn
    return order


def counts(rows: Sequence[dict], batches: Sequence[Sequence[int]], settings: dict) -> dict:
    """For the manifest of a training with `bucket_shares`, bucket → its rows, and how often one of them is dealt."""
    if not settings.get("bucket_shares"):
        return {}
    sizes = Counter(row["bucket"] for row in rows)
    times = Counter(rows[row]["bucket"] for batch in batches for row in batch)
    return {"buckets": {bucket: {"rows": size, "dealt": times[bucket]} for bucket, size in sorted(sizes.items())}}
