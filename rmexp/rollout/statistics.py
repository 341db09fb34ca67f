"""What a number of episodes says about a policy; a success rate never goes without its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist, fmean


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson 1927, without continuity correction).

    Holds its confidence for few episodes and for rates near 0 and 1, where the usual
    `rate +- 1.96 standard errors` collapses to a point.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of {n}: needs 0 <= successes <= n and n >= 1")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} is not between 0 and 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * (rate * (1 - rate) / n + z * z / (4 * n * n)) ** 0.5
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


@dataclass(frozen=True)
class EpisodeRecord:
    """How one episode went; length in steps, return undiscounted."""

    seed: int
    episode_return: float
    length: int
    success: bool


@dataclass(frozen=True)
class RolloutTimes:
    """Seconds. The first four are the caller's clock; the last three add up all workers."""

    wall_s: float = 0.0
    act_s: float = 0.0
    """In the policy."""
    wait_s: float = 0.0
    """Waiting for simulators, their start included."""
    video_s: float = 0.0
    """Tiling and encoding."""
    reset_s: float = 0.0
    step_s: float = 0.0
    render_s: float = 0.0


@dataclass(frozen=True)
class RolloutResult:
    """Episodes in the order of their seeds; `video` is the file, where one was written."""

    env_name: str
    episodes: Sequence[EpisodeRecord]
    times: RolloutTimes
    video: Path | None = None

    @property
    def num_episodes(self) -> int:
        return len(self.episodes)

    @property
    def successes(self) -> int:
        return sum(episode.success for episode in self.episodes)

    @property
    def success_rate(self) -> float:
        return self.successes / self.num_episodes

    @property
    def wall_s(self) -> float:
        return self.times.wall_s

    def metrics(self) -> dict[str, float]:
        """Means over the episodes; low and high bound the rate with 95 % confidence (Wilson)."""
        low, high = wilson_interval(self.successes, self.num_episodes)
        return {
            "success_rate": self.success_rate,
            "success_rate_low": low,
            "success_rate_high": high,
            "return_mean": fmean(episode.episode_return for episode in self.episodes),
            "length_mean": fmean(episode.length for episode in self.episodes),
            "num_episodes": float(self.num_episodes),
            "wall_s": self.wall_s,
        }

    def __str__(self) -> str:
        """For people: `46/50 = 92.0 % [81.2, 96.8]`."""
        low, high = wilson_interval(self.successes, self.num_episodes)
        return (
            f"{self.successes}/{self.num_episodes} = {100 * self.success_rate:.1f} % "
            f"[{100 * low:.1f}, {100 * high:.1f}]"
        )
