"""How images become features, and how they are changed while training.

How an algorithm takes images in:

1. its YAML has `- encoder: resnet18` among its defaults, its constructor `encoder: ImageEncoding`,
   which it keeps as `self.encoder`;
2. every network that sees observations builds its `ObservationEncoder(obs_shapes, encoder)`.

A batch for training is augmented before the algorithm sees it, once, so that actor, critics and
targets look at the same pixels. Networks that are shown whole images, in validation or when acting,
look at their centre.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import ceil
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.draws import Draws
from rmexp.errors import ConfigError
from rmexp.nets.augment import Size, add_noise, center_crop, jitter_colors, random_crop
from rmexp.nets.resnet import CHANNELS_PER_GROUP, STRIDE, Norm, ResNet18

Shape = Sequence[int]
Pool = Literal["spatial_softmax", "mean"] | None
Activation = Literal["relu"] | None


class ImageEncoding(ABC):
    """How images become features. It holds numbers, not weights; every network builds its own."""

    share_cameras: bool
    """One network for all cameras, or one for each."""

    feature_dim: int
    """Features of an image."""

    @abstractmethod
    def network(self, key: str, shape: Shape) -> nn.Module:
        """For images of `shape` (C, H, W): (N, C, H, W), augmented or whole -> (N, feature_dim).

        Raises:
            ConfigError: images of this shape cannot be used; `key` is where they come from.
        """

    @abstractmethod
    def augment(self, obs: Mapping[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """What a training step shows its networks of {key: (..., C, H, W) or (..., D)}.

        Every image of a batch, and every frame of a window, is changed on its own.
        """


class ResNet18Encoding(ImageEncoding):
    """ResNet-18, a spatial softmax or a mean, and a linear layer, as in the reference."""

    def __init__(
        self,
        *,
        crop: int | list[int] | None,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        noise_std: float,
        norm: Norm,
        width: int,
        pool: Pool,
        num_keypoints: int,
        temperature: float,
        feature_dim: int,
        activation: Activation,
        share_cameras: bool,
    ) -> None:
        if isinstance(crop, list) and len(crop) != 2:
            raise ConfigError(f"algo.encoder.crop={crop}: needed is 76, [height, width] or null")
        colors = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
            "hue": hue,
        }
        for name, value in {**colors, "noise_std": noise_std}.items():
            if value < 0 or (name == "hue" and value > 0.5):
                limits = "in 0 to 0.5" if name == "hue" else "0 or more"
                raise ConfigError(f"algo.encoder.{name}={value}: it must be {limits}")
        if width < 1 or (norm == "group" and width % CHANNELS_PER_GROUP):
            raise ConfigError(
                f"algo.encoder.width={width}: it must be positive, and with norm=group a multiple "
                f"of {CHANNELS_PER_GROUP}"
            )
        self.crop: Size | None = None
        if crop is not None:
            self.crop = (crop, crop) if isinstance(crop, int) else (crop[0], crop[1])
        self.colors = colors
        self.noise_std = noise_std
        self.norm: Norm = norm
        self.width = width
        self.pool: Pool = pool
        self.num_keypoints = num_keypoints
        self.temperature = temperature
        self.feature_dim = feature_dim
        self.activation: Activation = activation
        self.share_cameras = share_cameras

    def network(self, key: str, shape: Shape) -> nn.Module:
        size = self.crop or (shape[1], shape[2])
        if not (0 < size[0] <= shape[1] and 0 < size[1] <= shape[2]):
            raise ConfigError(
                f"algo.encoder.crop: {size[0]} x {size[1]} does not fit into {key}, whose images "
                f"are {shape[1]} x {shape[2]}; make it smaller, or null for whole images"
            )
        return Camera(self, shape[0], size)

    def augment(self, obs: Mapping[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return {
            key: self._augment(value.flatten(0, -4), draws).unflatten(0, value.shape[:-3])
            if value.ndim > 3
            else value
            for key, value in obs.items()
        }

    def _augment(self, images: Tensor, draws: Draws) -> Tensor:
        """(N, C, H, W) -> (N, C, h, w); only images of three channels have colours."""
        if self.crop is not None:
            images = random_crop(images, self.crop, draws)
        if images.shape[1] == 3:
            images = jitter_colors(images, **self.colors, draws=draws)
        return add_noise(images, self.noise_std, draws) if self.noise_std else images


class Camera(nn.Module):
    """Images (N, C, H, W), from which the centre is taken where they are larger -> (N, D)."""

    def __init__(self, encoding: ResNet18Encoding, in_channels: int, size: Size) -> None:
        super().__init__()
        self.size = size
        self.backbone = ResNet18(in_channels, width=encoding.width, norm=encoding.norm)
        channels = self.backbone.out_channels
        height, width = (ceil(length / STRIDE) for length in size)
        if encoding.pool == "spatial_softmax":
            self.pool: nn.Module = SpatialSoftmax(
                (channels, height, width), encoding.num_keypoints, encoding.temperature
            )
            pooled = 2 * encoding.num_keypoints
        elif encoding.pool == "mean":
            self.pool = SpatialMean()
            pooled = channels
        else:
            self.pool = nn.Flatten()
            pooled = channels * height * width
        self.linear = nn.Linear(pooled, encoding.feature_dim)
        self.activation = nn.ReLU() if encoding.activation == "relu" else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(center_crop(images, self.size))
        return self.activation(self.linear(self.pool(features)))


class SpatialMean(nn.Module):
    """(N, C, H, W) -> (N, C); unlike torch's adaptive pooling it is deterministic on a GPU."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((-2, -1))


class SpatialSoftmax(nn.Module):
    """Maps of features (N, C, H, W) -> (N, 2 K): x and y of K keypoints, each in [-1, 1].

    A 1x1 convolution makes K maps of the C; a keypoint is the expected position under a softmax
    over its map (Finn et al. 2016, arXiv 1509.06113).
    """

    grid: Tensor

    def __init__(self, shape: Shape, num_keypoints: int, temperature: float) -> None:
        super().__init__()
        channels, height, width = shape
        self.temperature = temperature
        self.conv = nn.Conv2d(channels, num_keypoints, 1)
        y, x = torch.meshgrid(
            torch.linspace(-1.0, 1.0, height), torch.linspace(-1.0, 1.0, width), indexing="ij"
        )
        self.register_buffer("grid", torch.stack([x, y], -1).view(-1, 2), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        weights = F.softmax(self.conv(features).flatten(2) / self.temperature, dim=-1)
        return (weights @ self.grid).flatten(1)
