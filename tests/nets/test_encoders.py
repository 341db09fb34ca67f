"""Observation encoders: counts and numbers of the reference, time axes, crops, cameras, errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rmexp.draws import SeededDraws
from rmexp.errors import ConfigError
from rmexp.nets.augment import center_crop
from rmexp.nets.encoders import Camera, ResNet18Encoding, SpatialSoftmax
from rmexp.nets.mlp import ObservationEncoder
from tests.nets.waves import fill, images

CPU = torch.device("cpu")
LIFT = {
    "agentview_image": (3, 84, 84),
    "robot0_eef_pos": (3,),
    "robot0_eef_quat": (4,),
    "robot0_eye_in_hand_image": (3, 84, 84),
    "robot0_gripper_qpos": (2,),
}
TINY = {"b_image": (3, 37, 41), "c": (5,), "a_image": (3, 37, 41)}


def encoding(**changes: Any) -> ResNet18Encoding:
    values: dict[str, Any] = {
        "crop": 76,
        "brightness": 0.0,
        "contrast": 0.0,
        "saturation": 0.0,
        "hue": 0.0,
        "noise_std": 0.0,
        "norm": "batch",
        "width": 64,
        "pool": "spatial_softmax",
        "num_keypoints": 32,
        "temperature": 1.0,
        "feature_dim": 64,
        "activation": "relu",
        "share_cameras": False,
    }
    return ResNet18Encoding(**{**values, **changes})


def tiny(**changes: Any) -> ResNet18Encoding:
    values = {"crop": [35, 33], "width": 16, "num_keypoints": 6, "feature_dim": 7}
    return encoding(**{**values, **changes})


def observations(*lead: int) -> dict[str, Tensor]:
    return {
        key: torch.rand(*lead, *shape) if len(shape) == 3 else torch.randn(*lead, *shape)
        for key, shape in TINY.items()
    }


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_low_dimensional_keys_follow_each_other_in_sorted_order() -> None:
    encoder = ObservationEncoder({"b": (3,), "a": (2,)})
    obs = {"b": torch.randn(5, 4, 3), "a": torch.randn(5, 4, 2)}
    assert encoder.out_dim == 5
    assert torch.equal(encoder(obs), torch.cat([obs["a"], obs["b"]], -1))


def test_sizes_are_the_references() -> None:
    """Two cameras and 9 numbers: 137 features; a camera is trunk + 1x1 convolution + linear."""
    encoder = ObservationEncoder(LIFT, encoding())
    camera = 11_176_512 + (512 * 32 + 32) + (64 * 64 + 64)
    assert encoder.out_dim == 137
    assert count(encoder) == 2 * camera == 22_394_176
    group = ObservationEncoder(LIFT, encoding(norm="group"))
    assert count(group) == count(encoder)
    # With an LSTM of 2 x 1000 and 5 modes of 7 actions: the published image policy.
    policy = nn.ModuleList([nn.LSTM(137, 1000, 2), nn.Linear(1000, 35 + 35 + 5)])
    assert count(encoder) + count(policy) == 35_033_251


@pytest.mark.parametrize(
    ("training", "recorded"),
    [
        (True, [-1.316682167, 1.902952578, 2.973365013, 0.756876495, -1.386838183, 0.867319808]),
        (False, [1.276478662, 3.318321744, -0.921625508, 2.359271298, 1.052658731, 0.975987007]),
    ],
)
def test_a_camera_answers_as_the_references(training: bool, recorded: list[float]) -> None:
    """Recorded from robomimic 0.3.0's VisualCore in training, and after two steps in evaluation.

    In double precision, for the reason given in `test_resnet`.
    """
    camera = encoding(crop=None, activation=None).network("image", (3, 45, 70))
    fill(camera.parameters())
    camera, x = camera.double(), images(3, 3, 45, 70).double()
    with torch.no_grad():
        camera.train()
        features = camera(x)
        if not training:
            camera(x)
            features = camera.eval()(x)
    assert features.shape == (3, 64)
    assert features[:, :2].flatten().tolist() == pytest.approx(recorded, abs=1e-8)
    rectified = encoding(crop=None).network("image", (3, 45, 70)).double()
    rectified.load_state_dict(camera.state_dict())
    with torch.no_grad():
        assert torch.equal(rectified.train(training)(x).relu(), camera(x).relu())
        assert float(rectified(x).min()) == 0.0


@pytest.mark.parametrize("share", [False, True])
def test_leading_axes_are_kept(share: bool) -> None:
    encoder = ObservationEncoder(TINY, tiny(share_cameras=share)).eval()
    obs = observations(3, 2)
    with torch.no_grad():
        together = encoder(obs)
        assert together.shape == (3, 2, encoder.out_dim) == (3, 2, 7 + 7 + 5)
        for t in range(2):
            alone = encoder({k: v[:, t] for k, v in obs.items()})
            torch.testing.assert_close(together[:, t], alone)
    assert torch.equal(together[..., 14:], obs["c"])


def test_images_follow_in_the_order_of_their_keys() -> None:
    encoder = ObservationEncoder(TINY, tiny()).eval()
    obs = observations(3)
    with torch.no_grad():
        before = encoder(obs)
        obs["a_image"] = torch.rand_like(obs["a_image"])
        changed = (encoder(obs) != before).any(0)
    assert changed[:7].any()
    assert not changed[7:].any()


def test_whole_images_are_seen_through_their_centre() -> None:
    encoder = ObservationEncoder(TINY, tiny()).eval()
    obs = observations(3)
    centre = {k: center_crop(v, (35, 33)) if v.ndim == 4 else v for k, v in obs.items()}
    with torch.no_grad():
        expected = encoder(centre)
        assert torch.equal(encoder(obs), expected)
        obs["a_image"][..., 0, :] = 9.0  # outside
        assert torch.equal(encoder(obs), expected)


@pytest.mark.parametrize("share", [False, True])
def test_cameras_share_a_network_or_have_their_own(share: bool) -> None:
    encoder = ObservationEncoder(TINY, tiny(share_cameras=share)).eval()
    assert count(encoder) == count(tiny().network("a", (3, 37, 41))) * (1 if share else 2)
    obs = observations(3)
    obs["b_image"] = obs["a_image"]
    features = encoder(obs)
    assert torch.allclose(features[:, :7], features[:, 7:14]) == share
    features[:, :14].sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


@pytest.mark.parametrize(("pool", "width"), [("mean", 128), (None, 128 * 2 * 2)])
def test_other_pools(pool: str | None, width: int) -> None:
    camera = tiny(pool=pool, activation=None).network("a", (3, 37, 41))
    assert isinstance(camera, Camera)
    assert camera.linear.in_features == width
    x = torch.rand(3, 3, 35, 33)
    maps = camera.backbone(x)
    pooled = maps.mean((2, 3)) if pool else maps.flatten(1)
    assert torch.equal(camera(x), camera.linear(pooled))


def test_a_keypoint_is_an_expected_position() -> None:
    softmax = SpatialSoftmax((2, 3, 5), num_keypoints=2, temperature=0.5)
    with torch.no_grad():
        softmax.conv.weight.copy_(torch.eye(2).view(2, 2, 1, 1))
        softmax.conv.bias = None
    maps = torch.zeros(4, 2, 3, 5)
    maps[1, 0, 2, 4] = 100.0  # the last corner
    maps[2, 1, 0, 1] = 100.0  # first row, second column
    maps[3, 0, 0, 0] = 0.5 * torch.log(torch.tensor(28.0))  # weight 28 against 14 ones
    points = softmax(maps)
    assert points.shape == (4, 4)
    expected = [[0, 0, 0, 0], [1, 1, 0, 0], [0, 0, -0.5, -1], [-27 / 42, -27 / 42, 0, 0]]
    torch.testing.assert_close(points, torch.tensor(expected).float())
    assert set(softmax.state_dict()) == {"conv.weight"}


def test_augmentation_changes_images_alone_and_in_a_copy() -> None:
    chosen = tiny(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, noise_std=0.05)
    obs, draws = observations(2, 3), SeededDraws(0, CPU)
    state = draws.state_dict()["generator"]
    kept = {key: value.clone() for key, value in obs.items()}
    changed = chosen.augment(obs, draws)
    assert not torch.equal(draws.state_dict()["generator"], state)
    assert changed["c"] is obs["c"]
    assert changed["a_image"].shape == (2, 3, 3, 35, 33)
    assert all(torch.equal(obs[key], kept[key]) for key in TINY)
    assert ObservationEncoder(TINY, chosen)(changed).shape == (2, 3, 19)


def test_every_frame_is_changed_on_its_own() -> None:
    frame = torch.rand(1, 1, 3, 37, 41).expand(4, 5, -1, -1, -1)
    crops = tiny().augment({"a_image": frame}, SeededDraws(0, CPU))["a_image"].flatten(0, 1)
    assert len(crops.flatten(1).unique(dim=0)) > 10


def test_images_without_colours_have_no_colours_changed() -> None:
    depth = {"depth": torch.rand(4, 1, 37, 41)}
    plain = tiny().augment(depth, SeededDraws(0, CPU))["depth"]
    colored = tiny(brightness=0.5, hue=0.5).augment(depth, SeededDraws(0, CPU))["depth"]
    assert torch.equal(plain, colored)
    assert ObservationEncoder({"depth": (1, 37, 41)}, tiny())(depth).shape == (4, 7)


def test_images_without_an_encoder_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="a_image, b_image are images"):
        ObservationEncoder(TINY)


def test_cameras_of_different_sizes_cannot_share() -> None:
    shapes = {"a": (3, 37, 41), "b": (3, 37, 40)}
    with pytest.raises(ConfigError, match=r"share_cameras.*b \(3, 37, 40\)"):
        ObservationEncoder(shapes, tiny(share_cameras=True))
    assert ObservationEncoder(shapes, tiny()).out_dim == 14


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crop": [35, 33, 3]}, r"crop=\[35, 33, 3\]"),
        ({"crop": [35, 42]}, "35 x 42 does not fit into a, whose images are 37 x 41"),
        ({"crop": 0}, "0 x 0 does not fit"),
        ({"hue": 0.6}, r"hue=0\.6: it must be in 0 to 0\.5"),
        ({"noise_std": -0.1}, r"noise_std=-0\.1"),
        ({"norm": "group", "width": 24}, "width=24.*multiple of 16"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(**changes).network("a", (3, 37, 41))
