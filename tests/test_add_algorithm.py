"""Somebody else's algorithm is two files, neither of them in this package, and trains like ours."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
import pytest

from rmexp.errors import CheckpointError
from rmexp.policy import Policy
from tests.command_line import GOLDEN, rows, run_process, status

ALGORITHM = '''
    """Least squares with a ridge, from all observations to the action."""

    import torch
    from torch import nn

    from rmexp.algo.base import Algo
    from rmexp.algo.optim import Optimizer, Schedule


    class Ridge(Algo):
        batch_keys = ("obs", "actions")

        def __init__(
            self, *, ridge: float, lr: float, lr_schedule: Schedule, spec, device: torch.device
        ) -> None:
            super().__init__(spec, device)
            self.ridge = ridge
            width = sum(shape[0] for shape in spec.obs_shapes.values())
            self.nets["actor"] = nn.Linear(width, spec.ac_dim).to(device)
            self.optimizers["actor"] = Optimizer(
                self.nets.parameters(),
                name="adam",
                lr=lr,
                l2_regularization=0.0,
                max_grad_norm=None,
                schedule=lr_schedule,
                total_steps=spec.total_steps,
            )

        def process_batch_for_training(self, batch):
            obs = {key: batch["obs"][key][:, 0] for key in self.spec.obs_shapes}
            return {"obs": obs, "actions": batch["actions"][:, 0]}

        def train_on_batch(self, batch, epoch, validate=False):
            error = (self._act(batch["obs"]) - batch["actions"]).square().mean()
            info = {"loss": error + self.ridge * self.nets["actor"].weight.square().sum()}
            if not validate:
                info["actor_grad_norm"] = self.optimizers["actor"].step(info["loss"])
            return info

        def get_action(self, obs_dict, goal_dict=None, *, draws=None, envs=None):
            return self._act(obs_dict).clamp(-1.0, 1.0)

        def reset(self, envs=None) -> None:
            pass

        def _act(self, obs):
            return self.nets["actor"](torch.cat([obs[key] for key in sorted(obs)], -1))
'''
NUMBERS = """
    # Least squares with a ridge.
    defaults:
      - lr_schedule: constant
      - _self_

    _target_: my_lab.Ridge
    ridge: 1.0e-3   # weight of the squared weights
    lr: 1.0e-2      # learning rate before any schedule
"""
RUN = [
    "--config-dir=configs",
    "algo=ridge",
    "algo/lr_schedule=cosine",
    "algo.lr_schedule.warmup_steps=2",
    "dataset=hdf5",
    f"dataset.path={GOLDEN / 'tiny_lift.hdf5'}",
    "dataset.train_filter=train",
    "dataset.valid_filter=valid",
    "rollout=none",
    "logging=none",
    "loop.num_epochs=3",
    "loop.steps_per_epoch=20",
    "loop.batch_size=7",
    "hydra.run.dir=run",
]


@pytest.mark.slow
def test_two_files_are_an_algorithm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs" / "algo").mkdir(parents=True)
    (tmp_path / "my_lab.py").write_text(textwrap.dedent(ALGORITHM))
    (tmp_path / "configs" / "algo" / "ridge.yaml").write_text(textwrap.dedent(NUMBERS))
    assert sum(path.is_file() for path in tmp_path.rglob("*")) == 2

    outcome = run_process(RUN, tmp_path)  # `python -m` has the working directory on its path
    assert outcome.code == 0, outcome.text
    run = tmp_path / "run"
    assert status(run)["state"] == "finished"
    first, *_, last = rows(run)
    assert last["train/loss"] < 0.7 * first["train/loss"]
    assert {"valid/loss", "train/actor_grad_norm", "optimizer/actor_lr"} <= last.keys()

    monkeypatch.setenv("RMEXP_CONFIG_DIR", str(tmp_path / "configs"))  # the other way to say it
    misspelt = run_process([*RUN[1:-1], "algo.ridg=2", "hydra.run.dir=other"], tmp_path)
    assert misspelt.code == 1
    assert "did you mean 'algo.ridge'" in misspelt.err
    assert run_process([*RUN[1:-1], "hydra.run.dir=other"], tmp_path).code == 0

    checkpoint = run / "checkpoints" / "best.pt"
    with pytest.raises(CheckpointError, match=r"algo\._target_ .* add trust=\[my_lab\.Ridge\]"):
        Policy.load(checkpoint)
    monkeypatch.syspath_prepend(tmp_path)
    policy = Policy.load(checkpoint, trust=["my_lab.Ridge"])
    policy.reset(0, seed=0)
    shapes = policy.algo.spec.obs_shapes
    action = policy.act({k: np.full((1, *s), 0.1, np.float32) for k, s in shapes.items()}, [0])
    assert action.shape == (1, 7)
    assert np.abs(action).max() > 0
