"""Where an epoch's time goes: parts that follow each other without a gap, summed in seconds.

A part begins where the one before it ended, so the parts sum to the whole and nothing can hide
between them. On a GPU the work is queued, so the borders are events on the device's own time line;
launch time is never reported as work, and no time is counted twice.
"""

from __future__ import annotations

import time
from types import TracebackType

import torch

FEW = 4096
"""Events that are kept before the older half is read; those are long past, nobody waits."""


class Stopwatch:
    """Sums the seconds of named parts: `with clock("train_batch"): ...`."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._seconds: dict[str, float] = {}
        self._parts: dict[str, _Part] = {}
        self._cuda = device is not None and torch.device(device).type == "cuda"
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._start = self._last = time.perf_counter()
        if self._cuda:
            self._mark("")

    def __call__(self, name: str) -> _Part:
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self, name)
        return part

    def end(self, name: str) -> None:
        """Everything since the last part's end was `name`."""
        now = time.perf_counter()
        if self._cuda:
            self._mark(name)
        else:
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now

    def elapsed(self) -> float:
        """Seconds from the making of this stopwatch to the end of the last part."""
        return self._last - self._start

    def totals(self) -> dict[str, float]:
        """Seconds per part; waits for the device where it was measured there."""
        if self._cuda:
            self._read(len(self._events))
        return dict(self._seconds)

    def _mark(self, name: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._events.append((name, event))
        if len(self._events) >= FEW:
            self._read(FEW // 2)

    def _read(self, count: int) -> None:
        """Sum the first `count` events up; the last of them stays, as the next part's beginning."""
        self._events[count - 1][1].synchronize()
        for (_, before), (name, after) in zip(
            self._events[: count - 1], self._events[1:count], strict=True
        ):
            spent = before.elapsed_time(after) / 1000
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        del self._events[: count - 1]


class _Part:
    __slots__ = ("clock", "name")

    def __init__(self, clock: Stopwatch, name: str) -> None:
        self.clock = clock
        self.name = name

    def __enter__(self) -> None:
        """It began where the part before it ended."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clock.end(self.name)
