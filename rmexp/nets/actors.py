"""A network that maps observations to the outputs a head asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rmexp.nets.encoders import MLP, ImageEncoding, ObservationEncoder


class MLPActor(nn.Module):
    """Observations (and goals) of one step -> {output name: (B, width)}."""

    def __init__(
        self,
        obs_shapes: Mapping[str, Sequence[int]],
        layer_dims: Sequence[int],
        output_dims: Mapping[str, int],
        encoder: ImageEncoding | None = None,
        goal_shapes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(obs_shapes, encoder)
        self.goal_encoder = ObservationEncoder(goal_shapes, encoder) if goal_shapes else None
        goal_dim = 0 if self.goal_encoder is None else self.goal_encoder.out_dim
        self.mlp = MLP(self.encoder.out_dim + goal_dim, layer_dims)
        self.decoder = nn.ModuleDict(
            {name: nn.Linear(self.mlp.out_dim, width) for name, width in output_dims.items()}
        )

    def forward(
        self, obs: Mapping[str, Tensor], goal: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """obs and goal {k: (B, D_k)} -> {name: (B, width)}; goals follow, as in the reference."""
        features = self.encoder(obs)
        if self.goal_encoder is not None:
            assert goal is not None, "this network was built with goals and called without"
            features = torch.cat([features, self.goal_encoder(goal)], dim=-1)
        features = self.mlp(features)
        return {name: layer(features) for name, layer in self.decoder.items()}
