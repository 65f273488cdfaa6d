"""Chat templates are rendered on one day, however they ask for it."""

import time
from datetime import datetime

import pytest

from steps.models.today import DIRECTIVES, TODAY, dated
from tests.conftest import build_tokenizer

# How templates may ask, and what they then write on 26 July 2024.
ASKED = {
    "{{ strftime_now('%Y-%m-%d') }}": "2024-07-26",
    '{{ strftime_now( "%d %b" ) + "!" }}': "26 Jul!",
    "{{ strftime_now ('%d %B %Y') }}": "26 July 2024",
    "{{ strftime_now(format='%A') }}": "Friday",
    "{% set form = '%H:%M:%S' %}{{ strftime_now(form) }}": "00:00:00",
    "{% set clock = strftime_now %}{{ clock('%j') }}": "208",
    "{% if strftime_now is defined %}{% set day = strftime_now('%-d') %}{% endif %}{{ day }}": "26",
    "{% macro now() %}{{ strftime_now ('%y') }}{% endmacro %}{{ now() }}": "24",
    "{% for m in messages %}{{ strftime_now ('100%% of %m%q') }}{% endfor %}": "100% of 07%q",
}  # fmt: skip


def rendered(template: str) -> str:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer.apply_chat_template([{"role": "user", "content": "Hm"}], tokenize=False)


@pytest.mark.parametrize("template", ASKED)
def test_every_way_to_ask_for_the_day(template):
    assert rendered(dated(template)) == ASKED[template]
    # What is saved is read again.
    assert dated(dated(template)) == dated(template)


def test_every_directive_is_pythons():
    form = " ".join(f"%{directive}" for directive in DIRECTIVES)
    assert rendered(dated(f"{{% set form = '{form}' %}}{{{{ strftime_now(form) }}}}")) == TODAY.strftime(form)


def test_a_clock_that_is_looked_for_is_not_replaced(monkeypatch):
    """Llama 3.2's, whose call is a text by then."""
    template = "{% if strftime_now is defined %}{{ strftime_now('%d') }}{% endif %}"
    assert dated(template) == '{% if strftime_now is defined %}{{ "26" }}{% endif %}'
    assert datetime(*time.localtime()[:3]) != TODAY, "the test would see nothing"
