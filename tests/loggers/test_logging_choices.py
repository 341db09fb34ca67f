"""Which loggers a command line chooses, by the real `conf/`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class

from rmexp import config

CHOICES = ["none", "tensorboard", "wandb"]


@pytest.fixture(scope="module", autouse=True)
def _conf() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    config.register()
    with initialize_config_dir(str(config.config_dir()), version_base="1.3"):
        yield


def _logging(*overrides: str) -> Any:
    return compose("config", overrides=["dataset=hdf5", *overrides]).logging


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ([], ["wandb"]),
        (["logging=wandb"], ["wandb"]),
        (["logging=tensorboard"], ["tensorboard"]),
        (["logging=none"], []),
        (["logging=[]"], []),
        (["logging=[wandb,tensorboard]"], ["tensorboard", "wandb"]),
        (["logging=[wandb,none]"], ["wandb"]),
        (["logging=[wandb,tensorboard]", "logging.wandb.mode=offline"], ["tensorboard", "wandb"]),
    ],
)
def test_one_several_or_none(override: list[str], names: list[str]) -> None:
    chosen = _logging(*override)
    assert sorted(chosen) == names
    if "logging.wandb.mode=offline" in override:
        assert chosen.wandb.mode == "offline"


def test_every_choice_gives_its_target_exactly_its_arguments() -> None:
    folder = config.config_dir() / "logging"
    assert sorted(path.stem for path in folder.glob("*.yaml")) == CHOICES
    nodes = _logging("logging=[wandb,tensorboard]")
    assert len(nodes) == len(CHOICES) - 1
    for name, node in nodes.items():
        parameters = inspect.signature(get_class(node._target_)).parameters
        assert {"_target_", *parameters} == set(node), name
        assert all(p.default is p.empty for p in parameters.values()), name
