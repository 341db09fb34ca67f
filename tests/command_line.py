"""`python -m rmexp` for tests: in this process where it can be, in a real one where it must be."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from rmexp import cli, refused, sweep

TESTS = Path(__file__).resolve().parent
GOLDEN = TESTS / "golden"
TINY = [
    f"--config-dir={TESTS / 'conf'}",
    "dataset=tiny",
    "rollout=none",
    "logging=none",
    "algo.actor_layer_dims=[16]",
    "loop.num_epochs=2",
    "loop.steps_per_epoch=3",
    "loop.batch_size=7",
]
"""A run of a fraction of a second."""


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


def run_here(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Outcome:
    """The command in this process: quick, and with everything the command line does."""
    monkeypatch.setattr(sys, "argv", ["rmexp", *arguments])
    monkeypatch.setenv("RMEXP_TEST_DATA", str(GOLDEN))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    GlobalHydra.instance().clear()
    sweep._folders.clear()
    sweep._started.clear()
    refused._before.clear()
    cli._failures.clear()
    cli._traceback_wanted[0] = False
    capfd.readouterr()
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    finally:
        for handler in [h for h in root.handlers if h not in handlers]:
            root.removeHandler(handler)
            handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        GlobalHydra.instance().clear()
    captured = capfd.readouterr()
    return Outcome(code, captured.out, captured.err)


def start(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    environment = {**os.environ, "RMEXP_TEST_DATA": str(GOLDEN), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "rmexp", *arguments],
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(TESTS.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_process(arguments: Sequence[str], cwd: Path) -> Outcome:
    process = start(arguments, cwd)
    out, err = process.communicate(timeout=120)
    return Outcome(process.returncode, out, err)


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of `metrics.jsonl` without what a clock or the machine decided."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    timed = ("time/", "throughput/", "memory/")
    return [{k: v for k, v in row.items() if not k.startswith(timed)} for row in lines]


def status(run: Path) -> dict[str, Any]:
    return json.loads((run / "status.json").read_text())
