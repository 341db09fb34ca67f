"""Every algorithm of ours, driven by `run_epoch` from a plain `torch.utils.data.DataLoader`.

Its items are those of the reference's data set: no `pad_mask`, and double precision as HDF5 has it.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from rmexp import build
from rmexp.algo.base import Algo, Spec
from rmexp.loop import run_epoch
from tests.small_networks import ALGOS, composed

A, SHAPES = 3, {"object": (4,), "robot0_eef_pos": (3,)}
FILES = ["dataset=hdf5", "dataset.path=none", "rollout=none", "logging=none"]


class Windows(Dataset[dict[str, Any]]):
    def __init__(self, length: int, precision: str) -> None:
        self.length = length
        self.precision = precision

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng, n = np.random.default_rng(i), self.length
        obs = [{k: rng.normal(size=(n, *s)) for k, s in SHAPES.items()} for _ in range(2)]
        goal = {k: rng.normal(size=s) for k, s in SHAPES.items()}
        arrays: dict[str, Any] = {
            "obs": {k: v.astype(self.precision) for k, v in obs[0].items()},
            "next_obs": {k: v.astype(self.precision) for k, v in obs[1].items()},
            "goal_obs": {k: v.astype(self.precision) for k, v in goal.items()},
            "actions": rng.uniform(-1, 1, (n, A)).astype(self.precision),
            "rewards": rng.random(n).astype(self.precision),
            "dones": np.zeros(n, dtype=np.int64),
        }
        return arrays | {"index": i}


def built(name: str) -> Algo:
    config = composed(name, FILES)
    spec = Spec(
        obs_shapes=SHAPES,
        goal_shapes=SHAPES if config.dataset.goal_mode else {},
        ac_dim=A,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=6,
        seed=0,
    )
    return build.algo(config, spec, torch.device("cpu"))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("name", ALGOS)
def test_a_torch_dataloader_drives_it(name: str, precision: str) -> None:
    algo = built(name)
    windows = Windows(algo.spec.frame_stack - 1 + algo.spec.seq_length, precision)
    loader = DataLoader(windows, batch_size=4, shuffle=True)
    rows = [run_epoch(algo, loader, epoch) for epoch in (1, 2)]
    assert {optimizer.steps for optimizer in algo.optimizers.values()} & {6}
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert all(p.dtype == torch.float32 for p in algo.nets.parameters())

    before = copy.deepcopy(algo.serialize()["nets"])
    assert np.isfinite(run_epoch(algo, loader, 2, validate=True)["loss"])
    assert all(torch.equal(value, before[k]) for k, value in algo.serialize()["nets"].items())
