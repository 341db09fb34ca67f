"""A trained algorithm as something that acts: raw observations in, raw actions out.

A policy answers for any number of environments at once, and what one of them gets does not depend
on who else is asking: rows are padded to a fixed number, and each episode has its own generator.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from rmexp import archive, build, checkpoint
from rmexp.algo.base import Algo, Spec, Stats, prepare_observations
from rmexp.draws import EpisodeDraws, SeededDraws
from rmexp.errors import CheckpointError, ConfigError, RmexpError
from rmexp.seeding import derive
from rmexp.trust import trusted_config

PARTS = ("config", "spec", "env_args", "obs_stats", "action_stats", "algo")
GROUPS = ("algo", "dataset", "loop", "rollout", "device", "num_threads", "deterministic")
"""What a checkpoint, and the configuration in it, must have for acting."""

ROWS = 8
"""Rows of every forward pass: matrix products round differently for different numbers of rows."""


class Policy:
    """Acts in environments that are numbered from 0.

    Args:
        algo: the algorithm, in whatever mode; it acts in evaluation mode.
        obs_stats: what observations are normalised with, {key: {offset, scale}}, or None.
        action_stats: raw action = action * scale + offset, or None.
        config: the run's configuration.
        env_args: the environment that the data came from.
    """

    def __init__(
        self,
        algo: Algo,
        obs_stats: Stats | None,
        action_stats: Mapping[str, torch.Tensor] | None,
        config: DictConfig | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> None:
        self.algo = algo
        self.obs_stats = obs_stats
        self.action_stats = action_stats
        self.config = config or DictConfig({})
        self.env_args = env_args
        self._draws: dict[int, SeededDraws] = {}
        self._frames: dict[int, deque[dict[str, np.ndarray]]] = {}

    @classmethod
    def load(
        cls, path: str | Path, *, trust: Collection[str] = (), device: str | None = None
    ) -> Policy:
        """Rebuild a policy from a checkpoint, on the device of its configuration unless told.

        Raises:
            CheckpointError: missing, damaged, not of a run, or naming code that is neither shipped
                nor in `trust`.
            ConfigError: there is no such device.
        """
        content = checkpoint.load(Path(path))
        _require_parts(path, content, PARTS)
        _require_parts(path, content["config"], GROUPS, "config.")
        config = trusted_config(content["config"], trust, str(path))
        try:
            build.check_config(config)
        except ConfigError as error:
            raise CheckpointError(f"{path}: {error}") from error
        chosen = build.device(config.device if device is None else device)
        try:
            spec = _spec(content["spec"])
            with archive.no_larger_than(archive.tensor_bytes(content["algo"])):
                algo = build.algo(config, spec, chosen)
            algo.deserialize(content["algo"])
            obs_stats, action_stats = _stats(content, spec, chosen)
        except RmexpError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:  # of every kind: a class was given what it never meets otherwise
            raise CheckpointError(_misfit(path, error)) from error
        env_args = content["env_args"]
        if env_args is not None and not isinstance(env_args, Mapping):
            raise CheckpointError(f"{path}: env_args is a {type(env_args).__name__}, no mapping")
        return cls(algo, obs_stats, action_stats, config, env_args)

    def reset(self, env: int, seed: int) -> None:
        """A new episode begins in environment `env`; `seed` decides its random draws."""
        self._draws[env] = SeededDraws(derive(seed, "act"), torch.device("cpu"))
        self._frames.pop(env, None)
        self.algo.reset([env])

    def act(
        self,
        obs: Mapping[str, np.ndarray],
        envs: Sequence[int],
        goal: Mapping[str, np.ndarray] | None = None,
    ) -> np.ndarray:
        """obs {key: (B, ...)} of environments `envs` -> actions (B, A) float32.

        `goal` is what they shall see in the end, {key: (B, ...)}, for a policy with goals.

        Raises:
            ConfigError: the policy has goals, and none is given.
        """
        wanted = self.algo.spec.goal_shapes
        if wanted and goal is None:
            raise ConfigError(f"this policy wants a goal beside obs: {', '.join(wanted)}")
        obs = self._stack_frames(obs, envs)
        chunks = [range(i, min(i + ROWS, len(envs))) for i in range(0, len(envs), ROWS)]
        acted = [self._act(obs, goal, [envs[i] for i in c], list(c)) for c in chunks]
        return np.concatenate(acted)

    def _stack_frames(
        self, obs: Mapping[str, np.ndarray], envs: Sequence[int]
    ) -> Mapping[str, np.ndarray]:
        """(B, ...) -> (B, F, ...): the last F frames of each episode, its first one repeated."""
        count = self.algo.spec.frame_stack
        if count == 1:
            return obs
        for row, env in enumerate(envs):
            frame = {key: value[row] for key, value in obs.items()}
            if env not in self._frames:
                self._frames[env] = deque([frame] * count, maxlen=count)
            self._frames[env].append(frame)
        return {
            key: np.stack([np.stack([f[key] for f in self._frames[env]]) for env in envs])
            for key in obs
        }

    def _act(
        self,
        obs: Mapping[str, np.ndarray],
        goal: Mapping[str, np.ndarray] | None,
        envs: Sequence[int],
        rows: list[int],
    ) -> np.ndarray:
        padded = rows + [rows[-1]] * (ROWS - len(rows))
        draws = [self._draws[env] for env in envs]
        spare = SeededDraws(0, torch.device("cpu"))
        source = EpisodeDraws([*draws, *[spare] * (ROWS - len(rows))], self.algo.device)

        self.algo.set_eval()
        with torch.inference_mode():
            ready = self._prepared(obs, self.algo.spec.obs_shapes, padded)
            aim = self._prepared(goal or {}, self.algo.spec.goal_shapes, padded) or None
            padding = [-1 - i for i in range(ROWS - len(rows))]
            actions = self.algo.get_action(ready, aim, draws=source, envs=[*envs, *padding])
            if self.action_stats is not None:
                actions = actions * self.action_stats["scale"] + self.action_stats["offset"]
        return actions[: len(rows)].float().cpu().numpy()

    def _prepared(
        self, raw: Mapping[str, np.ndarray], keys: Iterable[str], rows: list[int]
    ) -> dict[str, torch.Tensor]:
        """These keys and rows of raw observations, as the networks see them."""
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(raw[key][rows])).to(self.algo.device)
            for key in keys
        }
        floats = {k: v if v.dtype == torch.uint8 else v.float() for k, v in tensors.items()}
        return prepare_observations(floats, self.obs_stats)


def _require_parts(path: str | Path, content: Any, parts: Sequence[str], place: str = "") -> None:
    there: Collection[str] = content if isinstance(content, Mapping) else ()
    absent = [f"`{place}{part}`" for part in parts if part not in there]
    if absent:
        raise CheckpointError(
            f"{path}: not the checkpoint of a run: it has no {', '.join(absent)}; give one that "
            "`python -m rmexp` wrote (RUN/checkpoints/best.pt)"
        )


def _misfit(path: str | Path, error: Exception) -> str:
    """The first thing that does not fit; torch lists all of them below a headline."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else None
    return (
        f"{path}: its weights do not fit its own configuration and spec "
        f"({reason or f'{type(error).__name__}: {error}'}); it was changed after it was written, "
        "or a class of yours has changed since: give the file as the run wrote it"
    )


def _spec(given: Mapping[str, Any]) -> Spec:
    """The spec in a file; raises ValueError for what is no size or no shape."""
    spec = Spec(**given)
    sizes = [spec.ac_dim, spec.frame_stack, spec.seq_length, spec.total_steps]
    for shapes in (spec.obs_shapes, spec.goal_shapes):
        for shape in dict(shapes).values():
            sizes += tuple(shape)
    if any(type(size) is not int or size < 1 for size in sizes) or type(spec.seed) is not int:
        raise ValueError(f"sizes of the spec are whole numbers from 1 on, not {sizes}")
    return spec


def _stats(content: Mapping[str, Any], spec: Spec, device: torch.device) -> tuple[Any, Any]:
    """Statistics of observations and actions, one number for each of theirs."""
    widths = {key: prod(shape) for key, shape in spec.obs_shapes.items()}
    obs_stats, action_stats = content["obs_stats"], content["action_stats"]
    for stats, width in [
        *((stats, widths[key]) for key, stats in (obs_stats or {}).items()),
        *([] if action_stats is None else [(action_stats, spec.ac_dim)]),
    ]:
        for name in ("offset", "scale"):
            if not stats[name].is_floating_point() or stats[name].numel() != width:
                raise ValueError(f"statistics of {stats[name].numel()} numbers for {width}")
    return to(obs_stats, device), to(action_stats, device)


def to(stats: Any, device: torch.device) -> Any:
    """Nested dicts of tensors, on `device`."""
    if isinstance(stats, dict):
        return {key: to(value, device) for key, value in stats.items()}
    return stats.to(device) if isinstance(stats, torch.Tensor) else stats
