"""One line for a setting that is wrong: the path of its key, what is wrong, what to write."""

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from pydantic import ValidationError

from steps.settings.base import Settings
from steps.settings.names import SPELLED

# What a person calls what YAML writes so.
MAPPING, LIST = "a mapping", "a list"
# What pydantic calls a wrong type -> the right one.
TYPES = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "dict_type": MAPPING,
    "model_type": MAPPING,
    "model_attributes_type": MAPPING,
    "list_type": LIST,
}
BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
# Keys of older versions, and what came in their place.
GONE = {
    "equivalence": "what compares answers is `judge` of a data set or task",
    "num_perm": "near duplicates are joined exactly",
    "resamples": "the intervals need no bootstrap",
}
# What LLaMA-Factory, TRL, verl and PEFT, or an older version, call a key of ours, where no spelling tells.
ELSEWHERE = {
    "lr": ("learning_rate",),
    "num_train_epochs": ("epochs",),
    "per_device_train_batch_size": ("batch_size",),
    "gradient_accumulation_steps": ("gradient_accumulation",),
    "cutoff_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "max_samples": ("cap",),
    "lr_scheduler_type": ("schedule",),
    "bf16": ("precision",),
    "fp16": ("precision",),
    "report_to": ("tracker",),
    "optim": ("optimizer",),
    "rank": ("r",),
    "lora_rank": ("r",),
    "lora_alpha": ("alpha",),
    "lora_dropout": ("dropout",),
    "lora_target": ("target_modules",),
    "finetuning_type": ("adapter",),
    "model_name_or_path": ("path", "models"),
    "template": ("chat_template",),
    "dataset": ("data",),
    "val_size": ("valid_share",),
    "num_generations": ("generations",),
    "group_size": ("generations",),
    "samples": ("generations",),
    "n": ("generations",),
    "num_iterations": ("iterations",),
    "max_completion_length": ("max_new_tokens",),
    "max_response_length": ("max_new_tokens",),
    "response_length": ("max_new_tokens",),
    "max_steps": ("steps",),
    "reward_funcs": ("rewards",),
    "reward_weights": ("rewards",),
    "epsilon": ("clip",),
    "epsilon_high": ("clip",),
    "clip_ratio": ("clip",),
    "beta": ("kl",),
    "kl_coef": ("kl",),
    "kl_loss_coef": ("kl",),
    "load_best_model_at_end": ("keep_best",),
    "early_stopping_patience": ("keep_best", "patience"),
    "eval_strategy": ("eval_steps",),
    "group": ("per",),
}


def check(of: type[Settings], value: Any, where: str = "") -> None:
    """Check a value against its class.

    Args:
        where: the path of the value in params.yaml; "" for the whole.

    Raises:
        ValueError: the first mistake, in the order of the keys, as one line.
    """
    try:
        of.model_validate(value)
    except ValidationError as error:
        # A key or value may have several lines, or fill a page.
        line = " ".join(_explain(_first(error.errors(include_url=False), value), where).split())
        raise ValueError(line if len(line) <= 1000 else f"{line[:600]} … {line[-300:]}") from None


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a line about an unknown name: the one that was probably meant, or what there is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"; did you mean `{close[0]}`?"
    listed = [*known[:60], *(["…"] if len(known) > 60 else [])]
    return f"; it has: {', '.join(listed)}" if known else ""


def _first(errors: list[Any], value: Any) -> Any:
    """The first by its path. Of the branches of a choice, the one that the value goes farthest in."""
    paths = [_steps(error, value) for error in errors]
    first = min(range(len(errors)), key=lambda i: [str(part) for part in paths[i]])
    if len(errors[first]["loc"]) > len(paths[first]):  # pydantic names a branch beside keys and positions
        within = [i for i in range(len(errors)) if paths[i][: len(paths[first])] == paths[first]]
        first = max(within, key=lambda i: (len(paths[i]), errors[i]["type"] not in TYPES))
    alike = [error["type"] for error, path in zip(errors, paths, strict=True) if path == paths[first]]
    types = dict.fromkeys(TYPES[kind] for kind in alike if kind in TYPES)
    return {**errors[first], "path": paths[first], "types": list(types)}


def _steps(error: Any, value: Any) -> list[str | int]:
    """Keys and positions of the place of an error, without pydantic's names of branches."""
    path: list[str | int] = []
    for part in error["loc"]:
        if (isinstance(value, dict) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            path.append(part)
            value = value[part]
    return [*path, error["loc"][-1]] if error["type"] == "missing" else path


def _explain(error: Any, where: str) -> str:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        *folder, key = error["path"]
        return f"{_path(folder, where) or 'top level'}: the key `{key}` is missing; add it"
    path = _path(error["path"], where)
    if kind in TYPES:
        return _wrong_type(path, given, error["types"])
    if kind in BOUNDS:
        bound, word = BOUNDS[kind]
        limit = f"{context[bound]:g}" if context[bound] < 1e6 else f"{context[bound]:,}"
        return f"{path}: {given!r} must be {word} {limit}"
    if kind in WORDS:
        return WORDS[kind](path, given, context)
    return f"{path or 'top level'}: {' '.join(error['msg'].split())}, not {given!r}"


def _path(parts: Iterable[str | int], where: str) -> str:
    path = where
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return path


def _wrong_type(path: str, given: Any, types: list[str]) -> str:
    message = f"{path or 'top level'}: needs {' or '.join(types)}, not {_in_yaml(given)}"
    if isinstance(given, str) and _is_number(given) and types[0].endswith(("number", "integer")):
        message += f"; YAML reads that as text, write {_as_yaml_number(given, types[0])}"
    elif types == ["true or false"] and str(given).lower() in ("true", "false"):
        message += f"; write {str(given).lower()} without quotes"
    elif types == [LIST] and not isinstance(given, dict | list | None):
        message += f"; write [{given}]"
    elif types == [MAPPING] and not isinstance(given, dict):
        message += "; write {<key>: <value>}"
    return message


def _in_yaml(given: Any) -> str:
    return json.dumps(given) if given is None or isinstance(given, bool) else repr(given)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _as_yaml_number(text: str, wanted: str) -> str:
    """The spelling YAML 1.1 reads as a number: an exponent needs a point before it and a sign in it."""
    if wanted.endswith("integer") and float(text).is_integer():
        return str(int(float(text)))
    mantissa, _, exponent = text.strip().lower().partition("e")
    if not exponent:
        return mantissa
    mantissa += "" if "." in mantissa else ".0"
    return f"{mantissa}e{exponent if exponent[0] in '+-' else '+' + exponent}"


def _unknown_key(path: str, given: Any, context: dict) -> str:
    key, known = context["key"], context["known"]
    place = f"{path}.{key}" if path else str(key)
    close = [name for name in ELSEWHERE.get(str(key), ()) if name in known]
    if context["by_kind"] and not close:
        return f"{place}: has no effect with kind {given['kind']}; remove it (known keys: {', '.join(known)})"
    if key in GONE:
        return f"{place}: is gone, for {GONE[key]}; remove the key"
    close = close or difflib.get_close_matches(str(key), known, n=1)
    return f"{place}: unknown key; " + (f"did you mean `{close[0]}`?" if close else f"known keys: {', '.join(known)}")


def _unknown_kind(path: str, given: Any, context: dict) -> str:
    key = context["discriminator"].strip("'")
    names = sorted(re.findall(r"'([^']*)'", context["expected_tags"]))
    return f"{path}.{key}: {given[key]!r} is none of: {', '.join(names)}"


def _unknown_name(path: str, given: Any, context: dict) -> str:
    # Pydantic writes them as "'a', 'b' or 'c'".
    names = [name.strip("'").replace("None", "null") for name in re.split(r", | or ", context["expected"])]
    return f"{path}: {_in_yaml(given)} is none of: {', '.join(names)}"


def _misspelt(path: str, given: Any, context: dict) -> str:
    return f"{path}: {given!r} does not match what is allowed: {SPELLED[context['pattern']]}"


def _of_ours(path: str, given: Any, context: dict) -> str:
    """What a class says itself; a line that starts with a point names a key of its own."""
    line = str(context["error"])
    return f"{path}{line}" if line.startswith(".") else f"{path}: {line}"


def _no_kind(path: str, given: Any, context: dict) -> str:
    key = context["discriminator"].strip("'")
    return f"{path}: the key `{key}` is missing; add it"


# What pydantic calls a mistake -> the line about it.
WORDS: dict[str, Callable[[str, Any, dict], str]] = {
    "unknown_key": _unknown_key,
    "union_tag_invalid": _unknown_kind,
    "union_tag_not_found": _no_kind,
    "literal_error": _unknown_name,
    "string_pattern_mismatch": _misspelt,
    "string_too_short": lambda path, given, context: f"{path}: is empty; write what it stands for",
    "too_short": lambda path, given, context: (
        f"{path}: has {len(given)} entries and needs at least {context['min_length']}; add what is missing"
    ),
    "too_long": lambda path, given, context: f"{path}: {given!r} has more than {context['max_length']} entries",
    "finite_number": lambda path, given, context: f"{path}: needs a finite number, not {given!r}",
    "value_error": _of_ours,
}
