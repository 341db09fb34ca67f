"""Which environments rmexp can simulate, asked without importing a simulator."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from rmexp.errors import RolloutError
from rmexp.rollout.environments import make_environment, simulator_missing, undescribed


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", absent)


@pytest.mark.parametrize(
    ("env_args", "parts"),
    [
        (None, ["no rollouts: ", "no `env_args`"]),
        ({"type": 1}, ["no rollouts: ", "env_name"]),
        ({"env_name": "Hopper", "type": 2}, ["no rollouts: ", "'Hopper'", "type 2 (gym)"]),
        ({"env_name": "Hopper", "type": "x"}, ["type 'x' (unknown)"]),
    ],
)
def test_what_cannot_be_simulated_is_said_in_one_line(
    env_args: dict[str, Any] | None, parts: list[str]
):
    line = simulator_missing(env_args)

    assert line is not None
    assert line == undescribed(env_args)
    assert "rollout=" not in line, "this is advice for training alone"
    assert "\n" not in line
    assert [part for part in parts if part not in line] == []


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(
    ("env_kwargs", "said"),
    [
        ({"robots": "Panda"}, None),
        ({}, "env_args of Lift: `env_kwargs` with at least `robots` is needed"),
        (None, "env_args of Lift: `env_kwargs` with at least `robots` is needed"),
        ({"robots": "Panda", "control_freq": 0}, "env_kwargs.control_freq is 0"),
    ],
)
def test_what_a_file_lacks_is_known_without_the_simulator(env_kwargs: Any, said: str | None):
    line = undescribed({"env_name": "Lift", "type": 1, "env_kwargs": env_kwargs})

    assert line is None if said is None else said in (line or "")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("env_args", [{"env_name": "Lift"}, {"env_name": "Lift", "type": 1}])
def test_an_absent_simulator_is_named_with_what_to_type(env_args: dict[str, Any]):
    line = simulator_missing(env_args)

    assert line is not None
    assert "robosuite and mujoco not installed" in line
    assert "pip install 'rmexp[sim]'" in line
    with pytest.raises(RolloutError, match="pip install"):
        make_environment(env_args, ["object"])
