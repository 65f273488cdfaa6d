"""Which rows a batch holds and how they lie in it: planned batches, bin packing, position ids.

A batch is a number of rows, packed or not: packing changes how the rows of one batch are laid out, never
which rows share an update, so a learning rate found without packing holds with it. All of it is a pure
function of the rows' lengths and the seed; `collate` alone needs torch.
"""

from collections import Counter
from itertools import accumulate
from random import Random

import numpy as np

IGNORED = -100  # label of a token that is not trained on: the value that PyTorch's cross-entropy skips

# How the rows of a batch are laid out: several in a sequence, told apart by their positions; all in one sequence, told
# apart by the keywords that kernels of linear attention and convolutions take besides; each in a sequence of its own.
PACKED, FLATTENED, ALONE = "packed", "flattened", "alone"


def plan_batches(
    rows: int, batch_size: int, epochs: float, seed: int, domains: list[str] | None = None
) -> list[list[int]]:
    """The row indices of every batch of a run, in order: each epoch is a shuffle of its own.

    Epochs follow each other without a cut, so only the last batch of the run may be smaller. The whole
    order is known before the first step, and a resumed run reads it on from where it stood.

    Args:
        domains: the source of each row, to train on the sources one after the other, in the order in which they first
            appear: all epochs of one before the next. A batch may hold the end of one and the start of the next.

    Raises:
        ValueError: no row is dealt, or none of a source.
    """
    check_epochs(rows, epochs)
    for domain, size in Counter(domains).items():
        if not round(size * epochs):
            raise ValueError(
                f"epochs: {epochs:g} of the {size} rows of {domain} is less than a row, with order: sources; set"
                f" {1 / size:.2g} or more, or write shuffle"
            )
    domains = domains or [""] * rows
    order: list[int] = []
    for domain, size in Counter(domains).items():
        end, epoch = len(order) + round(size * epochs), 0
        while len(order) < end:
            indices = list(range(rows))
            Random(f"{seed}:{epoch}").shuffle(indices)
            order += [row for row in indices if domains[row] == domain]
            epoch += 1
        del order[end:]
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def check_epochs(rows: int, epochs: float) -> None:
    """Raise a ValueError for so small a part of an epoch that no row is in it."""
    if rows and not round(rows * epochs):
        raise ValueError(f"epochs: {epochs:g} of {rows} rows is less than a row; set {1 / rows:.2g} or more")


def domain_ends(epochs: float, domains: list[str], step_rows: int) -> list[int]:
    """The step with which each source is done, where they are trained one after the other."""
    ends = accumulate(round(size * epochs) for size in Counter(domains).values())
    return [-(-end // step_rows) for end in ends]


def best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """Bins of row indices with at most `capacity` tokens each: longest row first, each into the fullest bin it fits.

    Needs at most 11/9 of the fewest possible bins, plus 4 (Johnson et al., 1974,
    https://doi.org/10.1137/0203025). Ties go to the lower index, so equal input gives equal bins.
    """
    assert max(lengths, default=0) <= capacity, "a row is longer than a bin"
    bins: list[list[int]] = []
    free: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fitting = [b for b, room in enumerate(free) if room >= lengths[row]]
        if fitting:
            target = min(fitting, key=free.__getitem__)
        else:
            target = len(bins)
            bins.append([])
            free.append(capacity)
        bins[target].append(row)
        free[target] -= lengths[row]
    return bins


def pack(lengths: list[int], max_length: int) -> list[list[int]]:
    """As few bins of at most `max_length` tokens as best-fit decreasing finds, then as narrow as they can be.

    A batch is a rectangle of (bins, longest bin), so evening the bins out saves tokens that a full bin beside
    a half-empty one would pad: for batches of 16 rows of 40 to 150 tokens in bins of 256, 92 % of the
    rectangle is rows, 89 % without this second half. The width is found by bisection, as in MULTIFIT
    (Coffman et al., 1978, https://doi.org/10.1137/0207001).
    """
    bins = best_fit_decreasing(lengths, max_length)
    low, high = max(max(lengths), -(-sum(lengths) // len(bins))), max_length
    while low < high:
        width = (low + high) // 2
        narrower = best_fit_decreasing(lengths, width)
        if len(narrower) <= len(bins):
            bins, high = narrower, width
        else:
            low = width + 1
    return bins


def collate(rows: list[dict], bins: list[list[int]], pad_token_id: int) -> dict:
    """Lay rows out as one batch of shape (bins, longest bin): `input_ids`, `labels`, `position_ids`, all int64.

    Positions start at 0 with each row, and there is no attention mask: transformers reads the restarts as row
    boundaries and lets no row see another (`find_packed_sequence_indices` in `masking_utils`). A row's first
    token has no label, for what stands before it is another row. Padding, at the end of a bin, carries on the
    last row: nothing before it sees it, and a batch of one row per bin needs no mask at all, only causality.

    Args:
        rows: the batch's rows, {"input_ids", "labels"} of equal length, labels not shifted.
        bins: indices into `rows`, one list per bin.
    """
    import torch

    width = max(sum(len(rows[i]["input_ids"]) for i in row_indices) for row_indices in bins)
    input_ids = torch.full((len(bins), width), pad_token_id)
    labels = torch.full((len(bins), width), IGNORED)
    position_ids = torch.empty((len(bins), width), dtype=torch.int64)
    for b, row_indices in enumerate(bins):
        start = 0
        for i in row_indices:
            end = start + len(rows[i]["input_ids"])
            input_ids[b, start:end] = torch.from_numpy(np.array(rows[i]["input_ids"]))
            labels[b, start + 1 : end] = torch.from_numpy(np.array(rows[i]["labels"])[1:])
            position_ids[b, start:] = torch.arange(width - start)
            start = end
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}


def row_keywords(rows: list[dict], bins: list[list[int]]) -> dict:
    """What tells the rows of one sequence apart besides their positions, as TRL's padding-free batches have it.

    Returns:
        `cu_seq_lens_q` and `cu_seq_lens_k`, [rows + 1] int32: where each row begins and the last ends; `max_length_q`
        and `max_length_k`; `seq_idx`, [1, tokens] int32: the row of each token.
    """
    import torch

    (members,) = bins
    lengths = torch.tensor([len(rows[i]["input_ids"]) for i in members], dtype=torch.int32)
    ends = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0, dtype=torch.int32)])
    numbers = torch.arange(len(members), dtype=torch.int32)
    return {
        **dict.fromkeys(("cu_seq_lens_q", "cu_seq_lens_k"), ends),
        **dict.fromkeys(("max_length_q", "max_length_k"), int(lengths.max())),
        "seq_idx": numbers.repeat_interleave(lengths)[None],
    }
