"""The command line: Hydra composes, one place reports, and the exit code tells the truth.

Hydra is asked to raise its errors instead of printing them, so that every failure, ours or its
own, ends here: one clear message, no traceback unless `debug.traceback=true`, exit code 1.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp import refused, sweep
from rmexp.config import COMMAND_LINE, config_dir, register
from rmexp.errors import ConfigError, RmexpError, RunExistsError, RunInUseError
from rmexp.explain import explain
from rmexp.run_dir import RunDirectory, resumed_config, saved_config, with_absolute_paths
from rmexp.sweep import say

_log = logging.getLogger(__name__)
_failures: list[Exception] = []
_traceback_wanted = [False]

PATHS = (
    "resume",
    "dataset.path",
    "paths.data_dir",
    "paths.cache_dir",
    "hydra.run.dir",
    "hydra.sweep.dir",
)
"""Keys whose values are paths: people do not quote those as Hydra's grammar asks."""

OPTIONS_WITH_VALUE = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--experimental-rerun",
)

register()


def main() -> None:
    """`python -m rmexp`, and the console script `rmexp`."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    logging.captureWarnings(True)
    try:
        _check_before_hydra(sys.argv[1:])
        sys.argv[1:] = _for_hydra(sys.argv[1:])
        os.environ[COMMAND_LINE] = "\n".join(sys.argv[1:])
        _hydra_main()
        if _failures:
            raise _failures[0]
    except (HydraException, OmegaConfBaseException, RmexpError) as error:
        _exit(explain(error, sys.argv[1:]), error)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit as stop:
        if stop.code not in (0, None):
            sweep.report(stopped=True)
        raise
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = "; hydra.run.dir=DIR (hydra.sweep.dir=DIR for a sweep) puts a run elsewhere"
        place = f"{error.filename}: " if error.filename else ""
        _exit(f"{place}{error.strerror or error}{where if error.filename else ''}", error)
    except Exception as error:  # a fault of ours or of a library: say so, keep the details
        _exit(f"{type(error).__name__}: {error}", error)
    sweep.report()


@hydra.main(version_base="1.3", config_path=str(config_dir()), config_name="config")
def _hydra_main(config: DictConfig) -> float | None:
    """One job: a single run, or one of a sweep."""
    from rmexp import experiment  # torch is imported from here on, not for --help

    job = HydraConfig.get()
    path = Path(job.runtime.output_dir)
    typed = cast("list[str]", OmegaConf.to_container(job.overrides.task, resolve=False))
    group = Path(job.sweep.dir).name if job.mode == RunMode.MULTIRUN else None
    resume = config.resume is not None
    _traceback_wanted[0] = bool(config.debug.traceback)
    try:
        if resume:
            config = resumed_config(Path(config.resume), typed, config)
        else:
            config = with_absolute_paths(config)
        if group is not None:
            return sweep.run_job(config, path, typed, group, resume)
        with RunDirectory(path).locked():
            return experiment.run(config, path, overrides=typed, group=None, resume=resume)
    except Exception as error:
        if group is not None:
            _log_failure(error, path)
            raise  # the sweeper must know
        if not refused.take_back(error):
            _log_failure(error, path)
        _failures.append(error)
        return None


def _check_before_hydra(arguments: list[str]) -> None:
    """Refuse what cannot be, before Hydra makes directories for it."""
    for argument in arguments:
        key, _, value = argument.partition("=")
        if argument.startswith(("=", "+=", "++=", "~=")):
            raise ConfigError(f"{argument}: there is no key before the =; say key=value")
        if argument == "resume=":
            raise ConfigError("resume=: no directory is given; say resume=outputs/bc_lift/RUN")
        if key == "resume" and value != "null":
            saved_config(Path(value.strip("'\"") if value[0] in "'\"" else value))
    lab = os.environ.get("RMEXP_CONFIG_DIR")
    if lab and "://" not in lab and not Path(lab).is_dir():
        raise ConfigError(f"RMEXP_CONFIG_DIR={lab}: no such directory; unset it or make it")


def _for_hydra(arguments: list[str]) -> list[str]:
    """What people type, as Hydra's parser wants it: options first, and paths in quotes."""
    options: list[str] = []
    overrides: list[str] = []
    words = iter(arguments)
    for word in words:
        if word.startswith("-"):
            options.append(word)
            if word in OPTIONS_WITH_VALUE:
                options += [next(words, "")]
        else:
            overrides.append(word)
    multirun = "-m" in options or "--multirun" in options
    return options + [_quoted(word, multirun) for word in overrides]


def _quoted(word: str, multirun: bool) -> str:
    """A path may hold any character; in a sweep a comma separates."""
    key, _, value = word.partition("=")
    if key not in PATHS or not value or value[0] in "'\"[" or "${" in value:
        return word
    odd = set(value) & set(" =()'\"{}[]:\\,") - (set(",") if multirun else set())
    if not odd:
        return word
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{escaped}'"


def _log_failure(error: Exception, path: Path) -> None:
    """Put the failure into the job's own log; in a sweep also say it at once."""
    details = "".join(traceback.format_exception(error))
    record = _log.makeRecord(_log.name, logging.ERROR, "", 0, "%s", (details,), None)
    anothers = isinstance(error, (RunExistsError, RunInUseError))  # the log of a run that is well
    for handler in [] if anothers else logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        text = details if _traceback_wanted[0] else str(error)
        say(f"job {path.name} failed: {text}")


def _exit(message: str, error: Exception) -> None:
    typed = any(a.lower().startswith("debug.traceback=true") for a in sys.argv[1:])
    wanted = typed or _traceback_wanted[0]
    if wanted:
        say("".join(traceback.format_exception(error)))
    refused.take_back(error)
    if not sweep.report() or not sweep.has_started():
        say(f"error: {message}")
        if not wanted and not isinstance(error, (HydraException, OmegaConfBaseException)):
            say("(debug.traceback=true shows where)")
    sys.exit(1)
