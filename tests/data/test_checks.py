"""Bad numbers are named to the row before anything trains on them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from demo_files import OpenDataset, WriteDemos

from rmexp.errors import DatasetError


def set_value(path: Path, key: str, place: tuple[int, ...], value: float) -> Path:
    with h5py.File(path, "r+") as file:
        array = file[key]
        assert isinstance(array, h5py.Dataset)
        array[place] = value
    return path


@pytest.mark.parametrize(
    ("key", "place", "value", "words"),
    [
        ("obs/pos", (2, 1), np.nan, "demo_1/obs/pos is nan at row 2, dimension 1"),
        ("obs/object", (0, 3), -np.inf, "demo_1/obs/object is -inf at row 0, dimension 3"),
        ("obs/object", (1, 0), 1e300, "demo_1/obs/object is inf at row 1"),
        ("actions", (1, 2), np.nan, "demo_1/actions is nan at row 1, dimension 2"),
        ("rewards", (1,), np.nan, "demo_1/rewards is nan at row 1"),
        ("next_obs/pos", (2, 0), np.nan, "demo_1/next_obs/pos is nan at row 2, dimension 0"),
    ],
)
def test_what_is_not_finite_is_named(
    key: str,
    place: tuple[int, ...],
    value: float,
    words: str,
    write_demos: WriteDemos,
    open_dataset: OpenDataset,
) -> None:
    path = set_value(write_demos((5, 3, 4)), f"data/demo_1/{key}", place, value)
    with pytest.raises(DatasetError, match=words) as error:
        open_dataset(path)
    assert str(path) in str(error.value)
    assert "leave demo_1 out of the split" in str(error.value)


def test_a_demo_outside_the_splits_may_be_broken(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((5, 3, 4), masks={"train": [0], "valid": [2]})
    set_value(path, "data/demo_1/actions", (0, 0), np.nan)
    assert open_dataset(path).ac_dim == 3


def test_actions_outside_the_range_need_normalising(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = set_value(write_demos((5, 3, 4)), "data/demo_1/actions", (2, 0), -3.75)
    with pytest.raises(DatasetError, match="demo_1/actions leaves") as error:
        open_dataset(path)
    assert "at row 2" in str(error.value)
    assert "-3.75" in str(error.value)
    assert "dataset.normalize_actions=min_max" in str(error.value)
    dataset = open_dataset(path, normalize_actions="min_max")
    (batch,) = list(dataset.train_loader(batch_size=12, seed=0, keys=["actions"], device="cpu"))
    assert batch["actions"].abs().max() < 1


def test_rounding_beyond_one_is_no_error(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = set_value(write_demos((5,)), "data/demo_0/actions", (2, 0), 1 + 1e-7)
    assert open_dataset(path).warnings == []


def test_constant_dimensions_are_a_warning(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((5, 4), masks={"train": [0], "valid": [1]})
    with h5py.File(path, "r+") as file:
        for key, dimension in (("actions", 1), ("obs/object", 2), ("next_obs/object", 2)):
            array = file[f"data/demo_0/{key}"]
            assert isinstance(array, h5py.Dataset)
            array[:, dimension] = 0.5
    assert open_dataset(path).warnings == [
        "constant dimensions in actions of the training split: actions [1]",
        "constant dimensions in obs of the training split: object [2]",
    ]
