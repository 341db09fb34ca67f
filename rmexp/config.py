"""The configuration's frame: where `conf/` is, which keys the top level has, which resolvers exist.

Groups stay free-form (their `_target_` is their schema, see `rmexp.check`); the top level is typed
here, so that a misspelt key in an experiment file is an error and not silently ignored.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.errors import ConfigError
from rmexp.suggest import did_you_mean

COMMAND_LINE = "RMEXP_COMMAND_LINE"
"""Environment variable that tells a sweep's workers what was typed, one word a line."""


MAX_THREADS = 1024
"""Threads that a file may ask for; systems refuse a process that starts many more."""


@dataclass
class Paths:
    """Directories that differ from machine to machine."""

    data_dir: str = "data"
    cache_dir: str = "~/.cache/rmexp"


@dataclass
class Debug:
    """Switches for finding faults."""

    traceback: bool = False


@dataclass
class RmexpConfig:
    """Every key of the top level; the values stand in `conf/config.yaml`."""

    name: str = "???"
    seed: int = 0
    device: str = "auto"
    num_threads: int | None = None
    deterministic: bool = False
    tags: list[str] = field(default_factory=list)
    objective: str | None = None
    resume: str | None = None
    trust: list[str] = field(default_factory=list)
    paths: Paths = field(default_factory=Paths)
    debug: Debug = field(default_factory=Debug)
    algo: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    loop: dict[str, Any] = field(default_factory=dict)
    rollout: dict[str, Any] = field(default_factory=dict)
    logging: dict[str, Any] = field(default_factory=dict)


def check_top_level(config: DictConfig) -> None:
    """Raise ConfigError for keys of the top level that came in a file and are not as typed here."""
    known = [item.name for item in fields(RmexpConfig)]
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{key}: the configuration has no such key{did_you_mean(str(key), known)}"
            )
    try:
        OmegaConf.merge(OmegaConf.structured(RmexpConfig), config)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    if not 1 <= (config.num_threads or 1) <= MAX_THREADS:
        raise ConfigError(f"num_threads: {config.num_threads} is not between 1 and {MAX_THREADS}")


def config_dir() -> Path:
    """The shipped `conf/`: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "conf", here.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise FileNotFoundError(f"no conf/config.yaml in or beside {here}: reinstall rmexp")


def asset(name: str) -> str:
    """Absolute path of a file shipped in `rmexp/assets`."""
    return str(Path(__file__).resolve().parent / "assets" / name)


def slug(text: str, longest: int = 100) -> str:
    """A directory name for `text`; a digest keeps names apart that had to be changed."""
    clean = re.sub(r"[^A-Za-z0-9=,.\-+_]+", "_", text)
    if clean == text and len(text) <= longest:
        return text or "default"
    return f"{clean[:longest]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sweep_name(overrides: list[str]) -> str:
    """A sweep's job is named by what differs between jobs, so that the same job is found again."""
    common = os.environ.get(COMMAND_LINE, "").split("\n")
    return slug(",".join(o for o in overrides if o not in common))


def run_dir(resume: str | None, new: str) -> str:
    """A resumed run goes on in its own directory."""
    return resume or new


def register() -> None:
    """Make the schema and the resolvers known to Hydra; harmless when called again."""
    ConfigStore.instance().store(name="rmexp_schema", node=RmexpConfig)
    for name, function in {
        "rmexp.asset": asset,
        "rmexp.sweep_name": sweep_name,
        "rmexp.run_dir": run_dir,
    }.items():
        OmegaConf.register_new_resolver(name, function, replace=True)
