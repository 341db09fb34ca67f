"""From windows of the data set to the transitions that value learning bootstraps from."""

from __future__ import annotations

import torch
from torch import Tensor

from rmexp.algo.base import Batch, Spec
from rmexp.errors import ConfigError, DatasetError


class Transitions:
    """{obs, next_obs: {k: (B, T, D_k)}, actions: (B, T, A), rewards, dones: (B, T)} -> one step.

    The return stops at the first of `n_step` frames that ends the episode; frames that pad a
    window (`pad_mask`, if the batch has one) are not counted.

    Args:
        spec: what the windows look like.
        device: where the result lies.
        n_step: rewards before the bootstrap.
        discount: of one step.
        infinite_horizon: let the last reward go on for ever, times 1 / (1 - discount^n_step).

    Raises:
        ConfigError: the windows are of several frames, or too short for the return.
    """

    def __init__(
        self,
        spec: Spec,
        device: torch.device,
        *,
        n_step: int,
        discount: float,
        infinite_horizon: bool = False,
    ) -> None:
        if spec.frame_stack != 1 or not 1 <= n_step <= spec.seq_length:
            raise ConfigError(
                f"dataset.frame_stack={spec.frame_stack}, dataset.seq_length={spec.seq_length}, "
                f"algo.n_step={n_step}: this algorithm sees one frame, and a window holds the "
                f"n_step frames of a return; set dataset.frame_stack=1 dataset.seq_length={n_step}"
            )
        self.obs_keys = tuple(spec.obs_shapes)
        self.device = device
        self.n_step = n_step
        self.discount = discount
        self.last_factor = 1.0 / (1.0 - discount**n_step) if infinite_horizon else 1.0

    def __call__(self, batch: Batch) -> Batch:
        """As above -> obs and next_obs {k: (B, D_k)}, actions (B, A), rewards and bootstrap (B,).

        `rewards` are those of the whole return, `bootstrap` is the factor of the value of
        `next_obs`: 0 where the episode ended.
        """
        actions, n = batch["actions"], self.n_step
        for name in ("rewards", "dones"):
            if batch[name].shape != actions.shape[:2]:
                raise DatasetError(
                    f"{name} have shape {tuple(batch[name].shape)} beside actions of "
                    f"{tuple(actions.shape)}; needed is one number a frame, "
                    f"{tuple(actions.shape[:2])}"
                )
        rewards, dones = (self._on(batch[name][:, :n]) for name in ("rewards", "dones"))
        if n == 1:
            reward, done = rewards[:, 0], dones[:, 0]
            bootstrap = self.discount * (1.0 - done)
        else:
            reward, done, bootstrap = self._n_steps(rewards, dones, batch.get("pad_mask"))
        if self.last_factor != 1.0:
            reward = reward * (1.0 + (self.last_factor - 1.0) * done)
        return {
            "obs": {k: self._on(batch["obs"][k][:, 0]) for k in self.obs_keys},
            "next_obs": {k: self._on(batch["next_obs"][k][:, n - 1]) for k in self.obs_keys},
            "actions": self._on(actions[:, 0]),
            "rewards": reward,
            "bootstrap": bootstrap,
        }

    def _n_steps(
        self, rewards: Tensor, dones: Tensor, pad_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """rewards, dones (B, n) -> return, whether it ended, factor of the bootstrap: (B,) each."""
        going_on = (1.0 - dones).cumprod(1)
        counted = torch.cat([torch.ones_like(dones[:, :1]), going_on[:, :-1]], 1)
        if pad_mask is not None:
            counted = counted * self._on(pad_mask[:, : self.n_step, 0])
        powers = self.discount ** torch.arange(self.n_step, device=self.device)
        done = (dones * counted).amax(1)
        bootstrap = self.discount ** counted.sum(1) * (1.0 - done)
        return (rewards * counted * powers).sum(1), done, bootstrap

    def _on(self, values: Tensor) -> Tensor:
        """On the device, as float32 unless they are images."""
        if values.dtype == torch.uint8:
            return values.to(self.device)
        return values.to(self.device, torch.float32)
