"""Observations followed by goals, as one feature vector.

Both are encoded by networks of their own and in the order of the reference: sorted observation
keys, then sorted goal keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rmexp.nets.encoders import ImageEncoding, ObservationEncoder, Shape


class GoalEncoder(nn.Module):
    """obs {key: (..., D_key)}, goal {key: (B, D_key)} -> (..., out_dim); (...) is (B,) or (B, T).

    Without goal shapes it is an observation encoder, and goals given to it are ignored.
    """

    def __init__(
        self,
        obs_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
    ) -> None:
        super().__init__()
        self.obs = ObservationEncoder(obs_shapes, encoding)
        self.goal = ObservationEncoder(goal_shapes, encoding) if goal_shapes else None
        self.out_dim = self.obs.out_dim + (self.goal.out_dim if self.goal is not None else 0)

    def forward(self, obs: Mapping[str, Tensor], goal: Mapping[str, Tensor] | None) -> Tensor:
        features = self.obs(obs)
        if self.goal is None:
            return features
        assert goal is not None, "this network was built with goals and called without"
        aim = self.goal(goal)
        if aim.dim() < features.dim():  # one goal for all steps of a window
            aim = aim.unsqueeze(1).expand(-1, features.shape[1], -1)
        return torch.cat([features, aim], dim=-1)
