"""The data set as the rest of rmexp sees it: opened, checked and loaded once, given in batches."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import torch

from rmexp.data.batches import BatchAssembler, entries
from rmexp.data.checks import (
    check_action_range,
    check_finite,
    check_overlap,
    constant_dimensions,
)
from rmexp.data.episodes import read_block
from rmexp.data.fingerprint import combined, fingerprint
from rmexp.data.hdf5 import DemoFile
from rmexp.data.images import ImageSet
from rmexp.data.inventory import Inventory, take_inventory
from rmexp.data.loader import Loader, Order, in_order, shuffled, weighted
from rmexp.data.normalize import Stats, action_stats, normalize_, obs_stats
from rmexp.data.placement import Placement, described, free_memory, full_device, resolve
from rmexp.data.settings import check_settings
from rmexp.data.splits import split_demos
from rmexp.data.successors import describe, followed, usable_lengths
from rmexp.data.windows import Windows, WindowSpec
from rmexp.errors import ConfigError, DatasetError

BATCHES_TOGETHER = 8  # when there are no images; some hundred kilobytes


class Dataset:
    """Demonstrations of one or several files.

    Attributes:
        obs_shapes: shape of one raw frame of each observation key.
        ac_dim: size of an action.
        env_args: environment metadata of the (first) file, None when it has none.
        horizon: longest rollout.
        obs_stats: {key: {"offset", "scale"}} of the training split, None unless `normalize_obs`.
        action_stats: {"offset", "scale"}; the actions of the batches are normalised with it,
            raw = action * scale + offset.
        content_hash: sha256 of the file(s).
        warnings: what is odd about the files and could be lived with.
    """

    def __init__(
        self,
        *,
        path: str | list[str],
        weights: list[float] | None,
        sha256: str | None,
        obs_keys: list[str] | None,
        goal_mode: Literal["last"] | None,
        train_filter: str | None,
        valid_filter: str | None,
        valid_fraction: float,
        split_seed: int,
        frame_stack: int,
        seq_length: int,
        pad_frame_stack: bool,
        pad_seq_length: bool,
        normalize_obs: bool,
        normalize_actions: Literal["min_max", "gaussian"] | None,
        placement: Placement,
        cache_dir: str,
        source: str | None,
        horizon: int,
    ) -> None:
        paths = [path] if isinstance(path, str) else list(path)
        check_settings(paths, weights, sha256, valid_fraction, frame_stack, seq_length)
        self.horizon = horizon
        self.warnings: list[str] = []
        self._weights = weights
        self._goals = goal_mode is not None
        self._placement: Placement = placement
        self._spec = WindowSpec(frame_stack, seq_length, pad_frame_stack, pad_seq_length)
        with ExitStack() as stack:
            files = [stack.enter_context(DemoFile(p, source=source)) for p in paths]
            self._splits = [
                split_demos(
                    str(file.path),
                    file.demos,
                    file.masks,
                    train_filter=train_filter,
                    valid_filter=valid_filter,
                    valid_fraction=valid_fraction,
                    seed=split_seed,
                )
                for file in files
            ]
            self._read(files, sha256, obs_keys, cache_dir)
        self._check_and_normalize(normalize_obs, normalize_actions)
        is_train = self._inventory.is_train
        self._train = self._windows_of(np.flatnonzero(is_train), "train")
        self._valid = self._windows_of(np.flatnonzero(~is_train), "valid")
        if len(self._train) == 0:
            raise DatasetError(
                f"{paths[0]}: no episode of the training split is as long as a window "
                f"({self._spec.length} frames); shorten frame_stack and seq_length or pad"
            )
        self._placed: Placement = resolve(placement, self._num_bytes, torch.device("cpu"))

    def train_loader(
        self,
        *,
        batch_size: int,
        seed: int,
        keys: Sequence[str] | None,
        device: torch.device | str,
    ) -> Loader:
        """Shuffled batches of exactly `batch_size` windows; see Loader for how passes continue."""
        wanted = self._wanted(keys)
        windows = self._windows_for(wanted, train=True)
        count = len(windows)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; at least 1 is needed")
        if seed < 0:
            raise ConfigError(f"seed is {seed}; it must not be negative")
        if count < batch_size:
            note = f"the training split has {count:,} windows, less than a batch of {batch_size:,}"
            if not any(warning.startswith(note) for warning in self.warnings):
                self.warnings.append(f"{note}; each batch is the whole split")
            batch_size = count
        order = shuffled(count, seed)
        if self._weights is not None:
            order = weighted(self._windows_per_file(windows), self._weights, seed)
        return self._loader(windows, order, batch_size, seed, wanted, device)

    def valid_loader(
        self, *, batch_size: int, keys: Sequence[str] | None, device: torch.device | str
    ) -> Loader | None:
        """Every validation window once, in order; None when there is no validation split."""
        wanted = self._wanted(keys)
        windows = self._windows_for(wanted, train=False)
        count = len(windows)
        if count == 0:
            return None
        return self._loader(windows, in_order(count), batch_size, None, wanted, device)

    def summary(self) -> str:
        table, inventory = self._inventory.table, self._inventory
        names = ", ".join(str(path) for path in table.paths)
        train = int(inventory.is_train.sum())
        shapes = ", ".join(f"{k} {'x'.join(map(str, s))}" for k, s in self.obs_shapes.items())
        return (
            f"{names}: {train} train + {len(table.demos) - train} valid episodes "
            f"({self._splits[0].how}), {table.num_rows:,} frames, {len(self._train):,} train "
            f"windows of {self._spec.length}\n"
            f"obs: {shapes}; actions: {self.ac_dim}; {self._num_bytes / 2**20:,.1f} MiB "
            f"in {described(self._placed, bool(self._inventory.images))}"
        )

    @property
    def _num_bytes(self) -> int:
        return self._block.num_bytes + self._images.num_bytes

    def _read(
        self,
        files: Sequence[DemoFile],
        sha256: str | None,
        obs_keys: Sequence[str] | None,
        cache_dir: str,
    ) -> None:
        hashes = [fingerprint(file.path, sha256) for file in files]
        inventory = take_inventory(files, self._splits, obs_keys)
        self._inventory: Inventory = inventory
        if inventory.low_dim_bytes > free_memory():
            raise DatasetError(
                f"{files[0].path}: {inventory.low_dim_bytes:,} bytes of memory are needed and "
                f"{free_memory():,} are free; choose fewer demos (dataset.train_filter) or keys "
                "(dataset.obs_keys)"
            )
        self._block = read_block(
            files,
            inventory.table,
            inventory.low_dim,
            inventory.ac_dim,
            [name for name in ("rewards", "dones") if name not in inventory.missing],
            inventory.shifted,
            with_next="next_obs" not in inventory.missing,
        )
        self._images = ImageSet(
            files, inventory.table, inventory.images, inventory.shifted, hashes, cache_dir
        )
        self.content_hash = combined(hashes)
        self.env_args: dict[str, Any] | None = files[0].env_args
        self.obs_shapes = {key: spec.frame_shape for key, spec in inventory.obs_specs.items()}
        self.ac_dim = inventory.ac_dim
        for file, split in zip(files, self._splits, strict=True):
            self.warnings += [*file.warnings, *split.warnings]
        self.warnings += inventory.warnings
        for file in files[1:]:
            if (file.env_args or {}).get("env_name") != (self.env_args or {}).get("env_name"):
                self.warnings.append(f"{file.path}: of another environment than the first file's")

    def _check_and_normalize(
        self, normalize_obs: bool, normalize_actions: Literal["min_max", "gaussian"] | None
    ) -> None:
        self.obs_stats: dict[str, Stats] | None = None
        self.action_stats: Stats | None = None
        table, block = self._inventory.table, self._block
        check_finite(block, table)
        check_overlap(block, table, self._inventory.is_train)
        if normalize_actions is None:
            check_action_range(block, table)
        train_rows = np.flatnonzero(np.repeat(self._inventory.is_train, table.lengths))
        self.warnings += constant_dimensions(block, train_rows)
        values = block.values.numpy()
        if normalize_obs:
            self.obs_stats = {}
            for key, column in block.obs.items():
                frames = values[:, column.start : column.start + column.width][train_rows]
                self.obs_stats[key] = obs_stats(frames.reshape(-1, *column.shape))
        if normalize_actions is not None:
            start = block.others["actions"].start
            actions = values[: table.num_rows, start : start + self.ac_dim]
            self.action_stats = action_stats(actions[train_rows], normalize_actions)
            normalize_(actions, self.action_stats)

    def _windows_of(self, episodes: np.ndarray, split: str) -> Windows:
        table = self._inventory.table
        windows = Windows(table.starts[episodes], table.lengths[episodes], self._spec)
        short = int((windows.counts == 0).sum())
        if short:
            self.warnings.append(
                f"{short:,} {split} episodes are shorter than a window of {self._spec.length} "
                "frames and are not used, because padding is off"
            )
        return windows

    def _windows_for(self, wanted: Sequence[str], *, train: bool) -> Windows:
        """The windows of a split; where next observations are wanted, of frames that have one."""
        windows = self._train if train else self._valid
        table, shifted = self._inventory.table, self._inventory.shifted
        if "next_obs" not in wanted or not shifted.any():
            return windows
        usable = usable_lengths(self._block, table, shifted)
        fewer = followed(windows, table, usable, self._inventory.is_train == train)
        if train and len(fewer) == 0:
            raise DatasetError(f"{table.paths[0]}: no training frame has a next observation")
        note = describe(table, shifted, usable, len(windows) - len(fewer))
        if train and note not in self.warnings:
            self.warnings.append(note)
        return fewer

    def _windows_per_file(self, windows: Windows) -> list[int]:
        of_train = self._inventory.table.file_of[self._inventory.is_train]
        counts = np.bincount(of_train, windows.counts, len(self._splits)).astype(int).tolist()
        for path, count in zip(self._inventory.table.paths, counts, strict=True):
            if count == 0:
                raise DatasetError(f"{path}: has no training window, so no weight can be given")
        return counts

    def _loader(
        self,
        windows: Windows,
        order: Order,
        batch_size: int,
        seed: int | None,
        wanted: Sequence[str],
        device: torch.device | str,
    ) -> Loader:
        target = full_device(device)
        self._placed = resolve(self._placement, self._num_bytes, target)
        home = target if self._placed == "device" else torch.device("cpu")
        self._block = self._block.to(home)
        with_next = not {"next_obs", "future_obs", "goal_obs"}.isdisjoint(wanted)
        images = self._images.open(self._placed, home, with_next=with_next)
        assemble = BatchAssembler(
            self._block,
            images,
            windows.to(home),
            obs_keys=list(self.obs_shapes),
            keys=wanted,
        )
        return Loader(
            assemble,
            order,
            num_windows=len(windows),
            batch_size=batch_size,
            seed=seed,
            home=home,
            device=target,
            prefetch=self._placed == "mmap" and bool(images),
            together=1 if images else BATCHES_TOGETHER,
        )

    def _wanted(self, keys: Sequence[str] | None) -> list[str]:
        """The batch entries to gather."""
        missing = dict(self._inventory.missing)
        if "next_obs" in missing:
            missing |= dict.fromkeys(("future_obs", "goal_obs"), missing["next_obs"])
        if not self._goals:
            missing["goal_obs"] = "dataset.goal_mode is null; dataset.goal_mode=last gives goals"
        if keys is None and self._inventory.shifted.any():
            missing["next_obs"] = "the file records none"  # they can be derived for who needs them
        return entries(keys, missing)
