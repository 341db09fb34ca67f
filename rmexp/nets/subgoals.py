"""Models of what will be observed some steps later: they propose subgoals.

They are made by their configuration node but for what only the run knows: which observations and
goals there are, which of them make a subgoal, and how images are encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.mlp import Obs, ObservationMLP, Shapes
from rmexp.nets.samplers import RepeatedDraws
from rmexp.nets.vae import VAE, NormalPrior, Prior


class SubgoalModel(nn.Module, ABC):
    """obs, goal and subgoals are {key: (B, D_key)}; goal is None where there are no goals."""

    @abstractmethod
    def losses(
        self, x: Obs, obs: Obs, goal: Obs | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        """`loss`, which is descended, and its parts, 0-d; x are the subgoals."""

    @abstractmethod
    def sample(self, obs: Obs, goal: Obs | None, draws: Draws) -> dict[str, Tensor]:
        """One subgoal a row."""


class SubgoalMLP(SubgoalModel):
    """The one subgoal to be expected; several samples are all the same."""

    def __init__(
        self,
        *,
        layer_dims: list[int],
        obs_shapes: Shapes,
        goal_shapes: Shapes,
        subgoal_shapes: Shapes,
        encoder: ImageEncoding,
    ) -> None:
        super().__init__()
        widths = {key: prod(shape) for key, shape in subgoal_shapes.items()}
        self.net = ObservationMLP(obs_shapes, layer_dims, widths, encoder, goal_shapes=goal_shapes)

    def losses(
        self, x: Obs, obs: Obs, goal: Obs | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        """The sum over the keys of each one's mean squared error."""
        predicted = self.net(obs, goal)
        parts = {f"{k}_loss": F.mse_loss(value, x[k]) for k, value in predicted.items()}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def sample(self, obs: Obs, goal: Obs | None, draws: Draws) -> dict[str, Tensor]:
        return self.net(obs, goal)


class SubgoalVAE(VAE, SubgoalModel):
    """A conditional variational autoencoder over subgoals."""

    def __init__(
        self,
        *,
        latent_dim: int,
        latent_clip: float | None,
        kl_weight: float,
        sum_reconstruction: bool,
        encoder_layer_dims: list[int],
        decoder_layer_dims: list[int],
        prior: Prior | NormalPrior,
        obs_shapes: Shapes,
        goal_shapes: Shapes,
        subgoal_shapes: Shapes,
        encoder: ImageEncoding,
    ) -> None:
        super().__init__(
            input_shapes=subgoal_shapes,
            output_dims={key: prod(shape) for key, shape in subgoal_shapes.items()},
            condition_shapes=obs_shapes,
            goal_shapes=goal_shapes,
            encoding=encoder,
            encoder_layer_dims=encoder_layer_dims,
            decoder_layer_dims=decoder_layer_dims,
            latent_dim=latent_dim,
            latent_clip=latent_clip,
            kl_weight=kl_weight,
            prior=prior,
            squash=False,
            sum_reconstruction=sum_reconstruction,
        )

    def latent_of(
        self,
        subgoal: Obs,
        obs: Obs,
        goal: Obs | None,
        draws: Draws,
        epoch: int,
        prior_samples: int | None,
    ) -> Tensor:
        """The latent (B, latent_width) that stands for a subgoal.

        It is the posterior's; with `prior_samples`, of as many latents of the prior the one that
        lies nearest to it, since only such latents will be met when acting.
        """
        z = self.sample_posterior(subgoal, obs, goal, draws, epoch)
        if prior_samples is None:
            return z
        many = RepeatedDraws(draws, prior_samples)
        candidates = self.sample_prior(obs, goal, many, prior_samples)
        nearest = (candidates - z).square().sum(-1).argmin(0)
        return candidates[nearest, torch.arange(len(nearest), device=nearest.device)]
