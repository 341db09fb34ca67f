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
from rmexp.algo.chunks import ActionQueues
from rmexp.algo.ema import EMA
from rmexp.algo.horizons import check_horizons, with_time
from rmexp.algo.optim import Optimizer, Schedule
from rmexp.draws import Draws, PartialDraws
from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding, ObservationEncoder


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
        check_horizons(
            spec,
            obs_horizon=obs_horizon,
            pred_horizon=pred_horizon,
            action_horizon=action_horizon,
            frame_stack=frame_stack,
            seq_length=seq_length,
        )
        if num_inference_steps < 1:
            raise ConfigError(f"algo.num_inference_steps={num_inference_steps}: give 1 or more")
        self.time_distribution = time_distribution
        self.logit_mean = logit_mean
        self.logit_std = logit_std
        self.time_scale = time_scale
        self.num_inference_steps = num_inference_steps
        self.obs_horizon = obs_horizon
        self.pred_horizon = pred_horizon
        self.action_horizon = action_horizon
        self.queues = ActionQueues()

        self.encoder = encoder
        observations = ObservationEncoder(spec.obs_shapes, encoder)
        velocity = backbone(
            ac_dim=spec.ac_dim,
            obs_dim=observations.out_dim,
            obs_horizon=obs_horizon,
            pred_horizon=pred_horizon,
        )
        self.actor = nn.ModuleDict({"encoder": observations, "velocity": velocity}).to(device)
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
        time = self.draw_times(draws, len(actions))

        t = time[:, None, None]
        x = (1.0 - t) * noise + t * actions
        features = self.actor["encoder"](obs)
        velocity = self.actor["velocity"](x, self.time_scale * time, features)
        loss = F.mse_loss(velocity, actions - noise)
        info = {"loss": loss}

        if not validate:
            info["actor_grad_norm"] = self.optimizers["actor"].step(loss)
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

        for step in range(self.num_inference_steps):
            time = torch.full((len(x),), step / self.num_inference_steps, device=x.device)
            velocity = actor["velocity"](x, self.time_scale * time, features)
            x = x + velocity / self.num_inference_steps
        return x

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.queues.forget(envs)
