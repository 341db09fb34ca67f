"""A simulator without a simulator: a point is to be moved to a goal, with Lift's observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SHAPES = {"object": 10, "robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2}


class Reach:
    name = "Reach"

    def __init__(self) -> None:
        self.position = self.goal = np.zeros(3, np.float32)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        draws = np.random.default_rng(seed)
        self.position, self.goal = draws.uniform(-1, 1, (2, 3)).astype(np.float32)
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        self.position = self.position + np.float32(0.1) * action[:3]
        distance = float(np.linalg.norm(self.goal - self.position))
        return self._observe(), -distance, False, {"success": distance < 0.7}

    def render(self, *, height: int, width: int, camera: str | None) -> np.ndarray:
        grey = np.uint8(np.clip(127 * (1 + self.position[0]), 0, 255))
        return np.full((height, width, 3), grey, np.uint8)

    def close(self) -> None:
        pass

    def _observe(self) -> dict[str, np.ndarray]:
        return {
            key: np.resize(np.concatenate([self.goal, self.position]), size).astype(np.float32)
            for key, size in SHAPES.items()
        }


def make(env_args: Mapping[str, Any], obs_keys: Sequence[str]) -> Reach:
    assert set(obs_keys) == set(SHAPES)
    return Reach()


def is_there(env_args: Mapping[str, Any] | None) -> None:
    """In the place of `simulator_missing`."""
