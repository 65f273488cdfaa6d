"""What a wrong setting is told: one line that begins with the place, in words of the project."""

import copy

import pytest

from steps.settings.errors import check, meant
from steps.settings.params import SECTIONS, Params
from tests.graph.test_recipes import PARAMS, overlaid

WRONG = ["x", "2e-4", True, -1, 1.5, float("nan"), None, [], {}, ["a", "a"], {"kind": "x"}, {"zzz": 1}]


def line(of, value, where="") -> str:
    with pytest.raises(ValueError) as caught:
        check(of, value, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


@pytest.mark.parametrize("section", SECTIONS)
def test_whatever_is_wrong_is_one_line_in_our_words(section):
    refused = 0
    for path in places(PARAMS[section]):
        for wrong in WRONG if path else ():
            params = copy.deepcopy(PARAMS[section])
            folder = params
            for key in path[:-1]:
                folder = folder[key]
            folder[path[-1]] = wrong
            try:
                check(SECTIONS[section], params, section)
            except ValueError as error:
                message, refused = str(error), refused + 1
                assert message.startswith(f"{section}.{path[0]}"), message
                assert "\n" not in message and not {"Input", "pydantic", "Value"} & {*message.split()}, message
    assert refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"studies": {"a-b": {"recipes": {"x": {"stage": "sft", "from": "base"}}}}},
            "studies.a-b: 'a-b' does not match",
        ),
        (
            {"studies": {"foundation": {"recipes": {"sft": {"from": 3}}}}},
            "recipes.sft.from: needs text or a list, not 3",
        ),
        ({"rl": {"sampler": {"kind": "vllm"}}}, "rl.sampler: the key `mode` is missing"),
        ({"rl": {"sampler": {"kind": "vllm", "mode": "server", "memory": 0.3}}}, "rl.sampler"),
        (
            {"rl": {"rewards": {"answer": {"kind": "anser"}}}},
            "rl.rewards.answer.kind: 'anser' is none of: answer, custom",
        ),
        ({"launch": {"zzz": 1}}, "launch.zzz: unknown key; known keys: kind, processes"),
        ({"explore": {"resamples": 1000}}, "explore.resamples: is gone, for the intervals need no bootstrap; remove"),
        (
            {"sft": {"adapter": {"kind": "lora", "r": 8, "alpha": 8, "target_modules": "all"}}},
            "sft.adapter.target_modules",
        ),
        ({"forecast": {"prefixes": [0.5, 0.5]}}, "forecast.prefixes: [0.5, 0.5] has 0.5 twice; write it once"),
        ({"filter": {"language": "xx"}}, "filter.language: 'xx' is none of: null, en, de"),
        ({"sft": {"batch_size": 2.0}}, "sft.batch_size: needs an integer, not 2.0"),
        ({"seeds": ["0"]}, "seeds[0]: needs an integer, not '0'; YAML reads that as text, write 0"),
    ],
)
def test_the_line_names_place_value_and_fix(change, words):
    assert words in line(Params, overlaid(PARAMS, change))


def test_what_is_no_finite_number_is_not_asked_for():
    for text in ("nan", "inf", "1e999"):
        message = line(Params, overlaid(PARAMS, {"sft": {"learning_rate": text}}))
        assert message.endswith(f"needs a number, not {text!r}")


def test_a_long_list_of_names_is_cut():
    assert len(meant("zzz", [f"recipe_{i}" for i in range(1000)])) < 1000


def test_two_values_of_a_grid_that_python_takes_for_one():
    recipe = {"stage": "sft", "from": "base", "data": "problems", "grid": {"packing": [True, False], "epochs": [1, 2]}}
    check(Params, overlaid(PARAMS, {"studies": {"foundation": {"recipes": {"g": recipe}}}}))
