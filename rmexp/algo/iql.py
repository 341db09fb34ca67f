"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169): it judges only the data's actions.

V is an expectile of Q over the data's actions, Q bootstraps from V, and the actor imitates the
data's actions with weights exp(advantage / temperature).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import Schedule, Target, descend, maker, polyak_update
from rmexp.algo.transitions import Transitions
from rmexp.draws import Draws
from rmexp.nets.critics import TD_LOSSES, Critics, Value, start_small
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.heads import Density, require_head
from rmexp.nets.mlp import ObservationMLP


class IQL(Algo):
    """An actor with a density, several critics with slowly moving targets, and a value network."""

    batch_keys = ("obs", "next_obs", "actions", "rewards", "dones")

    def __init__(
        self,
        *,
        expectile: float,
        temperature: float,
        max_advantage: float | None,
        max_weight: float | None,
        discount: float,
        tau: float,
        encoder: ImageEncoding,
        head: Density,
        actor_layer_dims: list[int],
        init_last_layer: float | None,
        critic_layer_dims: list[int],
        num_critics: int,
        td_loss: Literal["l2", "huber"],
        optimizer: Literal["adam", "adamw"],
        actor_lr: float,
        actor_lr_schedule: Schedule,
        actor_l2_regularization: float,
        actor_max_grad_norm: float | None,
        critic_lr: float,
        critic_lr_schedule: Schedule,
        critic_l2_regularization: float,
        critic_max_grad_norm: float | None,
        value_lr: float,
        value_lr_schedule: Schedule,
        value_l2_regularization: float,
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        require_head(head, Density, "a density: gaussian_wide, gaussian, gmm or tanh_gaussian")
        self.transitions = Transitions(spec, device, n_step=1, discount=discount)
        self.encoder, self.head = encoder, head
        self.expectile, self.temperature = expectile, temperature
        self.max_advantage = math.inf if max_advantage is None else max_advantage
        self.max_weight = math.inf if max_weight is None else max_weight
        self.tau, self.td_loss = tau, TD_LOSSES[td_loss]

        shapes, ac_dim = spec.obs_shapes, spec.ac_dim
        self.actor = ObservationMLP(shapes, actor_layer_dims, head.output_dims(ac_dim), encoder)
        start_small(self.actor.decoder, init_last_layer)
        self.critic = Critics(num_critics, shapes, ac_dim, critic_layer_dims, None, encoder)
        self.critic_target = Target(self.critic)
        self.value = Value(shapes, critic_layer_dims, encoder)
        for name in ("actor", "critic", "critic_target", "value"):
            self.nets[name] = getattr(self, name)
        self.nets.to(device)

        make = maker(optimizer, spec.total_steps)
        actor = (actor_lr, actor_lr_schedule, actor_l2_regularization, actor_max_grad_norm)
        critic = (critic_lr, critic_lr_schedule, critic_l2_regularization, critic_max_grad_norm)
        value = (value_lr, value_lr_schedule, value_l2_regularization, critic_max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *actor)
        for i, net in enumerate(self.critic, start=1):
            self.optimizers[f"critic{i}"] = make(net, *critic)
        self.optimizers["value"] = make(self.value, *value)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows (B, T, ...) -> transitions, as `rmexp.algo.transitions.transitions` says."""
        return self.transitions(batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """Transitions {obs, next_obs, actions, rewards, bootstrap} -> losses, gradient norms."""
        obs, next_obs, actions = batch["obs"], batch["next_obs"], batch["actions"]

        with torch.no_grad():
            q = torch.stack([critic(obs, actions) for critic in self.critic_target.net]).amin(0)
            q_target = batch["rewards"] + batch["bootstrap"] * self.value(next_obs)

        value = self.value(obs)
        advantage = q - value
        expectile_weight = torch.where(advantage < 0, 1.0 - self.expectile, self.expectile)
        losses = {"value": (expectile_weight * advantage.square()).mean()}

        weight = torch.exp(advantage.detach().clamp(max=self.max_advantage) / self.temperature)
        weight = weight.clamp(max=self.max_weight)
        log_prob = self.head.log_prob(self.actor(obs), actions)
        losses["actor"] = -(weight * log_prob).mean()

        for i, critic in enumerate(self.critic, start=1):
            losses[f"critic{i}"] = self.td_loss(critic(obs, actions), q_target)

        info = {"loss": torch.stack([*losses.values()]).sum()}
        info |= {f"{name}_loss": loss for name, loss in losses.items()}
        if not validate:
            info |= descend(self.optimizers, losses)
            polyak_update(self.critic, self.critic_target, self.tau)
        info |= {"q": q.mean(), "value": value.mean(), "log_likelihood": log_prob.mean()}
        return info | {"advantage": advantage.mean(), "advantage_weight": weight.mean()}

    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        return self.head.act(self.actor(obs_dict), draws or self.draws["act"])

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""
