"""What a user meets on the command line: a run, its directory, and a clear word when it fails."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from rmexp import checkpoint
from rmexp.algo.bc import BC
from tests.command_line import GOLDEN, TINY, Outcome, rows, run_here, status
from tests.loggers.wandb_file import finished

Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, base: Sequence[str] = TINY) -> Outcome:
        return run_here([*base, *arguments], monkeypatch, capfd)

    return command


def test_a_run_and_its_directory(run: Run, tmp_path: Path) -> None:
    outcome = run("seed=3", "tags=[a]")
    assert outcome.code == 0, outcome.text
    assert "epoch 2/2" in outcome.out
    (directory,) = (tmp_path / "outputs" / "bc_tiny").iterdir()
    names = {path.name for path in directory.iterdir()}
    assert names >= {
        "config.yaml",
        "overrides.yaml",
        "metrics.jsonl",
        "rmexp.log",
        "status.json",
        "provenance.json",
        "checkpoints",
    }
    assert len(directory.name.split("-")[2]) == 6  # microseconds
    assert "${" not in (directory / "config.yaml").read_text()
    assert "seed=3" in (directory / "overrides.yaml").read_text()
    assert "31 train windows" in (directory / "rmexp.log").read_text()
    assert status(directory)["state"] == "finished"
    (facts,) = json.loads((directory / "provenance.json").read_text())["starts"]
    assert facts["packages"]["torch"] == torch.__version__
    assert len(facts["dataset_sha256"]) == 64
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
    }
    (first, second) = rows(directory)
    assert (first["epoch"], first["global_step"], second["global_step"]) == (1, 3, 6)
    assert first.keys() >= {"train/loss", "valid/loss", "optimizer/actor_lr"}


def test_the_same_command_gives_the_same_bits(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run("algo=bc_gmm", f"hydra.run.dir={name}").code == 0
    assert run("algo=bc_gmm", "hydra.run.dir=c", "seed=1").code == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_validation_changes_no_bit_of_the_training(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=with").code == 0
    assert run("hydra.run.dir=without", "loop.validate_every=0").code == 0
    with_it, without = rows(tmp_path / "with"), rows(tmp_path / "without")
    assert any(key.startswith("valid/") for key in with_it[0])
    assert not any(key.startswith("valid/") for key in without[0])
    for a, b in zip(with_it, without, strict=True):
        assert {k: v for k, v in a.items() if not k.startswith("valid/")} == b
    weights = [
        checkpoint.load(tmp_path / name / "checkpoints" / "last.pt")["algo"]["nets"]
        for name in ("with", "without")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_run_is_extended_as_if_it_had_been_longer(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=short").code == 0
    assert run("hydra.run.dir=long", "loop.num_epochs=4").code == 0
    extended = run("resume=short", "loop.num_epochs=4", base=[])
    assert extended.code == 0, extended.text
    assert "resumed after epoch 2" in extended.err
    assert rows(tmp_path / "short") == rows(tmp_path / "long")


def test_named_checkpoints_are_kept_by_count(run: Run, tmp_path: Path) -> None:
    assert run("hydra.run.dir=a", "loop.num_epochs=5", "loop.save_every=1", "loop.keep=2").code == 0
    names = sorted(p.name for p in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == ["best.pt", "epoch_000004.pt", "epoch_000005.pt", "last.pt", "previous.pt"]


def test_a_sweep_survives_a_failing_job(run: Run, tmp_path: Path) -> None:
    sweep = ["-m", "seed=1,2", "algo=bc,bc_gmm", "hydra.sweep.dir=sweep", "loop.num_epochs=1"]
    broken = run(*sweep, "dataset.obs_keys=[object],[objekt]", "algo.lr=1e-3")
    assert broken.code == 1
    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert "algo=bc,dataset.obs_keys=_object_" in jobs[0].name
    assert len(jobs) == 8
    states = [status(job)["state"] for job in jobs]
    assert states.count("finished") == 4
    assert states.count("failed") == 4
    failed = [job for job, state in zip(jobs, states, strict=True) if state == "failed"]
    assert all("objekt" in (job / "rmexp.log").read_text() for job in failed)
    report = broken.err[broken.err.index("sweep ") :]
    assert report.count("failed") == 4
    assert "did you mean" in report


def test_each_job_of_a_sweep_is_a_run_of_one_group(run: Run, tmp_path: Path) -> None:
    base = [word for word in TINY if word != "logging=none"]
    sweep = ["-m", "algo=bc,bc_gmm", "seed=1,2", "hydra.sweep.dir=sweep"]
    outcome = run(*sweep, base=base)
    assert outcome.code == 0, outcome.text
    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [job.name for job in jobs] == [
        f"algo={algo},seed={seed}" for algo in ("bc", "bc_gmm") for seed in (1, 2)
    ]
    files = [finished(next(job.glob("wandb/offline-run-*"))) for job in jobs]
    assert len({file.run.run_id for file in files}) == 4
    assert {file.run.run_group for file in files} == {"sweep"}
    for job, file in zip(jobs, files, strict=True):
        recorded = [json.loads(line) for line in (job / "metrics.jsonl").read_text().splitlines()]
        assert file.rows() == recorded
        assert status(job)["state"] == "finished"


def test_a_sweep_that_ran_is_skipped(run: Run, tmp_path: Path) -> None:
    sweep = ["-m", "seed=1,2", "hydra.sweep.dir=sweep", "loop.num_epochs=1"]
    assert run(*sweep).code == 0
    before = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("last.pt"))]
    again = run(*sweep)
    assert again.code == 0
    assert again.err.count("finished earlier, skipped") == 2
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("last.pt"))] == before


def hdf5(path: Path, change: Callable[[h5py.File], None] | None = None) -> str:
    """A copy of the test data, damaged by `change`."""
    path.write_bytes((GOLDEN / "tiny_lift.hdf5").read_bytes())
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file)
    return f"dataset.path={path}"


def set_value(key: str, value: float) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        data: Any = file[key]
        data[1] = value

    return change


def delete(key: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[key]

    return change


def only_one_demo(file: h5py.File) -> None:
    data: Any = file["data"]
    for name in list(data)[1:]:
        del data[name]
    del file["mask"]


def empty_mask(file: h5py.File) -> None:
    masks: Any = file["mask"]
    masks.create_dataset("none", data=np.array([], dtype="S8"))


BAD_INPUT: dict[str, tuple[Callable[[Path], list[str]], list[str]]] = {
    "forced unknown key": (lambda p: ["+algo.lrr=1"], ["algo.lrr", "did you mean 'lr'"]),
    "misspelt key in an experiment": (
        lambda p: ["experiment=typo"],
        ["error: experiment/typo.yaml: sed: the configuration has no key 'sed'", "'seed'?"],
    ),
    "misspelt nested key in an experiment": (
        lambda p: ["experiment=nested_typo"],
        ["algo.lrr", "did you mean 'lr'"],
    ),
    "wrong type": (lambda p: ["algo.lr=fast"], ["algo.lr", "'fast'", "a number"]),
    "wrong type at the top": (lambda p: ["seed=one"], ["seed", "one"]),
    "a number out of range": (lambda p: ["loop.batch_size=0"], ["loop.batch_size", "at least 1"]),
    "missing value": (
        lambda p: ["algo/lr_schedule=multistep"],
        ["algo.lr_schedule.epochs", "a value is required"],
    ),
    "no such device": (lambda p: ["device=tpu9"], ["device", "tpu9", "cpu"]),
    "no such file": (lambda p: [f"dataset.path={p / 'no.hdf5'}"], ["no.hdf5", "dataset.path"]),
    "a published set that is not here": (
        lambda p: ["dataset=can_ph"],
        ["can/ph/low_dim_v15.hdf5", "robomimic_datasets", "paths.data_dir"],
    ),
    "not an HDF5 file": (lambda p: [text_file(p / "a.hdf5")], ["a.hdf5", "HDF5"]),
    "a truncated file": (lambda p: [truncated(p / "a.hdf5")], ["a.hdf5", "truncated"]),
    "a missing key": (
        lambda p: [hdf5(p / "a.hdf5", delete("data/demo_2/obs/object"))],
        ["a.hdf5", "demo_2", "object"],
    ),
    "no actions": (
        lambda p: [hdf5(p / "a.hdf5", delete("data/demo_2/actions"))],
        ["a.hdf5", "demo_2", "actions"],
    ),
    "an observation key that is not there": (
        lambda p: ["dataset.obs_keys=[objekt]"],
        ["objekt", "did you mean 'object'"],
    ),
    "NaN in observations": (
        lambda p: [hdf5(p / "a.hdf5", set_value("data/demo_1/obs/object", np.nan))],
        ["a.hdf5", "demo_1", "object"],
    ),
    "NaN in actions": (
        lambda p: [hdf5(p / "a.hdf5", set_value("data/demo_1/actions", np.nan))],
        ["a.hdf5", "demo_1", "actions"],
    ),
    "an action outside [-1, 1]": (
        lambda p: [hdf5(p / "a.hdf5", set_value("data/demo_1/actions", 3.75))],
        ["a.hdf5", "demo_1", "actions", "normalize_actions"],
    ),
    "an empty filter key": (
        lambda p: [hdf5(p / "a.hdf5", empty_mask), "dataset.train_filter=none"],
        ["a.hdf5", "none"],
    ),
    "an unknown filter key": (
        lambda p: ["dataset.train_filter=trian"],
        ["trian", "train"],
    ),
    "an unwritable run directory": (
        lambda p: [f"hydra.run.dir={blocked(p)}/run"],
        ["file/run", "hydra.run.dir=DIR"],
    ),
    "nothing to resume": (lambda p: ["resume=nowhere"], ["resume=nowhere", "config.yaml"]),
}


def text_file(path: Path) -> str:
    path.write_text("not a data set")
    return f"dataset.path={path}"


def truncated(path: Path) -> str:
    path.write_bytes((GOLDEN / "tiny_lift.hdf5").read_bytes()[:20_000])
    return f"dataset.path={path}"


def blocked(folder: Path) -> Path:
    """A path below which no directory can be made, for root neither."""
    (folder / "file").write_text("")
    return folder / "file"


@pytest.mark.parametrize("name", sorted(BAD_INPUT))
def test_bad_input_gets_one_clear_message(run: Run, tmp_path: Path, name: str) -> None:
    experiments = tmp_path / "conf" / "experiment"
    experiments.mkdir(parents=True)
    (experiments / "typo.yaml").write_text("# @package _global_\nsed: 3\n")
    (experiments / "nested_typo.yaml").write_text("# @package _global_\nalgo: {lrr: 3}\n")
    build, words = BAD_INPUT[name]
    outcome = run(*build(tmp_path), f"hydra.searchpath=[file://{tmp_path / 'conf'}]")
    assert outcome.code == 1, outcome.text
    for word in words:
        assert word in outcome.err, outcome.err
    assert "Traceback" not in outcome.text
    assert not list(tmp_path.rglob("last.pt"))
    if "hydra.run.dir" not in " ".join(build(tmp_path)):
        for log in tmp_path.rglob("status.json"):
            assert status(log.parent)["state"] == "failed"


def test_one_demonstration_trains_without_validation(run: Run, tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.hdf5", only_one_demo)
    filters = ["dataset.train_filter=auto", "dataset.valid_filter=auto"]
    outcome = run(path, *filters, "hydra.run.dir=one")
    assert outcome.code == 0, outcome.text
    assert "a.hdf5" in outcome.err
    assert "validation" in outcome.err
    assert not any(key.startswith("valid/") for key in rows(tmp_path / "one")[0])


def test_a_traceback_is_shown_on_request(run: Run) -> None:
    assert "Traceback" in run("dataset.obs_keys=[objekt]", "debug.traceback=true").err


def test_a_loss_that_is_not_finite_stops_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, steps = BC.train_on_batch, [0]

    def bursting(self: BC, batch: Any, epoch: int, validate: bool = False) -> Any:
        info = train(self, batch, epoch, validate)
        steps[0] += not validate
        return {**info, "loss": info["loss"] * (torch.inf if steps[0] == 8 else 1.0)}

    monkeypatch.setattr(BC, "train_on_batch", bursting)
    outcome = run("loop.num_epochs=5", "hydra.run.dir=a")
    assert outcome.code == 1
    assert "epoch 3, training step 2: not finite: loss" in outcome.err
    assert status(tmp_path / "a")["state"] == "failed"
    assert checkpoint.load(tmp_path / "a" / "checkpoints" / "last.pt")["epochs_done"] == 2
    assert len(rows(tmp_path / "a")) == 2


def test_a_full_disk_stops_the_run_and_loses_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, calls = os.fsync, [0]

    def full(handle: int) -> None:
        calls[0] += 1
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).startswith(".last.pt"):  # noqa: PTH119, PTH115
            raise OSError(28, "No space left on device")
        fsync(handle)

    assert run("hydra.run.dir=a").code == 0
    before = (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    outcome = run("resume=a", "loop.num_epochs=3", base=[])
    assert outcome.code == 1
    assert calls[0]
    for word in ("last.pt", "No space left on device", "resume="):
        assert word in outcome.err
    assert (tmp_path / "a" / "checkpoints" / "last.pt").read_bytes() == before
    monkeypatch.setattr(os, "fsync", fsync)
    assert run("resume=a", base=[]).code == 0
    assert run("hydra.run.dir=b", "loop.num_epochs=3").code == 0
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_resumed_run_keeps_its_configuration(run: Run) -> None:
    assert run("hydra.run.dir=a").code == 0
    outcome = run("resume=a", "algo.lr=0.5", base=[])
    assert outcome.code == 1
    assert "algo.lr: 0.0001 -> 0.5" in outcome.err
