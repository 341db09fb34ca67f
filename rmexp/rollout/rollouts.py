"""When a policy is put to the test: on which starts, for how long, and in how many simulators.

Starts are seeds. The same ones serve every epoch, run and policy, so that comparisons are paired;
the final evaluation has starts of its own that were never used to select a checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rmexp.errors import ConfigError, RolloutError, require
from rmexp.rollout.environments import make_environment, simulator_missing
from rmexp.rollout.episodes import ActingPolicy, run_episodes
from rmexp.rollout.pool import EnvPool
from rmexp.rollout.statistics import RolloutResult

_log = logging.getLogger(__name__)


class Rollouts:
    """Evaluates policies in the environment that a demonstration file names.

    Simulators start at the first evaluation and stay up until `close()`.
    """

    def __init__(
        self,
        *,
        num_episodes: int,
        final_episodes: int,
        num_envs: int,
        horizon: int,
        seed: int,
        final_seed: int,
        video_episodes: int,
        video_size: int,
        camera: str | None,
        env_args: Mapping[str, Any] | None,
        obs_keys: Sequence[str],
    ) -> None:
        for least, numbers in (
            (1, {"num_episodes": num_episodes, "final_episodes": final_episodes}),
            (1, {"num_envs": num_envs, "horizon": horizon}),
            (0, {"seed": seed, "final_seed": final_seed, "video_episodes": video_episodes}),
        ):
            for name, value in numbers.items():
                require(value >= least, f"rollout.{name}", value, f"at least {least}")
        size, allowed = video_size, "even (codecs want that) and at least 16"
        require(size >= 16 and size % 2 == 0, "rollout.video_size", size, allowed)
        if seed <= final_seed < seed + num_episodes or final_seed <= seed < (
            final_seed + final_episodes
        ):
            raise ConfigError(
                f"rollout.final_seed={final_seed}: the final starts overlap those that select the "
                f"checkpoint ({seed} to {seed + num_episodes - 1}); move one of the seeds"
            )
        self.num_episodes = num_episodes
        self.final_episodes = final_episodes
        self.horizon = horizon
        self.seed = seed
        self.final_seed = final_seed
        self.video_episodes = video_episodes
        self.video_size = video_size
        self.camera = camera
        self.env_name = str((env_args or {}).get("env_name", "unknown"))
        self.missing = simulator_missing(env_args)
        make = partial(make_environment, dict(env_args or {}), list(obs_keys))
        self.pool = EnvPool(make, num_envs)

    def select(
        self,
        policy: ActingPolicy,
        video: Path | None = None,
        should_stop: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> RolloutResult:
        """Evaluate on the starts that select the best checkpoint."""
        seeds = range(self.seed, self.seed + self.num_episodes)
        return self.run(policy, seeds, video, should_stop, progress)

    def final(
        self,
        policy: ActingPolicy,
        video: Path | None = None,
        should_stop: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> RolloutResult:
        """Evaluate on starts that selected nothing."""
        seeds = range(self.final_seed, self.final_seed + self.final_episodes)
        return self.run(policy, seeds, video, should_stop, progress)

    def run(
        self,
        policy: ActingPolicy,
        seeds: Sequence[int],
        video: Path | None = None,
        should_stop: Callable[[], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> RolloutResult:
        """One episode per seed.

        Raises:
            RolloutError: the simulator failed, or is not installed.
        """
        if self.missing is not None:
            raise RolloutError(self.missing)
        return run_episodes(
            policy,
            self.pool,
            seeds=seeds,
            horizon=self.horizon,
            video_episodes=self.video_episodes if video else 0,
            video_path=video,
            video_size=self.video_size,
            camera=self.camera,
            should_stop=should_stop,
            progress=progress,
        )

    def close(self) -> None:
        """End the simulators."""
        self.pool.close()
