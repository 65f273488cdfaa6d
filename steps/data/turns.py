"""The turns of a raw record as turns of a row: roles, content, thinking, calls of tools, what is trained, their order.

`data/README.md` has the schema of a row's turns, and every reason for which a row is quarantined.
"""

import re
from itertools import islice
from typing import Any

from steps.data.rows import RowProblem
from steps.data.values import (
    MOST_NAMES,
    check_unicode,
    flag,
    from_text,
    is_blank,
    is_plain,
    missing,
    optional_text,
    plain,
    text_of,
    unsupported,
    wrong_type,
)
from steps.settings.formats import changes, is_telling

# What sources call a role, to what a row calls it; `call` is a turn of the assistant's that is a call of tools.
ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "function_response": "tool",
    "ipython": "tool",
    "function_call": "call", "tool_call": "call",
}  # fmt: skip
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
THINKING_KEYS = ("reasoning_content", "reasoning", "thinking")
TRAIN_KEYS = ("weight", "train", "training", "trainable", "loss", "loss_weight")
_KNOWN = frozenset(
    (*ROLE_KEYS, *CONTENT_KEYS, *THINKING_KEYS, *TRAIN_KEYS, "name", "tool_calls", "function_call", "tool_call_id")
)
# Of a part of a content, what it calls its text.
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text"}
_THOUGHTS = {"thinking": "thinking", "reasoning": "text"}
_TAG = re.compile(r"</?think>")
_PLAIN, _TALK = {"role", "content"}, ("user", "assistant")
_OF_ASSISTANT = ("assistant", "call")


# --- one turn ------------------------------------------------------------------------------------


class Turns:
    """Reads turns.

    Args:
        keys: what a source calls "role" and "content", where `columns` says it.
        ignore: keys of a turn that do not matter.
    """

    def __init__(self, keys: dict[str, str] | None = None, ignore: frozenset[str] = frozenset()):
        keys = keys or {}
        self.role_keys = (keys["role"],) if "role" in keys else ROLE_KEYS
        self.content_keys = (keys["content"],) if "content" in keys else CONTENT_KEYS
        self.ignore = ignore
        self.harmless = {*_KNOWN, *self.role_keys, *self.content_keys, *ignore}

    def plain(self, turns: Any) -> list[dict] | None:
        """What `read` and `check_order` make, sooner, of turns as most are: system or not, then user and assistant in
        turn, each with a plain text and no more; None of others."""
        if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[0], dict):
            return None
        role_key = next((key for key in self.role_keys if key in turns[0]), "")
        content_key = next((key for key in self.content_keys if key in turns[0]), "")
        messages: list[dict] = []
        expected = "user"
        for turn in turns:
            if not isinstance(turn, dict) or len(turn) != 2:
                return None
            given, content = turn.get(role_key), turn.get(content_key)
            if not isinstance(given, str) or not isinstance(content, str) or not is_plain(content):
                return None
            role = ROLES.get(given)
            if role == expected:
                expected = "assistant" if role == "user" else "user"
            elif role != "system" or messages:
                return None
            messages.append({"role": role, "content": content})
        return messages if expected == "user" and len(messages) > 1 else None

    def read(self, value: Any, at: str) -> tuple[list[dict], list[str]]:
        """The turns of a list, or of the JSON text of one, without regard to their order; and the column of each.

        Raises:
            RowProblem: a turn cannot be read.
        """
        turns = from_text(value, at, "a list of turns")
        if turns is None:
            raise missing(at)
        if not isinstance(turns, list):
            raise wrong_type(at, "a list of turns", turns)
        if not turns:
            raise RowProblem("empty_turn", at, "remove the record, or give it a user and an assistant turn", "no turns")
        read: list[dict] = []
        columns: list[str] = []
        names: dict[str, str] = {}
        rank: dict[str, int] = {}
        came: list[str | None] = []
        for i, turn in enumerate(turns):
            here = f"{at}[{i}]"
            if not isinstance(turn, dict):
                raise wrong_type(here, f"an object with {self.role_keys[0]!r} and {self.content_keys[0]!r}", turn)
            role_key, role = self._role(turn, here)
            # As most turns are.
            if turn.keys() == _PLAIN and isinstance(turn["content"], str) and role in _TALK:
                column = f"{here}.content"
                content = text_of(turn["content"], column)
                made = {"role": role, "content": content}
                made = said(content, None, column) if role == "assistant" and "think>" in content else made
            else:
                made = self._turn(turn, here, role, read, names)
            if made is not None:
                # Results follow their calls in the order of the calls, whatever came first.
                place, call = len(read), turn.get("tool_call_id") if role == "tool" else None
                while call in rank and place and rank.get(came[place - 1], -1) > rank[call]:
                    place -= 1
                read.insert(place, made)
                columns.insert(place, f"{here}.{role_key}")
                came.insert(place, call)
            # Those that are new: a row may have thousands.
            rank |= {call: len(rank) + at for at, call in enumerate(islice(names, len(rank), None))}
        if not read:
            raise RowProblem("role_order", f"{here}.{role_key}", "add what the user asks", "no turn of the user's")
        return read, columns

    def _turn(self, turn: dict, at: str, role: str, read: list[dict], names: dict[str, str]) -> dict | None:
        """One turn after others; None where it says nothing, or belongs to the one before.

        Args:
            names: the tool of each call by the call's id.
        """
        if more := turn.keys() - self.harmless:
            self._judge(turn, more, at)
        trained = self._trained(turn, at, role)
        key = next((key for key in self.content_keys if key in turn), self.content_keys[0])
        column = f"{at}.{key}"
        content, thought = _content(turn.get(key), column)
        thought = _one_thought(turn, thought, at)
        if role not in _OF_ASSISTANT:
            self._check_others(turn, thought, at)
        made: dict[str, Any]
        if role == "tool":
            made = self._result(turn, at, content, column, read, names)
        elif role == "user":
            made = {"role": role, "content": text_of(content, column)}
        elif role == "system":
            made = {"role": role, "content": optional_text(content, column)}
            return made if made["content"] else None
        elif role == "assistant":
            made = said(content, thought, column, _calls(turn, at, names))
        else:
            calls = called(from_text(content, column, "a call {name, arguments}"), column, names)
            if read and read[-1]["role"] == "assistant":
                read[-1]["tool_calls"] = [*read[-1].get("tool_calls", ()), *calls]
                read[-1] |= {"train": False} if trained is False else {}
                return None
            made = said("", thought, column, calls)
        return made | {"train": False} if trained is False and made["role"] == "assistant" else made

    def _role(self, turn: dict, at: str) -> tuple[str, str]:
        key = next((key for key in self.role_keys if turn.get(key) is not None), None)
        if key is None:
            raise missing(f"{at}.{self.role_keys[0]}")
        given = turn[key]
        if not isinstance(given, str):
            raise wrong_type(f"{at}.{key}", "a string", given)
        role = ROLES.get(given) or ROLES.get(given.lower())
        if role is None:
            hint = f"use one of {', '.join(ROLES)}, or remove the record"
            raise RowProblem("unknown_role", f"{at}.{key}", hint, f"found {given!r}")
        return key, role

    def _judge(self, turn: dict, more: set[str], at: str) -> None:
        for key in sorted(more):
            if not is_telling(key):
                if len(self.harmless) < MOST_NAMES:
                    self.harmless.add(key)
            elif changes(key, turn[key]):
                raise unsupported(f"{at}.{key}")

    def _check_others(self, turn: dict, thought: str, at: str) -> None:
        """Refuse what the assistant alone does in a turn of another role."""
        if thought:
            raise RowProblem("unsupported_field", at, "the assistant alone thinks; remove the reasoning of this turn")
        for key in ("tool_calls", "function_call"):
            if turn.get(key) and key not in self.ignore:
                hint = "the assistant alone calls tools; give the call to its turn"
                raise RowProblem("unsupported_field", f"{at}.{key}", hint)

    def _trained(self, turn: dict, at: str, role: str) -> bool | None:
        """False where a turn says that it is not trained on."""
        trained = None
        for key in TRAIN_KEYS:
            if key not in turn or key in self.ignore:
                continue
            said_so = flag(turn[key], f"{at}.{key}")
            if said_so and role not in _OF_ASSISTANT:
                raise RowProblem(
                    "unsupported_weight",
                    f"{at}.{key}",
                    "the assistant's turns alone are trained on; write 0",
                    "found 1",
                )
            trained = said_so if trained is None else trained and said_so is not False
        return trained

    def _result(self, turn: dict, at: str, content: Any, column: str, read: list[dict], names: dict[str, str]) -> dict:
        """What a tool returned, which may be nothing; with the name of the tool where it can be told."""
        if not isinstance(content, str | None):
            raise wrong_type(column, "a string or nothing", content)
        check_unicode(content or "", column)
        call = optional_text(turn.get("tool_call_id"), f"{at}.tool_call_id")
        if call and names and call not in names:
            hint = "name a call of the turn before, or remove the record"
            raise RowProblem("role_order", f"{at}.tool_call_id", hint, f"no call {call!r}")
        name = optional_text(turn.get("name"), f"{at}.name") or names.get(call, "") or _next_called(read)
        return {"role": "tool", "content": content or ""} | ({"name": name} if name else {})


def _one_thought(turn: dict, found: str, at: str) -> str:
    """The reasoning of a turn, in a field or among the parts of its content (`found`)."""
    thoughts = {found, *(optional_text(turn.get(name), f"{at}.{name}") for name in THINKING_KEYS)} - {""}
    if len(thoughts) > 1:
        raise RowProblem("unsupported_field", at, "give the reasoning of a turn once", "two different ones")
    return thoughts.pop() if thoughts else ""


def _next_called(read: list[dict]) -> str:
    """The tool whose result comes next: results without names follow the calls in their order."""
    done = 0
    while done < len(read) and read[-1 - done]["role"] == "tool":
        done += 1
    calls = read[-1 - done].get("tool_calls", ()) if done < len(read) else ()
    return calls[done]["name"] if done < len(calls) else ""


def _content(value: Any, column: str) -> tuple[Any, str]:
    """A content, of parts their texts together; and the reasoning among the parts."""
    if not isinstance(value, list):
        return value, ""
    texts, thoughts = [], []
    for i, part in enumerate(value):
        at = f"{column}[{i}]"
        if isinstance(part, str):
            texts.append(part)
            continue
        if not isinstance(part, dict):
            raise wrong_type(at, "a part: an object with a type, or a text", part)
        of = part.get("type", "text")
        if isinstance(of, str) and of in _TEXTS:
            texts.append(_part_text(part.get(_TEXTS[of]), at))
        elif isinstance(of, str) and of in _THOUGHTS:
            thoughts.append(_part_text(part.get(_THOUGHTS[of]), at))
        else:
            hint = "only parts of text can be trained on; take the record out"
            raise RowProblem("unsupported_content", at, hint, f"a part of the type {of!r}")
    return "".join(texts), "".join(thoughts)


def _part_text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise wrong_type(at, "a part with a text", value)
    return value


def said(content: Any, thought: str | None, column: str, calls: list[dict] | None = None) -> dict:
    """A turn of the assistant's: its reasoning apart from its content, which may be empty beside calls of tools.

    Raises:
        RowProblem: thinking_tags: they are not one <think> … </think> before the content.
    """
    if calls:
        content = "" if content is None or (isinstance(content, str) and is_blank(content)) else content
    content = text_of(content, column) if not calls or content else ""
    if "think>" in content and _TAG.search(content):
        found, content = _thought(content, column)
        if found and thought:
            raise RowProblem("thinking_tags", column, "give the reasoning once", "in tags and in a field of its own")
        thought = found or thought
        if not calls:
            text_of(content, column)
    if thought and _TAG.search(thought):
        raise RowProblem("thinking_tags", column, "remove the tags from the reasoning", "a tag within the reasoning")
    made: dict[str, Any] = {"role": "assistant", "content": content}
    if thought:
        made["thinking"] = thought
    if calls:
        made["tool_calls"] = calls
    return made


def _thought(content: str, column: str) -> tuple[str, str]:
    hint = "write <think> once before the reasoning, and </think> once after it"
    begin, opened, rest = content.partition("<think>")
    inner, closed, after = rest.partition("</think>")
    if not opened or not is_blank(begin):
        raise RowProblem("thinking_tags", column, hint, "a tag that does not begin the response")
    if not closed:
        raise RowProblem("thinking_tags", column, hint, "<think> is not closed")
    if _TAG.search(inner) or _TAG.search(after):
        raise RowProblem("thinking_tags", column, hint, "more than one block of reasoning")
    return ("" if is_blank(inner) else inner.strip("\r\n")), after.lstrip("\r\n")


def _calls(turn: dict, at: str, names: dict[str, str]) -> list[dict]:
    """The calls of an assistant's turn: a list of them, or the single one of older files."""
    calls: list[dict] = []
    for key in ("tool_calls", "function_call"):
        given = from_text(turn.get(key), f"{at}.{key}", "a list of calls")
        calls += called(given, f"{at}.{key}", names) if given else []
    return calls


def called(given: Any, at: str, names: dict[str, str]) -> list[dict]:
    """One call or a list of calls as {"name", "arguments": object}; `names` learns their ids."""
    if not given:
        raise missing(at)
    made = []
    for i, call in enumerate(given if isinstance(given, list) else [given]):
        here = f"{at}[{i}]" if isinstance(given, list) else at
        inner = call.get("function") or call if isinstance(call, dict) else call
        if not isinstance(inner, dict):
            raise wrong_type(here, "a call {name, arguments}", inner)
        name = text_of(inner.get("name"), f"{here}.name")
        arguments = from_text(inner.get("arguments"), f"{here}.arguments", "an object")
        arguments = {} if arguments is None else arguments
        if not isinstance(arguments, dict):
            raise wrong_type(f"{here}.arguments", "an object, or the JSON text of one", arguments)
        made.append({"name": name, "arguments": plain(arguments, f"{here}.arguments")})
        if isinstance(call.get("id"), str):
            names[call["id"]] = name
    return made


def tools_of(value: Any, column: str) -> list[dict]:
    """The descriptions of tools as chat templates take them: {"type": "function", "function": {"name", …}}."""
    given = from_text(value, column, "a list of tools")
    if not given:
        return []
    if not isinstance(given, list):
        raise wrong_type(column, "a list of tools, or the JSON text of one", given)
    tools = []
    for i, tool in enumerate(given):
        at = f"{column}[{i}]"
        tool = from_text(tool, at, "an object")
        if not isinstance(tool, dict):
            raise wrong_type(at, "an object", tool)
        inner = tool.get("function", tool)
        if not isinstance(inner, dict):
            raise wrong_type(f"{at}.function", "an object", inner)
        text_of(inner.get("name"), f"{at}.name")
        tools.append(plain(tool if "function" in tool else {"type": "function", "function": tool}, at))
    return tools


# --- their order ---------------------------------------------------------------------------------


def check_order(messages: list[dict], columns: list[str], answered: bool = True) -> None:
    """One system turn at most, first; user and assistant in turn; after calls of tools their results.

    Args:
        columns: of each turn.
        answered: whether the last turn is the assistant's, or the user's.

    Raises:
        RowProblem: role_order.
    """
    expected, before = "user", ""
    for i, turn in enumerate(messages):
        role = turn["role"]
        if role == "system" and i == 0:
            continue
        if role != expected and not (role == "assistant" and before == expected == "tool"):
            hint = "turns must be: at most one system turn first, then user and assistant alternating"
            hint += ", and the results of tools after the assistant's calls"
            raise RowProblem("role_order", columns[i], hint, f"{role!r} where the {expected}'s turn is")
        if role == "assistant":
            expected = "tool" if "tool_calls" in turn else "user"
        elif role == "user":
            expected = "assistant"
        before = role
    if before != ("assistant" if answered else "user"):
        missing_answer = "add the assistant's answer, name the field of a verifiable one (columns: {answer: its name}),"
        hint = f"{missing_answer} or remove the last turn" if answered else "end with what the user asks"
        who = "assistant" if answered else "user"
        raise RowProblem("role_order", columns[-1], hint, f"the last turn is not the {who}'s")
