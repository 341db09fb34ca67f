"""ACT, action chunking with transformers (Zhao et al. 2023, arXiv 2304.13705).

A conditional VAE over chunks of actions, trained by L1 and KL. Acting uses the prior's mean, and
averages what the chunks of the last steps say of the present one (temporal ensembling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.chunks import ActionQueues, TemporalEnsembles
from rmexp.algo.horizons import with_time
from rmexp.algo.optim import Schedule, descend, maker
from rmexp.draws import Draws
from rmexp.errors import ConfigError
from rmexp.nets.action_chunking import ChunkDecoder, Sizes, StyleEncoder
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.mlp import ObservationEncoder


class ACT(Algo):
    """Letters: F is `frame_stack`, H (the chunk) is `seq_length`, z the latent style."""

    batch_keys = ("obs", "actions", "pad_mask")

    def __init__(
        self,
        *,
        encoder: ImageEncoding,
        dim: int,
        num_heads: int,
        feedforward_dim: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        latent_dim: int,
        dropout: float,
        kl_weight: float,
        frame_stack: int,
        seq_length: int,
        action_horizon: int,
        temporal_ensemble: float | None,
        optimizer: Literal["adam", "adamw"],
        lr: float,
        lr_schedule: Schedule,
        l2_regularization: float,
        max_grad_norm: float | None,
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        _check(spec, frame_stack, seq_length, action_horizon, temporal_ensemble)
        self.encoder = encoder
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.action_horizon = action_horizon
        self.queues = ActionQueues()
        self.ensembles = None if temporal_ensemble is None else TemporalEnsembles(temporal_ensemble)

        observations = ObservationEncoder(spec.obs_shapes, encoder)
        sizes = Sizes(
            obs_dim=observations.out_dim,
            ac_dim=spec.ac_dim,
            frames=frame_stack,
            chunk=seq_length,
            dim=dim,
            num_heads=num_heads,
            feedforward_dim=feedforward_dim,
            num_encoder_layers=num_encoder_layers,
            num_decoder_layers=num_decoder_layers,
            latent_dim=latent_dim,
            dropout=dropout,
        )
        networks = {"style": StyleEncoder(sizes), "decoder": ChunkDecoder(sizes)}
        self.actor = nn.ModuleDict({"encoder": observations, **networks}).to(device)
        self.nets["actor"] = self.actor
        make = maker(optimizer, spec.total_steps)
        settings = (lr, lr_schedule, l2_regularization, max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *settings)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows of F - 1 + H frames -> {obs: {k: (B, F, D_k)}, actions: (B, H, A), real: (B, H)}.

        `real` is False where an action only pads its window.
        """
        seen, planned = slice(self.spec.frame_stack), slice(self.spec.frame_stack - 1, None)
        actions = batch["actions"][:, planned].to(self.device)
        if batch.get("pad_mask") is None:
            real = torch.ones(actions.shape[:2], dtype=torch.bool, device=self.device)
        else:
            real = batch["pad_mask"][:, planned, 0].to(self.device).bool()
        obs = {k: batch["obs"][k][:, seen].to(self.device) for k in self.spec.obs_shapes}
        return {"obs": obs, "actions": actions, "real": real}

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, F, D_k)}, actions: (B, H, A), real: (B, H)} -> losses, gradient norm."""
        draws = self.draws["valid" if validate else "train"]
        obs, actions, real = batch["obs"], batch["actions"], batch["real"]

        features = self.actor["encoder"](obs)
        mean, log_variance = self.actor["style"](features, actions, real)
        z = mean + (0.5 * log_variance).exp() * draws.randn(mean.shape)
        predicted = self.actor["decoder"](features, z)

        distance = (predicted - actions).abs().mean(-1)
        l1 = (distance * real).sum() / real.sum()
        kl = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(-1).mean()
        loss = l1 + self.kl_weight * kl
        info = {"loss": loss, "l1_loss": l1, "kl_loss": kl}

        if not validate:
            info |= descend(self.optimizers, {"actor": loss})
        return info

    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        obs = with_time(obs_dict, self.spec.obs_shapes)
        rows = len(next(iter(obs.values())))
        envs = range(rows) if envs is None else envs
        if self.ensembles is not None:
            return self.ensembles.add(envs, self.plan(obs))
        return self.queues.act(envs, lambda _: self.plan(obs)[:, : self.action_horizon])

    @torch.no_grad()
    def plan(self, obs: Mapping[str, Tensor]) -> Tensor:
        """obs {k: (B, F, D_k)} -> chunks (B, H, A), in the style of the prior's mean."""
        features = self.actor["encoder"](obs)
        return self.actor["decoder"](features, features.new_zeros(len(features), self.latent_dim))

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.queues.forget(envs)
        if self.ensembles is not None:
            self.ensembles.forget(envs)


def _check(
    spec: Spec,
    frame_stack: int,
    seq_length: int,
    action_horizon: int,
    temporal_ensemble: float | None,
) -> None:
    if (frame_stack, seq_length) != (spec.frame_stack, spec.seq_length):
        raise ConfigError(
            f"algo.frame_stack={frame_stack}, algo.seq_length={seq_length}, but "
            f"dataset.frame_stack={spec.frame_stack}, dataset.seq_length={spec.seq_length}: they "
            "must agree; set those of algo and leave the others as they are"
        )
    if not 1 <= action_horizon <= seq_length:
        raise ConfigError(
            f"algo.action_horizon={action_horizon}: give 1 to algo.seq_length={seq_length}, "
            "the length of a chunk"
        )
    if temporal_ensemble is not None and action_horizon != 1:
        raise ConfigError(
            f"algo.temporal_ensemble={temporal_ensemble} plans at every step, so "
            f"algo.action_horizon={action_horizon} must be 1; for fewer plans set "
            "algo.temporal_ensemble=null"
        )
