"""A run's directory: what stands in it, and how each file gets there whole.

config.yaml       the resolved configuration        metrics.jsonl   one row an epoch
overrides.yaml    what was typed                    rmexp.log       what was said
provenance.json   code, packages, machine, data     checkpoints/    last.pt, previous.pt, best.pt,
status.json       how the run stands                                epoch_*.pt
.lock             who runs here                     videos/         rollouts
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_yaml_loader  # numbers as in every other configuration

from rmexp.atomic import unwritable, write_atomically
from rmexp.errors import CheckpointError, ConfigError, RunExistsError, RunInUseError
from rmexp.trust import shipped_targets, targets, trusted_config

_log = logging.getLogger(__name__)

State = Literal["running", "finished", "failed", "preempted"]

CHANGEABLE = (
    "loop.num_epochs",
    "loop.save_",
    "loop.keep",
    "logging",
    "debug",
    "tags",
    "rollout.num_envs",
    "rollout.video_",
    "dataset.path",  # the data may have moved; the checkpoint knows their hash
    "paths",
    "resume",
    "trust",
)
"""Keys (or beginnings of keys) that a resumed run may set anew without becoming another run."""

GROUPS = ("algo", "dataset", "loop", "rollout", "logging", "debug", "experiment", "sweep")


class RunDirectory:
    """Paths and small files of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.config_file = self.path / "config.yaml"
        self.overrides_file = self.path / "overrides.yaml"
        self.status_file = self.path / "status.json"
        self.provenance_file = self.path / "provenance.json"
        self.metrics_file = self.path / "metrics.jsonl"

    def create(self, config: DictConfig, overrides: list[str]) -> None:
        """Write what describes a new run; the configuration comes last and makes it one.

        Raises:
            RunExistsError: there is a run in this directory already; lists how it differs.
            CheckpointError: the directory cannot be written.
        """
        if self.holds_a_run():
            before = saved_config(self.path) if self.config_file.exists() else _plain(config)
            differences = "".join(f"  {line}\n" for line in changes(before, _plain(config)))
            epochs = config.loop.num_epochs
            longer = not differences and flatten(before).get("loop.num_epochs") != epochs
            raise RunExistsError(
                f"{self.path}: there is a run here already"
                + (f", with another configuration:\n{differences}" if differences else "; ")
                + f"continue it with resume={self.path}"
                + (f" loop.num_epochs={epochs}" if longer else "")
                + ", or give the new one another hydra.run.dir"
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.checkpoints, error) from error
        write_atomically(self.overrides_file, OmegaConf.to_yaml(overrides).encode())
        self.write_config(config)

    def holds_a_run(self) -> bool:
        """Whether something is here that must not be overwritten."""
        return self.metrics_file.exists() or any(self.checkpoints.glob("*.pt"))

    def write_config(self, config: DictConfig) -> None:
        write_atomically(self.config_file, OmegaConf.to_yaml(config, resolve=True).encode())

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold this directory alone; the lock ends with the process, however it ends.

        Raises:
            RunInUseError: another process is running here.
        """
        path = self.path / ".lock"
        try:
            file = path.open("a+")
        except OSError as error:
            raise unwritable(path, error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunInUseError(
                    f"{self.path}: another process is running here ({file.read().strip()}); "
                    "wait for it, or stop it with SIGTERM and resume"
                ) from error
            except OSError as error:  # a file system that knows no locks
                _log.warning(
                    "%s: cannot be locked (%s); take care that only one process runs here",
                    self.path,
                    error.strerror,
                )
            file.truncate(0)
            file.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
            file.flush()
            self._clear()
            yield

    def _clear(self) -> None:
        """Delete what a killed process had begun to write; nobody else writes here now."""
        for folder in (self.path, self.checkpoints, self.videos):
            for torn in sorted(folder.glob(".*.tmp*")):
                torn.unlink()

    def status(self) -> dict[str, Any] | None:
        """The last status written, or None."""
        try:
            return json.loads(self.status_file.read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.status_file}: cannot be read: {error}") from error

    def write_status(self, state: State, config: DictConfig, **more: Any) -> None:
        """Say how the run stands; keys of `more` whose value is None are left out."""
        status: dict[str, Any] = {
            "state": state,
            "config_hash": config_hash(config),
            "num_epochs": config.loop.num_epochs,
            "pid": os.getpid(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        status |= {key: value for key, value in more.items() if value is not None}
        write_atomically(self.status_file, (json.dumps(status, indent=2) + "\n").encode())


def config_hash(config: DictConfig) -> str:
    """sha256 of the keys that make this run the run it is; what `CHANGEABLE` names is left out."""
    decisive = {k: v for k, v in flatten(_plain(config)).items() if not k.startswith(CHANGEABLE)}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def with_absolute_paths(config: DictConfig) -> DictConfig:
    """The same configuration, resolved and independent of the working directory."""
    plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    paths = plain["dataset"].get("path")
    if isinstance(paths, str) and paths != "???":
        plain["dataset"]["path"] = _absolute(paths)
    elif isinstance(paths, list):
        plain["dataset"]["path"] = [_absolute(path) for path in paths]
    absolute = OmegaConf.create(plain)
    assert isinstance(absolute, DictConfig)
    return absolute


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def saved_config(path: Path) -> Any:
    """The configuration of the run in `path`, as it stands there: plain data, not to be believed.

    Raises:
        CheckpointError: there is none, or a file that the run would write is a link to another.
    """
    directory = RunDirectory(path)
    try:
        plain = yaml.load(directory.config_file.read_text(), get_yaml_loader())
    except FileNotFoundError as error:
        raise CheckpointError(
            f"resume={path}: there is no run here (no {directory.config_file.name}); give the "
            "directory that holds config.yaml and checkpoints/. A run that was stopped before it "
            "had written that file has nothing to continue: give its command again"
        ) from error
    except Exception as error:  # any parser's complaint about a damaged file
        raise CheckpointError(f"{directory.config_file}: cannot be read: {error}") from error
    for entry in sorted(path.iterdir()):
        if entry.is_symlink() and not entry.is_dir():
            raise CheckpointError(
                f"{entry}: is a link to {entry.readlink()}, which the run would write to; "
                "put the file itself here"
            )
    return plain


def resumed_config(path: Path, typed: list[str], composed: DictConfig) -> DictConfig:
    """The saved configuration with the few changes that a resumed run may make.

    Args:
        path: the run's directory.
        typed: the overrides of the command line.
        composed: what Hydra made of them.

    Raises:
        CheckpointError: there is no run in `path`, or it names classes that are not trusted: the
            shipped ones are, those in `composed`, and what it lists as `trust`.
        ConfigError: a change would make it another run; lists old and new values.
    """
    own = targets(_plain(composed)) - shipped_targets("")
    trust = {*composed.trust, *own}
    saved = trusted_config(saved_config(path), trust, str(RunDirectory(path).config_file))
    keys = [word.lstrip("+~").partition("=")[0] for word in typed]
    keys = [key for key in keys if key not in ("resume", "logging")]
    if any(key in GROUPS or "/" in key for key in keys):
        wanted = composed  # the whole command was given again
    else:
        wanted = saved.copy()
        for key in keys:
            OmegaConf.update(wanted, key, OmegaConf.select(composed, key), force_add=True)
    if any(word.startswith("logging=") for word in typed):
        wanted = wanted.copy()
        OmegaConf.update(wanted, "logging", composed.logging, merge=False)
    wanted = with_absolute_paths(wanted)
    if refused := changes(_plain(saved), _plain(wanted)):
        raise ConfigError(
            f"resume={path}: a resumed run keeps its configuration; start a new run for\n"
            + "\n".join(f"  {line}" for line in refused)
        )
    return wanted


def changes(before: Any, after: Any) -> list[str]:
    """`key: old -> new` for each difference that makes `after` another run than `before`.

    Both are plain: nested dicts, lists and values.
    """
    old, new = flatten(before), flatten(after)
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(CHANGEABLE)
    ]


def _plain(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists are values."""
    if not isinstance(node, dict) or not node:
        return {key: node}
    flat: dict[str, Any] = {}
    for name, child in node.items():
        flat |= flatten(child, f"{key}.{name}" if key else str(name))
    return flat
