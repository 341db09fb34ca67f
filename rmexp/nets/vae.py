"""A conditional variational autoencoder (Kingma & Welling 2014, Sohn et al. 2015) and its parts.

It models actions (or subgoals) given observations, and goals if there are any. What the latent is
drawn from is a choice: a standard normal, or one of `rmexp.nets.priors`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.nets.encoders import ImageEncoding, Shape
from rmexp.nets.mlp import ObservationMLP

Tensors = Mapping[str, Tensor]

LOG_STD_LIMITS = (-4.0, 15.0)
"""Of a Gaussian that is sampled."""


class VAE(nn.Module):
    """Encoder q(z | x, obs, goal), decoder p(x | z, obs, goal) and prior p(z), or p(z | obs, goal).

    Args:
        input_shapes: x, by name; the encoder reads them in sorted order.
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
        prior: Prior | NormalPrior,
        squash: bool,
        sum_reconstruction: bool,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.latent_clip = latent_clip
        self.kl_weight = kl_weight
        self.prior = None if isinstance(prior, NormalPrior) else prior
        self.squash = squash
        self.sum_reconstruction = sum_reconstruction
        self.latent_width = latent_dim
        posterior_dims = {"mean": latent_dim, "logvar": latent_dim}
        learned: dict[str, tuple[int, ...]] = {}
        if self.prior is not None:
            self.latent_width = self.prior.latent_width(latent_dim)
            posterior_dims = self.prior.posterior_dims(latent_dim)
            learned = self.prior.parameter_shapes(latent_dim)

        network = partial(
            ObservationMLP,
            condition_shapes,
            encoder=encoding,
            goal_shapes=goal_shapes,
            inputs_first=True,
        )
        width = sum(prod(shape) for shape in input_shapes.values())
        self.encoder = network(encoder_layer_dims, posterior_dims, input_dim=width)
        self.decoder = network(decoder_layer_dims, output_dims, input_dim=self.latent_width)
        self.prior_parameters: PriorParameters | None = None
        if self.prior is not None and learned:
            given = (condition_shapes, encoding, goal_shapes)
            self.prior_parameters = PriorParameters(self.prior, learned, *given)

    def losses(
        self, x: Tensors, obs: Tensors, goal: Tensors | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        """`loss`, the negative evidence lower bound, its two parts and the prior's metrics, 0-d.

        x {name: (B, D_name)}, obs and goal {key: (B, D_key)}.
        """
        posterior = self.encoder(obs, goal, torch.cat([x[name] for name in sorted(x)], dim=-1))
        if self.prior is None:
            mean, logvar = posterior["mean"], posterior["logvar"]
            std = (0.5 * logvar).clamp(*LOG_STD_LIMITS).exp()
            z = mean + std * draws.randn(mean.shape)
            kl = 0.5 * (mean.square() + logvar.exp() - logvar - 1.0).sum(-1).mean()
            reported = {"encoder_variance": logvar.detach().exp().mean()}
        else:
            learned = {} if self.prior_parameters is None else self.prior_parameters(obs, goal)
            z, reported = self.prior.sample_posterior(posterior, draws, epoch)
            kl = self.prior.kl(posterior, z, learned)

        reconstructed = self.decoder(obs, goal, z)
        if self.squash:
            reconstructed = {name: torch.tanh(value) for name, value in reconstructed.items()}
        # The mean over the names of each one's mean, or the sum of everything.
        if self.sum_reconstruction:
            errors = [(value - x[name]).square().sum() for name, value in reconstructed.items()]
            reconstruction = torch.stack(errors).sum() / len(z)
        else:
            errors = [F.mse_loss(value, x[name]) for name, value in reconstructed.items()]
            reconstruction = torch.stack(errors).mean()

        loss = reconstruction + self.kl_weight * kl
        return {"loss": loss, "reconstruction_loss": reconstruction, "kl_loss": kl, **reported}

    def sample_posterior(
        self, x: Tensors, obs: Tensors, goal: Tensors | None, draws: Draws, epoch: int
    ) -> Tensor:
        """One latent a row, (B, latent_width): x, obs and goal as for `losses`."""
        posterior = self.encoder(obs, goal, torch.cat([x[name] for name in sorted(x)], dim=-1))
        if self.prior is None:
            return sample_normal(posterior["mean"], posterior["logvar"], draws)
        return self.prior.sample_posterior(posterior, draws, epoch)[0]

    def sample(
        self, obs: Tensors, goal: Tensors | None, draws: Draws, times: int | None = None
    ) -> dict[str, Tensor]:
        """From the prior: obs, goal {key: (B, D_key)} -> {name: (B, width)} or (times, B, width).

        In double precision where a row's place in the batch could show (see `Head.act`).
        """
        outputs = self.decoder(obs, goal, self.sample_prior(obs, goal, draws, times))
        if not self.squash:
            return outputs
        return {name: torch.tanh(value.double()).float() for name, value in outputs.items()}

    def sample_prior(
        self, obs: Tensors, goal: Tensors | None, draws: Draws, times: int | None = None
    ) -> Tensor:
        """Latents for obs, goal {key: (B, D_key)}: (B, latent_width) or (times, B, latent_width).

        They are drawn for B * times rows, each state's in turn; see `RepeatedDraws`.
        """
        shape = (len(next(iter(obs.values()))) * (times or 1), self.latent_dim)
        if self.prior is None:
            z = draws.randn(shape)
        else:
            learned = {} if self.prior_parameters is None else self.prior_parameters(obs, goal)
            if times is not None:
                learned = {
                    k: v if len(v) == 1 else v.repeat_interleave(times, 0)
                    for k, v in learned.items()
                }
            z = self.prior.sample(learned, shape, draws)
        if self.latent_clip is not None:
            z = z.clamp(-self.latent_clip, self.latent_clip)
        return z if times is None else z.unflatten(0, (-1, times)).transpose(0, 1)


class NormalPrior:
    """The standard normal, beside which the encoder's answer is a Gaussian too.

    The usual choice; `VAE` has it written out.
    """


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


class PriorParameters(nn.Module):
    """What a prior learns: of a network with `prior.conditioned`, else free parameters."""

    def __init__(
        self,
        prior: Prior,
        shapes: Mapping[str, tuple[int, ...]],
        condition_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
        goal_shapes: Mapping[str, Shape],
    ) -> None:
        super().__init__()
        self.shapes = shapes
        self.free = nn.ParameterDict()
        self.network: ObservationMLP | None = None
        if prior.conditioned:
            dims = {name: prod(shape) for name, shape in shapes.items()}
            self.network = ObservationMLP(
                condition_shapes, prior.layer_dims, dims, encoding, goal_shapes=goal_shapes
            )
        else:
            for name, shape in shapes.items():
                self.free[name] = nn.Parameter(torch.randn(1, *shape) / prod(shape) ** 0.5)

    def forward(self, obs: Tensors, goal: Tensors | None) -> dict[str, Tensor]:
        """obs and goal {key: (B, D_key)} -> {name: (B or 1, *shape)}."""
        if self.network is None:
            return dict(self.free.items())
        outputs = self.network(obs, goal)
        return {name: outputs[name].unflatten(-1, shape) for name, shape in self.shapes.items()}


def sample_normal(mean: Tensor, logvar: Tensor, draws: Draws) -> Tensor:
    """One draw each, (B, L)."""
    std = (0.5 * logvar).clamp(*LOG_STD_LIMITS).exp()
    return mean + std * draws.randn(mean.shape)
