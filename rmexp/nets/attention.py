"""Multi-head attention, and numbers as sinusoids (Vaswani et al. 2017).

Attention is for networks with an encoder and a decoder. A sinusoid says where a token stands, or
how far the process of a generative network has come.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError
from rmexp.nets.mlp import Linear

LONGEST_PERIOD = 10_000.0


class Attention(nn.Module):
    """Each query looks at the memory and answers with a mixture of it.

    Args:
        dim: D, width of queries, memory and answers.
        num_heads: it divides `dim`.
        dropout: share of the attention weights dropped while training.
    """

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigError(
                f"algo: a width of {dim} cannot be divided among num_heads={num_heads} heads"
            )
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = Linear(dim, dim)
        self.key = Linear(dim, dim)
        self.value = Linear(dim, dim)
        self.out = Linear(dim, dim)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """queries (B, Q, D), keys and values (B, M, D) -> (B, Q, D).

        `mask` broadcasts to (B, heads, Q, M) and is True where a query may look.
        """
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))


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
