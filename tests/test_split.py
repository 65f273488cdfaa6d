"""The split depends on ids and seed alone, and takes the share it is asked for."""

from argparse import Namespace
from random import Random

import pytest

from steps import split
from steps.common import read_json, read_jsonl, write_jsonl


def parts(folder, rows, valid_share=0.1, seed=0):
    write_jsonl(folder / "rows.jsonl", rows)
    settings = {"valid_share": valid_share, "seed": seed}
    split.main(Namespace(settings=settings, input=folder / "rows.jsonl", out=folder / "out"))
    return list(read_jsonl(folder / "out" / "train.jsonl")), list(read_jsonl(folder / "out" / "valid.jsonl"))


ROWS = [{"id": f"a:{i}", "messages": [], "file": "a.json" if i % 2 else "b.json"} for i in range(4000)]


def test_every_row_is_in_one_part_and_the_share_holds(tmp_path):
    train, valid = parts(tmp_path, ROWS)
    assert sorted(row["id"] for row in train + valid) == sorted(row["id"] for row in ROWS)
    # 400 expected, standard deviation 19.
    assert 324 < len(valid) < 476
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert (counts["in"], counts["train"], counts["valid"]) == (4000, len(train), len(valid))
    assert counts["by_file"]["a.json"] == {"in": 2000, "kept": 2000, "quarantined": {}}


def test_order_and_other_rows_do_not_matter_and_the_seed_does(tmp_path):
    valid = {row["id"] for row in parts(tmp_path, ROWS)[1]}
    shuffled = Random(0).sample(ROWS, 2000)
    assert {row["id"] for row in parts(tmp_path, shuffled)[1]} == valid & {row["id"] for row in shuffled}
    other = {row["id"] for row in parts(tmp_path, ROWS, seed=1)[1]}
    # Independent draws of 10 % share 1 % of the rows.
    assert 10 < len(valid & other) < 80


def test_a_larger_share_only_adds(tmp_path):
    small = {row["id"] for row in parts(tmp_path, ROWS, 0.05)[1]}
    assert small < {row["id"] for row in parts(tmp_path, ROWS, 0.2)[1]}


def test_an_empty_part_is_named(tmp_path):
    with pytest.raises(
        ValueError, match=r"none of 3 rows falls into the valid part; change split.valid_share \(now 1e-06"
    ):
        parts(tmp_path, ROWS[:3], 1e-6)
