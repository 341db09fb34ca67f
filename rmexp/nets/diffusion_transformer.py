"""A transformer over a chunk of actions that looks at the step and the observations.

The architecture is the time-series diffusion transformer of Chi et al. 2023 (arXiv 2303.04137):
noisy actions are the decoder's tokens, step and observations its memory; an action looks at no
action and no observation later than itself.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rmexp.nets.attention import Attention, Sinusoid
from rmexp.nets.mlp import Linear

INIT_STD = 0.02


class DiffusionTransformer(nn.Module):
    """Noisy actions, step and observations -> the network's answer, of the actions' shape.

    Args:
        dim: width of a token.
        num_layers: decoder blocks.
        num_heads: heads of each attention.
        embed_dropout: dropped from the tokens.
        dropout: dropped inside the blocks.
        causal: an action looks at nothing later than itself.
        ac_dim: A.
        obs_dim: E, width of one frame's features.
        obs_horizon: To, frames of observations.
        pred_horizon: Tp, length of the chunk.
    """

    self_mask: Tensor
    memory_mask: Tensor

    def __init__(
        self,
        *,
        dim: int,
        num_layers: int,
        num_heads: int,
        embed_dropout: float,
        dropout: float,
        causal: bool,
        ac_dim: int,
        obs_dim: int,
        obs_horizon: int,
        pred_horizon: int,
    ) -> None:
        super().__init__()
        self.actions = Linear(ac_dim, dim)
        self.action_positions = nn.Parameter(torch.empty(pred_horizon, dim))
        self.step = Sinusoid(dim)
        self.observations = Linear(obs_dim, dim)
        self.memory_positions = nn.Parameter(torch.empty(1 + obs_horizon, dim))
        self.memory = nn.Sequential(Linear(dim, 4 * dim), nn.Mish(), Linear(4 * dim, dim))
        self.dropout = nn.Dropout(embed_dropout)
        self.blocks = nn.ModuleList(
            DecoderBlock(dim, num_heads, dropout) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.out = Linear(dim, ac_dim)

        # The step stands before all observations, and everyone may look at it.
        times = torch.arange(pred_horizon)[:, None]
        memory_times = torch.arange(1 + obs_horizon) - 1
        everything = torch.ones(pred_horizon, max(pred_horizon, 1 + obs_horizon), dtype=torch.bool)
        self_mask = times >= times.T if causal else everything[:, :pred_horizon]
        memory_mask = times >= memory_times if causal else everything[:, : 1 + obs_horizon]
        self.register_buffer("self_mask", self_mask, persistent=False)
        self.register_buffer("memory_mask", memory_mask, persistent=False)
        self._initialise()

    def forward(self, noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        """noisy (B, Tp, A), steps (B,), features (B, To, E) -> (B, Tp, A)."""
        memory = torch.cat([self.step(steps).unsqueeze(1), self.observations(features)], dim=1)
        memory = self.memory(self.dropout(memory + self.memory_positions))

        x = self.dropout(self.actions(noisy) + self.action_positions)
        for block in self.blocks:
            x = block(x, memory, self.self_mask, self.memory_mask)
        return self.out(self.norm(x))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.action_positions, std=INIT_STD)
        nn.init.normal_(self.memory_positions, std=INIT_STD)


class DecoderBlock(nn.Module):
    """Self-attention, a look at the memory, and a network, each normalised before (pre-LN)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.self_attention = Attention(dim, num_heads, dropout)
        self.memory_attention = Attention(dim, num_heads, dropout)
        self.mlp = nn.Sequential(
            Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), Linear(4 * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, self_mask: Tensor, memory_mask: Tensor) -> Tensor:
        """x (B, T, D), memory (B, M, D) -> (B, T, D)."""
        y = self.norms[0](x)
        x = x + self.dropout(self.self_attention(y, y, y, self_mask))
        y = self.norms[1](x)
        x = x + self.dropout(self.memory_attention(y, memory, memory, memory_mask))
        return x + self.dropout(self.mlp(self.norms[2](x)))
