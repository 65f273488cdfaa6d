"""Packing: each row once, within capacity, near the optimum; packed rows compute what they compute alone."""

from itertools import product
from random import Random

import pytest

from steps.training import arguments, curriculum, packing


def fewest_bins(lengths: list[int], capacity: int) -> int:
    """By trying every assignment: a reference that shares nothing with the heuristic."""
    for bins in range(1, len(lengths) + 1):
        for choice in product(range(bins), repeat=len(lengths)):
            loads = [0] * bins
            for length, b in zip(lengths, choice, strict=True):
                loads[b] += length
            if max(loads) <= capacity:
                return bins
    raise AssertionError


@pytest.mark.parametrize("function", [packing.best_fit_decreasing, packing.pack])
def test_each_row_lies_in_one_bin_within_capacity(function):
    random = Random(0)
    for _ in range(200):
        capacity = random.randint(1, 64)
        lengths = [random.randint(1, capacity) for _ in range(random.randint(1, 40))]
        bins = function(lengths, capacity)
        assert sorted(i for b in bins for i in b) == list(range(len(lengths)))
        assert all(0 < sum(lengths[i] for i in b) <= capacity for b in bins)
        assert bins == function(lengths, capacity)


def test_bins_are_near_the_fewest_possible():
    random = Random(1)
    for _ in range(60):
        lengths = [random.randint(1, 10) for _ in range(6)]
        assert len(packing.best_fit_decreasing(lengths, 10)) <= fewest_bins(lengths, 10) + 1


def test_bins_are_evened_out():
    # Best fit alone fills one bin with 6 + 4 and leaves 3 + 3 in a second: a rectangle of 20 for 16 tokens.
    bins = packing.pack([6, 4, 3, 3], 10)
    assert sorted(sum([6, 4, 3, 3][i] for i in b) for b in bins) == [7, 9]


def test_narrowing_never_adds_tokens():
    random = Random(2)
    for _ in range(100):
        lengths = [random.randint(40, 150) for _ in range(16)]

        def area(bins, lengths=lengths):
            return len(bins) * max(sum(lengths[i] for i in b) for b in bins)

        assert area(packing.pack(lengths, 256)) <= area(packing.best_fit_decreasing(lengths, 256))


@pytest.mark.parametrize(("epochs", "times"), [(1, {1}), (3, {3}), (0.5, {0, 1})])
def test_plan_sees_each_row_once_per_epoch(epochs, times):
    batches = packing.plan_batches(10, 4, epochs, seed=0)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == 10 * epochs
    assert {rows.count(row) for row in range(10)} == times
    assert all(len(batch) == 4 for batch in batches[:-1])


def test_plan_follows_the_seed():
    assert packing.plan_batches(50, 8, 2, seed=1) == packing.plan_batches(50, 8, 2, seed=1)
    assert packing.plan_batches(50, 8, 2, seed=1) != packing.plan_batches(50, 8, 2, seed=2)
    first, second = packing.plan_batches(50, 50, 2, seed=1)
    assert first != second


def test_every_epoch_of_a_source_comes_before_the_next_source():
    domains = ["b", "a", "b", "c", "a", "b"]
    order = [row for batch in packing.plan_batches(6, 4, 2, seed=0, domains=domains) for row in batch]
    assert [domains[row] for row in order] == ["b"] * 6 + ["a"] * 4 + ["c"] * 2
    for epoch, of in ((order[:3], "b"), (order[3:6], "b"), (order[6:8], "a"), (order[8:10], "a")):
        assert sorted(epoch) == [row for row in range(6) if domains[row] == of]
    # One and a half epochs are 4, 3 and 2 rows: the sources end with rows 4, 7 and 9, in steps of two rows.
    assert packing.domain_ends(1.5, domains, 2) == [2, 4, 5]
    wide = [packing.plan_batches(60, 60, 1, seed, ["x", "y"] * 30)[0] for seed in (0, 1)]
    assert wide[0] != wide[1] and wide[0] != sorted(wide[0], key=lambda row: (row % 2, row))


def test_a_source_of_which_no_row_would_be_dealt_is_named():
    domains = ["a.jsonl"] * 20 + ["b.jsonl"]
    with pytest.raises(ValueError, match=r"epochs: 0\.4 of the 1 rows of b\.jsonl is less than a row, with order: sou"):
        packing.plan_batches(21, 4, 0.4, seed=0, domains=domains)
    assert sum(map(len, packing.plan_batches(21, 4, 0.4, seed=0))) == 8


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()


def random_rows(count: int) -> list[dict]:
    random = Random(3)
    rows = []
    for _ in range(count):
        ids = [random.randrange(768) for _ in range(random.randint(5, 60))]
        rows.append({"input_ids": ids, "labels": [i if random.random() < 0.5 else packing.IGNORED for i in ids]})
    return rows


def test_a_row_has_the_same_logits_packed_and_alone(model):
    import torch

    rows = random_rows(12)
    bins = packing.pack([len(row["input_ids"]) for row in rows], 128)
    assert max(map(len, bins)) > 1
    batch = packing.collate(rows, bins, pad_token_id=0)
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    with torch.no_grad():
        packed = model(**inputs, use_cache=False).logits
        seeing_all = model(input_ids=batch["input_ids"], use_cache=False).logits
        leaks = 0.0
        for b, members in enumerate(bins):
            start = 0
            for i in members:
                ids = torch.tensor([rows[i]["input_ids"]])
                alone = model(input_ids=ids).logits[0]
                end = start + ids.shape[1]
                torch.testing.assert_close(packed[b, start:end], alone, rtol=1e-4, atol=1e-4)
                leaks = max(leaks, (seeing_all[b, start:end] - alone).abs().max().item())
                start = end
    assert leaks > 0.1, "the comparison would not notice rows that see each other"


def test_packed_and_padded_batches_have_the_same_gradient(model):
    import torch

    rows = random_rows(8)
    gradients = []
    for bins in (packing.pack([len(row["input_ids"]) for row in rows], 100), [[i] for i in range(8)]):
        model.zero_grad()
        model(**packing.collate(rows, bins, pad_token_id=0), use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for packed, padded in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=1e-3, atol=1e-5)


def test_collate_lays_out_labels_and_positions():
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}]
    batch = packing.collate([*rows, {"input_ids": [1], "labels": [1]}], [[0, 1], [2]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9], [1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 6, 7, -100, 9], [-100] * 5]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]


def test_less_than_a_row_of_an_epoch():
    with pytest.raises(ValueError, match=r"epochs: 0.01 of 24 rows is less than a row; set 0.042 or more"):
        packing.plan_batches(24, 4, 0.01, seed=0)
    assert packing.plan_batches(24, 4, 0.042, seed=0) == [packing.plan_batches(24, 4, 1, seed=0)[0][:1]]
    assert packing.plan_batches(0, 4, 1, seed=0) == []
    with pytest.raises(ValueError, match="epochs: 0.01 of 24 rows"):
        curriculum.plan_batches(
            [{"pass_rate": 0.5}] * 24, {"order": "easy_to_hard", "batch_size": 4, "epochs": 0.01, "seed": 0}
        )


@pytest.mark.parametrize(
    ("ratio", "steps", "warmup"), [(0.1, 2, 0), (0.05, 19, 0), (0.05, 20, 1), (0.05, 21, 2), (0, 9, 0)]
)
def test_a_warm_up_of_less_than_a_step_is_none(ratio, steps, warmup):
    assert arguments.warmup_steps(ratio, steps) == warmup
