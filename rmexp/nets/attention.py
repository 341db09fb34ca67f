"""Multi-head attention (Vaswani et al. 2017), for networks with an encoder and a decoder."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError


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
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

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
