"""The main job with the real simulator and the real W&B SDK, small enough for every commit."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import TESTS, Outcome, rows, run_process, start, status
from tests.loggers.wandb_file import finished

LIFT = [
    "algo=bc",
    "dataset=lift",
    "algo.lr=1e-3",
    "algo.actor_layer_dims=[256,256]",
    "loop.num_epochs=2",
    "loop.steps_per_epoch=250",
    "loop.rollout_every=1",
    "rollout.num_episodes=4",
    "rollout.final_episodes=3",
    "rollout.horizon=45",
    "rollout.video_episodes=1",
    "rollout.video_size=64",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.sim,
    pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="needs the sim extra"),
]


def evaluate(arguments: list[str], cwd: Path) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "rmexp.evaluate", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lift")
    outcome = run_process([*LIFT, "hydra.run.dir=run"], folder)
    assert outcome.code == 0, outcome.text
    for word in ("final success", "max over epochs", "n=3", "n=4", "wandb sync", "resume="):
        assert word in outcome.out, outcome.out
    return folder / "run"


def test_rates_carry_their_interval(run: Path) -> None:
    first, second, final = rows(run)
    for row in (first, second):
        rate, low, high = (row[f"rollout/Lift/success_rate{end}"] for end in ("", "_low", "_high"))
        assert 0.0 <= low <= rate <= high <= 1.0
        assert row["rollout/Lift/num_episodes"] == 4
    assert final.keys() >= {"rollout/final/success_rate", "rollout/final/length_mean"}
    assert status(run)["state"] == "finished"
    assert status(run)["objective"] == final["rollout/final/success_rate"]


def test_an_evaluation_repeats_what_the_training_reported(run: Path) -> None:
    best = max(rows(run)[:2], key=lambda row: row["rollout/Lift/success_rate"])
    final = rows(run)[2]
    cases: list[tuple[list[str], dict[str, Any], str]] = [
        (["n=4", "seed=1000000", "num_envs=1"], best, "rollout/Lift"),
        (["num_envs=3"], final, "rollout/final"),
    ]
    for arguments, row, place in cases:
        outcome = evaluate([f"checkpoint={run}", *arguments, "out=episodes.json"], run)
        assert outcome.code == 0, outcome.text
        metrics = json.loads((run / "episodes.json").read_text())["metrics"]
        for name in ("success_rate", "success_rate_low", "return_mean", "length_mean"):
            assert metrics[name] == row[f"{place}/{name}"]


def test_wandb_holds_what_the_record_holds(run: Path) -> None:
    (directory,) = run.glob("wandb/offline-run-*")
    file = finished(directory)
    recorded = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert file.rows() == recorded
    media = {key for row in file.all_history() for key in row} - {k for r in recorded for k in r}
    assert any("video" in key for key in media)
    assert any("success_curve" in key for key in media)
    assert file.config["algo"]["lr"] == 1e-3
    assert file.exit_code == 0


def test_a_signal_in_mid_rollout(run: Path, tmp_path: Path) -> None:
    process = start([*LIFT, "hydra.run.dir=run", "logging=none", "rollout.num_envs=1"], tmp_path)
    here = tmp_path / "run"
    deadline = time.monotonic() + 90
    while not (here / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1.5)  # the second epoch takes less than that; then it rolls out
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, out + err
    resumed = run_process(["resume=run"], tmp_path)
    assert resumed.code == 0, resumed.text
    assert rows(here) == rows(run)
    assert math.isclose(status(here)["objective"], status(run)["objective"])
