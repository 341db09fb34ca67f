"""Files that are whole whenever somebody looks, also after a crash, a full disk or a power cut."""

from __future__ import annotations

import os
from pathlib import Path

from rmexp.errors import CheckpointError


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that a reader, or a crash, sees the old bytes or the new, nothing between.

    Raises:
        CheckpointError: the file system refused; names the file and the remedy.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def sync_directory(path: Path) -> None:
    """Make renames inside `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def unwritable(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path}: cannot be written: {error.strerror or error}; what was there before is intact. "
        "Free some space or permit writing, then continue with resume=<run directory>; "
        "hydra.run.dir=DIR puts a new run elsewhere"
    )
