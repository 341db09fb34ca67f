"""Overrides as words of the command line, and as a composed configuration."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from rmexp import build
from rmexp.compat.optimizers import Overrides
from rmexp.config import config_dir, register


def composed(overrides: Overrides) -> DictConfig:
    """The shipped configuration with `overrides`, checked as on the command line."""
    config, _ = _compose(words(overrides))
    build.check_config(config)
    return config


def words(overrides: Overrides) -> list[str]:
    """`overrides` in Hydra's grammar, choices of groups before values."""
    groups = [f"{key}={value}" for key, value in overrides.items() if _is_group(key)]
    values = [f"{key}={_word(v)}" for key, v in overrides.items() if not _is_group(key)]
    return groups + values


def changes(overrides: Overrides) -> Overrides:
    """Those of `overrides` that say something else than the shipped files; `algo` always."""
    standard, choices = _compose([f"algo={overrides['algo']}"])
    groups = {
        key: value
        for key, value in overrides.items()
        if _is_group(key) and (key == "algo" or choices.get(key) != value)
    }
    standard, _ = _compose(words(groups))
    return groups | {
        key: value
        for key, value in overrides.items()
        if not _is_group(key) and _selected(standard, key) != value
    }


def _compose(chosen: list[str]) -> tuple[DictConfig, dict[str, str]]:
    """A configuration of an unnamed file, and which choice of each group it is made of."""
    register()
    standard = ["dataset=hdf5", "dataset.path=unknown", "name=robomimic"]
    with _fresh_hydra(), initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("config", overrides=[*standard, *chosen], return_hydra_config=True)
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    assert isinstance(own, DictConfig)
    return own, choices


@contextmanager
def _fresh_hydra() -> Generator[None]:
    """Hydra keeps one global state; a caller that is using it finds it as it was."""
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = before


def _selected(config: DictConfig, key: str) -> Any:
    value = OmegaConf.select(config, key)
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _is_group(key: str) -> bool:
    return key in ("algo", "dataset", "rollout") or "/" in key or "@" in key


def plain(config: DictConfig) -> dict[str, Any]:
    """Resolved, as a checkpoint holds it."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _word(value: Any) -> str:
    """As Hydra's grammar writes it; text in quotes unless it is a plain word or path."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_word, value))}]"
    if isinstance(value, str) and not re.fullmatch(r"[A-Za-z_~./][\w~./\-]*", value):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    return str(value)
