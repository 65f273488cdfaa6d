"""Responses that are labelled good or bad: a bad one becomes the rejected one of a good one to the same prompt.

Rows with a label are set aside on disk until all are read; what stays in memory is 210 bytes for each bad one.
"""

import tempfile
from collections import defaultdict
from pathlib import Path

import orjson

from steps.data.identity import hash64
from steps.data.records import rejected_of
from steps.data.rows import EXCERPT_CHARS, Ledger, RowProblem


class Labelled:
    """The rows that have a label, in the order in which they came."""

    def __init__(self, folder: Path):
        """
        Args:
            folder: where they are set aside; nothing is left in it.
        """
        self.good = tempfile.TemporaryFile(dir=folder)
        self.bad = tempfile.TemporaryFile(dir=folder)
        self.places: defaultdict[int, list[int]] = defaultdict(list)
        self.refused: set[int] = set()

    def add(self, row: dict, good: bool, raw: str) -> None:
        """Set a row aside, without its label."""
        file = self.good if good else self.bad
        if not good:
            self.places[_prompt(row)].append(file.tell())
            self.refused.add(_whole(row))
        # An excerpt may hold bytes that are no UTF-8.
        excerpt = raw[:EXCERPT_CHARS].encode("utf-8", "backslashreplace").decode()
        file.write(orjson.dumps([row, excerpt], option=orjson.OPT_APPEND_NEWLINE))

    def settle(self, ledger: Ledger) -> None:
        """Keep every good row, the first with the first bad one to its prompt and so on; quarantine every bad one."""
        for file in (self.good, self.bad):
            file.seek(0)
        for line in self.good:
            row, excerpt = orjson.loads(line)
            if _whole(row) in self.refused:
                hint = "keep one of the two labels"
                detail = "another row gives the same response the label false"
                ledger.quarantine(row, RowProblem("equal_pair", "label", hint, detail), excerpt)
                continue
            places = self.places.get(_prompt(row))
            if not places:
                ledger.keep(row)
                continue
            self.bad.seek(places.pop(0))
            other, of_other = orjson.loads(self.bad.readline())
            hint = f"nothing to do: it is the rejected response of {row['id']}"
            ledger.quarantine(other, RowProblem("paired", "label", hint), of_other)
            ledger.keep(row | {"rejected": rejected_of(other["messages"][-1:])})
        for place in sorted(place for places in self.places.values() for place in places):
            self.bad.seek(place)
            row, excerpt = orjson.loads(self.bad.readline())
            hint = "add a good response to the same prompt: a bad one alone is not trained on"
            ledger.quarantine(row, RowProblem("unpaired", "label", hint), excerpt)

    def close(self) -> None:
        self.good.close()
        self.bad.close()


def _prompt(row: dict) -> int:
    return hash64([orjson.dumps([row["messages"][:-1], row.get("tools")]).decode()])


def _whole(row: dict) -> int:
    """Of the prompt and the response, but for white space around it."""
    return hash64([str(_prompt(row)), row["messages"][-1]["content"].strip()])
