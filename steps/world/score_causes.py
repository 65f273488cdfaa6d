"""Score detection and attribution against planted causes.

Takes the truth, JSON Lines of {"file", "row", "cause", "kind"} for the rows that cannot be learned, and what detection
and attribution made of the data set; rows that were not planted are "learnable". Rows meet by the name of their file
and their record number in it, of which their ids are made.

- detection: over the rows that were examined, a planted row counts as found when it is unlearned. Planted rows that
  were not (cleaning removed or detection excluded them) are counted apart.
- unlearned rate: per planted cause and kind, of the examined rows (`causes.csv`).
- attribution: over the unlearned rows, true cause by attributed cause (`confusion.csv`). Precision, recall and F1 of a
  cause are over unlearned *planted* rows, a planted row left unassigned is an error; macro-F1 is the mean over the
  causes that have such rows. What the unlearned learnable rows are attributed to is a line of its own.

Shares come with their 95 % Wilson interval. `rows.csv` has every examined row with its truth, for the report. Nothing
but this step reads the truth file.

Run as: python -m steps.world.score_causes --settings '{}' --truth results/fable/world/truth/lessons.jsonl
    --detected results/fable/detect/plain/detected.parquet
    --attribution results/fable/attribute/plain/attribution.parquet --out results/fable/score_causes/plain
"""

import argparse
import time
from collections import Counter, defaultdict
from pathlib import Path

from steps.core.files import csv_text, fresh_folder, read_jsonl, write_json, write_text
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.diagnosis.causes import CAUSES, UNASSIGNED
from steps.stats import intervals

LEARNABLE = "learnable"
COLUMNS = ("cause", "kind", "rows", "unlearned", "rate", "low", "high")
ATTRIBUTED = (*CAUSES, UNASSIGNED)


def share(hits: int, n: int) -> dict[str, float | int | None]:
    """A proportion with its interval; without items there is none."""
    low, high = intervals.wilson(hits / n, n) if n else (None, None)
    return {"value": hits / n if n else None, "low": low, "high": high, "hits": hits, "n": n}


def f1(precision: float | None, recall: float | None) -> float | None:
    if recall is None:
        return None
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def known(truth: dict[str, dict], row: str) -> dict[str, str]:
    """Cause and kind of a row."""
    planted = truth.get(row, {"cause": LEARNABLE, "kind": ""})
    return {"cause": planted["cause"], "kind": planted["kind"]}


def detection(truth: dict[str, dict], unlearned: dict[str, bool]) -> dict:
    """Precision, recall and F1 of `unlearned` (id to flag, examined rows) as a test for being planted."""
    found = sum(flag for row, flag in unlearned.items() if row in truth)
    planted = sum(row in truth for row in unlearned)
    precision, recall = share(found, sum(unlearned.values())), share(found, planted)
    return {
        "precision": precision,
        "recall": recall,
        "f1": f1(precision["value"], recall["value"]),
        "planted": {"examined": planted, "not_examined": len(truth) - planted},
    }


def rates(truth: dict[str, dict], unlearned: dict[str, bool]) -> list[dict]:
    """Unlearned rate per cause and kind, the learnable rows last."""
    flags = defaultdict(list)
    for row, flag in unlearned.items():
        flags[*known(truth, row).values()].append(flag)
    order = (*CAUSES, LEARNABLE)
    table = []
    for cause, kind in sorted(flags, key=lambda key: (order.index(key[0]), key[1])):
        rate = share(sum(flags[cause, kind]), len(flags[cause, kind]))
        line = {"cause": cause, "kind": kind, "rows": rate["n"], "unlearned": rate["hits"]}
        table.append(line | {"rate": rate["value"], "low": rate["low"], "high": rate["high"]})
    return table


def confusion(truth: dict[str, dict], attributed: dict[str, str]) -> dict[str, Counter]:
    """True cause to the counts of attributed causes, of the unlearned rows."""
    matrix = {cause: Counter() for cause in (*CAUSES, LEARNABLE)}
    for row, cause in attributed.items():
        matrix[known(truth, row)["cause"]][cause] += 1
    return matrix


def attribution(matrix: dict[str, Counter]) -> dict:
    """Precision, recall and F1 of each cause over the planted rows, and their macro-F1."""
    scores = {}
    for cause in CAUSES:
        hits = matrix[cause][cause]
        precision = share(hits, sum(matrix[true][cause] for true in CAUSES))
        recall = share(hits, matrix[cause].total())
        scores[cause] = {"precision": precision, "recall": recall, "f1": f1(precision["value"], recall["value"])}
    known = [score["f1"] for score in scores.values() if score["f1"] is not None]
    right = sum(matrix[cause][cause] for cause in CAUSES)
    return {
        "causes": scores,
        "macro_f1": sum(known) / len(known) if known else None,
        "accuracy": share(right, sum(matrix[cause].total() for cause in CAUSES)),
    }


def rounded(value):
    """Floats at six digits, throughout."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def read_truth(path: Path) -> dict[str, dict]:
    """The planted rows by the id that ingestion gives them.

    Raises:
        ValueError: a cause is unknown.
    """
    truth = {}
    for number, row in enumerate(read_jsonl(path), 1):
        if row["cause"] not in CAUSES:
            raise ValueError(f"{path}, line {number}: {row['cause']!r} is no cause; they are {', '.join(CAUSES)}")
        truth[f"{Path(row['file']).stem}:{row['row']}"] = row
    return truth


def main(args: argparse.Namespace) -> None:
    import pyarrow.parquet as pq

    started = time.time()
    truth = read_truth(args.truth)
    detected = pq.read_table(args.detected, columns=["id", "unlearned"]).to_pylist()
    unlearned = {row["id"]: row["unlearned"] for row in detected}
    if truth and not truth.keys() & unlearned.keys():
        raise ValueError(f"{args.detected} holds no row of {args.truth}: they are of two runs; run all steps again")
    score = {"detection": detection(truth, unlearned)}
    matrix = {}
    if args.attribution:
        found = pq.read_table(args.attribution, columns=["id", "cause"]).to_pylist()
        matrix = confusion(truth, {row["id"]: row["cause"] for row in found})
        score["attribution"] = attribution(matrix)

    out = fresh_folder(args.out)
    planted = []
    for row, flag in unlearned.items():
        cause, kind = known(truth, row).values()
        planted.append({"id": row, "truth": cause, "kind": kind, "unlearned": flag})
    lines = [{"truth": true} | {cause: counts[cause] for cause in ATTRIBUTED} for true, counts in matrix.items()]
    write_text(out / "causes.csv", csv_text(COLUMNS, [rounded(line) for line in rates(truth, unlearned)]))
    write_text(out / "confusion.csv", csv_text(("truth", *ATTRIBUTED), lines))
    write_text(out / "rows.csv", csv_text(("id", "truth", "kind", "unlearned"), planted))
    write_json(out / "score.json", rounded(score))
    write_manifest(
        out,
        step="score_causes",
        settings=args.settings,
        inputs=[args.truth, args.detected, *([args.attribution] if args.attribution else [])],
        counts={"planted": len(truth), "examined": len(unlearned), "unlearned": sum(unlearned.values())},
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--truth", type=Path, required=True, help="what was planted, JSON Lines")
    parser.add_argument("--detected", type=Path, required=True, help="detected.parquet of a checkpoint")
    parser.add_argument(
        "--attribution", type=Path, help="attribution.parquet of the same checkpoint, where there is one"
    )
    run(main, parser)
