"""Behavioural cloning with a conditional variational autoencoder over actions (BC-VAE).

Trained on the evidence lower bound with a weight on its divergence (Kingma & Welling 2014, Higgins
et al. 2017); acting decodes a latent drawn from the prior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import Schedule, descend, maker
from rmexp.draws import Draws
from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.vae import VAE, NormalPrior, Prior


class BCVAE(Algo):
    """A generative model of actions that looks at one frame and answers with one action."""

    batch_keys = ("obs", "actions")
    sees_goals = True

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
        encoder: ImageEncoding,
        optimizer: Literal["adam", "adamw"],
        lr: float,
        lr_schedule: Schedule,
        l2_regularization: float,
        max_grad_norm: float | None,
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        if spec.frame_stack != 1 or spec.seq_length != 1:
            raise ConfigError(
                f"dataset.frame_stack={spec.frame_stack}, dataset.seq_length={spec.seq_length}: "
                "behavioural cloning with a VAE sees one frame and answers with one action; "
                "set both to 1"
            )
        self.encoder = encoder
        self.actor = VAE(
            input_shapes={"action": (spec.ac_dim,)},
            output_dims={"action": spec.ac_dim},
            condition_shapes=spec.obs_shapes,
            goal_shapes=spec.goal_shapes,
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
        self.nets["actor"] = self.actor.to(device)
        make = maker(optimizer, spec.total_steps)
        settings = (lr, lr_schedule, l2_regularization, max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *settings)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """{obs: {k: (B, 1, D_k)}, actions: (B, 1, A)} -> the same without the time axis.

        `goal_obs` {k: (B, D_k)} comes along where there are goals.
        """
        obs = {k: batch["obs"][k].select(1, 0).to(self.device) for k in self.spec.obs_shapes}
        ready = {"obs": obs, "actions": batch["actions"].select(1, 0).to(self.device)}
        if self.spec.goal_shapes:
            ready["goal_obs"] = {k: v.to(self.device) for k, v in batch["goal_obs"].items()}
        return ready

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, D_k)}, actions: (B, A)} -> losses and the gradient's norm."""
        draws = self.draws["valid" if validate else "train"]
        obs, goal, x = batch["obs"], batch.get("goal_obs"), {"action": batch["actions"]}
        info = self.actor.losses(x, obs, goal, draws, epoch)

        if not validate:
            info |= descend(self.optimizers, {"actor": info["loss"]})
        return info

    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        return self.actor.sample(obs_dict, goal_dict, draws or self.draws["act"])["action"]

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""
