"""A one-dimensional U-Net over the time axis of a chunk of actions.

The architecture is that of Chi et al. 2023 (arXiv 2303.04137): convolutions along time, each block
modulated by the step of the process and the observations (FiLM, Perez et al. 2018). The parameters
are registered in the order of the authors' published network, so that weights can be exchanged.
"""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError
from rmexp.nets.attention import Sinusoid

FINAL_GROUPS = 8
"""Of the last block, whatever `n_groups` is: as in the authors' network."""


class UNet(nn.Module):
    """Noisy actions, step and observations -> the network's answer, of the actions' shape.

    Args:
        down_dims: channels at each level; every level halves the time axis.
        kernel_size: of the convolutions along time, odd.
        n_groups: groups of the group normalisation.
        step_embed_dim: width of the step's embedding.
        ac_dim: A.
        obs_dim: E, width of one frame's features.
        obs_horizon: To, frames of observations.
        pred_horizon: Tp, length of the chunk.
    """

    def __init__(
        self,
        *,
        down_dims: list[int],
        kernel_size: int,
        n_groups: int,
        step_embed_dim: int,
        ac_dim: int,
        obs_dim: int,
        obs_horizon: int,
        pred_horizon: int,
    ) -> None:
        super().__init__()
        _check(down_dims, kernel_size, n_groups, pred_horizon)
        cond_dim = step_embed_dim + obs_horizon * obs_dim
        first, last = down_dims[0], down_dims[-1]

        def residual(in_dim: int, out_dim: int) -> ResidualBlock:
            return ResidualBlock(in_dim, out_dim, cond_dim, kernel_size, n_groups)

        self.mid_modules = nn.ModuleList([residual(last, last), residual(last, last)])
        self.diffusion_step_encoder = nn.Sequential(
            Sinusoid(step_embed_dim),
            nn.Linear(step_embed_dim, 4 * step_embed_dim),
            nn.Mish(),
            nn.Linear(4 * step_embed_dim, step_embed_dim),
        )
        self.up_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    residual(2 * b, a),
                    residual(a, a),
                    nn.ConvTranspose1d(a, a, 4, stride=2, padding=1),
                ]
            )
            for a, b in reversed(list(pairwise(down_dims)))
        )
        self.down_modules = nn.ModuleList(
            nn.ModuleList(
                [
                    residual(a, b),
                    residual(b, b),
                    nn.Identity() if level == len(down_dims) - 1 else _halving(b),
                ]
            )
            for level, (a, b) in enumerate(pairwise([ac_dim, *down_dims]))
        )
        self.final_conv = nn.Sequential(
            _conv_block(first, first, kernel_size, FINAL_GROUPS), nn.Conv1d(first, ac_dim, 1)
        )

    def forward(self, noisy: Tensor, steps: Tensor, features: Tensor) -> Tensor:
        """noisy (B, Tp, A), steps (B,), features (B, To, E) -> (B, Tp, A)."""
        cond = torch.cat([self.diffusion_step_encoder(steps), features.flatten(1)], dim=-1)
        # In double precision, as its width may be odd: see `rmexp.nets.heads.Head.act`.
        cond = F.mish(cond.double()).to(noisy.dtype)
        x = noisy.transpose(1, 2)

        skipped: list[Tensor] = []
        for level in self.down_modules:
            first, second, halve = cast("nn.ModuleList", level)
            x = second(first(x, cond), cond)
            skipped.append(x)
            x = halve(x)

        for block in self.mid_modules:
            x = block(x, cond)

        for level in self.up_modules:
            first, second, double = cast("nn.ModuleList", level)
            x = torch.cat([x, skipped.pop()], dim=1)
            x = double(second(first(x, cond), cond))
        block, last = self.final_conv
        x = block(x)
        if self.training:
            return last(x).transpose(1, 2)
        # A float convolution of few channels rounds differently from row to row of the batch.
        last = cast("nn.Conv1d", last)
        bias = cast("Tensor", last.bias)
        exact = F.conv1d(x.double(), last.weight.double(), bias.double())
        return exact.to(x.dtype).transpose(1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions with a skip; the condition scales and shifts between them."""

    def __init__(
        self, in_dim: int, out_dim: int, cond_dim: int, kernel_size: int, n_groups: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                _conv_block(in_dim, out_dim, kernel_size, n_groups),
                _conv_block(out_dim, out_dim, kernel_size, n_groups),
            ]
        )
        self.cond_encoder = nn.Linear(cond_dim, 2 * out_dim)
        self.residual_conv = nn.Identity() if in_dim == out_dim else nn.Conv1d(in_dim, out_dim, 1)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x (B, in_dim, T), cond (B, cond_dim) after its activation -> (B, out_dim, T)."""
        scale, shift = self.cond_encoder(cond).unsqueeze(-1).chunk(2, dim=1)
        hidden = scale * self.blocks[0](x) + shift
        return self.blocks[1](hidden) + self.residual_conv(x)


def _conv_block(in_dim: int, out_dim: int, kernel_size: int, n_groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(in_dim, out_dim, kernel_size, padding=kernel_size // 2),
        nn.GroupNorm(n_groups, out_dim),
        nn.Mish(),
    )


def _halving(dim: int) -> nn.Conv1d:
    return nn.Conv1d(dim, dim, 3, stride=2, padding=1)


def _check(down_dims: list[int], kernel_size: int, n_groups: int, pred_horizon: int) -> None:
    factor = 2 ** (len(down_dims) - 1)
    if not down_dims or pred_horizon % factor:
        raise ConfigError(
            f"algo.backbone.down_dims={down_dims} halves the time axis {len(down_dims) - 1} times, "
            f"so algo.pred_horizon={pred_horizon} must be a multiple of {factor}"
        )
    if down_dims[0] % FINAL_GROUPS:
        raise ConfigError(
            f"algo.backbone.down_dims: the first, {down_dims[0]}, must be a multiple of "
            f"{FINAL_GROUPS}, the groups of the last block"
        )
    if odd := [dim for dim in down_dims if dim % n_groups]:
        raise ConfigError(
            f"algo.backbone.down_dims: {odd} cannot be divided into "
            f"algo.backbone.n_groups={n_groups} groups"
        )
    if kernel_size % 2 == 0:
        raise ConfigError(
            f"algo.backbone.kernel_size={kernel_size}: it must be odd to keep the length"
        )
