"""The control's permutation on random attributions; conflict groups, rivals and repeats by hand; the whole step."""

from argparse import Namespace
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.manifest import verify_manifest
from steps.diagnosis import treat, treatment
from steps.diagnosis.causes import CAUSES, UNASSIGNED

ATTRIBUTION = pa.schema(
    [
        ("id", pa.string()),
        ("cause", pa.string()),
        ("reason", pa.string()),
        ("tests", pa.list_(pa.string())),
        ("wrong_side", pa.bool_()),
        ("group", pa.string()),
        ("rival", pa.string()),
        ("members", pa.list_(pa.string())),
    ]
)
DETECTED = pa.schema([("id", pa.string()), ("prompt", pa.string()), ("answer", pa.string())])
EVIDENCE = pa.schema([(name, pa.string()) for name in ("id", "entity", "rival")])


def attributed(row_id: str, cause: str = "data_conflict", **found) -> dict:
    row = {"id": row_id, "cause": cause, "reason": "", "tests": [], "wrong_side": False, "group": "", "rival": ""}
    return row | {"members": []} | found


def random_attribution(rng: Random) -> list[dict]:
    """Unlearned rows u…, some in groups with learned rows l…, some of them wrong."""
    rows = [attributed(f"u{i}", rng.choice([*CAUSES, UNASSIGNED])) for i in range(rng.randrange(40))]
    for number, row in enumerate(row for row in rows if row["cause"] == "data_conflict"):
        members = [row["id"], *rng.sample([f"l{i}" for i in range(9)] + [row["id"] for row in rows], 2)]
        row |= {"group": f"g{number}", "members": list(dict.fromkeys(members)), "rival": members[1]}
        row["wrong_side"] = rng.random() < 0.5
    return rows


@pytest.mark.parametrize("seed", range(40))
def test_permuting_keeps_the_budget_and_the_rows(seed):
    rows = random_attribution(Random(seed))
    given = treatment.permuted(rows, seed)

    assert [row["id"] for row in given] == [row["id"] for row in rows]
    assert [row["rival"] for row in given] == [row["rival"] for row in rows]
    for key in ("cause", "wrong_side", "group"):
        assert Counter(row[key] for row in given) == Counter(row[key] for row in rows)
    # The flags go with the cause: as many rows of each combination as before.
    together = [
        Counter((row["cause"], row["wrong_side"], row["group"], len(row["members"])) for row in each)
        for each in (rows, given)
    ]
    assert together[0] == together[1]
    # One renaming of the unlearned rows carries every group over, and leaves the learned ones alone.
    places = {row["group"]: row for row in given if row["group"]}
    renamed = {}
    for row in rows:
        if row["group"]:
            for old, new in zip(row["members"], places[row["group"]]["members"], strict=True):
                assert renamed.setdefault(old, new) == new
                assert old == new or (old[0] == new[0] == "u")
            assert renamed[row["id"]] == places[row["group"]]["id"]
    assert len(set(renamed.values())) == len(renamed)
    assert treatment.permuted(rows, seed) == given


def test_seeds_permute_differently_and_uniformly():
    rows = [attributed("a", "missing_knowledge"), attributed("b"), attributed("c", UNASSIGNED)]
    seen = Counter(tuple(row["cause"] for row in treatment.permuted(rows, seed)) for seed in range(600))
    assert len(seen) == 6
    assert min(seen.values()) > 60


def test_conflict_groups():
    rows = [
        attributed("a", wrong_side=True, group="g0", members=["a", "b"]),  # leaves b alone
        attributed("c", group="g1", members=["c", "d"]),  # both right
        attributed("e", wrong_side=True, group="g2", members=["e", "f", "h"]),
        attributed("f", group="g2", members=["e", "f", "h"]),
        attributed("i", wrong_side=True),
    ]
    wrong, groups = treat.conflict_groups(rows)
    assert wrong == {"a", "e", "i"}
    assert groups == {"c": "g1", "d": "g1", "f": "g2", "h": "g2"}


@pytest.mark.parametrize(
    ("removed", "rival"),
    [
        ({"a"}, "b"),
        ({"a", "b"}, "c"),
        ({"a", "b", "c"}, ""),  # c has no rival
        ({"a", "b", "c", "d"}, ""),
    ],
)
def test_standing_rival(removed, rival):
    assert treat.standing_rival("a", {"a": "b", "b": "c", "d": "a"}, removed) == rival


def test_rivals_that_are_both_wrong_leave_none():
    assert treat.standing_rival("a", {"a": "b", "b": "a"}, {"a", "b"}) == ""


# --- the step ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def model(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(Settings, "model", tiny_checkpoint, raising=False)


class Settings:
    """The model whose tokens are counted."""

    model: Path


def rows_of(*ids: str, words: dict[str, int] | None = None) -> list[dict]:
    """Rows whose answer is the upper case of their id, so many times."""
    return [
        {
            "id": row_id,
            "file": "talk.jsonl",
            "messages": [
                {"role": "user", "content": f"What is {row_id}?"},
                {"role": "assistant", "content": " ".join([row_id.upper()] * (words or {}).get(row_id, 1))},
            ],
        }
        for row_id in ids
    ]


def treated(folder, data: list[dict], attribution: list[dict], cause: str, at_random=False, rivals=None):
    """Run the step; returns the rows written, the relabelled ones and the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", data)
    detected = [{"id": row["id"], "prompt": "", "answer": row["id"].upper()} for row in data]
    evidence = [{"id": row["id"], "rival": (rivals or {}).get(row["id"], row["rival"])} for row in attribution]
    for name, rows, schema in (
        ("attribution", attribution, ATTRIBUTION),
        ("detected", detected, DETECTED),
        ("evidence", evidence, EVIDENCE),
    ):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    out = folder / "out"
    treat.main(
        Namespace(
            settings={"repeats": 3},
            treatment={"causes": [cause], "at_random": at_random, "seed": 0},
            attribution=folder / "attribution.parquet",
            detected=folder / "detected.parquet",
            evidence=folder / "evidence.parquet",
            data=folder / "train.jsonl",
            model=Settings.model,
            out=out,
        )
    )
    verify_manifest(out)
    counts = read_json(out / "manifest.json")["counts"]
    assert counts["in"] == counts["kept"] + sum(counts["quarantined"].values()) == len(data)
    return list(read_jsonl(out / "train.jsonl")), list(read_jsonl(out / "relabelled.jsonl")), counts


def test_a_wrong_side_goes_and_its_question_is_asked_for_the_rivals_answer(tmp_path):
    data = rows_of("a", "b", "c", "d", "e")
    attribution = [
        attributed("a", wrong_side=True, group="g0", rival="b", members=["a", "b"]),
        attributed("c", group="g1", rival="d", members=["c", "d"]),
        attributed("e", "missing_knowledge"),
    ]
    rows, relabelled, counts = treated(tmp_path, data, attribution, "data_conflict")
    groups = {"b": None, "c": "g1", "d": "g1", "e": None}
    assert rows == [row | {"conflict_group": groups[row["id"]]} for row in data[1:]]
    assert relabelled == [{"id": "a", "answer": "B", "rival": "b"}]
    assert counts.pop("tokens") == counts.pop("tokens_of_attribution") > 0
    assert counts == {
        "in": 5,
        "kept": 4,
        "quarantined": {"wrong_side": 1},
        "repeated": 0,
        "written": 4,
        "groups": 1,
        "grouped": 2,
        "relabelled": 1,
    }


def test_without_conflicts_every_row_stays(tmp_path):
    data = rows_of("a", "b")
    for attribution in ([], [attributed("a", "missing_knowledge")]):
        rows, relabelled, counts = treated(tmp_path / str(len(attribution)), data, attribution, "data_conflict")
        assert rows == [row | {"conflict_group": None} for row in data]
        assert relabelled == [] and counts["grouped"] == 0


def test_the_control_takes_out_as_many_rows(tmp_path):
    ids = [f"r{i}" for i in range(20)]
    attribution = [
        attributed(row_id, wrong_side=i < 3, group=f"g{i}", members=[row_id, "r19"], rival="r19")
        if i < 3
        else attributed(row_id, UNASSIGNED)
        for i, row_id in enumerate(ids[:15])
    ]
    # The row's own rival, where evidence knows of one, whatever the row was found to be.
    rows, relabelled, counts = treated(
        tmp_path, rows_of(*ids), attribution, "data_conflict", at_random=True, rivals=dict.fromkeys(ids, "r18")
    )
    gone = set(ids) - {row["id"] for row in rows}
    assert len(gone) == counts["quarantined"]["wrong_side"] == 3
    assert gone <= set(ids[:15]) and gone != set(ids[:3])
    expected = {row_id: "r19" if row_id in ids[:3] else "r18" for row_id in gone}
    assert {row["id"]: row["rival"] for row in relabelled} == expected


def test_a_row_without_a_rival_is_not_relabelled(tmp_path):
    rows, relabelled, _ = treated(
        tmp_path, rows_of("a", "b"), [attributed("a", wrong_side=True)], "data_conflict", at_random=True
    )
    assert [row["id"] for row in rows] == ["b"] and relabelled == []


def test_rows_to_optimise_are_repeated_in_place(tmp_path):
    attribution = [attributed(row_id, "insufficient_optimisation") for row_id in ("d", "b", "gone")]
    attribution.append(attributed("a", group="g0", wrong_side=True))
    data = rows_of("a", "b", "c", "d")
    rows, relabelled, counts = treated(tmp_path, data, attribution, "insufficient_optimisation")
    assert [row["id"] for row in rows] == list("abbbcddd")
    # Conflicts are another recipe's matter.
    assert relabelled == [] and all(row["conflict_group"] is None for row in rows)
    assert (counts["kept"], counts["repeated"], counts["written"]) == (4, 2, 8)


@pytest.mark.parametrize("seed", range(3))
def test_the_control_has_the_tokens_of_the_treatment(tmp_path, seed, monkeypatch):
    """Rows to optimise are long, those drawn at random short: they come more often, until the tokens are the same."""
    ids = [f"r{i}" for i in range(40)]
    data = rows_of(*ids, words={row_id: 60 if i < 6 else 3 for i, row_id in enumerate(ids)})
    attribution = [attributed(i, "insufficient_optimisation" if n < 6 else UNASSIGNED) for n, i in enumerate(ids)]
    attribution[6] |= {"cause": "data_conflict", "wrong_side": True, "group": "g", "members": ["r6", "r7"]}
    monkeypatch.setattr(treatment, "Random", lambda key: Random(f"{key}{seed}"))
    causes = "insufficient_optimisation"
    _, _, ours = treated(tmp_path / "found", data, attribution, causes)
    rows, _, theirs = treated(tmp_path / "control", data, attribution, causes, at_random=True)
    counted = treatment.row_tokens(Settings.model)
    for counts, file in ((ours, "found"), (theirs, "control")):
        written = list(read_jsonl(tmp_path / file / "out/train.jsonl"))
        assert counts["tokens"] == sum(counted(written)) and counts["tokens_of_attribution"] == ours["tokens"]
    largest = max(counted(data))
    assert abs(theirs["tokens"] - ours["tokens"]) <= max(treatment.TOLERANCE * ours["tokens"], largest / 2)
    times = Counter(row["id"] for row in rows)
    dealt = {times[row["id"]] for row in data if times[row["id"]] > 1}
    assert theirs["repeated"] == 6 and max(dealt) - min(dealt) <= 1


def test_a_control_of_other_tokens_is_no_control():
    treatment.check_equal(1010, 1000, 1)
    treatment.check_equal(1040, 1000, 90)  # half of the largest row
    with pytest.raises(AssertionError):
        treatment.check_equal(1030, 1000, 50)


def test_equal_runs_write_equal_bytes(tmp_path):
    data = rows_of(*[f"r{i}" for i in range(50)])
    attribution = [attributed(f"r{i}", "insufficient_optimisation" if i % 2 else UNASSIGNED) for i in range(20)]
    for name in ("one", "two"):
        treated(tmp_path / name, data, attribution, "insufficient_optimisation", at_random=True)
    for file in ("train.jsonl", "relabelled.jsonl"):
        assert (tmp_path / "one/out" / file).read_bytes() == (tmp_path / "two/out" / file).read_bytes()
