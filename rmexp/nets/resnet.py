"""ResNet-18 without its classifier (He et al. 2016, arXiv 1512.03385), written out.

torchvision is not a dependency, and robots need what it lacks: group normalisation, which keeps
no running statistics and so agrees with averaged weights, and a narrower trunk for small tests.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

Norm = Literal["batch", "group"]

CHANNELS_PER_GROUP = 16
STRIDE = 32
"""A map of features has 1/32 of the image's height and width, rounded up."""


class ResNet18(nn.Module):
    """(N, C, H, W) -> (N, out_channels, ceil(H / 32), ceil(W / 32)).

    Args:
        in_channels: C.
        width: channels of the first stage, 64 in the paper; each later stage has twice as many.
        norm: batch normalisation, or group normalisation with 16 channels a group.
    """

    def __init__(self, in_channels: int, *, width: int, norm: Norm) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False),
            _norm(norm, width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks: list[nn.Module] = []
        for stage, (before, after) in enumerate(pairwise(widths)):
            blocks.append(Block(before, after, stride=1 if stage == 0 else 2, norm=norm))
            blocks.append(Block(after, after, stride=1, norm=norm))
        self.blocks = nn.Sequential(*blocks)
        self.out_channels = widths[-1]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.blocks(self.stem(images))


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where shapes change."""

    def __init__(self, before: int, after: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.norm1 = _norm(norm, after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = _norm(norm, after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.append(nn.Conv2d(before, after, 1, stride=stride, bias=False))
            self.shortcut.append(_norm(norm, after))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(self.conv1(x)).relu_()
        return self.norm2(self.conv2(y)).add_(self.shortcut(x)).relu_()


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)
