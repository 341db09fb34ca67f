"""IRIS: implicit reinforcement without interaction at scale (Mandlekar et al. 2020).

Like hierarchical behavioural cloning (arXiv 1911.05321), but of many subgoals that the planner
proposes the actor is given the one that a value function learned by BCQ thinks most of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.bc_rnn import BCRNN
from rmexp.algo.bcq import BCQ
from rmexp.algo.gl import GL
from rmexp.algo.hierarchy import (
    SubgoalMemory,
    adopt,
    any_step,
    check_settings,
    joined_info,
    present_of,
    update,
    windows_and_subgoals,
)
from rmexp.draws import Draws, draws_of_rows
from rmexp.errors import require
from rmexp.nets.samplers import RepeatedDraws

Obs = Mapping[str, Tensor]


class IRIS(Algo):
    """A goal predictor, a value function over what makes a subgoal, and a recurrent actor.

    While training, the actor's subgoal is the planner's target; with `actor_use_random_subgoals`
    one that follows on any step of the window; with `mode="cascade"` the best proposal. Without
    `actor_sees_subgoal` the actor is plain BC-RNN, as the reference's is by mistake.
    """

    batch_keys = ("obs", "next_obs", "actions", "rewards", "dones", "pad_mask")

    def __init__(
        self,
        *,
        mode: Literal["separate", "cascade"],
        seq_length: int,
        subgoal_update_interval: int,
        num_samples: int,
        actor_sees_subgoal: bool,
        actor_use_random_subgoals: bool,
        planner: Callable[..., GL],
        value: Callable[..., BCQ],
        actor: Callable[..., BCRNN],
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        require(num_samples >= 1, "algo.num_samples", num_samples, "at least 1")
        self.cascade = mode == "cascade"
        self.use_random_subgoals = actor_use_random_subgoals
        check_settings(
            spec,
            seq_length,
            subgoal_update_interval,
            cascade=self.cascade,
            use_random_subgoals=self.use_random_subgoals,
        )
        self.num_samples = num_samples
        self.planner = planner(spec=spec, device=device)
        shapes = self.planner.subgoal_shapes
        self.value = value(spec=replace(spec, obs_shapes=shapes), device=device)
        seen = shapes if actor_sees_subgoal else {}
        self.actor = actor(spec=replace(spec, goal_shapes=seen), device=device)
        adopt(self, {"planner": self.planner, "value": self.value, "actor": self.actor})
        self.memory = SubgoalMemory(subgoal_update_interval)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows (B, T, ...), and of their first steps the transitions that values come from.

        obs and subgoal_obs {k: (B, T, D_k)} and actions (B, T, A) as for `HBC`; next_obs
        {k: (B, D_k)}, rewards and bootstrap (B,) as `rmexp.algo.transitions.Transitions` has them.
        """
        transitions = self.value.process_batch_for_training(batch)
        return {**transitions, **windows_and_subgoals(self.planner, self.actor, batch)}

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """As `process_batch_for_training` gives it -> losses and the gradients' norms."""
        draws = self.draws["valid" if validate else "train"]
        present = present_of(self.planner, batch)

        subgoal: Obs = present["subgoal_obs"]
        if self.use_random_subgoals:
            subgoal = any_step(batch["subgoal_obs"], draws)
        planner = update(self.planner, present, epoch, validate)
        transition = {**present, "actions": batch["actions"][:, 0]}
        value = self.value.train_on_batch(transition, epoch, validate)
        if self.cascade:
            with torch.no_grad():
                subgoal = self.propose(present["obs"], draws)

        actor = update(self.actor, {**batch, "goal_obs": subgoal}, epoch, validate)
        return joined_info({"planner": planner, "value": value, "actor": actor})

    def propose(self, obs: Obs, draws: Draws) -> Obs:
        """obs {k: (B, D_k)} -> of several proposals for each, the best subgoals {k: (B, D_k)}."""
        times = self.num_samples
        many = RepeatedDraws(draws, times)
        rows = {key: value.repeat_interleave(times, dim=0) for key, value in obs.items()}
        proposals = self.planner.planner.sample(rows, None, many)
        _, values = self.value.best_action(proposals, many)
        best = values.unflatten(0, (-1, times)).argmax(1)
        each = torch.arange(len(best), device=best.device)
        return {k: v.unflatten(0, (-1, times))[each, best] for k, v in proposals.items()}

    def get_action(
        self,
        obs_dict: Obs,
        goal_dict: Obs | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        envs = range(len(next(iter(obs_dict.values())))) if envs is None else envs
        source = draws or self.draws["act"]

        def renew(due: list[int]) -> Obs:  # one by one: each is a large batch of proposals
            plans = [
                self.propose(
                    {key: value[row : row + 1] for key, value in obs_dict.items()},
                    draws_of_rows(source, [row], self.device),
                )
                for row in due
            ]
            return {key: torch.cat([plan[key] for plan in plans]) for key in plans[0]}

        subgoal = self.memory.step(envs, renew)
        return self.actor.get_action(obs_dict, subgoal, draws=source, envs=envs)

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.memory.reset(envs)
        self.actor.reset(envs)
