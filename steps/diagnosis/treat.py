"""Change the training rows so that what was not learned can be: without wrong sides, and with more passes over some.

Of conflicting rows (cause data_conflict) the wrong side is taken out, and what stays of a conflict group is marked by
"conflict_group", which is null elsewhere: `sft.buckets` keeps such rows out of each other's batches. A row taken out
goes to `relabelled.jsonl` with the answer of the row that contradicts it, so that detection can still ask its question.
Rows that need more optimisation (cause insufficient_optimisation) stand there `repeats` times: each epoch passes over
them so often, while the other rows hold on to what is learned. Rows stay in order, and keep every other key.

The control, to which rows drawn at random are given, has as many tokens: its rows to repeat are passed over in turn
until the file has the tokens that the treatment's has.

Run as: python -m steps.diagnosis.treat --settings '{"repeats": 8}'
    --treatment '{"causes": ["data_conflict"], "at_random": false, "seed": 0}'
    --attribution results/fable/attribute/plain/attribution.parquet
    --detected results/fable/detect/plain/detected.parquet --evidence results/fable/evidence/plain/evidence.parquet
    --data results/fable/data/lessons/bucket/train.jsonl --model results/fable/pretrain/base
    --out results/fable/treat/together
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

from steps.core.files import fresh_folder, read_jsonl, write_jsonl
from steps.core.manifest import write_manifest
from steps.core.step import run, step_parser
from steps.diagnosis.treatment import check_equal, read_attribution, read_columns, row_tokens, tokenizer_files, up_to

# Rows whose tokens are counted at once.
CHUNK = 1000


def conflict_groups(conflicting: list[dict]) -> tuple[set[str], dict[str, str]]:
    """Ids of the wrong sides, and the group of every row that stays in one. A row left alone has no group."""
    wrong = {row["id"] for row in conflicting if row["wrong_side"]}
    groups = {
        member: row["group"]
        for row in conflicting
        if row["group"]
        for member in [row["id"], *row["members"]]
        if member not in wrong
    }
    sizes = Counter(groups.values())
    return wrong, {member: group for member, group in groups.items() if sizes[group] > 1}


def standing_rival(row_id: str, rivals: dict[str, str], removed: set[str]) -> str:
    """The row that contradicts a removed one and is not removed itself, over further rivals where it is; "" if none."""
    passed = set()
    while row_id in removed and row_id not in passed:
        passed.add(row_id)
        row_id = rivals.get(row_id, "")
    return "" if row_id in removed else row_id


def relabel(wrong: set[str], rivals: dict[str, str], detected: Path) -> list[dict]:
    """The lines of relabelled.jsonl: the rows taken out against which a row with a known answer stands."""
    standing = {row_id: standing_rival(row_id, rivals, wrong) for row_id in rivals if row_id in wrong}
    asked = set(standing.values())
    answers = {row["id"]: row["answer"] for row in read_columns(detected, ["id", "answer"]) if row["id"] in asked}
    return [
        {"id": row_id, "answer": answers[rival], "rival": rival}
        for row_id, rival in standing.items()
        if rival in answers
    ]


class Given(NamedTuple):
    """What a treatment gives to which rows, by their ids."""

    wrong: set[str]  # taken out
    groups: dict[str, str]
    repeated: set[str]


def given(attribution: list[dict], causes: list[str]) -> Given:
    def attributed(cause: str) -> list[dict]:
        return [row for row in attribution if row["cause"] == cause and cause in causes]

    repeated = {row["id"] for row in attributed("insufficient_optimisation")}
    return Given(*conflict_groups(attributed("data_conflict")), repeated)


def passes(told: Given, sizes: dict[str, int], repeats: int) -> Counter[str]:
    """How often each row stands in the file of a treatment."""
    return Counter({row: repeats if row in told.repeated else 1 for row in sizes if row not in told.wrong})


def passes_of_equal(told: Given, sizes: dict[str, int], tokens: int) -> Counter[str]:
    """How often each row stands in the file of a control: once, and those to repeat in turn until it has the tokens."""
    times = passes(told, sizes, 1)
    dealt = [row for row in times if row in told.repeated and sizes[row]]
    times.update(up_to(cycle(dealt), tokens - total(times, sizes), sizes.__getitem__))
    return times


def total(times: Counter[str], sizes: dict[str, int]) -> int:
    return sum(n * sizes[row] for row, n in times.items())


def measured(data: Path, model: Path) -> dict[str, int]:
    """The tokens of every row, by its id, in the order of the rows."""
    tokens, sizes, rows = row_tokens(model), {}, read_jsonl(data)
    while chunk := list(islice(rows, CHUNK)):
        sizes |= dict(zip((row["id"] for row in chunk), tokens(chunk), strict=True))
    return sizes


def main(args) -> None:
    started = time.time()
    settings, treatment = args.settings, args.treatment
    found = read_attribution(args.attribution, treatment | {"at_random": False})
    attribution = read_attribution(args.attribution, treatment)
    sizes = measured(args.data, args.model)
    told = given(attribution, treatment["causes"])
    times = passes(given(found, treatment["causes"]), sizes, settings["repeats"])
    wanted = total(times, sizes)
    if treatment["at_random"]:
        times = passes_of_equal(told, sizes, wanted)
        if any(sizes.get(row) for row in told.repeated):
            check_equal(total(times, sizes), wanted, max(sizes[row] for row in told.repeated if row in sizes))
    wrong, groups, repeated = told
    judged = {row["id"]: row["rival"] for row in attribution if row["rival"]}
    nearest = {row["id"]: row["rival"] for row in read_columns(args.evidence, ["id", "rival"])}
    counts = {"in": 0, "kept": 0, "quarantined": {"wrong_side": 0}, "repeated": 0}

    def rows() -> Iterator[dict]:
        for row in read_jsonl(args.data):
            counts["in"] += 1
            if row["id"] in wrong:
                counts["quarantined"]["wrong_side"] += 1
                continue
            counts["kept"] += 1
            counts["repeated"] += row["id"] in repeated
            for _ in range(times[row["id"]]):
                yield row | {"conflict_group": groups.get(row["id"])}

    out = fresh_folder(args.out)
    counts["written"] = write_jsonl(out / "train.jsonl", rows())
    assert counts["in"] == counts["kept"] + counts["quarantined"]["wrong_side"]
    counts["relabelled"] = write_jsonl(out / "relabelled.jsonl", relabel(wrong, nearest | judged, args.detected))
    counts |= {"groups": len(set(groups.values())), "grouped": len(groups)}
    counts |= {"tokens": total(times, sizes), "tokens_of_attribution": wanted}
    write_manifest(
        out,
        step="treat",
        settings=settings | {"treatment": treatment},
        inputs=[args.attribution, args.detected, args.evidence, args.data, *tokenizer_files(args.model)],
        counts=counts,
        seed=treatment["seed"],
        started=started,
    )


if __name__ == "__main__":
    parser = step_parser(__doc__)
    parser.add_argument("--treatment", type=json.loads, required=True, help="causes, at_random and seed, as JSON")
    parser.add_argument("--attribution", type=Path, required=True, help="attribution.parquet of the recipe diagnosed")
    parser.add_argument("--detected", type=Path, required=True, help="detected.parquet of the same recipe")
    parser.add_argument("--evidence", type=Path, required=True, help="evidence.parquet of the same recipe")
    parser.add_argument("--data", type=Path, required=True, help="train.jsonl that the recipe would train on untreated")
    parser.add_argument("--model", type=Path, required=True, help="the model whose tokens are counted")
    run(main, parser)
