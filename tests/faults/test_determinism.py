"""The same command gives the same weights, bit for bit, whatever else a run is told to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import Outcome, rows, run_here, start
from tests.faults.small_runs import small, with_toy_arm
from tests.faults.weights import weights_sha256

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]
ALGOS = ["bc_gmm", "bc_transformer", "diffusion_policy", "td3_bc"]
"""A head that samples, dropout (which draws from torch's own generator), noise with an average
of the weights, and noise with delayed updates."""
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run in this process, in a folder of its own; the hash of all that trains."""
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HOME", str(tmp_path))
    numbers = iter(range(100))

    def run(algo: str, *more: str) -> str:
        folder = tmp_path / f"{next(numbers)}"
        folder.mkdir()
        monkeypatch.chdir(folder)
        outcome: Outcome = run_here(small(algo, *more), monkeypatch, capfd)
        assert outcome.code == 0, outcome.text
        assert len(rows(folder / "run")) >= 2
        return weights_sha256(folder / "run")

    return run


@pytest.mark.parametrize("algo", ALGOS)
def test_what_watches_a_run_does_not_change_it(run: Run, algo: str) -> None:
    plain = run(algo)
    assert run(algo) == plain
    assert run(algo, "seed=1") != plain
    varied = {
        "W&B offline": ["logging=wandb", "logging.wandb.mode=offline"],
        "TensorBoard": ["logging=tensorboard"],
        "no validation": ["loop.validate_every=0"],
        "validation on one batch": ["loop.valid_steps=1"],
        "fewer checkpoints": ["loop.save_last_every=2"],
        "deterministic": ["deterministic=true"],
    }
    different = [name for name, words in varied.items() if run(algo, *words) != plain]
    assert different == []


def test_neither_do_rollouts_in_any_number_of_simulators(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = run("diffusion_policy")
    rollouts = with_toy_arm(monkeypatch)
    for num_envs in (1, 2):
        assert run("diffusion_policy", *rollouts, f"rollout.num_envs={num_envs}") == plain
    one, two = (rows(tmp_path / folder / "run") for folder in "12")
    assert one == two
    assert len([row for row in one if "rollout/ToyArm/success_rate" in row]) == 2


def test_processes_agree_whatever_their_hash_seed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PYTHONHASHSEED", seed)
        folder = tmp_path / f"hash{seed}"
        folder.mkdir()
        started.append((folder, start(small("td3_bc"), folder)))
    found: set[str] = set()
    for folder, process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
        found.add(weights_sha256(folder / "run"))
    assert os.environ["PYTHONHASHSEED"] == "2"
    assert found == {run("td3_bc")}
