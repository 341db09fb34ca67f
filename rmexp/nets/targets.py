"""Target networks: slowly moving copies that are always in evaluation mode and never trained.

Buffers are copied as well as parameters: a target with the batch statistics of its first day
would judge with a normalisation that its source has long left.
"""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


class Target(nn.Module, Generic[M]):
    """A copy of `source`; `net` is called."""

    net: M

    def __init__(self, source: M) -> None:
        super().__init__()
        self.net = copy.deepcopy(source).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Target[M]:
        """It stays in evaluation mode whatever `mode` says."""
        return super().train(False)


@torch.no_grad()
def polyak_update(source: M, target: Target[M], tau: float) -> None:
    """target <- (1 - tau) target + tau source; buffers are copied."""
    ours: list[Tensor] = list(target.net.parameters())
    torch._foreach_lerp_(ours, list(source.parameters()), tau)  # pyright: ignore
    for old, new in zip(target.net.buffers(), source.buffers(), strict=True):
        old.copy_(new)
