"""From a configuration to live objects; the only file that calls Hydra's `instantiate`.

Everything is checked first, all of it, so that nothing is read or written for a configuration that
cannot be built.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, cast

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig

from rmexp.algo.base import Algo, Spec
from rmexp.check import check
from rmexp.config import check_top_level
from rmexp.data.dataset import Dataset
from rmexp.errors import ConfigError, RmexpError
from rmexp.loggers.base import Logger
from rmexp.loop_settings import LoopSettings
from rmexp.rollout.rollouts import Rollouts

LIVE = {"algo": ("spec", "device"), "rollout": ("env_args", "obs_keys")}
"""Parameters that the run supplies: they depend on the data, so they cannot stand in YAML."""


def check_config(config: DictConfig) -> None:
    """Raise one ConfigError that lists every problem of a composed configuration."""
    for group in ("algo", "dataset", "loop"):
        if "_target_" not in config[group]:
            raise ConfigError(f"{group}: it has no _target_; choose one with {group}=NAME")
    check(config, LIVE)
    check_top_level(config)


def loop_settings(config: DictConfig) -> LoopSettings:
    return cast("LoopSettings", _make(config.loop))


def dataset(config: DictConfig) -> Dataset:
    return cast("Dataset", _make(config.dataset))


def algo(config: DictConfig, spec: Spec, device: torch.device) -> Algo:
    """The algorithm; its networks' first weights depend on the seed alone."""
    try:
        return cast("Algo", _make(config.algo, spec=spec, device=device))
    except ConfigError as error:
        if str(error).startswith(("algo", "dataset")):
            raise
        raise ConfigError(f"algo: {error}") from error


def algo_class(config: DictConfig) -> type[Algo]:
    """The class that `config.algo` names."""
    return cast("type[Algo]", get_class(config.algo._target_))


def batch_keys(config: DictConfig) -> tuple[str, ...]:
    """The entries of a batch that the algorithm reads, goals included where there are any."""
    goals = ("goal_obs",) if config.dataset.goal_mode else ()
    return (*algo_class(config).batch_keys, *goals)


def rollouts(
    config: DictConfig, env_args: Mapping[str, Any] | None, obs_keys: list[str]
) -> Rollouts | None:
    """The rollouts, or None with `rollout=none`."""
    if "_target_" not in config.rollout:
        return None
    return cast("Rollouts", _make(config.rollout, env_args=env_args, obs_keys=obs_keys))


def views(config: DictConfig) -> list[Logger]:
    """The loggers chosen; an entry without `_target_` belongs to one that was switched off."""
    chosen = [node for node in config.logging.values() if node and "_target_" in node]
    return [cast("Logger", _make(node)) for node in chosen]


def device(name: str) -> torch.device:
    """`auto` is the first GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device: {name!r} is not a device; use auto, cpu, cuda or cuda:1") from (
            error
        )
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {name!r} was asked for, but torch sees no GPU; use device=cpu")
    return chosen


def network_shapes(obs_shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes as networks see them: images (H, W, C) become (C, H, W), the rest flat."""
    return {
        key: (shape[2], shape[0], shape[1]) if len(shape) == 3 else (prod(shape),)
        for key, shape in obs_shapes.items()
    }


def _make(node: DictConfig, **live: Any) -> Any:
    """The object of a node: live objects go round Hydra, our own errors come as they are."""
    try:
        return instantiate(node, _partial_=True, _convert_="all")(**live)
    except InstantiationException as error:
        if isinstance(error.__cause__, RmexpError):
            raise error.__cause__ from None
        raise
