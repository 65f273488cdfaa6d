"""Fill what docs/ shows of the code: tables of choices from the registries, what benches found of damaged results and
of architectures, the picture of the packages.

A table stands between two comments, `<!-- generated: methods -->` and `<!-- end -->`, on whatever page has them.

Run as: python -m steps.graph.docs
"""

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic.fields import FieldInfo

from steps.core.files import read_json, write_text
from steps.graph import architecture
from steps.judges.instructions import CHECKS
from steps.judges.kinds import JUDGES
from steps.settings import adapters, merging, methods, rewards, stages
from steps.settings.base import Settings
from steps.settings.formats import FILES, FORMATS, PARTS, SHARED

ROOT = Path(__file__).parents[2]
PICTURE = "images/architecture.svg"
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(heading: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [[*heading], ["---"] * len([*heading]), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "–"


def keys(settings: type[Settings] | None, without: tuple[str, ...] = ("kind",)) -> str:
    """The keys of a class; of one with a default that too."""

    def shown(name: str, field: FieldInfo) -> str:
        return name if field.is_required() else f"{name}: {field.default}"

    fields = settings.model_fields.items() if settings else ()
    return code(shown(field.alias or name, field) for name, field in fields if name not in without)


def summary(settings: type[Settings]) -> str:
    """The first line of a class's docstring, without its period."""
    return (settings.__doc__ or "").split("\n")[0].removesuffix(".")


def stage_table() -> str:
    ran = architecture.run_by_rules(ROOT)

    def row(name: str, entry: stages.Stage) -> tuple[str, ...]:
        least, most = entry.parents
        needs = ["`data`"] * entry.data + ["`teachers`"] * entry.taught
        needs += ["`data`, or `diagnosis` and `treats`"] * entry.documents
        page = next(subject for subject, modules in ran.items() if name in modules)
        return (
            f"`{name}`",
            entry.label,
            f"{least} or more" if most is None else str(least) if least == most else f"{least} to {most}",
            ", ".join(needs) or "–",
            "nothing" if not entry.trains else "samples of its own" if entry.samples else "given text",
            f"[{page}]({page}.md)",
        )

    rows = [row(name, entry) for name, entry in stages.STAGES.items()]
    return table(("`stage`", "name", "parents", "needs", "learns from", "page"), rows)


def adapter_table() -> str:
    rows = (
        (f"`{kind}`", entry.label, adapters.FAMILIES[entry.look[0]], keys(entry.settings, ("kind", *adapters.WHERE)))
        for kind, entry in adapters.ADAPTERS.items()
    )
    return table(("`kind`", "name", "changes by", "its settings"), rows)


def method_table() -> str:
    rows = ((f"`{name}`", entry.label, keys(entry.settings), entry.paper) for name, entry in methods.METHODS.items())
    return table(("`method`", "name", "its settings, under its name in `rl`", "paper"), rows)


def merge_table() -> str:
    rows = (
        (
            f"`{name}`",
            "the change from a common base" if entry.over_base else "the weights",
            entry.what,
            code(entry.keys),
        )
        for name, entry in merging.MERGES.items()
    )
    return table(("`method`", "merges", "gives", "its settings"), rows)


def reward_table() -> str:
    rows = (
        (f"`{kind}`", summary(settings), keys(settings, without=("kind", "weight")))
        for kind, settings in rewards.REWARDS.items()
    )
    return table(("`kind`", "gives", "its settings, beside `weight`"), rows)


def judge_table() -> str:
    rows = ((f"`{name}`", kind.answer, kind.takes) for name, kind in JUDGES.items())
    return table(("`judge`", "the row's answer is", "takes for right"), rows)


def check_table() -> str:
    rows = ((f"`{name}`", check.asks, code(check.fields)) for name, check in CHECKS.items())
    return table(("`kind`", "asks for", "its fields"), rows)


def format_table() -> str:
    rows = [
        (f"`{name}`", code(entry.required), code(field for field in entry.optional if field not in SHARED), entry.what)
        for name, entry in FORMATS.items()
    ]
    rows.append(("every one but `text`", "", code(SHARED), "what any conversation may have"))
    return table(("`format`", "a record has", "and may have", "whose, and what"), rows)


def format_examples() -> str:
    """A record of each format, and the row that it becomes, but for where it stands."""

    def line(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    return "\n".join(
        f"`{name}`:\n\n```json\n{line(entry.example)}\n{line(entry.row)}\n```\n" for name, entry in FORMATS.items()
    )


def file_table() -> str:
    return table(("a file that ends in", "holds"), ((f"`{suffix}`", what) for suffix, what in FILES.items()))


def part_table() -> str:
    """What fields are, by the names that some format gives them."""
    names: dict[str, dict[str, None]] = {part: {} for part in PARTS}
    for entry in FORMATS.values():
        for name, part in entry.parts.items():
            names[part][name] = None
    return table(("fields", "are"), ((code(names[part]), what) for part, what in PARTS.items()))


def damage_table() -> str:
    """What `benches.damage` found, a row for each result."""
    detail = read_json(ROOT / "reports/bench/damage.json")["detail"]
    files = {name: (detail["noticed"][name], detail["repaired"][name]) for name in detail["noticed"]}

    def row(result: str) -> tuple[str, ...]:
        own = {name: told for name, told in files.items() if name in detail["results"][result]}
        counts = (
            f"{sum(told[side][kind] for told in own.values())} of {len(own)}"
            for side in (0, 1)
            for kind in ("cut", "flipped")
        )
        return (f"`{result}`", *counts, code(Path(name).relative_to(result).as_posix() for name in own))

    heading = ("result", "cut: named", "flipped: named", "cut: made again", "flipped: made again", "its files")
    return table(heading, map(row, detail["results"]))


def architecture_table() -> str:
    """What `benches.models` found, a row for each architecture, and below them the lines of what is refused."""
    detail = read_json(ROOT / "reports/bench/models.json")["detail"]
    notes: dict[str, None] = {}

    def ended(outcomes: dict[str, str]) -> str:
        others: dict[str, list[str]] = {}
        for name, outcome in outcomes.items():
            kind, _, line = outcome.partition(": ")
            if kind not in ("works", "handled"):
                # Kinds of adapter and shares of weights share a note.
                note = re.sub(r"(?<=kind: )\w+|\d+(?=%)", "…", line)
                notes.setdefault(note)
                others.setdefault(f"{kind} ({[*notes].index(note) + 1})", []).append(name)
        left = len(outcomes) - sum(map(len, others.values()))
        if not others:
            return "all"
        return "; ".join([f"{left} of {len(outcomes)}", *(f"{how}: {', '.join(own)}" for how, own in others.items())])

    def row(name: str, own: dict) -> tuple[str, ...]:
        if own["check"] != "works":
            # It comes first in every run.
            return name, ended({"the check": own["check"]}).removeprefix("0 of 1; "), "–", "none", "none"
        treated = {one["name"]: one["treated"] for one in own["properties"]}
        rows = {"packed": "packed", "flattened": "packed, ends as keywords", "alone": "each its own sequence"}
        padded = treated.get("rows padded on the left") or "as it is"
        return name, rows[own["layout"]], padded, ended(own["stages"]), ended(own["adapters"])

    lines = [row(name, own) for name, own in detail.items()]
    heading = ("architecture", "rows of a batch", "prompts of a batch", "stages", "adapters")
    return table(heading, lines) + "".join(f"\n{i}. {line}" for i, line in enumerate(notes, 1)) + "\n" * bool(notes)


BLOCKS: dict[str, Callable[[], str]] = {
    "stages": stage_table,
    "adapters": adapter_table,
    "methods": method_table,
    "merging": merge_table,
    "rewards": reward_table,
    "judges": judge_table,
    "checks": check_table,
    "formats": format_table,
    "examples": format_examples,
    "files": file_table,
    "parts": part_table,
    "damages": damage_table,
    "architectures": architecture_table,
}


def filled(text: str) -> str:
    """A page with its blocks as they are now.

    Raises:
        ValueError: a block has a name that nothing generates.
    """

    def block(found: re.Match) -> str:
        if found[2] not in BLOCKS:
            raise ValueError(f"generated: {found[2]}; nothing makes that, of {', '.join(BLOCKS)}")
        return f"{found[1]}{BLOCKS[found[2]]()}{found[3]}"

    return BLOCK.sub(block, text)


def main(args: argparse.Namespace) -> None:
    for page in sorted(args.docs.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (now := filled(text)) != text:
            write_text(page, now)
    write_text(args.docs / PICTURE, architecture.picture(ROOT))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="the folder of the pages")
    main(parser.parse_args())
