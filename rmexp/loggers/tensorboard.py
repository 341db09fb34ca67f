"""TensorBoard as a view: scalars over the global step, rollouts and the curve over the epoch.

Videos stay files, because TensorBoard would need another package to store them as GIFs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rmexp.errors import ConfigError
from rmexp.loggers.base import Logger, RunInfo
from rmexp.loggers.report import path_for_shell

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_log = logging.getLogger(__name__)


class TensorBoardLogger(Logger):
    """Event files in `<run_dir>/<subdir>`.

    Raises:
        ConfigError: tensorboard is not installed (asked before anything else is done).
    """

    def __init__(self, *, subdir: str) -> None:
        if find_spec("tensorboard") is None:
            raise ConfigError(
                "logging=tensorboard: tensorboard is not installed; "
                "pip install 'rmexp[tensorboard]', or choose logging=wandb or logging=none"
            )
        self._subdir = subdir
        self._dir = Path(subdir)
        self._writer: SummaryWriter | None = None
        self._told_about_videos = False
        self._resumed = False
        self._drawn_to: dict[str, float] = {}

    def start(self, info: RunInfo) -> None:
        self._dir = info.run_dir / self._subdir
        self._resumed = info.resumed
        import_module("torch.utils.tensorboard")  # slow: better here than in the first epoch

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        writer = self._open(global_step)
        for key, value in row.items():
            step = epoch if key.startswith("rollout/") else global_step
            writer.add_scalar(key, value, step)
        writer.flush()

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        if not self._told_about_videos:
            self._told_about_videos = True
            _log.info("TensorBoard shows no videos; they are in %s", path.parent)

    def log_curve(
        self,
        key: str,
        xs: Sequence[float],
        ys: Sequence[float],
        lows: Sequence[float],
        highs: Sequence[float],
        *,
        epoch: int,
        global_step: int,
    ) -> None:
        """Three scalars over `xs`; points that an earlier call has drawn are not drawn again."""
        writer = self._open(global_step)
        drawn = self._drawn_to.get(key, epoch - 1 if self._resumed else -math.inf)
        for name, values in (("", ys), ("_low", lows), ("_high", highs)):
            for x, y in zip(xs, values, strict=True):
                if x > drawn:
                    writer.add_scalar(f"{key}{name}", y, round(x))
        self._drawn_to[key] = max(xs, default=drawn)
        writer.flush()

    def how_to(self) -> dict[str, str]:
        return {"tensorboard": f"tensorboard --logdir {path_for_shell(self._dir)}"}

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, global_step: int) -> SummaryWriter:
        """Opened at the first row, so that a resumed run hides what it is about to write again."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._dir), purge_step=global_step)
        return self._writer
