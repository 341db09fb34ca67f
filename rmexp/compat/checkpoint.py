"""A checkpoint of the reference, read without executing anything, as one of ours.

Versions 0.3 to 0.5: the networks' weights lie in `model`, since 0.4 in `model["nets"]`; the
configuration is JSON; statistics are called mean and std up to 0.3, offset and scale since.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from omegaconf import open_dict
from torch import Tensor

from rmexp import archive, build
from rmexp.algo.base import Algo, Spec
from rmexp.compat.composing import composed, plain
from rmexp.compat.diffusion import unet_sizes
from rmexp.compat.experiment import obs_keys
from rmexp.compat.robomimic import load_robomimic_nets
from rmexp.compat.translate import algorithm, goal_keys, total_steps
from rmexp.errors import CheckpointError, RmexpError

NEEDED = ("model", "config", "algo_name", "env_metadata", "shape_metadata")


def read(path: Path) -> dict[str, Any]:
    """What the reference wrote: tensors, plain values, and numbers of numpy.

    Raises:
        CheckpointError: missing, damaged, not one of its checkpoints, or holding anything else.
    """
    try:
        content = archive.load(path, _numbers())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), "")
        raise CheckpointError(
            f"{path}: refused: it is damaged or holds objects other than tensors and plain values, "
            f"and loading those could execute code. {reason}".rstrip()
        ) from error
    except OSError as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path}: damaged or not a checkpoint: {reason}") from error
    missing = [name for name in NEEDED if not isinstance(content, dict) or name not in content]
    if missing:
        raise CheckpointError(f"{path}: not a checkpoint of robomimic: it has no {missing[0]!r}")
    return cast("dict[str, Any]", content)


def imported(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of one of our checkpoints, from that of one of the reference's.

    Raises:
        ConfigError: its configuration has something that rmexp has not.
        CheckpointError: its weights do not fit its configuration.
    """
    try:
        return _imported(content)
    except RmexpError:
        raise
    except Exception as error:  # of every kind: its parts are not what they are called
        raise CheckpointError(
            f"its parts do not fit together ({type(error).__name__}: {error}); give the file as "
            "robomimic wrote it"
        ) from error


def _imported(content: Mapping[str, Any]) -> dict[str, Any]:
    reference = json.loads(content["config"])
    train, arrays = reference["train"], _weights(content["model"])
    algo_config = reference["algo"]
    if "unet" in algo_config:
        algo_config = unet_sizes(algo_config, arrays)
    config = composed(algorithm(content["algo_name"], algo_config, train, reference["observation"]))
    keys, goals = obs_keys(reference), goal_keys(reference["observation"])
    experiment = reference["experiment"]
    spec = Spec(
        obs_shapes=_obs_shapes(content["shape_metadata"]["all_shapes"], keys),
        goal_shapes=_obs_shapes(content["shape_metadata"]["all_shapes"], goals),
        ac_dim=int(content["shape_metadata"]["ac_dim"]),
        frame_stack=config.algo.get("frame_stack", 1),
        seq_length=config.algo.get("seq_length", 1),
        total_steps=total_steps(algo_config, train, experiment.get("epoch_every_n_steps") or 100),
        seed=0,
    )
    with archive.no_larger_than(archive.tensor_bytes(content["model"])):
        algo = build.algo(config, spec, torch.device("cpu"))
    _load(algo, arrays, content["model"].get("ema"))

    with open_dict(config):
        config.name = f"robomimic_{config.algo._target_.rpartition('.')[2]}"
        config.dataset.obs_keys = keys
        config.dataset.goal_mode = "last" if goals else None
        config.dataset.horizon = int(experiment.get("rollout", {}).get("horizon", 400))
    return {
        "config": plain(config),
        "spec": asdict(spec),
        "env_args": content["env_metadata"],
        "obs_stats": _obs_stats(content.get("obs_normalization_stats"), keys),
        "action_stats": _action_stats(content.get("action_normalization_stats"), train),
        "algo": algo.serialize(),
    }


def _weights(model: Mapping[str, Any]) -> dict[str, Any]:
    """Tensors by name; those of an algorithm's parts lie below the names of the parts."""
    weights: dict[str, Any] = {}
    for name, value in model.get("nets", model).items():
        if isinstance(value, Mapping):
            weights |= {f"{name}.{key}": tensor for key, tensor in _weights(value).items()}
        else:
            weights[name] = value
    return weights


def _obs_shapes(shapes: Mapping[str, Any], keys: list[str]) -> dict[str, tuple[int, ...]]:
    """Of the observations that are used, in the order in which its networks join them."""
    missing = [key for key in keys if key not in shapes]
    order = [key for key in shapes if key in keys]
    if missing or order != sorted(order):
        raise CheckpointError(
            f"shape_metadata.all_shapes has {', '.join(shapes)}; needed are {', '.join(keys)}, in "
            "this order: robomimic sorts them"
        )
    return {key: tuple(int(n) for n in shapes[key]) for key in order}


def _load(algo: Algo, arrays: Mapping[str, Any], averaged: Mapping[str, Any] | None) -> None:
    """Weights, and beside them their average where one is kept."""
    if averaged is None:
        load_robomimic_nets(algo, arrays)
        return
    load_robomimic_nets(algo, averaged)
    average = {k: v.clone() for k, v in algo.nets.state_dict().items() if ".average." in k}
    load_robomimic_nets(algo, arrays)
    algo.nets.load_state_dict({**algo.nets.state_dict(), **average})


def _obs_stats(stats: Any, keys: list[str]) -> dict[str, dict[str, Tensor]] | None:
    if not stats:
        return None
    return {
        key: {
            "offset": _row(stats[key].get("offset", stats[key].get("mean"))),
            "scale": _row(stats[key].get("scale", stats[key].get("std"))),
        }
        for key in keys
    }


def _action_stats(stats: Any, train: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The parts of the action one after the other, as its policies answer; None: unchanged."""
    if not stats:
        return None
    names = list(train.get("action_keys", stats))
    for name in names:
        layout = train.get("action_config", {}).get(name, {}).get("format")
        if layout is not None:
            raise CheckpointError(
                f"train.action_config.{name}.format is {layout!r}: rmexp does not convert rotations"
            )
    joined = {
        part: torch.cat([_row(stats[name][part]).flatten() for name in names])
        for part in ("offset", "scale")
    }
    if bool((joined["offset"] == 0).all()) and bool((joined["scale"] == 1).all()):
        return None
    return joined


def _row(values: Any) -> Tensor:
    """(1, ...) -> (...), float32."""
    return torch.tensor(np.asarray(values, dtype=np.float32)[0])


def _numbers() -> list[Any]:
    """Numpy's single numbers, which its best scores are; they are data."""
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "?")]
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        *kinds,
    ]
