"""A stack of linear layers with a ReLU after each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from rmexp.errors import require


class MLP(nn.Module):
    """`in_dim` -> `layer_dims[-1]`."""

    def __init__(self, in_dim: int, layer_dims: Sequence[int]) -> None:
        super().__init__()
        allowed = "a list of widths, each at least 1"
        require(all(width >= 1 for width in layer_dims), "layer_dims", list(layer_dims), allowed)
        widths = [in_dim, *layer_dims]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out_dim = widths[-1]

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_dim) -> (..., out_dim)."""
        for layer in self.layers:
            x = layer(x).relu_()
        return x
