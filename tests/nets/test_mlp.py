from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import Node

from rmexp.errors import ConfigError
from rmexp.nets.encoders import MLP


@pytest.mark.parametrize("layer_dims", [[3, -3], [0]])
def test_widths_are_positive(layer_dims: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"^layer_dims: .* must be a list of widths, each at le"):
        MLP(5, layer_dims)


def test_no_hidden_layer_is_a_network() -> None:
    assert MLP(5, []).out_dim == 5


def test_sequences_cost_what_their_rows_cost() -> None:
    """A ReLU in place of a view would copy whole gradients on the way back (`CopySlices`)."""
    out = MLP(5, [3, 4])(torch.ones(2, 6, 5))
    assert out.shape == (2, 6, 4)
    assert "CopySlices" not in names_of_the_graph(out.grad_fn)
    in_place_of_a_view = torch.nn.Linear(5, 3)(torch.ones(2, 6, 5)).relu_()
    assert "CopySlices" in names_of_the_graph(in_place_of_a_view.grad_fn)


def names_of_the_graph(node: Node | None) -> set[str]:
    if node is None:
        return set()
    return {node.name().rpartition("::")[2]}.union(
        *(names_of_the_graph(next_) for next_, _ in node.next_functions)
    )
