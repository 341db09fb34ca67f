from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmexp.loggers.base import RunInfo


@pytest.fixture(autouse=True)
def _own_wandb(  # pyright: ignore[reportUnusedFunction]
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Neither the user's W&B settings nor their home may have a part in a test."""
    for variable in list(os.environ):
        if variable.startswith(("WANDB_", "NETRC")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_MODE", "offline")


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    return RunInfo(
        run_dir=run_dir,
        name="lift_bc",
        config={"seed": 3, "algo": {"lr": 0.001, "hidden": [5, 7]}},
        tags=["a tag"],
        group="sweep-1",
        job_type="train",
        resumed=False,
        total_epochs=5,
    )


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[Path]:
    """The file of a handler of the root logger, as Hydra configures it for a run."""
    path = tmp_path / "rmexp.log"
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield path
    logging.getLogger().removeHandler(handler)
    handler.close()


@pytest.fixture
def fresh_service() -> Iterator[None]:
    """For tests that change the SDK's environment or break its service."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()
