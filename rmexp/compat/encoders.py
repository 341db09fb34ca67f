"""The reference's `observation` section: how its networks look at images.

Low-dimensional keys go into its networks as they are, and so into ours. Of its encoders we have
the one for colour images that its published configurations use.
"""

from __future__ import annotations

from typing import Any

from rmexp.compat.options import Options

CORE = "encoder.rgb.core_kwargs"
RANDOMIZER = "encoder.rgb.obs_randomizer_class"
CHANGES = "encoder.rgb.obs_randomizer_kwargs"
POOLS = {"SpatialSoftmax": "spatial_softmax", "SpatialMeanPool": "mean", None: "null"}
COLORS = ("brightness", "contrast", "saturation", "hue")
UNCHANGED: dict[str, Any] = {
    "algo.encoder.crop": None,
    **{f"algo.encoder.{name}": 0.0 for name in (*COLORS, "noise_std")},
}


def keys_of(options: Options, group: str) -> list[str]:
    """The keys of a group of observations, `obs`, `goal` or `subgoal`, sorted."""
    kinds = ("low_dim", "rgb", "depth", "scan")
    return sorted(str(k) for kind in kinds for k in options.listed(f"modalities.{group}.{kind}"))


def encoder(options: Options) -> dict[str, Any]:
    """Overrides of `algo.encoder`; none where no key is an image."""
    images = options.listed("modalities.obs.rgb") + options.listed("modalities.goal.rgb")
    for group in ("obs", "goal"):
        options.ignore(f"modalities.{group}.low_dim", f"modalities.{group}.rgb")
        for kind in ("depth", "scan"):
            options.only(f"modalities.{group}.{kind}", [], default=[])
            options.ignore(f"encoder.{kind}")
    for part in ("core", "obs_randomizer"):
        options.only(f"encoder.low_dim.{part}_class", None, default=None)
        options.ignore(f"encoder.low_dim.{part}_kwargs")
    if not images:
        options.ignore("encoder.rgb")
        return {}
    return _core(options) | _changes(options)


def _core(options: Options) -> dict[str, Any]:
    options.only("encoder.rgb.core_class", "VisualCore")
    options.only(f"{CORE}.backbone_class", "ResNet18Conv", default="ResNet18Conv")
    for name in ("pretrained", "input_coord_conv"):
        options.only(f"{CORE}.backbone_kwargs.{name}", False, default=False)
    options.only(f"{CORE}.flatten", True, default=True)
    pool = f"{CORE}.pool_kwargs"
    options.only(f"{pool}.learnable_temperature", False, default=False)
    options.only(f"{pool}.noise_std", 0.0, 0, default=0.0)
    options.only(f"{pool}.output_variance", False, default=False)
    return {
        "algo.encoder.pool": options.word(f"{CORE}.pool_class", POOLS, default="SpatialSoftmax"),
        "algo.encoder.num_keypoints": options.integer(f"{pool}.num_kp", default=32),
        "algo.encoder.temperature": options.number(f"{pool}.temperature", default=1.0),
        "algo.encoder.feature_dim": options.integer(f"{CORE}.feature_dimension", default=64),
    }


def _changes(options: Options) -> dict[str, Any]:
    """What is done to images while training. Its noise is uniform by mistake; ours is Gaussian."""
    kinds = {None: "", "CropRandomizer": "crop", "ColorRandomizer": "color"}
    kinds["GaussianNoiseRandomizer"] = "noise"
    kind = options.word(RANDOMIZER, kinds, default=None)
    found: dict[str, Any] = {}
    if kind == "crop":
        options.only(f"{CHANGES}.num_crops", 1, default=1)
        options.only(f"{CHANGES}.pos_enc", False, default=False)
        sides = ("crop_height", "crop_width")
        found["algo.encoder.crop"] = [options.integer(f"{CHANGES}.{s}", default=76) for s in sides]
    if kind == "color":
        options.only(f"{CHANGES}.num_samples", 1, default=1)
        for name in COLORS:
            found[f"algo.encoder.{name}"] = options.number(f"{CHANGES}.{name}", default=0.3)
    if kind == "noise":
        options.only(f"{CHANGES}.num_samples", 1, default=1)
        options.only(f"{CHANGES}.noise_mean", 0.0, 0, default=0.0)
        options.only(f"{CHANGES}.limits", None, default=None)
        found["algo.encoder.noise_std"] = options.number(f"{CHANGES}.noise_std", default=0.3)
    options.ignore(*(key for key in options.left() if key.startswith(CHANGES) and not kind))
    return UNCHANGED | found
