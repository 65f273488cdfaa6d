"""What of a model's text a person is shown, also of one that was built to take long."""

import pytest

from steps.core.text import plain_prompt, shorten, visible
from tests.bounds import within


def test_the_last_turn_of_the_user_is_the_prompt():
    first, last = ("<|im_start|>user\none\ntwo<|im_end|>\n", "<|im_start|>user\nthree<|im_end|>\n")
    assert plain_prompt(first + last + "<|im_start|>assistant\n") == "three"
    assert plain_prompt(first) == "one\ntwo"
    assert plain_prompt("no turns") == "no turns"


def test_a_text_of_the_limit_is_whole_and_a_longer_one_says_how_much_is_left():
    assert shorten("abcde", 5) == "abcde"
    assert shorten("abcdef", 5) == "abcde … [1 more characters]"
    assert shorten("abcdef", 5, end=True) == "[1 characters before] … bcdef"
    assert shorten("x" * 2000, 1) == "x … [1,999 more characters]"


def test_what_does_not_print_is_shown_by_its_number():
    assert visible("é\n\t5") == "é\n\t5"
    assert visible("a\u202eb\u0007") == "a⟨U+202E⟩b⟨U+0007⟩"
    assert visible(5) == "5"


# --- turns ---

USER, END = "<|im_start|>user\n", "<|im_end|>"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("no turns", "no turns"),
        (f"{USER}a{END}\n{USER}b{END}\n<|im_start|>assistant\n", "b"),
        (f"<|im_start|>system\ns{END}<|im_start|>assistant\nno{END}", "s"),
        (f"{USER}a{END}{USER}open", "a"),
        (f"{USER}a {USER}b{END}", f"a {USER}b"),
        (f"{USER}open", f"{USER}open"),
        (f"{USER}{END}", ""),
    ],
)
def test_the_last_turn_that_is_closed(prompt, expected):
    assert plain_prompt(prompt) == expected


@pytest.mark.parametrize("prompt", [USER * 60_000, f"{USER}{END}" * 40_000 + USER * 40_000])
def test_marks_without_end(prompt):
    with within(5):
        plain_prompt(prompt)
