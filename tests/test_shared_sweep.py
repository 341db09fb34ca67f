"""One sweep, several processes: each takes the jobs that nobody is at."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rmexp.run_dir import RunDirectory
from tests.command_line import TINY, run_here, start, status

SWEEP = ["-m", "seed=1,2,3", "hydra.sweep.dir=sweep"]


def test_what_another_process_is_at_is_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    held = RunDirectory(tmp_path / "sweep" / "seed=2")
    held.path.mkdir(parents=True)
    with held.locked():
        outcome = run_here([*TINY, *SWEEP], monkeypatch, capfd)
    assert outcome.code == 0, outcome.text
    assert outcome.err.count("left to that") == 1
    assert "seed=2: another process is at it, left to that" in outcome.err
    assert [status(tmp_path / "sweep" / f"seed={i}")["state"] for i in (1, 3)] == ["finished"] * 2
    assert held.status() is None
    assert not held.holds_a_run()

    again = run_here([*TINY, *SWEEP], monkeypatch, capfd)
    assert again.code == 0
    assert again.err.count("finished earlier, skipped") == 2
    assert status(held.path)["state"] == "finished"


def test_a_job_of_another_configuration_is_not_taken_for_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_here([*TINY, *SWEEP], monkeypatch, capfd).code == 0
    with RunDirectory(tmp_path / "sweep" / "seed=2").locked():
        outcome = run_here([*TINY, *SWEEP, "algo.lr=0.001"], monkeypatch, capfd)
    assert outcome.code == 1
    assert outcome.err.count("of the same name with another configuration") >= 3
    assert "left to that" not in outcome.err


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path: Path) -> None:
    words = [*TINY, "-m", "seed=1,2,3,4,5,6", "hydra.sweep.dir=sweep", "loop.steps_per_epoch=400"]
    processes = [start(words, tmp_path) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said

    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [job.name for job in jobs] == [f"seed={seed}" for seed in range(1, 7)]
    pids: set[int] = set()
    for job in jobs:
        assert status(job)["state"] == "finished"
        assert len(json.loads((job / "provenance.json").read_text())["starts"]) == 1
        assert len((job / "metrics.jsonl").read_text().splitlines()) == 2
        pids.add(status(job)["pid"])
    assert pids == {process.pid for process in processes}
