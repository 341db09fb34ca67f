"""Every algorithm of `conf/algo`, stopped by a signal in mid-epoch and resumed: not a bit differs.

Weights, optimisers, schedules, averages, targets, counters, temperatures, generators and the record
of the run. An algorithm that is added is tested without a word here.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, open_dict

from rmexp import checkpoint, experiment
from rmexp.interrupt import Interrupt
from rmexp.run_dir import resumed_config
from tests.command_line import rows, status
from tests.small_networks import ALGOS, composed

EPOCHS, STEPS, STOP_AFTER = 3, 5, 8
RUN = [
    "dataset=hdf5",
    "dataset.path=tiny_lift.hdf5",
    "dataset.train_filter=train",
    "dataset.valid_filter=valid",
    "rollout=none",
    "logging=none",
    f"loop.num_epochs={EPOCHS}",
    f"loop.steps_per_epoch={STEPS}",
    "loop.batch_size=7",
    "loop.validate_every=2",
]
SCHEDULES: list[dict[str, Any]] = [
    {"_target_": "rmexp.algo.optim.Cosine", "warmup_steps": 2, "num_cycles": 0.5},
    {"_target_": "rmexp.algo.optim.Linear", "num_epochs": 2, "decay_factor": 0.1},
    {"_target_": "rmexp.algo.optim.MultiStep", "epochs": [1, 2], "decay_factor": 0.5},
]
"""Of the first, second and third schedule of an algorithm: by steps, and by epochs in two ways."""


def configuration(name: str, golden: Path) -> DictConfig:
    config = composed(name, RUN)
    with open_dict(config):
        config.dataset.path = str(golden / "tiny_lift.hdf5")
        _reschedule(config.algo, iter(SCHEDULES * 3))
    return config


def _reschedule(node: DictConfig, schedules: Any) -> None:
    for key in node:
        if str(key).endswith("lr_schedule"):
            node[key] = next(schedules)
        elif isinstance(node.get(key), DictConfig):
            _reschedule(node[key], schedules)


def run(config: DictConfig, path: Path, *, resume: bool = False) -> None:
    """A run as the command line starts it, from global generators that a process may start with."""
    random.seed(len(str(path)))
    np.random.seed(resume)  # noqa: NPY002 - to show that it has no influence
    torch.manual_seed(resume)
    path.mkdir(exist_ok=True)  # as Hydra does
    experiment.run(config, path, overrides=[], group=None, resume=resume)


class StoppedAtOneStep(Interrupt):
    """A process to which a signal comes after STOP_AFTER chances to stop: in the second epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.checks = 0

    def check(self) -> None:
        self.checks += 1
        if self.checks > STOP_AFTER:
            signal.raise_signal(signal.SIGUSR1)
        super().check()


def differences(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two checkpoints are not the same, bit for bit."""
    if type(a) is not type(b):
        return [f"{place}: {type(a)} and {type(b)}"]
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return [f"{place}: {sorted(a.keys() ^ b.keys())}"]
        return [line for key in a for line in differences(a[key], b[key], f"{place}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{place}: {len(a)} and {len(b)} items"]
        pairs = enumerate(zip(a, b, strict=True))
        return [line for i, pair in pairs for line in differences(*pair, f"{place}/{i}")]
    if isinstance(a, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]
    return [] if a == b else [place]


def test_every_file_of_the_folder_is_tested() -> None:
    assert {"bc", "bc_rnn_gmm", "diffusion_policy", "act", "td3_bc", "cql"} <= set(ALGOS)


@pytest.mark.parametrize("name", ALGOS)
def test_a_resumed_run_ends_with_the_same_bits(
    name: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(name, golden)
    run(config, tmp_path / "whole")
    whole = checkpoint.load(tmp_path / "whole" / "checkpoints" / "last.pt")

    stopped = tmp_path / "stopped"
    with monkeypatch.context() as patched:
        patched.setattr(experiment, "Interrupt", StoppedAtOneStep)
        with pytest.raises(SystemExit) as stop:
            run(config, stopped)
    assert stop.value.code == 128 + signal.SIGUSR1
    assert status(stopped)["state"] == "preempted"
    halfway = checkpoint.load(stopped / "checkpoints" / "last.pt")
    assert halfway["epochs_done"] == 1
    assert STEPS < halfway["global_step"] < 2 * STEPS

    run(resumed_config(stopped, [], config), stopped, resume=True)
    resumed = checkpoint.load(stopped / "checkpoints" / "last.pt")
    assert resumed["global_step"] == EPOCHS * STEPS
    assert not differences(resumed, whole)
    assert rows(stopped) == rows(tmp_path / "whole")
    assert status(stopped)["objective"] == status(tmp_path / "whole")["objective"]

    # What is compared did move after the stop, generators included.
    moved = differences(halfway["algo"], whole["algo"])
    assert any(place.startswith("/nets/") for place in moved)
    assert any(place.startswith("/optimizers/") for place in moved)
    rates = {key: [row[key] for row in rows(stopped)] for key in rows(stopped)[0] if "_lr" in key}
    assert any(len(set(values)) > 1 for values in rates.values()), rates
