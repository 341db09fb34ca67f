"""A Gaussian squashed by tanh: the stochastic actor of SAC (Haarnoja et al. 2018, 1812.05905).

Its samples are functions of the network and of the noise, so that a critic's gradient reaches the
actor through them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rmexp.draws import Draws
from rmexp.nets.heads import HALF_LOG_2PI, MAX_STD, MEAN_LIMIT, Density, Outputs

EPSILON = 1e-6


class TanhGaussian(Density):
    """tanh of a diagonal Gaussian; the network gives its mean and the logarithm of its std.

    With `low_noise_eval` it acts with the tanh of the mean.
    """

    def __init__(self, *, min_std: float, low_noise_eval: bool) -> None:
        self.min_std = min_std
        self.low_noise_eval = low_noise_eval

    def output_dims(self, ac_dim: int) -> dict[str, int]:
        return {"mean": ac_dim, "scale": ac_dim}

    def draw(self, outputs: Outputs, noise: Tensor) -> tuple[Tensor, Tensor]:
        """outputs {name: (B, A)}, standard normal noise (B, A) or (N, B, A) -> actions, log p.

        The log-probabilities are (B,) or (N, B); both can be differentiated.
        """
        mean = outputs["mean"].clamp(-MEAN_LIMIT, MEAN_LIMIT)
        raw = mean + outputs["scale"].exp().clamp(self.min_std, MAX_STD) * noise
        actions = torch.tanh(raw)
        return actions, self.log_prob(outputs, actions, raw)

    def log_prob(self, outputs: Outputs, actions: Tensor, raw: Tensor | None = None) -> Tensor:
        """The density of actions = tanh(raw): that of `raw`, divided by the slope of tanh there."""
        mean = outputs["mean"].clamp(-MEAN_LIMIT, MEAN_LIMIT)
        std = outputs["scale"].exp().clamp(self.min_std, MAX_STD)
        if raw is None:
            up, down = (1.0 + actions).clamp(min=EPSILON), (1.0 - actions).clamp(min=EPSILON)
            raw = 0.5 * torch.log(up / down)
        slope = 1.0 - actions * actions + EPSILON
        normal = -0.5 * ((raw - mean) / std).square() - std.log() - HALF_LOG_2PI
        return (normal - slope.log()).sum(-1)

    def sample(self, outputs: Outputs, draws: Draws) -> Tensor:
        if self.low_noise_eval:
            return torch.tanh(outputs["mean"].clamp(-MEAN_LIMIT, MEAN_LIMIT))
        return self.draw(outputs, draws.randn(outputs["mean"].shape))[0]
