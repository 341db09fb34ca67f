"""Value networks: Q(s, a), V(s), distributions over returns, and the targets that follow them.

The action follows the observation's features, as in the reference, so that weights can be exchanged
with it. Values are (B,), never (B, 1): beside rewards (B,) nothing can broadcast to (B, B).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError
from rmexp.nets.actors import MLPActor
from rmexp.nets.encoders import MLP, ImageEncoding, ObservationEncoder

Shapes = Mapping[str, Sequence[int]]
Obs = Mapping[str, Tensor]
M = TypeVar("M", bound=nn.Module)

TD_LOSSES = {"l2": F.mse_loss, "huber": F.smooth_l1_loss}


class ActionNet(nn.Module):
    """Observations and actions -> one output of `out_dim`: the body of critics.

    Several actions a state, (N, B, A), share the encoding of the state.
    """

    def __init__(
        self,
        obs_shapes: Shapes,
        ac_dim: int,
        layer_dims: Sequence[int],
        out_dim: int,
        encoder: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(obs_shapes, encoder)
        self.mlp = MLP(self.encoder.out_dim + ac_dim, layer_dims)
        self.decoder = nn.Linear(self.mlp.out_dim, out_dim)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        """obs {k: (B, D_k)}, actions (B, A) or (N, B, A) -> (B, out_dim) or (N, B, out_dim)."""
        features = self.encoder(obs).expand(*actions.shape[:-1], -1)
        return self.decoder(self.mlp(torch.cat([features, actions], dim=-1)))


class Value(nn.Module):
    """V(s): observations {k: (B, D_k)} -> (B,)."""

    def __init__(
        self, obs_shapes: Shapes, layer_dims: Sequence[int], encoder: ImageEncoding | None
    ) -> None:
        super().__init__()
        self.net = MLPActor(obs_shapes, layer_dims, {"value": 1}, encoder)

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
        self.net = ActionNet(obs_shapes, ac_dim, layer_dims, 1, encoder)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        values = self.net(obs, actions).squeeze(-1)
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
        self.net = ActionNet(obs_shapes, ac_dim, layer_dims, ac_dim, encoder)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        change = self.scale * torch.tanh(self.net(obs, actions))
        return (actions + change).clamp(-1.0, 1.0)


class DistributionalCritic(nn.Module):
    """A categorical distribution of the return over `num_atoms` values (C51, arXiv 1707.06887).

    Called like a critic it gives the distribution's mean; `logits` gives (..., B, K).
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
        self.net = ActionNet(obs_shapes, ac_dim, layer_dims, num_atoms, encoder)

    def logits(self, obs: Obs, actions: Tensor) -> Tensor:
        return self.net(obs, actions)

    def forward(self, obs: Obs, actions: Tensor) -> Tensor:
        return (self.logits(obs, actions).softmax(-1) * self.atoms).sum(-1)


class Target(nn.Module, Generic[M]):
    """`net`, a slowly moving copy of `source`, always in evaluation mode and never trained."""

    net: M

    def __init__(self, source: M) -> None:
        super().__init__()
        self.net = copy.deepcopy(source).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Target[M]:
        """It stays in evaluation mode whatever `mode` says."""
        return super().train(False)


@torch.no_grad()
def polyak_update(source: M, target: Target[M], tau: float) -> None:
    """target <- (1 - tau) target + tau source.

    Buffers are copied: a target with the batch statistics of its first day would judge with a
    normalisation that its source has long left.
    """
    ours: list[Tensor] = list(target.net.parameters())
    torch._foreach_lerp_(ours, list(source.parameters()), tau)  # pyright: ignore
    for old, new in zip(target.net.buffers(), source.buffers(), strict=True):
        old.copy_(new)


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

    def forward(self) -> Tensor:
        """0-d."""
        return self.param.exp().squeeze(0)


def start_small(layers: nn.Module, limit: float | None) -> None:
    """First weights of `layers` uniform in +- `limit`; None leaves them."""
    if limit is not None:
        for parameter in layers.parameters():
            nn.init.uniform_(parameter, -limit, limit)


def project(values: Tensor, probs: Tensor, atoms: Tensor) -> Tensor:
    """Move the mass `probs` (B, K) at `values` (B, K) onto `atoms` (K,), which ascend.

    Equation 7 of arXiv 1707.06887: each value shares its mass between the two atoms around it,
    in proportion to nearness; values outside the support go to its ends.
    """
    edge = atoms.new_full((1,), torch.inf)
    gaps = atoms.diff()
    above = torch.cat([gaps, edge]).unsqueeze(-1)  # (K, 1): from each atom to the next one up
    below = torch.cat([edge, gaps]).unsqueeze(-1)
    distance = values.clamp(atoms[0], atoms[-1]).unsqueeze(-2) - atoms.unsqueeze(-1)
    far = torch.where(distance >= 0, distance / above, -distance / below)  # (B, K atoms, K values)
    return ((1.0 - far).clamp(min=0.0) * probs.unsqueeze(-2)).sum(-1)


def _low_and_high(value_bounds: Sequence[float]) -> tuple[float, float]:
    if len(value_bounds) != 2 or not value_bounds[0] < value_bounds[1]:
        raise ConfigError(
            f"algo.value_bounds is {list(value_bounds)}; it is two numbers, the lowest and the "
            "highest value, for instance [0, 1]"
        )
    return value_bounds[0], value_bounds[1]
