"""Short runs with a `WandbLogger`, in this process and in a child."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import pytest
from wandb_file import WandbFile, finished

import rmexp
from rmexp.loggers.base import LoggerGroup, RunInfo
from rmexp.loggers.jsonl import JsonlRecord
from rmexp.loggers.wandb import WandbLogger

ONE_RUN = """
import logging, pathlib, sys
from rmexp.loggers.base import RunInfo
from rmexp.loggers.wandb import WandbLogger
logging.basicConfig(level=logging.INFO, format="LOG %(levelname)s %(message)s", stream=sys.stderr)
view = WandbLogger(project="p", entity=None, mode=sys.argv[2], init_timeout=3, finish_timeout=3,
                   flush_interval=1)
view.start(RunInfo(run_dir=pathlib.Path(sys.argv[1]), name="n", config={}, tags=[], group=None,
                   job_type="train", resumed=False, total_epochs=1))
view.log({"train/loss": 1.0}, epoch=1, global_step=1)
view.finish({}, 0)
"""


def child_environment(**changes: str) -> dict[str, str]:
    """For a child: no WANDB_MODE, and the package under test wherever it runs."""
    kept = {key: value for key, value in os.environ.items() if key != "WANDB_MODE"}
    return {**kept, "PYTHONPATH": str(Path(rmexp.__file__).parent.parent), **changes}


def logger(mode: Literal["auto", "online", "offline", "disabled"] = "auto") -> WandbLogger:
    return WandbLogger(
        project="rmexp-test",
        entity=None,
        mode=mode,
        init_timeout=1,
        finish_timeout=1,
        flush_interval=0.1,
    )


def start_group(info: RunInfo, view: WandbLogger) -> LoggerGroup:
    group = LoggerGroup(JsonlRecord(info.run_dir / "metrics.jsonl"), [view])
    group.start(info)
    return group


def log_epochs(group: LoggerGroup, epochs: int, first: int = 1) -> None:
    for epoch in range(first, first + epochs):
        row = {"train/loss": 1 / (3 * epoch), "time/train/epoch_s": 0.1, "valid/loss": 2 / epoch}
        if epoch % 2 == 0:
            row |= {"rollout/Lift/success_rate": epoch / 10, "rollout/Lift/num_episodes": 50.0}
        group.log(row, epoch=epoch, global_step=7 * epoch)


def wandb_files(info: RunInfo) -> list[WandbFile]:
    return [finished(path) for path in sorted(info.run_dir.glob("wandb/offline-run-*"))]


def rows(info: RunInfo) -> list[dict[str, float]]:
    return JsonlRecord.read(info.run_dir / "metrics.jsonl")


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the user sees: the SDK's own records go to its log file only."""
    ours = [r for r in caplog.records if r.name.startswith("rmexp")]
    return [r.getMessage() for r in ours if r.levelno >= logging.WARNING]
