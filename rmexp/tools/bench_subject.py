"""What the benchmark trains: a data set, and algorithms that start from the same weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from rmexp import build
from rmexp.algo.base import Algo, Batch, Spec
from rmexp.data.dataset import Dataset
from rmexp.data.loader import Loader
from rmexp.loop import run_epoch
from rmexp.tools.bench_files import configuration

CPU = torch.device("cpu")
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all parts share."""

    folder: Path
    steps: int
    rounds: int
    image_mb: int
    reference: str | None


class Subject:
    """A data set, its training loader, and algorithms that start from the same weights."""

    def __init__(self, file: Path, overrides: list[str]) -> None:
        self.file = file
        self.config: DictConfig = configuration(file, overrides)
        self.dataset: Dataset = build.dataset(self.config)
        self.keys = build.algo_class(self.config).batch_keys
        self.loader: Loader = self.dataset.train_loader(
            batch_size=self.config.loop.batch_size, seed=0, keys=self.keys, device=CPU
        )
        self.batch: Batch = next(iter(self.loader))

    def fresh_algo(self) -> Algo:
        """Warmed up, so that the optimiser has its state."""
        spec = Spec(
            obs_shapes=build.network_shapes(self.dataset.obs_shapes),
            goal_shapes={},
            ac_dim=self.dataset.ac_dim,
            frame_stack=self.config.dataset.frame_stack,
            seq_length=self.config.dataset.seq_length,
            total_steps=1_000_000,
            seed=0,
        )
        algo = build.algo(self.config, spec, CPU)
        self.train(algo, WARM_UP)
        return algo

    def train(self, algo: Algo, steps: int) -> dict[str, float]:
        """The whole loop, this data set's batches included."""
        return run_epoch(algo, self.loader, 1, num_steps=steps)

    def update(self, algo: Algo, inputs: Batch, steps: int) -> None:
        """`steps` updates alone, on one batch that `algo` has processed."""
        for _ in range(steps):
            algo.train_on_batch(inputs, 1)
            algo.on_gradient_step()

    def job(
        self, cache_mode: str, *, algo: str | None = None, options: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The same for the reference: its batches, and with `algo` that algorithm of its.

        `options` maps its keys below `algo` to ours, from which their values are taken, or to the
        values themselves where they are no strings.
        """
        ours = OmegaConf.to_container(self.config.algo)
        assert isinstance(ours, dict)
        values = {k: ours[v] if isinstance(v, str) else v for k, v in (options or {}).items()}
        return {
            "file": str(self.file),
            "obs": {key: list(shape) for key, shape in self.dataset.obs_shapes.items()},
            "ac_dim": self.dataset.ac_dim,
            "dataset_keys": [k for k in self.keys if k in ("actions", "rewards", "dones")],
            "next_obs": "next_obs" in self.keys,
            "batch_size": self.config.loop.batch_size,
            "seq_length": self.config.dataset.seq_length,
            "cache_mode": cache_mode,
            "algo": algo,
            "options": values,
        }
