"""What a step is asked: its settings as an argument, and what of its command counts."""

import json
import random

import pytest

from steps.core import asked as asking
from steps.core.asked import Asked, asked


@pytest.mark.parametrize("size", [0, 1, asking.LONGEST_ARGUMENT])
def test_settings_pass_as_an_argument_that_linux_takes(size):
    draw = random.Random(0)
    settings = {"é": [draw.randrange(10) for _ in range(size)], "a": None}
    text = asking.as_argument(settings)
    assert asking.from_argument(text) == settings
    assert len(text) <= asking.LONGEST_ARGUMENT < 128 * 1024
    assert text.startswith("{") == (size <= 1)
    assert asking.as_argument(dict(reversed(settings.items()))) == text


def test_settings_as_long_as_the_limit_are_still_readable():
    settings = {"a": "x" * (asking.LONGEST_ARGUMENT - len('{"a": ""}'))}
    assert asking.as_argument(settings) == json.dumps(settings)
    assert not asking.as_argument(settings | {"a": settings["a"] + "x"}).startswith("{")


def test_places_are_not_asked_for():
    words = ["python", "-m", "steps.a.b", "--settings", '{"x": 1}', "--data", "d", "--out", "o", "--work", "w"]
    others = ["python", "-u", "-m", "steps.a.b", "--settings", '{"x": 1}', "--data", "d", "--out", "p", "--logs", "l"]
    assert asked(words) == asked(others) == Asked("steps.a.b", {"x": 1}, ("--data", "d"))
    assert asked(words).digest == asked(others).digest
    assert asked([*words, "--more"]).digest != asked(words).digest
    assert asked(["python", "-m", "steps.a.b"]) is None
    assert asked(["python", "-c", "x", "--settings", "{}", "--out", "o"]) is None
    assert asked([*words, "--treatment", '{"y": 2}']).told() == {"x": 1, "treatment": {"y": 2}}


def test_an_option_with_its_value_in_one_word_is_the_same():
    apart = ["python", "-m", "steps.a.b", "--settings", '{"x": "=--y="}', "--data", "d=e", "--keep", "--out", "o"]
    joined = ["python", "-m", "steps.a.b", '--settings={"x": "=--y="}', "--data=d=e", "--keep", "--out=p", "--work=w"]
    assert asked(joined) == asked(apart) == Asked("steps.a.b", {"x": "=--y="}, ("--data", "d=e", "--keep"))


def test_the_order_of_settings_and_a_command_without_its_interpreter_ask_the_same():
    one = asked(["steps.a.b", "--settings", '{"x": 1, "y": {"a": 1, "b": 2}}'])
    other = asked(["python", "-m", "steps.a.b", "--settings", '{"y": {"b": 2, "a": 1}, "x": 1}'])
    assert one is not None and one == other and one.digest == other.digest
    assert asked(["--settings", "{}"]) is None and asked(["--settings", "{}", "steps.a.b"]) is None
    assert asked(["steps.a.b", "--settings"]) is None
