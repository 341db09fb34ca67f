"""Real processes, real signals: a resumed run equals one that was never stopped, bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import torch

from rmexp import checkpoint
from tests.command_line import TINY, rows, run_process, start, status

LONGER = [
    *(word for word in TINY if not word.startswith("loop.")),
    "loop.num_epochs=4",
    "loop.steps_per_epoch=1200",
    "loop.batch_size=7",
    "algo=bc_gmm",
    "algo/lr_schedule=cosine",
]


def wait_for_rows(run: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    metrics = run / "metrics.jsonl"
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = run_process([*LONGER, "hydra.run.dir=run"], folder)
    assert outcome.code == 0, outcome.text
    return folder / "run"


def assert_equal(run: Path, whole: Path) -> None:
    assert rows(run) == rows(whole)
    a, b = (checkpoint.load(path / "checkpoints" / "last.pt") for path in (run, whole))
    assert a["loader"] == b["loader"]
    assert a["selection"] == b["selection"]
    for key, value in b["algo"]["nets"].items():
        assert torch.equal(a["algo"]["nets"][key], value), key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "after_rows", "delay"),
    [(signal.SIGTERM, 1, 0.25), (signal.SIGINT, 2, 0.1), (signal.SIGUSR1, 0, 0.0)],
    ids=["SIGTERM", "SIGINT", "SIGUSR1"],
)
def test_a_signal_in_mid_epoch(
    whole: Path, tmp_path: Path, number: signal.Signals, after_rows: int, delay: float
) -> None:
    process = start([*LONGER, "hydra.run.dir=run"], tmp_path)
    run = tmp_path / "run"
    if after_rows:
        wait_for_rows(run, after_rows)
    else:  # while it is still building
        while not (run / "status.json").exists():
            time.sleep(0.02)
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, out + err
    assert f"stopped by {number.name}; go on with: python -m rmexp resume=" in err
    assert status(run)["state"] == "preempted"
    assert checkpoint.load(run / "checkpoints" / "last.pt")["epochs_done"] < 4
    resumed = run_process(["resume=run"], tmp_path)
    assert resumed.code == 0, resumed.text
    assert status(run)["state"] == "finished"
    assert_equal(run, whole)


@pytest.mark.slow
def test_a_killed_run(whole: Path, tmp_path: Path) -> None:
    process = start([*LONGER, "hydra.run.dir=run"], tmp_path)
    wait_for_rows(tmp_path / "run", 2)
    process.kill()
    process.communicate(timeout=60)
    resumed = run_process(["resume=run"], tmp_path)
    assert resumed.code == 0, resumed.text
    assert_equal(tmp_path / "run", whole)
