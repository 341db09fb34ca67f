"""What the chosen files hold: episodes of each split, keys, shapes, what is missing.

Every structural fault is found here, from declarations alone, before an array is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.data.arrays import ArraySpec
from rmexp.data.episodes import EpisodeTable
from rmexp.data.hdf5 import DemoFile
from rmexp.data.layouts import without_obs
from rmexp.data.splits import Split
from rmexp.errors import DatasetError
from rmexp.suggest import nearest

OPTIONAL = ("next_obs", "rewards", "dones")


@dataclass(frozen=True)
class Inventory:
    """Result of `take_inventory`.

    Attributes:
        missing: the reason why an optional key is not there.
        shifted: (E,) bool, episodes of files that record no next observations; there the next
            frame is one.
    """

    table: EpisodeTable
    is_train: np.ndarray
    obs_specs: dict[str, ArraySpec]
    ac_dim: int
    missing: dict[str, str]
    shifted: np.ndarray
    warnings: tuple[str, ...]

    @property
    def low_dim(self) -> dict[str, ArraySpec]:
        return {key: spec for key, spec in self.obs_specs.items() if not spec.is_image}

    @property
    def low_dim_bytes(self) -> int:
        """Of the block: float32, with actions, rewards and dones."""
        width = self.ac_dim + 2 + sum(spec.width for spec in self.low_dim.values())
        return 4 * width * self.table.num_rows

    @property
    def images(self) -> dict[str, ArraySpec]:
        return {key: spec for key, spec in self.obs_specs.items() if spec.is_image}


def take_inventory(
    files: Sequence[DemoFile], splits: Sequence[Split], obs_keys: Sequence[str] | None
) -> Inventory:
    warnings: list[str] = []
    table, is_train = _tabulate(files, splits)
    ac_dim = _action_dim(files, table)
    specs = _choose_obs(files, table, obs_keys, warnings)
    missing: dict[str, str] = {}
    shifted = _without_next(files, table)
    for i, (file_index, demo, length) in enumerate(
        zip(table.file_of, table.demos, table.lengths, strict=True)
    ):
        file = files[file_index]
        for key, expected in specs.items():
            _require(file, demo, f"obs/{key}", int(length), expected)
        for name in OPTIONAL:
            if name not in missing and not (name == "next_obs" and shifted[i]):
                reason = _lacks(file, demo, name, int(length), specs)
                if reason is not None:
                    missing[name] = reason
    return Inventory(table, is_train, specs, ac_dim, missing, shifted, tuple(warnings))


def _tabulate(
    files: Sequence[DemoFile], splits: Sequence[Split]
) -> tuple[EpisodeTable, np.ndarray]:
    file_of: list[int] = []
    demos: list[str] = []
    lengths: list[int] = []
    is_train: list[bool] = []
    for file_index, (file, split) in enumerate(zip(files, splits, strict=True)):
        train, valid = set(split.train), set(split.valid)
        for demo in file.demos:
            if demo not in train and demo not in valid:
                continue
            if demo not in file.lengths:
                raise DatasetError(f"{file.path}: {demo} has no actions; leave it out of the split")
            if file.lengths[demo] == 0:
                raise DatasetError(
                    f"{file.path}: {demo} has no frames (actions of length 0); remove it or leave "
                    "it out with dataset.train_filter=KEY"
                )
            file_of.append(file_index)
            demos.append(demo)
            lengths.append(file.lengths[demo])
            is_train.append(demo in train)
    sizes = np.asarray(lengths, dtype=np.int64)
    table = EpisodeTable(
        tuple(file.path for file in files),
        np.asarray(file_of, dtype=np.int64),
        tuple(demos),
        np.cumsum(sizes) - sizes,
        sizes,
    )
    return table, np.asarray(is_train, dtype=bool)


def _without_next(files: Sequence[DemoFile], table: EpisodeTable) -> np.ndarray:
    """(E,) bool: no episode of its file has next observations, so that none was lost."""
    recorded = np.zeros(len(files), dtype=bool)
    for file_index, demo in zip(table.file_of, table.demos, strict=True):
        if not recorded[file_index]:
            recorded[file_index] = bool(files[file_index].specs(demo, "next_obs"))
    return ~recorded[table.file_of]


def _action_dim(files: Sequence[DemoFile], table: EpisodeTable) -> int:
    first: int | None = None
    for file_index, demo in zip(table.file_of, table.demos, strict=True):
        file = files[file_index]
        spec = file.spec(demo, "actions")
        assert spec is not None
        if len(spec.shape) != 2 or not spec.is_numeric or spec.width == 0:
            kind = "discrete actions" if spec.dtype.kind in "iub" else "these actions"
            raise DatasetError(
                f"{file.path}: {demo}/actions has shape {spec.shape} and type {spec.dtype}; needed "
                f"is (T, A) of numbers, {kind} cannot be used"
            )
        first = spec.width if first is None else first
        if spec.width != first:
            raise DatasetError(
                f"{file.path}: {demo}/actions has {spec.width} dimensions where the first demo has "
                f"{first}; all must agree"
            )
    assert first is not None
    return first


def _choose_obs(
    files: Sequence[DemoFile],
    table: EpisodeTable,
    obs_keys: Sequence[str] | None,
    warnings: list[str],
) -> dict[str, ArraySpec]:
    """The requested keys as the first demo declares them; None means all low-dim ones."""
    file, demo, length = files[table.file_of[0]], table.demos[0], int(table.lengths[0])
    there = file.specs(demo, "obs")
    if not there:
        raw = file.spec(demo, "states") is not None
        raise DatasetError(f"{file.path}: {demo} {without_obs(raw=raw)}")
    if obs_keys is None:
        chosen: dict[str, ArraySpec] = {}
        for key, spec in there.items():
            if not spec.is_low_dim:
                continue
            if spec.shape[0] == length:
                chosen[key] = spec
            else:
                warnings.append(
                    f"{file.path}: obs/{key} has {spec.shape[0]} frames in {demo} and there are "
                    f"{length} actions; not used"
                )
        if not chosen:
            raise DatasetError(
                f"{file.path}: {demo} has no low-dim observation; name the keys to use with "
                f"dataset.obs_keys=[...], it has {', '.join(there)}"
            )
        return _shared_by_all(files, table, chosen, warnings)
    if not obs_keys:
        raise DatasetError(f"{file.path}: dataset.obs_keys is empty; it has {', '.join(there)}")
    return {key: _pick(file, demo, key, there) for key in sorted(set(obs_keys))}


def _shared_by_all(
    files: Sequence[DemoFile],
    table: EpisodeTable,
    chosen: Mapping[str, ArraySpec],
    warnings: list[str],
) -> dict[str, ArraySpec]:
    """Of several files, the keys that each one's first demo has."""
    shared = dict(chosen)
    for file_index in np.unique(table.file_of)[1:]:
        demo = table.demos[int(np.argmax(table.file_of == file_index))]
        there = files[file_index].specs(demo, "obs")
        for key in sorted(set(shared) - set(there)):
            warnings.append(f"{files[file_index].path}: no obs/{key}; the key is not used")
            del shared[key]
    if not shared:
        raise DatasetError("the files have no observation key in common; name files that go along")
    return shared


def _pick(file: DemoFile, demo: str, key: str, there: Mapping[str, ArraySpec]) -> ArraySpec:
    if key not in there:
        hint = nearest(key, there)
        listing = f"{' It' if hint else '; it'} has {', '.join(there)}"
        raise DatasetError(f"{file.path}: {demo} has no observation {key!r}{hint}{listing}")
    spec = there[key]
    if not spec.is_numeric or len(spec.shape) == 0 or spec.width == 0:
        raise DatasetError(
            f"{file.path}: {demo}/obs/{key} has shape {spec.shape} and type {spec.dtype}, which is "
            "no observation to learn from"
        )
    return spec


def _require(file: DemoFile, demo: str, key: str, length: int, expected: ArraySpec) -> None:
    spec = file.spec(demo, key)
    if spec is None:
        raise DatasetError(f"{file.path}: {demo} has no {key}, which other demos have")
    if not spec.shape or spec.shape[0] != length:
        raise DatasetError(
            f"{file.path}: {demo}/{key} has shape {spec.shape} and there are {length} actions; one "
            "frame an action is needed"
        )
    if spec.frame_shape != expected.frame_shape or spec.is_image != expected.is_image:
        raise DatasetError(
            f"{file.path}: {demo}/{key} has frames of shape {spec.frame_shape} where the first "
            f"demo has {expected.frame_shape}"
        )
    if not spec.is_numeric:
        raise DatasetError(f"{file.path}: {demo}/{key} is of type {spec.dtype}, not a number")


def _lacks(
    file: DemoFile, demo: str, name: str, length: int, obs_specs: Mapping[str, ArraySpec]
) -> str | None:
    """Why `name` cannot be used, None if it can."""
    wanted = [f"{name}/{key}" for key in obs_specs] if name == "next_obs" else [name]
    for key in wanted:
        spec = file.spec(demo, key)
        if spec is None:
            return f"{file.path}: {demo} has no {key}"
        frame = obs_specs[key.partition("/")[2]].frame_shape if name == "next_obs" else (1,)
        if not spec.is_numeric or spec.shape[:1] != (length,) or spec.frame_shape != frame:
            return (
                f"{file.path}: {demo}/{key} has shape {spec.shape} and type {spec.dtype}, needed "
                f"is {(length, *frame)}"
            )
    return None
