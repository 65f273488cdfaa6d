"""Search and mentions in a library of a few documents, counted by hand."""

import pytest

from steps.core.files import write_jsonl
from steps.diagnosis.library import Library

TEXTS = [
    "Alda lives in Harrow. She is a baker.",
    "The home of Alda is in Harrow.",
    "Bemo lives in Harrow. Alda is his friend.",
    "Alda sings. alda Harrow",
    "Aldan lives in Harrow",
    "Mary Ann Lee lives in Port Ode.",
]


@pytest.fixture
def library(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS[:2]])
    write_jsonl(tmp_path / "b.jsonl", [{"text": text} for text in TEXTS[2:]])
    return Library([tmp_path / "a.jsonl", tmp_path / "b.jsonl"])


def test_texts_keep_the_order_of_the_files(library):
    assert library.texts == TEXTS


@pytest.mark.parametrize(
    ("entity", "value", "documents"),
    [
        ("Alda", "Harrow", 2),  # not 2 (two sentences), not 3 (small alda), not 4 (Aldan)
        ("Alda", "harrow", 2),
        ("alda", "Harrow", 3),  # without capitals of its own, with any
        ("Alda", "baker", 0),  # "She": another sentence
        ("Mary Ann Lee", "Port Ode", 1),
        ("Mary Ann", "Port", 1),
        ("Mary Lee", "Port Ode", 0),
        ("Nobody", "Harrow", 0),
        ("", "Harrow", 0),
        ("Alda", "", 0),
        ("Alda", "H.rrow", 0),
    ],
)
def test_mentions_are_documents_with_both_in_one_sentence(library, entity, value, documents):
    assert library.mentioning(entity, value) == documents


def test_search_finds_the_rare_word_first_and_leaves_out_what_shares_none(library):
    assert library.search("Bemo", 5)[0][0] == 2
    assert [i for i, _ in library.search("Where does Mary live?", 3)] == [5]
    assert library.search("unheard", 3) == []
    found = library.search("Alda lives in Harrow", 2)
    assert len(found) == 2 and found[0][1] >= found[1][1] > 0
    assert library.search(TEXTS[5], 1)[0] == (5, pytest.approx(1.0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing"),
        ("", "no document"),
        ('{"text": "..."}\n', "no document"),
        ('{"text": "a"}\nx\n', "line 2: not a document"),
        ('{"txt": "a"}\n', "line 1: not a document"),
    ],
)
def test_an_unusable_file_is_one_error(tmp_path, content, message):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        Library([path])


def test_no_file_is_an_empty_library():
    library = Library([])
    assert (library.texts, library.search("Alda", 3), library.mentioning("Alda", "Harrow")) == ([], [], 0)


def test_scripts_without_spaces_have_words_too(tmp_path):
    texts = ["安娜住在北京。他是面包师。", "安娜住在上海。", "小明住在北京。", "Anna住在北京"]
    write_jsonl(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    library = Library([tmp_path / "a.jsonl"])
    assert library.mentioning("安娜", "北京") == 1 == library.mentioning("Anna", "北京")
    assert library.mentioning("安娜", "面包师") == 0  # another sentence
    assert [index for index, _ in library.search("上海在哪里", 1)] == [1]
