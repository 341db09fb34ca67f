"""ResNet-18 against torchvision's numbers, and what its two normalisations promise."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rmexp.nets.resnet import ResNet18
from tests.nets.waves import fill, images


def test_the_numbers_are_torchvisions() -> None:
    """Recorded from torchvision 0.29.1's resnet18 without its last two layers, training mode.

    In double precision: batch normalisation of 18 numbers lifts single rounding to 5e-4.
    """
    net = ResNet18(3, width=64, norm="batch")
    assert sum(p.numel() for p in net.parameters()) == 11_176_512
    fill(net.parameters())
    with torch.no_grad():
        maps = net.double()(images(3, 3, 45, 70).double())
    assert maps.shape == (3, 512, 2, 3)
    recorded = [2.113793974, 2.906332590, 2.101025178, 1.806246361, 0.663789163, 0.858551349]
    found = [*maps[0, :3, 0, 0].tolist(), *maps[2, 511, 1].tolist()]
    assert found == pytest.approx(recorded, abs=1e-8)
    assert float(maps.sum()) == pytest.approx(14594.066315, rel=1e-9)


@pytest.mark.parametrize("size", [(1, 33), (32, 64), (65, 31)])
def test_maps_are_a_thirty_second_of_the_image(size: tuple[int, int]) -> None:
    net = ResNet18(4, width=16, norm="group")
    height, width = size
    assert net(torch.rand(2, 4, height, width)).shape == (2, 128, -(-height // 32), -(-width // 32))
    assert net.out_channels == 128


def test_groups_have_sixteen_channels() -> None:
    net = ResNet18(3, width=32, norm="group")
    groups = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert len(groups) == 20
    assert all(m.num_channels == 16 * m.num_groups for m in groups)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    batch = ResNet18(3, width=32, norm="batch")
    count = [sum(p.numel() for p in n.parameters()) for n in (net, batch)]
    assert count[0] == count[1]
    assert not list(net.buffers())


def test_with_groups_an_image_does_not_see_the_others() -> None:
    net = ResNet18(3, width=16, norm="group").train()
    x = torch.rand(5, 3, 37, 41)
    with torch.no_grad():
        torch.testing.assert_close(net(x)[2:3], net(x[2:3]))


def test_convolutions_start_as_he_et_al_say() -> None:
    net = ResNet18(3, width=64, norm="batch")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            assert float(module.weight.detach().std()) == pytest.approx(
                (2.0 / fan_out) ** 0.5, rel=0.05
            )
            assert module.bias is None
