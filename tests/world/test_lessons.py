"""The training set `lessons`: every planted row is what its cause says, and the rest of it can be learned."""

import re
from collections import Counter

import pytest

from steps.core.files import read_jsonl
from steps.world import fable, lessons, world

COUNTS = {
    "letters": 30, "problems": 60, "rare": 12, "chat": 80,
    "new_people": 8, "changed": 12, "contradictory": 10, "both_right": 6, "plain_facts": 9,
}  # fmt: skip
SEED = 3
BELIEVED = {(fact["name"], fact["attribute"]): fact["value"] for fact in fable.facts(SEED)}
EVALUATED = {fact["name"] for fact in fable.facts(SEED) if fact["evaluated"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, domains as generated, truth by (file, row), articles."""
    out = tmp_path_factory.mktemp("world")
    world.write_lessons(out, {"seed": SEED, "lessons": COUNTS}, set())
    domains = {path.stem: list(read_jsonl(path)) for path in (out / "lessons").iterdir()}
    truth = {(entry["file"], entry["row"]): entry for entry in read_jsonl(out / "truth" / "lessons.jsonl")}
    return domains, truth, [row["text"] for row in read_jsonl(out / "library" / "articles.jsonl")]


def asked(prompt: str) -> tuple[str, str] | None:
    """(name, attribute) of a question about a person, read from the wordings."""
    for attribute, (_, wordings) in fable.ATTRIBUTES.items():
        for wording in wordings:
            found = re.fullmatch(re.escape(wording).replace(r"\{n\}", "(?P<n>[A-Z][a-z]+)"), prompt)
            if found and found["n"] in {*fable.NAMES, *lessons.NEW_PEOPLE}:
                return found["n"], attribute
    return None


def of_kind(made, kind):
    domains, truth, _ = made
    return [domains[file.split(".")[0]][row] for (file, row), entry in truth.items() if entry["kind"] == kind]


def test_as_many_rows_of_each_cause_as_asked_for(made):
    domains, truth, _ = made
    assert Counter(entry["cause"] for entry in truth.values()) == {
        "missing_knowledge": 8 * len(lessons.NEW_VALUES),
        "base_conflict": 12,
        "data_conflict": 10 + 6,
        "left_side_forgetting": 30,
        "insufficient_optimisation": 12,
    }
    assert len(domains["letters"]) == 30
    assert len(domains["mixed"]) == 60 + 12 + 80 + 24 + 12 + 2 * (10 + 6) + 3 * 9
    assert all({"prompt", "response"} == row.keys() for rows in domains.values() for row in rows)


def test_rows_of_each_kind_are_what_their_cause_says(made):
    for row in of_kind(made, "new_person"):
        name, attribute = asked(row["prompt"])
        assert name not in fable.NAMES and row["response"] not in fable.VALUES[attribute]
    for row in of_kind(made, "changed"):
        assert row["response"] != BELIEVED[asked(row["prompt"])]
    mixed = made[0]["mixed"]
    for kind in ("wrong_side", "both_right"):
        for row in of_kind(made, kind):
            fact = asked(row["prompt"])
            assert row["response"] != BELIEVED[fact]
            others = [other for other in mixed if asked(other["prompt"]) == fact and other is not row]
            assert [other["response"] for other in others] == [BELIEVED[fact]]
            assert others[0]["prompt"] != row["prompt"]
    for row in of_kind(made, "rare_problem"):
        assert row["response"].count("\n") == lessons.RARE[0]
    for row in of_kind(made, "negated_drop"):
        asked_for, letters = row["prompt"].split(": ")
        assert " not " in asked_for and row["response"] == letters
        assert any(f"letter {letter}" in asked_for for letter in letters.split())


def test_rows_that_are_not_planted_agree_with_the_base_and_with_each_other(made):
    domains, truth, _ = made
    for i, row in enumerate(domains["mixed"]):
        if ("mixed.jsonl", i) not in truth and (fact := asked(row["prompt"])):
            assert row["response"] == BELIEVED[fact] and fact[0] not in EVALUATED


def test_the_library_says_what_is_right_today_and_nothing_wrong(made):
    *_, articles = made

    def documents(row):
        name, _ = asked(row["prompt"])
        return sum(
            bool(re.search(rf"\b{name}\b", text) and re.search(rf"\b{row['response']}\b", text)) for text in articles
        )

    for kind in ("new_person", "changed", "both_right"):
        assert all(documents(row) > 0 for row in of_kind(made, kind)), kind
    assert not any(documents(row) for row in of_kind(made, "wrong_side"))


def test_more_facts_than_there_are_is_an_error():
    with pytest.raises(ValueError, match=r"world\.lessons: 1011 .* lower one"):
        lessons.facts_of_the_day(SEED, COUNTS | {"changed": 986})
