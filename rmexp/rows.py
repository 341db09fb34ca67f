"""A row of metrics gets its names here: place, name, unit."""

from __future__ import annotations

from dataclasses import asdict

from rmexp.rollout.statistics import RolloutResult

Row = dict[str, float]


def named(row: Row, phase: str) -> Row:
    """`run_epoch`'s names with their place: loss -> train/loss, time/x_s -> time/train/x_s."""
    out: Row = {}
    for name, value in row.items():
        place, slash, rest = name.partition("/")
        if not slash:
            out[f"{phase}/{name}"] = value
        elif place == "time":
            out[f"time/{phase}/{rest}"] = value
        elif phase == "train":
            out[name] = value
    return out


def rollout_row(result: RolloutResult, place: str) -> Row:
    """A rollout's metrics under `place`, its seconds under `time/rollout`."""
    row = {f"{place}/{name}": value for name, value in result.metrics().items() if name != "wall_s"}
    times = asdict(result.times)
    row["time/rollout/epoch_s"] = times.pop("wall_s")
    return row | {f"time/rollout/{name}": seconds for name, seconds in times.items()}
