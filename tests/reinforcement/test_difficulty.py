"""The pass rates of a policy: the step in process."""

import argparse

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.reinforcement import difficulty


def test_rows_come_out_with_the_samples_behind_their_pass_rates(tiny_checkpoint, tmp_path):
    rows = [
        {
            "id": f"rows:{i}",
            "messages": [{"role": "user", "content": f"What is {i} + 1?"}, {"role": "assistant", "content": text}],
            "answer": answer,
            "file": "rows.jsonl",
        }
        for i, (text, answer) in enumerate([("#### 1", "1"), ("Tarsk", None), ("#### 3", "3")])
    ]
    write_jsonl(tmp_path / "train.jsonl", rows)
    settings = {
        "engine": "transformers",
        "samples": 3,
        # So cold that the three are alike.
        "temperature": 1e-4,
        "max_new_tokens": 12,
        "edges": [0.25, 0.75],
        "batch_size": 8,
        "seed": 0,
    }
    difficulty.main(
        argparse.Namespace(
            settings=settings, input=tmp_path / "train.jsonl", model=tiny_checkpoint, out=tmp_path / "out"
        )
    )

    found = list(read_jsonl(tmp_path / "out" / "train.jsonl"))
    # A random model writes no "####".
    assert [(row["pass_rate"], row["bucket"]) for row in found] == [(0.0, "hard"), (None, "unverified"), (0.0, "hard")]
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    samples = list(read_jsonl(tmp_path / "out" / "samples.jsonl"))
    assert [record["id"] for record in samples] == ["rows:0", "rows:2"]
    for record in samples:
        assert len(record["responses"]) == len(record["tokens"]) == 3
        assert len(set(record["responses"])) == 1
        assert all(isinstance(text, str) for text in record["responses"])
        assert all(1 <= n <= 12 for n in record["tokens"])
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert counts["in"] == counts["kept"] == 3 and counts["judges"] == {"number": 2}
    assert (counts["easy"], counts["medium"], counts["hard"], counts["unverified"]) == (0, 0, 2, 1)
