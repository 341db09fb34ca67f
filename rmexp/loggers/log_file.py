"""The run's log file, which gives up with one line where it cannot be written.

Python's own handler would print a traceback for every message that a full disk refuses, around the
one message that says what to do.
"""

from __future__ import annotations

import logging
import sys


class LogFile(logging.FileHandler):
    """Opened at the first message."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, delay=True)
        self._has_failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            super().emit(record)
        except OSError:  # from opening the file
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._has_failed:
            self._has_failed = True
            reason = error.strerror or error
            sys.stderr.write(f"{self.baseFilename}: cannot be written: {reason}\n")
