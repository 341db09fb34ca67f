"""One file holds all that a run needs to go on, and reading it executes nothing.

Written as temporary + fsync + rename; read with `weights_only=True`, so a checkpoint from anywhere
is tensors and plain values, never code.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rmexp import archive
from rmexp.atomic import sync_directory, unwritable, write_atomically
from rmexp.errors import CheckpointError

FORMAT = 1


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` (nested dicts and lists of tensors and plain values).

    Raises:
        CheckpointError: the disk is full or the directory not writable; the old file is intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    write_atomically(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, damaged, not one of ours, or holding more than plain data.
    """
    try:
        content = archive.load(path)
    except FileNotFoundError as error:
        near = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        there = f"; {path.parent} holds {', '.join(near)}" if near else ""
        raise CheckpointError(f"{path}: no such checkpoint{there}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: it is damaged or holds objects other than tensors and plain values, "
            "and loading those could execute code"
        ) from error
    except OSError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: damaged or not a checkpoint: {reason}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path}: not an rmexp checkpoint (it has no format version)")
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: format {content['format']}, this version of rmexp reads {FORMAT}"
        )
    return content


def link(source: Path, target: Path) -> None:
    """Give a checkpoint a second name, atomically and without a second copy on disk."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            write_atomically(temporary, source.read_bytes())
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(target, error) from error


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints that were named for their epoch."""
    for old in sorted(folder.glob("epoch_*.pt"))[: -keep or None]:
        old.unlink()
