"""Weights & Biases as a view; `wandb` is imported when a run starts.

It never prompts, never makes an epoch wait and writes only below the run directory: without
credentials, or when the server does not answer, the run is kept offline for a later `wandb sync`.
Rows go to the SDK on a thread, because it waits for its own process, which may stand still.
The id stands in `<run_dir>/wandb_id`, so that a resumed run continues the same W&B run.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmexp.atomic import write_atomically
from rmexp.loggers.base import Logger, RunInfo
from rmexp.loggers.call_queue import CallQueue
from rmexp.loggers.report import path_for_shell
from rmexp.loggers.wandb_environment import WandbEnvironment
from rmexp.loggers.wandb_sent import sent
from rmexp.loggers.wandb_service import (
    PATIENCE_S,
    accepted_settings,
    end_service,
    has_credentials,
    start_service,
)

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

_LONGEST_NAME = 128  # what the server accepts
# Every other metric is drawn over the epoch.
_BY_GLOBAL_STEP = ("train/*", "optimizer/*")
_ROOM = 1000  # rows that may wait for a service that stands still


class WandbLogger(Logger):
    """`mode: auto` obeys WANDB_MODE or `wandb offline`, else is online if credentials exist."""

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: Literal["auto", "online", "offline", "disabled"],
        init_timeout: float,
        finish_timeout: float,
        flush_interval: float,
    ) -> None:
        self._project = project
        self._entity = entity
        self._mode = mode
        self._settings: dict[str, Any] = {
            "disable_git": True,  # it would look at the working directory, not at the code
            "silent": True,
            "console": "off",
            "init_timeout": init_timeout,
            "finish_timeout": finish_timeout,
            "finish_timeout_raises": True,
            "x_transaction_log_flush_interval": flush_interval,
        }
        self._run_dir = Path()
        self._run: wandb.Run | None = None
        self._calls: CallQueue | None = None
        self._is_broken = False
        self._environment = WandbEnvironment()
        self._with_extremes: set[str] = set()
        self._sample_size = ""

    def start(self, info: RunInfo) -> None:
        self._run_dir = info.run_dir
        if self._mode == "disabled":
            return
        self._environment.prepare(info.run_dir)
        start_service(self._settings)
        mode = self._choose_mode()
        if mode == "disabled":
            return
        if mode == "online":
            self._run = self._start_online(info)
        self._run = self._run or self._init(info, "offline")
        self._run.define_metric("epoch")
        self._run.define_metric("global_step")
        self._run.define_metric("*", step_metric="epoch")
        for pattern in _BY_GLOBAL_STEP:
            self._run.define_metric(pattern, step_metric="global_step")
        self._calls = CallQueue("wandb rows", _ROOM)

    def shown(self) -> set[tuple[int, str]] | None:
        return None if self._run is None else sent(self._run_dir)

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        at = {"epoch": epoch, "global_step": global_step}

        values = dict(row)  # the caller may go on with its own

        def send(run: wandb.Run) -> None:
            self._keep_extremes(run, values)
            run.log(values | at)

        self._later(send)

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        """Send the file as it is; nothing is encoded here."""
        at = {"epoch": epoch, "global_step": global_step}

        def send(run: wandb.Run) -> None:
            import wandb

            run.log({key: wandb.Video(str(path)), **at})

        self._later(send)

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
        at = {"epoch": epoch, "global_step": global_step}
        columns = [list(column) for column in (xs, ys, lows, highs)]

        def send(run: wandb.Run) -> None:
            import wandb

            chart = wandb.plot.line_series(
                xs=columns[0],
                ys=columns[1:],
                keys=[key.rpartition("/")[2], "low", "high"],
                title=f"{key}, 95 % interval{self._sample_size}",
                xname="epoch",
            )
            run.log({key: chart, **at})

        self._later(send)

    def how_to(self) -> dict[str, str]:
        if self._run is None and not self.offline_dirs():
            return {}
        if self._run is not None and not self._is_broken and not self._run.offline:
            return {"view": self._run.url or "https://wandb.ai"}
        return {"sync": self._sync_command()}

    def offline_dirs(self) -> list[Path]:
        """Directories that hold rows not sent to a server, oldest first (one per start)."""
        return sorted(self._run_dir.glob("wandb/offline-run-*"))

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        shown = {k: v for k, v in summary.items() if not k.startswith(("paths/", "how_to/"))}
        timeout = self._settings["finish_timeout"]

        def end(run: wandb.Run) -> None:
            run.summary.update(shown)
            run.finish(exit_code=exit_code)

        try:
            if self._calls is not None:
                self._calls.close(self._on_run(end), timeout + PATIENCE_S)
        except TimeoutError:
            _log.warning(
                "W&B did not take everything within %g s; nothing is lost, send the rest with: %s",
                timeout,
                self._sync_command(),
            )
            end_service(exit_code)
        except Exception:
            end_service(exit_code)  # one that died would fail every later run of this process too
            raise
        finally:
            self._run = self._calls = None
            self._environment.restore()

    def _choose_mode(self) -> str:
        """online, offline or disabled; `auto` is decided here and said in one line."""
        import wandb

        wish = self._environment.mode() if self._mode == "auto" else self._mode
        mode = wish or wandb.setup().settings.mode
        if mode in ("disabled", "offline", "dryrun"):
            return "disabled" if mode == "disabled" else "offline"
        if has_credentials():
            return "online"
        _log.log(
            logging.WARNING if wish else logging.INFO,
            "W&B has no credentials (`wandb login` stores them): offline; later: %s",
            self._sync_command(),
        )
        return "offline"

    def _start_online(self, info: RunInfo) -> wandb.Run | None:
        try:
            run = self._init(info, "online")
        except Exception as error:
            end_service()  # else the offline start is refused: "run ID is in use"
            start_service(self._settings)
            _log.warning(
                "W&B could not be reached (%s: %s): offline; later: %s",
                type(error).__name__,
                str(error).splitlines()[0] if str(error) else "no message",
                self._sync_command(),
            )
            return None
        _log.info("W&B: %s", run.url)
        return run

    def _init(self, info: RunInfo, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        return wandb.init(
            project=self._project,
            entity=self._entity,
            mode=mode,
            dir=str(info.run_dir),
            id=_run_id(info.run_dir),
            resume="allow",
            reinit="finish_previous",
            name=_shortened(info.name),
            tags=info.tags,
            group=info.group and _shortened(info.group),
            job_type=info.job_type,
            config={**info.config, **({"provenance/git": info.git} if info.git else {})},
            settings=accepted_settings(self._settings | _git_settings(info.git or {})),
        )

    def _later(self, call: Callable[[wandb.Run], None]) -> None:
        """Make `call` on the thread; raises what an earlier one raised there."""
        if self._calls is not None:
            self._calls.submit(self._on_run(call))

    def _on_run(self, call: Callable[[wandb.Run], None]) -> Callable[[], None]:
        run = self._run
        assert run is not None

        def made() -> None:
            try:
                call(run)
            except Exception:
                self._is_broken = True
                raise

        return made

    def _keep_extremes(self, run: wandb.Run, row: Mapping[str, float]) -> None:
        """Let the run's table show the best values, also for a run that is killed.

        The bounds of an interval grow with its rate, so the highest of each belong together.
        """
        for key in row.keys() - self._with_extremes:
            self._with_extremes.add(key)
            if key.rpartition("/")[2].startswith("success_rate"):
                run.define_metric(key, step_metric="epoch", summary="max,last")
            elif key == "valid/loss":
                run.define_metric(key, step_metric="epoch", summary="min,last")
        for key, value in row.items():
            if key.endswith("/num_episodes"):
                self._sample_size = f", n = {value:.0f}"

    def _sync_command(self) -> str:
        """For a shell; `wandb sync` skips runs that began online, unless told."""
        folder = path_for_shell(self._run_dir / "wandb")
        if self._run is not None and not self._run.offline:
            return f"wandb sync --include-online {folder}/run-*"
        return f"wandb sync {folder}/offline-run-*"


def _git_settings(git: Mapping[str, Any]) -> dict[str, Any]:
    """What the UI shows as the run's git state."""
    named = {"git_commit": git.get("commit"), "git_remote_url": git.get("remote")}
    return {key: value for key, value in named.items() if value}


def _shortened(name: str) -> str:
    """Beginning and end of a name that is too long, kept apart from others by a hash between."""
    if len(name) <= _LONGEST_NAME:
        return name
    middle = f"~{hashlib.sha256(name.encode()).hexdigest()[:8]}~"
    kept = _LONGEST_NAME - len(middle)
    return name[: kept // 2] + middle + name[len(name) - (kept - kept // 2) :]


def _run_id(run_dir: Path) -> str:
    file = run_dir / "wandb_id"
    if not file.exists():
        write_atomically(file, f"{secrets.token_hex(5)}\n".encode())
    return file.read_text().strip()
