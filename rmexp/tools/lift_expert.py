"""The scripted expert for Lift: a function of the observation, with no phase and no timer.

A network that sees one observation can only imitate what one observation decides. So progress is
read off the scene (how well aligned, how low, how far the fingers are closed), and one motion
fades into the next instead of switching.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

METRES_PER_UNIT = 0.05  # what one unit of action moves, and turns
RADIANS_PER_UNIT = 0.5
HOVER = 0.05  # metres above the cube while not aligned with it
ALIGNED = (0.018, 0.050)  # metres to the side: descend fully below the first, not above the second
ALIGNED_YAW = (0.35, 0.80)  # radians, likewise
GRASP = (0.016, 0.018)  # metres above and to the side of the cube from which open fingers close
KEEP = (0.024, 0.030)  # the same for fingers that are closing already: noise must not reopen them
FINGERS_OPEN = (0.060, 0.076)  # finger distance in metres: descend fully above the second
FINGERS_HOLD = (0.046, 0.052)  # finger distance: lift fully below the first
FINGERS_MISSED = 0.034  # finger distance: narrower than a cube, so there is none between them
GAIN = 1.2  # of the position or yaw error: the controller itself follows slowly


def lift_expert(obs: Mapping[str, np.ndarray]) -> np.ndarray:
    """One frame of `object`, `robot0_eef_{pos,quat}` and `robot0_gripper_qpos` -> action (7,).

    The action is in [-1, 1]: move 3, turn 3, fingers 1.
    """
    cube, cube_quat = obs["object"][0:3].astype(float), obs["object"][3:7].astype(float)
    hand, hand_quat = obs["robot0_eef_pos"].astype(float), obs["robot0_eef_quat"].astype(float)
    fingers = float(obs["robot0_gripper_qpos"][0] - obs["robot0_gripper_qpos"][1])

    turn, yaw_error = _turn_towards_grasp(hand_quat, cube_quat)
    offset = cube - hand
    aside = float(np.hypot(offset[0], offset[1]))
    above = -float(offset[2])

    reach = KEEP if fingers < FINGERS_OPEN[1] else GRASP
    closing = above < reach[0] and aside < reach[1] and fingers > FINGERS_MISSED
    ready = _fade(aside, *ALIGNED) * _fade(abs(yaw_error), *ALIGNED_YAW)
    if not closing:
        ready *= 1.0 - _fade(fingers, *FINGERS_OPEN)
    holding = _fade(fingers, *FINGERS_HOLD) if closing else 0.0

    move = GAIN * offset
    move[2] = GAIN * (offset[2] + (1.0 - ready) * HOVER)
    move[2] = (1.0 - holding) * move[2] + holding * METRES_PER_UNIT
    action = np.concatenate(
        [
            move / METRES_PER_UNIT,
            (1.0 - holding) * GAIN * turn / RADIANS_PER_UNIT,
            [1.0 if closing else -1.0],
        ]
    )
    return np.clip(action, -1.0, 1.0)


def misjudging_expert(
    draws: np.random.Generator,
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
    """The expert with a wrong idea of where the cube is, and too high, for a whole episode."""
    error = draws.uniform([-0.03, -0.03, 0.0], [0.03, 0.03, 0.04])

    def act(obs: Mapping[str, np.ndarray]) -> np.ndarray:
        believed = obs["object"].astype(float)
        believed[0:3] += error
        return lift_expert({**obs, "object": believed})

    return act


def _fade(value: float, low: float, high: float) -> float:
    """1 below `low`, 0 above `high`, straight between."""
    return float(np.clip((high - value) / (high - low), 0.0, 1.0))


def _turn_towards_grasp(hand_quat: np.ndarray, cube_quat: np.ndarray) -> tuple[np.ndarray, float]:
    """Axis-angle (3,) in the world's frame to a downward grasp along the nearest pair of faces.

    Also the yaw part of it: a cube looks the same every quarter turn.
    """
    hand, cube = _matrix(hand_quat), _matrix(cube_quat)
    quarter = np.pi / 2
    yaw = np.arctan2(cube[1, 0], cube[0, 0]) - np.arctan2(hand[1, 0], hand[0, 0])
    yaw = (yaw + quarter / 2) % quarter - quarter / 2
    tilt = np.cross(hand[:, 2], [0.0, 0.0, -1.0])
    return np.array([tilt[0], tilt[1], yaw]), float(yaw)


def _matrix(quat: np.ndarray) -> np.ndarray:
    """Rotation matrix (3, 3) of a unit quaternion (x, y, z, w)."""
    x, y, z, w = quat / np.linalg.norm(quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
