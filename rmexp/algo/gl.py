"""Goal learning: which observation will be seen some steps later (Mandlekar et al. 2020, GTI).

It predicts subgoals (arXiv 2003.06085) and does not act: hierarchical policies contain it as their
planner. The model decides the loss: the expected subgoal (GL) or a VAE over subgoals (GL-VAE).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rmexp.algo.base import Algo, Batch, Spec
from rmexp.algo.optim import Schedule, descend, maker
from rmexp.draws import Draws
from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding
from rmexp.nets.subgoals import SubgoalModel

Obs = Mapping[str, Tensor]


class GL(Algo):
    """A model of the observation that follows after `subgoal_horizon` steps.

    `subgoal_keys` are the observations that make a subgoal; None: all low-dimensional ones.
    """

    batch_keys = ("obs", "future_obs")
    sees_goals = True
    acts = False

    def __init__(
        self,
        *,
        subgoal_horizon: int,
        seq_length: int,
        subgoal_keys: list[str] | None,
        subgoal_model: Callable[..., SubgoalModel],
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
        if not 1 <= subgoal_horizon <= seq_length == spec.seq_length or spec.frame_stack != 1:
            raise ConfigError(
                f"algo.subgoal_horizon={subgoal_horizon}, algo.seq_length={seq_length}, "
                f"dataset.seq_length={spec.seq_length}, dataset.frame_stack={spec.frame_stack}: "
                "windows must reach as far as the subgoal, of one frame a step; set "
                "subgoal_horizon alone (of algo, or of algo.planner where this is the planner), "
                "and dataset.frame_stack=1"
            )
        self.subgoal_horizon = subgoal_horizon
        self.subgoal_shapes = _subgoal_shapes(spec, subgoal_keys)
        self.encoder = encoder
        self.planner = subgoal_model(
            obs_shapes=spec.obs_shapes,
            goal_shapes=spec.goal_shapes,
            subgoal_shapes=self.subgoal_shapes,
            encoder=encoder,
        )
        self.nets["planner"] = self.planner.to(device)
        make = maker(optimizer, spec.total_steps)
        self.optimizers["planner"] = make(
            self.planner, lr, lr_schedule, l2_regularization, max_grad_norm
        )

    def process_batch_for_training(self, batch: Batch) -> Batch:
        """{obs, future_obs: {k: (B, T, D_k)}} -> {obs, subgoal_obs: {k: (B, D_k)}}.

        The subgoal is what is seen `subgoal_horizon` steps after `obs`; `goal_obs` {k: (B, D_k)}
        comes along where there are goals. `next_obs` will do as `future_obs`.
        """
        later = batch.get("future_obs") or batch["next_obs"]
        last = self.subgoal_horizon - 1
        subgoal = {k: later[k][:, last].to(self.device) for k in self.subgoal_shapes}
        obs = {k: batch["obs"][k][:, 0].to(self.device) for k in self.spec.obs_shapes}
        ready = {"obs": obs, "subgoal_obs": subgoal}
        if self.spec.goal_shapes:
            ready["goal_obs"] = {k: v.to(self.device) for k, v in batch["goal_obs"].items()}
        return ready

    def train_on_batch(self, batch: Batch, epoch: int, validate: bool = False) -> dict[str, Tensor]:
        """{obs, subgoal_obs, perhaps goal_obs: {k: (B, D_k)}} -> losses and the gradient's norm."""
        draws = self.draws["valid" if validate else "train"]
        obs, goal, subgoal = batch["obs"], batch.get("goal_obs"), batch["subgoal_obs"]
        info = self.planner.losses(subgoal, obs, goal, draws, epoch)

        if not validate:
            info |= descend(self.optimizers, {"planner": info["loss"]})
        return info

    def get_action(
        self,
        obs_dict: Obs,
        goal_dict: Obs | None = None,
        *,
        draws: Draws | None = None,
        envs: Sequence[int] | None = None,
    ) -> Tensor:
        raise ConfigError("algo=gl predicts subgoals, not actions; algo=hbc acts with them")

    def reset(self, envs: Sequence[int] | None = None) -> None:
        """Nothing is carried from step to step."""


def _subgoal_shapes(spec: Spec, keys: list[str] | None) -> dict[str, tuple[int, ...]]:
    """Sorted, as the reference has them."""
    low_dim = {key: shape for key, shape in spec.obs_shapes.items() if len(shape) == 1}
    chosen = sorted(low_dim if keys is None else keys)
    wrong = [key for key in chosen if key not in low_dim or "." in key]
    if wrong or not chosen:
        raise ConfigError(
            f"algo.subgoal_keys={keys}, dataset.obs_keys={list(spec.obs_shapes)}: a subgoal is "
            "made of low-dimensional observations that are in dataset.obs_keys, without a dot in "
            f"their names; that leaves {', '.join(low_dim) or 'none'}"
            + (f", and {', '.join(wrong)} is not among them" if wrong else "")
        )
    return {key: low_dim[key] for key in chosen}
