from __future__ import annotations

import logging
import re

import pytest
from console_runs import SUMMARY, Stream, epoch_row, screen, started_console

from rmexp.loggers.base import RunInfo
from rmexp.loggers.console import ConsoleLogger
from rmexp.loggers.report import duration, number, objective_text, summary_rows, time_split

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")


def test_without_a_terminal_there_is_one_plain_line_per_epoch(info: RunInfo) -> None:
    console, stream = started_console(info, terminal=False)
    for epoch in (1, 2, 3):
        console.progress(epoch, 5, 10, 0.1, 80.0)
        console.status("rolling out")
        console.log(epoch_row(epoch, 0.5 if epoch == 2 else None), epoch=epoch, global_step=epoch)
    console.log({"rollout/final/success_rate": 0.9}, epoch=3, global_step=3)
    assert stream.getvalue().splitlines() == [
        "epoch 1/5: train loss 1, valid loss 2, 81.3 steps/s, train 1.25 s, valid 0.125 s",
        "epoch 2/5: train loss 0.5, valid loss 1, success 50 % [40, 60] n=50, 81.3 steps/s, "
        "train 1.25 s, valid 0.125 s, rollout 31 s",
        "epoch 3/5: train loss 0.3333, valid loss 0.6667, 81.3 steps/s, train 1.25 s, "
        "valid 0.125 s",
    ]
    console.finish(SUMMARY, 0)
    assert not CONTROL.search(stream.getvalue())


@pytest.mark.parametrize("terminal", [True, False])
def test_the_summary_shows_every_number_and_whole_paths(info: RunInfo, terminal: bool) -> None:
    console, stream = started_console(info, terminal=terminal)
    console.log(epoch_row(4), epoch=4, global_step=4)
    console.finish(SUMMARY, 0)
    text = "\n".join(screen(stream.getvalue()))
    assert "finished" in text
    assert re.search(r"final success +90\.0 % \[78\.6, 95\.7\] n=50", text)
    assert re.search(r"max over epochs +100\.0 % \[92\.9, 100\.0\] n=50, epoch 40", text)
    assert re.search(r"train loss +0\.25", text)
    assert re.search(r"time +2m 05s: train 60%, rollout 20%, other 20%", text)
    assert re.search(r"sync +wandb sync outputs/x{100}$", text, re.MULTILINE)
    assert re.search(r"run +outputs/x{100}$", text, re.MULTILINE)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_but_paths_is_wider_than_the_terminal(info: RunInfo, width: int) -> None:
    console, stream = started_console(info, terminal=True, width=width)
    for epoch in range(1, 45):
        console.progress(epoch, 99999, 100000, 1.2345e-05, 12345.6)
        console.log(epoch_row(epoch, 1.0), epoch=epoch, global_step=epoch)
    console.log({**epoch_row(45), "train/loss": float("nan")}, epoch=45, global_step=1)
    console.status("s" * 500)
    console.finish({k: v for k, v in SUMMARY.items() if not isinstance(v, str)}, 3)
    drawn = re.split(r"\r\x1b\[2K|\n", stream.getvalue())
    shown = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in drawn]
    assert max(map(len, shown)) <= width
    lines = screen(stream.getvalue())
    assert sum(line.startswith("epoch") for line in lines) == 3
    assert any("stopped with exit code 3" in line for line in lines)
    assert not any("ssss" in line for line in lines)


def test_the_live_line_says_where_the_run_stands(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("rmexp.loggers.console.time.monotonic", lambda: now[0])
    console, stream = started_console(info, terminal=True)
    console.progress(1, 50, 100, 0.0123, 10.0)
    line = screen(stream.getvalue())[-1]
    assert line == "epoch 1/5  [=====     ] 50/100  loss 0.0123  10 steps/s  ETA 45s"
    now[0] += 100.0
    console.log(epoch_row(1), epoch=1, global_step=100)
    console.progress(2, 0, 100, None, 0.0)
    assert screen(stream.getvalue())[-1] == "epoch 2/5  [          ] 0/100  0 steps/s  ETA 6m 40s"
    console.clear()
    assert screen(stream.getvalue())[-1] == ""


def test_log_records_do_not_mix_with_the_live_line(info: RunInfo) -> None:
    stream = Stream(terminal=True)
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        console = ConsoleLogger(stream=stream, width=80)
        console.start(info)
        console.progress(1, 1, 2, 0.5, 1.0)
        logging.getLogger("somebody").warning("a message")
        console.progress(1, 2, 2, 0.5, 1.0)
        console.finish({}, 0)
        logging.getLogger("somebody").warning("after the end")
        assert handler.filters == []
    finally:
        logging.getLogger().removeHandler(handler)
    lines = screen(stream.getvalue())
    assert lines[0] == "a message"
    assert lines[-2:] == ["after the end", ""]


def test_a_terminal_that_goes_away_does_not_stop_the_training(info: RunInfo) -> None:
    console, stream = started_console(info, terminal=True)

    def gone(_text: str) -> int:
        raise BrokenPipeError

    stream.write = gone
    console.progress(1, 1, 2, 0.5, 1.0)
    console.status("still here")
    assert not console.is_live


def test_paths_are_aligned_and_whole_at_80_columns(info: RunInfo) -> None:
    console, stream = started_console(info, terminal=True)
    paths = {
        "run": "outputs/2026-01-01",
        "best_checkpoint": "outputs/2026-01-01/checkpoints/best.pt",
        "videos": "outputs/2026-01-01/videos",
    }
    console.finish({"train/loss": 0.5, **{f"paths/{k}": v for k, v in paths.items()}}, 0)
    lines = screen(stream.getvalue())
    assert lines[3:] == [
        "  run              outputs/2026-01-01",
        "  best checkpoint  outputs/2026-01-01/checkpoints/best.pt",
        "  videos           outputs/2026-01-01/videos",
        "",
    ]


def test_only_numbers_that_a_run_produces_have_a_name() -> None:
    assert summary_rows({"valid/best_loss": 0.5}) == [("valid/best_loss", "0.5")]


def test_a_dumb_terminal_gets_plain_lines(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    console, stream = started_console(info, terminal=True)
    console.progress(1, 1, 2, 0.5, 1.0)
    console.log(epoch_row(1), epoch=1, global_step=1)
    assert stream.getvalue().startswith("epoch 1/5: train loss 1,")


@pytest.mark.parametrize(
    ("rates", "shown"),
    [
        ({"A/success_rate": 0.5}, "unknown (no interval)"),
        ({"A/success_rate": 0.5, "A/num_episodes": 9.0}, "unknown (no interval)"),
        ({"A/success_rate": 0.5, "B/success_rate": 1.0}, "2 environments"),
    ],
)
def test_no_rate_is_shown_without_interval_and_number(
    info: RunInfo, rates: dict[str, float], shown: str
) -> None:
    console, stream = started_console(info, terminal=False)
    row = {"train/loss": 1.0} | {f"rollout/{key}": value for key, value in rates.items()}
    console.log(row, epoch=1, global_step=1)
    assert stream.getvalue() == f"epoch 1/5: train loss 1, success {shown}\n"


def test_a_sweep_shows_a_success_rate_as_it_stands_in_the_record() -> None:
    rate = {"success_rate": 0.84, "success_rate_low": 0.71, "success_rate_high": 0.92}
    final = {f"rollout/final/{k}": v for k, v in (rate | {"num_episodes": 50.0}).items()}
    rows = [{"train/loss": 0.5}, {"epoch": 1.0} | final]
    assert objective_text(0.84, rows) == "84.0 % [71.0, 92.0] n=50"
    assert objective_text(0.5, rows) == "0.5"
    assert objective_text(0.123456, []) == "0.1235"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1234.56, "1235"),
        (123456.0, "123456"),
        (1.23456e-5, "1.235e-05"),
        (-4.5678, "-4.568"),
        (2.6e7, "2.6e+07"),
        (float("nan"), "nan"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (59.6, "1m 00s"), (187, "3m 07s"),
     (7499, "2h 04m"), (90000, "25h 00m")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_time_split_without_parts() -> None:
    assert time_split({"time/total_s": 3.0}) == "3.0s"
    assert time_split({"time/total_s": 0.0, "time/train_s": 0.0}) == "0.0s"
