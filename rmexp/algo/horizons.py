"""Lengths of an algorithm that plans chunks of actions, against the windows that the data give.

A window has `frame_stack - 1 + seq_length` frames, the present one at index `frame_stack - 1`. Its
first `obs_horizon` frames are observed, its first `pred_horizon` actions are planned, and of the
plan `action_horizon` actions are executed, from the present one on.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rmexp.algo.base import Spec
from rmexp.errors import ConfigError


def check_horizons(
    spec: Spec, horizons: tuple[int, int, int], frame_stack: int, seq_length: int
) -> None:
    """Refuse lengths that do not fit each other or the windows of `spec`."""
    obs_horizon, pred_horizon, action_horizon = horizons
    if not obs_horizon == frame_stack == spec.frame_stack:
        raise ConfigError(
            f"algo.obs_horizon={obs_horizon}, algo.frame_stack={frame_stack}, "
            f"dataset.frame_stack={spec.frame_stack}: these three must be equal; "
            "set algo.obs_horizon and leave the others as they are"
        )
    if seq_length != spec.seq_length or frame_stack - 1 + seq_length < pred_horizon:
        raise ConfigError(
            f"algo.pred_horizon={pred_horizon}, algo.seq_length={seq_length}, "
            f"dataset.seq_length={spec.seq_length}: both lengths must be equal and long enough for "
            f"the plan, {pred_horizon - frame_stack + 1} or more; set algo.pred_horizon and leave "
            "the others as they are"
        )
    if not 1 <= action_horizon <= pred_horizon - obs_horizon + 1:
        raise ConfigError(
            f"algo.action_horizon={action_horizon}: of a plan of algo.pred_horizon={pred_horizon} "
            f"actions, the first {obs_horizon - 1} lie in the past with "
            f"algo.obs_horizon={obs_horizon}; give 1 to {pred_horizon - obs_horizon + 1}"
        )


def with_time(
    obs: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """{key: (B, *shape) or (B, F, *shape)} -> {key: (B, F, *shape)}."""
    return {
        key: obs[key] if obs[key].ndim == len(shape) + 2 else obs[key].unsqueeze(1)
        for key, shape in shapes.items()
    }
