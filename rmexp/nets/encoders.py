"""From a dictionary of observations to one feature vector.

Low-dimensional keys are concatenated in sorted order, as in the reference, so that weights can be
exchanged with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn

from rmexp.errors import ConfigError


class ObservationEncoder(nn.Module):
    """{key: (..., D_key)} -> (..., out_dim)."""

    def __init__(self, obs_shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        images = sorted(key for key, shape in obs_shapes.items() if len(shape) == 3)
        if images:
            raise ConfigError(
                f"dataset.obs_keys: {', '.join(images)} are images, and this algorithm reads only "
                "low-dimensional observations; leave them out of dataset.obs_keys"
            )
        self.keys = sorted(obs_shapes)
        self.out_dim = sum(prod(obs_shapes[key]) for key in self.keys)

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([obs[key] for key in self.keys], dim=-1)
