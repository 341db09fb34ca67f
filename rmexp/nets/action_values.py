"""What a critic says of an action: its expected return, or the distribution of the return.

Both hold numbers and make critics of their kind; an algorithm that is given one backs up and fits
either in the same lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.nets.critics import TD_LOSSES, Critics, DistributionalCritic, project
from rmexp.nets.encoders import ImageEncoding

Obs = Mapping[str, Tensor]
Shapes = Mapping[str, Sequence[int]]


class ActionValue(ABC):
    """Legend: N proposed actions a state, K atoms; targets are (B,) or (B, K)."""

    @abstractmethod
    def critics(self, obs_shapes: Shapes, ac_dim: int, encoder: ImageEncoding) -> nn.ModuleList:
        """New critics; called with observations and actions, each gives expected returns."""

    @abstractmethod
    def backup(
        self, critics: nn.ModuleList, obs: Obs, actions: Tensor, rewards: Tensor, bootstrap: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """rewards + bootstrap * the value of the best of `actions` (N, B, A) in `obs`.

        With it comes what is worth logging of this target, 0-d.
        """

    @abstractmethod
    def loss(self, critic: nn.Module, obs: Obs, actions: Tensor, target: Tensor) -> Tensor:
        """How far one critic is from the target, 0-d."""


class Expected(ActionValue):
    """Several critics, of which the target mixes the least and the greatest."""

    def __init__(
        self,
        *,
        num_critics: int,
        min_weight: float,
        layer_dims: list[int],
        value_bounds: list[float] | None,
        td_loss: Literal["l2", "huber"],
    ) -> None:
        self.num_critics = num_critics
        self.min_weight = min_weight
        self.layer_dims = layer_dims
        self.value_bounds = value_bounds
        self.td_loss = TD_LOSSES[td_loss]

    def critics(self, obs_shapes: Shapes, ac_dim: int, encoder: ImageEncoding) -> nn.ModuleList:
        settings = (self.layer_dims, self.value_bounds, encoder)
        return Critics(self.num_critics, obs_shapes, ac_dim, *settings)

    def backup(
        self, critics: nn.ModuleList, obs: Obs, actions: Tensor, rewards: Tensor, bootstrap: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        each = torch.stack([critic(obs, actions) for critic in critics])  # (C, N, B)
        values = self.min_weight * each.amin(0) + (1.0 - self.min_weight) * each.amax(0)
        target = rewards + bootstrap * values.amax(0)
        return target, {"q_target": target.mean()}

    def loss(self, critic: nn.Module, obs: Obs, actions: Tensor, target: Tensor) -> Tensor:
        return self.td_loss(critic(obs, actions), target)


class Categorical(ActionValue):
    """One critic with a distribution over atoms (C51, Bellemare et al. 2017, arXiv 1707.06887)."""

    def __init__(self, *, num_atoms: int, layer_dims: list[int], value_bounds: list[float]) -> None:
        self.num_atoms = num_atoms
        self.layer_dims = layer_dims
        self.value_bounds = value_bounds

    def critics(self, obs_shapes: Shapes, ac_dim: int, encoder: ImageEncoding) -> nn.ModuleList:
        settings = (self.layer_dims, self.value_bounds, self.num_atoms, encoder)
        return nn.ModuleList([DistributionalCritic(obs_shapes, ac_dim, *settings)])

    def backup(
        self, critics: nn.ModuleList, obs: Obs, actions: Tensor, rewards: Tensor, bootstrap: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        critic = cast("DistributionalCritic", critics[0])
        probs = critic.logits(obs, actions).softmax(-1)  # (N, B, K)
        best = (probs * critic.atoms).sum(-1).argmax(0)
        moved = rewards.unsqueeze(-1) + bootstrap.unsqueeze(-1) * critic.atoms
        rows = torch.arange(len(best), device=best.device)
        return project(moved, probs[best, rows], critic.atoms), {}

    def loss(self, critic: nn.Module, obs: Obs, actions: Tensor, target: Tensor) -> Tensor:
        logits = cast("DistributionalCritic", critic).logits(obs, actions)
        return F.kl_div(F.log_softmax(logits, dim=-1), target, reduction="batchmean")
