"""Batch-constrained Q-learning (Fujimoto et al. 2019, arXiv 1812.02900).

A model of the data's actions proposes some, a small perturbation may improve each, and the best of
them by the critics is backed up, and taken when acting. Model and critics are choices: a VAE or a
mixture, expected or distributional values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import Schedule, Target, descend, maker, polyak_update
from rmexp.algo.transitions import Transitions
from rmexp.draws import Draws
from rmexp.nets.critics import ActionValue, Perturbation
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.samplers import ActionSampler, RepeatedDraws

Obs = Mapping[str, Tensor]


class BCQ(Algo):
    """An action sampler, critics with slowly moving targets, and perhaps a perturbing actor."""

    batch_keys = ("obs", "next_obs", "actions", "rewards", "dones", "pad_mask")

    def __init__(
        self,
        *,
        discount: float,
        n_step: int,
        infinite_horizon: bool,
        tau: float,
        num_action_samples: int,
        num_action_samples_rollout: int,
        perturbation_scale: float | None,
        encoder: ImageEncoding,
        action_sampler: Callable[..., ActionSampler],
        critic: ActionValue,
        actor_layer_dims: list[int],
        optimizer: Literal["adam", "adamw"],
        action_sampler_lr: float,
        action_sampler_lr_schedule: Schedule,
        action_sampler_l2_regularization: float,
        critic_lr: float,
        critic_lr_schedule: Schedule,
        critic_l2_regularization: float,
        critic_max_grad_norm: float | None,
        actor_lr: float,
        actor_lr_schedule: Schedule,
        actor_l2_regularization: float,
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        self.transitions = Transitions(
            spec, device, n_step=n_step, discount=discount, infinite_horizon=infinite_horizon
        )
        self.encoder, self.action_value, self.tau = encoder, critic, tau
        self.num_action_samples = num_action_samples
        self.num_action_samples_rollout = num_action_samples_rollout
        shapes, ac_dim = spec.obs_shapes, spec.ac_dim
        self.critic = critic.critics(shapes, ac_dim, encoder)
        self.critic_target = Target(self.critic)
        self.action_sampler = action_sampler(obs_shapes=shapes, ac_dim=ac_dim, encoder=encoder)
        self.nets["critic"], self.nets["critic_target"] = self.critic, self.critic_target
        self.nets["action_sampler"] = self.action_sampler
        self.actor: Perturbation | None = None
        if perturbation_scale is not None:
            self.actor = Perturbation(shapes, ac_dim, actor_layer_dims, perturbation_scale, encoder)
            self.actor_target = Target(self.actor)
            self.nets["actor"], self.nets["actor_target"] = self.actor, self.actor_target
        self.nets.to(device)

        make = maker(optimizer, spec.total_steps)
        sampler = (action_sampler_lr, action_sampler_lr_schedule, action_sampler_l2_regularization)
        critics = (critic_lr, critic_lr_schedule, critic_l2_regularization, critic_max_grad_norm)
        self.optimizers["action_sampler"] = make(self.action_sampler, *sampler, None)
        for i, net in enumerate(self.critic, start=1):
            self.optimizers[f"critic{i}"] = make(net, *critics)
        if self.actor is not None:
            actor = (actor_lr, actor_lr_schedule, actor_l2_regularization, None)
            self.optimizers["actor"] = make(self.actor, *actor)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows (B, T, ...) -> transitions; see `rmexp.algo.transitions.Transitions`."""
        return self.transitions(batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """Transitions {obs, next_obs, actions, rewards, bootstrap} -> losses, gradient norms."""
        draws = self.draws["valid" if validate else "train"]
        obs, next_obs, actions = batch["obs"], batch["next_obs"], batch["actions"]

        parts = self.action_sampler.losses({"action": actions}, obs, None, draws, epoch)
        losses = {"action_sampler": parts.pop("loss")}
        info = parts if validate else parts | descend(self.optimizers, losses)

        with torch.no_grad():
            times = self.num_action_samples
            proposals = self.action_sampler.sample(next_obs, None, draws, times)["action"]
            if self.actor is not None:
                proposals = self.actor_target.net(next_obs, proposals)
            target, reported = self.action_value.backup(
                self.critic_target.net, next_obs, proposals, batch["rewards"], batch["bootstrap"]
            )
        critic_losses = {
            f"critic{i}": self.action_value.loss(critic(obs, actions), target)
            for i, critic in enumerate(self.critic, start=1)
        }
        if not validate:
            info |= descend(self.optimizers, critic_losses)
        losses |= critic_losses

        if self.actor is not None:
            with torch.no_grad():
                proposals = self.action_sampler.sample(obs, None, draws, 1)["action"]
            improved = self.actor(obs, proposals)
            actor_loss = -self.action_value.expected(self.critic[0], obs, improved).mean()
            if not validate:
                info |= descend(self.optimizers, {"actor": actor_loss})
            losses["actor"] = actor_loss

        if not validate:
            polyak_update(self.critic, self.critic_target, self.tau)
            if self.actor is not None:
                polyak_update(self.actor, self.actor_target, self.tau)
        total = {"loss": torch.stack([*losses.values()]).detach().sum()}
        total |= {f"{name}_loss": loss for name, loss in losses.items()}
        return total | info | reported

    def best_action(self, obs: Obs, draws: Draws) -> tuple[Tensor, Tensor]:
        """obs {k: (B, D_k)} -> the best of several proposals (B, A) and its value (B,)."""
        times = self.num_action_samples_rollout
        proposals = self.action_sampler.sample(obs, None, RepeatedDraws(draws, times), times)
        proposals = proposals["action"]
        if self.actor is not None:
            proposals = self.actor(obs, proposals)
        value, best = self.action_value.expected(self.critic[0], obs, proposals).max(0)
        return proposals[best, torch.arange(len(best), device=best.device)], value

    def get_action(
        self,
        obs_dict: Obs,
        goal_dict: Obs | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        return self.best_action(obs_dict, draws or self.draws["act"])[0]

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""
