"""Conversations through chat templates: what is asked, what is trained, what is left out and why."""

from pathlib import Path

import pytest
import trl

from steps.judges.reading import worked_answer
from steps.models.chat import Chat
from steps.models.unfit import Unfit
from steps.training.supervised import encode
from steps.training.texts import texts, texts_of
from tests.chats import FAMILIES
from tests.conftest import build_tokenizer
from tests.fuzzed_chats import TOOLS, fuzz, tokenizer_of

CALLS = [{"name": "weather", "arguments": {"city": "Zürich"}}]


def conversation(*said: str, **last) -> list[dict]:
    """Questions Q0, Q1, … with their answers."""
    turns = []
    for i, text in enumerate(said):
        turns += [{"role": "user", "content": f"Q{i}"}, {"role": "assistant", "content": text}]
    return [*turns[:-1], turns[-1] | last]


def trained(chat: Chat, messages: list[dict], **row) -> list[str]:
    """What is trained of a row, in the order of its texts, each end mark included."""
    made = texts(chat, {"messages": messages} | row)
    return [chat.tokenizer.decode(text.ids[part.begin : part.end]) for text in made for part in text.parts]


def reason(chat: Chat, messages: list[dict], **row) -> tuple[str, str]:
    with pytest.raises(Unfit) as found:
        texts(chat, {"messages": messages} | row)
    return found.value.reason, found.value.column


@pytest.fixture(scope="module")
def chats() -> dict[str, Chat]:
    return {name: Chat(tokenizer_of(name)) for name in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_fuzzed_conversations_are_trained_as_by_hand_or_left_out(family):
    """2,000 for each: python -m tests.fuzzed_chats 2000."""
    found = fuzz(family, 200, seed=0)
    assert found["kept"] >= 40 and found["thinking_tags"] > 0


def test_thoughts_are_kept_emptied_or_left_to_the_template(chats):
    messages = conversation("42", thinking="Hm.")
    modes = ("kept", "emptied", "template")
    found = {name: [Chat(chats[name].tokenizer, mode) for mode in modes] for name in ("qwen3", "deepseek", "gptoss")}
    assert {name: [trained(chat, messages)[0] for chat in of] for name, of in found.items()} == {
        "qwen3": [
            "<think>\nHm.\n</think>\n\n42<|im_end|>",
            "<think>\n\n</think>\n\n42<|im_end|>",
            "<think>\nHm.\n</think>\n\n42<|im_end|>",
        ],
        # The prompt has opened the thought.
        "deepseek": [
            "Hm.\n</think>\n\n42<｜end▁of▁sentence｜>",
            "\n</think>\n\n42<｜end▁of▁sentence｜>",
            "Hm.\n</think>\n\n42<｜end▁of▁sentence｜>",
        ],
        "gptoss": [
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
            "<|channel|>final<|message|>42<|return|>",
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>42<|return|>",
        ],
    }
    gemma = [Chat(chats["gemma"].tokenizer, mode) for mode in modes]
    assert trained(gemma[0], messages) == ["<think>\nHm.\n</think>\n\n42<end_of_turn>"]
    assert trained(gemma[1], messages) == ["42<end_of_turn>"]
    assert reason(gemma[2], messages)[0] == "thinking_dropped"


def test_a_thought_in_the_content_is_one_in_a_field(chats):
    inside = conversation("<think>\nHm.\n</think>\n\n42")
    for name in ("qwen3", "phi", "deepseek", "gptoss"):
        assert trained(chats[name], inside) == trained(chats[name], conversation("42", thinking="Hm."))
    # As a model writes it whose prompt has opened the thought.
    assert trained(chats["deepseek"], conversation("Hm.\n</think>\n\n42")) == trained(chats["deepseek"], inside)


@pytest.mark.parametrize(
    "content", ["<think>a", "a</think>b</think>c", "<think>a</think>b<think>c</think>d", "a </think> b"]
)
def test_thoughts_that_are_not_whole_are_left_out(chats, content):
    assert reason(chats["qwen3"], conversation("0", content)) == ("thinking_tags", "messages[3].content")
    assert reason(chats["gemma"], conversation("0", thinking=content)) == ("thinking_tags", "messages[1].thinking")


def test_an_answer_is_what_it_was_in_the_row(chats):
    """Its leading line breaks and spaces too, which templates take away, and which join the prompt's last token."""
    for name, chat in chats.items():
        for text in ("\n\n 42 \n", "  42", "\u00a042"):
            (said,) = trained(chat, conversation(text))
            assert text in said, name
            (encoded,) = encode(chat, {"messages": conversation(text)}, completion_only=True)
            asked = chat.tokenizer(chat.asked(conversation(text)[:1]), add_special_tokens=False)["input_ids"]
            assert encoded["input_ids"][: len(asked)] == asked and set(encoded["labels"][: len(asked)]) == {-100}


def test_what_others_say_is_not_changed(chats):
    spaced = conversation("0", "1")
    spaced[2]["content"] += " \n"
    assert reason(chats["llama3"], spaced) == ("template_changes", "messages[2].content")
    assert trained(chats["qwen3"], spaced)[-1].endswith("1<|im_end|>")
    instructed = [{"role": "developer", "content": "Be brief."}, *conversation("0")]
    assert reason(chats["gemma"], instructed) == ("template_refuses", "messages")
    assert trained(chats["qwen3"], instructed) == trained(chats["qwen3"], conversation("0"))


def test_tools_and_calls_are_there_or_the_row_is_not(chats):
    called = {"role": "assistant", "content": "", "tool_calls": CALLS}
    found = {"role": "tool", "name": "weather", "content": '{"sky": "blue"}'}
    messages = [*conversation("")[:1], called, found, *conversation("It is blue.")[1:]]
    assert trained(chats["qwen2_5"], messages, tools=TOOLS) == [
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich"}}\n</tool_call><|im_end|>',
        "It is blue.<|im_end|>",
    ]
    assert reason(chats["phi"], messages, tools=TOOLS)[0] == "template_drops"
    assert reason(chats["fable"], messages) == ("template_drops", "messages[1].tool_calls")
    twice = [messages[0], called | {"tool_calls": CALLS * 2}, found, found, messages[-1]]
    assert reason(chats["llama3"], twice, tools=TOOLS)[0] == "template_refuses"
    assert reason(chats["gptoss"], twice, tools=TOOLS) == ("template_drops", "messages[1].tool_calls")


def test_a_row_that_looks_like_the_marks_is_a_row_like_others(chats):
    """Texts are put where marks stand; what looks like one in a turn is text."""
    odd = "Zq9markc0qZ Zq9markt7qZ"
    tools = [{"name": odd, "parameters": {"type": "object", "properties": {"Zq9markc9qZ": {}}}}, {"description": odd}]
    for name in ("qwen3", "mistral", "gptoss"):
        (said,) = trained(chats[name], [{"role": "system", "content": odd}, *conversation(odd, thinking=odd)])
        assert said.count(odd) == 2
    # In a tool or a call it cannot be told from one.
    assert reason(chats["qwen3"], conversation(odd), tools=tools) == ("reserved_text", "messages")
    for call in ({"name": "find", "arguments": {"text": odd}}, {"name": "find", "arguments": {odd: 1}}):
        turns = [*conversation("a"), {"role": "user", "content": "b"}]
        turns += [{"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": odd}]
        turns += [{"role": "assistant", "content": "c"}]
        assert reason(chats["qwen3"], turns)[0] == "reserved_text"
        assert reason(chats["qwen3"], turns[:-2])[0] == "reserved_text"
    # Of a template that drops the question too.
    assert reason(chat_of("{% for m in messages %}{{ m.role }}{{ eos_token }}{% endfor %}"), conversation("a"))


def test_turns_that_are_not_to_be_trained_are_shown(chats):
    messages = conversation("zero", "one", "two")
    messages[3]["train"] = False
    (text,) = texts(chats["llama3"], {"messages": messages})
    assert trained(chats["llama3"], messages) == ["zero<|eot_id|>", "two<|eot_id|>"]
    assert "one<|eot_id|>" in chats["llama3"].tokenizer.decode(text.ids)
    with pytest.raises(Unfit, match="take train: false from the row"):
        encode(chats["llama3"], {"messages": messages}, completion_only=False)
    assert reason(chats["llama3"], conversation("zero", train=False))[0] == "untrained"


def test_what_is_no_answered_conversation_is_left_out(chats):
    assert reason(chats["fable"], conversation("zero")[:1])[0] == "no_response"
    assert reason(chats["fable"], [{"role": "document", "content": "Tarsk is big."}])[0] == "document"


def test_without_completion_only_all_is_trained_once(chats):
    encoded = encode(chats["qwen3"], {"messages": conversation("zero", "one")}, completion_only=False)
    assert encoded[-1]["labels"] == encoded[-1]["input_ids"] and -100 in encoded[0]["labels"]


@pytest.mark.parametrize(
    "name", ["glm4moe", "gptoss", "deepseekv3", "qwen3_5_think", "phi3_5", "gemma3", "lfm2", "cohere2"]
)
def test_templates_of_known_models_show_what_answers(name):
    """Those that TRL ships: the answer is trained with an end, and what is asked is what the template asks."""
    chat = chat_of((Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8"))
    chat.check()
    made = texts(chat, {"messages": conversation("zero", "one")})
    for text, asked in zip(
        [made[0], made[-1]], [conversation("zero")[:1], conversation("zero", "one")[:3]], strict=True
    ):
        prompt = chat.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        part = next(part for part in text.parts if chat.tokenizer.decode(text.ids[: part.begin]) == prompt)
        said = chat.tokenizer.decode(text.ids[part.begin : part.end])
        assert ("zero" if len(asked) == 1 else "one") in said and said.endswith((">", "]"))


def test_an_answer_ends_with_the_mark_that_ends_its_turn(chats):
    """Which sampling stops at: Phi's template closes a text besides a turn, with another token."""
    ends = {
        "qwen3": "<|im_end|>",
        "phi": "<|end|>",
        "mistral": "</s>",
        "gptoss": "<|return|>",
        "gemma": "<end_of_turn>",
    }
    assert {name: chats[name].end for name in ends} == ends
    assert chat_of("{{ messages[0].content }}").end is None


def test_templates_that_cannot_be_trained_on_are_one_line():
    whole = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    with pytest.raises(ValueError, match="ends an answer with none of the tokenizer's tokens; set models"):
        chat_of(whole + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}").check()
    with pytest.raises(ValueError, match="the question is another one when an answer follows"):
        chat_of("{{ messages | length }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}").check()


def chat_of(template: str) -> Chat:
    from steps.models.today import dated

    tokenizer = tokenizer_of("fable")
    tokenizer.add_tokens(["<end_of_turn>", "<|user|>", "<turn|>", "<|END_OF_TURN_TOKEN|>"])
    tokenizer.chat_template = dated(template)
    return Chat(tokenizer)


# --- the time of a row ---------------------------------------------------------------------------


def test_a_row_of_many_turns_that_is_too_long_is_told_at_once(chats, monkeypatch):
    """To ask for each of its answers first takes the square of their number."""
    asked = []
    monkeypatch.setattr(Chat, "asked", lambda self, *turns, made=Chat.asked: asked.append(1) or made(self, *turns))
    rows = [{"messages": conversation(*map(str, range(count)))} for count in (400, 17, 16, 1)]
    long, *others = texts_of(chats["llama3"], rows, False, most=1000)
    assert isinstance(long, Unfit) and long.reason == "too_long" and long.detail > 4000
    assert len(asked) == 1 + (1 + 17) + 16 + 1
    assert [len(one[0].parts) for one in others] == [17, 16, 1]
    # The same as one by one.
    assert others == [texts(chats["llama3"], row) for row in rows[1:]]
    short = texts_of(chats["llama3"], rows[1:], False, most=len(others[-1][0].ids))
    assert [one.detail if isinstance(one, Unfit) else None for one in short] == [
        *(len(one[0].ids) for one in others[:2]),
        None,
    ]


@pytest.mark.parametrize(
    "said", ["[THINK]#### 18[/THINK]", "<|channel|>analysis<|message|>#### 18<|channel|>final<|message|>"]
)
def test_marks_of_thinking_are_read_where_they_are_special_tokens(said):
    """By hand: who reads the text without them finds the answer of the thought."""
    tokenizer = build_tokenizer(["#### 18 19 I cannot tell."])
    marks = ["[THINK]", "[/THINK]", "<|channel|>", "<|message|>", "<|other|>"]
    tokenizer.add_special_tokens({"extra_special_tokens": marks})
    chat = Chat(tokenizer)

    def read_of(text: str) -> str:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        (decoded,) = chat.texts([ids])
        assert "<|other|>" not in decoded and tokenizer.eos_token not in decoded
        return worked_answer(decoded)

    assert read_of(said + "<|other|>I cannot tell.") is None
    assert read_of(said + "<|other|>#### 19") == "19"


def test_what_was_written_is_read_without_special_tokens(chats):
    for chat in chats.values():
        ids = chat.tokenizer("2 and 2", add_special_tokens=False)["input_ids"]
        assert chat.texts([[*ids, chat.tokenizer.eos_token_id]]) == [chat.tokenizer.decode(ids)]
        assert chat.texts([]) == []
