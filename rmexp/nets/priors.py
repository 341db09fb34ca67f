"""What a variational autoencoder draws its latents from, if not from a standard normal.

That one, the usual choice, stands written out in the autoencoder: `rmexp.nets.vae`.
Legend: L latent dimensions, K mixture components, C classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rmexp.draws import Draws, component
from rmexp.nets.vae import NormalPrior, Prior, Tensors, sample_normal

__all__ = ["CategoricalPrior", "GMMPrior", "GaussianPrior", "NormalPrior"]  # all that conf/ names

LOG_VARIANCE_LIMITS = (-8.0, 30.0)
"""Of the densities in a mixture's divergence."""


class GaussianPosterior(Prior):
    """What the priors have in common whose encoder answers with a diagonal Gaussian."""

    def latent_width(self, latent_dim: int) -> int:
        return latent_dim

    def posterior_dims(self, latent_dim: int) -> dict[str, int]:
        return {"mean": latent_dim, "logvar": latent_dim}

    def sample_posterior(
        self, posterior: Tensors, draws: Draws, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, logvar = posterior["mean"], posterior["logvar"]
        z = sample_normal(mean, logvar, draws)
        return z, {"encoder_variance": logvar.detach().exp().mean()}


class GaussianPrior(GaussianPosterior):
    """A learned diagonal Gaussian."""

    def __init__(self, *, conditioned: bool, layer_dims: list[int]) -> None:
        self.conditioned = conditioned
        self.layer_dims = layer_dims

    def parameter_shapes(self, latent_dim: int) -> dict[str, tuple[int, ...]]:
        return {"mean": (1, latent_dim), "logvar": (1, latent_dim)}

    def kl(self, posterior: Tensors, z: Tensor, parameters: Tensors) -> Tensor:
        mean, logvar = posterior["mean"], posterior["logvar"]
        prior_mean, prior_logvar = parameters["mean"][:, 0], parameters["logvar"][:, 0]
        ratio = ((mean - prior_mean).square() + logvar.exp()) / prior_logvar.exp()
        return 0.5 * (ratio + prior_logvar - logvar - 1.0).sum(-1).mean()

    def sample(self, parameters: Tensors, shape: tuple[int, int], draws: Draws) -> Tensor:
        mean, logvar = (parameters[k][:, 0].double().expand(shape) for k in ("mean", "logvar"))
        return sample_normal(mean, logvar, draws).float()


class GMMPrior(GaussianPosterior):
    """A learned mixture of diagonal Gaussians, whose divergence is estimated with the latent."""

    def __init__(
        self, *, num_modes: int, learn_weights: bool, conditioned: bool, layer_dims: list[int]
    ) -> None:
        self.num_modes = num_modes
        self.learn_weights = learn_weights
        self.conditioned = conditioned
        self.layer_dims = layer_dims

    def parameter_shapes(self, latent_dim: int) -> dict[str, tuple[int, ...]]:
        modes = (self.num_modes, latent_dim)
        weights = {"weight": (self.num_modes,)} if self.learn_weights else {}
        return {"mean": modes, "logvar": modes, **weights}

    def kl(self, posterior: Tensors, z: Tensor, parameters: Tensors) -> Tensor:
        of_posterior = _log_normal(z, posterior["mean"], posterior["logvar"])
        per_mode = _log_normal(z.unsqueeze(1), parameters["mean"], parameters["logvar"])
        of_prior = torch.logsumexp(self._log_weights(parameters) + per_mode, dim=-1)
        return (of_posterior - of_prior).mean()

    def sample(self, parameters: Tensors, shape: tuple[int, int], draws: Draws) -> Tensor:
        rows, _ = shape
        weights = self._log_weights(parameters).double().exp().expand(rows, -1)
        chosen = draws.categorical(weights)
        mean, logvar = (
            component(parameters[k].double().expand(rows, -1, -1), chosen)
            for k in ("mean", "logvar")
        )
        return sample_normal(mean, logvar, draws).float()

    def _log_weights(self, parameters: Tensors) -> Tensor:
        """(B or 1, K)."""
        if self.learn_weights:
            return F.log_softmax(parameters["weight"], dim=-1)
        return parameters["mean"].new_full((1, self.num_modes), -math.log(self.num_modes))


class CategoricalPrior(Prior):
    """L categorical variables, sampled as one-hot vectors.

    The encoder's samples are relaxed by Gumbel noise (Jang et al. 2017, arXiv 1611.01144) at a
    temperature that falls epoch by epoch.

    Args:
        num_classes: C.
        learned: learn the probabilities; false: all are equal.
        conditioned: compute them from the observations; only if they are learned.
        layer_dims: of the network that computes them.
        hard: samples are one-hot while training too, their gradients those of the relaxed ones.
        initial_temperature: at epoch 0.
        temperature_step: what it falls by in an epoch.
        min_temperature: where it stops falling.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        learned: bool,
        conditioned: bool,
        layer_dims: list[int],
        hard: bool,
        initial_temperature: float,
        temperature_step: float,
        min_temperature: float,
    ) -> None:
        self.num_classes = num_classes
        self.learned = learned
        self.conditioned = conditioned
        self.layer_dims = layer_dims
        self.hard = hard
        self.initial_temperature = initial_temperature
        self.temperature_step = temperature_step
        self.min_temperature = min_temperature

    def latent_width(self, latent_dim: int) -> int:
        return latent_dim * self.num_classes

    def posterior_dims(self, latent_dim: int) -> dict[str, int]:
        return {"logit": latent_dim * self.num_classes}

    def parameter_shapes(self, latent_dim: int) -> dict[str, tuple[int, ...]]:
        return {"logit": (latent_dim, self.num_classes)} if self.learned else {}

    def sample_posterior(
        self, posterior: Tensors, draws: Draws, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = self._logits(posterior)
        gumbel = -draws.exponential(logits.shape).log()
        falling = self.initial_temperature - epoch * self.temperature_step
        temperature = max(falling, self.min_temperature)
        soft = F.softmax((logits + gumbel) / temperature, dim=-1)
        if self.hard:
            soft = F.one_hot(soft.argmax(-1), self.num_classes) - soft.detach() + soft
        return soft.flatten(1), {"gumbel_temperature": logits.new_full((), temperature)}

    def kl(self, posterior: Tensors, z: Tensor, parameters: Tensors) -> Tensor:
        log_posterior = F.log_softmax(self._logits(posterior), dim=-1)
        log_prior = -math.log(self.num_classes)
        if self.learned:
            log_prior = F.log_softmax(parameters["logit"], dim=-1)
        return (log_posterior.exp() * (log_posterior - log_prior)).sum((-1, -2)).mean()

    def sample(self, parameters: Tensors, shape: tuple[int, int], draws: Draws) -> Tensor:
        probabilities = torch.full((1, 1, self.num_classes), 1.0 / self.num_classes)
        if self.learned:
            probabilities = F.softmax(parameters["logit"].double(), dim=-1)
        classes = draws.categorical(probabilities.expand(*shape, -1))
        return F.one_hot(classes, self.num_classes).float().flatten(1)

    def _logits(self, posterior: Tensors) -> Tensor:
        """(B, L * C) -> (B, L, C)."""
        return posterior["logit"].unflatten(-1, (-1, self.num_classes))


def _log_normal(x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """(..., L) -> (...)."""
    variance = logvar.clamp(*LOG_VARIANCE_LIMITS).exp()
    scaled = variance.log() + (x - mean).square() / variance + math.log(2.0 * math.pi)
    return -0.5 * scaled.sum(-1)
