"""A loader that is watched: before each batch the live line moves, and a signal can end the epoch.

It stands between the loader and `run_epoch`, so that the loop itself knows of neither.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from rmexp.interrupt import Interrupt
from rmexp.loggers.console import ConsoleLogger
from rmexp.loop import Batches
from rmexp.metrics import EpochProgress

REDRAW_S = 0.2


class Watched:
    """Yields the loader's batches; raises `Interrupted` between two of them."""

    def __init__(
        self,
        loader: Batches,
        epoch: int,
        num_steps: int,
        progress: EpochProgress,
        interrupt: Interrupt,
        console: ConsoleLogger,
    ) -> None:
        self._loader = loader
        self._epoch = epoch
        self._num_steps = num_steps
        self._progress = progress
        self._interrupt = interrupt
        self._console = console if console.is_live else None
        self._start = self._drawn = time.perf_counter()
        self._first_step = progress.steps

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._loader)
        while True:
            self._interrupt.check()
            if self._console is not None and time.perf_counter() - self._drawn > REDRAW_S:
                self._draw(self._console)
            batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def _draw(self, console: ConsoleLogger) -> None:
        now, step = time.perf_counter(), self._progress.steps
        speed = (step - self._first_step) / (now - self._start)
        console.progress(self._epoch, step, self._num_steps, self._progress.latest("loss"), speed)
        self._drawn = now
