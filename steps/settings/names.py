"""Names that become folders, files, wildcards and targets: how they are spelled, which are taken, how points of a grid
are called; and the paths of files.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

# Pattern -> what a person is told of it.
SPELLED: dict[str, str] = {}


def spelled(pattern: str, words: str, *default: str, **field: Any) -> Any:
    """A field of text that matches a pattern.

    Args:
        words: say what is allowed.
        default, field: of pydantic's Field.
    """
    SPELLED[pattern] = words
    return Field(*default, pattern=pattern, **field)


# Of recipes, studies, models, data sets, rewards. A hyphen would be the name of a grid point or a seed.
Name = Annotated[str, spelled(r"^[A-Za-z0-9][A-Za-z0-9_]{0,63}$", "letters, digits and _, at most 64, the first no _")]
# Of what is never followed by more of a name: tasks, splits of their data.
FileName = Annotated[
    str,
    spelled(
        r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$", "letters, digits, _, . and -, at most 64, the first a letter or digit"
    ),
]
WORKLOAD = r"^[a-z0-9][a-z0-9_.-]{0,63}$"
OF_WORKLOAD = "small letters, digits, _, . and -, at most 64, the first a letter or digit"

# Folders of results/<workload>/ and rules that are not studies, beside the stages: a study is a folder and a rule.
RESERVED_STUDIES = (
    "world", "data", "evaluation", "download", "prepare", "pretrain",
    "detect", "evidence", "attribute", "mixture", "treat", "score_causes", "geometry", "difficulty", "gate", "explore",
    "generate", "logprobs", "forecast", "preflight", "inspect", "deliver",
    "all", "report", "ingest", "filter", "dedup", "decontaminate", "split", "bucket", "score_dirt", "pretrain_model",
    "preflight_node", "inspect_rows", "evaluate", "check_model", "check_models",
)  # fmt: skip
# Folders of work/<workload>/ that are not recipes'.
RESERVED_RECIPES = ("preflight", "download", "pretrain")
# Folders of reports/ that are not workloads'.
RESERVED_WORKLOADS = ("bench",)

# A file name has 255 bytes; what stands around a node's (".….partial") has less than the rest.
LONGEST_NODE = 200
# Planning takes a millisecond for each.
MOST_POINTS = 10_000
_IN_A_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
_LONGEST_VALUE = 40


def in_a_name(value: Any) -> str:
    """A grid's value in the name of its point: numbers as Python writes them, lists without brackets and spaces.

    Text that is long, or has what a path, a wildcard or a shell would act upon, is shortened to what it begins with and
    told apart by its hash.
    """
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    if len(text) <= _LONGEST_VALUE and (not isinstance(value, str) or _IN_A_NAME.fullmatch(text)):
        return text
    begin = re.sub(r"[^A-Za-z0-9_.]+", "_", text)[:20].strip("_.")
    return f"{begin}_{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("_")


def check_apart(names: Iterable[tuple[str, str]]) -> None:
    """Raise a ValueError for two names of which a file system that knows no case makes one.

    Args:
        names: (the place of a name, the name).
    """
    known: dict[str, str] = {}
    for where, name in names:
        if (other := known.get(name.lower())) is not None:
            what = "stands twice" if other == name else f"and `{other}` are one file where case does not count"
            raise ValueError(f"{where}: `{name}` {what}; rename one")
        known[name.lower()] = name


def checked_path(path: str) -> str:
    """The path of a file that a command can take and every line of a log can name.

    Raises:
        ValueError: it is none.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{path[:100]!r} is no UTF-8; rename the file") from None
    found = re.search(r"[\x00-\x1f\x7f]", path)
    if found:
        raise ValueError(f"{path[:100]!r} has the character {found[0]!r}, which no path here may have; rename the file")
    if path.startswith("~"):
        raise ValueError(f"{path[:100]!r} begins with ~, which only a shell reads; write the folder out")
    if path.startswith("-"):
        raise ValueError(f"{path[:100]!r} looks like an option of a command; write ./{path[:100]}")
    if max(len(part.encode()) for part in path.split("/")) > 255 or len(path.encode()) > 4000:
        raise ValueError(f"{path[:100]!r}… is longer than a file's name may be; shorten it")
    return path


# Of a file or folder, which a command can take and every line of a log can name.
FilePath = Annotated[str, Field(min_length=1), AfterValidator(checked_path)]
