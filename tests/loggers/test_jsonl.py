from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rmexp.errors import CheckpointError
from rmexp.loggers.jsonl import JsonlRecord


def _refuse_constants(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def _write(path: Path, epochs: int) -> JsonlRecord:
    record = JsonlRecord(path)
    for epoch in range(1, epochs + 1):
        record.log({"train/loss": 1 / (3 * epoch)}, epoch=epoch, global_step=11 * epoch)
    return record


def test_rows_are_strict_json_and_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record = JsonlRecord(path)
    row = {"a": 0.1 + 0.2, "b": math.nan, "c": math.inf, "d": -math.inf, "n": 50, "f": 1e-300}
    record.log(row, epoch=3, global_step=33)
    record.log({"a": float(np.float32(0.1))}, epoch=4, global_step=44)
    lines = [json.loads(x, parse_constant=_refuse_constants) for x in path.read_text().splitlines()]
    assert lines[0]["b"] == "nan"
    assert lines[0]["d"] == "-inf"
    first, second = JsonlRecord.read(path)
    assert list(first) == ["epoch", "global_step", *row]
    assert math.isnan(first.pop("b"))
    del row["b"]
    assert first == {"epoch": 3, "global_step": 33, **row}
    assert second["a"] == float(np.float32(0.1))
    record.close()


def test_numbers_that_are_not_python_floats_are_written_as_numbers(tmp_path: Path) -> None:
    record = JsonlRecord(tmp_path / "metrics.jsonl")
    record.log({"a": np.float32(0.5), "b": np.float64(np.nan)}, epoch=1, global_step=1)  # pyright: ignore[reportArgumentType]
    assert json.loads(record.path.read_text())["a"] == 0.5
    assert math.isnan(JsonlRecord.read(record.path)[0]["b"])


def test_a_row_cannot_change_its_own_epoch(tmp_path: Path) -> None:
    record = JsonlRecord(tmp_path / "metrics.jsonl")
    record.log({"epoch": 99.0}, epoch=1, global_step=2)
    assert JsonlRecord.read(record.path) == [{"epoch": 1, "global_step": 2}]


def test_every_row_is_on_disk_before_log_returns(tmp_path: Path) -> None:
    record = JsonlRecord(tmp_path / "metrics.jsonl")
    for epoch in (1, 2, 3):
        record.log({}, epoch=epoch, global_step=epoch)
        assert len(JsonlRecord.read(record.path)) == epoch


def test_truncate_drops_later_epochs_and_keeps_the_bytes_of_the_others(tmp_path: Path) -> None:
    record = _write(tmp_path / "metrics.jsonl", 5)
    before = record.path.read_bytes().splitlines(keepends=True)
    assert record.truncate(after_epoch=3) == 2
    assert record.path.read_bytes() == b"".join(before[:3])
    record.log({"train/loss": 9.0}, epoch=4, global_step=44)
    assert [row["epoch"] for row in JsonlRecord.read(record.path)] == [1, 2, 3, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncate_of_nothing(tmp_path: Path) -> None:
    assert JsonlRecord(tmp_path / "metrics.jsonl").truncate(after_epoch=3) == 0
    record = _write(tmp_path / "metrics.jsonl", 2)
    stamp = record.path.stat().st_ino
    assert record.truncate(after_epoch=2) == 0
    assert record.path.stat().st_ino == stamp


def test_a_torn_last_line_is_left_out_and_removed(tmp_path: Path) -> None:
    record = _write(tmp_path / "metrics.jsonl", 2)
    whole = record.path.read_bytes()
    record.close()
    record.path.write_bytes(whole + b'{"epoch": 3, "glo')
    assert [row["epoch"] for row in JsonlRecord.read(record.path)] == [1, 2]
    assert record.truncate(after_epoch=2) == 0
    assert record.path.read_bytes() == whole
    record.path.write_bytes(whole + b'{"epoch": 3, "glo')
    JsonlRecord(record.path).log({}, epoch=3, global_step=33)
    assert [row["epoch"] for row in JsonlRecord.read(record.path)] == [1, 2, 3]


def test_damage_before_the_last_line_is_an_error_naming_file_and_line(tmp_path: Path) -> None:
    record = _write(tmp_path / "metrics.jsonl", 3)
    good = record.path.read_bytes().splitlines(keepends=True)
    for bad in (b"\x00\x00\x00\n", b"[1, 2]\n", b'{"loss": 1}\n', b"{\xff}\n", b'{"epoch": []}\n'):
        record.path.write_bytes(good[0] + bad + good[2])
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2"):
            record.truncate(after_epoch=1)
        assert record.path.read_bytes() == good[0] + bad + good[2]
    with pytest.raises(CheckpointError, match=r"nothing\.jsonl: cannot be read"):
        JsonlRecord.read(tmp_path / "nothing.jsonl")


def test_a_full_disk_is_a_clear_error_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _write(tmp_path / "metrics.jsonl", 2)
    whole, write = record.path.read_bytes(), os.write

    def half_then_full(fd: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data[: len(data) - 10])

    with monkeypatch.context() as patch:
        patch.setattr("rmexp.loggers.jsonl.os.write", half_then_full)
        with pytest.raises(
            CheckpointError, match=r"metrics\.jsonl: .*No space left.*Free some space"
        ):
            record.log({"train/loss": 0.1}, epoch=3, global_step=33)
    assert record.path.read_bytes() == whole
    record.log({"train/loss": 0.1}, epoch=3, global_step=33)
    assert [row["epoch"] for row in JsonlRecord.read(record.path)] == [1, 2, 3]
    record.close()
    record.close()
