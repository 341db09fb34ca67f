"""Hierarchical behavioural cloning (Mandlekar et al. 2020, GTI, arXiv 2003.06085).

A planner predicts what will be observed some steps later; an actor that sees this subgoal is cloned
on the way there. Both learn from the same windows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.bc_rnn import BCRNN
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
from rmexp.draws import Draws, PartialDraws
from rmexp.errors import ConfigError, require
from rmexp.nets.subgoals import SubgoalVAE

Obs = Mapping[str, Tensor]


class HBC(Algo):
    """A goal predictor and a recurrent actor.

    While training, the actor's subgoal is the planner's target, the last observation of the window;
    with `actor_use_random_subgoals` one that follows on any of its steps; with `mode="cascade"`
    the planner's prediction. With `latent_subgoal` it is the latent that stands for the subgoal,
    of `prior_correction_samples` from the prior the nearest. Without `actor_sees_subgoal` the
    actor is plain BC-RNN, as the reference's is by mistake.
    """

    batch_keys = ("obs", "future_obs", "actions")
    sees_goals = True

    def __init__(
        self,
        *,
        mode: Literal["separate", "cascade"],
        seq_length: int,
        subgoal_update_interval: int,
        actor_sees_subgoal: bool,
        actor_use_random_subgoals: bool,
        latent_subgoal: bool,
        prior_correction_samples: int | None,
        planner: Callable[..., GL],
        actor: Callable[..., BCRNN],
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        self.cascade = mode == "cascade"
        self.use_random_subgoals = actor_use_random_subgoals
        check_settings(
            spec,
            seq_length,
            subgoal_update_interval,
            cascade=self.cascade,
            use_random_subgoals=self.use_random_subgoals,
        )
        if prior_correction_samples is not None:
            samples = prior_correction_samples
            require(samples >= 1, "algo.prior_correction_samples", samples, "at least 1, or null")
            require(
                latent_subgoal, "algo.latent_subgoal", False, "true for prior_correction_samples"
            )
        self.prior_samples = prior_correction_samples
        self.planner = planner(spec=spec, device=device)
        self.latents = _latents(self.planner) if latent_subgoal else None
        subgoal_shapes = self.planner.subgoal_shapes
        if self.latents is not None:
            subgoal_shapes = {"latent_subgoal": (self.latents.latent_width,)}
        seen = subgoal_shapes if actor_sees_subgoal else {}
        self.actor = actor(spec=replace(spec, goal_shapes=seen), device=device)
        adopt(self, {"planner": self.planner, "actor": self.actor})
        self.memory = SubgoalMemory(subgoal_update_interval)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """{obs, future_obs: {k: (B, T, D_k)}, actions: (B, T, A)} -> obs, subgoal_obs, actions."""
        return windows_and_subgoals(self.planner, self.actor, batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs, subgoal_obs: {k: (B, T, D_k)}, actions: (B, T, A)} -> losses, gradient norms."""
        draws = self.draws["valid" if validate else "train"]
        present = present_of(self.planner, batch)
        obs, goal = present["obs"], batch.get("goal_obs")

        subgoal: Obs = present["subgoal_obs"]
        if self.use_random_subgoals:
            subgoal = any_step(batch["subgoal_obs"], draws)
        if self.latents is not None and not self.cascade:
            with torch.no_grad():
                z = self.latents.latent_of(subgoal, obs, goal, draws, epoch, self.prior_samples)
            subgoal = {"latent_subgoal": z}
        planner = update(self.planner, present, epoch, validate)
        if self.cascade:
            with torch.no_grad():
                subgoal = self.propose(obs, goal, draws)

        actor = update(self.actor, {**batch, "goal_obs": subgoal}, epoch, validate)
        return joined_info({"planner": planner, "actor": actor})

    def propose(self, obs: Obs, goal: Obs | None, draws: Draws) -> Obs:
        """obs, goal {k: (B, D_k)} -> subgoals {k: (B, D_k)} as the actor wants them."""
        if self.latents is None:
            return self.planner.planner.sample(obs, goal, draws)
        return {"latent_subgoal": self.latents.sample_prior(obs, goal, draws)}

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

        def renew(due: list[int]) -> Obs:
            plans = self.propose(obs_dict, goal_dict, PartialDraws(source, due, self.device))
            return {key: value[due] for key, value in plans.items()}

        subgoal = self.memory.step(envs, renew)
        return self.actor.get_action(obs_dict, subgoal, draws=source, envs=envs)

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.memory.reset(envs)
        self.actor.reset(envs)


def _latents(planner: GL) -> SubgoalVAE:
    if not isinstance(planner.planner, SubgoalVAE):
        raise ConfigError(
            "algo.latent_subgoal=true: only a VAE has latents; "
            "say algo@algo.planner=gl_vae, or algo.latent_subgoal=false"
        )
    return planner.planner
