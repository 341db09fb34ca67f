"""A file may describe a task; it may not choose code or files."""

from __future__ import annotations

from typing import Any

import pytest

from rmexp.errors import RolloutError
from rmexp.rollout.robosuite_arguments import simulator_arguments


def env_args(**env_kwargs: Any) -> dict[str, Any]:
    return {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"], **env_kwargs}}


def test_the_task_passes_and_pictures_and_limits_do_not():
    kwargs = simulator_arguments(
        env_args(control_freq=20, camera_names=["agentview"], horizon=7, ignore_done=False)
    )

    assert kwargs == {"robots": ["Panda"], "control_freq": 20}


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (env_args(placement_initializer="x"), "'placement_initializer'"),
        (env_args(renderer_config={}), "'renderer_config'"),
        (env_args(gripper_types="/tmp/gripper"), "env_kwargs.gripper_types"),
        (env_args(controller_configs={"type": "a.json"}), "env_kwargs.controller_configs.type"),
        (env_args(robots=["../Panda"]), "env_kwargs.robots[0]"),
        (env_args(task_config={"a": [object()]}), "env_kwargs.task_config.a[0]"),
        ({"env_name": "Lift"}, "`env_kwargs`"),
        ({"env_name": "Lift", "env_kwargs": {"control_freq": 20}}, "`robots`"),
    ],
)
def test_anything_else_is_refused_by_its_key(given: dict[str, Any], key: str):
    with pytest.raises(RolloutError) as caught:
        simulator_arguments(given)

    assert key in str(caught.value)
    assert "Lift" in str(caught.value)


OLD_ARM = {"type": "OSC_POSE", "kp": 150, "damping": 0.7, "damping_limits": [0, 10]}


def test_a_controller_of_robosuite_1_4_is_said_in_the_words_of_1_5():
    given = env_args(controller_configs={**OLD_ARM, "control_delta": False})
    kwargs = simulator_arguments(given)

    assert kwargs["lite_physics"] is False
    assert kwargs["controller_configs"] == {
        "type": "BASIC",
        "body_parts": {
            "right": {
                "type": "OSC_POSE",
                "kp": 150,
                "damping_ratio": 0.7,
                "damping_ratio_limits": [0, 10],
                "input_type": "absolute",
                "input_ref_frame": "world",
                "gripper": {"type": "GRIP"},
            }
        },
    }
    assert given["env_kwargs"]["controller_configs"]["damping"] == 0.7


def test_old_words_inside_a_controller_of_1_5_are_translated_and_its_frame_kept():
    part = {**OLD_ARM, "control_delta": True, "input_ref_frame": "base"}
    kwargs = simulator_arguments(
        env_args(controller_configs={"type": "BASIC", "body_parts": {"right": part}})
    )

    right = kwargs["controller_configs"]["body_parts"]["right"]
    assert right["input_type"] == "delta"
    assert right["input_ref_frame"] == "base"
    assert right["damping_ratio"] == 0.7
    assert "lite_physics" not in kwargs


def test_two_robots_have_two_controllers():
    kwargs = simulator_arguments(env_args(controller_configs=[OLD_ARM, OLD_ARM]))

    first, second = kwargs["controller_configs"]
    assert first == second
    assert first["body_parts"]["right"]["damping_ratio"] == 0.7
