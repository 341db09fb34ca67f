"""robomimic's algorithms as ours: from its own configuration, with its weights, on its draws.

So that its numbers can be compared with ours, and what was trained there can go on here. Nothing
of it has to be installed. Formats of its versions 0.3 to 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmexp import build
from rmexp.algo.base import Algo, Spec
from rmexp.compat.composing import composed
from rmexp.compat.replay import ReplayError, replay_draws
from rmexp.compat.roots import all_names, constants
from rmexp.compat.translate import algorithm, goal_keys, total_steps
from rmexp.errors import CheckpointError

__all__ = [
    "ReplayError",
    "algo_from_robomimic",
    "load_robomimic_nets",
    "replay_draws",
    "robomimic_nets",
]

STEPS_PER_EPOCH = 100
"""The reference's own default."""


def algo_from_robomimic(
    algo_name: str,
    algo_config: Mapping[str, Any],
    obs_shapes: Mapping[str, Sequence[int]],
    ac_dim: int,
    train: Mapping[str, Any] | None = None,
    *,
    observation: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Algo:
    """Our algorithm of the reference's configuration, with fresh weights.

    Args:
        algo_name: `bc`, `iql` and so on.
        algo_config: the section `algo` of its JSON.
        obs_shapes: {key: shape of one frame}, images channels first.
        ac_dim: A.
        train: the section `train`: `seq_length`, `frame_stack`, `max_grad_norm`, and what else is
            there; None, or lengths left out: what the algorithm needs.
        observation: the section `observation`, for the encoders of images and for goals.
        seed: of our draws and first weights.
        device: where it lives.

    Raises:
        ConfigError: names every option that is unknown or has no counterpart here.
    """
    given = dict(train or {})
    overrides = algorithm(algo_name, algo_config, given, observation)
    config = composed(overrides)
    spec = Spec(
        obs_shapes={key: tuple(shape) for key, shape in obs_shapes.items()},
        goal_shapes={key: tuple(obs_shapes[key]) for key in goal_keys(observation or {})},
        ac_dim=ac_dim,
        frame_stack=given.get("frame_stack") or config.algo.get("frame_stack", 1),
        seq_length=given.get("seq_length") or config.algo.get("seq_length", 1),
        total_steps=total_steps(algo_config, given, STEPS_PER_EPOCH),
        seed=seed,
    )
    return build.algo(config, spec, build.device(device))


def load_robomimic_nets(algo: Algo, arrays: Mapping[str, Any]) -> None:
    """Put the reference's weights into `algo`'s networks.

    Args:
        algo: an algorithm that the reference has too.
        arrays: {name there: array}, as in the `state_dict` of its networks.

    Raises:
        CheckpointError: lists names that are missing or unknown, and shapes that differ.
    """
    tensors = {name: torch.as_tensor(np.array(value)) for name, value in arrays.items()}
    state = algo.nets.state_dict()
    problems: list[str] = []
    seen: set[str] = set()
    for ours, theirs in all_names(algo).items():
        found = [name for name in theirs if name in tensors]
        if not found:
            problems.append(f"{theirs[0]} is missing")
        for name in found:
            if tensors[name].shape != state[ours].shape:
                shapes = f"{tuple(tensors[name].shape)}, here {tuple(state[ours].shape)}"
                problems.append(f"{name} has shape {shapes}")
            elif not torch.equal(tensors[name], tensors[found[0]]):
                problems.append(f"{name} and {found[0]} are one tensor, but differ")
            else:
                state[ours] = tensors[name]
        seen |= set(theirs)
    unknown = set(tensors) - seen - set(constants(algo))
    problems += [f"{name} has no counterpart" for name in sorted(unknown)]
    if problems:
        listed = "\n".join(f"  {line}" for line in problems)
        raise CheckpointError(f"these weights of robomimic do not fit the configuration:\n{listed}")
    algo.nets.load_state_dict(state)


def robomimic_nets(algo: Algo) -> dict[str, np.ndarray]:
    """The inverse of `load_robomimic_nets`: every name of the reference, doubles included."""
    state = algo.nets.state_dict()
    arrays = {
        name: _array(state[ours]) for ours, theirs in all_names(algo).items() for name in theirs
    }
    return arrays | {name: _array(value) for name, value in constants(algo).items()}


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().clone().numpy()
