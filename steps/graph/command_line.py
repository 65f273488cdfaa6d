"""What Snakemake makes of its command line, checked before it does: the profiles call this.

Snakemake takes all that follows `--configfile` for files, a target too, of two equal options the last, and reads the
files before the Snakefile: what is wrong with them would end in its own words, or in a traceback.

Imports nothing heavy: every start of Snakemake runs it.
"""

import sys
from pathlib import Path

from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.data.sources import missing
from steps.graph import workload

FILES, VALUES = ("--configfile", "--configfiles"), ("--config", "-C")
OVERLAYS = (".yaml", ".yml", ".json")
# Folders of what is made: a file in one is a target.
MADE = ("results", "reports")


def check(arguments: list[str]) -> None:
    """End the program by one line where the overlays or values that it names cannot be read.

    Args:
        arguments: of Snakemake.
    """
    try:
        check_files(following(arguments, FILES))
        workload.values_of(following(arguments, VALUES))
    except ValueError as error:
        print(f"{ERROR_PREFIX}{' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(USER_ERROR)


def check_files(named: list[str]) -> None:
    """Raise a ValueError for what follows `--configfile` and is no overlay, or is none that can be read."""
    targets = [name for name in named if is_target(Path(name))]
    if targets:
        files = [name for name in named if name not in targets] or ["<file>"]
        raise ValueError(
            f"--configfile: {targets[0]} is a target and no file of settings, as all that follows the option must be;"
            f" write snakemake {' '.join(targets)} --configfile {' '.join(files)}"
        )
    for name in named:
        if not Path(name).is_file():
            raise ValueError(f"--configfile: {missing(name)}")
        workload.lineage(Path(name))


def is_target(path: Path) -> bool:
    """Whether what follows an option that takes files, and is none of settings, is a target."""
    made = not path.is_absolute() and path.parts[:1] in [(folder,) for folder in MADE]
    return made or (not path.is_file() and path.suffix not in OVERLAYS)


def following(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """What follows an option, which may stand once."""
    found: list[list[str]] = []
    for place, argument in enumerate(arguments):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if name not in names:
            continue
        values = [value] if equals else []
        if not equals:
            for following in arguments[place + 1 :]:
                if following.startswith("-"):
                    break
                values.append(following)
        found.append(values)
    if len(found) > 1:
        raise ValueError(
            f"{names[0]} stands twice, and Snakemake heeds the last only; write all that it takes after one"
        )
    return found[0] if found else []
