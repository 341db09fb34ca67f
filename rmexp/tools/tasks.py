"""What can be generated: a name stands for an environment and for those who act in it.

A new task is one more entry of `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmexp.tools.lift_expert import lift_expert, misjudging_expert

Observe = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Behaviour:
    """One way of acting.

    start: gives the episode's policy; may draw what holds for the whole episode.
    noise: standard deviation of the noise on each component of the policy's action.
    """

    name: str
    start: Callable[[np.random.Generator], Callable[[Observe], np.ndarray]]
    noise: tuple[float, ...]


@dataclass(frozen=True)
class Task:
    """An environment and who acts in it.

    Episode i behaves as `behaviours[i % len(behaviours)]`, and ends with success or at `horizon`.
    obs_keys: what the compact layout holds; `full_obs_keys` the full one.
    next_obs: written in the compact layout too: learning from rewards needs what followed the
    last frame of an episode that was cut off.
    """

    env_args: Mapping[str, Any]
    obs_keys: tuple[str, ...]
    full_obs_keys: tuple[str, ...]
    behaviours: tuple[Behaviour, ...]
    horizon: int
    next_obs: bool


PANDA_OSC_POSE = {
    "type": "BASIC",
    "body_parts": {
        "right": {
            "type": "OSC_POSE",
            "input_max": 1,
            "input_min": -1,
            "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
            "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
            "kp": 150,
            "damping_ratio": 1,
            "impedance_mode": "fixed",
            "kp_limits": [0, 300],
            "damping_ratio_limits": [0, 10],
            "position_limits": None,
            "orientation_limits": None,
            "uncouple_pos_ori": True,
            "input_type": "delta",
            "input_ref_frame": "world",
            "interpolation": None,
            "ramp_ratio": 0.2,
            "gripper": {"type": "GRIP"},
        }
    },
}

LIFT = {
    "env_name": "Lift",
    "type": 1,
    "env_kwargs": {
        "robots": ["Panda"],
        "controller_configs": PANDA_OSC_POSE,
        "control_freq": 20,
        "lite_physics": True,
        "use_object_obs": True,
        "reward_shaping": False,
        "ignore_done": True,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
    },
}

# What policies train on, what ships beside it, and all low-dimensional keys of the robomimic sets.
POLICY_KEYS = ("object", "robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
COMPACT_KEYS = (*POLICY_KEYS, "robot0_gripper_qvel", "robot0_joint_pos", "robot0_joint_vel")
FULL_KEYS = (
    *COMPACT_KEYS,
    "robot0_eef_quat_site",
    "robot0_joint_pos_cos",
    "robot0_joint_pos_sin",
)


def arm_noise(scale: float) -> tuple[float, ...]:
    """The same noise on every motion; none on the fingers, of which only the sign counts."""
    return (scale,) * 6 + (0.0,)


EXPERT = Behaviour("expert", lambda draws: lift_expert, arm_noise(0.3))

TASKS: dict[str, Task] = {
    "lift": Task(
        env_args=LIFT,
        obs_keys=COMPACT_KEYS,
        full_obs_keys=FULL_KEYS,
        behaviours=(EXPERT,),
        horizon=120,
        next_obs=False,
    ),
    # A third by the expert; the rest succeeds in about half of its episodes.
    "lift_mixed": Task(
        env_args=LIFT,
        obs_keys=POLICY_KEYS,
        full_obs_keys=FULL_KEYS,
        behaviours=(
            EXPERT,
            Behaviour("noisy", lambda draws: lift_expert, arm_noise(0.55)),
            Behaviour("misjudging", misjudging_expert, arm_noise(0.4)),
        ),
        horizon=120,
        next_obs=True,
    ),
}
