"""Two runs and one directory: never at the same time, and never mixed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, SIGSTOP

import pytest

from rmexp import checkpoint
from rmexp.run_dir import RunDirectory
from tests.command_line import Outcome, rows, status
from tests.faults.campaign import AGAIN, NEW, QUIET, TINY, Whole, difference, same, whole_run
from tests.faults.training import Fault, train

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SMALL = [*TINY, *QUIET, "algo=bc", "algo.actor_layer_dims=[16]"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return whole_run(SMALL, tmp_path_factory.mktemp("one") / "whole")


@pytest.fixture
def folder(whole: Whole, tmp_path: Path) -> Path:
    shutil.copytree(whole.run, tmp_path / "copy" / "run")
    return tmp_path / "copy"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_second_is_refused_and_a_dead_one_s_lock_is_not_one(
    whole: Whole, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run = first / "run"
    outcomes: list[Outcome] = []
    stopped = Fault("call", 11, "Watched.__iter__", SIGSTOP)
    first.mkdir()
    second.mkdir()
    began = time.strftime("%Y-%m-%d %H")
    thread = threading.Thread(
        target=lambda: outcomes.append(train([*SMALL, NEW], first, stopped)), daemon=True
    )
    thread.start()
    wait_until(lambda: (run / "metrics.jsonl").exists())
    lock = re.fullmatch(r"pid (\d+) since (\d{4}-\d\d-\d\d \d\d):\d\d:\d\d [-+]\d{4}\n", _lock(run))
    assert lock is not None
    assert lock[2] >= began
    for words in ([f"resume={run}"], [*SMALL, f"hydra.run.dir={run}"]):
        outcome = train(words, second)
        assert outcome.code == 1, outcome.text
        assert f"another process is running here (pid {lock[1]} since {lock[2]}" in outcome.text
    assert status(run)["state"] == "running"
    os.kill(int(lock[1]), SIGKILL)
    thread.join(60)
    assert [outcome.code for outcome in outcomes] == [-SIGKILL]
    assert _lock(run) == lock[0]  # still there, and no longer held
    outcome = train([AGAIN], first)
    assert outcome.code == 0, outcome.text
    same(run, whole.run)


def _lock(run: Path) -> str:
    return (run / ".lock").read_text()


def test_another_configuration_is_refused_with_what_changed(whole: Whole, folder: Path) -> None:
    before = {file: file.read_bytes() for file in folder.rglob("*.pt")}
    changes = ["algo.lr=0.5", "loop.num_epochs=6", "seed=7"]
    for words in ([*SMALL, *changes, NEW], [*SMALL, *changes, AGAIN]):
        outcome = train(words, folder)
        assert outcome.code == 1, outcome.text
        for line in ("  algo.lr: 0.0001 -> 0.5\n", "  seed: 0 -> 7\n"):
            assert line in outcome.text
        assert "num_epochs" not in outcome.text
    for more in ([], ["loop.num_epochs=6"]):
        outcome = train([*SMALL, *more, NEW], folder)
        assert outcome.code == 1
        assert "there is a run here already; continue it with resume=" in outcome.text
        assert outcome.text.count("loop.num_epochs=6") == len(more)
    assert "is a run here already" not in (folder / "run" / "rmexp.log").read_text()
    assert {file: file.read_bytes() for file in folder.rglob("*.pt")} == before
    same(folder / "run", whole.run)


def test_a_run_may_be_extended_and_says_so(folder: Path, tmp_path: Path) -> None:
    longer = whole_run([*SMALL, "loop.num_epochs=6"], tmp_path / "longer")
    outcome = train([AGAIN, "loop.num_epochs=6"], folder)
    assert outcome.code == 0, outcome.text
    assert "loop.num_epochs: 4 -> 6, the run is extended" in outcome.text
    assert rows(folder / "run") == rows(longer.run)
    ours, theirs = (
        checkpoint.load(run / "checkpoints" / "last.pt") for run in (folder / "run", longer.run)
    )
    assert difference(ours["algo"], theirs["algo"]) is None
    outcome = train([AGAIN, "loop.num_epochs=3"], folder)
    assert outcome.code == 1
    assert "has done 6 epochs already; give as many at least" in outcome.text
    assert len(rows(folder / "run")) == 6


def test_a_file_system_without_locks_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunDirectory(tmp_path).locked():
        pass
    assert "take care that only one process runs here" in caplog.text


def test_what_a_killed_process_had_begun_to_write_is_deleted(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.checkpoints.mkdir()
    run.videos.mkdir()
    torn = [
        run.path / ".status.json.12.tmp",
        run.checkpoints / ".last.pt.12.tmp",
        run.videos / ".epoch_0001.tmp.mp4",
    ]
    kept = [run.checkpoints / "last.pt", run.videos / "epoch_0001.mp4"]
    for file in torn + kept:
        file.touch()
    with run.locked():
        assert not [file for file in torn if file.exists()]
        assert all(file.exists() for file in kept)
