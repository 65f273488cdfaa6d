"""Equality of expressions: what is right, and what hostile answers may cost."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from steps.core.files import read_jsonl
from steps.judges.mathematics import Checker
from steps.judges.reading import boxed

LIMIT = 0.4
RIGHT = [(r"\frac{84}{2}", "42"), ("42.0", "42"), ("(x+1)^{2}", "x^{2}+2x+1")]


def hostile() -> list[tuple[str, str]]:
    """The 50 answers; `repeat` writes a sign many times."""
    pairs = []
    for row in read_jsonl(Path(__file__).parent / "hostile_answers.jsonl"):
        response = row["response"]
        for sign, (text, times) in row.get("repeat", {}).items():
            response = response.replace(sign, text * times)
        # What stands in its box, if it has one: a judge asks about answers.
        pairs.append((boxed(response) or response, row["answer"]))
    return pairs


def server_of(checker: Checker) -> int:
    server = checker.servers.get()
    checker.servers.put(server)
    return server.pid


@pytest.fixture(scope="module")
def checker():
    """Generous: what is tested here takes milliseconds on an idle machine."""
    with Checker(20.0) as checker:
        yield checker


def test_right_wrong_and_unread(checker):
    cases = [
        (r"\frac{84}{2}", "42", "right"),
        ("0.1", r"\frac{1}{10}", "right"),
        (r"\sqrt{8}", r"2\sqrt{2}", "right"),
        (r"\log_{2} 5", r"\frac{\ln 5}{\ln 2}", "right"),
        ("2^{-99}", "2^{-98}", "wrong"),
        (r"1\cdot 10^{-7}", r"2\cdot 10^{-7}", "wrong"),
        ("2\\pi r", "2\\pi r h", "wrong"),
        ("y^{2}", "x^{2}", "wrong"),
        (r"\sqrt{x^{2}}", "x", "wrong"),
        ("i^{2}", "-1", "right"),
        ("2x-y+3=0", "y=2x+3", "right"),
        ("2x-y-3=0", "y=2x+3", "wrong"),
        (r"\infty", r"-\infty", "wrong"),
        (r"\int_0^1 x dx", r"\int_0^1 x dx", "right"),
        (r"\frac{1}{", "42", "unread"),
        ("42", r"\frac{1}{", "no_gold"),
    ]
    found = checker.check([(given, gold) for given, gold, _ in cases])
    assert list(zip(cases, found, strict=True)) == [(case, case[2]) for case in cases]


def judge_of(server: int) -> int:
    return int(Path(f"/proc/{server}/task/{server}/children").read_text().split()[0])


def test_signals_to_end_leave_the_trainer_its_judge(checker):
    """They reach all processes of a terminal or job, and the trainer finishes its step."""
    assert checker.check(RIGHT[:1]) == ["right"]
    server = server_of(checker)
    judge = judge_of(server)
    for process in (judge, server):
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process, number)
    assert checker.check(RIGHT) == ["right"] * 3
    assert (server_of(checker), judge_of(server)) == (server, judge)


def test_time_that_a_judge_is_stopped_does_not_count():
    with Checker(1.0) as checker:
        assert checker.check(RIGHT[:1]) == ["right"]
        judge = judge_of(server_of(checker))
        for seconds, number in ((0.3, signal.SIGSTOP), (1.8, signal.SIGCONT)):
            threading.Timer(seconds, os.kill, [judge, number]).start()
        began = time.monotonic()
        assert checker.check([(r"\binom{1000000000}{500000000}", "42")]) == ["timeout"]
        assert time.monotonic() - began > 2.3


def test_a_process_that_dies_costs_its_own_answer_only():
    def kill_the_judge(server):
        time.sleep(0.5)
        os.kill(judge_of(server), signal.SIGKILL)

    with Checker(60.0) as checker:
        assert checker.check(RIGHT[:1]) == ["right"]
        server = server_of(checker)
        killer = threading.Thread(target=kill_the_judge, args=[server])
        killer.start()
        assert checker.check([(r"\binom{1000000000}{500000000}", "42"), RIGHT[1]]) == ["error", "right"]
        killer.join()
        for idle in (judge_of(server), server):
            os.kill(idle, signal.SIGKILL)
            time.sleep(0.3)
            assert checker.check(RIGHT) == ["right"] * 3


def test_several_workers_keep_the_order():
    pairs = [(str(i), "1") for i in (1, 2, 1, 1, 3)]
    with Checker(20.0, workers=2) as checker:
        assert checker.check(pairs) == ["right", "wrong", "right", "right", "wrong"]


def test_fifty_hostile_answers_cost_less_than_fifty_limits_and_lose_nothing():
    pairs = []
    for i, pair in enumerate(hostile()):
        pairs += [pair, RIGHT[i % len(RIGHT)]]
    assert len(pairs) == 100
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Checker(LIMIT) as checker:
        # The first answer waits for the server to start.
        assert checker.check(RIGHT) == ["right"] * len(RIGHT)
        found = checker.check(pairs)
    # Of processors, the start of the server included, so that others on the machine do not count.
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert now.ru_utime + now.ru_stime - before.ru_utime - before.ru_stime < 50 * LIMIT
    assert found[1::2] == ["right"] * 50
    assert found[0::2].count("timeout") >= 19, "those that hang"
    assert found[0::2].count("right") <= 3


def test_the_server_has_no_torch(checker):
    checker.check(RIGHT[:1])
    assert "torch" not in Path(f"/proc/{server_of(checker)}/maps").read_text()
