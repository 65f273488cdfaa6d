"""Merge methods: what becomes of corresponding tensors of several checkpoints.

Our own and not those of mergekit's registry, which take whole tensors: two parents' matrix of 4,096 × 11,008 in
bfloat16 (86 MiB) takes 270 MiB (linear) to 1,200 MiB (ties) beside inputs and output and 0.5 to 9.6 s there, here 2 to
13 MiB and 0.1 to 1.4 s, for it is read in pieces (mergekit 0.1.5, one thread). mergekit also rounds in the parents'
dtype, and draws dare's masks from the global generator, so that equal merges differ. In float32 and with the same
masks, the tests hold every method to mergekit's.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steps.models.weights import (
    CHUNK,
    Read,
)
from steps.settings.delivery import DTYPES
from steps.settings.merging import MERGES, TOKENIZERS

SLERP_COSINE = 0.9995
# What the functions below compute; a test holds them against the registry.
OF_WEIGHTS = ("linear", "slerp")
OF_CHANGES = (
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "della_linear", "della", "breadcrumbs", "breadcrumbs_ties",
    "model_stock",
)  # fmt: skip
# Of layers; steps/models/stacking.py.
OF_LAYERS = ("passthrough",)
VOTING = ("ties", "dare_ties", "della", "breadcrumbs_ties")
# Settings that act with every method or may be left out.
OPTIONAL = {"method", "normalize", "dtype", "tokenizer"}


def check_settings(settings: dict, parents: list[Path], base: Path | None) -> None:
    """Raises:
    ValueError: the settings do not fit the method or the parents.
    """
    method, given = settings.get("method"), settings.keys() - {"method"}
    if method not in MERGES:
        raise ValueError(f"method: {method} is none of {', '.join(MERGES)}")
    of = MERGES[method]
    for key in sorted(({*of.keys} ^ given) - OPTIONAL | ({"normalize"} & given - {*of.keys})):
        raise ValueError(f"{key}: {method} has no such setting" if key in given else f"{key}: {method} needs it")
    for key, names in (("dtype", DTYPES), ("tokenizer", TOKENIZERS)):
        if settings.get(key, names[0]) not in names:
            raise ValueError(f"{key}: {settings[key]} is none of {', '.join(names)}")
    if of.over_base and base is None:
        raise ValueError(f"--base: {method} merges the changes of a base model; name its folder")
    if not of.over_base and base is not None:
        raise ValueError(f"--base: {method} has no base; leave it out")
    if of.pairwise and len(parents) != 2:
        raise ValueError(f"method: {method} is between two parents, not {len(parents)}")
    check_shares(settings)
    if "weights" in given:
        check_sums(settings, len(parents))


def check_shares(settings: dict) -> None:
    """Raises:
    ValueError: t, density or epsilon lies outside of its bounds, in some layer.
    """
    for t in listed(settings.get("t", 0)):
        if not 0 <= t <= 1:
            raise ValueError(f"t: {t:g} is not from 0 (the first parent) to 1 (the second)")
    for density in listed(settings.get("density", 1)):
        if not 0 < density <= 1:
            raise ValueError(f"density: {density:g} is no share above 0 and up to 1")
        epsilon = settings.get("epsilon", 0)
        if epsilon and density < 1 and not epsilon < density < 1 - epsilon:
            raise ValueError(
                f"epsilon: {epsilon:g} around density {density:g} is no share between 0 and 1; lower it to"
                f" below {min(density, 1 - density):g}"
            )


def check_sums(settings: dict, parents: int) -> None:
    """Raises:
    ValueError: the weights are not one for each parent, or those of a linear merge do not sum to 1 in some layer.
    """
    weights = settings["weights"]
    if len(weights) != parents:
        raise ValueError(f"weights: {len(weights)} numbers for {parents} parents; give one for each entry of from:")
    if settings["method"] != "linear":
        return
    # Sums are straight between the numbers that are listed.
    for depth in sorted({i / (len(listed(w)) - 1) for w in weights for i in range(len(listed(w))) if i} | {0.0}):
        total = sum(at_depth(weight, depth) for weight in weights)
        if not settings.get("normalize") and not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(
                f"weights: they sum to {total:g}, not 1; the merge would scale the model: correct them, or write"
                " normalize: true"
            )
        if abs(total) < 1e-8:
            raise ValueError("weights: they sum to 0, by which nothing can be divided; correct them")


def listed(value: float | list[float]) -> list[float]:
    return value if isinstance(value, list) else [value]


def at_depth(value: float | list[float], depth: float) -> float:
    """A setting at a depth from 0, the first layer, to 1, the last: numbers that are listed lie at equal distances, and
    what is between them is interpolated (mergekit's gradients)."""
    values = listed(value)
    place = depth * (len(values) - 1)
    begin = min(int(place), len(values) - 1)
    end = min(begin + 1, len(values) - 1)
    return (1 - (place - begin)) * values[begin] + (place - begin) * values[end] if end > begin else values[begin]


def in_layer(settings: dict, layer: int | None, layers: int) -> dict:
    """The settings of one of so many layers; what is outside of layers has those of the first, as in mergekit."""
    depth = 0.0 if layer is None else layer / (layers - 1) if layers > 1 else 1.0
    own = {key: at_depth(settings[key], depth) for key in ("t", "density") if isinstance(settings.get(key), list)}
    if any(isinstance(weight, list) for weight in settings.get("weights") or ()):
        own["weights"] = [at_depth(weight, depth) for weight in settings["weights"]]
    return settings | own


def linear(tensors: list[Any], weights: list[float]) -> Any:
    """Weighted sum of equally shaped tensors, in float32 at least, stored in the widest of their dtypes.

    A parent with weight 0 is not read into the sum, and one with weight 1 alone is returned as it is: the ends
    of a sweep are bit-equal to the parents.
    """
    import torch

    chosen = [(tensor, weight) for tensor, weight in zip(tensors, weights, strict=True) if weight != 0]
    if len(chosen) == 1 and chosen[0][1] == 1:
        return chosen[0][0]
    dtype = chosen[0][0].dtype
    for tensor, _ in chosen:
        dtype = torch.promote_types(dtype, tensor.dtype)
    wide = torch.promote_types(dtype, torch.float32)
    total = chosen[0][0].to(wide) * chosen[0][1]
    for tensor, weight in chosen[1:]:
        total += tensor.to(wide) * weight
    return total.to(dtype)


def spans(size: int, columns: int = 1) -> Iterator[tuple[int, int]]:
    """Begin and end of the chunks of a tensor of so many elements; whole rows of so many columns, and even as CHUNK."""
    step = max(1, CHUNK // columns) * columns
    step *= 1 + step % 2
    for start in range(0, size, step):
        yield start, min(start + step, size)


def slerp_weights(size: int, first: Read, second: Read, t: float) -> list[float]:
    """Weights of two tensors such that their sum lies on the arc between them: sin((1 - t) angle) / sin(angle) and
    sin(t angle) / sin(angle) (Shoemake 1985)."""
    import torch

    a = b = ab = 0.0
    for span in spans(size):
        x, y = first(*span).double(), second(*span).double()
        a, b, ab = a + torch.dot(x, x).item(), b + torch.dot(y, y).item(), ab + torch.dot(x, y).item()
    # A tensor of zeros has no direction: mergekit takes a right angle.
    norms = [norm if norm > 1e-8 else 1.0 for norm in (math.sqrt(a), math.sqrt(b))]
    cosine = max(-1.0, min(1.0, ab / norms[0] / norms[1]))
    if abs(cosine) > SLERP_COSINE:
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


Changes = Callable[[], Iterator[Any]]  # a pass over one tensor: float32 chunks [parents, elements] of parent - base
Keep = Callable[[Any], Any]  # what is kept of such a chunk; called with the chunks in order, may change them


def kept_by_magnitude(changes: Changes, parents: int, count: int) -> Keep:
    """Keeps exactly `count` elements of each row, at least one, those of the largest magnitude.

    Of equal magnitudes the first are kept; mergekit leaves it to its sort. Without the sign, floats are in the order
    of their bits. So the smallest magnitude that stays is found in two passes, by counting the upper 15 bits of all
    and then the lower 16 bits of those that share its upper ones: exact, and without a sorted copy of the tensor. A
    merge of two parents by two threads needs 10 MiB less than with 2**18 bins, in the same time.
    """
    import numpy as np
    import torch

    def find(counts: Any, rank: int) -> tuple[int, int]:
        """The bin with the element of a rank, counted from the largest, and its rank within that bin."""
        above = np.cumsum(counts[::-1])
        index = int(np.searchsorted(above, rank))
        return len(counts) - 1 - index, rank - int(above[index - 1] if index else 0)

    rows = range(parents)
    counts = np.zeros((parents, 2**15), np.int64)
    for chunk in changes():
        for row, bits in enumerate(chunk.abs_().view(torch.int32)):
            counts[row] += torch.bincount(bits >> 16, minlength=2**15).numpy()
    upper = [find(counts[row], count) for row in rows]
    counts = np.zeros((parents, 2**16), np.int64)
    for chunk in changes():
        for row, bits in enumerate(chunk.abs_().view(torch.int32).numpy()):
            np.add.at(counts[row], bits[bits >> 16 == upper[row][0]] & (2**16 - 1), 1)
    lower = [find(counts[row], upper[row][1]) for row in rows]
    smallest = torch.tensor([upper[row][0] << 16 | lower[row][0] for row in rows], dtype=torch.int32)
    at, below = smallest.view(torch.float32).tolist(), (smallest - 1).clamp_(0).view(torch.float32).tolist()
    ties = [lower[row][1] for row in rows]  # how many elements of the smallest magnitude still stay

    def keep(chunk: Any) -> Any:
        for row, values in enumerate(chunk):
            if ties[row]:
                equal = np.flatnonzero(np.abs(values.numpy()) == at[row])
                values.numpy()[equal[ties[row] :]] = 0
                ties[row] -= min(ties[row], len(equal))
                torch.nn.functional.hardshrink(values, below[row], out=values)
            else:
                torch.nn.functional.hardshrink(values, at[row], out=values)
        return chunk

    return keep


def kept_without_outliers(changes: Changes, parents: int, size: int, density: float, gamma: float) -> Keep:
    """Keeps int(density * size) elements of each row, the largest but int(gamma * size) of even larger ones; fewer are
    left out where too few would remain."""
    import torch

    count = int(density * size)
    outliers = min(int(gamma * size), size - count)
    if not count:
        return torch.zeros_like
    most = kept_by_magnitude(changes, parents, outliers + count)
    if not outliers:
        return most
    largest = kept_by_magnitude(changes, parents, outliers)

    def keep(chunk: Any) -> Any:
        left_out = largest(chunk.clone())
        return most(chunk).sub_(left_out)

    return keep


def kept_at_random(seed: int, name: str, parent: int, density: float) -> Callable[..., Any]:
    """A stream of mask elements, True with the probability `density`, that the arguments alone decide. A draw may give
    each of its elements a probability of its own.

    32 bits each, of NumPy's SFC64, whose streams do not change between versions.
    """
    import numpy as np

    digest = hashlib.sha256(f"{seed}\0{parent}\0{name}".encode()).digest()
    stream = np.random.SFC64(int.from_bytes(digest, "big"))

    def draw(count: int, chances: Any = density) -> Any:
        return stream.random_raw((count + 1) // 2).view(np.uint32)[:count] < np.round(chances * 2**32)

    return draw


def by_rank(columns: int, density: float, epsilon: float) -> Callable[[Any], Any]:
    """DELLA's chances of magnitudes that are whole rows of a matrix: from density − epsilon for the smallest of a row
    to density + epsilon for the largest. Of equals the later ones rank higher."""
    import numpy as np

    def chances(values: Any) -> Any:
        rows = values.reshape(-1, columns)
        ranks = np.empty(rows.shape)
        np.put_along_axis(ranks, rows.argsort(1, kind="stable"), np.arange(columns, dtype=float)[None], 1)
        share = ranks / (columns - 1) if columns > 1 else np.full(rows.shape, 0.5)
        return (density - epsilon + 2 * epsilon * share).ravel()

    return chances


def kept_by_dare(
    changes: Changes, parents: int, name: str, density: float, seed: int, chances: Callable[[Any], Any] | None = None
) -> Keep:
    """Keeps a random share of each row, scaled to the L1 norm that the whole row had.

    chances: of some magnitudes, how likely each is kept, in place of `density` for all.
    """
    import numpy as np

    def drawn(draw: Callable[..., Any], values: Any) -> Any:
        return draw(len(values), chances(np.abs(values))) if chances else draw(len(values))

    def streams() -> list[Callable[..., Any]]:
        return [kept_at_random(seed, name, parent, density) for parent in range(parents)]

    before, after = [0.0] * parents, [0.0] * parents
    draws = streams()
    for chunk in changes():
        for row, values in enumerate(chunk.abs_().numpy()):
            before[row] += float(values.sum())
            after[row] += float(np.multiply(values, drawn(draws[row], values), out=values).sum())
    # 1e-7 is mergekit's: a change as good as zero is not scaled.
    factors = [old / new if min(old, new) >= 1e-7 else 1.0 for old, new in zip(before, after, strict=True)]
    again = streams()

    def keep(chunk: Any) -> Any:
        for row, values in enumerate(chunk.numpy()):
            np.multiply(values, drawn(again[row], values), out=values)
            values *= factors[row]
        return chunk

    return keep


def agreed_share(changes: Changes, parents: int) -> float:
    """How far towards the parents' mean: n c / (1 + (n − 1) c), c being the mean cosine between two of the n changes.

    Model Stock (arXiv:2403.19522, section 4): that point of their plane is nearest to the centre of such fine-tunes. Of
    opposed changes (c < 0) it weighs the mean against itself, as mergekit's does; where the denominator is 0 there
    is no such point, and it stays with the base.
    """
    import torch

    products = torch.zeros(parents, parents, dtype=torch.float64)
    for chunk in changes():
        products += chunk.double() @ chunk.double().T
    norms = products.diagonal().sqrt()
    # A change of nothing has no angle to others.
    cosines = (products / torch.outer(norms, norms).clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1, 1)
    pairs = torch.triu_indices(parents, parents, 1)
    cosine = cosines[pairs[0], pairs[1]].mean().item()
    rest = 1 + (parents - 1) * cosine
    return parents * cosine / rest if abs(rest) >= 1e-6 else 0.0


def sum_of_rows(rows: Any) -> Any:
    """The sum that torch's `sum(0)` gives, in a third of its time."""
    total = rows[0].clone()
    for row in rows[1:]:
        total += row
    return total


def sum_of_changes(deltas: Any, weights: Any, vote: bool, normalize: bool) -> Any:
    """Changes [parents, elements] times weights [parents, 1], summed over the parents; overwrites the changes.

    vote: only those count that have the sign of the sum (of zero: plus). normalize: the weights of those that count are
    divided by their sum.
    """
    import torch

    total = sum_of_rows(deltas.mul_(weights))
    if not vote:
        whole = weights.sum().item()
        return total / whole if normalize and abs(whole) >= 1e-8 else total
    # Arithmetic on signs: torch's operations on booleans take five times as long.
    sign = torch.ones_like(total).copysign_(total)
    total = sum_of_rows(deltas.mul_(sign).relu_()).mul_(sign)
    if normalize:
        divisor = sum_of_rows(deltas.sign_().mul_(weights))
        divisor.numpy()[divisor.numpy() == 0] = 1
        total /= divisor
    return total


def keep_of(changes: Changes, name: str, size: int, columns: int, parents: int, settings: dict) -> Keep | None:
    """What a method keeps of each change; None for all."""
    method, density = settings["method"], settings.get("density", 1)
    if density >= 1:
        return None
    if method == "ties":
        return kept_by_magnitude(changes, parents, max(1, int(density * size)))
    if method.startswith("breadcrumbs"):
        return kept_without_outliers(changes, parents, size, density, settings["gamma"])
    chances = by_rank(columns, density, settings["epsilon"]) if method.startswith("della") else None
    return kept_by_dare(changes, parents, name, density, settings["seed"], chances)


def merged_changes(
    name: str, size: int, parents: list[Read], base: Read, settings: dict, columns: int
) -> Iterator[Any]:
    """Chunks of base + scale × the merged changes of the parents."""
    import torch

    method = settings["method"]
    assert method in OF_CHANGES, f"{method}: no function merges changes so"

    def rows() -> Iterator[tuple[Any, Any]]:
        for span in spans(size, columns if method.startswith("della") else 1):
            origin = base(*span).float()
            deltas = torch.empty(len(parents), len(origin))
            for row, read in zip(deltas, parents, strict=True):
                torch.sub(read(*span).float(), origin, out=row)
            yield origin, deltas

    def changes() -> Iterator[Any]:
        return (deltas for _, deltas in rows())

    keep = keep_of(changes, name, size, columns, len(parents), settings)
    if method == "model_stock":
        settings = {"weights": [1 / len(parents)] * len(parents), "scale": agreed_share(changes, len(parents))}
    weights = torch.tensor(settings["weights"], dtype=torch.float32)[:, None]
    normalize = settings.get("normalize")
    normalize = MERGES[method].normalized if normalize is None else normalize
    for origin, deltas in rows():
        kept = keep(deltas) if keep else deltas
        total = sum_of_changes(kept, weights, vote=method in VOTING, normalize=normalize)
        yield total.mul_(settings["scale"]).add_(origin)


def merged(
    name: str, size: int, parents: list[Read], base: Read | None, settings: dict, columns: int = 1
) -> Iterator[Any]:
    """One merged tensor, flat, in consecutive chunks, in float32 or a dtype of its parents.

    Args:
        name: decides the random draws of dare and della.
        size: elements of the tensor; `columns` of them make a row, its last side.
        settings: of its layer (`in_layer`).
    """
    if MERGES[settings["method"]].over_base:
        yield from merged_changes(name, size, parents, base, settings, columns)
        return
    assert settings["method"] in OF_WEIGHTS, f"{settings['method']}: no function merges weights so"
    weights = slerp_weights(size, *parents, settings["t"]) if settings["method"] == "slerp" else settings["weights"]
    if settings.get("normalize"):
        weights = [weight / sum(weights) for weight in weights]
    for span in spans(size):
        yield linear([read(*span) for read in parents], weights)
