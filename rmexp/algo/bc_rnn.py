"""Behavioural cloning with a recurrent network (BC-RNN, Mandlekar et al. 2021, arXiv 2108.03298).

Every step of a window is supervised, from a zero hidden state; acting therefore starts from zero
again after as many steps. With a mixture head it is the paper's BC-RNN-GMM.
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
from rmexp.nets.recurrent import RecurrentActor, RecurrentMemory


class BCRNN(Algo):
    """A recurrent network that looks at one frame a step and remembers the steps before."""

    batch_keys = ("obs", "actions")
    sees_goals = True

    def __init__(
        self,
        *,
        rnn_type: Literal["lstm", "gru"],
        hidden_dim: int,
        num_layers: int,
        seq_length: int,
        open_loop: bool,
        actor_layer_dims: list[int],
        encoder: ImageEncoding,
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
        if spec.seq_length != seq_length or spec.frame_stack != 1:
            raise ConfigError(
                f"algo.seq_length={seq_length}, dataset.seq_length={spec.seq_length}, "
                f"dataset.frame_stack={spec.frame_stack}: a recurrent policy forgets every "
                "algo.seq_length steps, so it must train on windows of that length, of one frame "
                "a step; set algo.seq_length alone, and dataset.frame_stack=1"
            )
        self.open_loop = open_loop
        self.encoder = encoder
        self.head = head
        self.actor = RecurrentActor(
            obs_shapes=spec.obs_shapes,
            goal_shapes=spec.goal_shapes,
            encoding=encoder,
            rnn_type=rnn_type,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            layer_dims=actor_layer_dims,
            output_dims=head.output_dims(spec.ac_dim),
        )
        self.nets["actor"] = self.actor.to(device)
        self.memory = RecurrentMemory(self.actor, horizon=seq_length, open_loop=open_loop)
        make = maker(optimizer, spec.total_steps)
        settings = (lr, lr_schedule, l2_regularization, max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *settings)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """{obs: {k: (B, T, D_k)}, actions: (B, T, A)}; open-loop obs are T times the first.

        `goal_obs` {k: (B, D_k)} comes along where there are goals.
        """
        obs = {k: batch["obs"][k] for k in self.spec.obs_shapes}
        if self.open_loop:
            obs = {k: v[:, :1].expand_as(v) for k, v in obs.items()}
        ready: Batch = {
            "obs": {k: v.to(self.device) for k, v in obs.items()},
            "actions": batch["actions"].to(self.device),
        }
        if self.spec.goal_shapes:
            ready["goal_obs"] = {k: v.to(self.device) for k, v in batch["goal_obs"].items()}
        return ready

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, T, D_k)}, actions: (B, T, A)} -> losses and the gradient's norm."""
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
        outputs = self.memory.step(obs_dict, goal_dict, envs)
        return self.head.act(outputs, draws or self.draws["act"])

    def reset(self, envs: Sequence[int] | None = None) -> None:
        self.memory.reset(envs)
