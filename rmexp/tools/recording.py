"""One recorded episode: what an expert saw, did and got, and how it is kept until all are done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rmexp.tools.tasks import Task

if TYPE_CHECKING:
    from rmexp.rollout.robosuite import RobosuiteEnvironment


@dataclass(frozen=True)
class Recording:
    """T steps of one episode.

    obs: {key: (T + 1, ...)}, the frame after the last action included.
    actions: (T, A) float32, exactly those that were executed.
    states: (T, D) float64 simulator states before each action, or (0, D) when not asked for.
    """

    seed: int
    behaviour: str
    success: bool
    obs: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    states: np.ndarray
    model_xml: str

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def dones(self) -> np.ndarray:
        """(T,) uint8: 1 where the task was solved; an episode that ran out of time has none."""
        dones = np.zeros(len(self), dtype=np.uint8)
        dones[-1] = self.success
        return dones

    def save(self, path: Path) -> None:
        """Whole or not at all: a half-written episode is never found again."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            np.savez(
                file,
                seed=np.int64(self.seed),
                behaviour=np.array(self.behaviour),
                success=np.bool_(self.success),
                actions=self.actions,
                rewards=self.rewards,
                states=self.states,
                model_xml=np.array(self.model_xml),
                **{f"obs/{key}": frames for key, frames in self.obs.items()},
            )
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Recording:
        with np.load(path, allow_pickle=False) as stored:
            return cls(
                seed=int(stored["seed"]),
                behaviour=str(stored["behaviour"]),
                success=bool(stored["success"]),
                obs={key[4:]: stored[key] for key in stored.files if key.startswith("obs/")},
                actions=stored["actions"],
                rewards=stored["rewards"],
                states=stored["states"],
                model_xml=str(stored["model_xml"]),
            )


def record_episode(
    env: RobosuiteEnvironment,
    task: Task,
    *,
    index: int,
    seed: int,
    obs_keys: Sequence[str],
    with_states: bool,
) -> Recording:
    """Episode `index` of a data set: a function of its arguments alone, in any process.

    The noise has a generator of its own, so that it does not depend on the simulator's draws.
    """
    behaviour = task.behaviours[index % len(task.behaviours)]
    draws = np.random.default_rng([seed, 1])
    policy = behaviour.start(draws)
    noise = np.array(behaviour.noise)
    obs = env.reset(seed)
    model_xml = env.model_xml() if with_states else ""
    frames, actions, rewards, states = [obs], [], [], []
    success = False
    while not success and len(actions) < task.horizon:
        wanted = policy(obs) + noise * draws.standard_normal(noise.shape)
        action = np.clip(wanted, -1.0, 1.0).astype(np.float32)
        if with_states:
            states.append(env.state())
        obs, reward, _, info = env.step(action)
        success = info["success"]
        frames.append(obs)
        actions.append(action)
        rewards.append(reward)
    return Recording(
        seed=seed,
        behaviour=behaviour.name,
        success=success,
        obs={key: np.stack([frame[key] for frame in frames]) for key in obs_keys},
        actions=np.stack(actions),
        rewards=np.array(rewards, dtype=np.float32),
        states=np.array(states) if with_states else np.zeros((0, 0)),
        model_xml=model_xml,
    )
