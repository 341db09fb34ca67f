from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import Node

from rmexp.errors import ConfigError
from rmexp.nets import mlp
from rmexp.nets.mlp import MLP, Linear


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


@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_large_products_are_the_same_with_onednn(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an MLP and of a linear layer: values and gradients."""
    nets: list[torch.nn.Module] = [MLP(5, [3, 4]), Linear(5, 4), Linear(5, 4, bias=False)]
    x = torch.randn(*shape, 5, requires_grad=True)

    def answers(net: torch.nn.Module) -> list[torch.Tensor]:
        out = net(x)
        out.sum().backward()
        parameters = [p.grad.clone() for p in net.parameters() if p.grad is not None]
        net.zero_grad()
        gradient, x.grad = x.grad, None
        assert gradient is not None
        return [out, gradient, *parameters]

    for net in nets:
        plain = answers(net)
        monkeypatch.setattr(mlp, "LARGE", 0)
        large = answers(net)
        for a, b in zip(plain, large, strict=True):
            torch.testing.assert_close(a, b)
        assert ("ToMkldnnBackward0" in names_of_the_graph(large[0].grad_fn)) == mlp.ONEDNN
        double = net.double()(x.double())
        torch.testing.assert_close(double.float(), plain[0])
        monkeypatch.undo()


def names_of_the_graph(node: Node | None) -> set[str]:
    if node is None:
        return set()
    return {node.name().rpartition("::")[2]}.union(
        *(names_of_the_graph(next_) for next_, _ in node.next_functions)
    )
