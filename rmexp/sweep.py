"""Jobs of a sweep: each is run unless it is done or another process is at it; all are reported.

So the same command continues a sweep that was stopped, and several processes can share one.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from rmexp.errors import ConfigError, RunInUseError
from rmexp.loggers.jsonl import JsonlRecord
from rmexp.loggers.report import objective_text, path_for_shell
from rmexp.run_dir import RunDirectory, config_hash

_log = logging.getLogger(__name__)
_folders: list[Path] = []
_started: list[Path] = []


class SweepReport(Callback):
    """Remembers where a sweep writes, so that its end can be told whatever launched its jobs.

    The order of the jobs is known of those that run in this process.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        _folders.append(Path(config.hydra.sweep.dir).absolute())

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        _started.append(Path(config.hydra.runtime.output_dir).absolute())


def run_job(
    config: DictConfig, path: Path, typed: list[str], group: str, resume: bool
) -> float | None:
    """One job, unless it is done or another process is at it: so several may share a sweep."""
    from rmexp import experiment

    directory = RunDirectory(path)
    try:
        with directory.locked():
            if done := _earlier_status(directory, config):
                if done["state"] == "finished" and done["num_epochs"] >= config.loop.num_epochs:
                    _log.info("%s: finished earlier, skipped", path.name)
                    return done.get("objective")
                resume = directory.holds_a_run()
            return experiment.run(config, path, overrides=typed, group=group, resume=resume)
    except RunInUseError:
        _earlier_status(directory, config)
        say(f"{path.name}: another process is at it, left to that")
        return None


def _earlier_status(directory: RunDirectory, config: DictConfig) -> dict[str, Any] | None:
    """What is known of this very job, or None if it never began."""
    status = directory.status()
    if status and status["config_hash"] != config_hash(config):
        raise ConfigError(
            f"{directory.path}: this sweep directory holds a job of the same name with another "
            "configuration; choose another hydra.sweep.dir"
        )
    return status


def report(stopped: bool = False) -> bool:
    """Print how each job of a sweep ended, and of a stopped one the way on; False: no sweep."""
    if not _folders or not _folders[0].is_dir():
        return False
    folder = _folders[0]
    jobs = _in_order(folder)
    if not jobs:
        return False
    lines = [f"sweep {folder}:"]
    for job in jobs:
        status = RunDirectory(job).status() or {"state": "not started"}
        objective = status.get("objective")
        record = job / "metrics.jsonl"
        rows = JsonlRecord.read(record) if objective is not None and record.exists() else []
        shown = "" if objective is None else f"  objective {objective_text(objective, rows)}"
        lines.append(f"  {status['state']:<11}  {job.name}{shown}")
        if status.get("error") and status["state"] != "finished":
            lines += [f"      {line}" for line in str(status["error"]).splitlines()]
    if stopped:
        again = f"hydra.sweep.dir={path_for_shell(folder)}"
        lines.append(f"to go on with all of it, give the same command again with {again}")
    say("\n".join(lines))
    return True


def has_started() -> bool:
    """Whether a job began in this process."""
    return bool(_started)


def _in_order(folder: Path) -> list[Path]:
    """The jobs in `folder` as they were started; the rest, which others ran, by name."""
    from rmexp.data.arrays import natural_order  # numpy, which --help does without

    rest = sorted(
        (path for path in sorted(folder.iterdir()) if path.is_dir() and path not in _started),
        key=lambda path: natural_order(path.name),
    )
    return [path for path in _started if path.parent == folder and path.is_dir()] + rest


def say(text: str) -> None:
    """A line for who sits at the terminal."""
    sys.stderr.write(text.rstrip() + "\n")
    sys.stderr.flush()
