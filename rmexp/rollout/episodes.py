"""Episodes of a policy in a pool of simulators; what comes out depends on seeds and policy alone.

All environments that are within an episode act together and step together. Which ones those are
follows from the lengths of the episodes and never from a clock, so that every run repeats exactly.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from rmexp.errors import RolloutError
from rmexp.rollout.environments import Observation
from rmexp.rollout.pool import EnvPool, RenderingError
from rmexp.rollout.statistics import EpisodeRecord, RolloutResult, RolloutTimes
from rmexp.rollout.video import FRAME_EVERY, video_missing, write_video
from rmexp.rollout.worker import Reply, View

_log = logging.getLogger(__name__)

RESET_ROUNDS = 12
"""Steps of the others that an environment sits out while it is reset, which takes far longer than
a step. A number of steps, not the time that the reset takes: that would decide who acts together.
"""


class ActingPolicy(Protocol):
    """What acts: for several environments at once, each as if it were alone."""

    def reset(self, env: int, seed: int) -> None:
        """The episode of `seed` begins in environment `env`."""
        ...

    def act(self, obs: dict[str, np.ndarray], envs: Sequence[int]) -> np.ndarray:
        """obs: {key: (B, ...)}, row i from environment envs[i] -> actions (B, A)."""
        ...


def run_episodes(
    policy: ActingPolicy,
    pool: EnvPool,
    *,
    seeds: Sequence[int],
    horizon: int,
    video_episodes: int = 0,
    video_path: Path | None = None,
    video_size: int = 256,
    camera: str | None = None,
    should_stop: Callable[[], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RolloutResult:
    """One episode per seed; each ends at success, at its own end, or after `horizon` steps.

    Args:
        policy: acts in every environment of the pool.
        pool: the simulators; left running, except after an error or an interruption.
        seeds: where the episodes start.
        horizon: longest length of an episode, in steps.
        video_episodes: how many episodes, from the first on, the video shows.
        video_path: the mp4 to write. When that is impossible, one warning says why and the
            pool tries no more videos; the episodes are the same with and without.
        video_size: height and width of an episode's picture, in pixels.
        camera: the view; None is the task's usual one.
        should_stop: called before every step and while waiting; raises to break off.
        progress: called after every episode with (episodes done, episodes in all).

    Raises:
        RolloutError: a simulator failed, or the policy's action is not finite.
    """
    if not seeds or horizon < 1:
        raise ValueError(f"{len(seeds)} seeds, horizon {horizon}: both must be at least 1")
    began = time.perf_counter()
    check = should_stop or (lambda: None)
    report = progress or (lambda done, total: None)

    def rollout(filmed: int) -> _Rollout:
        view = View(video_size, video_size, camera, FRAME_EVERY)
        attempt = _Rollout(policy, pool, seeds, horizon, view, filmed, check, report)
        attempt.run()
        return attempt

    filmed = min(video_episodes, len(seeds)) if video_path is not None else 0
    if filmed and not pool.no_video:
        _give_up_videos(pool, video_missing())
    try:
        done = rollout(0 if pool.no_video else filmed)
    except RenderingError as error:
        _give_up_videos(pool, str(error))
        done = rollout(0)

    rolled_out = time.perf_counter()
    video = _write(pool, video_path, done)
    now = time.perf_counter()
    times = RolloutTimes(wall_s=now - began, video_s=now - rolled_out, **done.seconds)
    return RolloutResult(pool.name, done.records(), times, video)


@dataclass
class _Episode:
    """An episode under way; it joins the others once `obs` is there."""

    index: int
    seed: int
    joins: int
    obs: Observation | None = None
    episode_return: float = 0.0
    length: int = 0
    success: bool = False
    frames: list[np.ndarray] = field(default_factory=list)


@dataclass
class _Rollout:
    """One pass over the seeds, as many episodes at a time as the pool has environments."""

    policy: ActingPolicy
    pool: EnvPool
    seeds: Sequence[int]
    horizon: int
    view: View
    filmed: int
    should_stop: Callable[[], None]
    progress: Callable[[int, int], None]
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("act_s", "wait_s", "reset_s", "step_s", "render_s"), 0.0
        )
    )
    running: dict[int, _Episode] = field(default_factory=dict)
    finished: dict[int, _Episode] = field(default_factory=dict)
    started: int = 0
    round: int = 0

    def run(self) -> None:
        try:
            for env in range(min(self.pool.num_envs, len(self.seeds))):
                self._begin(env, joins=0)
            while self.running:
                self.should_stop()
                self._join()
                self._step()
                self.round += 1
        except RolloutError:
            self.should_stop()  # who stops the run may have stopped the simulators, too
            raise
        except BaseException:
            self.pool.kill()  # its answers to come belong to this rollout
            raise

    def records(self) -> list[EpisodeRecord]:
        episodes = (self.finished[index] for index in range(len(self.seeds)))
        return [EpisodeRecord(e.seed, e.episode_return, e.length, e.success) for e in episodes]

    def _begin(self, env: int, joins: int) -> None:
        """Give the next seed to an environment that is free."""
        if self.started == len(self.seeds):
            return
        episode = _Episode(self.started, self.seeds[self.started], joins)
        self.started += 1
        self.running[env] = episode
        filmed = episode.index < self.filmed
        self.pool.submit_reset(env, episode.seed, self.view if filmed else None)

    def _join(self) -> None:
        """Take in the episodes whose turn has come, or the next ones when nobody else acts."""
        resetting = {env: episode for env, episode in self.running.items() if episode.obs is None}
        now = self.round
        if len(resetting) == len(self.running):
            now = max(now, min(episode.joins for episode in resetting.values()))
        due = sorted(env for env, episode in resetting.items() if episode.joins <= now)
        for env, reply in self._collect(due).items():
            self.seconds["reset_s"] += reply.simulate_s
            self.policy.reset(env, self.running[env].seed)
            self._observe(self.running[env], reply)

    def _step(self) -> None:
        """Every environment that is within an episode acts and steps, and may finish."""
        envs = sorted(env for env, episode in self.running.items() if episode.obs is not None)
        for env, action in zip(envs, self._act(envs), strict=True):
            self.pool.submit_step(env, action)
        for env, reply in self._collect(envs).items():
            episode = self.running[env]
            self.seconds["step_s"] += reply.simulate_s
            self._observe(episode, reply)
            episode.episode_return += reply.reward
            episode.length += 1
            episode.success = reply.success
            if reply.success or reply.terminated or episode.length == self.horizon:
                self.finished[episode.index] = self.running.pop(env)
                episode.obs = None
                self.progress(len(self.finished), len(self.seeds))
                self._begin(env, joins=self.round + 1 + RESET_ROUNDS)

    def _act(self, envs: list[int]) -> np.ndarray:
        began = time.perf_counter()
        observations = [episode.obs or {} for episode in (self.running[env] for env in envs)]
        obs = {key: np.stack([o[key] for o in observations]) for key in observations[0]}
        actions = np.asarray(self.policy.act(obs, envs))
        self.seconds["act_s"] += time.perf_counter() - began
        if actions.ndim != 2 or len(actions) != len(envs):
            raise ValueError(f"{len(envs)} environments, but actions of shape {actions.shape}")
        for env, action in zip(envs, actions, strict=True):
            if not np.isfinite(action).all():
                episode = self.running[env]
                self.pool.close()
                raise RolloutError(
                    f"{self.pool.name}, seed {episode.seed}, step {episode.length + 1}: the "
                    f"policy's action is not finite: {action.tolist()}"
                )
        return actions

    def _collect(self, envs: list[int]) -> dict[int, Reply]:
        began = time.perf_counter()
        replies = self.pool.collect(envs, self.should_stop)
        self.seconds["wait_s"] += time.perf_counter() - began
        return replies

    def _observe(self, episode: _Episode, reply: Reply) -> None:
        episode.obs = reply.obs
        self.seconds["render_s"] += reply.render_s
        if reply.frame is not None:
            episode.frames.append(reply.frame)


def _write(pool: EnvPool, path: Path | None, done: _Rollout) -> Path | None:
    filmed = [done.finished[index] for index in range(done.filmed)]
    if path is None or not filmed:
        return None
    try:
        write_video(path, [e.frames for e in filmed], [e.success for e in filmed])
    except Exception as error:  # encoders fail in many ways, and none may cost a rollout
        _give_up_videos(pool, f"{path}: {type(error).__name__}: {error}")
        return None
    return path


def _give_up_videos(pool: EnvPool, reason: str | None) -> None:
    """Say it once: a pool that failed at a video tries no other."""
    if reason is not None:
        pool.no_video = reason
        _log.warning("no videos: %s", reason)
