"""What a file says of its environment describes a task; it chooses no class, code or file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rmexp.errors import RolloutError
from rmexp.rollout.environments import make_environment, simulator_missing
from tests.faults.hostile import CANARY, Canary, canary

__all__ = ["canary"]
pytestmark = pytest.mark.faults

RUN = f"{CANARY}.run"
PANDA: dict[str, Any] = {"robots": ["Panda"]}


def lift(**env_kwargs: Any) -> dict[str, Any]:
    return {"env_name": "Lift", "type": 1, "env_kwargs": PANDA | env_kwargs}


def nested(depth: int) -> Any:
    value: Any = {"a": RUN}
    for _ in range(depth):
        value = {"a": value}
    return value


CONTROLLER = {"type": "OSC_POSE", "kp": 150}
ATTACKS: dict[str, Any] = {
    "class of another module": {"env_name": RUN, "type": 1, "env_kwargs": PANDA},
    "class of robosuite": {"env_name": "MujocoEnv", "type": 1, "env_kwargs": PANDA},
    "name is a list": {"env_name": [RUN], "type": 1, "env_kwargs": PANDA},
    "name is a path": {"env_name": "../Lift", "type": 1, "env_kwargs": PANDA},
    "no name": {"type": 1, "env_kwargs": PANDA},
    "gym": {"env_name": "gym:Any-v0", "type": 2, "env_kwargs": {}},
    "type is a word": {"env_name": "Lift", "type": RUN, "env_kwargs": PANDA},
    "type is a list": {"env_name": "Lift", "type": [1], "env_kwargs": PANDA},
    "arguments are a list": {"env_name": "Lift", "type": 1, "env_kwargs": [PANDA]},
    "arguments are a word": {"env_name": "Lift", "type": 1, "env_kwargs": RUN},
    "robot is a path": lift(robots=["../../Panda"]),
    "robot of another module": lift(robots=RUN),
    "robot is a class": lift(robots=[{"_target_": RUN}]),
    "robot_configs": lift(robot_configs=[{"robot_type": RUN}]),
    "placement_initializer": lift(placement_initializer=RUN),
    "renderer": lift(renderer=RUN, renderer_config={"file": "/etc/passwd"}),
    "xml": lift(xml="<mujoco/>"),
    "model_xml": lift(model_xml="/etc/passwd"),
    "custom_controller": lift(custom_controller=RUN),
    "bddl_file_name": lift(bddl_file_name="/etc/passwd"),
    "controller is a file": lift(controller_configs="controller.json"),
    "controller is a path": lift(controller_configs={"type": "/tmp/a.json"}),
    "controller names a file": lift(controller_configs=CONTROLLER | {"urdf": "/tmp/a.urdf"}),
    "part names a file": lift(
        controller_configs={"type": "BASIC", "body_parts": {"right": {"type": "a/b.json"}}}
    ),
    "part by a path": lift(controller_configs={"body_parts": {"../../right": CONTROLLER}}),
    "gripper is a path": lift(gripper_types="../gripper.xml"),
    "base is a path": lift(base_types=["./base"]),
    "noise is code": lift(initialization_noise={"type": "__import__('os')"}),
    "task is nested code": lift(task_config=nested(20)),
    "dunder": lift(__class__=RUN),
    "steps without end": lift(control_freq=1e-9),
    "steps of no length": lift(control_freq=1e12),
    "frequency is a word": lift(control_freq="fast"),
    "number without end": lift(table_full_size=[float("inf"), 1, 1]),
    "huge number": lift(table_offset=[1e300, 0, 0]),
    "long list": lift(table_offset=[0.0] * 100_000),
    "huge picture": lift(camera_names=["agentview"], camera_heights=10**6, camera_widths=10**6),
    "picture of words": lift(camera_names=["agentview"], camera_heights="x"),
    "camera is a path": lift(camera_names=["../agentview"]),
    "pictures without cameras": lift(camera_names=["agentview"], camera_heights=[1, 2, 3]),
}


@pytest.mark.sim
@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_environment_is_refused(
    name: str, canary: Canary, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("robosuite")
    opened: list[str] = []

    def watched(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(str(self))
        return original(self, *args, **options)

    original = Path.open
    monkeypatch.setattr(Path, "open", watched)
    monkeypatch.chdir(canary.folder)
    with pytest.raises(RolloutError):
        make_environment(ATTACKS[name], ["object"])
    assert not canary.sang
    assert opened == []


@pytest.mark.parametrize("given", [None, {}, {"env_name": "A", "type": {}}, {"type": 1}])
def test_no_environment_is_said_in_one_line(given: Any) -> None:
    reason = simulator_missing(given)
    assert reason is not None
    assert "\n" not in reason
