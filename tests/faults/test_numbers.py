"""Numbers that cannot lie: what is not finite stops the run by name, and no figure stands alone."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from rmexp import build, checkpoint
from rmexp.algo.base import Algo
from rmexp.metrics import EpochProgress, require_finite_state
from tests.command_line import GOLDEN, Outcome, run_here, status
from tests.faults.small_runs import SMALL, small, with_toy_arm

pytestmark = [pytest.mark.faults, pytest.mark.slow]
Run = Callable[..., Outcome]
RUN = Path("run")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """The small run of an algorithm, in this process."""
    monkeypatch.chdir(tmp_path)
    return lambda algo, *more: run_here(small(algo, *more), monkeypatch, capfd)


@pytest.fixture
def demos(tmp_path: Path) -> Path:
    """A copy of the small file, to be spoilt."""
    return Path(shutil.copy(GOLDEN / "tiny_lift.hdf5", tmp_path / "demos.hdf5"))


def array(file: h5py.File, key: str) -> h5py.Dataset:
    found = file[f"data/{key}"]
    assert isinstance(found, h5py.Dataset)
    return found


def demo_of(path: Path, split: str) -> str:
    with h5py.File(path) as file:
        names: Any = file[f"mask/{split}"]
        return names[-1].decode()


def spoil(path: Path, split: str, key: str, value: float, row: int = 2) -> str:
    """Put `value` into a demo of the split; returns the demo's name."""
    demo = demo_of(path, split)
    with h5py.File(path, "r+") as file:
        place = array(file, f"{demo}/{key}")
        place[row if place.ndim == 1 else (row, 1)] = value
    return demo


SPOILT = {
    "obs/object": np.nan,
    "obs/robot0_eef_pos": -np.inf,
    "actions": np.nan,
    "rewards": np.inf,
    "next_obs/object": np.nan,
}


@pytest.mark.parametrize(
    ("algo", "split", "keys"),
    [
        ("bc", "train", SPOILT),
        ("bc", "valid", SPOILT),
        ("td3_bc", "train", ["obs/object", "rewards"]),
        ("diffusion_policy", "valid", ["actions"]),
    ],
)
def test_data_that_are_not_finite_are_named(
    run: Run, demos: Path, tmp_path: Path, algo: str, split: str, keys: Iterable[str]
) -> None:
    for key in keys:
        shutil.copy(GOLDEN / "tiny_lift.hdf5", demos)
        demo = spoil(demos, split, key, SPOILT[key])
        outcome = run(algo, f"dataset.path={demos}", f"hydra.run.dir={key.replace('/', '-')}")
        assert outcome.code == 1
        place = "" if key == "rewards" else ", dimension 1"
        words = f"{demos}: {demo}/{key} is {SPOILT[key]} at row 2{place}"
        assert words in outcome.err, outcome.err
        assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize("algo", sorted(SMALL))
def test_a_learning_rate_that_bursts_the_loss(run: Run, algo: str) -> None:
    key = "critic_lr" if algo in ("td3_bc", "iql", "cql") else "lr"
    outcome = run(algo, f"algo.{key}=1e30", "loop.steps_per_epoch=4")
    assert outcome.code == 1
    assert re.search(
        r"error: epoch 1, training step [1-4]: not finite: .*(loss|grad_norm)", outcome.err
    ), outcome.err
    assert status(RUN)["state"] == "failed"
    assert not list(RUN.rglob("*.pt"))
    assert not (RUN / "metrics.jsonl").exists()


def burst(optimizer: str, at_step: int) -> Callable[..., Algo]:
    """`build.algo`, with a gradient that overflows from one step on while the loss stays."""
    real = build.algo

    def build_algo(*args: Any, **kwargs: Any) -> Algo:
        algo = real(*args, **kwargs)
        chosen = algo.optimizers[optimizer]

        def overflow(gradient: Tensor) -> Tensor:
            return gradient + (torch.inf if chosen.steps >= at_step else 0.0)

        chosen.parameters[0].register_hook(overflow)
        return algo

    return build_algo


@pytest.mark.parametrize(
    ("algo", "optimizer"),
    [
        *((algo, "actor") for algo in sorted(SMALL)),
        *(("td3_bc", "critic2"), ("iql", "value"), ("cql", "critic1")),
    ],
)
def test_a_gradient_that_overflows_under_a_finite_loss(
    run: Run, monkeypatch: pytest.MonkeyPatch, algo: str, optimizer: str
) -> None:
    monkeypatch.setattr(build, "algo", burst(optimizer, at_step=4))
    outcome = run(algo, "loop.num_epochs=3")
    assert outcome.code == 1
    found = re.search(r"error: epoch 2, training step [23]: not finite: (.*)", outcome.err)
    assert found, outcome.err
    assert f"{optimizer}_grad_norm" in found[1].split(", ")
    last = checkpoint.load(RUN / "checkpoints" / "last.pt")
    assert (last["epochs_done"], last["progress"]["batch_sizes"]) == (1, [])
    require_finite_state(last["algo"], "the last good state")
    assert len((RUN / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_last_step_that_ruins_the_weights_is_not_saved(run: Run) -> None:
    """The loss and the gradient of that step were finite, and there is no next one in the epoch."""
    outcome = run("bc", "algo.lr=1e39", "loop.steps_per_epoch=1", "loop.validate_every=0")
    assert outcome.code == 1
    assert re.search(
        r"error: after epoch 1, step 1: not finite: nets\.actor\.\S+, .* and \d+ more", outcome.err
    ), outcome.err
    assert not list(RUN.rglob("*.pt"))


def test_a_loss_that_overflows_in_validation_only(run: Run, demos: Path) -> None:
    spoil(demos, "valid", "rewards", 1e38)
    outcome = run("td3_bc", f"dataset.path={demos}")
    assert outcome.code == 1
    assert re.search(r"error: epoch 1, validation step \d: not finite: loss", outcome.err)
    assert status(RUN)["state"] == "failed"


def test_the_epoch_is_not_read_step_by_step() -> None:
    """A tensor without values cannot be read: adding one proves that adding reads nothing."""
    progress = EpochProgress()
    for _ in range(3):
        progress.add({"loss": torch.zeros((), device="meta")}, 4)
    assert progress.steps == 3


def test_a_dimension_that_never_changes_is_reported(run: Run, demos: Path) -> None:
    with h5py.File(demos, "r+") as file:
        for demo in file["data"]:  # pyright: ignore[reportGeneralTypeIssues]
            array(file, f"{demo}/actions")[:, 3] = 0.25
    outcome = run("bc", f"dataset.path={demos}")
    assert outcome.code == 0
    assert "note: constant dimensions in actions of the training split: actions [3]" in outcome.err


def test_training_episodes_in_the_validation_split_are_an_error(run: Run, demos: Path) -> None:
    outcome = run("bc", f"dataset.path={demos}", "dataset.valid_filter=train")
    assert outcome.code == 1
    assert "filter keys 'train' and 'train' share 4 demos" in outcome.err
    train, valid = demo_of(demos, "train"), demo_of(demos, "valid")
    with h5py.File(demos, "r+") as file:
        del file[f"data/{valid}"]
        file.copy(f"data/{train}", f"data/{valid}")
    outcome = run("bc", f"dataset.path={demos}")
    assert outcome.code == 1
    words = f"{valid} of the validation split equals {train} of the training split"
    assert words in outcome.err, outcome.err


RATE = re.compile(r"\d %")
WHOLE_RATE = re.compile(r"\d+(\.\d)? % \[\d+(\.\d)?, \d+(\.\d)?\] n=\d+")


def test_no_success_rate_without_interval_and_number(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = with_toy_arm(monkeypatch)
    sweep = ["-m", "hydra.sweep.dir=sweep", "rollout.num_envs=1"]
    outcome = run("bc", *rollouts, *sweep)
    assert outcome.code == 0, outcome.text
    told = [line for line in outcome.text.splitlines() if RATE.search(line)]
    assert len(told) >= 5, outcome.text  # two epochs, the best one, the final one, the sweep's
    assert [line for line in told if not WHOLE_RATE.search(line)] == []
    assert re.search(r"finished .* objective \d+\.\d % \[", outcome.text)
    (metrics,) = Path("sweep").rglob("metrics.jsonl")
    for row in (json.loads(line) for line in metrics.read_text().splitlines()):
        for key in [key for key in row if key.endswith("/success_rate")]:
            place = key.removesuffix("success_rate")
            beside = {"success_rate_low", "success_rate_high", "num_episodes"}
            assert {f"{place}{name}" for name in beside} <= row.keys()


def test_timings_sum_to_the_epoch(run: Run) -> None:
    outcome = run("td3_bc", "loop.steps_per_epoch=40", "loop.num_epochs=3")
    assert outcome.code == 0, outcome.text
    parts = ("data_loading", "process_batch", "train_batch", "log_info")
    lines = (RUN / "metrics.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        for phase in ("train", "valid"):
            total = sum(row[f"time/{phase}/{part}_s"] for part in parts)
            assert total == pytest.approx(row[f"time/{phase}/epoch_s"], rel=0.02)
