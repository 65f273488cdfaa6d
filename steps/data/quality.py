"""How much of a text repeats itself."""

# Repetition of shorter texts is style ("ha ha ha"), and their trigrams are too few for a share.
MIN_REPETITION_WORDS = 30


def repetition(tokens: list[str]) -> float:
    """Share of the word trigrams of a text that occurred before in it; 0 for texts of fewer than 30 words."""
    if len(tokens) < MIN_REPETITION_WORDS:
        return 0.0
    return 1 - len(set(zip(tokens, tokens[1:], tokens[2:], strict=False))) / (len(tokens) - 2)
