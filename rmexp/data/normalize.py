"""Offsets and scales, from the training episodes alone: raw = normalized * scale + offset."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Stats = dict[str, Tensor]
"""{"offset": (D...), "scale": (D...)}, float32."""

OBS_SCALE_EPS = 1e-3
MIN_MAX_LIMIT = 0.999999  # the normalised range stays inside the open interval of a tanh
MIN_MAX_CONSTANT = 1e-4
GAUSSIAN_CONSTANT = 1e-6


def obs_stats(frames: np.ndarray) -> Stats:
    """frames: (N, D...) -> mean and standard deviation + 1e-3 of each dimension."""
    mean = frames.mean(axis=0, dtype=np.float64)
    std = frames.std(axis=0, dtype=np.float64)
    return _as_stats(mean, std + OBS_SCALE_EPS)


def action_stats(actions: np.ndarray, mode: Literal["min_max", "gaussian"]) -> Stats:
    """actions: (N, A) -> stats; a dimension that never changes keeps its unit and becomes 0."""
    if mode == "gaussian":
        std = actions.std(axis=0, dtype=np.float64)
        scale = np.where(std < GAUSSIAN_CONSTANT, 1.0, std)
        return _as_stats(actions.mean(axis=0, dtype=np.float64), scale)
    low, high = actions.min(axis=0).astype(np.float64), actions.max(axis=0).astype(np.float64)
    constant = high - low < MIN_MAX_CONSTANT
    scale = np.where(constant, 1.0, (high - low) / (2 * MIN_MAX_LIMIT))
    return _as_stats(np.where(constant, low, (low + high) / 2), scale)


def normalize_(values: np.ndarray, stats: Stats) -> None:
    """Normalise (N, D) in place."""
    values -= stats["offset"].numpy()
    values /= stats["scale"].numpy()


def _as_stats(offset: np.ndarray, scale: np.ndarray) -> Stats:
    return {
        "offset": torch.from_numpy(offset.astype(np.float32)),
        "scale": torch.from_numpy(scale.astype(np.float32)),
    }
