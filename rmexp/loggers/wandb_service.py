"""The process behind the W&B SDK, `wandb-core`: started quietly, asked for credentials, ended.

It may have died, or stand still; neither may hold up or bring down the run that it serves.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

from rmexp.loggers.wandb_environment import INHERITED_SERVICE

if TYPE_CHECKING:
    import wandb

_log = logging.getLogger(__name__)

PATIENCE_S = 3.0
"""How long an orderly end of the service may take."""


def start_service(settings: dict[str, Any]) -> None:
    """Start it, silent from the first message on, or join the one of a parent process."""
    import wandb

    try:
        wandb.setup(settings=accepted_settings(settings))
    except Exception:
        if INHERITED_SERVICE not in os.environ:
            raise
        # A parent process that used wandb named its service here, and the service is gone.
        del os.environ[INHERITED_SERVICE]
        end_service()
        wandb.setup(settings=accepted_settings(settings))


def end_service(exit_code: int = 0) -> None:
    """End it and clear the SDK's state, so that a later run of this process gets a fresh one.

    A service that is not gone after `PATIENCE_S` is killed; its file holds what was flushed.
    """
    import wandb

    process = _process()
    killer = threading.Timer(PATIENCE_S, process.kill) if process else None
    if killer:
        killer.start()  # what waits for the process then goes on with an error
    try:
        wandb.teardown(exit_code)
    except (Exception, SystemExit) as error:  # it reports a dead service; the state is clear
        _log.debug("wandb.teardown: %s: %s", type(error).__name__, error)
    finally:
        if process and killer:
            killer.cancel()
            process.kill()
            process.wait()


def accepted_settings(wanted: dict[str, Any]) -> wandb.Settings:
    """`wanted` without what the installed version does not accept."""
    import wandb

    while True:
        try:
            return wandb.Settings(**wanted)
        except ValueError as error:  # pydantic's ValidationError
            refused = {str(e["loc"][0]) for e in getattr(error, "errors", list)()} & set(wanted)
            if not refused:
                raise
            _log.debug("wandb %s refuses the settings %s", wandb.__version__, sorted(refused))
            wanted = {key: value for key, value in wanted.items() if key not in refused}


def has_credentials() -> bool:
    """Whether wandb itself finds any (environment, netrc, settings), without prompt or saving."""
    import wandb
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    return (
        wbauth.authenticate_session(host=host, source="rmexp", prompt=False, update_session=False)
        is not None
    )


def _process() -> subprocess.Popen[bytes] | None:
    """Of the service that this process started; the SDK has no public name for it."""
    from wandb.sdk import wandb_setup

    found: Any = wandb_setup._singleton
    for name in ("_connection", "_proc", "_process"):
        found = getattr(found, name, None)
    return found
