"""Weights and images by a formula: what other implementations make of them can be stored."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def fill(parameters: Iterable[Tensor]) -> None:
    """Weights of parameter i: sin(1.7 k + i), scaled to keep activations as large as they are."""
    with torch.no_grad():
        for i, parameter in enumerate(parameters):
            n = parameter.numel()
            wave = torch.sin(torch.arange(n, dtype=torch.float64) * 1.7 + i).float()
            wave = wave.view(parameter.shape)
            if parameter.ndim > 1:
                parameter.copy_(wave * 2 * math.sqrt(len(parameter) / n))
            else:
                parameter.copy_(0.5 + 0.5 * wave)


def images(*shape: int) -> Tensor:
    """Values in [0, 1]: 0.5 + 0.5 sin(0.37 k^2)."""
    k = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(k.square() * 0.37).float().view(shape) * 0.5 + 0.5
