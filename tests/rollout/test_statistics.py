from __future__ import annotations

import pytest

from rmexp.rollout.statistics import (
    EpisodeRecord,
    RolloutResult,
    RolloutTimes,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score, no correction).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_equals_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_mirrors_and_touches_its_ends() -> None:
    assert wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 20)[0] == 0.0
    low, high = wilson_interval(28, 29)
    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(1, 29))


def test_more_confidence_is_wider() -> None:
    narrow, wide = wilson_interval(7, 11, 0.8), wilson_interval(7, 11, 0.99)
    assert wide[0] < narrow[0] < 7 / 11 < narrow[1] < wide[1]


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (0, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="successes of"):
        wilson_interval(successes, n)


def test_confidence_outside_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="confidence=95"):
        wilson_interval(1, 2, 95)


def result(successes: int, n: int) -> RolloutResult:
    episodes = [EpisodeRecord(100 + i, 0.5 * i, 10 + i, i < successes) for i in range(n)]
    return RolloutResult("Lift", episodes, RolloutTimes(wall_s=7.5))


def test_metrics() -> None:
    metrics = result(2, 5).metrics()
    low, high = wilson_interval(2, 5)
    assert metrics == {
        "success_rate": 0.4,
        "success_rate_low": low,
        "success_rate_high": high,
        "return_mean": 1.0,
        "length_mean": 12.0,
        "num_episodes": 5.0,
        "wall_s": 7.5,
    }


def test_text_shows_n_and_interval() -> None:
    assert str(result(46, 50)) == "46/50 = 92.0 % [81.2, 96.8]"
    assert str(result(50, 50)) == "50/50 = 100.0 % [92.9, 100.0]"
