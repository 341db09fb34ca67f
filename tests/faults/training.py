"""Real training processes that something happens to: killed, stopped, out of room.

Each is forked off a server that has imported torch, so that it starts in milliseconds and a test
can afford dozens; from there on it is `python -m rmexp`, with its own memory, files and signals.
"""

from __future__ import annotations

import atexit
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pytest

from tests.command_line import GOLDEN, TESTS, Outcome
from tests.faults import mounts

PATIENCE_S = 120.0
PACKAGE = str(TESTS.parent / "rmexp") + os.sep
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONPATH": str(TESTS.parent),
    "RMEXP_TEST_DATA": str(GOLDEN),
}
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.faults.preload"])


@dataclass(frozen=True)
class Fault:
    """A signal, and the moment at which a process gets it; or a disk that is full from then on.

    at: "call" number `number` of a function of rmexp (of those named `where`, if that is given),
            counted from the beginning of `rmexp.experiment.run`;
        "file": before its `number`-th opening, renaming, linking or removing of a run's file;
        "byte": while writing byte `number` of a file, as the kernel's limit on sizes does it;
        "cpu": after `number` seconds of processor time, from outside;
        "none": nothing happens; "count": nothing happens, but moments are counted.
    times: the signal comes again at the calls that follow.
    file_limit: no signal, but from then on no file may grow beyond this many bytes.
    """

    at: Literal["call", "file", "byte", "cpu", "none", "count"]
    number: float
    where: str = ""
    signum: signal.Signals = signal.SIGKILL
    times: int = 1
    file_limit: int | None = None


NONE, COUNT = Fault("none", 0), Fault("count", 0)


@dataclass(frozen=True)
class World:
    """What else is different for a process.

    simulator: rollouts happen, in `tests.faults.reach`.
    mounts: a process whose file systems it sees (`tests.faults.mounts`).
    """

    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    simulator: bool = False
    mounts: int | None = None


def train(
    arguments: Sequence[str], folder: Path, fault: Fault = NONE, world: World | None = None
) -> Outcome:
    """The command in `folder`; a negative code names the signal that ended it."""
    pipe = folder / "output"  # no file: those are limited or on a full disk
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    output = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    text = b""
    try:
        process = _start(list(arguments), folder, fault, world or World())
        deadline = time.monotonic() + PATIENCE_S
        while process.exitcode is None and time.monotonic() < deadline:
            if fault.at == "cpu" and _cpu_seconds(process.pid) >= fault.number:
                process.kill()
            process.join(0.001 if fault.at == "cpu" else 0.1)
            text += _available(output)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"{fault}: hangs\n{text.decode()}")
        return Outcome(process.exitcode, (text + _available(output)).decode(), "")
    finally:
        os.close(output)


def _available(pipe: int) -> bytes:
    text = b""
    try:
        while block := os.read(pipe, 1 << 16):
            text += block
    except BlockingIOError:
        pass
    return text


def counted(folder: Path) -> dict[str, Any]:
    """How many moments of each kind the process had that ran last in `folder`, with `COUNT`."""
    return json.loads((folder / "counts.json").read_text())


def call(
    function: Callable[..., object],
    arguments: tuple[Any, ...],
    folder: Path,
    fault: Fault,
) -> int:
    """Call a function in a process of its own, with files below `folder` watched; its exit code."""
    process = _context.Process(target=_call, args=(function, arguments, folder, fault))
    with _server_environment():
        process.start()
    process.join(PATIENCE_S)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"{fault}: hangs")
    return process.exitcode


def _call(
    function: Callable[..., object], arguments: tuple[Any, ...], folder: Path, fault: Fault
) -> None:
    sys.addaudithook(_at_files(fault, {"call": 0, "file": 0}, folder))
    function(*arguments)


def _start(arguments: list[str], folder: Path, fault: Fault, world: World) -> ForkServerProcess:
    process = _context.Process(target=_main, args=(arguments, folder, fault, world))
    with _server_environment():
        process.start()
    return process


@contextmanager
def _server_environment() -> Generator[None]:
    """The fork server starts with the first process, and keeps the environment of that moment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


def _cpu_seconds(pid: int | None) -> float:
    """Of another process (Linux); what a busy machine takes is not counted."""
    assert pid is not None
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def _main(arguments: list[str], folder: Path, fault: Fault, world: World) -> None:
    os.environ.update({**_ENVIRONMENT, **world.environment})
    output = os.open(folder / "output", os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rmexp", *arguments]
    _enter(world)
    os.chdir(folder)
    counts = _arm(fault)

    from rmexp.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()  # pyright: ignore[reportAttributeAccessIssue]
        if fault == COUNT:
            Path("counts.json").write_text(json.dumps({**counts, "cpu": time.process_time()}))


def _enter(world: World) -> None:
    if world.simulator:
        from rmexp.rollout import rollouts
        from tests.faults import reach

        rollouts.make_environment = reach.make
        rollouts.simulator_missing = reach.is_there
    if world.mounts is not None:
        mounts.enter(world.mounts)


def _arm(fault: Fault) -> dict[str, int]:
    counts = {"call": 0, "file": 0}
    if fault.at in ("call", "count"):
        from rmexp import experiment

        run = experiment.run

        def traced(*arguments: Any, **options: Any) -> float | None:
            sys.settrace(_at_calls(fault, counts))
            try:
                return run(*arguments, **options)
            finally:
                sys.settrace(None)

        experiment.run = traced
    if fault.at in ("file", "count"):
        sys.addaudithook(_at_files(fault, counts, Path("run").absolute()))
    if fault.at == "byte":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.number), resource.RLIM_INFINITY))
    return counts


def _strike(fault: Fault) -> None:
    if fault.file_limit is None:
        os.kill(os.getpid(), fault.signum)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.file_limit, resource.RLIM_INFINITY))


def _at_calls(fault: Fault, counts: dict[str, int]) -> Callable[[FrameType, str, Any], None]:
    times = 0

    def hook(frame: FrameType, event: str, _: Any) -> None:
        nonlocal times
        code = frame.f_code
        if not code.co_filename.startswith(PACKAGE):
            return
        counts["call"] += fault.where in ("", code.co_qualname)
        if fault.at == "call" and counts["call"] >= fault.number and times < fault.times:
            times += 1
            _strike(fault)

    return hook


_CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")


def _at_files(
    fault: Fault, counts: dict[str, int], folder: Path
) -> Callable[[str, tuple[Any, ...]], None]:
    def hook(event: str, details: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(details[2], int) and details[2] & os.O_ACCMODE
        if (writes or event in _CHANGES) and str(folder) in os.path.abspath(str(details[0])):  # noqa: PTH100
            counts["file"] += 1
            if fault.at == "file" and counts["file"] >= fault.number:
                _strike(fault)

    return hook
