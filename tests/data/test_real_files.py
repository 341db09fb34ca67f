"""Every file that others published -> its outcome: it trains, or the message says why not."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from demo_files import OpenDataset

from rmexp.errors import DatasetError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real"
LAYOUT = "data/demo_<i>/actions"
RAW = "a raw robosuite recording. Observations"

TRAINS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "robomimic/robomimic_v0.1_test_lift_ph_image.hdf5.gz": (
        {},
        ["7 train + 3 valid episodes", "531 frames"],
    ),
    "robomimic/misoshiruseijin_reaching_franka_5demos.hdf5": (
        {},
        ["4 train + 1 valid episodes", "940 frames"],
    ),
    "robomimic/misoshiruseijin_reaching_sample_3demos.hdf5": (
        {},
        ["2 train + 1 valid episodes", "573 frames"],
    ),
}
REFUSED: dict[str, list[str]] = {
    "robosuite/rs1.4.1_two_arm_handover_roboturk.hdf5": ["demo_0", RAW],
    "robosuite/rs1.4.1_lift_panda.hdf5": ["demo_1", RAW],
    "robosuite/rs1.0.0_pick_place_panda.hdf5": ["demo_1", RAW],
    "robosuite/rs1.0.0_lift_panda.hdf5": ["demo_1", RAW],
    "robosuite/rs1.0.0_wipe_panda.hdf5": ["demo_1", RAW],
    "robosuite/rs0.1dev_sawyer_lift_test_with_starts.hdf5": ["demo_1", RAW],
    "robosuite/rs0.3.0_sawyer_lift.hdf5": ["no demo has actions or obs", RAW],
    "robosuite/rs0.3.0_baxter_peg_in_hole.hdf5": ["no demo has actions or obs", RAW],
    "robosuite/rs0.1dev_sawyer_lift_demoN_names.hdf5": ["no demo has actions or obs", RAW],
    "minari/D4RL/door/human-v2/data/main_data.hdf5": ["looks like the Minari", LAYOUT],
    "minari/D4RL/door/human-v2": ["looks like a Minari dataset", LAYOUT],
    "d4rl_like/d3rlpy_cartpole_v1.1.0.h5": ["looks like the D4RL", LAYOUT],
    "d4rl_like/d3rlpy_pendulum_v1.1.0.h5": ["looks like the D4RL", LAYOUT],
    "d4rl_like/badger_maze2d-umaze-v1-sparse_10k.hdf5": ["looks like the D4RL", LAYOUT],
    "d4rl_like/badger_pushball_physical_10_episodes.hdf5": ["looks like the D4RL", LAYOUT],
    "d4rl_like/badger_FetchPush-v2_150.hdf5": ["looks like the D4RL", LAYOUT],
    "d4rl_like/badger_scoring_empty.hdf5": ["looks like the D4RL", LAYOUT],
    "other_hdf5/robohive_random_policy_10_trials.h5": ["looks like the RoboHive", LAYOUT],
    "other_hdf5/igibson_behavior_vr_demo.hdf5": ["looks like the iGibson", LAYOUT],
    "lerobot_g1": ["looks like a LeRobot dataset", LAYOUT],
    "lerobot_g1/data/chunk-000/episode_000029.parquet": ["is not an HDF5 file"],
}

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not at hand")


def unpacked(name: str, tmp_path: Path) -> Path:
    if not name.endswith(".gz"):
        return REAL / name
    path = tmp_path / "test.hdf5"
    with gzip.open(REAL / name) as packed, path.open("wb") as file:
        shutil.copyfileobj(packed, file)
    return path


def test_every_hdf5_file_is_in_the_table() -> None:
    there = {
        p.relative_to(REAL).as_posix()
        for p in REAL.rglob("*")
        if p.suffix in (".hdf5", ".h5", ".gz")
    }
    assert there == {name for name in TRAINS | REFUSED if name.endswith((".hdf5", ".h5", ".gz"))}


@pytest.mark.parametrize("name", TRAINS)
def test_files_that_train(name: str, tmp_path: Path, open_dataset: OpenDataset) -> None:
    settings, words = TRAINS[name]
    dataset = open_dataset(unpacked(name, tmp_path), seq_length=3, frame_stack=2, **settings)
    assert all(word in dataset.summary() for word in words)
    loader = dataset.train_loader(batch_size=16, seed=0, keys=None, device="cpu")
    batch = next(iter(loader))
    assert batch["actions"].shape == (16, 4, 7)
    assert {"obs", "next_obs", "rewards", "dones"} <= set(batch)
    for key, shape in dataset.obs_shapes.items():
        assert batch["obs"][key].shape == (16, 4, *shape)
        assert torch.isfinite(batch["obs"][key]).all()
    assert any("total=" in warning for warning in dataset.warnings)


@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_the_image_file_trains_with_its_cameras(
    placement: str, tmp_path: Path, open_dataset: OpenDataset
) -> None:
    path = unpacked(next(iter(TRAINS)), tmp_path)
    cameras = ["agentview_image", "robot0_eye_in_hand_image"]
    dataset = open_dataset(path, obs_keys=[*cameras, "object"], placement=placement)
    loader = dataset.valid_loader(batch_size=16, keys=["obs", "next_obs", "index"], device="cpu")
    assert loader is not None
    batches = list(loader)
    for camera in cameras:
        frames = torch.cat([batch["obs"][camera][:, 0] for batch in batches])
        following = torch.cat([batch["next_obs"][camera][:, 0] for batch in batches])
        assert frames.shape == (154, 84, 84, 3)
        assert torch.equal(frames[1:59], following[:58])  # within demo_0
        assert not torch.equal(frames[59], following[58])


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(name: str, open_dataset: OpenDataset) -> None:
    path = REAL / name
    with pytest.raises(DatasetError) as error:
        open_dataset(path)
    for words in [str(path), *REFUSED[name]]:
        assert words in str(error.value)
