"""The expert decides from one observation: each situation of a grasp, set up by hand."""

from __future__ import annotations

import numpy as np
import pytest

from rmexp.tools.lift_expert import lift_expert, misjudging_expert

DOWNWARDS = (1.0, 0.0, 0.0, 0.0)  # (x, y, z, w): the hand turned over, as above a table
CUBE = np.array([0.01, -0.02, 0.82])


def observe(
    hand: tuple[float, float, float], *, fingers: float = 0.08, cube_yaw: float = 0.0
) -> dict[str, np.ndarray]:
    """`hand` is relative to the cube, `fingers` is the distance between them."""
    half = cube_yaw / 2
    cube_quat = [0.0, 0.0, np.sin(half), np.cos(half)]
    return {
        "object": np.concatenate([CUBE, cube_quat, -np.array(hand)]),
        "robot0_eef_pos": CUBE + hand,
        "robot0_eef_quat": np.array(DOWNWARDS),
        "robot0_gripper_qpos": np.array([fingers / 2, -fingers / 2]),
    }


@pytest.mark.parametrize(
    ("situation", "obs", "up", "fingers"),
    [
        ("far above", observe((0.0, 0.0, 0.2)), -1, -1),
        ("low, beside the cube", observe((0.08, 0.0, 0.01)), +1, -1),
        ("around the cube, open", observe((0.002, 0.0, 0.005)), -1, +1),
        ("closing, a little too high", observe((0.0, 0.0, 0.022), fingers=0.07), -1, +1),
        ("holding", observe((0.0, 0.0, 0.005), fingers=0.042), +1, +1),
        ("closed on nothing", observe((0.0, 0.0, 0.005), fingers=0.01), +1, -1),
        ("reopening after a miss", observe((0.0, 0.0, 0.03), fingers=0.05), +1, -1),
    ],
)
def test_each_situation_has_its_motion(
    situation: str, obs: dict[str, np.ndarray], up: int, fingers: int
):
    action = lift_expert(obs)

    assert action.shape == (7,)
    assert np.abs(action).max() <= 1.0
    assert np.sign(action[2]) == up, situation
    assert action[6] == fingers, situation


def test_it_moves_towards_the_cube():
    action = lift_expert(observe((0.03, -0.02, 0.1)))

    assert action[0] < 0 < action[1]


@pytest.mark.parametrize(("yaw", "turn"), [(0.3, 0.3), (-0.3, -0.3), (np.pi / 2 + 0.1, 0.1)])
def test_a_cube_looks_the_same_every_quarter_turn(yaw: float, turn: float):
    action = lift_expert(observe((0.0, 0.0, 0.1), cube_yaw=yaw))
    expected = lift_expert(observe((0.0, 0.0, 0.1), cube_yaw=turn))

    np.testing.assert_allclose(action, expected, atol=1e-12)
    assert np.sign(action[5]) == np.sign(turn)


def test_a_misjudged_cube_stays_misjudged_for_an_episode():
    obs = observe((0.0, 0.0, 0.1))
    act = misjudging_expert(np.random.default_rng(0))
    other = misjudging_expert(np.random.default_rng(1))

    np.testing.assert_array_equal(act(obs), act(obs))
    assert not np.array_equal(act(obs), other(obs))
    assert not np.array_equal(act(obs), lift_expert(obs))
    np.testing.assert_array_equal(obs["object"][0:3], CUBE)
