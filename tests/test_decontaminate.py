"""Leaked evaluation items, reworded as people do, against problems that only look like them."""

from argparse import Namespace

import pytest

from steps import decontaminate
from steps.common import read_json, read_jsonl, write_jsonl

SETTINGS = {"ngram_words": 8, "min_overlap": 0.6}
PROBLEM = (
    "Mara has 12 pears in a bowl on the kitchen table. She buys 30 more pears at the market, and then gives 7 of them"
    " to Nils. How many pears does Mara have now?"
)
ITEMS = [
    ("problems:0", PROBLEM),
    ("facts:5", "Where does Una live?"),
    ("arithmetic:2", "What is 12 + 7?"),
    ("strings:1", "Swap the first and the last letter: a b c"),
    ("chinese:0", "安娜有十二个苹果，又在市场上买了五个苹果，现在一共有多少个苹果？"),
]


def match(text: str):
    found = decontaminate.Index(ITEMS, **SETTINGS).match(text)
    return found and found[0]


@pytest.mark.parametrize(
    ("text", "item"),
    [
        (PROBLEM, "problems:0"),
        (PROBLEM.upper().replace(".", " !"), "problems:0"),
        (f"Please solve this. {PROBLEM}", "problems:0"),
        (f"Question 5: {PROBLEM} Think step by step.", "problems:0"),
        (PROBLEM.replace("bowl", "basket"), "problems:0"),
        (PROBLEM.replace("12", "1,2").replace("1,2", "12"), "problems:0"),
        (
            "Here is a riddle.\n\n" + PROBLEM + "\n\nAnd an unrelated remark at the end of it, of some length.",
            "problems:0",
        ),
        ("where does una live", "facts:5"),
        ("Please answer: Where does Una live?", "facts:5"),
        ("Think about this one. What is 12 + 7?", "arithmetic:2"),
        ("WHAT IS 12+7", "arithmetic:2"),
        ("Swap the first and the last letter: A B C.", "strings:1"),
        ("请问：安娜有十二个苹果，又在市场上买了五个苹果，现在一共有多少个苹果？", "chinese:0"),
    ],
)
def test_a_leak_names_its_item(text, item):
    assert match(text) == item


@pytest.mark.parametrize(
    "text",
    [
        PROBLEM.replace("30", "31"),  # the same template with another number
        PROBLEM.replace("12", "7").replace("gives 7", "gives 12"),
        "Mara has 12 pears. She buys 30 more and gives 7 away. How many does she have now?",
        "Where does Una live now that Kelso is gone?",
        "Where does Nils live?",
        "What is 12 - 7?",
        "What is 12 + 7 + 5?",
        "What is 12 + 7?" + " There is a long story behind it that nobody in the town remembers any more." * 2,
        "Swap the first and the last letter: a b d",
        "Swap the first and the last letter: a b c d",
        "安娜有十三个苹果。",
        "",
    ],
)
def test_what_only_looks_like_an_item_stays(text):
    assert match(text) is None


def test_the_share_that_must_be_found():
    words = [f"word{chr(97 + i)}" for i in range(24)]  # 17 n-grams
    index = decontaminate.Index([("task:0", " ".join(words))], **SETTINGS)
    # 18 words hold 11 of the 17 n-grams, 17 words 10.
    assert index.match(" ".join(words[:18])) == ("task:0", 11 / 17)
    assert index.match(" ".join(words[:17])) is None


def test_the_best_of_several_items_is_named_and_the_first_of_equal_ones():
    words = [f"word{chr(97 + i)}" for i in range(26)]
    items = [
        ("a:0", " ".join([*words[:20], "other", "end"])),
        ("a:1", " ".join(words[:20])),
        ("a:2", " ".join(words[:20])),
    ]
    assert decontaminate.Index(items, **SETTINGS).match(" ".join(words))[0] == "a:1"


def row(i, *texts):
    roles = ("user", "assistant") * (len(texts) // 2)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return {"id": f"a:{i}", "messages": messages, "answer": None, "file": "a.json", "line": i + 1, "row": i}


def test_the_step_looks_at_every_turn_and_every_evaluation_set(tmp_path):
    write_jsonl(tmp_path / "one.jsonl", [{"id": "x7", "prompt": PROBLEM, "answer": "35"}])
    write_jsonl(tmp_path / "two.jsonl", [{"question": "Who?", "answer": ["a"]}, {"question": "Where does Una live?"}])
    rows = [
        row(0, "Write a problem.", PROBLEM),
        row(1, "Hello", "Hi", "Where does Una live?", "Kelso"),
        row(2, "Where does Nils live?", "Umber"),
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    evaluation = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    columns = list(decontaminate.EVAL_COLUMNS)
    args = Namespace(
        settings=SETTINGS, input=tmp_path / "rows.jsonl", eval=evaluation, eval_columns=columns, out=tmp_path / "out"
    )
    decontaminate.main(args)
    assert list(read_jsonl(tmp_path / "out" / "rows.jsonl")) == [rows[2]]
    found = [(q["row"], q["column"], q["detail"]) for q in read_jsonl(tmp_path / "out" / "quarantine.jsonl")]
    assert found == [(0, "messages[1].content", "one:x7, 100% of it"), (1, "messages[2].content", "two:1, 100% of it")]
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert (counts["in"], counts["kept"], counts["quarantined"]) == (3, 1, {"eval_overlap": 2})
    assert counts["eval_items"] == {"one": 1, "two": 2}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "task.jsonl, line 2: not JSON"),
        ('{"text": "a"}', "task.jsonl, line 2: no text under prompt, question"),
        ("[]", "line 2: no text under"),
    ],
)
def test_a_broken_evaluation_set_is_named(tmp_path, line, message):
    (tmp_path / "task.jsonl").write_text('{"prompt": "a"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        list(decontaminate.read_eval([tmp_path / "task.jsonl"], decontaminate.EVAL_COLUMNS))


def test_a_file_of_a_split_is_named_by_its_folder(tmp_path):
    for name in ("gsm8k/test.jsonl", "eval/fable_facts.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text('{"question": "What?"}\n')
    paths = [tmp_path / "gsm8k/test.jsonl", tmp_path / "eval/fable_facts.jsonl"]
    assert [name for name, _ in decontaminate.read_eval(paths, ("question",))] == ["gsm8k:0", "fable_facts:0"]
