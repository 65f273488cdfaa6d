"""A teacher's stored distributions: the files, memory-mapped."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from steps.core.manifest import verify_manifest
from steps.core.promises import MANIFEST
from steps.training.packing import IGNORED

if TYPE_CHECKING:
    pass


FILES = ("ids", "logps", "tail", "lengths")
# Log of the smallest mass outside the k that is told from none: 2e-9, which weighs nothing in a loss.
FLOOR = -20.0
# float16 ends at -65,504. A token that a teacher rules out (-inf) stays a number: 0 times -inf would be none.
LOWEST = -1e4


class Cached:
    """The files of this step, memory-mapped: a row is read when it is asked for.

    Attributes:
        k: entries per place.
        rows: of the file that they were made from, left out ones among them.
        lengths: [rows] places of each row.

    Raises:
        ValueError: a file is missing, damaged, or does not fit the others; the message names it. Bytes that changed
            in place are found by `check`.
    """

    def __init__(self, folder: Path):
        ids, logps, tail, lengths = (_mapped(folder / f"{name}.npy", folder) for name in FILES)
        tokens = int(lengths.sum(dtype=np.int64)) if lengths.ndim == 1 else -1
        fits = {
            "ids": ids.ndim == 2 and len(ids) == tokens and ids.dtype in (np.uint16, np.uint32),
            "logps": logps.shape == ids.shape and logps.dtype == np.float16,
            "tail": tail.shape == ids.shape[:1] and tail.dtype == np.float16,
        }
        for name, fit in fits.items():
            if not fit:
                array = {"ids": ids, "logps": logps, "tail": tail}[name]
                raise ValueError(
                    f"{folder / name}.npy is damaged: {array.dtype} {array.shape} does not fit the {tokens} tokens of"
                    f" {folder / 'lengths.npy'}; delete {folder} and run again"
                )
        self.ids, self.logps, self.tail = ids, logps, tail
        self.k, self.rows = ids.shape[1], len(lengths)
        self.lengths = np.array(lengths, dtype=np.int64)
        self.ends = self.lengths.cumsum()

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the teacher thinks at the n places of a row.

        Returns:
            ids: [n, k] int64.
            logps: [n, k] float32, natural logarithms.
            tail: [n] float32, logarithm of the mass outside the k. With it each place sums to 1, which the halves
                of float32 alone do not give.
        """
        if not 0 <= row < self.rows:
            raise IndexError(f"row {row} of {self.rows}")
        part = slice(int(self.ends[row] - self.lengths[row]), int(self.ends[row]))
        logps, tail = self.logps[part].astype(np.float64), self.tail[part].astype(np.float64)
        total = np.log(np.exp(logps).sum(-1) + np.exp(tail))
        normal, rest = logps - total[:, None], tail - total
        return self.ids[part].astype(np.int64), normal.astype(np.float32), rest.astype(np.float32)

    def __len__(self) -> int:
        return self.rows


def _mapped(path: Path, folder: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: {folder} holds no teacher's log-probabilities; run steps.distillation.logprobs first"
        )
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        size = path.stat().st_size
        raise ValueError(f"{path} is damaged ({error}; {size} bytes); delete {folder} and run again") from None


def check(folder: Path) -> list[Path]:
    """Verify every byte of a finished folder; returns the file that stands for them, its manifest.

    Raises:
        ValueError: a file is missing or damaged; the message names it.
    """
    verify_manifest(folder)
    return [folder / MANIFEST]


def last_turn(labels: list[int]) -> tuple[int, int]:
    """Begin and end of the last run of trained tokens: the last assistant turn, as `supervised.encode` marks it.

    A conversation's first token is predicted by nothing and is no part of it.
    """
    trained = [i for i, label in enumerate(labels) if i and label != IGNORED]
    if not trained:
        return 0, 0
    begin = end = trained[-1]
    while begin > 1 and labels[begin - 1] != IGNORED:
        begin -= 1
    return begin, end + 1
