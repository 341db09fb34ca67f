"""An exponential moving average of a network's weights, with a decay that warms up.

The decay grows as 1 - (1 + n)^-power, up to `max_decay`, where n is 0 for the first two updates and
counts on from there. The count is a buffer, so it lies in the checkpoint beside the weights it
belongs to, and a captured update reads it afresh.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA(nn.Module):
    """`average` follows `net`; it is a network of the same kind, never trained itself.

    Args:
        net: the network that is followed.
        power: 2/3 to 4/5; the larger, the longer the memory.
        max_decay: upper bound of the decay.
    """

    updates: Tensor

    def __init__(self, net: nn.Module, *, power: float, max_decay: float) -> None:
        super().__init__()
        self.power = power
        self.max_decay = max_decay
        self.average = copy.deepcopy(net).requires_grad_(False)
        device = next(net.parameters()).device
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=device))

    @torch.no_grad()
    def update(self, net: nn.Module) -> None:
        """Move towards `net`, whose statistics (buffers) are taken over as they are.

        The first two updates, with a decay of 0, copy its weights as well.
        """
        counted = (self.updates - 1).clamp(min=0).double()
        decay = (1.0 - (1.0 + counted).pow(-self.power)).clamp(max=self.max_decay)
        kept = list(self.average.parameters())
        fresh = torch._foreach_mul(list(net.parameters()), (1.0 - decay).float())  # pyright: ignore
        torch._foreach_mul_(kept, decay.float())  # pyright: ignore
        torch._foreach_add_(kept, fresh)  # pyright: ignore
        for mine, theirs in zip(self.average.buffers(), net.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
