"""The networks of action chunking with transformers (Zhao et al. 2023, arXiv 2304.13705).

A transformer encoder compresses a demonstrated chunk into a latent "style"; another mixes it with
the observations, and a decoder answers with the whole chunk at once. Layers normalise after adding
(post-LN), and positions are added to the queries and keys of every layer, as in DETR (Carion et al.
2020), on which the authors built. Legend: F observed frames, E features of a frame, H length of a
chunk, Z latent, D width of a token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rmexp.nets.attention import Attention, Sinusoid
from rmexp.nets.mlp import Linear


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of both networks; the YAML explains those that can be chosen."""

    obs_dim: int
    ac_dim: int
    frames: int
    chunk: int
    dim: int
    num_heads: int
    feedforward_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    latent_dim: int
    dropout: float


class EncoderLayer(nn.Module):
    """Self-attention and a network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attention = Attention(sizes.dim, sizes.num_heads, sizes.dropout)
        self.mlp = _feedforward(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.dim) for _ in range(2))
        self.dropout = nn.Dropout(sizes.dropout)
        _initialise(self)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """x (B, T, D), positions (T, D), mask (B, 1, 1, T) -> (B, T, D)."""
        placed = x + positions
        x = self.norms[0](x + self.dropout(self.attention(placed, placed, x, mask)))
        return self.norms[1](x + self.dropout(self.mlp(x)))


class DecoderLayer(nn.Module):
    """Self-attention, a look at the memory, and a network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attention = Attention(sizes.dim, sizes.num_heads, sizes.dropout)
        self.memory_attention = Attention(sizes.dim, sizes.num_heads, sizes.dropout)
        self.mlp = _feedforward(sizes)
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.dim) for _ in range(3))
        self.dropout = nn.Dropout(sizes.dropout)
        _initialise(self)

    def forward(
        self, x: Tensor, positions: Tensor, memory: Tensor, memory_positions: Tensor
    ) -> Tensor:
        """x (B, T, D), memory (B, M, D), their positions without B -> (B, T, D)."""
        placed = x + positions
        x = self.norms[0](x + self.dropout(self.self_attention(placed, placed, x)))
        seen = self.memory_attention(x + positions, memory + memory_positions, memory)
        x = self.norms[1](x + self.dropout(seen))
        return self.norms[2](x + self.dropout(self.mlp(x)))


class StyleEncoder(nn.Module):
    """q(z | observations, chunk), used in training alone."""

    positions: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.summary = nn.Parameter(torch.randn(1, sizes.dim))
        self.observations = Linear(sizes.obs_dim, sizes.dim)
        self.actions = Linear(sizes.ac_dim, sizes.dim)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.num_encoder_layers))
        self.latent = Linear(sizes.dim, 2 * sizes.latent_dim)
        positions = Sinusoid(sizes.dim)(torch.arange(1 + sizes.frames + sizes.chunk))
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, features: Tensor, actions: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """features (B, F, E), actions (B, H, A), real (B, H) -> mean and log variance, (B, Z) each.

        `real` is False where an action only pads its window.
        """
        summary = self.summary.expand(len(actions), -1, -1)
        x = torch.cat([summary, self.observations(features), self.actions(actions)], dim=1)
        always = real.new_ones((len(x), x.shape[1] - real.shape[1]))
        mask = torch.cat([always, real], dim=1)[:, None, None]

        for layer in self.layers:
            x = layer(x, self.positions, mask)
        mean, log_variance = self.latent(x[:, 0]).chunk(2, dim=-1)
        return mean, log_variance


class ChunkDecoder(nn.Module):
    """Observations and style -> a chunk of actions."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.latent = Linear(sizes.latent_dim, sizes.dim)
        self.observations = Linear(sizes.obs_dim, sizes.dim)
        self.memory_positions = nn.Parameter(torch.randn(1 + sizes.frames, sizes.dim))
        self.encoder = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.num_encoder_layers))
        self.queries = nn.Parameter(torch.randn(sizes.chunk, sizes.dim))
        self.decoder = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.num_decoder_layers))
        self.norm = nn.LayerNorm(sizes.dim)
        self.out = Linear(sizes.dim, sizes.ac_dim)

    def forward(self, features: Tensor, latent: Tensor) -> Tensor:
        """features (B, F, E), latent (B, Z) -> (B, H, A)."""
        memory = torch.cat([self.latent(latent)[:, None], self.observations(features)], dim=1)
        for layer in self.encoder:
            memory = layer(memory, self.memory_positions, None)

        x = torch.zeros_like(self.queries).expand(len(features), -1, -1)
        for layer in self.decoder:
            x = layer(x, self.queries, memory, self.memory_positions)
        return self.out(self.norm(x))


def _feedforward(sizes: Sizes) -> nn.Sequential:
    return nn.Sequential(
        Linear(sizes.dim, sizes.feedforward_dim),
        nn.ReLU(),
        nn.Dropout(sizes.dropout),
        Linear(sizes.feedforward_dim, sizes.dim),
    )


def _initialise(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
