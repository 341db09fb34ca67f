"""From window numbers to a batch: one gather of the block, one an image key, the rest are views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from rmexp.data.episodes import Block
from rmexp.data.windows import Windows
from rmexp.errors import ConfigError, DatasetError

Batch = dict[str, Any]
BATCH_KEYS = (
    "obs",
    "next_obs",
    "future_obs",
    "goal_obs",
    "actions",
    "rewards",
    "dones",
    "pad_mask",
    "index",
)
"""`future_obs` are `next_obs` for who asks what is seen later, not what it is worth: where a file
records none, the last frame of an episode stays, and no window is left out."""


def entries(wanted: Sequence[str] | None, missing: Mapping[str, str]) -> list[str]:
    """The entries of a batch: those wanted, or all there are.

    Args:
        wanted: names of `BATCH_KEYS`; None is all that are not missing, but for `future_obs`.
        missing: entry -> why there is none.

    Raises:
        ConfigError: there is no such entry.
        DatasetError: one that is wanted is missing.
    """
    if wanted is None:
        return [key for key in BATCH_KEYS if key not in missing and key != "future_obs"]
    unknown = sorted(set(wanted) - set(BATCH_KEYS))
    if unknown:
        raise ConfigError(f"no batch entry {unknown[0]!r}; there are {', '.join(BATCH_KEYS)}")
    for key in wanted:
        if key in missing:
            raise DatasetError(f"{key} is needed for this algorithm: {missing[key]}")
    return list(wanted)


class Frames(Protocol):
    """Images of one key, by row."""

    def gather(self, rows: Tensor) -> Tensor:
        """rows: (n,) -> (n, H, W, C) uint8."""
        ...

    def gather_next(self, rows: Tensor) -> Tensor: ...


class BatchAssembler:
    """index: (B,) window numbers -> batch; a pure function, safe to call from another thread."""

    def __init__(
        self,
        block: Block,
        images: Mapping[str, Frames],
        windows: Windows,
        *,
        obs_keys: Sequence[str],
        keys: Sequence[str],
    ) -> None:
        self._block = block
        self._images = images
        self._windows = windows
        self._wanted = frozenset(keys)
        self._low_dim = [key for key in obs_keys if key in block.obs]
        self._image_keys = [key for key in obs_keys if key in images]
        named = [*block.obs.items(), *block.others.items()]
        self._widths = [column.width for _, column in named]
        self._names = [name for name, _ in named]
        self._shaped = {k: c.shape for k, c in block.obs.items() if len(c.shape) > 1}
        self._full_mask = torch.ones((1, 1, 1), dtype=torch.bool, device=windows.bounds.device)

    def __call__(self, index: Tensor) -> Batch:
        wanted, size, time = self._wanted, index.shape[0], self._windows.spec.length
        rows = self._windows.rows(index)
        parts = self._split(self._block.values.index_select(0, rows).view(size, time, -1))
        batch: Batch = {}
        if "obs" in wanted:
            batch["obs"] = self._obs(parts)
            for key in self._image_keys:
                frames = self._images[key].gather(rows)
                batch["obs"][key] = frames.view(size, time, *frames.shape[1:])
        if "next_obs" in wanted:
            batch["next_obs"] = self._following(rows, (size, time))
        if "future_obs" in wanted:
            batch["future_obs"] = self._following(rows, (size, time))
        if "goal_obs" in wanted:
            batch["goal_obs"] = self._goal(index)
        if "actions" in wanted:
            batch["actions"] = parts["actions"]
        for key in ("rewards", "dones"):
            if key in wanted:
                batch[key] = parts[key].squeeze(-1)
        if "pad_mask" in wanted:
            batch["pad_mask"] = (
                self._full_mask.expand(size, 1, 1) if time == 1 else self._windows.pad_mask(index)
            )
        if "index" in wanted:
            batch["index"] = index
        return batch

    def _split(self, values: Tensor) -> dict[str, Tensor]:
        return dict(zip(self._names, values.split_with_sizes(self._widths, -1), strict=True))

    def _obs(self, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        obs = {key: parts[key] for key in self._low_dim}
        for key, shape in self._shaped.items():
            if key in obs:
                obs[key] = obs[key].unflatten(-1, shape)
        return obs

    def _following(self, rows: Tensor, lead: tuple[int, ...]) -> dict[str, Tensor]:
        """Observations one step after `rows`, shaped (*lead, ...)."""
        obs: dict[str, Tensor] = {}
        if self._low_dim:
            assert self._block.next_rows is not None
            following = self._block.next_rows.index_select(0, rows)
            values = self._block.values.index_select(0, following)
            obs = self._obs(self._split(values.view(*lead, -1)))
        for key in self._image_keys:
            frames = self._images[key].gather_next(rows)
            obs[key] = frames.view(*lead, *frames.shape[1:])
        return obs

    def _goal(self, index: Tensor) -> dict[str, Tensor]:
        rows = self._windows.goal_rows(index)
        return self._following(rows, (index.shape[0],))
