"""When a policy is put to the test: the numbers of `rollout.*`, checked before anything starts."""

from __future__ import annotations

from typing import Any

import pytest

from rmexp.errors import ConfigError
from rmexp.rollout.rollouts import Rollouts


def rollouts(**changes: Any) -> Rollouts:
    values: dict[str, Any] = {
        "num_episodes": 3,
        "final_episodes": 2,
        "num_envs": 2,
        "horizon": 11,
        "seed": 100,
        "final_seed": 200,
        "video_episodes": 0,
        "video_size": 16,
        "camera": None,
        "env_args": {"env_name": "Lift"},
        "obs_keys": ["object"],
    }
    return Rollouts(**{**values, **changes})


def test_the_smallest_numbers_pass() -> None:
    rollouts(num_episodes=1, final_episodes=1, num_envs=1, horizon=1, seed=0, final_seed=1)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_episodes", 0, "at least 1"),
        ("final_episodes", 0, "at least 1"),
        ("num_envs", 0, "at least 1"),
        ("horizon", 0, "at least 1"),
        ("seed", -1, "at least 0"),
        ("final_seed", -2, "at least 0"),
        ("video_episodes", -1, "at least 0"),
        ("video_size", 14, "even .* at least 16"),
        ("video_size", 33, "even .* at least 16"),
    ],
)
def test_numbers_are_checked_by_name(name: str, value: int, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^rollout\.{name}: {value} must be {allowed}"):
        rollouts(**{name: value})


@pytest.mark.parametrize("seed", [198, 201])
def test_final_starts_are_fresh(seed: int) -> None:
    with pytest.raises(ConfigError, match=r"rollout\.final_seed=200: the final starts overlap"):
        rollouts(seed=seed)
