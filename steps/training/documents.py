"""Documents as tokens, for trainings on running text."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from steps.core.files import read_jsonl

# Of fable and Qwen; of Llama 3. The eos of their chats ends a turn, not a text.
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
# Documents, and characters of them, that the tokenizer is given at once.
AT_ONCE, CHARACTERS = 10_000, 1_000_000


def read_documents(path: Path) -> Iterator[str]:
    """The texts of a file of documents: {"text"}, or rows of one turn of role document.

    Raises:
        ValueError: a row is a conversation.
    """
    for row in read_jsonl(path):
        if "text" in row:
            yield row["text"]
        elif row["messages"][0]["role"] == "document":
            yield row["messages"][0]["content"]
        else:
            raise ValueError(
                f"{path}: row {row['id']} is a conversation, and documents are trained on here; name a data set whose"
                " sources have format: text"
            )


def pieces(row: dict, most: int) -> Iterator[dict]:
    """An encoded document as rows of at most so many tokens."""
    for start in range(0, len(row["input_ids"]), most):
        yield row | {key: row[key][start : start + most] for key in ("input_ids", "labels")}


def encode_corpus(tokenizer: Any, documents: Iterable[str]) -> Iterator[dict]:
    """Every document as {"input_ids", "labels"}, closed by the end-of-text token; all of it is trained on.

    That token is the first of `END_OF_TEXT` that the tokenizer knows, else its eos.
    """
    known = tokenizer.get_vocab()
    end = next((known[token] for token in END_OF_TEXT if token in known), tokenizer.eos_token_id)
    for chunk in _chunks(documents):
        for encoding in tokenizer.backend_tokenizer.encode_batch(chunk):
            ids = [*encoding.ids, end]
            yield {"input_ids": ids, "labels": ids}


def _chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    size = 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if len(chunk) == AT_ONCE or size >= CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
