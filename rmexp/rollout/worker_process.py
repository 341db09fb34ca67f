"""A pool's worker as its parent sees it: a process, the pipe to it and what it still owes.

A worker is a fresh interpreter that shares only the import path with its parent: no fork (the
parent has threads and perhaps a GPU), and no second run of the parent's `__main__`, which
multiprocessing's spawn would import.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from multiprocessing import connection

from rmexp.rollout.worker import View

_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # the parent decides
    "from rmexp.rollout.worker import main; main({descriptor}, {parent})"
)
_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",  # last words survive a crash
}


class WorkerProcess:
    """A worker process, seen from its parent."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        with there:
            self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _start(there.fileno())],
                env={**os.environ, **_VARIABLES, "PYTHONPATH": _import_path()},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        self.pipe = connection.Connection(here.detach())
        self.operations: deque[str] = deque()
        """Submitted and not answered yet."""
        self.deadline = 0.0
        self.seed: int | None = None
        self.step = 0
        self.view: View | None = None
        self._owner = os.getpid()

    def output(self) -> str:
        """The end of what the process printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4096))
        return self._output.read().decode(errors="replace").strip()

    def how_it_ended(self, patience_s: float) -> str:
        """What became of a process whose pipe is closed."""
        try:
            code = self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code == -signal.SIGKILL:
            return "was killed by SIGKILL (out of memory?)"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"ended with code {code}"

    def kill(self) -> None:
        """End the process now, whatever it is doing."""
        if self._owner == os.getpid():
            self.process.kill()

    def ask_to_end(self) -> None:
        if self._owner == os.getpid():  # a forked copy of the parent has no say
            with contextlib.suppress(OSError):  # it is dead already
                self.pipe.send(None)
        self.pipe.close()

    def end(self, deadline: float) -> None:
        """Wait for the process, which was asked to end, and kill it at the deadline."""
        self.pipe.close()
        if self._owner == os.getpid():
            try:
                self.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()


def _start(descriptor: int) -> str:
    return _START.format(descriptor=descriptor, parent=os.getpid())


def _import_path() -> str:
    return os.pathsep.join(str(entry) or os.getcwd() for entry in sys.path)  # noqa: PTH109
