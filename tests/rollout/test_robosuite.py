"""The real simulator: repeatable, and speaking the language of robomimic files."""

from __future__ import annotations

import gzip
import importlib.abc
import importlib.util
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from rmexp.errors import RolloutError
from rmexp.rollout import robosuite
from rmexp.rollout.environments import Environment, make_environment
from rmexp.tools.tasks import LIFT, POLICY_KEYS

if TYPE_CHECKING:
    from rmexp.rollout.robosuite import RobosuiteEnvironment

pytestmark = [
    pytest.mark.sim,
    # not importorskip: the back end of pictures is chosen before the simulator is imported
    pytest.mark.skipif(importlib.util.find_spec("robosuite") is None, reason="no simulator"),
]

REAL = Path(__file__).resolve().parents[3] / "shared/data/real/robomimic"
IMAGE_FILE = REAL / "robomimic_v0.1_test_lift_ph_image.hdf5.gz"


def opened(file: Any) -> Any:
    """An HDF5 file whose groups and datasets are used as the test expects them."""
    return h5py.File(file)


@pytest.fixture(scope="module")
def lift() -> Iterator[RobosuiteEnvironment]:
    from rmexp.rollout.robosuite import RobosuiteEnvironment

    env = RobosuiteEnvironment(LIFT, POLICY_KEYS)
    yield env
    env.close()


def episode(env: Environment, seed: int, *, look: bool = False) -> np.ndarray:
    """All observations of four random steps, (5, D)."""
    actions = np.random.default_rng(7).uniform(-1, 1, (4, 7))
    frames = [env.reset(seed)]
    for action in actions:
        if look:
            env.render(height=24, width=32, camera=None)
        frames.append(env.step(action)[0])
    return np.stack([np.concatenate([frame[key] for key in POLICY_KEYS]) for frame in frames])


def test_an_episode_is_its_seed_whatever_came_before_and_whoever_watches(
    lift: RobosuiteEnvironment,
):
    first, other, again = (episode(lift, seed) for seed in (3, 4, 3))

    assert first.shape == (5, 19)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])
    try:
        lift.render(height=24, width=32, camera=None)
    except RolloutError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(first, episode(lift, 3, look=True))


def test_a_step_reports_what_robomimic_needs(lift: RobosuiteEnvironment):
    obs = lift.reset(0)
    assert {key: value.shape for key, value in obs.items()} == {
        "object": (10,),
        "robot0_eef_pos": (3,),
        "robot0_eef_quat": (4,),
        "robot0_gripper_qpos": (2,),
    }
    np.testing.assert_allclose(
        obs["object"][0:3] - obs["robot0_eef_pos"], obs["object"][7:10], atol=1e-6
    )
    _, reward, terminated, info = lift.step(np.zeros(7))
    assert (reward, terminated, info) == (0.0, False, {"success": False})
    assert lift.state().shape == (32,)


@pytest.mark.parametrize(
    ("action", "message"),
    [(np.zeros(6), r"shape \(6,\)"), (np.array([0.0] * 6 + [np.nan]), "not finite")],
)
def test_a_bad_action_is_named_with_its_episode_and_step(
    lift: RobosuiteEnvironment, action: np.ndarray, message: str
):
    lift.reset(11)
    lift.step(np.zeros(7))

    with pytest.raises(RolloutError, match=f"Lift, seed 11, step 1: .*{message}"):
        lift.step(action)


@pytest.mark.parametrize(
    ("changes", "keys", "message"),
    [
        ({"env_name": "ReachingFrankaBC"}, POLICY_KEYS, "no environment 'Reaching.*'; it has Door"),
        ({}, ("object", "robot0_eef_vel_lin"), "does not observe robot0_eef_vel_lin; it observes"),
        ({"env_kwargs": {"robots": ["Pandas"]}}, POLICY_KEYS, "cannot build Lift"),
    ],
)
def test_what_the_simulator_does_not_have_is_listed(
    changes: dict[str, Any], keys: tuple[str, ...], message: str
):
    with pytest.raises(RolloutError, match=message):
        make_environment({**LIFT, **changes}, keys)


@pytest.mark.parametrize(
    ("message", "package"),
    [
        ("libGL.so.1: cannot open shared object file: No such file or directory", "libgl1"),
        ("libgthread-2.0.so.0: cannot open shared object file", "libglib2.0-0"),
        ("'NoneType' object has no attribute 'eglQueryString'", "libegl1"),
        ("No module named 'evdev'", "C compiler"),
        ("numpy.core.multiarray failed to import", "numpy < 2"),
        ("cannot import name 'x'", "fresh virtual environment"),
    ],
)
def test_a_failing_import_names_the_system_package(
    monkeypatch: pytest.MonkeyPatch, message: str, package: str
):
    class Broken(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, *args: Any) -> None:
            if fullname == "robosuite":
                raise ImportError(message)

    monkeypatch.delitem(sys.modules, "robosuite", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])

    with pytest.raises(RolloutError) as caught:
        robosuite._import_robosuite()
    assert message in str(caught.value)
    assert package in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(not IMAGE_FILE.exists(), reason="no recorded images at hand")
def test_images_look_like_those_of_a_robomimic_file():
    key = "agentview_image"
    with opened(io.BytesIO(gzip.decompress(IMAGE_FILE.read_bytes()))) as file:
        env_args = json.loads(str(file["data"].attrs["env_args"]))
        recorded = np.asarray(file[f"data/demo_0/obs/{key}"][0], dtype=float)
    env = make_environment({**env_args, "fast_rendering": True}, [key])
    try:
        image = env.reset(0)[key]
    except RolloutError as error:
        pytest.skip(str(error))
    finally:
        env.close()

    assert image.shape == recorded.shape
    assert image.dtype == np.uint8

    def likeness(picture: np.ndarray) -> float:
        return float(np.corrcoef(picture.ravel(), recorded.ravel())[0, 1])

    def redness(picture: np.ndarray) -> int:
        return int(((picture[:, :, 0].astype(float) - picture[:, :, 1]) > 60).sum())

    assert likeness(image) > 0.8
    assert likeness(image[::-1]) < 0.5
    assert 0.5 < redness(image) / redness(recorded) < 2.0  # the cube; 0 if colours were swapped
