"""A run directory that is used a second time: continued, moved or refused, never mixed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp import checkpoint
from rmexp.algo.bc import BC
from rmexp.interrupt import Interrupted
from rmexp.run_dir import RunDirectory
from rmexp.runner import Runner
from tests.command_line import GOLDEN, TINY, Outcome, rows, run_here, status

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, base: Sequence[str] = TINY) -> Outcome:
        return run_here([*base, *arguments], monkeypatch, capfd)

    return command


def test_a_new_run_does_not_enter_an_old_one(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a").code == 0
    before = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    again = run("hydra.run.dir=a")
    assert again.code == 1
    assert "there is a run here already" in again.err
    assert "resume=" in again.err
    assert (tmp_path / "a" / "metrics.jsonl").read_bytes() == before
    assert status(tmp_path / "a")["state"] == "finished"


def test_two_processes_do_not_share_a_directory(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a").code == 0
    with RunDirectory(tmp_path / "a").locked():
        outcome = run("resume=a", "loop.num_epochs=3", base=[])
    assert outcome.code == 1
    found = r"another process is running here \(pid \d+ since [-\d]+ [:\d]+ [-+]\d{4}\)"
    assert re.search(found, outcome.err), outcome.err
    assert status(tmp_path / "a")["state"] == "finished"
    assert run("resume=a", "loop.num_epochs=3", base=[]).code == 0


def test_other_loggers_on_resume(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a").code == 0
    for choice in ("logging=tensorboard", "logging=none"):
        outcome = run("resume=a", choice, "loop.num_epochs=3", base=[])
        assert outcome.code == 0, outcome.text
    assert run("resume=a", base=[]).code == 0
    assert len(rows(tmp_path / "a")) == 3


def test_the_whole_command_may_be_given_again(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a", "seed=4").code == 0
    same = run("seed=4", "loop.num_epochs=3", "resume=a")
    assert same.code == 0, same.text
    other = run("seed=4", "algo=bc_gmm", "resume=a")
    assert other.code == 1
    assert "algo.head._target_: 'rmexp.nets.heads.Deterministic' -> 'rmexp.nets.heads.GMM'" in (
        other.err
    )
    assert status(tmp_path / "a")["state"] == "finished"


def test_what_a_run_was_started_with_is_kept(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a", "seed=4").code == 0
    overrides = (tmp_path / "a" / "overrides.yaml").read_text()
    assert run("resume=a", "loop.num_epochs=3", base=[]).code == 0
    assert (tmp_path / "a" / "overrides.yaml").read_text() == overrides
    starts = json.loads((tmp_path / "a" / "provenance.json").read_text())["starts"]
    assert len(starts) == 2
    assert "num_epochs: 3" in (tmp_path / "a" / "config.yaml").read_text()


def test_a_relative_path_is_found_from_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "demos.hdf5").write_bytes((GOLDEN / "tiny_lift.hdf5").read_bytes())
    assert run("dataset.path=demos.hdf5", "hydra.run.dir=a").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = run("resume=../a", "loop.num_epochs=3", base=[])
    assert outcome.code == 0, outcome.text


def test_data_may_move_but_not_change(run: Run, tmp_path: Path) -> None:
    data = (GOLDEN / "tiny_lift.hdf5").read_bytes()
    (tmp_path / "old.hdf5").write_bytes(data)
    assert run("dataset.path=old.hdf5", "hydra.run.dir=a").code == 0
    (tmp_path / "old.hdf5").rename(tmp_path / "new, place.hdf5")
    moved = run("resume=a", "dataset.path=new, place.hdf5", "loop.num_epochs=3", base=[])
    assert moved.code == 0, moved.text
    (tmp_path / "other.hdf5").write_bytes(data + b"\0")
    changed = run("resume=a", "dataset.path=other.hdf5", "loop.num_epochs=4", base=[])
    assert changed.code == 1
    assert "the data set has changed" in changed.err


@pytest.mark.parametrize("name", ["it's here", "a=b,c", "ü {x}", "(1) [2]"])
def test_odd_names_of_directories(run: Run, tmp_path: Path, name: str) -> None:
    assert run(f"hydra.run.dir={name}").code == 0
    outcome = run(f"resume={name}", "loop.num_epochs=3", base=[])
    assert outcome.code == 0, outcome.text
    assert len(rows(tmp_path / name)) == 3
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_options_may_stand_anywhere(run: Run, tmp_path: Path) -> None:
    option, *rest = TINY
    assert run(*rest, option, "hydra.run.dir=a", base=[]).code == 0
    spaced = option.replace("=", " ").split(" ", 1)
    assert run(*rest, *spaced, "hydra.run.dir=b", base=[]).code == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_an_unknown_objective_costs_nothing(run: Run, tmp_path: Path) -> None:
    outcome = run("objective=valid/los", "hydra.run.dir=a")
    assert outcome.code == 0
    assert "objective=valid/los" in outcome.err
    assert status(tmp_path / "a")["state"] == "finished"


def test_a_crash_between_a_checkpoint_and_its_second_name(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a", "loop.num_epochs=1").code == 0
    best = tmp_path / "a" / "checkpoints" / "best.pt"
    best.unlink()
    assert run("resume=a", base=[]).code == 0
    assert checkpoint.load(best)["epochs_done"] == 1


def test_a_signal_after_a_breakdown_keeps_the_last_good_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, steps = BC.train_on_batch, [0]

    def breaking(self: BC, batch: Any, epoch: int, validate: bool = False) -> Any:
        info = train(self, batch, epoch, validate)
        steps[0] += not validate
        if steps[0] == 6:
            raise Interrupted(15)
        return {**info, "loss": info["loss"] * (torch.nan if steps[0] == 5 else 1.0)}

    monkeypatch.setattr(BC, "train_on_batch", breaking)
    outcome = run("hydra.run.dir=a")
    assert outcome.code == 1
    assert "epoch 2, training step 2: not finite: loss" in outcome.err
    assert status(tmp_path / "a")["state"] == "failed"
    assert checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")["epochs_done"] == 1


def test_the_final_evaluation_leaves_the_training_as_it_was(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal in its middle must not save the best weights as the last ones."""
    seen: list[bool] = []

    def conclude(self: Runner) -> Any:
        last = {k: v.clone() for k, v in self.algo.nets.state_dict().items()}
        with self._best_weights():
            lent = self.algo.nets.state_dict()
            seen.append(any(not torch.equal(lent[k], last[k]) for k in last))
            raise Interrupted(15)

    monkeypatch.setattr(Runner, "conclude", conclude)
    outcome = run("hydra.run.dir=a", "algo.lr=1.0", "loop.num_epochs=3")
    assert outcome.code == 128 + 15
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert seen == [True], "the best epoch was the last one: choose another learning rate"
    assert run("hydra.run.dir=b", "algo.lr=1.0", "loop.num_epochs=3").code == 0
    a, b = (
        checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")["algo"]["nets"]
        for name in ("a", "b")
    )
    assert all(torch.equal(a[key], b[key]) for key in b)
