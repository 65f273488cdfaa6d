"""Prompts, budgets and gaps by hand and on random input; the mixture of a small library end to end."""

from argparse import Namespace
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.core.manifest import verify_manifest
from steps.diagnosis import mixture, treatment

ATTRIBUTION = pa.schema(
    [(name, pa.string()) for name in ("id", "cause", "group", "rival")]
    + [("wrong_side", pa.bool_()), ("members", pa.list_(pa.string()))]
)
DETECTED = pa.schema([(name, pa.string()) for name in ("id", "prompt", "answer")])
EVIDENCE = pa.schema([(name, pa.string()) for name in ("id", "prompt", "answer", "entity")])
TOWNS = ("Harrow", "Tarsk", "Kelm", "Brae")
JOBS = ("baker", "smith", "weaver", "potter")
PEOPLE = ("Alda", "Bruno", "Cilla", "Doran")


@pytest.mark.parametrize(
    ("text", "repeated"),
    [
        ("Where does Alda live?", True),
        ("Quiz! where does  ALDA live\nHarrow", True),
        ("Nobody asks where does Alda live", True),
        ("Where does Aldana live?", False),
        ("Where does Alda lives?", False),
        ("Where does Alda", False),
        ("Alda lives in Harrow.", False),
        ("A baker: Alda, job of Alda?", False),  # "job of Alda?" is too short to be a quotation
        ("", False),
    ],
)
def test_prompts_repeated_word_for_word(text, repeated):
    assert mixture.Prompts(["Where does Alda live?", "Where does Bruno live?", "job of Alda?"]).repeated_in(text) == (
        repeated
    )


@pytest.mark.parametrize("seed", range(30))
def test_up_to_comes_as_near_as_the_order_allows(seed):
    rng = Random(seed)
    sizes = [rng.randint(1, 50) for _ in range(rng.randrange(30))]
    wanted = rng.uniform(0, 700)
    taken = treatment.up_to(iter(sizes), wanted, lambda size: size)
    assert taken == sizes[: len(taken)]
    nearest = min(abs(sum(sizes[:n]) - wanted) for n in range(len(sizes) + 1))
    assert abs(sum(taken) - wanted) == nearest


def test_in_turn():
    assert list(mixture.in_turn(["abc", "", "d", "ef"])) == ["a", "d", "e", "b", "f", "c"]


def test_shuffled_forever_repeats_nothing_while_items_last():
    drawn = list(islice(mixture.shuffled_forever([2, 5, 7], 0), 12))
    assert [sorted(drawn[i : i + 3]) for i in range(0, 12, 3)] == [[2, 5, 7]] * 4
    assert len({tuple(drawn[i : i + 3]) for i in range(0, 12, 3)}) > 1


def test_gaps_gather_the_rows_of_an_entity():
    rows = [
        {"id": "a", "prompt": "Where does Alda live?", "answer": "Harrow", "entity": "Alda"},
        {"id": "b", "prompt": "Double: x", "answer": "x x", "entity": ""},
        {"id": "c", "prompt": "Job of Alda?", "answer": "baker", "entity": "Alda"},
        {"id": "d", "prompt": "Double: y", "answer": "y y", "entity": ""},
    ]
    gaps = mixture.gaps_of(rows)
    assert [(gap["name"], gap["entity"]) for gap in gaps] == [("Alda", "Alda"), ("b", ""), ("d", "")]
    assert gaps[0]["query"].split() == "Alda Where does Alda live? Harrow Job of Alda? baker".split()
    assert gaps[2]["query"].split() == ["Double:", "y", "y", "y"]


@pytest.fixture(autouse=True)
def model(tiny_checkpoint, monkeypatch):
    monkeypatch.setattr(Settings, "model", tiny_checkpoint, raising=False)


class Settings:
    """The model whose tokens are counted."""

    model: Path


# --- the step ------------------------------------------------------------------------------------


def articles() -> list[str]:
    """Twelve about each person, four of them on where the person lives, one that repeats the question about it."""
    texts = []
    for person, town, job in zip(PEOPLE, TOWNS, JOBS, strict=True):
        texts += [f"{person} lives in {town}. Day {i}." for i in range(4)]
        texts += [f"The job of {person} is {job}, as note {i} says." for i in range(7)]
        texts += [f"Where does {person} live? In {town}."]
    return texts


def evidence() -> list[dict]:
    """Rows about the people, one about somebody unknown to the library, and rows about nobody."""
    rows = [
        {"id": f"live:{name}", "prompt": f"Where does {name} live?", "answer": town, "entity": name}
        for name, town in [*zip(PEOPLE, TOWNS, strict=True), ("Zenobia", "Harrow")]
    ]
    return rows + [
        {"id": f"fold:{i}", "prompt": f"Fold the paper day {i}", "answer": "flat", "entity": ""} for i in range(5)
    ]


def mixed(folder, causes: dict[str, str], at_random=False, per_entity=3, share=0.2, seed=0, library=None):
    """Run the step on rows with these causes; returns the documents and the counts."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {"wrong_side": False, "group": "", "rival": "", "members": []}
    attribution = [{"id": row["id"], "cause": causes.get(row["id"], "unassigned")} | found for row in evidence()]
    for name, rows, schema in (
        ("attribution", attribution, ATTRIBUTION),
        ("detected", evidence(), DETECTED),
        ("evidence", evidence(), EVIDENCE),
    ):
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / f"{name}.parquet")
    write_jsonl(folder / "articles.jsonl", ({"text": text} for text in library or articles()))
    write_jsonl(folder / "general.jsonl", ({"text": f"General document {i}, of its own." * 2} for i in range(40)))
    mixture.main(
        Namespace(
            settings={"documents_per_entity": per_entity, "knowledge_share": share, "seed": 0},
            treatment={"causes": ["missing_knowledge", "base_conflict"], "at_random": at_random, "seed": seed},
            attribution=folder / "attribution.parquet",
            detected=folder / "detected.parquet",
            evidence=folder / "evidence.parquet",
            general=[folder / "general.jsonl"],
            library=[folder / "articles.jsonl"],
            model=Settings.model,
            out=folder / "out",
        )
    )
    verify_manifest(folder / "out")
    return list(read_jsonl(folder / "out" / "documents.jsonl")), read_json(folder / "out" / "manifest.json")["counts"]


GAPS = {
    "live:Alda": "missing_knowledge",
    "live:Cilla": "base_conflict",
    "live:Doran": "data_conflict",
    "live:Zenobia": "missing_knowledge",
}


def test_knowledge_is_about_the_gaps_and_a_fifth_of_the_characters(tmp_path):
    documents, counts = mixed(tmp_path, GAPS)
    knowledge = [document for document in documents if document["source"] == "knowledge"]
    assert Counter(document["entity"] for document in knowledge) == {"Alda": 3, "Cilla": 3}
    for document in knowledge:
        # The nearest: where the person lives, and not the article that asks the row's own question.
        assert f"{document['entity']} lives in" in document["text"]
    assert len({document["text"] for document in knowledge}) == 6
    sizes = Counter()
    for document in documents:
        sizes[document["source"]] += len(document["text"])
    assert abs(sizes["knowledge"] / sum(sizes.values()) - 0.2) < 0.02
    assert documents[: len(knowledge)] != knowledge
    general = [document["text"] for document in documents if document["source"] == "general"]
    assert len(set(general)) == len(general)
    tokens = treatment.text_tokens(Settings.model)
    assert counts == {
        "rows": 3,
        "gaps": 3,
        "entities": 3,
        "gaps_with_fewer": 1,
        "gaps_without": ["Zenobia"],
        "knowledge_documents": 6,
        "knowledge_characters": sizes["knowledge"],
        "general_documents": len(general),
        "general_characters": sizes["general"],
        "knowledge_tokens": sum(tokens(d["text"]) for d in knowledge),
        "tokens": sum(tokens(d["text"]) for d in documents),
        "tokens_of_attribution": sum(tokens(d["text"]) for d in documents),
    }


def test_fewer_documents_than_asked_are_all_taken(tmp_path):
    documents, counts = mixed(tmp_path, {"live:Alda": "missing_knowledge"}, per_entity=20, share=0.5)
    found = [document["text"] for document in documents if document["source"] == "knowledge"]
    assert sorted(found) == sorted(text for text in articles()[:12] if "Where does" not in text)
    assert counts["gaps_with_fewer"] == 1 and counts["gaps_without"] == []


def test_a_row_about_nobody_gets_the_nearest_documents(tmp_path):
    documents, counts = mixed(tmp_path, {"fold:2": "missing_knowledge"}, per_entity=4)
    found = [document for document in documents if document["source"] == "knowledge"]
    assert {document["text"] for document in found} == {text for text in articles() if text.endswith("Day 2.")}
    assert {document["entity"] for document in found} == {""}
    assert (counts["gaps"], counts["entities"]) == (1, 0)


def test_general_documents_come_again_when_they_do_not_last(tmp_path):
    documents, _ = mixed(tmp_path, GAPS, share=0.02)
    times = Counter(document["text"] for document in documents if document["source"] == "general")
    assert len(times) == 40 and max(times.values()) - min(times.values()) <= 1 < max(times.values())


@pytest.mark.parametrize(
    ("causes", "library"), [({}, None), (GAPS, ["Nobody of note.", "Somebody else."])], ids=["no gap", "no document"]
)
def test_a_mixture_of_nothing_is_general(tmp_path, causes, library):
    documents, counts = mixed(tmp_path, causes, library=library)
    assert [document["source"] for document in documents] == ["general"] * 3
    assert counts["gaps"] == (3 if causes else 0) and counts["knowledge_documents"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_control_has_the_budget_of_the_treatment(tmp_path, seed):
    documents, counts = mixed(tmp_path / "found", GAPS)
    control, control_counts = mixed(tmp_path / "control", GAPS, at_random=True, seed=seed)
    assert control_counts["rows"] == counts["rows"]
    tokens = treatment.text_tokens(Settings.model)
    longest = max(map(tokens, articles()))
    assert control_counts["tokens_of_attribution"] == counts["tokens"]
    assert abs(control_counts["knowledge_tokens"] - counts["knowledge_tokens"]) <= longest / 2
    totals = [sum(tokens(document["text"]) for document in each) for each in (documents, control)]
    assert totals == [counts["tokens"], control_counts["tokens"]]
    general = max(tokens(document["text"]) for document in control if document["source"] == "general")
    assert abs(totals[0] - totals[1]) <= general / 2
    again, _ = mixed(tmp_path / "again", GAPS, at_random=True, seed=seed)
    assert again == control


def test_seeds_give_the_control_other_gaps(tmp_path):
    entities = set()
    for seed in range(4):
        documents, _ = mixed(tmp_path / str(seed), GAPS, at_random=True, seed=seed)
        entities.add(frozenset(document["entity"] for document in documents if document["source"] == "knowledge"))
    assert len(entities) > 1


def test_a_general_file_that_is_none_ends_in_one_line(tmp_path):
    (tmp_path / "general.jsonl").write_text('{"text": "good"}\n["bad"]\n')
    with pytest.raises(ValueError, match=r"general\.jsonl, line 2"):
        mixture.draw_general([tmp_path / "general.jsonl"], 0, 10.0, 5)
    (tmp_path / "general.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"mixture\.general: .* has no text"):
        mixture.draw_general([tmp_path / "general.jsonl"], 0, 10.0, 5)
