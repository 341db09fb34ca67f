"""A small real simulator: a mass in the plane, pushed about by gusts, has to reach a goal.

On request it fails in the ways that simulators fail.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

import numpy as np

STEP_S = 0.05
REACHED = 0.08


class PointMass:
    """Observes `state` (position and velocity, (4,)) and `to_goal` (3,); acts by a force (2,)."""

    name = "PointMass"

    def __init__(
        self,
        *,
        trouble: str | None = None,
        at_seed: int | None = None,
        at_step: int = 0,
        step_sleep_s: float = 0.0,
        obs_bytes: int = 0,
    ) -> None:
        self.trouble = trouble
        self.at_seed = at_seed
        self.at_step = at_step
        self.step_sleep_s = step_sleep_s
        self.obs_bytes = obs_bytes
        self.rng = np.random.default_rng(0)
        self.seed = -1
        self.steps = 0
        self.position = self.velocity = self.goal = np.zeros(2)
        if at_seed is None:
            self._get_into_trouble()

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.rng = np.random.default_rng(seed)
        self.seed, self.steps = seed, 0
        self.position, self.goal = self.rng.uniform(-1, 1, (2, 2))
        self.velocity = np.zeros(2)
        self._maybe_trouble()
        return self._observe()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, dict[str, Any]]:
        time.sleep(self.step_sleep_s)
        self.steps += 1
        self._maybe_trouble()
        gust = self.rng.normal(0, 0.2, 2)
        self.velocity = 0.9 * self.velocity + STEP_S * (np.asarray(action, float) + gust)
        self.position = self.position + STEP_S * self.velocity
        distance = float(np.linalg.norm(self.goal - self.position))
        lost = bool(np.abs(self.position).max() > 1.5)
        return self._observe(), -distance, lost, {"success": distance < REACHED}

    def render(self, *, height: int, width: int, camera: str | None) -> np.ndarray:
        if self.trouble == "blind":
            raise OSError("no display")
        if self.trouble == "blind crash":
            ctypes.string_at(0)
        picture = np.full((height, width, 3), 255, np.uint8)
        for place, colour in ((self.goal, (220, 170, 0)), (self.position, (30, 60, 200))):
            row, column = ((0.5 + place / 3) * (height - 1, width - 1)).astype(int)
            picture[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4] = colour
        return picture

    def close(self) -> None:
        if self.trouble == "never closes":
            threading.Event().wait()

    def _observe(self) -> dict[str, np.ndarray]:
        to_goal = self.goal - self.position
        obs: dict[str, np.ndarray] = {
            "state": np.concatenate([self.position, self.velocity]).astype(np.float32),
            "to_goal": np.array([*to_goal, np.linalg.norm(to_goal)], np.float32),
        }
        if self.obs_bytes:
            obs["image"] = np.full(self.obs_bytes, self.steps % 256, np.uint8)
        return obs

    def _maybe_trouble(self) -> None:
        if self.seed == self.at_seed and self.steps == self.at_step:
            self._get_into_trouble()

    def _get_into_trouble(self) -> None:
        if self.trouble == "raise":
            raise ValueError("the mass went through the wall")
        if self.trouble == "exit":
            sys.exit("licence expired")
        if self.trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.trouble == "crash":
            sys.stdout.write("a last word on stdout\n")
            ctypes.string_at(0)
        if self.trouble == "abort":
            sys.stderr.write("solver: singular matrix\n")
            os._exit(3)
        if self.trouble == "hang":
            threading.Event().wait()


class Facts(PointMass):
    """Observes what its process looks like."""

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        threads = os.environ.get("OMP_NUM_THREADS", "")
        facts = [os.getpid(), int(threads or 0), "torch" in sys.modules, "hydra" in sys.modules]
        return {"facts": np.array(facts)}


class Reaching:
    """Pushes towards the goal, each row by itself, with a noise that the episode's seed decides."""

    def __init__(self, gain: float = 8.0, noise: float = 1.0) -> None:
        self.gain = gain
        self.noise = noise
        self.rngs: dict[int, np.random.Generator] = {}
        self.seeds: list[int] = []
        self.batches: list[list[int]] = []

    def reset(self, env: int, seed: int) -> None:
        self.rngs[env] = np.random.default_rng(seed + 10**6)
        self.seeds.append(seed)

    def act(self, obs: dict[str, np.ndarray], envs: Any) -> np.ndarray:
        assert obs["state"].shape == (len(envs), 4)
        assert obs["to_goal"].shape == (len(envs), 3)
        self.batches.append(list(envs))
        force = self.gain * obs["to_goal"][:, :2] - 2.0 * obs["state"][:, 2:]
        noise = np.stack([self.rngs[env].normal(0, self.noise, 2) for env in envs])
        return force + noise
