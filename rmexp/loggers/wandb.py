"""Weights & Biases as a view: the only import of `wandb`, made when a run starts.

It never prompts, never waits without end and writes only below the run directory: without
credentials, or when the server does not answer, the run is kept offline for a later `wandb sync`.
The id stands in `<run_dir>/wandb_id`, so that a resumed run continues the same W&B run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rmexp.atomic import write_atomically
from rmexp.loggers.base import Logger, RunInfo
from rmexp.loggers.report import path_for_shell
from rmexp.loggers.wandb_environment import INHERITED_SERVICE, WandbEnvironment
from rmexp.loggers.wandb_sent import sent

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

_LONGEST_NAME = 128  # what the server accepts
# Every other metric is drawn over the epoch.
_BY_GLOBAL_STEP = ("train/*", "optimizer/*")


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
        self._settings = {
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
        self._is_broken = False
        self._environment = WandbEnvironment()
        self._with_extremes: set[str] = set()

    def start(self, info: RunInfo) -> None:
        self._run_dir = info.run_dir
        if self._mode == "disabled":
            return
        self._environment.prepare(info.run_dir)
        self._set_up()
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

    def shown(self) -> set[tuple[int, str]] | None:
        return None if self._run is None else sent(self._run_dir)

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        for key in row.keys() - self._with_extremes:
            self._keep_extreme(key)
        self._send(dict(row), epoch, global_step)

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        """Send the file as it is; nothing is encoded here."""
        if self._run is not None:
            import wandb

            self._send({key: wandb.Video(str(path))}, epoch, global_step)

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
        if self._run is not None:
            import wandb

            chart = wandb.plot.line_series(
                xs=list(xs),
                ys=[list(ys), list(lows), list(highs)],
                keys=[key.rpartition("/")[2], "low", "high"],
                title=key,
                xname="epoch",
            )
            self._send({key: chart}, epoch, global_step)

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
        run = self._run
        try:
            if run is not None:
                if not self._is_broken:
                    run.summary.update(
                        {
                            k: v
                            for k, v in summary.items()
                            if not k.startswith(("paths/", "how_to/"))
                        }
                    )
                run.finish(exit_code=exit_code)
        except TimeoutError:
            _log.warning(
                "W&B did not take everything within %g s; nothing is lost, send the rest with: %s",
                self._settings["finish_timeout"],
                self._sync_command(),
            )
            _tear_down()
        except Exception:
            _tear_down()  # a service that died would fail every later run of this process too
            raise
        finally:
            self._run = None
            self._environment.restore()

    def _set_up(self) -> None:
        import wandb

        try:
            wandb.setup(settings=self._build_settings())  # silent from the first message on
        except Exception:
            if INHERITED_SERVICE not in os.environ:
                raise
            # A parent process that used wandb named its service here, and the service is gone.
            del os.environ[INHERITED_SERVICE]
            _tear_down()
            wandb.setup(settings=self._build_settings())

    def _choose_mode(self) -> str:
        """online, offline or disabled; `auto` is decided here and said in one line."""
        import wandb

        wish = self._environment.mode() if self._mode == "auto" else self._mode
        mode = wish or wandb.setup().settings.mode
        if mode in ("disabled", "offline", "dryrun"):
            return "disabled" if mode == "disabled" else "offline"
        if _has_credentials():
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
            _tear_down()  # else the offline start is refused: "run ID is in use"
            self._set_up()
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
            settings=self._build_settings(**_git_settings(info.git or {})),
        )

    def _build_settings(self, **more: Any) -> wandb.Settings:
        """Our settings and `more`, without any that the installed version does not accept."""
        import wandb

        wanted: dict[str, Any] = {**self._settings, **more}
        while True:
            try:
                return wandb.Settings(**wanted)
            except ValueError as error:  # pydantic's ValidationError
                refused = {str(e["loc"][0]) for e in getattr(error, "errors", list)()} & set(wanted)
                if not refused:
                    raise
                _log.debug("wandb %s refuses the settings %s", wandb.__version__, sorted(refused))
                wanted = {key: value for key, value in wanted.items() if key not in refused}

    def _send(self, values: dict[str, Any], epoch: int, global_step: int) -> None:
        if self._run is None:
            return
        try:
            self._run.log({**values, "epoch": epoch, "global_step": global_step})
        except Exception:
            self._is_broken = True
            raise

    def _keep_extreme(self, key: str) -> None:
        """Let the run's table show the best value, also for a run that is killed."""
        self._with_extremes.add(key)
        if self._run is None:
            return
        if key.endswith("/success_rate"):
            self._run.define_metric(key, step_metric="epoch", summary="max,last")
        elif key == "valid/loss":
            self._run.define_metric(key, step_metric="epoch", summary="min,last")

    def _sync_command(self) -> str:
        online = self._run is not None and not self._run.offline
        pattern = "run-*" if online else "offline-run-*"
        return f"wandb sync {path_for_shell(self._run_dir / 'wandb')}/{pattern}"


def _has_credentials() -> bool:
    """Whether wandb itself finds any (environment, netrc, settings), without prompt or saving."""
    import wandb
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    return (
        wbauth.authenticate_session(host=host, source="rmexp", prompt=False, update_session=False)
        is not None
    )


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


def _tear_down() -> None:
    import wandb

    try:
        wandb.teardown()
    except (Exception, SystemExit) as error:  # it reports the dead service; state is clear
        _log.debug("wandb.teardown: %s: %s", type(error).__name__, error)
