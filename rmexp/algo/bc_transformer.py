"""Behavioural cloning with a causal transformer over the last frames (BC-Transformer).

As in robomimic 0.3 and later: the present action is supervised, or on request those of all frames
seen, or the next ones. With a mixture head it is BC-Transformer-GMM.
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
from rmexp.nets.transformer import Activation, Positions, TransformerActor


class BCTransformer(Algo):
    """A transformer that looks at `frame_stack` frames and answers with one action for each.

    Supervised is, of the window's frames t - F + 1 ... t, the last one (action t); with
    `supervise_all_steps` each one with its own action; and with `pred_future_acs` on top of it the
    i-th one with action t + i, so that the first one, which sees the oldest frame alone, stands for
    the present action.
    """

    batch_keys = ("obs", "actions")
    sees_goals = True

    def __init__(
        self,
        *,
        frame_stack: int,
        seq_length: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        positions: Positions,
        activation: Activation,
        embed_dropout: float,
        attention_dropout: float,
        block_dropout: float,
        supervise_all_steps: bool,
        pred_future_acs: bool,
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
        _check_lengths(frame_stack, seq_length, supervise_all_steps, pred_future_acs, spec)
        self.supervise_all_steps = supervise_all_steps
        self.pred_future_acs = pred_future_acs
        self.encoder = encoder
        self.head = head
        self.actor = TransformerActor(
            obs_shapes=spec.obs_shapes,
            goal_shapes=spec.goal_shapes,
            encoding=encoder,
            context_length=frame_stack,
            embed_dim=embed_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            positions=positions,
            activation=activation,
            embed_dropout=embed_dropout,
            attention_dropout=attention_dropout,
            block_dropout=block_dropout,
            output_dims=head.output_dims(spec.ac_dim),
        )
        self.nets["actor"] = self.actor.to(device)
        make = maker(optimizer, spec.total_steps)
        settings = (lr, lr_schedule, l2_regularization, max_grad_norm)
        self.optimizers["actor"] = make(self.actor, *settings)

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """{obs: {k: (B, F - 1 + S, D_k)}, ...} -> {obs: {k: (B, F, D_k)}, actions: (B, F, A)}.

        Without `supervise_all_steps` the actions are (B, 1, A). `goal_obs` {k: (B, D_k)} comes
        along where there are goals.
        """
        context = self.spec.frame_stack
        first = context - 1 if self.pred_future_acs or not self.supervise_all_steps else 0
        last = first + context if self.supervise_all_steps else context
        obs = {k: batch["obs"][k][:, :context].to(self.device) for k in self.spec.obs_shapes}
        ready = {"obs": obs, "actions": batch["actions"][:, first:last].to(self.device)}
        if self.spec.goal_shapes:
            ready["goal_obs"] = {k: v.to(self.device) for k, v in batch["goal_obs"].items()}
        return ready

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs: {k: (B, F, D_k)}, actions: (B, F or 1, A)} -> losses and the gradient's norm."""
        outputs = self.actor(batch["obs"], batch.get("goal_obs"))
        supervised = batch["actions"].shape[1]
        info = self.head.losses(
            {name: value[:, -supervised:] for name, value in outputs.items()}, batch["actions"]
        )

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
        if self.spec.frame_stack == 1:
            obs_dict = {k: v.unsqueeze(1) for k, v in obs_dict.items()}
        present = 0 if self.pred_future_acs else -1
        outputs = self.actor(obs_dict, goal_dict)
        outputs = {name: value[:, present] for name, value in outputs.items()}
        return self.head.act(outputs, draws or self.draws["act"])

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step: the policy stacks the frames."""


def _check_lengths(
    frame_stack: int,
    seq_length: int,
    supervise_all_steps: bool,
    pred_future_acs: bool,
    spec: Spec,
) -> None:
    if (frame_stack, seq_length) != (spec.frame_stack, spec.seq_length):
        raise ConfigError(
            f"algo.frame_stack={frame_stack}, dataset.frame_stack={spec.frame_stack}, "
            f"algo.seq_length={seq_length}, dataset.seq_length={spec.seq_length}: the "
            "transformer's context is the stack of frames; set the lengths under algo alone"
        )
    if pred_future_acs and not supervise_all_steps:
        raise ConfigError(
            "algo.pred_future_acs=true needs algo.supervise_all_steps=true: every step answers "
            "with one of the coming actions"
        )
    if pred_future_acs and seq_length < frame_stack:
        raise ConfigError(
            f"algo.pred_future_acs=true, algo.seq_length={seq_length}: {frame_stack} coming "
            f"actions are supervised; set algo.seq_length={frame_stack}"
        )
