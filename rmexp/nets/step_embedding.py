"""Where in its process a generative network stands, as a vector (Vaswani et al. 2017)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rmexp.errors import ConfigError

LONGEST_PERIOD = 10_000.0


class Sinusoid(nn.Module):
    """(...) numbers -> (..., dim): half sines, half cosines, of geometrically falling frequency."""

    frequencies: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        if dim % 2 or half < 2:
            raise ConfigError(f"algo.backbone: an embedding of {dim} is not an even number above 3")
        exponents = torch.arange(half) * -(math.log(LONGEST_PERIOD) / (half - 1))
        self.register_buffer("frequencies", exponents.exp(), persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        # In double precision: see `rmexp.nets.heads.Head.act`.
        angles = (positions.float().unsqueeze(-1) * self.frequencies).double()
        return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


class StepEmbedding(nn.Sequential):
    """(B,) steps or times -> (B, dim), a sinusoid and a small network."""

    def __init__(self, dim: int) -> None:
        super().__init__(Sinusoid(dim), nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))
