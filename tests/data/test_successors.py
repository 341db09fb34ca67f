"""Next observations of files that record none: the next frames, and nothing made up at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data.dataset import Dataset
from rmexp.data.episodes import EpisodeTable
from rmexp.data.successors import describe
from rmexp.errors import DatasetError
from tests.command_line import run_here

LENGTHS = (5, 3, 7)
KEYS = ["obs", "next_obs", "actions", "rewards", "dones", "pad_mask", "index"]
IMAGES = {"cam": (6, 4, 3)}


def windows_of(dataset: Dataset, keys: list[str] | None = None) -> dict[str, Any]:
    """All training windows, in order."""
    loader = dataset.train_loader(batch_size=1000, seed=0, keys=keys or KEYS, device="cpu")
    (batch,) = list(loader)
    order = torch.argsort(batch["index"])
    return {
        k: {n: t[order] for n, t in v.items()} if isinstance(v, dict) else v[order]
        for k, v in batch.items()
    }


def arrays(path: Path, key: str) -> list[np.ndarray]:
    """`key` of every episode that has it."""
    with h5py.File(path) as file:
        demos = [f"data/demo_{i}/{key}" for i in range(len(LENGTHS))]
        return [np.asarray(file[demo]) for demo in demos if demo in file]


def end_without_terminal(path: Path, *episodes: int) -> Path:
    with h5py.File(path, "r+") as file:
        for i in episodes:
            dones = file[f"data/demo_{i}/dones"]
            assert isinstance(dones, h5py.Dataset)
            dones[...] = False
    return path


def test_a_terminal_frame_follows_itself(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos(LENGTHS, with_next=False)
    dataset = open_dataset(path)
    found = windows_of(dataset)
    for key in ("object", "pos"):
        expected = np.concatenate([np.append(e[1:], e[-1:], 0) for e in arrays(path, f"obs/{key}")])
        assert np.array_equal(found["next_obs"][key][:, 0], expected.astype(np.float32))
    assert len(found["index"]) == sum(LENGTHS)
    (note,) = [w for w in dataset.warnings if "no next_obs" in w]
    assert "is taken in 3 episodes, and each one's last is a terminal" in note


def test_the_last_frame_of_a_cut_episode_is_a_next_observation_only(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = end_without_terminal(write_demos(LENGTHS, with_next=False), 0, 2)
    dataset = open_dataset(path)
    found = windows_of(dataset)
    episodes = arrays(path, "obs/pos")
    now = [episodes[0][:-1], episodes[1], episodes[2][:-1]]
    after = [episodes[0][1:], np.append(episodes[1][1:], episodes[1][-1:], 0), episodes[2][1:]]
    for group, expected in (("obs", now), ("next_obs", after)):
        assert np.array_equal(
            found[group]["pos"][:, 0], np.concatenate(expected).astype(np.float32)
        )
    (note,) = [w for w in dataset.warnings if "no next_obs" in w]
    assert "the last frames of 2 without dones=1" in note
    assert "(2 training windows fewer)" in note
    # Who does not ask for next observations loses nothing, and hears nothing.
    plain = open_dataset(path)
    assert len(windows_of(plain, ["obs", "actions", "index"])["index"]) == sum(LENGTHS)
    assert not any("next_obs" in warning for warning in plain.warnings)


def test_large_counts_have_commas() -> None:
    ends, lengths = np.arange(1200) * 3, np.full(1200, 3)
    table = EpisodeTable((Path("a.hdf5"),), np.zeros(1200, int), ("d",) * 1200, ends, lengths)
    note = describe(table, np.ones(1200, bool), lengths - 1, 12345)
    assert "is taken in 1,200 episodes, and the last frames of 1,200" in note
    assert "(12,345 training windows fewer)" in note


def test_a_return_over_several_steps_ends_at_a_frame_that_was_seen(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    """The padding of a cut episode starts one frame earlier; what follows it is its last frame."""
    path = end_without_terminal(write_demos((5,), with_next=False), 0)
    found = windows_of(open_dataset(path, seq_length=3))
    (pos,) = arrays(path, "obs/pos")
    rows = [(0, 1, 2), (1, 2, 3), (2, 3, 3), (3, 3, 3)]
    expected = torch.from_numpy(pos.astype(np.float32))
    assert torch.equal(found["obs"]["pos"], expected[torch.tensor(rows)])
    assert torch.equal(found["next_obs"]["pos"], expected[torch.tensor(rows) + 1])
    assert found["pad_mask"][..., 0].sum(1).tolist() == [3, 3, 2, 1]


def test_without_dones_no_episode_is_known_to_end(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((4, 1), with_next=False)
    with h5py.File(path, "r+") as file:
        for i in (0, 1):
            del file[f"data/demo_{i}/dones"]
    dataset = open_dataset(path)
    assert len(windows_of(dataset, ["obs", "next_obs", "index"])["index"]) == 3
    with pytest.raises(DatasetError, match=r"dones is needed for this algorithm: .* has no dones"):
        windows_of(dataset)
    nothing = open_dataset(end_without_terminal(write_demos((1, 1), with_next=False), 0, 1))
    with pytest.raises(DatasetError, match="no training frame has a next observation"):
        windows_of(nothing)


@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}], ids=["plain", "gzip"])
@pytest.mark.parametrize("placement", ["ram", "mmap"])
def test_files_with_and_without_go_together(
    placement: str, options: dict[str, Any], write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    """Images too: the windows of a file without them equal those of a file that has them."""
    made = {"images": IMAGES, "image_options": options}
    first = write_demos((4, 3), name="a.hdf5", own_next=True, **made)
    paths = [first, write_demos(LENGTHS, name="b.hdf5", with_next=False, seed=1, **made)]
    end_without_terminal(paths[1], 2)
    settings = {"obs_keys": ["cam", "pos"], "placement": placement, "goal_mode": "last"}
    dataset = open_dataset(paths, weights=[1.0, 1.0], **settings)
    loader = dataset.train_loader(
        batch_size=3, seed=0, keys=["obs", "next_obs", "goal_obs", "index"], device="cpu"
    )
    assert loader._num_windows == 7 + sum(LENGTHS) - 1
    now, after, last = [], [], []
    for path in paths:
        obs, own = arrays(path, "obs/cam"), arrays(path, "next_obs/cam")
        following = own or [np.append(e[1:], e[-1:], 0) for e in obs]
        ends = [int(not dones[-1]) for dones in arrays(path, "dones")]
        for frames, nexts, cut in zip(obs, following, ends, strict=True):
            count = len(frames) - cut
            now.append(frames[:count])
            after.append(nexts[:count])
            last.append(np.stack([nexts[-1]] * count))
    expected = [torch.from_numpy(np.concatenate(part)) for part in (now, after, last)]
    for batch in loader:
        index = batch["index"]
        assert torch.equal(batch["obs"]["cam"][:, 0], expected[0][index])
        assert torch.equal(batch["next_obs"]["cam"][:, 0], expected[1][index])
        assert torch.equal(batch["goal_obs"]["cam"], expected[2][index])


def test_a_file_that_lost_some_is_still_refused(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos(LENGTHS)
    with h5py.File(path, "r+") as file:
        del file["data/demo_2/next_obs"]
    with pytest.raises(DatasetError, match=r"next_obs is needed .*demo_2 has no next_obs/object"):
        windows_of(open_dataset(path))


def test_value_learning_trains_on_the_shipped_demonstrations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "algo=td3_bc",
        "dataset=lift",
        "rollout=none",
        "logging=none",
        "loop.num_epochs=1",
        "loop.steps_per_epoch=2",
        f"hydra.run.dir={tmp_path / 'run'}",
    ]
    outcome = run_here(arguments, monkeypatch, capfd)
    assert outcome.code == 0, outcome.text
    assert "no next_obs; the frame that follows is taken in 200 episodes" in outcome.text


def test_value_learning_without_rewards_is_refused(
    write_demos: WriteDemos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The reference makes up zeros, of a shape that multiplies the batch with itself."""
    path = write_demos(LENGTHS, with_next=False)
    with h5py.File(path, "r+") as file:
        for i in range(len(LENGTHS)):
            del file[f"data/demo_{i}/rewards"]
    run = f"hydra.run.dir={tmp_path / 'run'}"
    arguments = ["algo=td3_bc", "dataset=hdf5", f"dataset.path={path}", "rollout=none", run]
    outcome = run_here([*arguments, "logging=none"], monkeypatch, capfd)
    assert outcome.code == 1
    assert "rewards is needed for this algorithm: " in outcome.err
    assert "demo_0 has no rewards" in outcome.err
