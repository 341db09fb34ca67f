"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779): SAC whose critics are held down.

Beside the temporal difference, each critic pays for the log-sum-exp of Q over random and policy
actions beyond Q of the data's actions. Two multipliers are learned by dual steps: the entropy's,
towards a target entropy, and the penalty's, towards a tolerated gap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import MultiStep, Schedule, Target, descend, maker, polyak_update
from rmexp.algo.transitions import Transitions
from rmexp.draws import Draws
from rmexp.nets.critics import TD_LOSSES, Critics, Multiplier, Obs, start_small
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.heads import require_head
from rmexp.nets.mlp import ObservationMLP
from rmexp.nets.tanh_gaussian import TanhGaussian

MAX_CQL_WEIGHT = 1e6


class CQL(Algo):
    """A tanh-Gaussian actor, several critics with slowly moving targets, and two multipliers."""

    batch_keys = ("obs", "next_obs", "actions", "rewards", "dones", "pad_mask")

    def __init__(
        self,
        *,
        discount: float,
        n_step: int,
        tau: float,
        target_entropy: float | Literal["default"] | None,
        bc_start_steps: int,
        num_random_actions: int,
        num_target_actions: int,
        deterministic_backup: bool,
        min_q_weight: float,
        target_q_gap: float | None,
        cql_weight: float,
        encoder: ImageEncoding,
        head: TanhGaussian,
        actor_layer_dims: list[int],
        init_last_layer: float | None,
        critic_layer_dims: list[int],
        num_critics: int,
        value_bounds: list[float] | None,
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
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        require_head(head, TanhGaussian, "tanh_gaussian")
        self.transitions = Transitions(spec, device, n_step=n_step, discount=discount)
        self.encoder, self.head = encoder, head
        self.tau, self.td_loss = tau, TD_LOSSES[td_loss]
        self.target_entropy = -float(spec.ac_dim) if target_entropy == "default" else target_entropy
        self.bc_start_steps = bc_start_steps
        self.num_random_actions, self.num_target_actions = num_random_actions, num_target_actions
        self.deterministic_backup = deterministic_backup
        self.min_q_weight, self.target_q_gap = min_q_weight, target_q_gap
        self.counters["updates"] = 0

        shapes, ac_dim = spec.obs_shapes, spec.ac_dim
        self.actor = ObservationMLP(shapes, actor_layer_dims, head.output_dims(ac_dim), encoder)
        start_small(self.actor.decoder, init_last_layer)
        self.critic = Critics(num_critics, shapes, ac_dim, critic_layer_dims, value_bounds, encoder)
        self.critic_target = Target(self.critic)
        self.entropy_weight = Multiplier(None if target_entropy is not None else 1.0)
        self.cql_weight = Multiplier(None if target_q_gap is not None else cql_weight)
        for name in ("actor", "critic", "critic_target", "entropy_weight", "cql_weight"):
            self.nets[name] = getattr(self, name)
        self.nets.to(device)

        make = maker(optimizer, spec.total_steps)
        actor = (actor_lr, actor_lr_schedule, actor_l2_regularization, actor_max_grad_norm)
        critic = (critic_lr, critic_lr_schedule, critic_l2_regularization, critic_max_grad_norm)
        multiplier = (MultiStep(epochs=[], decay_factor=1.0), 0.0, None)
        self.optimizers["actor"] = make(self.actor, *actor)
        for i, net in enumerate(self.critic, start=1):
            self.optimizers[f"critic{i}"] = make(net, *critic)
        if target_entropy is not None:
            self.optimizers["entropy_weight"] = make(self.entropy_weight, actor_lr, *multiplier)
        if target_q_gap is not None:
            self.optimizers["cql_weight"] = make(self.cql_weight, critic_lr, *multiplier)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows (B, T, ...) -> transitions; see `rmexp.algo.transitions.Transitions`."""
        return self.transitions(batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """Transitions {obs, next_obs, actions, rewards, bootstrap} -> losses, gradient norms."""
        draws = self.draws["valid" if validate else "train"]
        obs, next_obs, actions = batch["obs"], batch["next_obs"], batch["actions"]

        # The actor maximises the least Q and its entropy; at first the data's likelihood.
        outputs = self.actor(obs)
        sampled, log_prob = self.head.draw(outputs, draws.randn(actions.shape))
        if self.counters["updates"] < self.bc_start_steps:
            aim = self.head.log_prob(outputs, actions)
        else:
            aim = torch.stack([critic(obs, sampled) for critic in self.critic]).amin(0)
        entropy_weight = self.entropy_weight.param.detach().exp().squeeze(0)
        losses = {"actor": (entropy_weight * log_prob - aim).mean()}
        if self.target_entropy is not None:
            excess = (log_prob.detach() + self.target_entropy).mean()
            losses["entropy_weight"] = -self.entropy_weight.param.squeeze(0) * excess
        info = {"entropy_weight": entropy_weight}
        info |= {f"{name}_loss": loss for name, loss in losses.items()}
        if not validate:
            info |= descend(self.optimizers, losses)

        # Critics learn the temporal difference and pay for Q of actions that the data lack.
        q_target, proposals, log_density = self._targets(batch, obs, next_obs, draws)
        weight = self.cql_weight.param.exp().squeeze(0).clamp(max=MAX_CQL_WEIGHT)
        losses: dict[str, Tensor] = {}
        gaps: list[Tensor] = []
        for i, critic in enumerate(self.critic, start=1):
            q = critic(obs, actions)
            soft_maximum = torch.logsumexp(critic(obs, proposals) - log_density, dim=0)
            gap = self.min_q_weight * (soft_maximum.mean() - q.mean()) - (self.target_q_gap or 0.0)
            losses[f"critic{i}"] = self.td_loss(q, q_target) + weight.detach() * gap
            gaps.append(gap.detach())
        total = torch.stack([info["actor_loss"], *losses.values()]).sum()
        if self.target_q_gap is not None:
            losses["cql_weight"] = -weight * torch.stack(gaps).mean()
        info |= {"cql_weight": weight.detach()}
        info |= {f"{name}_loss": loss for name, loss in losses.items()}

        if not validate:
            info |= descend(self.optimizers, losses)
            self.counters["updates"] += 1
            polyak_update(self.critic, self.critic_target, self.tau)
        return {"loss": total, **info}

    @torch.no_grad()
    def _targets(
        self, batch: Batch, obs: Obs, next_obs: Obs, draws: Draws
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Targets of Q (B,), actions to hold Q down at (3N, B, A) and their log-densities (3N, B).

        The next state is worth the least target critic at one action, or at the best of several.
        Held down are random actions and the policy's here and there; all are judged at this state,
        as the paper has it.
        """
        here, there = self.actor(obs), self.actor(next_obs)
        shape = batch["actions"].shape
        critics = self.critic_target.net
        next_actions, log_prob = self.head.draw(there, draws.randn(shape))
        if self.num_target_actions > 1:
            next_actions, _ = self.head.draw(there, draws.randn((self.num_target_actions, *shape)))
            next_q = torch.stack([critic(next_obs, next_actions) for critic in critics])
            next_value = next_q.amax(1).amin(0)
        else:
            next_value = torch.stack([q(next_obs, next_actions) for q in critics]).amin(0)
            if not self.deterministic_backup:
                next_value = next_value - self.entropy_weight.param.exp() * log_prob
        q_target = batch["rewards"] + batch["bootstrap"] * next_value

        shape = (self.num_random_actions, *shape)
        uniform = draws.uniform(-1.0, 1.0, shape)
        density = uniform.new_full(shape[:2], -shape[2] * math.log(2.0))
        actions_here, log_prob_here = self.head.draw(here, draws.randn(shape))
        actions_there, log_prob_there = self.head.draw(there, draws.randn(shape))
        proposals = torch.cat([uniform, actions_there, actions_here])
        return q_target, proposals, torch.cat([density, log_prob_there, log_prob_here])

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
