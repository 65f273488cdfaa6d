"""What PEFT-Arena (arXiv:2605.28819) published, beside which the report puts its own numbers.

`peft_arena.csv` has one line per method, model and domain: target and general score in percent, trained parameters in
millions. Where the project's page and its poster differ, both are there; `averaged` marks the one that the published
averages were computed from. No intervals, seeds or learning rates were published.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from steps.core.files import read_csv

CITATION = "PEFT-Arena, arXiv:2605.28819"
BASE = "Base"
# The method that stands for a kind of adapter of which several sizes were published.
REPRESENTS = {
    "full": "Full FT", "lora": "LoRA r8a16", "dora": "DoRA r8a16", "pissa": "PiSSA r8a16", "milora": "MiLoRA r8a16",
    "adalora": "AdaLoRA r8a16", "vera": "VeRA r256", "oft": "OFT b32", "ia3": "IA3",
}  # fmt: skip
# (Pearson, Spearman) of a measure with forgetting or, where it is of target prompts, with the gain. Drift is that of
# layer 18's down_proj, the others are means over eight modules.
CORRELATIONS = {
    "csd_rel_general": (0.347, 0.317),
    "csd_un_general": (0.481, 0.603),
    "csd_rel_target": (-0.164, 0.107),
    "procrustes_general": (0.711, 0.568),
    "gram_general": (0.485, 0.361),
    "cka_general": (-0.761, -0.711),
}
# (target, general) in percent of one OFT b32 after math: at its end, and at alpha 0.3 of both paths to it.
PATHS = {"end": (46.93, 44.37), "dense": (43.93, 43.91), "cayley": (45.77, 48.64)}
# The same, rewound uniformly to alpha 0.4.
REWOUND = (48.10, 47.53)
# Uniformly, and each layer to the least of them: (target, general) after math.
REWINDS = {"all alike": REWOUND, "to the least": (47.83, 46.86)}


@dataclass(frozen=True)
class Method:
    """Means over two models and two domains: points gained on the target, points of the general score forgotten."""

    name: str
    kind: str
    trained_millions: tuple[float, ...]  # one per model
    gain: float
    forgetting: float


def cells() -> list[dict]:
    """The published table, line by line; scores are numbers, `averaged` is a boolean."""
    return [
        row | {k: float(row[k]) for k in ("target", "general")} | {"averaged": row["averaged"] == "1"}
        for row in read_csv(Path(__file__).with_suffix(".csv"))
    ]


def methods(rows: Iterable[dict] | None = None) -> dict[str, Method]:
    """The published methods by name, their averages computed from `rows` (the lines marked as averaged).

    Forgetting is the base's general score minus the tuned one's, gain the tuned target score minus the base's.
    """
    rows = [row for row in cells() if row["averaged"]] if rows is None else list(rows)
    base = {(row["model"], row["domain"]): row for row in rows if row["method"] == BASE}
    of_name = {}
    for name in dict.fromkeys(row["method"] for row in rows if row["method"] != BASE):
        own = [(row, base[row["model"], row["domain"]]) for row in rows if row["method"] == name]
        trained = dict.fromkeys(float(row["trained_millions"]) for row, _ in own if row["trained_millions"])
        of_name[name] = Method(
            name,
            own[0][0]["kind"],
            tuple(trained),
            fmean(row["target"] - start["target"] for row, start in own),
            fmean(start["general"] - row["general"] for row, start in own),
        )
    return of_name


def of_kind(kind: str) -> Method | None:
    """What stands for a kind of adapter; None where it was not published."""
    return methods()[REPRESENTS[kind]] if kind in REPRESENTS else None


def family_forgetting(kind: str) -> float:
    """Forgetting as a mean over the published sizes of a kind."""
    return fmean(method.forgetting for method in methods().values() if method.kind == kind)
