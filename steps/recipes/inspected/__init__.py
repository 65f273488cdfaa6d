"""Rows as the stage of a recipe makes tokens of them, cut into runs that look alike."""

import re
from collections.abc import Iterable
from random import Random
from typing import Any, NamedTuple

from steps.models.chat import Chat
from steps.recipes.preferences import sides
from steps.settings.stages import STAGES
from steps.training.documents import encode_corpus
from steps.training.texts import Part, Text, check_length, texts


class Run(NamedTuple):
    """A stretch of a text: is it trained, a mark of the tokenizer's, a thought?"""

    text: str
    trained: bool
    mark: bool
    thought: bool


class Shown(NamedTuple):
    """A row: its texts as runs, their tokens and how many of these are trained, and what of the row is in none."""

    row: dict
    texts: list[list[Run]]
    tokens: int
    trained: int
    cut: list[str]


def drawn(rows: Iterable[dict], most: int, seed: int) -> list[dict]:
    """At most so many rows, each as likely as any other, in their order (reservoir sampling)."""
    random, kept = Random(seed), []
    for i, row in enumerate(rows):
        if i < most:
            kept.append((i, row))
        elif (place := random.randrange(i + 1)) < most:
            kept[place] = (i, row)
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])]


def seen(chat: Chat, row: dict, stage: str, settings: dict) -> list[Text]:
    """The texts that a stage makes of a row.

    Raises:
        Unfit: it leaves the row out.
    """
    turns, tools = row["messages"], row.get("tools")
    if turns[0]["role"] == "document":
        (encoded,) = encode_corpus(chat.tokenizer, [turns[0]["content"]])
        made = [Text(encoded["input_ids"], [Part(0, len(encoded["input_ids"]))])]
    elif STAGES[stage].samples or STAGES[stage].taught:
        asked = chat.turns(turns[:-1] if turns[-1]["role"] == "assistant" else turns)
        ids = chat.tokenizer.backend_tokenizer.encode(chat.asked(asked, tools), add_special_tokens=False).ids
        made = [Text(ids, [])]
    elif not STAGES[stage].writes:
        made = [text for side in sides(row) for text in texts(chat, row | {"messages": side}, last_only=True)]
    else:
        made = texts(chat, row, most=settings.get("max_length"))
        if not settings.get("completion_only_loss", True):
            made[-1] = Text(made[-1].ids, [Part(0, len(made[-1].ids))])
    if (most := settings.get("max_length")) is not None:
        check_length(max(len(text.ids) for text in made), most)
    return made


def runs(text: Text, tokenizer: Any, thoughts: list[str]) -> list[Run]:
    """A text cut where its training, its marks and its thoughts begin and end."""
    marks = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    trained = [False] * len(text.ids)
    for begin, end in text.parts:
        trained[begin:end] = [True] * (end - begin)
    looks = [(is_trained, token in marks) for token, is_trained in zip(text.ids, trained, strict=True)]
    starts = [i for i in range(len(looks)) if not i or looks[i] != looks[i - 1]]
    pattern = re.compile("|".join(map(re.escape, sorted(thoughts, key=len, reverse=True))) or "$^")
    made = []
    for start, end in zip(starts, [*starts[1:], len(looks)], strict=True):
        said, at = tokenizer.decode(text.ids[start:end]), 0
        for found in pattern.finditer(said):
            made += [Run(said[at : found.start()], *looks[start], False), Run(found[0], *looks[start], True)]
            at = found.end()
        made.append(Run(said[at:], *looks[start], False))
    return [run for run in made if run.text]


def shown(chat: Chat, row: dict, made: list[Text]) -> Shown:
    """A row as it is shown."""
    turns = Chat(chat.tokenizer).turns(row["messages"], strict=False)
    if not any(text.parts for text in made) and turns[-1]["role"] == "assistant":
        # A prompt: the model writes an answer of its own.
        turns = turns[:-1]
    thoughts = [turn["thinking"] for turn in turns if turn.get("thinking")]
    whole = "\n".join(chat.tokenizer.decode(text.ids) for text in made)
    said = [(f"messages[{i}].{key}", turn.get(key)) for i, turn in enumerate(turns) for key in ("thinking", "content")]
    return Shown(
        row=row,
        texts=[runs(text, chat.tokenizer, thoughts) for text in made],
        tokens=sum(len(text.ids) for text in made),
        trained=sum(part.end - part.begin for text in made for part in text.parts),
        cut=[place for place, text in said if text and text not in whole],
    )
