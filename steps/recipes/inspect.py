"""Rows as a model will see them: its chat template's text, coloured by what is trained, on a page and for a terminal.

Draws rows of a data set, encodes them as the stage of a recipe does, and shows some of those that are kept, and of
those that are left out for each reason. Nothing is trained and no weight is read: a tokenizer is enough.

Run as: python -m steps.recipes.inspect --settings '{"data": "problems", "recipe": "sft", "stage": "sft", …}'
    --rows results/fable/data/problems/split/train.jsonl --model data/fable/base
    --out results/fable/inspect/problems/sft
"""

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from steps.core.files import fresh_folder, read_jsonl, write_text
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.core.text import shorten, visible
from steps.models import checkpoints
from steps.models.chat import Chat
from steps.models.files import COPIED_TOKENIZER
from steps.models.unfit import Unfit
from steps.recipes.inspected import Run, Shown, drawn, seen, shown
from steps.settings.base import THINKING
from steps.training.texts import skip

# Characters of a run that are shown, and rows that are left out for one reason.
LONGEST = 8000
OF_A_REASON = 3
TERMINAL = {"trained": "\033[32m", "thought": "\033[3m", "mark": "\033[1m"}
RESET = "\033[0m"
# Around what is trained, where there are no colours.
TRAINED = "[[", "]]"


def inspected(chat: Chat, rows: list[dict], settings: dict) -> tuple[list[Shown], list[dict]]:
    """Every row as it is shown, or the record of why it is left out."""
    kept, left = [], []
    for row in rows:
        try:
            kept.append(shown(chat, row, seen(chat, row, settings["stage"], settings)))
        except Unfit as unfit:
            left.append(skip(row, unfit, settings["stage"]))
    return kept, left


def chosen(items: list[Any], most: int) -> list[Any]:
    """At most so many, evenly spread."""
    step = max(1, len(items) / most)
    return [items[int(i * step)] for i in range(min(most, len(items)))]


def facts(kept: list[Shown], left: list[dict], settings: dict, model: Path) -> dict:
    """What the page and the terminal say."""
    reasons = Counter(record["reason"] for record in left)
    examples = [record for reason in reasons for record in [r for r in left if r["reason"] == reason][:OF_A_REASON]]
    return {
        "settings": settings,
        "model": str(model),
        "looked_at": len(kept) + len(left),
        "kept": len(kept),
        "tokens": sum(row.tokens for row in kept),
        "trained": sum(row.trained for row in kept),
        "reasons": dict(sorted(reasons.items())),
        "rows": chosen(kept, settings["rows"]),
        "left": examples,
    }


def mixture(rows: Counter[str], settings: dict) -> dict[str, dict]:
    """Of each source its rows, its weight and its share of what an epoch deals; nothing where none has a weight."""
    if "source_weights" not in settings:
        return {}
    (weights,) = settings["source_weights"]
    dealt = {file: count * weights.get(file, 1.0) for file, count in rows.items()}
    total = sum(dealt.values())
    return {
        file: {"rows": rows[file], "weight": weights.get(file, 1.0), "share": dealt[file] / total}
        for file in sorted(rows)
    }


def page(told: dict) -> str:
    """One page without an asset from outside; what rows say is escaped and printable."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "inspected"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {"visible": visible, "shorten": lambda text: shorten(text, LONGEST)}
    return environment.get_template("page.html.j2").render(told)


def text(told: dict, coloured: bool) -> str:
    """The same as text, in the colours of a terminal or with `TRAINED` around what is trained."""
    settings = told["settings"]
    head = f"{settings['data']} as {settings['recipe']} ({settings['stage']}) sees it: {told['kept']:,} of"
    lines = [f"{head} {told['looked_at']:,} rows, {told['tokens']:,} tokens, {told['trained']:,} of them trained"]
    for file, of in told["mixture"].items():
        lines.append(visible(f"{file}: {of['rows']:,} rows, weight {of['weight']:g}, {of['share']:.1%} of an epoch"))
    names = ("trained", "thought", "mark")
    looks = " ".join(f"{TERMINAL[name]}{name}{RESET}" for name in names) if coloured else "trained".join(TRAINED)
    lines.append(f"{looks}  the rest is read only")
    for row in told["rows"]:
        place = f"{row.row['file']} line {row.row['line']}: {row.tokens:,} tokens, {row.trained:,} trained"
        lines.append(visible(f"\n── {place}" + "".join(f"; {cut} is cut" for cut in row.cut)))
        for one in row.texts:
            lines.append("".join(painted(run) for run in one) if coloured else bracketed(one))
    for record in told["left"]:
        detail = "" if record["detail"] is None else f" ({record['detail']})"
        place = f"{record['file']} line {record['line']}, {record['column']}"
        lines.append(visible(f"\n── left out: {record['reason']}{detail}, {place}: {record['hint']}"))
        lines.append(visible(record["excerpt"]))
    return "\n".join(lines) + "\n"


def painted(run: Run) -> str:
    look = "".join(code for name, code in TERMINAL.items() if getattr(run, name))
    return f"{look}{visible(shorten(run.text, LONGEST))}{RESET if look else ''}"


def bracketed(runs: list[Run]) -> str:
    parts = []
    for is_trained, of_one in groupby(runs, key=lambda run: run.trained):
        begin, end = TRAINED if is_trained else ("", "")
        parts.append(begin + "".join(visible(shorten(run.text, LONGEST)) for run in of_one) + end)
    return "".join(parts)


def main(args: argparse.Namespace) -> None:
    started = time.time()
    settings = args.settings
    tokenizer = checkpoints.load_tokenizer(args.model)
    chat = Chat(tokenizer, settings.get("thinking", THINKING[0]))
    of_file: Counter[str] = Counter()

    def counted() -> Iterator[dict]:
        for row in read_jsonl(args.rows):
            of_file[row["file"]] += 1
            yield row

    rows = drawn(counted(), settings["looked_at"], settings["seed"])
    if not rows:
        raise ValueError(f"{args.rows} has no row; see the quarantine of the data set")
    kept, left = inspected(chat, rows, settings)
    mixed = mixture(of_file, settings)
    told = facts(kept, left, settings, args.model) | {"mixture": mixed}
    out = fresh_folder(args.out)
    write_text(out / "rows.html", page(told))
    write_text(out / "rows.ansi", text(told, coloured=True))
    write_text(out / "rows.txt", text(told, coloured=False))
    files = [path for name in COPIED_TOKENIZER if (path := args.model / name).is_file()]
    write_manifest(
        out,
        step="inspect",
        settings=settings,
        inputs=[args.rows, *files],
        counts={"in": len(rows), "kept": len(kept), "quarantined": told["reasons"]}
        | ({"sources": mixed} if mixed else {}),
        started=started,
        tokens=told["tokens"],
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--rows", type=Path, required=True, help="train.jsonl of the split")
    parser.add_argument("--model", type=Path, required=True, help="folder with the tokenizer and its chat template")
    run(main, parser)
