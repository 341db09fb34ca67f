"""From dictionaries of observations, and perhaps of goals, to what a network is asked for.

Keys follow each other in sorted order, as in the reference, so that weights can be exchanged with
it: low-dimensional ones as they are, images as the features of a network per camera.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.errors import ConfigError, require
from rmexp.nets.encoders import ImageEncoding, Shape

Shapes = Mapping[str, Shape]
Obs = Mapping[str, Tensor]

ONEDNN = torch.backends.mkldnn.is_available()
LARGE = 16_000_000
"""Multiplications from which a layer, or an MLP as a whole, goes to oneDNN on a CPU.

torch gives products to MKL, which does without AVX-512 on processors of AMD. With it oneDNN takes
half the time on Zen 5 and as long on Zen 4, and 0.1 ms more to call.
"""


class ObservationEncoder(nn.Module):
    """{key: (..., D_key) or (..., C, H, W)} -> (..., out_dim); `...` is (B,), (B, T) or more.

    Goals {key: (B, ...)} are encoded by a network of their own and follow the observations, the
    same for all steps of a window. Without goal shapes, goals that are given are ignored.
    """

    def __init__(
        self,
        obs_shapes: Shapes,
        encoding: ImageEncoding | None = None,
        goal_shapes: Shapes | None = None,
    ) -> None:
        super().__init__()
        self.keys = sorted(obs_shapes)
        images = [key for key in self.keys if len(obs_shapes[key]) == 3]
        self.views = _views({key: tuple(obs_shapes[key]) for key in images}, encoding)
        self.cameras = nn.ModuleList()
        self.out_dim = sum(prod(obs_shapes[key]) for key in self.keys if key not in images)
        if encoding is not None:
            self.cameras.extend(encoding.network(v[0], obs_shapes[v[0]]) for v in self.views)
            self.out_dim += encoding.feature_dim * len(images)
        self.goal = ObservationEncoder(goal_shapes, encoding) if goal_shapes else None
        self.out_dim += self.goal.out_dim if self.goal is not None else 0

    def forward(self, obs: Obs, goal: Obs | None = None) -> Tensor:
        parts = dict(obs)
        for network, keys in zip(self.cameras, self.views, strict=True):
            images = torch.cat([obs[key].flatten(0, -4) for key in keys])
            for key, features in zip(keys, network(images).chunk(len(keys)), strict=True):
                parts[key] = features.unflatten(0, obs[key].shape[:-3])
        features = torch.cat([parts[key] for key in self.keys], dim=-1)
        if self.goal is None:
            return features
        assert goal is not None, "this network was built with goals and called without"
        aim = self.goal(goal)
        if aim.dim() < features.dim():
            aim = aim.unsqueeze(1).expand(-1, features.shape[1], -1)
        return torch.cat([features, aim], dim=-1)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., D), weight (E, D), bias (E,) -> (..., E), where `LARGE` says so by oneDNN."""
    if ONEDNN and x.is_cpu and x.dtype == torch.float32 and x.numel() * len(weight) >= LARGE:
        return F.linear(x.to_mkldnn(), weight, bias).to_dense()
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """For layers that are wide: see `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class MLP(nn.Module):
    """Linear layers with a ReLU after each: `in_dim` -> `layer_dims[-1]`."""

    def __init__(self, in_dim: int, layer_dims: Sequence[int]) -> None:
        super().__init__()
        allowed = "a list of widths, each at least 1"
        require(all(width >= 1 for width in layer_dims), "layer_dims", list(layer_dims), allowed)
        widths = [in_dim, *layer_dims]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.out_dim = widths[-1]
        self.num_weights = sum(a * b for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_dim) -> (..., out_dim).

        As rows, because a layer's output of more dimensions is a view, and of a view that is
        changed in place autograd copies whole gradients, one more for every change. In oneDNN's
        layout from the first to the last, where `LARGE` says so.
        """
        rows = x.flatten(0, -2)
        large = len(rows) * self.num_weights >= LARGE
        if large and ONEDNN and x.is_cpu and x.dtype == torch.float32:
            rows = rows.to_mkldnn()
        for layer in self.layers:
            rows = layer(rows).relu_()
        if rows.is_mkldnn:
            rows = rows.to_dense()
        return rows.unflatten(0, x.shape[:-1]) if x.dim() > 2 else rows


class ObservationMLP(nn.Module):
    """Observations, goals and perhaps other inputs -> {output name: (..., width)}.

    Args:
        obs_shapes: of one step, by key.
        layer_dims: hidden layers.
        output_dims: output name -> width.
        encoder: how images among observations and goals become features.
        goal_shapes: goals; None or empty for none.
        input_dim: width of the other inputs: the actions of a critic, what an autoencoder reads.
        inputs_first: they stand before the observations' features, not after them.
    """

    def __init__(
        self,
        obs_shapes: Shapes,
        layer_dims: Sequence[int],
        output_dims: Mapping[str, int],
        encoder: ImageEncoding | None = None,
        *,
        goal_shapes: Shapes | None = None,
        input_dim: int = 0,
        inputs_first: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(obs_shapes, encoder, goal_shapes)
        self.inputs_first = inputs_first
        self.mlp = MLP(self.encoder.out_dim + input_dim, layer_dims)
        self.decoder = nn.ModuleDict(
            {name: nn.Linear(self.mlp.out_dim, width) for name, width in output_dims.items()}
        )

    def forward(
        self, obs: Obs, goal: Obs | None = None, inputs: Tensor | None = None
    ) -> dict[str, Tensor]:
        """obs and goal {k: (B, D_k)}, inputs (B, input_dim) -> {name: (B, width)}.

        Several inputs a state, (N, B, input_dim), share its features: -> {name: (N, B, width)}.
        """
        features = self.encoder(obs, goal)
        if inputs is not None:
            features = features.expand(*inputs.shape[:-1], -1)
            both = (inputs, features) if self.inputs_first else (features, inputs)
            features = torch.cat(both, dim=-1)
        features = self.mlp(features)
        return {name: layer(features) for name, layer in self.decoder.items()}


def _views(shapes: Shapes, encoding: ImageEncoding | None) -> list[list[str]]:
    """The image keys that each network sees."""
    if shapes and encoding is None:
        raise ConfigError(
            f"dataset.obs_keys: {', '.join(shapes)} are images, and this algorithm reads only "
            "low-dimensional observations; leave them out of dataset.obs_keys"
        )
    if not shapes or encoding is None:
        return []
    if not encoding.share_cameras:
        return [[key] for key in shapes]
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ConfigError(
            f"algo.encoder.share_cameras: one network cannot see images of different shapes "
            f"({listed}, channels first); set it to false or choose others in dataset.obs_keys"
        )
    return [list(shapes)]
