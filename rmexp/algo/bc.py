"""Behavioural cloning: supervised regression from observations to actions (Pomerleau 1989).

The action head decides the loss: L2/L1/cosine for a deterministic policy, negative log-likelihood
for a Gaussian or a mixture, as studied by Mandlekar et al. 2021 (arXiv 2108.03298).
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
from rmexp.nets.heads import Head
from rmexp.nets.mlp import ObservationMLP


class BC(Algo):
    """A multi-layer perceptron that looks at one frame and answers with one action."""

    batch_keys = ("obs", "actions")
    sees_goals = True

    def __init__(
        self,
        *,
        encoder: ImageEncoding,
        actor_layer_dims: list[int],
        head: Head,
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
                "behavioural cloning with an MLP sees one frame and answers with one action; "
                "set both to 1"
            )
        self.encoder = encoder
        self.head = head
        self.actor = ObservationMLP(
            spec.obs_shapes,
            actor_layer_dims,
            head.output_dims(spec.ac_dim),
            encoder,
            goal_shapes=spec.goal_shapes,
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
        outputs = self.actor(batch["obs"], batch.get("goal_obs"))
        info = self.head.losses(outputs, batch["actions"])

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
        return self.head.act(self.actor(obs_dict, goal_dict), draws or self.draws["act"])

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""
