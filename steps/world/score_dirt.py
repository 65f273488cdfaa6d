"""Score the cleaning against planted dirt: recall and precision of every quarantine reason.

Takes the truth, JSON Lines of {"file", "row", "kind", "group"?}, the quarantine of every cleaning step, and the rows
kept at the end. Writes `dirt.csv` and `dirt.json`. Kinds are quarantine reasons.

- recall of a kind: the share of its planted rows that are quarantined for that reason. Duplicates are planted as
  groups, of which any one member may stay: there the share of groups of which exactly one member stays and the others
  are quarantined for that reason. Members that another planted kind removes count on neither side.
- precision of a reason: the share of the rows quarantined for it that were planted as it.

Both come with their 95 % Wilson interval. Nothing but this step reads the truth.

Run as: python -m steps.world.score_dirt --settings '{}' --truth results/fable/world/truth/dirt.jsonl \
    --quarantine results/fable/data/problems/ingest/quarantine.jsonl … \
    --kept results/fable/data/problems/decontaminate/rows.jsonl --out results/fable/data/problems/score_dirt
"""

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path

from steps.core.files import csv_text, fresh_folder, read_jsonl, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.stats import intervals

DUPLICATES = ("exact_duplicate", "near_duplicate")
COLUMNS = (
    "kind", "planted", "found", "recall", "recall_low", "recall_high",
    "quarantined", "correct", "precision", "precision_low", "precision_high",
)  # fmt: skip

Key = tuple[str, int]  # file, row


def score(truth: list[dict], quarantined: dict[Key, str], kept: set[Key]) -> list[dict]:
    """One table row per kind that was planted or quarantined.

    Raises:
        ValueError: a planted row is neither kept nor quarantined: truth and rows are not of the same run.
    """
    kinds: defaultdict[Key, set[str]] = defaultdict(set)
    groups: defaultdict[tuple[str, str], list[Key]] = defaultdict(list)
    units: defaultdict[str, list[bool]] = defaultdict(list)
    for planted in truth:
        key = (planted["file"], planted["row"])
        if key not in quarantined and key not in kept:
            raise ValueError(
                f"{key[0]}, row {key[1]} was planted but is neither kept nor quarantined; run all steps again"
            )
        kinds[key].add(planted["kind"])
        if planted["kind"] in DUPLICATES:
            groups[planted["kind"], planted["group"]].append(key)
        else:
            units[planted["kind"]].append(quarantined.get(key) == planted["kind"])
    for (kind, _), members in groups.items():
        left = [key for key in members if quarantined.get(key) not in kinds[key] - {kind}]
        found = sum(key in kept for key in left) == 1 and all(quarantined.get(key) in (None, kind) for key in left)
        units[kind] += [found] if len(left) > 1 else []
    given = Counter(quarantined.values())
    correct = Counter(reason for key, reason in quarantined.items() if reason in kinds.get(key, ()))
    table = []
    for kind in sorted(units.keys() | given.keys()):
        recall = _share("recall", sum(units[kind]), len(units[kind]))
        precision = _share("precision", correct[kind], given[kind])
        planted = {"kind": kind, "planted": len(units[kind]), "found": sum(units[kind])}
        table.append(planted | recall | {"quarantined": given[kind], "correct": correct[kind]} | precision)
    return table


def _share(name: str, hits: int, n: int) -> dict[str, float | None]:
    if not n:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, high = intervals.wilson(hits / n, n)
    return {name: round(hits / n, 4), f"{name}_low": round(low, 4), f"{name}_high": round(high, 4)}


def clean_rows(truth: list[dict], quarantined: dict[Key, str], kept: set[Key]) -> dict[str, int]:
    """What became of the rows in which nothing was planted."""
    planted = {(row["file"], row["row"]) for row in truth}
    return {"kept": len(kept - planted), "quarantined": len(quarantined.keys() - planted)}


def main(args: argparse.Namespace) -> None:
    started = time.time()
    truth = list(read_jsonl(args.truth))
    quarantined = {(row["file"], row["row"]): row["reason"] for path in args.quarantine for row in read_jsonl(path)}
    kept = {(row["file"], row["row"]) for row in read_jsonl(args.kept)}
    assert not kept & quarantined.keys(), "a row is both kept and quarantined"
    out = fresh_folder(args.out)
    table = score(truth, quarantined, kept)
    write_text(out / "dirt.csv", csv_text(COLUMNS, table))
    write_json(out / "dirt.json", {"kinds": table, "clean": clean_rows(truth, quarantined, kept)})
    write_manifest(
        out,
        step="score_dirt",
        settings=args.settings,
        inputs=[args.truth, *args.quarantine, args.kept],
        counts={"planted": len(truth), "quarantined": len(quarantined), "kept": len(kept)},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="what was planted, JSON Lines")
    parser.add_argument("--quarantine", type=Path, nargs="+", required=True, help="quarantine.jsonl of every step")
    parser.add_argument("--kept", type=Path, required=True, help="rows.jsonl of the last cleaning step")
    run(main, parser)
