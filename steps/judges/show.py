"""Show what a step judged, and why: the answers of `difficulty` or `bucket` beside what was asked for.

Counts come first, by outcome and reason; then some answers of each, with what was asked for, what was read, and how the
response ends.

Run as: python -m steps.judges.show results/fable/difficulty/exercises/sft --outcome unread ambiguous
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from steps.core.files import read_jsonl
from steps.core.step import ERROR_PREFIX, USER_ERROR
from steps.core.text import visible

VERDICTS = "verdicts.jsonl"
LAST_LINES = 3


def lines(verdicts: list[dict], each: int) -> list[str]:
    """The counts, the most frequent first, and so many answers of each reason, from all over the rows."""
    groups = defaultdict(list)
    for verdict in verdicts:
        groups[verdict["outcome"], verdict["why"]].append(verdict)
    found = sorted(groups.items(), key=lambda group: -len(group[1]))
    said = [f"{len(own):8,}  {outcome}: {why}" for (outcome, why), own in found]
    for (outcome, why), own in found:
        said += ["", f"{outcome}: {why}"]
        for at in range(min(each, len(own))):
            one = own[at * len(own) // min(each, len(own))]
            end = " / ".join(visible(one["end"]).strip().splitlines()[-LAST_LINES:])
            said.append(f"  {one['id']}  asked {visible(one['gold'])!r}  read {visible(one['read'])!r}  … {end}")
    return said


def main(args: argparse.Namespace) -> None:
    file = args.folder / VERDICTS
    if not file.is_file():
        raise ValueError(f"{file}: there is no such file; name a folder of the step difficulty or bucket")
    verdicts = [one for one in read_jsonl(file) if not args.outcome or one["outcome"] in args.outcome]
    if not verdicts:
        raise ValueError(f"{file}: no verdict is {' or '.join(args.outcome or ['there'])}")
    print("\n".join(lines(verdicts, args.each)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="results of the step difficulty or bucket")
    parser.add_argument("--outcome", nargs="+", help="right, wrong, ambiguous, unread, unverifiable; default: all")
    parser.add_argument("--each", type=int, default=5, help="answers of each reason")
    try:
        main(parser.parse_args())
    except ValueError as error:
        print(f"{ERROR_PREFIX}{error}", file=sys.stderr)
        sys.exit(USER_ERROR)
