"""What a step is asked: its module, its settings and its options, as its command says them.

The same words are read twice: by Snakemake, which plans with the command of a rule, and by the step that it starts.
Imports nothing heavy: Snakemake loads it at every parse.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from steps.core.code import PACKAGE, code_paths
from steps.core.hashes import sha256_file

SETTINGS = "--settings"
STEP = re.compile(rf"{PACKAGE}(\.\w+)+")
OPTION = re.compile(r"--[a-z][a-z-]*")
# Settings that say how a result is made and change none of its numbers: tests/training/test_state.py.
HOW = ("saves", "gradient_checkpointing", "resident", "tracker")
# Options that say where and in how many processes a step works, not what it makes. Each has one value.
PLACES = ("--out", "--work", "--logs", "--cores")
# Linux takes no argument of more than 128 KiB; the shell's quotes need some of it.
LONGEST_ARGUMENT = 100_000


@dataclass(frozen=True)
class Asked:
    """`options` are the other words of the command, in order."""

    module: str
    settings: dict[str, Any]
    options: tuple[str, ...]

    @property
    def digest(self) -> str:
        """64 hex digits over all of it."""
        told = json.dumps([self.module, material(self.settings), self.options], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def told(self) -> dict[str, Any]:
        """The settings that count, and the options whose value is JSON, by their names."""
        pairs = zip(self.options, self.options[1:], strict=False)
        return material(self.settings) | {
            name[2:]: json.loads(value) for name, value in pairs if value.startswith(("{", "["))
        }


def material(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that a result depends on."""
    return {key: value for key, value in settings.items() if key not in HOW}


def asked(words: Sequence[str]) -> Asked | None:
    """What a command asks: the module is the word before its settings, which come first. None where that is no step."""
    words = [part for word in words for part in apart(word)]
    if SETTINGS not in words[1:-1]:
        return None
    at = words.index(SETTINGS)
    if not STEP.fullmatch(words[at - 1]):
        return None
    options: list[str] = []
    rest = iter(words[at + 2 :])
    for word in rest:
        if word in PLACES:
            next(rest, None)
        else:
            options.append(word)
    return Asked(words[at - 1], from_argument(words[at + 1]), tuple(options))


def apart(word: str) -> list[str]:
    """`--name=value` as the two words it stands for."""
    name, equals, value = word.partition("=")
    return [name, value] if equals and OPTION.fullmatch(name) else [word]


def code_digest(module: str) -> str:
    """64 hex digits over the source files that a step rests on."""
    files = [(path.name, sha256_file(path)) for path in code_paths(module)]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def as_argument(settings: Any) -> str:
    """Settings, or another value of JSON, as one argument of a command: JSON, compressed where that is too long, as
    that of 200 recipes is."""
    text = json.dumps(settings, sort_keys=True)
    return text if len(text) <= LONGEST_ARGUMENT else base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def from_argument(text: str) -> Any:
    """The value of `as_argument`."""
    plain = text if text.lstrip().startswith(("{", "[", '"')) else zlib.decompress(base64.b64decode(text))
    return json.loads(plain)
