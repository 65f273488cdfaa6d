"""Text of models and rows as the report shows it: printable, short, and the user's turn alone of a prompt."""

import re
import unicodedata
from typing import Any

# Thai, Lao, Khmer, kana and Han are written without spaces: each character is a word, so that an n-gram of
# words is there an n-gram of characters.
UNSPACED = "\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TURN_START, TURN_END = re.compile(r"<\|im_start\|>(?:system|user)\n"), "<|im_end|>"


def plain_prompt(prompt: str) -> str:
    """The last user turn of a ChatML prompt; another prompt as it is."""
    last, at = prompt, 0
    # One pattern with the end in it would look for the end again from every start that has none.
    while (start := TURN_START.search(prompt, at)) and (end := prompt.find(TURN_END, start.end())) >= 0:
        last, at = prompt[start.end() : end], end
    return last


def visible(text: Any) -> str:
    """Text in which every character that does not print, or that reorders what does, stands as its code point."""

    def show(character: str) -> str:
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            return character
        return f"⟨U+{ord(character):04X}⟩"

    return "".join(map(show, str(text)))


def shorten(text: str, limit: int, end: bool = False) -> str:
    """At most `limit` characters, from the start or, with `end`, from the end, and how many were left out."""
    left = len(text) - limit
    if left <= 0:
        return text
    return f"[{left:,} characters before] … {text[-limit:]}" if end else f"{text[:limit]} … [{left:,} more characters]"
