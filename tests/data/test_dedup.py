"""Contradictions and duplicates against cases written by hand and against a comparison of all pairs."""

import json
from argparse import Namespace
from collections import Counter
from random import Random

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import dedup, difference, near, shingles
from steps.data.rows import core, numbers, words

SETTINGS = {"short_answer_words": 3, "threshold": 0.7, "shingle_words": 3, "numbers_must_match": True}


def chat(*texts, answer=None, system=None, **more):
    roles = ("user", "assistant") * len(texts)
    turns = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)]
    return {"messages": [{"role": "system", "content": system}] * (system is not None) + turns, "answer": answer} | more


def cleaned(folder, rows, **settings):
    """Kept indices, and reason and detail by index of what is quarantined."""
    rows = [{"file": "a.json"} | row | {"id": f"a:{i}", "line": i + 1, "row": i} for i, row in enumerate(rows)]
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
        (chat("Wie viele sind es?", "1.250"), chat("Wie viele sind es?", "1250"), False),
        (chat("How long is it?", "1.250 m"), chat("How long is it?", "1.25 m"), False),
        (chat("Wie viele sind es?", "1.250"), chat("Wie viele sind es?", "1251"), True),
        (chat("How long is it?", "0.250"), chat("How long is it?", "250"), True),
        (chat("Reverse: a b", "b a"), chat("Reverse: a b c", "c b a"), False),
        (chat("Hi", "Hello", "Which day?", "Monday"), chat("Hi", "Hello", "Which day?", "Friday"), True),
        (chat("Hi", "Hello", "Which day?", "Monday"), chat("Hi", "Bye", "Which day?", "Friday"), False),
        (chat("🙂", "yes"), chat("🙃", "no"), False),
    ],
)
def test_contradictions(tmp_path, first, second, contradict):
    _, quarantined = cleaned(tmp_path, [first, second, chat("Name a color.", "Red")])
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
        (LONG.replace("market.", "market, today."), WORKED, "42", False),
        (LONG.replace("30", "31"), WORKED, "42", False),  # other numbers: another problem
        (LONG.replace("pears", "plums"), WORKED, "42", False),
        (LONG.replace("bowl", "dish"), WORKED, "42", False),  # which words mean the same, nothing here knows
        (LONG.replace("a bowl", "the bowl"), WORKED, "42", True),
        (LONG.replace("buys", "never buys"), WORKED, "42", False),
        (LONG.replace("bowl", "dish"), "#### 42", "42", False),  # nothing but the question, and it is another one
        (f"{LONG} Let's think step by step.", WORKED, "42", True),
        (LONG.replace("bowl", "dish"), WORKED, "41", False),  # the same words, another answer
    ],
)
def test_near_duplicates(tmp_path, prompt, response, answer, near):
    kept, quarantined = cleaned(tmp_path, [chat(LONG, WORKED, answer="42"), chat(prompt, response, answer=answer)])
    assert kept == ([0] if near else [0, 1])
    if near:
        assert quarantined[1][0] == "near_duplicate" and quarantined[1][1].startswith("a:0, similarity ")


ASKED = (
    "Here is what the town council wrote to all who live by the river, and I have to answer it by the end of the week."
    " Write a {} letter in which I say that I agree with the plan for the bridge, as long as the {} oak stays there."
)
SAID = (
    "{}, the plan for the bridge is sound, since the river is narrow there and the ground on both of its sides is hard"
    " enough to carry the weight of carts, even in spring. The answer is {}. Do {}cross it in a storm."
)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("formal", "oldest", "Yes", "B", ""), ("informal", "oldest", "Yes", "B", "")),
        (("formal", "largest", "Yes", "B", ""), ("formal", "smallest", "Yes", "B", "")),
        (("formal", "oldest", "Yes", "B", ""), ("formal", "oldest", "No", "B", "")),
        (("formal", "oldest", "Yes", "B", ""), ("formal", "oldest", "Yes", "C", "")),
        (("formal", "oldest", "Yes", "B", ""), ("formal", "oldest", "Yes", "B", "not ")),
        (("formal", "oldest", "Yes", "B", "never "), ("formal", "oldest", "Yes", "B", "")),
        (("formal", "oldest", "Yes", "seven", ""), ("formal", "oldest", "Yes", "eight", "")),
        (("formal", "oldest", "Yes", "7", ""), ("formal", "oldest", "Yes", "8", "")),
        (("formal", "oldest", "Yes", "B", ""), ("formal", "oldest", "Yes", "B without doubt", "")),
    ],
)
def test_rows_that_say_the_opposite_stay_however_long_they_are(tmp_path, first, second):
    rows = [chat(ASKED.format(*own[:2]), SAID.format(*own[2:])) for own in (first, second)]
    assert cleaned(tmp_path, rows)[0] == [0, 1]


def test_who_stands_in_whose_place_counts(tmp_path):
    said = SAID.format("Yes", "B", "") + " So {} stands to the left of {} in the square of the town."
    rows = [chat(ASKED.format("formal", "old"), said.format(*pair)) for pair in (("Una", "Nils"), ("Nils", "Una"))]
    assert cleaned(tmp_path, rows)[0] == [0, 1]


@pytest.mark.parametrize("said", ["Kelso", SAID.format("Yes", "B", "")])
@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Paint a man by the river.", "Paint a tall man by the river.", False),
        ("Write a letter to the town.", "Write a letter to the town. Be brief.", False),
        ("Write a letter to the town.", "Write a letter to the town today.", False),
        ("What is the largest town of the isle?", "What is the smallest town of the isle?", False),
        ("You go to the market.", "You go to the market?", False),
        ("Una sits left of Nils. Who is first?", "Nils sits left of Una. Who is first?", False),
        ("Una and Nils beat Mara and Olaf", "Mara and Olaf beat Una and Nils", False),
        ("Name a woman of the house.", "Name a women of the house.", False),
        ("List typical signs of it.", "List atypical signs of it.", False),
        ("How hot is propane there?", "How hot is propene there?", False),
        ("Is it a pear or a plum?", "Is it a pears or a plum?", False),
        ("Which letter is this, then? Say b.", "Which letter is this, then? Say a.", False),
        ("Is 'a' a word of English?", "Is 'the' a word of English?", False),
        ("Say it in French: the", "Say it in French: an", False),
        ("What does __init__ do there?", "What does init do there?", False),
        ("What does base**exp print?", "What does base exp print?", False),
        ("What does x ** y print?", "What does x y print?", False),
        ("What does **bold** mean here?", "What does bold mean here?", True),
        ("安娜有几个苹果在篮子里？", "安娜有几个红苹果在篮子里？", False),
        ("Where does the river begin?", "Where does the rievr begin?", True),
        ("Where does the river begin?", "Where does the rivver begin, please?", True),
        ("How do I receive a letter here?", "How do I recieve the letter here?", True),
        ("Where does the river begin?", "Hi there! Could you please tell me: where does the river begin?", True),
        ("Where does the river begin?", "Where does the river begin? Thanks in advance!", True),
        ("Where does the river begin?", "Tell me where the river does begin.", False),
        ("Write a letter to the town.", "Could you please write a letter to the town? Thank you so much!", True),
        ("If it rains all day, where does Una go?", "Where does Una go if it rains all day?", True),
        ("Nils has 5 pears. How many of 12 are left?", "How many of 12 are left? Nils has 5 pears.", True),
        ("安娜有几个苹果在篮子里？", "请问安娜有几个苹果在篮子里？谢谢！", True),
    ],
)  # fmt: skip
def test_what_says_something_makes_another_row_and_nothing_else_does(tmp_path, said, one, other, near):
    for name, pair in (("one", (one, other)), ("other", (other, one))):
        (tmp_path / name).mkdir()
        rows = [chat(text, said) for text in pair]
        assert cleaned(tmp_path / name, rows)[0] == ([0] if near else [0, 1])


def test_of_two_spellings_that_other_rows_have_each_is_a_word(tmp_path):
    rows = [chat(f"Where is the {word} of Kelso?", "In the north.") for word in ("trial", "trail")]
    others = [
        chat(f"Was the {word} long, do you think?", said) for word, said in (("trial", "Yes"), ("trail", "So so"))
    ]
    assert cleaned(tmp_path, rows)[0] == [0]
    assert cleaned(tmp_path, [*rows, others[0]])[0] == [0, 2]
    assert cleaned(tmp_path, [*rows, *others])[0] == [0, 1, 2, 3]


def test_a_typing_error_in_the_response_says_nothing_else(tmp_path):
    said = SAID.format("Yes", "B", "")
    rows = [
        chat("Is it sound?", said),
        chat("Is it sound?", said.replace("bridge", "brigde").replace("since", "sicne")),
    ]
    assert cleaned(tmp_path, rows)[0] == [0]
    parts = ["Una eats pears", "Nils eats plums"]
    halves = [chat("Is it sound?", f"{', '.join(order)}.") for order in (parts, parts[::-1])]
    assert cleaned(tmp_path, halves)[0] == [0, 1]


def test_documents_that_differ_in_a_word_are_near_duplicates(tmp_path):
    texts = [f"{PASSAGE} {ASKED.format(kind, 'old')}" for kind in ("formal", "informal")]
    rows = [{"messages": [{"role": "document", "content": text}], "answer": None} for text in texts]
    assert cleaned(tmp_path, rows)[0] == [0]


def test_numbers_can_be_ignored(tmp_path):
    assert difference.telling(["5"], with_numbers=False) == difference.telling([]) == []
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


PASSAGE = " ".join(f"word{chr(97 + i // 26)}{chr(97 + i % 26)}{'.' * (i % 10 == 9)}" for i in range(300))
LABELS = ", ".join(f"label_{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(77))
MESSAGES = ["My card has not come yet.", "I lost my card on a trip.", "Can I get a second card?", "Why is there a fee?"]
REFUSAL = "I am sorry, but I cannot help with that, for it could hurt people. Is there something else that I can do?"
IDENTITY = "I am Lumen, an assistant made by the people of Umber, and I am here to answer questions as well as I can."
WRAPPED = (
    "Below is an instruction that describes a task. Write a response that completes it.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
ORDERED = (
    "On a shelf, there are five books: a red book, a green book, a blue book, a white book, and a black book. The red"
    " book is to the {} of the green book. The blue book is the second from the left. Which book is the leftmost?"
)


@pytest.mark.parametrize(
    "rows",
    [
        [chat(f"Choose the intent of the message, one of {LABELS}.\n\nMessage: {m}", "label_aa") for m in MESSAGES],
        [chat(f"Choose the intent of the message, one of {LABELS}, of {m}", "label_aa") for m in MESSAGES],
        [chat(m, "label_aa", system=f"Choose one of {LABELS}.") for m in ["Hi", "Hi there", *MESSAGES]],
        [chat(f"判断下面这句话的情感，只回答一个词：{m}", "积极") for m in ("菜很好吃。", "菜很好看。", "服务很好。")],
        [chat(f"{PASSAGE}\nDid Mara {what} pears?", "yes") for what in ("buy the", "sell the", "buy no")],
        [chat(f"{PASSAGE} Is Kelso {a} than Umber, as the text says?", "no") for a in ("larger", "older")],
        [chat(f"{PASSAGE} {q}?", IDENTITY) for q in ("Who wrote it", "Who found it")],
        [chat(q, IDENTITY) for q in ("Who are you?", "What is your name?", "Who made you?", "Are you a person?")],
        [chat(WRAPPED.format(q), IDENTITY) for q in ("Who are you?", "What is your name?", "Who made you?")],
        [chat(f"How do I {q}?", REFUSAL) for q in ("open a lock", "steal a car", "forge a letter", "cheat in a test")],
        [chat(ORDERED.format(side), "(B)") for side in ("left", "right")],
        [chat(q, "False") for q in ("not ( True ) and ( True ) is", "not ( True and True ) is")],
        [chat("Hi", "Hello", q, "Yes") for q in ("Is it far?", "Is it near?")],
    ],
)  # fmt: skip
def test_distinct_rows_that_share_most_of_their_text_stay(tmp_path, rows):
    """However few they are: what many rows share and what two share are told from what is asked in other ways."""
    assert cleaned(tmp_path, rows, short_answer_words=5)[0] == list(range(len(rows)))


def test_text_that_many_rows_share_is_nobody_s_own(tmp_path):
    """A template around one word that is a row's own, and two rows that are near in spite of it."""
    frame = "The {0} that you ask about is an old thing of the town of Umber, and {0} is the name of a street there."
    question = "Tell me in a sentence or two all that you know of this thing in the town of Umber, which I saw: {}."
    names = [f"{a}{b}{c}{d}" for a in "bdfgk" for b in "aeiou" for c in "lm" for d in "aeiou"]
    rows = [chat(question.format(name), frame.format(name)) for name in names]
    rows.append(chat(f"{question.format(names[3]).replace('town', 'twon')} Thank you!", frame.format(names[3])))
    kept, quarantined = cleaned(tmp_path, rows)
    assert kept == list(range(250))
    assert quarantined[250][1].split(",")[0] == "a:3"


def test_rows_of_one_template_take_time_in_proportion_to_their_number(tmp_path):
    """What is compared is counted: each row with those of its own text, and none with all."""
    rng, compared = Random(0), []
    words_of = [f"{a}{b}{c}{d}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst" for d in "aeiou"]
    common = " ".join(rng.choices(words_of, k=40))
    prompts = [f"{common} {' '.join(rng.choices(words_of, k=10))}" for _ in range(400)]
    answers = [" ".join([*common.split()[:20], *rng.choices(words_of, k=8)]) for _ in range(400)]
    rows = [chat(prompt, said) for prompt, said in zip(prompts, answers, strict=True)]
    rows += [chat(f"{prompts[i]}, please", answers[i]) for i in (3, 350)]
    similarity = near.Conversations.similarity
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near.Conversations, "similarity", lambda *args: compared.append(1) or similarity(*args))
        kept, quarantined = cleaned(tmp_path, rows)
    assert kept == list(range(400))
    assert [quarantined[row][1].split(",")[0] for row in (400, 401)] == ["a:3", "a:350"]
    assert len(compared) < 400


def test_what_a_row_has_beside_its_text_tells_it_apart(tmp_path):
    tool = {"name": "weather", "parameters": {}}
    rows = [
        chat(LONG, WORKED, answer="42"),
        chat(LONG, WORKED, answer="42", tools=[tool]),
        chat(LONG, WORKED, answer="42", rejected="#### 41"),
        chat(LONG, WORKED, answer="42", rejected="#### 40"),
        chat(LONG, WORKED, answer="42", system="Answer in verse."),
    ]
    thought = chat(LONG, WORKED, answer="42")
    thought["messages"][1]["thinking"] = "12 and 30 are pears, and so the sum of them are pears too."
    shown = chat("Hi", "Hello there", LONG, WORKED, answer="42")
    hidden = json.loads(json.dumps(shown))
    hidden["messages"][1]["train"] = False
    call = chat("What is the weather in Kelso?", "")
    call["messages"][1]["tool_calls"] = [{"name": "weather", "arguments": {"city": "Kelso"}}]
    other = json.loads(json.dumps(call).replace('"city": "Kelso"', '"city": "Umber"'))
    rows += [thought, shown, hidden, call, other]
    assert cleaned(tmp_path, rows)[0] == list(range(10))


def test_prompts_without_a_response_and_documents(tmp_path):
    document = {"messages": [{"role": "document", "content": f"{PASSAGE} {LONG}"}], "answer": None}
    longer = {"messages": [{"role": "document", "content": f"{PASSAGE} {LONG} End."}], "answer": None}
    prompts = [
        chat(LONG, answer="42"),
        chat(f"Please solve: {LONG}", answer="42"),
        chat("Where is Una?", answer="Kelso"),
    ]
    asked_twice = [chat("What is 12 + 7?", answer="19"), chat("What is 12 + 7?", answer="20")]
    short = [{"messages": [{"role": "document", "content": text}], "answer": None} for text in ("Una.", "Nils.")]
    kept, quarantined = cleaned(tmp_path, [document, *prompts, longer, *asked_twice, *short])
    assert kept == [0, 1, 3, 7, 8]
    assert {row: reason for row, (reason, _) in quarantined.items()} == {
        2: "near_duplicate",
        4: "near_duplicate",
        5: "contradiction",
        6: "contradiction",
    }


def test_an_answer_is_what_is_said_after_thinking(tmp_path):
    rows = [chat("Where does Una live?", city) for city in ("Kelso", "Umber")]
    for row in rows:
        row["messages"][1]["thinking"] = "She was born by the sea, and she has stayed in the town where she was born."
    calls = [chat("What is the weather?", "") for _ in range(2)]
    for row, city in zip(calls, ("Kelso", "Umber"), strict=True):
        row["messages"][1]["tool_calls"] = [{"name": "weather", "arguments": {"city": city}}]
    kept, quarantined = cleaned(tmp_path, [*rows, *calls], short_answer_words=9)
    assert kept == [2, 3]
    assert quarantined == {0: ("contradiction", "a:1"), 1: ("contradiction", "a:0")}


def test_a_system_prompt_does_not_make_case_count(tmp_path):
    rows = [chat(text, "Kelso", system="You are a Guide.") for text in ("Where does Una live?", "where does una live")]
    assert cleaned(tmp_path, rows)[0] == [0]


def test_rows_that_differ_in_the_case_of_one_word_are_near(tmp_path):
    rows = [chat(LONG, WORKED, answer="42"), chat(LONG, WORKED.replace("o", "O", 1), answer="42")]
    assert rows[0] != rows[1]
    found, quarantined = cleaned(tmp_path, rows)
    assert found == [0] and quarantined[1][0] == "near_duplicate"


def test_a_source_may_keep_its_near_duplicates_or_its_contradictions(tmp_path):
    fruit = [chat("Name a fruit.", name) for name in ("Fig", "Plum")]
    again = [chat(f"{start} {LONG}", WORKED, answer="42") for start in ("Here is a question.", "Think about this one.")]
    rows = [chat(LONG, WORKED, answer="42"), *(row | {"file": "b.json"} for row in again + fruit), fruit[0]]
    assert cleaned(tmp_path, rows)[0] == [0]
    own = {"b.json": {"near_duplicates": False, "contradictions": False}}
    assert cleaned(tmp_path, rows, sources=own)[0] == [0, 1, 2, 3, 4]
    assert cleaned(tmp_path, rows, sources={"b.json": {"contradictions": False}})[0] == [0, 3, 4]
    assert cleaned(tmp_path, rows, sources={"b.json": {"near_duplicates": False}})[0] == [0, 1, 2]


def test_texts_without_spaces_are_compared_by_characters(tmp_path):
    text = "安娜有十二个苹果，又在市场上买了五个苹果。现在她一共有多少个苹果？请给出答案。"
    rows = [
        chat(text, "一共有十七个苹果。"),
        chat("请问：" + text, "一共有十七个苹果。"),
        chat("今天的天气怎么样？", "很好。"),
    ]
    assert cleaned(tmp_path, rows)[0] == [0, 2]


def variants(rng: Random, count: int) -> list[dict]:
    """Rows of which many are copies of earlier ones, some with a word added or left out, an error or halves that
    changed places."""
    vocabulary = [f"{a}{b}{c}{d}" for a in "bdfgk" for b in "aeiou" for c in ("lm", "rst") for d in ("ona", "ebu")]
    rows: list[dict] = []
    for _ in range(count):
        if rows and rng.random() < 0.6:
            source = rng.choice(rows)
            words, response = source["messages"][0]["content"].split(), source["messages"][1]["content"]
            kind, at = rng.randrange(4), rng.randrange(len(words) - 1)
            if kind == 0:
                words.insert(at, rng.choice(["please", "the", rng.choice(vocabulary)]))
            if kind == 1 and len(words[at]) > 5:
                words[at] = f"{words[at][:2]}{words[at][3]}{words[at][2]}{words[at][4:]}"
            if kind == 2:
                words[at] = rng.choice(vocabulary)
            if kind == 3 and (mark := next((i for i, word in enumerate(words) if word.endswith(",")), 0)):
                words = [*words[mark + 1 :], *words[: mark + 1]]
            rows.append(chat(" ".join(words), response))
        else:
            words = rng.choices(vocabulary, k=12)
            words[rng.randint(4, 8)] += ","
            rows.append(chat(" ".join(words), " ".join(rng.choices(vocabulary, k=8))))
    return rows


def same_words(one: list[str], other: list[str], had: Counter) -> bool:
    """Place by place; an error is two neighbours within a word that changed places."""

    def errs(a: str, b: str) -> bool:
        swapped = {f"{a[:i]}{a[i + 1]}{a[i]}{a[i + 2 :]}" for i in range(1, len(a) - 2)}
        return b in swapped and not (had[a] > 1 and had[b] > 1)

    return len(one) == len(other) and all(a == b or errs(a, b) for a, b in zip(one, other, strict=True))


def reference(rows: list[dict]) -> set[int]:
    """All pairs: the rows that an earlier row that stays says the same as."""
    texts = [[turn["content"].split() for turn in row["messages"]] for row in rows]
    had = Counter(word for said in {str(text): text for text in texts}.values() for word in {
        word.strip(",") for words in said for word in words
    })  # fmt: skip
    idle = ("please", "the")
    asked = [[word for word in text[0] if word.strip(",") not in idle] for text in texts]

    def says_the_same(a: int, b: int) -> bool:
        one, other = ([word.strip(",") for word in asked[i]] for i in (a, b))
        ends = {i + 1 for i, word in enumerate(asked[a]) if word.endswith(",")}
        starts = {len(other) - i - 1 for i, word in enumerate(asked[b]) if word.endswith(",")}
        turns = [at for at in ends | starts if 3 <= at <= len(one) - 3]
        ways = [one, *([*one[at:], *one[:at]] for at in turns)]
        return texts[a][1] == texts[b][1] and any(same_words(way, other, had) for way in ways)

    stay: list[int] = []
    for i in range(len(rows)):
        if not any(says_the_same(j, i) for j in stay):
            stay.append(i)
    return set(range(len(rows))) - set(stay)


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(tmp_path):
    rows = variants(Random(1), 400)
    kept, _ = cleaned(tmp_path, rows)
    expected = reference(rows)
    assert 40 < len(expected) < 300
    assert expected == set(range(400)) - set(kept)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_near_documents_are_those_of_a_comparison_of_all_pairs(tmp_path, threshold):
    rng, texts = Random(1), list[list[str]]()
    vocabulary = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]
    for _ in range(300):
        words = [*rng.choice(texts)] if texts and rng.random() < 0.6 else rng.choices(vocabulary, k=30)
        for _ in range(rng.randint(0, 3)):
            words[rng.randrange(len(words))] = rng.choice(vocabulary)
        texts.append(words)
    rows = [{"messages": [{"role": "document", "content": " ".join(words)}], "answer": None} for words in texts]
    sets = [{tuple(words[i : i + 3]) for i in range(len(words) - 2)} for words in texts]
    owners = Counter(run for own in {" ".join(w): s for w, s in zip(texts, sets, strict=True)}.values() for run in own)
    stay: list[int] = []
    for i, own in enumerate(sets):
        agree = [{run for run in own & sets[j] if owners[run] <= shingles.MOST_OWNERS} for j in stay]
        alike = [len(a) / (len(a) + len(own ^ sets[j])) for a, j in zip(agree, stay, strict=True) if a]
        if texts[i] not in [texts[j] for j in stay] and max(alike, default=0) < threshold:
            stay.append(i)
    assert 30 < 300 - len(stay) < 250
    assert cleaned(tmp_path, rows, threshold=threshold)[0] == stay


def test_texts_without_words_are_near_to_nothing(tmp_path):
    assert cleaned(tmp_path, [chat("🙂🙂", "🙃"), chat("🐟🐟", "🐠"), chat("…", "?!")])[0] == [0, 1, 2]


def test_no_rows(tmp_path):
    assert cleaned(tmp_path, []) == ([], {})


def test_where_nothing_is_kept_the_step_ends(tmp_path):
    rows = [chat("Where does Una live?", city) for city in ("Kelso", "Umber")]
    with pytest.raises(ValueError, match=r"rows.jsonl: dedup keeps none of 2 rows .*'contradiction': 2"):
        cleaned(tmp_path, rows)
    assert [record["row"] for record in read_jsonl(tmp_path / "out" / "refused.jsonl")] == [0, 1]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_equal_runs_write_equal_files(tmp_path):
    rows = variants(Random(2), 100)
    contents = []
    for _ in range(2):
        cleaned(tmp_path, rows)
        contents.append(
            {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.name != "provenance.json"}
        )
    assert contents[0] == contents[1]


@pytest.mark.parametrize("must", [True, False])
def test_a_tool_that_says_nothing_is_compared_too(tmp_path, must):
    called = [{"name": "sh", "arguments": {}}]
    turns = [
        {"role": "user", "content": "Remove a.txt please."},
        {"role": "assistant", "content": "", "tool_calls": called},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "The file is removed."},
    ]
    rows = [{"messages": turns, "answer": None}, chat("What is it?", "It is a file of text.")]
    assert cleaned(tmp_path, rows, numbers_must_match=must)[0] == [0, 1]


@pytest.mark.parametrize("own", [{"rejected": "Sky"}, {"check": {"kind": "word_count", "words": ["cat"], "count": 1}}])
def test_several_responses_that_are_preferred_or_keep_a_constraint_contradict_nothing(tmp_path, own):
    rows = [chat("Name a fruit.", fruit, **own) for fruit in ("Apple", "Cherry")]
    assert cleaned(tmp_path, rows)[0] == [0, 1]


def test_responses_with_other_numbers_are_no_near_duplicates(tmp_path):
    said = "In the year of the report the company had a revenue of {} million and more staff than in the year before."
    rows = [chat("Sum up the report of the company for me.", said.format(n)) for n in (12, 99)]
    assert cleaned(tmp_path, rows)[0] == [0, 1]
    assert cleaned(tmp_path, rows, numbers_must_match=False)[0] == [0]


# --- several processes, long rows ----------------------------------------------------------------


def test_several_processes_decide_the_same(tmp_path, monkeypatch):
    rng = Random(0)
    vocabulary = ["".join(rng.choices("abcdefgh", k=6)) for _ in range(300)]
    rows: list[tuple[str, str]] = []
    for i in range(300):
        words = rng.choices(vocabulary, k=20)
        rows.append((" ".join(words) + "?", " ".join(rng.choices(vocabulary, k=20))))
        if i % 5 == 0:
            rows.append((f"Please solve this: {rows[-1][0]}", rows[-1][1] if i % 10 else "7"))
    for module in ("rows", "dedup"):
        monkeypatch.setattr(f"steps.data.{module}.CHUNK_BYTES", 3000)
    write_jsonl(
        tmp_path / "rows.jsonl",
        (
            {"id": f"a:{i}", "file": "a.jsonl", "line": i + 1, "row": i, "answer": None}
            | {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": told}]}
            for i, (asked, told) in enumerate(rows)
        ),
    )
    made = []
    for cores in (1, 2):
        out = tmp_path / str(cores)
        dedup.main(Namespace(settings=SETTINGS, input=tmp_path / "rows.jsonl", out=out, cores=cores))
        made.append([(out / name).read_bytes() for name in ("rows.jsonl", "quarantine.jsonl", "manifest.json")])
    assert made[0] == made[1] and made[0][1].count(b"\n") >= 30


def test_rows_that_are_compared_are_kept_by_their_length(monkeypatch):
    monkeypatch.setattr(near, "MOST_HELD", 16 << 10)
    read: list[int] = []

    def texts_at(row):
        read.append(row)
        return ["a b c " * (1 << 10 if row else 1)]

    rows = near.Held(texts_at, len)
    for row in (0, 1, 2, 1, 0):
        assert rows[row] == [6 if row == 0 else 6 << 10]
    assert read == [0, 1, 2]
    for row in (3, 4, 5, 1):
        rows[row]
    assert read == [0, 1, 2, 3, 4, 5, 1]
