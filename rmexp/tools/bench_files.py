"""What the benchmark measures on: the shipped Lift set, or files of known size made for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from rmexp.config import asset, config_dir, register
from rmexp.data.hdf5_writer import Demo, write_demos

LOW_DIM = {
    "object": 10,
    "robot0_eef_pos": 3,
    "robot0_eef_quat": 4,
    "robot0_gripper_qpos": 2,
}
CAMERAS = ("agentview_image", "robot0_eye_in_hand_image")
IMAGE_SHAPE = (84, 84, 3)
AC_DIM = 7
NUM_EPISODES = 200
LENGTHS = (30, 45)  # on average as long as those of the shipped set
REWARDED_LENGTHS = (40, 105)  # the same for the set with rewards
IMAGE_EPISODE = 50


def lift_file(folder: Path) -> Path:
    """Low-dimensional data: the shipped set, or one of its size in `folder`."""
    return _shipped("lift.hdf5") or _sized(folder / "lift_sized.hdf5", LENGTHS)


def rewarded_file(folder: Path) -> Path:
    """The shipped set of mixed quality, with rewards and the next observations, or one like it."""
    return _shipped("lift_mixed.hdf5") or _sized(folder / "rewarded_sized.hdf5", REWARDED_LENGTHS)


def _shipped(name: str) -> Path | None:
    path = Path(asset(name))
    return path if path.exists() else None


def _sized(path: Path, lengths: tuple[int, int]) -> Path:
    rng = np.random.default_rng(0)
    if not path.exists():
        _write(path, rng.integers(*lengths, NUM_EPISODES).tolist(), rng, cameras=())
    return path


def image_file(folder: Path, megabytes: int) -> Path:
    """Two 84x84 cameras beside the low-dimensional keys, uncompressed and in one piece."""
    path = folder / f"two_cameras_{megabytes}mb.hdf5"
    episode = IMAGE_EPISODE * len(CAMERAS) * int(np.prod(IMAGE_SHAPE))
    count = max(2, round(megabytes * 1e6 / episode))
    if not path.exists():
        _write(path, [IMAGE_EPISODE] * count, np.random.default_rng(1), cameras=CAMERAS)
    return path


def configuration(file: Path, overrides: Sequence[str]) -> DictConfig:
    """The shipped configuration of `dataset=hdf5` for this file, with `overrides`."""
    register()
    chosen = ["dataset=hdf5", f"dataset.path='{file}'", *overrides]
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        return compose("config", overrides=chosen)


def _write(
    path: Path, lengths: Sequence[int], rng: np.random.Generator, *, cameras: Sequence[str]
) -> None:
    count = len(lengths)
    write_demos(
        path,
        _demos(lengths, rng, cameras),
        attrs={"env_args": json.dumps({"env_name": "Lift", "type": 1, "env_kwargs": {}})},
        masks={"train": range(1, count), "valid": [0]},
    )


def _demos(
    lengths: Sequence[int], rng: np.random.Generator, cameras: Sequence[str]
) -> Iterator[Demo]:
    for length in lengths:
        arrays: dict[str, np.ndarray] = {
            "actions": rng.uniform(-1.0, 1.0, (length, AC_DIM)).astype(np.float32),
            "rewards": np.zeros(length, np.float32),
            "dones": np.zeros(length, np.float32),
        }
        for key, width in LOW_DIM.items():
            values = rng.normal(size=(length, width)).astype(np.float32)
            arrays[f"obs/{key}"] = values
            if not cameras:
                arrays[f"next_obs/{key}"] = np.concatenate([values[1:], values[-1:]])
        for key in cameras:
            arrays[f"obs/{key}"] = rng.integers(0, 256, (length, *IMAGE_SHAPE), np.uint8)
        yield Demo(arrays)
