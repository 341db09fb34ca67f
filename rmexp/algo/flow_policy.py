"""A policy by flow matching (Lipman et al. 2023, arXiv 2210.02747; Black et al. 2024 for robots).

A network learns the velocity of straight paths from noise to chunks of demonstrated actions; acting
follows it from noise in a few Euler steps. All else is as in Diffusion Policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.chunks import Chunks
from rmexp.algo.optim import EMA, Schedule, descend, maker
from rmexp.draws import Draws
from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding


class FlowPolicy(Algo):
    """Letters: To, Tp, Ta are `obs_horizon`, `pred_horizon`, `action_horizon`."""

    batch_keys = ("obs", "actions")

    def __init__(
        self,
        *,
        encoder: ImageEncoding,
        backbone: Callable[..., nn.Module],
        time_distribution: Literal["uniform", "logit_normal"],
        logit_mean: float,
        logit_std: float,
        time_scale: float,
        num_inference_steps: int,
        obs_horizon: int,
        pred_horizon: int,
        action_horizon: int,
        frame_stack: int,
        seq_length: int,
        ema_power: float,
        ema_max_decay: float,
        optimizer: Literal["adam", "adamw"],
        lr: float,
        lr_schedule: Schedule,
        l2_regularization: float,
        max_grad_norm: float | None,
        spec: Spec,
        device: torch.device,
    ) -> None:
        super().__init__(spec, device)
        horizons = (obs_horizon, pred_horizon, action_horizon)
        self.chunks = Chunks(
            spec, device, horizons=horizons, frame_stack=frame_stack, seq_length=seq_length
        )
        if num_inference_steps < 1:
            raise ConfigError(f"algo.num_inference_steps={num_inference_steps}: give 1 or more")
        self.time_distribution = time_distribution
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.time_scale, self.num_inference_steps = time_scale, num_inference_steps
        self.encoder = encoder
        self.actor = self.chunks.actor(encoder, backbone, "velocity")
        self.ema = EMA(self.actor, power=ema_power, max_decay=ema_max_decay)
        self.nets["actor"] = self.actor
        self.nets["actor_ema"] = self.ema
        make = maker(optimizer, spec.total_steps)
        settings = (lr, lr_schedule, l2_regularization, max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *settings)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows of T frames -> {obs: {k: (B, To, D_k)}, actions: (B, Tp, A)}."""
        return self.chunks.cut(batch)

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, To, D_k)}, actions: (B, Tp, A)} -> loss and the gradient's norm."""
        draws = self.draws["valid" if validate else "train"]
        obs, actions = batch["obs"], batch["actions"]
        noise = draws.randn(actions.shape)
        time = self.draw_times(draws, len(actions))

        t = time[:, None, None]
        x = (1.0 - t) * noise + t * actions
        features = self.actor["encoder"](obs)
        velocity = self.actor["velocity"](x, self.time_scale * time, features)
        loss = F.mse_loss(velocity, actions - noise)
        info = {"loss": loss}

        if not validate:
            info |= descend(self.optimizers, {"actor": loss})
            self.ema.update(self.actor)
        return info

    def draw_times(self, draws: Draws, count: int) -> Tensor:
        """Times in (0, 1), (count,); logit-normal as in Esser et al. 2024 (arXiv 2403.03206)."""
        if self.time_distribution == "uniform":
            return draws.rand((count,))
        return torch.sigmoid(self.logit_mean + self.logit_std * draws.randn((count,)))

    def get_action(
        self,
        obs_dict: Mapping[str, Tensor],
        goal_dict: Mapping[str, Tensor] | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        return self.chunks.act(obs_dict, envs, draws or self.draws["act"], self.sample)

    @torch.no_grad()
    def sample(self, obs: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """obs {k: (B, To, D_k)} -> plans (B, Tp, A), with the averaged weights."""
        actor = self.ema.average
        assert isinstance(actor, nn.ModuleDict)
        features = actor["encoder"](obs)
        x = draws.randn((len(features), self.chunks.planned, self.spec.ac_dim))

        for step in range(self.num_inference_steps):
            time = torch.full((len(x),), step / self.num_inference_steps, device=x.device)
            velocity = actor["velocity"](x, self.time_scale * time, features)
            x = x + velocity / self.num_inference_steps
        return x

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.chunks.queues.forget(envs)
