"""robomimic's configuration in rmexp's words: a choice of `conf/algo` and values for its keys.

What is translated is read and named, no more: composing the result is what checks it, as on the
command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rmexp.compat import cloning, hierarchical, offline
from rmexp.compat.diffusion import diffusion_policy
from rmexp.compat.encoders import encoder, keys_of
from rmexp.compat.optimizers import Overrides
from rmexp.compat.options import Options, refuse
from rmexp.errors import ConfigError
from rmexp.suggest import did_you_mean

TRAIN_ONLY = (
    "action_config",
    "action_keys",
    "batch_size",
    "cuda",
    "data",
    "dataset_keys",
    "goal_mode",
    "hdf5_cache_mode",
    "hdf5_filter_key",
    "hdf5_load_next_obs",
    "hdf5_normalize_obs",
    "hdf5_use_swmr",
    "hdf5_validation_filter_key",
    "normalize_weights_by_ds_size",
    "num_data_workers",
    "num_epochs",
    "output_dir",
    "pad_frame_stack",
    "pad_seq_length",
    "seed",
)
"""Of the reference's `train`: what an algorithm does not see."""

ALGORITHMS: dict[str, Callable[[Options, Options], Overrides]] = {
    "bc": cloning.bc,
    "diffusion_policy": diffusion_policy,
    "td3_bc": offline.td3_bc,
    "iql": offline.iql,
    "cql": offline.cql,
    "bcq": offline.bcq,
    "gl": hierarchical.gl,
    "hbc": hierarchical.hbc,
    "iris": hierarchical.iris,
}

SIGHT: dict[str, Callable[[Options], Overrides]] = {
    "gl": hierarchical.gl_sight,
    "hbc": hierarchical.hbc_sight,
    "iris": hierarchical.iris_sight,
}
"""How the section `observation` is read; of the others it only says how images are encoded."""


def algorithm(
    algo_name: str,
    algo_config: Mapping[str, Any],
    train: Mapping[str, Any],
    observation: Mapping[str, Any] | None = None,
) -> Overrides:
    """What chooses and configures our algorithm.

    Args:
        algo_name: the reference's name, `bc`, `iql` and so on.
        algo_config: the section `algo` of its configuration.
        train: the section `train`.
        observation: the section `observation`, for the encoders of images; None: its defaults.

    Raises:
        ConfigError: names every option that is unknown or has no counterpart.
    """
    if algo_name not in ALGORITHMS:
        raise ConfigError(
            f"algo_name: rmexp takes over no {algo_name!r} of robomimic"
            f"{did_you_mean(algo_name, ALGORITHMS)}; it takes over {', '.join(ALGORITHMS)}"
        )
    options = Options("algo", algo_config)
    training = Options("train", train)
    training.ignore(*TRAIN_ONLY)
    overrides = ALGORITHMS[algo_name](options, training)
    training.ignore("seq_length", "frame_stack", "max_grad_norm")
    read = [options, training]
    if observation is not None:
        seen = Options("observation", observation)
        overrides |= SIGHT.get(algo_name, encoder)(seen)
        read.append(seen)
    refuse(*read)
    return overrides


def own_section(observation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section `observation` of an algorithm; of one with parts that of its planner."""
    if "modalities" in observation:
        return observation
    parts = [own_section(part) for part in observation.values() if isinstance(part, Mapping)]
    return next(filter(None, parts), {})


def goal_keys(observation: Mapping[str, Any]) -> list[str]:
    """The observations that make the goal which the whole is told, sorted."""
    return keys_of(Options("observation", own_section(observation)), "goal")


def total_steps(algo_config: Mapping[str, Any], train: Mapping[str, Any], epoch_steps: int) -> int:
    """Gradient steps of the whole run, which a cosine schedule has to know."""
    for net in algo_config.get("optim_params", {}).values():
        if "num_train_batches" in net and "num_epochs" in net:  # what its training writes in
            return int(net["num_train_batches"]) * int(net["num_epochs"])
    return int(train.get("num_epochs", 2000)) * epoch_steps
