"""A GPT-like actor: each step of a window looks at itself and the steps before it.

Pre-normalised blocks as in GPT-2 (Radford et al. 2019), laid out as in the reference: normalised
inputs, no bias in the projections to queries, keys and values, weights of standard deviation 0.02.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError
from rmexp.nets.encoders import ImageEncoding, Shape
from rmexp.nets.mlp import Linear, ObservationEncoder

Activation = Literal["gelu", "geglu"]
Positions = Literal["learned", "table", "sinusoidal"]

INIT_STD = 0.02


class TransformerActor(nn.Module):
    """Observations (and goals) of a window -> {output name: (B, T, width)}."""

    def __init__(
        self,
        *,
        obs_shapes: Mapping[str, Shape],
        goal_shapes: Mapping[str, Shape],
        encoding: ImageEncoding | None,
        context_length: int,
        embed_dim: int,
        num_layers: int,
        num_heads: int,
        positions: Positions,
        activation: Activation,
        embed_dropout: float,
        attention_dropout: float,
        block_dropout: float,
        output_dims: Mapping[str, int],
    ) -> None:
        super().__init__()
        if embed_dim % num_heads or embed_dim % 2:
            raise ConfigError(
                f"algo.embed_dim={embed_dim}, algo.num_heads={num_heads}: the width must be even "
                "and a multiple of the number of heads"
            )
        self.encoder = ObservationEncoder(obs_shapes, encoding, goal_shapes)
        self.embed = Linear(self.encoder.out_dim, embed_dim)
        self.embed_norm = nn.LayerNorm(embed_dim)
        self.embed_dropout = nn.Dropout(embed_dropout)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, activation, attention_dropout, block_dropout)
            for _ in range(num_layers)
        )
        self.output_norm = nn.LayerNorm(embed_dim)
        self.decoder = nn.ModuleDict(
            {name: Linear(embed_dim, width) for name, width in output_dims.items()}
        )
        self.positions = PositionEmbedding(positions, context_length, embed_dim)
        _initialize(self.blocks)

    def forward(
        self, obs: Mapping[str, Tensor], goal: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """obs {k: (B, T, D_k)}, goal {k: (B, D_k)} -> {name: (B, T, width)}."""
        x = self.embed(self.encoder(obs, goal)) + self.positions()
        x = self.embed_dropout(self.embed_norm(x))
        for block in self.blocks:
            x = block(x)
        x = self.output_norm(x)
        return {name: layer(x) for name, layer in self.decoder.items()}


class Block(nn.Module):
    """Causal self-attention, then a layer four times as wide; x: (B, T, D) -> (B, T, D)."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        activation: Activation,
        attention_dropout: float,
        output_dropout: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.gated = activation == "geglu"
        self.attention_dropout = attention_dropout
        self.qkv = Linear(dim, 3 * dim, bias=False)
        self.attended = Linear(dim, dim)
        self.wide = Linear(dim, 4 * dim * (2 if self.gated else 1))
        self.narrow = Linear(4 * dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.wide_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(output_dropout)

    def forward(self, x: Tensor) -> Tensor:
        qkv_BHTD = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1)
        )
        dropout = self.attention_dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*qkv_BHTD, dropout_p=dropout, is_causal=True)
        x = x + self.dropout(self.attended(mixed.transpose(1, 2).flatten(2)))

        wide = self.wide(self.wide_norm(x))
        if self.gated:  # Shazeer 2020, arXiv 2002.05202
            values, gates = wide.chunk(2, dim=-1)
            wide = values * F.gelu(gates)
        else:
            wide = F.gelu(wide)
        return x + self.dropout(self.narrow(wide))


class PositionEmbedding(nn.Module):
    """What is added to the steps of a window: (T, D) or (1, T, D).

    `learned` starts at zero, `table` at a standard normal, `sinusoidal` is fixed (Vaswani et al.
    2017).
    """

    def __init__(self, kind: Positions, length: int, dim: int) -> None:
        super().__init__()
        if kind == "sinusoidal":
            self.register_buffer("weight", sinusoids(length, dim), persistent=False)
        else:
            start = torch.zeros(1, length, dim) if kind == "learned" else torch.randn(length, dim)
            self.weight = nn.Parameter(start)

    def forward(self) -> Tensor:
        return self.weight


def sinusoids(length: int, dim: int) -> Tensor:
    """(T, D): sines in the even columns, cosines in the odd ones, wavelengths up to 20000 pi."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _initialize(blocks: nn.Module) -> None:
    """Layer normalisation starts where torch starts it."""
    for name, parameter in blocks.named_parameters():
        if name.endswith("norm.weight"):
            continue
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.normal_(parameter, std=INIT_STD)
