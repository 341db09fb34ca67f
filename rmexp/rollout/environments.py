"""What a simulator must offer, and how the `env_args` of a file choose one.

The simulator itself is imported only when an environment is made: everything else here answers
without it, so that training on pure data never pays for it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from rmexp.errors import RolloutError
from rmexp.rollout.robosuite_arguments import simulator_arguments

Observation = dict[str, np.ndarray]

ROBOSUITE = 1
TYPE_NAMES = {1: "robosuite", 2: "gym", 3: "igibson/momart"}


class Environment(Protocol):
    """One simulated task. One per process: simulators that share a process share hidden state."""

    @property
    def name(self) -> str: ...

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to `seed`: the same one, bit for bit, in any process."""
        ...

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, dict[str, Any]]:
        """action: (A,) -> observation, reward, terminated, info with `info["success"]: bool`.

        Time limits are the caller's business: `terminated` is only ever the task's own end.
        """
        ...

    def render(self, *, height: int, width: int, camera: str | None) -> np.ndarray:
        """Picture (H, W, 3) uint8, right way up; `camera=None` is the task's usual view."""
        ...

    def close(self) -> None: ...


def make_environment(env_args: Mapping[str, Any], obs_keys: Sequence[str]) -> Environment:
    """The environment that `env_args` of a demonstration file describe.

    Observations hold exactly `obs_keys`: (D,) float32, or (H, W, 3) uint8 for `*_image` keys.
    Raises RolloutError when the simulator is missing, broken, or does not know the environment.
    """
    reason = simulator_missing(env_args)
    if reason is not None:
        raise RolloutError(reason)

    from rmexp.rollout.robosuite import RobosuiteEnvironment

    return RobosuiteEnvironment(env_args, obs_keys)


def simulator_missing(env_args: Mapping[str, Any] | None) -> str | None:
    """Why no rollout is possible and what to do about it, in one line; None when one is."""
    if reason := _unknown_environment(env_args):
        return reason
    absent = [name for name in ("robosuite", "mujoco") if importlib.util.find_spec(name) is None]
    if absent:
        return (
            f"no rollouts: {' and '.join(absent)} not installed; "
            "type  pip install 'rmexp[sim]'  to simulate"
        )
    return None


def undescribed(env_args: Mapping[str, Any] | None) -> str | None:
    """What `env_args` lack for a rollout anywhere, in one line; None when they have all of it."""
    reason = _unknown_environment(env_args)
    if reason is None and env_args is not None:
        try:
            simulator_arguments(env_args)
        except RolloutError as error:
            return f"no rollouts: {error}"
    return reason


def _unknown_environment(env_args: Mapping[str, Any] | None) -> str | None:
    if not env_args or "env_name" not in env_args:
        return (
            "no rollouts: the data have no `env_args` with an `env_name`, which says what to "
            "simulate"
        )
    kind = env_args.get("type", ROBOSUITE)
    if kind != ROBOSUITE:
        known = TYPE_NAMES.get(kind, "unknown") if isinstance(kind, int) else "unknown"
        return (
            f"no rollouts: environment {env_args['env_name']!r} has type {kind!r} ({known}); "
            f"rmexp simulates type {ROBOSUITE} ({TYPE_NAMES[ROBOSUITE]})"
        )
    return None
