"""Where metrics go: one record that must succeed, and any number of views that may fail.

The record (`metrics.jsonl`) is written first and its errors reach the user; a view that raises is
reported once and switched off, so that no dashboard can ever stop a training.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a view may show about the run besides its metrics."""

    run_dir: Path
    name: str
    config: dict[str, Any]
    tags: list[str]
    group: str | None
    job_type: str
    resumed: bool
    total_epochs: int
    git: dict[str, Any] | None = None  # of the code: commit, branch, dirty, remote


class Logger(ABC):
    """One view of a run; every method may raise, `LoggerGroup` deals with it."""

    @abstractmethod
    def start(self, info: RunInfo) -> None: ...

    def shown(self) -> set[tuple[int, str]] | None:
        """(epoch, key) that earlier processes of this run have shown; None: nobody knows.

        Asked after `start`, when a run is resumed: what stands here is not shown again, and the
        record's later epochs, which a kill may have kept from this view, are.
        """
        return None

    @abstractmethod
    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None: ...

    @abstractmethod
    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None: ...

    @abstractmethod
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
        """Show `ys` over `xs` (epochs) with the interval from `lows` to `highs`."""

    @abstractmethod
    def how_to(self) -> dict[str, str]:
        """Commands for the end summary, by what they do: `{"sync": "wandb sync ..."}`."""

    @abstractmethod
    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        """Close for good; called exactly once, even when an earlier call raised."""


class Record(Protocol):
    """The ground truth that a `LoggerGroup` writes before it shows anything."""

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None: ...

    def rows(self) -> list[dict[str, float]]: ...

    def close(self) -> None: ...


class LoggerGroup:
    """The record and its views as one object.

    `seconds` is cumulative: what all calls since the construction have taken. A caller that wants
    an epoch's share subtracts what it read an epoch earlier.
    """

    def __init__(self, record: Record, views: Sequence[Logger]) -> None:
        self.seconds = 0.0
        self._record = record
        self._views = list(views)
        self._off: set[int] = set()
        self._shown: dict[int, set[tuple[int, str]]] = {}

    def start(self, info: RunInfo) -> None:
        with self._timed():
            self._show("start", lambda view: view.start(info))
            if info.resumed:
                self._show("catching up", self._catch_up)

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        """Write the row to the record (its errors propagate), then show it."""
        with self._timed():
            self._record.log(row, epoch=epoch, global_step=global_step)
            self._show("log", lambda view: self._log(view, row, epoch, global_step))

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        at = {"epoch": epoch, "global_step": global_step}
        with self._timed():
            self._show("log_video", lambda view: view.log_video(key, path, **at), (epoch, key))

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
        at = {"epoch": epoch, "global_step": global_step}
        with self._timed():
            self._show(
                "log_curve",
                lambda view: view.log_curve(key, xs, ys, lows, highs, **at),
                (epoch, f"{key}_table"),
            )

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        """Close every view, the broken ones too, last view first; then close the record.

        The views' commands join the summary as `how_to/<verb>`, also those of a view that is off:
        what it took before can still be sent. An interrupt in the middle still
        lets the remaining views close before it propagates.
        """
        with self._timed(), ExitStack() as stack:
            stack.callback(self._record.close)
            commands: dict[str, str] = {}
            for view in self._views:
                self._guard(view, "how_to", lambda v: commands.update(v.how_to()))
            full = {**summary, **{f"how_to/{verb}": line for verb, line in commands.items()}}
            for view in self._views:
                stack.callback(self._guard, view, "finish", lambda v: v.finish(full, exit_code))

    @contextmanager
    def _timed(self) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - began

    def _catch_up(self, view: Logger) -> None:
        """Show the epochs of the record that an earlier process did not get to show."""
        shown = view.shown()
        if shown is None:
            return
        self._shown[id(view)] = shown
        last = max((epoch for epoch, _ in shown), default=0)
        for row in self._record.rows():
            if row["epoch"] >= last:
                self._log(view, row, int(row["epoch"]), int(row["global_step"]))

    def _log(self, view: Logger, row: Mapping[str, float], epoch: int, global_step: int) -> None:
        shown = self._shown.get(id(view), set())
        new = {key: value for key, value in row.items() if (epoch, key) not in shown}
        if new.keys() - {"epoch", "global_step"}:
            view.log(new, epoch=epoch, global_step=global_step)
            shown |= {(epoch, key) for key in new}

    def _show(
        self, what: str, call: Callable[[Logger], None], key: tuple[int, str] | None = None
    ) -> None:
        """Make the call on each view that is on and has not shown this `key` before."""
        for view in self._views:
            if id(view) not in self._off and key not in self._shown.get(id(view), ()):
                self._guard(view, what, call)

    def _guard(self, view: Logger, what: str, call: Callable[[Logger], None]) -> None:
        try:
            call(view)
        except Exception as error:
            level = logging.DEBUG if id(view) in self._off else logging.WARNING
            self._off.add(id(view))
            _log.log(
                level,
                "%s is off for the rest of this run, training is not affected: %s failed (%s: %s)",
                type(view).__name__,
                what,
                type(error).__name__,
                str(error) or "no message",
                exc_info=error if _log.isEnabledFor(logging.DEBUG) else None,
            )
