"""Work in several processes: in order, the same as in one, and over when it is over."""

import os
import signal
import subprocess
import sys
import time

import pytest

from steps.core.pool import AHEAD, in_order


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_results_come_in_the_order_of_the_parts(processes, count):
    own = os.getpid()

    def squared(number):
        time.sleep(0.01 * (number % 3 == 0))
        return number * number, os.getpid() != own

    found = list(in_order(squared, range(count), processes))
    assert [square for square, _ in found] == [number * number for number in range(count)]
    assert all(is_apart == (processes > 1 and count > 1) for _, is_apart in found)


def test_no_more_parts_are_taken_than_are_worked_on():
    taken = []

    def parts():
        for number in range(1000):
            taken.append(number)
            yield number

    results = in_order(abs, parts(), 2)
    assert next(results) == 0 and len(taken) <= 2 * AHEAD + 2
    results.close()


def test_a_part_that_fails_ends_the_work():
    def refuse(number):
        raise ValueError(f"row {number} is none")

    with pytest.raises(ValueError, match="row 0 is none"):
        list(in_order(refuse, range(10), 2))


def test_a_process_that_is_killed_is_one_line():
    with pytest.raises(ValueError, match="one of 2 processes was killed"):
        list(in_order(lambda number: os.kill(os.getpid(), signal.SIGKILL), range(4), 2))


def test_processes_end_with_a_step_that_is_killed():
    code = (
        "import os, sys, time\nfrom steps.core.pool import in_order\n"
        # One write each: of two at once, the number and its line's end may come apart.
        "def work(i):\n    os.write(1, f'{os.getpid()}\\n'.encode())\n    time.sleep(0.2 if i < 2 else 60)\n"
        "list(in_order(work, range(4), 2))\n"
    )
    step = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert step.stdout
    children = {int(step.stdout.readline()) for _ in range(2)}
    step.kill()
    step.wait()
    step.stdout.close()
    until = time.monotonic() + 10
    while (alive := [child for child in children if is_running(child)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not alive


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
