from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rmexp.seeding import preserved_random_state, seed_global

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"
FAULTS = REPOSITORY / "tests" / "faults"

torch.set_num_threads(1)
if not os.environ.get("DISPLAY"):  # mujoco chooses when it is first imported, whoever does that
    os.environ.setdefault("MUJOCO_GL", "egl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--faults",
        choices=("ci", "long"),
        help="run tests/faults too: with what every commit sees, or with many times that",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`tests/faults` takes minutes of its own: it runs for who names it, or gives `--faults`."""
    named = config.getoption("--faults") or any("faults" in word for word in config.args)
    return True if collection_path == FAULTS and not named else None


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What the fault tests of all workers did, in a line."""
    properties: list[dict[str, Any]] = [
        dict(report.user_properties)
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport) and report.when == "teardown"
    ]
    kills, resumed = (sum(p.get(name, 0) for p in properties) for name in ("kills", "resumed"))
    if kills:
        line = f"{kills} kills, {resumed} resumed, {kills - resumed} lost"
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    """Each test starts from the same global seeds and leaves none behind."""
    with preserved_random_state():
        seed_global(0)
        yield


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither the user's W&B account nor a network may decide what a test does."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("RMEXP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def golden() -> Path:
    """Numbers computed by the reference; see tests/golden/README.md."""
    return Path(__file__).parent / "golden"
