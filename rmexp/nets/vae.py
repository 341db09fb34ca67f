"""A conditional variational autoencoder (Kingma & Welling 2014, Sohn et al. 2015) and its parts.

It models actions (or subgoals) given observations, and goals if there are any. What the latent is
drawn from is a choice: see `rmexp.nets.priors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.nets.actors import MLP
from rmexp.nets.encoders import GoalEncoder, ImageEncoding, ObservationEncoder, Shape
from rmexp.nets.priors import Prior

Tensors = Mapping[str, Tensor]


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
        prior: Prior,
        squash: bool,
        sum_reconstruction: bool,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.latent_clip = latent_clip
        self.prior = prior
        self.squash = squash
        self.sum_reconstruction = sum_reconstruction
        given = (condition_shapes, goal_shapes, encoding)
        posterior_dims = prior.posterior_dims(latent_dim)
        self.encoder = ConditionalMLP(input_shapes, *given, encoder_layer_dims, posterior_dims)
        latent_shapes = {"latent": (prior.latent_width(latent_dim),)}
        self.decoder = ConditionalMLP(latent_shapes, *given, decoder_layer_dims, output_dims)
        self.prior_parameters = PriorParameters(prior, latent_dim, *given)

    def losses(
        self,
        x: Tensors,
        targets: Tensors,
        obs: Tensors,
        goal: Tensors | None,
        draws: Draws,
        epoch: int,
    ) -> dict[str, Tensor]:
        """`reconstruction_loss`, `kl_loss` and what the prior reports, all 0-d.

        x {name: (B, ...)}, targets {name: (B, width)}, obs and goal {key: (B, D_key)}.
        """
        posterior = self.encoder(x, obs, goal)
        z = self.prior.sample_posterior(posterior, draws, epoch)
        reconstructed = self.decode(z, obs, goal)
        # The mean over the names of each one's mean, or the sum of everything.
        if self.sum_reconstruction:
            errors = [(v - targets[name]).square().sum() for name, v in reconstructed.items()]
            reconstruction = torch.stack(errors).sum() / len(next(iter(targets.values())))
        else:
            errors = [F.mse_loss(value, targets[name]) for name, value in reconstructed.items()]
            reconstruction = torch.stack(errors).mean()
        return {
            "reconstruction_loss": reconstruction,
            "kl_loss": self.prior.kl(posterior, z, self.prior_parameters(obs, goal)),
            **self.prior.metrics(posterior, epoch),
        }

    def decode(self, z: Tensor, obs: Tensors, goal: Tensors | None) -> dict[str, Tensor]:
        """z (B, latent width), obs and goal {key: (B, D_key)} -> {name: (B, width)}."""
        outputs = self.decoder({"latent": z}, obs, goal)
        return {k: torch.tanh(v) for k, v in outputs.items()} if self.squash else outputs

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
        rows = len(next(iter(obs.values())))
        z = self.prior.sample(self.prior_parameters(obs, goal), (rows, self.latent_dim), draws)
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


class PriorParameters(nn.Module):
    """What a prior learns: of a network with `prior.conditioned`, else free parameters."""

    def __init__(
        self,
        prior: Prior,
        latent_dim: int,
        condition_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.shapes = prior.parameter_shapes(latent_dim)
        self.free = nn.ParameterDict()
        self.network: ConditionalMLP | None = None
        if self.shapes and prior.conditioned:
            dims = {name: prod(shape) for name, shape in self.shapes.items()}
            self.network = ConditionalMLP(
                {}, condition_shapes, goal_shapes, encoding, prior.layer_dims, dims
            )
        else:
            for name, shape in self.shapes.items():
                self.free[name] = nn.Parameter(torch.randn(1, *shape) / prod(shape) ** 0.5)

    def forward(self, obs: Tensors, goal: Tensors | None) -> dict[str, Tensor]:
        """obs and goal {key: (B, D_key)} -> {name: (B or 1, *shape)}."""
        if self.network is None:
            return dict(self.free.items())
        outputs = self.network({}, obs, goal)
        return {name: outputs[name].unflatten(-1, shape) for name, shape in self.shapes.items()}
