"""Crops, colours and noise: every place, every factor, and nothing from a global generator."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from rmexp.draws import SeededDraws
from rmexp.nets.augment import add_noise, center_crop, jitter_colors, random_crop, turn_hue

CPU = torch.device("cpu")
NO_COLORS = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def draws(seed: int = 0) -> SeededDraws:
    return SeededDraws(seed, CPU)


class Fixed(SeededDraws):
    """Answers `uniform` with given values, one an image, and remembers the bounds."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__(0, CPU)
        self.values = values
        self.bounds: list[tuple[float, float]] = []

    def uniform(self, low: float, high: float, shape: Sequence[int]) -> Tensor:
        self.bounds.append((low, high))
        return torch.tensor(self.values).view(tuple(shape))


def numbered(n: int, channels: int, height: int, width: int) -> Tensor:
    """Every value of an image is another; all images are equal."""
    image = torch.arange(channels * height * width, dtype=torch.float32)
    return image.view(1, channels, height, width).expand(n, -1, -1, -1)


def test_every_place_of_a_crop_is_taken_equally_often() -> None:
    """The reference never takes the last row or column."""
    n, height, width, h, w = 6000, 5, 7, 3, 4
    images = numbered(n, 2, height, width)
    crops = random_crop(images, (h, w), draws())
    assert crops.shape == (n, 2, h, w)
    first = crops[:, 0, 0, 0].long()
    top, left = first // width, first % width
    for i in range(0, n, 251):
        place = images[i, :, top[i] : top[i] + h, left[i] : left[i] + w]
        assert torch.equal(crops[i], place)
    places = (height - h + 1) * (width - w + 1)
    counts = torch.bincount(top * (width - w + 1) + left, minlength=places)
    assert len(counts) == places == 12
    assert int((counts - n / places).abs().max()) < 4 * (n / places) ** 0.5


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_order_of_memory_does_not_matter(channels: int) -> None:
    images = torch.rand(11, channels, 6, 9)
    expected = random_crop(images, (5, 7), draws(3))
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(random_crop(last, (5, 7), draws(3)), expected)
    window = images[:10].unflatten(0, (5, 2))[:, 1]  # not in one piece
    assert torch.equal(
        random_crop(window, (5, 7), draws(4)), random_crop(window.clone(), (5, 7), draws(4))
    )


def test_a_crop_of_the_whole_is_the_whole() -> None:
    images = torch.rand(5, 3, 6, 9)
    assert torch.equal(random_crop(images, (6, 9), draws()), images)
    assert center_crop(images, (6, 9)).data_ptr() == images.data_ptr()


def test_the_centre_is_where_the_reference_has_it() -> None:
    images = numbered(1, 1, 84, 85)
    assert center_crop(images, (76, 76))[0, 0, 0, 0] == 4 * 85 + 4
    assert center_crop(images, (76, 76)).shape == (1, 1, 76, 76)


def test_only_the_draws_decide() -> None:
    images = torch.rand(5, 3, 6, 9)
    colors = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3}

    def changed(source: SeededDraws) -> Tensor:
        cropped = random_crop(images, (5, 7), source)
        return add_noise(jitter_colors(cropped, **colors, draws=source), 0.1, source)

    source = draws(1)
    state = source.state_dict()
    first = changed(source)
    assert not torch.equal(changed(source), first)
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002 - to show that it has no influence
    source.load_state_dict(state)
    assert torch.equal(changed(source), first)


def test_noise_is_gaussian() -> None:
    """The reference's is uniform, with a mean of half its standard deviation."""
    images = torch.full((6, 3, 51, 53), 0.5)
    noise = (add_noise(images, 0.2, draws()) - images) / 0.2
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)
    assert float(noise.pow(4).mean()) == pytest.approx(3.0, abs=0.15)
    assert float((noise.abs() > 2).float().mean()) == pytest.approx(0.0455, abs=0.005)
    assert not torch.equal(noise[0], noise[1])


def test_amounts_of_zero_change_and_draw_nothing() -> None:
    images = torch.rand(5, 3, 6, 9)
    assert jitter_colors(images, **NO_COLORS, draws=Fixed([])) is images


def test_brightness_is_a_factor_of_its_own_for_each_image() -> None:
    images = torch.rand(3, 3, 4, 5)
    source = Fixed([0.5, 1.0, 1.5])
    changed = jitter_colors(images, **{**NO_COLORS, "brightness": 0.5}, draws=source)
    assert source.bounds == [(0.5, 1.5)]
    torch.testing.assert_close(changed[0], images[0] * 0.5)
    torch.testing.assert_close(changed[1], images[1])
    torch.testing.assert_close(changed[2], (images[2] * 1.5).clamp(max=1.0))


def test_contrast_and_saturation_go_from_grey() -> None:
    images = torch.rand(2, 3, 4, 5)
    weights = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
    grey = (images * weights).sum(1, keepdim=True)
    source = Fixed([0.0, 0.5])
    changed = jitter_colors(images, **{**NO_COLORS, "saturation": 2.0}, draws=source)
    assert source.bounds == [(0.0, 3.0)]
    torch.testing.assert_close(changed[0], grey[0].expand(3, 4, 5))
    torch.testing.assert_close(changed[1], 0.5 * images[1] + 0.5 * grey[1])

    changed = jitter_colors(images, **{**NO_COLORS, "contrast": 0.4}, draws=Fixed([0.0, 1.2]))
    torch.testing.assert_close(changed[0], grey[0].mean().expand(3, 4, 5))
    expected = (1.2 * images[1] - 0.2 * grey[1].mean()).clamp(0.0, 1.0)
    torch.testing.assert_close(changed[1], expected)


def test_hue_turns_as_in_the_standard_library() -> None:
    turns = [-0.5, -0.21, 0.0, 0.13, 0.5]
    images = torch.rand(5, 3, 2, 3)
    images[:, :, 0, 0] = 0.4  # a grey
    images[:, :, 0, 1] = torch.tensor([0.9, 0.9, 0.1])  # two channels share the greatest value
    images[:, :, 0, 2] = torch.tensor([1.0, 0.0, 0.0])
    turned = turn_hue(images, torch.tensor(turns).view(5, 1, 1, 1))
    for i, turn in enumerate(turns):
        for y in range(2):
            for x in range(3):
                h, s, v = colorsys.rgb_to_hsv(*images[i, :, y, x].tolist())
                expected = colorsys.hsv_to_rgb((h + turn) % 1.0, s, v)
                assert turned[i, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)
    source = Fixed(turns)
    jittered = jitter_colors(images, **{**NO_COLORS, "hue": 0.5}, draws=source)
    assert source.bounds == [(-0.5, 0.5)]
    assert torch.equal(jittered, turned)


def test_colours_stay_colours() -> None:
    images = torch.rand(64, 3, 4, 5)
    colors = {"brightness": 0.9, "contrast": 2.0, "saturation": 2.0, "hue": 0.5}
    changed = jitter_colors(images, **colors, draws=draws())
    assert float(changed.min()) >= -1e-6
    assert float(changed.max()) <= 1.0 + 1e-6
    assert not torch.allclose(changed, images, atol=0.1)
