"""Writes demonstration files in the robomimic layout; equal episodes give equal bytes.

Nothing in the file depends on the clock or on who wrote it: object times are off, the order is the
episodes' order. Low-dimensional data are neither chunked nor compressed (that makes them larger).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rmexp.errors import DatasetError


@dataclass(frozen=True)
class Demo:
    """One episode as it stands in the file: dataset path below `data/demo_i` -> (T, ...)."""

    arrays: Mapping[str, np.ndarray]
    attrs: Mapping[str, Any] = field(default_factory=dict)


def write_demos(
    path: Path,
    demos: Iterable[Demo],
    *,
    attrs: Mapping[str, Any],
    masks: Mapping[str, Sequence[int]],
) -> None:
    """Write `data/demo_0...` with `attrs` on `data`, and `mask/<name>` listing episode numbers.

    The file appears whole or not at all. `total` and `num_samples` are counted here.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with h5py.File(temporary, "w", libver=("v108", "v108")) as file:
            data = _group(file, "data")
            total = 0
            for number, demo in enumerate(demos):
                total += _write_demo(_group(data, f"demo_{number}"), demo)
            data.attrs["total"] = total
            for key, value in attrs.items():
                data.attrs[key] = value
            mask = _group(file, "mask")
            for name, members in masks.items():
                names = np.array([f"demo_{number}" for number in sorted(members)], dtype="S")
                mask.create_dataset(name, data=names, track_times=False)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be written: {error}; free space or choose out=..."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write_demo(group: h5py.Group, demo: Demo) -> int:
    lengths = {name: len(array) for name, array in demo.arrays.items()}
    length = lengths["actions"]
    if set(lengths.values()) != {length}:
        raise DatasetError(f"{group.name}: arrays of different lengths {lengths}")
    parents = {name.rpartition("/")[0] for name in demo.arrays} - {""}
    groups = {"": group, **{parent: _group(group, parent) for parent in sorted(parents)}}
    for name, array in demo.arrays.items():
        parent, _, leaf = name.rpartition("/")
        groups[parent].create_dataset(leaf, data=array, track_times=False)
    group.attrs["num_samples"] = length
    for key, value in demo.attrs.items():
        group.attrs[key] = value
    return length


def _group(parent: h5py.Group, name: str) -> h5py.Group:
    """A group without time stamps (h5py sets them, and offers no switch, for groups alone)."""
    properties = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    properties.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), gcpl=properties))
