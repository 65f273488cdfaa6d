"""Tokens of many rows in a file: what a training holds in memory of a row does not grow with its length."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

WIDTH = 4


class Store:
    """A file without a name, in TMPDIR, that ends with the process; each process of a training has its own.

    A list of Python's takes 8 bytes a token and 28 more for each number above 256, here it takes 4 on disk.
    """

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()
        self.end = 0

    def put(self, tokens: Sequence[int]) -> "Tokens":
        """Write tokens; what comes back reads them when they are asked for."""
        self.file.write(np.asarray(tokens, dtype=np.int32).tobytes())
        self.end += len(tokens)
        return Tokens(self, self.end - len(tokens), len(tokens))

    def read(self, begin: int, count: int) -> np.ndarray:
        """[count] int32 from place `begin` on."""
        self.file.flush()
        # It moves no position, which processes that were forked share.
        return np.frombuffer(os.pread(self.file.fileno(), count * WIDTH, begin * WIDTH), dtype=np.int32)


class Tokens(Sequence[int]):
    """The tokens or labels of a row, read anew each time."""

    __slots__ = ("begin", "count", "store")

    def __init__(self, store: Store, begin: int, count: int):
        self.store, self.begin, self.count = store, begin, count

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.store.read(self.begin, self.count).astype(dtype or np.int32)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return iter(self.store.read(self.begin, self.count).tolist())

    def __getitem__(self, place: Any) -> Any:
        return self.store.read(self.begin, self.count)[place].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]
