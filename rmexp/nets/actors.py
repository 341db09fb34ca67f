"""Networks that map observations to the outputs an action head asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from rmexp.nets.encoders import ImageEncoding, ObservationEncoder
from rmexp.nets.mlp import MLP


class MLPActor(nn.Module):
    """Observations of one step -> {output name: (B, width)}."""

    def __init__(
        self,
        obs_shapes: Mapping[str, Sequence[int]],
        layer_dims: Sequence[int],
        output_dims: Mapping[str, int],
        encoder: ImageEncoding | None = None,
    ) -> None:
        super().__init__()
        self.encoder = ObservationEncoder(obs_shapes, encoder)
        self.mlp = MLP(self.encoder.out_dim, layer_dims)
        self.decoder = nn.ModuleDict(
            {name: nn.Linear(self.mlp.out_dim, width) for name, width in output_dims.items()}
        )

    def forward(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        features = self.mlp(self.encoder(obs))
        return {name: layer(features) for name, layer in self.decoder.items()}
