from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data.normalize import action_stats, obs_stats

GOLDEN = Path(__file__).parent.parent / "golden"


def test_obs_stats_equal_the_reference(open_dataset: OpenDataset) -> None:
    stats = open_dataset(GOLDEN / "tiny_lift.hdf5", normalize_obs=True).obs_stats
    expected = np.load(GOLDEN / "stats.npz")
    assert stats is not None
    assert len(stats) == 4
    for key, found in stats.items():
        for name in ("offset", "scale"):
            np.testing.assert_allclose(found[name], expected[f"obs/{key}/{name}"][0], atol=1e-6)


@pytest.mark.parametrize("mode", ["min_max", "gaussian"])
def test_action_stats_equal_the_reference(
    mode: Literal["min_max", "gaussian"], open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(GOLDEN / "tiny_lift.hdf5", normalize_actions=mode)
    expected = np.load(GOLDEN / "stats.npz")
    assert dataset.action_stats is not None
    for name in ("offset", "scale"):
        wanted = expected[f"action/{mode}/{name}"][0]
        np.testing.assert_allclose(dataset.action_stats[name], wanted, atol=1e-6)
    (batch,) = list(dataset.train_loader(batch_size=31, seed=0, keys=None, device="cpu"))
    first = batch["actions"][batch["index"] == 0][0]
    wanted = expected[f"action/{mode}/normalized_first_window"]
    np.testing.assert_allclose(first, wanted, atol=1e-6)


def test_statistics_come_from_the_training_split_and_hold_for_both(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((6, 4), masks={"train": [0], "valid": [1]})
    dataset = open_dataset(path, normalize_obs=True, normalize_actions="gaussian")
    raw = open_dataset(path)
    assert dataset.obs_stats is not None
    assert dataset.action_stats is not None
    (train,) = list(raw.train_loader(batch_size=6, seed=0, keys=None, device="cpu"))
    frames = train["obs"]["object"][:, 0]
    torch.testing.assert_close(dataset.obs_stats["object"]["offset"], frames.mean(0))
    valid, raw_valid = (
        d.valid_loader(batch_size=4, keys=None, device="cpu") for d in (dataset, raw)
    )
    assert valid is not None
    assert raw_valid is not None
    ((batch,), (raw_batch,)) = list(valid), list(raw_valid)
    back = batch["actions"] * dataset.action_stats["scale"] + dataset.action_stats["offset"]
    torch.testing.assert_close(back, raw_batch["actions"])
    assert torch.equal(batch["obs"]["object"], raw_batch["obs"]["object"])  # normalised later


@pytest.mark.parametrize("mode", ["min_max", "gaussian"])
def test_a_constant_dimension_becomes_zero(mode: Literal["min_max", "gaussian"]) -> None:
    actions = np.array([[0.25, -1.0], [0.25, 2.0], [0.25, 3.0]], dtype=np.float32)
    stats = action_stats(actions, mode)
    assert stats["scale"][0] == 1
    assert stats["offset"][0] == 0.25
    normalized = (torch.from_numpy(actions) - stats["offset"]) / stats["scale"]
    assert normalized[:, 0].tolist() == [0, 0, 0]
    if mode == "min_max":
        torch.testing.assert_close(normalized[:, 1].max(), torch.tensor(0.999999))
        torch.testing.assert_close(normalized[:, 1].min(), torch.tensor(-0.999999))


def test_obs_stats_by_hand() -> None:
    stats = obs_stats(np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32))
    assert stats["offset"].tolist() == [2, 5]
    torch.testing.assert_close(stats["scale"], torch.tensor([1.001, 0.001]))
