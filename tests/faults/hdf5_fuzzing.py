"""Drives `hdf5_worker`: one file after another, a time limit each, a new worker after a crash."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.command_line import TESTS

SECONDS = 10.0
"""After that long a file hangs."""


@dataclass
class Finding:
    """How one file ended: loaded, refused, traceback, different, crash or hang."""

    file: int | Path
    kind: str
    ended: str
    said: str
    seconds: float = SECONDS
    bytes: int = 0


class Worker:
    """One process; a file that kills it is a finding, and the next file gets a new process."""

    def __init__(self) -> None:
        self._process = self._start()

    def open(self, file: int | Path) -> Finding:
        if self._process.poll() is not None:
            self._process = self._start()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{file}\n".encode())
        began = self._answer(60.0)  # the process may be starting
        kind = "?" if began is None else began["began"]
        answer = None if began is None else self._answer(SECONDS)
        if answer is not None and "loaded" in answer:
            answer = self._answer(SECONDS)
        if answer is None:
            return self._lost(file, kind)
        ended = "different" if answer["ended"] == "loaded" and answer["said"] else answer["ended"]
        return Finding(
            file, kind, ended, answer["said"], answer["seconds"], max(0, answer["bytes"])
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "tests.faults.hdf5_worker"],
            cwd=TESTS.parent,
            env={**os.environ, "PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"},
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _answer(self, seconds: float) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""
        return json.loads(line) if line else None

    def _lost(self, file: int | Path, kind: str) -> Finding:
        try:
            self._process.wait(0.5)
            ended = "crash"
        except subprocess.TimeoutExpired:
            ended = "hang"
            self._process.send_signal(signal.SIGABRT)  # faulthandler then says where
        _, trace = self._process.communicate()
        return Finding(file, kind, ended, trace.decode(errors="replace")[:3000])


def fuzz(numbers: Iterable[int]) -> list[Finding]:
    worker = Worker()
    try:
        return [worker.open(number) for number in numbers]
    finally:
        worker.close()


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    return dict(Counter(finding.ended for finding in findings))
