"""Length, language and quality against texts written by hand in ten languages."""

from argparse import Namespace

import pytest

from steps import filter
from steps.common import read_json, read_jsonl, write_jsonl
from steps.rows import RowProblem

SETTINGS = {
    "language": "en",
    "min_prompt_chars": 5,
    "max_prompt_chars": 400,
    "min_response_chars": 1,
    "max_response_chars": 400,
    "max_repetition": 0.6,
}


def row(prompt="How many plums are left in the bag?", response="3 plums are left.", **keys):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {"id": "a:0", "messages": messages, "answer": None, "file": "a.json", "line": 1, "row": 0} | keys


def reason(given, **settings):
    """The reason a row is quarantined for, with its column; None when it stays."""
    try:
        filter.check(given, SETTINGS | settings)
    except RowProblem as problem:
        return problem.reason, problem.column
    return None


def test_a_plain_row_stays():
    assert reason(row()) is None


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("a" * 4, "b", "too_short"),
        ("a b c", "b", None),
        ("it is " * 66 + "abcd", "b", None),
        ("it is " * 66 + "abcde", "b", "too_long"),
        ("abcde", "the " * 101, "too_long"),
    ],
)
def test_the_limits_are_inclusive(prompt, response, expected):
    found = reason(row(prompt, response), max_repetition=1.0)
    assert found == (None if expected is None else (expected, "messages"))


def test_all_turns_of_a_role_count():
    chat = row()["messages"] * 2
    assert reason({"messages": chat}, max_prompt_chars=69)[0] == "too_long"
    assert reason({"messages": chat}, max_prompt_chars=70) is None


FOREIGN = {
    "de": "Anna hat 12 Äpfel und kauft auf dem Markt noch 5. Wie viele Äpfel sind es jetzt?",
    "es": "Ana tiene doce manzanas y compra cinco más. ¿Cuántas manzanas tiene ahora?",
    "fr": "Anne a douze pommes et elle achète cinq pommes de plus. Combien de pommes a-t-elle dans le panier ?",
    "it": "Anna ha dodici mele e ne compra altre cinque. Quante mele ha in tutto nel cesto?",
    "pt": "A Ana tem doze maçãs e compra mais cinco. Com quantas maçãs ela fica agora?",
    "nl": "Anna heeft twaalf appels en koopt er nog vijf op de markt. Hoeveel appels heeft ze nu?",
    "pl": "Anna ma dwanaście jabłek i kupuje jeszcze pięć. Ile jabłek ma teraz?",
    "sv": "Anna har tolv äpplen och köper fem till. Hur många äpplen har hon nu?",
    "tr": "Ayşe'nin on iki elması var ve beş tane daha alıyor. Şimdi kaç elması var?",
    "ru": "У Анны двенадцать яблок, и она покупает ещё пять. Сколько яблок у неё теперь?",
    "zh": "安娜有十二个苹果，又买了五个。现在一共有多少个苹果？",
    "ja": "アンナはりんごを十二個持っていて、さらに五個買います。",
    "ko": "안나는 사과 열두 개를 가지고 있습니다. 지금 몇 개입니까?",
    "ar": "لدى آنا اثنتا عشرة تفاحة واشترت خمس تفاحات أخرى.",
    "el": "Η Άννα έχει δώδεκα μήλα και αγοράζει άλλα πέντε.",
    "he": "לאנה יש שנים עשר תפוחים והיא קונה עוד חמישה.",
    "hi": "अन्ना के पास बारह सेब हैं और वह पाँच और खरीदती है।",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_not_english_and_are_their_own(language):
    text = FOREIGN[language]
    assert reason(row(prompt=text)) == ("wrong_language", "messages[0].content")
    assert reason(row(response=text)) == ("wrong_language", "messages[1].content")
    assert reason(row(text, text), language=language) is None
    assert reason(row(text, text), language=None) is None


@pytest.mark.parametrize("language", FOREIGN)
def test_english_is_not_another_language(language):
    english = "Anna has twelve apples and buys five more at the market. How many apples does she have now?"
    assert reason(row(english, english), language=language)[0] == "wrong_language"


@pytest.mark.parametrize(
    "text",
    [
        "Una Nils has 12 pears. Then Una gives 5 to Sten. How many pears does Una have now?",
        "Reverse the letters: e l a o y",
        "What is the capital of Côte d'Ivoire, and who is El Niño?",
        "x + y = 7, 2x - y = 5",
        "def f(x):\n    return [i ** 2 for i in range(x)]",
        "Say 你好 to Anna and Ольга at the door.",
        "3 * 4 = 12\n#### 12",
        "¿?!",
    ],
)
def test_names_formulas_code_and_quotations_are_not_another_language(text):
    assert reason(row(prompt=text), min_prompt_chars=1) is None


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("ha " * 60, True),
        ("ha " * 20, False),  # short texts may repeat
        ("I do not know. " * 20, True),
        ("The price is 3.\x00", True),
        ("It\x1b[31m is red.", True),
        ("a tab\tand\r\na line", False),
        ("The caf\ufffd is shut.", True),
        ("a" * 20, True),
        ("a" * 19, False),
        ("1" + "0" * 60 + " is a large number.", False),
        ("|----------------------|\n| one | two | three |", False),
    ],
)
def test_quality(text, low):
    assert (reason(row(response=text)) is not None) == low
    if low:
        assert reason(row(response=text)) == ("low_quality", "messages[1].content")


def test_the_share_of_repeated_trigrams():
    tokens = list("abcdefghij") * 4
    # 38 trigrams, of which ten are different.
    assert filter.repetition(tokens) == pytest.approx(28 / 38)
    assert filter.repetition(tokens[:29]) == 0


def run(tmp_path, rows, **settings):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    filter.main(Namespace(settings=SETTINGS | settings, input=tmp_path / "rows.jsonl", out=tmp_path / "out"))


def test_the_step_accounts_for_every_row(tmp_path):
    rows = [row(id="a:0"), row(prompt="x", id="a:1", row=1), row(id="b:0", file="b.json")]
    run(tmp_path, rows)
    assert list(read_jsonl(tmp_path / "out" / "rows.jsonl")) == [rows[0], rows[2]]
    (quarantined,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert (quarantined["id"], quarantined["reason"], quarantined["step"]) == ("a:1", "too_short", "filter")
    assert quarantined["detail"] == "1 characters of the user, min_prompt_chars is 5"
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert counts == {
        "in": 3,
        "kept": 2,
        "quarantined": {"too_short": 1},
        "by_file": {
            "a.json": {"in": 2, "kept": 1, "quarantined": {"too_short": 1}},
            "b.json": {"in": 1, "kept": 1, "quarantined": {}},
        },
    }


def test_an_unknown_language_and_an_empty_result_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"filter.language is 'xx'; use null or one of en, de"):
        run(tmp_path, [row()], language="xx")
    with pytest.raises(ValueError, match="keeps none of 1 rows"):
        run(tmp_path, [row()], max_prompt_chars=6)
