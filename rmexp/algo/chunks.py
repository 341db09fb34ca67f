"""What is remembered of the chunks of actions that were planned, environment by environment.

Environments have numbers; a negative one is a padding row of the batch and is not remembered.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


class ActionQueues:
    """Planned actions, handed out one a step until an environment's plan is used up."""

    def __init__(self) -> None:
        self._plans: dict[int, deque[Tensor]] = {}

    def empty(self, envs: Sequence[int]) -> list[int]:
        """The rows whose environment has nothing left to do."""
        return [row for row, env in enumerate(envs) if env >= 0 and not self._plans.get(env)]

    def fill(self, envs: Sequence[int], rows: Iterable[int], plans: Tensor) -> None:
        """plans: (B, steps, A), of which those in `rows` are taken over."""
        for row in rows:
            self._plans[envs[row]] = deque(plans[row].unbind(0))

    def take(self, envs: Sequence[int]) -> Tensor:
        """The actions (B, A) of this step; a padding row repeats another's."""
        taken = {env: self._plans[env].popleft() for env in envs if env >= 0}
        spare = next(iter(taken.values()))
        return torch.stack([taken.get(env, spare) for env in envs])

    def forget(self, envs: Iterable[int] | None) -> None:
        """A new episode begins in `envs`, or in all environments."""
        _forget(self._plans, envs)


class TemporalEnsembles:
    """The weighted mean of what all chunks planned so far say of this step (Zhao et al. 2023).

    The i-th oldest of them weighs exp(-m i), so that with a larger `m` newer ones count less.
    """

    def __init__(self, m: float) -> None:
        self.m = m
        self._chunks: dict[int, deque[Tensor]] = {}

    def add(self, envs: Sequence[int], chunks: Tensor) -> Tensor:
        """chunks (B, H, A), planned at this step -> the actions (B, A) of this step."""
        return torch.stack([self._add(env, chunks[row]) for row, env in enumerate(envs)])

    def forget(self, envs: Iterable[int] | None) -> None:
        """A new episode begins in `envs`, or in all environments."""
        _forget(self._chunks, envs)

    def _add(self, env: int, chunk: Tensor) -> Tensor:
        if env < 0:
            return chunk[0]
        known = self._chunks.setdefault(env, deque(maxlen=len(chunk)))
        known.append(chunk)
        weights = [math.exp(-self.m * i) for i in range(len(known))]
        newest = len(known) - 1
        votes = [
            w * past[newest - i] for i, (w, past) in enumerate(zip(weights, known, strict=True))
        ]
        return torch.stack(votes).sum(0) / sum(weights)


def _forget(memory: dict[int, deque[Tensor]], envs: Iterable[int] | None) -> None:
    if envs is None:
        memory.clear()
        return
    for env in envs:
        memory.pop(env, None)
