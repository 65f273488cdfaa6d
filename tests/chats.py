"""Ten chat templates after the published formats of as many families, and what each asks and answers, by hand.

The templates have the logic that tells the families apart (who loses thoughts, white space, systems, tools; who closes
a text twice), with short texts of their own. `Family.asked` and `Family.said` build the same strings without one.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field

# What Qwen's and the embedded world's have in common.
CHATML_TURNS = """
{%- for m in messages %}
{%- if m.role == 'user' or m.role == 'system' and not loop.first -%}
{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}
{%- elif m.role == 'assistant' -%}
%ASSISTANT%
{%- for call in m.tool_calls or [] -%}
{{ '\n' if m.content or not loop.first }}{{ '<tool_call>\n' + (call.function | tojson) + '\n</tool_call>' }}
{%- endfor -%}
{{ '<|im_end|>\n' }}
{%- elif m.role == 'tool' -%}
{{ '<|im_start|>user' if messages[loop.index0 - 1].role != 'tool' }}
{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}
{{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}%OPEN%{% endif %}"""
CHATML_SYSTEM = """
{%- set system = messages[0].content if messages[0].role == 'system' else %DEFAULT% %}
{%- if system or tools %}{{ '<|im_start|>system\n' + system }}
{%- if tools %}{{ '\n# Tools' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{% endif %}
{{- '<|im_end|>\n' }}{% endif %}"""
PLAIN = "{{ '<|im_start|>assistant\n' + m.content }}"
LAST_QUESTION = """
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"""
QWEN3 = """{%- set thought, said = m.reasoning_content or '', m.content %}
{%- if not thought and '</think>' in said %}
{%- set thought = said.split('</think>')[0].split('<think>')[-1] %}
{%- set said = said.split('</think>')[-1] %}{% endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last and (loop.last or thought) -%}
{{ '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + said.lstrip('\n') }}
{%- else %}{{ said.lstrip('\n') }}{% endif %}"""
QWEN3_5 = """{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last %}{{ '<think>\n' + (m.reasoning_content or '') | trim + '\n</think>\n\n' }}{% endif -%}
{{ m.content | trim }}"""


def chatml(assistant: str, default: str = "''", opened: str = "", before: str = "") -> str:
    turns = CHATML_TURNS.replace("%ASSISTANT%", assistant).replace("%OPEN%", opened)
    return before + CHATML_SYSTEM.replace("%DEFAULT%", default) + turns


TEMPLATES = {
    "qwen2_5": chatml(PLAIN, "'You are Q.'"),
    "qwen3": chatml(QWEN3, before=LAST_QUESTION),
    "qwen3_5": chatml(QWEN3_5, opened="{{ '<think>\n' }}", before=LAST_QUESTION)
    .replace("m.role + '\n' + m.content", "m.role + '\n' + m.content | trim")
    .replace("'\n<tool_response>\n' + m.content", "'\n<tool_response>\n' + m.content | trim")
    .replace("set system = messages[0].content", "set system = messages[0].content | trim"),
    "llama3": """{{- bos_token }}
{%- set system = messages[0].content | trim if messages[0].role == 'system' else '' %}
{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: ' + strftime_now('%d %b %Y') + '\n' + system + '<|eot_id|>' }}
{%- for m in messages %}
{%- if m.role == 'tool' -%}
{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' + (m.content | tojson) + '<|eot_id|>' }}
{%- elif m.tool_calls -%}
{%- if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif -%}
{%- set call = m.tool_calls[0].function -%}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n{"name": "' + call.name + '", "parameters": ' }}
{{- (call.arguments | tojson) + '}<|eot_id|>' }}
{%- elif m.role != 'system' or not loop.first -%}
{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if tools and loop.index0 == (1 if messages[0].role == 'system' else 0) -%}
{%- for tool in tools %}{{ (tool | tojson) + '\n' }}{% endfor %}{% endif -%}
{{ m.content | trim + '<|eot_id|>' }}
{%- endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "mistral": """{{- bos_token }}
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{%- if m.role == 'user' -%}
{%- if loop.index0 == ns.last and tools -%}
{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif -%}
{{ '[INST] ' }}
{%- if loop.index0 == ns.last and messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif -%}
{{ m.content + '[/INST]' }}
{%- elif m.tool_calls -%}
{{ '[TOOL_CALLS][' }}
{%- for call in m.tool_calls %}
{%- if call.id | length != 9 %}{{ raise_exception('an id has nine letters') }}{% endif -%}
{{ ', ' if not loop.first }}{{ (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}
{%- endfor -%}
{{ ']' + eos_token }}
{%- elif m.role == 'tool' -%}
{{ '[TOOL_RESULTS]{"content": ' + (m.content | tojson) + ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}
{%- endfor %}""",
    "gemma": """{{- bos_token }}
{%- for m in messages %}
{%- if m.role not in ('user', 'assistant') or m.tool_calls -%}
{{ raise_exception('System role not supported') }}{% endif -%}
{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "phi": """
{%- for m in messages %}
{%- if m.role in ('system', 'user', 'assistant') %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}""",
    "deepseek": """
{%- set ns = namespace(system='') %}
{%- for m in messages %}{% if m.role == 'system' %}{% set ns.system = m.content %}{% endif %}{% endfor -%}
{{ bos_token + ns.system }}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<｜User｜>' + m.content }}
{%- elif m.role == 'assistant' %}
{{- '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}""",
    "gptoss": """{{- '<|start|>system<|message|>Date: ' + strftime_now("%Y-%m-%d") + '<|end|>' }}
{%- set system = messages[0].content if messages[0].role == 'system' else '' %}
{%- if system or tools %}{{ '<|start|>developer<|message|># Instructions\n' + system }}
{%- for tool in tools or [] %}{{ '\n' + tool.function.name + (tool.function.parameters | tojson) }}{% endfor %}
{{- '<|end|>' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'user' %}{{ '<|start|>user<|message|>' + m.content + '<|end|>' }}
{%- elif m.role == 'tool' %}
{{- '<|start|>functions.' + m.name + ' to=assistant<|channel|>commentary<|message|>' }}
{{- (m.content | tojson) + '<|end|>' }}
{%- elif m.tool_calls %}
{%- if m.content and m.thinking %}{{ raise_exception('both content and thinking') }}{% endif %}
{%- set ns = namespace(final=false) %}
{%- for later in messages[loop.index:] %}{% if later.role == 'assistant' and not later.tool_calls %}
{%- set ns.final = true %}{% endif %}{% endfor %}
{%- if (m.content or m.thinking) and not ns.final %}
{{- '<|start|>assistant<|channel|>analysis<|message|>' + (m.content or m.thinking) + '<|end|>' }}{% endif %}
{{- '<|start|>assistant to=functions.' + m.tool_calls[0].function.name + '<|channel|>commentary json<|message|>' }}
{{- (m.tool_calls[0].function.arguments | tojson) + '<|call|>' }}
{%- elif m.role == 'assistant' and loop.last and not add_generation_prompt %}
{%- if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}{% endif %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|return|>' }}
{%- elif m.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + m.content + '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}""",
}
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>",
    "<|end|>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<|start|>", "<|message|>", "<|channel|>",
    "<|return|>", "<|call|>",
]  # fmt: skip
# Added without being special, as Qwen's are.
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]


# --- by hand --------------------------------------------------------------------------------------------------------


def dumped(value) -> str:
    return json.dumps(value, ensure_ascii=False)


def function(tool: dict) -> dict:
    return {"type": "function", "function": tool}


def said_before(turn: dict) -> str:
    """A thought in tags, of a family that has no words for one."""
    return f"<think>\n{turn['thinking']}\n</think>\n\n" if turn.get("thinking") else ""


def called(turn: dict) -> str:
    calls = [f"<tool_call>\n{dumped(call)}\n</tool_call>" for call in turn.get("tool_calls", [])]
    return ("\n" if turn["content"] and calls else "") + "\n".join(calls)


def asked_chatml(
    turns: list[dict], tools: list[dict], default: str = "", opened: str = "", earlier=None, form=str
) -> str:
    system = form(turns[0]["content"]) if turns[0]["role"] == "system" else default
    if tools:
        system += "\n# Tools" + "".join("\n" + dumped(function(tool)) for tool in tools)
    text = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    for i, turn in enumerate(turns):
        if turn["role"] == "user":
            text += f"<|im_start|>user\n{form(turn['content'])}<|im_end|>\n"
        elif turn["role"] == "assistant":
            content = earlier(turn, i > last) if earlier else turn["content"]
            text += f"<|im_start|>assistant\n{content}{called(turn)}<|im_end|>\n"
        elif turn["role"] == "tool":
            text += "" if turns[i - 1]["role"] == "tool" else "<|im_start|>user"
            text += f"\n<tool_response>\n{form(turn['content'])}\n</tool_response>"
            text += "" if i + 1 < len(turns) and turns[i + 1]["role"] == "tool" else "<|im_end|>\n"
    return text + "<|im_start|>assistant\n" + opened


def earlier_qwen3(turn: dict, is_open: bool) -> str:
    thought = turn.get("thinking", "").strip("\n") if is_open else ""
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + turn["content"].lstrip("\n")


def earlier_qwen3_5(turn: dict, is_open: bool) -> str:
    return (f"<think>\n{turn.get('thinking', '').strip()}\n</think>\n\n" if is_open else "") + turn["content"].strip()


def asked_fable(turns: list[dict], tools: list[dict]) -> str:
    text = "".join(f"<|im_start|>{turn['role']}\n{turn['content']}<|im_end|>\n" for turn in turns)
    return text + "<|im_start|>assistant\n"


def asked_llama3(turns: list[dict], tools: list[dict]) -> str:
    head = "<|start_header_id|>{}<|end_header_id|>\n\n".format
    system = turns[0]["content"] if turns[0]["role"] == "system" else ""
    text = f"<s>{head('system')}Today: 26 Jul 2024\n{system}<|eot_id|>"
    shown = "".join(dumped(function(tool)) + "\n" for tool in tools)
    for turn in turns[1 if system else 0 :]:
        if turn["role"] == "tool":
            text += f"{head('ipython')}{dumped(turn['content'])}<|eot_id|>"
        elif turn.get("tool_calls"):
            text += head("assistant") + said_llama3(turn)
        else:
            text, shown = text + head(turn["role"]) + shown + turn["content"].strip() + "<|eot_id|>", ""
    return text + head("assistant")


def said_llama3(turn: dict) -> str:
    for call in turn.get("tool_calls", []):
        return f'{{"name": "{call["name"]}", "parameters": {dumped(call["arguments"])}}}<|eot_id|>'
    return turn["content"] + "<|eot_id|>"


def asked_mistral(turns: list[dict], tools: list[dict]) -> str:
    last = max(i for i, turn in enumerate(turns) if turn["role"] == "user")
    text, waiting = "<s>", []
    for i, turn in enumerate(turns):
        if turn["role"] == "user":
            if i == last and tools:
                text += f"[AVAILABLE_TOOLS]{dumped([function(tool) for tool in tools])}[/AVAILABLE_TOOLS]"
            system = turns[0]["content"] + "\n\n" if i == last and turns[0]["role"] == "system" else ""
            text += f"[INST] {system}{turn['content']}[/INST]"
        elif turn.get("tool_calls"):
            waiting = [f"call{k:05}" for k in range(len(turn["tool_calls"]))]
            text += calls_mistral(turn)
        elif turn["role"] == "tool":
            found = dumped(turn["content"])
            text += f'[TOOL_RESULTS]{{"content": {found}, "call_id": "{waiting.pop(0)}"}}[/TOOL_RESULTS]'
        elif turn["role"] == "assistant":
            text += f" {turn['content']}</s>"
    return text


def calls_mistral(turn: dict) -> str:
    calls = [f'{dumped(call)[:-1]}, "id": "call{k:05}"}}' for k, call in enumerate(turn["tool_calls"])]
    return f"[TOOL_CALLS][{', '.join(calls)}]</s>"


def said_mistral(turn: dict) -> str:
    return said_before(turn) + (calls_mistral(turn) if "tool_calls" in turn else f" {turn['content']}</s>")


def asked_gemma(turns: list[dict], tools: list[dict]) -> str:
    names = {"user": "user", "assistant": "model"}
    said = [f"<start_of_turn>{names[turn['role']]}\n{turn['content'].strip()}<end_of_turn>\n" for turn in turns]
    return "<s>" + "".join(said) + "<start_of_turn>model\n"


def asked_phi(turns: list[dict], tools: list[dict]) -> str:
    return "".join(f"<|{turn['role']}|>\n{turn['content']}<|end|>\n" for turn in turns) + "<|assistant|>\n"


def asked_deepseek(turns: list[dict], tools: list[dict]) -> str:
    text = "<s>" + (turns[0]["content"] if turns[0]["role"] == "system" else "")
    for turn in turns:
        if turn["role"] == "user":
            text += f"<｜User｜>{turn['content']}"
        elif turn["role"] == "assistant":
            text += f"<｜Assistant｜>{turn['content']}<｜end▁of▁sentence｜>"
    return text + "<｜Assistant｜><think>\n"


def asked_gptoss(turns: list[dict], tools: list[dict]) -> str:
    text = "<|start|>system<|message|>Date: 2024-07-26<|end|>"
    system = turns[0]["content"] if turns[0]["role"] == "system" else ""
    if system or tools:
        text += f"<|start|>developer<|message|># Instructions\n{system}"
        text += "".join(f"\n{tool['name']}{dumped(tool['parameters'])}" for tool in tools) + "<|end|>"
    names: list[str] = []
    for i, turn in enumerate(turns):
        if turn["role"] == "user":
            text += f"<|start|>user<|message|>{turn['content']}<|end|>"
        elif turn["role"] == "tool":
            text += f"<|start|>functions.{names.pop(0)} to=assistant<|channel|>commentary<|message|>"
            text += f"{dumped(turn['content'])}<|end|>"
        elif turn.get("tool_calls"):
            names = [call["name"] for call in turn["tool_calls"]]
            is_over = any(later["role"] == "assistant" and "tool_calls" not in later for later in turns[i + 1 :])
            plain = turn if not is_over else {"content": "", "tool_calls": turn["tool_calls"]}
            text += "<|start|>assistant" + said_gptoss(plain)
        elif turn["role"] == "assistant":
            text += f"<|start|>assistant<|channel|>final<|message|>{turn['content']}<|end|>"
    return text + "<|start|>assistant"


def said_gptoss(turn: dict) -> str:
    thought = turn.get("thinking") or (turn["content"] if "tool_calls" in turn else "")
    before = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant" if thought else ""
    for call in turn.get("tool_calls", []):
        arguments = dumped(call["arguments"])
        return f"{before} to=functions.{call['name']}<|channel|>commentary json<|message|>{arguments}<|call|>"
    return f"{before}<|channel|>final<|message|>{turn['content']}<|return|>"


def said_in_tags(turn: dict) -> str:
    """What a family writes that has calls in ChatML's form, the mark of its end aside."""
    return said_before(turn) + turn["content"] + called(turn)


def always_thought(turn: dict) -> str:
    return f"{turn.get('thinking', '')}\n</think>\n\n{turn['content']}{called(turn)}"


@dataclass(frozen=True)
class Family:
    """One chat format.

    Attributes:
        asked, said: the prompt for the turn after some turns, and a turn with its end mark.
        strips: the roles around whose texts white space is taken away, the assistant aside.
        lacks: of "system", "tools", "parallel" (several calls), "content" (beside a call), "both" (that and a thought),
            what it has no place for.
        opens: its prompts end inside of a thought.
    """

    asked: Callable[..., str]
    said: Callable[[dict], str]
    strips: tuple[str, ...] = ()
    lacks: frozenset[str] = field(default_factory=frozenset)
    opens: bool = False


def trimmed_chatml(turns: list[dict], tools: list[dict]) -> str:
    return asked_chatml(turns, tools, opened="<think>\n", earlier=earlier_qwen3_5, form=str.strip)


FAMILIES = {
    "qwen2_5": Family(lambda t, tools: asked_chatml(t, tools, "You are Q."), lambda t: said_in_tags(t) + "<|im_end|>"),
    "qwen3": Family(
        lambda t, tools: asked_chatml(t, tools, earlier=earlier_qwen3),
        lambda t: "<think>\n" + always_thought(t) + "<|im_end|>",
    ),
    "qwen3_5": Family(
        trimmed_chatml, lambda t: always_thought(t) + "<|im_end|>", strips=("system", "user", "tool"), opens=True
    ),
    "llama3": Family(
        asked_llama3,
        lambda t: said_before(t) + said_llama3(t),
        strips=("system", "user"),
        lacks=frozenset({"parallel", "content"}),
    ),
    "mistral": Family(asked_mistral, said_mistral, lacks=frozenset({"content"})),
    "gemma": Family(
        asked_gemma, lambda t: said_in_tags(t) + "<end_of_turn>", strips=("user",), lacks=frozenset({"system", "tools"})
    ),
    "phi": Family(asked_phi, lambda t: said_in_tags(t) + "<|end|>", lacks=frozenset({"tools"})),
    "deepseek": Family(
        asked_deepseek,
        lambda t: always_thought(t) + "<｜end▁of▁sentence｜>",
        lacks=frozenset({"tools"}),
        opens=True,
    ),
    "gptoss": Family(asked_gptoss, said_gptoss, lacks=frozenset({"parallel", "both"})),
    "fable": Family(asked_fable, lambda t: said_in_tags(t) + "<|im_end|>", lacks=frozenset({"tools"})),
}
