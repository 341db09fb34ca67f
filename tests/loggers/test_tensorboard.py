from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rmexp.errors import ConfigError
from rmexp.loggers.base import RunInfo
from rmexp.loggers.tensorboard import TensorBoardLogger

pytest.importorskip("tensorboard")


def _read(directory: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    tags: Any = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def _log(view: TensorBoardLogger, epochs: range) -> None:
    for epoch in epochs:
        row = {"train/loss": 0.5**epoch, "rollout/Lift/success_rate": epoch / 8}
        view.log(row, epoch=epoch, global_step=7 * epoch)


def test_scalars_are_read_back_at_their_steps(info: RunInfo) -> None:
    view = TensorBoardLogger(subdir="events")
    view.start(info)
    _log(view, range(1, 4))
    view.log_video("rollout/Lift/video", info.run_dir / "v.mp4", epoch=3, global_step=21)
    view.finish({"rollout/best/success_rate": 0.375}, 0)
    scalars = _read(info.run_dir / "events")
    assert scalars == {
        "train/loss": [(7, 0.5), (14, 0.25), (21, 0.125)],
        "rollout/Lift/success_rate": [(1, 0.125), (2, 0.25), (3, 0.375)],
    }


def test_every_point_of_the_curve_is_drawn_once(info: RunInfo) -> None:
    view = TensorBoardLogger(subdir="events")
    view.start(info)
    view.log_curve("curve", [2], [0.5], [0.25], [0.75], epoch=2, global_step=14)
    view.log_curve("curve", [2, 4], [0.5, 1], [0.25, 0.5], [0.75, 1], epoch=4, global_step=28)
    view.finish({}, 0)
    assert _read(info.run_dir / "events") == {
        "curve": [(2, 0.5), (4, 1.0)],
        "curve_low": [(2, 0.25), (4, 0.5)],
        "curve_high": [(2, 0.75), (4, 1.0)],
    }


def test_a_resumed_run_hides_the_rows_it_writes_again(info: RunInfo) -> None:
    for resumed, epochs in ((False, range(1, 5)), (True, range(3, 6))):
        view = TensorBoardLogger(subdir="events")
        view.start(replace(info, resumed=resumed))
        _log(view, epochs)
        view.finish({}, 0)
    steps = [step for step, _ in _read(info.run_dir / "events")["train/loss"]]
    assert steps == [7, 14, 21, 28, 35]


def test_the_command_for_the_summary(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(info.run_dir.parent)
    view = TensorBoardLogger(subdir="events")
    view.start(info)
    assert view.how_to() == {"tensorboard": "tensorboard --logdir run/events"}
    view.finish({}, 0)


def test_a_missing_package_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        sys.modules["rmexp.loggers.tensorboard"],
        "find_spec",
        lambda name: None if name == "tensorboard" else find(name),
    )
    with pytest.raises(ConfigError, match=r"pip install 'rmexp\[tensorboard\]'"):
        TensorBoardLogger(subdir="events")
