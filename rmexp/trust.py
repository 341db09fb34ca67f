"""Which classes a configuration that came in a file may name: the shipped ones, each in its group.

A configuration names what is built, so one from elsewhere would choose what is imported and run. It
is read as plain data here, and nothing is imported before all of it has passed.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rmexp.config import config_dir
from rmexp.earlier import current_target
from rmexp.errors import CheckpointError

TARGET = "_target_"
HYDRA_SWITCHES = ("_args_", "_convert_", "_recursive_")
"""What else Hydra obeys in a node; no shipped configuration needs them, so none in a file may."""

MAX_VALUES = 20_000
MAX_DEPTH = 40


@cache
def shipped_targets(group: str) -> frozenset[str]:
    """Every `_target_` that the shipped configurations of a group name; all of them for ""."""
    found: set[str] = set()
    for file in sorted((config_dir() / group).rglob("*.yaml")):
        found |= targets(OmegaConf.to_container(OmegaConf.load(file), resolve=False))
    return frozenset(found)


def trusted_config(plain: Any, trust: Collection[str], source: str) -> DictConfig:
    """A configuration that came in a file, cleared for building.

    Args:
        plain: nested dicts, lists and values.
        trust: import paths that the caller vouches for, beyond the shipped ones.
        source: where it came from, for the error.

    Raises:
        CheckpointError: it names a `_target_` that is neither trusted nor shipped for its group, or
            holds an interpolation or something that is no plain value. Nothing has been imported
            by then.
    """
    if not isinstance(plain, dict):
        raise CheckpointError(f"{source}: the configuration is no mapping; give the file as it was")
    checked = _Reading(source, frozenset(trust)).copy(plain, "", 0)
    config = OmegaConf.create(checked)
    assert isinstance(config, DictConfig)
    return config


class _Reading:
    """Copies plain data while counting them; refuses all else with its full key."""

    def __init__(self, source: str, trust: frozenset[str]) -> None:
        self._source = source
        self._trust = trust
        self._count = 0

    def copy(self, value: Any, key: str, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_VALUES or depth > MAX_DEPTH:
            raise self._refusal("the configuration", "is larger or deeper than any that was built")
        if type(value) is dict:
            return {self._name(n, key): self._item(n, v, key, depth) for n, v in value.items()}
        if type(value) in (list, tuple):
            return [self.copy(v, f"{key}[{i}]", depth + 1) for i, v in enumerate(value)]
        if type(value) is str and "${" in value:
            raise self._refusal(key, f"holds an interpolation ({value!r})")
        if value is not None and type(value) not in (str, int, float, bool):
            raise self._refusal(key, f"is a {type(value).__name__}, not a plain value")
        return value

    def _name(self, name: Any, key: str) -> str:
        if type(name) is not str or "${" in name:
            raise self._refusal(key or "the configuration", f"has the key {name!r}")
        return name

    def _item(self, name: str, value: Any, key: str, depth: int) -> Any:
        full = f"{key}.{name}" if key else name
        allowed = shipped_targets(full.partition(".")[0].partition("[")[0]) | self._trust
        if name == TARGET and type(value) is str:
            value = current_target(value)
        if name == TARGET and not (type(value) is str and value in allowed):
            raise CheckpointError(
                f"{self._source}: {full} is {value!r}, which rmexp does not ship there; building "
                f"it would run code of its choosing. If you trust it, add trust=[{value}]"
            )
        if name in HYDRA_SWITCHES or (name == "_partial_" and type(value) is not bool):
            raise self._refusal(full, "is not for a file to choose")
        return self.copy(value, full, depth + 1)

    def _refusal(self, key: str, reason: str) -> CheckpointError:
        return CheckpointError(f"{self._source}: {key} {reason}; refused")


def targets(plain: Any) -> set[str]:
    """Every `_target_` in nested dicts and lists."""
    children: list[Any] = []
    if isinstance(plain, dict):
        children = list(plain.values())
    elif isinstance(plain, list):
        children = plain
    named = (
        {plain[TARGET]} if isinstance(plain, dict) and isinstance(plain.get(TARGET), str) else {}
    )
    return set[str]().union(named, *map(targets, children))
