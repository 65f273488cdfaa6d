"""The chat template of a model with what its entry of `models` says of it, as one template.

Whoever reads the folder that carries it, here or elsewhere, renders the same: nothing has to be told besides. A request
may still set a variable of `template_kwargs` otherwise, as one of vLLM's `chat_template_kwargs` does.
"""

import json
import re
from pathlib import Path
from typing import Any

from steps.models.files import read_config, read_text
from steps.models.templates import parsed
from steps.settings.data import is_file_of_template

TEMPLATE = "chat_template.jinja"
# What every template is told, or finds in the tokenizer.
_TOLD = frozenset({"messages", "tools", "documents", "add_generation_prompt", "raise_exception", "strftime_now"})
_TOKENS = re.compile(r"(bos|eos|unk|sep|pad|cls|mask)_token")
# transformers, as all others that render templates for it, drops the first line break behind a block: each of these
# writes nothing, and what follows stands at the beginning of a line as it did.
_DEFAULT = "{% if NAME is not defined %}{% set NAME = VALUE %}{% endif %}\n"
_HAS_SYSTEM = "messages and messages[0].role in ['system', 'developer']"
_SYSTEM = (
    f"{{% if not ({_HAS_SYSTEM}) %}}"
    "{% set messages = [{'role': 'system', 'content': VALUE}] + messages %}{% endif %}\n"
)
_FOLD = (
    f"{{% if {_HAS_SYSTEM} and messages | length > 1 and messages[1].role == 'user' %}}"
    "{% set messages = [dict(messages[1], content=messages[0].content + '\\n\\n' + messages[1].content)]"
    " + messages[2:] %}{% endif %}\n"
)
# An answer that calls tools has its calls behind the content, and the end behind them: that is the template's to write.
_END = (
    "{% set ended = namespace(turns=[]) %}{% for turn in messages %}"
    "{% if turn.role == 'assistant' and not turn.tool_calls %}"
    "{% set ended.turns = ended.turns + [dict(turn, content=(turn.content or '') + VALUE)] %}"
    "{% else %}{% set ended.turns = ended.turns + [turn] %}{% endif %}"
    "{% endfor %}{% set messages = ended.turns %}\n"
)


def composed(template: str, settings: dict) -> str:
    """A template behind what makes the settings true: variables, then the system turn, then ends of answers.

    Args:
        settings: keys of `settings.data.TEMPLATED`, the template itself aside.
    """
    told = settings.get("template_kwargs", {})
    before = [_DEFAULT.replace("NAME", name).replace("VALUE", _text(value)) for name, value in told.items()]
    if system := settings.get("system"):
        before.append(_SYSTEM.replace("VALUE", _text(system)))
    if settings.get("fold_system"):
        before.append(_FOLD)
    if end := settings.get("end_of_turn"):
        before.append(_END.replace("VALUE", _text(end)))
    return "".join(before) + template


def _text(value: Any) -> str:
    """A value as Jinja reads it. Not in ASCII: Jinja takes the two halves of an escaped letter beyond it for two."""
    return json.dumps(value, ensure_ascii=False)


def own_template(folder: Path) -> str | None:
    """The chat template of a folder; of several, by name, that for a conversation."""
    if (folder / TEMPLATE).is_file():
        return read_text(folder / TEMPLATE)
    config = folder / "tokenizer_config.json"
    template = read_config(config).get("chat_template") if config.is_file() else None
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
    template = template.get("default") if isinstance(template, dict) else template
    return template if isinstance(template, str) else None


def template_of(folder: Path, settings: dict) -> str | None:
    """The chat template that a model gets: its own or that of its settings, with what they say besides."""
    given = settings.get("chat_template", "")
    template = read_text(Path(given)) if is_file_of_template(given) else given or own_template(folder)
    return None if template is None else composed(template, settings)


def check(folder: Path, settings: dict, where: str) -> None:
    """Raise a ValueError where there is no template, or one that is no Jinja or reads no variable that it is told.

    Args:
        folder: of the model, which need not be there where the settings have a template.
        where: `models.<name>`, for the message.
    """
    from jinja2 import TemplateError, meta

    own = {key: value for key, value in settings.items() if key == "chat_template"}
    template = template_of(folder, own)
    if template is None:
        raise ValueError(f"{where}.chat_template: {folder} has none; name a file of one here, or write its Jinja")
    try:
        known = parsed(template)
    except TemplateError as error:
        raise ValueError(f"{where}.chat_template: is no Jinja ({error}); correct it") from error
    read = meta.find_undeclared_variables(known)
    for name, value in settings.get("template_kwargs", {}).items():
        place = f"{where}.template_kwargs"
        if name in _TOLD or _TOKENS.fullmatch(name):
            raise ValueError(
                f"{place}: {name} is told to every chat template, whatever stands here; name one by chat_template that"
                " writes what is meant, or remove it"
            )
        if isinstance(value, str) and value.lower() in ("true", "false"):
            raise ValueError(
                f"{place}.{name}: {value!r} is text, of which a chat template takes any for true; write {value.lower()}"
                " without quotes"
            )
        if name not in read | _defaulted(template):
            others = ", ".join(sorted(read - _TOLD)) or "none"
            raise ValueError(f"{place}: the chat template reads no {name}; it reads {others}; correct or remove it")


def _defaulted(template: str) -> set[str]:
    """The variables that a template sets where nobody has told them, which Jinja calls declared."""
    return set(re.findall(r"(?<![\w.])([A-Za-z_]\w*)\s+is\s+(?:not\s+)?defined", template))
