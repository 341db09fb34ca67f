"""A command that is refused before it began leaves nothing: what was made for it is taken back.

Taken back are the first files of a run and the folders that were not there before, and only while
nothing else has been put beside them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rmexp.errors import ConfigError, DatasetError

REFUSALS = (ConfigError, DatasetError, HydraException, OmegaConfBaseException)
"""What says that something given cannot be used, unlike a disk or a simulator that failed."""

FIRST_FILES = (
    ".lock",
    "checkpoints",
    "config.yaml",
    "git.diff",
    "multirun.yaml",
    "overrides.yaml",
    "provenance.json",
    "rmexp.log",
    "status.json",
)


@dataclass(frozen=True)
class Before:
    """How a command found the folder that it writes to."""

    folder: Path
    names: frozenset[str]
    """What lay in it."""
    missing: tuple[Path, ...]
    """It and those above it that did not exist, innermost first."""


_before: list[Before] = []


class Remember(Callback):
    """Looks at the folder of a run or a sweep before Hydra makes it."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        HydraConfig.instance().set_config(config)  # for the ${hydra:...} in the folder's name
        remember(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        remember(Path(config.hydra.sweep.dir))


def remember(folder: Path) -> None:
    """Note what is there now; `take_back` undoes what comes later."""
    folder = folder.absolute()
    names = (
        frozenset(path.name for path in sorted(folder.iterdir()))
        if folder.is_dir()
        else frozenset()
    )
    missing = tuple(path for path in (folder, *folder.parents) if not path.exists())
    _before[:] = [Before(folder, names, missing)]


def take_back(error: Exception) -> bool:
    """Delete what was made for a command that `error` refused; False: it had begun, all stays."""
    if not isinstance(error, REFUSALS) or not _before or not _before[0].folder.is_dir():
        return False
    before = _before[0]
    added = [path for path in sorted(before.folder.iterdir()) if path.name not in before.names]
    if any(path.name not in FIRST_FILES or _is_anothers(path) for path in added):
        return False
    for path in added:
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    for folder in before.missing:
        if any(folder.iterdir()):
            break
        folder.rmdir()
    return True


def _is_anothers(path: Path) -> bool:
    """Whether a directory has something in it, or another process wrote the lock."""
    if path.is_dir():
        return any(path.iterdir())
    return path.name == ".lock" and f"pid {os.getpid()} " not in path.read_text()
