"""From a record of a format to a row: which field is which part, and what the parts make together.

`steps/settings/formats.py` says what a format is; `steps/data/turns.py` reads the turns.
"""

import contextlib
import json
import re
from typing import Any

from steps.data.rows import RowProblem, escaped
from steps.data.turns import Turns, check_order, said, tools_of
from steps.data.values import (
    MOST_NAMES,
    check_shown,
    flag,
    from_text,
    is_plain,
    kind,
    missing,
    optional_text,
    plain,
    text_of,
    unsupported,
    wrong_type,
)
from steps.data.verifiable import answer_of, check_of, final_answer
from steps.settings.formats import BAD, FORMATS, GOOD, NAMED, TURN_KEYS, changes, is_asking, is_telling

# Of a margin: beyond, a loss in float32 says nothing.
WIDEST = 1000.0
_MISSING = object()
_NOTHING: dict[str, tuple[str, Any]] = {}
_PROMPT = {"prompt"}
_ASKED = "\n\nHuman:"
_WRITTEN = re.compile(r"""\s*\[?\s*\{\s*["'](?:role|from)["']\s*:\s*["']""")
_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_PLAIN = {
    frozenset(["turns"]): ("turns",),
    frozenset(["prompt", "response"]): ("response",),
    frozenset(["response", "rejected"]): ("response", "rejected"),
    frozenset(["prompt", "response", "rejected"]): ("response", "rejected"),
}


class Reader:
    """Makes the rows of records of one format.

    Attributes:
        fields: names by which a record is known: those that it must have.
        unseen: fields that `columns` or `keep` names and no record so far has.
        unused: fields that records have and no row shows.
    """

    def __init__(self, form: str, source: dict):
        """
        Args:
            source: its `columns`, `ignore`, `keep` and `train`, where it has them.
        """
        of, columns = FORMATS[form], source.get("columns") or {}
        self.form, self.last = form, source.get("train") == "last"
        self.required = {columns.get(name, name): part for name, part in of.required.items()}
        self.optional = {
            columns.get(name, name): part
            for name, part in of.parts.items()
            if name not in of.required and (name not in NAMED or name in columns)
        }
        self.ignore = frozenset(source.get("ignore") or ())
        self.keep = tuple(source.get("keep") or ())
        self.fields = [*self.required]
        # One field may be two parts: a response, and the answer in it.
        self.twice = [name for name in self.optional if name in self.required]
        self.nested = [name for name in (*self.required, *self.optional) if "." in name]
        self.unseen = {name for key, name in columns.items() if key not in TURN_KEYS} | {*self.keep}
        # Those of the first record that is an object.
        self.fielded: tuple[str, ...] = ()
        self.unused: dict[str, None] = {}
        self.turns = Turns({key: columns[key] for key in TURN_KEYS if key in columns}, self.ignore)
        # Names that need no look: those of the format, and of notes.
        self.known = {*self.required, *self.ignore, *(name.partition(".")[0] for name in self.nested)}
        self.known |= {*self.keep} - self.optional.keys()
        if of.of_documents:
            # Of a document it says what it is about, not whether it is good.
            self.known |= {"label", "labels"}
        self.by_part = {part: name for name, part in self.required.items()}
        self.ranks, self.of_documents = "responses" in self.by_part, of.of_documents
        # Of formats whose records are often nothing but texts, or turns: the sides beside the prompt.
        self.plain = () if self.twice or self.nested else _PLAIN.get(frozenset(of.required.values()), ())

    def needs(self, name: str) -> str:
        """What of a field is read: its "value", of one that would change what a row means its "presence", "" of a
        note."""
        if name in self.ignore:
            return ""
        if self.reads(name) or name in (kept.partition(".")[0] for kept in self.keep):
            return "value"
        if self._tells(name):
            return "value" if is_asking(name) else "presence"
        self._note(name)
        # Any of them may be the scores.
        return "value" if self.ranks else ""

    def reads(self, name: str) -> bool:
        """Whether a field is one of the format's."""
        return name in self.optional or name in self.known

    def _tells(self, name: str) -> bool:
        """Of a document what was asked for it, or what it is about, is a note."""
        return is_telling(name) and not (self.of_documents and is_asking(name))

    def _note(self, name: str) -> None:
        if len(self.unused) < MOST_NAMES:
            self.unused[escaped(name)] = None

    def __call__(self, record: Any) -> tuple[list[dict], str | None, dict]:
        """Messages and answer of a record, and what only some rows have: "rejected", "margin", "check", "tools",
        "label", "extra".

        Raises:
            RowProblem: it does not fit its format. `data/README.md` has every reason.
        """
        if not isinstance(record, dict):
            hint = f"each record must be an object with the fields of the format {self.form}"
            raise RowProblem("wrong_type", "(record)", hint, f"found {kind(record)}")
        if not self.fielded:
            self.fielded = tuple(record)[:MOST_NAMES]
        if self.unseen:
            self.unseen = {name for name in self.unseen if _at(record, name) is _MISSING}
        messages, answer, extras = self._made(record)
        if self.keep:
            extras["extra"] = {name: _kept(record, name) for name in self.keep}
        return messages, answer, extras

    def _made(self, record: dict) -> tuple[list[dict], str | None, dict]:
        more = record.keys() - self.known
        found = self._sorted(record, more) if more or self.nested or self.twice else _NOTHING
        if self.plain and found.keys() <= _PROMPT and (row := self._plain_row(record, found)):
            return row
        needed = {part: (name, record.get(name)) for name, part in self.required.items() if name not in self.nested}
        return self._row(found | needed)

    def _sorted(self, record: dict, more: set[str]) -> dict[str, tuple[str, Any]]:
        """The optional parts that a record has, with column and value; so too those within objects. Under "beside" the
        fields that must say what the row shows, under "notes" those of a ranking."""
        found: dict[str, tuple[str, Any]] = {}
        for name in [*(name for name in record if name in more), *self.nested, *self.twice]:
            part = self.optional.get(name) or self.required.get(name)
            if part:
                value = _at(record, name)
                if value is None or value is _MISSING or value in ("", []):
                    if name in self.required:
                        found[part] = (name, None)
                    continue
                if part in found and found[part][1] != value:
                    hint = f"keep one of {found[part][0]} and {name}, or list one under `ignore:`"
                    raise RowProblem("unsupported_field", name, hint, "two fields of one meaning")
                found[part] = (name, value)
            elif not self._tells(name):
                self._note(name)
                if self.ranks:
                    found.setdefault("notes", ("", []))[1].append((name, record[name]))
                elif len(self.known) < MOST_NAMES:
                    self.known.add(name)
            elif changes(name, record[name]):
                if not is_asking(name):
                    raise unsupported(name)
                found.setdefault("beside", ("", []))[1].append((name, record[name]))
        return found

    def _plain_row(self, record: dict, found: dict[str, tuple[str, Any]]) -> tuple[list[dict], str | None, dict] | None:
        """What `_row` makes, sooner, of a record as most are: texts, or turns in their order; None of another."""
        if "turns" in self.by_part:
            messages = None if found or self.last else self.turns.plain(record.get(self.by_part["turns"]))
            return (messages, final_answer(messages[-1]["content"]), {}) if messages else None
        prompt = found["prompt"][1] if found else record.get(self.by_part.get("prompt", ""))
        texts = [prompt, *(record.get(self.by_part[part]) for part in self.plain)]
        if not all(isinstance(text, str) and is_plain(text) and not _WRITTEN.match(text) for text in texts):
            return None
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": texts[1]}]
        if len(texts) == 2:
            return messages, final_answer(texts[1]), {}
        same = texts[1].strip() == texts[2].strip()
        return None if same else (messages, final_answer(texts[1]), {"rejected": texts[2]})

    # --- the parts together ---

    def _row(self, found: dict[str, tuple[str, Any]]) -> tuple[list[dict], str | None, dict]:
        if "document" in found:
            column, value = found["document"]
            return [{"role": "document", "content": text_of(value, column)}], None, {}
        if "weight" in found and flag(found["weight"][1], found["weight"][0]) is False:
            raise RowProblem(
                "not_trained", found["weight"][0], "nothing to do: the record says that it is not trained on"
            )
        extras: dict[str, Any] = {}
        messages, columns = self._asked(found)
        if "responses" in found:
            self._rank(found)
        if "response" in found:
            column, value = found["response"]
            thought = optional_text(found["thinking"][1], found["thinking"][0]) if "thinking" in found else ""
            told, places = self._side(value, column, thought)
            messages, columns = _joined(messages, columns, told, places)
        if messages[0]["role"] == "assistant" and "prompt" not in found and "turns" not in found:
            raise missing(next((name for name, part in self.optional.items() if part == "prompt"), "prompt"))
        if "rejected" in found:
            extras["rejected"] = self._pair(messages, columns, found)
        if "margin" in found:
            extras["margin"] = _margin(*found["margin"])
        if "beside" in found:
            check_shown(messages, found["beside"][1])
        answer = self._answer(found)
        if check := check_of(*reversed(found["check"])) if "check" in found else None:
            extras["check"] = check
        if "tools" in found and (tools := tools_of(*reversed(found["tools"]))):
            extras["tools"] = tools
        if "label" in found and (label := self._label(*found["label"])) is not None:
            extras["label"] = label
        answered = "response" in found or messages[-1]["role"] == "assistant" or not (answer or check)
        if "answer" in self.required.values() and "response" not in found:
            answered = False
        check_order(messages, columns, answered)
        if answered:
            self._train(messages, columns)
            answer = answer or final_answer(messages[-1]["content"])
        return messages, answer, extras

    def _asked(self, found: dict[str, tuple[str, Any]]) -> tuple[list[dict], list[str]]:
        """What comes before the response, or the whole conversation."""
        messages: list[dict] = []
        columns: list[str] = []
        if "system" in found and (system := optional_text(found["system"][1], found["system"][0])):
            messages, columns = [{"role": "system", "content": system}], [found["system"][0]]
        if "history" in found:
            _add_history(found["history"][1], found["history"][0], messages, columns)
        if "turns" in found:
            column, value = found["turns"]
            turns, places = self.turns.read(value, column)
            # Files may give the system turn twice.
            same = bool(messages) and turns[0] == messages[0]
            return messages + turns[same:], columns + places[same:]
        if "prompt" not in found:
            return messages, columns
        column, value = found["prompt"]
        value = _unwritten(value, column)
        if isinstance(value, list) and value and isinstance(value[0], dict):
            turns, places = self.turns.read(value, column)
        else:
            prompt = text_of(value, column)
            more = optional_text(found["input"][1], found["input"][0]) if "input" in found else ""
            turns, places = [{"role": "user", "content": f"{prompt}\n{more}" if more else prompt}], [column]
        return messages + turns, columns + places

    def _side(self, value: Any, column: str, thought: str = "") -> tuple[list[dict], list[str]]:
        """The turns of a response: a text, a turn, or a list of turns."""
        value = _unwritten(value, column)
        if isinstance(value, dict):
            value = [value]
        if isinstance(value, str) and value.startswith(_ASKED):
            value = transcript(value)
        if not (isinstance(value, list) and value and isinstance(value[0], dict)):
            text_of(value, column)
            return [said(value, thought, column)], [column]
        if thought:
            hint = "give the reasoning in the turn that it belongs to"
            raise RowProblem("unsupported_field", column, hint, "a list of turns beside a field of reasoning")
        return self.turns.read(value, column)

    def _rank(self, found: dict[str, tuple[str, Any]]) -> None:
        """Put the best of several responses in the place of the response, and the worst in that of the rejected one."""
        column, responses = found["responses"]
        responses = from_text(responses, column, "a list of responses")
        if not isinstance(responses, list) or len(responses) < 2:
            raise wrong_type(column, "a list of two responses or more", responses)
        best, worst = 0, len(responses) - 1
        if "scores" in found:
            at, scores = found["scores"]
            scores = from_text(scores, at, "a list of numbers")
            if not _are_scores(scores, len(responses)):
                raise wrong_type(at, f"a list of {len(responses)} numbers, one for each response", scores)
            best, worst = scores.index(max(scores)), scores.index(min(scores))
            if best == worst:
                hint = "remove the record, or give it a response that is worse than another"
                raise RowProblem("equal_pair", at, hint, "all scores are equal")
        else:
            for name, value in found.get("notes", ("", []))[1]:
                texts = isinstance(value, list) and len(value) == len(responses) and all(map(_is_number, value))
                if texts or _are_scores(value, len(responses)):
                    hint = f"are they scores? write columns: {{scores: {name}}}; are they none? ignore: [{name}]"
                    raise RowProblem("unsupported_field", name, hint, "a number for each response")
        found["response"] = (f"{column}[{best}]", responses[best])
        found["rejected"] = (f"{column}[{worst}]", responses[worst])

    def _pair(self, messages: list[dict], columns: list[str], found: dict) -> str | list[dict]:
        """The response that is worse than the last turn."""
        column, value = found["rejected"]
        worse, places = self._side(value, column)
        before = messages[:-1]
        other, at = (worse, places) if worse[0]["role"] != "assistant" else (before + worse, columns[:-1] + places)
        if other is worse and messages[0]["role"] == "system" and other[0]["role"] != "system":
            other, at = [messages[0], *worse], [columns[0], *places]
        shared = len(before)
        if other[:shared] != before:
            hint = "both sides must be responses to the same prompt that differ in the last turn"
            raise RowProblem("unlike_prompts", column, hint, "they differ before")
        rest = other[shared:]
        if not rest or (len(rest) == 1 and _same(rest[0], messages[-1])):
            hint = "remove the record, or give it a response that is worse than the chosen one"
            raise RowProblem("equal_pair", column, hint, "both responses are the same text")
        check_order(other, at)
        return rejected_of(rest)

    def _answer(self, found: dict[str, tuple[str, Any]]) -> str | None:
        if "answer" not in found:
            return None
        column, value = found["answer"]
        answer = answer_of(value, column)
        if answer is None and column in self.required:
            raise missing(column)
        return answer

    def _label(self, column: str, value: Any) -> bool | None:
        """Whether a response is good; None of a label that is a note. A number may be a class as well as a mark: it is
        a mark where the format has a label, or the source names it."""
        simple = isinstance(value, bool | int | float | str)
        if simple and column not in self.required and column not in self.unseen and _is_number(value):
            hint = (
                f"is it a mark? write columns: {{label: {column}}}, where 1 is good; is it a class? ignore: [{column}]"
            )
            raise RowProblem("unsupported_field", column, hint, f"found {value}")
        mark = value.strip().lower() if isinstance(value, str) else value
        if simple and mark in GOOD:
            return True
        if simple and mark in BAD:
            return False
        if column in self.required:
            wanted = f"true or false; where it is a class, write ignore: [{column}] and another format"
            raise missing(column) if value is None else wrong_type(column, wanted, value)
        if not simple:
            raise unsupported(column)
        return None

    def _train(self, messages: list[dict], columns: list[str]) -> None:
        """Leave out of training what the source says is not trained on."""
        if self.last:
            for turn in messages[:-1]:
                if turn["role"] == "assistant":
                    turn["train"] = False
        if not any(turn["role"] == "assistant" and turn.get("train", True) for turn in messages):
            hint = "nothing to do: the record says that none of it is trained on"
            raise RowProblem("not_trained", columns[-1].rpartition(".")[0] or columns[-1], hint)


def _are_scores(value: Any, count: int) -> bool:
    """Whether it is a list of so many numbers, or the JSON text of one."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    numbers = isinstance(value, list) and all(
        isinstance(one, int | float) and not isinstance(one, bool) and one == one for one in value
    )
    return numbers and len(value) == count


def _is_number(value: bool | float | str) -> bool:
    return not isinstance(value, bool) and str(value).strip().lstrip("-").replace(".", "", 1).isdigit()


def _margin(column: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= WIDEST:
        raise wrong_type(column, f"a number from 0 to {WIDEST:g}", value)
    return float(value)


def _kept(record: dict, name: str) -> Any:
    """A field as the row has it, None where the record has none."""
    value = _at(record, name)
    return None if value is _MISSING else plain(value, name)


def _unwritten(value: Any, column: str) -> Any:
    """A value; of the JSON text of turns, as a table has them, the turns."""
    return from_text(value, column, "a list of turns") if isinstance(value, str) and _WRITTEN.match(value) else value


def rejected_of(turns: list[dict]) -> str | list[dict]:
    """A worse response as a row has it."""
    return turns[0]["content"] if len(turns) == 1 and turns[0].keys() == {"role", "content"} else turns


def transcript(text: str) -> list[dict]:
    """The turns of a conversation in one text, as HH-RLHF writes them: after an empty line Human: or Assistant:."""
    parts = _SPEAKER.split(text)
    return [
        {"role": role.lower(), "content": said.strip()} for role, said in zip(parts[1::2], parts[2::2], strict=True)
    ]


def _same(one: dict, other: dict) -> bool:
    return one | {"content": one["content"].strip()} == other | {"content": other["content"].strip()}


def _joined(asked: list[dict], columns: list[str], told: list[dict], places: list[str]) -> tuple[list[dict], list[str]]:
    """A prompt and a response; a response that begins with its prompt stands for both."""
    if told and told[0]["role"] != "assistant":
        lead = asked[:1] if asked and asked[0]["role"] == "system" and told[0]["role"] != "system" else []
        if [*lead, *told][: len(asked)] == asked:
            return [*lead, *told], [*columns[: len(lead)], *places]
    return asked + told, columns + places


def _add_history(history: Any, column: str, messages: list[dict], columns: list[str]) -> None:
    history = from_text(history, column, "a list of [question, answer] pairs")
    if not isinstance(history, list):
        raise wrong_type(column, "a list of [question, answer] pairs", history)
    for i, pair in enumerate(history):
        at = f"{column}[{i}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong_type(at, "a [question, answer] pair", pair)
        asked, told = text_of(pair[0], f"{at}[0]"), text_of(pair[1], f"{at}[1]")
        messages += [{"role": "user", "content": asked}, said(told, None, f"{at}[1]")]
        columns += [f"{at}[0]", f"{at}[1]"]


def has(record: dict, name: str) -> bool:
    """Whether a record has a field with a value."""
    return _at(record, name) not in (None, _MISSING)


def _at(record: dict, name: str) -> Any:
    """The value of a field, of `a.b` the key b of the object a; `_MISSING` where there is none."""
    value = record.get(name, _MISSING)
    if value is _MISSING and "." in name:
        value = record
        for key in name.split("."):
            if isinstance(value, str):
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError):
                    return _MISSING
            if not isinstance(value, dict):
                return _MISSING
            value = value.get(key, _MISSING)
    return value
