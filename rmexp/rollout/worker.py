"""The far end of a pool's pipe: a process that owns one simulator and answers requests.

It imports nothing of rmexp but this, so that it starts fast and never pays for torch.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

from rmexp.errors import RmexpError

if TYPE_CHECKING:
    import numpy as np

    from rmexp.rollout.environments import Environment, Observation

IDLE_S = 5.0
OUTPUT_BYTES = 1 << 20


class View(NamedTuple):
    """Ask for a picture at every `every`-th step of an episode, and at its own end."""

    height: int
    width: int
    camera: str | None
    every: int


class Reply(NamedTuple):
    """What a reset or a step led to; frame: (H, W, 3) uint8 where a view asked for one."""

    obs: Observation
    reward: float
    terminated: bool
    success: bool
    frame: np.ndarray | None
    simulate_s: float
    render_s: float


class Ready(NamedTuple):
    """The simulator stands."""

    name: str


class Failure(NamedTuple):
    """The simulator raised; `rendering` says that it only failed to take a picture."""

    rendering: bool
    text: str
    traceback: str


def main(descriptor: int, parent: int) -> None:
    """Serve the pipe until it closes, or until the process `parent` is gone."""
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    pipe = Connection(descriptor)
    simulator = _Simulator()
    try:
        while (request := _next_request(pipe, parent)) is not None:
            pipe.send(simulator.answer(*request))
    finally:
        simulator.close()


def _next_request(pipe: Connection, parent: int) -> tuple[str, tuple[Any, ...]] | None:
    while not pipe.poll(IDLE_S):
        if os.getppid() != parent:  # another child of the parent may hold the pipe open
            return None
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return None


class _Simulator:
    def __init__(self) -> None:
        self._environment: Environment | None = None
        self._view: View | None = None
        self._step = 0
        self._rendering = False

    def answer(self, operation: str, arguments: tuple[Any, ...]) -> Ready | Reply | Failure:
        self._rendering = False
        try:
            return {"make": self._make, "reset": self._reset, "step": self._advance}[operation](
                *arguments
            )
        except (Exception, SystemExit) as error:
            return Failure(self._rendering, _message(error), traceback.format_exc())

    def close(self) -> None:
        if self._environment is not None:
            self._environment.close()

    def _make(self, make_env: bytes) -> Ready:
        self._environment = pickle.loads(make_env)()
        assert self._environment is not None
        return Ready(self._environment.name)

    def _reset(self, seed: int, view: View | None) -> Reply:
        assert self._environment is not None
        _forget_old_output()
        self._view, self._step = view, 0
        began = time.perf_counter()
        obs = self._environment.reset(seed)
        return self._reply(began, obs, 0.0, False, False)

    def _advance(self, action: np.ndarray) -> Reply:
        assert self._environment is not None
        self._step += 1
        began = time.perf_counter()
        obs, reward, terminated, info = self._environment.step(action)
        return self._reply(began, obs, float(reward), bool(terminated), bool(info["success"]))

    def _reply(
        self, began: float, obs: Observation, reward: float, terminated: bool, success: bool
    ) -> Reply:
        assert self._environment is not None
        simulate_s = time.perf_counter() - began
        frame, render_s = None, 0.0
        view = self._view
        if view is not None and (self._step % view.every == 0 or terminated or success):
            self._rendering = True
            began = time.perf_counter()
            frame = self._environment.render(
                height=view.height, width=view.width, camera=view.camera
            )
            render_s = time.perf_counter() - began
        return Reply(obs, reward, terminated, success, frame, simulate_s, render_s)


def _message(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, RmexpError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _forget_old_output() -> None:
    """Keep the file that catches the simulator's output small, however long the run."""
    if os.fstat(2).st_size > OUTPUT_BYTES:
        os.ftruncate(2, 0)
