"""A conditional variational autoencoder (Kingma & Welling 2014, Sohn et al. 2015) and its parts.

It models actions (or subgoals) given observations, and goals if there are any. What the latent is
drawn from is a choice: a standard normal, or one of `rmexp.nets.priors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.nets.encoders import MLP, GoalEncoder, ImageEncoding, ObservationEncoder, Shape

Tensors = Mapping[str, Tensor]

LOG_STD_LIMITS = (-4.0, 15.0)
"""Of a Gaussian that is sampled."""


class VAE(nn.Module):
    """Encoder q(z | x, obs, goal), decoder p(x | z, obs, goal) and prior p(z), or p(z | obs, goal).

    Args:
        input_shapes: x, by name.
        output_dims: what is reconstructed of x, flat: name -> width.
        condition_shapes: observations.
        goal_shapes: goals; may be empty.
        encoding: how images among them become features.
        latent_dim: dimensions of z; with a categorical prior, their number.
        latent_clip: bound of the latents that are drawn from the prior.
        kl_weight: of the divergence from the prior in the loss.
        squash: reconstructions pass a tanh.
        sum_reconstruction: the squared error is summed over everything but the batch, not averaged.
    """

    def __init__(
        self,
        *,
        input_shapes: Mapping[str, Shape],
        output_dims: Mapping[str, int],
        condition_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
        encoder_layer_dims: Sequence[int],
        decoder_layer_dims: Sequence[int],
        latent_dim: int,
        latent_clip: float | None,
        kl_weight: float,
        prior: Prior,
        squash: bool,
        sum_reconstruction: bool,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.latent_clip = latent_clip
        self.kl_weight = kl_weight
        self.prior = prior
        self.squash = squash
        self.sum_reconstruction = sum_reconstruction
        given = (condition_shapes, goal_shapes, encoding)
        posterior_dims = prior.posterior_dims(latent_dim)
        self.encoder = ConditionalMLP(input_shapes, *given, encoder_layer_dims, posterior_dims)
        latent_shapes = {"latent": (prior.latent_width(latent_dim),)}
        self.decoder = ConditionalMLP(latent_shapes, *given, decoder_layer_dims, output_dims)
        learned = prior.parameter_shapes(latent_dim)
        self.prior_parameters = PriorParameters(prior, learned, *given) if learned else None

    def losses(
        self, x: Tensors, obs: Tensors, goal: Tensors | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        """`loss`, the negative evidence lower bound, its two parts and the prior's metrics, 0-d.

        x {name: (B, ...)}, obs and goal {key: (B, D_key)}.
        """
        posterior = self.encoder(x, obs, goal)
        z, reported = self.prior.sample_posterior(posterior, draws, epoch)

        reconstructed = self.decoder({"latent": z}, obs, goal)
        if self.squash:
            reconstructed = {name: torch.tanh(value) for name, value in reconstructed.items()}
        # The mean over the names of each one's mean, or the sum of everything.
        if self.sum_reconstruction:
            errors = [(value - x[name]).square().sum() for name, value in reconstructed.items()]
            reconstruction = torch.stack(errors).sum() / len(z)
        else:
            errors = [F.mse_loss(value, x[name]) for name, value in reconstructed.items()]
            reconstruction = torch.stack(errors).mean()

        learned = {} if self.prior_parameters is None else self.prior_parameters(obs, goal)
        kl = self.prior.kl(posterior, z, learned)
        loss = reconstruction + self.kl_weight * kl
        return {"loss": loss, "reconstruction_loss": reconstruction, "kl_loss": kl, **reported}

    def sample(self, obs: Tensors, goal: Tensors | None, draws: Draws) -> dict[str, Tensor]:
        """One sample a row, from the prior: obs, goal {key: (B, D_key)} -> {name: (B, width)}.

        In double precision where a row's place in the batch could show (see `Head.act`).
        """
        z = self.sample_prior(obs, goal, draws)
        outputs = self.decoder({"latent": z}, obs, goal)
        if not self.squash:
            return outputs
        return {name: torch.tanh(value.double()).float() for name, value in outputs.items()}

    def sample_prior(self, obs: Tensors, goal: Tensors | None, draws: Draws) -> Tensor:
        """One latent a row, from the prior: obs, goal {key: (B, D_key)} -> (B, latent width)."""
        learned = {} if self.prior_parameters is None else self.prior_parameters(obs, goal)
        rows = len(next(iter(obs.values())))
        z = self.prior.sample(learned, (rows, self.latent_dim), draws)
        return z if self.latent_clip is None else z.clamp(-self.latent_clip, self.latent_clip)


class ConditionalMLP(nn.Module):
    """Inputs, observations and goals, in this order, -> {output name: (B, width)}."""

    def __init__(
        self,
        input_shapes: Mapping[str, Shape],
        condition_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
        layer_dims: Sequence[int],
        output_dims: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.input = ObservationEncoder(input_shapes, encoding) if input_shapes else None
        self.condition = GoalEncoder(condition_shapes, goal_shapes, encoding)
        width = self.condition.out_dim + (self.input.out_dim if self.input is not None else 0)
        self.mlp = MLP(width, layer_dims)
        self.decoder = nn.ModuleDict(
            {name: nn.Linear(self.mlp.out_dim, dim) for name, dim in output_dims.items()}
        )

    def forward(self, inputs: Tensors, obs: Tensors, goal: Tensors | None) -> dict[str, Tensor]:
        features = self.condition(obs, goal)
        if self.input is not None:
            features = torch.cat([self.input(inputs), features], dim=-1)
        features = self.mlp(features)
        return {name: layer(features) for name, layer in self.decoder.items()}


class Prior(ABC):
    """What latents are drawn from. It holds numbers, not weights, as an action head does.

    It says which outputs it needs of the encoder and which parameters it learns, and turns them
    into a divergence and into samples: parameters are {name: (B or 1, *shape)}, posteriors, what
    encoders answer, {name: (B, D)}.
    """

    conditioned: bool
    """Whether a network computes the parameters from the observations (and goals)."""

    layer_dims: list[int]
    """Hidden layers of that network."""

    @abstractmethod
    def latent_width(self, latent_dim: int) -> int:
        """Width of a latent as the decoder sees it."""

    @abstractmethod
    def posterior_dims(self, latent_dim: int) -> dict[str, int]:
        """The encoder's outputs: name -> width."""

    @abstractmethod
    def parameter_shapes(self, latent_dim: int) -> dict[str, tuple[int, ...]]:
        """What is learned: name -> shape; empty: nothing."""

    @abstractmethod
    def sample_posterior(
        self, posterior: Tensors, draws: Draws, epoch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A latent (B, width) through which gradients flow, and what is worth logging (0-d)."""

    @abstractmethod
    def kl(self, posterior: Tensors, z: Tensor, parameters: Tensors) -> Tensor:
        """KL(posterior || prior): summed over the latent, averaged over the batch (0-d)."""

    @abstractmethod
    def sample(self, parameters: Tensors, shape: tuple[int, int], draws: Draws) -> Tensor:
        """Latents (B, width) for shape (B, L)."""


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
        std = (0.5 * logvar).clamp(*LOG_STD_LIMITS).exp()
        z = mean + std * draws.randn(mean.shape)
        return z, {"encoder_variance": logvar.detach().exp().mean()}


class NormalPrior(GaussianPosterior):
    """The standard normal."""

    conditioned = False
    layer_dims: list[int] = []  # noqa: RUF012 - never filled

    def parameter_shapes(self, latent_dim: int) -> dict[str, tuple[int, ...]]:
        return {}

    def kl(self, posterior: Tensors, z: Tensor, parameters: Tensors) -> Tensor:
        mean, logvar = posterior["mean"], posterior["logvar"]
        return 0.5 * (mean.square() + logvar.exp() - logvar - 1.0).sum(-1).mean()

    def sample(self, parameters: Tensors, shape: tuple[int, int], draws: Draws) -> Tensor:
        return draws.randn(shape)


class PriorParameters(nn.Module):
    """What a prior learns: of a network with `prior.conditioned`, else free parameters."""

    def __init__(
        self,
        prior: Prior,
        shapes: Mapping[str, tuple[int, ...]],
        condition_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.shapes = shapes
        self.free = nn.ParameterDict()
        self.network: ConditionalMLP | None = None
        if prior.conditioned:
            dims = {name: prod(shape) for name, shape in shapes.items()}
            self.network = ConditionalMLP(
                {}, condition_shapes, goal_shapes, encoding, prior.layer_dims, dims
            )
        else:
            for name, shape in shapes.items():
                self.free[name] = nn.Parameter(torch.randn(1, *shape) / prod(shape) ** 0.5)

    def forward(self, obs: Tensors, goal: Tensors | None) -> dict[str, Tensor]:
        """obs and goal {key: (B, D_key)} -> {name: (B or 1, *shape)}."""
        if self.network is None:
            return dict(self.free.items())
        outputs = self.network({}, obs, goal)
        return {name: outputs[name].unflatten(-1, shape) for name, shape in self.shapes.items()}
