from __future__ import annotations

import threading
import time

import pytest

from rmexp.loggers.call_queue import CallQueue


def nothing() -> None:
    pass


def test_calls_are_made_in_order_and_awaited_at_the_end() -> None:
    made: list[int] = []
    calls = CallQueue("test", room=50)
    for i in range(30):
        calls.submit(lambda i=i: made.append(i))
    calls.close(lambda: made.append(99), timeout=5)
    assert made == [*range(30), 99]


def test_an_error_reaches_the_next_call_and_ends_the_rest() -> None:
    made: list[str] = []
    failing, calls = threading.Event(), CallQueue("test", room=5)

    def fail() -> None:
        failing.wait(5)
        raise OSError("gone")

    calls.submit(fail)
    calls.submit(lambda: made.append("left out"))
    failing.set()
    with pytest.raises(OSError, match="gone"):
        calls.close(lambda: made.append("last"), timeout=5)
    with pytest.raises(OSError, match="gone"):
        calls.submit(nothing)
    assert made == []


def test_a_call_that_hangs_holds_nobody_up() -> None:
    freed, hanging = threading.Event(), threading.Event()
    calls = CallQueue("test", room=2)

    def hang() -> None:
        hanging.set()
        freed.wait(30)

    began = time.monotonic()
    calls.submit(hang)
    assert hanging.wait(5)
    calls.submit(nothing)
    calls.submit(nothing)
    with pytest.raises(TimeoutError, match="2 calls are waiting for one that hangs"):
        calls.submit(nothing)
    with pytest.raises(TimeoutError, match=r"did not return within 0\.1 s"):
        calls.close(nothing, timeout=0.1)
    assert time.monotonic() - began < 10
    freed.set()
