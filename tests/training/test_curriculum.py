"""The batches of a training that goes by the difficulty of its rows."""

from collections import Counter

import pytest

from steps.settings.distill import Distill
from steps.settings.errors import check
from steps.settings.reward import Reward
from steps.settings.sft import Sft
from steps.settings.training import Curriculum
from steps.training import packing
from steps.training.curriculum import counts, plan_batches

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


def test_easy_to_hard_with_shares_is_both():
    dealt = order_of(ROWS, order="easy_to_hard", bucket_shares=SHARES)
    assert [ROWS[row]["bucket"] for row in dealt] == ["easy"] * 8 + ["medium"] * 16 + ["hard"] * 8


@pytest.mark.parametrize("change", [{"order": "easy_to_hard"}, {"bucket_shares": {"hard": 1.0}}])
def test_rows_without_difficulty_are_refused(change):
    for given in (rows(None, None), [{"file": "a"}] * 3):
        with pytest.raises(ValueError, match=r"^(order: easy_to_hard|bucket_shares): no row has a pass rate"):
            plan_batches(given, SETTINGS | change)


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
    Sft.fit(fitting)
    for change, message in (
        ({"order": "sources"}, "bucket_shares: has no effect with order: sources"),
        ({"order": "shuffle", "buckets": {"every": 2}}, "bucket_shares: deals rows more than once"),
        ({"progressive": {"delta": 0.1}}, "order: easy_to_hard knows no epoch over all rows"),
    ):
        with pytest.raises(ValueError, match=message):
            Sft.fit(fitting | change)
