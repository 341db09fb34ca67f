"""Small demonstration files, written as a test needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from rmexp.data.dataset import Dataset

SETTINGS: dict[str, Any] = {
    "weights": None,
    "sha256": None,
    "obs_keys": None,
    "goal_mode": None,
    "train_filter": "auto",
    "valid_filter": "auto",
    "valid_fraction": 0.0,
    "split_seed": 0,
    "frame_stack": 1,
    "seq_length": 1,
    "pad_frame_stack": True,
    "pad_seq_length": True,
    "normalize_obs": False,
    "normalize_actions": None,
    "placement": "ram",
    "source": None,
    "horizon": 30,
}

OpenDataset = Callable[..., Dataset]
WriteDemos = Callable[..., Path]


def dataset_opener(tmp_path: Path) -> OpenDataset:
    def make(path: Path | list[Path], **changes: Any) -> Dataset:
        named = [str(p) for p in path] if isinstance(path, list) else str(path)
        settings: dict[str, Any] = SETTINGS | {"cache_dir": str(tmp_path / "cache")} | changes
        return Dataset(path=named, **settings)

    return make


def demo_writer(tmp_path: Path) -> WriteDemos:
    def write(
        lengths: tuple[int, ...] = (5, 3, 7),
        *,
        name: str = "demos.hdf5",
        images: Mapping[str, Any] | None = None,
        with_next: bool = True,
        own_next: bool = False,
        image_options: Mapping[str, Any] | None = None,
        masks: Mapping[str, list[int]] | None = None,
        seed: int = 0,
        **file_options: Any,
    ) -> Path:
        """images: key -> (H, W, C); own_next: next observations are no frames of the episode."""
        rng = np.random.default_rng(seed)
        path = tmp_path / name
        with h5py.File(path, "w", **file_options) as file:
            for i, length in enumerate(lengths):
                demo = file.create_group(f"data/demo_{i}")
                demo["actions"] = rng.uniform(-1, 1, (length, 3))
                demo["rewards"] = rng.random(length)
                demo["dones"] = np.arange(length) == length - 1
                for key, width in {"object": 4, "pos": 2}.items():
                    frames = rng.normal(size=(length + 1, width))
                    demo[f"obs/{key}"] = frames[:-1]
                    if with_next:
                        demo[f"next_obs/{key}"] = frames[1:] + (0.5 if own_next else 0.0)
                for key, shape in (images or {}).items():
                    frames = rng.integers(0, 255, (length + 1, *shape), dtype=np.uint8)
                    options = image_options or {}
                    demo.create_dataset(f"obs/{key}", data=frames[:-1], **options)
                    if with_next:
                        following = frames[1:] + np.uint8(own_next)
                        demo.create_dataset(f"next_obs/{key}", data=following, **options)
            for key, chosen in (masks or {}).items():
                file[f"mask/{key}"] = np.array([f"demo_{i}" for i in chosen], dtype="S8")
        return path

    return write
