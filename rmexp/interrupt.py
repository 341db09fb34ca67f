"""Signals become an orderly stop: the run saves at its next step and exits with 128 + n."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(BaseException):  # no `except Exception` may swallow it
    """Raised at a safe place after a signal came."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Interrupt:
    """Remembers the first signal; `check()` raises at a place where stopping is safe."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def check(self) -> None:
        if self.signum is not None:
            raise Interrupted(self.signum)

    @contextmanager
    def listening(self) -> Generator[None]:
        """Take the signals over in the main thread for as long as the body runs."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {s: signal.signal(s, self._remember) for s in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = signum
