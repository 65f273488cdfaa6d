"""One day for "today" in chat templates: with another one all prompts are other tokens, so that no result is made
again and a training that is resumed past midnight is another training."""

import json
import re
from datetime import datetime

# The one that Llama 3.2's template falls back to where there is no clock.
TODAY = datetime(2024, 7, 26)
CLOCK = "strftime_now"
NOW = re.compile(CLOCK + r"""\(\s*(["'])(.*?)\1\s*\)""")
# To ask whether there is a clock is no call of it.
CALLED = re.compile(rf"\b{CLOCK}\b(?!\s+is\b)")
# Of strftime, those that neither a time zone nor a language changes.
DIRECTIVES = [*"aAbBdeFDGhHIjklmMpRSTuUVwWyY", *(f"-{letter}" for letter in "deHIjmMSy")]
# What stands before a template that calls the clock otherwise than with a text: it hides the one of transformers.
MACRO = (
    f"{{% macro {CLOCK}(format) %}}{{% set told = TOLD %}}{{% set said = namespace(text='', plain=true) %}}"
    "{% for part in format.split('%') %}"
    "{% if said.plain %}{% set said.text = said.text + part %}{% set said.plain = false %}"
    "{% elif part == '' %}{% set said.text = said.text + '%' %}{% set said.plain = true %}"
    "{% elif part[:2] in told %}{% set said.text = said.text + told[part[:2]] + part[2:] %}"
    "{% else %}{% set said.text = said.text + told.get(part[:1], '%' + part[:1]) + part[1:] %}{% endif %}"
    "{% endfor %}{{ said.text }}{% endmacro %}\n"
)


def dated(template: str) -> str:
    """A chat template with the same day for today on every day, whoever renders it."""
    template = NOW.sub(lambda call: json.dumps(TODAY.strftime(call[2])), template)
    if not CALLED.search(template) or f"macro {CLOCK}" in template:
        return template
    told = {directive: TODAY.strftime(f"%{directive}") for directive in DIRECTIVES}
    return MACRO.replace("TOLD", json.dumps(told)) + template
