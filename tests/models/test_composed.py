"""One template out of a model's own and what the settings say of it."""

import pytest

from steps.models import composed as module
from steps.models.composed import composed
from tests.fuzzed_chats import tokenizer_of

PLAIN = "{% for m in messages %}{{ '[' + m.role + ']' + m.content }}{% endfor %}"
ASKED = [{"role": "user", "content": "How many?"}]
TURN = [*ASKED, {"role": "assistant", "content": "42"}]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_of("fable")


def render(tokenizer, template: str, messages=ASKED, **told) -> str:
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **told)


@pytest.mark.parametrize("begin", ["", "\n", "\n\n", "  ", "  {% if true %}x{% endif %}\n", "x\n", "{{- 'y' }}\n"])
def test_what_stands_before_writes_nothing(tokenizer, begin):
    settings = {"template_kwargs": {"a": 1, "b": "x"}, "fold_system": True, "end_of_turn": "</s>", "system": "S"}
    with_system = [{"role": "system", "content": "S"}, *ASKED]
    plain = begin + PLAIN
    for key in settings:
        one = composed(plain, {key: settings[key]})
        messages = ASKED if key != "system" else with_system
        assert render(tokenizer, one, messages) == render(tokenizer, plain, messages), key
    assert composed(plain, {}) == plain


@pytest.mark.parametrize("value", [True, False, 3, 0.5, 1e-05, 'say "no"\n\\ {{ x }} %}', "日本 😀"])
def test_a_variable_is_what_was_written_unless_a_request_says_otherwise(tokenizer, value):
    template = composed("{{ mode == other }}|{{ mode }}", {"template_kwargs": {"mode": value}})
    assert render(tokenizer, template, other=value) == f"True|{value}"
    assert render(tokenizer, template, other=7, mode=7) == "True|7"


def test_a_system_turn_is_there_where_the_conversation_has_none(tokenizer):
    template = composed(PLAIN, {"system": "Be brief."})
    assert render(tokenizer, template) == "[system]Be brief.[user]How many?"
    own = [{"role": "system", "content": "Be long."}, *ASKED]
    assert render(tokenizer, template, own) == "[system]Be long.[user]How many?"
    folded = composed(PLAIN, {"system": "Be brief.", "fold_system": True})
    assert render(tokenizer, folded) == "[user]Be brief.\n\nHow many?"
    assert render(tokenizer, folded, own) == "[user]Be long.\n\nHow many?"
    assert own[1]["content"] == "How many?", "the turns that were given stay"


def test_an_end_stands_behind_answers_and_not_behind_calls(tokenizer):
    template = composed(PLAIN, {"end_of_turn": "</s>"})
    assert render(tokenizer, template, TURN * 2) == "[user]How many?[assistant]42</s>" * 2
    called = [*ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "look"}}]}]
    assert render(tokenizer, template, called) == "[user]How many?[assistant]"


def write(folder, template):
    (folder / "chat_template.jinja").write_text(template)
    return folder


def test_settings_that_have_no_effect_are_one_line(tmp_path):
    folder = write(tmp_path, "{% if think is not defined %}{% set think = true %}{% endif %}{{ budget }}{{ messages }}")
    for name in ("think", "budget"):
        module.check(folder, {"template_kwargs": {name: False}}, "models.base")
    with pytest.raises(ValueError, match=r"models\.base\.template_kwargs: the chat template reads no budgt; it reads"):
        module.check(folder, {"template_kwargs": {"budgt": 3}}, "models.base")


def test_a_template_that_is_none_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"models\.base\.chat_template: .* has none; name a file"):
        module.check(tmp_path, {"system": "x"}, "models.base")
    with pytest.raises(ValueError, match=r"models\.base\.chat_template: is no Jinja .*; correct it"):
        module.check(tmp_path, {"chat_template": "{% if %}"}, "models.base")
    generation = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    module.check(tmp_path, {"chat_template": generation}, "models.base")


def test_the_settings_template_comes_before_the_models_own(tmp_path):
    write(tmp_path, "{{ own }}")
    file = tmp_path / "mine.jinja"
    file.write_text("{{ mine }}")
    assert module.template_of(tmp_path, {}) == "{{ own }}"
    assert module.template_of(tmp_path, {"chat_template": str(file)}) == "{{ mine }}"
    assert module.template_of(tmp_path, {"chat_template": "{{ text }}"}) == "{{ text }}"
