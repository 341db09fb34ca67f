"""A view that strikes: at one epoch it sends a signal to a process that the run depends on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rmexp.loggers import wandb_service
from rmexp.loggers.base import Logger, RunInfo

PACE_S = 0.03
"""An epoch of the small runs lasts a few milliseconds; with this, faults have time to show."""


class FaultView(Logger):
    """`victim`: a process id, or 0 for the `wandb-core` of this process."""

    def __init__(self, *, at_epoch: int, victim: int, signal_name: str) -> None:
        self.at_epoch = at_epoch
        self.victim = victim
        self.signal = signal.Signals[signal_name]
        self.struck = 0

    def start(self, info: RunInfo) -> None:
        """Nothing to do."""

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        time.sleep(PACE_S)
        if epoch == self.at_epoch:
            self.struck = self.victim or self._service()
            os.kill(self.struck, self.signal)

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        """Nothing to do."""

    def log_curve(
        self,
        key: str,
        xs: Sequence[float],
        ys: Sequence[float],
        lows: Sequence[float],
        highs: Sequence[float],
        *,
        epoch: int,
        global_step: int,
    ) -> None:
        """Nothing to do."""

    def how_to(self) -> dict[str, str]:
        return {}

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        """Nothing to do."""

    def _service(self) -> int:
        process = wandb_service._process()
        assert process is not None
        return process.pid
