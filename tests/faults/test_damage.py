"""A checkpoint whose bytes have changed is never taken for one that is whole."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp import checkpoint
from rmexp.errors import CheckpointError
from tests.command_line import rows, status
from tests.faults.campaign import AGAIN, QUIET, TINY, Whole, same, whole_run
from tests.faults.training import train

pytestmark = pytest.mark.faults

CONTENT: dict[str, Any] = {
    "weights": torch.arange(700.0),
    "config": {"a": [1, 2.5, "x", None, True]},
    "random": torch.get_rng_state(),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    arguments = [*TINY, *QUIET, "algo=bc", "algo.actor_layer_dims=[16]"]
    return whole_run(arguments, tmp_path_factory.mktemp("damage") / "whole")


@pytest.fixture
def folder(whole: Whole, tmp_path: Path) -> Path:
    """A copy of the whole run, as if it had been stopped after its last save."""
    shutil.copytree(whole.run, tmp_path / "copy" / "run")
    return tmp_path / "copy"


def test_every_flipped_bit_is_noticed(tmp_path: Path, fault_rounds: int) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENT)
    data = path.read_bytes()
    draws = random.Random(0)
    places = [draws.randrange(8 * len(data)) for _ in range(100 * fault_rounds)]
    ends = [*range(8 * 40), *range(8 * (len(data) - 120), 8 * len(data))]  # head, directory, seal
    for bit in places + ends:
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedError, match=r"a\.pt: damaged"):
            checkpoint.load(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.999])
def test_every_truncation_is_noticed(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    checkpoint.save(path, CONTENT)
    data = path.read_bytes()
    for damaged in (data[: int(len(data) * share)], data + b"\0", data[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedError, match=r"a\.pt: damaged"):
            checkpoint.load(path)


def test_a_sealed_file_is_a_plain_file_of_torch(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", CONTENT)
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(content["weights"], CONTENT["weights"])


def test_files_from_before_the_seal_are_read(tmp_path: Path) -> None:
    torch.save({**CONTENT, "format": 1}, tmp_path / "old.pt")
    assert checkpoint.load(tmp_path / "old.pt")["config"] == CONTENT["config"]
    torch.save({**CONTENT, "format": 2}, tmp_path / "stripped.pt")
    with pytest.raises(CheckpointError, match=r"stripped\.pt: damaged: its checksum is missing"):
        checkpoint.load(tmp_path / "stripped.pt")


def damage(path: Path) -> None:
    """In a file of its own: other names of it keep the good bytes."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["flipped", "truncated", "lost"])
def test_the_checkpoint_before_it_is_used(whole: Whole, folder: Path, how: str) -> None:
    last = folder / "run" / "checkpoints" / "last.pt"
    if how == "flipped":
        damage(last)
    elif how == "truncated":
        size = last.stat().st_size // 2
        last.write_bytes(last.read_bytes()[:size])
    else:
        last.unlink()
    outcome = train([AGAIN], folder)
    assert outcome.code == 0, outcome.text
    assert ("no such checkpoint" if how == "lost" else "last.pt: damaged") in outcome.text
    assert "Going on from the checkpoint before it, previous.pt" in outcome.text
    assert "resumed after epoch 3" in outcome.text
    same(folder / "run", whole.run)


@pytest.mark.slow
def test_without_a_good_checkpoint_nothing_is_touched(folder: Path) -> None:
    run = folder / "run"
    for name in ("last.pt", "previous.pt"):
        damage(run / "checkpoints" / name)
    before = rows(run)
    outcome = train([AGAIN], folder)
    assert outcome.code == 1
    assert "last.pt: damaged: its checksum does not fit its bytes" in outcome.text
    command = next(line for line in outcome.text.splitlines() if line.startswith("  cp "))
    assert rows(run) == before
    _, source, target = command.split()
    shutil.copy(source, target)
    outcome = train([AGAIN], folder)
    assert outcome.code == 0, outcome.text
    assert rows(run) == before
    assert status(run)["state"] == "finished"
