"""Simulators in processes of their own, which simulate at the same time.

The pool sends, waits, and turns whatever goes wrong in a worker into one error that names the
episode; how a process starts and ends is `rmexp.rollout.worker_process`.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from multiprocessing import connection
from typing import Any

import numpy as np

from rmexp.errors import RolloutError
from rmexp.rollout.environments import Environment
from rmexp.rollout.worker import Failure, Ready, Reply, View
from rmexp.rollout.worker_process import WorkerProcess

ANSWER_S = 300.0
CLOSE_S = 10.0
POLL_S = 0.5


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
        self._workers: dict[int, WorkerProcess] = {}
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

    def collect(
        self, envs: Iterable[int], should_stop: Callable[[], None] | None = None
    ) -> dict[int, Reply]:
        """Wait for the answer of every environment in `envs`, in whatever order they come.

        `should_stop` is called every half second without an answer; it raises to break off, which
        kills the workers: a simulator that hangs, or takes long to start, holds up no signal.

        Raises:
            RolloutError: a simulator raised, died or stays silent; all workers have been ended.
        """
        envs = list(envs)
        waiting = {self._workers[env].pipe: env for env in envs}
        replies: dict[int, Reply] = {}
        while waiting:
            patience = min(self._workers[env].deadline for env in waiting.values())
            left = max(0.0, patience - time.monotonic())
            ready = connection.wait(list(waiting), min(left, POLL_S))
            if not ready and left > POLL_S:
                self._ask(should_stop)
            elif not ready:
                env = min(waiting.values(), key=lambda env: self._workers[env].deadline)
                text = f"no answer for {self.answer_s:g} s; the simulator seems to hang"
                self._workers[env].kill()
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

    def kill(self) -> None:
        """The same, at once and whatever the workers are doing."""
        for worker in self._workers.values():
            worker.kill()
        _end(self._workers)

    def _ask(self, should_stop: Callable[[], None] | None) -> None:
        try:
            if should_stop is not None:
                should_stop()
        except BaseException:
            self.kill()
            raise

    def _running(self, env: int) -> WorkerProcess:
        if not 0 <= env < self.num_envs:
            raise ValueError(f"environment {env}: the pool has 0 to {self.num_envs - 1}")
        worker = self._workers.get(env)
        if worker is not None and worker.process.poll() is not None:  # died while idle
            worker.end(time.monotonic())
            worker = None
        if worker is None:
            self._workers[env] = WorkerProcess()
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
        text = f"the simulator's process {worker.how_it_ended(CLOSE_S)}"
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


def _end(workers: dict[int, WorkerProcess]) -> None:
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
