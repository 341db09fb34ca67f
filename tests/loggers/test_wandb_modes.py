from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator

import pytest
from wandb_file import WandbFile
from wandb_runs import (
    ONE_RUN,
    child_environment,
    log_epochs,
    logger,
    rows,
    start_group,
    wandb_files,
    warnings_in,
)
from wandb_stub import Stub

from rmexp.loggers.base import RunInfo

# The SDK lets its scratch folders be removed by the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")
FAKE_KEY = "0123456789abcdef0123456789abcdef01234567"


@contextlib.contextmanager
def _refusing_port() -> Generator[int]:
    """A loopback port that is bound and not listening: connections are refused at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.usefixtures("fresh_service")
def test_a_refused_connection_falls_back_to_offline(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    with _refusing_port() as port:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        group = start_group(info, logger())
        log_epochs(group, 3)
        group.finish({}, 0)
    (warning,) = warnings_in(caplog)
    assert "could not be reached" in warning
    assert "wandb sync" in warning
    assert wandb_files(info)[0].rows() == rows(info)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, fresh_service: None) -> Iterator[Stub]:
    stub = Stub()
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", FAKE_KEY)
    monkeypatch.setenv("WANDB_BASE_URL", stub.url)
    yield stub
    stub.stop()


def test_with_credentials_the_rows_reach_the_server(info: RunInfo, server: Stub) -> None:
    view = logger()
    group = start_group(info, view)
    assert view.how_to() == {"view": f"{server.url}/lab/rmexp-test/runs/stub"}
    log_epochs(group, 3)
    group.finish({}, 0)
    assert server.rows == rows(info)
    assert view.offline_dirs() == []


def test_a_server_that_dies_costs_a_bounded_wait_and_no_row(
    info: RunInfo, server: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    group = start_group(info, logger())
    log_epochs(group, 2)
    server.stop()
    log_epochs(group, 2, first=3)
    began = time.monotonic()
    group.finish({}, 0)
    assert time.monotonic() - began < 20
    (warning,) = warnings_in(caplog)
    assert re.search(
        r"did not take everything within 1 s.*wandb sync --include-online .*/wandb/run-\*$", warning
    )
    (directory,) = info.run_dir.glob("wandb/run-*")
    assert WandbFile(directory).rows() == rows(info)


@pytest.mark.parametrize("mode", ["auto", "online"])
def test_no_credentials_on_a_terminal_never_prompt(info: RunInfo, mode: str) -> None:
    pty = pytest.importorskip("pty")
    command = [sys.executable, "-c", ONE_RUN, str(info.run_dir), mode]
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=child_environment(),
        close_fds=True, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    output = b""
    with contextlib.suppress(OSError):  # the terminal's end is an error on Linux
        while chunk := os.read(controller, 4096):
            output += chunk
    os.close(controller)
    assert process.wait(timeout=30) == 0
    lines = output.decode().split()
    assert output.decode().count("LOG") == 1, output
    assert ("WARNING" if mode == "online" else "INFO") in lines
    assert "sync" in lines
    assert len(output.splitlines()) == 1, output
    assert wandb_files(info)[0].rows() == [{"epoch": 1, "global_step": 1, "train/loss": 1.0}]


def test_no_credentials_with_stdin_closed(info: RunInfo) -> None:
    script = f'exec {sys.executable} -c "$0" "$@" <&-'
    done = subprocess.run(
        ["sh", "-c", script, ONE_RUN, str(info.run_dir), "auto"],
        env=child_environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert wandb_files(info)[0].exit_code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_killed_training_loses_less_than_the_flush_interval(info: RunInfo) -> None:
    script = ONE_RUN.replace(
        "view.finish({}, 0)",
        "import os, signal, time; time.sleep(1.5); os.kill(os.getpid(), signal.SIGKILL)",
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(info.run_dir), "offline"], env=child_environment(),
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    (file,) = wandb_files(info)
    assert file.rows() == [{"epoch": 1, "global_step": 1, "train/loss": 1.0}]


def test_the_argument_wins_over_the_environment(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    group = start_group(info, logger())
    log_epochs(group, 1)
    group.finish({}, 0)
    assert not list(info.run_dir.glob("wandb/offline-run-*"))
    group = start_group(info, logger("offline"))
    log_epochs(group, 1, first=2)
    group.finish({}, 0)
    assert len(wandb_files(info)) == 1


@pytest.mark.usefixtures("fresh_service")
@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", []),
        (" offline ", []),
        ("of line", ["WANDB_MODE='of line' is not online, offline or disabled: offline"]),
    ],
)
def test_a_mode_that_the_sdk_refuses_does_not_switch_it_off(
    info: RunInfo,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    value: str,
    said: list[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    group = start_group(info, logger())
    log_epochs(group, 2)
    group.finish({}, 0)
    assert warnings_in(caplog) == said
    assert wandb_files(info)[0].rows() == rows(info)
    assert os.environ["WANDB_MODE"] == value


def test_disabled_does_not_even_import_the_sdk(info: RunInfo) -> None:
    code = ONE_RUN + "assert 'wandb' not in sys.modules"
    subprocess.run(
        [sys.executable, "-c", code, str(info.run_dir), "disabled"],
        env=child_environment(),
        check=True,
    )
    assert list(info.run_dir.iterdir()) == []


@pytest.mark.usefixtures("fresh_service")
def test_a_dead_service_of_a_parent_process_is_forgotten(
    info: RunInfo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that used wandb leaves its service's name to its children, alive or not."""
    code = "import os, wandb; wandb.init(mode='offline', dir='.'); "
    code += "print(os.environ['WANDB_SERVICE'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=info.run_dir,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "WANDB_SILENT": "true"},
    )
    monkeypatch.setenv("WANDB_SERVICE", done.stdout.strip().splitlines()[-1])
    for stale in info.run_dir.glob("wandb"):
        shutil.rmtree(stale)
    group = start_group(info, logger())
    log_epochs(group, 2)
    group.finish({}, 0)
    assert not warnings_in(caplog)
    assert wandb_files(info)[0].rows() == rows(info)
