"""What W&B has of a run already, read back from the files that its earlier processes left.

A killed process may have handed over an epoch that it had not saved, or saved one that it had not
handed over. The SDK has no reader; the format is LevelDB's log (blocks of 32 KiB) of protobufs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MAGIC = b":W&B"
_FILE_HEAD = 7
_BLOCK = 32 * 1024
_HEAD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _LAST = 1, 2, 4


def sent(run_dir: Path) -> set[tuple[int, str]]:
    """(epoch, metric) of every value in the transaction logs below `run_dir`."""
    found: set[tuple[int, str]] = set()
    for file in sorted(run_dir.glob("wandb/*run-*/run-*.wandb")):
        for row in _history(file.read_bytes()):
            if isinstance(epoch := row.get("epoch"), int):
                found |= {(epoch, key) for key in row if not key.startswith("_")}
    return found


def _history(data: bytes) -> Iterator[dict[str, Any]]:
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2 as messages

    for payload in _payloads(data):
        record: Any = messages.Record()  # pyright: ignore[reportAttributeAccessIssue]
        try:
            record.ParseFromString(payload)
        except DecodeError:  # the end of a file whose writer was killed
            return
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            yield {
                (item.nested_key or [item.key])[0]: json.loads(item.value_json) for item in items
            }


def _payloads(data: bytes) -> Iterator[bytes]:
    """Whole payloads in file order; a torn last one ends the reading."""
    at, parts = _FILE_HEAD, b""
    while data.startswith(_MAGIC) and at + _HEAD.size <= len(data):
        room = _BLOCK - at % _BLOCK
        _, length, kind = _HEAD.unpack_from(data, at)
        if room < _HEAD.size or kind == 0:  # the rest of a block is padding
            at += room
            continue
        at += _HEAD.size + length
        if at > len(data):
            return
        chunk = data[at - length : at]
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts
