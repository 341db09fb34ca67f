"""Chunks of actions: how they are cut from windows, and what is remembered of those planned.

Environments have numbers; a negative one is a padding row of the batch and is not remembered.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from rmexp.algo.base import Batch, Spec
from rmexp.algo.horizons import check_horizons, with_time
from rmexp.draws import Draws, PartialDraws
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.mlp import ObservationEncoder


class ActionQueues:
    """Planned actions, handed out one a step until an environment's plan is used up."""

    def __init__(self) -> None:
        self._plans: dict[int, deque[Tensor]] = {}

    def act(self, envs: Sequence[int], plan: Callable[[list[int]], Tensor]) -> Tensor:
        """The actions (B, A) of this step.

        `plan` is given the rows that have nothing left to do, if any; it answers (B, steps, A).
        """
        if due := self.empty(envs):
            self.fill(envs, due, plan(due))
        return self.take(envs)

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


class Chunks:
    """A policy that samples plans of To observed frames; see `rmexp.algo.horizons` for lengths."""

    def __init__(
        self,
        spec: Spec,
        device: torch.device,
        *,
        horizons: tuple[int, int, int],
        frame_stack: int,
        seq_length: int,
    ) -> None:
        """`horizons` are To, Tp and Ta: observed, planned and executed steps."""
        check_horizons(spec, horizons, frame_stack, seq_length)
        self.spec = spec
        self.device = device
        self.observed, self.planned, self.executed = horizons
        self.queues = ActionQueues()

    def actor(
        self, encoder: ImageEncoding, backbone: Callable[..., nn.Module], name: str
    ) -> nn.ModuleDict:
        """`encoder` of the observations, and under `name` the network that looks at them."""
        observations = ObservationEncoder(self.spec.obs_shapes, encoder)
        network = backbone(
            ac_dim=self.spec.ac_dim,
            obs_dim=observations.out_dim,
            obs_horizon=self.observed,
            pred_horizon=self.planned,
        )
        return nn.ModuleDict({"encoder": observations, name: network}).to(self.device)

    def cut(self, batch: Batch) -> Batch:
        """Windows of T frames -> {obs: {k: (B, To, D_k)}, actions: (B, Tp, A)}."""
        obs = {k: batch["obs"][k][:, : self.observed] for k in self.spec.obs_shapes}
        return {
            "obs": {k: v.to(self.device) for k, v in obs.items()},
            "actions": batch["actions"][:, : self.planned].to(self.device),
        }

    def act(
        self,
        obs_dict: Mapping[str, Tensor],
        envs: Sequence[int] | None,
        draws: Draws,
        sample: Callable[[Mapping[str, Tensor], Draws], Tensor],
    ) -> Tensor:
        """The actions (B, A) of this step; `sample` makes plans (B, Tp, A) when they are due."""
        obs = with_time(obs_dict, self.spec.obs_shapes)
        present = self.observed - 1

        def plan(due: list[int]) -> Tensor:
            plans = sample(obs, PartialDraws(draws, due, self.device))
            return plans[:, present : present + self.executed]

        rows = range(len(next(iter(obs.values()))))
        return self.queues.act(rows if envs is None else envs, plan)


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
