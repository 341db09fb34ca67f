"""Models of the data's actions that propose several actions for a state, as BCQ needs them.

They are made by their configuration node but for what only the run knows: observations, the size
of an action and how images are encoded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.heads import GMM
from rmexp.nets.mlp import Obs, ObservationMLP, Shapes
from rmexp.nets.vae import VAE, NormalPrior, Prior


class ActionSampler(nn.Module, ABC):
    """p(a | s), learned from data; `VAE` says what it is asked."""

    @abstractmethod
    def losses(
        self, x: Obs, obs: Obs, goal: Obs | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        """x {"action": (B, A)}, obs {k: (B, D_k)} -> `loss`, to descend, and its parts, 0-d."""

    @abstractmethod
    def sample(self, obs: Obs, goal: Obs | None, draws: Draws, times: int) -> dict[str, Tensor]:
        """`times` actions for each state: obs {k: (B, D_k)} -> {"action": (times, B, A)}.

        They are drawn for (B * times) rows, each state's in turn; see `RepeatedDraws`.
        """


class VAESampler(VAE, ActionSampler):
    """A conditional variational autoencoder over actions."""

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
        ac_dim: int,
        encoder: ImageEncoding,
    ) -> None:
        super().__init__(
            input_shapes={"action": (ac_dim,)},
            output_dims={"action": ac_dim},
            condition_shapes=obs_shapes,
            goal_shapes={},
            encoding=encoder,
            encoder_layer_dims=encoder_layer_dims,
            decoder_layer_dims=decoder_layer_dims,
            latent_dim=latent_dim,
            latent_clip=latent_clip,
            kl_weight=kl_weight,
            prior=prior,
            squash=True,
            sum_reconstruction=sum_reconstruction,
        )


class GMMSampler(ActionSampler):
    """A mixture of Gaussians over actions.

    In training, samples are true ones; in evaluation, with `low_noise_eval` of its head, they are
    means of modes.
    """

    def __init__(
        self,
        *,
        actor_layer_dims: list[int],
        head: GMM,
        obs_shapes: Shapes,
        ac_dim: int,
        encoder: ImageEncoding,
    ) -> None:
        super().__init__()
        self.head = head
        outputs = head.output_dims(ac_dim)
        self.actor = ObservationMLP(obs_shapes, actor_layer_dims, outputs, encoder)

    def losses(
        self, x: Obs, obs: Obs, goal: Obs | None, draws: Draws, epoch: int
    ) -> dict[str, Tensor]:
        return self.head.losses(self.actor(obs), x["action"])

    def sample(self, obs: Obs, goal: Obs | None, draws: Draws, times: int) -> dict[str, Tensor]:
        outputs = self.actor(obs)
        rows = {key: value.repeat_interleave(times, dim=0) for key, value in outputs.items()}
        if self.training:
            weights = F.softmax(rows["logits"], dim=-1)
            actions = draws.mixture(weights, *self.head.means_and_stds(rows))
        else:
            actions = self.head.act(rows, draws)
        return {"action": actions.unflatten(0, (-1, times)).transpose(0, 1)}


class RepeatedDraws:
    """For rows that are each repeated `times` times: a row's repetitions share its generator."""

    def __init__(self, draws: Draws, times: int) -> None:
        self.draws = draws
        self.times = times

    def randn(self, shape: Sequence[int]) -> Tensor:
        return self.draws.randn(self._rows(shape)).flatten(0, 1)

    def rand(self, shape: Sequence[int]) -> Tensor:
        return self.draws.rand(self._rows(shape)).flatten(0, 1)

    def exponential(self, shape: Sequence[int]) -> Tensor:
        return self.draws.exponential(self._rows(shape)).flatten(0, 1)

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        return self.draws.uniform(low, high, self._rows(shape)).flatten(0, 1)

    def randint(self, low: int, high: int, shape: Sequence[int]) -> Tensor:
        return self.draws.randint(low, high, self._rows(shape)).flatten(0, 1)

    def normal(self, mean: Tensor, std: Tensor | float) -> Tensor:
        return self.draws.normal(*self._apart(mean, std)).flatten(0, 1)

    def categorical(self, probabilities: Tensor) -> Tensor:
        return self.draws.categorical(*self._apart(probabilities)).flatten(0, 1)

    def mixture(self, probabilities: Tensor, means: Tensor, stds: Tensor | float) -> Tensor:
        return self.draws.mixture(*self._apart(probabilities, means, stds)).flatten(0, 1)

    def _apart(self, *values: Tensor | float) -> list[Any]:
        """(B * times, ...) -> (B, times, ...)."""
        return [v.unflatten(0, (-1, self.times)) if isinstance(v, Tensor) else v for v in values]

    def _rows(self, shape: Sequence[int]) -> tuple[int, ...]:
        return (shape[0] // self.times, self.times, *shape[1:])
