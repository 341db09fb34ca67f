"""An update can be read: how many functions, in how many files, `train_on_batch` leads through.

Counted is what a reader opens who follows one training step line by line: every function of the
project that is called between entering `train_on_batch` and leaving it, however deep, once each;
networks included. A lambda or comprehension belongs to the function it stands in.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from torch.utils._python_dispatch import TorchDispatchMode

import rmexp
from rmexp import build
from rmexp.algo.base import Algo, Batch, Spec
from rmexp.config import config_dir, register

PROJECT = str(Path(rmexp.__file__).parent)
ALGOS = sorted(file.stem for file in (config_dir() / "algo").glob("*.yaml"))
SMALL = {
    "backbone.down_dims": [16, 32],
    "backbone.num_layers": 1,
    "feedforward_dim": 48,
    "hidden_dim": 48,
    "num_layers": 1,
}
"""Sizes that make a network quick; each is set where an algorithm has it."""

SHAPES = {"object": (10,), "pose": (5,)}
B, A = 4, 7


def test_prints() -> None:
    for name in ALGOS:
        algo, batch = prepared(name)
        algo.train_on_batch(batch, epoch=1)
        f = functions_of_an_update(algo, batch)
        names = sorted({(c.co_filename[len(PROJECT) + 1 :], c.co_qualname) for c in f})
        print(name, len(names), len({n[0] for n in names}))
        for n in names:
            print("    ", *n)


def prepared(name: str) -> tuple[Algo, Batch]:
    """The algorithm as the command line builds it, and a batch that it has processed."""
    config = composed(name)
    spec = Spec(
        obs_shapes=SHAPES,
        goal_shapes=SHAPES if config.dataset.goal_mode else {},
        ac_dim=A,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=10,
        seed=0,
    )
    algo = build.algo(config, spec, torch.device("cpu"))
    algo.set_train()
    batch = algo.process_batch_for_training(window(algo))
    return algo, algo.postprocess_batch_for_training(batch)


def composed(name: str) -> DictConfig:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        chosen = ["dataset=hdf5", "dataset.path=none", "rollout=none", "logging=none", "name=x"]
        config = compose("config", overrides=[f"algo={name}", *chosen])
    for key, value in SMALL.items():
        if OmegaConf.select(config.algo, key) is not None:
            OmegaConf.update(config.algo, key, value)
    return config


def window(algo: Algo) -> dict[str, Any]:
    """A batch as a loader hands it out."""
    time = algo.spec.frame_stack - 1 + algo.spec.seq_length
    batch = {
        "obs": {key: torch.randn(B, time, *shape) for key, shape in SHAPES.items()},
        "next_obs": {key: torch.randn(B, time, *shape) for key, shape in SHAPES.items()},
        "goal_obs": {key: torch.randn(B, *shape) for key, shape in SHAPES.items()},
        "actions": torch.rand(B, time, A) * 2 - 1,
        "rewards": torch.rand(B, time),
        "dones": torch.zeros(B, time),
        "pad_mask": torch.ones(B, time, 1, dtype=torch.bool),
        "index": torch.arange(B),
    }
    return {key: batch[key] for key in algo.batch_keys}


def functions_of_an_update(algo: Algo, batch: Batch) -> set[CodeType]:
    called: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(PROJECT) and code.co_name[0] != "<":
            called.add(code)

    sys.setprofile(note)
    try:
        algo.train_on_batch(batch, epoch=1)
    finally:
        sys.setprofile(None)
    return called
