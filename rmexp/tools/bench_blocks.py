"""How the benchmark takes time on a machine that others use too.

What is compared runs in short blocks, turn by turn, in processor seconds; a result is the median
over the rounds of the ratio within a round. So neither preemption nor a slow minute decides.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from rmexp.errors import RmexpError

SCRIPT = Path(__file__).with_name("bench_reference.py")


class Unmeasured(RmexpError):
    """A figure could not be taken: says which and why."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure; `budget` is its upper limit, or its lower one with `at_least`."""

    part: str
    name: str
    figure: float
    unit: str
    budget: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def is_over(self) -> bool:
        if self.budget is None:
            return False
        return self.figure < self.budget if self.at_least else self.figure > self.budget


Block = Callable[[], float]
"""Runs once; returns the seconds it took."""


def timed(run: Callable[[], object]) -> Block:
    """A block of this process, in processor seconds of all its threads."""

    def block() -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    return block


class Rounds:
    """Seconds of each block in each round; every second round in the reverse order."""

    def __init__(self, prepare: Callable[[], Mapping[str, Block]], count: int) -> None:
        """`prepare` gives the blocks of a round."""
        self.seconds: dict[str, list[float]] = {}
        for number in range(count):
            blocks = prepare()
            for name in sorted(blocks, reverse=number % 2 == 1):
                self.seconds.setdefault(name, []).append(blocks[name]())

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, other: str) -> float:
        """How many times as long `name` takes as `other`."""
        pairs = zip(self.seconds[name], self.seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)


class Reference:
    """`bench_reference.py` under another interpreter, answering one request at a time."""

    def __init__(self, python: str, job: Mapping[str, Any]) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed in close)
        try:
            self._process = subprocess.Popen(
                [python, str(SCRIPT), json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""},
            )
        except OSError as error:
            self._errors.close()
            raise Unmeasured(f"reference={python}: cannot be started: {error}") from error

    def __enter__(self) -> Reference:
        try:
            self.versions: dict[str, str] = self._answer()["versions"]
        except Unmeasured:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def block(self, what: str, steps: int) -> Block:
        """`what` is "loop" (its run_epoch) or "data" (its batches alone)."""

        def ask() -> float:
            assert self._process.stdin is not None
            self._process.stdin.write(f"{what} {steps}\n")
            self._process.stdin.flush()
            return float(self._answer()["cpu_s"])

        return ask

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            said = self._errors.read().strip().splitlines() or ["it said nothing"]
            raise Unmeasured(
                f"the reference ended with exit code {self._process.returncode}: {said[-1]}"
            )
        return json.loads(line)
