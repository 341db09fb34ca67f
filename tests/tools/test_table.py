"""The table of real, small runs; their final evaluations are written in, without a simulator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rmexp.arguments import run_command
from rmexp.errors import CheckpointError, ConfigError
from rmexp.loggers.report import number
from rmexp.rollout.statistics import wilson_interval
from rmexp.tools.table import PROG, TableArguments, table
from tests.command_line import GOLDEN, TINY, run_here


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def sweep(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Path:
    """Two algorithms by two seeds, trained once for all tests."""
    if not (made / "sweep").exists():
        monkeypatch.chdir(made)
        shutil.copy(GOLDEN / "tiny_lift.hdf5", made / "tiny.hdf5")
        words = ["-m", "algo=bc,bc_gmm", "seed=9,10", "hydra.sweep.dir=sweep"]
        words.append(f"dataset.path={made / 'tiny.hdf5'}")
        outcome = run_here([*TINY, *words], monkeypatch, capfd)
        assert outcome.code == 0, outcome.text
        evaluated(made / "sweep" / "algo=bc,seed=9", 20)
        evaluated(made / "sweep" / "algo=bc,seed=10", 16)
        evaluated(made / "sweep" / "algo=bc_gmm,seed=9", 0)
        evaluated(made / "sweep" / "algo=bc_gmm,seed=10", 3)
    shutil.copytree(made / "sweep", tmp_path / "sweep")
    return tmp_path / "sweep"


def evaluated(run: Path, successes: int, episodes: int = 20) -> None:
    """Two evaluations: one that selected, which must not count, and the final one."""
    for place, won in (("Lift", 5), ("final", successes)):
        row = {f"rollout/{place}/success_rate": won / episodes, "time/rollout/epoch_s": 35.0}
        row |= {f"rollout/{place}/num_episodes": float(episodes), "epoch": 2, "global_step": 6}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def written(sweep: Path) -> str:
    table(TableArguments(runs=str(sweep), out=str(sweep / "table.md")))
    return (sweep / "table.md").read_text()


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [line.strip("| ").split(" | ") for line in lines[2:]]


def test_seeds_are_pooled_and_shown(sweep: Path) -> None:
    text = written(sweep)
    low, high = wilson_interval(36, 40)
    assert [row[:5] for row in cells(text)] == [
        ["bc", "tiny", f"90.0 % [{100 * low:.1f}, {100 * high:.1f}]", "20/20, 16/20", "6"],
        ["bc_gmm", "tiny", "7.5 % [2.6, 19.9]", "0/20, 3/20", "6"],
    ]
    widths = [(19 * 16 + 16) + (16 * 7 + 7), (19 * 16 + 16) + 16 * (2 * 5 * 7 + 5) + 75]
    assert [int(row[5].replace(",", "")) for row in cells(text)] == widths
    assert [row[7] for row in cells(text)] == ["1m 10s"] * 2
    assert "Wilson" in text
    assert "Not in the table" not in text
    assert "Fewer seeds" not in text


def test_runs_without_a_result_are_named(sweep: Path) -> None:
    failed, running, no_rollouts = (
        sweep / name for name in ("algo=bc,seed=9", "algo=bc,seed=10", "algo=bc_gmm,seed=10")
    )
    for run, change in (
        (failed, {"state": "failed", "error": "DatasetError: broken\nmore"}),
        (running, {"state": "running"}),
    ):
        status = json.loads((run / "status.json").read_text()) | change
        (run / "status.json").write_text(json.dumps(status))
    (failed / "metrics.jsonl").unlink()
    lines = (no_rollouts / "metrics.jsonl").read_text().splitlines(keepends=True)
    (no_rollouts / "metrics.jsonl").write_text("".join(lines[:2]))
    text = written(sweep)
    assert [row[0] for row in cells(text)] == ["bc_gmm"]
    for line in (
        f"- {failed}: failed: DatasetError: broken\n",
        f"- {running}: running\n",
        f"- {no_rollouts}: finished without a success rate; validation loss",
    ):
        assert line in text


def test_what_does_not_act_has_its_loss(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["algo=gl", "algo.subgoal_horizon=2", f"hydra.run.dir={tmp_path / 'gl'}"]
    words.append(f"dataset.path={GOLDEN / 'tiny_lift.hdf5'}")
    tiny = [word for word in TINY if not word.startswith("algo.")]
    assert run_here([*tiny, *words], monkeypatch, capfd).code == 0
    last = (tmp_path / "gl" / "metrics.jsonl").read_text().splitlines()[-1]
    loss = number(json.loads(last)["valid/loss"])
    text = written(tmp_path / "gl")
    assert cells(text)[0][1:4] == ["tiny_lift", f"loss {loss}", loss]
    assert "Not in the table" not in text


def test_a_seed_that_never_ran_shows(sweep: Path) -> None:
    shutil.rmtree(sweep / "algo=bc,seed=9")
    assert "Fewer seeds than the rest: bc_tiny (1 of 2)." in written(sweep)


def test_settings_are_not_mixed(
    made: Path, sweep: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["algo=bc", "seed=9", "algo.lr=1e-3", f"hydra.run.dir={sweep / 'other'}"]
    words.append(f"dataset.path={made / 'tiny.hdf5'}")
    assert run_here([*TINY, *words], monkeypatch, capfd).code == 0
    evaluated(sweep / "other", 1)
    assert ["bc algo.lr=1e-3", "1/20"] in [[row[0], row[3]] for row in cells(written(sweep))]


def test_the_same_run_does_not_count_twice(sweep: Path) -> None:
    shutil.copytree(sweep / "algo=bc,seed=9", sweep / "again")
    with pytest.raises(ConfigError, match=r"same run \(seed 9\)"):
        written(sweep)


def test_nothing_yet_is_an_error(sweep: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for record in sweep.glob("*/metrics.jsonl"):
        record.unlink()
    assert run_command(TableArguments, table, prog=PROG, argv=[f"runs={sweep}"]) == 1
    found = capfd.readouterr()
    assert found.out == ""
    assert found.err.startswith("error: no run has a success rate")
    assert "resume=DIR" in found.err
    assert found.err.count("finished without a success rate") == 4


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckpointError, match=r"no status\.json in it or below"):
        table(TableArguments(runs=str(tmp_path)))
    assert run_command(TableArguments, table, prog=PROG, argv=[]) == 1
    assert "runs=... is required" in capsys.readouterr().err
