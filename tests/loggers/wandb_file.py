"""Reads `run-*.wandb` back: a LevelDB log (32 KiB blocks, 7-byte heads) of protobuf records."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as pb

_BLOCK = 32 * 1024
_FILE_HEAD = 7
_HEAD = struct.Struct("<IHB")  # checksum, length, kind
_FULL, _FIRST, _LAST = 1, 2, 4


def payloads(data: bytes) -> Iterator[bytes]:
    """Whole payloads in file order; a torn last one, left by a killed writer, ends the reading."""
    assert data[:4] == b":W&B"
    at, parts = _FILE_HEAD, b""
    while at + _HEAD.size <= len(data):
        room = _BLOCK - at % _BLOCK
        _, length, kind = _HEAD.unpack_from(data, at)
        if room < _HEAD.size or kind == 0:  # a block's rest is padding
            at += room
            continue
        at += _HEAD.size
        if at + length > len(data):
            return
        chunk = data[at : at + length]
        at += length
        parts = chunk if kind in (_FULL, _FIRST) else parts + chunk
        if kind in (_FULL, _LAST):
            yield parts


class WandbFile:
    """The records of one run directory (`offline-run-<time>-<id>`) by type."""

    def __init__(self, directory: Path) -> None:
        (file,) = directory.glob("run-*.wandb")
        self._records: list[tuple[str, Any]] = []
        for payload in payloads(file.read_bytes()):
            record: Any = pb.Record()  # pyright: ignore[reportAttributeAccessIssue]
            record.ParseFromString(payload)
            kind = record.WhichOneof("record_type")
            self._records.append((kind, getattr(record, kind)))

    def of(self, kind: str) -> list[Any]:
        return [record for name, record in self._records if name == kind]

    @property
    def run(self) -> Any:
        return self.of("run")[0]

    @property
    def config(self) -> dict[str, Any]:
        return {item.key: json.loads(item.value_json) for item in self.run.config.update}

    @property
    def exit_code(self) -> int | None:
        codes = [record.exit_code for record in self.of("exit")]
        return codes[-1] if codes else None

    def all_history(self) -> list[dict[str, Any]]:
        return [_items(record.item) for record in self.of("history")]

    def rows(self) -> list[dict[str, Any]]:
        """Logged metrics without wandb's own `_` keys and without media."""
        rows = [
            {key: value for key, value in row.items() if not key.startswith("_")}
            for row in self.all_history()
        ]
        return [r for r in rows if all(isinstance(v, int | float) for v in r.values())]

    def summary(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for record in self.of("summary"):
            merged.update(_items(record.update))
        return merged

    def metrics(self) -> dict[str, Any]:
        return {m.name or m.glob_name: m for m in self.of("metric")}


def _items(items: Any) -> dict[str, Any]:
    return {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}


def finished(directory: Path) -> WandbFile:
    """Of a run that ended: the SDK's service writes the end a moment after `finish` returned."""
    patience = time.monotonic() + 1.0
    while (file := WandbFile(directory)).exit_code is None and time.monotonic() < patience:
        time.sleep(0.02)
    return file
