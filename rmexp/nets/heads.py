"""What an actor's last layer means: an action, a Gaussian, or a mixture of Gaussians.

A head holds numbers, not weights: it says which outputs it needs of a network, turns them into a
loss while training, and into actions while acting. The densities are written out, because a
`torch.distributions` object costs more than the arithmetic it wraps for nets of this size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from rmexp.draws import Draws
from rmexp.errors import ConfigError, require

Outputs = Mapping[str, Tensor]

MAX_STD = 7.5
MEAN_LIMIT = 9.0
LOW_NOISE_STD = 1e-4
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class Head(ABC):
    """Legend: A action dimension, K mixture components; (...) is (B,) or (B, T)."""

    @abstractmethod
    def output_dims(self, ac_dim: int) -> dict[str, int]:
        """The network's outputs: name -> width."""

    @abstractmethod
    def losses(self, outputs: Outputs, actions: Tensor) -> dict[str, Tensor]:
        """outputs {name: (..., width)}, actions (..., A) -> 0-d losses; `loss` is descended."""

    def act(self, outputs: Outputs, draws: Draws) -> Tensor:
        """outputs {name: (B, width)} -> actions (B, A).

        In double precision: vectorised float functions round differently at the end of a tensor
        than inside it, and an action must not depend on its place in the batch.
        """
        exact = {name: value.double() for name, value in outputs.items()}
        return self.sample(exact, draws).float()

    @abstractmethod
    def sample(self, outputs: Outputs, draws: Draws) -> Tensor:
        """What `act` returns, before rounding."""


class Deterministic(Head):
    """The action itself, squashed by tanh, with a weighted sum of three regression losses."""

    def __init__(self, *, l2_weight: float, l1_weight: float, cos_weight: float) -> None:
        self.l2_weight = l2_weight
        self.l1_weight = l1_weight
        self.cos_weight = cos_weight

    def output_dims(self, ac_dim: int) -> dict[str, int]:
        return {"action": ac_dim}

    def losses(self, outputs: Outputs, actions: Tensor) -> dict[str, Tensor]:
        """L2: mean squared error; L1: smooth L1; cosine: on the first three (position) axes."""
        predicted = torch.tanh(outputs["action"])
        l2 = F.mse_loss(predicted, actions)
        l1 = F.smooth_l1_loss(predicted, actions)
        cosine = 1.0 - F.cosine_similarity(predicted[..., :3], actions[..., :3], dim=-1).mean()
        loss = self.l2_weight * l2
        for weight, part in ((self.l1_weight, l1), (self.cos_weight, cosine)):
            if weight:  # a part without weight is reported, but nothing flows back through it
                loss = loss + weight * part
        return {"loss": loss, "l2_loss": l2, "l1_loss": l1, "cosine_loss": cosine}

    def sample(self, outputs: Outputs, draws: Draws) -> Tensor:
        return torch.tanh(outputs["action"])


class Density(Head):
    """A probability density over actions; its loss is the negative log-likelihood."""

    @abstractmethod
    def log_prob(self, outputs: Outputs, actions: Tensor) -> Tensor:
        """outputs {name: (..., width)}, actions (..., A) -> (...), of whole actions."""

    def losses(self, outputs: Outputs, actions: Tensor) -> dict[str, Tensor]:
        log_likelihood = self.log_prob(outputs, actions).mean()
        return {"loss": -log_likelihood, "log_likelihood": log_likelihood}


def require_head(head: Head, kind: type[Head], choices: str) -> None:
    """Refuse a head that an algorithm cannot train; `choices` are those it can."""
    if not isinstance(head, kind):
        raise ConfigError(
            f"algo/head: this algorithm cannot train a {type(head).__name__}; it needs {choices}"
        )


class Gaussian(Density):
    """A diagonal Gaussian with a tanh mean; its scale starts at `init_std`.

    With `low_noise_eval` it acts with its mean; validation always reports the true likelihood.
    """

    def __init__(
        self, *, init_std: float, min_std: float, fixed_std: bool, low_noise_eval: bool
    ) -> None:
        require(0 < init_std < math.inf, "head.init_std", init_std, "above 0 and finite")
        require(0 <= min_std < math.inf, "head.min_std", min_std, "at least 0 and finite")
        self.init_std = init_std
        self.min_std = min_std
        self.fixed_std = fixed_std
        self.low_noise_eval = low_noise_eval

    def output_dims(self, ac_dim: int) -> dict[str, int]:
        return {"mean": ac_dim, "scale": ac_dim}

    def log_prob(self, outputs: Outputs, actions: Tensor) -> Tensor:
        mean, std = self._mean_and_std(outputs)
        scaled = (actions - mean) / std
        return (-0.5 * scaled.square() - std.log() - HALF_LOG_2PI).sum(-1)

    def sample(self, outputs: Outputs, draws: Draws) -> Tensor:
        mean, std = self._mean_and_std(outputs)
        return mean if self.low_noise_eval else draws.normal(mean, std)

    def _mean_and_std(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        mean = torch.tanh(outputs["mean"].clamp(-MEAN_LIMIT, MEAN_LIMIT))
        if self.fixed_std:
            return mean, torch.full_like(mean, self.init_std)
        scaled = F.softplus(outputs["scale"]) * (self.init_std / math.log(2.0))
        return mean, scaled.clamp(self.min_std, MAX_STD)


class GMM(Density):
    """A mixture of `num_modes` diagonal Gaussians with tanh means.

    With `low_noise_eval` it acts by drawing a mode and keeping to its mean but for a standard
    deviation of 1e-4; validation always reports the true likelihood.
    """

    def __init__(self, *, num_modes: int, min_std: float, low_noise_eval: bool) -> None:
        require(num_modes >= 1, "head.num_modes", num_modes, "at least 1")
        require(0 <= min_std < math.inf, "head.min_std", min_std, "at least 0 and finite")
        self.num_modes = num_modes
        self.min_std = min_std
        self.low_noise_eval = low_noise_eval

    def output_dims(self, ac_dim: int) -> dict[str, int]:
        width = self.num_modes * ac_dim
        return {"mean": width, "scale": width, "logits": self.num_modes}

    def log_prob(self, outputs: Outputs, actions: Tensor) -> Tensor:
        mean, std = self.means_and_stds(outputs)
        scaled = (actions.unsqueeze(-2) - mean) / std
        per_mode = (-0.5 * scaled.square() - std.log() - HALF_LOG_2PI).sum(-1)
        log_weights = F.log_softmax(outputs["logits"], dim=-1)
        return torch.logsumexp(log_weights + per_mode, dim=-1)

    def sample(self, outputs: Outputs, draws: Draws) -> Tensor:
        means, stds = self.means_and_stds(outputs)
        width = LOW_NOISE_STD if self.low_noise_eval else stds
        return draws.mixture(F.softmax(outputs["logits"], dim=-1), means, width)

    def means_and_stds(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """outputs {name: (..., width)} -> (..., K, A) each."""
        shape = (*outputs["logits"].shape, -1)
        mean = torch.tanh(outputs["mean"].view(shape))
        return mean, F.softplus(outputs["scale"].view(shape)) + self.min_std
