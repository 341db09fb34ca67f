"""Killed while data are made for the first time: decoded images, recorded demonstrations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from signal import SIG_DFL, SIGINT, SIGKILL, SIGTERM, Signals, signal
from typing import Any

import pytest
import torch

from rmexp.data.dataset import Dataset
from tests.command_line import TESTS
from tests.data.demo_files import dataset_opener, demo_writer
from tests.faults.campaign import Tally
from tests.faults.training import Fault, call

pytestmark = [pytest.mark.faults, pytest.mark.slow]

IMAGES = {"cam": (6, 4, 3)}
MAPPED = {"obs_keys": ["cam"], "placement": "mmap"}


def everything(dataset: Dataset) -> dict[str, Any]:
    (batch,) = dataset.train_loader(
        batch_size=1000, seed=0, keys=["obs", "next_obs", "actions"], device=torch.device("cpu")
    )
    return batch


def open_images(folder: Path, path: Path) -> None:
    everything(dataset_opener(folder)(path, **MAPPED))


def test_the_image_cache_killed_at_every_file_operation(tmp_path: Path, tally: Tally) -> None:
    path = demo_writer(tmp_path)((4, 6), images=IMAGES, image_options={"compression": "gzip"})
    ram = everything(dataset_opener(tmp_path)(path, obs_keys=["cam"], placement="ram"))
    for number in range(1, 100):
        folder = tmp_path / f"run{number}"
        folder.mkdir()
        fault = Fault("file", number)
        ended = call(open_images, (folder, path), folder, fault)
        mapped = everything(dataset_opener(folder)(path, **MAPPED))
        for group in ("obs", "next_obs"):
            assert torch.equal(mapped[group]["cam"], ram[group]["cam"]), number
        if ended == 0:
            break
        assert ended == -SIGKILL
        tally.add([fault])
        tally.resumed += 1
    assert tally.kills >= 5


GENERATE = [sys.executable, "-m", "rmexp.tools.generate", "task=lift", "n=12", "num_workers=2"]


def generating(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*GENERATE, f"out={out}"],
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal(SIGINT, SIG_DFL),  # whatever this process heeds
    )


@pytest.mark.sim
@pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="needs the sim extra")
def test_recording_killed_again_and_again(tmp_path: Path, tally: Tally) -> None:
    """Each time when one more episode is done, and the first time before there is any."""
    whole = generating(tmp_path / "whole.hdf5")
    out = tmp_path / "killed.hdf5"
    partial = tmp_path / "killed.hdf5.partial"
    kinds: list[Signals] = [SIGKILL, SIGTERM, SIGINT]
    for number, signum in enumerate(kinds):
        done = len(list(partial.glob("episode_*.npz")))
        process = generating(out)
        deadline = time.monotonic() + 100
        while (
            len(list(partial.glob("episode_*.npz"))) < done + (number > 0) or not partial.exists()
        ):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(signum)
        text = "".join(process.communicate(timeout=60))
        assert process.returncode in (-signum, 130), text
        tally.add([Fault("file", done, signum=signum)])
    text = "".join(whole.communicate(timeout=100))
    assert whole.returncode == 0, text
    last = generating(out)
    text = "".join(last.communicate(timeout=100))
    assert last.returncode == 0, text
    assert out.read_bytes() == (tmp_path / "whole.hdf5").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"whole.hdf5", "killed.hdf5"}
    tally.resumed += len(kinds)
