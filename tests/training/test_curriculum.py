"""The batches of a training that goes by the difficulty of its rows."""

from collections import Counter
from itertools import accumulate
from random import Random

import pytest

from steps.core.curriculum import apportioned, epoch_rows, weigh
from steps.settings.distill import Distill
from steps.settings.errors import check
from steps.settings.reward import Reward
from steps.settings.sft import Sft
from steps.settings.training import Curriculum
from steps.training import packing
from steps.training.curriculum import counts, plan_batches
from steps.training.plan import Plan

SETTINGS = {"batch_size": 4, "epochs": 2, "seed": 0, "order": "shuffle", "bucket_shares": None}
SHARES = {"easy": 0.25, "medium": 0.5, "hard": 0.25}
BUCKETS = {1.0: "easy", 0.5: "medium", 0.0: "hard", None: "unverified"}


def rows(*rates):
    return [{"file": "ab"[i % 2], "pass_rate": rate, "bucket": BUCKETS[rate]} for i, rate in enumerate(rates)]


# 2 easy, 4 medium, 10 hard ones.
ROWS = rows(1.0, 0.0, 0.5, *[0.0] * 6, 0.5, 1.0, 0.0, 0.5, 0.0, 0.0, 0.5)


def order_of(given, **change):
    return [row for batch in plan_batches(given, SETTINGS | change) for row in batch]


def test_without_a_curriculum_nothing_changes():
    assert plan_batches(ROWS, SETTINGS) == packing.plan_batches(16, 4, 2, 0)
    assert plan_batches(ROWS, SETTINGS | {"order": "sources"}) == packing.plan_batches(
        16, 4, 2, 0, [row["file"] for row in ROWS]
    )
    plain = {key: value for key, value in SETTINGS.items() if key not in ("order", "bucket_shares")}
    assert plan_batches([{}] * 16, plain) == packing.plan_batches(16, 4, 2, 0)


@pytest.mark.parametrize("epochs", [0.5, 1, 2.3])
def test_easy_to_hard_goes_once_over_the_run(epochs):
    order = order_of(ROWS, order="easy_to_hard", epochs=epochs)
    rates = [ROWS[row]["pass_rate"] for row in order]
    assert len(order) == round(16 * epochs) and rates == sorted(rates, reverse=True)
    times = [order.count(row) for row in range(16)]
    assert max(times) - min(times) <= 1
    other = order_of(ROWS, order="easy_to_hard", epochs=epochs, seed=1)
    assert other != order == order_of(ROWS, order="easy_to_hard", epochs=epochs)


def test_rows_without_an_answer_come_last():
    given = rows(None, 0.0, 1.0, None)
    assert order_of(given, order="easy_to_hard", epochs=1)[:2] == [2, 1]


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard"])
def test_buckets_have_their_shares(order):
    dealt = order_of(ROWS, order=order, bucket_shares=SHARES)
    found = Counter(ROWS[row]["bucket"] for row in dealt)
    assert found == {"easy": 8, "medium": 16, "hard": 8}
    for bucket, size in (("easy", 2), ("medium", 4), ("hard", 10)):
        times = [dealt.count(i) for i, row in enumerate(ROWS) if row["bucket"] == bucket]
        assert len(times) == size and max(times) - min(times) <= 1
    batches = [dealt[i : i + 4] for i in range(0, len(dealt), 4)]
    settings = SETTINGS | {"bucket_shares": SHARES}
    assert counts(ROWS, batches, settings) == {
        "buckets": {
            "easy": {"rows": 2, "dealt": 8},
            "hard": {"rows": 10, "dealt": 8},
            "medium": {"rows": 4, "dealt": 16},
        }
    }
    assert counts(ROWS, batches, SETTINGS) == {}


def test_every_epoch_is_mixed_and_has_the_shares():
    dealt = order_of(ROWS, bucket_shares=SHARES)
    for epoch in (dealt[:16], dealt[16:]):
        assert Counter(ROWS[row]["bucket"] for row in epoch) == {"easy": 4, "medium": 8, "hard": 4}
        assert [ROWS[row]["bucket"] for row in epoch] != sorted(ROWS[row]["bucket"] for row in epoch)


def test_a_small_share_has_its_slots_over_the_epochs():
    """2 % of 16 rows is a third of a slot: with ten epochs three slots, and never two at once."""
    shares = {"easy": 0.02, "medium": 0.49, "hard": 0.49}
    dealt = order_of(ROWS, bucket_shares=shares, epochs=10)
    found = Counter(ROWS[row]["bucket"] for row in dealt)
    assert (found["easy"], len(dealt)) == (3, 160) and {found["medium"], found["hard"]} == {78, 79}
    per_epoch = [sum(ROWS[row]["bucket"] == "easy" for row in dealt[i : i + 16]) for i in range(0, 160, 16)]
    assert max(per_epoch) == 1


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard"])
def test_a_share_of_less_than_a_row_is_said(order, capsys):
    shares = {"easy": 0.01, "medium": 0.5, "hard": 0.49}
    dealt = order_of(ROWS, order=order, bucket_shares=shares)
    assert "easy" not in {ROWS[row]["bucket"] for row in dealt}
    assert "no row that is easy is dealt: its share of 32 is 0.32 rows" in capsys.readouterr().out
    order_of(ROWS, order=order, bucket_shares=SHARES)
    assert "is dealt" not in capsys.readouterr().out


@pytest.mark.parametrize("seed", range(5))
def test_what_a_share_has_had_is_within_a_slot_of_its_part(seed):
    rng = Random(seed)
    shares = [rng.random() ** 3 for _ in range(rng.randint(1, 8))]
    ends = list(accumulate(rng.randint(1, 30) for _ in range(20)))
    had = [0] * len(shares)
    for begin, end, counts_ in zip([0, *ends], ends, apportioned(shares, ends), strict=False):
        assert sum(counts_) == end - begin and min(counts_) >= 0
        had = [a + b for a, b in zip(had, counts_, strict=True)]
        assert all(abs(a - share / sum(shares) * end) < 1 for a, share in zip(had, shares, strict=True))


def weighted(rows_, **weights):
    return [row | ({"weight": weights[row["file"]]} if row["file"] in weights else {}) for row in rows_]


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard"])
@pytest.mark.parametrize("weight", [2.0, 1.5, 0.5, 0.3])
def test_a_source_s_rows_are_dealt_as_often_as_its_weight_says(order, weight):
    """Eight rows of either source, ten epochs: of b each 10 times, of a each 10 times its weight, or one more."""
    given = weighted(ROWS, a=weight)
    dealt = order_of(given, order=order, epochs=10)
    times = [dealt.count(i) for i in range(16)]
    if order == "shuffle":
        assert times[1::2] == [10] * 8 and {*times[::2]} <= {int(10 * weight), int(10 * weight) + 1}
    assert len(dealt) == sum(times) == round(8 * weight * 10) + 80
    assert abs(sum(times[::2]) - 80 * weight) <= 4 and dealt == order_of(given, order=order, epochs=10)
    assert epoch_rows(given) == 8 + 8 * weight


def test_every_epoch_has_its_part_of_a_weight():
    given = weighted(ROWS, a=0.25)
    dealt = order_of(given, epochs=4)
    assert len(dealt) == 40
    for i in range(4):
        epoch = dealt[10 * i : 10 * i + 10]
        assert sum(given[row]["file"] == "a" for row in epoch) == 2 and len({*epoch}) == 10


def test_weights_act_within_buckets():
    given = weighted(ROWS, a=3.0)
    dealt = order_of(given, epochs=8, bucket_shares={"hard": 1.0})
    found = Counter(given[row]["file"] for row in dealt)
    hard = Counter(row["file"] for row in given if row["bucket"] == "hard")
    assert {given[row]["bucket"] for row in dealt} == {"hard"} and len(dealt) == 8 * 32
    assert abs(found["a"] - 8 * 32 * 3 * hard["a"] / (3 * hard["a"] + hard["b"])) <= 1


def test_the_manifest_says_what_sources_and_buckets_have():
    """Rows, not texts: the first is of two texts."""
    given = weighted([ROWS[0] | {"part": 0}, ROWS[0] | {"part": 1}, *ROWS[1:]], a=2.0)
    settings = SETTINGS | {"bucket_shares": {"easy": 1.0}, "source_weights": [{"a": 2.0}]}
    batches = [[0, 1, 2], [0, 10]]
    found = counts(given, batches, settings)
    assert found["buckets"]["easy"]["rows"] == 2 and found["buckets"]["easy"]["dealt"] == 3
    assert found["sources"] == {
        "a": {"rows": 8, "dealt": 3, "weight": 2.0},
        "b": {"rows": 8, "dealt": 2, "weight": 1.0},
    }


def test_rows_have_the_weight_of_their_source():
    settings = {"source_weights": [{"a": 2.0}, {"b": 0.5}]}
    given = [{"file": "a"}, {"file": "b"}]
    assert weigh([dict(row) for row in given], settings) == [{"file": "a", "weight": 2.0}, {"file": "b"}]
    assert weigh([dict(row) for row in given], settings, 1) == [{"file": "a"}, {"file": "b", "weight": 0.5}]
    assert weigh([dict(row) for row in given], {}) == given


def test_an_epoch_of_weighted_rows_is_as_long_as_the_weights_say():
    plan = Plan(batches=[[0, 1]] * 6, accumulation=1, lengths=[1] * 4, saves=1, epoch_rows=6.0)
    assert plan.epoch(3) == 1.0 and plan.epoch_ends(2) == [3, 6] and plan.progress()[-1][0] == 2.0


def test_easy_to_hard_with_shares_is_both():
    dealt = order_of(ROWS, order="easy_to_hard", bucket_shares=SHARES)
    assert [ROWS[row]["bucket"] for row in dealt] == ["easy"] * 8 + ["medium"] * 16 + ["hard"] * 8


@pytest.mark.parametrize("change", [{"order": "easy_to_hard"}, {"bucket_shares": {"hard": 1.0}}])
def test_rows_without_difficulty_are_refused(change):
    for given in (rows(None, None), [{"file": "a"}] * 3):
        with pytest.raises(ValueError, match=r"^(order: easy_to_hard|bucket_shares): no row has a pass rate"):
            plan_batches(given, SETTINGS | change)


def test_a_bucket_without_a_share_is_dealt_never():
    given = rows(1.0, 1.0, 0.5, 0.5, 0.0, 0.0)
    shares = {"easy": 0.5, "medium": 0.0, "hard": 0.5}
    dealt = [
        row
        for batch in plan_batches(given, SETTINGS | {"order": "easy_to_hard", "bucket_shares": shares})
        for row in batch
    ]
    assert {2, 3}.isdisjoint(dealt) and {0, 1, 4, 5} == {*dealt}


def test_weights_that_look_alike_are_two():
    given = [
        row | {"weight": weight} for row, weight in zip(rows(1.0, 1.0, 1.0), (0.3333333, 0.33333331, 1.0), strict=True)
    ]
    dealt = [row for batch in plan_batches(given, SETTINGS | {"epochs": 30}) for row in batch]
    assert dealt.count(0) >= 9 and dealt.count(1) >= 9 and dealt.count(2) >= 29


def test_weights_that_leave_no_row_are_one_line():
    given = [row | {"weight": 0.01} for row in rows(1.0, 1.0)]
    with pytest.raises(ValueError, match=r"epochs: 1 of 2 rows whose weights add up to 0.02 is less than a row"):
        plan_batches(given, SETTINGS | {"epochs": 1})


@pytest.mark.parametrize("order", ["shuffle", "easy_to_hard"])
def test_a_share_of_nothing_is_refused(order):
    with pytest.raises(ValueError, match=r"bucket_shares.medium: no row is medium \(there are: easy 1, hard 1\)"):
        plan_batches(rows(1.0, 0.0), SETTINGS | {"order": order, "bucket_shares": SHARES})


def test_shares_are_a_whole_epoch():
    check(Curriculum, {"order": "shuffle", "bucket_shares": SHARES}, "sft")
    with pytest.raises(ValueError, match=r"sft.bucket_shares: the shares sum to 0.5; they must sum to 1"):
        check(Curriculum, {"order": "shuffle", "bucket_shares": {"easy": 0.5}}, "sft")


def test_what_trains_on_rows_may_have_a_curriculum():
    assert all(issubclass(of, Curriculum) for of in (Sft, Distill, Reward))
    fitting = {"progressive": None, "buckets": None, "order": "easy_to_hard", "bucket_shares": SHARES, "epochs": 1}
    fitting |= {"schedule": "cosine", "warmup_ratio": 0.0, "optimizer": "adamw", "adapter": {"kind": "full"}}
    Sft.fit(fitting)
    for change, message in (
        ({"order": "sources"}, "bucket_shares: has no effect with order: sources"),
        ({"order": "shuffle", "buckets": {"every": 2}}, "bucket_shares: deals rows more than once"),
        ({"progressive": {"delta": 0.1}}, "order: easy_to_hard knows no epoch over all rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Sft.fit(fitting | change)
