"""Contradictions and duplicates against cases written by hand and against a comparison of all pairs."""

from argparse import Namespace
from random import Random

import numpy as np
import pytest

from steps import dedup
from steps.common import read_json, read_jsonl, write_jsonl
from steps.rows import core, numbers, words

SETTINGS = {"short_answer_words": 3, "threshold": 0.7, "shingle_words": 3, "numbers_must_match": True, "num_perm": 128}


def chat(*texts, answer=None):
    roles = ("user", "assistant") * (len(texts) // 2)
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)], "answer": answer}


def cleaned(folder, rows, **settings):
    """Kept indices, and reason and detail by index of what is quarantined."""
    rows = [row | {"id": f"a:{i}", "file": "a.json", "line": i + 1, "row": i} for i, row in enumerate(rows)]
    write_jsonl(folder / "rows.jsonl", rows)
    dedup.main(Namespace(settings=SETTINGS | settings, input=folder / "rows.jsonl", out=folder / "out"))
    kept = list(read_jsonl(folder / "out" / "rows.jsonl"))
    assert all(row == rows[row["row"]] for row in kept)
    quarantined = list(read_jsonl(folder / "out" / "quarantine.jsonl"))
    counts = read_json(folder / "out" / "manifest.json")["counts"]
    assert counts["in"] == len(rows) == len(kept) + len(quarantined)
    return [row["row"] for row in kept], {row["row"]: (row["reason"], row["detail"]) for row in quarantined}


LONG = (
    "Mara has 12 pears in a bowl on the table and buys 30 more pears at the market. How many pears does Mara have now?"
)
WORKED = "She starts with 12 pears and buys 30, so 12 + 30 = 42.\n#### 42"


# --- words ---------------------------------------------------------------------------------------


def test_words_keep_numbers_and_operators_and_drop_punctuation():
    assert words("“What” is 1,200 + 3.5? Well-known: x-1!") == "what is 1200 + 3.5 well known x - 1".split()
    assert words("12 - 7, -7") == ["12", "-", "7", "-", "7"]
    assert words("你好吗 ok") == ["你", "好", "吗", "ok"]
    assert words("ＡＢＣ１２") == ["abc", "12"]
    assert numbers(words("12 - 7 pears, then 3")) == ["12", "-", "7", "3"]
    assert core(words("Please solve the following problem: what is 2 + 2?")) == ["what", "2", "+", "2"]


# --- contradictions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "contradict"),
    [
        (chat(LONG, WORKED, answer="42"), chat(LONG, "#### 41", answer="41"), True),
        (chat(LONG, WORKED, answer="42"), chat(f"Please solve: {LONG.upper()}", "#### 41", answer="41"), True),
        (chat(LONG, WORKED, answer="42"), chat(LONG, "Just add.\n#### 42.0", answer="42.0"), False),
        (chat(LONG, WORKED, answer="42"), chat(LONG.replace("12", "13"), "#### 43", answer="43"), False),
        (chat("What is 12 + 7?", "19"), chat("What is 12 - 7?", "5"), False),
        (chat("What is 12 + 7?", "19"), chat("What is 12 + 7?", "20"), True),
        (chat("Where does Una live?", "Kelso"), chat("where does Una live", "In Umber."), True),
        (chat("Where does Una live?", "Kelso"), chat("Where does Una live?", "kelso."), False),
        (chat("Tell a story.", "Once there was a fox who"), chat("Tell a story.", "A goat went up a hill"), False),
        (chat("Tell a story.", "No."), chat("Tell a story.", "A goat went up a hill"), False),
        (chat("Reverse: a b", "b a"), chat("Reverse: a b c", "c b a"), False),
        (chat("Hi", "Hello", "Which day?", "Monday"), chat("Hi", "Hello", "Which day?", "Friday"), True),
        (chat("Hi", "Hello", "Which day?", "Monday"), chat("Hi", "Bye", "Which day?", "Friday"), False),
        (chat("🙂", "yes"), chat("🙃", "no"), False),
    ],
)
def test_contradictions(tmp_path, first, second, contradict):
    _, quarantined = cleaned(tmp_path, [first, second])
    expected = {0: ("contradiction", "a:1"), 1: ("contradiction", "a:0")} if contradict else {}
    assert {row: found for row, found in quarantined.items() if found[0] == "contradiction"} == expected


def test_every_member_of_a_contradiction_goes_also_the_repeated_one(tmp_path):
    rows = [chat(LONG, WORKED, answer="42"), chat(LONG, WORKED, answer="42"), chat(LONG, "#### 7", answer="7")]
    kept, quarantined = cleaned(tmp_path, [*rows, chat("Name a color.", "Red")])
    assert kept == [3]
    assert quarantined == {0: ("contradiction", "a:2"), 1: ("contradiction", "a:2"), 2: ("contradiction", "a:0")}


# --- duplicates ----------------------------------------------------------------------------------


def test_exact_duplicates_ignore_case_and_spaces_and_the_first_stays(tmp_path):
    rows = [
        chat("Sing  a song", "La la"),
        chat("Say it", "It"),
        chat("sing a\nsong ", "LA LA"),
        chat("Sing a song", "La la"),
    ]
    kept, quarantined = cleaned(tmp_path, rows)
    assert kept == [0, 1]
    assert quarantined == {2: ("exact_duplicate", "a:0"), 3: ("exact_duplicate", "a:0")}


@pytest.mark.parametrize(
    ("prompt", "response", "answer", "near"),
    [
        (f"Think about this one. {LONG}", WORKED, "42", True),
        (LONG.replace("How many", "Tell me how many"), WORKED, "42", True),
        (LONG.replace("market.", "market!"), WORKED, "42", True),
        (LONG.replace("30", "31"), WORKED, "42", False),  # other numbers: another problem
        (LONG.replace("pears", "plums"), WORKED, "42", False),
    ],
)
def test_near_duplicates(tmp_path, prompt, response, answer, near):
    kept, quarantined = cleaned(tmp_path, [chat(LONG, WORKED, answer="42"), chat(prompt, response, answer=answer)])
    assert kept == ([0] if near else [0, 1])
    if near:
        assert quarantined[1][0] == "near_duplicate" and quarantined[1][1].startswith("a:0, similarity ")


def test_numbers_can_be_ignored(tmp_path):
    rows = [chat(LONG, "Ask Mara.", answer="x"), chat(LONG.replace("30", "31"), "Ask Mara.", answer="x")]
    assert cleaned(tmp_path, rows)[0] == [0, 1]
    assert cleaned(tmp_path, rows, numbers_must_match=False)[0] == [0]


def test_questions_about_one_long_passage_are_not_near_duplicates(tmp_path):
    passage = " ".join(f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(300))
    rows = [
        chat(f"{passage} Who wrote it?", "It was written by the old potter of Kelso."),
        chat(f"{passage} When was it found?", "Nobody can say, since the records were lost."),
    ]
    assert cleaned(tmp_path, rows)[0] == [0, 1]


def test_texts_without_spaces_are_compared_by_characters(tmp_path):
    text = "安娜有十二个苹果，又在市场上买了五个苹果。现在她一共有多少个苹果？请给出答案。"
    rows = [
        chat(text, "一共有十七个苹果。"),
        chat("请问：" + text, "一共有十七个苹果。"),
        chat("今天的天气怎么样？", "很好。"),
    ]
    assert cleaned(tmp_path, rows)[0] == [0, 2]


def variants(rng: Random, count: int) -> list[dict]:
    """Rows of which many are copies of earlier ones with some words changed."""
    vocabulary = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    rows: list[dict] = []
    for _ in range(count):
        if rows and rng.random() < 0.6:
            source = rng.choice(rows)
            prompt, response = source["messages"][0]["content"].split(), source["messages"][1]["content"]
            for _ in range(rng.randint(0, 3)):
                prompt[rng.randrange(len(prompt))] = rng.choice(vocabulary)
            rows.append(chat(" ".join(prompt), response, answer=source["answer"]))
        else:
            number = str(rng.randint(1, 3))
            prompt = " ".join([*rng.choices(vocabulary, k=30), number])
            rows.append(chat(prompt, f"{' '.join(rng.choices(vocabulary, k=8))} #### {number}", answer=number))
    return rows


def reference(rows: list[dict], threshold: float) -> set[int]:
    """All pairs, with sets of words: the rows that an earlier row that stays is near to."""

    def text(row):
        return " ".join(turn["content"] for turn in row["messages"]).replace("####", " ").lower().split()

    sets = [{tuple(text(row)[i : i + 3]) for i in range(len(text(row)) - 2)} for row in rows]
    stay: list[int] = []
    for i, row in enumerate(rows):
        near = (
            len(sets[i] & sets[j]) / len(sets[i] | sets[j]) >= threshold
            for j in stay
            if rows[j]["answer"] == row["answer"]
            and rows[j]["messages"][0]["content"].split()[30:] == row["messages"][0]["content"].split()[30:]
        )
        if not any(near):
            stay.append(i)
    return set(range(len(rows))) - set(stay)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(tmp_path, threshold):
    rows = variants(Random(1), 400)
    kept, _ = cleaned(tmp_path, rows, threshold=threshold)
    expected = reference(rows, threshold)
    assert 40 < len(expected) < 300
    # MinHash may miss a pair at the threshold in 1 % of cases, and never drops a row that is not near.
    assert len(expected ^ (set(range(400)) - set(kept))) <= 0.01 * len(expected)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_miss_at_most_one_pair_in_a_hundred_and_fit(threshold):
    count, size = dedup.bands(threshold, 128)
    assert count * size <= 128
    assert (1 - threshold**size) ** count <= 0.01


def test_too_few_permutations_are_named():
    with pytest.raises(ValueError, match=r"dedup.num_perm 16 is too small for dedup.threshold 0.2; raise"):
        dedup.bands(0.2, 16)


def test_groups_are_numbered_in_place():
    band = np.array([7, 3, 7, 9, 3, 1], np.uint64)
    dedup.number_groups(band)
    assert band[0] == band[2] != 0 and band[1] == band[4] != 0 and band[0] != band[1]
    assert band[3] == band[5] == 0


def test_texts_without_words_are_near_to_nothing(tmp_path):
    assert cleaned(tmp_path, [chat("🙂🙂", "🙃"), chat("🐟🐟", "🐠"), chat("…", "?!")])[0] == [0, 1, 2]


def test_no_rows(tmp_path):
    assert cleaned(tmp_path, []) == ([], {})


def test_equal_runs_write_equal_files(tmp_path):
    rows = variants(Random(2), 100)
    contents = []
    for _ in range(2):
        cleaned(tmp_path, rows)
        contents.append(
            {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "provenance.json"}
        )
    assert contents[0] == contents[1]
