"""Files are functions of their episodes, and there or not there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from rmexp.data.hdf5_writer import Demo, write_demos
from rmexp.errors import DatasetError


def opened(file: Any) -> Any:
    """An HDF5 file whose groups and datasets are used as the test expects them."""
    return h5py.File(file)


def demos() -> Iterator[Demo]:
    for length in (3, 2):
        actions = np.arange(length * 2, dtype=np.float32).reshape(length, 2)
        yield Demo({"actions": actions, "obs/a": actions + 1}, {"success": length == 3})


def write(path: Path) -> bytes:
    write_demos(path, demos(), attrs={"note": "x"}, masks={"train": [1, 0], "valid": []})
    return path.read_bytes()


def test_the_layout_is_robomimics(tmp_path: Path):
    write(tmp_path / "a.hdf5")

    with opened(tmp_path / "a.hdf5") as file:
        assert file["data"].attrs["total"] == 5
        assert file["data"].attrs["note"] == "x"
        assert file["data/demo_1"].attrs["num_samples"] == 2
        assert not file["data/demo_1"].attrs["success"]
        np.testing.assert_array_equal(file["data/demo_1/obs/a"][:], [[1, 2], [3, 4]])
        assert file["data/demo_1/obs/a"].dtype == np.float32
        assert file["data/demo_1/obs/a"].chunks is None
        assert file["mask/train"][:].tolist() == [b"demo_0", b"demo_1"]
        assert len(file["mask/valid"]) == 0


def test_equal_episodes_give_equal_bytes_at_any_time(tmp_path: Path):
    first = write(tmp_path / "a.hdf5")
    time.sleep(1.1)  # HDF5 stamps objects by the second

    assert write(tmp_path / "b.hdf5") == first


def test_a_failure_leaves_the_old_file_and_no_scraps(tmp_path: Path):
    def broken() -> Iterator[Demo]:
        yield from demos()
        yield Demo({"actions": np.zeros((3, 2)), "obs/a": np.zeros((4, 2))})

    path = tmp_path / "a.hdf5"
    before = write(path)
    with pytest.raises(DatasetError, match=r"demo_2: arrays of different lengths .*'obs/a': 4"):
        write_demos(path, broken(), attrs={}, masks={})

    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["a.hdf5"]


def test_an_unwritable_place_is_named(tmp_path: Path):
    with pytest.raises(DatasetError, match=r"nowhere/a\.hdf5: cannot be written"):
        write_demos(tmp_path / "nowhere" / "a.hdf5", demos(), attrs={}, masks={})
