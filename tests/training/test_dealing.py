"""Dealing: nothing lost or doubled, groups apart, budgets equal, and the stopping rule, on random inputs."""

import json
from collections import Counter, defaultdict
from itertools import pairwise
from random import Random

import pytest

from steps.training import dealing
from steps.training.packing import plan_batches


def random_groups(random: Random, rows: int, largest: int) -> dict[int, str]:
    """Row -> group for about half of the rows."""
    left = random.sample(range(rows), rows // 2)
    groups = {}
    while left:
        size = random.randint(1, largest)
        groups |= {row: f"g{len(left)}" for row in left[:size]}
        left = left[size:]
    return groups


def assert_apart(order: list[int], step_rows: int, groups: dict[int, str]) -> None:
    for start in range(0, len(order), step_rows):
        held = [groups[row] for row in order[start : start + step_rows] if row in groups]
        assert len(held) == len(set(held))


# --- the stopping rule ---------------------------------------------------------------------------


def test_training_stops_at_the_first_rise_and_never_before():
    random = Random(0)
    for _ in range(500):
        delta = random.choice([0.0, 0.01, 0.1])
        losses = [round(random.uniform(0, 0.5), 2) for _ in range(random.randint(0, 8))]
        rises = [after - before > delta + 1e-12 for before, after in pairwise(losses)]
        stop = dealing.stop_epoch(losses, delta)
        if stop is None:
            assert not any(rises)
        else:
            assert rises.index(True) == stop - 2
        # What comes later cannot change a decision that was made.
        assert stop is None or dealing.stop_epoch(losses + [9.0], delta) == stop


def test_the_stopping_rule_by_hand():
    assert dealing.stop_epoch([1.0, 0.5, 0.505, 0.53, 0.2], 0.01) == 4
    assert dealing.stop_epoch([1.0, 0.5, 0.505, 0.51], 0.01) is None
    assert dealing.stop_epoch([1.0], 0.0) is None


# --- conflict groups -----------------------------------------------------------------------------


def test_an_arrangement_is_found_exactly_when_there_is_one():
    """Against the condition of Gale and Ryser: no k groups have more rows than k to a step leave room for."""
    random = Random(1)
    found = Counter()
    for _ in range(600):
        capacities = [random.randint(1, 4) for _ in range(random.randint(1, 5))]
        steps = [step for step, size in enumerate(capacities) for _ in range(size)]
        random.shuffle(steps)
        rows = list(range(len(steps)))
        groups = {row: f"g{random.randrange(5)}" for row in rows if random.random() < 0.9}
        sizes = sorted([*Counter(groups.values()).values(), *[1] * (len(rows) - len(groups))], reverse=True)
        possible = all(sum(sizes[:k]) <= sum(min(c, k) for c in capacities) for k in range(1, len(sizes) + 1))
        try:
            dealt = dealing.spread(rows, steps, groups, defaultdict(set), random)
        except ValueError:
            assert not possible
        else:
            assert possible and sorted(dealt) == rows
            held = Counter((step, groups[row]) for step, row in zip(steps, dealt, strict=True) if row in groups)
            assert set(held.values()) <= {1}
        found[possible] += 1
    assert min(found.values()) > 50


def test_groups_are_kept_apart_and_every_epoch_keeps_its_rows():
    random = Random(2)
    for _ in range(200):
        rows, step_rows, epochs = random.randint(30, 80), random.randint(2, 8), random.choice([1, 2, 2.5, 3])
        order = [row for batch in plan_batches(rows, step_rows, epochs, seed=0) for row in batch]
        groups = random_groups(random, rows, largest=3)
        whole = dealing.keep_apart(order, 0, rows, step_rows, groups, (), random)
        assert_apart(whole, step_rows, groups)

        # From some step on, with fixed slots, fewer groups: what is before stays, and so do the fixed ones.
        first = step_rows * random.randrange(len(order) // step_rows)
        fixed = random.sample(range(first, len(order)), min(3, len(order) - first))
        some = {row: group for row, group in groups.items() if group[-1] in "02468"}
        try:
            again = dealing.keep_apart(whole, first, rows, step_rows, some, fixed, random)
        except ValueError:
            continue
        assert again[:first] == whole[:first] and all(again[slot] == whole[slot] for slot in fixed)
        assert_apart(again, step_rows, some)
        for start in range(0, len(order), rows):
            for made in (whole, again):
                assert sorted(made[start : start + rows]) == sorted(order[start : start + rows])


def test_a_group_larger_than_the_steps_is_the_users_error():
    with pytest.raises(ValueError, match="conflict group g has 4 rows.*lower batch_size"):
        dealing.keep_apart(list(range(12)), 0, 12, 4, dict.fromkeys(range(4), "g"), (), Random(0))


# --- domains -------------------------------------------------------------------------------------


def test_a_domain_falls_relative_to_what_it_was():
    before = {"a": 0.8, "b": 0.8, "c": 0.0, "d": 0.5}
    now = {"a": 0.75, "b": 0.77, "c": 0.0, "d": 0.6, "new": 0.1}
    assert dealing.fallen(before, now, 0.05) == ["a"]
    assert dealing.fallen({}, now, 0.05) == []


def test_resampling_gives_each_batch_its_share_and_each_domain_its_part():
    random = Random(3)
    for _ in range(100):
        size, share = random.randint(4, 32), random.choice([0.1, 0.25, 0.5, 1.0])
        batches = [range(start, start + size) for start in range(0, 5 * size, size)]
        pools = [list(range(100 * p, 100 * p + random.randint(1, 20))) for p in range(random.randint(1, 3))]
        replaced = dealing.resample(batches, share, pools, random)
        for batch in batches:
            assert sum(slot in replaced for slot in batch) == round(share * size)
        by_pool = Counter(row // 100 for row in replaced.values())
        assert sum(by_pool.values()) == len(replaced)
        if len(replaced) >= len(pools):
            assert max(by_pool.values()) - min(by_pool[p] for p in range(len(pools))) <= 1
        for p, pool in enumerate(pools):
            uses = Counter(row for row in replaced.values() if row // 100 == p)
            assert set(uses) <= set(pool) and max(uses.values(), default=0) - min(map(uses.get, uses), default=0) <= 1


# --- both, under way -----------------------------------------------------------------------------


def random_run(seed: int, buckets: bool, resample: bool):
    """A dealer over random rows, whose model answers at random, and a log of the batches before each step."""
    random = Random(seed)
    count, size, accumulation = random.randint(40, 90), random.randint(2, 5), random.randint(1, 2)
    groups = random_groups(random, count, largest=3)
    rows = [{"file": f"d{i % 3}", "conflict_group": groups.get(i)} for i in range(count)]
    valid = [{"file": f"d{i % 2}"} for i in range(20)]
    settings = {
        "seed": seed,
        "buckets": {"every": random.randint(1, 4)} if buckets else None,
        "resample": {"every": random.randint(1, 4), "drop": 0.05, "share": 0.5} if resample else None,
    }
    answers = Random(f"answers {seed}")

    def right(asked):
        return [answers.random() < 0.6 for _ in asked]

    batches = plan_batches(count, size, random.choice([1, 2.5]), seed)
    return dealing.Dealer(batches, accumulation, settings, rows, valid, right), accumulation, groups


@pytest.mark.parametrize(("buckets", "resample"), [(True, False), (False, True), (True, True)])
def test_a_dealt_run_keeps_its_budget_and_its_past(buckets, resample):
    opened, replaced = Counter(), 0
    for seed in range(60):
        dealer, accumulation, groups = random_run(seed, buckets, resample)
        planned = [row for batch in dealer.batches for row in batch]
        sizes = [len(batch) for batch in dealer.batches]
        steps = -(-len(sizes) // accumulation)
        for step in range(1, steps + 1):
            before = json.loads(json.dumps(dealer.batches))
            dealer.after(step)
            assert [len(batch) for batch in dealer.batches] == sizes
            # The step that comes next is in the loader's hands.
            settled = (step + 1) * accumulation
            assert dealer.batches[:settled] == before[:settled]
            order = [row for batch in dealer.batches[settled:] for row in batch]
            still = {row: group for row, group in groups.items() if group in dealer.open}
            assert_apart(order, dealer.step_rows, still)
            opened[len(dealer.open)] += 1
        dealt = [row for batch in dealer.batches for row in batch]
        if not resample:
            for start in range(0, len(planned), len(dealer.rows)):
                part = slice(start, start + len(dealer.rows))
                assert sorted(dealt[part]) == sorted(planned[part])
        by_look = [line["replaced"] for line in dealer.log if line["kind"] == "resample"]
        replaced += sum(by_look)
        assert [line["step"] for line in dealer.log] == sorted(line["step"] for line in dealer.log)
    assert (replaced > 0) == resample and (len(opened) > 1) == buckets


def test_what_is_replaced_comes_from_the_fallen_domain():
    rows = [{"file": "ab"[i % 2]} for i in range(40)]
    valid = [{"file": "a"}, {"file": "b"}, {"file": "b"}]
    answers = iter([[True, True, True], [False, True, True], [False, True, True]])
    settings = {"seed": 0, "buckets": None, "resample": {"every": 2, "drop": 0.05, "share": 0.5}}
    batches = plan_batches(40, 4, 1, seed=0)
    before = [list(batch) for batch in batches]
    dealer = dealing.Dealer(batches, 1, settings, rows, valid, lambda asked: next(answers))
    for step in range(1, 8):
        dealer.after(step)
    assert [(line["step"], line["resampled"]) for line in dealer.log] == [(2, []), (4, ["a"]), (6, [])]
    # After step 4 the batch of step 5 is loaded: the next two are those of steps 6 and 7.
    assert [i for i in range(10) if batches[i] != before[i]] == [5, 6]
    for index in (5, 6):
        new = [row for row, old in zip(batches[index], before[index], strict=True) if row != old]
        assert new and all(rows[row]["file"] == "a" for row in new)
    assert dealer.log[1]["replaced"] == 4 and dealer.log[1]["left_out"] == []


def noted(right, looks: list):
    """The same answers, and a record of them."""

    def asked(rows):
        looks.append(right(rows))
        return looks[-1]

    return asked


def test_a_restored_dealer_deals_on_as_if_nothing_had_happened():
    for seed in range(10):
        dealer, accumulation, _ = random_run(seed, True, True)
        other, _, _ = random_run(seed, True, True)
        steps = -(-len(dealer.batches) // accumulation)
        looks: list[list[bool]] = []
        dealer.right = noted(dealer.right, looks)
        half = steps // 2
        for step in range(1, half + 1):
            dealer.after(step)
        state = json.loads(json.dumps(dealer.state()))
        looks.clear()
        for step in range(half + 1, steps + 1):
            dealer.after(step)
        other.restore(state)
        replay = iter(looks)
        other.right = lambda asked, replay=replay: next(replay)
        for step in range(half + 1, steps + 1):
            other.after(step)
        assert other.batches == dealer.batches and other.log == dealer.log
