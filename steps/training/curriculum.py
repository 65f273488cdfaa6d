"""The batches of a training on rows: mixed, source after source, or by how hard they are for a base model."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from steps.core import curriculum
from steps.core.curriculum import epoch_rows, weight_of
from steps.core.progress import say
from steps.training import packing

# What rows keep of the rule `bucket` for it.
DIFFICULTY = ("pass_rate", "bucket")


def plan_batches(rows: Sequence[dict], settings: dict) -> list[list[int]]:
    """The row indices of every batch of a run, in order, as `packing.plan_batches` without a curriculum.

    An epoch has as many slots as there are rows, or as the weights of their sources add up to: each row is dealt as
    often as its weight says, over epochs where that is less than once. With `bucket_shares` each bucket has its share
    of them: rows of one bucket and weight are dealt equally often, whatever that is. The whole order is known before
    the first step.

    Args:
        rows: with "file"; with "pass_rate" and "bucket" where the settings ask for a curriculum; with "weight" where it
            is not 1.
        settings: of a training with the keys of `steps.settings.training.Curriculum`.

    Raises:
        ValueError: rows have no difficulty, or none is in a bucket that has a share.
    """
    size, epochs, seed = settings["batch_size"], epochs_of(rows, settings), settings["seed"]
    # Of sources one after the other, each is rounded: together they may be a row more.
    most = settings["max_steps"] * settings["gradient_accumulation"] if settings.get("max_steps") else None
    order, shares = settings.get("order", "shuffle"), settings.get("bucket_shares")
    weighted = any("weight" in row for row in rows)
    if order != "easy_to_hard" and shares is None and not weighted:
        domains = [row["file"] for row in rows] if order == "sources" else None
        return packing.plan_batches(len(rows), size, epochs, seed, domains)[:most]
    wanted = round(epoch_rows(rows) * epochs)
    if rows and not wanted:
        raise ValueError(
            f"epochs: {epochs:g} of {len(rows)} rows whose weights add up to {epoch_rows(rows):g} is less than a row;"
            " raise it, or the weight of a source"
        )
    if order != "easy_to_hard" and shares is None:
        dealt = curriculum.by_weight(rows, wanted, seed)
        return [dealt[start : start + size] for start in range(0, wanted, size)]
    if all(row.get("pass_rate") is None for row in rows):
        key = "order: easy_to_hard" if order == "easy_to_hard" else "bucket_shares"
        raise ValueError(f"{key}: no row has a pass rate, so that none is easier than another; add rows with an answer")
    if order == "easy_to_hard":
        rates = [row.get("pass_rate") for row in rows]
        dealt = curriculum.easy_to_hard(rates, _weights(rows, shares), wanted, Random(f"{seed}:easy_to_hard"))
    else:
        dealt = _mixed(rows, shares, wanted, seed)
    if shares:
        _tell_missing(rows, shares, dealt)
    return [dealt[start : start + size] for start in range(0, wanted, size)]


def epochs_of(rows: Sequence[dict], settings: dict) -> float:
    """Passes over the rows: `epochs`, or what `max_steps` leave of them."""
    most = settings.get("max_steps")
    if not most or not rows:
        return settings["epochs"]
    return min(settings["epochs"], most * settings["gradient_accumulation"] * settings["batch_size"] / epoch_rows(rows))


def _weights(rows: Sequence[dict], shares: dict[str, float] | None) -> list[float]:
    """How often each row is dealt, relative to the others."""
    if shares is None:
        return [weight_of(row) for row in rows]
    sizes: Counter[str] = Counter()
    for row in rows:
        sizes[row["bucket"]] += weight_of(row)  # type: ignore[assignment]  # a sum of weights
    for bucket, share in shares.items():
        if share and not sizes[bucket]:
            there = ", ".join(f"{name} {count}" for name, count in sorted(Counter(r["bucket"] for r in rows).items()))
            raise ValueError(
                f"bucket_shares.{bucket}: no row is {bucket} (there are: {there}); give its share to another"
            )
    return [shares.get(row["bucket"], 0.0) * weight_of(row) / sizes[row["bucket"]] for row in rows]


def _mixed(rows: Sequence[dict], shares: dict[str, float], wanted: int, seed: int) -> list[int]:
    """Epochs that are each a shuffle of what falls to the buckets."""
    weights = _weights(rows, shares)
    groups: dict[str, list[int]] = {}
    for bucket in shares:
        own = [i for i, row in enumerate(rows) if row["bucket"] == bucket and weights[i]]
        for weight in sorted({weight_of(rows[i]) for i in own}):
            name = bucket if weight == 1 else f"{bucket}, weight {weight!r}"
            groups[name] = [i for i in own if weight_of(rows[i]) == weight]
    totals = [sum(weights[i] for i in members) for members in groups.values()]
    return curriculum.mixed(groups, totals, epoch_rows(rows), wanted, seed)


def _tell_missing(rows: Sequence[dict], shares: dict[str, float], dealt: Sequence[int]) -> None:
    """Say which buckets have a share of less than half a row of the run."""
    there = {rows[row]["bucket"] for row in dealt}
    for bucket, share in shares.items():
        if share and bucket not in there:
            slots = share / sum(shares.values()) * len(dealt)
            say("curriculum", f"no row that is {bucket} is dealt: its share of {len(dealt)} is {slots:.2g} rows")


def counts(rows: Sequence[dict], batches: Sequence[Sequence[int]], settings: dict) -> dict:
    """For the manifest of a training: with `bucket_shares` and where sources have weights, bucket or source → its rows
    and how many of their texts are dealt; a source's weight too."""
    found = {}
    if settings.get("bucket_shares"):
        found["buckets"] = _dealt(rows, batches, "bucket")
    if settings.get("source_weights"):
        found["sources"] = _dealt(rows, batches, "file")
        for row in rows:
            found["sources"][row["file"]]["weight"] = weight_of(row)
    return found


def _dealt(rows: Sequence[dict], batches: Sequence[Sequence[int]], key: str) -> dict:
    # A row of several texts stands there once for each.
    sizes = Counter(row[key] for row in rows if not row.get("part"))
    times = Counter(rows[row][key] for batch in batches for row in batch)
    return {name: {"rows": size, "dealt": times[name]} for name, size in sorted(sizes.items())}
