"""Value networks: Q(s, a), V(s), distributions over returns, and the targets that follow them.

The action follows the observation's features, as in the reference, so that weights can be exchanged
with it. Values are (B,), never (B, 1): beside rewards (B,) nothing can broadcast to (B, B).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.mlp import Obs, ObservationMLP, Shapes

TD_LOSSES = {"l2": F.mse_loss, "huber": F.smooth_l1_loss}


class Value(nn.Module):
    """V(s): observations {k: (B, D_k)} -> (B,)."""

    def __init__(
        self, obs_shapes: Shapes, layer_dims: Sequence[int], encoder: ImageEncoding | None
    ) -> None:
        super().__init__()
        self.net = ObservationMLP(obs_shapes, layer_dims, {"value": 1}, encoder)

    def forward(self, obs: Obs) -> Tensor:
        return self.net(obs)["value"].squeeze(-1)


class Critic(nn.Module):
    """Q(s, a): obs {k: (B, D_k)} and actions (B, A) or (N, B, A) -> (B,) or (N, B).

    `value_bounds` are the lowest and the highest value, kept to by a tanh; None for any.
    """

    def __init__(
        self,
        obs_shapes: Shapes,
        ac_dim: int,
        layer_dims: Sequence[int],
        value_bounds: Sequence[float] | None,
        encoder: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.bounds = None if value_bounds is None else _low_and_high(value_bounds)
        self.net = ObservationMLP(obs_shapes, layer_dims, {"value": 1}, encoder, input_dim=ac_dim)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        values = self.net(obs, inputs=actions)["value"].squeeze(-1)
        if self.bounds is None:
            return values
        low, high = self.bounds
        return 0.5 * (low + high) + 0.5 * (high - low) * torch.tanh(values)


class Critics(nn.ModuleList):
    """`number` independent critics; an update says itself how it joins what they say."""

    def __init__(
        self,
        number: int,
        obs_shapes: Shapes,
        ac_dim: int,
        layer_dims: Sequence[int],
        value_bounds: Sequence[float] | None,
        encoder: ImageEncoding | None,
    ) -> None:
        if number < 1:
            raise ConfigError(f"algo.num_critics is {number}; at least 1 is needed")
        super().__init__(
            Critic(obs_shapes, ac_dim, layer_dims, value_bounds, encoder) for _ in range(number)
        )


class Perturbation(nn.Module):
    """Changes actions a little: obs {k: (B, D_k)}, actions (B, A) or (N, B, A) -> the same shape.

    Each axis moves by at most `scale`, and stays in [-1, 1].
    """

    def __init__(
        self,
        obs_shapes: Shapes,
        ac_dim: int,
        layer_dims: Sequence[int],
        scale: float,
        encoder: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.scale = scale
        outputs = {"action": ac_dim}
        self.net = ObservationMLP(obs_shapes, layer_dims, outputs, encoder, input_dim=ac_dim)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        change = self.scale * torch.tanh(self.net(obs, inputs=actions)["action"])
        return (actions + change).clamp(-1.0, 1.0)


class DistributionalCritic(nn.Module):
    """Log-probabilities of the return over `num_atoms` values (C51, arXiv 1707.06887).

    obs {k: (B, D_k)} and actions (B, A) or (N, B, A) -> (B, K) or (N, B, K).
    """

    atoms: Tensor

    def __init__(
        self,
        obs_shapes: Shapes,
        ac_dim: int,
        layer_dims: Sequence[int],
        value_bounds: Sequence[float],
        num_atoms: int,
        encoder: ImageEncoding | None,
    ) -> None:
        super().__init__()
        low, high = _low_and_high(value_bounds)
        self.register_buffer("atoms", torch.linspace(low, high, num_atoms), persistent=False)
        outputs = {"logits": num_atoms}
        self.net = ObservationMLP(obs_shapes, layer_dims, outputs, encoder, input_dim=ac_dim)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        return F.log_softmax(self.net(obs, inputs=actions)["logits"], dim=-1)


class Multiplier(nn.Module):
    """A positive weight, kept as its logarithm: fixed, or with None one that is learned, from 1."""

    param: Tensor
    """The logarithm, (1,)."""

    def __init__(self, value: float | None) -> None:
        super().__init__()
        if value is None:
            self.param = nn.Parameter(torch.zeros(1))
        else:
            self.register_buffer("param", torch.tensor([value]).log(), persistent=False)


def start_small(layers: nn.Module, limit: float | None) -> None:
    """First weights of `layers` uniform in +- `limit`; None leaves them."""
    if limit is not None:
        for parameter in layers.parameters():
            nn.init.uniform_(parameter, -limit, limit)


class ActionValue(ABC):
    """What critics say of an action: its expected return, or the distribution of the return.

    It holds numbers and makes critics of its kind; an algorithm that is given one backs up and fits
    either in the same lines. Legend: N proposed actions a state, K atoms; what a critic says and
    what it aims at are (B,) or (B, K).
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    """How far what a critic says is from its target, 0-d."""

    @abstractmethod
    def critics(self, obs_shapes: Shapes, ac_dim: int, encoder: ImageEncoding) -> nn.ModuleList:
        """New critics."""

    @abstractmethod
    def backup(
        self, critics: nn.ModuleList, obs: Obs, actions: Tensor, rewards: Tensor, bootstrap: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """rewards + bootstrap * the value of the best of `actions` (N, B, A) in `obs`.

        With it comes what is worth logging of this target, 0-d.
        """

    @abstractmethod
    def expected(self, critic: nn.Module, obs: Obs, actions: Tensor) -> Tensor:
        """The expected return by one critic: actions (B, A) or (N, B, A) -> (B,) or (N, B)."""


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
        self.loss = TD_LOSSES[td_loss]

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

    def expected(self, critic: nn.Module, obs: Obs, actions: Tensor) -> Tensor:
        return critic(obs, actions)


class Categorical(ActionValue):
    """One critic with a distribution over atoms (C51, Bellemare et al. 2017, arXiv 1707.06887)."""

    def __init__(self, *, num_atoms: int, layer_dims: list[int], value_bounds: list[float]) -> None:
        self.num_atoms = num_atoms
        self.layer_dims = layer_dims
        self.value_bounds = value_bounds
        self.loss = partial(F.kl_div, reduction="batchmean")

    def critics(self, obs_shapes: Shapes, ac_dim: int, encoder: ImageEncoding) -> nn.ModuleList:
        settings = (self.layer_dims, self.value_bounds, self.num_atoms, encoder)
        return nn.ModuleList([DistributionalCritic(obs_shapes, ac_dim, *settings)])

    def backup(
        self, critics: nn.ModuleList, obs: Obs, actions: Tensor, rewards: Tensor, bootstrap: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Equation 7 of the paper, the projection onto the atoms, included.

        Each moved atom shares its mass between the two atoms around it, in proportion to nearness;
        what leaves the support goes to its ends.
        """
        critic = cast("DistributionalCritic", critics[0])
        atoms = critic.atoms
        probs = critic(obs, actions).exp()  # (N, B, K)
        best = (probs * atoms).sum(-1).argmax(0)
        probs = probs[best, torch.arange(len(best), device=best.device)]
        moved = rewards.unsqueeze(-1) + bootstrap.unsqueeze(-1) * atoms

        edge = atoms.new_full((1,), torch.inf)
        gaps = atoms.diff()
        above = torch.cat([gaps, edge]).unsqueeze(-1)  # (K, 1): from each atom to the next one up
        below = torch.cat([edge, gaps]).unsqueeze(-1)
        distance = moved.clamp(atoms[0], atoms[-1]).unsqueeze(-2) - atoms.unsqueeze(-1)
        far = torch.where(distance >= 0, distance / above, -distance / below)  # (B, K, K moved)
        return ((1.0 - far).clamp(min=0.0) * probs.unsqueeze(-2)).sum(-1), {}

    def expected(self, critic: nn.Module, obs: Obs, actions: Tensor) -> Tensor:
        atoms = cast("DistributionalCritic", critic).atoms
        return (critic(obs, actions).exp() * atoms).sum(-1)


def _low_and_high(value_bounds: Sequence[float]) -> tuple[float, float]:
    if len(value_bounds) != 2 or not value_bounds[0] < value_bounds[1]:
        raise ConfigError(
            f"algo.value_bounds is {list(value_bounds)}; it is two numbers, the lowest and the "
            "highest value, for instance [0, 1]"
        )
    return value_bounds[0], value_bounds[1]
