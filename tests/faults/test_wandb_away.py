"""W&B is away in every way we could think of; the run neither waits, nor dies, nor loses a row.

Real SDK, real `wandb-core`, real servers on the loopback interface. How long an epoch waited is
what the run itself measured: `time/logging_s` holds all calls into the record and the views.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import TINY, Outcome, rows, run_here, run_process
from tests.faults.weights import weights_sha256
from tests.loggers import wandb_stub
from tests.loggers.wandb_stub import Stub

pytestmark = [
    pytest.mark.faults,
    pytest.mark.slow,
    # The SDK lets its scratch folders be removed by the garbage collector.
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),
]
FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"
EPOCHS = 24
RUN = [
    *(word for word in TINY if not word.startswith(("logging", "loop.num_epochs"))),
    f"loop.num_epochs={EPOCHS}",
    "hydra.run.dir=run",
]
WANDB = [
    "logging=wandb",
    "logging.wandb.init_timeout=1",
    "logging.wandb.finish_timeout=1",
    "logging.wandb.flush_interval=0.1",
]
LONGEST_WAIT_S = 1.0
Here = Callable[..., Outcome]


@dataclass
class Plain:
    """The same run without W&B."""

    rows: list[dict[str, Any]]
    weights: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder = tmp_path_factory.mktemp("plain")
    outcome = run_process([*RUN, "logging=none"], folder)
    assert outcome.code == 0, outcome.text
    return Plain(rows(folder / "run"), weights_sha256(folder / "run"))


@pytest.fixture(autouse=True)
def _no_wandb(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No account, no settings, no service of another test."""
    import wandb

    wandb.teardown()
    for name in [name for name in os.environ if name.startswith(("WANDB_", "NETRC"))]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    yield
    wandb.teardown()


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Here:
    """Run `RUN` with W&B in this process, with an account at `url`."""

    def run(url: str, *more: str) -> Outcome:
        monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
        monkeypatch.setenv("WANDB_BASE_URL", url)
        return run_here([*RUN, *WANDB, *more], monkeypatch, capfd)

    return run


@contextlib.contextmanager
def server(*arguments: str) -> Generator[tuple[str, int]]:
    """A stub in a process of its own: its address and its pid."""
    process = subprocess.Popen(
        [sys.executable, wandb_stub.__file__, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def bound_socket(listening: bool) -> Generator[str]:
    """The address of a port that refuses at once, or takes connections and never answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        if listening:
            taken.listen(64)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def strike(victim: int, signal_name: str = "SIGKILL") -> list[str]:
    return [
        "+logging.fault._target_=tests.faults.fault_view.FaultView",
        "+logging.fault.at_epoch=5",
        f"+logging.fault.victim={victim}",
        f"+logging.fault.signal_name={signal_name}",
    ]


def assert_untouched(run: Path, plain: Plain) -> None:
    """Whole record, equal weights, and no epoch that waited for W&B."""
    assert rows(run) == plain.rows
    assert weights_sha256(run) == plain.weights
    waits = [row["time/logging_s"] for row in timed_rows(run)]
    assert len(waits) == EPOCHS
    # The first row's share is the start of the run; each other one's is that of the epoch before.
    assert max(waits[1:]) < LONGEST_WAIT_S, waits


def timed_rows(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def synced(outcome: Outcome) -> list[dict[str, Any]]:
    """What the command that the run printed brings to a healthy server, in order of arrival."""
    arguments = re.findall(r"wandb sync (.*\*)$", outcome.text, re.MULTILINE)[-1]
    stub = Stub()
    try:
        account = {"WANDB_BASE_URL": stub.url, "WANDB_API_KEY": FAKE_KEY}
        done = subprocess.run(
            f"{sys.executable} -m wandb sync {arguments}",
            shell=True,
            env={**os.environ, **account},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        stub.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    return stub.rows


def assert_one_per_epoch(sent: list[dict[str, Any]], last: int = EPOCHS) -> None:
    """Epochs 1 to `last`, once each, with the very values of the record."""
    assert sent == timed_rows(Path("run"))[:last]


def test_no_credentials_and_no_terminal(plain: Plain, tmp_path: Path) -> None:
    outcome = run_process([*RUN, *WANDB], tmp_path)
    assert outcome.code == 0, outcome.text
    assert "W&B has no credentials" in outcome.text
    assert_untouched(tmp_path / "run", plain)
    assert_one_per_epoch(synced(outcome))


@pytest.mark.parametrize("listening", [False, True], ids=["refused", "black hole"])
def test_no_network(plain: Plain, here: Here, listening: bool) -> None:
    with bound_socket(listening) as url:
        outcome = here(url)
    assert outcome.code == 0, outcome.text
    assert "W&B could not be reached" in outcome.err
    assert_untouched(Path("run"), plain)
    assert timed_rows(Path("run"))[0]["time/logging_s"] < 20  # init_timeout and two starts
    assert_one_per_epoch(synced(outcome))


@pytest.mark.parametrize("status", [401, 500])
def test_a_wrong_key_or_a_broken_server(plain: Plain, here: Here, status: int) -> None:
    with server(f"--status={status}") as (url, _):
        outcome = here(url)
    assert outcome.code == 0, outcome.text
    assert "W&B could not be reached" in outcome.err
    assert_untouched(Path("run"), plain)
    assert_one_per_epoch(synced(outcome))


def test_the_server_dies_in_mid_run(plain: Plain, here: Here) -> None:
    with server() as (url, pid):
        outcome = here(url, *strike(pid))
    assert outcome.code == 0, outcome.text
    assert "W&B did not take everything within 1 s" in outcome.err
    assert_untouched(Path("run"), plain)
    assert_one_per_epoch(synced(outcome))


def test_the_server_stops_answering_in_mid_run(plain: Plain, here: Here) -> None:
    with server() as (url, pid):
        outcome = here(url, *strike(pid, "SIGSTOP"))
    assert outcome.code == 0, outcome.text
    assert "W&B did not take everything within 1 s" in outcome.err
    assert_untouched(Path("run"), plain)
    assert_one_per_epoch(synced(outcome))


def test_a_slow_server(plain: Plain, here: Here) -> None:
    stub = Stub(delay=0.4)
    try:
        slow = ["init_timeout=10", "finish_timeout=30"]
        outcome = here(stub.url, *(f"logging.wandb.{word}" for word in slow))
    finally:
        stub.stop()
    assert outcome.code == 0, outcome.text
    assert_untouched(Path("run"), plain)
    assert_one_per_epoch(stub.rows)


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_wandb_core_is_killed(plain: Plain, here: Here, mode: str) -> None:
    with server() as (url, _):
        outcome = here(url, f"logging.wandb.mode={mode}", *strike(0))
    assert outcome.code == 0, outcome.text
    assert outcome.err.count("WandbLogger is off for the rest of this run") == 1
    assert_untouched(Path("run"), plain)
    sent = synced(outcome)
    assert_one_per_epoch(sent, len(sent))
    assert 1 <= len(sent) < EPOCHS


def test_wandb_core_stands_still(plain: Plain, here: Here) -> None:
    with server() as (url, _):
        outcome = here(url, *strike(0, "SIGSTOP"))
    assert outcome.code == 0, outcome.text
    assert "W&B did not take everything within 1 s" in outcome.err
    assert_untouched(Path("run"), plain)
    sent = synced(outcome)
    assert_one_per_epoch(sent, len(sent))
