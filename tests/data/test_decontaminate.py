"""Leaked evaluation items, reworded as people do, against problems that only look like them."""

import json
import re
import tracemalloc
from argparse import Namespace
from pathlib import Path
from random import Random

import pandas
import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import decontaminate
from steps.data.leaks import Frames, Index, clauses
from steps.data.questions import Item, read_items, set_names

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


def finder(items, rows=()):
    """What names the item that a text among rows matches, or None."""
    index, frames = Index(items, **SETTINGS), Frames([[clauses(row)] for row in rows])
    return lambda text: (index.match(text, frames) or [None])[0]


match = finder([Item(*item) for item in ITEMS])


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
    index = Index([Item("task:0", " ".join(words))], **SETTINGS)
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
    assert finder([Item(*item) for item in items])(" ".join(words)) == "a:1"


SUFFIX = "Please reason step by step, and put your final answer within \\boxed."
WRAPPED = (
    "Below is an instruction that describes a task. Write a response that completes it.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
CHOICE = "The following is a multiple choice question. Answer with the letter.\n\nQuestion: {}\n{}\nAnswer:"
SQUARES = (
    "Find all $x$ such that $x^2 - 5x + 3 = \\frac{1}{2}$, and the value of $\\left(x^3 - 1\\right)$ for each one."
)
SENTENCES = re.split(r"(?<=[.?]) ", PROBLEM)
# Of a set in which each begins with the same words.
NAMES = [f"{a}{b}{c}" for a in ("kel", "um", "tor", "bra") for b in ("so", "ber", "min") for c in ("na", "li", "do")]
OPEN = [f"who was the first to sail around the bay of {name}" for name in NAMES]


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (PROBLEM, " ".join(f"{i}. {sentence}" for i, sentence in enumerate(SENTENCES, 1))),
        (PROBLEM, "\n".join(f"({i}) {sentence}" for i, sentence in enumerate(SENTENCES, 1))),
        (PROBLEM, " ".join(f"Step {i}: {sentence}" for i, sentence in enumerate(SENTENCES, 1))),
        (PROBLEM, "\n".join(f"- {sentence}" for sentence in SENTENCES)),
        (SQUARES, SQUARES.replace("^2", "²").replace("^3", "³")),
        (SQUARES, SQUARES.replace("-", "−")),
        (SQUARES, SQUARES.replace("\\frac", "\\dfrac")),
        (SQUARES, SQUARES.replace("\\left", "").replace("\\right", "").replace("$", "")),
        (SQUARES, SQUARES.replace("^2", "^{2}")),
        ("What is $3 \\times 4$?", "What is 3 × 4?"),
        ("What does कि mean?", "What does कि mean?"),
    ],
)  # fmt: skip
def test_an_item_in_another_layout_is_found(item, text):
    assert finder([Item("task:0", item)])(text) == "task:0"


@pytest.mark.parametrize("frame", [f"{{}}\n{SUFFIX}", f"{{}} {SUFFIX}", f"{{}}? {SUFFIX}", WRAPPED, "Q: {}\nA:"])
@pytest.mark.parametrize("questions", [OPEN, [f"not ( {a} ) and {b} is" for a in (True, False) for b in (True, False)]])
def test_text_that_rows_share_does_not_hide_a_short_item(frame, questions):
    rows = [frame.format(text) for text in [*OPEN, *questions]]
    items = [Item(f"task:{i}", text) for i, text in enumerate(questions)]
    find = finder(items, rows)
    assert [find(frame.format(text)) for text in questions] == [item.name for item in items]
    assert find(frame.format("who was the second to sail around it")) is None


WALK = "If you follow these instructions, do you return to the starting point? {}\nOptions:\n- Yes\n- No"
WALKS = [
    "Take 7 steps. Turn around. Take 7 steps.",
    "Take 7 steps. Turn around. Take 7 steps. Turn left. Turn around. Turn around. Turn left.",
    "Turn left. Take 2 steps. Turn left. Take 9 steps.",
]
INTENT = "Classify what the customer writes by its intent, please.\n\n{}"


def test_a_run_of_steps_is_no_leak_of_its_beginning():
    items = [Item("walk:0", WALK.format(WALKS[0])), Item("walk:2", WALK.format(WALKS[2]))]
    turns = ["right"] * 20 + ["left", "left", "around", "around"]
    items += [
        Item(f"other:{i}", WALK.format(f"Take {i} steps. Turn {turn}. Take {i + 1} steps."))
        for i, turn in enumerate(turns, 20)
    ]
    for frame in ("{}", INTENT):
        rows = [frame.format(WALK.format(f"Turn left. Take {i} steps. Turn left.")) for i in range(30, 60)]
        find = finder(items, rows)
        found = [find(frame.format(WALK.format(walk))) for walk in WALKS]
        assert found == ["walk:0", None, "walk:2"], frame
        several = "\n\n".join(WALK.format(walk) for walk in (WALKS[1], "Take 99 steps.", WALKS[2]))
        assert find(frame.format(several)) in ("walk:0", "walk:2")
        # A step more of a number that no item has.
        assert find(frame.format(WALK.format(f"{WALKS[2]} Take 777 steps."))) is None


BESIDE = [
    "{frame}\n\nHint: it is told in the last chapter of her book about the voyage.\n{question}",
    "{frame}\n\nContext: The sea was calm that year. Many ships left the bay, and few came back.\n\n{question}",
    "{frame}\n\nQ: who built the tower of Brill\nA: Ida\n\nQ: who sold the mill\nA: Otto\n\nQ: {question}\nA:",
    "{frame}\n\n{question}\n(A) Ida of Brill\n(B) Otto the miller\n(C) nobody knows\n(D) her uncle",
    "{frame}\n\n{question}\n\nLet me think. The sea was calm that year, and few ships came back. So it was Ida.",
]


@pytest.mark.parametrize("beside", BESIDE)
def test_whatever_stands_beside_a_short_question_in_the_frame_of_its_set_hides_no_leak(beside):
    frame = "Answer the following question with a short answer."
    asked = [f"who was the {number} keeper of the light at {name}" for name in NAMES for number in ("first", "last")]
    find = finder([Item(f"keeper:{i}", f"{frame}\n\n{question}") for i, question in enumerate(asked)])
    for i, question in enumerate(asked):
        assert find(beside.format(frame=frame, question=question)) == f"keeper:{i}"
    assert find(beside.format(frame=frame, question="who was the second keeper of the light at Kelso")) is None
    # Of few words and many signs.
    find = finder([Item(f"power:{i}", f"{frame}\n\nFind the units digit of ${i}^6$.") for i in range(30)])
    assert find(beside.format(frame=frame, question="Find the units digit of $18^6$.")) == "power:18"
    assert find(beside.format(frame=frame, question="Find the units digit of $18^7$.")) is None


ONE_WORD = "Simplify\n\\[\\cos(\\frac{2\\pi}{15}) \\cos(\\frac{4\\pi}{15}) \\cos(\\frac{8\\pi}{15}).\\]"


def test_a_clause_of_one_word_is_held_to_no_other_clause():
    items = [Item("one:0", ONE_WORD), Item("one:1", f'{PROBLEM}\n\nEnter "odd", "even", or "neither".')]
    for text in ("{}", "### Instruction:\n{}\n\n### Response:", "{}\nA: Let's think step by step."):
        assert [finder(items)(text.format(item.prompt)) for item in items] == ["one:0", "one:1"]
    for text in ("{}", "### Instruction:\n{}\n\n### Response:"):
        assert finder(items)(text.format(ONE_WORD.replace("Simplify", "Differentiate"))) is None
        asked = text.format(ONE_WORD.replace("Simplify", "Please simplify the expression below."))
        assert finder(items)(asked) == "one:0"


def test_every_question_that_ships_is_found_as_it_stands():
    texts = [row["problem"] for row in read_jsonl(Path(__file__).parents[2] / "data/math500/test.jsonl")]
    index = Index([Item(f"math:{i}", text) for i, text in enumerate(texts)], **SETTINGS)
    assert [text for text in texts if index.match(text) is None] == []


def test_a_question_that_does_not_point_to_its_options_is_found_without_them():
    options = "her uncle\nthe miller\na smith\nnobody"
    asked = "Who rang the old bell of Kelso in {} year of the war?"
    items = [
        Item("bell:0", asked.format("the first"), options, "bell"),
        Item("bell:1", "Which of these rang?", options),
    ]
    document = "The sea was calm.\n{}\nFew ships came back.\nThe mill stood still.\nNo one was seen."
    find = finder(items)
    assert find(document.format(asked.format("the first"))) == "bell:0"
    assert find(document.format(asked.format("the last"))) is None
    assert find(document.format("Which of these rang?")) is None


def test_a_short_question_is_found_beside_its_options_and_one_that_many_items_ask_only_with_them():
    options = [[f"{name} is {what}" for name in NAMES[i : i + 4]] for i, what in enumerate(["old", "new", "far"] * 4)]
    asked = ["Which of these is true?"] * 11 + ["Which bay lies in the west of the town of Kelso?"]
    items = [Item(f"task:{i}", text, "\n".join(own)) for i, (text, own) in enumerate(zip(asked, options, strict=True))]
    find = finder(items)
    for mark in ("{}. {}", "({}) {}"):
        rows = [
            CHOICE.format(text, "\n".join(map(mark.format, "ABCD", own)))
            for text, own in zip(asked, options, strict=True)
        ]
        assert [find(row) for row in rows] == [item.name for item in items]
    assert find(CHOICE.format(asked[0], "A. cats\nB. dogs\nC. birds\nD. fish")) is None
    assert find(f"Which of these is true? {' '.join(NAMES)}") is None


@pytest.mark.parametrize(
    "instruction",
    [
        "{}",
        "Tell me which intent this bank customer has:\n{}",
        "Tell me which of our services this message concerns {}",
        "You help the customers of a bank. Tell what they mean.\nMessage: {}\nIntent:",
        "请判断下面这句银行客户的话属于哪一个意图，只回答意图的名称：{}",
    ],
)
def test_an_instruction_that_items_and_rows_share_is_no_leak(instruction):
    asked = [f"I would like to know {what}" for what in ("how to order a card", "why my card was declined", "the fees")]
    asked += [f"How do I change the {name} of my {thing}?" for name in NAMES for thing in ("card", "account")]
    others = [f"I would like to give the {name} to my daughter" for name in NAMES] + ["I would like to know who called"]
    items = [Item(f"bank:{i}", instruction.format(text)) for i, text in enumerate(asked)]
    rows = [instruction.format(text) for text in [*others, *asked]]
    find = finder(items, rows)
    assert [find(row) for row in rows] == [None] * len(others) + [item.name for item in items]


def test_another_question_about_the_passage_of_an_item_is_no_leak():
    passage = " ".join(f"Then {name} met the people of {name[::-1]} in the old house by the sea." for name in NAMES)
    question = "What was the colour of the roof of the house?"
    find = finder([Item("read:0", f"{passage} {question}")])
    assert find(f"{passage} Who of them did not come back to the town in the end?") is None
    assert find(f"Read this. {passage}\n{question} Answer in a word.") == "read:0"


CLUB = (
    "Our club has 25 members, and wishes to pick a president, a secretary and a treasurer out of them for this year. "
)


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (CLUB + "In how many ways, if nobody holds two offices?", CLUB + "In how many ways, if somebody may hold two?"),
        (CLUB + "What is the chance of an old president?", CLUB + "What is the chance of a young president?"),
        (CLUB + "Find the largest age of all.", CLUB + "Find the smallest age of all."),
        (f"Find $a.$\n\n{CLUB}", f"Find $b.$\n\n{CLUB}"),
        (CLUB + "Which is the graph of $y = -f(x)$?", CLUB + "Which is the graph of $y = -f(-x)$?"),
        ("What share of the children of Kelso had seen a river more than once in the year before the flood of 1912?",
         "What share of the children of Umber had seen a river more than once in the year before the flood of 1912?"),
    ],
)  # fmt: skip
def test_another_word_or_sign_where_an_item_asks_is_another_question(item, text):
    assert finder([Item("task:0", item)])(text) is None
    assert finder([Item("task:0", item)])(item) == "task:0"


def test_a_reworded_statement_or_verb_of_asking_is_the_same_question():
    find = finder([Item("task:0", CLUB + "Find the number of ways.")])
    assert find(CLUB.replace("club", "team") + "Determine the number of ways.") == "task:0"


def test_a_short_question_with_other_options_is_no_leak():
    good = "Which of these is the best example of a public good?"
    find = finder([Item("task:0", good, "a lamp of the street\na pear\na coat\na cup")])
    assert find(good) == "task:0"
    assert find(f"{good}\nA. a plum\nB. a hat\nC. a light house by the sea\nD. a fork") is None
    assert find(f"{good}\nA. a pear\nB. a cup\nC. a lamp of the street\nD. a coat") == "task:0"
    both = finder([Item("task:0", good, "a lamp of the street"), Item("task:1", good)])
    assert both(f"{good}\nA. a plum\nB. a hat\nC. a light house by the sea\nD. a fork") == "task:0"


def test_another_instruction_asks_something_else_of_the_same_few_words():
    find = finder([Item(f"strings:{i}", f"Sort the letters: {' '.join(name)}") for i, name in enumerate(NAMES)])
    assert find(f"Reverse the letters: {' '.join(NAMES[0])}") is None
    assert find(f"Sort the letters: {' '.join(NAMES[0])}") == "strings:0"


def row(i, *texts):
    roles = ("user", "assistant") * (len(texts) // 2)
    messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
    return {"id": f"a:{i}", "messages": messages, "answer": None, "file": "a.json", "line": i + 1, "row": i}


def decontaminated(folder, rows, evaluation, **settings):
    write_jsonl(folder / "rows.jsonl", rows)
    args = Namespace(settings=SETTINGS | settings, input=folder / "rows.jsonl", eval=evaluation, out=folder / "out")
    decontaminate.main(args)
    return read_json(folder / "out" / "manifest.json")["counts"]


def test_the_step_looks_at_every_turn_and_every_evaluation_set(tmp_path):
    write_jsonl(tmp_path / "one.jsonl", [{"id": "x7", "prompt": PROBLEM, "answer": "35"}])
    write_jsonl(tmp_path / "two.jsonl", [{"question": "Who?", "answer": ["a"]}, {"question": "Where does Una live?"}])
    rows = [
        row(0, "Write a problem.", PROBLEM),
        row(1, "Hello", "Hi", "Where does Una live?", "Kelso"),
        row(2, "Where does Nils live?", "Umber"),
        row(3, "Write a problem.", "No."),
    ]
    rows[3]["messages"][1]["thinking"] = PROBLEM
    counts = decontaminated(tmp_path, rows, [tmp_path / "one.jsonl", tmp_path / "two.jsonl"])
    assert list(read_jsonl(tmp_path / "out" / "rows.jsonl")) == [rows[2]]
    found = [(q["row"], q["column"], q["detail"]) for q in read_jsonl(tmp_path / "out" / "quarantine.jsonl")]
    assert found == [
        (0, "messages[1].content", "one:x7, 100% of it"),
        (1, "messages[2].content", "two:1, 100% of it"),
        (3, "messages[1].content", "one:x7, 100% of it"),
    ]
    assert (counts["in"], counts["kept"], counts["quarantined"]) == (4, 1, {"eval_overlap": 3})
    assert counts["eval_items"] == {"one": 1, "two": 2}


def test_two_files_of_one_folder_are_two_sets(tmp_path):
    (tmp_path / "quiz").mkdir()
    for part, question in (("dev", "Where does Una live?"), ("test", "Where does Nils live?")):
        write_jsonl(tmp_path / "quiz" / f"{part}.jsonl", [{"question": question}])
    rows = [row(0, "Where does Una live?", "Kelso"), row(1, "Where does Nils live?", "Umber"), row(2, "Hi", "Hello")]
    counts = decontaminated(tmp_path, rows, [tmp_path / "quiz/dev.jsonl", tmp_path / "quiz/test.jsonl"])
    assert counts["eval_items"] == {"quiz/dev": 1, "quiz/test": 1}
    details = [q["detail"] for q in read_jsonl(tmp_path / "out" / "quarantine.jsonl")]
    assert details == ["quiz/dev:0, 100% of it", "quiz/test:0, 100% of it"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["gsm8k/test.jsonl", "eval/fable_facts.jsonl"], ["gsm8k", "fable_facts"]),
        (["quiz/dev.csv", "quiz/test.csv"], ["quiz/dev", "quiz/test"]),
        (["a/quiz.json", "b/quiz.json"], ["a/quiz", "b/quiz"]),
        (["a/quiz.json", "a/quiz.csv"], ["a/quiz.json", "a/quiz.csv"]),
        (["x/a/quiz.json", "y/a/quiz.json"], ["x/a/quiz.json", "y/a/quiz.json"]),
    ],
)
def test_each_set_has_a_name_of_its_own(paths, names):
    assert [*set_names([Path(path) for path in paths]).values()] == names


# --- evaluation files ----------------------------------------------------------------------------

RECORDS = [
    {"stem": "Where does Una live?", "options": ["Kelso", "Umber"]},
    {"stem": "Who?", "options": ["Una", "Nils"]},
]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "examples.json", "parquet", "csv"])
def test_every_kind_of_file_that_evaluate_reads(tmp_path, suffix):
    path = tmp_path / f"task.{suffix}"
    field = "examples" if suffix == "examples.json" else None
    if suffix == "parquet":
        pandas.DataFrame(RECORDS).to_parquet(path)
    elif suffix == "csv":
        path.write_text("stem,A,B\nWhere does Una live?,Kelso,Umber\nWho?,Una,Nils\n", encoding="utf-8-sig")
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, RECORDS)) + "\n\n")
    else:
        path.write_text(json.dumps({field: RECORDS} if field else RECORDS))
    items = list(read_items(path, "task", column="stem", field=field))
    assert items == [
        Item("task:0", "Where does Una live?", "Kelso\nUmber", "task"),
        Item("task:1", "Who?", "Una\nNils", "task"),
    ]
    with pytest.raises(ValueError, match="item 1: no text under prompt, question, problem, input; name the field"):
        list(read_items(path, "task", field=field))


def test_a_prompt_may_be_a_conversation_and_options_may_be_named(tmp_path):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": turns, "choices": {"label": ["A", "B"], "text": ["Una", "Nils"]}}])
    assert list(read_items(tmp_path / "a.jsonl", "a")) == [Item("a:0", "Who?", "Una\nNils", "a")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("task.jsonl", '{"prompt": "a"}\n{\n', "task.jsonl, line 2: not JSON"),
        ("task.jsonl", '{"prompt": "a"}\n{"text": "a"}\n', "task.jsonl, item 2: no text under prompt, question"),
        ("task.jsonl", '{"prompt": "a"}\n[]\n', "item 2: no text under"),
        ("task.jsonl", '{"prompt": " "}\n', "item 1: no text under"),
        ("task.json", "[", "task.json: not JSON"),
        ("task.json", '{"examples": []}', "task.json: no list of items; name the key"),
        ("task.parquet", "PAR1", "task.parquet: not readable as Parquet"),
        ("task.csv", "question\n\xff\n", "task.csv: no CSV in UTF-8"),
    ],
)
def test_a_broken_evaluation_set_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        list(read_items(tmp_path / name, "task"))


@pytest.mark.parametrize(
    "frame",
    [
        "**Question:** {}\n\n**Answer:**",
        "<question>{}</question>",
        "[INST] {} [/INST]",
        "=== {} ===",
        "Q1) {}",
        "**{}**",
        "#1 {}",
    ],
)
def test_markup_around_a_short_question_hides_nothing(frame):
    find = finder([Item("quiz:1", "who won the cup in 1998")])
    assert find(frame.format("who won the cup in 1998"))
    assert not find(frame.format("who won the cup in 1999"))


def test_an_item_that_is_listed_often_is_found_as_before():
    item = "Mara picks apples in the garden of her aunt all morning and gives every second one of them to Tom."
    words = f"{item} How many apples are left for her in the end?"
    near = words.replace("Mara picks", "Mara now picks")
    assert all(finder([Item(f"quiz:{i}", words) for i in range(times)])(near) for times in (1, 2, 3, 8, 40))


@pytest.mark.parametrize("own", ["{}", "q{}:0", "2024-01-02T10:{}:00"])
def test_items_are_of_the_set_that_they_stand_in_whatever_their_ids(tmp_path, own):
    write_jsonl(tmp_path / "quiz.jsonl", [{"id": own.format(i), "prompt": f"Name {i} things."} for i in range(3)])
    assert [item.of for item in read_items(tmp_path / "quiz.jsonl", "quiz")] == ["quiz"] * 3


# --- many rows, long rows ------------------------------------------------------------------------


def test_what_documents_share_is_learned_from_how_they_begin_and_end(tmp_path, monkeypatch):
    """Of 300 documents of 30 KB: in whole they would take 180 MB."""
    rng = Random(0)
    vocabulary = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(2000)]
    notice = "All rights to this text belong to the library of the town of Tarsk."

    def row(i):
        text = f"Read this first, please. {' '.join(rng.choices(vocabulary, k=4000))}. {notice}"
        return {
            "id": f"d:{i}",
            "file": "d.jsonl",
            "line": i,
            "row": i,
            "messages": [{"role": "document", "content": text}],
        }

    write_jsonl(tmp_path / "rows.jsonl", map(row, range(300)))
    monkeypatch.setattr(decontaminate, "SAMPLE_BYTES", 4 << 20)
    tracemalloc.start()
    frames = decontaminate.sample_frames(tmp_path / "rows.jsonl")["d.jsonl"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20 and clauses(notice)[0] in frames.clauses


def test_several_processes_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.data.rows.CHUNK_BYTES", 2000)
    rng = Random(0)

    def row(i):
        prompt = PROBLEM if i % 7 == 0 else f"How many is {rng.randint(1, 10**6)} and {i}?"
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": str(i)}]
        return {"id": f"a:{i}", "file": "a.jsonl", "line": i + 1, "row": i, "messages": turns, "answer": None}

    write_jsonl(tmp_path / "rows.jsonl", map(row, range(100)))
    write_jsonl(tmp_path / "items.jsonl", [{"prompt": PROBLEM}])
    made = []
    for cores in (1, 2):
        out = tmp_path / str(cores)
        paths = {"input": tmp_path / "rows.jsonl", "eval": [tmp_path / "items.jsonl"], "out": out}
        decontaminate.main(Namespace(settings=SETTINGS, cores=cores, **paths))
        made.append([(out / name).read_bytes() for name in ("rows.jsonl", "quarantine.jsonl", "manifest.json")])
    assert made[0] == made[1] and made[0][1].count(b"\n") == 15


def test_a_cell_of_an_evaluation_file_may_be_long(tmp_path):
    text = "Who? " * 50_000
    (tmp_path / "quiz.csv").write_text(f'question\n"{text}"\n')
    (item,) = read_items(tmp_path / "quiz.csv", "quiz")
    assert item.prompt == text


def test_a_value_that_python_has_not_is_one_line(tmp_path):
    import pyarrow
    import pyarrow.parquet

    far = pyarrow.array([10**6 * 365], pyarrow.int32()).cast(pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"question": ["Who?"], "when": far}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet: it has a value that Python has not \(.*\); write its column as"):
        list(read_items(tmp_path / "a.parquet", "a"))
