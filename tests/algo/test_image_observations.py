"""Every algorithm takes images in: it trains on them, validates without a trace, and acts.

One test over all of `conf/algo`, and the real cameras of robomimic's own file.
"""

from __future__ import annotations

import copy
import gzip
import shutil
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import pytest
import torch

from rmexp import build
from rmexp.algo.base import Algo, Spec
from rmexp.nets.encoders import Camera, ResNet18Encoding
from rmexp.policy import Policy
from tests.command_line import rows, run_here, status
from tests.conftest import SHARED
from tests.small_networks import ALGOS, composed

CAMERAS = ["agentview_image", "robot0_eye_in_hand_image"]
LIFT_IMAGES = SHARED / "data/real/robomimic/robomimic_v0.1_test_lift_ph_image.hdf5.gz"
B, A, H, W = 3, 7, 20, 22
IMAGE_SIZES = {"width": 16, "crop": [18, 19], "feature_dim": 5, "num_samples": 3}


def built(name: str, goals: bool = False) -> Algo:
    files = ["dataset=hdf5", "dataset.path=none", "rollout=none", "logging=none"]
    config = composed(name, files, IMAGE_SIZES)
    shapes = {"side": (3, H, W), "hand": (3, H, W), "pose": (5,)}
    spec = Spec(
        obs_shapes=shapes,
        goal_shapes=shapes if goals or config.dataset.goal_mode else {},
        ac_dim=A,
        frame_stack=config.dataset.frame_stack,
        seq_length=config.dataset.seq_length,
        total_steps=10,
        seed=0,
    )
    return build.algo(config, spec, torch.device("cpu"))


def observations(*lead: int, seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (*lead, H, W, 3)
    obs = {key: torch.randint(0, 256, shape, generator=g).byte() for key in ("side", "hand")}
    return {**obs, "pose": torch.randn(*lead, 5, generator=g)}


def window(algo: Algo) -> dict[str, Any]:
    """A batch as a loader hands it out."""
    time = algo.spec.frame_stack - 1 + algo.spec.seq_length
    g = torch.Generator().manual_seed(0)
    batch = {
        "obs": observations(B, time, seed=1),
        "next_obs": observations(B, time, seed=2),
        "future_obs": observations(B, time, seed=2),
        "goal_obs": observations(B, seed=3),
        "actions": torch.rand(B, time, A, generator=g) * 2 - 1,
        "rewards": torch.rand(B, time, generator=g),
        "dones": torch.zeros(B, time),
        "pad_mask": torch.ones(B, time, 1, dtype=torch.bool),
        "index": torch.arange(B),
    }
    goals = ("goal_obs",) if algo.spec.goal_shapes else ()
    return {key: batch[key] for key in (*algo.batch_keys, *goals)}


def step(algo: Algo, validate: bool) -> dict[str, torch.Tensor]:
    algo.set_eval() if validate else algo.set_train()
    with torch.set_grad_enabled(not validate):
        batch = algo.process_batch_for_training(window(algo))
        batch = algo.postprocess_batch_for_training(batch)
        return algo.train_on_batch(batch, epoch=1, validate=validate)


@pytest.mark.parametrize("name", ALGOS)
def test_every_algorithm_takes_images_in(name: str) -> None:
    algo = built(name)
    cameras = [module for module in algo.nets.modules() if isinstance(module, Camera)]
    assert cameras
    seen: set[torch.Size] = set()
    for camera in cameras:
        camera.register_forward_pre_hook(lambda _, images: seen.add(images[0].shape[2:]))

    before = copy.deepcopy(algo.serialize())
    assert torch.isfinite(step(algo, validate=True)["loss"])
    assert seen == {(H, W)}  # of which each camera takes the centre
    after = algo.serialize()
    for key, value in before["nets"].items():
        assert torch.equal(after["nets"][key], value), key
    train = before["draws"]["train"]["generator"]
    assert torch.equal(after["draws"]["train"]["generator"], train)

    seen.clear()
    assert torch.isfinite(step(algo, validate=False)["loss"])
    algo.on_gradient_step()
    assert seen == {(18, 19)}, "images were not augmented before the networks saw them"
    assert not torch.equal(algo.serialize()["draws"]["train"]["generator"], train)
    assert any(p.grad is not None and p.grad.any() for c in cameras for p in c.parameters())

    if not algo.acts:
        return
    policy = Policy(algo, None, None)
    for env in range(2):
        policy.reset(env, seed=env)
    actions = policy.act({k: v.numpy() for k, v in observations(2, seed=4).items()}, [0, 1])
    assert actions.shape == (2, A)
    assert np.isfinite(actions).all()


PARTS_WITH_IMAGES = {"hbc": 2, "iris": 2}  # planner and actor; the others have one


@pytest.mark.parametrize("name", ALGOS)
def test_every_image_is_augmented_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original, calls = ResNet18Encoding.augment, list[set[str]]()

    def augment(self: ResNet18Encoding, obs: Any, draws: Any) -> dict[str, torch.Tensor]:
        calls.append({key for key, value in obs.items() if value.ndim > 3})
        return original(self, obs, draws)

    monkeypatch.setattr(ResNet18Encoding, "augment", augment)
    plain = built(name)
    for algo in (plain, built(name, goals=True)) if plain.sees_goals else (plain,):
        step(algo, validate=True)
        assert calls == []
        step(algo, validate=False)
        ready = algo.process_batch_for_training(window(algo))
        groups = [k for k in ("obs", "next_obs", "goal_obs") if "side" in ready.get(k, {})]
        assert ("goal_obs" in groups) == (algo is not plain)
        expected = len(groups) + PARTS_WITH_IMAGES.get(name, 1) - 1
        assert [keys for keys in calls if keys] == [{"side", "hand"}] * expected
        calls.clear()


@pytest.fixture(scope="module")
def lift_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not LIFT_IMAGES.exists():
        pytest.skip(f"{LIFT_IMAGES.name} is not there")
    path = tmp_path_factory.mktemp("images") / "lift_image.hdf5"
    with gzip.open(LIFT_IMAGES) as packed, path.open("wb") as unpacked:
        shutil.copyfileobj(packed, unpacked)
    return path


REAL: dict[str, list[str]] = {
    "bc": ["loop.num_epochs=3", "loop.batch_size=16"],
    "bc_rnn_gmm": [
        "loop.batch_size=4",
        "loop.num_epochs=3",
        "algo.hidden_dim=32",
        "algo.actor_layer_dims=[]",
    ],
    "diffusion_policy": [
        "loop.batch_size=8",
        "loop.num_epochs=6",
        "algo/noise_schedule=ddim",
        "algo.noise_schedule.num_inference_steps=3",
        "algo.backbone.down_dims=[32,64]",
        "algo.backbone.step_embed_dim=32",
        "algo.lr_schedule.warmup_steps=2",
    ],
}
"""Published windows, crop 76 and spatial softmax, with narrower networks."""


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_two_real_cameras_train_and_their_checkpoint_acts(
    name: str,
    lift_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    outcome = run_here(
        [
            f"algo={name}",
            "dataset=hdf5",
            f"dataset.path={lift_images}",
            f"dataset.obs_keys=[{','.join(CAMERAS)},robot0_eef_pos]",
            "rollout=none",
            "logging=none",
            "loop.steps_per_epoch=8",
            "loop.valid_steps=2",
            "algo.encoder.width=16",
            "algo.lr=1e-3",
            *REAL[name],
            f"hydra.run.dir={run}",
        ],
        monkeypatch,
        capfd,
    )
    assert outcome.code == 0, outcome.text
    assert status(run)["state"] == "finished"
    losses = [row["train/loss"] for row in rows(run)]
    assert losses[-1] < min(losses[0], 0.95 * losses[0]), losses
    assert all(np.isfinite(row["valid/loss"]) for row in rows(run))
    assert_acts_alike_alone_and_together(run / "checkpoints" / "last.pt", lift_images)


def assert_acts_alike_alone_and_together(checkpoint: Path, demonstrations: Path) -> None:
    policy = Policy.load(checkpoint)
    with h5py.File(demonstrations) as file:
        group = cast("h5py.Group", file["data/demo_0/obs"])
        obs = {key: np.asarray(group[key])[:11] for key in policy.algo.spec.obs_shapes}

    def act(rows: list[int]) -> np.ndarray[Any, Any]:
        for row in rows:
            policy.reset(row, seed=row)
        return policy.act({key: value[rows] for key, value in obs.items()}, rows)

    together = act(list(range(11)))
    assert together.shape == (11, 7)
    assert len(np.unique(together[:, 0])) > 5
    for row in (10, 0, 4):  # bit for bit, whoever else asks
        assert np.array_equal(act([row])[0], together[row])
    assert np.array_equal(act([7, 3, 9]), together[[7, 3, 9]])
