"""A conversation as a model's chat template writes it: what is asked, what answers it, and where the answer ends.

A turn is {"role", "content"} and may have "thinking", "tool_calls" ({"name", "arguments"}) and, of a tool, "name".
What is asked is what the template writes, word for word. What answers is put together here: the template shows once how
it frames an assistant's turn, with marks in place of its texts, and the texts go where the marks stand. So a text that
is trained begins with the one that is asked, whatever the template does to earlier turns, and no template changes what
was said.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from steps.judges.reading import marks_thinking
from steps.models import checkpoints
from steps.models.files import one_line
from steps.models.unfit import Unfit
from steps.settings.base import THINKING

OPEN, CLOSE = "<think>", "</think>"
TAGS = re.compile(f"{OPEN}|{CLOSE}")
# What stands between a thought and its answer where the template does not say: as Qwen's and DeepSeek's have it.
CLOSING = f"\n{CLOSE}\n\n"
# What templates call the text of a thought: Qwen's, DeepSeek's and GLM's; gpt-oss's; Gemma's.
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
# In place of the content (c) or thought (t) of a turn. Letters and digits, which no filter of a template changes.
MARK = re.compile(r"Zq9mark([ct])(\d+)qZ")
CONTENT, THOUGHT = "Zq9markc0qZ", "Zq9markt0qZ"
QUESTION = [{"role": "user", "content": "Zq9markc1qZ"}]
LOOKED = [
    *QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [{"name": "look", "arguments": {"at": "it"}}]},
    {"role": "tool", "content": "Zq9markc2qZ"},
]


class Reply(NamedTuple):
    """An assistant's turn as it is asked for and answered.

    Attributes:
        prompt: what the model sees, open for its answer.
        text: what follows, as far as the template writes it.
        end: characters of `text` up to the end of the mark that ends the turn: what is trained.
        tail: what of the prompt follows the last token that the tokenizer's file adds to its vocabulary. It cuts text
            there, whatever stands on either side. None where the prompt is not known to have one.
    """

    prompt: str
    text: str
    end: int
    tail: str | None


class Frame(NamedTuple):
    """How a template writes an answer: its text with marks, how much of it follows the end mark, what opens it, and the
    `tail` of that."""

    text: str
    after: int
    opening: str
    tail: str | None


class Chat:
    """The chat template of a tokenizer.

    Args:
        thinking: what becomes of thoughts, one of `THINKING`.

    Attributes:
        opens: prompts end inside of a thought, as those of R1 and Qwen3.5 do.
        controls: finds what a row may not say.

    Raises:
        ValueError: there is no template, or it takes no question.
    """

    def __init__(self, tokenizer: Any, thinking: str = THINKING[0]):
        self.tokenizer, self.thinking = tokenizer, thinking
        if tokenizer.chat_template is None:
            raise ValueError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template; name one by models.<name>.chat_template"
            )
        added = {*tokenizer.all_special_tokens, *(t.content for t in tokenizer.added_tokens_decoder.values())}
        special = {i: token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._unsaid = frozenset(i for i, token in special.items() if not marks_thinking(token))
        self._keeps_marks = len(self._unsaid) < len(special)
        self._added = re.compile("|".join(re.escape(token) for token in sorted(added, key=len, reverse=True)) or "$^")
        self.controls = checkpoints.control_tokens(tokenizer)
        self._takes_text = False
        self._frame = lru_cache(1024)(self._new_frame)
        self._marked = lru_cache(1024)(self._new_marked)
        self._shows = lru_cache(1024)(self._new_shows)
        self.opens = self.write(QUESTION, None, True).rstrip().endswith(OPEN)

    def check(self) -> None:
        """Raise a ValueError where no answer can be trained: the template drops it, writes no end behind it, or changes
        the question when an answer follows."""
        try:
            self._frame(True, False, False, "", "")
        except Unfit as error:
            raise ValueError(f"{self.tokenizer.name_or_path}: {error}") from error

    @property
    def end(self) -> str | None:
        """The token with which the template ends an answer; None where it ends it by none."""
        try:
            frame = self._frame(True, False, False, "", "")
        except Unfit:
            return None
        return [mark[0] for mark in self._added.finditer(frame.text[: len(frame.text) - frame.after])][-1]

    def turns(self, messages: list[dict], strict: bool = True) -> list[dict]:
        """The turns of a row: a developer's are the system's, and a thought at the head of a content stands by itself.

        Args:
            strict: tags of a thought that are not closed, not opened or there more than once are an error; else text.

        Raises:
            Unfit: they are.
        """
        made = []
        for i, message in enumerate(messages):
            turn = dict(message)
            if turn["role"] == "developer":
                turn["role"] = "system"
            elif turn["role"] == "assistant":
                try:
                    turn |= self._apart(turn, f"messages[{i}]")
                except Unfit:
                    if strict:
                        raise
                if self.thinking == "emptied" or not (turn.get("thinking") or "").strip():
                    turn.pop("thinking", None)
            made.append(turn)
        return made

    def _apart(self, turn: dict, place: str) -> dict:
        """The content and the thought of an assistant's turn that has both in its content."""
        content, thought = turn["content"], turn.get("thinking") or ""
        if tags := TAGS.findall(thought):
            raise Unfit("thinking_tags", f"{place}.thinking", " ".join(tags[:4]))
        tags = TAGS.findall(content)
        if not tags:
            return {}
        is_whole = tags == [OPEN, CLOSE] and content.lstrip().startswith(OPEN)
        if thought or not (is_whole or (self.opens and tags == [CLOSE])):
            raise Unfit("thinking_tags", f"{place}.content", " ".join(tags[:4]))
        inside, _, rest = content.partition(CLOSE)
        return {"content": rest.lstrip("\n"), "thinking": inside.lstrip().removeprefix(OPEN).strip("\n")}

    def write(self, turns: list[dict], tools: list[dict] | None, is_open: bool) -> str:
        """What the template writes of `turns`, open for the assistant or closed.

        Raises:
            Unfit: it refuses them.
        """
        try:
            return self._write(turns, tools, is_open)
        except MemoryError:
            raise
        # A template may raise whatever its filters raise.
        except Exception as error:
            if not self._takes_text and any(turn.get("tool_calls") for turn in turns):
                # DeepSeek's joins the arguments of a call to text.
                self._takes_text = True
                try:
                    return self._write(turns, tools, is_open)
                except Exception:
                    self._takes_text = False
            raise Unfit("template_refuses", "messages", one_line(error)) from error

    def _write(self, turns: list[dict], tools: list[dict] | None, is_open: bool) -> str:
        messages: list[dict] = []
        waiting: list[tuple[str, str]] = []
        for turn in turns:
            message: dict[str, Any] = {"role": turn["role"], "content": turn["content"]}
            if turn.get("thinking"):
                message |= dict.fromkeys(THOUGHT_KEYS, turn["thinking"])
            if calls := turn.get("tool_calls"):
                # Mistral's asks for nine letters or digits. The same in each turn, wherever it stands.
                waiting = [(f"call{i:05}", call["name"]) for i, call in enumerate(calls)]
                message["tool_calls"] = [
                    {"id": name, "type": "function", "function": self._function(call)}
                    for (name, _), call in zip(waiting, calls, strict=True)
                ]
            elif turn["role"] == "tool":
                name, function = waiting.pop(0) if waiting else ("call00000", "")
                message |= {"name": turn.get("name") or function, "tool_call_id": name}
            messages.append(message)
        described = [{"type": "function", "function": _described(tool)} for tool in tools or []]
        return self.tokenizer.apply_chat_template(
            messages, tools=described or None, tokenize=False, add_generation_prompt=is_open
        )

    def _function(self, call: dict) -> dict:
        arguments = call["arguments"]
        return {
            "name": call["name"],
            "arguments": json.dumps(arguments, ensure_ascii=False) if self._takes_text else arguments,
        }

    def opened(self, messages: list[dict]) -> str:
        """What a model sees that is asked to go on with a conversation, whatever becomes of what is said in it.

        Args:
            messages: turns; the first has `tools`, where there are some.

        Raises:
            Unfit: the template refuses them.
        """
        return self.write(self.turns(messages, strict=False), messages[0].get("tools"), is_open=True)

    def refusal(self, messages: list[dict]) -> Unfit | None:
        """Why a model cannot be asked to go on with a conversation; None where it can."""
        try:
            self.opened(messages)
        except Unfit as unfit:
            return unfit
        return None

    def texts(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """What a model wrote, without special tokens, but for those that mark thinking: Mistral's and gpt-oss's are
        special, and who judges an answer would find it in the thought."""
        kept = [[i for i in row if i not in self._unsaid] for row in ids] if self._keeps_marks else ids
        return self.tokenizer.batch_decode(kept, skip_special_tokens=not self._keeps_marks) if len(kept) else []

    def reopened(self, response: str) -> str:
        """A response as it reads alone. One that never closes the thought which its prompt `opens` begins with the mark
        of it: who judges it would take something in the thought for the answer."""
        return f"{OPEN}\n{response}" if self.opens and CLOSE not in response else response

    def closed(self, messages: list[dict]) -> Reply:
        """The last turn behind what is `opened` by those before it.

        Raises:
            Unfit: as `answered`.
        """
        turns = self.turns(messages, strict=False)
        return self.answered(turns, len(turns) - 1, self.opened(messages[:-1]), messages[0].get("tools"))

    # --- what is asked -----------------------------------------------------------------------------

    def asked(self, turns: list[dict], tools: list[dict] | None = None) -> str:
        """What the model sees before it writes the turn that follows `turns`, with all that they say in it.

        An earlier answer may lack its thought and the white space around it there, as it will when the model is asked.

        Raises:
            Unfit: the template refuses the conversation, or drops or changes what others say in it, a tool or a call.
        """
        text = self.write(turns, tools, True)
        marked = [
            {**turn, "content": turn["content"] and f"Zq9markc{i}qZ"}
            | ({"thinking": f"Zq9markt{i}qZ"} if "thinking" in turn else {})
            for i, turn in enumerate(turns)
        ]
        described = json.dumps(tools) if tools else ""
        _check_unmarked([turn.get(key) for turn in turns for key in ("tool_calls", "name")], tools)
        frame = self._marked(json.dumps(marked), described)
        found = {int(mark[2]) for mark in MARK.finditer(frame) if mark[1] == "c"}
        for i, turn in enumerate(turns):
            # gpt-oss takes what stands beside a call for a thought.
            if turn["content"] and i not in found and not turn.get("tool_calls"):
                raise Unfit("template_drops", f"messages[{i}].content", f"the {turn['role']} turn is not there")
            if turn.get("tool_calls"):
                self._framed(turns, i, tools, content=False, thought=False)
        if tools and not self._shows(described):
            raise Unfit("template_drops", "tools", "a tool or a parameter of one is not there")
        if any(text in _filled(frame, *said) for said in _seen(turns)):
            return text
        for i, turn in enumerate(turns):
            if turn["content"] not in text and turn["role"] != "assistant":
                is_cut = turn["content"].strip() in text
                detail = "white space around it is taken away" if is_cut else f"the {turn['role']} turn is changed"
                raise Unfit("template_changes", f"messages[{i}].content", detail)
        raise Unfit("template_changes", "messages", "it is another conversation")

    def _new_marked(self, turns: str, tools: str) -> str:
        return self.write(json.loads(turns), json.loads(tools) if tools else None, True)

    def _new_shows(self, tools: str) -> bool:
        described = json.loads(tools)
        text = self.write(QUESTION, described, True)
        own = [_described(tool) for tool in described]
        parameters = [tool.get("parameters") or {} for tool in own]
        names = [str(tool.get("name", "")) for tool in own]
        return all(name in text for name in (*names, *(key for p in parameters for key in p.get("properties") or {})))

    # --- what answers ------------------------------------------------------------------------------

    def reply(self, turns: list[dict], i: int, tools: list[dict] | None = None) -> Reply:
        """The assistant's turn i as it is asked for and answered.

        Raises:
            Unfit: as `asked` and `answered`.
        """
        return self.answered(turns, i, self.asked(turns[:i], tools), tools)

    def answered(self, turns: list[dict], i: int, prompt: str, tools: list[dict] | None = None) -> Reply:
        """The assistant's turn i behind the prompt that asks for it.

        Raises:
            Unfit: the template refuses the turn, ends it by no token, or has no place for a call or thought of it.
        """
        content, thought = turns[i]["content"], turns[i].get("thinking", "")
        frame = self._framed(turns, i, tools, bool(content), bool(thought))
        if not prompt.endswith(frame.opening):
            raise Unfit("template_changes", f"messages[{i}]", "this answer is opened otherwise than others")
        text, _ = _filled(frame.text, [content], [thought])
        return Reply(prompt, text, len(text) - frame.after, frame.tail)

    def _framed(self, turns: list[dict], i: int, tools: list[dict] | None, content: bool, thought: bool) -> Frame:
        """The frame of turn i with its calls. Raises Unfit where one is not in it."""
        calls, is_behind_tool = turns[i].get("tool_calls"), i > 0 and turns[i - 1]["role"] == "tool"
        _check_unmarked(calls, tools)
        given, described = (json.dumps(value) if value else "" for value in (calls, tools))
        frame = self._frame(content, thought, is_behind_tool, given, described)
        if calls and not _shown(calls, frame.text):
            raise Unfit("template_drops", f"messages[{i}].tool_calls", "a call or an argument is not there")
        return frame

    def _new_frame(self, content: bool, thought: bool, is_behind_tool: bool, calls: str, tools: str) -> Frame:
        """Of an answer with content, thought and calls or without, behind a question or behind what a tool found."""
        described = json.loads(tools) if tools else None
        before = LOOKED if is_behind_tool else QUESTION
        turn: dict[str, Any] = {"role": "assistant", "content": CONTENT if content else ""}
        if calls:
            turn["tool_calls"] = json.loads(calls)
        asked = self.write(before, described, True)
        whole = self.write([*before, turn | ({"thinking": THOUGHT} if thought else {})], described, False)
        is_lost = thought and THOUGHT not in whole
        if is_lost:
            whole = self.write([*before, turn], described, False)
        body = self._body(asked, whole, is_lost)
        if content and CONTENT not in body:
            raise Unfit("template_drops", "messages", "what the assistant says is not there")
        start = body.rindex(CONTENT) + len(CONTENT) if content else 0
        following = LOOKED[-1:] if calls else QUESTION
        body, end = self._ended(body, start, whole, self._tried([*before, turn, *following], described))
        opening = asked[max((mark.end() for mark in MARK.finditer(asked)), default=0) :]
        if not (marks := [*self._added.finditer(opening)]):
            return Frame(body, len(body) - end, opening, None)
        return Frame(body, len(body) - end, opening[marks[-1].start() :], opening[marks[-1].end() :])

    def _body(self, asked: str, whole: str, is_lost: bool) -> str:
        """What of the whole follows what is asked, with a place for a thought that the template loses."""
        if whole.startswith(asked):
            body = whole[len(asked) :]
            if is_lost and self.thinking == "template":
                raise Unfit("thinking_dropped", "messages", "the thought is not there")
            return f"{OPEN}\n{THOUGHT}{CLOSING}{body}" if is_lost else body
        # A prompt that ends inside of a thought, of which there is nothing once the turn is closed.
        base, mark, rest = asked.rpartition(OPEN)
        if not mark or rest.strip() or not whole.startswith(base):
            raise Unfit("template_changes", "messages", "the question is another one when an answer follows")
        body = whole[len(base) :]
        if body.startswith(OPEN):
            return body.removeprefix(OPEN).lstrip("\n")
        return (THOUGHT if is_lost else "") + (body if body.startswith(CLOSE) else f"{CLOSING}{body}")

    def _ended(self, body: str, start: int, whole: str, longer: str) -> tuple[str, int]:
        """An answer with the mark that ends it, and where that is over.

        Args:
            start: from where on the mark is looked for.
            whole: the conversation that the answer closes.
            longer: the same when one more turn follows.
        """
        tail = body[start:]
        _, is_there, later = longer.rpartition(CONTENT)
        # Phi's closes a text besides a turn: what does not stand there when more follows is no end of the turn.
        for text in (os.path.commonprefix([tail, later]) if is_there else "", tail):
            if ends := [mark.end() for mark in self._added.finditer(text)]:
                return body, start + ends[-1]
        # An answer of GLM's ends with the mark that opens the next turn.
        before, after = (tail, later) if is_there else (whole, longer)
        if after.startswith(before) and (mark := self._added.match(after, len(before))):
            return body + mark[0], len(body) + len(mark[0])
        raise Unfit("no_end", "messages", f"{tail!r} follows an answer")

    def _tried(self, turns: list[dict], tools: list[dict] | None) -> str:
        """What the template writes of closed turns; nothing where it refuses them."""
        try:
            return self.write(turns, tools, False)
        except Unfit:
            return ""


def _check_unmarked(*values: Any) -> None:
    """Refuse calls and tools that have a mark of ours: a frame shows them as they are.

    Raises:
        Unfit: reserved_text.
    """
    for value in values:
        if value and (mark := MARK.search(json.dumps(value))):
            raise Unfit("reserved_text", "messages", mark[0])


def _described(tool: dict) -> dict:
    return tool.get("function", tool)


def _seen(turns: list[dict]) -> Iterator[tuple[list[str], list[str]]]:
    """What turns say and think, as they are and as templates show it of earlier answers."""
    for content in (str, str.strip, lambda text: text.lstrip("\n")):
        said = [content(turn["content"]) if turn["role"] == "assistant" else turn["content"] for turn in turns]
        for thought in (str, str.strip, lambda text: text.strip("\n")):
            yield said, [thought(turn.get("thinking", "")) for turn in turns]


def _filled(frame: str, contents: list[str], thoughts: list[str]) -> tuple[str, str]:
    """The frame with the texts in place of its marks, as they are; and those in quotes as JSON writes them."""

    def put(mark: re.Match[str], is_json: bool) -> str:
        text = (contents if mark[1] == "c" else thoughts)[int(mark[2])]
        around = frame[mark.start() - 1 : mark.start()] + frame[mark.end() : mark.end() + 1]
        return json.dumps(text, ensure_ascii=False)[1:-1] if is_json and around == '""' else text

    return MARK.sub(lambda mark: put(mark, False), frame), MARK.sub(lambda mark: put(mark, True), frame)


def _shown(calls: list[dict], text: str) -> bool:
    """Whether every call stands in a text, one after the other, with its arguments."""
    at = 0
    for call in calls:
        at = text.find(call["name"], at)
        if at < 0 or not all(any(form in text for form in forms) for forms in _forms(call["arguments"])):
            return False
        at += len(call["name"])
    return True


def _forms(value: Any) -> Iterator[tuple[str, ...]]:
    """How each key and value of arguments may be written."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _forms(key)
            yield from _forms(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _forms(inner)
    else:
        forms = (json.dumps(value), json.dumps(value, ensure_ascii=False), str(value))
        yield tuple(form[1:-1] if isinstance(value, str) and form is not forms[2] else form for form in forms)
