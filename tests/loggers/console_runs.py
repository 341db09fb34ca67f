"""A `ConsoleLogger` on a stream that can be read, and what to feed it with."""

from __future__ import annotations

import io
import re

from rmexp.loggers.base import RunInfo
from rmexp.loggers.console import ConsoleLogger

SUMMARY: dict[str, float | str] = {
    "rollout/final/success_rate": 0.9,
    "rollout/final/success_rate_low": 0.786,
    "rollout/final/success_rate_high": 0.957,
    "rollout/final/num_episodes": 50.0,
    "rollout/final/return_mean": 0.9,
    "best/success_rate": 1.0,
    "best/success_rate_low": 0.929,
    "best/success_rate_high": 1.0,
    "best/num_episodes": 50.0,
    "best/epoch": 40,
    "time/total_s": 125.0,
    "time/train_s": 75.0,
    "time/rollout_s": 25.0,
    "paths/run": "outputs/" + "x" * 100,
    "how_to/sync": "wandb sync outputs/" + "x" * 100,
}


class Stream(io.StringIO):
    """A terminal, or a file that is not one."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def screen(text: str) -> list[str]:
    """What a terminal shows: carriage returns and erased lines applied, colours dropped."""
    lines: list[str] = []
    for line in text.split("\n"):
        visible = line.rpartition("\x1b[2K")[2]
        lines.append(re.sub(r"\x1b\[[0-9;]*m", "", visible).replace("\r", ""))
    return lines


def epoch_row(epoch: int, rate: float | None = None) -> dict[str, float]:
    row = {
        "train/loss": 1 / epoch,
        "valid/loss": 2 / epoch,
        "throughput/steps_per_s": 81.3,
        "time/train/epoch_s": 1.25,
        "time/valid/epoch_s": 0.125,
    }
    if rate is not None:
        row |= {
            "rollout/Lift/success_rate": rate,
            "rollout/Lift/success_rate_low": max(0.0, rate - 0.1),
            "rollout/Lift/success_rate_high": min(1.0, rate + 0.1),
            "rollout/Lift/num_episodes": 50.0,
            "time/rollout/epoch_s": 31.0,
        }
    return row


def started_console(
    info: RunInfo, *, terminal: bool, width: int = 80
) -> tuple[ConsoleLogger, Stream]:
    stream = Stream(terminal=terminal)
    console = ConsoleLogger(stream=stream, width=width)
    console.start(info)
    return console, stream
