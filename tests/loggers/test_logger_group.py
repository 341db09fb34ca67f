from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from rmexp.errors import CheckpointError
from rmexp.loggers.base import Logger, LoggerGroup, RunInfo
from rmexp.loggers.jsonl import JsonlRecord

AT = {"epoch": 1, "global_step": 7}


class Spy(Logger):
    """Writes down every call, and raises in the methods named by `broken`."""

    def __init__(self, name: str, calls: list[str], broken: Sequence[str] = ()) -> None:
        self.name, self.calls, self.broken = name, calls, broken
        self.error: BaseException = RuntimeError("the service is gone")
        self.summary: dict[str, float | str] = {}

    def _note(self, what: str) -> None:
        self.calls.append(f"{self.name}.{what}")
        if what in self.broken:
            raise self.error

    def start(self, info: RunInfo) -> None:
        self._note("start")

    def log(self, row: Mapping[str, float], *, epoch: int, global_step: int) -> None:
        self._note("log")

    def log_video(self, key: str, path: Path, *, epoch: int, global_step: int) -> None:
        self._note("log_video")

    def log_curve(
        self,
        key: str,
        xs: Sequence[float],
        ys: Sequence[float],
        lows: Sequence[float],
        highs: Sequence[float],
        *,
        epoch: int,
        global_step: int,
    ) -> None:
        self._note("log_curve")

    def how_to(self) -> dict[str, str]:
        return {f"open_{self.name}": f"open {self.name}"}

    def finish(self, summary: Mapping[str, float | str], exit_code: int) -> None:
        self.summary = dict(summary)
        self._note(f"finish {exit_code}")


def _run(group: LoggerGroup, info: RunInfo) -> None:
    group.start(info)
    group.log({"train/loss": 0.5}, **AT)
    group.log_video("rollout/video", Path("v.mp4"), **AT)
    group.log_curve("rollout/curve", [1], [0.5], [0.2], [0.8], **AT)
    group.log({"train/loss": 0.25}, epoch=2, global_step=14)
    group.finish({"train/loss": 0.25}, 0)


def test_every_view_sees_every_call_and_the_last_started_closes_first(info: RunInfo) -> None:
    calls: list[str] = []
    first, second = Spy("a", calls), Spy("b", calls)
    group = LoggerGroup(JsonlRecord(info.run_dir / "metrics.jsonl"), [first, second])
    _run(group, info)
    steps = ["start", "log", "log_video", "log_curve", "log"]
    assert calls == [f"{v}.{s}" for s in steps for v in "ab"] + ["b.finish 0", "a.finish 0"]
    assert first.summary == {
        "train/loss": 0.25,
        "how_to/open_a": "open a",
        "how_to/open_b": "open b",
    }
    assert group.seconds > 0


@pytest.mark.parametrize("broken", ["start", "log", "log_video", "log_curve", "finish 0"])
def test_a_broken_view_warns_once_is_switched_off_and_still_closed(
    broken: str, info: RunInfo, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[str] = []
    bad, good = Spy("bad", calls, [broken, "finish 0"]), Spy("good", calls)
    record = info.run_dir / "metrics.jsonl"
    with caplog.at_level(logging.WARNING):
        _run(LoggerGroup(JsonlRecord(record), [bad, good]), info)
    (warning,) = caplog.messages
    assert "Spy" in warning
    assert "the service is gone" in warning
    expected = ["start", "log", "log_video", "log_curve", "log", "finish 0"]
    seen = expected[: expected.index(broken) + 1]
    if seen[-1] != "finish 0":
        seen.append("finish 0")
    assert [c for c in calls if c.startswith("bad.")] == [f"bad.{c}" for c in seen]
    assert [c for c in calls if c.startswith("good.")] == [f"good.{c}" for c in expected]
    assert [row["epoch"] for row in JsonlRecord.read(record)] == [1, 2]


def test_an_interrupt_while_closing_still_closes_the_others(info: RunInfo) -> None:
    calls: list[str] = []
    last = Spy("last", calls, ["finish 1"])
    last.error = KeyboardInterrupt()
    record = info.run_dir / "metrics.jsonl"
    group = LoggerGroup(JsonlRecord(record), [Spy("first", calls), last])
    group.log({"train/loss": 1.0}, **AT)
    with pytest.raises(KeyboardInterrupt):
        group.finish({}, 1)
    assert calls[-2:] == ["last.finish 1", "first.finish 1"]


def test_the_record_comes_first_and_is_not_guarded(info: RunInfo) -> None:
    calls: list[str] = []
    record = info.run_dir / "missing" / "metrics.jsonl"
    group = LoggerGroup(JsonlRecord(record), [Spy("a", calls)])
    group.start(info)
    with pytest.raises(CheckpointError, match=r"missing.metrics\.jsonl.*resume="):
        group.log({"train/loss": 1.0}, **AT)
    group.finish({}, 1)
    assert calls == ["a.start", "a.finish 1"]


def test_the_time_of_a_slow_view_is_counted(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("rmexp.loggers.base.time.perf_counter", lambda: next(ticks))
    group = LoggerGroup(JsonlRecord(info.run_dir / "metrics.jsonl"), [])
    group.log({"train/loss": 1.0}, **AT)
    group.log({"train/loss": 1.0}, **AT)
    assert group.seconds == 2
    assert json.loads((info.run_dir / "metrics.jsonl").read_text().splitlines()[0])["epoch"] == 1
    group.finish({}, 0)
    assert group.seconds == 3
