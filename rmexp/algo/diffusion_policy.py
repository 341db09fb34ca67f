"""Diffusion Policy (Chi et al. 2023, arXiv 2303.04137).

A chunk of actions is drawn from a denoising diffusion process conditioned on the last observations;
its beginning is executed, then the next chunk is drawn.
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
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.noise_schedules import NoiseSchedule


class DiffusionPolicy(Algo):
    """Letters: To, Tp, Ta are `obs_horizon`, `pred_horizon`, `action_horizon`."""

    batch_keys = ("obs", "actions")

    def __init__(
        self,
        *,
        encoder: ImageEncoding,
        backbone: Callable[..., nn.Module],
        noise_schedule: NoiseSchedule,
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
        self.noise_schedule = noise_schedule.to(device)
        self.encoder = encoder
        self.actor = self.chunks.actor(encoder, backbone, "denoiser")
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
        obs, actions, schedule = batch["obs"], batch["actions"], self.noise_schedule
        noise = draws.randn(actions.shape)
        steps = draws.randint(0, schedule.num_train_steps, (len(actions),))

        # x_k ~ q(x_k | x_0): each row of the batch is at a step of its own.
        signal, amount = schedule.signal[steps], schedule.noise[steps]
        x = signal * actions + amount * noise
        if schedule.prediction == "noise":
            target = noise
        elif schedule.prediction == "actions":
            target = actions
        else:
            target = signal * noise - amount * actions

        features = self.actor["encoder"](obs)
        loss = F.mse_loss(self.actor["denoiser"](x, steps, features), target)
        info = {"loss": loss}

        if not validate:
            info |= descend(self.optimizers, {"actor": loss})
            self.ema.update(self.actor)
        return info

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

        for step in self.noise_schedule.inference_steps:
            steps = torch.full((len(x),), step, device=x.device)
            predicted = actor["denoiser"](x, steps, features)
            x = self.noise_schedule.denoise(x, predicted, step, draws)
        return x

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.chunks.queues.forget(envs)
