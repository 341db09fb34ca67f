"""What acts in an environment must not depend on who else is acted for."""

from __future__ import annotations

from typing import Any

import numpy as np

from rmexp.policy import Policy


def check_episodes_are_their_own(acting: Policy, count: int) -> None:
    """Each of `count` episodes alone, then all of them mixed: the same actions."""
    rng = np.random.default_rng(0)
    steps = 6
    recorded = {
        k: rng.normal(size=(count, steps, *s)).astype(np.float32)
        for k, s in acting.algo.spec.obs_shapes.items()
    }
    at = dict.fromkeys(range(count), 0)

    def act(envs: list[int]) -> np.ndarray[Any, Any]:
        obs = {k: np.stack([v[env, at[env]] for env in envs]) for k, v in recorded.items()}
        for env in envs:
            at[env] += 1
        return acting.act(obs, envs)

    alone: dict[int, list[Any]] = {}
    for env in range(count):
        acting.reset(env, seed=100 + env)
        alone[env] = [act([env])[0] for _ in range(steps)]

    at = dict.fromkeys(range(count), 0)
    mixed: dict[int, list[Any]] = {env: [] for env in range(count)}
    for env in range(count):
        acting.reset(env, seed=100 + env)
    while pending := [env for env in range(count) if at[env] < steps]:
        envs = [env for env in pending if rng.random() < 0.6] or pending
        rng.shuffle(envs)
        for env, action in zip(envs, act(envs), strict=True):
            mixed[env].append(action)
    for env in range(count):
        assert np.array_equal(np.stack(alone[env]), np.stack(mixed[env])), env
    assert len({tuple(actions[0]) for actions in alone.values()}) == count
