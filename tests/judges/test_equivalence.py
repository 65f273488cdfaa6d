"""Mathematical equivalence: what is right, and what hostile answers may cost."""

import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest

from steps.core.files import read_jsonl
from steps.data.equivalence import Checker

LIMIT = 0.4
RIGHT = [(r"\boxed{\frac{84}{2}}", "42"), ("so 40 + 2 = 42\n#### 42.0", "42"), (r"It is $0.5$.", r"\frac{1}{2}")]


def hostile() -> list[tuple[str, str]]:
    """The 50 answers; `repeat` writes a sign many times."""
    pairs = []
    for row in read_jsonl(Path(__file__).parent / "hostile_answers.jsonl"):
        response = row["response"]
        for sign, (text, times) in row.get("repeat", {}).items():
            response = response.replace(sign, text * times)
        pairs.append((response, row["answer"]))
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


def test_right_wrong_and_unparsed(checker):
    cases = [
        (r"\boxed{41}? After another look it is $\boxed{42}$.", "42", "right"),
        (r"\boxed{42} or \boxed{41}", "42", "wrong"),
        (r"The ratio is $\frac{1}{3}$ and so $\boxed{50\%}$.", "50%", "right"),
        (r"\boxed{50\%}", r"50\%", "right"),
        ("#### 1,234", "1234", "right"),
        ("#### (1, 2]", "(1,2]", "right"),
        ("#### (1, 2]", "1", "wrong"),
        ("#### 41\nso \\boxed{42}", "42", "right"),
        (r"$\boxed{(x+1)^2}$", "x^2+2x+1", "right"),
        (r"\boxed{\{2, 1\}}", r"\{1,2\}", "right"),
        ("0.5", "50%", "right"),
        ("no idea", "42", "unparsed"),
        ("", "42", "unparsed"),
        (r"\boxed{\frac{1}{", "42", "unparsed"),
    ]
    found = checker.check([(response, answer) for response, answer, _ in cases])
    assert list(zip(cases, found, strict=True)) == [(case, case[2]) for case in cases]


@pytest.mark.parametrize("answer", ["", "####", r"\frac{1}{", "\x00"])
def test_an_answer_that_cannot_be_read_is_an_error_and_equals_nothing(checker, answer):
    with pytest.raises(ValueError, match="is no expression that math-verify can read"):
        checker.check([(rf"\boxed{{{answer}}}", answer)])
    assert checker.check([("42", "42")]) == ["right"]


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
        assert checker.check([(r"\boxed{9^{9^{9^{9}}}}", "42")]) == ["timeout"]
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
        assert checker.check([(r"\boxed{9^{9^{9^{9}}}}", "42"), RIGHT[1]]) == ["error", "right"]
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
    # In a million signs that hide the right answer math-verify may find it.
    assert found[0::2].count("right") <= 3


def test_the_server_has_no_torch(checker):
    checker.check(RIGHT[:1])
    assert "torch" not in Path(f"/proc/{server_of(checker)}/maps").read_text()
