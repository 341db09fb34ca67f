"""The run on a terminal: one live line, a table row per epoch, a summary at the end.

The live line is our own (carriage return, erase, at most the terminal's width) and is erased before
any log record is printed, so it never mixes with Hydra's logging; without a terminal there are only
plain lines, one per epoch. The plain lines also go to the run's log file, before the terminal.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from rich.box import ROUNDED
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rmexp.loggers.base import Logger, RunInfo
from rmexp.loggers.report import (
    EpochReport,
    duration,
    epoch_report,
    number,
    summary_links,
    summary_rows,
)

_log = logging.getLogger(__name__)

_HEADER_EVERY = 20
_ERASE = "\r\x1b[2K"


class ConsoleLogger(Logger):
    """`progress` and `status` draw the live line (the caller throttles), `clear` removes it."""

    def __init__(self, *, stream: TextIO | None = None, width: int | None = None) -> None:
        self._stream = stream or sys.stdout
        self.is_live = self._stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
        self._console = _RaisingConsole(
            file=self._stream, force_terminal=self.is_live, width=width, highlight=False
        )
        self._erase = _EraseBeforeRecords(self)
        self._handlers: list[logging.Handler] = []
        self._line_shown = False
        self._rows_since_header = 0
        self._total_epochs = 0
        self._best_success = -1.0
        self._epochs_began = time.monotonic()
        self._epochs_done = 0
        self._losses: dict[str, float] = {}

    def start(self, info: RunInfo) -> None:
        self._total_epochs = info.total_epochs
        self._epochs_began = time.monotonic()
        if self.is_live:
            self._handlers = [
                handler
                for handler in logging.getLogger().handlers
                if isinstance(handler, logging.StreamHandler)
                and not isinstance(handler, logging.FileHandler)
            ]
            for handler in self._handlers:
                handler.addFilter(self._erase)

    def progress(
        self, epoch: int, step: int, num_steps: int, loss: float | None, steps_per_s: float
    ) -> None:
        """Show how far the epoch is; nothing happens without a terminal."""
        if not self.is_live:
            return
        shown_loss = "" if loss is None else f"  loss {number(loss)}"
        done = round(10 * step / num_steps) if num_steps else 0
        self.status(
            f"epoch {self._of_total(epoch)}  [{'=' * done}{' ' * (10 - done)}] "
            f"{step}/{num_steps}{shown_loss}  {number(steps_per_s, 3)} steps/s"
            f"{self._eta(epoch, step, num_steps, steps_per_s)}"
        )

    def status(self, text: str) -> None:
        """Put any short text on the live line (rollouts, saving)."""
        if self.is_live:
            self._draw(text)

    def clear(self) -> None:
        if self._line_shown:
            self._line_shown = False
            self._draw("")

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        report = epoch_report(row)
        if report is None:  # a row that has no training in it, as the final evaluation's
            return
        self.clear()
        self._epochs_done += 1
        self._losses |= {k: row[k] for k in ("train/loss", "valid/loss") if k in row}
        plain = f"epoch {self._of_total(epoch)}: {report.plain()}"
        _write_to_log_files(plain)
        if not self.is_live:
            self._print(plain)
            return
        if self._rows_since_header % _HEADER_EVERY == 0:
            self._print(Text(self._cells(EpochReport.header(), "epoch"), style="bold"))
        self._rows_since_header += 1
        best = report.success is not None and report.success > self._best_success
        if report.success is not None and best:
            self._best_success = report.success
        style = "red" if not report.is_finite else "green" if best else ""
        self._print(Text(self._cells(report.cells(), str(epoch)), style=style))

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        """Nothing to show: the summary names the run directory."""

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
        """Nothing to show: the table already holds the points."""

    def how_to(self) -> dict[str, str]:
        return {}

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        """Print the end summary: results in a box, then paths and commands that can be copied."""
        self.clear()
        for handler in self._handlers:
            handler.removeFilter(self._erase)
        self._handlers = []
        title = "finished" if exit_code == 0 else f"stopped with exit code {exit_code}"
        rows, links = summary_rows({**self._losses, **summary}), summary_links(summary)
        pad = max((len(label) for label, _ in [*rows, *links]), default=0)
        plain = [title, *(f"  {label:<{pad}}  {text}" for label, text in [*rows, *links])]
        for line in plain:
            _write_to_log_files(line)
        if not self.is_live:
            for line in plain:
                self._print(line)
            return
        if rows:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(width=pad, no_wrap=True)
            grid.add_column(overflow="fold")
            for label, text in rows:
                grid.add_row(Text(label, style="bold"), Text(text))
            style = "green" if exit_code == 0 else "red"
            box = Panel(grid, title=title, box=ROUNDED, border_style=style, expand=False)
            self._print(box, soft_wrap=False)
        for label, text in links:
            self._print(Text.assemble((f"  {label:<{pad}}  ", "bold"), text))

    def _eta(self, epoch: int, step: int, num_steps: int, steps_per_s: float) -> str:
        """Time to the end of the run, rollouts included as soon as an epoch has had one."""
        if self._epochs_done:
            per_epoch = (time.monotonic() - self._epochs_began) / self._epochs_done
        elif steps_per_s > 0:
            per_epoch = num_steps / steps_per_s
        else:
            return ""
        left = self._total_epochs - epoch + 1 - (step / num_steps if num_steps else 0.0)
        return f"  ETA {duration(left * per_epoch)}" if left > 0 else ""

    def _of_total(self, epoch: int) -> str:
        return f"{epoch}/{self._total_epochs}" if self._total_epochs else str(epoch)

    def _cells(self, cells: str, epoch: str) -> str:
        line = f"{epoch:>{max(5, len(str(self._total_epochs)))}}  {cells}"
        return line[: self._console.width]

    def _print(self, content: RenderableType, *, soft_wrap: bool = True) -> None:
        """Whole lines: the terminal wraps long ones itself, so that they can be copied."""
        try:
            self._console.print(content, soft_wrap=soft_wrap, markup=False)
        except OSError as error:
            self._give_up(error)

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(_ERASE + text[: self._console.width - 1])
            self._stream.flush()
        except OSError as error:
            self._give_up(error)
        else:
            self._line_shown = bool(text)

    def _give_up(self, error: OSError) -> None:
        """The terminal, or the reader of a pipe, went away; training is not its business."""
        self.is_live = self._line_shown = False
        self._console.quiet = True
        with suppress(OSError):  # not a real file
            # What is still buffered has to go somewhere, or Python's own exit would fail.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self._stream.fileno())
            finally:
                os.close(nowhere)
        _log.warning("the output cannot be written any more (%s); training goes on", error)


class _RaisingConsole(Console):
    """Leaves a broken pipe to the caller, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the reader of the output has gone")


def _write_to_log_files(line: str) -> None:
    """A record for the root logger's files only: the terminal has the line already."""
    record = _log.makeRecord(_log.name, logging.INFO, __file__, 0, "%s", (line,), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


class _EraseBeforeRecords(logging.Filter):
    """Lets every record pass, after the live line has made room for it."""

    def __init__(self, console: ConsoleLogger) -> None:
        super().__init__()
        self._console = console

    def filter(self, record: logging.LogRecord) -> bool:
        self._console.clear()
        return True
