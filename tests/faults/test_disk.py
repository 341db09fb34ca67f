"""A full or read-only disk: a clear error, nothing lost, and on once it is mended."""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path

import pytest

from rmexp import checkpoint
from tests.command_line import rows, status
from tests.faults.campaign import (
    AGAIN,
    NEW,
    QUIET,
    ROLLOUTS,
    TINY,
    Whole,
    go_on,
    same,
    whole_run,
)
from tests.faults.mounts import mounted, seen_by
from tests.faults.training import NONE, Fault, World, train

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SMALL = [*TINY, "algo=bc", "algo.actor_layer_dims=[16]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_run([*SMALL, *QUIET], tmp_path_factory.mktemp("disk") / "whole")


FULL = {
    "the configuration": ("RunDirectory.write_config", 1, 0, "config.yaml"),
    "the first row": ("JsonlRecord.log", 1, 0, "metrics.jsonl"),
    "a row": ("JsonlRecord.log", 3, 10, "metrics.jsonl"),
    "the first checkpoint": ("save_last", 1, 9_999, "last.pt"),
    "a checkpoint": ("save_last", 3, 40_000, "last.pt"),
}
"""What cannot be written: where the disk is full from, room for how many bytes a file, its name."""


@pytest.mark.parametrize("what", FULL)
def test_no_room_for(what: str, whole: Whole, tmp_path: Path) -> None:
    where, number, file_limit, name = FULL[what]
    outcome = train(
        [*whole.arguments, NEW], tmp_path, Fault("call", number, where, file_limit=file_limit)
    )
    assert outcome.code == 1, outcome.text
    assert f"{name}: cannot be written: File too large" in outcome.text
    assert "Traceback" not in outcome.text
    assert "Free some space or permit writing, then continue with resume=" in outcome.text
    _check_whole_files(tmp_path / "run")
    outcome = go_on(whole, tmp_path, NONE)
    assert outcome.code == 0, outcome.text
    same(tmp_path / "run", whole.run)


def _check_whole_files(run: Path) -> None:
    for file in run.rglob("*.pt"):
        checkpoint.load(file)
    if (run / "metrics.jsonl").exists():
        assert (run / "metrics.jsonl").read_bytes()[-1:] in (b"", b"\n")
    assert not list(run.rglob(".*.tmp"))


def test_a_disk_that_fills_up(whole: Whole, tmp_path: Path, fault_rounds: int) -> None:
    """A real small file system, with room for some part of the run."""
    draws = random.Random(0)
    ended: list[int] = []
    for i in range(8 * fault_rounds):
        folder = tmp_path / str(i)
        folder.mkdir()
        with mounted(f"mount -t tmpfs -o size=16m tmpfs '{folder}'") as keeper:
            inside = seen_by(keeper, folder)
            room = draws.randrange(400_000)
            (inside / "other").write_bytes(b"x" * (shutil.disk_usage(inside).free - room))
            world = World(mounts=keeper)
            outcome = train([*whole.arguments, NEW], folder, world=world)
            ended.append(outcome.code)
            assert outcome.code in (0, 1), outcome.text
            if outcome.code:
                assert "No space left on device" in outcome.text, f"{room}\n{outcome.text}"
                assert "Traceback" not in outcome.text, f"{room}\n{outcome.text}"
                _check_whole_files(inside / "run")
            (inside / "other").unlink()
            begun = (inside / "run" / "config.yaml").exists()
            words = [AGAIN] if begun else [*whole.arguments, NEW]
            outcome = train(words, folder, world=world)
            assert outcome.code == 0, outcome.text
            same(inside / "run", whole.run)
    assert 1 in ended


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("imageio", "av")),
    reason="needs the sim extra",
)
def test_no_room_for_a_video(tmp_path: Path) -> None:
    arguments = [*SMALL, *ROLLOUTS, "logging=none", "rollout.num_envs=1", "rollout.video_size=64"]
    world = World(simulator=True)
    whole = whole_run(arguments, tmp_path / "whole", world)
    filmed = ["rollout.video_episodes=1"]
    folder = tmp_path / "full"
    folder.mkdir()
    full = Fault("call", 1, "write_video", file_limit=100)
    outcome = train([*arguments, *filmed, NEW], folder, full, world)
    assert outcome.code == 1, outcome.text  # it is full for the next checkpoint too
    assert "no videos: " in outcome.text
    assert "The training goes on" not in outcome.text
    assert train([AGAIN, "rollout.video_episodes=0"], folder, world=world).code == 0
    same(folder / "run", whole.run)


def test_a_directory_that_may_not_be_written(whole: Whole, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole.run, folder / "run")
    run = folder / "run"
    longer = [AGAIN, "loop.num_epochs=5"]
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    commands = (f"mount --bind '{run}' '{run}'", f"mount -o remount,bind,ro '{run}'")
    with mounted(*commands) as keeper:
        for words in (longer, [*whole.arguments, "hydra.run.dir=run/new"]):
            outcome = train(words, folder, world=World(mounts=keeper))
            assert outcome.code == 1, outcome.text
            assert "Read-only file system" in outcome.text
            assert "run/" in outcome.text
            assert "Traceback" not in outcome.text
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    outcome = train(longer, folder)
    assert outcome.code == 0, outcome.text
    assert len(rows(run)) == 5
    assert status(run)["state"] == "finished"
