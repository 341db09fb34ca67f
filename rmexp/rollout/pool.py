"""Simulators in processes of their own, which simulate at the same time.

A worker is a fresh interpreter that shares only the import path with its parent: no fork (the
parent has threads and perhaps a GPU), and no second run of the parent's `__main__`, which
multiprocessing's spawn would import.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import connection
from typing import Any

import numpy as np

from rmexp.errors import RolloutError
from rmexp.rollout.environments import Environment
from rmexp.rollout.worker import Failure, Ready, Reply, View

ANSWER_S = 300.0
CLOSE_S = 10.0
_START = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # the parent decides
    "from rmexp.rollout.worker import main; main({descriptor}, {parent})"
)
_VARIABLES = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "PYTHONUNBUFFERED": "1",  # last words survive a crash
}


class RenderingError(RolloutError):
    """A simulator failed, or may have failed, at taking a picture."""


class EnvPool:
    """Environments numbered from 0, each in a worker process.

    Workers start when their environment is first reset and stay up until `close()`, the end of
    the interpreter, or an error; after an error the next reset starts them anew.

    Args:
        make_env: makes one environment; pickled, and called in each worker.
        num_envs: how many environments there are.
        answer_s: seconds without an answer after which a simulator counts as stuck.
    """

    def __init__(
        self, make_env: Callable[[], Environment], num_envs: int, *, answer_s: float = ANSWER_S
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs={num_envs}: a pool has at least one environment")
        self.num_envs = num_envs
        self.answer_s = answer_s
        self.name = "the environment"
        self.no_video: str | None = None
        """Why no more videos are tried, once that is known."""
        self._make_env = _pickled(make_env)
        self._workers: dict[int, _Worker] = {}
        weakref.finalize(self, _end, self._workers)

    def reset(self, seeds: Mapping[int, int], view: View | None = None) -> dict[int, Reply]:
        """Start an episode in each environment: {env: seed}, and wait for all of them."""
        for env, seed in seeds.items():
            self.submit_reset(env, seed, view)
        return self.collect(seeds)

    def step(self, actions: Mapping[int, np.ndarray]) -> dict[int, Reply]:
        """Step each environment by its action (A,), and wait for all of them."""
        for env, action in actions.items():
            self.submit_step(env, action)
        return self.collect(actions)

    def submit_reset(self, env: int, seed: int, view: View | None = None) -> None:
        """Let environment `env` start the episode of `seed`; `collect` has the answer."""
        worker = self._running(env)
        worker.seed, worker.step, worker.view = seed, 0, view
        self._submit(env, "reset", seed, view)

    def submit_step(self, env: int, action: np.ndarray) -> None:
        """Let environment `env` take a step; `collect` has the answer."""
        self._workers[env].step += 1
        self._submit(env, "step", action)

    def collect(self, envs: Iterable[int]) -> dict[int, Reply]:
        """Wait for the answer of every environment in `envs`, in whatever order they come.

        Raises:
            RolloutError: a simulator raised, died or stays silent; all workers have been ended.
        """
        envs = list(envs)
        waiting = {self._workers[env].pipe: env for env in envs}
        replies: dict[int, Reply] = {}
        while waiting:
            patience = min(self._workers[env].deadline for env in waiting.values())
            ready = connection.wait(list(waiting), max(0.0, patience - time.monotonic()))
            if not ready:
                env = min(waiting.values(), key=lambda env: self._workers[env].deadline)
                text = f"no answer for {self.answer_s:g} s; the simulator seems to hang"
                self._workers[env].process.kill()
                raise self._failure(env, text, self._workers[env].output())
            for pipe in ready:
                env = waiting[pipe]  # pyright: ignore[reportArgumentType]
                reply = self._receive(env)
                if reply is not None:
                    replies[env] = reply
                    del waiting[self._workers[env].pipe]
        return {env: replies[env] for env in envs}

    def close(self) -> None:
        """End all worker processes; the next reset would start them again."""
        _end(self._workers)

    def _running(self, env: int) -> _Worker:
        if not 0 <= env < self.num_envs:
            raise ValueError(f"environment {env}: the pool has 0 to {self.num_envs - 1}")
        worker = self._workers.get(env)
        if worker is not None and worker.process.poll() is not None:  # died while idle
            worker.end(time.monotonic())
            worker = None
        if worker is None:
            self._workers[env] = _Worker()
            self._submit(env, "make", self._make_env)
        return self._workers[env]

    def _submit(self, env: int, operation: str, *arguments: Any) -> None:
        worker = self._workers[env]
        assert set(worker.operations) <= {"make"}, f"environment {env} still owes an answer"
        worker.operations.append(operation)
        worker.deadline = time.monotonic() + self.answer_s
        sent = False
        with contextlib.suppress(OSError):  # its end is told below, with the worker's last words
            worker.pipe.send((operation, arguments))
            sent = True
        if not sent:
            raise self._death(env)

    def _receive(self, env: int) -> Reply | None:
        worker = self._workers[env]
        answer: Ready | Reply | Failure | None = None
        with contextlib.suppress(EOFError, OSError):  # likewise
            answer = worker.pipe.recv()
        if answer is None:
            raise self._death(env)
        if isinstance(answer, Failure):
            text = f"rendering failed: {answer.text}" if answer.rendering else answer.text
            raise self._failure(env, text, answer.traceback, rendering=answer.rendering)
        worker.operations.popleft()
        worker.deadline = time.monotonic() + self.answer_s
        if isinstance(answer, Ready):
            self.name = answer.name
            return None
        return answer

    def _death(self, env: int) -> RolloutError:
        worker = self._workers[env]
        text = f"the simulator's process {_how_it_ended(worker.process)}"
        output = worker.output()
        said = output.partition("Fatal Python error")[0].split("\n")
        if last := next((line.strip() for line in reversed(said) if line.strip()), ""):
            text += f"; it last said: {last}"
        sent_away = worker.process.returncode in (-signal.SIGKILL, -signal.SIGTERM)
        filming = worker.view is not None and worker.operations[0] != "make"
        return self._failure(env, text, output, rendering=filming and not sent_away)

    def _failure(
        self, env: int, text: str, details: str, *, rendering: bool = False
    ) -> RolloutError:
        """End the workers, whose episodes are lost, and say where it happened."""
        worker = self._workers[env]
        if worker.operations[0] == "make":
            text = f"{self.name} could not be made: {text}"
        elif not text.startswith(f"{self.name}, seed {worker.seed}, "):
            text = f"{self.name}, seed {worker.seed}, step {worker.step}: {text}"
        self.close()
        error = (RenderingError if rendering else RolloutError)(text)
        error.__cause__ = WorkerOutput(f"in the simulator's process:\n{details.rstrip()}")
        return error


class WorkerOutput(Exception):
    """What a worker printed, or the traceback that it sent: for the log."""


class _Worker:
    """A worker process, seen from its parent."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        with there:
            self._output = tempfile.TemporaryFile("a+b")  # noqa: SIM115
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _start(there.fileno())],
                env={**os.environ, **_VARIABLES, "PYTHONPATH": _import_path()},
                pass_fds=[there.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        self.pipe = connection.Connection(here.detach())
        self.operations: deque[str] = deque()
        """Submitted and not answered yet."""
        self.deadline = 0.0
        self.seed: int | None = None
        self.step = 0
        self.view: View | None = None
        self._owner = os.getpid()

    def output(self) -> str:
        """The end of what the process printed."""
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - 4096))
        return self._output.read().decode(errors="replace").strip()

    def ask_to_end(self) -> None:
        if self._owner == os.getpid():  # a forked copy of the parent has no say
            with contextlib.suppress(OSError):  # it is dead already
                self.pipe.send(None)
        self.pipe.close()

    def end(self, deadline: float) -> None:
        """Wait for the process, which was asked to end, and kill it at the deadline."""
        self.pipe.close()
        if self._owner == os.getpid():
            try:
                self.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._output.close()


def _end(workers: dict[int, _Worker]) -> None:
    deadline = time.monotonic() + CLOSE_S
    for worker in workers.values():
        worker.ask_to_end()
    for worker in workers.values():
        worker.end(deadline)
    workers.clear()


def _pickled(make_env: Callable[[], Environment]) -> bytes:
    remedy = (
        "it is called in another process: use a function or class at the top of an importable "
        "module, or functools.partial of one"
    )
    try:
        pickled = pickle.dumps(make_env)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise RolloutError(f"make_env cannot be pickled ({error}); {remedy}") from error
    if b"__main__" in pickled:
        raise RolloutError(f"make_env is defined in the main script; {remedy}")
    return pickled


def _start(descriptor: int) -> str:
    return _START.format(descriptor=descriptor, parent=os.getpid())


def _import_path() -> str:
    return os.pathsep.join(str(entry) or os.getcwd() for entry in sys.path)  # noqa: PTH109


def _how_it_ended(process: subprocess.Popen[bytes]) -> str:
    try:
        code = process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        return "closed its pipe"
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL (out of memory?)"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
