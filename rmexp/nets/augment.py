"""Random changes of image batches, on the device and without a loop over images.

Every image of a batch has its own numbers, drawn from `draws`; none of these functions reads a
value back to the host. Legend: N images, C channels,
H/W size before and h/w after a crop; values are in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

from rmexp.draws import Draws

Size = tuple[int, int]

LUMA = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def center_crop(images: Tensor, size: Size) -> Tensor:
    """(N, C, H, W) -> (N, C, h, w), a view; images of that size stay as they are."""
    top = (images.shape[-2] - size[0]) // 2
    left = (images.shape[-1] - size[1]) // 2
    return images[..., top : top + size[0], left : left + size[1]]


def random_crop(images: Tensor, size: Size, draws: Draws) -> Tensor:
    """(N, C, H, W) -> (N, C, h, w); all (H - h + 1) (W - w + 1) places are equally likely.

    In the order of memory of decoded images, channels last, a crop is h runs of w * C values.
    """
    n, c, height, width = images.shape
    top = draws.randint(0, height - size[0] + 1, (n,))
    left = draws.randint(0, width - size[1] + 1, (n,))
    rows = images.permute(0, 2, 3, 1).reshape(n, height, width * c)
    places = rows.unfold(1, size[0], 1).unfold(2, size[1] * c, c)  # (N, tops, lefts, h, w * C)
    chosen = places[torch.arange(n, device=images.device), top, left]
    return chosen.view(n, *size, c).permute(0, 3, 1, 2)


def jitter_colors(
    images: Tensor,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    draws: Draws,
) -> Tensor:
    """(N, 3, H, W) -> the same shape; each amount that is 0 is left out and draws nothing.

    Brightness, contrast and saturation are multiplied by a factor from [max(0, 1 - amount),
    1 + amount]; hue is turned by [-amount, amount] of the colour circle. Always in this order.
    """
    shape = (len(images), 1, 1, 1)

    def blend(other: Tensor | float, amount: float) -> Tensor:
        factor = draws.uniform(max(0.0, 1.0 - amount), 1.0 + amount, shape)
        return (factor * images + (1.0 - factor) * other).clamp(0.0, 1.0)

    if brightness:
        images = blend(0.0, brightness)
    if contrast:
        images = blend(_luma(images).mean((-2, -1), keepdim=True), contrast)
    if saturation:
        images = blend(_luma(images), saturation)
    if hue:
        images = turn_hue(images, draws.uniform(-hue, hue, shape))
    return images


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """images (N, 3, H, W), turn (N, 1, 1, 1) in parts of the colour circle -> (N, 3, H, W).

    Through hue, chroma and value, with colour circle 0 to 6 (Smith 1978, "Color gamut transform
    pairs").
    """
    red, green, blue = images.split(1, dim=1)
    value = images.amax(1, keepdim=True)
    chroma = value - images.amin(1, keepdim=True)
    safe = torch.where(chroma > 0, chroma, 1.0)  # a grey has no hue, and any will do
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    start = torch.tensor([5.0, 3.0, 1.0], device=images.device).view(1, 3, 1, 1)
    sector = (start + hue + 6.0 * turn) % 6.0
    return value - chroma * torch.minimum(sector, 4.0 - sector).clamp(0.0, 1.0)


def add_noise(images: Tensor, std: float, draws: Draws) -> Tensor:
    """Independent Gaussian noise with mean 0 on every value."""
    return images + std * draws.randn(images.shape)


def _luma(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W)."""
    red, green, blue = images.split(1, dim=1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
