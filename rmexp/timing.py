"""Where an epoch's time goes: named spans, summed in seconds.

On a GPU the work is queued, so a span that launches kernels is measured with events; launch time is
never reported as work.
"""

from __future__ import annotations

import time
from types import TracebackType

import torch


class Stopwatch:
    """Sums the seconds of named spans: `with clock("train_batch"): ...`."""

    def __init__(self, device: torch.device | str | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self._cuda = device is not None and torch.device(device).type == "cuda"
        self._events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}
        self._start = time.perf_counter()

    def __call__(self, name: str, on_device: bool = False) -> _Span | _DeviceSpan:
        if on_device and self._cuda:
            return _DeviceSpan(self._events.setdefault(name, []))
        return _Span(self.seconds, name)

    def elapsed(self) -> float:
        """Seconds since this stopwatch was made."""
        return time.perf_counter() - self._start

    def totals(self) -> dict[str, float]:
        """Seconds per span; waits for the device where it was measured there."""
        for name, pairs in self._events.items():
            torch.cuda.synchronize()
            measured = sum(start.elapsed_time(end) for start, end in pairs) / 1000
            self.seconds[name] = self.seconds.get(name, 0.0) + measured
            pairs.clear()
        return dict(self.seconds)


class _Span:
    __slots__ = ("name", "seconds", "start")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self.seconds = seconds
        self.name = name

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        spent = time.perf_counter() - self.start
        self.seconds[self.name] = self.seconds.get(self.name, 0.0) + spent


class _DeviceSpan:
    __slots__ = ("end", "start")

    def __init__(self, pairs: list[tuple[torch.cuda.Event, torch.cuda.Event]]) -> None:
        self.start = torch.cuda.Event(enable_timing=True)
        self.end = torch.cuda.Event(enable_timing=True)
        pairs.append((self.start, self.end))

    def __enter__(self) -> None:
        self.start.record()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end.record()
