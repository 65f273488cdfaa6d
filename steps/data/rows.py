"""What the data steps share: the ledger that accounts for every row, and the words and numbers of a text.

Every step that takes rows writes `rows.jsonl` (kept) and `quarantine.jsonl` (not kept, with the reason); the
ledger counts what goes in and what comes out, and asserts that the two agree. `data/README.md` documents
both schemas and every reason.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import regex

from steps.core.progress import say
from steps.core.text import UNSPACED
from steps.core.turns import prompt_turns
from steps.data.identity import fold, without_thousands

ROWS = "rows.jsonl"
QUARANTINE = "quarantine.jsonl"
# The quarantine of a step that fails: Snakemake deletes the outputs that a rule names.
REFUSED = "refused.jsonl"
EXCERPT_CHARS = 200
# Of rows that are taken up together.
CHUNK_BYTES = 1 << 20


# --- accounting ----------------------------------------------------------------------------------


class RowProblem(Exception):
    """Why one row is quarantined: reason code, field path or byte, what the user can do, and what was found."""

    def __init__(self, reason: str, column: str, hint: str, detail: str | None = None):
        super().__init__(reason, column, hint, detail)
        self.reason, self.column, self.hint, self.detail = reason, column, hint, detail


class _Accounts:
    """What became of rows: they are kept or quarantined, in `files`, and counted."""

    files: dict[str, Any]

    def __init__(self, step: str):
        self.step = step
        self.entered: Counter[str] = Counter()
        self.kept: Counter[str] = Counter()
        self.quarantined: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def enter(self, file: str) -> None:
        """Count one row of a source file in, before anything is decided about it."""
        self.entered[file] += 1

    def keep(self, row: dict, file: str = ROWS) -> None:
        """Write a row of the documented schema.

        Raises:
            TypeError: a string of it cannot be written as UTF-8 (a lone surrogate).
        """
        self.files[file].write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        self.kept[row["file"]] += 1

    def quarantine(self, where: dict, problem: RowProblem, excerpt: str) -> None:
        """Write a quarantine record; `where` has the id, file, line and row (any further key is ignored)."""
        record = {
            "id": where["id"],
            "file": where["file"],
            "line": where["line"],
            "row": where["row"],
            "column": escaped(problem.column),
            "reason": problem.reason,
            "hint": escaped(problem.hint),
            "step": self.step,
            "detail": None if problem.detail is None else escaped(problem.detail),
            "excerpt": escaped(excerpt),
        }
        self.files[QUARANTINE].write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
        self.quarantined[where["file"]][problem.reason] += 1


class Part(_Accounts):
    """What became of some rows of a step, in memory: for the step's ledger, from another process."""

    def __init__(self, step: str):
        super().__init__(step)
        self.files = {ROWS: BytesIO(), QUARANTINE: BytesIO()}


class Ledger(_Accounts):
    """The kept and the quarantined rows of one step, written as they come, and the counts that must add up.

    Files appear under their names when `close` has checked the counts. Kept rows go to one of the files `kept`, the
    others to what `close` calls `aside`.
    """

    def __init__(self, out: Path, step: str, kept: tuple[str, ...] = (ROWS,), aside: str = QUARANTINE):
        super().__init__(step)
        self.out, self.aside = out, aside
        self.files = {name: open(out / f".{name}.partial", "wb") for name in (*kept, QUARANTINE)}

    def add(self, part: Part) -> None:
        """Take over what became of the rows that follow."""
        for name, file in part.files.items():
            self.files[name].write(file.getbuffer())
        self.entered.update(part.entered)
        self.kept.update(part.kept)
        for name, reasons in part.quarantined.items():
            self.quarantined[name].update(reasons)

    def refused(self, why: str) -> ValueError:
        """The error of a step that has nothing to go on with, before or after `close`; it names the file that stays."""
        for name, file in self.files.items():
            file.close()
            partial = self.out / f".{name}.partial"
            if partial.exists():
                partial.replace(self.out / name)
        (self.out / QUARANTINE).replace(self.out / REFUSED)
        return ValueError(f"{why}; {self.out / REFUSED} has each with its reason")

    def close(self, where: object = None, fix: str = "", what: str = "rows") -> dict:
        """Check the counts, give the files their names, return the counts for the manifest.

        Args:
            where: what was read. With it a step that keeps nothing ends here: none after it could do anything.
            fix: what the user can do about that.
            what: went in.

        Raises:
            ValueError: something went in and nothing is kept.
        """
        by_file = {
            file: {"in": n, "kept": self.kept[file], "quarantined": dict(sorted(self.quarantined[file].items()))}
            for file, n in sorted(self.entered.items())
        }
        for file, counts in by_file.items():
            total = counts["kept"] + sum(counts["quarantined"].values())
            assert counts["in"] == total, f"{self.step}: {file}: {counts['in']} rows in, {total} accounted for"
        assert set(self.kept) | set(self.quarantined) <= set(self.entered)
        for name, file in self.files.items():
            file.close()
            (self.out / f".{name}.partial").replace(self.out / (self.aside if name == QUARANTINE else name))
        reasons = sum(self.quarantined.values(), Counter())
        say(self.step, account(self.entered.total(), self.kept.total(), reasons, self.out / self.aside))
        counts = {
            "in": self.entered.total(),
            "kept": self.kept.total(),
            "quarantined": dict(sorted(reasons.items())),
            "by_file": by_file,
        }
        if where is not None and counts["in"] and not counts["kept"]:
            why = f"{self.step} keeps none of {counts['in']} {what} ({counts['quarantined']})"
            raise self.refused(f"{where}: {why}; {fix}")
        return counts


def account(entered: int, kept: int, reasons: Counter[str], where: Path) -> str:
    """What became of the rows of a step, in a line: how many were taken out, why, and where those are."""
    if not reasons:
        return f"{kept:,} of {entered:,} rows kept"
    listed = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    return f"{reasons.total():,} of {entered:,} taken out: {listed} ({where})"


def escaped(text: str) -> str:
    """At most 200 printable characters: control characters and broken bytes become escapes such as \\x00."""
    if (begin := text[:EXCERPT_CHARS]).isprintable():
        return begin
    shown = "".join(
        c
        if c.isprintable()
        else f"\\x{ord(c) - 0xDC00:02x}"  # a byte that was not UTF-8, as `surrogateescape` carries it
        if "\udc80" <= c <= "\udcff"
        else c.encode("unicode_escape", "backslashreplace").decode()
        for c in text[:EXCERPT_CHARS]
    )
    return shown if len(shown) <= EXCERPT_CHARS else shown[: EXCERPT_CHARS - 1] + "…"


def read_rows(path: Path) -> Iterator[dict]:
    """Stream the rows that an earlier step kept."""
    for chunk in chunks(path):
        yield from rows_of(path, chunk)


class Chunk(NamedTuple):
    """Whole lines of a file, and the number of the first."""

    line: int
    data: bytes


def chunks(path: Path) -> Iterator[Chunk]:
    """The lines of a file, as many at once as have a megabyte."""
    line = 1
    with open(path, "rb") as file:
        while data := file.read(CHUNK_BYTES):
            chunk = Chunk(line, data if data.endswith(b"\n") else data + file.readline())
            yield chunk
            line += chunk.data.count(b"\n")


def rows_of(path: Path, chunk: Chunk) -> Iterator[dict]:
    """The rows of a part of a file that an earlier step kept."""
    for number, line in enumerate(chunk.data.removesuffix(b"\n").split(b"\n"), chunk.line):
        try:
            yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number}: not a row ({error}); delete {path.parent} and run again"
            ) from None


def prompt_of(row: dict) -> str:
    """Everything before the final assistant turn, one turn a line; all of a row that has none."""
    return "\n".join([turn["content"] for turn in prompt_turns(row["messages"])])


def turn_text(turn: dict) -> str:
    """All that a turn says: its thinking, its content and the calls of tools that it makes."""
    if len(turn) == 2:
        return turn["content"]
    calls = [orjson.dumps(call, option=orjson.OPT_SORT_KEYS).decode() for call in turn.get("tool_calls", ())]
    return "\n".join([*filter(None, (turn.get("thinking"), turn["content"])), *calls])


def response_of(row: dict) -> str:
    """The final assistant turn; "" of a prompt without response, and of a document."""
    last = row["messages"][-1]
    return last["content"] if last["role"] == "assistant" else ""


# --- words and numbers ---------------------------------------------------------------------------

# Operators are words: "12 + 7" and "12 - 7" are different questions. A hyphen between letters is not one.
OPERATORS = "+*/^=<>%×÷-"
_ASCII_WORD = re.compile(r"[a-z]++|(?<![\w.])\.\d++|\d++(?:\.\d++)*+|[+*/^=<>%]++|(?<![a-z])-++|-++(?![a-z])")
# Vowel signs are marks: without them two words of Hindi are one.
LETTER = rf"[[\p{{L}}\p{{M}}\u200c\u200d]--[{UNSPACED}]]"
_WORD = regex.compile(
    rf"(?V1){LETTER}++|(?<![\w.])\.\d++|\d++(?:\.\d++)*+|[{UNSPACED}]|[+*/^=<>%×÷]++|(?<!{LETTER})-++|-++(?!{LETTER})"
)

# Words that may be added to or left out of a question without asking another one.
_FILLERS = """
please kindly the an this that these here is following question problem task exercise solve answer think about consider
carefully hello hi thanks thank
"""
FILLERS = frozenset(_FILLERS.split())


def words(text: str) -> list[str]:
    """Words, numbers ("1,200" is "1200") and operators of a text in lower case; punctuation and symbols go."""
    text = without_thousands(fold(text)).lower()
    return _ASCII_WORD.findall(text) if text.isascii() else _WORD.findall(text)


def core(tokens: list[str]) -> list[str]:
    """The words that carry a question: fillers such as "please solve the following problem" left out."""
    return [token for token in tokens if token not in FILLERS]


def numbers(tokens: list[str]) -> list[str]:
    """The numbers of a text in order, each with the operator right before it."""
    found = []
    for before, token in zip(["", *tokens], tokens, strict=False):
        if token[-1:].isdigit():
            if before and before[0] in OPERATORS:
                found.append(before)
            found.append(token)
    return found
