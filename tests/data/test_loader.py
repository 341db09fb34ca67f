"""Order is a function of (seed, pass); a position is two integers and nothing leaks into it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from demo_files import OpenDataset, WriteDemos

from rmexp.data.dataset import Dataset
from rmexp.data.loader import Loader, weighted
from rmexp.errors import CheckpointError, ConfigError


@pytest.fixture(params=["ram", "mmap"])
def dataset(
    request: pytest.FixtureRequest, write_demos: WriteDemos, open_dataset: OpenDataset
) -> Dataset:
    """23 windows with an image each; mapped images are read ahead by a thread."""
    path = write_demos((5, 11, 7), images={"cam": (6, 4, 3)})
    return open_dataset(path, obs_keys=["object", "cam"], placement=request.param)


def train(dataset: Dataset, seed: int = 3) -> Loader:
    return dataset.train_loader(batch_size=5, seed=seed, keys=None, device="cpu")


def indices(loader: Loader, limit: int | None = None) -> list[list[int]]:
    """Window numbers of the next batches, breaking off after `limit` of them."""
    found: list[list[int]] = []
    for batch in loader:
        found.append(batch["index"].tolist())
        if limit is not None and len(found) == limit:
            break
    return found


def test_a_pass_drops_the_rest_and_repeats_no_window(dataset: Dataset) -> None:
    loader = train(dataset)
    assert len(loader) == 4
    seen = indices(loader)
    assert [len(batch) for batch in seen] == [5, 5, 5, 5]
    assert len({window for batch in seen for window in batch}) == 20


def test_order_follows_from_seed_and_pass(dataset: Dataset) -> None:
    one, two, other = train(dataset), train(dataset), train(dataset, seed=4)
    first, second = indices(one), indices(one)
    assert first != second
    assert [first, second] == [indices(two), indices(two)]
    assert first != indices(other)


def test_a_batch_is_the_windows_it_says(dataset: Dataset) -> None:
    in_order = dataset.train_loader(batch_size=23, seed=0, keys=None, device="cpu")
    (everything,) = list(in_order)
    by_window = torch.argsort(everything["index"])
    for batch in train(dataset):
        rows = by_window[batch["index"]]
        for key in ("object", "cam"):
            assert torch.equal(batch["obs"][key], everything["obs"][key][rows])
        assert torch.equal(batch["actions"], everything["actions"][rows])


def test_breaking_off_goes_on_where_it_stood(dataset: Dataset) -> None:
    whole = train(dataset)
    expected = indices(whole) + indices(whole)
    broken = train(dataset)
    found = indices(broken, 3) + indices(broken, 1)  # exactly to the end of the pass
    assert broken.state_dict()["pass_index"] == 1
    found += indices(broken, 2) + indices(broken)
    assert found == expected


def test_state_counts_only_what_was_handed_out(dataset: Dataset) -> None:
    loader = train(dataset)
    indices(loader)
    indices(loader, 2)
    state = loader.state_dict()
    assert (state["pass_index"], state["position"]) == (1, 2)
    rest = indices(loader) + indices(loader)
    resumed = train(dataset)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert indices(resumed) + indices(resumed) == rest
    loader.load_state_dict(state)  # and back again, whatever was read ahead
    assert indices(loader) + indices(loader) == rest


def test_state_of_another_order_is_refused(dataset: Dataset) -> None:
    state = train(dataset).state_dict()
    with pytest.raises(CheckpointError, match="seed was 3 and is 4"):
        train(dataset, seed=4).load_state_dict(state)


def test_an_iterator_left_open_does_not_run_into_the_next_pass(dataset: Dataset) -> None:
    loader = train(dataset)
    left = iter(loader)
    next(left)
    assert len(indices(loader)) == 3
    assert list(left) == []


def test_batches_may_be_kept(dataset: Dataset) -> None:
    kept: list[dict[str, Any]] = []
    copies: list[torch.Tensor] = []
    loader = train(dataset)
    for _ in range(5):
        for batch in loader:
            kept.append(batch)
            copies.append(batch["obs"]["cam"].clone())
    assert all(torch.equal(b["obs"]["cam"], c) for b, c in zip(kept, copies, strict=True))


def test_validation_sees_every_window_once_in_order(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    path = write_demos((5, 11, 7), masks={"train": [1], "valid": [0, 2]}, images={"cam": (6, 4, 3)})
    for placement in ("ram", "mmap"):
        dataset = open_dataset(path, obs_keys=["cam"], placement=placement)
        loader = dataset.valid_loader(batch_size=5, keys=["obs", "index"], device="cpu")
        assert loader is not None
        assert len(loader) == 3
        expected = [list(range(5)), list(range(5, 10)), [10, 11]]
        assert indices(loader) == expected
        assert indices(loader, 2) == expected[:2]
        assert indices(loader) == expected


def test_without_validation_episodes_there_is_no_loader(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(write_demos())
    assert dataset.valid_loader(batch_size=5, keys=None, device="cpu") is None


def test_fewer_windows_than_a_batch_are_one_batch(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    dataset = open_dataset(write_demos((3,)))
    for _ in range(2):
        loader = dataset.train_loader(batch_size=100, seed=0, keys=None, device="cpu")
        assert (loader.batch_size, len(loader)) == (3, 1)
        assert sorted(indices(loader)[0]) == [0, 1, 2]
    assert len([w for w in dataset.warnings if "less than a batch" in w]) == 1


def test_batch_size_must_be_positive(write_demos: WriteDemos, open_dataset: OpenDataset) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        open_dataset(write_demos()).train_loader(batch_size=0, seed=0, keys=None, device="cpu")


def test_an_error_of_the_reading_thread_reaches_the_loop(dataset: Dataset) -> None:
    loader = train(dataset)

    def fail(_: torch.Tensor) -> dict[str, Any]:
        raise OSError("the disk is gone")

    loader._assemble = fail
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(loader))


def test_weights_are_shares_of_the_batches(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    many, few = write_demos((40, 40), name="many.hdf5"), write_demos((20,), name="few.hdf5", seed=1)
    dataset = open_dataset([many, few], weights=[1.0, 3.0])
    loader = dataset.train_loader(batch_size=10, seed=0, keys=["index"], device="cpu")
    assert len(loader) == 10
    drawn = np.concatenate([np.concatenate(indices(loader)) for _ in range(40)])
    share = (drawn >= 80).mean()
    assert abs(share - 0.75) < 0.02
    again = open_dataset([many, few], weights=[1.0, 3.0])
    repeated = again.train_loader(batch_size=10, seed=0, keys=["index"], device="cpu")
    assert np.concatenate(indices(repeated)).tolist() == drawn[:100].tolist()


def test_without_weights_several_files_are_one(
    write_demos: WriteDemos, open_dataset: OpenDataset
) -> None:
    paths = [write_demos((4, 6), name="a.hdf5"), write_demos((5,), name="b.hdf5", seed=1)]
    loader = open_dataset(paths).train_loader(batch_size=15, seed=0, keys=None, device="cpu")
    assert sorted(indices(loader)[0]) == list(range(15))


def test_weighted_order_covers_a_file_before_it_repeats() -> None:
    order = weighted([4, 3], [1.0, 1.0], seed=0)
    for pass_index in range(5):
        drawn = np.bincount(order(pass_index), minlength=7)
        assert drawn.sum() == 7
        assert np.ptp(drawn[:4]) <= 1
        assert np.ptp(drawn[4:]) <= 1


def test_keys_null_gives_all_that_the_file_has(dataset: Dataset) -> None:
    keys = {"obs", "actions", "rewards", "dones", "next_obs", "pad_mask", "index"}
    assert set(next(iter(train(dataset)))) == keys
