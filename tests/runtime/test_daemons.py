"""Calls in threads that do not keep a process alive."""

import subprocess
import sys
import threading
import time

import pytest

from grpo_envs.runtime.daemons import side_by_side

ENDS_MEANWHILE = """
import sys, threading, time
from grpo_envs.runtime.daemons import side_by_side

begun = threading.Event()

def forever(_: int) -> None:
    begun.set()
    time.sleep(600)

threading.Thread(target=side_by_side, args=(forever, [1]), kwargs={"most": 1}, daemon=True).start()
begun.wait()
print("ends")
"""


def test_results_come_in_order_and_at_most_so_many_calls_run_at_once() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def call(number: int, text: str) -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01 * (5 - number))
        with lock:
            running -= 1
        return f"{text}{number}"

    assert side_by_side(call, range(5), "abcde", most=2) == ["a0", "b1", "c2", "d3", "e4"]
    assert most == 2
    assert side_by_side(call, [], [], most=2) == []


def test_the_first_error_is_raised_after_all_calls() -> None:
    made = []

    def call(number: int) -> None:
        time.sleep(0.2 * (number == 2))
        made.append(number)
        if number:
            raise ValueError(number)

    with pytest.raises(ValueError, match=r"^1$"):
        side_by_side(call, range(3), most=1)
    assert made == [0, 1, 2]


def test_a_process_that_ends_does_not_wait_for_them() -> None:
    command = [sys.executable, "-c", ENDS_MEANWHILE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "ends\n"
