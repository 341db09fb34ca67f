"""Any algorithm of `conf/algo`, composed as the command line does and shrunk to the size of a test.

Sizes are found by their names at any depth, so an algorithm that is added later needs no entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from rmexp.config import config_dir, register

ALGOS = sorted(file.stem for file in (config_dir() / "algo").glob("*.yaml"))

SMALL: dict[str, Any] = {
    "actor_layer_dims": [12],
    "critic_layer_dims": [12],
    "encoder_layer_dims": [12],
    "decoder_layer_dims": [12],
    "layer_dims": [12],
    "hidden_dim": 12,
    "feedforward_dim": 24,
    "embed_dim": 16,
    "dim": 16,
    "num_layers": 1,
    "num_encoder_layers": 1,
    "down_dims": [16, 32],
    "step_embed_dim": 8,
    "num_inference_steps": 3,
}


def composed(
    name: str, overrides: Sequence[str], small: dict[str, Any] | None = None
) -> DictConfig:
    """The run's configuration with `algo=name`; `small` adds to `SMALL`."""
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[f"algo={name}", *overrides])
    algo = OmegaConf.to_container(config.algo, resolve=False)
    with open_dict(config):
        config.name = name
        config.algo = shrunk(algo, SMALL | (small or {}))
    return config


def shrunk(node: Any, sizes: dict[str, Any]) -> Any:
    """The same tree with the sizes that it has replaced by those of their name."""
    if not isinstance(node, dict):
        return node
    return {
        key: sizes[key] if key in sizes and value is not None else shrunk(value, sizes)
        for key, value in node.items()
    }
