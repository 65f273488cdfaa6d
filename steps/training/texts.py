"""Rows as few texts in which every reply to be trained stands once, behind what the model is asked before it."""

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from steps.models.chat import Chat, Reply
from steps.models.unfit import Unfit

# Characters that the tokenizer is given at once.
AT_ONCE = 1_000_000
# Of a row with more replies it is seen first whether it is too long: to ask for each takes the square of their number.
FEW_REPLIES = 16


class Part(NamedTuple):
    """A reply within a text: tokens [begin, end) of it are the assistant's, its end mark among them."""

    begin: int
    end: int


class Text(NamedTuple):
    """Tokens that are one conversation, and the replies in it."""

    ids: list[int]
    parts: list[Part]


def texts(chat: Chat, row: dict, last_only: bool = False, most: int | None = None) -> list[Text]:
    """A row as few texts in which each reply to be trained stands once, behind what the model is asked before it.

    The last text ends with the last reply. A template that writes earlier turns otherwise once more follow (Qwen3 takes
    their thoughts out) makes more than one.

    Raises:
        Unfit: the template does not write the row as it is, or nothing of it is to be trained.
    """
    (made,) = texts_of(chat, [row], last_only, most)
    if isinstance(made, Unfit):
        raise made
    return made


def texts_of(chat: Chat, rows: Sequence[dict], last_only: bool, most: int | None = None) -> list[list[Text] | Unfit]:
    """The texts of each row, or why there are none.

    Args:
        most: tokens of the longest text; of a longer one there are none.
    """
    drafts: list[list[list[Reply]] | Unfit] = []
    for row in rows:
        try:
            drafts.append(_standing(_replies(chat, row, last_only, most)))
        except Unfit as unfit:
            drafts.append(unfit)
    written = [_whole(group) for groups in drafts if not isinstance(groups, Unfit) for group in groups]
    # Many rows at once: of one row each, the tokenizer's threads cost more than their work.
    coded = _coded(chat.tokenizer.backend_tokenizer, written)
    finder = Finder(chat.tokenizer)
    made: list[list[Text] | Unfit] = []
    for groups in drafts:
        try:
            found = groups if isinstance(groups, Unfit) else finder.texts([(g, next(coded)) for g in groups])
            if most is not None and not isinstance(found, Unfit):
                check_length(max(len(text.ids) for text in found), most)
            made.append(found)
        except Unfit as unfit:
            made.append(unfit)
    return made


def check_length(tokens: int, most: int) -> None:
    """Raises Unfit where a text has too many tokens."""
    if tokens > most:
        hint = f"longer than max_length {most} tokens; raise it or shorten the row"
        raise Unfit("too_long", "messages", tokens, hint)


def _replies(chat: Chat, row: dict, last_only: bool, most: int | None = None) -> list[Reply]:
    """What of a row is to be trained. Raises Unfit where it cannot be."""
    turns, tools = chat.turns(row["messages"]), row.get("tools")
    if control := chat.controls.search(said(turns, tools)):
        hint = "the tokenizer reads this text as a control token; remove it from the row"
        raise Unfit("control_token", "messages", control[0], hint)
    if turns[0]["role"] == "document":
        raise Unfit("document", "messages", None, "no conversation: documents are trained on by the stage cpt")
    if turns[-1]["role"] != "assistant":
        hint = "nothing to learn from: add the assistant's turn; only stages that sample (rl, opd) take a prompt alone"
        raise Unfit("no_response", "messages", f"the last turn is the {turns[-1]['role']}'s", hint)
    trained = [i for i, turn in enumerate(turns) if turn["role"] == "assistant" and turn.get("train", True)]
    trained = [len(turns) - 1] if last_only else trained
    if not trained:
        raise Unfit("untrained", "messages", None, "every turn of the assistant has train: false; take it from one")
    if most is not None and len(trained) > FEW_REPLIES:
        whole = _whole([chat.reply(turns, trained[-1], tools)])
        check_length(len(chat.tokenizer.backend_tokenizer.encode(whole, add_special_tokens=False).ids), most)
    return [chat.reply(turns, i, tools) for i in trained]


def _standing(replies: list[Reply]) -> list[list[Reply]]:
    """The replies by the texts in which they stand as they are asked for. Each ends with its last reply; last first."""
    groups = []
    while replies:
        whole = replies[-1].prompt + replies[-1].text
        groups.append([reply for reply in replies if whole.startswith(reply.prompt + reply.text[: reply.end])])
        replies = [reply for reply in replies if reply not in groups[-1]]
    return groups


def _coded(backend: Any, written: Sequence[str]) -> Iterator[Any]:
    """The encodings of texts, as many at once as have a million characters: of rows of many turns each is long."""
    begin = 0
    while begin < len(written):
        end, size = begin, 0
        while end < len(written) and size < AT_ONCE:
            size += len(written[end])
            end += 1
        yield from backend.encode_batch(written[begin:end], add_special_tokens=False)
        begin = end


def _whole(group: list[Reply]) -> str:
    return group[-1].prompt + group[-1].text


class Finder:
    """Finds replies among the tokens of a text."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.ids = lru_cache(1024)(lambda text: self.code(text).ids)

    def code(self, text: str) -> Any:
        return self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)

    def texts(self, coded: list[tuple[list[Reply], Any]]) -> list[Text]:
        """The texts of a row, the last one last.

        Args:
            coded: groups of replies, each with the tokenizer's encoding of its text.

        Raises:
            Unfit: the tokenizer makes another text of a reply where its prompt ends.
        """
        made = []
        while coded:
            (group, whole), *coded = coded
            found = [(reply, self.begin(reply, whole)) for reply in group]
            if found[-1][1] is None:
                made.append(self.apart(group[-1], whole))
                found = [(reply, None) for reply in group[:-1]]
            else:
                parts = [Part(at, whole.char_to_token(_last(reply)) + 1) for reply, at in found if at is not None]
                made.append(Text(whole.ids, parts))
            others = [reply for reply, begin in found if begin is None]
            coded += [(group, self.code(_whole(group))) for group in _standing(others)]
        return made[::-1]

    def begin(self, reply: Reply, whole: Any) -> int | None:
        """How many tokens of a text are the reply's prompt as it is asked; None where one lies across its end."""
        if reply.tail is not None:
            token = whole.char_to_token(len(reply.prompt) - len(reply.tail) - 1)
            tail = self.ids(reply.tail) if reply.tail else []
            if token is not None and whole.ids[token + 1 : token + 1 + len(tail)] == tail:
                return token + 1 + len(tail)
        asked = self.code(reply.prompt).ids
        return len(asked) if whole.ids[: len(asked)] == asked else None

    def apart(self, reply: Reply, whole: Any) -> Text:
        """The text of one reply, with a cut where its prompt ends, for the model will be asked that far."""
        asked, answer = self.code(reply.prompt).ids, self.code(reply.text)
        if self.tokenizer.decode(asked + answer.ids) != self.tokenizer.decode(whole.ids):
            hint = "the tokenizer joins the end of the prompt with the answer; begin the answer with a letter"
            raise Unfit("joined_tokens", "messages", f"{reply.text[:20]!r} behind {reply.prompt[-20:]!r}", hint)
        end = len(asked) + answer.char_to_token(reply.end - 1) + 1
        return Text(asked + answer.ids, [Part(len(asked), end)])


def _last(reply: Reply) -> int:
    """The place of the last character of its end mark."""
    return len(reply.prompt) + reply.end - 1


def said(turns: Sequence[dict], tools: list[dict] | None = None) -> str:
    """All text of a row."""
    texts = [turn["content"] for turn in turns]
    texts += [turn[key] for turn in turns for key in ("thinking", "name") if turn.get(key)]
    given = [*(turn["tool_calls"] for turn in turns if turn.get("tool_calls")), *([tools] if tools else [])]
    return "\n".join([*texts, *(json.dumps(value, ensure_ascii=False) for value in given)])


def skip(row: dict, unfit: Unfit, step: str) -> dict:
    """A row that is not trained on, as the data steps record it."""
    place = {key: row[key] for key in ("id", "file", "line", "row")}
    excerpt = said(row["messages"])[:200].encode("unicode_escape").decode()[:200]
    return place | {
        "column": unfit.column,
        "reason": unfit.reason,
        "hint": unfit.hint,
        "step": step,
        "detail": unfit.detail,
        "excerpt": excerpt,
    }
