"""Words for numbers: what a row of metrics and a summary say to a reader of plain text."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_FINAL = "rollout/final/"
_PHASES = ("train", "valid", "rollout")
_RESULTS = {"rollout/final": "final success", "best": "max over epochs"}
_LOSSES = {
    "best/loss": "best loss",
    "valid/loss": "valid loss",
    "train/loss": "train loss",
}


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """The few numbers of an epoch that fit on one line of 80 columns."""

    train_loss: float | None
    valid_loss: float | None
    success: float | None
    low: float | None
    high: float | None
    episodes: int | None
    environments: int
    steps_per_s: float | None
    seconds: dict[str, float]

    @staticmethod
    def header() -> str:
        return (
            f"{'train loss':>10}  {'valid loss':>10}  {'success [95 %]':<21}  "
            f"{'steps/s':>7}  {'train+val+roll s':>16}"
        )

    @property
    def is_finite(self) -> bool:
        losses = (self.train_loss, self.valid_loss)
        return all(loss is None or math.isfinite(loss) for loss in losses)

    def cells(self) -> str:
        """Fixed columns, 72 characters, in the order of `header`."""
        seconds = "+".join(
            _short(self.seconds[phase]) if phase in self.seconds else "-" for phase in _PHASES
        )
        return (
            f"{_or_dash(self.train_loss):>10}  {_or_dash(self.valid_loss):>10}  "
            f"{self.success_text():<21}  {_or_dash(self.steps_per_s, 4):>7}  {seconds:>16}"
        )

    def plain(self) -> str:
        parts = [
            f"{name} {number(loss)}"
            for name, loss in (("train loss", self.train_loss), ("valid loss", self.valid_loss))
            if loss is not None
        ]
        if self.environments:
            parts.append(f"success {self.success_text()}")
        if self.steps_per_s is not None:
            parts.append(f"{number(self.steps_per_s)} steps/s")
        parts += [f"{phase} {number(spent, 3)} s" for phase, spent in self.seconds.items()]
        return ", ".join(parts)

    def success_text(self) -> str:
        """A rate with its interval and number of episodes; without those, no rate at all."""
        if self.environments > 1:
            return f"{self.environments} environments"
        if self.success is None:
            return ""
        return success_with_interval(self.success, self.low, self.high, self.episodes, digits=0)


def epoch_report(row: Mapping[str, float]) -> EpochReport | None:
    """The report of a training epoch's row, or None when the row has no training in it."""
    if "train/loss" not in row and not any(key.startswith("time/train/") for key in row):
        return None
    end = "/success_rate"
    rates = [
        key
        for key in row
        if key.startswith("rollout/") and key.endswith(end) and not key.startswith(_FINAL)
    ]
    env = rates[0].removesuffix("success_rate") if rates else ""
    count = row.get(f"{env}num_episodes")
    return EpochReport(
        train_loss=row.get("train/loss"),
        valid_loss=row.get("valid/loss"),
        success=row[rates[0]] if len(rates) == 1 else None,
        low=row.get(f"{env}success_rate_low"),
        high=row.get(f"{env}success_rate_high"),
        episodes=None if count is None else int(count),
        environments=len(rates),
        steps_per_s=row.get("throughput/steps_per_s"),
        seconds={
            phase: row[f"time/{phase}/epoch_s"]
            for phase in _PHASES
            if f"time/{phase}/epoch_s" in row
        },
    )


def summary_rows(summary: Mapping[str, float | str]) -> list[tuple[str, str]]:
    """(label, text) of every result in a run's summary, the known ones first and by name."""
    numbers = {key: value for key, value in summary.items() if not isinstance(value, str)}
    rows: list[tuple[str, str]] = []
    used: set[str] = set()
    for prefix, label in _RESULTS.items():
        if f"{prefix}/success_rate" in numbers:
            rows.append((label, _result_text(numbers, prefix)))
            used |= {key for key in numbers if key.startswith(f"{prefix}/")}
    for key, label in _LOSSES.items():
        if key in numbers:
            epoch = numbers.get("best/epoch") if key == "best/loss" else None
            rows.append((label, number(numbers[key]) + _at_epoch(epoch)))
            used |= {key} if epoch is None else {key, "best/epoch"}
    times = {key: spent for key, spent in numbers.items() if key.startswith("time/")}
    if "time/total_s" in times:
        rows.append(("time", time_split(times)))
        used |= set(times)
    rows += [(key, number(value)) for key, value in numbers.items() if key not in used]
    rows += [
        (key, value)
        for key, value in summary.items()
        if isinstance(value, str) and not key.startswith(("paths/", "how_to/"))
    ]
    return rows


def summary_links(summary: Mapping[str, float | str]) -> list[tuple[str, str]]:
    """(label, path or command) of the entries `paths/<label>` and `how_to/<label>`."""
    return [
        (key.partition("/")[2].replace("_", " "), str(value))
        for start in ("paths/", "how_to/")
        for key, value in summary.items()
        if key.startswith(start)
    ]


def time_split(times: Mapping[str, float]) -> str:
    """`2m 05s: train 81%, rollout 15%, other 4%` from `time/total_s` and `time/<part>_s`."""
    total = times["time/total_s"]
    parts = {
        key.removeprefix("time/").removesuffix("_s"): spent
        for key, spent in times.items()
        if key != "time/total_s"
    }
    if total <= 0 or not parts:
        return duration(total)
    parts["other"] = max(0.0, total - sum(parts.values()))
    shares = sorted(parts.items(), key=lambda part: -part[1])
    return f"{duration(total)}: " + ", ".join(f"{p} {100 * s / total:.0f}%" for p, s in shares)


def success_with_interval(
    rate: float, low: float | None, high: float | None, episodes: float | None, digits: int = 1
) -> str:
    """`92 % [81, 97] n=50`; a rate alone says nothing and is not shown."""
    if low is None or high is None or episodes is None:
        return "unknown (no interval)"
    interval = f"[{100 * low:.{digits}f}, {100 * high:.{digits}f}]"
    return f"{percent(rate, digits)} {interval} n={episodes:.0f}"


def objective_text(objective: float, rows: Iterable[Mapping[str, float]]) -> str:
    """A run's objective for a sweep's table: a success rate as it stands in the run's `rows`."""
    for row in rows:
        for key, value in row.items():
            if key.endswith("/success_rate") and value == objective:
                low, high = (row.get(f"{key}_{end}") for end in ("low", "high"))
                count = row.get(f"{key.removesuffix('success_rate')}num_episodes")
                return success_with_interval(value, low, high, count)
    return f"{objective:.4g}"


def percent(rate: float, digits: int = 0) -> str:
    return f"{100 * rate:.{digits}f} %"


def number(value: float, digits: int = 4) -> str:
    """`digits` significant figures; whole numbers are never written with an exponent."""
    if math.isfinite(value) and abs(value) >= 10 ** (digits - 1) and abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """`0.4s`, `52s`, `3m 07s`, `2h 05m`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s" if minutes else f"{rest}s"


def path_for_shell(path: Path) -> str:
    """Quoted, and relative when it lies below the working directory: a command to copy."""
    path, here = path.absolute(), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _result_text(numbers: Mapping[str, float], prefix: str) -> str:
    low, high = (numbers.get(f"{prefix}/success_rate_{end}") for end in ("low", "high"))
    count = numbers.get(f"{prefix}/num_episodes")
    rate = numbers[f"{prefix}/success_rate"]
    return success_with_interval(rate, low, high, count) + _at_epoch(numbers.get(f"{prefix}/epoch"))


def _at_epoch(epoch: float | None) -> str:
    return "" if epoch is None else f", epoch {epoch:.0f}"


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 99.95 else f"{seconds:.0f}"


def _or_dash(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else number(value, digits)
