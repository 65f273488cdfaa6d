"""Why a conversation is left out: a chat template that does not write it as it is, a context that it does not fit."""

from typing import Any

HINTS = {
    "thinking_tags": "write one thought, as <think>…</think> before the answer, or as the turn's thinking",
    "thinking_dropped": "the chat template has no place for a thought; write thinking: kept or emptied",
    "template_refuses": "the chat template takes no such conversation; change the row, or choose another model",
    "template_drops": "the chat template leaves it out; remove it from the row, or choose another model",
    "template_changes": "the chat template writes it otherwise than the row has it; change the row",
    "reserved_text": "Temper marks with it where a template puts its texts; change it in the row",
    "no_room": "lower max_new_tokens or filter.max_prompt_chars",
    "no_end": "the chat template ends an answer with none of the tokenizer's tokens; set models.<name>.end_of_turn",
}


class Unfit(ValueError):
    """A conversation that a model cannot be asked, or trained on, as it is.

    Attributes:
        reason: one word for why, such as a key of `HINTS`.
        column: the place in the row, such as `messages[1].content`.
        detail: what was found.
        hint: what to do.
    """

    def __init__(self, reason: str, column: str, detail: Any, hint: str = ""):
        self.reason, self.column, self.detail, self.hint = reason, column, detail, hint or HINTS[reason]
        super().__init__(f"{column}: {detail}; {self.hint}")
