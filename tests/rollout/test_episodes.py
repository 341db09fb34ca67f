from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from point_mass import PointMass, Reaching

from rmexp.errors import RolloutError
from rmexp.rollout import episodes, video
from rmexp.rollout.environments import make_environment
from rmexp.rollout.episodes import run_episodes
from rmexp.rollout.pool import EnvPool
from rmexp.rollout.statistics import EpisodeRecord, RolloutResult

SEEDS = range(500, 511)
HORIZON = 21

MakePool = Callable[..., EnvPool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    pools: list[EnvPool] = []

    def make(num_envs: int = 2, **trouble: Any) -> EnvPool:
        pools.append(EnvPool(partial(PointMass, **trouble), num_envs, answer_s=60.0))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()


def by_hand(seed: int, gain: float = 8.0, horizon: int = HORIZON) -> EpisodeRecord:
    """The same episode in this process, without pool or batches."""
    env, policy = PointMass(), Reaching(gain)
    obs = env.reset(seed)
    policy.reset(0, seed)
    total, length, success, lost = 0.0, 0, False, False
    while not (success or lost) and length < horizon:
        action = policy.act({key: value[None] for key, value in obs.items()}, [0])[0]
        obs, reward, lost, info = env.step(action)
        total, length, success = total + reward, length + 1, info["success"]
    return EpisodeRecord(seed, total, length, success)


def roll_out(pool: EnvPool, **changes: Any) -> RolloutResult:
    arguments: dict[str, Any] = {
        "policy": Reaching(),
        "seeds": SEEDS,
        "horizon": HORIZON,
        **changes,
    }
    return run_episodes(arguments.pop("policy"), pool, **arguments)


def test_episodes_depend_on_their_seeds_alone(make_pool: MakePool) -> None:
    expected = [by_hand(seed) for seed in SEEDS]
    lengths = {record.length for record in expected}
    assert {True, False} == {record.success for record in expected}
    assert len(lengths) >= 4

    for num_envs in (1, 4):
        result = roll_out(make_pool(num_envs))
        assert result.episodes == expected
        assert result.env_name == "PointMass"
    pool = make_pool(3)
    shuffled = roll_out(pool, seeds=list(reversed(SEEDS)))
    assert shuffled.episodes == expected[::-1]
    assert roll_out(pool).episodes == expected


def test_who_acts_together_repeats_exactly(make_pool: MakePool) -> None:
    pool, first, second = make_pool(3), Reaching(), Reaching()
    roll_out(pool, policy=first)
    roll_out(pool, policy=second)
    assert first.batches == second.batches
    assert first.seeds == second.seeds
    assert sorted(first.seeds) == list(SEEDS)
    sizes = [len(batch) for batch in first.batches]
    assert sizes[0] == 3
    assert sizes.count(3) > len(sizes) / 3
    assert all(batch == sorted(batch) for batch in first.batches)


def test_a_slow_reset_holds_nobody_up(make_pool: MakePool) -> None:
    """While one environment is reset the other goes on alone, for a fixed number of steps."""
    policy = Reaching()
    result = roll_out(make_pool(2), policy=policy, seeds=SEEDS[:3])
    first, second = result.episodes[:2]
    assert first.length != second.length
    shorter, longer = sorted((first.length, second.length))
    alone = min(episodes.RESET_ROUNDS, longer - shorter)
    assert alone > 0
    sizes = [len(batch) for batch in policy.batches]
    assert sizes[: shorter + alone] == [2] * shorter + [1] * alone


def test_horizon_ends_an_episode(make_pool: MakePool) -> None:
    result = roll_out(make_pool(2), horizon=3, seeds=SEEDS[:4])
    assert [record.length for record in result.episodes] == [3] * 4
    assert result.success_rate == 0.0


def test_an_episode_may_end_in_failure(make_pool: MakePool) -> None:
    expected = [by_hand(seed, gain=-8.0, horizon=200) for seed in SEEDS[:3]]
    assert all(record.length < 200 and not record.success for record in expected)
    result = roll_out(make_pool(2), policy=Reaching(gain=-8.0), seeds=SEEDS[:3], horizon=200)
    assert result.episodes == expected


def test_fewer_seeds_than_environments_start_fewer_workers(make_pool: MakePool) -> None:
    pool = make_pool(4)
    result = roll_out(pool, seeds=SEEDS[:2])
    assert [record.seed for record in result.episodes] == list(SEEDS[:2])
    assert len(pool._workers) == 2


def test_progress_and_times(make_pool: MakePool) -> None:
    seen: list[tuple[int, int]] = []
    result = roll_out(
        make_pool(2, step_sleep_s=0.01),
        seeds=SEEDS[:3],
        horizon=5,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    times = result.times
    assert times.step_s >= 3 * 5 * 0.01
    assert 0 < times.act_s < times.wait_s
    assert times.act_s + times.wait_s <= times.wall_s == result.wall_s
    assert times.render_s == 0.0


@pytest.mark.parametrize("changes", [{"seeds": []}, {"horizon": 0}])
def test_nothing_to_do_is_refused(make_pool: MakePool, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="both must be at least 1"):
        roll_out(make_pool(), **changes)


def test_a_failing_simulator_ends_the_rollout_and_not_the_pool(make_pool: MakePool) -> None:
    pool = make_pool(2, trouble="raise", at_seed=SEEDS[4], at_step=6)
    with pytest.raises(RolloutError, match="PointMass, seed 504, step 6: ValueError"):
        roll_out(pool)
    assert roll_out(pool, seeds=SEEDS[:3]).episodes == [by_hand(seed) for seed in SEEDS[:3]]


class Stop(BaseException):
    pass


def test_stopping_breaks_off_between_steps(make_pool: MakePool) -> None:
    pool, calls = make_pool(2), []

    def should_stop() -> None:
        calls.append(len(calls))
        if len(calls) == 7:
            raise Stop

    with pytest.raises(Stop):
        roll_out(pool, should_stop=should_stop)
    assert len(calls) == 7
    assert not pool._workers
    assert roll_out(pool, seeds=SEEDS[:2]).episodes == [by_hand(seed) for seed in SEEDS[:2]]


def test_stopping_waits_for_no_simulator(make_pool: MakePool) -> None:
    """One hangs in its reset while the policy acts for the other; the signal comes then."""
    pool = make_pool(2, trouble="hang", at_seed=SEEDS[2])
    moments: list[float] = []

    def should_stop() -> None:
        moments.append(time.monotonic())
        if len(pool._workers) == 2 and any(w.seed == SEEDS[2] for w in pool._workers.values()):
            raise Stop

    with pytest.raises(Stop):
        roll_out(pool, should_stop=should_stop)
    assert time.monotonic() - moments[-1] < 3
    assert not pool._workers


def test_a_stop_that_also_ended_the_simulators_is_a_stop(make_pool: MakePool) -> None:
    pool = make_pool(2, trouble="kill", at_seed=SEEDS[1], at_step=3)
    calls: list[int] = []

    def should_stop() -> None:
        calls.append(len(calls))
        if len(calls) > 3:
            raise Stop

    with pytest.raises(Stop):
        roll_out(pool, should_stop=should_stop)


class Diverged(Reaching):
    def act(self, obs: dict[str, np.ndarray], envs: Any) -> np.ndarray:
        actions = super().act(obs, envs)
        if len(self.batches) == 3:
            actions[1, 0] = np.nan
        return actions


def test_an_action_that_is_not_finite(make_pool: MakePool) -> None:
    with pytest.raises(RolloutError, match=r"seed 501, step 3: the policy's action is not finite"):
        roll_out(make_pool(2), policy=Diverged())


class Misshapen(Reaching):
    def act(self, obs: dict[str, np.ndarray], envs: Any) -> np.ndarray:
        return super().act(obs, envs)[0]


def test_actions_of_a_wrong_shape(make_pool: MakePool) -> None:
    pool = make_pool(2)
    with pytest.raises(ValueError, match=r"2 environments, but actions of shape \(2,\)"):
        roll_out(pool, policy=Misshapen())
    assert not pool._workers


# --- video ---------------------------------------------------------------------------------------


def film(pool: EnvPool, path: Path, **changes: Any) -> RolloutResult:
    return roll_out(pool, video_episodes=3, video_path=path, video_size=64, **changes)


def test_video_shows_the_first_episodes_and_changes_no_number(
    make_pool: MakePool, tmp_path: Path
) -> None:
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("av")
    pool = make_pool(2)
    result = film(pool, tmp_path / "rollout.mp4")
    assert result.episodes == [by_hand(seed) for seed in SEEDS]
    assert result.video == tmp_path / "rollout.mp4"
    assert result.times.video_s > 0

    filmed = result.episodes[:3]
    longest = max(len(range(0, e.length, video.FRAME_EVERY)) + 1 for e in filmed)
    hold = round(video.HOLD_S * video.FRAMES_PER_S)
    shape = imageio.imread(result.video, plugin="pyav").shape
    assert shape[0] in (longest + hold - 1, longest + hold)
    assert shape[1:] == (2 * (64 + 2 * video.BORDER), 2 * (64 + 2 * video.BORDER), 3)


def test_without_a_path_nothing_is_rendered(make_pool: MakePool) -> None:
    pool = make_pool(1, trouble="blind")
    result = roll_out(pool, seeds=SEEDS[:1], video_episodes=3)
    assert result.video is None
    assert pool.no_video is None


@pytest.mark.parametrize("trouble", ["blind", "blind crash"])
def test_failed_rendering_is_one_warning(
    make_pool: MakePool, tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: str
) -> None:
    pytest.importorskip("av")
    pool = make_pool(2, trouble=trouble)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            result = film(pool, tmp_path / "rollout.mp4", seeds=SEEDS[:4])
            assert result.episodes == [by_hand(seed) for seed in SEEDS[:4]]
            assert result.video is None
    (record,) = caplog.records
    assert record.name == "rmexp.rollout.episodes"
    assert "no videos: PointMass, seed 50" in record.message
    assert list(tmp_path.iterdir()) == []


def test_a_crash_that_no_picture_caused_is_an_error(make_pool: MakePool, tmp_path: Path) -> None:
    pytest.importorskip("av")
    pool = make_pool(2, trouble="crash", at_seed=SEEDS[1], at_step=3)
    with pytest.raises(RolloutError, match=r"PointMass, seed 501, step 3: .* SIGSEGV"):
        film(pool, tmp_path / "rollout.mp4")


def test_a_missing_codec_is_one_warning(
    make_pool: MakePool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(episodes, "video_missing", lambda: "av not installed")
    pool = make_pool(2, trouble="blind")  # would fail if it were asked for a picture
    for _ in range(2):
        result = film(pool, tmp_path / "rollout.mp4", seeds=SEEDS[:4])
        assert result.episodes == [by_hand(seed) for seed in SEEDS[:4]]
    assert [record.message for record in caplog.records] == ["no videos: av not installed"]


def test_an_encoder_that_fails_is_one_warning(
    make_pool: MakePool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("av")
    (tmp_path / "rollout.mp4").mkdir()
    pool = make_pool(2)
    for _ in range(2):
        result = film(pool, tmp_path / "rollout.mp4", seeds=SEEDS[:4])
        assert result.episodes == [by_hand(seed) for seed in SEEDS[:4]]
        assert result.video is None
    (record,) = caplog.records
    assert "rollout.mp4: IsADirectoryError" in record.message


# --- the real simulator --------------------------------------------------------------------------

LIFT = {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": ["Panda"]}}
OBS_KEYS = ["object", "robot0_eef_pos"]


class Descend:
    """Moves the open gripper towards the cube: enough for contact."""

    def reset(self, env: int, seed: int) -> None:
        pass

    def act(self, obs: dict[str, np.ndarray], envs: Any) -> np.ndarray:
        actions = np.full((len(envs), 7), -0.05)
        actions[:, :3] = np.clip(10 * (obs["object"][:, :3] - obs["robot0_eef_pos"]), -1, 1)
        return actions


@pytest.mark.sim
@pytest.mark.slow
def test_lift_repeats_whatever_the_number_of_processes(tmp_path: Path) -> None:
    pytest.importorskip("robosuite")
    outcomes = []
    for num_envs, video_path in ((1, None), (2, tmp_path / "lift.mp4")):
        pool = EnvPool(partial(make_environment, LIFT, OBS_KEYS), num_envs)
        result = run_episodes(
            Descend(),
            pool,
            seeds=range(20, 23),
            horizon=9,
            video_episodes=2,
            video_path=video_path,
            video_size=96,
        )
        pool.close()
        outcomes.append(result)
    alone, together = outcomes
    assert alone.episodes == together.episodes
    assert alone.env_name == "Lift"
    if together.video is not None:  # needs EGL or a display
        assert together.video.stat().st_size > 1000
