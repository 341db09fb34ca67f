from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data import placement
from rmexp.data.fingerprint import fingerprint
from rmexp.data.placement import resolve
from rmexp.errors import ConfigError, DatasetError

CPU = torch.device("cpu")


def delete(path: Path, *keys: str) -> Path:
    with h5py.File(path, "r+") as file:
        for key in keys:
            del file[key]
    return path


def test_attributes_and_summary(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    path = write_demos(masks={"train": [0, 2], "valid": [1]}, images={"cam": (6, 4, 3)})
    dataset = open_dataset(path, obs_keys=["pos", "cam"], horizon=17)
    assert (dataset.ac_dim, dataset.horizon, dataset.env_args) == (3, 17, None)
    assert dataset.obs_shapes == {"cam": (6, 4, 3), "pos": (2,)}
    assert dataset.content_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert dataset.obs_stats is None
    assert dataset.action_stats is None
    first, second = dataset.summary().split("\n")
    assert "2 train + 1 valid episodes (train/valid), 15 frames, 12 train windows of 1" in first
    assert second.startswith("obs: cam 6x4x3, pos 2; actions: 3;")
    assert second.endswith("in ram")


def test_shapes_of_a_batch(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    path = write_demos(images={"cam": (6, 4, 3)})
    dataset = open_dataset(
        path, obs_keys=["pos", "cam"], frame_stack=3, seq_length=2, goal_mode="last"
    )
    batch = next(iter(dataset.train_loader(batch_size=5, seed=0, keys=None, device="cpu")))
    shapes = {k: tuple(v.shape) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    assert shapes == {
        "actions": (5, 4, 3),
        "rewards": (5, 4),
        "dones": (5, 4),
        "pad_mask": (5, 4, 1),
        "index": (5,),
    }
    for group, lead in (("obs", (5, 4)), ("next_obs", (5, 4)), ("goal_obs", (5,))):
        assert tuple(batch[group]["pos"].shape) == (*lead, 2)
        assert tuple(batch[group]["cam"].shape) == (*lead, 6, 4, 3)
        assert batch[group]["cam"].dtype == torch.uint8
    assert batch["dones"].dtype == torch.float32


def test_only_the_wanted_keys_are_gathered(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    loader = open_dataset(write_demos()).train_loader(
        batch_size=5, seed=0, keys=["obs", "actions"], device="cpu"
    )
    assert set(next(iter(loader))) == {"obs", "actions"}


@pytest.mark.parametrize(
    ("removed", "key", "words"),
    [
        ("rewards", "rewards", "rewards is needed for this algorithm: .*demo_1 has no rewards"),
        ("dones", "dones", "dones is needed .*demo_1 has no dones"),
        ("next_obs", "next_obs", "next_obs is needed .*demo_1 has no next_obs/object"),
        ("next_obs/pos", "next_obs", "next_obs is needed .*demo_1 has no next_obs/pos"),
    ],
)
def test_what_the_file_lacks_is_an_error_only_when_wanted(
    removed: str, key: str, words: str, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = delete(write_demos(), f"data/demo_1/{removed}")
    dataset = open_dataset(path, goal_mode="last")
    available = next(iter(dataset.train_loader(batch_size=5, seed=0, keys=None, device="cpu")))
    assert key not in available
    with pytest.raises(DatasetError, match=words):
        dataset.train_loader(batch_size=5, seed=0, keys=["obs", key], device="cpu")


@pytest.mark.parametrize("images", [False, True])
def test_what_comes_later_without_next_obs(
    images: bool, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    """The following frames; the last one of an episode, also the goal, stays as it is."""
    path = write_demos((4,), with_next=False, images={"cam": (2, 3, 1)} if images else None)
    keys = ["obs", "future_obs", "goal_obs", "index"]
    names = ["pos", "cam"] if images else ["pos", "object"]
    dataset = open_dataset(path, obs_keys=names, seq_length=3, goal_mode="last", valid_fraction=0.0)
    (batch,) = dataset.train_loader(batch_size=4, seed=0, keys=keys, device="cpu")
    for key in names:
        frames = {i: batch["obs"][key][row, 0] for row, i in enumerate(batch["index"].tolist())}
        for row, i in enumerate(batch["index"].tolist()):
            for step in range(3):
                expected = frames[min(i + step + 1, 3)]
                assert torch.equal(batch["future_obs"][key][row, step], expected)
            assert torch.equal(batch["goal_obs"][key][row], frames[3])


def test_what_comes_later_with_next_obs(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    dataset = open_dataset(write_demos((4, 3), own_next=True), seq_length=2)
    keys = ["future_obs", "next_obs"]
    for batch in dataset.train_loader(batch_size=2, seed=0, keys=keys, device="cpu"):
        for key, value in batch["next_obs"].items():
            assert torch.equal(batch["future_obs"][key], value)
    everything = next(iter(dataset.train_loader(batch_size=2, seed=0, keys=None, device="cpu")))
    assert "next_obs" in everything
    assert "future_obs" not in everything  # a copy is made for those who ask


def test_rewards_of_another_shape_are_not_rewards(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = delete(write_demos((4, 3)), "data/demo_0/rewards", "data/demo_1/rewards")
    with h5py.File(path, "r+") as file:
        file["data/demo_0/rewards"] = np.ones((4, 1))
        file["data/demo_1/rewards"] = np.ones((3, 2))
    with pytest.raises(DatasetError, match=r"demo_1/rewards has shape \(3, 2\)"):
        open_dataset(path).train_loader(batch_size=5, seed=0, keys=["rewards"], device="cpu")
    column = open_dataset(delete(path, "data/demo_1"))
    (batch,) = list(column.train_loader(batch_size=4, seed=0, keys=["rewards"], device="cpu"))
    assert batch["rewards"].shape == (4, 1)


def test_goals_need_a_goal_mode(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.goal_mode=last"):
        open_dataset(write_demos()).train_loader(
            batch_size=5, seed=0, keys=["goal_obs"], device="cpu"
        )
    with pytest.raises(ConfigError, match="no batch entry 'reward'"):
        open_dataset(write_demos()).train_loader(
            batch_size=5, seed=0, keys=["reward"], device="cpu"
        )


def make_discrete(file: h5py.File) -> None:
    for i, length in enumerate((5, 3, 7)):
        del file[f"data/demo_{i}/actions"]
        file[f"data/demo_{i}/actions"] = np.arange(length)


def make_empty(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = np.zeros((0, 3))


def make_narrow(file: h5py.File) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = np.zeros((3, 2))


def make_longer(file: h5py.File) -> None:
    del file["data/demo_1/obs/pos"]
    file["data/demo_1/obs/pos"] = np.zeros((4, 2))


def make_wider(file: h5py.File) -> None:
    del file["data/demo_2/obs/pos"]
    file["data/demo_2/obs/pos"] = np.zeros((7, 3))


def lose_obs(file: h5py.File) -> None:
    for i in range(3):
        del file[f"data/demo_{i}/obs"]


def lose_key(file: h5py.File) -> None:
    del file["data/demo_1/obs/pos"]


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (make_discrete, {}, r"demo_0/actions has shape \(5,\) .*discrete actions"),
        (make_empty, {}, "demo_1 has no frames"),
        (make_narrow, {}, "demo_1/actions has 2 dimensions where the first demo has 3"),
        (make_longer, {}, r"demo_1/obs/pos has shape \(4, 2\) and there are 3 actions"),
        (make_wider, {}, r"demo_2/obs/pos has frames of shape \(3,\) where .* has \(2,\)"),
        (lose_obs, {}, "demo_0 has no obs"),
        (lose_key, {}, "demo_1 has no obs/pos"),
        (
            None,
            {"obs_keys": ["objects"]},
            r"'objects'; did you mean 'object'\? It has object, pos$",
        ),
        (None, {"obs_keys": ["foo"]}, "no observation 'foo'; it has object, pos$"),
        (None, {"obs_keys": []}, "obs_keys is empty; it has object, pos"),
        (None, {"sha256": "0" * 64}, "sha256 is .* expected 0000"),
        (None, {"train_filter": "best"}, "no filter key 'best'"),
    ],
)
def test_files_that_cannot_train_are_refused(
    change: Any,
    settings: dict[str, Any],
    words: str,
    write_demos: WriteDemos,
    open_dataset: OpenDataset,
) -> None:
    path = write_demos()
    if change is not None:
        with h5py.File(path, "r+") as file:
            change(file)
    with pytest.raises(DatasetError, match=words) as error:
        open_dataset(path, **settings)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"frame_stack": 0}, "frame_stack is 0"),
        ({"seq_length": 0}, "seq_length is 0"),
        ({"valid_fraction": 1.0}, "valid_fraction is 1.0"),
        ({"weights": [1.0, 2.0]}, "one positive number for each of 1 files"),
        ({"weights": [0.0]}, "one positive number"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, Any], words: str, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    with pytest.raises(ConfigError, match=words):
        open_dataset(write_demos(), **settings)


def test_the_expected_hash_passes(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    path = write_demos()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert open_dataset(path, sha256=digest.upper()).content_hash == digest


def test_large_files_are_hashed_by_sample(
    write_demos: WriteDemos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmexp.data.fingerprint.WHOLE_BYTES", 100)
    monkeypatch.setattr("rmexp.data.fingerprint.SAMPLE_BYTES", 64)
    path = write_demos()
    assert fingerprint(path, None).startswith("sampled-")
    assert fingerprint(path, None) == fingerprint(path, None)
    whole = hashlib.sha256(path.read_bytes()).hexdigest()
    assert fingerprint(path, whole) == whole


def test_keys_that_not_all_files_have_are_left_out_with_a_warning(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    first = write_demos((4,), name="a.hdf5")
    second = delete(write_demos((3,), name="b.hdf5"), "data/demo_0/obs/pos")
    dataset = open_dataset([first, second])
    assert dataset.obs_shapes == {"object": (4,)}
    assert any("b.hdf5: no obs/pos; the key is not used" in w for w in dataset.warnings)


def test_a_dataset_is_hardly_larger_than_its_arrays(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(write_demos((50, 60)), seq_length=16, frame_stack=2)
    raw = (50 + 60) * (3 + 1 + 1 + 2 * (4 + 2)) * 4  # float32, with next_obs
    assert dataset._num_bytes <= 1.1 * raw


def test_placement_by_size_and_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda: 1000)
    monkeypatch.setattr(placement, "free_device_memory", lambda _device: 100)
    gpu = torch.device("cuda", 0)
    assert resolve("auto", 500, CPU) == "ram"
    assert resolve("auto", 501, CPU) == "mmap"
    assert resolve("auto", 50, gpu) == "device"
    assert resolve("auto", 51, gpu) == "ram"
    assert resolve("device", 5, CPU) == "ram"
    assert resolve("mmap", 5, gpu) == "mmap"
    assert resolve("ram", 5, gpu) == "ram"


def test_free_memory_is_known() -> None:
    assert placement.free_memory() > 1 << 20
    assert placement.free_device_memory(CPU) == 0


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("where", ["ram", "device", "mmap"])
def test_batches_arrive_on_the_device(
    where: str, images: bool, write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    """The meta device refuses to mix with others, as a GPU does."""
    path = write_demos(images={"cam": (6, 4, 3)})
    keys = ["pos", "cam"] if images else ["pos"]
    dataset = open_dataset(
        path, obs_keys=keys, placement=where, frame_stack=2, seq_length=2, goal_mode="last"
    )
    (batch, *_) = list(dataset.train_loader(batch_size=5, seed=0, keys=None, device="meta"))
    tensors = [t for v in batch.values() for t in (v.values() if isinstance(v, dict) else [v])]
    assert len(tensors) == 5 + 3 * len(keys)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch["actions"].shape == (5, 3, 3)
    assert ("in device" in dataset.summary()) == (where == "device")


def test_too_much_for_the_memory_is_said(
    write_demos: WriteDemos, open_dataset: OpenDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rmexp.data.dataset.free_memory", lambda: 500)
    with pytest.raises(DatasetError, match="660 bytes of memory are needed and 500 are free"):
        open_dataset(write_demos())


def test_files_of_two_environments_are_a_warning(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    paths = [write_demos((4,), name="a.hdf5"), write_demos((3,), name="b.hdf5")]
    with h5py.File(paths[1], "r+") as file:
        file["data"].attrs["env_args"] = '{"env_name": "Can", "type": 1}'
    assert any("b.hdf5: of another environment" in w for w in open_dataset(paths).warnings)


def test_a_seed_is_not_negative(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    with pytest.raises(ConfigError, match="seed is -1"):
        open_dataset(write_demos()).train_loader(batch_size=5, seed=-1, keys=None, device="cpu")
