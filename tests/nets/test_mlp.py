from __future__ import annotations

import pytest

from rmexp.errors import ConfigError
from rmexp.nets.encoders import MLP


@pytest.mark.parametrize("layer_dims", [[3, -3], [0]])
def test_widths_are_positive(layer_dims: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^layer_dims: .* must be a list of widths, each at le"):
        MLP(5, layer_dims)


def test_no_hidden_layer_is_a_network() -> None:
    assert MLP(5, []).out_dim == 5
