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
from rmexp.algo.chunks import ActionQueues
from rmexp.algo.ema import EMA
from rmexp.algo.horizons import check_horizons, with_time
from rmexp.algo.optim import Optimizer, Schedule
from rmexp.draws import Draws, PartialDraws
from rmexp.nets.encoders import ImageEncoding, ObservationEncoder
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
        check_horizons(
            spec,
            obs_horizon=obs_horizon,
            pred_horizon=pred_horizon,
            action_horizon=action_horizon,
            frame_stack=frame_stack,
            seq_length=seq_length,
        )
        self.obs_horizon = obs_horizon
        self.pred_horizon = pred_horizon
        self.action_horizon = action_horizon
        self.noise_schedule = noise_schedule.to(device)
        self.queues = ActionQueues()

        self.encoder = encoder
        observations = ObservationEncoder(spec.obs_shapes, encoder)
        denoiser = backbone(
            ac_dim=spec.ac_dim,
            obs_dim=observations.out_dim,
            obs_horizon=obs_horizon,
            pred_horizon=pred_horizon,
        )
        self.actor = nn.ModuleDict({"encoder": observations, "denoiser": denoiser}).to(device)
        self.ema = EMA(self.actor, power=ema_power, max_decay=ema_max_decay)
        self.nets["actor"] = self.actor
        self.nets["actor_ema"] = self.ema
        self.optimizers["actor"] = Optimizer(
            self.actor.parameters(),
            name=optimizer,
            lr=lr,
            l2_regularization=l2_regularization,
            max_grad_norm=max_grad_norm,
            schedule=lr_schedule,
            total_steps=spec.total_steps,
        )

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """Windows of T frames -> {obs: {k: (B, To, D_k)}, actions: (B, Tp, A)}."""
        observed, planned = slice(self.obs_horizon), slice(self.pred_horizon)
        obs = {k: batch["obs"][k][:, observed].to(self.device) for k in self.spec.obs_shapes}
        return {"obs": obs, "actions": batch["actions"][:, planned].to(self.device)}

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, To, D_k)}, actions: (B, Tp, A)} -> loss and the gradient's norm."""
        draws = self.draws["valid" if validate else "train"]
        obs = self.encoder.augment(batch["obs"], None if validate else draws)
        actions = batch["actions"]
        noise = draws.randn(actions.shape)
        steps = draws.randint(0, self.noise_schedule.num_train_steps, (len(actions),))

        noisy, target = self.noise_schedule.corrupt(actions, noise, steps)
        features = self.actor["encoder"](obs)
        loss = F.mse_loss(self.actor["denoiser"](noisy, steps, features), target)
        info = {"loss": loss}

        if not validate:
            info["actor_grad_norm"] = self.optimizers["actor"].step(loss)
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
        obs = with_time(obs_dict, self.spec.obs_shapes)
        rows = len(next(iter(obs.values())))
        envs = range(rows) if envs is None else envs
        if due := self.queues.empty(envs):
            source = PartialDraws(draws or self.draws["act"], due, self.device)
            present = self.obs_horizon - 1
            plans = self.sample(obs, source)[:, present : present + self.action_horizon]
            self.queues.fill(envs, due, plans)
        return self.queues.take(envs)

    @torch.no_grad()
    def sample(self, obs: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """obs {k: (B, To, D_k)} -> plans (B, Tp, A), with the averaged weights."""
        actor = self.ema.average
        assert isinstance(actor, nn.ModuleDict)
        features = actor["encoder"](obs)
        x = draws.randn((len(features), self.pred_horizon, self.spec.ac_dim))

        for step in self.noise_schedule.inference_steps:
            steps = torch.full((len(x),), step, device=x.device)
            predicted = actor["denoiser"](x, steps, features)
            x = self.noise_schedule.denoise(x, predicted, step, draws)
        return x

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.queues.forget(envs)
