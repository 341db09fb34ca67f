"""A run's directory: what stands in it, and how each file gets there whole.

config.yaml       the resolved configuration        metrics.jsonl   one row an epoch
overrides.yaml    what was typed                    rmexp.log       what was said
provenance.json   code, packages, machine, data     checkpoints/    last.pt, best.pt, epoch_*.pt
status.json       how the run stands                videos/         rollouts
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from rmexp.atomic import unwritable, write_atomically
from rmexp.errors import CheckpointError, ConfigError

State = Literal["running", "finished", "failed", "preempted"]

CHANGEABLE = ("loop.num_epochs", "logging", "debug", "rollout.num_envs", "loop.save", "loop.keep")
"""Keys (or beginnings of keys) that a resumed run may set anew without becoming another run."""


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
        """Write what describes a new run."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.checkpoints, error) from error
        write_atomically(self.config_file, OmegaConf.to_yaml(config, resolve=True).encode())
        write_atomically(self.overrides_file, OmegaConf.to_yaml(overrides).encode())

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
    """sha256 of everything that decides a run's numbers."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    decisive = {
        k: v for k, v in flatten(plain).items() if not k.startswith(("resume", *CHANGEABLE))
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def saved_config(path: Path, changes: list[str]) -> DictConfig:
    """The configuration of an earlier run, with the few changes that a resumed run may make.

    Raises:
        CheckpointError: there is no run in `path`.
        ConfigError: a change would make it another run; lists old and new values.
    """
    directory = RunDirectory(path)
    try:
        config = OmegaConf.load(directory.config_file)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"resume={path}: there is no run here (no {directory.config_file.name}); "
            "give the directory that holds config.yaml and checkpoints/"
        ) from error
    except Exception as error:  # any parser's complaint about a damaged file
        raise CheckpointError(f"{directory.config_file}: cannot be read: {error}") from error
    assert isinstance(config, DictConfig)
    changed = OmegaConf.merge(config, OmegaConf.from_dotlist(changes))
    assert isinstance(changed, DictConfig)
    before, after = (flatten(OmegaConf.to_container(c)) for c in (config, changed))
    refused = [
        f"  {key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not key.startswith(CHANGEABLE)
    ]
    if refused:
        raise ConfigError(
            f"resume={path}: a resumed run keeps its configuration; start a new run for\n"
            + "\n".join(refused)
        )
    return changed


def flatten(node: Any, key: str = "") -> dict[str, Any]:
    """{'a': {'b': 1}} -> {'a.b': 1}; lists are values."""
    if not isinstance(node, dict) or not node:
        return {key: node}
    flat: dict[str, Any] = {}
    for name, child in node.items():
        flat |= flatten(child, f"{key}.{name}" if key else str(name))
    return flat
