from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from console_runs import SUMMARY, epoch_row, started_console

from rmexp.loggers.base import RunInfo


@pytest.mark.parametrize("terminal", [True, False])
def test_the_log_file_holds_the_epochs_and_the_result(
    info: RunInfo, log_file: Path, terminal: bool
) -> None:
    console, stream = started_console(info, terminal=terminal)
    printing = logging.StreamHandler(stream)
    logging.getLogger().addHandler(printing)
    try:
        console.progress(1, 1, 2, 0.5, 1.0)
        console.log(epoch_row(2, 0.5), epoch=2, global_step=2)
        console.finish(SUMMARY, 0)
    finally:
        logging.getLogger().removeHandler(printing)
    lines = log_file.read_text().splitlines()
    assert all(line.startswith("rmexp.loggers.console INFO ") for line in lines)
    texts = [line.removeprefix("rmexp.loggers.console INFO ") for line in lines]
    assert texts[:2] == [
        "epoch 2/5: train loss 0.5, valid loss 1, success 50 % [40, 60] n=50, 81.3 steps/s, "
        "train 1.25 s, valid 0.125 s, rollout 31 s",
        "finished",
    ]
    assert "  final success    90.0 % [78.6, 95.7] n=50" in texts
    assert texts[-1].endswith("wandb sync outputs/" + "x" * 100)
    assert stream.getvalue().count("90.0 % [78.6, 95.7]") == 1
    assert stream.getvalue().count("finished") == 1
    if not terminal:
        assert stream.getvalue().splitlines() == texts


@pytest.mark.parametrize("terminal", [True, False])
def test_output_that_goes_away_leaves_the_log_file(
    info: RunInfo, log_file: Path, terminal: bool
) -> None:
    console, stream = started_console(info, terminal=terminal)

    def gone(_text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")

    stream.write = gone
    for epoch in (1, 2):
        console.log(epoch_row(epoch), epoch=epoch, global_step=epoch)
    console.finish(SUMMARY, 0)
    text = log_file.read_text()
    assert text.count("WARNING the output cannot be written any more") == 1
    assert "epoch 2/5: train loss 0.5" in text
    assert "INFO finished" in text


@pytest.mark.skipif(sys.platform == "win32", reason="pipes differ")
def test_a_pipe_whose_reader_has_gone_does_not_end_the_process() -> None:
    code = """
import sys, time
from rmexp.loggers.console import ConsoleLogger
console = ConsoleLogger()
sys.stdin.read()
for epoch in range(1, 4):
    console.log({"train/loss": 0.5}, epoch=epoch, global_step=epoch)
sys.stderr.write("trained to the end")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    process.stdin.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(timeout=30) == 0, said
    assert said.count("cannot be written any more") == 1
    assert said.endswith("trained to the end")
