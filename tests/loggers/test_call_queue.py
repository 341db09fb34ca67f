from __future__ import annotations

import threading
import time

import pytest

from rmexp.loggers.call_queue import CallQueue


def test_calls_are_made_in_order_and_awaited_at_the_end() -> None:
    made: list[int] = []
    calls = CallQueue("test", room=50)
    for i in range(30):
        calls.submit(lambda i=i: made.append(i))
    calls.close(lambda: made.append(99), timeout=5)
    assert made == [*range(30), 99]


def test_an_error_reaches_the_next_call_and_ends_the_rest() -> None:
    made: list[str] = []
    calls = CallQueue("test", room=5)

    def fail() -> None:
        raise OSError("gone")

    calls.submit(fail)
    deadline = time.monotonic() + 5
    with pytest.raises(OSError, match="gone"):
        while time.monotonic() < deadline:
            calls.submit(lambda: made.append("late"))
    with pytest.raises(OSError, match="gone"):
        calls.close(lambda: made.append("last"), timeout=5)
    assert made == []


def test_a_call_that_hangs_holds_nobody_up() -> None:
    freed = threading.Event()
    calls = CallQueue("test", room=3)
    began = time.monotonic()
    calls.submit(lambda: freed.wait(30) and None)
    with pytest.raises(TimeoutError, match="3 calls are waiting for one that hangs"):
        for _ in range(5):
            calls.submit(lambda: None)
    with pytest.raises(TimeoutError, match=r"did not return within 0\.1 s"):
        calls.close(lambda: None, timeout=0.1)
    assert time.monotonic() - began < 10
    freed.set()
