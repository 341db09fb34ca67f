"""What of the reference's configuration is refused, and by which name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rmexp.algo.base import Algo
from rmexp.compat.robomimic import algo_from_robomimic, load_robomimic_nets, robomimic_nets
from rmexp.compat.translate import algorithm
from rmexp.config import config_dir, register
from rmexp.errors import CheckpointError, ConfigError
from tests.compat.reference_case import LIFT

IMAGES = {"rgb": ["agentview_image"], "low_dim": ["object"]}


@pytest.fixture
def config(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "algo_bc.json").read_text())["algo_config"]


def build(config: dict[str, Any], train: dict[str, Any] | None = None, **more: Any) -> Algo:
    return algo_from_robomimic("bc", config, LIFT, 7, train, **more)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(lrate=3), r"algo\.lrate: rmexp knows no such option"),
        (lambda c: c["rnn"].update(horizn=3), r"algo\.rnn\.horizn: .*did you mean 'rnn\.horizon'"),
        (lambda c: c["gmm"].update(enabled=True, std_activation="exp"), r"it is 'exp'; needed is"),
        (lambda c: c["optim_params"]["policy"].update(optimizer_type="sgd"), "'adam', 'adamw'"),
        (lambda c: c.update(actor_layer_dims="wide"), "needed is a list of integers"),
        (lambda c: c["loss"].pop("l2_weight"), r"algo\.loss\.l2_weight: it is missing"),
        (lambda c: c["loss"].update(l2_weight="${oc.env:HOME}"), "needed is a number"),
        (
            lambda c: (c["gaussian"].update(enabled=True), c["rnn"].update(enabled=True)),
            "no gaussian with rnn",
        ),
        (
            lambda c: c["rnn"].update(enabled=True, kwargs={"bidirectional": True}),
            r"algo\.rnn\.kwargs\.bidirectional: it is True",
        ),
    ],
)
def test_options_are_refused_by_name(
    config: dict[str, Any], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(config)
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_all_problems_come_at_once(config: dict[str, Any]) -> None:
    config["loss"]["l2_weight"] = None
    config["nonsense"] = {"deep": 1}
    with pytest.raises(ConfigError) as refusal:
        build(config, {"batchsize": 100})
    for name in ("algo.loss.l2_weight", "algo.nonsense.deep", "train.batchsize"):
        assert name in str(refusal.value)


def test_lengths_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    """The most common way to a success rate of 0 with the reference."""
    config["rnn"]["enabled"] = True
    with pytest.raises(ConfigError, match=r"algo\.seq_length=10"):
        build(config, {"seq_length": 1})
    assert build(config).spec.seq_length == 10


def test_parameter_counts(config: dict[str, Any]) -> None:
    config["actor_layer_dims"] = [1024, 1024]
    assert build(config).num_parameters() == 1_077_255
    config["gmm"]["enabled"] = True
    assert build(config).num_parameters() == 1_146_955
    config["rnn"]["enabled"], config["actor_layer_dims"] = True, []
    assert build(config).num_parameters() == 1_986_875


def test_hydra_is_left_as_it_was(config: dict[str, Any]) -> None:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        build(config)
        assert GlobalHydra.instance().hydra is before
    assert GlobalHydra.instance().hydra is None
    build(config)
    assert GlobalHydra.instance().hydra is None


def observation(**rgb: Any) -> dict[str, Any]:
    return {"modalities": {"obs": IMAGES}, "encoder": {"rgb": {"core_class": "VisualCore", **rgb}}}


def test_images(config: dict[str, Any]) -> None:
    crop = {"crop_height": 36, "crop_width": 34, "num_crops": 1, "pos_enc": False}
    core = {"pool_kwargs": {"num_kp": 5}, "feature_dimension": 12, "pool_class": "SpatialSoftmax"}
    seen = observation(
        core_kwargs=core, obs_randomizer_class="CropRandomizer", obs_randomizer_kwargs=crop
    )
    shapes = {"agentview_image": (3, 40, 44), "object": (10,)}
    algo = algo_from_robomimic("bc", config, shapes, 7, observation=seen)
    arrays = robomimic_nets(algo)
    camera = "policy.nets.encoder.nets.obs.obs_nets.agentview_image"
    assert arrays[f"{camera}.nets.3.weight"].shape == (12, 10)
    assert arrays[f"{camera}.pool.pos_x"].shape == (1, 4)
    backbone = "backbone.nets.4.0.conv1.weight"
    assert (arrays[f"{camera}.{backbone}"] == arrays[f"{camera}.nets.0.{backbone[9:]}"]).all()
    load_robomimic_nets(algo, arrays)


@pytest.mark.parametrize(
    ("rgb", "message"),
    [
        ({"core_class": "ViT"}, "needed is 'VisualCore'"),
        ({"core_kwargs": {"backbone_class": "R3MConv"}}, "needed is 'ResNet18Conv'"),
        ({"core_kwargs": {"pool_kwargs": {"noise_std": 0.1}}}, r"pool_kwargs\.noise_std"),
        ({"obs_randomizer_class": "Blur"}, "obs_randomizer_class: it is 'Blur'"),
        ({"core_kwargs": {"depth": 3}}, r"core_kwargs\.depth: rmexp knows no such option"),
    ],
)
def test_other_encoders_are_refused(config: dict[str, Any], rgb: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        algorithm("bc", config, {}, observation(**rgb))


def test_weights_that_do_not_fit_are_refused(config: dict[str, Any]) -> None:
    algo = build(config)
    before = {k: v.clone() for k, v in algo.nets.state_dict().items()}
    arrays: dict[str, Any] = {name: value + 1.0 for name, value in robomimic_nets(algo).items()}
    arrays["policy.nets.extra"] = np.zeros(3)
    arrays["policy.nets.mlp._model.0.bias"] = np.zeros(3)
    del arrays["policy.nets.decoder.nets.action.bias"]
    with pytest.raises(CheckpointError) as refusal:
        load_robomimic_nets(algo, arrays)
    for message in (
        "policy.nets.extra has no counterpart",
        "policy.nets.mlp._model.0.bias has shape (3,), here (32,)",
        "policy.nets.decoder.nets.action.bias is missing",
    ):
        assert message in str(refusal.value)
    assert all(torch.equal(v, before[k]) for k, v in algo.nets.state_dict().items())


def test_two_names_of_one_tensor_must_agree(config: dict[str, Any]) -> None:
    config["rnn"]["enabled"] = True
    algo = build(config)
    arrays = robomimic_nets(algo)
    arrays["policy.nets.rnn.per_step_net.1.nets.action.bias"] += 1.0
    with pytest.raises(CheckpointError, match="are one tensor, but differ"):
        load_robomimic_nets(algo, arrays)
