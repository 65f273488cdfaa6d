"""Tokens of many rows in a file: they read as lists do, and hold no memory of their own."""

import tracemalloc

import numpy as np

from steps.core.files import write_jsonl
from steps.training.stored import Store
from steps.training.supervised import encode_rows
from tests.conftest import build_tokenizer


def test_tokens_read_as_the_lists_that_were_written():
    store, written = Store(), [[5, -100, 2**31 - 1], [], [7]]
    tokens = [store.put(values) for values in written]
    assert [list(read) for read in tokens] == written == tokens
    assert [len(read) for read in tokens] == [3, 0, 1] and tokens[0] != [5, -100]
    assert tokens[0][1] == -100 and tokens[0][1:] == [-100, 2**31 - 1] and tokens[0][-1] == 2**31 - 1
    assert np.array(tokens[0]).tolist() == written[0] and np.array(tokens[0]).flags.writeable
    # What is written later moves nothing.
    store.put([1])
    assert tokens[2] == [7]


def test_long_rows_take_no_more_memory_than_short_ones(tmp_path):
    """200 rows of 20 and of 2,000 tokens: lists of these would take 18 MB."""
    tokenizer, held = build_tokenizer(), {}
    for words in (10, 2000):
        asked = {"role": "user", "content": "pears " * words}
        turns = [asked, {"role": "assistant", "content": "42"}]
        place = {"file": "rows.jsonl", "line": 1, "row": 0, "messages": turns}
        write_jsonl(tmp_path / "rows.jsonl", (place | {"id": f"rows:{i}"} for i in range(200)))
        tracemalloc.start()
        kept, _ = encode_rows(tmp_path / "rows.jsonl", tokenizer, {"completion_only_loss": True, "max_length": 10**6})
        held[words] = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert len(kept) == 200 and len(kept[0]["input_ids"]) > words
    assert held[2000] < held[10] + 2**20 and held[2000] / 200 < 4000
