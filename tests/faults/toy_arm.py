"""A simulator for `tiny_lift.hdf5`; it imports little, because each worker imports it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

WIDTHS = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}


class ToyArm:
    """Observes what `tiny_lift.hdf5` observes; succeeds when its hand, pushed about, gets far."""

    name = "ToyArm"

    def __init__(self, env_args: Mapping[str, Any], obs_keys: Sequence[str]) -> None:
        self.obs_keys = obs_keys
        self.rng = np.random.default_rng(0)
        self.state = np.zeros(19, np.float32)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.rng = np.random.default_rng(seed)
        self.state = self.rng.normal(0, 0.1, 19).astype(np.float32)
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        self.state[:7] += 0.2 * action + self.rng.normal(0, 0.2, 7).astype(np.float32)
        return self._observe(), 0.0, False, {"success": bool(self.state[0] > 0.7)}

    def render(self, *, height: int, width: int, camera: str | None) -> np.ndarray:
        return np.zeros((height, width, 3), np.uint8)

    def close(self) -> None:
        """Nothing to do."""

    def _observe(self) -> dict[str, np.ndarray]:
        ends = np.cumsum(list(WIDTHS.values()))[:-1]
        parts = dict(zip(WIDTHS, np.split(self.state.copy(), ends), strict=True))
        return {key: parts[key] for key in self.obs_keys}
