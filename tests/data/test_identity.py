"""Texts that are the same although they are written otherwise, and texts that differ in a sign."""

import numpy as np
import pytest

from steps.data.identity import asked, fold, key_of, resolved, segments, tokens


def same(*texts: str) -> bool:
    """Whether all of some questions are the same."""
    keys = np.array([key_of(tokens(asked(text))) for text in texts], np.uint64)
    return len(np.unique(resolved(keys[:, 0], keys[:, 1]))) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who made C?", "Who made C#?"),
        ("Who made C?", "Who made C++?"),
        ("What is 5!?", "What is 5?"),
        ("What is n! for n = 3?", "What is n for n = 3?"),
        ("Round .5 up.", "Round 5 up."),
        ("How much is €5?", "How much is $5?"),
        ("How much is 5 %?", "How much is 5?"),
        ("Is p ∧ q true?", "Is p ∨ q true?"),
        ("Does p → q hold?", "Does p ↔ q hold?"),
        ("What is 2³?", "What is 23?"),
        ("Differentiate eˣ", "Differentiate ex"),
        ("What is 2ⁿ for n = 5?", "What is 2n for n = 5?"),
        ("What is uₙ?", "What is un?"),
        ("Is Aᵀ symmetric?", "Is AT symmetric?"),
        ("What is x²?", "What is x2?"),
        ("What is 10₂?", "What is 102?"),
        ("What is 3½?", "What is 31/2?"),
        ("What is a[0]?", "What is a(0)?"),
        ("What does get_user do?", "What does get user do?"),
        ("not ( True ) and ( True ) is", "not ( True and True ) is"),
        ("What is f'(2)?", "What is f(2)?"),
        ("What is f(1,2)?", "What is f(12)?"),
        ("What is |x|?", "What is x?"),
        ("What is ¬p?", "What is p?"),
        ("Where is Polish spoken?", "Where is polish spoken?"),
        ("What is the code of a?", "What is the code of A?"),
        ("what is the code of a", "What is the code of A?"),
        ("Reverse the word: abc", "Reverse the word: Abc"),
        ("reverse the word: abc", "reverse the word: Abc"),
        ("Mg", "mg"),
        ("What does 'please' mean?", "What does 'thanks' mean?"),
        ("Translate to French: the", "Translate to French: an"),
        ("Translate to French: thank you", "Translate to French: hello"),
        ('Print "a".', "Print a."),
        ("What does it print?\nfor x in y:\n  a()\n  b()", "What does it print?\nfor x in y:\n  a()\nb()"),
        ("What is 12 + 7?", "What is 12 - 7?"),
        ("हिन्दी में की", "हिन्दी में को"),
        ("কি খবর?", "কী খবর?"),
        ("Is 🙂 a face?", "Is 🙃 a face?"),
        ("Is re-sign a word?", "Is resign a word?"),
        ("Is '5.' a number?", "Is '5' a number?"),
        ("What does it print?\n# set it\nx = f(1)", "What does it print?\n# set it x = f(1)"),
        ("Run it:\n  a()\n  b()\nc()", "Run it:\n  a()\n  b() c()"),
        ("Run it: SELECT a, b FROM f(t)", "Run it: SELECT a b FROM f(t)"),
        ("Runde 1.250,5 und 1,250.", "Runde 1.250,5 und 1250."),
        ("Runde 1.250,5", "Runde 1.250"),
        ("Wie viel Gramm sind 1,250 kg?", "Wie viel Gramm sind 1.250 kg?"),
    ],
)
def test_questions_that_differ_in_a_sign(one, other):
    assert not same(one, other)


@pytest.mark.parametrize(
    "texts",
    [
        ("Run it:\n  a()\n\n  b()", "Run it: \n  a() \n  b()"),
        ("Wie viel ist 1.250,50 mal 2?", "Wie viel ist 1250.50 mal 2?"),
        ("Wie viel ist 1.250.000 mal 1.250?", "Wie viel ist 1250000 mal 1250?"),
        (
            "Mara has 12 pears, and buys 3. In all, how many are there?",
            "Mara has 12 pears and buys 3. In all how many are there",
        ),
        ("In which town does Una live?", "In which town does Una live"),
        ("Una lives in Kelso, does she?", "Una lives in Kelso, does she"),
        ("北京有什么？", "北京有什么"),
        ("Quelle est la capitale de la France ?", "Quelle est la capitale de la France"),
        ("2 + 2 = ?", "2 + 2 ="),
        ("Let f(x) = 2x + 1.\nFind f(3).", "Let f(x) = 2x + 1. Find f(3)."),
        ("A van der Waals gas at 1,250 kelvin", "A van der Waals gas at 1250 kelvin"),
    ],
)
def test_what_asks_without_its_mark_is_the_same(texts):
    assert same(*texts)


@pytest.mark.parametrize(
    "texts",
    [
        ("Where does Una live?", "where does una live", "where does Una live", "WHERE DOES UNA LIVE"),
        ("Where does Una live?", "Where  does Una\nlive", "Where does Una live?!"),
        ("Mara has 1,200 pears.", "Mara has 1200 pears"),
        ("Where does Una live?", "Please solve this problem: Where does Una live?", "Hello! Where does Una live?"),
        ("Where does Una live?", "Think about this one. Where does Una live?", "Please, where does Una live?"),
        ("Solve x−1 = 3.", "Solve x-1 = 3."),
        ("Why is it “red”?", 'Why is it "red"?'),
        ("ＡＢＣ 是什么？", "ABC 是什么"),
        ("安娜有几个苹果？", "请问：安娜有几个苹果？", "你好，请回答下面的问题。安娜有几个苹果"),
        ("安娜有几个苹果？", "下面是一个问题。安娜有几个苹果？", "能帮我解决这个问题吗？安娜有几个苹果？"),
        ("安娜有几个苹果？", "你好！我有一道题想问您。安娜有几个苹果？", "麻烦您仔细看看这道题：安娜有几个苹果？"),
        ("安娜有几个苹果？", "问题：安娜有几个苹果？", "请你先认真思考一下。安娜有几个苹果？"),
        ("安娜有几个苹果？", "谢谢。安娜有几个苹果？", "你好，安娜有几个苹果？"),
        ("What is 2³?", "What is 2^3?"),
    ],
)  # fmt: skip
def test_questions_that_are_the_same(texts):
    assert same(*texts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("认真：写出近义词", "仔细：写出近义词"),
        ("麻烦：写出近义词", "完成：写出近义词"),
        ("好：组词", "看：组词"),
        ("是：英文怎么说？", "有：英文怎么说？"),
        ("谢谢：用日语怎么说", "你好：用日语怎么说"),
        ("我能，你能吗？", "你能吗？"),
        ("我可以，你能帮我吗？", "你能帮我吗？"),
        ("我做完，他来。谁先？", "他来。谁先？"),
        ("先做题，再看答案。对吗？", "再看答案。对吗？"),
        ("你好看吗？他呢？", "他呢？"),
        ("一，二，三是什么？", "二，三是什么？"),
        ("問一：答えよ", "問二：答えよ"),
    ],
)
def test_a_chinese_clause_that_says_something_is_no_opening(one, other):
    assert not same(one, other)


def test_case_that_tells_questions_apart_leaves_none_that_is_both():
    assert not same("Where is Polish spoken?", "Where is polish spoken?", "where is polish spoken?")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Please", "Please"),
        ("Hi", "Hi"),
        ("Is this a problem?", "Is this a problem?"),
        ("Translate this: thanks", "Translate this: thanks"),
        ("Please translate: thanks", "translate: thanks"),
        ("The Beatles", "The Beatles"),
    ],
)
def test_an_opening_is_whole_clauses_and_never_all(text, expected):
    assert asked(text) == expected


def test_segments_are_sentences_lines_quotations_and_what_follows_a_colon():
    text = "Sort these: b a. Say 'yes' now!\nIt's 3.5 km"
    assert [" ".join(part) for part in segments(text)] == ["sort these", "b a", "say", "yes", "now", "it ' s 3.5 km"]


def test_folding_keeps_what_is_raised():
    assert fold("x²³ + ½ 3½ ﬁ ①") == "x^23 + 1/2 3 1/2 fi 1"
