"""Formats of raw rows: one entry of `FORMATS` is all that is said of one, what its fields are, an example, its row.

A format says of each field which part of a row it is; `steps/data/records.py` makes the row from its parts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

# What a field may be of a row.
PARTS = {
    "turns": "the conversation, or its part before the response: a list of turns, or the JSON text of one",
    "prompt": "what is asked: a text, or a list of turns",
    "input": "more of what is asked, on a new line",
    "history": "turns before the prompt: a list of [question, answer]",
    "response": "what is answered: a text, a turn or a list of turns",
    "thinking": "the reasoning before the response",
    "rejected": "another response, which is worse: as `response`",
    "margin": "by how much the response is better than the rejected one: a number of 0 or more, by which stage reward"
    " has their scores differ",
    "responses": "several responses, the best first",
    "scores": "a number for each of them, a higher one for a better one. A list of as many numbers by another name"
    " quarantines its row",
    "label": "true (1, good, chosen, …) for a good response, false (0, -1, bad, rejected, …) for a bad one",
    "system": "the system turn",
    "tools": "the tools that may be called: a list of objects, or the JSON text of one",
    "weight": "1 or true; a row of 0 or false is not trained on",
    "answer": "the verifiable answer: a text or a number",
    "check": "the constraint that a response keeps: an object, or the JSON text of one",
    "document": "running text",
}
# Optional fields of pairs.
_OF_PAIRS = {"margin": "margin"}
# Optional fields of every format but text, each with its part.
SHARED = {
    "system": "system",
    "system_prompt": "system",
    "system_message": "system",
    "tools": "tools",
    "functions": "tools",
    "weight": "weight",
    "loss": "weight",
    "train": "weight",
}
_GRADED = {"rejected": "rejected", "rejected_response": "rejected", "label": "label", "kto_tag": "label"}
_OF_RESPONSES = SHARED | {
    "history": "history",
    "reasoning_content": "thinking",
    "reasoning": "thinking",
    "thinking": "thinking",
}
_SCORES = dict.fromkeys(("scores", "score", "ratings", "rating", "rewards"), "scores")
_OF_TURNS = SHARED | _GRADED | {"rejected_messages": "rejected"}
# Read only where `columns` names them: files have fields of these names that mean something else.
NAMED = {"answer": "answer", "check": "check"}
# The keys of a turn that `columns` may name.
TURN_KEYS = ("role", "content")


@dataclass(frozen=True)
class Format:
    """What a format is.

    Attributes:
        what: whose it is, and what its fields mean.
        required: field of a record to its part. Of a field `a.b` it is the key b of the object a.
        optional: the fields that a record may have.
        example: a record.
        row: what becomes of it, beside id, file, line and row.
    """

    what: str
    required: Mapping[str, str]
    example: Mapping[str, Any]
    row: Mapping[str, Any]
    optional: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def parts(self) -> dict[str, str]:
        """Every field that it may have to its part, those included that `columns` must name."""
        named = {} if self.of_documents else NAMED
        return {**named, **self.optional, **self.required}

    @property
    def of_documents(self) -> bool:
        return "document" in self.required.values()


def _turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


_ASKED = [_turn("user", "2 + 2?")]
_TOLD = {"messages": [*_ASKED, _turn("assistant", "4")], "answer": None}
_PAIR = _TOLD | {"rejected": "5"}

FORMATS = {
    "messages": Format(
        "OpenAI, TRL, axolotl, ms-swift: turns of user, assistant, system (or developer) and tool",
        {"messages": "turns"},
        {
            "messages": [
                _turn("developer", "Be brief."),
                _turn("user", "Weather in Oslo?"),
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "I must look.",
                    "tool_calls": [{"id": "a", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}],
                },
                _turn("tool", "-3", tool_call_id="a"),
                _turn("assistant", [{"type": "text", "text": "Three below."}]),
            ],
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
        {
            "messages": [
                _turn("system", "Be brief."),
                _turn("user", "Weather in Oslo?"),
                _turn(
                    "assistant",
                    "",
                    thinking="I must look.",
                    tool_calls=[{"name": "weather", "arguments": {"city": "Oslo"}}],
                ),
                _turn("tool", "-3", name="weather"),
                _turn("assistant", "Three below."),
            ],
            "answer": None,
            "tools": [{"type": "function", "function": {"name": "weather"}}],
        },
        _OF_TURNS,
    ),
    "sharegpt": Format(
        "FastChat, LLaMA-Factory: turns of human, gpt, system, function_call and observation",
        {"conversations": "turns"},
        {
            "conversations": [
                {"from": "human", "value": "2 + 2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4", "weight": 1},
            ],
            "tools": '[{"name": "add"}]',
        },
        {
            "messages": [
                *_ASKED,
                _turn("assistant", "", tool_calls=[{"name": "add", "arguments": {"a": 2, "b": 2}}]),
                _turn("tool", "4", name="add"),
                _turn("assistant", "4"),
            ],
            "answer": None,
            "tools": [{"type": "function", "function": {"name": "add"}}],
        },
        _OF_TURNS,
    ),
    "alpaca": Format(
        "Stanford Alpaca, LLaMA-Factory, axolotl: an instruction and its output",
        {"instruction": "prompt", "output": "response"},
        {"instruction": "Add.", "input": "2, 2", "output": "4", "history": [["1 + 1?", "2"]]},
        {
            "messages": [
                _turn("user", "1 + 1?"),
                _turn("assistant", "2"),
                _turn("user", "Add.\n2, 2"),
                _turn("assistant", "4"),
            ],
            "answer": None,
        },
        {"input": "input", **_OF_RESPONSES, **_GRADED},
    ),
    "prompt_response": Format(
        "a prompt and its response",
        {"prompt": "prompt", "response": "response"},
        {"prompt": "2 + 2?", "response": "<think>\nTwo twos.\n</think>\n\n#### 4"},
        {"messages": [*_ASKED, _turn("assistant", "#### 4", thinking="Two twos.")], "answer": "4"},
        _OF_RESPONSES | _GRADED,
    ),
    "prompt_completion": Format(
        "TRL: the same by another name; each may be a list of turns",
        {"prompt": "prompt", "completion": "response"},
        {"prompt": _ASKED, "completion": [_turn("assistant", "4")]},
        _TOLD,
        _OF_RESPONSES | _GRADED,
    ),
    "query_response": Format(
        "ms-swift: a query and its response, with what was said before",
        {"query": "prompt", "response": "response"},
        {"query": "2 + 2?", "response": "4", "rejected_response": "5"},
        _PAIR,
        _OF_RESPONSES | _GRADED,
    ),
    "question_answer": Format(
        "a question and its answer, which is trained on",
        {"question": "prompt", "answer": "response"},
        {"question": "2 + 2?", "answer": "4"},
        _TOLD,
        _OF_RESPONSES | _GRADED,
    ),
    "kto": Format(
        "TRL: responses that are good (true) or bad (false). A bad one is never trained on as a good one: it becomes"
        " the `rejected` of a good one to the same prompt, or is quarantined",
        {"prompt": "prompt", "completion": "response", "label": "label"},
        {"prompt": "2 + 2?", "completion": "4", "label": True},
        _TOLD,
        _OF_RESPONSES,
    ),
    "preference": Format(
        "TRL: two responses to a prompt, of which people (or a rule) prefer the first. Without `prompt` both are lists"
        " of turns, or transcripts of Human: and Assistant: (HH-RLHF), and what they begin with together is the prompt",
        {"chosen": "response", "rejected": "rejected"},
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        _PAIR,
        {"prompt": "prompt", "history": "history", **_OF_PAIRS, **SHARED},
    ),
    "alpaca_preference": Format(
        "LLaMA-Factory: the same of an instruction",
        {"instruction": "prompt", "chosen": "response", "rejected": "rejected"},
        {"instruction": "2 + 2?", "input": "", "chosen": "4", "rejected": "5"},
        _PAIR,
        {"input": "input", "history": "history", **_OF_PAIRS, **SHARED},
    ),
    "sharegpt_preference": Format(
        "LLaMA-Factory: the same of a conversation",
        {"conversations": "turns", "chosen": "response", "rejected": "rejected"},
        {
            "conversations": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        _PAIR,
        _OF_PAIRS | SHARED,
    ),
    "openai_preference": Format(
        "OpenAI: the same as lists of turns",
        {"input.messages": "turns", "preferred_output": "response", "non_preferred_output": "rejected"},
        {
            "input": {"messages": _ASKED, "tools": []},
            "preferred_output": [_turn("assistant", "4")],
            "non_preferred_output": [_turn("assistant", "5")],
        },
        _PAIR,
        {"input.tools": "tools", **_OF_PAIRS, **SHARED},
    ),
    "ranking": Format(
        "several responses to a prompt, the best first, or with `scores`: the best becomes the response, the worst the"
        " rejected one",
        {"prompt": "prompt", "responses": "responses"},
        {"prompt": "2 + 2?", "responses": ["5", "4", "3"], "scores": [0.2, 0.9, 0.5]},
        _PAIR,
        {**_SCORES, "history": "history", **SHARED},
    ),
    "prompt_answer": Format(
        "a prompt without a response, for stages that sample: what is sampled is compared with the answer",
        {"prompt": "prompt", "answer": "answer"},
        {"prompt": "2 + 2?", "answer": 4},
        {"messages": _ASKED, "answer": "4"},
        {"history": "history", **SHARED},
    ),
    "verl": Format(
        "verl: the same as turns, with the answer in `reward_model`",
        {"prompt": "turns", "reward_model.ground_truth": "answer"},
        {"prompt": _ASKED, "data_source": "sums", "reward_model": {"style": "rule", "ground_truth": "4"}},
        {"messages": _ASKED, "answer": "4"},
        SHARED,
    ),
    "rlvr": Format(
        "RLVR: the same as a conversation that ends with the user's turn",
        {"messages": "turns", "ground_truth": "answer"},
        {"messages": _ASKED, "ground_truth": "4", "dataset": "sums"},
        {"messages": _ASKED, "answer": "4"},
        SHARED,
    ),
    "text": Format(
        "documents for continued pre-training; of a .txt or .md file its whole text",
        {"text": "document"},
        {"text": "Two and two are four."},
        {"messages": [_turn("document", "Two and two are four.")], "answer": None},
    ),
}  # fmt: skip
AUTO = "auto"


# --- files ---------------------------------------------------------------------------------------

# Suffix of a file to what it holds.
FILES = {
    ".json": "an array of records, or records that follow each other. It is streamed: memory does not grow with"
    " the file",
    ".jsonl": "one record a line; blank lines are skipped",
    ".ndjson": "the same",
    ".csv": "one record a line, after a line of names; separated by comma, semicolon, tab or bar; cells in quotes may"
    " have several lines",
    ".tsv": "as .csv",
    ".parquet": "one record a row",
    ".arrow": "one record a row, as `datasets` and Feather write it",
    ".txt": "one document, of format text",
    ".md": "one document, of format text",
}
# Of one record a line.
LINES = (".jsonl", ".ndjson")
# Of one document each.
DOCUMENTS = (".txt", ".md")
# Whose columns have types, and which are packed inside.
COLUMNAR = (".parquet", ".arrow")
# After the suffix of any other file.
PACKED = {".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}


# --- fields of other names -----------------------------------------------------------------------

# Words of the names of fields that change what a row means: what it shows beside its text, what of it is trained on,
# what is asked. With the words that may stand beside them; a name with any other word (num_images, context_length) is
# taken for a note.
_TELLING = {
    "image", "img", "picture", "photo", "pixel", "audio", "speech", "video", "weight", "loss", "train", "training",
    "trainable", "mask", "reject", "rejected", "chosen", "preferred", "dispreferred", "rank", "ranking", "reward",
    "tool", "function", "thinking", "thought", "reasoning", "history", "choice", "option", "segment", "constraint",
    "refusal", "prefix", "suffix", "correct", "accepted", "label", "kto",
}  # fmt: skip
# So too those of what is asked, or of what it is about; a text of it that the row shows anyway says nothing more.
_ASKING = {
    "question", "instruction", "prompt", "query", "input", "context", "passage", "paragraph", "article", "document",
    "schema", "table", "premise", "hypothesis", "persona", "background", "system",
}  # fmt: skip
_BESIDE = {
    "content", "text", "response", "output", "answer", "completion", "message", "turn", "conversation", "path", "url",
    "file", "data", "byte", "base64", "list", "sample", "row", "example", "call", "process", "detail", "on", "in", "is",
    "non", "not", "should", "flag", "value", "user", "assistant", "tag", "json", "db", "database",
}  # fmt: skip
# Of a flag that says what is so without it: 1 or true.
_FLAGS = {"weight", "loss", "train", "training", "trainable", "correct", "accepted", "label", "preferred", "kto"}
# What only a truth value or a number makes a flag: files have notes of these names.
_NOTES = {"label", "kto", "correct", "accepted"}
_OPTIONS = frozenset("ABCDEFGH")
_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])")
TRUE = (True, 1, "1", "1.0", "true", "True", "TRUE")
FALSE = (False, 0, "0", "0.0", "false", "False", "FALSE")
# Of a label, which may also be a word, in small letters.
GOOD = (*TRUE, "good", "desirable", "chosen", "accepted")
BAD = (*FALSE, -1, "-1", "bad", "undesirable", "rejected")


def _words(name: str) -> set[str]:
    words = map(str.lower, _WORD.findall(name))
    return {word if len(word) < 4 or word.endswith("ss") else word.removesuffix("s") for word in words}


def is_telling(name: str) -> bool:
    """Whether a field of this name changes what its row means, where it has a value that says so."""
    words = _words(name)
    telling = _TELLING | _ASKING
    # A letter is an option of a question.
    return name in _OPTIONS or bool(words & telling) and words <= telling | _BESIDE


def is_asking(name: str) -> bool:
    """Whether a field of this name, which `is_telling`, is of what is asked."""
    return bool(words := _words(name) & (_TELLING | _ASKING)) and words <= _ASKING


def changes(name: str, value: Any) -> bool:
    """Whether a value of a field that `is_telling` changes what its row means: it is not empty, and no flag that says
    what is so without it."""
    if value is None or isinstance(value, str | list | dict) and not value:
        return False
    if name in _OPTIONS:
        return True
    words = _words(name) & (_TELLING | _ASKING)
    simple = isinstance(value, bool | int | float | str)
    if words <= _NOTES and simple:
        return value in FALSE
    if words & _FLAGS and simple:
        return value not in TRUE
    return value is not False
