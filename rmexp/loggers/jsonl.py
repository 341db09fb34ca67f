"""`metrics.jsonl`, the record of a run: one strict JSON object a line, one line an epoch.

Appended and flushed row by row, so that a killed run loses nothing; everything else that shows
metrics is a view of this file.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmexp.atomic import unwritable, write_atomically
from rmexp.errors import CheckpointError

_NON_FINITE = ("nan", "inf", "-inf")
_SYNC_EVERY_S = 1.0
FINAL = "rollout/final/"
"""Metrics of the evaluation that closes a run; an extended run makes it anew."""


class JsonlRecord:
    """Append-only writer of one `metrics.jsonl`; the file is opened at the first row."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._synced_at = -math.inf

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        """Append one row; nan and inf become the strings `nan`, `inf`, `-inf`.

        Raises:
            CheckpointError: the row could not be written; the file still ends in a whole line.
        """
        head = {"epoch": epoch, "global_step": global_step}
        values = {key: _to_json(value) for key, value in {**head, **row, **head}.items()}
        line = (json.dumps(values, allow_nan=False) + "\n").encode()
        try:
            if self._fd is None:
                self._fd = _open_at_a_line(self.path)
            _append(self._fd, line)
            if time.monotonic() - self._synced_at >= _SYNC_EVERY_S:
                os.fsync(self._fd)
                self._synced_at = time.monotonic()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def truncate(self, after_epoch: int) -> int:
        """Drop the rows of later epochs, a final evaluation and a torn last line, atomically.

        Returns how many rows were dropped.

        Raises:
            CheckpointError: the file is damaged before its last line, or cannot be rewritten.
        """
        self.close()
        if not self.path.exists():
            return 0
        lines = self.path.read_bytes().splitlines(keepends=True)
        rows = _parse(self.path, lines)
        kept = [
            line
            for line, row in zip(lines, rows, strict=False)
            if row["epoch"] <= after_epoch and not any(key.startswith(FINAL) for key in row)
        ]
        if len(kept) < len(lines):
            write_atomically(self.path, b"".join(kept))
        return len(rows) - len(kept)

    def rows(self) -> list[dict[str, float]]:
        """What the file holds now."""
        return self.read(self.path) if self.path.exists() else []

    def close(self) -> None:
        """Make the last rows durable; may be called twice."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            os.fsync(fd)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            os.close(fd)

    @staticmethod
    def read(path: Path) -> list[dict[str, float]]:
        """Rows in file order, `nan` and `inf` as floats again; a torn last line is left out.

        Raises:
            CheckpointError: the file cannot be read, or a line before the last is not a row.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        return _parse(path, data.splitlines(keepends=True))


def _open_at_a_line(path: Path) -> int:
    """Open for appending; half a line left by a killed process is cut off first."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        data = path.read_bytes()
        if data and not data.endswith(b"\n"):
            os.ftruncate(fd, data.rfind(b"\n") + 1)
    except OSError:
        os.close(fd)
        raise
    return fd


def _append(fd: int, line: bytes) -> None:
    start = os.lseek(fd, 0, os.SEEK_END)
    try:
        written = 0
        while written < len(line):
            written += os.write(fd, line[written:])
    except OSError:
        os.ftruncate(fd, start)
        raise


def _to_json(value: float) -> float | str:
    if isinstance(value, int):
        return value
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _parse(path: Path, lines: list[bytes]) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for index, line in enumerate(lines):
        if not line.endswith(b"\n"):  # only a last line can lack it: a write that was cut short
            break
        try:
            values: dict[str, Any] = json.loads(line)
            row = {key: float(v) if v in _NON_FINITE else v for key, v in values.items()}
            int(row["epoch"])
            rows.append(row)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{path}: line {index + 1} is not a row of metrics; "
                "restore the file or delete that line"
            ) from error
    return rows
