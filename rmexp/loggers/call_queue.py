"""Calls that are made one after the other on a thread, for a caller that must not wait for them.

Handing a row to a service is quick until the service stands still: then every socket has an end.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from contextlib import suppress

Call = Callable[[], None]


class CallQueue:
    """A daemon thread and the calls that wait for it; after an error the rest is left out."""

    def __init__(self, name: str, room: int) -> None:
        """`room`: how many calls may wait."""
        self._room = room
        self._calls: queue.Queue[Call | None] = queue.Queue(room)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, call: Call) -> None:
        """Let `call` be made later.

        Raises:
            Exception: what an earlier call raised.
            TimeoutError: `room` calls are waiting already.
        """
        if self._error is not None:
            raise self._error
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise TimeoutError(f"{self._room} calls are waiting for one that hangs") from None

    def close(self, last: Call, timeout: float) -> None:
        """Make `last` after all the others, and end the thread.

        Raises:
            Exception: what a call raised; those after it were left out.
            TimeoutError: it took longer than `timeout` seconds; the thread is left to itself.
        """
        with suppress(queue.Full):  # then the thread is alive, which is said below
            for call in (last, None):
                self._calls.put(call, timeout=timeout)
            self._thread.join(timeout)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise TimeoutError(f"a call did not return within {timeout:g} s")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self._error is None:
                try:
                    call()
                except Exception as error:
                    self._error = error
