"""One file holds all that a run needs to go on, and reading it executes nothing.

Written as temporary + fsync + rename; read with `weights_only=True`, so a checkpoint from anywhere
is tensors and plain values, never code. Its last bytes are a seal: the sha256 of all bytes before,
as the comment of the zip archive that torch writes, so that it stays a plain file of torch's.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from rmexp import archive
from rmexp.atomic import sync_directory, unwritable, write_atomically
from rmexp.earlier import current_names
from rmexp.errors import CheckpointError, DamagedError

_log = logging.getLogger(__name__)

FORMAT = 3
READABLE = (1, 2, 3)  # 1 had no seal; up to 2 there are other names, see `rmexp.earlier`
_MARK = b"rmexp sha256 "
_DIGITS = 64
_SEAL_BYTES = len(_MARK) + _DIGITS


def save(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` (nested dicts and lists of tensors and plain values).

    Raises:
        CheckpointError: the disk is full or the directory not writable; the old file is intact.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    _seal(buffer)
    write_atomically(path, buffer.getbuffer())


def save_last(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `last.pt`; the one before it stays as `previous.pt`, should the new one get damaged.

    Raises:
        CheckpointError: as `save`.
    """
    last = folder / "last.pt"
    if last.exists():
        link(last, folder / "previous.pt")
    save(last, content)


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU.

    Raises:
        CheckpointError: missing, damaged, not one of ours, or holding more than plain data.
    """
    try:
        with path.open("rb") as file:
            sealed = _is_sealed(path, file)
        content = archive.load(path)
    except FileNotFoundError as error:
        near = sorted(p.name for p in path.parent.glob("*.pt")) if path.parent.is_dir() else []
        there = "name a file such as RUN/checkpoints/best.pt, or the directory of a run"
        if near:
            there = f"{path.parent} holds {', '.join(near)}"
        raise CheckpointError(f"{path}: no such checkpoint; {there}") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused: it is damaged or holds objects other than tensors and plain values, "
            "and loading those could execute code"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    if not isinstance(content, dict) or "format" not in content:
        raise CheckpointError(f"{path}: not an rmexp checkpoint (it has no format version)")
    if content["format"] not in READABLE:
        raise CheckpointError(
            f"{path}: format {content['format']}, this version of rmexp reads {FORMAT}"
        )
    if content["format"] >= 2 and not sealed:
        raise DamagedError(f"{path}: damaged: its checksum is missing")
    algo = content.get("algo")
    if content["format"] < 3 and isinstance(algo, dict) and isinstance(algo.get("nets"), dict):
        algo["nets"] = current_names(algo["nets"])
    return content


def load_last(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole: `last.pt`, else the one before it; None: nothing was saved.

    Raises:
        CheckpointError: there are checkpoints, and none to go on from.
    """
    last, previous = folder / "last.pt", folder / "previous.pt"
    if not any(folder.glob("*.pt")):
        return None
    try:
        return load(last)
    except CheckpointError as error:
        if last.exists() and not isinstance(error, DamagedError):
            raise
        try:
            content = load(previous)
        except CheckpointError as second:
            also = f"\n{second}" if previous.exists() else ""
            raise CheckpointError(f"{error}{also}\n{_other_ways(folder)}") from second
        _log.warning("%s\nGoing on from the checkpoint before it, %s", error, previous.name)
        link(previous, last)  # else the next save would make the damaged file the previous one
        return content


def _other_ways(folder: Path) -> str:
    others = [p for p in sorted(folder.glob("*.pt")) if _is_whole(p)]
    if not others:
        return "There is no whole checkpoint here; start a new run"
    names = ", ".join(path.name for path in others)
    return (
        f"To go on from an earlier checkpoint ({names}), copy it to its place and resume again:\n"
        f"  cp {others[-1]} {folder / 'last.pt'}"
    )


def _is_whole(path: Path) -> bool:
    try:
        load(path)
    except CheckpointError:
        return False
    return True


def _seal(buffer: io.BytesIO) -> None:
    """Append the mark and the digest; the two bytes before are the length of a zip's comment."""
    buffer.seek(-2, os.SEEK_END)
    buffer.write(_SEAL_BYTES.to_bytes(2, "little") + _MARK)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    buffer.write(digest.encode())


def _is_sealed(path: Path, file: BinaryIO) -> bool:
    """Whether the file has a seal; raises DamagedError when the seal is not that of its bytes."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _SEAL_BYTES))
    seal = file.read()
    file.seek(0)
    if not seal.startswith(_MARK):
        return False
    digest = hashlib.sha256()
    left = size - _DIGITS
    while left and (block := file.read(min(left, 1 << 20))):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != seal[-_DIGITS:]:
        raise DamagedError(f"{path}: damaged: its checksum does not fit its bytes")
    return True


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
        temporary.unlink(missing_ok=True)  # two names of one file: a rename left both alone
        sync_directory(target.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise unwritable(target, error) from error


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints that were named for their epoch."""
    for old in sorted(folder.glob("epoch_*.pt"))[: -keep or None]:
        old.unlink()
