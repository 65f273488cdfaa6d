"""The turns of a row that a model is asked with."""


def conversation(row: dict) -> list[dict]:
    """The turns of a row, the first with its `tools`, where it has some: as chat templates and engines take them."""
    turns = row["messages"]
    return [turns[0] | {"tools": row["tools"]}, *turns[1:]] if row.get("tools") else turns


def prompt_turns(messages: list[dict]) -> list[dict]:
    """The turns before the response that ends a row; all of a row that ends with what the user asks."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def asked_turns(row: dict) -> list[dict]:
    """The turns that a model is asked with, and the tools of the row."""
    return prompt_turns(conversation(row))
