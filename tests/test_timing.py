from __future__ import annotations

import time
from typing import Any

import pytest
import torch

from rmexp import timing
from rmexp.timing import Stopwatch


def test_the_parts_sum_to_the_whole_whatever_lies_between_them() -> None:
    clock = Stopwatch()
    for _ in range(20):
        with clock("load"):
            time.sleep(0.0005)
        time.sleep(0.0005)  # nobody's: it belongs to what comes next
        with clock("train"):
            pass
    parts = clock.totals()
    assert parts.keys() == {"load", "train"}
    assert sum(parts.values()) == pytest.approx(clock.elapsed(), rel=1e-9)
    assert parts["train"] > 0.4 * parts["load"]


class Event:
    """Of a GPU that needs a second from each event to the next."""

    reached = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0

    def record(self) -> None:
        Event.reached += 1.0
        self.at = Event.reached

    def synchronize(self) -> None:
        assert self.at > 0

    def elapsed_time(self, end: Event) -> float:
        return 1000 * (end.at - self.at)


@pytest.mark.parametrize("few", [6, 1000])
def test_on_a_gpu_the_borders_are_events_on_its_own_time_line(
    monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    fake: Any = Event
    monkeypatch.setattr(torch.cuda, "Event", fake)
    monkeypatch.setattr(timing, "FEW", few)
    clock = Stopwatch("cuda")
    for _ in range(9):
        for name in ("load", "train"):
            with clock(name):
                pass
    assert len(clock._events) <= few
    assert clock.totals() == {"load": 9.0, "train": 9.0}
    assert clock.totals() == {"load": 9.0, "train": 9.0}
