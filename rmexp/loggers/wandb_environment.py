"""The variables through which a user, or a parent process, steers the W&B SDK.

What the SDK would stumble over is set aside for the length of a run and put back afterwards.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

_log = logging.getLogger(__name__)

INHERITED_SERVICE = "WANDB_SERVICE"
_MODE = "WANDB_MODE"
_MODES = ("online", "offline", "disabled", "dryrun", "run", "shared")
# Of these wandb would otherwise write to the user's home.
_HOME_DIRS = {"WANDB_CACHE_DIR": "cache", "WANDB_DATA_DIR": "data"}


class WandbEnvironment:
    """`prepare` before the SDK starts, `restore` when the run is over."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}

    def prepare(self, run_dir: Path) -> None:
        """Keep the SDK out of the user's home and away from a WANDB_MODE that it refuses."""
        self._before = {name: os.environ.get(name) for name in (*_HOME_DIRS, _MODE)}
        for name, folder in _HOME_DIRS.items():
            os.environ.setdefault(name, str(run_dir / "wandb" / folder))
        if os.environ.get(_MODE) not in (None, *_MODES):
            del os.environ[_MODE]

    def mode(self) -> str | None:
        """WANDB_MODE as the user set it: empty is None, an unknown one is offline and said once."""
        value = (self._before.get(_MODE) or "").strip()
        if not value or value in _MODES:
            return value or None
        _log.warning("WANDB_MODE=%r is not online, offline or disabled: offline", value)
        return "offline"

    def restore(self) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._before = {}
