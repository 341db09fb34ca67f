"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860): TD3 whose actor also stays near the data.

The actor maximises lambda Q(s, pi(s)) - (pi(s) - a)^2 with lambda = alpha / mean |Q|. Actor and
targets move at every `actor_update_every`-th step, counted on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import Schedule, Target, descend, maker, polyak_update
from rmexp.algo.transitions import Transitions
from rmexp.draws import Draws
from rmexp.nets.critics import TD_LOSSES, Critics
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.mlp import ObservationMLP


class TD3BC(Algo):
    """A deterministic actor, several critics, and slowly moving targets of both."""

    batch_keys = ("obs", "next_obs", "actions", "rewards", "dones", "pad_mask")

    def __init__(
        self,
        *,
        alpha: float,
        discount: float,
        n_step: int,
        infinite_horizon: bool,
        tau: float,
        actor_update_every: int,
        target_noise_std: float,
        target_noise_clip: float,
        encoder: ImageEncoding,
        actor_layer_dims: list[int],
        critic_layer_dims: list[int],
        num_critics: int,
        min_weight: float,
        value_bounds: list[float] | None,
        td_loss: Literal["l2", "huber"],
        optimizer: Literal["adam", "adamw"],
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
        self.encoder = encoder
        self.alpha = alpha
        self.tau = tau
        self.min_weight = min_weight
        self.td_loss = TD_LOSSES[td_loss]
        self.actor_update_every = actor_update_every
        self.target_noise_std, self.target_noise_clip = target_noise_std, target_noise_clip
        self.counters["critic_updates"] = 0

        shapes, ac_dim = spec.obs_shapes, spec.ac_dim
        self.critic = Critics(num_critics, shapes, ac_dim, critic_layer_dims, value_bounds, encoder)
        self.actor = ObservationMLP(shapes, actor_layer_dims, {"action": ac_dim}, encoder)
        self.critic_target, self.actor_target = Target(self.critic), Target(self.actor)
        for name in ("critic", "critic_target", "actor", "actor_target"):
            self.nets[name] = getattr(self, name)
        self.nets.to(device)

        make = maker(optimizer, spec.total_steps)
        critic = (critic_lr, critic_lr_schedule, critic_l2_regularization, critic_max_grad_norm)
        actor = (actor_lr, actor_lr_schedule, actor_l2_regularization, None)
        for i, net in enumerate(self.critic, start=1):
            self.optimizers[f"critic{i}"] = make(net, *critic)
        self.optimizers["actor"] = make(self.actor, *actor)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows (B, T, ...) -> transitions; see `rmexp.algo.transitions.Transitions`."""
        return self.transitions(batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """Transitions {obs, next_obs, actions, rewards, bootstrap} -> losses, gradient norms.

        `loss` is the critics' losses plus `actor_loss`, which is computed at every step, also at
        those that leave the actor as it is (robomimic does the same): its sum never changes. Only
        `actor_grad_norm` is missing there, and averaged over the steps that moved the actor.
        """
        draws = self.draws["valid" if validate else "train"]
        obs, next_obs, actions = batch["obs"], batch["next_obs"], batch["actions"]

        with torch.no_grad():
            noise = self.target_noise_std * draws.randn(actions.shape)
            noise = noise.clamp(-self.target_noise_clip, self.target_noise_clip)
            next_actions = torch.tanh(self.actor_target.net(next_obs)["action"]) + noise
            next_actions = next_actions.clamp(-1.0, 1.0)
            next_q = torch.stack([q(next_obs, next_actions) for q in self.critic_target.net])
            next_value = self.min_weight * next_q.amin(0)
            next_value += (1.0 - self.min_weight) * next_q.amax(0)
            q_target = batch["rewards"] + batch["bootstrap"] * next_value

        losses = {
            f"critic{i}": self.td_loss(critic(obs, actions), q_target)
            for i, critic in enumerate(self.critic, start=1)
        }
        info = {f"{name}_loss": loss for name, loss in losses.items()}
        if not validate:
            info |= descend(self.optimizers, losses)

        self.counters["critic_updates"] += not validate
        due = not validate and self.counters["critic_updates"] % self.actor_update_every == 0
        with torch.set_grad_enabled(due):
            predicted = torch.tanh(self.actor(obs)["action"])
            q = self.critic[0](obs, predicted)
            scale = self.alpha / q.detach().abs().mean()
            actor_loss = -scale * q.mean() + F.mse_loss(predicted, actions)

        if due:
            info |= descend(self.optimizers, {"actor": actor_loss})
            polyak_update(self.critic, self.critic_target, self.tau)
            polyak_update(self.actor, self.actor_target, self.tau)
        total = torch.stack([*losses.values(), actor_loss]).sum()
        return {"loss": total, "actor_loss": actor_loss, **info, "q_target": q_target.mean()}

    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        return torch.tanh(self.actor(obs_dict)["action"].double()).float()

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""
