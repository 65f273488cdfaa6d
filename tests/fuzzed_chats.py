"""Fuzzed conversations through the chat templates of `tests/chats.py`: each is trained as it is by hand, or left out.

Run as: python -m tests.fuzzed_chats 2000    so many through each template; how many are kept, why others are not
"""

import sys
from collections import Counter
from random import Random

from steps.models.chat import Chat
from steps.models.today import dated
from steps.models.unfit import Unfit
from steps.training.texts import texts
from tests.chats import ADDED, FAMILIES, SPECIAL, TEMPLATES, Family
from tests.conftest import CHAT_TEMPLATE, build_tokenizer

PIECES = [
    "Mara has 12 pears.", "\n\n", "\n", " ", "日本語の文。", "# Title\n\n1. one\n", "`a < b && c > d`", "é😀",
    "Assistant:", "<b>", "user", "####  42", "\t\tx", "{{ bos_token }}", "</tool_response>", '{"a": "b\\n"}',
    "'quoted' \"text\"", "None", "\u200b", "Zq9mark",
]  # fmt: skip
TOOLS = [
    {"name": name, "description": 'Of a "city".', "parameters": {"type": "object", "properties": {key: {"type": kind}}}}
    for name, key, kind in (("weather", "city", "string"), ("sum", "terms", "array"))
]
BROKEN = ["<think>a", "a</think>b</think>c", "<think>a</think><think>b</think>c", "a <think>b</think> c", "</think>"]


def conversation(random: Random) -> dict:
    """A row as ingestion leaves it, of any of its forms; some are broken."""
    count = iter(range(1000))

    def text(spoiled: float) -> str:
        said = f"S{next(count)}." + "".join(random.choices(PIECES, k=random.randint(0, 5)))
        said = said.strip().strip("\u200b").strip() or "S."
        return random.choice(["\n", "\n\n", " "]) + said if random.random() < spoiled else said

    def assistant(is_last: bool) -> dict:
        turn = {"role": "assistant", "content": text(0.1)}
        if random.random() < 0.3:
            turn["thinking"] = text(0.1)
        elif random.random() < 0.1:
            turn["content"] = f"<think>\n{text(0)}\n</think>\n\n{turn['content'].lstrip()}"
        elif random.random() < 0.03:
            turn["content"] += random.choice(BROKEN)
        if random.random() < 0.15:
            turn["train"] = False
        return turn

    messages = []
    if random.random() < 0.4:
        messages.append({"role": random.choice(["system", "developer"]), "content": text(0.02)})
    has_tools = random.random() < 0.4
    rounds = random.randint(1, 4)
    for number in range(rounds):
        messages.append({"role": "user", "content": text(0.02)})
        while has_tools and random.random() < 0.5:
            calls = random.choices(
                [
                    {"name": "weather", "arguments": {"city": text(0)}},
                    {
                        "name": "sum",
                        "arguments": {"terms": [random.randint(0, 9), 2.5, None, True], "of": {"x": text(0)}},
                    },
                ],
                k=random.choice([1, 1, 1, 2]),
            )
            turn = assistant(False) | {"tool_calls": calls}
            if random.random() < 0.7:
                turn["content"] = ""
            messages.append(turn)
            messages += [{"role": "tool", "name": call["name"], "content": text(0.02)} for call in calls]
        messages.append(assistant(number == rounds - 1))
    if random.random() < 0.03:
        messages.append({"role": "user", "content": text(0)})
    return {"messages": messages} | ({"tools": TOOLS} if has_tools else {})


def is_trained(turn: dict) -> bool:
    return turn["role"] == "assistant" and turn.get("train", True)


def by_hand(row: dict, family: Family) -> tuple[list[dict], set[str]]:
    """The turns with their thoughts apart, and every reason for which the row may be left out."""
    turns, reasons, lacks = [], set(), family.lacks
    shown = max((i for i, turn in enumerate(row["messages"]) if is_trained(turn)), default=-1) + 1
    for i, message in enumerate(row["messages"]):
        turn = dict(message)
        if turn["role"] == "developer":
            turn["role"] = "system"
        if turn["role"] == "assistant":
            content, tags = turn["content"], turn["content"].count("<think>") + turn["content"].count("</think>")
            if tags == 2 and content.startswith("<think>") and "thinking" not in turn:
                thought, _, said = content[len("<think>") :].partition("</think>")
                turn["thinking"], turn["content"] = thought.strip("\n"), said.lstrip("\n")
            elif tags == 1 and family.opens and "</think>" in content and "thinking" not in turn:
                thought, _, said = content.partition("</think>")
                turn["thinking"], turn["content"] = thought.lstrip().strip("\n"), said.lstrip("\n")
            elif tags:
                reasons.add("thinking_tags")
            # What follows the last turn that is trained is not looked at.
            calls = turn.get("tool_calls", []) if i < shown else []
            if calls and ("tools" in lacks or len(calls) > 1 and "parallel" in lacks):
                reasons |= {"template_drops", "template_refuses"}
            # An earlier turn may lack what stands beside its call, as the model will see it.
            if calls and turn["content"] and "content" in lacks and is_trained(turn):
                reasons.add("template_drops")
            if calls and turn["content"] and "both" in lacks and turn.get("thinking"):
                reasons.add("template_refuses")
        elif i < shown and turn["role"] in family.strips and turn["content"] != turn["content"].strip():
            reasons.add("template_changes")
        if turn["role"] == "system" and "system" in lacks:
            reasons.add("template_refuses")
        turns.append(turn)
    if "tools" in lacks and "tools" in row:
        reasons.add("template_drops")
    if turns[-1]["role"] != "assistant":
        reasons.add("no_response")
    if not shown:
        reasons.add("untrained")
    return turns, reasons


def tokenizer_of(name: str):
    """A tokenizer with the marks of all families, which joins line breaks, and the template of one."""

    made = build_tokenizer(["One.\n\nTwo.\n\n\n", " three\n"])
    made.add_special_tokens({"additional_special_tokens": SPECIAL})
    made.add_tokens(ADDED)
    made.bos_token, made.eos_token = "<s>", "<|endoftext|>" if name == "phi" else "</s>"
    made.chat_template = dated(TEMPLATES.get(name, CHAT_TEMPLATE))
    return made


def check(chat: Chat, family: Family, row: dict) -> str:
    """Assert that a row is trained as it is by hand, each turn once, or left out for a reason; returns the reason."""
    turns, reasons = by_hand(row, family)
    try:
        made = texts(chat, row)
    except Unfit as unfit:
        assert unfit.reason in reasons, f"{unfit}, and by hand {reasons or 'nothing'}"
        return unfit.reason
    assert not reasons, f"kept in spite of {reasons}"
    tokenizer = chat.tokenizer
    found = [(text.ids[: part.begin], text.ids[part.begin : part.end]) for text in made for part in text.parts]
    wanted = [i for i, turn in enumerate(turns) if is_trained(turn)]
    expected = [(family.asked(turns[:i], row.get("tools", [])), family.said(turns[i])) for i in wanted]
    assert sorted((tokenizer.decode(ids), tokenizer.decode(said)) for ids, said in found) == sorted(expected)
    # As an engine asks, which has the row's tools from its first turn.
    given = [row["messages"][0] | {"tools": row.get("tools")}, *row["messages"][1:]]
    assert [chat.opened(given[:i]) for i in wanted] == [prompt for prompt, _ in expected]
    for ids, _ in found:
        assert ids == tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"], "asked by other tokens"
    return "kept"


def fuzz(name: str, conversations: int, seed: int) -> Counter:
    """How many of so many conversations are kept, and left out for which reason."""
    chat, random = Chat(tokenizer_of(name)), Random(seed)
    return Counter(check(chat, FAMILIES[name], conversation(random)) for _ in range(conversations))


if __name__ == "__main__":
    for family in FAMILIES:
        print(f"{family:10}", dict(fuzz(family, int(sys.argv[1]), seed=1)), flush=True)
