"""robomimic's own loop and batches, timed on request, for `rmexp.tools.bench` to compare with.

It runs under another interpreter, one with robomimic and without rmexp, so it stands alone. The
first argument is the job (JSON). Each line on stdin asks for a block: "loop 100" is its run_epoch,
"data 100" its batches alone, "update 100" train_on_batch alone; each answer is one line of JSON.
Seconds are those of the processor, as in `rmexp.tools.bench`.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import inspect
import json
import os
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

# Imported at robomimic's top level, used for pictures and installers only.
UNUSED = ("torchvision", "matplotlib", "egl_probe")


class _Placeholder(types.ModuleType):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Placeholders:
    """Asked last of all finders: stands in for a module of `UNUSED` that is not installed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        known = name.partition(".")[0] in UNUSED
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None  # pyright: ignore[reportArgumentType]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Placeholder(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # robomimic prints
    job = json.loads(sys.argv[1])
    sys.meta_path.append(_Placeholders())  # pyright: ignore[reportArgumentType]
    import torch

    torch.set_num_threads(1)
    import robomimic

    config = _config(job)
    loader = _loader(job, config)
    model = _model(job, config) if job["algo"] else None
    versions = {"robomimic": robomimic.__version__, "torch": torch.__version__}
    answers.write(json.dumps({"versions": versions, "batches": len(loader)}) + "\n")
    for line in sys.stdin:
        what, steps = line.split()
        run = {"loop": _epoch, "data": _batches, "update": _updates}[what]
        wall, cpu = time.perf_counter(), time.process_time()
        run(model, loader, int(steps))
        seconds = {
            "cpu_s": time.process_time() - cpu,
            "wall_s": time.perf_counter() - wall,
        }
        answers.write(json.dumps(seconds) + "\n")


def _config(job: dict[str, Any]) -> Any:
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.config import config_factory

    importlib.import_module("robomimic.algo")  # its networks register themselves
    config = config_factory(job["algo"] or "bc")
    with config.values_unlocked():
        modalities = config.observation.modalities.obs
        modalities.low_dim = [key for key, shape in job["obs"].items() if len(shape) == 1]
        modalities.rgb = [key for key, shape in job["obs"].items() if len(shape) == 3]
        for name, value in job["options"].items():
            *path, last = name.split(".")
            functools.reduce(getattr, path, config.algo)[last] = value
        config.train.batch_size = job["batch_size"]
        config.train.seq_length = job["seq_length"]
    obs_utils.initialize_obs_utils_with_config(config)
    return config


def _loader(job: dict[str, Any], config: Any) -> Any:
    """Its data set as its training script makes it, reading no more keys than rmexp does."""
    from robomimic.utils.dataset import SequenceDataset
    from torch.utils.data import DataLoader

    values: dict[str, Any] = {
        "hdf5_path": job["file"],
        "obs_keys": tuple(job["obs"]),
        "dataset_keys": tuple(job["dataset_keys"]),
        "frame_stack": 1,
        "seq_length": job["seq_length"],
        "pad_frame_stack": True,
        "pad_seq_length": True,
        "goal_mode": None,
        "hdf5_cache_mode": job["cache_mode"],
        "hdf5_use_swmr": True,
        "hdf5_normalize_obs": False,
        "filter_by_attribute": "train",
        "load_next_obs": job["next_obs"],
        # Of later versions.
        "action_keys": ("actions",),
        "action_config": {"actions": {"normalization": None}},
        "ac_key": "actions",
    }
    accepted = inspect.signature(SequenceDataset).parameters
    dataset = SequenceDataset(**{name: v for name, v in values.items() if name in accepted})
    return DataLoader(
        dataset=dataset,
        batch_size=config.train.batch_size,
        shuffle=True,
        num_workers=0,
        drop_last=True,
    )


def _model(job: dict[str, Any], config: Any) -> Any:
    import torch
    from robomimic.algo import algo_factory

    return algo_factory(
        algo_name=job["algo"],
        config=config,
        obs_key_shapes=job["obs"],
        ac_dim=job["ac_dim"],
        device=torch.device("cpu"),
    )


def _epoch(model: Any, loader: Any, steps: int) -> None:
    import robomimic.utils.train_utils as train_utils

    train_utils.run_epoch(model=model, data_loader=loader, epoch=1, num_steps=steps)


def _batches(model: Any, loader: Any, steps: int) -> None:
    iterator = iter(loader)
    for _ in range(steps):
        if next(iterator, None) is None:
            iterator = iter(loader)
            next(iterator)


def _updates(model: Any, loader: Any, steps: int) -> None:
    batch = _one_batch(model, loader)
    model.set_train()
    for _ in range(steps):
        model.train_on_batch(batch, epoch=1, validate=False)


@functools.cache
def _one_batch(model: Any, loader: Any) -> Any:
    batch = model.process_batch_for_training(next(iter(loader)))
    return model.postprocess_batch_for_training(batch, obs_normalization_stats=None)


if __name__ == "__main__":
    main()
